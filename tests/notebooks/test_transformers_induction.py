"""The cells of transformers/induction against loops, torch and arithmetic."""

import contextlib
import copy
import functools

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, seeds

from fieldguide.transformers import attention, induction, real_model

IDS = torch.tensor([[1, 5, 2, 7, 5], [3, 3, 12, 0, 1]])


@functools.cache
def llama():
    """A small Llama with random weights: 3 layers, 4 heads that share 2 keys."""
    torch.manual_seed(0)
    sizes = {"vocab": 13, "context": 16, "width": 24, "layers": 3, "hidden": 24}
    heads = {"heads": 4, "kv_heads": 2}  # six numbers wide: not as many as heads
    config = real_model.LlamaConfig(**sizes, **heads, eps=1e-5, base=100.0)
    return real_model.Llama(config).requires_grad_(False).eval()


def test_losses_are_those_of_the_next_tokens():
    losses, logits = induction.token_losses(llama(), IDS), llama()(IDS)
    assert losses.shape == (2, 4)
    for b, t in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        close(losses[b, t], F.cross_entropy(logits[b, t], IDS[b, t + 1]), 1e-5)


@cases(seeds, st.sampled_from([(), (3,), (2, 3)]), st.integers(3, 9), st.data())
def test_scores_are_means_of_their_cells(seed, leading, T, data):
    weights = torch.rand(*leading, T, T, generator=generator(seed)).double().tril()
    right = sum(weights[..., i, i - 1] for i in range(1, T)) / (T - 1)
    close(induction.previous_token_score(weights), right)
    period = data.draw(st.integers(2, T - 1))
    rows = range(period, T)
    right = sum(weights[..., i, i - period + 1] for i in rows) / len(rows)
    close(induction.induction_score(weights, period), right)


@pytest.mark.parametrize("heads", [[(0, 0)], [(0, 3), (1, 1), (1, 2)], []])
def test_a_head_knocked_out_adds_nothing(heads):
    model, before, other = llama(), llama()(IDS), copy.deepcopy(llama())
    for layer, head in heads:  # matrices that ignore the heads' columns
        weight = other.blocks[layer].attention.output.weight
        weight[:, 6 * head : 6 * head + 6] = 0
    with contextlib.suppress(KeyError), induction.knocked_out(model, heads):
        close(model(IDS), other(IDS), 1e-5)
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
    mixer = model.blocks[1].attention.output
    outputs, keep = {(1, 2): given, (1, 0): 7.0}, lambda m, x: seen.append(x[0])
    with induction.replaced(model, outputs), mixer.register_forward_pre_hook(keep):
        model(IDS)
    heads = seen[0].unflatten(-1, (4, 6))
    assert torch.equal(heads[:, :, 2], given) and heads[:, :, 0].eq(7).all()
    assert not heads[:, :, [1, 3]].eq(7).any()


def test_the_real_models_heads_are_found():
    """A short list of words, read twice."""
    words = torch.tensor([4222, 8330, 12011, 1745, 9906, 20104, 15567, 6713])
    ids = torch.cat([torch.zeros(1).long(), words, words])[None]
    looks = real_model.trace_layers(real_model.load_smollm2(), ids).weights[:, 0]
    copied = induction.induction_score(looks[..., 1:, 1:], 8)
    before = induction.previous_token_score(looks)
    assert before.argmax() == 16 * 9 and copied[18, 6] > 0.7
