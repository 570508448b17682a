"""The cells of deployment/right-sizing against numpy, torch and hand-made texts."""

import functools
import math
import typing
from collections import Counter
from dataclasses import replace
from itertools import chain

import cells
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import generator, refuses, refuses_all

from fieldguide.deployment import right_sizing
from fieldguide.efficiency import lora
from fieldguide.scaling.data_quality import licence_families
from fieldguide.transformers.real_model import Llama, LlamaConfig
from fieldguide.transformers.training import Recipe

DOMAINS = ["licences", "symptoms", "questions"]
SMALL = LlamaConfig(31, 40, 12, 2, 3, 1, 16, 1e-5, 1e4)


@functools.cache
def page():
    return cells.run_exercises("deployment/right-sizing")


@functools.cache
def small_llama():
    torch.manual_seed(0)
    return Llama(SMALL).requires_grad_(False).eval()


# Jobs


def test_texts_that_share_their_runs_of_words_are_alike():
    text = "any person may copy this software and sell what he has made of it"
    other = "the retina is a layer of cells at the back of the eye that sees light"
    near = text.replace("sell", "give away")
    pairs = right_sizing.alike([text, other, near, "hello"])
    assert pairs.tolist() == [[0, 2]]
    assert right_sizing.alike([text, other, near], 0.99).tolist() == []
    assert right_sizing.alike([text, text], 1.0).tolist() == [[0, 1]]


def beginning_alike(shared):
    """Two texts of 30 words that have only so many runs of 3 words in common."""
    one, other = ([f"{letter}{i}" for i in range(30)] for letter in "wv")
    return [" ".join(one), " ".join(one[: shared + 2] + other[shared + 2 :])]


def test_a_share_is_that_of_112_minhashes():
    texts = beginning_alike(12)  # of 44 runs, so 30.5 minhashes of 112
    assert right_sizing.alike(texts).tolist() == [[0, 1]]
    assert right_sizing.alike(texts, 31 / 112).tolist() == [[0, 1]]
    assert right_sizing.alike(texts, 31 / 112 + 1e-12).tolist() == []
    assert right_sizing.alike(beginning_alike(9)).tolist() == []  # below a fifth
    apart = beginning_alike(3)  # no two minhashes in a row agree
    assert right_sizing.alike(apart, 0.01).tolist() == []


def test_siblings_are_chained():
    assert right_sizing.siblings(list("abaab")).tolist() == [[0, 2], [2, 3], [1, 4]]
    assert right_sizing.siblings(["a", "b"]).shape == (0, 2)


def test_equal_parts_are_equal_and_drawn():
    labels = torch.tensor([0, 1, 0, 0, 1, 2, 2, 2, 2])
    places = [0, 1, 2, 3, 4, 5, 6, 7]
    for most, count in (1, 1), (2, 2), (9, 2):
        found = right_sizing.in_equal_parts(places, labels, most, generator())
        assert found == sorted(found) and {*found} <= {*places}
        assert torch.bincount(labels[found]).tolist() == [count] * 3
    drawn = [
        tuple(right_sizing.in_equal_parts(places, labels, 1, generator(seed)))
        for seed in range(20)
    ]
    assert len({*drawn}) > 5
    again = right_sizing.in_equal_parts(places, labels, 1, generator(3))
    assert tuple(again) == drawn[3]


PARTS = {  # of each class: texts to learn from, texts to be tested on
    "licences": (["permissive", "copyleft", "proprietary"], 100, 20),
    "symptoms": (["brain", "heart", "eyes", "skin"], 100, 25),
    "questions": (["taxes", "permits", "contracts", "repairs"], 34, 22),
}


def test_a_job_is_one_of_three():
    assert typing.get_args(right_sizing.Domain) == tuple(DOMAINS)


def test_a_job_is_drawn_by_its_seed():
    first, other = (right_sizing.job("questions", seed) for seed in (0, 1))
    assert right_sizing.job("questions").learn == first.learn != other.learn


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_job_keeps_families_together(domain):
    job = right_sizing.job(domain)
    family = {place: i for i, group in enumerate(job.groups) for place in group}
    assert len(family) == len(job.texts) == len(job.labels) == len(job.whole)
    learnt, tested = ([family[p] for p in s] for s in (job.known, job.test))
    assert not {*learnt} & {*tested}
    assert {*job.test} <= {group[0] for group in job.groups}  # one of each
    assert {*job.learn} <= {*job.known}
    classes, *parts = PARTS[domain]
    assert list(job.classes) == classes
    for side, part in zip((job.learn, job.test), parts, strict=True):
        assert torch.bincount(job.labels[side]).tolist() == [part] * len(classes)
    assert all(
        whole.split()[:3] == text.split()[:3]
        for whole, text in zip(job.whole, job.texts, strict=True)
    )


def test_a_text_is_read_up_to_forty_words():
    job = right_sizing.job.__wrapped__("licences")
    lengths = [len(text.split()) for text in job.texts]
    whole = [min(40, len(text.split())) for text in job.whole]
    assert lengths == whole and max(lengths) == 40


def test_so_many_texts_have_a_class():
    found = {
        name: Counter(row[1] for row in getattr(right_sizing, f"labelled_{name}")())
        for name in DOMAINS
    }
    assert found == {
        "licences": {"permissive": 760, "copyleft": 431, "proprietary": 568},
        "symptoms": {"brain": 1941, "heart": 834, "eyes": 799, "skin": 522},
        "questions": {"taxes": 68, "permits": 76, "contracts": 82, "repairs": 125},
    }


def test_the_texts_have_the_classes_of_those_who_made_them():
    found = {text: name for text, name, _, _ in right_sizing.labelled_symptoms()}
    tremor = "An unintentional, oscillating to-and-fro muscle movement about a "
    assert found[f"{tremor}joint axis."] == "brain"
    parents = {each.definition: each.parents for each in right_sizing.symptoms()}
    kin = [(parents[text], kin) for text, _, kin, _ in right_sizing.labelled_symptoms()]
    assert all(kin == first for (first, *_), kin in kin)
    found = {text: name for text, name, _, _ in right_sizing.labelled_questions()}
    assert found["What is F-skatt?"] == "taxes"
    assert found["What are hidden defects?"] == "contracts"
    kinds = {p: name for _, name, p, _ in right_sizing.labelled_licences()}
    keys = [each.key for each in right_sizing.licences()]
    assert kinds[keys.index("mit")] == "permissive"
    assert kinds[keys.index("lgpl-2.1")] == "copyleft"


def test_siblings_and_copies_are_one_family():
    groups = right_sizing.related(
        "symptoms", ["a b c", "d e f", "a b c"], ["p", "q", "r"]
    )
    assert groups == [[0, 2], [1]]
    groups = right_sizing.related("symptoms", ["a b", "d e", "f g"], ["p", "q", "p"])
    assert groups == [[0, 2], [1]]
    groups = right_sizing.related("questions", ["a b", "d e", "f g"], ["p", "q", "p"])
    assert groups == [[0], [1], [2]]


def test_licences_are_relatives_by_their_whole_texts():
    known = licence_families(2, 0.2)  # of all licences
    places = [*range(sum(map(len, known)))]
    assert right_sizing.related("licences", [], places) == known
    keys = [each.key for each in right_sizing.licences()]
    kin = [keys.index(name) for name in ("agpl-3.0", "bsd-new", "gpl-2.0", "mit")]
    groups = right_sizing.related("licences", ["not read"] * 4, kin)
    assert sorted(groups) == [[0, 2], [1, 3]]


# Contenders


def test_a_linear_layer_learns_what_is_linear():
    x = torch.randn(60, 5, generator=generator())
    truth = torch.randn(3, 5, generator=generator(1))
    labels = (x @ truth.T).argmax(1)
    layer = right_sizing.fit_linear(x, labels, 3)
    assert (layer(x).argmax(1) == labels).double().mean() > 0.95
    assert not layer.weight.requires_grad and layer.weight.shape == (3, 5)
    twin = torch.nn.Linear(5, 3).double()
    for table in twin.parameters():
        torch.nn.init.zeros_(table)
    plan = Recipe(150, rate=0.1, final=0.0)

    def loss():
        return F.cross_entropy(twin(x.double()), labels)

    cells.adamw(twin.parameters(), loss, plan, weight_decay=0.1)
    for ours, right in zip(layer.parameters(), twin.parameters(), strict=True):
        cells.close(ours.double(), right.detach(), 1e-4)
    # a class more often: the bias knows
    labels = torch.tensor([0, 0, 0, 1])
    lone = right_sizing.fit_linear(torch.zeros(4, 2), labels, 2)
    share = lone(torch.zeros(1, 2)).softmax(-1)[0, 0].item()
    assert share == pytest.approx(0.75, abs=0.05)


def test_answers_are_those_of_a_model_that_reads_all_at_once():
    model, before = small_llama(), [3, 1, 4]
    texts = [[5, 9], [2, 6, 5, 3], [8], [7, 7, 7]]
    for batch in 1, 3, 8:
        found = right_sizing.answer_scores(model, before, texts, [4, 11], batch)
        for row, text in zip(found, texts, strict=True):
            logits = model(torch.tensor([before + text]))[0, -1]
            expected = logits.log_softmax(-1)[[4, 11]]
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_eight_texts_are_read_at_once_without_a_graph():
    model, read = Llama(SMALL), []
    model.residual = lambda ids, *a: read.append(len(ids)) or residual(ids, *a)
    residual = functools.partial(Llama.residual, model)
    found = right_sizing.answer_scores(model, [3, 1], [[5]] * 17, [4])
    assert read[-3:] == [8, 8, 1] and found.is_inference()


def test_calibration_takes_a_lead_away():
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2]])
    found = right_sizing.calibrated(torch.tensor(np.log(p))).numpy()
    np.testing.assert_allclose(found, np.log(p / p.mean(0)), atol=1e-9)
    others = np.array([[5], [0], [-3]])  # scores need not be of shares
    shifted = right_sizing.calibrated(torch.tensor(np.log(p) + others)).numpy()
    np.testing.assert_allclose(found, shifted, atol=1e-9)


def test_prompts_are_put_together():
    decode = right_sizing.smollm2_tokenizer().decode
    job = right_sizing.job("questions")
    shown = decode(right_sizing.instruction("questions", job.learn[:2]))
    name = job.classes[job.labels[job.learn[0]]]
    assert f"Text: {job.texts[job.learn[0]]}\nAnswer: {name}\n\nText:" in shown
    assert decode(right_sizing.asked_about("Why?")) == "Text: Why?\nAnswer:"


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_instruction_names_the_classes(domain):
    decode, classes = right_sizing.smollm2_tokenizer().decode, PARTS[domain][0]
    order = decode(right_sizing.instruction(domain))
    assert order.endswith("? Answer with one word.\n\n")
    assert order.startswith(("Is this", "Which "))
    assert all(name in order for name in classes)
    tokens = right_sizing.class_tokens(domain)
    says = "right_sizing.class_tokens"
    refuses("domain", right_sizing.class_tokens, f"{domain}!", says=says)
    assert len({*tokens}) == len(tokens)
    for token, name in zip(tokens, classes, strict=True):
        assert len(decode([token])) > 1 and f" {name}".startswith(decode([token]))


def wide_llama():
    torch.manual_seed(0)
    return Llama(LlamaConfig(31, 40, 32, 1, 2, 1, 16, 1e-5, 1e4))


def taught(*given, **options):
    """A model, what `teach_job` gives `learn_answers`, and what it returns."""
    model, calls = wide_llama(), []
    with pytest.MonkeyPatch.context() as patch:
        learn = lambda *given: calls.append(given) or "losses"  # noqa: E731
        patch.setattr(right_sizing, "learn_answers", learn)
        answer = right_sizing.teach_job(model, *given, **options)
    assert calls[0][0] is model and len(calls) == 1
    return model, *calls[0][1:], answer


def test_a_model_is_taught_all_texts_before_any_again():
    job, steps = right_sizing.job("questions"), 18  # 144 texts of 136
    model, batches, rate, losses = taught("questions", steps)
    assert (rate, losses) == (3e-3, "losses")
    assert [len(batch) for batch in batches] == [8] * steps
    before, tokens = (
        read("questions")
        for read in (right_sizing.instruction, right_sizing.class_tokens)
    )
    draw, twin = generator(), wide_llama()
    lora.add_lora(twin, ["query", "value"], 8, 16, generator=draw)
    order = torch.randperm(136, generator=draw).tolist()
    places = [job.learn[i] for i in order + order[:8]]
    for place, (question, answer) in zip(places, chain(*batches), strict=True):
        assert question == before + right_sizing.asked_about(job.texts[place])
        assert answer == [tokens[job.labels[place]]]
    state, right = lora.lora_state(model), lora.lora_state(twin)
    assert state.keys() == right.keys()
    assert all(torch.equal(state[name], right[name]) for name in right)
    assert taught("licences", 1, rate=0.1)[2] == 0.1
    given = model, "questions", 1, -1.0
    refuses("rate", right_sizing.teach_job, *given, says="right_sizing.teach_job")


def test_votes_are_added_up_in_double():
    weight = torch.tensor([[2.0**24, 1, 0, 0]])
    bias = torch.tensor([2.0**24 + 1], dtype=torch.double)
    views = right_sizing.vote_views("a b c d", "x", [*"abcd"], ["x"], weight, bias)
    assert views["Sum"].props["text"] == (
        "Votes for x: +16777217.00, over the root of 4 known words: +8388608.50. "
        "For any text: +16777217.00. Score: +25165825.50.\nIt says x."
    )


def test_no_sum_is_less_than_nothing():
    given = [*"ab"], ["x"], torch.tensor([[-1e-3, 0.0]]), torch.tensor([-3e-3])
    for question in "a", "b":
        said = right_sizing.vote_views(question, "x", *given)["Sum"].props["text"]
        assert "-0.00" not in said and said.count("+0.00") == 4


def test_votes_are_added_up():
    words, desks = ["heat", "roof", "tax"], ["money", "works"]
    weight = torch.tensor([[0.5, -1.0, 2.0], [0.25, 1.5, -2.0]])
    given = words, desks, weight, torch.tensor([0.1, -0.1])
    views = right_sizing.vote_views("Roof, roof & TAX: new!", "works", *given)
    assert [*views] == ["Votes for the desk", "Score of each desk", "Sum"]
    votes, scores, said = views.values()
    for bars in votes, scores:
        assert (bars.props["low"], bars.props["high"]) == (-3.5, 3.5)
    assert votes.props["labels"] == ["roof", "tax", "new (new)"]
    assert votes.arrays["values"].tolist() == [1.5, -2.0, 0.0]
    expected = [1 / 2**0.5 + 0.1, -0.5 / 2**0.5 - 0.1]
    assert scores.arrays["values"] == pytest.approx(expected)
    assert scores.props["labels"] == desks and scores.props["sets"]["bar"] == "desk"
    assert said.props["text"] == (
        "Votes for works: -0.50, over the root of 2 known words: -0.35. "
        "For any text: -0.10. Score: -0.45.\nIt says money."
    )
    views = right_sizing.vote_views("nothing known", "money", *given)
    assert views["Score of each desk"].arrays["values"] == pytest.approx([0.1, -0.1])
    views = right_sizing.vote_views("a roof", "works", *given)
    assert views["Score of each desk"].arrays["values"] == pytest.approx([-0.9, 1.4])
    many = " ".join(f"a{'b' * i}" for i in range(49))
    assert len(right_sizing.vote_views(many, "money", *given)) == 3
    for wrong in "12?", f"{many} more":
        refuses("question", right_sizing.vote_views, wrong, "money", *given)


# Language models of one domain


class Letters:
    """A tokenizer: a letter's number, 1 to 26; a line break is 0."""

    def encode(self, text):
        return [ord(c) - 96 if c.isalpha() else 0 for c in text]


def test_bits_are_those_of_each_token_after_a_line_break():
    model, text = small_llama(), "cabbage"
    ids = torch.tensor([0, *Letters().encode(text)])
    p = model(ids[None])[0, :-1].softmax(-1)
    bits = -p[range(7), ids[1:]].double().log2().sum().item()
    found = right_sizing.text_bits(model, Letters(), text)
    assert type(found) is float and found == pytest.approx(bits, rel=1e-5)


def test_a_domain_is_all_that_is_learned_from():
    job = right_sizing.job("questions")
    whole = right_sizing.domain_text("questions").split("\n\n")
    assert len(whole) >= len(job.known) and {*whole} >= {
        part for p in job.known for part in job.whole[p].split("\n\n")
    }
    tested = right_sizing.held_out_beginnings("questions")
    assert tested == [job.whole[p][:400] for p in job.test]
    assert right_sizing.held_out_beginnings("questions", 3)[0] == tested[0][:3]
    tokens = right_sizing.small_tokenizer("questions")
    assert len(tokens) == 2048 and right_sizing.small_tokenizer("questions") is tokens
    text = right_sizing.domain_text("questions")
    assert tokens.encode(text[:500]) == right_sizing.BytePairTokenizer(
        right_sizing.train_bpe(text, 1792)
    ).encode(text[:500])


def test_a_small_gpt_is_trained_by_the_modern_recipe():
    sizes, seen = right_sizing.small_sizes(), []
    assert (sizes.vocab, sizes.context, sizes.bias) == (2048, 384, False)
    assert (sizes.width, sizes.heads, sizes.layers) == (128, 4, 4)

    def train(model, ids, recipe, *, generator):
        seen.append((model, ids, recipe, generator))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(right_sizing, "train", train)
        found = right_sizing.small_gpt("questions", 7)
        other = right_sizing.small_gpt("questions", 7, seed=3)
        right_sizing.small_gpt("questions", 7, 0.25, places=[3, 1])
    (model, ids, recipe, draw), (_, _, _, last), (_, fewer, slower, _) = seen
    assert found is model and not any(w.requires_grad for w in found.parameters())
    text = right_sizing.domain_text("questions")
    assert ids.tolist() == right_sizing.small_tokenizer("questions").encode(text)
    assert recipe == Recipe(
        7, 6, 0.02, matrix_rate=0.03, final=0.0, positions="rotary", normed=True
    )
    assert slower == replace(recipe, rate=0.02 / 4, matrix_rate=0.03 / 4)
    part = right_sizing.domain_text("questions", [3, 1])
    whole = right_sizing.job("questions").whole
    assert part == f"{whole[3]}\n\n{whole[1]}"
    assert fewer.tolist() == right_sizing.small_tokenizer("questions").encode(part)
    assert (draw.initial_seed(), last.initial_seed()) == (0, 3)
    twin = right_sizing.new_gpt(sizes, recipe, generator())
    for ours, right, others in zip(
        found.parameters(), twin.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(ours, right) and (
            ours.dim() < 2 or not torch.equal(ours, others)
        )


# Costs


def test_costs_add_up():
    cost = right_sizing.total_cost(1000, 100, 0.5, 0.01, 0.2, 0.1)
    assert cost == pytest.approx(100 * 0.5 + 1000 * 0.01 + 200 * 0.1)
    assert right_sizing.total_cost(10, 0, 1.0, 1.0, 0.0, 5.0) == 10


def test_labels_pay_once_they_have_saved_their_price():
    assert right_sizing.pays_after(1360, 0.4) == pytest.approx(3400)
    assert right_sizing.pays_after(10, 0) == right_sizing.pays_after(10, -1) == math.inf


def test_turns_are_where_one_becomes_cheaper():
    assert right_sizing.overtakings([0.0, 10.0], [1.0, 2.0]) == [(1, 0)]
    assert right_sizing.overtakings([0.0, 10.0], [3.0, 1.0]) == [(1, 0), (5, 1)]
    assert right_sizing.overtakings([0.0, 10.0], [3.5, 0.0]) == [(1, 0), (3, 1)]
    assert right_sizing.overtakings([0.0, 1.0, 90.0], [5.0, 4.0, 1.0]) == [
        (1, 1),
        (30, 2),
    ]
    assert right_sizing.overtakings([0.0, 1e9], [1.0, 0.0]) == [
        (1, 0),
        (1_000_000_000, 1),
    ]
    assert right_sizing.overtakings([0.0, 2e9], [1.0, 0.0]) == [(1, 0)]
    drawn = torch.rand(2, 6, generator=generator(), dtype=torch.float64)
    first, each = (1000 * drawn[0]).tolist(), drawn[1].tolist()
    found = right_sizing.overtakings(first, each)
    for answers in range(1, 5000):
        place = max(turn for turn in found if turn[0] <= answers)[1]
        costs = [a + answers * e for a, e in zip(first, each, strict=True)]
        assert costs[place] == pytest.approx(min(costs), rel=1e-12)


# What is refused


def test_what_is_refused():
    refuses_all(
        right_sizing.job.__wrapped__,
        {"domain": "questions", "seed": 0},
        domain=["poems"],
    )
    refuses_all(right_sizing.alike, {"texts": ["a", "b"], "least": 0.5}, texts=[["a"]])
    refuses_all(right_sizing.siblings, {"names": ["a"]})
    show = {"domain": "questions", "examples": [0]}
    refuses_all(right_sizing.instruction, show, domain=["poems"], examples=[[-1]])
    refuses_all(right_sizing.asked_about, {"text": "a"})
    parts = {"places": [0, 1], "labels": torch.tensor([0, 1]), "most": 1}
    parts["generator"] = generator()
    refuses_all(right_sizing.in_equal_parts, parts, places=[[]], most=[0])
    fit = {"x": torch.ones(2, 3), "labels": torch.tensor([0, 1]), "classes": 2}
    wrong = {"x": [torch.ones(2, 3) / 0], "labels": [torch.zeros(3).long()]}
    refuses_all(right_sizing.fit_linear, fit, **wrong, classes=[0])
    read = {"model": small_llama(), "before": [1], "texts": [[2]], "tokens": [3]}
    empty = {"before": [[]], "texts": [[]], "tokens": [[]]}
    refuses_all(right_sizing.answer_scores, read, **empty)
    refuses_all(
        right_sizing.calibrated,
        {"scores": torch.zeros(2, 2)},
        scores=[torch.zeros(0, 2)],
    )
    names = [
        "answers",
        "labels",
        "label_price",
        "answer_price",
        "wrong",
        "mistake_price",
    ]
    good = dict(zip(names, [10, 1, 1.0, 1.0, 0.5, 1.0], strict=True))
    refuses_all(right_sizing.total_cost, good, answers=[0], labels=[-1], wrong=[1.5])
    for name in "domain_text", "small_tokenizer", "held_out_beginnings":
        refuses("domain", getattr(right_sizing, name), "poems")
    refuses("letters", right_sizing.held_out_beginnings, "questions", 0)
    small = {"domain": "questions", "steps": 1, "pace": 1.0, "seed": 0}
    wrong = {"domain": ["poems"], "steps": [0], "seed": [-1], "pace": [0.0]}
    refuses_all(right_sizing.small_gpt, small, **wrong)
    refuses("places", right_sizing.domain_text, "questions", [])
    votes = {"question": "a", "desk": "x", "words": ["a"], "desks": ["x"]}
    votes |= {"weight": torch.ones(1, 1), "bias": torch.ones(1)}
    refuses_all(right_sizing.vote_views, votes, words=[[]], bias=[torch.ones(2)])


# Exercises


def relatives_of(groups, one, other):
    """Places of `other` in families that have one of `one`."""
    found = [g for g in groups if {*g} & {*one}]
    return sorted(p for g in found for p in g if p in other)


def paid(spent, saved):
    return math.ceil(100 * spent / saved)


def cheapest(cost):
    return lambda curve, n, p, m: min(curve, key=lambda k: cost(*k, n, p, m))[0]


WRONG = [
    ("labels_to_buy", cheapest(lambda k, w, n, p, m: k * p + n * w * m), "of 100"),
    ("labels_to_buy", cheapest(lambda k, w, *_: w), "labels cost, too"),
    ("labels_to_buy", cheapest(lambda k, w, *_: k), "mistakes"),
    ("leaked", lambda g, a, b: sorted({*a} & {*b}), "relatives count"),
    ("leaked", lambda g, a, b: relatives_of(g, b, a), "the test's are asked for"),
    ("leaked", lambda g, a, b: sorted({*b} - {*relatives_of(g, a, b)}), "don.t"),
    ("leaked", lambda g, a, b: relatives_of(g, a, b)[::-1], "ascending order"),
    ("leaked", lambda g, a, b: [p for p in b if p in relatives_of(g, a, b)], "order"),
    ("leaked", lambda g, a, b: ["a", 1, None], "is right, not"),
    ("labels_pay", lambda w, e, n, p, m: 100 * n * p / ((w - e) * m), "to a whole"),
    ("labels_pay", lambda w, e, n, p, m: paid(n * p, w * m), "errs as well"),
    ("labels_pay", lambda w, e, n, p, m: paid(p, (w - e) * m), "not one"),
    ("labels_pay", lambda w, e, n, p, m: paid(n * p, w - e), "has a price"),
    ("labels_pay", lambda w, e, n, p, m: 100 * n * p // ((w - e) * m), "round up"),
    ("labels_pay", lambda w, e, n, p, m: round(100 * n * p / ((w - e) * m)), "up"),
    ("labels_pay", lambda w, e, n, p, m: paid(n * p, 100 * (w - e) * m), "of 100"),
    ("labels_pay", lambda w, e, n, p, m: 100 * n * p // ((w - e) * m) + 1, "one too"),
    (
        "labels_pay",
        lambda w, e, n, p, m: math.ceil(n * p / ((w / 100 - e / 100) * m)),
        "floats",
    ),
]


@pytest.mark.parametrize(("name", "fn", "why"), WRONG)
def test_wrong_answers_are_told_why(name, fn, why):
    with pytest.raises(AssertionError, match=why):
        page()[f"check_{name}"](fn)


@pytest.mark.parametrize("name", ["leaked", "labels_to_buy", "labels_pay"])
def test_right_answers_pass(name):
    assert "is right" in page()[f"check_{name}"](page()[name])
