"""The cells of scaling/emergence against plain Python, torch and closed forms."""

import functools
import itertools
import math
from statistics import mean

import cells
import pytest
import torch
import torch.nn.functional as F
from cells import generator, refuses, refuses_all
from torch import nn

from fieldguide import data
from fieldguide.data.files import sha256_of
from fieldguide.scaling import emergence
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig, count_parameters

SEALED = ["forecast", "larger"]
TEXTS = ["123+456=0579", "999+999=1998", "000+001=0001"]


@functools.cache
def page():
    return cells.run_exercises("scaling/emergence")


def test_sums_are_right_and_drawn_over_all_numbers():
    texts = emergence.draw_sums(5000, generator(3))
    assert len(texts) == 5000
    found = []
    for text in texts:
        question, answer = text.split("=")
        a, b = question.split("+")
        assert [len(a), len(b), len(answer)] == [3, 3, 4]
        assert int(a) + int(b) == int(answer)
        found += [int(a), int(b)]
    assert min(found) == 0 and max(found) == 999
    assert math.isclose(sum(found) / len(found), 499.5, abs_tol=12)
    assert len(set(texts)) > 4950
    again = emergence.draw_sums(2, generator(3))
    assert again == emergence.draw_sums(2, generator(3))
    assert again != emergence.draw_sums(2, generator(4))


def test_a_symbol_is_its_digit():
    ids = emergence.to_symbols(TEXTS)
    assert ids.dtype == torch.int64 and ids.shape == (3, 12)
    assert ids[0].tolist() == [1, 2, 3, 10, 4, 5, 6, 11, 0, 5, 7, 9]
    assert ids[1].tolist() == [9, 9, 9, 10, 9, 9, 9, 11, 1, 9, 9, 8]


class Oracle(nn.Module):
    """Knows all sums; says `wrong` at one place of the answer, or what it read."""

    def __init__(self, place=None, follows=False):
        super().__init__()
        self.place, self.follows, self.calls = place, follows, []

    def forward(self, ids):
        self.calls.append(tuple(ids.shape))
        k = ids.size(1) - 8  # which digit is asked for
        logits = torch.zeros(*ids.shape, 12)
        for row, out in zip(ids.tolist(), logits, strict=True):
            a, b = (int("".join(map(str, row[i : i + 3]))) for i in (0, 4))
            digit = int(f"{a + b:04}"[k])
            slipped = self.follows and k and row[-1] != int(f"{a + b:04}"[k - 1])
            digit = (digit + 1) % 10 if k == self.place or slipped else digit
            out[-1, digit] = 1
            out[:-1, 11] = 2  # only the last place may be asked
        return logits


def test_digits_are_written_one_after_another():
    perfect = Oracle()
    right = emergence.right_digits(perfect, TEXTS)
    assert right.dtype == torch.bool and right.shape == (3, 4) and right.all()
    assert perfect.calls == [(3, 8), (3, 9), (3, 10), (3, 11)]
    for place in range(4):
        right = emergence.right_digits(Oracle(place), TEXTS)
        assert (~right).nonzero()[:, 1].tolist() == [place] * 3
    right = emergence.right_digits(Oracle(1, follows=True), TEXTS)
    assert right[0].tolist() == [True, False, False, False]  # it reads its own digits
    short = emergence.right_digits(Oracle(0), ["123+456=0"])
    assert short.tolist() == [[False]]


def small_model():
    sizes = GPTConfig(12, 11, 4, 2, 1)
    return training.new_gpt(sizes, emergence.sums_recipe(1), generator())


def test_no_gradient_is_kept_by_writing():
    model = small_model()
    assert model.token.weight.requires_grad
    with torch.autograd.graph.saved_tensors_hooks(pytest.fail, lambda x: x):
        emergence.right_digits(model, TEXTS)
        emergence.place_losses(model, TEXTS)


def test_losses_by_place_are_those_of_the_right_digits():
    """By hand: one text and one place at a time, after the right digits before."""
    model, k = small_model(), len("123+456=")
    expected = torch.zeros(4)
    for ids in emergence.to_symbols(TEXTS):
        for place in range(4):
            logits = model(ids[None, : k + place])[0, -1].detach()
            expected[place] -= logits.log_softmax(-1)[ids[k + place]] / len(TEXTS)
    assert expected.unique().numel() == 4
    cells.close(emergence.place_losses(model, TEXTS), expected, 1e-5)


def test_two_scores():
    right = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    digits, whole = emergence.scores(right)
    assert type(digits) is type(whole) is float
    assert (digits, whole) == pytest.approx((7 / 12, 1 / 3), rel=1e-12)
    assert emergence.scores(torch.ones(2, 1).bool()) == (1.0, 1.0)


def test_the_recipe():
    plan = emergence.sums_recipe()
    assert (plan.steps, plan.batch, plan.positions) == (400, 64, "learned")
    assert (plan.rate, plan.matrix_rate, plan.final) == (0.02, 0.03, 0.0)
    assert plan.normed and plan.warmup == 0
    assert emergence.sums_recipe(7).steps == 7


@pytest.mark.parametrize("seed", [0, 3])
def test_training_is_descent_on_the_answers_alone(seed):
    """By hand: the same text, and a loss summed over the four places."""
    plan = emergence.sums_recipe(3)
    found = emergence.adder(6, seed, plan)
    sizes = GPTConfig(12, 11, 6, heads=2, layers=2, bias=False)
    model = training.new_gpt(sizes, plan, generator(seed))
    made, text = training.optimizers(model, plan), generator(100 + seed)
    for step in range(3):
        ids = emergence.to_symbols(emergence.draw_sums(64, text))
        logits = model(ids[:, :-1])
        losses = [F.cross_entropy(logits[:, k], ids[:, k + 1]) for k in (7, 8, 9, 10)]
        model.zero_grad()
        (sum(losses) / 4).backward()
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        for optimizer, peak in zip(made, (0.02, 0.03), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = peak * training.rate_share(step, plan)
            optimizer.step()
    for name, value in model.state_dict().items():
        cells.close(found.state_dict()[name], value, 1e-4)
    assert not any(p.requires_grad for p in found.parameters())
    assert count_parameters(found) == 1032


def test_wrong_digits_ahead_are_on_a_line_of_logarithms():
    half = torch.tensor([[0.4, 0.2], [0.1, 0.2]]).double()  # two lines at once
    found = emergence.wrong_ahead(100, 400, half, 1600)
    assert found.tolist() == pytest.approx([0.025, 0.2])
    assert emergence.wrong_ahead(100, 800, half[:, 0], 50).item() == pytest.approx(
        0.4 * 4 ** (1 / 3)
    )


def test_a_forecast_of_equal_seeds_is_the_line_alone():
    wrong = [torch.full((n,), share).double() for n, share in ((3, 0.4), (2, 0.1))]
    drawn = emergence.whole_ahead(100, 400, *wrong, 1600, 7, generator(), 6)
    assert drawn.dtype == torch.double and drawn.shape == (6,)
    assert drawn.tolist() == pytest.approx([0.975**4] * 6)
    none = torch.tensor([0.1]), torch.tensor([0.9])  # the line goes above 1
    assert not emergence.whole_ahead(1, 2, *none, 64, 1, generator()).any()
    assert len(emergence.whole_ahead(1, 2, *none, 64, 1, generator())) == 2000


def test_a_forecast_draws_seeds_anew_with_replacement():
    """Against all cases: two seeds of each size, and two new models."""
    small, large = torch.tensor([0.4, 0.2]).double(), torch.tensor([0.1, 0.06]).double()
    draws = 40_000
    found = emergence.whole_ahead(100, 400, small, large, 1600, 2, generator(), draws)
    cases = []
    for a, b, c, d, e, f in itertools.product((0, 1), repeat=6):
        first, last = (small[a] + small[b]) / 2, (large[c] + large[d]) / 2
        luck = (large[e] + large[f]) / 2 / large.mean()
        cases.append(((1 - last**2 / first * luck) ** 4).item())
    assert found.mean().item() == pytest.approx(mean(cases), abs=5e-4)
    for case in set(cases):
        right = sum(math.isclose(case, other) for other in cases) / len(cases)
        seen = ((found - case).abs() < 1e-9).double().mean().item()
        assert abs(seen - right) < 0.01  # four times what chance moves it


def test_bad_input_is_refused_by_name():
    refuses_all(emergence.draw_sums, {"n": 3, "generator": generator()})
    refuses_all(emergence.to_symbols, {"texts": TEXTS})
    for texts in ["12", "123"], ["12x"], ["", "1"]:
        refuses("texts", emergence.to_symbols, texts)
    good = {"width": 4, "seed": 0, "recipe": emergence.sums_recipe(1)}
    refuses_all(emergence.adder, good)
    refuses_all(emergence.sums_recipe, {"steps": 3})
    refuses_all(emergence.right_digits, {"model": Oracle(), "texts": TEXTS})
    says = "longer than 8"
    refuses("texts", emergence.right_digits, Oracle(), ["123+456="], says=says)
    refuses_all(emergence.place_losses, {"model": small_model(), "texts": TEXTS})
    refuses("texts", emergence.place_losses, Oracle(), ["123+456="], says=says)
    refuses_all(emergence.scores, {"right": torch.ones(2, 3).bool()})
    wrong = torch.tensor([0.4, 0.2]).double()
    line = {"small": 5, "large": 9, "wrong": wrong, "size": 20}
    none = [0 * wrong, -wrong, wrong * torch.tensor([1, 0])]
    refuses_all(emergence.wrong_ahead, line, large=[5, 4], wrong=none)
    good = {"small": 5, "large": 9, "at_small": wrong, "at_large": wrong, "size": 20}
    good |= {"models": 3, "generator": generator(), "draws": 4}
    refuses_all(emergence.whole_ahead, good, inner_names=["wrong"], large=[5, 4])


# The page's own cells


def test_the_published_table_is_that_of_the_paper():
    """Table H.1 and table 3.9, which print the largest model's scores twice."""
    table = page().GPT3
    assert {len(row) for rows in table.values() for row in rows} == {8}
    largest = [[rows[k][-1] for rows in table.values()] for k in range(3)]
    printed = [
        [76.9, 34.2, 4.0, 0.7],
        [99.6, 65.5, 14.0, 3.5],
        [100.0, 80.4, 25.5, 9.3],
    ]
    for mine, paper in zip(largest, printed, strict=True):
        assert all(abs(a - b) < 0.051 for a, b in zip(mine, paper, strict=True))
    for rows in table.values():  # of 2,000 sums, printed with three digits
        for score in rows[0] + rows[1] + rows[2]:
            assert abs(score * 20 - round(score * 20)) < 0.21


def test_a_forecast_is_the_line_through_two_sizes():
    book = page()
    for last in book.WIDTHS[1:4]:
        for known in book.WIDTHS[0], last:
            found = book.wrong_forecast(last, known)
            assert math.isclose(found, book.wrong_digits(known))
    sizes = [math.log(book.COUNTS[k]) for k in (0, 2, 5)]
    wrong = [math.log(book.wrong_forecast(8, width)) for width in (4, 8, 24)]
    slopes = [(wrong[k] - wrong[0]) / (sizes[k] - sizes[0]) for k in (1, 2)]
    assert math.isclose(*slopes) and slopes[0] < 0


def test_the_stored_runs_are_complete():
    book = page()
    assert len(book.RUNS) == len(book.WIDTHS) * len(book.SEEDS) == 30
    for run in book.RUNS:
        assert math.isclose(sum(run["places"]) / 4, run["digits"], abs_tol=1e-4)
        assert 0 <= run["whole"] <= min(run["places"]) + 1e-9
        written = run["written"].split()
        assert len(written) == 8 and {len(answer) for answer in written} == {4}
    assert [run["seed"] for run in book.LONGER] == book.SEEDS
    for run in book.RUNS + book.LONGER:
        assert len(run["losses"]) == 4 and min(run["losses"]) > 0


def test_the_sealed_forecast_is_that_of_the_runs_before_it():
    book, make = page(), cells.script("emergence")
    said, larger = (cells.record("emergence", f"{n}.json") for n in SEALED)
    for name in "adders", "more":
        assert said[name] == sha256_of(data.asset("emergence", f"{name}.json"))
    sealed = data.asset("emergence", "forecast.json")
    assert larger["forecast"] == sha256_of(sealed)
    runs = book.RUNS + cells.record("emergence", "more.json")["runs"]
    ends = [[run for run in runs if run["width"] == width] for width in (4, 24)]
    assert [len(some) for some in ends] == [5, 20]
    shares = [1 - torch.tensor([run["digits"] for run in some]) for some in ends]
    sizes = [some[0]["parameters"] for some in ends]
    drawn = emergence.whole_ahead(
        *sizes, *shares, said["parameters"], 20, generator(), make.DRAWS
    )
    right = [said[name] for name in ("low", "middle", "high")]
    found = drawn.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    assert found == pytest.approx(right, abs=2e-3)


def test_the_larger_models_are_those_that_were_forecast():
    said, larger = (cells.record("emergence", f"{n}.json") for n in SEALED)
    assert cells.script("emergence").parameters(48) == said["parameters"] == 56_640
    assert [run["seed"] for run in larger["runs"]] == [*range(said["seeds"])]
    more = cells.record("emergence", "more.json")["runs"]
    assert [run["seed"] for run in more] == [*range(5, 20)]
    for runs, width, size in (more, 24, 14_496), (larger["runs"], 48, 56_640):
        for run in runs:
            assert (run["width"], run["parameters"]) == (width, size)
            assert math.isclose(sum(run["places"]) / 4, run["digits"], abs_tol=1e-4)
            assert 0 <= run["whole"] <= min(run["places"]) + 1e-9


# Exercises


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("both_scores", "(H / N, H / N)", "no digit is wrong"),
        ("both_scores", "(W, H / N)", "comes first"),
        ("both_scores", "(P, W)", "over all digits"),
        ("both_scores", "(C / N, W)", "place by place"),
        ("both_scores", "(100 * H / N, 100 * W)", "not percent"),
        ("both_scores", "(H, W * len(r))", "divide"),
        ("both_scores", "(0.1, 0.2)", "is right, not"),
        ("both_scores", "H", "two numbers"),
        ("both_scores", "(None, None)", "two numbers"),
        ("both_scores", "('1', '2')", "two numbers"),
        ("questions_needed", "n - 1", "round up"),
        ("questions_needed", "n - 0.3", "round up"),
        ("questions_needed", "round(1 / rate)", "on average"),
        ("questions_needed", "ceil(log(c) / log(1 - rate))", "none may be"),
        ("questions_needed", "ceil(c / rate)", "add up"),
        ("questions_needed", "int(log(1 - c) / log(1 - rate)) + 1", "one too many"),
        ("questions_needed", "float('nan')", "is right, not nan"),
        ("questions_needed", "float('inf')", "is right, not inf"),
        ("questions_needed", "7", "is right, not 7"),
        ("questions_needed", "None", "returns None"),
        ("found_in", "sum(s)", "also be swapped"),
        ("found_in", "sum(t)", "as it stands"),
        ("found_in", "sum(s) + sum(t)", "counts once"),
        ("found_in", "len(f)", "asked twice counts twice"),
        ("found_in", "sum(x in q for x in l)", "several lines"),
        ("found_in", "sum(x in q or x in u for x in l)", "several lines"),
        ("found_in", "sum(l.count(x) for x in q)", "several lines"),
        ("found_in", "-1", "is right, not -1"),
    ],
)
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    def both_scores(w, r):
        pairs = list(zip(w, r, strict=True))
        hits = [[a == b for a, b in zip(*pair, strict=True)] for pair in pairs]
        names = {"H": sum(map(sum, hits)), "N": sum(map(len, r)), "r": r}
        names["W"] = sum(map(all, hits)) / len(r)
        names["P"] = sum(sum(h) / len(h) for h in hits) / len(r)
        names["C"] = sum(c in b for a, b in pairs for c in a)
        return eval(answer, names)

    def questions_needed(rate, c):
        n = math.ceil(math.log(1 - c) / math.log(1 - rate))
        names = {"n": n, "rate": rate, "c": c, "ceil": math.ceil, "log": math.log}
        return eval(answer, names)

    def found_in(questions, lines):
        known = {line[:8] for line in lines}
        turned = [q[4:7] + "+" + q[:3] + "=" for q in questions]
        names = {"s": [q in known for q in questions]}
        names["t"] = [q in known for q in turned]
        both = zip(questions, names["s"], names["t"], strict=True)
        names |= {"q": questions, "u": turned, "l": [line[:8] for line in lines]}
        names["f"] = {q for q, *found in both if any(found)}
        return eval(answer, names)

    fn = locals()[check]
    with pytest.raises(AssertionError, match=cause):
        page()[f"check_{check}"](fn)
