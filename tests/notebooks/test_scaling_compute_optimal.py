"""The cells of scaling/compute-optimal against closed forms and a fine search."""

import functools
import math

import cells
import numpy as np
import pytest
import torch
from cells import refusal, refuses, refuses_all

from fieldguide.scaling import compute_optimal as page
from fieldguide.scaling.laws import Law, sweep_config
from fieldguide.transformers.gpt import GPT, count_parameters

DOUBLE = torch.double


def law(E, A, B, alpha, beta):
    scales, exponents = torch.tensor([[A, B], [alpha, beta]], dtype=DOUBLE)
    return Law(torch.tensor(E, dtype=DOUBLE), scales, exponents)


PUBLISHED = {
    92.6: (1.69, 406.4, 410.7, 0.34, 0.28),
    59.1: (1.6934, 406.4, 410.7, 0.3392, 0.2849),
    18.4: (1.8172, 482.01, 2085.43, 0.3478, 0.3658),
}
REFIT = PUBLISHED[18.4]
SIZES = torch.tensor([2e3, 4e3, 1e4, 3e4, 5e4], dtype=DOUBLE)
CURVE = 2 + 0.05 * (SIZES.log() - math.log(9e3)) ** 2


@functools.cache
def exercises():
    return cells.run_exercises("scaling/compute-optimal")


def loss_of(version, N, D):
    E, A, B, alpha, beta = version
    return E + A / N**alpha + B / D**beta


# The lowest point


def test_the_bottom_of_a_parabola_is_found():
    found = page.lowest_point(SIZES, CURVE)
    assert found == pytest.approx((9e3, 2, 0.05), rel=1e-9)
    assert {type(number) for number in found} == {float}
    order = torch.tensor([3, 0, 4, 1, 2])
    again = page.lowest_point(SIZES[order].float(), CURVE[order].float())
    assert again == pytest.approx((9e3, 2, 0.05), rel=1e-3)


def test_the_parabola_is_that_of_numpy():
    losses = CURVE * (1 + torch.tensor([3, -2, 4, -1, 2]) / 1000)
    x, y = SIZES.log().numpy(), losses.numpy()
    bend, slope, top = np.polyfit(x, y, 2, w=1 / y)  # of relative errors
    size, loss, bent = page.lowest_point(SIZES, losses)
    assert bent == pytest.approx(bend, rel=1e-6)
    assert math.log(size) == pytest.approx(-slope / 2 / bend, rel=1e-6)
    assert loss == pytest.approx(top - slope**2 / 4 / bend, rel=1e-6)


def test_no_bottom_is_made_up():
    good = {"sizes": SIZES, "losses": CURVE}
    refuses_all(
        page.lowest_point,
        good,
        sizes=[SIZES - 2e3, -SIZES, SIZES[:4]],
        losses=[0 * CURVE, -CURVE, CURVE[:4], 5 - CURVE, 0 * CURVE + 2],
    )
    says = "a bottom that lies among the sizes"
    refuses("losses", page.lowest_point, SIZES[2:] * 2, CURVE[2:], says=says)
    refuses("losses", page.lowest_point, SIZES[:3] / 4, CURVE[2:], says=says)
    same = SIZES[[0, 0, 1, 1, 1]]
    refuses("sizes", page.lowest_point, same, CURVE, says="3 different ones")
    three = page.lowest_point(SIZES[1:4], CURVE[1:4])
    assert three == pytest.approx((9e3, 2, 0.05), rel=1e-6)


def test_losses_are_above_zero_however_small():
    found = page.lowest_point(SIZES, CURVE / 10)
    assert found == pytest.approx((9e3, 0.2, 0.005), rel=1e-6)
    for bad in 0, -0.5:  # one of the five is enough
        losses = torch.where(SIZES == 1e4, bad, CURVE)
        refuses("losses", page.lowest_point, SIZES, losses, says="above 0")


def test_a_bend_below_a_billionth_is_none():
    flat = (CURVE - 2) / 0.05 * 1e-9
    assert page.lowest_point(SIZES, 2 + 1.5 * flat)[2] == pytest.approx(1.5e-9, rel=0.1)
    with refusal("among the sizes$"):
        page.lowest_point(SIZES, 2 + 0.5 * flat)


# Splits


@pytest.mark.parametrize(("ratio", "version"), PUBLISHED.items())
def test_a_published_law_says_what_it_is_known_for(ratio, version):
    N, D = page.best_split(law(*version), 5.76e23)
    assert math.isclose(6 * N * D, 5.76e23, rel_tol=1e-9) and round(D / N, 1) == ratio
    A, B, alpha, beta = version[1:]
    G = (alpha * A / beta / B) ** (1 / (alpha + beta))
    right = G * (5.76e23 / 6) ** (beta / (alpha + beta))
    assert pytest.approx(right, rel=1e-6) == N


@pytest.mark.parametrize("served", [0, 1e11, 3e12, 1e13])
@pytest.mark.parametrize("budget", [1e22, 5.76e23, 4e25])
def test_no_other_split_is_better(budget, served):
    N, D = page.best_split(law(*REFIT), budget, served)
    assert 6 * N * D + 2 * N * served == pytest.approx(budget, rel=1e-9)
    sizes = np.geomspace(1e6, budget / (6 + 2 * served), 200_000)[:-1]
    text = (budget - 2 * sizes * served) / (6 * sizes)
    losses = loss_of(REFIT, sizes[text > 0], text[text > 0])
    assert loss_of(REFIT, N, D) <= losses.min() * (1 + 1e-12)
    assert pytest.approx(sizes[losses.argmin()], rel=1e-3) == N


def test_serving_makes_the_best_model_smaller():
    splits = [page.best_split(law(*REFIT), 1e23, s) for s in (0, 1e11, 1e12, 1e13)]
    sizes, text = zip(*splits, strict=True)
    assert list(sizes) == sorted(sizes, reverse=True) and list(text) == sorted(text)


def test_the_smallest_budget_pays_for_one_token():
    two = law(*REFIT)
    assert page.best_split(two, 6) == pytest.approx((1, 1))
    assert page.best_split(two, 16.0, 5) == pytest.approx((1, 1))
    refuses("budget", page.best_split, two, 5.9, says="one token of one parameter")
    refuses("budget", page.best_split, two, 15.9, 5, says="16 or more")
    assert min(page.best_split(law(1.0, 1e3, 1e-3, 0.5, 0.5), 600.0)) >= 0.999


def test_a_law_of_single_precision_is_split_in_double():
    two = law(*REFIT)
    single = Law(two.floor.float(), two.scales.float(), two.exponents.float())
    same = Law(*(part.double() for part in vars(single).values()))
    found, right = page.best_split(single, 1e23), page.best_split(same, 1e23)
    assert found == pytest.approx(right, rel=1e-12)


def test_the_cheapest_way_to_a_loss_is_a_best_split():
    for version in PUBLISHED.values():
        for loss in 1.9, 2.2, 4.0:
            if loss <= version[0]:
                continue
            N, D = page.cheapest_split(law(*version), loss)
            assert loss_of(version, N, D) == pytest.approx(loss)
            split = page.best_split(law(*version), 6 * N * D)
            assert split == pytest.approx((N, D), rel=1e-6)


def test_bad_laws_budgets_and_losses_are_refused():
    two = law(*REFIT)
    many = Law(torch.ones(2), torch.ones(2, 2), torch.ones(2, 2))
    single = Law(torch.tensor(1.0), torch.ones(1), torch.ones(1))
    good = {"law": two, "budget": 1e20, "served": 1e5}
    refuses_all(page.best_split, good, law=[many, single], budget=[5, -1e20, 2e5])
    refuses_all(
        page.cheapest_split,
        {"law": two, "loss": 2.5},
        law=[many, single],
        loss=[REFIT[0], 1.0, -2.0],
    )


# What is stored


def test_the_stored_runs_cost_what_their_budget_is():
    grid = cells.record("compute-optimal", "grid.json")
    budgets = sorted({run["budget"] for run in grid["runs"]})
    assert len(budgets) == 4 and grid["seeds"] == [0, 1, 2]
    for run in grid["runs"]:
        with torch.device("meta"):
            model = GPT(sweep_config(run["width"]))
        size = count_parameters(model) - 64 * run["width"]  # learned positions
        assert run["parameters"] == size and run["tokens"] == 1024 * run["steps"]
        assert 6 * size * run["tokens"] == pytest.approx(run["budget"], rel=0.03)
        assert len(run["losses"]) == (1 if run["budget"] == budgets[-1] else 3)


# Exercises


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("split_at", "right(b, r)[::-1]", "come first"),
        ("split_at", "((b / r) ** 0.5, 1.0)", "cost 6"),
        ("split_at", "(b / 6 / r, 1.0)", "square root"),
        ("split_at", "((b / 6) ** 0.5, 1.0)", "not one"),
        ("split_at", "(right(b, r)[0], 1.0)", "of tokens, "),
        ("split_at", "(right(b, r)[0], right(b, r)[0] / r)", "multiply by"),
        ("split_at", "(1.0, 2.0, 3.0)", "two numbers"),
        ("split_at", "(None, None)", "two numbers"),
        ("split_at", "('1', '2')", "two numbers"),
        ("split_at", "(7.0, 7.0)", "is right, not 7"),
        ("break_even", "3 * (N * D - n * d) / (N - n)", "the sign"),
        ("break_even", "(n * d - N * D) / (N - n)", "factor of 3"),
        ("break_even", "6 * (n * d - N * D) / (N - n)", "serving costs 2"),
        ("break_even", "3 * (d - D)", "sizes differ"),
        ("break_even", "3 * n * d / (N - n)", "trained, too"),
        ("break_even", "3 * (n * d - N * D) / (N - n)", "from the start"),
        ("break_even", "7.0", "is right, not 7"),
        ("grown", "right(f, a, b)[::-1]", "exponent of text"),
        ("grown", "(f**a, f**b)", "exponent of the loss"),
        ("grown", "(f**b, f**a)", "divide by"),
        ("grown", "(f**0.5, f**0.5)", "evenly"),
        ("grown", "(right(f, a, b)[0],) * 2", "multiply"),
        ("grown", "(1.0, 2.0, 3.0)", "two numbers"),
        ("grown", "(None, None)", "two numbers"),
        ("grown", "('1', '2')", "two numbers"),
        ("grown", "(7.0, 7.0)", "is right, not 7"),
        ("grown", "(right(f, a, b)[0], 7.0)", "of the text, "),
    ],
)
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    names = {"split_at": "b, r", "break_even": "n, d, N, D", "grown": "f, a, b"}
    known = {"math": math, "right": exercises()[check]}
    cells.is_told_its_cause(exercises(), check, answer, cause, names[check], **known)


def test_the_script_trains_a_point_by_the_script_of_the_sweep():
    loss, _ = cells.script("compute-optimal").run(1, 8, 0)
    assert 3 < loss < 5  # a step from log 65 nats
