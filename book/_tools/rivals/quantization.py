"""Packed weights: one token's product with a matrix, beside float32 and torchao.

Every side has so many copies of its matrix that none is in a cache when its turn
comes again, as in a model that is larger than the caches. The limit is float32's own
time, scaled down by the bytes: what reading them alone would take.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from fieldguide.efficiency import quantization as q
from rivals.measure import (
    Goal,
    Row,
    alternate,
    attempt,
    each,
    own,
    processor_ms,
    versioned,
)

TITLE = "Packed weights, one token, 4096 x 4096: processor time of the product"
SIDE = 4096
COLD_BYTES = 1 << 28
ROUNDS = 9
UNPACKING = ["int8, unpacked first", "NF4, our layer"]
INT8_GOAL, INT4_GOAL = Goal(0.33), Goal(0.27)


def cold(parts: tuple, product: Callable, bytes_: int) -> Callable[[], float]:
    """A rival for `alternate` that never meets the same copy of the parts soon.

    bytes_: what one product moves through the caches.
    """
    count = -(-COLD_BYTES // bytes_)
    copies = [parts] + [copy.deepcopy(parts) for _ in range(count - 1)]
    turn = itertools.cycle(copies)

    @torch.inference_mode()
    def once() -> None:
        product(*next(turn))

    return processor_ms(once, count)


def torchao_int8(weight: torch.Tensor) -> tuple[nn.Module]:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    linear = nn.Linear(SIDE, SIDE, bias=False).requires_grad_(False)
    linear.weight.copy_(weight)
    quantize_(linear, Int8WeightOnlyConfig())
    return (linear,)


def sizes(*parts) -> int:
    return sum(part.nbytes for part in parts if torch.is_tensor(part))


def rows() -> Iterator[Row]:
    start = torch.Generator().manual_seed(0)
    weight = torch.randn(SIDE, SIDE, generator=start) / SIDE**0.5
    x = torch.randn(1, SIDE, generator=start)
    eight = q.quantize_absmax(weight, 8, "row")
    four = q.pack_int4_fast(*q.quantize_absmax(weight, 4, 32))
    linear = nn.Linear(SIDE, SIDE, bias=False)
    linear.weight.data = weight
    layer = q.NF4Linear(linear)

    sides = {
        "float32": ((weight,), lambda w: x @ w.T),
        "int8, in the kernel": (eight, lambda *w: q.int8_product_fast(x, *w)),
        "int8, whole numbers": (eight, lambda *w: q.whole_product(x, *w)),
        "int8, unpacked first": (eight, lambda *w: q.int8_product(x, *w)),
        "int4, in the kernel": (four, lambda *w: q.int4_product_fast(x, *w)),
        "NF4, our layer": ((layer,), lambda module: module(x)),
    }
    size = {name: sizes(*parts) for name, (parts, _) in sides.items()}
    size["NF4, our layer"] = sizes(*layer.state_dict().values())
    moved = size | dict.fromkeys(UNPACKING, COLD_BYTES)  # floats, back and forth
    timed = {n: cold(p, product, moved[n]) for n, (p, product) in sides.items()}
    theirs = {"torchao": attempt(torchao_int8, weight)}
    theirs = each(lambda it: cold(it, lambda linear: linear(x), COLD_BYTES), theirs)
    took = alternate({**timed, **theirs}, rounds=ROUNDS)  # it unpacks, too

    plain = own(took["float32"])
    goals = {"int8, in the kernel": INT8_GOAL, "int8, whole numbers": INT8_GOAL}
    goals["int4, in the kernel"] = INT4_GOAL
    for name in size:
        if name == "float32":
            continue
        row = partial(Row, name, "ms", own(took[name]))
        yield row("the product in float32", plain, goals.get(name))
        if name in goals:
            share = size[name] / size["float32"]
            yield row("its bytes at float32's rate", [share * ms for ms in plain])
        if name.startswith("int8"):
            yield row(f"{versioned('torchao')}, int8 weights", took["torchao"])
