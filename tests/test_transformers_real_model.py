"""The cells of transformers/real-model against transformers, torch and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import dataclasses
import functools
import tempfile
import weakref
from pathlib import Path

import hypothesis.strategies as st
import jinja2
import pytest
import torch
import torch.nn.functional as F
from cells import fails, refuses, run_exercises, solutions_pass
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode

from fieldguide import data, gpt, real_model

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
    assert torch.equal(seen[-1][0], model.residual(ids))
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
    model = llama(seed, torch.float32)
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
            assert (model(ids) - expected).abs().max() < 1e-4
            for form in forms:  # a prompt of two tokens, then one by one
                cache = real_model.KVCache(model.config, ids.size(1))
                pieces = ids[:, :2], *ids[:, 2:].split(1, 1)
                steps = [form.logits(form.residual(p, cache)) for p in pieces]
                assert (torch.cat(steps, 1) - expected).abs().max() < 1e-4


def test_smollm2_writes_what_transformers_writes():
    ids, _ = oracle_logits(TEXTS[1])
    with torch.inference_mode():
        made = oracle().generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
    expected = made[0, ids.size(1) :].tolist()
    model = real_model.load_smollm2()
    assert real_model.complete(model, ids[0].tolist(), 12) == expected
    fast = real_model.LlamaFast(model)
    assert real_model.complete(fast, ids[0].tolist(), 12) == expected


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

    fails(
        book.check_no_repeat,
        lambda penalty: book.greedy,
        lambda penalty: 3,
        shared(),
        changing,
    )
    fails(
        book.check_settled,
        lambda model, ids: model.config.layers,
        lambda model, ids: 25,
        soonest,
    )
