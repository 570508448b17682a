"""The cells of scaling/laws against closed forms, numpy, and laws that are known."""

import math

import cells
import numpy as np
import pytest
import torch

from fieldguide.scaling import laws
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig

DOUBLE = torch.double
SIZES = torch.tensor([2e3, 5e3, 1e4, 3e4, 6e4, 1e5], dtype=DOUBLE)
LAW = 1.7, 12.0, 0.35
LOSSES = LAW[0] + LAW[1] * SIZES ** -LAW[2]
NOISE = torch.tensor([3.0, -2.0, 1.0, -4.0, 2.0, -1.0], dtype=DOUBLE) / 1000
KINDS = torch.cartesian_prod(SIZES[:4], torch.tensor([1e5, 3e5, 2e6], dtype=DOUBLE))
BOTH = 1.6 + 9 * KINDS[:, 0] ** -0.33 + 70 * KINDS[:, 1] ** -0.45


def numbers(law):
    """Floor, scales and exponents in one list."""
    return torch.cat([law.floor[None], law.scales, law.exponents]).tolist()


def brute_force(sizes, losses):
    """Least squares of relative errors by numpy, over a fine grid: (cost, E, A, a)."""
    sizes, losses, best = sizes.numpy(), losses.numpy(), (math.inf,)
    for a in np.arange(0.011, 2.999, 0.0005):
        rows = np.stack([1 / losses, sizes**-a / losses], 1)
        line, *_ = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)
        if line[0] < 0:
            line = np.array([0, rows[:, 1].sum() / (rows[:, 1] ** 2).sum()])
        cost = ((rows @ line - 1) ** 2).sum() / 2
        best = min(best, (cost, *line, a))
    return best


def test_a_law_is_found_again():
    found = numbers(laws.fit_law(SIZES, LOSSES))
    assert found == pytest.approx(list(LAW), rel=1e-4)
    law = laws.fit_law(SIZES, 2.0 + (SIZES / 5e3) ** -0.05)
    assert law.exponents.item() == pytest.approx(0.05, rel=1e-4)


def test_a_law_of_two_kinds_is_found_again():
    found = numbers(laws.fit_law(KINDS, BOTH))
    assert found == pytest.approx([1.6, 9, 70, 0.33, 0.45], rel=1e-3)
    again = laws.fit_law(KINDS.flip(1), BOTH)
    assert numbers(again) == pytest.approx([1.6, 70, 9, 0.45, 0.33], rel=1e-3)


NOISY = [LOSSES * (1 + factor * NOISE) for factor in (1, -1, 8)]
BENT = 12 - SIZES.log()  # bends down even on logarithmic axes: its floor is 0


@pytest.mark.parametrize("losses", [*NOISY, BENT])
def test_the_fit_is_that_of_a_fine_grid(losses):
    cost, *line = brute_force(SIZES, losses)
    law = laws.fit_law(SIZES, losses)
    assert numbers(law) == pytest.approx(line, rel=0.02, abs=1e-9)
    errors = law.at(SIZES) / losses - 1
    assert errors.square().sum().item() / 2 <= cost * (1 + 1e-9)


@pytest.mark.parametrize("delta", [0.002, math.inf])
def test_the_best_lines_are_at_the_minimum_of_hubers_cost(delta):
    losses = LOSSES * (1 + 2 * NOISE)
    x = ((SIZES[:, None] / 1e4) ** -torch.tensor([0.2, 0.5, 0.9]).double()).T[..., None]
    lines, errors = laws.best_lines(x, losses[None], delta)
    rows = torch.cat([torch.ones_like(x), x], -1) / losses[:, None]
    lines = lines.clone().requires_grad_()
    missed = (rows @ lines[..., None]).squeeze(-1) - 1
    cells.close(errors, missed.detach())
    cost = torch.nn.functional.huber_loss(
        missed, 0 * missed, reduction="sum", delta=min(delta, 1.0)
    )
    assert torch.autograd.grad(cost, lines)[0].abs().max() < 1e-6


def test_hubers_cost_leaves_an_outlier_aside():
    losses = LOSSES.clone()
    losses[2] *= 1.2
    assert numbers(laws.fit_law(SIZES, losses, 1e-5)) == pytest.approx(LAW, rel=0.02)
    assert abs(numbers(laws.fit_law(SIZES, losses))[2] - LAW[2]) > 0.1


def test_many_laws_at_once_are_those_of_each():
    many = torch.stack([LOSSES, LOSSES * (1 + NOISE), LOSSES * (1 - NOISE)])
    law = laws.fit_law(SIZES, many)
    for k, losses in enumerate(many):
        cells.close(law.at(SIZES)[k], laws.fit_law(SIZES, losses).at(SIZES), 1e-9)
    right = law.floor[:, None] + law.scales * SIZES**-law.exponents
    cells.close(law.at(SIZES), right, 1e-9)


@pytest.mark.parametrize(("sizes", "losses"), [(SIZES, LOSSES), (KINDS, BOTH)])
def test_the_scatter_counts_what_is_free(sizes, losses):
    law = laws.fit_law(sizes, losses)
    errors = 0.01 * torch.randn(len(sizes), generator=cells.generator()).double()
    spread = laws.spread_of(law, sizes, law.at(sizes) * errors.exp())
    free = len(sizes) - len(numbers(law))
    cells.close(spread, (errors.square().sum() / free).sqrt(), 1e-9)


def test_redrawn_losses_scatter_as_the_errors_allow():
    losses = LOSSES * (1 + NOISE)
    law = laws.fit_law(SIZES, losses)
    dots, spread = laws.redraw(SIZES, losses, 4000, cells.generator())
    chi = 3 * (laws.spread_of(law, SIZES, losses) / spread).square()
    assert chi.mean().item() == pytest.approx(3, abs=0.2)  # of three free errors
    assert chi.var().item() == pytest.approx(6, abs=0.8)
    off = (dots / law.at(SIZES)).log() / spread[:, None]
    assert off.std(0).tolist() == pytest.approx([1] * 6, abs=0.05)
    assert abs(torch.corrcoef(off.T)[0, 1]) < 0.06


def test_an_interval_covers_what_it_says():
    inside, draw, trials = 0, cells.generator(5), 40
    larger = torch.tensor([3e5], dtype=DOUBLE)
    for _ in range(trials):
        noise = 0.003 * torch.randn(len(SIZES) + 1, generator=draw, dtype=DOUBLE)
        drawn = laws.forecast(SIZES, LOSSES * noise[:-1].exp(), larger, draw, 200)
        assert drawn.shape == (200, 1)
        truth = (LAW[0] + LAW[1] * 3e5 ** -LAW[2]) * noise[-1].exp()
        inside += 0.025 < (drawn < truth).double().mean() < 0.975
    assert 0.8 <= inside / trials <= 1


def test_a_point_of_the_sweep_is_a_run_of_the_training_page():
    ids, held_out = torch.arange(2000) % 65, torch.arange(7, 500) % 65
    sizes, recipe = GPTConfig(65, 8, 8, 1, 1, bias=False), laws.sweep_recipe(3)
    draw = cells.generator(5)
    model = training.new_gpt(sizes, recipe, draw)
    training.train(model, ids, recipe, generator=draw)
    right = training.held_out_loss(model, held_out, 256)
    assert laws.sweep_loss(sizes, recipe, ids, held_out, seed=5) == right
