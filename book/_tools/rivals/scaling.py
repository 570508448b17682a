"""Scaling: processor time of one point of a sweep, and of one as good as the rival's.

A point is a GPT of two layers that reads 300 steps of 16 windows. Ours is trained by
the recipe of the pages on scaling, the rival by nanoGPT's, which rises for a twentieth
of the steps; nanoGPT itself is not a package. *As good* is our recipe with a third of
the steps, so of the text: it must end at a lower loss, seed by seed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial

import torch
from assets import king_james_ids

from rivals.measure import Goal, Row, versioned
from rivals.training import Size, plain_run

TITLE = "Scaling: processor time of a point of a sweep"
STEPS = 300
WIDTHS = [16, 48]
SEEDS = 3
FEWER = 3  # times, of our steps to be as good
SAME_GOAL = Goal(1.5)
AS_GOOD_GOAL = Goal(1 / 2)


def our_point(
    train_ids: torch.Tensor, held_out: torch.Tensor, width: int, steps: int, seed: int
) -> tuple[float, float]:
    """Seconds of processor time, and the loss at the end."""
    from fieldguide.scaling.laws import sweep_config, sweep_recipe
    from fieldguide.transformers.training import held_out_loss, new_gpt, train

    rng = torch.Generator().manual_seed(seed)
    recipe = sweep_recipe(steps)
    with contextlib.redirect_stdout(None):
        start = time.process_time()
        model = new_gpt(sweep_config(width), recipe, rng)
        train(model, train_ids, recipe, generator=rng)
    return time.process_time() - start, held_out_loss(model, held_out, 256)


def points(width: int) -> Iterator[Row]:
    from fieldguide.scaling.laws import sweep_config
    from fieldguide.transformers.training import held_out_loss

    config = sweep_config(width)
    size = Size("", width, config.layers, config.heads, config.context, 16, 0, 0)
    train_ids, held_out = king_james_ids()
    same, fewer, theirs = [], [], []
    for seed in range(SEEDS):
        seconds, model = plain_run(train_ids, seed, size, STEPS, STEPS // 20)
        theirs.append(seconds)
        target = held_out_loss(model, held_out, 256)
        same.append(our_point(train_ids, held_out, width, STEPS, seed)[0])
        steps = STEPS // FEWER
        seconds, reached = our_point(train_ids, held_out, width, steps, seed)
        fewer.append(seconds)
        if reached > target:
            raise RuntimeError(f"seed {seed}: {reached:.3f} nats, not {target:.3f}")
    name = f"{versioned('transformers')}, nanoGPT's recipe"
    row = partial(Row, unit="s", rival=name, theirs=theirs)
    yield row(f"width {width}, the same text", ours=same, goal=SAME_GOAL)
    yield row(f"width {width}, as good", ours=fewer, goal=AS_GOOD_GOAL)


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    for width in WIDTHS:
        yield from points(width)
