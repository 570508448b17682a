"""The cells of transformers/optimizers against torch."""

import functools
import math

import cells
import hypothesis.strategies as st
import pytest
import torch
from cells import close, fails, random, refuses_all
from hypothesis import given, settings

from fieldguide.transformers import optimizers, training

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
rates, decays = st.sampled_from([0.0, 0.02, 0.5]), st.sampled_from([0.0, 0.1])


def stepped(make, gradients, start):
    """The parameters after the optimizer has been given those gradients."""
    parameters = [p.clone().requires_grad_() for p in start]
    optimizer = make(parameters)
    for each in gradients:
        for p, grad in zip(parameters, each, strict=True):
            p.grad = grad.clone()
        optimizer.step()
    return [p.detach() for p in parameters]


def problem(shapes, seed=0, scale=1.0):
    """Four gradients of each of some parameters, and where these start."""
    start, *gradients = (
        [random(*shape, seed=seed + n) * scale**n for shape in shapes] for n in range(5)
    )
    return gradients, start


@quick
@given(seeds, rates, st.sampled_from([(0.9, 0.99), (0.0, 0.5), (0.3, 0.0)]), decays)
def test_adamw_is_torchs(seed, lr, betas, decay):
    given = problem([(3,), (2, 4)], seed)
    kind = {"lr": lr, "betas": betas, "eps": 0.1}
    ours = stepped(lambda ps: optimizers.AdamW(iter(ps), decay=decay, **kind), *given)
    theirs = functools.partial(torch.optim.AdamW, weight_decay=decay, **kind)
    close(ours, stepped(theirs, *given))
    given = problem([(3,), (2, 4)], seed, scale=1e-4)  # its defaults, too
    close(stepped(optimizers.AdamW, *given), stepped(torch.optim.AdamW, *given))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
def test_adamw_keeps_the_device_and_the_type(kind):
    for device in "cpu", "meta":
        p = torch.ones(3, 4, device=device, dtype=kind)
        p.grad = torch.ones_like(p)
        optimizers.AdamW([p]).step()
        assert p.device.type == device and p.dtype == kind


BELOW = [-1e-9, math.inf, math.nan]  # no rate and no decay
NO_BETAS = [(0.9,), (1, 0.9), (0.9, 1), (-0.1, 0.9)]


def test_bad_input_is_refused_by_name():
    good = {"parameters": [], "lr": 0.1, "betas": (0, 0), "eps": 1e-8, "decay": 0.0}
    bad = {"parameters": [[1]], "lr": BELOW, "decay": BELOW, "betas": NO_BETAS}
    refuses_all(optimizers.AdamW, good, **bad)


def forgetful(loss, rate):  # trains anew each time that it asks
    while math.isnan(loss(rate)):
        rate /= 2
    while loss(2 * rate) < loss(rate):
        rate *= 2
    while loss(rate / 2) < loss(rate):
        rate /= 2
    return rate


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = cells.run_exercises("transformers/optimizers", optimizers)
    fails(book.check_find_rate, lambda loss, rate: rate, forgetful)
    fails(
        book.check_nearest_orthogonal,
        lambda m: -book.nearest_orthogonal(m),
        lambda m: book.nearest_orthogonal(m.mT),
        lambda m: training.orthogonalize(m, dtype=torch.double),
    )
    fails(
        book.check_largest_rate,
        lambda slopes: 2 / min(slopes),
        lambda slopes: 1 / max(slopes),
        lambda slopes: 2 / slopes[0],
    )
