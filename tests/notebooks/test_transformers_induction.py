"""The cells of transformers/induction against loops, torch and arithmetic.

Functions are looked up in the module at each call: a damaged cell can take their place.
"""

import contextlib
import copy
import functools
import math
import random
import types

import hypothesis.strategies as st
import notebooks
import pytest
import sources
import torch
import torch.nn.functional as F
from cells import close, fails, generator, refuses_all, run_exercises
from hypothesis import given, settings

from fieldguide.transformers import attention, induction, real_model

quick = settings(max_examples=30, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


# Scores


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


@pytest.mark.parametrize("period", [3, 6])
def test_a_perfect_head_scores_one_and_the_others_nothing(period):
    T = 2 * period
    perfect, back, sink = torch.zeros(3, T, T)
    perfect[range(period, T), range(1, period + 1)] = 1
    back[range(1, T), range(T - 1)] = 1
    sink[:, 0] = 1
    for one, first, copied in (perfect, 0, 1), (sink, 1, 0):
        assert induction.sink_score(one) == first
        assert induction.induction_score(one, period) == copied
    assert induction.previous_token_score(back) == 1
    assert induction.previous_token_score(perfect) == 0


# The toy


def test_toy_is_attention_added_layer_by_layer():
    model = induction.AttentionOnly(11, 6, 8, 2, 3)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(11, 8), (6, 8), *[(8, 8)] * 12, (11, 8), (11,)]
    ids = torch.tensor([[1, 10, 3, 3], [0, 0, 7, 2]])
    logits, weights = model(ids)
    assert logits.shape == (2, 4, 11) and weights.shape == (3, 2, 2, 4, 4)
    x = model.tokens.weight[ids] + model.places.weight[:4]
    for layer, look in zip(model.layers, weights, strict=True):
        change, own = layer(x, attention.causal_mask(4))
        assert torch.equal(own, look)
        x = x + change
    close(logits, x @ model.unembed.weight.T + model.unembed.bias, 1e-5)
    assert weights.triu(1).eq(0).all()


@given(seeds, st.integers(2, 5), st.integers(0, 3), st.integers(0, 2))
@quick
def test_sequences_repeat_with_a_period_of_their_own(seed, low, more, spare):
    high = low + more
    vocab, context = high + spare, 2 * high + spare + 1
    repeating = cell("repeating").repeating
    ids, known = repeating(9, low, high, context, vocab, generator(seed))
    assert ids.shape == (9, context) and known.shape == (9, context - 1)
    assert known.dtype == torch.bool
    assert ids.min() >= 0 and ids.max() < vocab
    for row, sure in zip(ids.tolist(), known.tolist(), strict=True):
        period = row.index(row[0], 1)
        assert low <= period <= high
        assert len(set(row[:period])) == period
        assert row == [row[t % period] for t in range(context)]
        assert sure == [t >= period for t in range(context - 1)]


def test_sequences_use_the_whole_range_and_the_generator():
    sizes, repeating = (300, 2, 4, 9, 6), cell("repeating").repeating
    ids, _ = repeating(*sizes, generator())
    periods = {row.index(row[0], 1) for row in ids.tolist()}
    assert periods == {2, 3, 4} and ids.unique().tolist() == list(range(6))
    assert torch.equal(repeating(*sizes, generator())[0], ids)


# Other devices and float types


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    def results(device):
        ids = torch.tensor([[1, 2, 1, 2]]).to(device)
        model = induction.AttentionOnly(5, 4, 8, 2, 2).to(device, kind)
        logits, weights = model(ids)
        yield from (logits, weights)
        yield induction.sink_score(weights)
        yield induction.previous_token_score(weights)
        yield induction.induction_score(weights, 2)
        knocked = copy.deepcopy(llama()).to(device, kind)
        with induction.knocked_out(knocked, [(1, 2)]):
            yield knocked(ids)

    for known, result in zip(results("cpu"), results("meta"), strict=True):
        assert result.is_meta and result.dtype == known.dtype == kind
        assert result.shape == known.shape and known.isfinite().all()


# Taking heads out


@functools.cache
def llama():
    """A small Llama with random weights: 3 layers, 4 heads that share 2 keys."""
    torch.manual_seed(0)
    sizes = {"vocab": 13, "context": 16, "width": 24, "layers": 3, "hidden": 24}
    heads = {"heads": 4, "kv_heads": 2}  # six numbers wide: not as many as heads
    config = real_model.LlamaConfig(**sizes, **heads, eps=1e-5, base=100.0)
    return real_model.Llama(config).requires_grad_(False).eval()


IDS = torch.tensor([[1, 5, 2, 7, 5], [3, 3, 12, 0, 1]])


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
        close(model(IDS), model(IDS))
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


def entered(manager):
    """A function that starts the context manager, which checks as it starts."""

    @functools.wraps(manager)
    def start(*arguments, **options):
        with manager(*arguments, **options):
            pass

    return start


# What is refused


def refusals():
    """(function, arguments that work, bad values for some of them)."""
    few = {"weights": [torch.rand(4, 3), torch.rand(0, 0), torch.rand(3, 1, 1)]}
    for T in 2, 3:
        yield induction.sink_score, {"weights": torch.rand(5, T, T)}, few
        yield induction.previous_token_score, {"weights": torch.rand(T, T)}, few
    for period in 2, 5:
        good = {"weights": torch.rand(6, 6), "period": period}
        yield induction.induction_score, good, few | {"period": [1, 6, 7]}
    sizes = {"vocab": 5, "context": 3, "width": 4, "heads": 1, "layers": 1}
    yield induction.AttentionOnly, sizes, {"heads": [0, True, 3, None]}
    zeros = torch.zeros(2, 3).long()
    bad = [torch.tensor([[0, -1]]), torch.tensor([[0, 5]])]
    bad += [zeros[:, :0], torch.cat([zeros, zeros], 1)]
    for ids in zeros, zeros[:, :1]:
        yield induction.AttentionOnly(**sizes).forward, {"ids": ids}, {"ids": bad}
    start, model = entered(induction.replaced), llama()
    outside = [(-1, 0), (3, 0), (0, -1), (0, 4), (1.0, 0), (True, 0), (0, None)]
    bad = [{(0, 0): 0, place: 0} for place in [*outside, (0, True), 3]]
    bad += [{(0, 0): 0, (1, 1): other} for other in (None, "0", [0.0])]
    bad += [{(1, 1): torch.zeros(shape)} for shape in ((5, 3), (2,), (6, 5))]
    fine = [0, torch.tensor(1.0), torch.tensor(2), torch.ones(1), torch.ones(5, 6)]
    for output in fine:
        yield start, {"model": model, "outputs": {(2, 3): output}}, {"outputs": bad}
    bad = [[(0, 0), at] for at in (*outside, [0, 0])]
    good = {"model": model, "heads": [(2, 3)]}
    yield entered(induction.knocked_out), good, {"heads": bad}


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
    scores = [
        induction.sink_score(looks),
        induction.previous_token_score(looks),
        induction.induction_score(looks[..., 1:, 1:], 8),
    ]
    best = [divmod(score.argmax().item(), 9) for score in scores]
    assert best[:2] == [(18, 8), (16, 0)] and best[2][0] in (17, 18)
    assert scores[2][18, 6] > 0.7


# The exercises


@functools.cache
def exercises():
    return run_exercises("transformers/induction", induction)


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()
    fails(
        book.check_duplicate_score,
        induction.induction_score,
        lambda weights, period: weights.diagonal(period, -2, -1).mean(-1),
        lambda weights, period: weights.diagonal(-period, -2, -1).sum(-1),
        lambda weights, period: weights.diagonal(-period, -2, -1).mean(),
        lambda weights, period: weights.diagonal(-period).mean(-1),
    )
    drawn, seeded = book.matched_heads, torch.Generator().manual_seed
    fails(
        book.check_matched_heads,
        lambda heads, count, rng: heads,
        lambda heads, count, rng: [(layer, 4) for layer, _ in heads],
        lambda heads, count, rng: [(layer, 6) for layer, _ in heads],
        lambda heads, count, rng: [(9, h) for h in range(5)],
        lambda heads, count, rng: drawn(heads, count, rng)[:4],
        lambda heads, count, rng: drawn(heads, count, generator()),
        lambda heads, count, rng: [list(head) for head in drawn(heads, count, rng)],
        lambda heads, count, rng: drawn(heads, count, seeded(random.randrange(10**6))),
    )


def cell(name, **names):
    """What a cell of the notebook defines, given the names it uses."""
    path = sources.ROOT / "book" / "transformers" / "induction.ipynb"
    (source,) = (c.source for c in notebooks.read(path).cells if c.id == name)
    names = {"torch": torch, "F": F, "math": math, **names}
    exec(source, names)
    return types.SimpleNamespace(**names)


@pytest.mark.parametrize("gap", [1, 6, 12])
def test_interrupted_texts_hold_the_piece_twice(gap):
    sizes = types.SimpleNamespace(vocab=24, context=24)
    made = cell("interrupted", settings=sizes).interrupted
    ids, known = made(100, gap, generator())
    leads = set()
    for row, sure in zip(ids.tolist(), known.tolist(), strict=True):
        again = sure.index(True)
        assert sure == [again <= t < again + 3 for t in range(23)]
        start = row.index(row[again])
        assert row[start : start + 4] == row[again : again + 4]
        assert again - start == 4 + gap
        leads.add(start)
        rest = row[:again] + row[again + 4 :]
        assert len(set(rest)) == len(rest), "everything else is there once"
    assert leads == {1, 2, 3}
