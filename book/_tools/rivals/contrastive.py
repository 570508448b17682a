"""Contrastive loss: forward and backward, beside OpenCLIP's.

The same embeddings of length 1 and the same trained scale on all sides, which must
give the same loss and the same gradients. OpenCLIP's package wants torchvision when
it is imported, so its one file with the loss is loaded by path.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from assets import load

from fieldguide.multimodal import contrastive as c
from rivals.measure import Goal, Row, attempt, beside, each, processor_times, versioned

SIZES = [256, 1024, 2048]
WIDTH = 512
TITLE = f"Contrastive loss, D {WIDTH}, forward + backward: processor time"
ROUNDS, GOAL = 9, 0.55


def open_clip_loss() -> Callable:
    package = importlib.metadata.distribution("open_clip_torch")
    loss = load(Path(package.locate_file("open_clip/loss.py"))).ClipLoss()
    return lambda text, image, scale: loss(image, text, scale)


def of_size(B: int, sides: dict) -> Iterator[Row]:
    draw = torch.Generator().manual_seed(0)
    pairs = torch.nn.functional.normalize(
        torch.randn(2, B, WIDTH, generator=draw), dim=-1
    )
    text, image = (rows.clone().requires_grad_() for rows in pairs)
    scale = torch.tensor(1 / 0.07, requires_grad=True)
    inputs = text, image, scale

    def both(loss: Callable) -> tuple:
        made = loss(*inputs)
        return made.detach(), *torch.autograd.grad(made, inputs)

    expected = both(sides["as taught"])

    def step(loss: Callable) -> Callable[[], tuple]:
        torch.testing.assert_close(both(loss), expected, atol=1e-6, rtol=1e-4)
        return partial(both, loss)

    repeats = max(1, 1024 // B)
    took = processor_times(each(step, sides), rounds=ROUNDS, repeats=repeats)
    name = f"ClipLoss, {versioned('open_clip_torch')}"
    for form, goal in ("as taught", None), ("fast form", Goal(GOAL)):
        yield beside(took, f"{B} pairs, {form}", form, name, "rival", goal)


def rows() -> Iterator[Row]:
    sides = {
        "as taught": lambda t, i, scale: c.contrastive_loss(t, i, 1 / scale),
        "fast form": lambda t, i, scale: c.contrastive_loss_fast(t, i, 1 / scale),
        "rival": attempt(open_clip_loss),
    }
    for B in SIZES:
        yield from of_size(B, sides)
