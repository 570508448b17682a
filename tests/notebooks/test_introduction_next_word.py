"""The cells of introduction/next-word against torch, Counter and arithmetic."""

import functools
import itertools
import math
from collections import Counter

import cells
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import close, generator, random, refuses, refuses_all
from hypothesis import given, settings

from fieldguide.introduction import next_word

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
leads = st.sampled_from([(), (3,), (2, 3)])
floats = st.sampled_from([torch.float32, torch.float64])


@given(st.text(min_size=1, max_size=30))
@quick
def test_a_text_becomes_ids_and_comes_back(text):
    alphabet = next_word.characters(text)
    assert alphabet == sorted(set(text))
    ids = next_word.to_ids(text, alphabet)
    assert ids.dtype == torch.int64 and ids.shape == (len(text),)
    assert [alphabet[i] for i in ids] == list(text)
    assert next_word.to_text(ids, alphabet) == text
    words = ["code", "runs", "the"]
    assert next_word.to_ids(["the", "code"], words).tolist() == [2, 0]
    nothing = next_word.to_ids("", words)
    assert nothing.dtype == torch.int64 and next_word.to_text(nothing, words) == ""


@given(st.lists(st.text("ab", max_size=9), min_size=3, max_size=30))
@quick
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


@given(st.integers(1, 6), st.integers(0, 40), seeds)
@quick
def test_pairs_are_those_that_python_counts(V, T, seed):
    ids = torch.randint(V, (T,), generator=generator(seed))
    counts = next_word.bigram_counts(ids, V)
    assert counts.shape == (V, V) and counts.dtype == torch.int64
    library = Counter(itertools.pairwise(ids.tolist()))
    right = [[library[i, j] for j in range(V)] for i in range(V)]
    assert counts.tolist() == right


@given(seeds, leads, st.integers(1, 6), floats)
@quick
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
        even = torch.tensor(math.log(V), requires_grad=True)
        for loss in math.log(V), even.double(), even, even.view(1):
            value = next_word.perplexity(loss)
            assert isinstance(value, float) and math.isclose(value, V, rel_tol=1e-5)
        assert math.isclose(next_word.perplexity(math.log(V)), V, rel_tol=1e-14)
    assert (next_word.perplexity(math.inf), next_word.perplexity(0)) == (math.inf, 1)


KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BAD, LETTERS = (-math.inf, math.inf, math.nan), ["a", "b"]
ROWS, IDS = torch.zeros(2, 3), torch.tensor([0, 2])
LOW = IDS[:, None] > 0  # all of the first row is bad
UNFIT = [IDS + 1, IDS - 1, IDS.int()]
REFUSALS = {
    "to_ids": (
        {"text": "ab", "alphabet": LETTERS},
        {"text": ["abz", ["a", "c"], [1], [*LETTERS, 1]],
         "alphabet": [[1, 2], LETTERS[:1], [], [*LETTERS, 1]]},
    ),
    "bigram_counts": ({"ids": IDS, "V": 3}, {"ids": UNFIT, "V": [2]}),
    "characters": ({"text": "ab"}, {"text": [LETTERS, ""]}),
    "to_text": ({"ids": IDS, "alphabet": "abc"}, {"ids": UNFIT, "alphabet": [[1], ""]}),
    "split_text": (
        {"text": "ab\ncd\nx\n", "held_out": 0.3},
        {"text": ["", "abc", "abcdefgh\nx"], "held_out": [1]},
    ),
    "perplexity": ({"loss": 1.5}, {"loss": [-0.1, ROWS[0], ROWS[0, :0], IDS]}),
    "softmax": (
        {"logits": ROWS}, {"logits": [ROWS[:, :0], *(ROWS.where(LOW, x) for x in BAD)]}
    ),
    "cross_entropy": (
        {"logits": ROWS, "targets": IDS},
        {"logits": [ROWS[:1], ROWS[:, :0]], "targets": [*UNFIT, IDS[:1], IDS[:0]]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_refused_by_name(name):
    good, bad = REFUSALS[name]
    refuses_all(getattr(next_word, name), good, **bad)
    refuses("targets", next_word.cross_entropy, ROWS[:0], IDS[:0])


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    logits, targets = random(2, 3, 5, dtype=kind), torch.zeros(2, 3).long()
    for call in (
        lambda device: next_word.softmax(logits.to(device)),
        lambda device: next_word.cross_entropy(logits.to(device), targets.to(device)),
    ):
        known, result = call("cpu"), call("meta")
        assert result.is_meta and result.dtype == known.dtype == kind
        assert result.shape == known.shape and known.isfinite().all()


@functools.cache
def page():
    """The exercises beside the diary and a small book."""
    text = "the test and the code\nqueue, then the queen\n"
    alphabet = next_word.characters(text)
    pairs = next_word.bigram_counts(next_word.to_ids(text, alphabet), len(alphabet))
    diary = torch.tensor([4, 3, 1, 4, 0, 2, 4, 3, 2, 4, 3, 1, 4, 0, 2])
    names = {"math": math, "F": F, "alphabet": alphabet, "book_counts": pairs}
    names |= {"book_table": pairs / pairs.sum(1, keepdim=True)}
    names |= {"counts": next_word.bigram_counts(diary, 5)}
    return cells.run_exercises("introduction/next-word", next_word, **names)


def unweighted(counts):
    p = counts.sum(0) / counts.sum()
    return -p[p > 0].log().mean().item()


# A wrong answer, made from the right one `f`, and what the check says of it.
WRONG = {
    "likeliest": [
        (lambda f, t, s, n: None, "returns None"),
        (lambda f, t, s, n: s + f(t, s, n), "begins with start; leave"),
        (lambda f, t, s, n: s + f(t, s, n - 1), "begins with start, and"),
        (lambda f, t, s, n: f(t, s, n)[:-1], "one pick too few"),
        (lambda f, t, s, n: f(t.T, s, n), "in the column"),
        (lambda f, t, s, n: n * f(t, s, 1), "always look in the row of start"),
        (lambda f, t, s, n: ("u" + n * "eu")[:n], "not the likeliest ones"),
        (lambda f, t, s, n: n * "?", r"is right, not '\?"),
    ],
    "without_memory": [
        (lambda f, c: None, "returns None"),
        (lambda f, c: torch.tensor(f(c)), r"a number is wanted; item\(\)"),
        (lambda f, c: f(c) if c.sum(0).all() else math.nan, "it's NaN"),
        (lambda f, c: f(c) / math.log(2), "in bits"),
        (lambda f, c: -f(c), "the sign is wrong"),
        (lambda f, c: f(c) * c.sum().item(), "the sum over all pairs"),
        (lambda f, c: f(c.T), "what comes first"),
        (lambda f, c: math.exp(f(c)), "the perplexity"),
        (lambda f, c: unweighted(c), "weigh each surprise"),
    ],
    "batch_gradient": [
        (lambda f, z, y: None, "returns None"),
        (lambda f, z, y: f(z, y)[0], r"the shape \(2,\), but \(3, 2\) is wanted"),
        (lambda f, z, y: f(z, y) * len(y), "an average over the batch"),
        (lambda f, z, y: f(z, y) / z.size(1), "by B only, not by V"),
        (lambda f, z, y: f(z, y) * len(y) / z.size(1), "of rows, not by V"),
        (lambda f, z, y: z.softmax(1) / len(y), "nothing is subtracted"),
        (lambda f, z, y: -f(z, y), "the sign is wrong"),
        (lambda f, z, y: f(z, y) + (z - z.softmax(1)) / len(y), "from the logits"),
        (lambda f, z, y: f(z, y) + (z.softmax(0) - z.softmax(1)) / len(y), "columns"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_check_names_the_cause_of_a_wrong_answer(name):
    for change, cause in WRONG[name]:
        with pytest.raises(AssertionError, match=cause):
            page()[f"check_{name}"](functools.partial(change, page()[name]))
