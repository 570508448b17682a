"""The cells of transformers/real-model against transformers, torch and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import contextlib
import dataclasses
import functools
import io
import json
import tempfile
import weakref
from pathlib import Path

import hypothesis.strategies as st
import jinja2
import pytest
import torch
import torch.nn.functional as F
from cells import fails, module_at, refuses, run_exercises, solutions_pass
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from fieldguide import data
from fieldguide.data import files
from fieldguide.transformers import gpt, induction, real_model

SIZES = {"vocab": 23, "context": 40, "width": 24, "layers": 3, "heads": 6}
SIZES |= {"kv_heads": 2, "hidden": 20, "eps": 1e-3, "base": 100.0}
TEXTS = ["The capital of France is", "def add(a, b):\n    return", "naïve 東京 42"]

quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def fails_to_read(words, function, *arguments):
    """The call raises a DataError that contains each of the words."""
    try:
        function(*arguments)
    except data.DataError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(f"read what lacks {words}")


def sizes(**changes):
    return real_model.LlamaConfig(**{**SIZES, **changes})


def llama(seed=0, dtype=torch.double, **changes):
    """A small Llama of random weights, norms included."""
    config, rng = sizes(**changes), torch.Generator().manual_seed(seed)
    model = real_model.Llama(config).to(dtype).requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.normal_(0, 0.3 if weight.dim() > 1 else 0.5, generator=rng)
        if name.endswith("norm.weight"):
            weight += 1
    return model.eval()


def some_ids(config, *shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab, shape, generator=rng)


# Sizes


def test_config_refuses_what_cannot_be():
    for name in ("vocab", "context", "width", "layers", "heads", "kv_heads", "hidden"):
        for value in (0, -1, 2.0, "3", True):
            refuses(name, sizes, **{name: value})
    for name in ("eps", "base"):
        for value in (0, -1e-5, float("inf"), float("nan"), "3", True):
            refuses(name, sizes, **{name: value})
        assert getattr(sizes(**{name: 1}), name) == 1
    for name, kind in ("layers", "whole"), ("eps", "finite"):
        try:
            sizes(**{name: "3"})
        except ValueError as error:
            assert str(error).endswith(f"it must be a {kind} number above 0")
    refuses("kv_heads", sizes, kv_heads=4)
    refuses("heads", sizes, heads=5, kv_heads=1)
    refuses("head_width", sizes, width=18)


def test_config_is_frozen_and_knows_its_head():
    config = sizes()
    assert config.head_width == 4
    assert sizes(heads=3, kv_heads=1).head_width == 8
    try:
        config.width = 8
    except dataclasses.FrozenInstanceError:
        pass
    else:
        raise AssertionError("a size was changed")


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 3),
)
@quick
def test_parameters_are_counted_without_a_model(kv, group, pairs, hidden, layers):
    heads = kv * group
    config = sizes(
        heads=heads,
        kv_heads=kv,
        width=heads * 2 * pairs,
        hidden=hidden,
        layers=layers,
    )
    model, parts = real_model.Llama(config), real_model.llama_parameters(config)
    count = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(count.values()) == sum(parts.values())
    for part, mark in {
        "embedding": "embedding",
        "attention": "attention.",
        "network": "mlp.",
        "norms": "norm",
    }.items():
        assert parts[part] == sum(n for name, n in count.items() if mark in name)


# Parts


@given(seeds, st.integers(1, 3), st.integers(1, 3), st.booleans())
@quick
def test_grouped_attention_is_torchs(seed, H_kv, group, masked):
    rng = torch.Generator().manual_seed(seed)
    H, T, S = H_kv * group, 3, 5

    def some(heads, rows, width):
        shape = (2, heads, rows, width)
        return torch.randn(shape, generator=rng, dtype=torch.double)

    query, key, value = some(H, T, 4), some(H_kv, S, 4), some(H_kv, S, 6)
    mask = torch.rand(T, S, generator=rng) > 0.3 if masked else None
    if masked:
        mask[:, 0] = True
    for scale in (None, 0.3):
        output, weights = real_model.grouped_query_attention(
            query, key, value, mask=mask, scale=scale
        )
        expected = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=True
        )
        close(output, expected)
        assert weights.shape == (2, H, T, S)
        copied = value.repeat_interleave(group, 1)
        close(weights @ copied, expected)
    single = real_model.grouped_query_attention(query[0], key[0], value[0], mask=mask)
    close(
        single[0],
        real_model.grouped_query_attention(query, key, value, mask=mask)[0][0],
    )


def test_heads_that_do_not_divide_are_refused():
    x = torch.randn(3, 2, 4)
    refuses("key", real_model.grouped_query_attention, x, x[:2], x[:2])
    refuses("key", real_model.grouped_query_attention, x[:1], x, x)


def test_a_mask_for_each_text_is_refused():
    """It would be laid over the key heads."""
    query, key = torch.randn(3, 6, 2, 4), torch.randn(3, 3, 2, 4)
    for shape in ((3, 1, 2, 2), (2,)):
        mask = torch.ones(shape, dtype=torch.bool)
        refuses("mask", real_model.grouped_query_attention, query, key, key, mask=mask)


def test_swiglu_is_its_formula():
    torch.manual_seed(0)
    network, x = real_model.SwiGLU(3, 5), torch.randn(2, 4, 3)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes == {
        "gate.weight": (5, 3),
        "up.weight": (5, 3),
        "down.weight": (3, 5),
    }
    gate, up = x @ network.gate.weight.T, x @ network.up.weight.T
    expected = (gate / (1 + (-gate).exp()) * up) @ network.down.weight.T
    close(network(x), expected, 1e-5)


def test_norm_module_is_torchs():
    norm, x = real_model.RMSNorm(sizes()), torch.randn(2, 24)
    close(norm(x), F.rms_norm(x, (24,), eps=1e-3), 1e-5)
    norm.weight.data = torch.randn(24)
    close(norm(x), F.rms_norm(x, (24,), norm.weight, 1e-3), 1e-5)


# The whole, against transformers


def to_halves(weight, heads):
    """Rows of neighbours to rows K / 2 apart: transformers' order of a head."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


PARTS = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def transformers_llama(config, weights):
    """transformers' class with `weights`, {its name: tensor}, and no copy of them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = LlamaConfig(
        vocab_size=config.vocab,
        hidden_size=config.width,
        intermediate_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.context,
        rms_norm_eps=config.eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.base},
        tie_word_embeddings=True,
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    weights = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
    with torch.device("meta"):
        model = LlamaForCausalLM(c)
    model.load_state_dict(weights, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(c)
    return model.requires_grad_(False).eval()


def twin(model):
    """transformers' Llama with the weights of ours."""
    own, config = model.state_dict(), model.config
    weights = {
        "model.embed_tokens.weight": own["embedding.weight"],
        "model.norm.weight": own["norm.weight"],
    }
    turned = {"attention.query": config.heads, "attention.key": config.kv_heads}
    for layer in range(config.layers):
        for ours, theirs in PARTS.items():
            weight = own[f"blocks.{layer}.{ours}.weight"]
            if ours in turned:
                weight = to_halves(weight, turned[ours])
            weights[f"model.layers.{layer}.{theirs}.weight"] = weight
    return transformers_llama(config, weights)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (6, 6), (3, 1), (2, 1)])
def test_small_model_is_transformers(heads, kv_heads):
    model = llama(heads, torch.float32, heads=heads, kv_heads=kv_heads)
    ids = some_ids(model.config, 2, 7)
    theirs = twin(model)(ids, output_attentions=True, output_hidden_states=True)
    close(model(ids), theirs.logits, 2e-4)
    residuals, weights = real_model.trace_layers(model, ids)
    close(weights, torch.stack(theirs.attentions), 1e-4)
    close(residuals[:-1], torch.stack(theirs.hidden_states[:-1]), 2e-4)
    close(model.norm(residuals[-1]), theirs.hidden_states[-1], 2e-4)
    assert residuals.shape == (4, 2, 7, 24)
    assert weights.shape == (3, 2, heads, 7, 7)


def test_logits_are_the_normed_residual_times_the_embedding():
    model = llama()
    ids = some_ids(model.config, 2, 5)
    x = model.residual(ids)
    expected = real_model.rms_norm(x, model.norm.weight, 1e-3)
    expected = expected @ model.embedding.weight.T
    close(model.logits(x), expected)
    close(model(ids), expected)
    close(model.logits(x[0, 1]), expected[0, 1])


def test_layers_are_shown_as_they_run():
    model = llama()
    ids = some_ids(model.config, 1, 4)
    seen = list(real_model.run_layers(model, ids))
    assert len(seen) == 4 and seen[0][1] is None
    assert torch.equal(seen[0][0], model.embedding(ids))
    close(seen[-1][0], model.residual(ids))
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    x, weights = model.blocks[0](seen[0][0], torch.arange(4), mask)
    close(x, seen[1][0])
    close(weights, seen[1][1])
    assert weights.masked_select(~mask).eq(0).all()
    free, _ = model.blocks[0](seen[0][0], torch.arange(4))
    assert not torch.allclose(free[:, 0], x[:, 0])
    trace = real_model.trace_layers(model, ids)
    assert not trace.residuals.requires_grad and trace.residuals.is_inference()


def test_weights_of_earlier_layers_are_forgotten():
    """A long text would need L times the memory if they were kept."""
    model, seen = llama(layers=6), []

    def watch(block, given, output):
        seen.append(weakref.ref(output[1]))
        assert all(weights() is None for weights in seen[:-2])

    for block in model.blocks:
        block.register_forward_hook(watch)
    model.residual(some_ids(model.config, 1, 4))
    assert len(seen) == 6


def bad_ids(config):
    good = some_ids(config, 1, 3)
    yield [[1, 2]]
    yield good[0]
    yield good.unsqueeze(0)
    yield good[:, :0]
    yield good.float()
    yield good > 3
    yield some_ids(config, 1, config.context + 1)


def test_ids_that_the_model_cannot_read_are_refused():
    model = llama(layers=1)
    for ids in bad_ids(model.config):
        for call in (model, model.residual):
            refuses("ids", lambda ids, call=call: call(ids), ids)
    for number in (-1, 23):
        try:
            model(torch.tensor([[3, number]]))
        except ValueError as error:
            assert str(error).startswith("ids = ") and "0 to 22" in str(error)
        else:
            raise AssertionError(f"read {number}")
    assert model(some_ids(model.config, 1, 40)).shape == (1, 40, 23)


# The cache


@given(seeds, st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=4))
@quick
def test_cached_is_uncached(seed, B, pieces):
    """In 64 bits, however the text is cut; the masked future stays unseen."""
    model = llama(seed)
    ids = some_ids(model.config, B, sum(pieces), seed=seed)
    whole = model(ids)
    cache = real_model.KVCache(model.config, sum(pieces), B, dtype=torch.double)
    cache.store.fill_(torch.nan)  # what is not written is not read
    parts = []
    for piece in ids.split(pieces, 1):
        before = cache.length
        parts.append(model(piece, cache))
        assert cache.length == before + piece.size(1)
    close(torch.cat(parts, 1), whole)
    assert cache.store.isfinite().all()


@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from([(6, 2), (6, 6), (3, 1)]))
@quick
def test_cache_is_as_large_as_counted(tokens, batch, heads):
    config = sizes(heads=heads[0], kv_heads=heads[1])
    for dtype in (torch.float32, torch.bfloat16, torch.double):
        cache = real_model.KVCache(config, tokens, batch, dtype=dtype)
        assert cache.store.dtype == dtype and cache.length == 0
        L, K = config.layers, config.head_width
        assert cache.store.shape == (2, L, batch, heads[1], tokens, K)
        counted = real_model.cache_bytes(config, tokens, batch, dtype.itemsize)
        assert cache.store.nbytes == counted
    assert real_model.KVCache(config, tokens).store.dtype == torch.float32
    default = real_model.cache_bytes(config, tokens)
    assert real_model.KVCache(config, tokens).store.nbytes == default


def test_cache_of_smollm2_is_that_of_three_heads():
    config = real_model.read_config(data.smollm2())
    assert real_model.cache_bytes(config, 1) == 46_080
    assert real_model.cache_bytes(config, 8192) == 377_487_360


def test_cache_keeps_what_it_is_given():
    config = sizes()
    cache = real_model.KVCache(config, 5, 2)
    first, second = torch.randn(2, 2, 2, 2, 3, 4)  # (2, 2, B, H_kv, T, K)
    for layer in (0, 2):
        key, value = cache.append(layer, *first)
        assert torch.equal(key, first[0]) and torch.equal(value, first[1])
        assert cache.length == 0
    cache.length = 3
    key, value = cache.append(2, *second[:, :, :, :2])
    for have, old, new in zip((key, value), first, second, strict=True):
        assert torch.equal(have, torch.cat([old, new[:, :, :2]], 2))
    assert torch.equal(cache.store[0, 0, :, :, :3], first[0])
    refuses("key", cache.append, 0, *second)
    refuses("key", cache.append, 0, *second[:, :1, :, :1])
    refuses("key", cache.append, 0, *torch.randn(2, 3, 2, 1, 4))
    refuses("key", cache.append, 0, *second[:, :, :1, :1])


def test_cache_without_room_is_refused():
    for bad in (0, -1, 2.0, "3", True):
        refuses("room", real_model.KVCache, sizes(), bad)
        refuses("batch", real_model.KVCache, sizes(), 1, bad)
    real_model.KVCache(sizes(), 1, 1)
    for bad in (0, -1):
        refuses("tokens", real_model.cache_bytes, sizes(), bad)
        refuses("batch", real_model.cache_bytes, sizes(), 1, bad)
        refuses("bytes_per_number", real_model.cache_bytes, sizes(), 1, 1, bad)
    assert real_model.cache_bytes(sizes(), 1, 1, 0.5) == 3 * 2 * 2 * 4 / 2


def test_a_text_must_not_outgrow_cache_or_context():
    model = llama(layers=1, dtype=torch.float32)
    long = real_model.KVCache(model.config, 50)
    model(some_ids(model.config, 1, 38), long)
    for call in (model, model.residual):
        refuses(
            "ids", lambda ids, call=call: call(ids, long), some_ids(model.config, 1, 3)
        )
    assert long.length == 38
    model(some_ids(model.config, 1, 2), long)
    assert long.length == 40
    short = real_model.KVCache(model.config, 3)
    refuses("key", lambda ids: model(ids, short), some_ids(model.config, 1, 4))
    model(some_ids(model.config, 1, 3), short)


# Work


@given(st.integers(1, 6), st.integers(0, 6), st.sampled_from([(6, 2), (6, 6), (3, 1)]))
@quick
def test_flops_are_torchs_count(new, before, heads):
    model = llama(dtype=torch.float32, heads=heads[0], kv_heads=heads[1])
    cache = real_model.KVCache(model.config, 12)
    if before:
        model(some_ids(model.config, 1, before), cache)
    with FlopCounterMode(display=False) as counter:
        x = model.residual(some_ids(model.config, 1, new), cache)
        model.logits(x[:, -1])
    counted = real_model.llama_flops(model.config, new, before)
    assert counter.get_total_flops() == counted
    if not before:
        assert real_model.llama_flops(model.config, new) == counted


def test_flops_of_nothing_are_refused():
    for bad in (0, -1):
        refuses("new", real_model.llama_flops, sizes(), bad)
    refuses("before", real_model.llama_flops, sizes(), 1, -1)


# Writing


def slow_text(model, ids, count):
    """Greedy, without a cache."""
    made = list(ids)
    for _ in range(count):
        made.append(model(torch.tensor([made]))[0, -1].argmax().item())
    return made[len(ids) :]


@pytest.mark.parametrize("seed", range(3))
def test_text_is_what_the_whole_model_writes(seed):
    """In 64 bits, where no two logits are close enough to change places."""
    model = llama(seed)
    ids = some_ids(model.config, 5, seed=seed).tolist()
    expected = slow_text(model, ids, 12)
    assert real_model.complete(model, ids, 12) == expected
    assert real_model.complete(real_model.LlamaFast(model), ids, 12) == expected
    assert real_model.complete(model, ids, 1) == expected[:1]
    assert len(ids) == 5


def test_a_stop_ends_the_text_and_is_left_out():
    model = llama(1, torch.float32)
    ids = some_ids(model.config, 5, seed=1).tolist()
    free = real_model.complete(model, ids, 12)
    stop = free[4]
    assert real_model.complete(model, ids, 12, stop=[stop]) == free[: free.index(stop)]
    assert real_model.complete(model, ids, 12, stop={free[0], 99}) == []


def test_choose_sees_the_logits_and_is_obeyed():
    model, seen = llama(2, torch.float32), []

    def choose(logits):
        seen.append(logits)
        return 7

    assert real_model.complete(model, [1, 2], 3, choose=choose) == [7, 7, 7]
    whole = model(torch.tensor([[1, 2, 7, 7]]))[0]
    close(torch.stack(seen), whole[1:], 1e-4)
    assert seen[0].is_inference()
    assert real_model.greedy(torch.tensor([0.0, 3.0, -5.0])) == 1
    assert type(real_model.greedy(torch.tensor([0.0, 3.0]))) is int


def test_what_cannot_be_completed_is_refused():
    model = llama(layers=1, dtype=torch.float32)
    refuses("ids", real_model.complete, model, [], 3)
    for count in (0, -1, 2.0, True):
        refuses("count", real_model.complete, model, [1], count)
    refuses("count", real_model.complete, model, [1] * 30, 11)
    assert len(real_model.complete(model, [1] * 30, 10)) == 10
    for number in (-1, 23):
        try:
            real_model.complete(model, [number], 2)
        except ValueError as error:
            assert str(error).startswith("ids = ")
        else:
            raise AssertionError(f"read {number}")


def test_sampler_draws_from_the_distribution():
    logits = torch.randn(23, generator=torch.Generator().manual_seed(3))
    for options in (
        {},
        {"temperature": 0.5},
        {"top_k": 4},
        {"top_p": 0.6},
        {"temperature": 2.0, "top_k": 9, "top_p": 0.9},
    ):
        choose = real_model.sampler(torch.Generator().manual_seed(5), **options)
        rng = torch.Generator().manual_seed(5)
        shares = gpt.next_distribution(logits, **options)
        drawn = [choose(logits) for _ in range(40)]
        assert drawn == [gpt.draw(shares, rng).item() for _ in range(40)]
        assert all(type(number) is int for number in drawn)
    choose = real_model.sampler(torch.Generator(), temperature=0)
    refuses("temperature", lambda logits: choose(logits), logits)


# The fast form


@given(seeds, st.sampled_from([(6, 2), (6, 6), (3, 1), (2, 1)]), st.integers(1, 4))
@quick
def test_fast_form_is_the_taught_one(seed, heads, prompt):
    """Step by step in 64 bits, on one cache each."""
    model = llama(seed, heads=heads[0], kv_heads=heads[1])
    fast = real_model.LlamaFast(model)
    ids = some_ids(model.config, 1, prompt + 5, seed=seed)
    kept = [real_model.KVCache(model.config, 12, dtype=torch.double) for _ in range(2)]
    pieces = ids.split([prompt, 1, 1, 1, 2], 1)
    for piece in pieces:
        ours = model.residual(piece, kept[0])
        quick_one = fast.residual(piece, kept[1])
        assert quick_one.shape == ours.shape
        close(quick_one, ours)
        close(fast.logits(quick_one), model.logits(ours))
        close(fast.logits(quick_one[0, -1]), model.logits(ours[0, -1]))
        assert kept[0].length == kept[1].length
    end = kept[0].length
    close(kept[1].store[..., :end, :], kept[0].store[..., :end, :])
    for unkept in ids, ids[:, :1]:
        close(fast.residual(unkept), model.residual(unkept))


def test_fast_form_takes_steps_of_its_own():
    """After the prompt the taught layers are not run."""
    model = llama(layers=2, dtype=torch.float32)
    fast, cache = real_model.LlamaFast(model), real_model.KVCache(model.config, 9)
    fast.residual(torch.tensor([[1, 2]]), cache)

    def broken(*arguments, **options):
        raise RuntimeError

    model.blocks[0].forward = broken
    x = fast.residual(torch.tensor([[3]]), cache)
    assert x.shape == (1, 1, 24) and cache.length == 3 and x.is_inference()
    try:
        fast.residual(torch.tensor([[3, 4]]), cache)
    except RuntimeError:
        pass
    else:
        raise AssertionError("two tokens did not go to the model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
def test_fast_form_keeps_its_own_matrices(dtype):
    """Columns in rows, of the model's type, and apart from training."""
    model = llama(0, dtype).requires_grad_(True)
    fast = real_model.LlamaFast(model)
    matrices = [fast.unembed]
    for layer in fast.layers:
        matrices += [layer.qkv, layer.gate_up]
    assert [tuple(m.shape) for m in matrices[:3]] == [(24, 23), (24, 40), (24, 40)]
    for matrix in matrices:
        assert matrix.is_contiguous() and not matrix.requires_grad
        assert matrix.dtype == dtype
    assert fast.turns.shape == (40, 2) and fast.turns.dtype == dtype.to_complex()


def test_fast_form_refuses_what_the_taught_one_does():
    model = llama(layers=1, dtype=torch.float32)
    fast = real_model.LlamaFast(model)
    for room in (4, 60):
        cache = real_model.KVCache(model.config, room)
        last = min(room, 40)
        fast.residual(some_ids(model.config, 1, last - 1), cache)
        for number in (-1, 23):
            try:
                fast.residual(torch.tensor([[number]]), cache)
            except ValueError as error:
                assert str(error).startswith("ids = ")
            else:
                raise AssertionError(f"read {number}")
        fast.residual(torch.tensor([[1]]), cache)
        assert cache.length == last
        refuses(
            "ids",
            lambda ids, cache=cache: fast.residual(ids, cache),
            torch.tensor([[1]]),
        )
    for ids in bad_ids(model.config):
        cache = real_model.KVCache(model.config, 4)
        refuses("ids", lambda ids, cache=cache: fast.residual(ids, cache), ids)
    ids = some_ids(model.config, 2, 1)
    two = real_model.KVCache(model.config, 4, 2)
    refuses("key", lambda ids: fast.residual(ids, two), ids[:1])
    for bad in ids[0], ids[:1, None]:
        refuses("ids", lambda ids: fast.residual(ids, two), bad)
    pair = [real_model.KVCache(model.config, 4, 2) for _ in range(2)]
    for _ in range(2):
        close(fast.residual(ids, pair[0]), model.residual(ids, pair[1]), 1e-5)


# Float types and devices

KINDS = {  # of the largest logit: float64's own error, then halves' many roundings
    torch.double: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 0.1,
    torch.float16: 0.02,
}


def apart(actual, expected):
    """The largest difference as a share of the largest number expected."""
    gap = (actual.double() - expected.double()).abs().max()
    return gap / expected.double().abs().max()


def recorded(seen):
    """`greedy`, which also keeps the logits that it is shown."""

    def choose(logits):
        seen.append(logits)
        return real_model.greedy(logits)

    return choose


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_any_float_type_is_completed(kind):
    """With a cache of the model's own type: as the same model says without one."""
    model = llama(0, kind)
    ids = some_ids(model.config, 5).tolist()
    for form in model, real_model.LlamaFast(model):
        seen = []
        made = real_model.complete(form, ids, 9, choose=recorded(seen))
        steps = torch.stack(seen)
        assert steps.dtype == kind
        whole = model(torch.tensor([ids + made[:-1]]))[0, len(ids) - 1 :]
        assert apart(steps, whole) < KINDS[kind]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("kept", KINDS, ids=str)
def test_cache_of_another_float_type_is_rounded(kind, kept):
    """It costs what its type costs, and no more; so the widest is no slower."""
    model = llama(1, kind)
    ids = some_ids(model.config, 1, 7)
    whole = model(ids)
    for form in model, real_model.LlamaFast(model):
        cache = real_model.KVCache(model.config, 7, dtype=kept)
        parts = [
            form.logits(form.residual(piece, cache))
            for piece in ids.split([3] + 4 * [1], 1)
        ]
        assert {part.dtype for part in parts} == {kind}
        assert apart(torch.cat(parts, 1), whole) < max(KINDS[kind], KINDS[kept])
        assert cache.store.dtype == kept


def test_a_cache_of_no_float_type_is_refused():
    for kind in (torch.int64, torch.int8, torch.bool, "float32", None):
        refuses("dtype", real_model.KVCache, sizes(), 3, dtype=kind)


def test_nothing_is_made_on_another_device():
    """On `meta`, as on a GPU, a tensor of the CPU does not mix with the others."""
    there = torch.device("meta")
    with there:
        built = real_model.Llama(sizes())
    for model in built.requires_grad_(False), llama(0, torch.float32).to(there):
        fast = real_model.LlamaFast(model)
        assert fast.turns.is_meta and fast.unembed.is_meta
        ids = torch.zeros(1, 4, dtype=torch.long, device=there)
        assert model(ids).is_meta
        for form in model, fast:
            cache = real_model.KVCache(model.config, 6, device=there)
            for piece in ids, ids[:, :1], ids[:, :1]:
                logits = form.logits(form.residual(piece, cache))
                assert logits.is_meta and logits.shape == (*piece.shape, 23)
            assert cache.length == 6
    trace = real_model.trace_layers(model, ids)
    assert trace.weights.is_meta and trace.weights.shape == (3, 1, 6, 4, 4)


def test_complete_keeps_its_cache_where_the_model_is():
    """Up to the first choice: a number on `meta` cannot be read."""
    model = llama(0, torch.float32).to("meta")
    for form in model, real_model.LlamaFast(model):
        seen = []

        def choose(logits, seen=seen):
            seen.append(logits)
            return 3

        assert real_model.complete(form, [1, 2], 3, choose=choose) == [3, 3, 3]
        assert all(logits.is_meta and logits.shape == (23,) for logits in seen)


# Files


def write_gguf(path, model, tensors=None, **changes):
    """A GGUF of a small Llama, by the library; `tensors` adds or drops some."""
    import gguf

    config, facts = model.config, real_model.FACTS
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    for field, key in facts.items():
        value = changes.get(field, getattr(config, field))
        add = writer.add_float32 if field in ("eps", "base") else writer.add_uint32
        if value is not None:
            add(f"llama.{key}", value)
    for key, value in changes.get("more", {}).items():
        writer.add_uint32(f"llama.{key}", value)
    layer = {"attention_norm": "attn_norm", "mlp_norm": "ffn_norm"}
    layer |= {f"attention.{x}": f"attn_{x[0]}" for x in ("query", "key", "value")}
    layer |= {f"mlp.{x}": f"ffn_{x}" for x in ("gate", "up", "down")}
    layer["attention.output"] = "attn_output"
    stored = {"token_embd.weight": model.embedding.weight}
    stored["output_norm.weight"] = model.norm.weight
    for number, block in enumerate(model.blocks):
        for ours, theirs in layer.items():
            weight = block.get_parameter(f"{ours}.weight")
            stored[f"blk.{number}.{theirs}.weight"] = weight
    for name, weight in {**stored, **(tensors or {})}.items():
        if weight is not None:
            writer.add_tensor(name, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_a_folder(test):
    """Hands a folder that is removed afterwards."""

    @functools.wraps(test)
    def run():
        with tempfile.TemporaryDirectory() as folder:
            test(Path(folder))

    del run.__wrapped__  # or pytest takes the argument for a fixture
    return run


@in_a_folder
def test_a_file_gives_back_the_model(folder):
    model = llama(4, torch.float32, layers=12)
    loaded = real_model.load_llama(data.Gguf(write_gguf(folder / "a", model)))
    close(dataclasses.astuple(loaded.config), dataclasses.astuple(model.config), 1e-6)
    weights = loaded.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weights[name], weight)
    assert not any(p.requires_grad or p.is_meta for p in loaded.parameters())
    assert not loaded.training
    ids = some_ids(model.config, 1, 6)
    close(loaded(ids), model(ids), 1e-5)


@in_a_folder
def test_a_foreign_file_is_refused_with_what_is_read(folder):
    model, read = llama(0, torch.float32), real_model.load_llama
    other = data.Gguf(write_gguf(folder / "a", model, architecture="gpt2"))
    fails_to_read(["'gpt2'", "what is read: 'llama'"], read, other)
    for missing in ("kv_heads", "base"):
        lacking = write_gguf(folder / missing, model, **{missing: None})
        words = ["does not state", f"llama.{real_model.FACTS[missing]}"]
        fails_to_read(words, read, data.Gguf(lacking))
    for key, allowed in ("rope.dimension_count", 4), ("rope.scaling.factor", None):
        path = write_gguf(folder / key, model, more={key: 2})
        words = [f"has llama.{key} = 2; what is read: {allowed}"]
        fails_to_read(words, read, data.Gguf(path))
    whole = {"rope.dimension_count": 4, "dropped": 1}
    read(data.Gguf(write_gguf(folder / "whole", model, more=whole)))
    for name, weight, words in (
        ("blk.1.ffn_up.weight", None, ["None", "(20, 24)"]),
        ("blk.1.attn_k.weight", torch.ones(24, 24), ["(24, 24)", "(8, 24)"]),
        ("blk.0.attn_q.bias", torch.ones(24), ["(24,)", "None"]),
        ("output.weight", torch.ones(23, 24), ["(23, 24)", "None"]),
    ):
        path = write_gguf(folder / name, model, {name: weight})
        fails_to_read([f"has {name} of shape", *words], read, data.Gguf(path))
    refuses(
        "kv_heads", lambda: read(data.Gguf(write_gguf(folder / "b", model, kv_heads=4)))
    )


@in_a_folder
def test_a_cut_file_is_refused(folder):
    path = write_gguf(folder / "whole", llama(0, torch.float32))
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        fails_to_read(["cut short"], lambda: real_model.load_llama(data.Gguf(path)))
    path.write_bytes(b"PNG" + content)
    fails_to_read(["not a GGUF file"], lambda: real_model.load_llama(data.Gguf(path)))


def test_names_in_the_file():
    names = {
        "embedding.weight": "token_embd.weight",
        "norm.weight": "output_norm.weight",
        "blocks.0.attention_norm.weight": "blk.0.attn_norm.weight",
        "blocks.12.mlp.down.weight": "blk.12.ffn_down.weight",
        "blocks.7.attention.output.weight": "blk.7.attn_output.weight",
    }
    for ours, theirs in names.items():
        assert real_model.file_name(ours) == theirs


# SmolLM2, all of it


@functools.cache
def oracle():
    """transformers' model of the same file: read by `gguf`, in transformers' order."""
    import gguf
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    config = real_model.read_config(data.smollm2())
    facts = {
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
    }
    order = LlamaTensorProcessor(config=facts)
    theirs = {real_model.NAMES[ours]: name for ours, name in PARTS.items()}
    weights = {}
    for tensor in gguf.GGUFReader(data.smollm2().path).tensors:
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        array = order.process(array, tensor.name).weights
        name = {"token_embd.weight": "model.embed_tokens.weight"}.get(tensor.name)
        if tensor.name.startswith("blk."):
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{theirs[part]}.weight"
        weights[name or "model.norm.weight"] = torch.tensor(array)
    return transformers_llama(config, weights)


@functools.cache
def oracle_logits(text):
    ids = torch.tensor([data.smollm2_tokenizer().encode(text)])
    with torch.inference_mode():
        return ids, oracle()(ids).logits


def test_smollm2_is_that_of_transformers():
    model = real_model.load_smollm2()
    assert model is real_model.load_smollm2()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    parts = real_model.llama_parameters(model.config)
    assert sum(parts.values()) == 134_515_008
    forms = model, real_model.LlamaFast(model)
    for text in TEXTS:
        ids, expected = oracle_logits(text)
        with torch.inference_mode():
            assert (model(ids) - expected).abs().max() < 1e-3
            for form in forms:  # a prompt of two tokens, then one by one
                cache = real_model.KVCache(model.config, ids.size(1))
                pieces = ids[:, :2], *ids[:, 2:].split(1, 1)
                steps = [form.logits(form.residual(p, cache)) for p in pieces]
                assert (torch.cat(steps, 1) - expected).abs().max() < 1e-3


def test_smollm2_writes_what_transformers_would():
    """Each token is the likeliest for transformers, too, up to a rounding error."""
    ids, _ = oracle_logits(TEXTS[1])
    model = real_model.load_smollm2()
    for form in model, real_model.LlamaFast(model):
        made = real_model.complete(form, ids[0].tolist(), 12)
        whole = torch.cat([ids, torch.tensor([made])], 1)
        with torch.inference_mode():
            logits = oracle()(whole[:, :-1]).logits[0, ids.size(1) - 1 :]
        chosen = logits.gather(-1, torch.tensor(made)[:, None]).squeeze(-1)
        assert len(made) == 12 and (logits.amax(-1) - chosen).max() < 1e-3


# The stored answers

MAKE = files.ASSETS / "two-am" / "make.py"


@functools.cache
def make():
    return module_at(MAKE)


@functools.cache
def answers():
    return json.loads(data.asset("two-am", "answers.json").read_text("utf-8"))


@functools.cache
def cells(*more):
    """What the notebook's cells define, beside what it exports."""
    names = make().book()
    for name in more:
        exec(make().cells()[name], names)
    return names


def printed(*lines):
    """What a program prints last, or the error that it ends with."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec("\n".join(lines), {})
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return out.getvalue().strip().split("\n")[-1]


def test_each_line_mends_its_program_and_not_the_twin():
    """And the line that fails does so in both, with the message that is shown."""
    for first, other, failing, error, mends, mends_other in make().TWINS:
        assert printed(first, failing) == printed(other, failing) == error
        assert printed(first, mends) != printed(first, mends_other)
        assert printed(other, mends) != printed(other, mends_other)
        for right in printed(first, mends), printed(other, mends_other):
            assert right and "Error" not in right


def test_stored_answers_were_made_by_what_is_there():
    """If this fails: run book/_tools/assets.py two-am, a quarter of an hour."""
    stored, wordings = answers(), cells()["WORDINGS"]
    assert stored["digest"] == make().digest()
    assert stored["twins"] == make().TWINS
    asked = len(wordings) * len(stored["twins"])
    for name in "answers", "gaps", "nats":
        assert len(stored[name]) == asked, name
        assert all(len(both) == 2 for both in stored[name])
    assert len(stored["silent"]) == len(stored["twins"])


def test_stored_answers_of_other_code_are_found():
    exported, now = make().exported(make().NOTEBOOK), make().digest()
    for old, new, found in (
        ("(self.gate(x)) * self.up(x)", "(self.gate(x)) + self.up(x)", True),
        ("turned).mul_(turn)", "turned)", True),
        ("The first block of code", "A block", False),
        ("Continue a list of ids", "Write", False),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                make(), "exported", lambda _, o=old, n=new: exported.replace(o, n)
            )
            assert (make().digest() != now) == found, old
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make(), "TWINS", make().TWINS[1:])
        assert make().digest() != now


@pytest.mark.parametrize("number", [3, 27, 50])
def test_stored_answers_are_what_the_model_writes(number):
    """No token leads by more than a rounding error over the one that is stored."""
    names, stored = cells(), answers()
    wording = names["WORDINGS"][number // len(make().TWINS)]
    first, other, failing, error, *lines = stored["twins"][number % len(make().TWINS)]
    for half, line in enumerate((first, other)):
        before = names["chat"](names["plea"](line, failing, error, wording))
        after = names["tokenizer"].encode(stored["answers"][number][half])
        ids = torch.tensor([before + after])
        with torch.inference_mode():
            logits = names["model"](ids[:, :-1])[0, len(before) - 1 :]
        chosen = logits.gather(-1, ids[0, len(before) :, None]).squeeze(-1)
        assert (logits.amax(-1) - chosen).max() < 1e-3
        likely = names["line_likelihoods"](line, failing, error, lines, wording)
        close(torch.tensor(likely), torch.tensor(stored["nats"][number][half]), 0.01)


def test_no_stored_choice_is_a_near_tie():
    """So the texts do not hang on a processor's last digits (1e-4 in a logit)."""
    assert min(min(both) for both in answers()["gaps"]) > 3e-4


def test_first_block_of_code_is_taken():
    code_in = cells()["code_in"]
    assert code_in("So:\n```python\na = 1\n```\nor\n```\nb\n```") == "a = 1"
    assert code_in("```\na\nb\n```") == "a\nb"
    assert code_in("```python\na = 1\nb") == "a = 1\nb"
    assert code_in("a = 1") == ""


def test_an_answer_is_judged_by_what_it_prints():
    names = cells("run-answer", "judge")
    for answer, verdict in (
        ("```python\nprint(str(age + 1))\n```", (True, True)),
        ("```\nage = 41\nprint(age + 1)\n```", (True, True)),
        ("```\nprint(0)\nprint(42)\n```", (True, True)),
        ("```\nprint(43)\n```", (True, False)),
        ("```\nage\n```", (False, False)),
        ("```\nprint(42)\nprint(agee)\n```", (False, False)),
        ("print(42)", (False, False)),
    ):
        assert names["judge"]("age = 41", "print(age + 1)", answer) == verdict, answer


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@quick
def test_interval_is_that_of_the_next_notebook(case):
    names = {"math": real_model.math}
    exec(make().cells()["interval"], names)
    close(names["interval"](*case), induction.wilson_interval(*case), 1e-12)


# The exercises


@functools.cache
def exercises():
    model, tokenizer = real_model.load_smollm2(), data.smollm2_tokenizer()
    names = {"model": model, "tokenizer": tokenizer}
    return run_exercises("transformers/real-model", real_model, also=["chat"], **names)


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_a_question_has_the_form_that_the_file_gives():
    template = data.smollm2().metadata["tokenizer.chat_template"]
    template = jinja2.Environment().from_string(template)
    for asked in "Why?", "Two\nlines, and a {brace}.":
        turns = [{"role": "user", "content": asked}]
        expected = template.render(messages=turns, add_generation_prompt=True)
        ids = exercises().chat(asked)
        assert data.smollm2_tokenizer().decode(ids) == expected


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()
    fails(
        book.check_longest_text,
        lambda config, free, batch=1: free // book.cache_bytes(config, 1, batch, 2),
        lambda config, free, batch=1: book.longest_text(config, free, 1),
        lambda config, free, batch=1: book.longest_text(config, free, batch) / 1,
        lambda config, free, batch=1: book.longest_text(config, free // 2, batch),
        lambda config, free, batch=1: book.longest_text(config, free // 2 * 3, batch),
    )
    fails(
        book.check_to_neighbours,
        to_halves,
        lambda weight, heads: weight,
        lambda weight, heads: book.to_neighbours(weight, 1),
        lambda weight, heads: book.to_neighbours(weight, heads).T,
    )

    def soonest(model, ids):
        stream = real_model.trace_layers(model, ids).residuals[:, 0, -1]
        said = model.logits(stream).argmax(-1)
        return (said == said[-1]).nonzero()[0].item()

    def shared():
        chosen = set()

        def make(penalty):
            def choose(logits):
                lowered = logits.clone()
                lowered[list(chosen)] -= penalty
                chosen.add(lowered.argmax().item())
                return lowered.argmax().item()

            return choose

        return make

    def changing(penalty):
        def choose(logits):
            best = logits.argmax().item()
            logits[best] -= penalty
            return best

        return choose

    def counted(penalty):
        """The penalty grows each time; the exercise says once."""
        chosen = []

        def choose(logits):
            lowered = logits.clone()
            for token in chosen:
                lowered[token] -= penalty
            chosen.append(lowered.argmax().item())
            return chosen[-1]

        return choose

    def tensors(penalty):
        choose = book.no_repeat(penalty)
        return lambda logits: torch.tensor(choose(logits))

    def remembering(penalty):
        """Goes on with the logits of its first token."""
        choose, kept = book.no_repeat(penalty), []

        def again(logits):
            kept.append(logits.clone())
            return choose(kept[0])

        return again

    fails(
        book.check_no_repeat,
        lambda penalty: book.greedy,
        lambda penalty: 3,
        shared(),
        changing,
        counted,
        tensors,
        remembering,
    )

    def never_zero(model, ids):
        return max(1, book.settled(model, ids))

    def unnormed(model, ids):
        stream = real_model.trace_layers(model, ids).residuals[:, 0, -1]
        said = F.linear(stream, model.embedding.weight).argmax(-1)
        return (said != said[-1]).nonzero()[-1].item() + 1

    def of_the_first_token(model, ids):
        return book.settled(model, ids[:, :1])

    fails(
        book.check_settled,
        lambda model, ids: model.config.layers,
        lambda model, ids: 25,
        soonest,
        never_zero,
        unnormed,
        of_the_first_token,
        lambda model, ids: book.settled(model, ids) - 1,
    )


def test_checks_pass_other_right_answers():
    book = exercises()

    def counting_up(config, free_bytes, batch=1):
        tokens = 0
        while tokens < config.context:
            if book.cache_bytes(config, tokens + 1, batch, 2) > free_bytes:
                break
            tokens += 1
        return tokens

    def by_an_order(weight, heads):
        K = len(weight) // heads
        pairs = torch.arange(K).view(2, -1).T.flatten()
        order = [head * K + pairs for head in range(heads)]
        return weight[torch.cat(order)]

    def by_a_mask(penalty):
        chosen = None

        def choose(logits):
            nonlocal chosen
            if chosen is None:
                chosen = torch.zeros_like(logits, dtype=torch.bool)
            token = int((logits - penalty * chosen).argmax())
            chosen[token] = True
            return token

        return choose

    def by_the_last_change(model, ids):
        stream = real_model.trace_layers(model, ids).residuals[:, 0, -1]
        said = model.logits(stream).argmax(-1)
        other = (said != said[-1]).nonzero()
        return int(other[-1]) + 1 if len(other) else 0

    assert book.check_longest_text(counting_up)
    assert book.check_to_neighbours(by_an_order)
    assert book.check_no_repeat(by_a_mask)
    assert book.check_settled(by_the_last_change)
