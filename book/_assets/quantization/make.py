"""Measure what quantized models lose, and how long packed weights take.

.venv/bin/python book/_tools/assets.py quantization [widths] [speed] (ten minutes)

Writes beside this file widths.json: the loss of SmolLM2 on four pieces of the King
James Bible, and of the book's own GPT, with the weights of their layers as each setting
leaves them; and speed.json: milliseconds of one token's product with a matrix in each
form, on this machine, one thread.
"""

import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from assets import king_james_ids, machine, make_parts, read_json

from fieldguide.data import king_james, smollm2_tokenizer, store
from fieldguide.efficiency import quantization
from fieldguide.transformers import real_model
from fieldguide.transformers.training import held_out_loss, trained_gpt

HERE = Path(__file__).parent

SCHEMES = ["absmax", "zero point", "NormalFloat"]
BITS, GROUPS = [8, 6, 4, 3, 2], [None, "row", 64, 32]
PIECES, TOKENS = 4, 256

SIDE = 4096  # of the square matrix
COLD_BYTES = 1 << 28  # of copies: no cache holds them
ROUNDS = 9


def pieces_of(text: str) -> list[list[int]]:
    """Tokens from PIECES places of a text, each from the beginning of a line."""
    found = []
    for number in range(PIECES):
        start = text.index("\n", len(text) * number // PIECES) + 1
        ids = smollm2_tokenizer().encode(text[start : start + 3000])
        found.append(ids[: TOKENS + 1])
    return found


def shortened(losses: torch.Tensor) -> list[float]:
    return [round(loss, 5) for loss in losses.tolist()]


def loss_with(setting: tuple, gpt, held_out: torch.Tensor) -> float:
    """The loss of a GPT, its weights as a setting leaves them."""
    with quantization.weights_as(gpt, changed(setting)):
        return held_out_loss(gpt, held_out)


def changed(setting: tuple) -> Callable:
    """What is left of a weight by a setting."""
    return lambda weight: quantization.rounded(weight, *setting)


def record_widths() -> None:
    pieces, large = torch.tensor(pieces_of(king_james())), real_model.load_smollm2()
    record = {"pieces": pieces.tolist()}
    record["exact"] = shortened(quantization.text_losses(large, pieces))
    small, held_out = trained_gpt(), king_james_ids()[1]
    record["gpt"] = round(held_out_loss(small, held_out), 5)
    record["settings"] = []
    for setting in itertools.product(SCHEMES, BITS, GROUPS):
        with quantization.weights_as(large, changed(setting)):
            losses = shortened(quantization.text_losses(large, pieces))
        loss = round(loss_with(setting, small, held_out), 5)
        row = {"setting": list(setting), "losses": losses, "gpt": loss}
        record["settings"].append(row)
    store(HERE / "widths.json", record)


def remade() -> Iterator[tuple]:
    """The loss of the book's own GPT by one setting."""
    kept, setting = read_json(HERE / "widths.json")["settings"], ["NormalFloat", 4, 64]
    (row,) = (row for row in kept if row["setting"] == setting)
    again = loss_with(setting, trained_gpt(), king_james_ids()[1])
    yield row["gpt"], again, 1e-3


def forms(weight, x):
    """(name, what is stored, the product with it) for each way to keep a weight."""
    import torch.ao.nn.quantized.dynamic as dynamic
    from torch.ao.quantization import per_channel_dynamic_qconfig

    q = quantization
    eight, four = q.quantize_absmax(weight, 8, "row"), q.quantize_absmax(weight, 4, 32)
    pairs = (q.pack_pairs((four[0] + 8).to(torch.uint8)), four[1].half())
    linear = torch.nn.Linear(SIDE, SIDE, bias=False)
    linear.weight.data = weight
    linear.qconfig = per_channel_dynamic_qconfig

    def unpack_int4(packed, scales):
        codes = q.unpack_pairs(packed).to(torch.int8) - 8
        return x @ q.dequantize(codes, scales.float()).T

    def nf4(*parts):
        for name, part in zip(layer.state_dict(), parts, strict=True):
            setattr(layer, name, part)
        return layer(x)

    layer = q.NF4Linear(linear)
    brain = x.bfloat16()
    yield "float32", (weight,), lambda w: x @ w.T
    yield "bfloat16", (weight.bfloat16(),), lambda w: brain @ w.T
    yield "int8, unpacked first", eight, lambda *w: q.int8_product(x, *w)
    yield "int8, in the kernel", eight, lambda *w: q.int8_product_fast(x, *w)
    yield "int8, whole numbers", eight, lambda *w: q.whole_product(x, *w)
    with warnings.catch_warnings(action="ignore"):
        made = dynamic.Linear.from_float(linear)
    yield "int8, torch's dynamic layer", (made,), lambda made: made(x)
    yield "int4, unpacked first", pairs, unpack_int4
    kernel = q.pack_int4_fast(*four)
    product = q.int4_product_fast
    yield "int4, in the kernel", kernel, lambda *w: product(x, *w)
    parts = tuple(layer.state_dict().values())
    yield "NF4, our layer", parts, nf4


def size_bytes(part) -> int:
    if isinstance(part, torch.nn.Module):
        return SIDE * SIDE + 4 * SIDE  # codes, and a scale a row
    return part.nbytes if torch.is_tensor(part) else 0


def copy_of(part):
    """A part of a form in memory of its own; a module by being packed again."""
    if isinstance(part, torch.nn.Module):
        made = type(part)(SIDE, SIDE, bias_=False)
        made.set_weight_bias(part.weight(), None)
        return made
    return part.clone() if torch.is_tensor(part) else part


def milliseconds(product, copies) -> float:
    """Processor time of one product, over all copies in turn."""
    start = time.process_time()
    for copy in copies:
        product(*copy)
    return 1e3 * (time.process_time() - start) / len(copies)


@torch.inference_mode()
def record_speed() -> None:
    start = torch.Generator().manual_seed(0)
    weight = torch.randn(SIDE, SIDE, generator=start) / SIDE**0.5
    x = torch.randn(1, SIDE, generator=start)
    named = f"one thread of an {machine()}, torch {torch.__version__.split('+')[0]}"
    record = {"machine": named, "rows": {}}
    for name, parts, product in forms(weight, x):
        total = sum(size_bytes(part) for part in parts)
        count = -(-COLD_BYTES // total)
        copies = [tuple(copy_of(part) for part in parts) for _ in range(count)]
        slow = "first" in name or "layer" in name.removeprefix("int8")
        copies = copies[:4] if slow else copies
        took = [milliseconds(product, copies) for _ in range(ROUNDS)]
        row = {"bytes": total, "ms": round(statistics.median(took), 3)}
        row["range"] = [round(min(took), 3), round(max(took), 3)]
        record["rows"][name] = row
    store(HERE / "speed.json", record)


if __name__ == "__main__":
    make_parts(record_widths, record_speed)
