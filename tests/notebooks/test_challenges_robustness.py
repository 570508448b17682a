"""The cells of challenges/robustness against closed forms, search and torch."""

import functools
import math
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from cells import cases, close, generator, seeds
from hypothesis import strategies as st
from torch import nn

from fieldguide.challenges import robustness as rob
from fieldguide.data import emoji
from fieldguide.transformers.gpt import GPT, GPTConfig

V = 5


@functools.cache
def linear(seed=0, D=6):
    layer = nn.Linear(D, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, D, generator=generator(seed)))
        layer.bias.zero_()
    return layer.requires_grad_(False)


@functools.cache
def gpt():
    config = GPTConfig(V, 4, width=8, heads=2, layers=1)
    return GPT(config, generator=generator()).requires_grad_(False)


class Counting(nn.Module):
    """A model that reads four tokens at most and is sure that the next is one more."""

    config = SimpleNamespace(context=4)

    def forward(self, ids):
        assert ids.size(1) <= self.config.context
        return 50.0 * F.one_hot((ids + 1) % V, V)


def middle(seed, B=4, D=6):
    """Inputs far from 0 and 1, and labels."""
    x = torch.rand(B, D, generator=generator(seed)) / 4 + 0.375
    return x, torch.randint(2, (B,), generator=generator(seed + 1))


def test_a_typo_swaps_two_letters_of_the_name():
    line = rob.edited_lines("France")["a typo in the name"]
    assert line == "The capital of Farnce is"


def test_what_is_said_of_a_capital():
    """Right is what begins like the capital, with a space or a capital or without."""
    model, encode = gpt(), rob.smollm2_tokenizer().encode
    said = [{" Paris": 0.5, "Paris": 0.25, " paris": 0.125, "paris": 0.0625}]
    said.append({" Milan": 0.4567891, " Rome": 0.3123456, "rome": 0.1})
    chances = torch.zeros(2, 49_152)
    for row, wanted in zip(chances, said, strict=True):
        for text, chance in wanted.items():
            row[encode(text)[0]] = chance
    lines = ["The capital of France is", "Of Italy, the capital is"]
    config = SimpleNamespace(vocab=49_152)
    with (
        mock.patch.object(rob, "answer_scores", return_value=chances.log()) as scores,
        mock.patch.object(model, "config", config),
    ):
        found = rob.capital_said(model, lines, ["Paris", "Rome"])
    assert scores.call_args.args[1:3] == (encode(rob.BEFORE), [*map(encode, lines)])
    assert found == [
        {"right": True, "chance": 0.9375, "says": " Paris", "sure": 0.5},
        {"right": False, "chance": 0.4123, "says": " Milan", "sure": 0.4568},
    ]


@cases(seeds, st.floats(0.01, 0.1))
def test_an_attack_on_a_linear_model_reaches_the_closed_form(seed, eps):
    model, (x, labels) = linear(seed % 3), middle(seed)
    weight = model.weight[1 - labels] - model.weight[labels]  # (B, D)
    sign = rob.uphill(model, x, labels)
    assert torch.equal(sign, weight.sign())
    for plan in {}, {"steps": 1, "stride": 1.0}:
        rise = (weight * (rob.pgd(model, x, labels, eps, **plan) - x)).sum(1)
        close(rise, eps * weight.abs().sum(1), 1e-4)
    two = rob.pgd(model, x, labels, eps, steps=2, stride=0.25)
    close(two, x + eps / 2 * sign, 1e-6)
    start = x - eps / 2
    once = rob.pgd(model, x, labels, eps, steps=1, stride=0.5, start=start)
    close(once, start + eps / 2 * sign, 1e-6)
    edges = (4 * x - 1.5).clamp(0, 1)
    for plan in {"stride": 0.7}, {"steps": 3, "start": torch.rand_like(x)}:
        changed = rob.pgd(model, edges, labels, 0.3, **plan)
        assert changed.min() >= 0 and changed.max() <= 1
        assert (changed - edges).abs().max() <= 0.3 + 1e-6


def test_the_slope_of_a_sure_answer_is_not_lost_among_many():
    layer = nn.Linear(1, 2, bias=False).requires_grad_(False)
    layer.weight[:] = torch.tensor([[1.0], [-1.0]])
    x, labels = torch.full((4096, 1), 49.0), torch.zeros(4096, dtype=torch.long)
    assert (rob.uphill(layer, x, labels) == -1).all()  # sure, but for e^-98


def test_a_picture_is_of_the_kind_that_its_list_has():
    found = emoji()
    of = {c: i for i, c in enumerate(found.characters)}
    places = torch.tensor(
        [(found.concept == of[c]).nonzero()[0].item() for c in "🎈🐶🍕😀🚀"]
    )  # a balloon is an activity
    with mock.patch.object(rob, "role", return_value=places):
        planes, labels, captions = rob.kind_pictures(["noto"])
    assert torch.equal(planes, rob.to_planes(found.pictures[places[1:]]))
    assert captions == [found.captions[of[c]] for c in "🐶🍕😀🚀"]
    names = [*rob.KINDS.values()]
    assert [names[k] for k in labels] == ["animal", "food", "face", "travel"]


def test_hidden_sentences_ask_in_small_letters():
    hidden = rob.hidden_sentences("How tall is Max?", "3")
    assert hidden["tailored"] == "The answer to the question how tall is Max is 3."
    assert all("3" in text for text in hidden.values())


def test_a_sentence_as_near_as_asked_stays():
    vectors = torch.tensor([[1, 0], [0.5, 0.75], [0.25, 0], [0.75, 0], [0.375, 1]])
    with mock.patch.object(rob, "embed_texts", return_value=(vectors, [])) as embed:
        kept = [rob.sift("Q?", "A! B.  C? D", at) for at in (0.25, 0.5, 1.0)]
    assert kept == ["A! B. C? D", "A! C?", "C?"]
    embed.assert_called_with(["Q?", "A!", "B.", "C?", "D"])


@cases(seeds, st.integers(2, 6))
def test_green_lists_are_halves(seed, size):
    green = rob.green_lists(size, seed)
    assert green.shape == (size, size, size) and green.dtype == torch.bool
    assert (green.sum(-1) == size // 2).all()


@cases(seeds, st.integers(3, 12))
def test_the_score_counts_each_three_once(seed, T):
    green = rob.green_lists(7, 3)
    ids = torch.randint(7, (T,), generator=generator(seed))
    threes = {*zip(*(ids[k:].tolist() for k in range(3)), strict=False)}
    n, share = len(threes), 3 / 7
    hits = sum(green[three].item() for three in threes)
    wanted = (hits - n * share) / math.sqrt(n * share * (1 - share))
    assert math.isclose(rob.mark_score(ids, green), wanted, rel_tol=1e-9, abs_tol=1e-9)


def test_a_marked_text_is_drawn_with_the_lift():
    green = rob.green_lists(V, 3)
    ids = torch.zeros(4000, 3, dtype=torch.long)
    drawn = rob.write_marked(gpt(), ids, 1, green, 1.5, generator())
    shares = (gpt()(ids[:1])[0, -1] + 1.5 * green[0, 0]).softmax(-1)
    close(drawn[:, -1].bincount(minlength=V) / 4000, shares, 0.03)


def test_a_model_that_is_sure_is_lifted_off_its_way_by_more_than_it_is_sure():
    green, start = torch.zeros(V, V, V, dtype=torch.bool), torch.tensor([[0, 1]])
    green[2, 3, 1] = True  # and there the model says 4, by 50
    for lift, text in (0.0, "0123401"), (20.0, "0123401"), (99.0, "0123123"):
        found = rob.write_marked(Counting(), start, 5, green, lift, generator())
        assert "".join(map(str, found[0].tolist())) == text
