"""Count the parameters and operations of each kind of model in the book, by hand.

.venv/bin/python book/_tools/assets.py counts (half a minute)

Writes counts.json beside this file: for each model what it reads, our count, which is
worked out from its sizes alone, and PyTorch's. Matrix products
are counted, forward only. PyTorch's counter has no formula for attention's fused
operation on a CPU, nor for the product that computes all experts at once, so both are
run in their plain forms, which compute the same. And anatomy.json: of four models, as
published or with one size doubled, the parameters, operations and matrices of each
part, for the page's first figure.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from assets import make_parts, read_json
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fieldguide.data import store
from fieldguide.efficiency import experts
from fieldguide.efficiency.architectures import Selective
from fieldguide.efficiency.lora import LoRALinear
from fieldguide.multimodal import clip
from fieldguide.multimodal.sound_video import PatchEncoder
from fieldguide.multimodal.text_to_image import Painter
from fieldguide.scaling.counting import (
    Shape,
    matrices,
    parameters,
    published,
    tally,
    token_flops,
)
from fieldguide.scaling.grokking import Adder
from fieldguide.transformers.attention import new_reader
from fieldguide.transformers.gpt import GPT, GPTConfig, count_parameters
from fieldguide.transformers.real_model import Llama, load_smollm2
from fieldguide.transformers.training import modern_recipe, new_gpt

HERE = Path(__file__).parent


def layers(count: int, D: int, hidden: int, T: int) -> list[tuple]:
    """The matrices of a transformer's blocks, which read T tokens."""
    return count * [*4 * [(D, D, T)], (D, hidden, T), (hidden, D, T)]


def flops(run) -> int:
    """What PyTorch counts, of attention too."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return counter.get_total_flops()


def gpts() -> Iterator[tuple]:
    """Each language model: its name, what it reads, the model, a run, our count."""
    plain = {"positions": False, "biases": False, "norms": 2, "last_norm": 1}
    shapes = published() | {"modern GPT": Shape(65, 64, 64, 4, 4, **plain)}
    new = GPTConfig(65, 64, width=64, heads=4, layers=4, bias=False)
    with torch.device("meta"):
        made = {
            "GPT-2 small": GPT(GPTConfig(50_257, 1024, 768, 12, 12)),
            "modern GPT": new_gpt(new, modern_recipe(100), None),
            "SmolLM2": Llama(load_smollm2().config),
        }
    for name, model in made.items():
        T, shape = 64 if name == "modern GPT" else 1024, shapes[name]
        hand = sum(parameters(shape).values()), T * token_flops(shape, T)
        read = torch.zeros(1, T, dtype=torch.long, device="meta")
        yield name, f"{T:,} tokens", model, partial(model, read), hand


def small_models() -> Iterator[tuple]:
    """Readers of letters and sums, parts of GPTs, a reader of captions."""
    T, D, K, N = 20, 64, 16, 512
    seen, x = torch.zeros(1, T, 9), torch.zeros(1, T, D)
    told, one = f"{T} letters", torch.zeros(1, dtype=torch.long)
    model, square = new_reader("RNN"), (32, 32, T)
    hand = tally([(9, 32, T), square, square, (32, 8, 1)], 0, 3 * 32 + 8)
    yield "recurrent network", told, model, partial(model, seen), hand
    model, four = new_reader("attention"), 4 * [(16, 16, T)]
    hand = tally([(9, 16, T), *four, (16, 8, 1)], 4 * T * T * 16, 16 + 8)
    yield "one attention head", told, model, partial(model, seen), hand
    model, into = Selective(D, K), [(D, K, T), (D, K, T), (D, D, T)]
    hand = tally([*into, (D, 1, T)], 2 * T * T * (K + D), 1)
    yield "state-space layer", f"{T} tokens", model, partial(model, x), hand
    model = Adder(97, D, N, None)
    hand = tally([(97, D, 0), (D, N, 1), (N, 97, 1)])
    yield "grokking network", "a sum", model, partial(model, one, one), hand
    # A mixture of experts, and an adapter
    D, H, E, k, N = 64, 128, 8, 2, 100
    mixture = experts.Mixture(D, experts.MixtureConfig(H, E, k))
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    both = [torch.stack([*each]) for each in (mixture.up, mixture.down)]

    def run():
        weights, chosen, _ = experts.top_k_routing(mixture.router(x), k)
        return experts.mixture_sorted(x, weights, chosen, *both)

    hand = tally([(D, E, N), *2 * E * [(D, H, N * k // E)]])
    yield "mixture of 8 experts", f"{N} tokens", mixture, run, hand
    model, r = LoRALinear(nn.Linear(D, H), 4), 4
    hand = tally([(D, H, N), (D, r, N), (r, H, N)], 0, H)
    yield "layer with LoRA", f"{N} tokens", model, partial(model, x), hand
    # A reader of captions
    V, T, D, wide = 30_522, 512, 384, 1536
    model, text = clip.MiniLM(), "a yellow cat sleeps"
    read = len(model.tokenizer.encode(text).ids)
    matrices = [(V, D, 0), (T, D, 0), *layers(6, D, wide, read)]
    scores, mean = 6 * 4 * read * read * D, 2 * read * D
    vectors = 2 * D + 6 * (4 * D + wide + D + 4 * D)
    hand = tally(matrices, scores + mean, vectors)
    yield "MiniLM", f"{read} tokens", model, partial(model, [text]), hand


def picture_models() -> Iterator[tuple]:
    """Readers and painters of pictures, sounds and videos."""
    C, D, picture = 16, 128, torch.zeros(1, 3, 32, 32)
    matrices = [(12, C, 256), (9 * C, 2 * C, 256), (18 * C, 4 * C, 64)]
    matrices += [(36 * C, 8 * C, 16), (8 * C * 16, D, 1)]
    model = clip.PictureEncoder(D, C)
    hand = tally(matrices, 0, 2 * (1 + 2 + 4 + 8) * C + D)
    yield "picture encoder", "a picture", model, partial(model.embed, picture), hand
    # The network that turns noise into pictures, for one step
    C, D, E, model = 64, 128, 192, Painter(torch.Generator().manual_seed(0))
    matrices = [(384, E, 1), (64, E, 1), (9 * 12, C, 256), (9 * C, 12, 256)]
    vectors = 2 * E + C + 12 + 2 * C
    for W, places in (C, 256), (D, 64), (D, 16), (D, 16), (D, 64), (C, 256):
        matrices += [*2 * [(9 * W, W, places)], (E, 2 * W, 1)]
        vectors += 6 * W  # of a norm, two convolutions, and E -> 2 W
    matrices += [(4 * C, D, 64), (4 * D, D, 16)]
    matrices += [(D, 4 * D, 16), (D, 4 * C, 64)]
    hand = tally(matrices, 0, vectors + 2 * D + 4 * D + 4 * C)
    given = torch.zeros(1, 3, 32, 32), torch.zeros(1), torch.zeros(1, 384)
    yield "painter", "noise, a caption", model, partial(model, *given), hand
    # EfficientNet-Lite0; its last matrix, for 1,000 classes, isn't used
    model, C, side = clip.EfficientNetLite(), 32, 112
    matrices, vectors = [(27, C, side**2), (1280, 1000, 0)], 2 * C + 1000
    for blocks, kernel, stride, growth, out in clip.STAGES:
        for step in [stride, *[1] * (blocks - 1)]:
            wide = C * growth
            if growth > 1:
                matrices.append((C, wide, side**2))
                vectors += 2 * wide
            side = -(-side // step)  # rounded up
            matrices += [(kernel**2, wide, side**2), (wide, out, side**2)]
            vectors, C = vectors + 2 * wide + 2 * out, out
    hand = tally([*matrices, (C, 1280, side**2)], 0, vectors + 2 * 1280)
    picture = torch.zeros(1, 224, 224, 3, dtype=torch.uint8)
    yield "EfficientNet", "a photo", model, partial(model, picture), hand
    # Patches of a sound or a video
    T, P, D, L = 16, 24, 48, 2
    model, x = PatchEncoder(T, P), torch.zeros(1, T, P).double()
    matrices = [(P, D, T), (T, D, 0), *layers(L, D, 4 * D, T)]
    vectors, scores = D + L * 13 * D + 2 * D, L * 4 * T * T * D
    hand = tally(matrices, scores, vectors)
    yield "patch encoder", f"{T} patches", model, partial(model, x), hand


def cases() -> Iterator[tuple]:
    return itertools.chain(gpts(), small_models(), picture_models())


def rows() -> list[dict]:
    """The table, row by row."""
    found = []
    for name, reads, model, run, (stored, worked) in cases():
        row = {"model": name, "reads": reads}
        row |= {"parameters": stored, "in the model": count_parameters(model)}
        found.append(row | {"operations": worked, "by PyTorch": flops(run)})
    return found


DOUBLED = {  # what a reader doubles: these sizes
    "nothing": [],
    "heads": ["heads"],
    "vocabulary": ["vocab"],
    "layers": ["layers"],
    "width": ["width", "inner"],
}


def anatomy(shape: Shape, sizes: list[str]) -> dict:
    """With twice of some sizes, by part: parameters, operations, matrices.

    Operations are for a token in a full context.
    """
    shape = replace(shape, inner=shape.inner or shape.width)
    shape = replace(shape, **{size: 2 * getattr(shape, size) for size in sizes})
    counts = parameters(shape)
    scores = 4 * shape.context * shape.inner * shape.layers
    worked = dict.fromkeys(counts, 0) | {"tokens": 2 * shape.vocab * shape.width}
    worked |= {"attention": 2 * counts["attention"] + scores, "MLP": 2 * counts["MLP"]}
    named = {part: matrices(shape, part) for part in counts}
    return {"parameters": counts, "operations": worked, "matrices": named}


def anatomies() -> dict:
    known = published() | {"GPT-2": Shape(50_257, 1024, 1600, 25, 48)}
    return {
        model: {name: anatomy(known[model], sizes) for name, sizes in DOUBLED.items()}
        for model in ("GPT-1", "GPT-2", "GPT-3", "PaLM")
    }


def remade() -> Iterator[tuple]:
    """All of it."""
    yield True, read_json(HERE / "counts.json")["rows"] == rows(), 0
    yield True, read_json(HERE / "anatomy.json") == anatomies(), 0


def record_counts() -> None:
    store(HERE / "counts.json", {"rows": rows()})


def record_anatomy() -> None:
    store(HERE / "anatomy.json", anatomies())


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_parts(record_counts, record_anatomy)
