"""Training: one step of the reader's GPT beside others', and seconds to a loss.

The sizes are nanoGPT's two: the small one is its recipe for a laptop without a GPU
(`train_shakespeare_char`, as its README scales it down), whose batch, schedule and
optimizer the rivals here use too. nanoGPT itself is not a package.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from assets import king_james_ids
from torch import nn

from fieldguide.transformers.attention import simple_attention_fast
from fieldguide.transformers.gpt import GPT, GPTConfig
from fieldguide.transformers.training import (
    Recipe,
    get_batch,
    held_out_loss,
    modern_recipe,
    new_gpt,
    train,
)
from rivals.measure import Goal, Row, attempt, beside, each, processor_times, versioned

TITLE = "Training a GPT: processor time of a step, and to a loss"
VOCAB = 65


@dataclass(frozen=True)
class Size:
    name: str
    width: int
    layers: int
    heads: int
    context: int
    batch: int
    rounds: int
    limit: float  # goal: of the time that the matrix products take alone


SMALL = Size("0.8 M", 128, 4, 4, 64, 12, 40, 1 / 0.5)
LARGE = Size("10.7 M", 384, 6, 6, 256, 4, 7, 1 / 0.8)

# nanoGPT's recipe for a processor, and the steps of the notebook's modern recipe
STEPS, PEAK, WARMUP, FINAL = 2000, 1e-3, 100, 0.1
OUR_STEPS = 360
SEEDS = 3
TO_LOSS_GOAL = 1 / 5


def config_of(size: Size) -> GPTConfig:
    sizes = VOCAB, size.context, size.width, size.heads, size.layers
    return GPTConfig(*sizes, bias=False)


def gpt(size: Size) -> GPT:
    """The reader's GPT of random weights, the same every time."""
    start = torch.Generator().manual_seed(0)
    return GPT(config_of(size), attend=simple_attention_fast, generator=start)


def transformers_gpt2(size: Size) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = {"vocab_size": VOCAB, "n_positions": size.context}
            sizes |= {"n_embd": size.width, "n_layer": size.layers}
            off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            config = GPT2Config(**sizes, **off, n_head=size.heads, use_cache=False)
            self.inner = GPT2LMHeadModel(config)

        def forward(self, ids):
            return self.inner(ids).logits

    return Logits()


def loss_of(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor):
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    options = {"betas": (0.9, 0.99), "weight_decay": 0.1, "fused": True}
    return torch.optim.AdamW(model.parameters(), PEAK, **options)


def stepper(size: Size, model: nn.Module) -> Callable[[], None]:
    """A step of training on random tokens: loss, gradients, clipping, AdamW."""
    optimizer = adamw(model)
    draw, shape = torch.Generator().manual_seed(0), (2, size.batch, size.context)
    inputs, targets = torch.randint(VOCAB, shape, generator=draw).unbind()
    start = loss_of(model, inputs, targets).item()
    if not math.isclose(start, math.log(VOCAB), rel_tol=0.15):
        raise RuntimeError(f"starts with a loss of {start:.2f}, not ln {VOCAB}")

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model, inputs, targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def products(size: Size) -> Callable[[], None]:
    """The matrix products of a step, forward and backward, and nothing else."""
    rows = size.batch * size.context
    D, heads = size.width, size.batch * size.heads
    shapes = size.layers * [(D, D)] * 4 + size.layers * [(D, 4 * D), (4 * D, D)]
    shapes.append((D, VOCAB))
    plain = [
        (torch.randn(rows, a), torch.randn(b, a), torch.randn(rows, b))
        for a, b in shapes
    ]
    K = D // size.heads
    query, key = torch.randn(2, heads, size.context, K).unbind()
    weights = torch.randn(heads, size.context, size.context)

    def multiply() -> None:
        for x, weight, gradient in plain:
            x @ weight.T
            gradient @ weight
            gradient.T @ x
        for _ in range(size.layers):  # scores and mixing; twice each backward
            for _ in range(3):
                query @ key.mT
                weights @ key

    return multiply


def steps(size: Size) -> Iterator[Row]:
    torch.manual_seed(0)
    models = {"ours": gpt(size), "transformers": attempt(transformers_gpt2, size)}
    sides = each(partial(stepper, size), models) | {"limit": products(size)}
    repeats = 5 if size is SMALL else 1
    took = processor_times(sides, rounds=size.rounds, repeats=repeats)
    row = partial(beside, took, f"{size.name}, a step", "ours")
    yield row(versioned("transformers"), "transformers")
    yield row("its matrix products alone", "limit", Goal(size.limit))


def plain_run(
    train_ids: torch.Tensor,
    seed: int,
    size: Size = SMALL,
    steps: int = STEPS,
    warmup: int = WARMUP,
) -> tuple[float, nn.Module]:
    """nanoGPT's recipe on transformers' GPT-2: seconds, and the model."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model = transformers_gpt2(size)
    model.config = SimpleNamespace(context=size.context)
    optimizer = adamw(model)
    start = time.process_time()
    for step in range(steps):
        done = max(0.0, (step - warmup) / (steps - warmup))
        falling = FINAL + (1 - FINAL) * (1 + math.cos(math.pi * done)) / 2
        optimizer.param_groups[0]["lr"] = PEAK * min((step + 1) / warmup, falling)
        batch = get_batch(train_ids, size.batch, size.context, rng)
        optimizer.zero_grad()
        loss_of(model, *batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return time.process_time() - start, model


def our_run(
    train_ids: torch.Tensor, seed: int, config: GPTConfig, recipe: Recipe
) -> tuple[float, nn.Module]:
    """A recipe on the reader's GPT: seconds of processor time, and the model."""
    rng = torch.Generator().manual_seed(seed)
    with contextlib.redirect_stdout(None):
        start = time.process_time()
        model = new_gpt(config, recipe, rng)
        train(model, train_ids, recipe, generator=rng)
    return time.process_time() - start, model


def to_the_loss(
    runs: dict[str, Callable], held_out: torch.Tensor, pieces: int
) -> dict[str, list[float]]:
    """Seconds of each run, seed by seed; of "ours" to a loss as good as "theirs"."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for seed in range(SEEDS):
        losses = {}
        for name, run in runs.items():
            seconds, model = run(seed=seed)
            took[name].append(seconds)
            losses[name] = held_out_loss(model, held_out, pieces)
        reached, target = losses["ours"], losses["theirs"]
        if reached > target:
            raise RuntimeError(f"seed {seed}: {reached:.3f} nats, not {target:.3f}")
    return took


def to_loss() -> Iterator[Row]:
    """Seconds of the notebook's modern recipe, with nanoGPT's batch, to its loss."""
    training, held_out = king_james_ids()
    recipe = replace(modern_recipe(OUR_STEPS), batch=SMALL.batch)
    runs = {
        "ours": partial(our_run, training, config=config_of(SMALL), recipe=recipe),
        "theirs": partial(plain_run, training),
    }
    took = to_the_loss(runs, held_out, 512)
    name = f"{versioned('transformers')}, nanoGPT's recipe"
    yield Row(
        "to its loss", "s", took["ours"], name, took["theirs"], Goal(TO_LOSS_GOAL)
    )


def rows() -> Iterator[Row]:
    yield from steps(SMALL)
    yield from steps(LARGE)
    yield from to_loss()
