"""Measure what quantized models lose, and how long packed weights take.

.venv/bin/python book/_tools/assets.py quantization [widths] [speed] (ten minutes)

Writes beside this file widths.json: the loss of SmolLM2 on four pieces of the King
James Bible, and of the book's own GPT, with the weights of their layers as each setting
leaves them; and speed.json: milliseconds of one token's product with a matrix in each
form, on this machine, one thread.
"""

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from assets import king_james_ids, machine, make_parts, read_json
from rivals.measure import processor_ms, spread

from fieldguide.data import king_james, smollm2_tokenizer, store
from fieldguide.efficiency import quantization as q
from fieldguide.transformers import real_model
from fieldguide.transformers.training import held_out_loss, trained_gpt

HERE = Path(__file__).parent

SCHEMES = ["absmax", "zero point", "NormalFloat"]
BITS, GROUPS = [8, 6, 4, 3, 2], [None, "row", 64, 32]
PIECES, TOKENS = 4, 256

SIDE = 4096  # of the square matrix
COLD_BYTES = 1 << 28  # of copies: no cache holds them
ROUNDS = 9


def pieces_of(text: str) -> torch.Tensor:
    """Tokens from PIECES places of a text, each from the beginning of a line."""
    found = []
    for number in range(PIECES):
        start = text.index("\n", len(text) * number // PIECES) + 1
        ids = smollm2_tokenizer().encode(text[start : start + 3000])
        found.append(ids[: TOKENS + 1])
    return torch.tensor(found)


def changed(model, setting: list):
    """While this lasts, a model's weights are as a setting leaves them."""
    return q.weights_as(model, lambda weight: q.rounded(weight, *setting))


def record_widths() -> None:
    pieces, large = pieces_of(king_james()), real_model.load_smollm2()
    small, held_out = trained_gpt(), king_james_ids()[1]

    def losses() -> dict:
        each = q.text_losses(large, pieces).tolist()
        gpt = round(held_out_loss(small, held_out), 5)
        return {"losses": [round(loss, 5) for loss in each], "gpt": gpt}

    found = losses()
    record = {"pieces": pieces.tolist(), "exact": found["losses"], "gpt": found["gpt"]}
    record["settings"] = []
    for setting in map(list, itertools.product(SCHEMES, BITS, GROUPS)):
        with changed(large, setting), changed(small, setting):
            record["settings"].append({"setting": setting} | losses())
    store(HERE / "widths.json", record)


def remade() -> Iterator[tuple]:
    """The loss of the book's own GPT by one setting."""
    kept, setting = read_json(HERE / "widths.json")["settings"], ["NormalFloat", 4, 64]
    (row,) = (row for row in kept if row["setting"] == setting)
    with changed(trained_gpt(), setting) as gpt:
        yield row["gpt"], held_out_loss(gpt, king_james_ids()[1]), 1e-3


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """A square matrix, and one token that meets it."""
    start = torch.Generator().manual_seed(0)
    weight = torch.randn(SIDE, SIDE, generator=start) / SIDE**0.5
    return weight, torch.randn(1, SIDE, generator=start)


def forms(weight, x):
    """(name, what is stored, the product with it) for each way to keep a weight."""
    import torch.ao.nn.quantized.dynamic as dynamic
    from torch.ao.quantization import per_channel_dynamic_qconfig

    eight, four = q.quantize_absmax(weight, 8, "row"), q.quantize_absmax(weight, 4, 32)
    pairs = (q.pack_pairs((four[0] + 8).to(torch.uint8)), four[1].half())
    packed, brain = q.pack_int4_fast(*four), x.bfloat16()
    linear = torch.nn.Linear(SIDE, SIDE, bias=False)
    linear.weight.data = weight
    linear.qconfig = per_channel_dynamic_qconfig
    with warnings.catch_warnings(action="ignore"):
        made = dynamic.Linear.from_float(linear)

    def unpack_int4(packed, scales):
        codes = q.unpack_pairs(packed).to(torch.int8) - 8
        return x @ q.dequantize(codes, scales.float()).T

    yield "float32", (weight,), lambda w: x @ w.T
    yield "bfloat16", (weight.bfloat16(),), lambda w: brain @ w.T
    yield "int8, unpacked first", eight, partial(q.int8_product, x)
    yield "int8, in the kernel", eight, partial(q.int8_product_fast, x)
    yield "int8, whole numbers", eight, partial(q.whole_product, x)
    yield "int8, torch's dynamic layer", (made,), lambda made: made(x)
    yield "int4, unpacked first", pairs, unpack_int4
    yield "int4, in the kernel", packed, partial(q.int4_product_fast, x)
    yield "NF4, our layer", (q.NF4Linear(linear),), lambda layer: layer(x)


def size_bytes(parts: tuple) -> int:
    """What is stored of a form."""
    layer = parts[0]
    if isinstance(layer, q.NF4Linear):
        parts = layer.state_dict().values()
    elif isinstance(layer, torch.nn.Module):
        return SIDE * SIDE + 4 * SIDE  # codes, and a scale a row
    return sum(part.nbytes for part in parts if torch.is_tensor(part))


def cold(name: str, parts: tuple, product: Callable) -> Callable[[], float]:
    """Milliseconds of a product, which never meets the same copy of the parts soon."""
    floats = "first" in name or "NF4" in name  # go through the caches, back and forth
    count = 1 if floats else -(-COLD_BYTES // size_bytes(parts))
    turn = itertools.cycle([copy.deepcopy(parts) for _ in range(count)])
    once = torch.inference_mode()(lambda: product(*next(turn)))
    return processor_ms(once, count)


def record_speed() -> None:
    named = f"one thread of an {machine()}, torch {torch.__version__.split('+')[0]}"
    record = {"machine": named, "rows": {}}
    for name, parts, product in forms(*drawn()):
        timed = cold(name, parts, product)
        took = spread([timed() for _ in range(ROUNDS)])
        least, middle, most = (round(ms, 3) for ms in took)
        row = {"bytes": size_bytes(parts), "ms": middle, "range": [least, most]}
        record["rows"][name] = row
    store(HERE / "speed.json", record)


if __name__ == "__main__":
    make_parts(record_widths, record_speed)
