"""Mixtures of experts: forward and backward beside dense equivalents and Mixtral.

A dense equivalent is one MLP as wide as the experts of a token together: it computes as
much and has nothing to route. Mixtral's experts have three matrices, the book's two;
widths are such that all compute the same and store the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from rivals.measure import Goal, Row, attempt, beside, processor_times, versioned

TITLE = "Mixtures of experts, forward and backward: processor time"
D, H = 512, 1536  # width, and width inside one of our experts


@dataclass(frozen=True)
class Size:
    experts: int
    k: int
    tokens: int
    goal: float

    @property
    def name(self) -> str:
        return f"{self.experts} experts, top-{self.k}, {self.tokens:,}"


SIZES = [Size(8, 2, 2048, 1.07), Size(32, 4, 1024, 1.4)]
ROUNDS = 9


def normal(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / math.sqrt(shape[-1]))


def trained(forward: Callable, x: torch.Tensor, weights: list) -> Callable[[], None]:
    """A call that runs a layer forward and backward, for tokens and weights."""
    x = x.clone().requires_grad_()
    upstream = torch.ones_like(x)

    def step() -> None:
        for each in (x, *weights):
            each.grad = None
        forward(x).backward(upstream)

    return step


def ours(size: Size, x: torch.Tensor) -> Callable[[], None]:
    from fieldguide.efficiency import experts

    router = normal(size.experts, D)
    up, down = normal(size.experts, H, D), normal(size.experts, D, H)

    def forward(x: torch.Tensor) -> torch.Tensor:
        weights, chosen, _ = experts.top_k_routing(x @ router.T, size.k)
        both, multiply = (up, down), experts.grouped_fast
        return experts.mixture_sorted(x, weights, chosen, *both, multiply)

    return trained(forward, x, [router, up, down])


def dense(size: Size, x: torch.Tensor) -> Callable[[], None]:
    up, down = normal(size.k * H, D), normal(D, size.k * H)
    return trained(lambda x: F.gelu(x @ up.T) @ down.T, x, [up, down])


def mixtral(size: Size, x: torch.Tensor) -> Callable[[], None]:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    sizes = {"hidden_size": D, "intermediate_size": 2 * H // 3}
    sizes |= {"num_local_experts": size.experts, "num_experts_per_tok": size.k}
    config = MixtralConfig(**sizes)
    config._experts_implementation = "grouped_mm"  # as its models run; the fastest
    block = MixtralSparseMoeBlock(config)
    weights = list(block.parameters())
    for each in weights:
        each.data = normal(*each.shape).data
    return trained(lambda x: block(x[None])[0], x, weights)


def compare(size: Size) -> Iterator[Row]:
    torch.manual_seed(0)
    x = torch.randn(size.tokens, D)
    sides = {"ours": ours(size, x), "dense": dense(size, x)}
    sides["Mixtral"] = attempt(mixtral, size, x)
    row = partial(beside, processor_times(sides, rounds=ROUNDS), size.name, "ours")
    yield row(f"{versioned('transformers')}, Mixtral, grouped", "Mixtral")
    yield row("its dense equivalent", "dense", Goal(size.goal))


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    for size in SIZES:
        yield from compare(size)
