"""The cells of scaling/laws against closed forms, numpy, and laws that are known."""

import functools
import math
from statistics import mean

import cells
import numpy as np
import pytest
import torch
from cells import refuses, refuses_all

from fieldguide.scaling import laws
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPT, GPTConfig, count_parameters

DOUBLE = torch.double
SIZES = torch.tensor([2e3, 5e3, 1e4, 3e4, 6e4, 1e5], dtype=DOUBLE)
LAW = 1.7, 12.0, 0.35
LOSSES = LAW[0] + LAW[1] * SIZES ** -LAW[2]
NOISE = torch.tensor([3.0, -2.0, 1.0, -4.0, 2.0, -1.0], dtype=DOUBLE) / 1000
KINDS = torch.cartesian_prod(SIZES[:4], torch.tensor([1e5, 3e5, 2e6], dtype=DOUBLE))
BOTH = 1.6 + 9 * KINDS[:, 0] ** -0.33 + 70 * KINDS[:, 1] ** -0.45


@functools.cache
def page():
    return cells.run_exercises("scaling/laws")


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
    for floor, exponent in (2.0, 0.05), (0.5, 1.0), (2.0, 2.5):
        law = laws.fit_law(SIZES, floor + (SIZES / 5e3) ** -exponent)
        assert law.exponents.item() == pytest.approx(exponent, rel=1e-4)
        assert law.floor.item() == pytest.approx(floor, rel=1e-3)


def test_a_law_is_read_at_any_size():
    law = laws.fit_law(SIZES, LOSSES)
    assert torch.equal(law.at(SIZES.float()), law.at(SIZES))  # computed in doubles
    assert law.at(torch.ones(1)).item() == sum(numbers(law)[:2])


def test_one_search_takes_the_best_exponent_that_it_tries():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laws, "GRID", 5)
        patch.setattr(laws, "ZOOMS", 1)
        losses = 2 + (SIZES / 5e3) ** -1.6
        law, settled = laws.search(SIZES, losses)
        assert numbers(law)[2:] == pytest.approx([1.505]) and settled
        many, spread = laws.refits(SIZES, losses, 7, cells.generator())
        assert many.exponents.shape == (7, 1) and spread.shape == (7,)


def test_exponents_are_tried_on_a_grid_that_closes_in():
    spacing = 2.99 / 24 / 6**7  # 25 of them, then 7 times a sixth of the distance
    first = 0.01 + 2.99 / 24 * torch.tensor([2, 5, 12, 16], dtype=DOUBLE)
    for off, nearest in (0.4, 0), (-0.4, 0), (0.6, 1), (-0.6, -1):
        exponents = (first + off * spacing)[:, None]
        law, settled = laws.search(SIZES, 1 + (SIZES / 1e4) ** -exponents)
        assert settled.shape == (4,) and settled.all()
        cells.close(law.exponents[:, 0], first + nearest * spacing, 1e-11)
    losses = 1 + (SIZES / 1e4) ** -first[0]  # of an exponent that is tried
    cells.close(laws.fit_law(SIZES, losses).at(SIZES), losses, 1e-11)


def test_an_exponent_at_the_end_of_what_is_tried_is_not_settled():
    many = 10 ** torch.arange(0, 30, 5, dtype=DOUBLE)
    for sizes, end, sign in (many, 0.01, 1), (SIZES / 1e4, 3.0, -1):
        for off, found, right in (-0.1, 0, False), (5e-7, 5e-7, False), (1.5e-6,) * 3:
            law, settled = laws.search(sizes, 1 + sizes ** -(end + sign * off))
            assert settled == bool(right)
            assert law.exponents.item() == pytest.approx(end + sign * found, abs=3e-7)


def test_a_law_of_two_kinds_is_found_again():
    found = numbers(laws.fit_law(KINDS, BOTH))
    assert found == pytest.approx([1.6, 9, 70, 0.33, 0.45], rel=1e-3)
    again = laws.fit_law(KINDS.flip(1), BOTH)
    assert numbers(again) == pytest.approx([1.6, 70, 9, 0.45, 0.33], rel=1e-3)


@pytest.mark.parametrize("factor", [1.0, -1.0, 8.0])
def test_the_fit_is_that_of_a_fine_grid(factor):
    losses = LOSSES * (1 + factor * NOISE)
    cost, *line = brute_force(SIZES, losses)
    law = laws.fit_law(SIZES, losses)
    assert numbers(law) == pytest.approx(line, rel=0.02, abs=1e-9)
    errors = law.at(SIZES) / losses - 1
    assert errors.square().sum().item() / 2 <= cost * (1 + 1e-9)


def test_no_floor_is_below_0():
    losses = 12 - SIZES.log()  # bends down even on logarithmic axes
    law, line = laws.fit_law(SIZES, losses), brute_force(SIZES, losses)
    assert law.floor == 0 and line[1] == 0
    assert numbers(law)[1:] == pytest.approx(line[2:], rel=0.02)


def test_hubers_cost_leaves_an_outlier_aside():
    losses = LOSSES.clone()
    losses[2] *= 1.2
    robust = numbers(laws.fit_law(SIZES, losses, 1e-5))
    assert robust == pytest.approx(list(LAW), rel=0.02)
    assert abs(numbers(laws.fit_law(SIZES, losses))[2] - LAW[2]) > 0.1
    close = laws.fit_law(SIZES, LOSSES * (1 + NOISE), 1.0)  # nothing is that far off
    assert numbers(close) == pytest.approx(
        numbers(laws.fit_law(SIZES, LOSSES * (1 + NOISE))), rel=1e-4
    )


FALLING = (SIZES[:, None] / 1e4) ** -torch.tensor([0.2, 0.5, 0.9], dtype=DOUBLE)
FALLING = FALLING.T[..., None]  # three trials of six sizes of one kind


@pytest.mark.parametrize("delta", [0.002, math.inf])
def test_hubers_cost_is_torchs(delta):
    losses = LOSSES * (1 + 2 * NOISE)
    lines, cost, moved = laws.straight_lines(FALLING, losses[None], delta)
    rows = torch.cat([torch.ones_like(FALLING), FALLING], -1) / losses[:, None]
    lines = lines.clone().requires_grad_()
    errors = (rows @ lines[..., None]).squeeze(-1) - 1
    right = torch.nn.functional.huber_loss(
        errors, torch.zeros_like(errors), reduction="none", delta=min(delta, 1.0)
    ).sum(-1)
    cells.close(cost, right.detach())
    slopes = torch.autograd.grad(right.sum(), lines)[0]
    assert slopes.abs().max() < 1e-6  # at its minimum
    assert moved.shape == cost.shape == (3,) and moved.max() < 1e-6


def test_a_line_through_all_points_costs_nothing():
    falling = torch.tensor([[[1.0], [2.0], [4.0]]], dtype=DOUBLE)
    ones = torch.ones(1, 3, dtype=DOUBLE)
    for delta in math.inf, 0.002:
        line, cost, moved = laws.straight_lines(falling, ones, delta)
        cells.close(line, torch.tensor([[1.0, 0.0]], dtype=DOUBLE))
        assert cost.item() == pytest.approx(0) and moved.item() == pytest.approx(0)


def test_hubers_weights_are_found_in_rounds_and_have_to_settle():
    solved, solve, losses = [], laws.solve, LOSSES * (1 + 2 * NOISE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laws, "solve", lambda *a: solved.append(a) or solve(*a))
        squares = laws.straight_lines(FALLING, losses[None], math.inf)[0]
        assert len(solved) == 1  # nothing is weighed anew
        laws.straight_lines(FALLING, losses[None], 0.002)
        assert len(solved) == 1 + 101
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laws, "ROUNDS", 1)
        once, _, moved = laws.straight_lines(FALLING, losses[None], 0.002)
        cells.close(moved, (once - squares).abs().max(-1).values)
        refuses("losses", laws.fit_law, SIZES, losses, 1e-3, says="did not converge")
    with pytest.MonkeyPatch.context() as patch:
        lines, moved = laws.straight_lines, torch.full((25,), 1e-6, dtype=DOUBLE)
        patch.setattr(laws, "straight_lines", lambda *a: (*lines(*a)[:2], moved))
        assert not laws.search(SIZES, LOSSES)[1]  # a millionth is too much
        moved = moved / 2
        assert laws.search(SIZES, LOSSES)[1]


def test_many_laws_at_once():
    many = torch.stack([LOSSES, LOSSES * (1 + NOISE), LOSSES * (1 - NOISE)])
    law = laws.fit_law(SIZES, many)
    assert law.floor.shape == (3,) and law.scales.shape == law.exponents.shape == (3, 1)
    for k, losses in enumerate(many):
        cells.close(law.at(SIZES)[k], laws.fit_law(SIZES, losses).at(SIZES), 1e-9)
    right = law.floor[:, None] + law.scales * SIZES**-law.exponents
    cells.close(law.at(SIZES), right, 1e-9)
    cells.close(law.at(SIZES[:, None]), right, 1e-9)
    spread = laws.spread_of(law, SIZES, law.at(SIZES) * NOISE.exp())
    wanted = (NOISE.square().sum() / 3).sqrt()
    cells.close(spread, wanted.expand(3), 1e-9)


def test_the_scatter_counts_what_is_free():
    law = laws.fit_law(SIZES, LOSSES)
    errors = NOISE * math.sqrt(6)
    spread = laws.spread_of(law, SIZES, law.at(SIZES) * errors.exp())
    assert spread.item() == pytest.approx((errors.square().sum() / 3).sqrt().item())
    two = laws.fit_law(KINDS, BOTH)
    off = torch.full((len(KINDS),), 0.01, dtype=DOUBLE).exp()
    right = 0.01 * math.sqrt(12 / 7)
    assert laws.spread_of(two, KINDS, two.at(KINDS) * off).item() == pytest.approx(
        right
    )
    four = SIZES[:4], LOSSES[:4] / 4  # leave one free, and lie below 1 nat
    law = laws.fit_law(*four)
    spread = laws.spread_of(law, four[0], law.at(four[0]) * math.exp(0.01))
    assert spread.item() == pytest.approx(0.01 * math.sqrt(4))


def test_refits_spread_as_the_scatter_allows():
    losses = LOSSES * (1 + NOISE)
    law = laws.fit_law(SIZES, losses)
    found, spread = laws.refits(SIZES, losses, 1000, cells.generator())
    usual, free = laws.spread_of(law, SIZES, losses), 3
    assert spread.shape == (1000,) and found.floor.shape == (1000,)
    chi = free * (usual / spread).square()  # of three degrees of freedom
    assert chi.mean().item() == pytest.approx(3, abs=0.3)
    assert chi.var().item() == pytest.approx(6, abs=1.5)
    middle = found.at(SIZES).median(0).values / law.at(SIZES)
    assert (middle - 1).abs().max() < usual
    within = (found.at(SIZES) / law.at(SIZES)).log().square().sum(-1)
    # of six errors of each draw, the three numbers of the fit take up three
    assert (within / spread.square()).mean().item() == pytest.approx(3, abs=0.6)


def test_refits_of_two_kinds_have_two_more_numbers():
    some = [0, 1, 4, 5, 8, 9]  # six sizes for five numbers: one is free
    noisy = BOTH[some] * (1 + NOISE / 100)
    usual = laws.spread_of(laws.fit_law(KINDS[some], noisy), KINDS[some], noisy)
    _, spread = laws.refits(KINDS[some], noisy, 50, cells.generator())
    # of chi-squared numbers of one degree of freedom a fifth lies below 1 / 16
    assert 5 <= (spread > 4 * usual).sum() <= 15


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


def test_a_forecast_has_new_scatter_at_each_size():
    losses, larger = LOSSES * (1 + NOISE), torch.tensor([1e4, 1e4, 3e5], dtype=DOUBLE)
    drawn = laws.forecast(SIZES, losses, larger, cells.generator(), 500)
    assert drawn.shape == (500, 3)
    assert len(laws.forecast(SIZES, losses, larger, cells.generator())) == 2000
    found, spread = laws.refits(SIZES, losses, 500, cells.generator())
    off = (drawn / found.at(larger)).log() / spread[:, None]
    assert off.std(0).tolist() == pytest.approx([1, 1, 1], abs=0.12)
    assert abs(torch.corrcoef(off.T)[0, 1]) < 0.15
    two, again = (
        laws.forecast(KINDS, BOTH, KINDS[:2], cells.generator(), 5) for _ in range(2)
    )
    assert two.shape == (5, 2) and torch.equal(two, again)


GOOD = {"sizes": SIZES, "losses": LOSSES}
BAD = {"sizes": [SIZES - 2e3, -SIZES, SIZES[:5]]}
BAD["losses"] = [0 * LOSSES, LOSSES - LOSSES.min(), LOSSES[:4]]


def test_bad_input_is_refused_by_name():
    some = {"generator": cells.generator(), "draws": 5}
    law = laws.fit_law(SIZES, LOSSES)
    refuses_all(laws.fit_law, GOOD | {"delta": 0.1}, **BAD)
    refuses_all(laws.refits, GOOD | some, **BAD)
    larger = {"larger": SIZES[:2]}
    bad = BAD | {"larger": [0 * SIZES, KINDS[:2]]}
    refuses_all(laws.forecast, GOOD | some | larger, inner_names=["sizes"], **bad)
    refuses_all(laws.spread_of, {"law": law} | GOOD, losses=[-LOSSES, LOSSES[:4]])
    refuses("larger", laws.forecast, SIZES, LOSSES, None, cells.generator())
    refuses("sizes", law.at, KINDS, says="of 1 kinds")
    zero, ended = SIZES - 2e3, LOSSES - LOSSES.min()  # one of each is 0
    for call in law.at, lambda sizes: laws.fit_law(sizes, LOSSES):
        refuses("sizes", call, zero, says="above 0")
    for call in laws.fit_law, functools.partial(laws.spread_of, law):
        refuses("losses", call, SIZES, ended, says="above 0")
    refuses_all(laws.sweep_config, {"width": 8}, width=[-8])
    for width, allowed in (50, 6), (7, 2), (25, 4), (36, 4), (20, 2):
        says = f"^width = {width}, but it must be a multiple of {allowed}$"
        if width % allowed:
            with cells.refusal(says):
                laws.sweep_config(width)
        else:
            laws.sweep_config(width)
    refuses_all(laws.sweep_recipe, {"steps": 10, "factor": 2.0}, factor=[0])


def test_a_law_has_finite_numbers_of_the_right_sign():
    floor, scales, exponents = torch.tensor(1.5), torch.ones(2), torch.ones(2)
    good = {"floor": floor, "scales": scales, "exponents": exponents}
    laws.Law(0 * floor, 0 * scales, exponents / 1e6)
    for name, each in good.items():
        for bad in -each, each * math.nan, each / 0:
            refuses(name, laws.Law, **(good | {name: bad}))
        if name != "floor":  # one of the two
            bad = torch.stack([each[0], -each[1]])
            refuses(name, laws.Law, **(good | {name: bad}))
    refuses("exponents", laws.Law, floor, scales, 0 * exponents, says="above 0")


def test_kinds_that_grow_together_are_refused():
    sizes = torch.logspace(7, 10, 12, dtype=DOUBLE)
    sway = torch.tensor([1, -1, 0] * 4, dtype=DOUBLE)
    says = "of kinds that don't grow together"
    for off, ok in (0, False), (0.005, False), (0.05, False), (0.06, True), (1, True):
        both = torch.stack([sizes, 20 * sizes * (off * sway).exp()], 1)
        losses = 1.69 + 406.4 * both[:, 0] ** -0.34 + 410.7 * both[:, 1] ** -0.28
        if ok:
            found = laws.fit_law(both, losses)
            cells.close(found.exponents, torch.tensor([0.34, 0.28]).double(), 1e-4)
        else:
            refuses("sizes", laws.fit_law, both, losses, says=says)
            refuses("sizes", laws.fit_law, both, losses * both[:, 0] ** 0.001, 0.1)
    refuses("sizes", laws.fit_law, sizes[:, None].expand(12, 2), losses, says=says)
    refuses("sizes", laws.refits, both[:, [0, 0]], losses, 5, cells.generator())
    close = torch.tensor([1e5, 1.01e5, 1.02e5], dtype=DOUBLE)  # that counts for nothing
    both = torch.cartesian_prod(SIZES[:4], close)
    laws.fit_law(both, 1.6 + 9 * both[:, 0] ** -0.33 + (both[:, 1] / 1e5) ** -2)


def test_redraws_without_a_law_are_left_out_and_only_few_may_be():
    searched, draw = laws.search, cells.generator

    def unsettled(*which):
        def found(sizes, losses, *rest):
            law, settled = searched(sizes, losses, *rest)
            if losses.dim() == 2:
                settled[list(which)] = False
            return law, settled

        return found

    losses, larger = LOSSES * (1 + NOISE), torch.tensor([3e5], dtype=DOUBLE)
    every, spread = laws.refits(SIZES, losses, 200, draw())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laws, "search", unsettled(3, 7))
        some, among = laws.refits(SIZES, losses, 200, draw())
        kept = [k for k in range(200) if k not in (3, 7)]
        assert torch.equal(among, spread[kept])
        for name, whole in vars(every).items():
            assert torch.equal(vars(some)[name], whole[kept])
        drawn = laws.forecast(SIZES, losses, larger, draw(), 200)
        assert drawn.shape == (198, 1)
        patch.setattr(laws, "search", unsettled(3, 7, 9))
        says = "so close to a law that 99 of 100 redraws have one"
        refuses("losses", laws.refits, SIZES, losses, 200, draw(), says=says)
        refuses("losses", laws.forecast, SIZES, losses, larger, draw(), 200)
    rough = LOSSES * (1 + 30 * NOISE)
    refuses("losses", laws.refits, SIZES, rough, 200, draw(), says="99 of 100")


def test_too_few_points_and_no_minimum_are_refused():
    few = laws.fit_law(SIZES[:3], LOSSES[:3])  # three numbers from three points
    cells.close(few.at(SIZES[:3]), LOSSES[:3], 1e-6)
    same = SIZES[[0, 0, 0, 1, 1]]
    refuses("sizes", laws.fit_law, same, LOSSES[:5], says="3 different ones")
    refuses("sizes", laws.fit_law, SIZES[:2], LOSSES[:2], says="3 different ones")
    refuses("sizes", laws.fit_law, KINDS[[0, 4, 8, 11]], BOTH[:4], says="5 or more")
    refuses("sizes", laws.spread_of, few, SIZES[:3], LOSSES[:3], says="more than 3")
    refuses("sizes", laws.refits, SIZES[:3], LOSSES[:3], 5, cells.generator())
    rising = 3 - (SIZES / 1e4) ** -0.5 / 2
    for losses in rising, 2 + (SIZES / 2e3) ** -5.0:
        with cells.refusal("^losses = .*; this search did not converge$"):
            laws.fit_law(SIZES, losses)
        assert not laws.search(SIZES, losses)[1]
    one_rises = 3 + 9 * KINDS[:, 0] ** -0.33 - 70 * KINDS[:, 1] ** -0.45
    refuses("losses", laws.fit_law, KINDS, one_rises, says="did not converge")
    assert not laws.search(KINDS, one_rises)[1]
    many = torch.stack([LOSSES, LOSSES.flip(0)])
    refuses("losses", laws.fit_law, SIZES, many, says="from 0.01 to 3.0")
    falling = (SIZES / 1e4) ** -0.35
    for flat in falling**0, 3 + 1e-11 * falling, 3e3 + 1e-8 * falling:
        refuses("losses", laws.fit_law, SIZES, flat, says="did not converge")
    laws.fit_law(SIZES, 3 + 1e-7 * falling)
    one_flat = 3 + 9 * KINDS[:, 0] ** -0.33 + 1e-11 * (KINDS[:, 1] / 3e5) ** -0.45
    refuses("losses", laws.fit_law, KINDS, one_flat, says="did not converge")
    refuses("losses", laws.fit_law, KINDS, torch.stack([one_flat, BOTH]))
    three = laws.fit_law(KINDS, torch.stack([BOTH] * 3).float())
    cells.close(three.at(KINDS), torch.stack([BOTH] * 3), 1e-5)
    both = torch.stack([LOSSES, 3 + 1e-11 * falling])
    refuses("losses", laws.fit_law, SIZES, both, says="did not converge")


# The sweep


def test_only_the_width_differs():
    heads = {8: 1, 12: 1, 16: 1, 24: 2, 32: 2, 40: 2, 48: 3, 96: 6}
    for width, count in heads.items():
        sizes = laws.sweep_config(width)
        assert sizes == GPTConfig(65, 64, width, count, 2, bias=False)
    recipe, half = laws.sweep_recipe(), laws.sweep_recipe(50, 0.5)
    assert recipe == training.modern_recipe(300) and half.steps == 50
    assert half.rate == recipe.rate / 2 and half.positions == "rotary"
    assert half.matrix_rate == recipe.matrix_rate / 2


def test_a_point_of_the_sweep_is_a_run_of_the_training_page():
    ids, held_out = torch.arange(2000) % 65, torch.arange(7, 500) % 65
    sizes, recipe = GPTConfig(65, 8, 8, 1, 1, bias=False), laws.sweep_recipe(3)
    for seed, given in (0, {}), (5, {"seed": 5}):
        draw = cells.generator(seed)
        model = training.new_gpt(sizes, recipe, draw)
        training.train(model, ids, recipe, generator=draw)
        right = training.held_out_loss(model, held_out, 256)
        assert laws.sweep_loss(sizes, recipe, ids, held_out, **given) == right
    good = {"config": sizes, "recipe": recipe, "ids": ids, "held_out": held_out}
    short = torch.arange(8)
    bad = {"ids": [short], "held_out": [short]}
    refuses_all(laws.sweep_loss, good | {"seed": 0}, inner_names=["ids"], **bad)


@pytest.mark.parametrize("prefix", ["", "even-"])
def test_the_stored_runs_fit_the_page(prefix):
    names = prefix.strip("-") or "sweep", f"{prefix}larger", f"{prefix}forecast"
    sweep, larger, said = (cells.record("laws", f"{name}.json") for name in names)
    for row in *sweep["runs"], larger, cells.record("laws", "added.json"):
        with torch.device("meta"):
            model = GPT(laws.sweep_config(row["width"]))
        # learned positions, which the recipe leaves out
        size = count_parameters(model) - 64 * row["width"]
        assert row["parameters"] == size and len(row["losses"]) == 3
        assert not prefix or row["width"] % 8 == 0
        tried = {float(at): mean(ends) for at, ends in row["tried"].items()}
        best = min(tried, key=tried.get)  # not at the edge of what was tried
        assert best == row["factor"] and {best / 2, 2 * best} <= set(tried)
        assert row["losses"] == row["tried"][str(best)] and row["cpu_s"] > 0
    assert said["parameters"] == larger["parameters"]
    assert said["low"] < said["middle"] < said["high"]


def test_rates_are_tried_until_both_neighbours_of_the_best_are_worse():
    make = cells.script("laws")
    best, asked = {8: 4.0, 16: 1.0, 24: 0.5}, []

    def trained(run, jobs):
        asked.append(jobs)
        return [
            (2 + abs(math.log2(factor / best[width])) + seed / 100, 3.0 + factor)
            for width, factor, seed, _ in jobs
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "trained", trained)
        rows = make.rows([8, 16, 24], 8)
    tried = {8: [1, 2, 4, 8], 16: [0.5, 1, 2], 24: [0.25, 0.5, 1, 2]}
    for row in rows:
        assert list(row["tried"]) == tried[row["width"]]
        assert row["factor"] == best[row["width"]]
        assert row["losses"] == [2.0, 2.01, 2.02] == row["tried"][row["factor"]]
        assert row["cpu_s"] == 3 + min(row["tried"])
        assert row["parameters"] == make.parameters(row["width"])
    jobs = [job for some in asked for job in some]
    assert len(jobs) == len(set(jobs)) == 3 * 11 and {job[3] for job in jobs} == {8}


def test_the_stored_forecast_is_that_of_the_stored_runs():
    runs, said = (cells.record("laws", f"{n}.json") for n in ("sweep", "forecast"))
    rows = [(row["parameters"], mean(row["losses"])) for row in runs["runs"]]
    larger = torch.tensor([said["parameters"]], dtype=DOUBLE)
    given = *torch.tensor(rows, dtype=DOUBLE).T, larger, cells.generator()
    drawn = laws.forecast(*given, cells.script("laws").DRAWS).flatten()
    levels = torch.tensor([0.025, 0.5, 0.975], dtype=DOUBLE)
    right = [said[name] for name in ("low", "middle", "high")]
    assert drawn.quantile(levels).tolist() == pytest.approx(right, abs=2e-4)


# Exercises


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("three_point_law", "(right(a, b, c, r)[1], right(a, b, c, r)[0])", "first"),
        ("three_point_law", "(2.0, 0.5)", "is right, not"),
        ("three_point_law", "(right(a, b, c, r)[0], -right(a, b, c, r)[1])", "above 0"),
        ("three_point_law", "(c, right(a, b, c, r)[1])", "goes on falling"),
        (
            "three_point_law",
            "(right(a, b, c, r)[0], math.log(b / c) / math.log(r))",
            "of wh",
        ),
        ("three_point_law", "(2 * c - b, right(a, b, c, r)[1])", "than one to come"),
        ("three_point_law", "2.0", "tuple"),
        ("three_point_law", "(1.0, 2.0, 3.0)", "two numbers"),
        ("three_point_law", "(None, None)", "two numbers"),
        ("three_point_law", "('2.0', '0.5')", "two numbers"),
        ("size_for", "(A / L) ** (1 / a)", "take the floor off"),
        ("size_for", "(A / (L - E)) ** a if L > E else math.inf", "1 / alpha"),
        ("size_for", "A / (L - E) if L > E else math.inf", "a power is missing"),
        ("size_for", "((L - E) / A) ** (1 / a)", "falls as A grows"),
        ("size_for", "(A * (L - E)) ** (1 / a)", "divide A"),
        ("size_for", "(A / abs(L - E + 1e-18)) ** (1 / a)", "never gets there"),
        ("size_for", "7.0", "is right, not 7"),
        ("size_for", "'7'", "a string, but a number"),
        (
            "size_for",
            "(A / (L - E)) ** (1 / a) if L > E else None",
            r"in a return\? Here the law never gets there",
        ),
        (
            "size_for",
            "(A / (L - E)) ** (1 / a) if L > E else 'never'",
            r"a number is wanted\. Here the law never gets there",
        ),
        ("verdict_on", "'good'", "wrong"),
        ("verdict_on", "'wrong' if f > h else 'good'", "too low"),
        ("verdict_on", "'good' if l <= f <= h else 'wrong'", "said little"),
        (
            "verdict_on",
            "'empty' if l <= b <= h else 'good' if l <= f <= h else 'wrong'",
            "comes before",
        ),
        ("verdict_on", "None", "returns None"),
        ("verdict_on", "(None, None)", "a tuple, but a string"),
        (
            "verdict_on",
            "'wrong' if not l <= f <= h else 'empty' if b <= h else 'good'",
            "which lies below",
        ),
        *(
            (
                "verdict_on",
                f"'wrong' if not {inside} else 'empty' if {gain} else 'good'",
                "an edge belongs to the interval",
            )
            for inside, gain in [
                ("l < f <= h", "l <= b <= h"),
                ("l <= f < h", "l <= b <= h"),
                ("l <= f <= h", "l < b <= h"),
                ("l <= f <= h", "l <= b < h"),
            ]
        ),
    ],
)
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    names = {"three_point_law": "a, b, c, r", "size_for": "L, E, A, a"}
    names = names.get(check, "l, h, f, b")
    known = {"math": math, "right": page()["three_point_law"]}
    cells.is_told_its_cause(page(), check, answer, cause, names, **known)
