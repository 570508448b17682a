"""The cells of scaling/grokking against loops, torch's FFT and closed forms."""

import functools
import math

import cells
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, refuses, refuses_all, seeds
from hypothesis import strategies as st

from fieldguide.scaling import grokking

PRIMES = st.sampled_from([3, 5, 7, 11, 13, 59])


@functools.cache
def page():
    return cells.run_exercises("scaling/grokking")


def small(seed=0):
    return grokking.Adder(7, 3, 5, generator(seed))


# The sums


def test_sums_are_all_pairs_once():
    for p in 1, 2, 3, 12, 59:
        right = [(a, b, (a + b) % p) for a in range(p) for b in range(a, p)]
        assert (
            list(zip(*map(torch.Tensor.tolist, grokking.sums(p)), strict=True)) == right
        )


def test_hide_draws_two_parts_of_a_permutation():
    one, two = grokking.hide(10, 0.3, generator(4))
    right = torch.randperm(10, generator=generator(4))
    assert torch.equal(torch.cat([one, two]), right) and len(one) == 3
    assert [len(part) for part in grokking.hide(1770, 0.6, generator())] == [1062, 708]
    assert [len(part) for part in grokking.hide(10, 0.1, generator())] == [1, 9]
    for shown in 0.0, 1.0, 0.04, 0.96:
        refuses("shown", grokking.hide, 10, shown, generator(), says="a part of 10")


# The network


def test_an_adder_is_three_tables():
    model = small().double()
    assert [tuple(p.shape) for p in model.parameters()] == [(7, 3), (3, 5), (5, 7)]
    E, W, U = (p.detach() for p in model.parameters())
    a, b = torch.tensor([0, 6, 2]), torch.tensor([0, 1, 2])
    right = [[sum(max(0, sum((E[i, d] + E[j, d]) * W[d, n] for d in range(3)))
                  * U[n, c] for n in range(5)) for c in range(7)]
             for i, j in zip(a.tolist(), b.tolist(), strict=True)]  # fmt: skip
    close(model(a, b).detach(), torch.tensor(right, dtype=torch.double))


def test_an_adder_begins_as_large_as_said():
    draw, model = generator(3), grokking.Adder(40, 50, 60, generator(3))
    for table, scale in zip(model.parameters(), (1, 150**-0.5, 180**-0.5), strict=True):
        close(table.detach(), scale * torch.randn(table.shape, generator=draw), 1e-6)


def test_learning_is_adamw_on_all_sums():
    shown = [column[::2] for column in grokking.sums(7)]
    model, twin, seen = small(), small(), []
    plan = grokking.adder_recipe(6, 0.7)
    losses = grokking.learn_sums(model, shown, plan, lambda *s: seen.append(s))

    def loss():
        return F.cross_entropy(twin(*shown[:2]), shown[2])

    options = {"betas": (0.9, 0.98), "weight_decay": 0.7}
    close(losses, cells.adamw(twin.parameters(), loss, plan, **options), 1e-5)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        close(ours.detach(), theirs.detach(), 1e-5)
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    close(torch.stack([x.detach() for _, x in seen]), losses)


def test_the_recipe_is_level():
    plan = grokking.adder_recipe(9)
    assert (plan.steps, plan.rate, plan.final, plan.warmup) == (9, 0.01, 1, 0)
    assert (plan.decay, plan.clip, plan.betas) == (1, math.inf, (0.9, 0.98))
    assert grokking.adder_recipe(9, 0.0).decay == 0


def test_accuracy_counts_the_highest_scores():
    model, (a, b, _) = small(), grokking.sums(7)
    said = model(a, b).argmax(-1)
    assert grokking.accuracy(model, [a, b, said]) == 1
    some = torch.where(torch.arange(len(a)) < 9, said, (said + 1) % 7)
    with torch.autograd.graph.saved_tensors_hooks(pytest.fail, lambda x: x):
        found = grokking.accuracy(model, [a, b, some])
    assert type(found) is float and found == 9 / 28


# The clock


@cases(p=PRIMES, k=st.integers(1, 70))
def test_a_wheel_is_a_turning_hand(p, k):
    x, y = grokking.wheel(p, k, torch.double)
    for n in range(p):
        turn = 2 * math.pi * (k * n % p) / p
        close(x[n].item(), math.cos(turn), 1e-10)
        close(y[n].item(), math.sin(turn), 1e-10)
    assert grokking.wheel(p, k).dtype == torch.float32


def test_five_neurons_add_on_each_odd_clock_of_the_page():
    for p, ks in (5, [1, 2]), (59, [1, 2, 17, 29]):
        a, b, answers = grokking.sums(p)
        for k in ks:
            assert torch.equal(grokking.hand_adder(p, k)(a, b).argmax(-1), answers)
    model = grokking.hand_adder(59)
    close(model.vectors, grokking.wheel(59, 1).T)
    assert not any(p.requires_grad for p in model.parameters())
    assert [tuple(t.shape) for t in model.parameters()] == [(59, 2), (2, 5), (5, 59)]
    a, b, answers = grokking.sums(59)
    assert (grokking.hand_adder(59, N=4)(a, b).argmax(-1) != answers).any()
    assert torch.equal(grokking.hand_adder(59, 3, 7)(a, b).argmax(-1), answers)


def test_many_neurons_make_the_clock_times_the_length_of_the_sum():
    p, k, N = 11, 3, 4001
    a, b, _ = grokking.sums(p)
    half = (math.pi * k * (a - b) / p).double().cos().abs()
    off = (a + b)[:, None] - torch.arange(p)
    right = half[:, None] * (2 * math.pi * k * off.double() / p).cos()
    found = grokking.hand_adder(p, k, N).double()(a, b).detach() / N
    close(found, right * 2 * 2 / (3 * math.pi) / 2, 1e-5)


# Which wheels turn in a table


@cases(p=PRIMES, seed=seeds)
def test_shares_and_waves_are_the_fourier_transform(p, seed):
    table = random(p, 4, seed=seed)
    spectrum = torch.fft.rfft(table, dim=0)
    power = spectrum.abs().square().sum(1)[1:]
    close(grokking.wheel_shares(table), power / power.sum(), 1e-9)
    kept = [k for k in range(1, p // 2 + 1) if k % 2]
    mask = torch.zeros(len(spectrum), 1, dtype=torch.double)
    mask[kept] = 1
    close(
        grokking.waves(table, kept), torch.fft.irfft(spectrum * mask, n=p, dim=0), 1e-9
    )
    every = grokking.waves(table, list(range(1, p // 2 + 1)))
    close(every + table.mean(0), table, 1e-9)
    assert grokking.waves(table, []).abs().max() == 0


def test_tables_that_have_no_wheels_are_refused():
    for rows in 1, 2, 4:
        refuses("table", grokking.wheel_shares, random(rows, 2), says="odd")
    for k, p in (4, 7), (2, 3), (1, 4):
        refuses("frequencies", grokking.waves, random(p, 2), [k], says=f"below {p} / 2")


def test_bad_input_is_refused_by_name():
    a, b, answers = grokking.sums(7)
    model, shown = small(), [a, b, answers]
    refuses_all(grokking.sums, {"p": 3})
    refuses_all(grokking.hide, {"count": 9, "shown": 0.5, "generator": generator()})
    refuses_all(grokking.Adder, {"p": 3, "D": 2, "N": 2, "generator": None})
    refuses_all(grokking.adder_recipe, {"steps": 3, "decay": 0.5})
    refuses_all(grokking.wheel, {"p": 5, "k": 1, "dtype": torch.half})
    refuses_all(grokking.hand_adder, {"p": 5, "k": 1, "N": 5})
    refuses("N", grokking.hand_adder, 5, 1, 0, says="grokking.hand_adder")
    refuses("decay", grokking.adder_recipe, 3, -1.0, says="grokking.adder_recipe")
    refuses_all(grokking.wheel_shares, {"table": random(5, 2)})
    refuses_all(grokking.waves, {"table": random(5, 2), "frequencies": [1]})
    refuses_all(grokking.accuracy, {"model": model, "asked": shown}, asked=[[a, b]])
    plan = grokking.adder_recipe(1)
    good = {"model": model, "shown": shown, "recipe": plan, "watch": None}
    refuses_all(grokking.learn_sums, good, shown=[[a, b]])
    for bad in a[:3], a.float(), None:
        refuses("b", model, a, bad)


# What is stored, and the page's own cells


def test_the_record_is_what_the_page_trains():
    record, made = cells.record("grokking", "runs.json"), cells.script("grokking")
    assert len(record["runs"]) == 15 + 15 and record["steps"] == made.STEPS
    model, shown, _ = made.start(made.SHOWN, 0)
    again = grokking.accuracy(model, shown)
    assert again < 0.1
    stored = page().NETWORKS[0].vectors  # in half precision
    torch.testing.assert_close(stored, model.vectors.double(), atol=0, rtol=1e-3)


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("lead", "50.0", "not 50"),
        ("lead", "0.0", "off = 0"),
        ("lead", "lead(p, k) * (1 if len(k) == 1 else 1 / len(k))", "no average"),
        ("lead", "sum(lead(p, [one]) for one in k)", "add first"),
        ("lead", "len(k) - lead(p, k)", "Subtract"),
        ("lead", "1 - len(k) + lead(p, k)", "on each wheel"),
        ("lead", "None", "returns None"),
        ("cancelled", "{12: 12}.get(p, 0)", "once"),
        ("cancelled", "p // 2 if p % 2 == 0 else 0", "depend on k"),
        ("cancelled", "99", "is right, not 99"),
        ("loudest", "{11: 3, 13: 1}[len(c)]", "from 1"),
        ("loudest", "{11: 2, 13: 5}[len(c)]", "both rows"),
        ("loudest", "0", "mean"),
        ("loudest", "5", "is right, not 5"),
    ],
)
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    names = {"lead": "p, k", "cancelled": "p, k", "loudest": "c"}[check]
    lead = page()["lead"]
    cells.is_told_its_cause(page(), check, answer, cause, names, lead=lead)
