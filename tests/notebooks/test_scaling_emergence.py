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
from fieldguide.transformers.gpt import GPTConfig

TEXTS = ["123+456=0579", "999+999=1998", "000+001=0001"]


def test_sums_are_right_and_drawn_over_all_numbers():
    texts = emergence.draw_sums(5000, generator(3))
    assert len(texts) == 5000
    numbers = [int(x) for t in texts for x in (t[:3], t[4:7], t[8:])]
    a, b, total = torch.tensor(numbers).view(-1, 3).T
    assert {(len(t), t[3], t[7]) for t in texts} == {(12, "+", "=")}
    assert (a + b == total).all() and a.min() == 0 and b.max() == 999
    assert math.isclose(a.double().mean(), 499.5, abs_tol=12)
    assert len(set(texts)) > 4950


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


def test_losses_by_place_are_those_of_the_right_digits():
    """By hand: one text and one place at a time, after the right digits before."""
    sizes, k = GPTConfig(12, 11, 4, 2, 1), len("123+456=")
    model = training.new_gpt(sizes, emergence.sums_recipe(1), generator())
    expected = torch.zeros(4)
    for ids in emergence.to_symbols(TEXTS):
        for place in range(4):
            logits = model(ids[None, : k + place])[0, -1].detach()
            expected[place] -= logits.log_softmax(-1)[ids[k + place]] / len(TEXTS)
    assert expected.unique().numel() == 4
    cells.close(emergence.place_losses(model, TEXTS), expected, 1e-5)


def test_two_scores():
    right = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    assert emergence.scores(right) == pytest.approx((7 / 12, 1 / 3), rel=1e-12)


def test_training_is_descent_on_the_answers_alone():
    """By hand: the same text, and a loss summed over the four places."""
    plan, sizes = emergence.sums_recipe(3), GPTConfig(12, 11, 6, 2, 2, bias=False)
    found = emergence.adder(6, 3, plan)
    model, text = training.new_gpt(sizes, plan, generator(3)), generator(103)

    def loss():
        ids = emergence.to_symbols(emergence.draw_sums(64, text))
        logits = model(ids[:, :-1])
        places = (F.cross_entropy(logits[:, k], ids[:, k + 1]) for k in (7, 8, 9, 10))
        return sum(places) / 4

    training.descend(model, loss, training.optimizers(model, plan), plan)
    for name, value in model.state_dict().items():
        cells.close(found.state_dict()[name], value, 1e-4)


def test_a_forecast_of_equal_seeds_is_the_line_alone():
    wrong = [torch.full((n,), share).double() for n, share in ((3, 0.4), (2, 0.1))]
    drawn = emergence.whole_ahead((100, 400, 1600), *wrong, 7, generator(), 6)
    assert drawn.tolist() == pytest.approx([0.975**4] * 6)
    none = torch.tensor([0.1]), torch.tensor([0.9])  # the line goes above 1
    assert not emergence.whole_ahead((1, 2, 64), *none, 1, generator()).any()


def test_a_forecast_draws_seeds_anew_with_replacement():
    """Against all cases: two seeds of each size, and one new model."""
    small, large = torch.tensor([0.4, 0.2]).double(), torch.tensor([0.1, 0.06]).double()
    draws = 40_000
    found = emergence.whole_ahead((100, 400, 1600), small, large, 1, generator(), draws)
    cases = []
    for a, b, c, d, e in itertools.product((0, 1), repeat=5):
        first, last = (small[a] + small[b]) / 2, (large[c] + large[d]) / 2
        luck = large[e] / large.mean()
        cases.append(((1 - last**2 / first * luck) ** 4).item())
    assert found.mean().item() == pytest.approx(mean(cases), abs=5e-4)
    for case in set(cases):
        right = sum(math.isclose(case, other) for other in cases) / len(cases)
        seen = ((found - case).abs() < 1e-9).double().mean().item()
        assert abs(seen - right) < 0.01  # four times what chance moves it
