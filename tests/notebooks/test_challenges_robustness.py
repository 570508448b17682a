"""The cells of challenges/robustness against closed forms, search and torch."""

import functools
import itertools
import math
from types import SimpleNamespace
from unittest import mock

import cells
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, refuses, refuses_all, seeds
from hypothesis import strategies as st
from torch import nn

from fieldguide.challenges import robustness as rob
from fieldguide.data import emoji
from fieldguide.transformers.gpt import GPT, GPTConfig

V = 5
A, B = "sum(a) / len(a)", "sum(b) / len(b)"  # mean losses, as a reader writes them
CHANCE_A, CHANCE_B = (
    f"(sum(math.exp(-v) for v in {x}) / len({x}))" for x in ("a", "b")
)


@functools.cache
def page():
    return cells.run_exercises("challenges/robustness", built=rob)


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


class Counting:
    """A model that reads four tokens at most and is sure that the next is one more."""

    config = SimpleNamespace(context=4)

    def __call__(self, ids):
        assert ids.size(1) <= self.config.context
        return 50.0 * F.one_hot((ids + 1) % V, V)


def middle(seed, B=4, D=6):
    """Inputs far from 0 and 1, and labels."""
    x = torch.rand(B, D, generator=generator(seed)) / 4 + 0.375
    return x, torch.randint(2, (B,), generator=generator(seed + 1))


def test_edits_of_a_line():
    lines = rob.edited_lines("France")
    assert lines.pop("nothing") == "The capital of France is"
    assert lines == {
        "two spaces": "The  capital of France is",
        "a space at the end": "The capital of France is ",
        "a typo in capital": "The cap{} of France is".format("tial"),
        "a typo in the name": "The capital of Farnce is",
        "small letters": "the capital of france is",
        "another order": "Of France, the capital is",
        "one more sentence": "My neighbour has a cat.\nThe capital of France is",
    }
    assert [rob.misspelled(w) for w in ("of", "the", "Mali", "heart")] == [
        "of", "the", "Mlai", "haert"]  # fmt: skip
    refuses("country", rob.edited_lines, "Abc")
    assert rob.edited_lines("Mali")["small letters"] == "the capital of mali is"


def said_of(lines, capitals, *rows):
    """What `capital_said` finds where each row's tokens have these chances."""
    model, encode = gpt(), rob.smollm2_tokenizer().encode
    chances = torch.zeros(len(rows), 49_152)
    for row, wanted in zip(chances, rows, strict=True):
        for text, chance in wanted.items():
            row[encode(text)[0]] = chance
    config = SimpleNamespace(vocab=49_152)
    scores = mock.Mock(return_value=chances.log())
    with (
        mock.patch.object(rob, "answer_scores", scores),
        mock.patch.object(model, "config", config),
    ):
        found = rob.capital_said(model, lines, capitals)
    before = encode(
        "The capital of Spain is Madrid.\nThe capital of Ireland is Dublin.\n"
    )
    texts, every = [encode(line) for line in lines], [*range(49_152)]
    scores.assert_called_once_with(model, before, texts, every, 16)
    return found


def test_what_is_said_of_a_capital():
    paris = {" Paris": 0.5, "Paris": 0.25, " paris": 0.125, "paris": 0.0625, "9": 0.05}
    rome = {" Milan": 0.4567891, " Rome": 0.3123456, "rome": 0.1}
    lines = ["The capital of France is", "Of Italy, the capital is"]
    assert said_of(lines, ["Paris", "Rome"], paris, rome) == [
        {"right": True, "chance": 0.9375, "says": " Paris", "sure": 0.5},
        {"right": False, "chance": 0.4123, "says": " Milan", "sure": 0.4568},
    ]
    for form in "Rome", " Rome", "rome", " rome":
        (found,) = said_of(["So"], ["Rome"], {form: 0.75, "9": 0.25})
        assert form.startswith(found.pop("says"))
        assert found == {"right": True, "chance": 0.75, "sure": 0.75}


@cases(st.integers(0, 20), st.integers(1, 20))
def test_intervals_are_percent(hits, more):
    tries = hits + more
    low, high = rob.percent_interval(hits, tries)
    p, z = hits / tries, 1.96
    middle = (p + z * z / (2 * tries)) / (1 + z * z / tries)
    half = math.sqrt(p * (1 - p) / tries + z * z / (4 * tries**2))
    half *= z / (1 + z * z / tries)
    close(
        [low, high],
        [100 * max(0.0, middle - half), 100 * min(1.0, middle + half)],
        1e-9,
    )
    assert low >= 0 and rob.percent_interval(tries, tries)[1] <= 100


def test_rounding_leads_no_interval_out_of_its_range():
    assert str(rob.percent_interval(0, 1)[0]) == "0.0"  # and not -0.0
    assert rob.percent_interval(1025, 1025)[1] == 100


@cases(seeds, st.floats(0.01, 0.1))
def test_attacks_on_a_linear_model_reach_the_closed_form(seed, eps):
    model, (x, labels) = linear(seed % 3), middle(seed)
    weight = model.weight[1 - labels] - model.weight[labels]  # (B, D)
    sign = rob.uphill(model, x, labels)
    assert torch.equal(sign, weight.sign())
    for changed in (
        rob.fgsm(model, x, labels, eps),
        rob.pgd(model, x, labels, eps),
        rob.pgd(model, x, labels, eps, steps=1, stride=1.0),
    ):
        rise = (weight * (changed - x)).sum(1)
        close(rise, eps * weight.abs().sum(1), 1e-4)
    two = rob.pgd(model, x, labels, eps, steps=2, stride=0.25)
    close(two, x + eps / 2 * sign, 1e-6)
    random = rob.random_signs(x, eps, generator(seed))
    close((random - x).abs(), torch.full_like(x, eps), 1e-6)
    assert ((weight * (random - x)).sum(1) <= eps * weight.abs().sum(1) + 1e-5).all()


@cases(seeds)
def test_changes_stay_within_their_limits(seed):
    model, (x, labels) = linear(), middle(seed)
    x = ((x - 0.5) * 4 + 0.5).clamp(0, 1)
    far = torch.rand(x.shape, generator=generator(seed))
    changes = [
        rob.fgsm(model, x, labels, 0.3),
        rob.pgd(model, x, labels, 0.3, stride=0.7),
        rob.pgd(model, x, labels, 0.3, steps=3, start=far),
        rob.random_signs(x, 0.3, generator(seed)),
        rob.attacked_start(model, x, labels, 0.3, generator(seed)),
    ]
    for changed in changes:
        assert not changed.requires_grad and changed.min() >= 0 and changed.max() <= 1
        assert (changed - x).abs().max() <= 0.3 + 1e-6
    one, other = (rob.random_signs(x, 0.1, generator(s)) for s in (seed, seed + 1))
    assert not torch.equal(one, other)


def test_a_start_is_where_it_begins():
    model, (x, labels) = linear(), middle(3)
    start = x - 0.05
    once = rob.pgd(model, x, labels, 0.1, steps=1, stride=0.5, start=start)
    close(once, start + 0.05 * rob.uphill(model, x, labels), 1e-6)
    noise = 2 * torch.rand(x.shape, generator=generator(5)) - 1
    wanted = x + (0.1 * noise + 0.125 * rob.uphill(model, x, labels)).clamp(-0.1, 0.1)
    close(rob.attacked_start(model, x, labels, 0.1, generator(5)), wanted, 1e-6)


def test_a_start_reaches_eps_from_the_edge_of_the_range():
    model, labels = linear(), torch.zeros(4, dtype=torch.long)
    black, white = torch.zeros(4, 6), torch.ones(4, 6)
    up = rob.uphill(model, black, labels) > 0
    found = rob.attacked_start(model, black, labels, 0.1, generator())
    close(found, 0.1 * up, 1e-6)
    found = rob.attacked_start(model, white, labels, 0.1, generator())
    close(found, 1 - 0.1 * ~up, 1e-6)


def test_ten_steps_of_a_quarter():
    x, labels = middle(0)
    slopes = [torch.zeros_like(x)] * 9 + [torch.ones_like(x)]
    with mock.patch.object(rob, "uphill", side_effect=slopes) as uphill:
        close(rob.pgd(linear(), x, labels, 0.1), x + 0.025, 1e-6)
    assert uphill.call_count == 10


def test_inputs_that_are_not_read_stay():
    (x, labels), layer = middle(0), nn.Linear(6, 2).requires_grad_(False)
    layer.weight[:] = torch.tensor([[1.0, -2, 0, 0, 0, 0], [3, 4, 0, 0, 0, 0]])
    for changed in rob.fgsm(layer, x, labels, 0.1), rob.pgd(layer, x, labels, 0.1):
        moved = (changed - x).abs()
        assert (moved[:, :2] > 0.09).all() and (moved[:, 2:] == 0).all()


def test_the_faintest_slope_is_not_lost_among_many():
    layer = nn.Linear(1, 2, bias=False).requires_grad_(False)
    layer.weight[:] = torch.tensor([[1.0], [-1.0]])
    x, labels = torch.full((4096, 1), 49.0), torch.zeros(4096, dtype=torch.long)
    assert (rob.uphill(layer, x, labels) == -1).all()  # sure, but for e^-98


def test_random_signs_are_coins_of_the_generator():
    x = torch.full((5, 7), 0.5)
    coins = torch.randint(0, 2, (5, 7), generator=generator(2))
    close(rob.random_signs(x, 0.1, generator(2)), 0.4 + 0.2 * coins, 1e-6)


def test_the_right_share_is_a_plain_number():
    x = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    share = rob.right_share(nn.Identity(), x, torch.tensor([0, 1, 1]))
    assert isinstance(share, float) and share == 2 / 3


def test_a_picture_is_of_the_kind_that_its_list_has():
    found = emoji()
    of = {c: i for i, c in enumerate(found.characters)}
    places = torch.tensor(
        [(found.concept == of[c]).nonzero()[0].item() for c in "🎈🐶🍕😀🚀"]
    )  # a balloon is an activity
    with mock.patch.object(rob, "role", return_value=SimpleNamespace(places=places)):
        planes, labels = rob.kind_pictures(["noto"])
    assert torch.equal(planes, rob.to_planes(found.pictures[places[1:]]))
    names = [*rob.KINDS.values()]
    assert [names[k] for k in labels] == ["animal", "food", "face", "travel"]


def test_a_reader_sees_white_as_1_and_black_as_minus_1():
    reader = rob.KindReader()
    reader.blocks = reader.out = nn.Identity()
    planes = torch.tensor([0.0, 0.25, 0.5, 1.0]).expand(2, 3, 1, 4)
    expected = torch.tensor([-1, -0.5, 0, 1]).repeat(2, 3)
    assert torch.equal(reader(planes), expected)


def test_pictures_of_four_kinds():
    planes, labels = rob.kind_pictures(["emojitwo"])
    assert planes.shape == (428, 3, 32, 32) and planes.max() <= 1
    assert (labels.bincount(minlength=4) > 30).all() and len(labels) == 428
    plain, hard = rob.trained_kinds(), rob.trained_kinds("hardened")
    assert not plain.training and rob.right_share(plain, planes, labels) > 0.7
    x, y = planes[:40], labels[:40]
    shares = [rob.right_share(m, rob.pgd(m, x, y, 8 / 255), y) for m in (plain, hard)]
    assert shares[0] < 0.1 and shares[1] > 0.35
    refuses("kind", rob.trained_kinds, "soft")
    refuses("drawers", rob.kind_pictures, None, says="kind_pictures")
    assert cells.kept(rob.trained_kinds) is plain


def descent(**options):
    """What `train_kinds` gives to `descend`, what comes back, and what a loss calls."""
    planes = torch.rand(150, 3, 32, 32, generator=generator())
    pictures = planes, torch.arange(150) % 4

    def descend(model, loss, made, recipe):
        seen.update(model=model, made=made, recipe=recipe)
        assert model.training
        seen["loss"] = loss()
        assert model.training

    def attacked(model, x, labels, eps, drawn):
        seen.update(eps=eps, batch=labels)
        assert not model.training
        return x

    seen = {}
    with (
        mock.patch.object(rob, "kind_pictures", return_value=pictures) as drawers,
        mock.patch.object(rob, "descend", descend),
        mock.patch.object(rob, "attacked_start", attacked),
        mock.patch.object(rob, "jitter", wraps=rob.jitter) as jitter,
    ):
        assert rob.train_kinds(**options) is seen["model"]
    drawers.assert_called_once_with(rob.KNOWN_DRAWERS)
    assert jitter.call_args.args[0].shape == (64, 3, 32, 32)
    return SimpleNamespace(**seen)


def test_a_reader_is_trained_by_a_recipe():
    plain, hard = descent(), descent(eps=0.1, steps=7, seed=1)
    assert (plain.recipe.steps, plain.recipe.warmup) == (480, 48)
    assert (hard.recipe.steps, hard.recipe.warmup) == (7, 1)
    for run in plain, hard:
        ((adam,), recipe) = run.made, run.recipe
        assert (recipe.batch, recipe.rate) == (64, 4e-3)
        assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (4e-3, 0.05)
        (group,) = adam.param_groups
        assert {*group["params"]} == {*run.model.parameters()}
        assert not any(p.requires_grad for p in run.model.parameters())
    assert not hasattr(plain, "eps")
    assert hard.eps == 0.1 and hard.batch.shape == (64,)
    assert 0.5 < plain.loss < 3  # of four kinds: about ln 4
    first = [descent(seed=seed).model.out.weight for seed in (0, 1)]
    assert torch.equal(first[0], plain.model.out.weight)
    assert not torch.equal(*first)


def test_training_is_repeatable_and_attacks_when_asked():
    first, again, hard = (
        rob.train_kinds(eps, steps=2, seed=1) for eps in (None, None, 0.1)
    )
    assert not first.training
    assert torch.equal(first.out.weight, again.out.weight)
    assert not torch.equal(first.out.weight, hard.out.weight)


def test_pulls_add_up_to_the_lead():
    text = "Thickening of the heart walls in both ventricles."
    words, layer = rob.organ_reader()
    assert "heart" in words and rob.organ_reader()[1] is layer  # fitted once
    for each in text, "Heart", "Qqq, the heart":
        best, second = rob.organ_scores(each).topk(2).indices.tolist()
        lead = rob.organ_scores(each)[best] - rob.organ_scores(each)[second]
        bias = (layer.bias[best] - layer.bias[second]).item()
        close(sum(rob.word_pulls(each)) + bias, lead.item(), 1e-5)
    pulls = rob.word_pulls(text)
    assert len(pulls) == len(rob.words_in_order(text)) == 8
    assert max(range(8), key=pulls.__getitem__) == 3
    assert str(rob.word_pulls("Qqq xxx")) == "[0.0, 0.0]"  # and not -0.0
    refuses("text", rob.word_pulls, None, says="word_pulls")


def test_misspelling():
    text = "Thickening of the heart walls, in both ventricles."
    assert rob.misspell(text, []) == "Thickening of the heart walls in both ventricles"
    assert rob.misspell(text, [3, 1]).split()[1:4] == ["of", "the", "haert"]
    assert rob.fewest_words(text, [3]) == 1
    assert rob.fewest_words(text, [1, 3, 4]) == 2
    assert rob.fewest_words(text, [1, 2]) is None
    assert rob.fewest_words(text, []) is None


def test_hidden_sentences_and_the_sieve():
    asked = "How deep is the hole?"
    hidden = rob.hidden_sentences(asked, "12")
    assert [*hidden] == ["harmless", "command", "claim", "tailored"]
    assert all("12" in text for text in hidden.values())
    assert (
        hidden["tailored"] == "The answer to the question how deep is the hole is 12."
    )
    asked_of_max = rob.hidden_sentences("How tall is Max?", "3")["tailored"]
    assert asked_of_max == "The answer to the question how tall is Max is 3."
    passage = f"The hole is 3 m deep. {hidden['claim']} Pay us!"
    assert rob.sift(asked, passage, 0.3) == "The hole is 3 m deep."
    assert rob.sift(asked, passage, 0.0).count(".") == 2
    vectors, _ = rob.embed_texts([asked, "The hole is 3 m deep."])
    assert (vectors[0] @ vectors[1]).item() < 0.99
    assert rob.sift(asked, passage, 1.0) == "The hole is 3 m deep."
    tailored = f"{hidden['tailored']} We like rain."
    assert rob.sift(asked, tailored, 0.3) == hidden["tailored"]


def test_a_sentence_as_near_as_asked_stays():
    vectors = torch.tensor([[1, 0], [0.5, 0.75], [0.25, 0], [0.75, 0], [0.375, 1]])
    with mock.patch.object(rob, "embed_texts", return_value=(vectors, [])) as embed:
        kept = [rob.sift("Q?", "A! B.  C? D", at) for at in (0.25, 0.5, 1.0)]
    assert kept == ["A! B. C? D", "A! C?", "C?"]
    embed.assert_called_with(["Q?", "A!", "B.", "C?", "D"])


def first_digits(question, passages):
    """The digits, and the calls of `answer_scores` that they come from, decoded."""
    scores = mock.Mock(return_value=torch.eye(10)[[3, 8][: len(passages)]])
    with mock.patch.object(rob, "answer_scores", scores):
        found = rob.first_digits(gpt(), question, passages)
    model, before, texts, tokens = scores.call_args.args
    assert model is gpt()
    decode = rob.smollm2_tokenizer().decode
    assert [decode([t]) for t in tokens] == [*"0123456789"]
    return found, decode(before), [decode(text) for text in texts]


def test_first_digits_of_answers():
    passages = ["The hole is 3 m deep.", "The hole is 8 m deep."]
    asked = (
        "<|im_start|>user\nRead the text and answer the question in one short "
        "sentence.\n\nText: {}\n\nQuestion: How deep is the hole?<|im_end|>\n"
        "<|im_start|>assistant\nThe answer is "
    )
    prompts = [asked.format(passage) for passage in passages]
    found, before, rests = first_digits("How deep is the hole?", passages)
    assert found == ["3", "8"]
    assert [before + rest for rest in rests] == prompts
    assert before.endswith("The hole is ") and rests[0].startswith("3 m")
    # of a single one all is shared, but for a last token to go on from
    found, before, (rest,) = first_digits("How deep is the hole?", passages[:1])
    assert found == ["3"] and before + rest == prompts[0]
    assert len(rob.smollm2_tokenizer().encode(rest)) == 1


@cases(seeds, st.integers(2, 6))
def test_green_lists_are_halves(seed, size):
    green = rob.green_lists(size, seed)
    assert green.shape == (size, size, size) and green.dtype == torch.bool
    assert (green.sum(-1) == size // 2).all()
    assert torch.equal(green, rob.green_lists(size, seed))
    assert not torch.equal(rob.green_lists(6, seed), rob.green_lists(6, seed + 1))


@cases(seeds, st.integers(3, 12))
def test_the_score_counts_each_three_once(seed, T):
    green = rob.green_lists(7, 3)
    ids = torch.randint(7, (T,), generator=generator(seed))
    threes = {*zip(*(ids[k:].tolist() for k in range(3)), strict=False)}
    n, share = len(threes), 3 / 7
    hits = sum(green[three].item() for three in threes)
    wanted = (hits - n * share) / math.sqrt(n * share * (1 - share))
    assert math.isclose(rob.mark_score(ids, green), wanted, rel_tol=1e-9, abs_tol=1e-9)


def test_marked_texts_are_green_and_follow_the_model():
    green, start = rob.green_lists(V, 3), torch.zeros(40, 3, dtype=torch.long)
    marked = rob.write_marked(gpt(), start, 5, green, 40.0, generator())
    assert marked.shape == (40, 8) and torch.equal(marked[:, :3], start)
    threes = marked.unfold(1, 3, 1)[:, 1:].flatten(0, 1)
    assert green[tuple(threes.mT)].all()
    plain = rob.write_marked(gpt(), start[:1], 1, green, 0.0, generator())
    ids = start[:1].expand(4000, -1)
    drawn = rob.write_marked(gpt(), ids, 1, green, 1.5, generator())[:, -1]
    shares = (gpt()(start[:1])[0, -1] + 1.5 * green[0, 0]).softmax(-1)
    close(drawn.bincount(minlength=V) / 4000, shares, 0.03)
    assert plain.shape == (1, 4)


def test_a_model_that_is_sure_is_lifted_off_its_way_by_more_than_it_is_sure():
    green, start = torch.zeros(V, V, V, dtype=torch.bool), torch.tensor([[0, 1]])
    green[2, 3, 1] = True  # and there the model says 4, by 50
    for lift, text in (0.0, "0123401"), (20.0, "0123401"), (99.0, "0123123"):
        found = rob.write_marked(Counting(), start, 5, green, lift, generator())
        assert "".join(map(str, found[0].tolist())) == text


def test_refusals():
    refuses_all(rob.edited_lines, {"country": "Mali"}, country=["Abc"])
    asked = {"model": gpt(), "lines": ["So"], "capitals": ["Rome"]}
    with (
        mock.patch.object(rob, "answer_scores", return_value=torch.zeros(1, 49_152)),
        mock.patch.object(gpt(), "config", SimpleNamespace(vocab=49_152)),
    ):
        bad = {"lines": [[], [""], ["a", "b"], [1]], "capitals": [[], [1]]}
        refuses_all(rob.capital_said, asked, **bad)
    refuses_all(rob.misspelled, {"word": "of"})
    refuses_all(rob.percent_interval, {"hits": 1, "tries": 4}, hits=[5])
    refuses_all(rob.organ_scores, {"text": "heart"})
    edit = {"text": "the heart", "places": [1]}
    refuses_all(rob.misspell, edit, places=[["heart"]])
    refuses_all(rob.fewest_words, {"text": "the heart", "order": [1]}, order=[[0.5]])
    refuses_all(rob.hidden_sentences, {"question": "Why?", "false": "1"})
    refuses_all(rob.green_lists, {"V": 4, "key": 0})
    digits = {"model": gpt(), "question": "Why?", "passages": ["So."]}
    with mock.patch.object(rob, "answer_scores", return_value=torch.eye(10)[:1]):
        refuses_all(rob.first_digits, digits, passages=[[], [1]])
    model, (x, labels) = linear(), middle(0)
    look = {"model": model, "x": x, "labels": labels}
    refuses_all(rob.uphill, look, x=[x / 0, x[:3]])
    refuses_all(rob.right_share, look, x=[x[:3]])
    good = {"model": model, "x": x, "labels": labels, "eps": 0.1}
    bad = {"eps": [0, -0.1, math.inf], "x": [x / 0, x[:3]], "labels": [x]}
    refuses_all(rob.fgsm, good, **bad)
    more = {"steps": 2, "stride": 0.5, "start": x}
    wrong = {"steps": [0], "stride": [0.0], "start": [x[:3]]}
    refuses_all(rob.pgd, good | more, **bad, **wrong)
    signs = {"x": x, "eps": 0.1, "generator": generator()}
    refuses_all(rob.random_signs, signs, eps=[0, -1.0])
    with mock.patch.object(rob, "descend"):
        train = {"eps": 0.1, "steps": 2, "seed": 0}
        refuses_all(rob.train_kinds, train, eps=[0, -0.1])
    ids, green = torch.zeros(1, 2, dtype=torch.long), rob.green_lists(V, 0)
    write = {"model": gpt(), "ids": ids, "count": 1, "green": green, "lift": 1.0}
    write["generator"] = generator()
    refuses_all(rob.write_marked, write, ids=[ids[:, :1]], count=[0], lift=[math.inf])
    refuses_all(rob.mark_score, {"ids": ids[0].repeat(2), "green": green}, ids=[ids[0]])
    refuses_all(rob.sift, {"question": "a", "passage": "b", "least": 0.1}, least=[1.1])


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("largest_rise", "float(eps * w.abs().sum())", "can't leave"),
        ("largest_rise", "float(w @ (x + eps * w.sign()).clamp(0, 1))", "take off"),
        ("largest_rise", "float(w @ ((x + eps).clamp(0, 1) - x))", "lower"),
        ("largest_rise", "float(eps * w.norm())", "random"),
        ("largest_rise", "0.123", "is right"),
        ("smallest_flip", "float(abs(w @ x + b) / w.norm())", "not of squares"),
        ("smallest_flip", "float(abs(w @ x) / w.abs().sum())", "b belongs"),
        ("smallest_flip", "float((w @ x + b) / w.abs().sum())", "never negative"),
        ("smallest_flip", "float(abs(w @ x + b) / w.abs().max())", "every input"),
        ("smallest_flip", "0.123", "is right"),
        ("tokens_needed", "int((z / (2 * green - 1)) ** 2 + 1e-9)", "round up"),
        ("tokens_needed", "(z / (2 * green - 1)) ** 2", "is whole"),
        ("tokens_needed", "-int(-z / (2 * green - 1))", "is right"),
        ("tokens_needed", "7", "is right"),
        ("times_likelier", f"math.exp({A} - {B})", "other way round"),
        ("times_likelier", f"{B} - {A}", "to that power"),
        ("times_likelier", f"({B}) / ({A})", "subtract"),
        ("times_likelier", "math.exp(sum(b) - sum(a))", "take means"),
        ("times_likelier", f"{CHANCE_A} / {CHANCE_B}", "not the chances"),
        ("times_likelier", "0.123", "is right"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    arguments = {"largest_rise": "w, x, eps", "smallest_flip": "w, b, x"}
    arguments |= {"tokens_needed": "green, z", "times_likelier": "a, b"}
    known = {"float": float, "int": int, "math": math}
    cells.is_told_its_cause(page(), check, answer, cause, arguments[check], **known)


def test_the_records():
    maker = cells.script("robustness")
    runs = cells.record("robustness", "pictures.json")
    for kind in "plain", "hardened":
        assert len(runs[kind]) == len(maker.SEEDS)
        for run in runs[kind]:
            assert run["PGD"]["8"] <= run["FGSM"]["8"] <= run["random signs"]["8"]
    rows = cells.record("robustness", "hidden.json")["rows"]
    assert len(rows) == maker.QUESTIONS
    edits = cells.record("robustness", "edits.json")["rows"]
    assert all([*row["edits"]] == [*rob.edited_lines("France")] for row in edits)
    marks = cells.record("robustness", "marks.json")
    assert [float(lift) for lift in marks["texts"]] == maker.LIFTS
    pairs = itertools.pairwise(marks["nats"].values())
    assert all(a < b + 0.05 for a, b in pairs)
