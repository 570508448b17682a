"""The cells of transformers/real-model against transformers, torch and arithmetic."""

import functools
import math
from pathlib import Path

import cells
import hypothesis.strategies as st
import jinja2
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, seeds
from rivals import decode
from torch.utils.flop_counter import FlopCounterMode

from fieldguide import data
from fieldguide.transformers import real_model

SIZES = {"vocab": 23, "context": 40, "width": 24, "layers": 3, "heads": 6}
SIZES |= {"kv_heads": 2, "hidden": 20, "eps": 1e-3, "base": 100.0}
TEXTS = ["def add(a, b):\n    return", "naïve 東京 42"]
HEADS = [(6, 2), (6, 6), (3, 1), (2, 1)]
heads_of_both = st.sampled_from(HEADS)


def sizes(**changes):
    return real_model.LlamaConfig(**{**SIZES, **changes})


def llama(seed=0, dtype=torch.double, **changes):
    """A small Llama of random weights, norms included."""
    model, rng = real_model.Llama(sizes(**changes)).to(dtype), generator(seed)
    for name, weight in model.requires_grad_(False).named_parameters():
        weight.normal_(0, 0.3 if weight.dim() > 1 else 0.5, generator=rng)
        if name.endswith("norm.weight"):
            weight += 1
    return model.eval()


def some_ids(*shape, seed=0):
    return torch.randint(SIZES["vocab"], shape, generator=generator(seed))


# Parts


@cases(*(st.integers(1, most) for most in (4, 3, 3, 9, 3)))
def test_parameters_are_counted_without_a_model(kv, group, pairs, hidden, layers):
    heads = kv * group
    more = {"hidden": hidden, "layers": layers, "width": heads * 2 * pairs}
    config = sizes(heads=heads, kv_heads=kv, **more)
    count = {n: p.numel() for n, p in real_model.Llama(config).named_parameters()}
    marks = {"embedding": "embedding", "attention": "attention."}
    marks |= {"network": "mlp.", "norms": "norm"}
    assert real_model.llama_parameters(config) == {
        part: sum(n for name, n in count.items() if mark in name)
        for part, mark in marks.items()
    }


@cases(seeds, st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_grouped_attention_is_torchs(seed, H_kv, group, masked):
    heads = (H_kv * group, 3, 4), (H_kv, 5, 4), (H_kv, 5, 6)
    given = [random(2, *each, seed=seed + n) for n, each in enumerate(heads)]
    mask = random(3, 5, seed=seed) > -0.5 if masked else None
    if masked:
        mask[..., 0] = True
    output, weights = real_model.grouped_query_attention(*given, mask=mask)
    expected = F.scaled_dot_product_attention(*given, attn_mask=mask, enable_gqa=True)
    close(output, expected)
    close(weights @ given[2].repeat_interleave(group, 1), expected)


# The whole, against transformers


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_small_model_is_transformers(heads, kv_heads):
    model = llama(heads, torch.float32, heads=heads, kv_heads=kv_heads)
    ids = some_ids(2, 7)
    twin = decode.transformers_llama(model, attn_implementation="eager")
    theirs = twin(ids, output_attentions=True, output_hidden_states=True)
    close(model(ids), theirs.logits, 2e-4)
    trace = real_model.trace_layers(model, ids)
    close(trace.weights, torch.stack(theirs.attentions), 1e-4)
    close(trace.residuals[:-1], torch.stack(theirs.hidden_states[:-1]), 2e-4)
    close(model.norm(trace.residuals[-1]), theirs.hidden_states[-1], 2e-4)


@functools.cache
def oracle():
    """transformers' model of the same file, which it reads by itself."""
    from transformers import LlamaForCausalLM

    path = Path(data.smollm2().path)
    options = {"gguf_file": path.name, "dtype": torch.float32}
    return LlamaForCausalLM.from_pretrained(path.parent, **options)


@pytest.mark.parametrize("text", TEXTS)
@torch.inference_mode()
def test_smollm2_is_that_of_transformers(text):
    model = cells.kept(real_model.load_smollm2)
    parts = real_model.llama_parameters(model.config)
    assert sum(parts.values()) == 134_515_008
    ids = torch.tensor([data.smollm2_tokenizer().encode(text)])
    assert (model(ids) - oracle()(ids).logits).abs().max() < 1e-3


# The cache

PIECES = st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=6)


@cases(seeds, heads_of_both, st.sampled_from([1, 1, 3]), PIECES)
def test_cached_is_uncached(seed, heads, B, pieces):
    """In 64 bits, of both forms, however the text is cut; no future is seen."""
    model = llama(seed, heads=heads[0], kv_heads=heads[1])
    ids, stores = some_ids(B, sum(pieces), seed=seed), []
    for form in model, real_model.LlamaFast(model):
        cache = real_model.KVCache(model.config, sum(pieces), B, dtype=torch.double)
        cache.store.fill_(torch.nan)  # what is not written is not read
        parts = []
        for piece in ids.split(pieces, 1):
            before = cache.length
            parts.append(form.residual(piece, cache))
            assert cache.length == before + piece.size(1)
        close(form.logits(torch.cat(parts, 1)), model(ids))
        stores.append(cache.store)
    close(*stores)


@cases(st.integers(1, 9), st.integers(1, 4), heads_of_both)
def test_cache_is_as_large_as_counted(tokens, batch, heads):
    config = sizes(heads=heads[0], kv_heads=heads[1])
    for dtype in torch.float32, torch.double:
        cache = real_model.KVCache(config, tokens, batch, dtype=dtype)
        shape = (2, config.layers, batch, heads[1], tokens, config.head_width)
        assert cache.store.shape == shape and cache.store.dtype == dtype
        counted = real_model.cache_bytes(config, tokens, batch, dtype.itemsize)
        assert cache.store.nbytes == counted


@cases(st.integers(1, 6), st.integers(0, 6), heads_of_both)
def test_flops_are_torchs_count(new, before, heads):
    model = llama(dtype=torch.float32, heads=heads[0], kv_heads=heads[1])
    cache = real_model.KVCache(model.config, 12)
    if before:
        model(some_ids(1, before), cache)
    with FlopCounterMode(display=False) as counter:
        model.logits(model.residual(some_ids(1, new), cache)[:, -1])
    told = (new, before) if before else (new,)
    assert counter.get_total_flops() == real_model.llama_flops(model.config, *told)


def test_a_text_goes_on_with_the_likeliest_token_up_to_a_stop():
    model = llama(1, torch.float32)
    ids, seen = some_ids(5, seed=1).tolist(), []
    free = real_model.complete(model, ids, 12)
    assert real_model.complete(real_model.LlamaFast(model), ids, 12) == free
    text = torch.tensor([ids + free])
    assert model(text)[0, 4:-1].argmax(-1).tolist() == free
    stop = free[4]
    assert real_model.complete(model, ids, 12, stop=[stop]) == free[: free.index(stop)]
    assert real_model.complete(model, ids, 12, stop={free[0], 99}) == []
    choose = {"choose": lambda logits: seen.append(logits) or 3}
    assert real_model.complete(model, ids, 2, **choose) == [3, 3]
    close(torch.stack(seen), model(torch.tensor([[*ids, 3]]))[0, 4:], 1e-5)


# The chat, and the interval


@functools.cache
def page():
    names = {"model": real_model.load_smollm2(), "tokenizer": data.smollm2_tokenizer()}
    return cells.run_exercises("transformers/real-model", real_model, **names)


def test_a_question_has_the_form_that_the_file_gives():
    template = data.smollm2().metadata["tokenizer.chat_template"]
    template = jinja2.Environment().from_string(template)
    turns = [{"role": "user", "content": "Two\nlines, and a {brace}."}]
    expected = template.render(messages=turns, add_generation_prompt=True)
    ids = page().chat(turns[0]["content"])
    assert data.smollm2_tokenizer().decode(ids) == expected


@cases(st.integers(1, 300), st.floats(0, 1), st.sampled_from([1.0, 1.96, 2.6]))
def test_the_ends_are_the_rates_that_lie_z_deviations_away(tries, share, z):
    hits = round(share * tries)
    ends = real_model.wilson_interval(hits, tries, *(() if z == 1.96 else (z,)))
    for end, sign in zip(ends, (1, -1), strict=True):
        off, room = sign * (hits / tries - end), max(end * (1 - end), 0) / tries
        assert math.isclose(off, z * math.sqrt(room), abs_tol=1e-7)
        assert -1e-12 <= end <= 1 + 1e-12
