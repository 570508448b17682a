"""Mixtures of experts: forward and backward beside dense equivalents and Mixtral.

A dense equivalent is one MLP as wide as the experts of a token together: it computes as
much and has nothing to route. Mixtral's experts have three matrices, the book's two;
widths are such that all compute the same and store the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from fieldguide.efficiency.experts import grouped_fast, mixture_sorted, top_k_routing
from rivals.measure import Goal, Row, attempt, beside, processor_times, versioned

TITLE = "Mixtures of experts, forward and backward: processor time"
D, H = 512, 1536  # width, and width inside one of our experts
# experts, how many of them a token has, tokens, the goal
SIZES = [(8, 2, 2048, 1.07), (32, 4, 1024, 1.4)]
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


def ours(E: int, k: int, x: torch.Tensor) -> Callable[[], None]:
    router, up, down = normal(E, D), normal(E, H, D), normal(E, D, H)

    def forward(x: torch.Tensor) -> torch.Tensor:
        weights, chosen, _ = top_k_routing(x @ router.T, k)
        return mixture_sorted(x, weights, chosen, up, down, grouped_fast)

    return trained(forward, x, [router, up, down])


def dense(k: int, x: torch.Tensor) -> Callable[[], None]:
    up, down = normal(k * H, D), normal(D, k * H)
    return trained(lambda x: F.gelu(x @ up.T) @ down.T, x, [up, down])


def mixtral(E: int, k: int, x: torch.Tensor) -> Callable[[], None]:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    sizes = {"hidden_size": D, "intermediate_size": 2 * H // 3}
    sizes |= {"num_local_experts": E, "num_experts_per_tok": k}
    config = MixtralConfig(**sizes)
    config._experts_implementation = "grouped_mm"  # as its models run; the fastest
    block = MixtralSparseMoeBlock(config)
    weights = list(block.parameters())
    for each in weights:
        each.data = normal(*each.shape).data
    return trained(lambda x: block(x[None])[0], x, weights)


def compare(E: int, k: int, tokens: int, goal: float) -> Iterator[Row]:
    torch.manual_seed(0)
    x, name = torch.randn(tokens, D), f"{E} experts, top-{k}, {tokens:,}"
    sides = {"ours": ours(E, k, x), "dense": dense(k, x)}
    sides["Mixtral"] = attempt(mixtral, E, k, x)
    row = partial(beside, processor_times(sides, rounds=ROUNDS), name, "ours")
    yield row(f"{versioned('transformers')}, Mixtral, grouped", "Mixtral")
    yield row("its dense equivalent", "dense", Goal(goal))


def rows() -> Iterator[Row]:
    for sizes in SIZES:
        yield from compare(*sizes)
