"""The cells of transformers/induction against loops, torch and arithmetic."""

import contextlib
import copy
import functools
import types

import hypothesis.strategies as st
import notebooks
import pytest
import sources
import torch
import torch.nn.functional as F
from cells import close, fails, forever, generator, refuses_all, run_exercises
from hypothesis import given, settings

from fieldguide.data import smollm2_tokenizer
from fieldguide.transformers import attention, induction, real_model

quick = settings(max_examples=30, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
IDS = torch.tensor([[1, 5, 2, 7, 5], [3, 3, 12, 0, 1]])


@functools.cache
def llama():
    """A small Llama with random weights: 3 layers, 4 heads that share 2 keys."""
    torch.manual_seed(0)
    sizes = {"vocab": 13, "context": 16, "width": 24, "layers": 3, "hidden": 24}
    heads = {"heads": 4, "kv_heads": 2}  # six numbers wide: not as many as heads
    config = real_model.LlamaConfig(**sizes, **heads, eps=1e-5, base=100.0)
    return real_model.Llama(config).requires_grad_(False).eval()


# Lists, losses and scores


def test_words_begin_with_a_space_and_lists_come_twice():
    tokenizer = smollm2_tokenizer()
    words = induction.word_starts(tokenizer)
    texts = [tokenizer.decode([i]) for i in words.tolist()]
    kept = [t for t in texts if t[0] == " " and t[1:].isascii() and t[1:].isalpha()]
    assert len(texts) == len(set(texts)) == len(kept) == 21_185
    assert all(t.islower() and len(t) > 3 for t in texts)
    known = [tokenizer.encode(f" {word}") for word in ("crow", "cat", "miners")]
    assert all(len(ids) == 1 and ids[0] in words for ids in known)
    few = torch.tensor([7, 11, 13])
    ids = induction.read_twice(few, 50, 4, generator())
    assert ids.shape == (50, 9) and ids[:, 0].eq(0).all() and ids.dtype == few.dtype
    assert torch.equal(ids[:, 1:5], ids[:, 5:])
    assert ids[:, 1:].unique().tolist() == few.tolist()
    assert torch.equal(ids, induction.read_twice(few, 50, 4, generator()))


def test_losses_are_those_of_the_next_tokens():
    losses, logits = induction.token_losses(llama(), IDS), llama()(IDS)
    assert losses.shape == (2, 4) and losses.is_inference()
    for b, t in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        close(losses[b, t], F.cross_entropy(logits[b, t], IDS[b, t + 1]), 1e-5)


@given(seeds, st.sampled_from([(), (3,), (2, 3)]), st.integers(2, 9), st.data())
@quick
def test_scores_are_means_of_their_cells(seed, leading, T, data):
    weights = torch.rand(*leading, T, T, generator=generator(seed)).double().tril()
    weights = weights / weights.sum(-1, keepdim=True)
    rows = range(1, T)
    right = sum(weights[..., i, 0] for i in rows) / len(rows)
    close(induction.sink_score(weights), right)
    right = sum(weights[..., i, i - 1] for i in rows) / len(rows)
    close(induction.previous_token_score(weights), right)
    if T > 2:
        period = data.draw(st.integers(2, T - 1))
        rows = range(period, T)
        right = sum(weights[..., i, i - period + 1] for i in rows) / len(rows)
        close(induction.induction_score(weights, period), right)


def test_the_best_heads_come_first():
    scores = torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.5]])
    best = [(0, 1), (1, 0), (1, 2), (0, 2), (1, 1), (0, 0)]
    for count in 1, 2, 6, 9:
        assert induction.top_heads(scores, count) == best[:count]


def test_other_heads_are_drawn_from_all_the_rest():
    taken, seen = [(0, 0), (2, 3), (1, 1)], set()
    for seed in range(30):
        drawn = induction.other_heads(llama(), taken, 4, generator(seed))
        assert drawn == induction.other_heads(llama(), taken, 4, generator(seed))
        assert len(drawn) == len(set(drawn)) == 4 and not set(drawn) & set(taken)
        seen |= set(drawn)
    assert seen == {(i, h) for i in range(3) for h in range(4)} - set(taken)


# The toy


def test_toy_is_attention_added_layer_by_layer():
    toy = cell("attention-only", **vars(attention)).AttentionOnly
    model = toy(3, vocab=11, context=6, width=8)
    ids = torch.tensor([[1, 10, 3, 3], [0, 0, 7, 2]])
    logits, weights = model(ids)
    assert logits.shape == (2, 4, 11) and weights.shape == (3, 2, 2, 4, 4)
    x = model.tokens.weight[ids] + model.places.weight[:4]
    for layer, look in zip(model.layers, weights, strict=True):
        change, own = layer(x, attention.causal_mask(4))
        assert torch.equal(own, look)
        x = x + change
    close(logits, x @ model.unembed.weight.T + model.unembed.bias, 1e-5)


@given(seeds, st.integers(2, 5), st.integers(0, 3), st.integers(0, 2))
@quick
def test_sequences_repeat_with_a_period_of_their_own(seed, low, more, spare):
    high = low + more
    vocab, context = high + spare, 2 * high + spare + 1
    repeating = cell("repeating").repeating
    ids, known = repeating(60, low, high, generator(seed), context, vocab)
    assert ids.shape == (60, context) and known.shape == (60, context - 1)
    periods = [row.index(row[0], 1) for row in ids.tolist()]
    assert set(periods) == set(range(low, high + 1)) and ids.max() < vocab
    for row, sure, period in zip(ids.tolist(), known.tolist(), periods, strict=True):
        assert len(set(row[:period])) == period
        assert row == [row[t % period] for t in range(context)]
        assert sure == [t >= period for t in range(context - 1)]


# Taking heads out


def without_columns(heads):
    """Logits of a copy whose output matrices ignore the heads' columns."""
    twin = copy.deepcopy(llama())
    for layer, head in heads:
        weight = twin.blocks[layer].attention.output.weight
        weight[:, 6 * head : 6 * head + 6] = 0
    return twin(IDS)


@pytest.mark.parametrize(
    "heads", [[(0, 0)], [(2, 3)], [(1, 1), (1, 2)], [(0, 3), (2, 0), (0, 1)], []]
)
def test_a_head_knocked_out_adds_nothing(heads):
    model, before = llama(), llama()(IDS)
    with induction.knocked_out(model, heads):
        out = model(IDS)
    close(out, without_columns(heads), 1e-5)
    assert heads == [] or not torch.allclose(out, before, atol=1e-4)
    assert torch.equal(model(IDS), before), "the model is as it was"


def test_heads_hand_over_what_is_given():
    """The outputs of another text, put in, are what the mixer sees."""
    model = llama()
    given = torch.arange(2 * 5 * 6.0).reshape(2, 5, 6)
    seen = []
    with induction.replaced(model, {(1, 2): given, (1, 0): 7.0, (0, 3): given[0]}):
        for layer in (0, 1):
            mixer = model.blocks[layer].attention.output
            mixer.register_forward_pre_hook(lambda m, x: seen.append(x[0].clone()))
        model(IDS)
    for layer in (0, 1):
        model.blocks[layer].attention.output._forward_pre_hooks.clear()
    first, second = (x.unflatten(-1, (4, 6)) for x in seen)
    assert torch.equal(first[:, :, 3], given[0].expand(2, 5, 6))
    assert torch.equal(second[:, :, 2], given)
    assert second[:, :, 0].eq(7).all()
    assert not second[:, :, 1].eq(7).any() and not first[:, :, :3].eq(0).any()


def test_its_own_output_changes_nothing_and_the_input_is_not_written_to():
    model = llama()
    trace = real_model.trace_layers(model, IDS)
    x = model.blocks[1].attention_norm(trace.residuals[1])
    values = attention.split_heads(model.blocks[1].attention.value(x), 2)
    own = trace.weights[1, :, 3] @ values[:, 1]
    with induction.replaced(model, {(1, 3): own}):
        same = model(IDS)
    close(same, llama()(IDS), 1e-5)
    mixed = torch.ones(1, 2, 16)
    changed = induction.replacing({0: 0.0}, 4)(None, (mixed,))
    assert mixed.eq(1).all() and changed[..., :4].eq(0).all()
    assert changed[..., 4:].eq(1).all() and changed.shape == mixed.shape


def test_the_hooks_go_when_the_block_ends_in_an_error():
    model, before = llama(), llama()(IDS)
    out = induction.knocked_out(model, [(0, 0), (1, 1)])
    with contextlib.suppress(KeyError), out:
        raise KeyError
    assert torch.equal(model(IDS), before)
    for block in model.blocks:
        assert not block.attention.output._forward_pre_hooks


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    def results(device):
        weights = torch.rand(2, 4, 4, generator=generator()).to(device, kind)
        yield induction.sink_score(weights)
        yield induction.previous_token_score(weights)
        yield induction.induction_score(weights, 2)
        model = copy.deepcopy(llama()).to(device, kind)
        with induction.knocked_out(model, [(1, 2)]):
            yield model(IDS.to(device))

    for known, result in zip(results("cpu"), results("meta"), strict=True):
        assert result.is_meta and result.dtype == known.dtype == kind
        assert result.shape == known.shape and known.isfinite().all()


# What is refused


def entered(manager):
    """A function that starts the context manager, which checks as it starts."""

    @functools.wraps(manager)
    def start(*arguments, **options):
        with manager(*arguments, **options):
            pass

    return start


def refusals():
    """(function, arguments that work, bad values for some of them)."""
    few = {"weights": [torch.rand(4, 3), torch.rand(0, 0), torch.rand(3, 1, 1)]}
    for T in 2, 3:
        yield induction.sink_score, {"weights": torch.rand(5, T, T)}, few
        yield induction.previous_token_score, {"weights": torch.rand(T, T)}, few
    for period in 2, 5:
        good = {"weights": torch.rand(6, 6), "period": period}
        yield induction.induction_score, good, few | {"period": [1, 6, 7]}
    words = {"words": torch.arange(3), "count": 2, "period": 1, "rng": generator()}
    yield induction.word_starts, {"tokenizer": smollm2_tokenizer()}, {}
    yield induction.read_twice, words, {"words": [torch.zeros(0).long()]}
    yield induction.token_losses, {"model": llama(), "ids": IDS}, {}
    yield induction.top_heads, {"scores": torch.rand(2, 3), "count": 1}, {}
    model = llama()
    outside = [(-1, 0), (3, 0), (0, -1), (0, 4), (1.0, 0), (True, 0), (0, None)]
    bad = [{(0, 0): 0, place: 0} for place in [*outside, (0, True), 3]]
    bad += [{(0, 0): 0, (1, 1): other} for other in (None, "0", [0.0])]
    bad += [{(1, 1): torch.zeros(shape)} for shape in ((5, 3), (2,), (6, 5))]
    fine = [0, torch.tensor(1.0), torch.tensor(2), torch.ones(1), torch.ones(5, 6)]
    for output in fine:
        good = {"model": model, "outputs": {(2, 3): output}}
        yield entered(induction.replaced), good, {"outputs": bad}
    bad = [[(0, 0), at] for at in (*outside, [0, 0])]
    good = {"model": model, "heads": [(2, 3)]}
    yield entered(induction.knocked_out), good, {"heads": bad}
    good |= {"count": 3, "rng": generator()}
    yield induction.other_heads, good, {"heads": [[3]]}


def test_what_cannot_be_is_refused():
    before = llama()(IDS)
    for function, good, bad in refusals():
        refuses_all(function, good, inner_names=["head", "output"], **bad)
    assert torch.equal(llama()(IDS), before), "nothing was left behind"


# The real model


def test_the_real_models_heads_are_found():
    """A short list of words, read twice: the best head of each kind."""
    words = torch.tensor([4222, 8330, 12011, 1745, 9906, 20104, 15567, 6713])
    ids = torch.cat([torch.zeros(1).long(), words, words])[None]
    looks = real_model.trace_layers(real_model.load_smollm2(), ids).weights[:, 0]
    copied = induction.induction_score(looks[..., 1:, 1:], 8)
    assert induction.top_heads(induction.sink_score(looks), 1) == [(18, 8)]
    assert induction.top_heads(induction.previous_token_score(looks), 1) == [(16, 0)]
    assert induction.top_heads(copied, 1)[0][0] in (17, 18) and copied[18, 6] > 0.7


# The exercises


def cell(name, **names):
    """What a cell of the notebook defines, given the names it uses."""
    path = sources.ROOT / "book" / "transformers" / "induction.ipynb"
    (source,) = (c.source for c in notebooks.read(path).cells if c.id == name)
    names = {"torch": torch, "F": F, **names}
    exec(source, names)
    return types.SimpleNamespace(**names)


@functools.cache
def exercises():
    return run_exercises("transformers/induction", induction)


def wrong_answers(book):
    """(exercise, what the check says, a wrong answer)."""
    two, unseen, drawn = book.copy_after_two, book.longest_unseen, book.matched_heads
    copied, seeded = book.duplicate_score, torch.Generator().manual_seed

    def earliest(seen):
        for at in range(len(seen) - 2):
            if seen[at : at + 2] == seen[-2:]:
                return seen[at + 2]

    def wraps(seen):  # the place before the first is the last
        for at in reversed(range(len(seen) - 1)):
            if (seen[at - 1], seen[at]) == tuple(seen[-2:]):
                return seen[at + 1]

    yield "copy_after_two", "the last item: start", wraps
    yield "copy_after_two", "only the last item", book.copy_next
    yield "copy_after_two", "first match", earliest
    yield "copy_after_two", "stood there before", lambda seen: None
    yield "copy_after_two", "after the match", lambda seen: seen[-1]
    yield "copy_after_two", "never stood", lambda seen: two(seen) or seen[0]
    yield "copy_after_two", "fails. IndexError", lambda seen: seen[99]
    yield "copy_after_two", "Does your loop end", forever
    arrays = lambda seen: torch.arange(3).numpy()  # noqa: E731
    yield "copy_after_two", "an item of", arrays
    yield "duplicate_score", "the induction score", induction.induction_score
    near = lambda w, p: w.diagonal(1 - p, -2, -1).mean(-1)  # noqa: E731
    yield "duplicate_score", "too near", near
    one = induction.previous_token_score
    yield "duplicate_score", "a tensor of", lambda w, p: one(w).tolist()
    yield "duplicate_score", "all texts", lambda w, p: copied(w, p).mean()
    yield "duplicate_score", "the shape", lambda w, p: w.diagonal(-p, -2, -1)
    late = lambda w, p: w.diagonal(-p, -2, -1)[..., 1:].mean(-1)  # noqa: E731
    yield "duplicate_score", "keep it all", late
    ahead = lambda w, p: w.diagonal(p, -2, -1).mean(-1)  # noqa: E731
    yield "duplicate_score", "look ahead", ahead
    summed = lambda w, p: w.diagonal(-p, -2, -1).sum(-1)  # noqa: E731
    yield "duplicate_score", "the sum", summed
    yield "duplicate_score", "is right, not", lambda w, p: one(w)
    yield "longest_unseen", "an item of", arrays
    yield "longest_unseen", "come again", lambda seen: seen[0]
    yield "longest_unseen", "seen last", lambda seen: seen[-1]
    yield "longest_unseen", "not its position", lambda s: s.index(unseen(s))
    yield "longest_unseen", "the smallest", lambda seen: None
    yield "matched_heads", "draw others", lambda heads, n, rng: heads
    number = torch.tensor
    raw = lambda h, n, rng: [(i, number(k)) for i, k in drawn(h, n, rng)]  # noqa: E731
    yield "matched_heads", "tolist", raw
    yield "matched_heads", "twice", lambda h, n, rng: [(i, 4) for i, _ in h]
    yield "matched_heads", "0 to 5", lambda h, n, rng: [(i, 6) for i, _ in h]
    yield "matched_heads", "of layer", lambda h, n, rng: [(9, k) for k in range(5)]
    yield "matched_heads", "list of 5", lambda h, n, rng: drawn(h, n, rng)[:4]
    yield "matched_heads", "ever drawn", lambda h, n, rng: drawn(h, n, generator())
    pairs = lambda h, n, rng: [list(p) for p in drawn(h, n, rng)]  # noqa: E731
    yield "matched_heads", "is wanted", pairs
    seed = iter(range(99))
    twice = lambda h, n, rng: drawn(h, n, seeded(next(seed)))  # noqa: E731
    yield "matched_heads", "one seed", twice


def test_checks_name_the_likely_mistakes():
    book = exercises()
    for name, says, answer in wrong_answers(book):
        check = book[f"check_{name}"]
        with pytest.raises(AssertionError, match=says):
            check(answer)
        fails(check)


def test_a_score_may_be_of_other_floats():
    book = exercises()
    score = book.duplicate_score
    assert book.check_duplicate_score(lambda w, p: score(w.double(), p))
