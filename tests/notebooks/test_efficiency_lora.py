"""The cells of efficiency/lora against peft, loops in Python and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import copy
import functools
import io
import json
import math
import random as dice
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import peft
import pytest
import torch
import torch.nn.functional as F
from cells import (
    close,
    fails,
    generator,
    module_at,
    random,
    refuses,
    refuses_all,
    run_exercises,
)
from hypothesis import given, settings
from safetensors import torch as safetensors
from torch import nn

from fieldguide import data
from fieldguide.efficiency import lora, quantization
from fieldguide.memory import SavedBytes
from fieldguide.transformers import gpt, real_model, training

ROOT = Path(__file__).parents[2]
MAKE = ROOT / "book" / "_assets" / "lora" / "make.py"
TINY = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=True)
SIZES = {"vocab": 11, "context": 16, "width": 8, "layers": 2, "heads": 2}
LLAMA = real_model.LlamaConfig(**SIZES, kv_heads=1, hidden=12, eps=1e-5, base=1e4)
ALL = ["query", "key", "value", "output", "up", "down"]

quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(2, 6)


def tiny_gpt(seed=0):
    """A small GPT whose biases are not 0."""
    model = gpt.GPT(TINY, generator=generator(seed))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            p.data.normal_(generator=generator(seed))
    return model


def adapted_gpt(targets=("query", "up"), rank=2, alpha=32, seed=None):
    """The small GPT with adapters, which change something if there is a seed."""
    model = tiny_gpt()
    lora.add_lora(model, targets, rank, alpha, generator=generator())
    return model if seed is None else filled(model, seed)


def tiny_llama():
    """A small Llama in float64, always the same."""
    model = real_model.Llama(LLAMA).double()
    for p in model.parameters():
        p.data.normal_(0, 1, generator=generator())
    return model


def filled(model, seed=0, scale=0.3):
    """The model, with adapters that change something."""
    for place, layer in enumerate(lora.lora_layers(model).values()):
        for part in layer.lora_A, layer.lora_B:
            part.weight.data.normal_(0, scale, generator=generator(seed + place))
    return model


def matrices(state):
    """Of a state of adapters, all but the alphas."""
    return {n: w for n, w in state.items() if not n.endswith("alpha")}


def learning(model):
    return [n for n, p in model.named_parameters() if p.requires_grad]


def some_ids(*shape, V=7, seed=0):
    return torch.randint(V, shape, generator=generator(seed))


# The tasks


def test_spellings():
    old = "us. Up! Jesus gave unto every judge Ujv VIUJ vU (u) 4u evil\nunder"
    new = "vs. Vp! Iesus gaue vnto euery iudge Viu VIUI vU (v) 4v euil\nvnder"
    assert lora.spelling_1611(old) == new == lora.spelling_1611(new)
    assert lora.backwards("ab c\n\nde") == "c ba\n\ned"


def written_out(model, batch_loss, steps, rate, warmup, betas=(0.9, 0.999)):
    """The losses of AdamW, step by step: batch_loss(model, step) goes down."""
    learn, losses = [p for p in model.parameters() if p.requires_grad], []
    optimizer = torch.optim.AdamW(learn, rate, betas=betas, weight_decay=0)
    for step in range(steps):
        done = max(0, step - warmup) / (steps - warmup)
        rising = (step + 1) / warmup if step < warmup else 1
        share = min(rising, 0.5 + 0.5 * math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = rate * share
        loss = batch_loss(model, step)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learn, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def follows(losses, models, batch_loss, *recipe):
    """The first model was trained as the second is now, and had these losses."""
    right = written_out(models[1], batch_loss, *recipe)
    close(torch.as_tensor(losses), torch.tensor(right), 1e-5)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        close(p, q, 1e-6)


@pytest.mark.parametrize(("options", "batch"), [({"batch": 3}, 3), ({}, 8)])
def test_fine_tune_is_adamw_with_a_fading_rate(options, batch):
    ids, draw, models = some_ids(200), generator(1), [tiny_gpt(), tiny_gpt()]
    for model in models:
        model.double().token.weight.requires_grad_(False)

    def loss(model, step):
        inputs, targets = training.windows(ids, batch, 4, draw)
        return F.cross_entropy(model(inputs).mT, targets)

    losses = lora.fine_tune(models[0], ids, 20, 0.01, generator=generator(1), **options)
    follows(losses, models, loss, 20, 0.01, 1, (0.9, 0.99))


# Updates


@quick
@given(seed=seeds, batch=st.sampled_from([(), (3,), (2, 3), (0,)]), A=sizes, B=sizes)
def test_truncation_keeps_the_largest_singular_values(seed, batch, A, B):
    matrix = random(*batch, A, B, seed=seed)
    values = torch.linalg.svdvals(matrix)
    for rank in range(min(A, B) + 1):
        cut, left = lora.truncate(matrix, rank), values.clone()
        assert cut.shape == matrix.shape
        left[..., rank:] = 0
        close(torch.linalg.svdvals(cut), left, 1e-9)
        close((matrix - cut).norm(dim=(-2, -1)), (values - left).norm(dim=-1), 1e-9)


# One layer


def a_layer(wide, out, rank, alpha, bias=True, seed=0, kind=None):
    linear = nn.Linear(wide, out, bias=bias, dtype=torch.double)
    made = (kind or lora.LoRALinear)(linear, rank, alpha, generator=generator(seed))
    made.lora_B.weight.data = random(out, rank, seed=seed + 1)
    return made


@quick
@given(
    seed=seeds,
    wide=sizes,
    out=sizes,
    rank=st.integers(1, 2),
    alpha=st.sampled_from([0.5, 2, 7]),
    bias=st.booleans(),
    shape=st.sampled_from([(), (1,), (3,), (2, 3), (0,)]),
    fast=st.booleans(),
)
def test_a_lora_layer_is_its_formula(seed, wide, out, rank, alpha, bias, shape, fast):
    kind = lora.LoRALinearFast if fast else lora.LoRALinear
    layer = a_layer(wide, out, rank, alpha, bias, seed, kind)
    A, B, base = layer.lora_A.weight, layer.lora_B.weight, layer.original_layer
    x = random(*shape, wide, seed=seed).requires_grad_()
    whole = base.weight + alpha / rank * B @ A
    right = F.linear(x, whole, base.bias)
    with mock.patch.object(torch, "addmm", wraps=torch.addmm) as last:
        found = layer(x)
    assert last.call_count == fast, "the fast one's last product scales and adds"
    close(found, right)
    close(layer.change(), whole - base.weight)
    weigh = random(*shape, out, seed=seed + 2)
    learn = [x, A, B]
    mine = torch.autograd.grad((found * weigh).sum(), learn)
    theirs = torch.autograd.grad((right * weigh).sum(), learn)
    for a, b in zip(mine, theirs, strict=True):
        close(a, b)


def test_the_articles_call():
    layers = []
    for _ in range(2):
        torch.manual_seed(3)
        layers.append(lora.LoRALinear(nn.Linear(1024, 1024), rank=16))
    first, again = (layer.lora_A.weight for layer in layers)
    assert torch.equal(first, again) and abs(first.std().item() - 0.02) < 0.001
    box = nn.Sequential(nn.Linear(20, 20))
    lora.add_lora(box, ["0"], kind=lora.LoRALinearFast)
    assert type(box[0]) is lora.LoRALinearFast
    for layer in layers[0], lora.LoRALinear(nn.Linear(20, 20)), box[0]:
        assert learning(layer) == ["lora_A.weight", "lora_B.weight"]
        assert (layer.rank, layer.alpha) == (16, 32) and not layer.lora_B.weight.any()


@pytest.mark.parametrize("kind", ["LoRALinear", "LoRALinearFast"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_an_adapter_has_32_bits_at_least(kind, dtype):
    dtype = getattr(torch, dtype)
    layer = getattr(lora, kind)(nn.Linear(6, 5, dtype=dtype), 2, generator=generator())
    wide = torch.promote_types(dtype, torch.float32)
    assert layer.lora_A.weight.dtype == layer.lora_B.weight.dtype == wide
    layer.lora_B.weight.data.fill_(1.0)
    x = random(3, 6).to(dtype)
    low = layer.lora_B(layer.lora_A(x.to(wide)))
    right = layer.original_layer(x) + (32 / 2 * low).to(dtype)
    close(layer(x), right, 1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("kind", ["LoRALinear", "LoRALinearFast"])
def test_an_adapter_can_be_the_whole_model(kind):
    kind, x = getattr(lora, kind), random(3, 5)
    layer, other = (a_layer(5, 4, 2, 3, seed=s, kind=kind) for s in (0, 7))
    plain, apart = layer.original_layer(x), layer(x)
    lora.load_lora(other, lora.lora_state(layer))
    close(other.change(), layer.change())
    lora.merge(layer)
    close(layer(x), apart)
    assert torch.equal(layer(x), layer.original_layer(x))
    lora.unmerge(layer)
    for right in plain, apart:
        bare = copy.deepcopy(layer)
        left = lora.remove_lora(bare)
        assert left is bare.original_layer and learning(left) == ["weight", "bias"]
        close(left(x), right)
        lora.merge(layer)


@pytest.mark.parametrize("kind", ["LoRALinear", "LoRALinearFast"])
def test_layers_without_weights_in_memory_are_taken(kind):
    """On the device `meta`, as a large model is laid out before it is loaded."""
    model, kind = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 4)), getattr(lora, kind)
    lora.quantize_base(model, ["0"])
    model.to("meta")
    lora.add_lora(model, ["0", "1"], 2, 6, generator=generator(), kind=kind)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model(torch.empty(3, 64, device="meta")).shape == (3, 4)
    state = lora.lora_state(model)
    assert [state[f"{i}.alpha"].item() for i in (0, 1)] == [6, 6]
    lora.load_lora(model, state)
    refuses("model", lora.merge, model)
    lora.merge(model[1])
    assert model[1].merged and model(torch.empty(0, 64, device="meta")).is_meta
    lora.unmerge(model)
    assert learning(lora.remove_lora(model)) == ["1.weight", "1.bias"]
    with torch.device("meta"):
        box = nn.Sequential(lora.LoRALinear(nn.Linear(6, 4), 2))
        box.load_state_dict(box.state_dict())
        assert lora.lora_state(box)["0.alpha"].item() == box[0].alpha == 32
    kept = filled(nn.Sequential(lora.LoRALinear(nn.Linear(6, 4), 2, 7)))
    box.load_state_dict(kept.state_dict(), assign=True)
    close(box(torch.ones(6)), kept(torch.ones(6)))


# A model


def names_in(model, targets):
    return [n for n, _ in model.named_modules() if n.split(".")[-1] in targets]


@pytest.mark.parametrize("targets", [ALL, ("up", "down"), {"output"}])
def test_adapters_go_where_they_are_told(targets):
    model, twin, ids = tiny_gpt(), tiny_gpt(), some_ids(2, 4)
    names = lora.add_lora(model, targets, 2, 6, generator=generator())
    assert names == names_in(twin, targets) == list(lora.lora_layers(model))
    for name, layer in lora.lora_layers(model).items():
        assert type(layer) is lora.LoRALinear
        assert (layer.rank, layer.alpha) == (2, 6)
        base = twin.get_submodule(name)
        assert torch.equal(layer.original_layer.weight, base.weight)
    assert torch.equal(model(ids), twin(ids))
    state = matrices(lora.lora_state(model))
    again = matrices(lora.lora_state(adapted_gpt(targets)))
    assert learning(model) == list(state)
    assert all(torch.equal(w, again[n]) for n, w in state.items()), "drawn in order"
    drawn = [w.flatten()[:8] for n, w in state.items() if n.endswith("A.weight")]
    assert len(torch.stack(drawn).unique(dim=0)) == len(drawn), "each for itself"


@quick
@given(seed=seeds, rank=st.integers(1, 4), alpha=st.sampled_from([1, 8]))
def test_a_model_with_adapters_is_pefts(seed, rank, alpha):
    mine, theirs = tiny_gpt(seed), tiny_gpt(seed)
    lora.add_lora(mine, ALL, rank, alpha)
    filled(mine, seed)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=ALL)
    peft.inject_adapter_in_model(config, theirs)
    for name, weight in matrices(lora.lora_state(mine)).items():
        path = name.replace(".weight", ".default.weight")
        theirs.get_parameter(path).data.copy_(weight)
    ids = some_ids(3, 4, seed=seed)
    outputs = [model(ids) for model in (mine, theirs)]
    close(*outputs, 1e-5)
    for model, logits in zip((mine, theirs), outputs, strict=True):
        F.cross_entropy(logits.mT, ids).backward()
        assert model.token.weight.grad is None
    for name in matrices(lora.lora_state(mine)):
        path = name.replace(".weight", ".default.weight")
        close(mine.get_parameter(name).grad, theirs.get_parameter(path).grad, 1e-5)
    lora.merge(mine)
    for name, layer in lora.lora_layers(mine).items():
        other = theirs.get_submodule(name)
        other.merge()
        close(layer.original_layer.weight, other.base_layer.weight, 1e-6)


@pytest.mark.parametrize("half", [False, True])
def test_merging_twice_changes_nothing_and_can_be_undone(half):
    model, twin, ids = adapted_gpt(ALL, 2, 6, seed=0), tiny_gpt(), some_ids(2, 4)
    apart, layers = model(ids), lora.lora_layers(model)
    assert (apart - twin(ids)).abs().max() > 0.01
    whole = {n: m.original_layer.weight + m.change() for n, m in layers.items()}
    lora.unmerge(model)  # nothing to do
    for turn, merged in (lora.merge, True), (lora.unmerge, False):
        if half:
            turn(model.blocks[0])
            close(model(ids), apart, 1e-5)
        for _ in range(2):
            turn(model)
            close(model(ids), apart, 1e-5)
            for name, layer in layers.items():
                weight = layer.original_layer.weight
                assert layer.merged == merged and not weight.requires_grad
                right = whole[name] if merged else twin.get_submodule(name).weight
                close(weight, right, 0 if merged else 1e-6)
        plain = lora.remove_lora(copy.deepcopy(model))
        assert {*plain.state_dict()} == {*twin.state_dict()}
        close(plain(ids), apart if merged else twin(ids), 1e-5)


@pytest.mark.parametrize("learnt", ["", "nothing", "bias", "blocks.0"])
def test_after_removing_a_model_learns_as_before(learnt):
    model = tiny_gpt()
    for name, p in model.named_parameters():
        p.requires_grad_(learnt in name)
    before = learning(model)
    for _ in range(2):
        lora.add_lora(model, ["query", "up"], 2)
        assert learning(model) == list(matrices(lora.lora_state(model)))
        assert lora.remove_lora(model) is model and learning(model) == before
    lora.add_lora(model, ["query"], 2)
    lora.add_lora(model, ["up"], 3)
    assert all("mlp.up.lora" in name for name in learning(model))
    assert learning(lora.remove_lora(model)) == before


def test_what_is_frozen_later_stays_frozen():
    model = adapted_gpt(["query"])
    lora.remove_lora(model).requires_grad_(False)
    lora.add_lora(model, ["query"], 2)
    assert learning(lora.remove_lora(model)) == []
    layer = nn.Linear(4, 4)
    box = nn.Sequential(lora.LoRALinear(layer, 2), nn.Linear(4, 4))
    lora.remove_lora(box)  # as it was put in by hand
    assert box[0] is layer and len(learning(box)) == 4


@pytest.mark.parametrize(("alpha", "merged"), [(6, False), (0.1, True)])
def test_a_whole_state_is_loaded_as_it_was_saved(alpha, merged):
    model, file, ids = adapted_gpt(alpha=alpha, seed=0), io.BytesIO(), some_ids(2, 4)
    right = model(ids)
    if merged:
        lora.merge(model)
    torch.save(model.state_dict(), file)
    file.seek(0)
    states = [torch.load(file, weights_only=True)]
    states.append(safetensors.load(safetensors.save(model.state_dict())))
    for state in states:
        other = adapted_gpt(alpha=3, seed=5)
        for _ in range(2):
            other.load_state_dict(state)
            for layer in lora.lora_layers(other).values():
                assert (layer.alpha, layer.merged) == (alpha, merged)
                assert type(layer.alpha) is float and type(layer.merged) is bool
            for turn in lora.unmerge, lora.merge, lora.merge:
                close(other(ids), right, 1e-5)
                turn(other)  # in the end a merged one is loaded into
            close(other(ids), right, 1e-5)


def test_an_adapters_state_travels():
    model, other, ids = adapted_gpt(alpha=0.1, seed=0), adapted_gpt(), some_ids(2, 4)
    state = lora.lora_state(model)
    assert list(state) == [
        f"blocks.{i}.{part}.{name}"
        for i in (0, 1)
        for part in ("attention.query", "mlp.up")
        for name in ("lora_A.weight", "lora_B.weight", "alpha")
    ]
    assert not any(weight.requires_grad for weight in state.values())
    lora.load_lora(other, {n: state[n] for n in reversed(state)})
    assert torch.equal(model(ids), other(ids))
    assert learning(other) == list(matrices(state))
    right = model(ids)
    filled(model, seed=9)
    lora.load_lora(model, state)
    assert torch.equal(model(ids), right), "a copy"
    mixed = nn.Sequential(*(a_layer(4, 4, 2, alpha) for alpha in (1, 9)))
    other = nn.Sequential(*(a_layer(4, 4, 2, 5) for _ in range(2)))
    lora.load_lora(other, {n: w.half() for n, w in lora.lora_state(mixed).items()})
    assert [layer.alpha for layer in other] == [1, 9]


def test_a_state_that_does_not_fit_is_refused_whole():
    model = adapted_gpt(["query"], seed=0)
    kept, start = lora.lora_state(model), "blocks.0.attention.query"
    name, alpha = f"{start}.lora_A.weight", f"{start}.alpha"
    moved = {n: w + 1 for n, w in kept.items()}
    less = {n: w for n, w in moved.items() if n != name}
    wrong = [(matrices(moved), ""), ({**moved, "more": torch.ones(1)}, "['more']")]
    wrong += [(less, f"['{name}']"), ({**moved, name: torch.ones(2)}, f"['{name}']")]
    for value in 0.0, -1.0, math.inf, math.nan:
        wrong += [({**moved, alpha: torch.tensor(value)}, f"['{alpha}']")]
    for state, shown in [*wrong, ({}, "")]:
        refuses("state", lora.load_lora, model, state, shown=shown)
        for part, value in lora.lora_state(model).items():
            assert torch.equal(value, kept[part]), "all or nothing"
    lora.merge(model)
    refuses("state", lora.load_lora, model, kept, says="none merged")


# Over four bits


def test_qlora_is_lora_over_the_rounded_base():
    model, twin, ids = tiny_gpt(), tiny_gpt(), some_ids(2, 4)
    small = functools.partial(quantization.NF4Linear, group=8)
    with mock.patch.object(lora, "NF4Linear", small):
        names = lora.quantize_base(model, ALL)
    assert names == names_in(twin, ALL)
    for name in names:
        packed = model.get_submodule(name)
        assert isinstance(packed, quantization.NF4Linear) and packed.doubled
        twin.get_submodule(name).weight.data.copy_(packed.weight)
    close(model(ids), twin(ids), 1e-5)
    for each in model, twin:
        lora.add_lora(each, ALL, 2, generator=generator())
        F.cross_entropy(filled(each)(ids).mT, ids).backward()
    close(model(ids), twin(ids), 1e-5)
    got = {n for n, p in model.named_parameters() if p.grad is not None}
    assert got == set(matrices(lora.lora_state(model)))
    for name in got:
        close(model.get_parameter(name).grad, twin.get_parameter(name).grad, 1e-5)


def test_a_base_in_4_bits_is_not_merged():
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 4))
    lora.quantize_base(model, ["0"])
    base, x = model[0], random(3, 64, dtype=torch.float)
    lora.add_lora(model, ["0", "1"], 2, kind=lora.LoRALinearFast)
    kept = filled(model)[1].original_layer.weight.clone()
    refuses("model", lora.merge, model)
    assert torch.equal(model[1].original_layer.weight, kept), "all or nothing"
    assert not model[1].merged
    close(model[0](x), base(x) + x @ model[0].change().T, 1e-5)


# Counting


def test_lora_parameters_are_counted():
    model = adapted_gpt(ALL, 3)
    layers = [m.original_layer for m in lora.lora_layers(model).values()]
    shapes = [(m.in_features, m.out_features) for m in layers]
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert lora.lora_parameters(shapes, 3) == learn
    assert lora.lora_parameters(96 * [(12_288, 12_288)] * 2, 8) == 37_748_736
    assert lora.lora_parameters([], 4) == 0


def test_training_bytes_add_up():
    model, ids, learn = adapted_gpt(["query"]), some_ids(2, 4), 4 * 2 * 2 * (8 + 8)
    model.register_buffer("some", torch.zeros(5, dtype=torch.double))

    def loss():
        return F.cross_entropy(model(ids).mT, ids)

    with SavedBytes([*model.parameters(), *model.buffers()]) as kept:
        loss()
    weights = 4 * sum(p.numel() for p in model.parameters()) + 40
    parts = {"weights": weights, "gradients": learn, "Adam": 2 * learn}
    found = lora.training_bytes(model, loss)
    assert found == {**parts, "activations": kept.most} and kept.most > 0


# A random subspace


@quick
@given(seed=seeds, dimensions=st.integers(1, 9))
def test_a_subspace_moves_along_orthogonal_directions(seed, dimensions):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model.config = "sizes"
    twin, x = copy.deepcopy(model), random(5, 3, seed=seed)
    space = lora.RandomSubspace(model, dimensions, generator=generator(seed))
    space = space.double()
    assert learning(space) == ["z"] and space.config == "sizes"
    assert torch.equal(space(x), twin(x)), "it begins where the model is"

    def row(weights):
        return torch.cat([w.flatten() for w in weights.values()])

    start, directions = row(space.weights()).detach(), []
    for unit in torch.eye(dimensions):
        space.z.data.copy_(unit)
        directions.append(row(space.weights()).detach() - start)
    P = torch.stack(directions)  # (d, weights)
    right = torch.zeros_like(P)  # one direction and one sign for each weight
    right[space.which, torch.arange(P.size(1))] = space.sign
    close(P, right, 1e-9)
    z = random(dimensions, seed=seed)
    space.z.data = z.clone()
    nn.utils.vector_to_parameters(start + z @ P, twin.parameters())
    close(space(x), twin(x), 1e-9)
    for each in space, twin:
        each(x).square().sum().backward()
    grads = torch.cat([p.grad.flatten() for p in twin.parameters()])
    close(space.z.grad, P @ grads, 1e-9)
    assert torch.equal(row(dict(model.named_parameters())), start)


def test_a_subspace_uses_all_directions_and_both_signs():
    space = lora.RandomSubspace(nn.Linear(40, 50), 10, generator=generator())
    assert space.which.unique().tolist() == list(range(10)) and space.z.shape == (10,)
    assert space.sign.unique().tolist() == [-1, 1]
    assert abs(space.sign.mean()) < 0.1


# Answers


def some_pairs(count, seed=0):
    draw = dice.Random(seed)
    sizes = [draw.randrange(1, 6) for _ in range(2 * count)]
    words = [[draw.randrange(11) for _ in range(size)] for size in sizes]
    return list(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize(("steps", "warmup"), [(19, 1), (20, 2)])
def test_learning_answers_is_the_loop_written_out(steps, warmup):
    models = [tiny_llama(), tiny_llama()]
    for model in models:
        model.embedding.weight.requires_grad_(False)
    batches = [some_pairs(3, seed) for seed in range(steps)]
    losses = lora.learn_answers(models[0], batches, 0.01)
    assert all(isinstance(each, float) for each in losses)

    def loss(model, step):
        return lora.answer_loss(model, batches[step])

    follows(losses, models, loss, steps, 0.01, warmup)


# What was stored


@functools.cache
def make():
    """The script that made the stored runs."""
    return module_at(MAKE)


def test_stored_runs_of_the_gpt_begin_as_new_ones_would():
    """Before the first step, where nothing amplifies the last digits."""
    script, path = make(), data.asset("lora", "gpt.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    tried = [(task, *each) for task in script.TASKS for each in script.TRIED]
    runs = [(r["task"], r["kind"], r["size"], r["rate"]) for r in found["runs"]]
    assert runs == tried and found["steps"] == script.STEPS
    _, ids, held_out = script.texts(lora.spelling_1611)
    start = training.held_out_loss(training.trained_gpt(), held_out)
    assert abs(start - found["start"]["1611"]) < 0.001
    inputs, targets = training.windows(ids, 8, 128, generator())
    first = {run["kind"]: run for run in reversed(found["runs"][: len(script.TRIED)])}
    for run in first.values():
        with torch.no_grad():
            logits = script.prepared(run["kind"], run["size"])(inputs)
        close(F.cross_entropy(logits.mT, targets).item(), run["first"][0], 1e-4)


def test_an_answer_that_is_cut_off_has_no_end():
    script, end = make(), data.smollm2_tokenizer().encode("<|im_end|>")
    said = mock.patch.object(script, "complete", side_effect=[[7] * 24, [7, 8]])
    with said, mock.patch.object(script, "LlamaFast"):
        (_, cut), (_, whole) = script.own_answers(None, ["Why?", "Who?"])
    assert cut == [7] * 24 and whole == [7, 8, *end]


# Refusals


def frozen(model):
    return copy.deepcopy(model).requires_grad_(False)


IDS, LINEAR, NET = some_ids(9), nn.Linear(6, 4), nn.Sequential(nn.Linear(64, 8))
MODEL, ANSWERER, ADAPTED = tiny_gpt(), tiny_llama(), functools.partial(adapted_gpt)
STATE = functools.partial(lambda: lora.lora_state(adapted_gpt()))
BAD_SIZE, BAD_SCALE = [0, True, "2"], [0, -1, math.inf, math.nan]
NO_LAYERS = [nn.Embedding(6, 4), nn.Conv1d(6, 4, 1), nn.Linear(6, 4)]
nn.init.constant_(NO_LAYERS[-1].weight[1, 2:3], math.nan)
LAYER = (
    {"original_layer": LINEAR, "rank": 4, "alpha": 0.1},
    {"original_layer": NO_LAYERS, "rank": [5, *BAD_SIZE], "alpha": BAD_SCALE},
)
NO_NAMES = [[], "query", ["query", "nothing"], ["blocks.0.attention.query"], [""], [3]]
WHOLE = ({"model": ADAPTED}, {})
REFUSALS = {
    **dict.fromkeys(["spelling_1611", "backwards"], ({"text": "us"}, {"text": [[]]})),
    "fine_tune": (
        {"model": MODEL, "ids": IDS, "steps": 1, "rate": 0.1, "batch": 1,
         "generator": generator()},
        {"model": [frozen(MODEL)], "ids": [IDS[:4], IDS[:0], IDS.int()],
         "steps": BAD_SIZE, "rate": BAD_SCALE, "batch": BAD_SIZE},
    ),
    "truncate": (
        {"matrix": random(4, 3), "rank": 3},
        {"matrix": [random(3), random(), random(4, 3).half()], "rank": [4, True]},
    ),
    **dict.fromkeys(["LoRALinear", "LoRALinearFast"], LAYER),
    "named_layers": (
        {"model": MODEL, "targets": ["query"]}, {"targets": NO_NAMES, "model": [LINEAR]}
    ),
    "replace_layer": ({"model": NET, "name": "0", "layer": LINEAR}, {}),
    "lora_layers": WHOLE,
    "add_lora": (
        {"model": MODEL, "targets": ["query"], "rank": 8, "alpha": 1,
         "kind": lora.LoRALinear},
        {"model": [LINEAR], "targets": NO_NAMES,
         "rank": [9, *BAD_SIZE], "alpha": BAD_SCALE},
    ),
    **dict.fromkeys(["freeze", "thaw"], ({"module": LINEAR}, {})),
    "trainable": ({"model": LINEAR}, {"model": [frozen(LINEAR)]}),
    **dict.fromkeys(["merge", "unmerge", "remove_lora", "lora_state"], WHOLE),
    "load_lora": ({"model": ADAPTED, "state": STATE}, {"state": [{"a": None}]}),
    "quantize_base": (
        {"model": NET, "targets": ["0"]}, {"targets": NO_NAMES, "model": [LINEAR]}
    ),
    "training_bytes": (
        {"model": LINEAR, "loss": lambda: LINEAR(torch.ones(6)).sum()},
        {"model": [frozen(LINEAR)]},
    ),
    "RandomSubspace": ({"model": LINEAR, "dimensions": 1}, {"dimensions": BAD_SIZE}),
    "lora_parameters": (
        {"shapes": [(5, 4), (2, 3)], "rank": 2},
        {"shapes": [[(5,)], [5], [(0, 4)]], "rank": [3, *BAD_SIZE]},
    ),
    "learn_answers": (
        {"model": ANSWERER, "batches": [[([1], [2])]], "rate": 0.1},
        {"model": [frozen(ANSWERER), LINEAR], "rate": BAD_SCALE},
    ),
}  # fmt: skip


def on_a_copy(function):
    """The function, which leaves the modules that it is given as they were."""

    @functools.wraps(function)
    def call(**given):
        modules = {n: x for n, x in given.items() if isinstance(x, nn.Module)}
        return function(**{**given, **copy.deepcopy(modules)})

    return call


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_refused_by_name(name):
    good, bad = REFUSALS[name]
    good = {n: x() if isinstance(x, functools.partial) else x for n, x in good.items()}
    refuses_all(on_a_copy(getattr(lora, name)), good, **bad)


def test_a_refused_model_learns_as_before():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    refuses("original_layer", lora.add_lora, model, ["0", "1"], 2)
    refuses("rank", lora.add_lora, model, ["0", "2"], 3)
    refuses("alpha", lora.add_lora, model, ["0", "2"], 2, 0)
    refuses("linear", lora.quantize_base, model, ["1"])
    assert len(learning(model)) == 6 and type(model[0]) is nn.Linear
    refuses("original_layer", lora.add_lora, adapted_gpt(), ["query"], 2)
    refuses("steps", lora.learn_answers, ANSWERER, [], 0.1)
    for kind in lora.LoRALinear, lora.LoRALinearFast:
        refuses("x", kind(copy.deepcopy(LINEAR), 2), [1.0])


# The exercises


@functools.cache
def exercises():
    return run_exercises("efficiency/lora", lora, copy=copy)


def test_checks_accept_what_is_as_good_and_fail_wrong_answers():
    book = exercises()
    factors, rank_for, blend = book.factors, book.rank_for, book.blend

    def even(change, rank, alpha):
        left, values, right = torch.linalg.svd(change.float(), full_matrices=False)
        root = (values[:rank] * rank / alpha).sqrt()
        return [root[:, None] * right[:rank], left[:, :rank] * root]

    def without_scale(change, rank, alpha):
        A, B = factors(change, rank, alpha)
        return A, B * alpha / rank

    assert book.check_factors(even)
    fails(book.check_factors, without_scale)
    fails(
        book.check_rank_for,
        lambda s, n: max(1, rank_for(s, n)),
        lambda s, n: rank_for(s, n + 1),
        lambda s, n: min(n // sum(map(sum, s)), *(wide for wide, _ in s)),
        lambda s, n: min(n // sum(map(sum, s)), *(out for _, out in s)),
    )

    def too_late(model, state):
        for layer in lora.lora_layers(model).values():
            layer.merged = False
        lora.load_lora(model, state)
        lora.merge(model)

    def without_alpha(model, state):
        lora.unmerge(model)
        for name, weight in matrices(state).items():
            model.get_parameter(name).data.copy_(weight)
        lora.merge(model)

    fails(book.check_swap, too_late, without_alpha)
    fails(
        book.check_blend,
        lambda a, b, s: [s * x + (1 - s) * y for x, y in zip(a, b, strict=True)],
        lambda first, second, share: first,
        lambda first, second, share: blend(second, first, share),
    )
