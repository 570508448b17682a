"""The cells of introduction/next-word against torch, Counter and arithmetic."""

import itertools
import math
from collections import Counter

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, seeds

from fieldguide.introduction import next_word

leads = st.sampled_from([(), (3,), (2, 3)])
floats = st.sampled_from([torch.float32, torch.float64])


@cases(st.text(min_size=1, max_size=30))
def test_a_text_becomes_ids_and_comes_back(text):
    alphabet = next_word.characters(text)
    assert alphabet == sorted(set(text))
    ids = next_word.to_ids(text, alphabet)
    assert ids.dtype == torch.int64 and ids.shape == (len(text),)
    assert [alphabet[i] for i in ids] == list(text)
    assert next_word.to_text(ids, alphabet) == text


@cases(st.lists(st.text("ab", max_size=9), min_size=3, max_size=30))
def test_the_cut_lies_where_a_line_begins(lines):
    text = "\n".join(["first", *lines]) + "\n"
    for share in 0.1, 0.25, 0.5:
        last = int((1 - share) * len(text))
        if "\n" not in text[:last]:
            continue  # refused
        training, held_out = next_word.split_text(text, share)
        assert training + held_out == text and training.endswith("\n")
        assert len(training) <= last < len(training) + 1 + held_out.find("\n")
    text = "123456789\n" * 10
    assert next_word.split_text(text) == (text[:90], text[90:])
    assert next_word.split_text(text, 0.3) == (text[:70], text[70:])
    assert next_word.split_text("\nabc", 0.5) == ("\n", "abc")


@cases(st.integers(1, 6), st.integers(0, 40), seeds)
def test_pairs_are_those_that_python_counts(V, T, seed):
    ids = torch.randint(V, (T,), generator=generator(seed))
    counts = next_word.bigram_counts(ids, V)
    assert counts.shape == (V, V) and counts.dtype == torch.int64
    library = Counter(itertools.pairwise(ids.tolist()))
    right = [[library[i, j] for j in range(V)] for i in range(V)]
    assert counts.tolist() == right


@cases(seeds, leads, st.integers(1, 6), floats)
def test_softmax_and_cross_entropy_are_torchs_value_and_gradient(seed, lead, V, kind):
    logits, signal = (random(*lead, V, seed=seed + i, dtype=kind) for i in range(2))
    logits = (10 * logits).requires_grad_()
    targets = torch.randint(V, lead, generator=generator(seed))
    flat = F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))
    for ours, theirs in (
        (next_word.softmax(logits), F.softmax(logits, -1)),
        (next_word.cross_entropy(logits, targets), flat),
    ):
        tolerance = 1e-12 if kind == torch.float64 else 1e-5
        assert ours.dtype == kind
        close(ours, theirs, tolerance)
        pull = signal if ours.shape == logits.shape else torch.ones_like(ours)
        mine, other = (torch.autograd.grad(x, logits, pull) for x in (ours, theirs))
        close(mine, other, tolerance)


def test_far_and_forbidden_logits_do_not_overflow():
    rows = [[1000.0, 1001.0], [-2000.0, -2000.0], [-math.inf, 5.0]]
    expected = [[1 / (1 + math.e), math.e / (1 + math.e)], [0.5, 0.5], [0.0, 1.0]]
    close(next_word.softmax(torch.tensor(rows)), torch.tensor(expected), 1e-6)
    logits = torch.tensor([[1e4, 0.0], [0.0, -math.inf]])
    assert next_word.cross_entropy(logits, torch.tensor([1, 0])).item() == 5000


def test_perplexity_counts_equal_choices():
    for V in 1, 2, 65:
        for loss in math.log(V), torch.tensor(math.log(V), dtype=torch.double):
            assert math.isclose(next_word.perplexity(loss), V, rel_tol=1e-14)
