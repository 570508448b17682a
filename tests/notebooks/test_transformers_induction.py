"""The cells of transformers/induction against loops, torch and arithmetic."""

import contextlib
import copy
import functools

import cells
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import close, generator
from hypothesis import given, settings

from fieldguide.data import smollm2_tokenizer
from fieldguide.transformers import attention, induction, real_model

quick = settings(max_examples=30, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
IDS = torch.tensor([[1, 5, 2, 7, 5], [3, 3, 12, 0, 1]])


@functools.cache
def page():
    return cells.run_exercises("transformers/induction", induction)


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
    few = torch.tensor([7, 11, 13])
    ids = induction.read_twice(few, 50, 4, generator())
    assert ids.shape == (50, 9) and ids[:, 0].eq(0).all() and ids.dtype == few.dtype
    assert torch.equal(ids[:, 1:5], ids[:, 5:])
    assert ids[:, 1:].unique().tolist() == few.tolist()


def test_losses_are_those_of_the_next_tokens():
    losses, logits = induction.token_losses(llama(), IDS), llama()(IDS)
    assert losses.shape == (2, 4)
    for b, t in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        close(losses[b, t], F.cross_entropy(logits[b, t], IDS[b, t + 1]), 1e-5)


@given(seeds, st.sampled_from([(), (3,), (2, 3)]), st.integers(3, 9), st.data())
@quick
def test_scores_are_means_of_their_cells(seed, leading, T, data):
    weights = torch.rand(*leading, T, T, generator=generator(seed)).double().tril()
    weights = weights / weights.sum(-1, keepdim=True)
    rows = range(1, T)
    right = sum(weights[..., i, 0] for i in rows) / len(rows)
    close(induction.sink_score(weights), right)
    right = sum(weights[..., i, i - 1] for i in rows) / len(rows)
    close(induction.previous_token_score(weights), right)
    period = data.draw(st.integers(2, T - 1))
    rows = range(period, T)
    right = sum(weights[..., i, i - period + 1] for i in rows) / len(rows)
    close(induction.induction_score(weights, period), right)


def test_the_best_heads_come_first_and_others_are_drawn_from_the_rest():
    scores = torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.5]])
    best = [(0, 1), (1, 0), (1, 2), (0, 2), (1, 1), (0, 0)]
    for count in 1, 2, 6:
        assert induction.top_heads(scores, count) == best[:count]
    taken, seen = [(0, 0), (2, 3), (1, 1)], set()
    for seed in range(30):
        drawn = induction.other_heads(llama(), taken, 4, generator(seed))
        assert len(drawn) == len(set(drawn)) == 4 and not set(drawn) & set(taken)
        seen |= set(drawn)
    assert seen == {(i, h) for i in range(3) for h in range(4)} - set(taken)


# The toy


def test_toy_is_attention_added_layer_by_layer():
    model = page().AttentionOnly(3, vocab=11, context=6, width=8)
    ids = torch.tensor([[1, 10, 3, 3], [0, 0, 7, 2]])
    logits, weights = model(ids)
    assert weights.shape == (3, 2, 2, 4, 4)
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
    ids, known = page().repeating(60, low, high, generator(seed), context, vocab)
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
    "heads", [[(0, 0)], [(1, 1), (1, 2)], [(0, 3), (2, 0), (0, 1)], []]
)
def test_a_head_knocked_out_adds_nothing(heads):
    model, before = llama(), llama()(IDS)
    with contextlib.suppress(KeyError), induction.knocked_out(model, heads):
        close(model(IDS), without_columns(heads), 1e-5)
        raise KeyError  # the model is as it was, whatever goes wrong inside
    assert torch.equal(model(IDS), before)


def test_its_own_output_put_in_changes_nothing_and_another_is_what_comes_out():
    model = llama()
    trace = real_model.trace_layers(model, IDS)
    x = model.blocks[1].attention_norm(trace.residuals[1])
    values = attention.split_heads(model.blocks[1].attention.value(x), 2)
    own = trace.weights[1, :, 3] @ values[:, 1]
    with induction.replaced(model, {(1, 3): own}):
        close(model(IDS), llama()(IDS), 1e-5)
    given, seen = torch.arange(2 * 5 * 6.0).reshape(2, 5, 6), []
    with induction.replaced(model, {(1, 2): given, (1, 0): 7.0}):
        mixer = model.blocks[1].attention.output
        hook = mixer.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
        model(IDS)
        hook.remove()
    heads = seen[0].unflatten(-1, (4, 6))
    assert torch.equal(heads[:, :, 2], given) and heads[:, :, 0].eq(7).all()
    assert not heads[:, :, [1, 3]].eq(7).any()


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
