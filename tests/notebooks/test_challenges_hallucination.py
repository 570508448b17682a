"""The cells of challenges/hallucination against enumeration and plain counting."""

import functools
import math
from collections import Counter
from unittest import mock

import cells
import pytest
import torch
from cells import cases, generator
from hypothesis import strategies as st

from fieldguide.challenges import hallucination as page_
from fieldguide.data import smollm2_tokenizer
from fieldguide.transformers.gpt import GPT, GPTConfig
from fieldguide.transformers.real_model import LlamaConfig


@functools.cache
def gpt():
    config = GPTConfig(131, 4, width=8, heads=2, layers=1)
    model = GPT(config, generator=generator(3)).double().requires_grad_(False)
    model.token.weight.mul_(20)
    return model


def world(skew=1.0):
    return page_.make_birthdays(skew, generator(0))


def test_birthdays_have_shares_by_rank():
    flat, steep = world(0.0), world(2.0)
    cells.close(flat.shares, torch.full((2000,), 1 / 2000, dtype=torch.double), 1e-15)
    ordered = steep.shares.sort(descending=True).values
    ratios = [(ordered[0] / ordered[k - 1]).item() for k in (2, 10, 2000)]
    assert ratios == pytest.approx([4, 100, 4e6])
    assert steep.shares.sum().item() == pytest.approx(1)
    assert (flat.dates.min(), flat.dates.max()) == (0, 335)


def test_words_of_a_statement_are_its_own():
    people, dates = torch.tensor([0, 49, 50, 1999]), torch.tensor([0, 27, 28, 335])
    ids = page_.birthday_ids(people, dates).tolist()
    assert ids[0] == [0, 1, 41, 91, 103]
    assert ids[1] == [0, 1, 90, 91, 130]
    assert ids[2] == [0, 2, 41, 92, 103]
    assert ids[3] == [0, 40, 90, 102, 130]


def test_losses_and_the_invented_share():
    """By every statement that the model can make of a person's words."""
    people, dates = torch.arange(2000), world().dates
    ids = page_.birthday_ids(people, dates)
    with torch.no_grad():
        logs = gpt()(ids[:, :-1]).log_softmax(-1)
    each = logs.gather(-1, ids[:, 1:, None])[..., 0].sum(1)
    cells.close(page_.statement_losses(gpt(), ids).detach(), -each)
    told = each.exp().sum().item()
    assert page_.invented_share(gpt(), world()) == pytest.approx(1 - told, abs=1e-12)


def test_small_doubts_are_not_rounded_away():
    """The model computes in 32 bits."""
    losses = torch.full((2000,), 99.0)
    losses[1234] = 4 * math.log1p(1 / 8192)
    with mock.patch.object(page_, "statement_losses", return_value=losses):
        false = page_.invented_share(None, world())
    assert false == pytest.approx(1 - (8192 / 8193) ** 4, rel=5e-6)


def test_answers_are_the_likeliest_words():
    people = torch.tensor([3, 77, 1500])
    dates, sure = page_.say_birthdays(gpt(), people)
    for person, date, chance in zip(people.tolist(), dates, sure, strict=True):
        start = [0, 1 + person // 50, 41 + person % 50]
        months = gpt()(torch.tensor([start]))[0, -1].softmax(-1)[91:103]
        month = months.argmax().item()
        days = gpt()(torch.tensor([[*start, 91 + month]]))[0, -1].softmax(-1)[103:131]
        assert date.item() == 28 * month + days.argmax().item()
        assert chance.item() == pytest.approx((months.max() * days.max()).item())


def test_a_model_learns_what_it_reads():
    read, seen = torch.tensor([5, 5, 5, 900]), []
    model = page_.learn_birthdays(
        world(), read, 15, generator(1), lambda k, _: seen.append(k)
    )
    known = page_.birthday_ids(read, world().dates[read])
    assert page_.statement_losses(model, known).mean() < 2
    assert seen == list(range(1, 16))


def test_statements_are_grouped_by_what_is_given():
    given = torch.tensor([[2e-7, 2e-6, 2e-5], [2e-4, 2e-3, 2e-2]]).double()
    said = torch.tensor([[1, 2, 4], [8, 16, 32]]).double()
    assert page_.by_chance(given, said).tolist() == [1, 6, 24, 32]
    assert page_.by_chance(given.flip(0), said).tolist() == [8, 48, 3, 4]


@cases(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.floats(0.5, 3))
def test_good_turing(counts, z):
    if not sum(counts):
        counts = [*counts, 1]
    n, found = sum(counts), Counter(counts)
    share, low, high = page_.good_turing(torch.tensor(counts), z)
    assert share == pytest.approx(found[1] / n)
    spread = (found[1] / n + 2 * found[2] / n - (found[1] / n) ** 2) / n
    half = z * math.sqrt(spread)
    assert low == pytest.approx(max(0, share - half), abs=1e-12)
    assert high == pytest.approx(min(1, share + half), abs=1e-12)
    few = page_.good_turing(torch.tensor([1, 1, 1, 2]))  # 0.6, plus or minus 0.7
    assert str(few) == "(0.6, 0.0, 1.0)"


@pytest.mark.parametrize("least", [0.0, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("penalty", [0, 2.5])
def test_who_is_sure_enough_answers(least, penalty):
    sure = torch.tensor([0.9, 0.5, 0.2, 0.7])
    right = torch.tensor([True, False, True, True])
    least = torch.tensor(least).item()  # rounded as the probabilities are
    points = [
        (1 if r else -penalty) * (s >= least)
        for s, r in zip(sure.tolist(), right.tolist(), strict=True)
    ]
    got = page_.graded_score(sure, right, least, penalty)
    assert got == pytest.approx(sum(points) / 4)


CHANCES = [0.5, 0.8, 0.25, 0.9, 0.7, 0.6, 0.95, 0.3, 0.85, 0.4]


class Scripted(torch.nn.Module):
    """A model that says given tokens, each with a given probability."""

    def __init__(self, said, chances):
        super().__init__()
        sizes = {"vocab": 49_152, "context": 64, "width": 2, "layers": 1, "heads": 1}
        self.config = LlamaConfig(**sizes, kv_heads=1, hidden=2, eps=1e-5, base=1e4)
        self.embedding, self.read = torch.nn.Embedding(1, 1), []
        self.rest = list(zip(said, chances, strict=True))

    def residual(self, ids, cache):
        self.read += ids[0].tolist()
        return torch.zeros(1, ids.size(1), 1)

    def logits(self, x):
        token, chance = self.rest.pop(0)
        logits = torch.full((49_152,), (1 - chance) / 49_151)
        logits[token] = chance
        return logits.log()


@pytest.mark.parametrize("end", [".", "\n"])
def test_it_names_a_capital_with_its_probability(end):
    encode = smollm2_tokenizer().encode
    said = [*encode(" Ljubljana"), *encode(end), *encode(" and")]
    model, n = Scripted(said, CHANCES[: len(said)]), len(said) - 2
    answer, sure = page_.name_capital(model, "Slovenia")
    assert n > 1 and answer == "Ljubljana"
    assert sure == pytest.approx(math.prod(CHANCES[:n]), rel=1e-3)
    asked = encode(f"{page_.BEFORE}The capital of Slovenia is")
    assert model.read == asked + said[:n]
