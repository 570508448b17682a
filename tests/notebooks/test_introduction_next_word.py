"""The cells of introduction/next-word against torch, Python's Counter and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import functools
import itertools
import math
from collections import Counter

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import close, fails, refuses, run_exercises, solutions_pass
from hypothesis import given, settings

from fieldguide.introduction import next_word

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)
leads = st.sampled_from([(), (3,), (2, 3)])


def some(seed, *shape, kind=torch.double):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.double).to(kind)


# Text and ids


@given(st.text(min_size=1, max_size=30))
@quick
def test_a_text_becomes_ids_and_comes_back(text):
    alphabet = next_word.characters(text)
    assert alphabet == sorted(set(text))
    ids = next_word.to_ids(text, alphabet)
    assert ids.dtype == torch.int64 and ids.shape == (len(text),)
    assert [alphabet[i] for i in ids] == list(text)
    assert next_word.to_text(ids, alphabet) == text


def test_ids_of_words_and_of_nothing():
    vocabulary = ["code", "runs", "the"]
    assert next_word.to_ids(["the", "code"], vocabulary).tolist() == [2, 0]
    nothing = next_word.to_ids("", vocabulary)
    assert nothing.shape == (0,) and nothing.dtype == torch.int64
    assert next_word.to_text(nothing, vocabulary) == ""


def test_text_outside_the_alphabet_is_refused():
    refuses("text", next_word.to_ids, "abzc", ["a", "b"], says="['c', 'z']")
    refuses("text", next_word.characters, "")
    refuses("text", next_word.characters, ["a", "b"])
    for ids in torch.tensor([0, 2]), torch.tensor([-1]), torch.tensor([0.0]), [0, 1]:
        refuses("ids", next_word.to_text, ids, ["a", "b"])


@pytest.mark.parametrize("V", [1, 5])
def test_ids_lie_between_0_and_V(V):
    next_word.require_ids("ids", torch.arange(V), V)
    next_word.require_ids("ids", torch.tensor([], dtype=torch.long), V)
    for ids in torch.tensor([V]), torch.tensor([-1]), torch.tensor([0, V, -1]):
        says = f"must be from 0 to {V - 1} throughout"
        refuses("ids", next_word.require_ids, "ids", ids, V, says=says)
    for ids in torch.tensor([0.0]), torch.tensor([0], dtype=torch.int32), [0], None:
        refuses("ids", next_word.require_ids, "ids", ids, V, says="of int64")


def test_the_name_of_the_ids_is_the_callers():
    try:
        next_word.require_ids("targets", torch.tensor([9]), 3)
    except ValueError as error:
        assert str(error).startswith("targets = <Tensor")
    else:
        raise AssertionError("accepted an id that has no place")


# The cut


@given(st.lists(st.text("ab", max_size=9), min_size=3, max_size=30))
@quick
def test_the_cut_lies_where_a_line_begins(lines):
    text = "\n".join(["first", *lines]) + "\n"
    for share in 0.1, 0.25, 0.5:
        last = int((1 - share) * len(text))
        if "\n" not in text[:last]:
            refuses("text", next_word.split_text, text, share)
            continue
        training, held_out = next_word.split_text(text, share)
        assert training + held_out == text and training.endswith("\n")
        assert len(training) <= last < len(training) + 1 + held_out.find("\n")


def test_a_tenth_is_held_out_unless_said():
    text = "123456789\n" * 10
    training, held_out = next_word.split_text(text)
    assert (len(training), len(held_out)) == (90, 10)
    assert next_word.split_text(text, 0.3) == (text[:70], text[70:])
    assert next_word.split_text("\nabc", 0.5) == ("\n", "abc")


def test_shares_and_texts_that_cannot_be_cut_are_refused():
    for share in (0, 1, -0.1, 1.5, math.nan):
        refuses("held_out", next_word.split_text, "a\nb\n", share)
    for text in ("", "abc", "abcd\nx"):
        refuses("text", next_word.split_text, text, 0.5)


# Counts


@given(st.integers(1, 6), st.integers(0, 40), seeds)
@quick
def test_pairs_are_those_that_python_counts(V, T, seed):
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (T,), generator=rng)
    counts = next_word.bigram_counts(ids, V)
    assert counts.shape == (V, V) and counts.dtype == torch.int64
    library = Counter(itertools.pairwise(ids.tolist()))
    assert {pair: n for pair in itertools.product(range(V), repeat=2)
            if (n := counts[pair].item())} == dict(library)  # fmt: skip


def test_ids_that_cannot_be_counted_are_refused():
    count = next_word.bigram_counts
    refuses("ids", count, torch.tensor([0, 3]), 3, says="from 0 to 2")
    refuses("ids", count, torch.tensor([0, -1]), 3)
    refuses("ids", count, torch.tensor([0.5]), 3)
    refuses("ids", count, torch.tensor([[0, 1]]), 3, says="of shape (T,)")
    refuses("ids", count, torch.tensor(0), 3, says="of shape (T,)")


# Softmax


@given(seeds, leads, sizes, st.sampled_from([torch.float32, torch.float64]))
@quick
def test_softmax_is_torchs_value_and_gradient(seed, lead, V, kind):
    logits = (10 * some(seed, *lead, V, kind=kind)).requires_grad_()
    signal = some(seed + 1, *lead, V, kind=kind)
    ours, theirs = next_word.softmax(logits), F.softmax(logits, -1)
    tolerance = 1e-12 if kind == torch.float64 else 1e-5
    assert ours.dtype == kind
    close(ours, theirs, tolerance)
    gradients = [
        torch.autograd.grad((shares * signal).sum(), logits)[0]
        for shares in (ours, theirs)
    ]
    close(*gradients, tolerance)


def test_softmax_of_far_and_forbidden_logits():
    rows = [[1000.0, 1001.0], [-2000.0, -2000.0], [-math.inf, 5.0]]
    expected = [[1 / (1 + math.e), math.e / (1 + math.e)], [0.5, 0.5], [0.0, 1.0]]
    close(next_word.softmax(torch.tensor(rows)), torch.tensor(expected), 1e-6)
    assert next_word.softmax(torch.zeros(0, 3)).shape == (0, 3)


def test_softmax_refuses_what_has_no_shares():
    good = [0.0, 1.0]
    for bad in ([-math.inf] * 2, [0.0, math.inf], [math.nan, 0.0]):
        says = "finite at the top"
        refuses("logits", next_word.softmax, torch.tensor([good, bad]), says=says)
    for bad in (good, torch.tensor([1, 2]), torch.tensor(1.0), torch.zeros(2, 0)):
        refuses("logits", next_word.softmax, bad, says="(..., V), V > 0")


# The loss


@given(seeds, leads, sizes)
@quick
def test_cross_entropy_is_torchs_value_and_gradient(seed, lead, V):
    logits = (5 * some(seed, *lead, V)).requires_grad_()
    rng = torch.Generator().manual_seed(seed)
    targets = torch.randint(V, lead, generator=rng)
    ours = next_word.cross_entropy(logits, targets)
    theirs = F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))
    close(ours, theirs)
    assert ours.shape == ()
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    close(*gradients)
    count = max(1, targets.numel())
    error = next_word.softmax(logits.detach()) - F.one_hot(targets, V)
    close(gradients[0], error / count)


def test_cross_entropy_of_large_logits_does_not_overflow():
    logits = torch.tensor([[1e4, 0.0], [0.0, -math.inf]])
    targets = torch.tensor([1, 0])
    assert next_word.cross_entropy(logits, targets).item() == 5000


def test_cross_entropy_refuses_what_does_not_fit():
    logits, targets = torch.zeros(2, 3), torch.tensor([0, 2])
    loss = next_word.cross_entropy
    assert math.isclose(loss(logits, targets), math.log(3), rel_tol=1e-6)
    for bad in ([[0.0]], logits.long(), torch.tensor(0.0)):
        refuses("logits", loss, bad, targets, says="a float tensor (..., V)")
    refuses("targets", loss, logits, torch.tensor([0, 3]), says="from 0 to 2")
    refuses("targets", loss, logits, torch.tensor([-1, 0]))
    refuses("targets", loss, logits, torch.tensor([0.0, 1.0]))
    for bad in (targets[:1], targets[None], torch.tensor([0] * 3), torch.tensor(0)):
        refuses("targets", loss, logits, bad, says="of shape (2,), not empty")
    refuses("targets", loss, logits[:0], targets[:0], says="of shape (0,), not empty")


@pytest.mark.parametrize("V", [1, 2, 65])
def test_perplexity_counts_equal_choices(V):
    even = next_word.cross_entropy(torch.zeros(4, V).double(), torch.zeros(4).long())
    for loss in (math.log(V), even, even.float(), torch.tensor([math.log(V)])):
        value = next_word.perplexity(loss)
        assert isinstance(value, float)
        assert math.isclose(value, V, rel_tol=1e-5)
    assert math.isclose(next_word.perplexity(math.log(V)), V, rel_tol=1e-14)


def test_perplexity_of_a_recorded_loss_and_of_infinity():
    loss = torch.tensor(2.0, requires_grad=True)
    assert math.isclose(next_word.perplexity(loss), math.e**2)
    assert next_word.perplexity(math.inf) == math.inf
    assert next_word.perplexity(0) == 1
    for bad in (-0.1, math.nan, torch.zeros(2), torch.zeros(0)):
        refuses("loss", next_word.perplexity, bad)


# What the notebook says of its table


def test_the_counted_table_has_the_lowest_loss():
    """Gradient 0 there, and any step away from it costs."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(4, (200,), generator=rng)
    counts = next_word.bigram_counts(ids, 4).double()
    best = (counts / counts.sum(1, keepdim=True)).log().requires_grad_()
    loss = next_word.cross_entropy(best[ids[:-1]], ids[1:])
    (gradient,) = torch.autograd.grad(loss, best)
    close(gradient, torch.zeros(4, 4).double())
    for seed in range(20):
        other = best.detach() + 0.1 * some(seed, 4, 4)
        assert next_word.cross_entropy(other[ids[:-1]], ids[1:]) > loss


# Other devices and float types


KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    logits, targets = some(0, 2, 3, 5, kind=kind), torch.zeros(2, 3).long()
    for call in (
        lambda device: next_word.softmax(logits.to(device)),
        lambda device: next_word.cross_entropy(logits.to(device), targets.to(device)),
    ):
        known, result = call("cpu"), call("meta")
        assert result.is_meta and result.dtype == known.dtype == kind
        assert result.shape == known.shape and known.isfinite().all()


# The exercises


@functools.cache
def exercises():
    """The notebook's checks and solutions, run beside the diary and a small book."""
    text = "the test and the code\nqueue, then the queen\n"
    alphabet = next_word.characters(text)
    book_counts = next_word.bigram_counts(
        next_word.to_ids(text, alphabet), len(alphabet)
    )
    diary = torch.tensor([4, 3, 1, 4, 0, 2, 4, 3, 2, 4, 3, 1, 4, 0, 2])
    return run_exercises(
        "introduction/next-word",
        next_word,
        also=["table-loss"],
        math=math,
        F=F,
        alphabet=alphabet,
        book_counts=book_counts,
        book_shares=book_counts / book_counts.sum(1, keepdim=True),
        counts=next_word.bigram_counts(diary, 5),
    )


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()

    def naive(counts):  # NaN where a character never comes next
        share = counts.sum(0).double() / counts.sum()
        return -(share * share.log()).sum().item()

    def by_rows(counts):  # who comes first, not who comes next
        return book.without_memory(counts.T)

    def in_bits(counts):
        return book.without_memory(counts) / math.log(2)

    fails(book.check_without_memory, naive, by_rows, in_bits, lambda counts: 1)
    right = book.batch_gradient
    fails(
        book.check_batch_gradient,
        lambda logits, targets: right(logits, targets) * len(targets),
        lambda logits, targets: -right(logits, targets),
        lambda logits, targets: next_word.softmax(logits) / len(targets),
        lambda logits, targets: right(logits, targets)[0],
    )
    fails(
        book.check_likeliest,
        lambda shares, start, count: start + book.likeliest(shares, start, count - 1),
        lambda shares, start, count: book.likeliest(shares, start, count)[:-1],
        lambda shares, start, count: book.likeliest(shares.T, start, count),
        lambda shares, start, count: start * count,
    )
    fails(
        book.check_steps_to,
        lambda counts, rate, loss: book.steps_to(counts, rate, loss) + 1,
        lambda counts, rate, loss: book.steps_to(counts, 5.0, loss),
        lambda counts, rate, loss: max(0, book.steps_to(counts, rate, loss) - 1),
        lambda counts, rate, loss: 0,
        lambda counts, rate, loss: float(book.steps_to(counts, rate, loss)),
    )
