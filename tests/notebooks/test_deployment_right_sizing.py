"""The cells of deployment/right-sizing against numpy, torch and hand-made texts."""

from types import SimpleNamespace

import cells
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import generator

from fieldguide.deployment import right_sizing
from fieldguide.transformers.real_model import LlamaConfig
from fieldguide.transformers.training import Recipe

DOMAINS = ["licences", "symptoms", "questions"]
SMALL = LlamaConfig(31, 40, 12, 2, 3, 1, 16, 1e-5, 1e4)


def test_equal_parts_are_equal_and_drawn():
    labels = torch.tensor([0, 1, 0, 0, 1, 2, 2, 2, 2])
    places = [0, 1, 2, 3, 4, 5, 6, 7]
    for most, count in (1, 1), (2, 2), (9, 2):
        found = right_sizing.in_equal_parts(places, labels, most, generator())
        assert found == sorted(found) and {*found} <= {*places}
        assert torch.bincount(labels[found]).tolist() == [count] * 3


PARTS = {  # of each class: texts to learn from, texts to be tested on
    "licences": (["permissive", "copyleft", "proprietary"], 100, 20),
    "symptoms": (["brain", "heart", "eyes", "skin"], 100, 25),
    "questions": (["taxes", "permits", "contracts", "repairs"], 34, 22),
}


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


def test_the_texts_have_the_classes_of_those_who_made_them():
    found, questions, licences = (
        {where: (name, kin) for where, name, kin, _ in right_sizing.labelled_texts(d)}
        for d in ("symptoms", "questions", "licences")
    )
    tremor = "An unintentional, oscillating to-and-fro muscle movement about a "
    assert found[f"{tremor}joint axis."][0] == "brain"
    parents = {each.definition: each.parents for each in right_sizing.symptoms()}
    assert all(kin == parents[text][0] for text, (_, kin) in found.items())
    assert questions["What is F-skatt?"] == ("taxes", None)
    assert questions["What are hidden defects?"][0] == "contracts"
    kinds = {place: name for name, place in licences.values()}
    keys = [each.key for each in right_sizing.licences()]
    assert kinds[keys.index("mit")] == "permissive"
    assert kinds[keys.index("lgpl-2.1")] == "copyleft"


def test_siblings_and_copies_are_one_family():
    text = "any person may copy this software and sell what he has made of it"
    near = text.replace("sell", "give away")
    other = "the retina is a layer of cells at the back of the eye that sees light"
    for domain, kin, groups in (
        ("symptoms", "pqr", [[0, 2], [1]]),
        ("symptoms", "ppq", [[0, 1, 2]]),
        ("questions", "ppq", [[0, 2], [1]]),
    ):
        assert right_sizing.related(domain, [text, other, near], kin) == groups


def test_licences_are_relatives_by_their_whole_texts():
    keys = [each.key for each in right_sizing.licences()]
    kin = [keys.index(name) for name in ("agpl-3.0", "bsd-new", "gpl-2.0", "mit")]
    groups = right_sizing.related("licences", ["not read"] * 4, kin)
    assert sorted(groups) == [[0, 2], [1, 3]]


def test_a_linear_layer_is_trained_as_by_torch():
    x = torch.randn(60, 5, generator=generator())
    labels = x[:, :3].argmax(1)
    layer = right_sizing.fit_linear(x, labels, 3)
    twin = torch.nn.Linear(5, 3).double()
    for table in twin.parameters():
        torch.nn.init.zeros_(table)
    plan = Recipe(150, rate=0.1, final=0.0)

    def loss():
        return F.cross_entropy(twin(x.double()), labels)

    cells.adamw(twin.parameters(), loss, plan, weight_decay=0.1)
    for ours, right in zip(layer.parameters(), twin.parameters(), strict=True):
        cells.close(ours.double(), right.detach(), 1e-4)


def test_answers_are_those_of_a_model_that_reads_all_at_once():
    model, before = cells.llama(SMALL), [3, 1, 4]
    texts = [[5, 9], [2, 6, 5, 3], [8], [7, 7, 7]]
    for batch in 1, 3, 8:
        found = right_sizing.answer_scores(model, before, texts, [4, 11], batch)
        for row, text in zip(found, texts, strict=True):
            logits = model(torch.tensor([before + text]))[0, -1]
            expected = logits.log_softmax(-1)[[4, 11]]
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_calibration_takes_a_lead_away():
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2]])
    found = right_sizing.calibrated(torch.tensor(np.log(p))).numpy()
    np.testing.assert_allclose(found, np.log(p / p.mean(0)), atol=1e-9)


@pytest.mark.parametrize("domain", DOMAINS)
def test_prompts_are_put_together(domain):
    decode = right_sizing.smollm2_tokenizer().decode
    job = right_sizing.job(domain)
    before, tokens = right_sizing.instruction(domain, job.learn[-2:])
    name = job.classes[job.labels[job.learn[-1]]]
    assert decode(before).endswith(
        f"Text: {job.texts[job.learn[-1]]}\nAnswer: {name}\n\n"
    )
    assert decode(right_sizing.asked_about("Why?")) == "Text: Why?\nAnswer:"
    assert len({*tokens}) == len(job.classes)  # their first tokens tell them apart
    for token, name in zip(tokens, job.classes, strict=True):
        assert len(decode([token])) > 1 and f" {name}".startswith(decode([token]))


def test_votes_are_added_up():
    words, desks = ["heat", "roof", "tax"], ["money", "works"]
    weight = torch.tensor([[0.5, -1.0, 2.0], [0.25, 1.5, -2.0]])
    given = words, desks, weight, torch.tensor([0.1, -0.1])
    views = right_sizing.vote_views("Roof, roof & TAX: new!", "works", *given)
    votes, scores, said = views.values()
    assert votes.props["labels"] == ["roof", "tax", "new (new)"]
    assert votes.arrays["values"].tolist() == [1.5, -2.0, 0.0]
    expected = [1 / 2**0.5 + 0.1, -0.5 / 2**0.5 - 0.1]
    assert scores.arrays["values"] == pytest.approx(expected)
    assert said.props["text"].endswith("Score: -0.45.\nIt says money.")


def test_bits_are_those_of_each_token_after_a_line_break():
    model, text = cells.llama(SMALL), "cabbage"
    letters = SimpleNamespace(encode=lambda text: [ord(c) % 31 for c in text])
    ids = torch.tensor(letters.encode("\n" + text))
    p = model(ids[None])[0, :-1].softmax(-1)
    bits = -p[range(7), ids[1:]].double().log2().sum().item()
    found = right_sizing.text_bits(model, letters, text)
    assert found == pytest.approx(bits, rel=1e-5)
