"""Two processes that train one GPT, beside one process and torch's own form.

All three take the same steps: one process with the whole batch, the book's average of
all gradients in one message, and `DistributedDataParallel`, which sends parts while the
backward pass still runs. They take turns in two ranks; while one process works, the
other waits. Both need a core of their own: the values are seconds of the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from fieldguide.deployment.data_parallel import average_gradients
from fieldguide.ranks import launch
from fieldguide.transformers.training import modern_recipe, new_gpt, trained_gpt
from rivals.measure import Goal, Row, beside, versioned

TITLE = "Data parallel training, two processes: time of the clock"
BATCH, ROUNDS = 32, 9


def stepper(model: torch.nn.Module, part: slice, batch: int, average: Callable):
    """A call that does one step on a part of the batch."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(65, (batch, 129), generator=draws)[part]

    def step() -> None:
        optimizer.zero_grad()
        logits = model(ids[:, :-1]).flatten(0, 1)
        F.cross_entropy(logits, ids[:, 1:].flatten()).backward()
        average(list(model.parameters()))
        optimizer.step()

    return step


def timed_ways(batch: int) -> dict[str, list[float]]:
    """Milliseconds of a step in each round, by way; what rank 0 sees counts."""

    def model():
        generator = torch.Generator().manual_seed(0)
        return new_gpt(trained_gpt().config, modern_recipe(20), generator)

    rank = dist.get_rank()
    each = batch // dist.get_world_size()
    part = slice(rank * each, (rank + 1) * each)
    nothing = lambda _: None  # noqa: E731
    ways = {
        "one": stepper(model(), slice(None), batch, nothing),
        "ours": stepper(model(), part, batch, average_gradients),
        "DDP": stepper(DistributedDataParallel(model()), part, batch, nothing),
    }
    took = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, step in ways.items():
            dist.barrier()
            start = time.perf_counter()
            if name != "one" or rank == 0:
                step()
            dist.barrier()
            took[name].append(1e3 * (time.perf_counter() - start))
    return {name: times[1:] for name, times in took.items()}  # the first warms up


def measured(batch: int) -> dict[str, list[float]]:
    """`timed_ways` in two new processes."""
    return launch(timed_ways, 2, batch, limit_s=900)[0]


def speedups(took: dict[str, list[float]]) -> dict[str, float]:
    """How many times as fast as one process each way is: the median round."""
    return {
        name: statistics.median(
            one / mine for one, mine in zip(took["one"], took[name], strict=True)
        )
        for name in ("ours", "DDP")
    }


def rows() -> Iterator[Row]:
    took = measured(BATCH)
    row = partial(beside, took, f"a step, batch of {BATCH}, two processes", "ours")
    yield row(f"DistributedDataParallel, {versioned('torch')}", "DDP", Goal(1.05))
    yield row("one process, the same batch", "one", Goal(1 / 1.7))
