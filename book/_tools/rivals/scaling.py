"""Scaling: processor time of one point of a sweep, and of one as good as the rival's.

A point is a GPT of two layers that reads 300 steps of 16 windows. Ours is trained by
the recipe of the pages on scaling, the rival by nanoGPT's, which rises for a twentieth
of the steps; nanoGPT itself is not a package. *As good* is our recipe with a third of
the steps, so of the text: it must end at a lower loss, seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from assets import king_james_ids

from fieldguide.scaling.laws import sweep_config, sweep_recipe
from rivals.measure import Goal, Row, versioned
from rivals.training import Size, our_run, plain_run, to_the_loss

TITLE = "Scaling: processor time of a point of a sweep"
STEPS = 300
WIDTHS = [16, 48]
FEWER = 3  # times, of our steps to be as good
SAME_GOAL = Goal(1.5)
AS_GOOD_GOAL = Goal(1 / 2)


def rows() -> Iterator[Row]:
    train_ids, held_out = king_james_ids()
    for width in WIDTHS:
        config = sweep_config(width)
        size = Size("", width, config.layers, config.heads, config.context, 16, 0, 0)
        ours = partial(our_run, train_ids, config=config)
        runs = {
            "theirs": partial(
                plain_run, train_ids, size=size, steps=STEPS, warmup=STEPS // 20
            ),
            "same": partial(ours, recipe=sweep_recipe(STEPS)),
            "ours": partial(ours, recipe=sweep_recipe(STEPS // FEWER)),
        }
        took = to_the_loss(runs, held_out, 256)
        name = f"{versioned('transformers')}, nanoGPT's recipe"
        row = partial(Row, unit="s", rival=name, theirs=took["theirs"])
        yield row(f"width {width}, the same text", ours=took["same"], goal=SAME_GOAL)
        yield row(f"width {width}, as good", ours=took["ours"], goal=AS_GOOD_GOAL)
