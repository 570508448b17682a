"""The cells of scaling/emergence against plain Python, torch and closed forms."""

import itertools
import math
from statistics import mean

import cells
import pytest
import torch
import torch.nn.functional as F
from cells import generator
from torch import nn

from fieldguide.scaling import emergence
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig, count_parameters

TEXTS = ["123+456=0579", "999+999=1998", "000+001=0001"]


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
    assert math.isclose(mean(found), 499.5, abs_tol=12) and len(set(texts)) > 4950


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
    assert (digits, whole) == pytest.approx((7 / 12, 1 / 3), rel=1e-12)
    assert emergence.scores(torch.ones(2, 1).bool()) == (1.0, 1.0)


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
                group["lr"] = peak * training.lr_schedule(step, plan)
            optimizer.step()
    for name, value in model.state_dict().items():
        cells.close(found.state_dict()[name], value, 1e-4)
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
    drawn = emergence.whole_ahead((100, 400, 1600), *wrong, 7, generator(), 6)
    assert drawn.tolist() == pytest.approx([0.975**4] * 6)
    none = torch.tensor([0.1]), torch.tensor([0.9])  # the line goes above 1
    assert not emergence.whole_ahead((1, 2, 64), *none, 1, generator()).any()


def test_a_forecast_draws_seeds_anew_with_replacement():
    """Against all cases: two seeds of each size, and two new models."""
    small, large = torch.tensor([0.4, 0.2]).double(), torch.tensor([0.1, 0.06]).double()
    draws = 40_000
    found = emergence.whole_ahead((100, 400, 1600), small, large, 2, generator(), draws)
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
