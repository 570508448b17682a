"""The cells of transformers/real-model against transformers, torch and arithmetic."""

import dataclasses
import functools
import math
import re
import tempfile
import weakref
from pathlib import Path

import cells
import gguf
import hypothesis.strategies as st
import jinja2
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, refuses, refuses_all, seeds
from rivals import decode
from torch.utils.flop_counter import FlopCounterMode

from fieldguide import data
from fieldguide.transformers import real_model

SIZES = {"vocab": 23, "context": 40, "width": 24, "layers": 3, "heads": 6}
SIZES |= {"kv_heads": 2, "hidden": 20, "eps": 1e-3, "base": 100.0}
TEXTS = ["def add(a, b):\n    return", "naïve 東京 42"]
TINY = {"layers": 1, "dtype": torch.float32}  # for what does not hang on numbers
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


def forms(model):
    return model, real_model.LlamaFast(model)


def cache_of(model, *arguments, **options):
    return real_model.KVCache(model.config, *arguments, **options)


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
    assert config.head_width == 2 * pairs
    assert real_model.RMSNorm(config).weight.eq(1).all()


MASKS = st.sampled_from([None, (3, 5), (5,), (2, 1, 3, 5), (2, "H_kv", 3, 5)])


@cases(seeds, st.integers(1, 3), st.integers(1, 3), MASKS, st.sampled_from([None, 0.3]))
def test_grouped_attention_is_torchs(seed, H_kv, group, shape, scale):
    """With no mask, one for all, one for each text, one for each key head."""
    heads, mask, masks = ((H_kv * group, 3, 4), (H_kv, 5, 4), (H_kv, 5, 6)), None, None
    given = [random(2, *each, seed=seed + n) for n, each in enumerate(heads)]
    if shape:
        shape = [H_kv if n == "H_kv" else n for n in shape]
        mask = random(*shape, seed=seed) > -0.5
        mask[..., 0] = True
        masks = torch.atleast_2d(mask)  # as torch wants it, one for each head
        masks = masks.repeat_interleave(group, 1) if H_kv in shape[1:-2] else masks
    output, weights = real_model.grouped_query_attention(*given, mask=mask, scale=scale)
    options = {"attn_mask": masks, "scale": scale, "enable_gqa": True}
    expected = F.scaled_dot_product_attention(*given, **options)
    close(output, expected)
    assert weights.shape == (2, H_kv * group, 3, 5)
    close(weights @ given[2].repeat_interleave(group, 1), expected)


# The whole, against transformers


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_small_model_is_transformers(heads, kv_heads):
    model = llama(heads, torch.float32, heads=heads, kv_heads=kv_heads)
    ids = some_ids(2, 7)
    twin = decode.transformers_llama(model, attn_implementation="eager")
    theirs = twin(ids, output_attentions=True, output_hidden_states=True)
    close(model(ids), theirs.logits, 2e-4)
    residuals, weights = real_model.trace_layers(model, ids)
    close(weights, torch.stack(theirs.attentions), 1e-4)
    close(residuals[:-1], torch.stack(theirs.hidden_states[:-1]), 2e-4)
    close(model.norm(residuals[-1]), theirs.hidden_states[-1], 2e-4)
    assert residuals.is_inference() and weights.is_inference()
    assert next(real_model.run_layers(model, ids))[1] is None


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
    model = real_model.load_smollm2()
    assert model is real_model.load_smollm2()
    parts = real_model.llama_parameters(model.config)
    assert sum(parts.values()) == 134_515_008
    ids = torch.tensor([data.smollm2_tokenizer().encode(text)])
    expected = oracle()(ids).logits
    assert (model(ids) - expected).abs().max() < 1e-3


def test_weights_of_earlier_layers_are_forgotten():
    """A long text would need L times the memory if they were kept."""
    model, seen = llama(layers=6), []

    def watch(block, given, output):
        seen.append(weakref.ref(output[1]))
        assert all(weights() is None for weights in seen[:-2])

    for block in model.blocks:
        block.register_forward_hook(watch)
    model.residual(some_ids(1, 4))
    assert len(seen) == 6


# The cache

PIECES = st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=6)


@cases(seeds, heads_of_both, st.sampled_from([1, 1, 3]), PIECES)
def test_cached_is_uncached(seed, heads, B, pieces):
    """In 64 bits, of both forms, however the text is cut; no future is seen."""
    model = llama(seed, heads=heads[0], kv_heads=heads[1])
    ids, stores = some_ids(B, sum(pieces), seed=seed), []
    for form in forms(model):
        cache = cache_of(model, sum(pieces), B, dtype=torch.double)
        cache.store.fill_(torch.nan)  # what is not written is not read
        parts = []
        for piece in ids.split(pieces, 1):
            before = cache.length
            parts.append(form.residual(piece, cache))
            assert cache.length == before + piece.size(1)
        close(form.logits(torch.cat(parts, 1)), model(ids))
        close(form.logits(parts[0][0, -1]), model(ids)[0, pieces[0] - 1])
        close(form.residual(ids), model.residual(ids))
        stores.append(cache.store)
    close(*stores)


@cases(st.integers(1, 9), st.integers(1, 4), heads_of_both)
def test_cache_is_as_large_as_counted(tokens, batch, heads):
    config = sizes(heads=heads[0], kv_heads=heads[1])
    for dtype in (torch.float32, torch.bfloat16, torch.double):
        cache = real_model.KVCache(config, tokens, batch, dtype=dtype)
        assert cache.store.dtype == dtype and cache.length == 0
        shape = (2, config.layers, batch, heads[1], tokens, config.head_width)
        assert cache.store.shape == shape
        counted = real_model.cache_bytes(config, tokens, batch, dtype.itemsize)
        assert cache.store.nbytes == counted
    store = real_model.KVCache(config, tokens).store
    assert store.nbytes == real_model.cache_bytes(config, tokens)
    assert store.dtype == torch.float32


def test_cache_keeps_what_it_is_given():
    cache, given = real_model.KVCache(sizes(), 5, 2), torch.randn(2, 2, 2, 3, 4)
    for have, new in zip(cache.append(2, *given), given, strict=True):
        assert torch.equal(have, new) and cache.length == 0
    cache.length = 3
    for shape in (2, 2, 3, 4), (2, 1, 1, 4), (2, 3, 1, 4), (1, 2, 1, 4):
        refuses("key", cache.append, 0, *torch.randn(2, *shape))


def bad_ids():
    """What no model of these sizes reads, whatever its cache holds."""
    good = some_ids(1, 3)
    yield from (None, [[1, 2]], good[0], good[None], good[:, :0], good[:0])
    yield from (good.float(), good > 3, good[:, :1].float(), good.int())
    yield from (torch.tensor([[3, -1]]), torch.tensor([[23]]))


@pytest.mark.parametrize(("room", "most"), [(4, 4), (60, 40)])
def test_a_text_must_not_outgrow_cache_or_context(room, most):
    model = llama(**TINY)
    for form in forms(model):
        cache = cache_of(model, room)
        form.residual(some_ids(1, most - 2), cache)
        for ids in (some_ids(1, 3), *bad_ids()):
            refuses("ids", form.residual, ids, cache)
        for n in 2, 1:
            assert cache.length == most - n
            form.residual(torch.tensor([[1]]), cache)
        refuses("ids", form.residual, torch.tensor([[1]]), cache)
        refuses("ids", form.residual, some_ids(1, 41))
        assert form.residual(some_ids(1, 40)).shape == (1, 40, 24)
        refuses("key", form.residual, torch.tensor([[1]]), cache_of(model, room, 2))


@cases(st.integers(1, 6), st.integers(0, 6), heads_of_both)
def test_flops_are_torchs_count(new, before, heads):
    model = llama(dtype=torch.float32, heads=heads[0], kv_heads=heads[1])
    cache = cache_of(model, 12)
    if before:
        model(some_ids(1, before), cache)
    with FlopCounterMode(display=False) as counter:
        model.logits(model.residual(some_ids(1, new), cache)[:, -1])
    told = (new, before) if before else (new,)
    assert counter.get_total_flops() == real_model.llama_flops(model.config, *told)


def test_a_stop_ends_the_text_and_is_left_out():
    model = llama(1, torch.float32)
    ids = some_ids(5, seed=1).tolist()
    free = real_model.complete(model, ids, 12)
    stop = free[4]
    assert real_model.complete(model, ids, 12, stop=[stop]) == free[: free.index(stop)]
    assert real_model.complete(model, ids, 12, stop={free[0], 99}) == []


def test_fast_form_takes_steps_of_its_own():
    """After the prompt the taught layers are not run; columns lie in rows."""
    model = llama(layers=2, dtype=torch.float32).requires_grad_(True)
    fast, cache = real_model.LlamaFast(model), cache_of(model, 9)
    own = [m for layer in fast.layers for m in (layer.qkv, layer.gate_up)]
    assert all(m.is_contiguous() and not m.requires_grad for m in (fast.unembed, *own))
    fast.residual(torch.tensor([[1, 2]]), cache)
    model.blocks[0].forward = None
    x = fast.residual(torch.tensor([[3]]), cache)
    assert x.shape == (1, 1, 24) and cache.length == 3 and x.is_inference()


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


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_any_float_type_is_completed(kind):
    """As the same model says without a cache; a cache of any type is rounded."""
    model, ids = llama(0, kind), some_ids(5).tolist()
    for form in forms(model):
        seen = []

        def choose(logits, seen=seen):
            seen.append(logits)
            return real_model.greedy(logits)

        made = real_model.complete(form, ids, 9, choose=choose)
        assert made == real_model.complete(form, ids, 9) and len(ids) == 5
        assert {type(one) for one in made} == {int}
        steps = torch.stack(seen)
        assert steps.dtype == kind and seen[0].is_inference()
        text = torch.tensor([ids + made[:-1]])
        assert apart(steps, model(text)[0, len(ids) - 1 :]) < KINDS[kind]
        for kept in KINDS:
            cache = cache_of(model, 13, dtype=kept)
            pieces = text.split([3] + 10 * [1], 1)
            parts = [form.logits(form.residual(piece, cache)) for piece in pieces]
            assert {part.dtype for part in parts} == {kind}
            limit = max(KINDS[kind], KINDS[kept])
            assert apart(torch.cat(parts, 1), model(text)) < limit
            assert cache.store.dtype == kept


def test_nothing_is_made_on_another_device():
    """On `meta`, as on a GPU, a tensor of the CPU does not mix with the others."""
    there = torch.device("meta")
    with there:
        built = real_model.Llama(sizes())
    ids = torch.zeros(1, 4, dtype=torch.long, device=there)
    for model in built.requires_grad_(False), llama(0, torch.float32).to(there):
        fast = real_model.LlamaFast(model)
        assert fast.turns.is_meta and fast.unembed.is_meta and model(ids).is_meta
        for form in model, fast:
            cache = cache_of(model, 6, device=there)
            for piece in ids, ids[:, :1], ids[:, :1]:
                logits = form.logits(form.residual(piece, cache))
                assert logits.is_meta and logits.shape == (*piece.shape, 23)
            # Up to a choice: a number on `meta` cannot be read.
            choose = {"choose": lambda logits: 3 if logits.is_meta else 4}
            assert real_model.complete(form, [1, 2], 3, **choose) == [3, 3, 3]
    assert real_model.trace_layers(model, ids).weights.is_meta


# Files

FOLDER = tempfile.TemporaryDirectory()  # removed when the tests end
# Before a test damages anything; the real file does not load if one of them is wrong.
NAMES = {name: real_model.file_name(name) for name in llama(layers=12).state_dict()}
LIBRARY = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 12)


def written(name, model, tensors=None, **changes):
    """A GGUF of a small Llama, by the library; `tensors` adds or drops some."""
    path = Path(FOLDER.name) / name
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    for field, key in real_model.FACTS.items():
        value = changes.get(field, getattr(model.config, field))
        add = writer.add_float32 if field in ("eps", "base") else writer.add_uint32
        if value is not None:
            add(f"llama.{key}", value)
    for key, value in changes.get("more", {}).items():
        writer.add_uint32(f"llama.{key}", value)
    weights = {NAMES[ours]: weight for ours, weight in model.state_dict().items()}
    for name, weight in (weights | (tensors or {})).items():
        if weight is not None:
            writer.add_tensor(name, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return data.Gguf(path)


def test_a_file_gives_back_the_model():
    model = llama(4, torch.float32, layers=12)
    loaded = real_model.load_llama(written("model", model))
    close(dataclasses.astuple(loaded.config), dataclasses.astuple(model.config), 1e-6)
    weights = loaded.state_dict()
    assert all(torch.equal(weights[n], w) for n, w in model.state_dict().items())
    assert not any(p.requires_grad or p.is_meta for p in loaded.parameters())
    assert not loaded.training
    for ours, theirs in NAMES.items():
        assert real_model.file_name(ours) == theirs
        assert LIBRARY.get_name(theirs.removesuffix(".weight"))


def test_a_foreign_file_is_refused_with_what_is_read():
    model, wide, row = llama(0, torch.float32), torch.ones(24, 24), torch.ones(24)
    up, key, bias = "blk.1.ffn_up.weight", "blk.1.attn_k.weight", "blk.0.attn_q.bias"
    read = "; what is read:"
    foreign = {
        f"holds a model of the kind 'gpt2'{read} 'llama'": {"architecture": "gpt2"},
        "does not state llama.attention.head_count_kv": {"kv_heads": None},
        "does not state llama.rope.freq_base": {"base": None},
        f"has llama.rope.scaling.x = 2{read} None": {"more": {"rope.scaling.x": 2}},
        f"has {up} of shape None{read} (20, 24)": {"tensors": {up: None}},
        f"has {key} of shape (24, 24){read} (8, 24)": {"tensors": {key: wide}},
        f"has {bias} of shape (24,){read} None": {"tensors": {bias: row}},
    }
    turned = {"more": {"rope.dimension_count": 2}}
    foreign |= {f"has llama.rope.dimension_count = 2{read} 4": turned}
    for number, (words, changes) in enumerate(foreign.items()):
        with pytest.raises(data.DataError, match=re.escape(words)):
            real_model.load_llama(written(f"foreign-{number}", model, **changes))
    more = {"rope.dimension_count": 4, "dropped": 1}
    real_model.load_llama(written("whole", model, more=more))
    refuses("kv_heads", real_model.load_llama, written("four", model, kv_heads=4))


# The stored answers

make, stored = cells.script("two-am"), cells.record("two-am", "answers.json")


def test_each_line_mends_its_program_and_not_the_twin():
    """And the line that fails does so in both, with the message that is shown."""
    run = exercises().run_code
    for first, other, failing, error, *lines in make.TWINS:
        for program, (right, wrong) in ((first, lines), (other, lines[::-1])):
            fell, said = run(f"{program}\n{failing}")
            assert not fell and said.startswith(error)
            mended = run(f"{program}\n{right}")
            assert mended[0] and mended[1] and mended != run(f"{program}\n{wrong}")


def test_a_stored_answer_is_what_the_model_writes():
    """No token leads by more than a rounding error over the one that is stored."""
    names, number = make.book(), 50
    wording = names["WORDINGS"][number // len(make.TWINS)]
    first, other, failing, error, *lines = stored["twins"][number % len(make.TWINS)]
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
    # Nor is any choice a near tie that another processor's last digits could turn.
    assert min(min(both) for both in stored["gaps"]) > 3e-4


def test_an_answer_is_judged_by_what_it_prints():
    judge = exercises().judge
    for answer, verdict in (
        ("So:\n```python\nprint(str(age + 1))\n```\nor\n```\nb\n```", (True, True)),
        ("```\nage = 41\nprint(age + 1)\n```", (True, True)),
        ("```python\nprint(0)\nprint(42)", (True, True)),
        ("```\nprint(43)\n```", (True, False)),
        ("```\nprint(42)\nprint(agee)\n```", (False, False)),
        ("print(42)", (False, False)),
    ):
        assert judge("age = 41", "print(age + 1)", answer) == verdict, answer


@cases(st.integers(1, 300), st.floats(0, 1), st.sampled_from([1.0, 1.96, 2.6]))
def test_the_ends_are_the_rates_that_lie_z_deviations_away(tries, share, z):
    hits = round(share * tries)
    more = () if z == 1.96 else (z,)
    ends = real_model.wilson_interval(hits, tries, *more)
    for end, sign in zip(ends, (1, -1), strict=True):
        off, room = sign * (hits / tries - end), max(end * (1 - end), 0) / tries
        assert math.isclose(off, z * math.sqrt(room), abs_tol=1e-7)
        assert -1e-12 <= end <= 1 + 1e-12


# What is refused

IDS = {"ids": [*bad_ids()]}
GGUF, NORMAL = {"gguf": data.smollm2()}, torch.randn(4, 2, 24)
X, QUERY, KEY = NORMAL[:1], NORMAL[:3, :, :4], NORMAL[:1, :, :4]


def refusals():
    """{name: (arguments that work, bad values for some)}, made of what is damaged."""
    config, model = {"config": sizes()}, {"model": llama(**TINY)}
    attend = {"query": QUERY, "key": KEY, "value": KEY, "mask": None, "scale": 1.0}
    cache = config | {"room": 3, "batch": 1, "dtype": torch.float16, "device": None}
    text = model | {"ids": [1], "count": 39, "stop": {3}, "choose": real_model.greedy}
    return {
        "LlamaConfig": (SIZES, {"kv_heads": [4], "heads": [5, 24]}),
        "SwiGLU": ({"width": 3, "hidden": 5}, {}),
        "file_name": ({"name": "norm.weight"}, {}),
        "greedy": ({"logits": X[0, 0]}, {"logits": [X[0, 0, :0], X[0]]}),
        "grouped_query_attention": (attend, {"query": [QUERY[:0], QUERY[0, 0]],
         "key": [NORMAL[:2, :, :4], NORMAL[:3, :1, :4], KEY[:0]], "value": [QUERY],
         "mask": [QUERY[..., :2] > 0]}),
        "trace_layers": (model | {"ids": torch.tensor([[1, 2]])}, IDS),
        "KVCache": (cache, {"dtype": [torch.int64, torch.bool]}),
        "cache_bytes": (config | {"tokens": 2, "batch": 1, "bytes_per_number": 4}, {}),
        "llama_flops": (config | {"new": 1, "before": 0}, {}),
        "complete": (text, {"count": [40],
         "ids": [[], [23], [-1], [0.5], [1, 2], [1, "a"], [1, True]]}),
        "wilson_interval": ({"hits": 3, "tries": 4, "z": 1.96},
         {"hits": [5, -1], "tries": [2, -3]}),
        "LlamaFast": (model, {}),
        **dict.fromkeys(("read_config", "load_llama"), (GGUF, {})),
        **dict.fromkeys(("GroupedAttention", "RMSNorm", "Llama"), (config, {})),
        "llama_parameters": (config, {}),
    }  # fmt: skip


@pytest.mark.parametrize("name", refusals())
def test_what_cannot_be_is_refused(name):
    good, bad = refusals()[name]
    refuses_all(getattr(real_model, name), good, **bad)


def test_what_does_not_fit_a_model_is_refused():
    refuses("heads", sizes, width=18)  # a head of three: rotation takes pairs
    refuses("heads", sizes, width=25, heads=5, kv_heads=5)
    refuses("config", real_model.LlamaBlock, None)
    for heads in NORMAL[:2, :, :4], NORMAL[:0, :, :4]:
        refuses("key", real_model.grouped_query_attention, QUERY, heads, heads)
    model, block = llama(**TINY), llama(**TINY).blocks[0]
    refuses_all(model.forward, {"ids": torch.tensor([[1, 2]])}, **IDS)
    looks = {"x": X, "places": torch.arange(2), "mask": X[0, :, :2] < 9}
    looks["remember"] = lambda *parts: parts
    wrong = {"x": [X[..., :6], X[:, :1]], "places": [torch.arange(3)]}
    for part in block, block.attention:
        refuses_all(part.forward, looks, **wrong)
    for form in forms(model):
        refuses_all(form.logits, {"x": X}, x=[X[..., :6], X[0, 0, 0]])


# The exercises


def exercises():
    names = {"model": real_model.load_smollm2(), "tokenizer": data.smollm2_tokenizer()}
    return cells.run_exercises("transformers/real-model", real_model, **names)


def test_a_question_has_the_form_that_the_file_gives():
    template = data.smollm2().metadata["tokenizer.chat_template"]
    template = jinja2.Environment().from_string(template)
    for asked in "Why?", "Two\nlines, and a {brace}.":
        turns = [{"role": "user", "content": asked}]
        expected = template.render(messages=turns, add_generation_prompt=True)
        ids = exercises().chat(asked)
        assert data.smollm2_tokenizer().decode(ids) == expected


SLIPS = [  # (solution, what the check says, damages to the solution)
    ("longest_text", "longer than the context", "min(fits, config.context)", "fits"),
    ("longest_text", "forgot the batch", "1, batch", "1, 1"),
    ("longest_text", "2 bytes here, not 4", "number=2", "number=4"),
    ("longest_text", "both kept", "number=2", "number=1"),
    ("longest_text", "query heads", "number=2", "number=6"),
    ("longest_text", "an int is wanted", "//", "/"),
    ("longest_text", "returns None", "return", "fits ="),
    ("unshare", "neighbours share", ".repeat_interleave(times, 0)",
     ".repeat(times, 1, 1)"),
    ("unshare", "repeat whole heads", "heads.repeat_interleave(times, 0).flatten(0, 1)",
     "weight.repeat_interleave(times, 0)"),
    ("multiplier", "only one gate", "[[1, -1]]", "[[1, 0]]"),
    ("multiplier", "subtract one", "[[1, -1]]", "[[1, 1]]"),
    ("multiplier", "sign is wrong", "[[1, -1]]", "[[-1, 1]]"),
    ("multiplier", "the input of its gate", "[[0, 1], [0, 1]]", "[[1, 0], [1, 0]]"),
    ("multiplier", "should have the shape", "[[1, -1]]", "[1, -1]"),
    ("settled", "it must stay", "return layer", "return said.index(said[-1])"),
    ("settled", "take the last", "0, -1]", "0, 0]"),
    ("settled", "norm is missing", "model.logits(stream)",
     "F.linear(stream, model.embedding.weight)"),
    ("settled", "too early", "return layer", "return layer - 1"),
    ("settled", "last layer, L", "return layer", "return len(said) - 1"),
    ("settled", "a number is wanted", "return layer", "return [layer]"),
    ("settled", "is right, not 99", "return layer", "return 99"),
]  # fmt: skip


def test_a_wrong_answer_is_told_its_cause():
    book = exercises()
    for name, words, *damage in SLIPS:
        source = vars(book)["sources"][name]
        for old, new in zip(damage[::2], damage[1::2], strict=True):
            assert old in source, words
            source = source.replace(old, new)
        names = {**vars(real_model), **book}
        exec(source, names)
        with pytest.raises(AssertionError, match=re.escape(words)):
            book[f"check_{name}"](names[name])
