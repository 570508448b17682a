"""Packed weights: one token's product with a matrix, beside float32 and torchao.

Every side has so many copies of its matrix that none is in a cache when its turn
comes again, as in a model that is larger than the caches. The limit is float32's own
time, scaled down by the bytes: what reading them alone would take.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from assets import load, makers
from torch import nn

from rivals.measure import Goal, Row, alternate, attempt, each, own, versioned

TITLE = "Packed weights, one token, 4096 x 4096: processor time of the product"
GOALS = {  # of float32's time
    "int8, in the kernel": Goal(0.33),
    "int8, whole numbers": Goal(0.33),
    "int8, unpacked first": None,
    "int4, in the kernel": Goal(0.27),
    "NF4, our layer": None,
}


def torchao_int8(weight: torch.Tensor) -> tuple[nn.Module]:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    linear = nn.Linear(*weight.shape, bias=False).requires_grad_(False)
    linear.weight.copy_(weight)
    quantize_(linear, Int8WeightOnlyConfig())
    return (linear,)


def rows() -> Iterator[Row]:
    maker = load(makers()["quantization"])  # it records the same for the page
    weight, x = maker.drawn()
    sides, size = {}, {}
    for name, parts, product in maker.forms(weight, x):
        if name in ["float32", *GOALS]:
            sides[name] = maker.cold(name, parts, product)
            size[name] = maker.size_bytes(parts)
    layer = {"torchao": attempt(torchao_int8, weight)}
    named = partial(maker.cold, "torchao, unpacked first", product=lambda it: it(x))
    sides |= each(named, layer)
    took = alternate(sides, rounds=maker.ROUNDS)

    plain = own(took["float32"])
    for name, goal in GOALS.items():
        row = partial(Row, name, "ms", own(took[name]))
        yield row("the product in float32", plain, goal)
        if goal:
            share = size[name] / size["float32"]
            yield row("its bytes at float32's rate", [share * ms for ms in plain])
        if name.startswith("int8"):
            yield row(f"{versioned('torchao')}, int8 weights", took["torchao"])
