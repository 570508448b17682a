"""The cells of efficiency/lora against peft, loops in Python and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import contextlib
import copy
import functools
import io
import json
import math
import random as dice
import re
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
    run_exercises,
    solutions_pass,
)
from hypothesis import given, settings
from safetensors import torch as safetensors
from torch import nn

from fieldguide import check, data
from fieldguide.efficiency import lora, quantization
from fieldguide.memory import SavedBytes
from fieldguide.transformers import gpt, real_model, training

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "book" / "efficiency" / "lora.ipynb"
MAKE = ROOT / "book" / "_assets" / "lora" / "make.py"
TINY = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=True)
SIZES = {"vocab": 11, "context": 16, "width": 8, "layers": 2, "heads": 2}
LLAMA = real_model.LlamaConfig(**SIZES, kv_heads=1, hidden=12, eps=1e-5, base=1e4)
ALL = ["query", "key", "value", "output", "up", "down"]

quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(2, 6)


def silent(function, *arguments, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments, **options)


def tiny_gpt(seed=0):
    """A small GPT whose biases are not 0."""
    model = gpt.GPT(TINY, generator=generator(seed))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(generator=generator(seed))
    return model


def tiny_llama():
    """A small Llama in float64, always the same."""
    model = real_model.Llama(LLAMA).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 1, generator=generator())
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


def test_spelling_1611():
    cases = {
        "Jesus gave unto every": "Iesus gaue vnto euery",
        "us. Up! judge Ujv": "vs. Vp! iudge Viu",
        "": "",
        "VIUJ vU (u) 4u": "VIUI vU (v) 4v",
        "evil\nunder": "euil\nvnder",
    }
    for old, new in cases.items():
        assert lora.spelling_1611(old) == new, old


def test_spelling_1611_keeps_the_length_and_is_settled():
    text, alphabet = data.king_james()[:50_000], set(data.king_james())
    new = lora.spelling_1611(text)
    assert len(new) == len(text) and lora.spelling_1611(new) == new
    assert not set(new) & set("jJ") and set(new) <= alphabet
    assert new.casefold() != text.casefold()
    assert [a.isupper() for a in new] == [a.isupper() for a in text]


def test_backwards():
    assert lora.backwards("ab c\n\nde") == "c ba\n\ned"
    assert lora.backwards(lora.backwards("The end.\nOf it")) == "The end.\nOf it"


def test_fine_tune_is_adamw_with_a_fading_rate():
    ids, rate = some_ids(200), 0.01
    models = [tiny_gpt().double(), tiny_gpt().double()]
    for model in models:
        model.token.weight.requires_grad_(False)
    losses = silent(
        lora.fine_tune, models[0], ids, 40, rate, generator=generator(1), batch=3
    )
    learn = [p for p in models[1].parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learn, rate, betas=(0.9, 0.99), weight_decay=0)
    draw = generator(1)
    for step in range(40):
        inputs, targets = training.windows(ids, 3, 4, draw)
        loss = F.cross_entropy(models[1](inputs).mT, targets)
        models[1].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learn, 1.0)
        share = (
            (step + 1) / 2
            if step < 2
            else 0.5 + 0.5 * math.cos(math.pi * (step - 2) / 38)
        )
        optimizer.param_groups[0]["lr"] = rate * share
        optimizer.step()
        close(losses[step], loss.detach().float(), 1e-5)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        close(p, q, 1e-7)
    assert torch.equal(models[0].token.weight, tiny_gpt().double().token.weight)


def test_fine_tune_takes_eight_windows():
    with mock.patch.object(lora, "train") as loop:
        lora.fine_tune(tiny_gpt(), some_ids(50), 19, 0.1, generator=generator())
    recipe = loop.call_args.args[2]
    assert recipe == training.Recipe(19, batch=8, warmup=0, final=0.0)


def test_learning_refuses_a_frozen_model():
    frozen = tiny_gpt().requires_grad_(False)
    shown = check.shown(gpt.GPT)
    draw = {"generator": generator()}
    refuses("model", lora.fine_tune, frozen, some_ids(50), 3, 0.1, shown=shown, **draw)
    shown = check.shown(real_model.Llama)
    frozen = tiny_llama().requires_grad_(False)
    refuses("model", lora.learn_answers, frozen, [[([1], [2])]], 0.1, shown=shown)


# Updates


@quick
@given(seed=seeds, A=sizes, B=sizes)
def test_truncation_keeps_the_largest_singular_values(seed, A, B):
    matrix = random(A, B, seed=seed)
    values = torch.linalg.svdvals(matrix)
    for rank in range(min(A, B) + 1):
        cut = lora.truncate(matrix, rank)
        assert cut.shape == (A, B)
        left = values.clone()
        left[rank:] = 0
        close(torch.linalg.svdvals(cut), left, 1e-9)
        close((matrix - cut).norm(), values[rank:].norm(), 1e-9)
    for bad in -1, min(A, B) + 1, 1.0, True:
        refuses("rank", lora.truncate, matrix, bad)


def test_truncation_takes_each_matrix_of_a_batch_for_itself():
    for shape in (3, 4, 5), (2, 3, 5, 4), (6, 2, 7), (0, 3, 2):
        batch = random(*shape)
        for rank in 0, 1, 2:
            cut = lora.truncate(batch, rank)
            assert cut.shape == shape
            for one, whole in zip(
                cut.flatten(0, -3), batch.flatten(0, -3), strict=True
            ):
                close(one, lora.truncate(whole, rank), 1e-9)
    assert "from 0 to 2" in refuses("rank", lora.truncate, random(9, 2, 3), 3)
    for flat in torch.ones(4), torch.ones(()):
        refuses("matrix", lora.truncate, flat, 0)


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
    found = layer(x)
    close(found, right)
    close(layer.change(), whole - base.weight)
    weigh = random(*shape, out, seed=seed + 2)
    learn = [x, A, B]
    mine = torch.autograd.grad((found * weigh).sum(), learn)
    theirs = torch.autograd.grad((right * weigh).sum(), learn)
    for a, b in zip(mine, theirs, strict=True):
        close(a, b)


def test_the_fast_layer_takes_any_shape_in_one_call():
    layer = a_layer(5, 4, 2, 3, kind=lora.LoRALinearFast)
    whole = layer.original_layer.weight + layer.change()
    for shape in (), (3,), (2, 3), (2, 1, 3), (0,):
        x = random(*shape, 5)
        with mock.patch.object(torch, "addmm", wraps=torch.addmm) as product:
            found = layer(x)
        assert product.call_count == 1
        close(found, F.linear(x, whole, layer.original_layer.bias))


def test_the_articles_call():
    torch.manual_seed(3)
    layer = lora.LoRALinear(nn.Linear(1024, 1024), rank=16)
    learn = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert (layer.rank, layer.alpha, learn) == (16, 32, 32_768)
    names = {n for n, p in layer.named_parameters() if p.requires_grad}
    assert names == {"lora_A.weight", "lora_B.weight"}
    assert lora.LoRALinear(nn.Linear(20, 20)).rank == 16
    assert not layer.lora_B.weight.any()
    assert abs(layer.lora_A.weight.std().item() - 0.02) < 0.001
    torch.manual_seed(3)
    again = lora.LoRALinear(nn.Linear(1024, 1024), rank=16)
    assert torch.equal(layer.lora_A.weight, again.lora_A.weight)
    draws = [
        lora.LoRALinear(nn.Linear(6, 5), 2, generator=generator(4)) for _ in range(2)
    ]
    assert torch.equal(draws[0].lora_A.weight, draws[1].lora_A.weight)


def test_step_0_changes_nothing_and_a_gets_no_gradient():
    for kind in lora.LoRALinear, lora.LoRALinearFast:
        layer = kind(nn.Linear(6, 5), 2)
        x = random(3, 6, dtype=torch.float)
        assert torch.equal(layer(x), layer.original_layer(x))
        layer(x).square().sum().backward()
        assert not layer.lora_A.weight.grad.any()
        assert layer.lora_B.weight.grad.abs().min() > 0
        assert all(p.grad is None for p in layer.original_layer.parameters())


def test_an_adapter_has_32_bits_at_least():
    for kind in lora.LoRALinear, lora.LoRALinearFast:
        for dtype in torch.bfloat16, torch.float16, torch.float32, torch.float64:
            layer = kind(nn.Linear(6, 5, dtype=dtype), 2, generator=generator())
            wide = torch.promote_types(dtype, torch.float32)
            assert layer.lora_A.weight.dtype == layer.lora_B.weight.dtype == wide
            layer.lora_B.weight.data.fill_(1.0)
            x = random(3, 6).to(dtype)
            found = layer(x)
            assert found.dtype == dtype and found.shape == (3, 5)
            low = layer.lora_B(layer.lora_A(x.to(wide)))
            right = layer.original_layer(x) + (32 / 2 * low).to(dtype)
            close(found, right, 1e-12 if dtype == torch.float64 else 1e-6)


def test_a_layer_refuses_bad_input():
    linear = nn.Linear(6, 4)
    for kind in lora.LoRALinear, lora.LoRALinearFast:
        for rank in 0, -1, 5, 2.0, True, "2":
            refuses("rank", kind, linear, rank)
        for alpha in 0, -1, math.inf, math.nan:
            refuses("alpha", kind, linear, 4, alpha)
        for other in nn.Embedding(6, 4), nn.Conv1d(6, 4, 1), torch.ones(4, 6):
            refuses("original_layer", kind, other, 1)
        for bad in math.nan, math.inf:
            broken = nn.Linear(6, 4)
            broken.weight.data[1, 2] = bad
            says = "original_layer.weight"
            shown = check.shown(broken.weight)
            try:
                kind(broken, 2)
            except ValueError as error:
                assert str(error).startswith(f"{says} = {shown}, "), error
            else:
                raise AssertionError("NaN was accepted")
    assert linear.weight.requires_grad, "a refused layer is left as it was"
    lora.LoRALinear(linear, 4, 0.1)
    try:
        lora.LoRALinear(nn.Linear(3, 9), 4)
    except ValueError as error:
        assert str(error).endswith("must be a whole number from 1 to 3")


def test_an_adapter_can_be_the_whole_model():
    for kind in lora.LoRALinear, lora.LoRALinearFast:
        layer, other = (a_layer(5, 4, 2, 3, seed=s, kind=kind) for s in (0, 7))
        base = copy.deepcopy(layer.original_layer)
        x = random(3, 5)
        apart = layer(x)
        state = lora.lora_state(layer)
        assert list(state) == ["lora_A.weight", "lora_B.weight", "alpha"]
        lora.load_lora(other, state)
        close(other.change(), layer.change())
        less = {n: w for n, w in state.items() if n != "lora_A.weight"}
        assert "lora_A" in refuses("state", lora.load_lora, other, less, shown="")
        lora.unmerge(layer)
        lora.merge(layer)
        close(layer(x), apart)
        assert torch.equal(layer(x), layer.original_layer(x))
        lora.unmerge(layer)
        close(layer.original_layer.weight, base.weight)
        for merged in False, True:
            bare = copy.deepcopy(layer)
            if merged:
                lora.merge(bare)
            left = lora.remove_lora(bare)
            assert left is bare.original_layer
            close(left(x), apart if merged else base(x))
            assert learning(left) == ["weight", "bias"]


def test_a_plain_layer_has_no_part_to_replace():
    linear = nn.Linear(4, 4)
    for function in lora.add_lora, lora.quantize_base, lora.named_layers:
        refuses("targets", function, linear, [""])
    assert not list(linear.children())


def test_layers_without_weights_in_memory_are_taken():
    """On the device `meta`, as a large model is laid out before it is loaded."""
    for kind in lora.LoRALinear, lora.LoRALinearFast:
        model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 4))
        lora.quantize_base(model, ["0"])
        model.to("meta")
        lora.add_lora(model, ["0", "1"], 2, 6, generator=generator(), kind=kind)
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert model(torch.empty(3, 64, device="meta")).shape == (3, 4)
        state = lora.lora_state(model)
        assert [state[f"{i}.alpha"].item() for i in (0, 1)] == [6, 6]
        lora.load_lora(model, state)
        model.load_state_dict(model.state_dict())
        assert model[0].change().shape == (8, 64)
        refuses("model", lora.merge, model, shown="")
        lora.merge(model[1])
        assert model[1].merged and model(torch.empty(0, 64, device="meta")).is_meta
        lora.unmerge(model)
        lora.remove_lora(model)
        assert learning(model) == ["1.weight", "1.bias"]
    with torch.device("meta"):
        layer = lora.LoRALinear(nn.Linear(6, 4), 2)
        assert lora.lora_state(layer)["alpha"].item() == 32
        layer.load_state_dict(layer.state_dict())


def test_a_layer_on_meta_is_filled_from_a_state_dict():
    source = filled(nn.Sequential(a_layer(5, 4, 2, 3)))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(5, 4, dtype=torch.double))
        lora.add_lora(model, ["0"], 2, 7)
    model.load_state_dict(source.state_dict(), assign=True)
    close(model(random(2, 5)), source(random(2, 5)))
    assert learning(lora.remove_lora(model)) == ["0.weight", "0.bias"]


# A model


def names_in(model, targets):
    return [n for n, _ in model.named_modules() if n.split(".")[-1] in targets]


def test_adapters_go_where_they_are_told():
    for targets in ["query"], ALL, ("up", "down"), {"output"}:
        model, twin = tiny_gpt(), tiny_gpt()
        names = lora.add_lora(model, targets, 2, 6, generator=generator())
        assert names == names_in(twin, targets)
        assert list(lora.lora_layers(model)) == names
        for name, layer in lora.lora_layers(model).items():
            base = twin.get_submodule(name)
            assert type(layer) is lora.LoRALinear
            assert (layer.rank, layer.alpha) == (2, 6)
            assert torch.equal(layer.original_layer.weight, base.weight)
        learn = {n for n, p in model.named_parameters() if p.requires_grad}
        assert learn == set(matrices(lora.lora_state(model)))
        ids = some_ids(2, 4)
        assert torch.equal(model(ids), twin(ids))
    model = tiny_gpt()
    lora.add_lora(model, ["up"], 4, kind=lora.LoRALinearFast)
    (layer, _) = lora.lora_layers(model).values()
    assert type(layer) is lora.LoRALinearFast and layer.alpha == 32
    wide = nn.Sequential(nn.Linear(20, 20))
    lora.add_lora(wide, ["0"])
    assert lora.lora_layers(wide)["0"].rank == 16


def test_adapters_are_drawn_in_order():
    models = [tiny_gpt(), tiny_gpt()]
    for model in models:
        lora.add_lora(model, ALL, 2, generator=generator(5))
    states = [lora.lora_state(model) for model in models]
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name])
    A = [w for n, w in states[0].items() if n.endswith("query.lora_A.weight")]
    assert not torch.equal(*A)


def test_targets_that_cannot_be_are_refused():
    model = tiny_gpt()
    for bad in [], "query", ["query", "nothing"], ["blocks.0.attention.query"]:
        for function in lora.add_lora, lora.quantize_base, lora.named_layers:
            refuses("targets", function, model, bad)
    assert "['nothing']" in refuses(
        "targets", lora.named_layers, model, ["query", "nothing"]
    )
    refuses("targets", lora.named_layers, nn.Sequential(nn.Linear(2, 2)), "0")
    for bad in ["norm"], ["query", "token"]:
        refuses("original_layer", lora.add_lora, model, bad, 2, shown="")
    refuses("rank", lora.add_lora, model, ["query"], 9)
    refuses("linear", lora.quantize_base, model, ["norm"], shown="")
    assert not lora.lora_layers(model)
    assert not any(isinstance(m, lora.NF4Linear) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters()), "left as it was"
    lora.add_lora(model, ["query"], 2)
    refuses("original_layer", lora.add_lora, model, ["query"], 2, shown="")


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


def test_merging_twice_changes_nothing_and_can_be_undone():
    model, twin, ids = tiny_gpt(), tiny_gpt(), some_ids(2, 4)
    lora.add_lora(model, ALL, 2, 6)
    filled(model)
    apart = model(ids)
    assert (apart - twin(ids)).abs().max() > 0.01
    whole = {
        n: m.original_layer.weight + m.change()
        for n, m in lora.lora_layers(model).items()
    }
    lora.unmerge(model)  # nothing to do
    for _ in range(2):
        lora.merge(model)
        for name, layer in lora.lora_layers(model).items():
            assert layer.merged
            assert torch.equal(layer.original_layer.weight, whole[name])
            assert not layer.original_layer.weight.requires_grad
        close(model(ids), apart, 1e-5)
    for _ in range(2):
        lora.unmerge(model)
        close(model(ids), apart, 1e-5)
        for name, layer in lora.lora_layers(model).items():
            assert not layer.merged
            base = twin.get_submodule(name).weight
            close(layer.original_layer.weight, base, 1e-6)
            assert not layer.original_layer.weight.requires_grad


def test_a_merged_fast_layer_is_its_base():
    layer = a_layer(5, 4, 2, 3, kind=lora.LoRALinearFast)
    box = nn.Sequential(layer)
    x, right = random(2, 5), layer(random(2, 5))
    lora.merge(box)
    close(box(x), right)
    assert torch.equal(box(x), layer.original_layer(x))


def test_a_half_merged_model_is_completed():
    model = tiny_gpt()
    lora.add_lora(model, ["up", "down"], 2)
    filled(model)
    right = model(some_ids(1, 4))
    lora.merge(model.blocks[0])
    lora.merge(model)
    close(model(some_ids(1, 4)), right, 1e-5)
    lora.unmerge(model.blocks[1])
    close(model(some_ids(1, 4)), right, 1e-5)


def test_removing_gives_a_plain_model():
    for merged in False, True:
        model, ids = tiny_gpt(), some_ids(2, 4)
        lora.add_lora(model, ALL, 2)
        filled(model)
        right = model(ids) if merged else tiny_gpt()(ids)
        if merged:
            lora.merge(model)
        lora.remove_lora(model)
        assert not lora.lora_layers(model)
        assert {n for n, _ in model.named_parameters()} == {
            n for n, _ in tiny_gpt().named_parameters()
        }
        close(model(ids), right, 1e-5)


LEARNT = {
    "all": lambda name: True,
    "nothing": lambda name: False,
    "biases": lambda name: name.endswith("bias"),
    "the first block": lambda name: name.startswith("blocks.0"),
}


@pytest.mark.parametrize("learnt", LEARNT)
def test_after_removing_a_model_learns_as_before(learnt):
    model = tiny_gpt()
    for name, p in model.named_parameters():
        p.requires_grad_(LEARNT[learnt](name))
    before = learning(model)
    for _ in range(2):
        lora.add_lora(model, ["query", "up"], 2)
        assert learning(model) == list(matrices(lora.lora_state(model)))
        twin = copy.deepcopy(model)
        lora.merge(model)
        assert lora.remove_lora(model) is model
        assert learning(model) == before
        assert learning(lora.remove_lora(twin)) == before
    lora.add_lora(model, ["query"], 2)
    lora.add_lora(model, ["up"], 3)
    assert all("mlp.up.lora" in name for name in learning(model))
    lora.remove_lora(model)
    assert learning(model) == before


def test_what_is_frozen_later_stays_frozen():
    model = tiny_gpt()
    lora.add_lora(model, ["query"], 2)
    lora.remove_lora(model)
    model.requires_grad_(False)
    lora.add_lora(model, ["query"], 2)
    lora.remove_lora(model)
    assert learning(model) == []
    layer = nn.Linear(4, 4)
    box = nn.Sequential(lora.LoRALinear(layer, 2), nn.Linear(4, 4))
    lora.remove_lora(box)  # as it was put in by hand
    assert box[0] is layer and len(learning(box)) == 4
    layer.requires_grad_(False)
    assert learning(lora.remove_lora(lora.LoRALinear(layer, 2))) == []


def test_a_refused_model_learns_as_before():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    refuses("original_layer", lora.add_lora, model, ["0", "1"], 2, shown="")
    model[1] = nn.Linear(4, 2)
    refuses("rank", lora.add_lora, model, ["0", "1"], 3)
    refuses("alpha", lora.add_lora, model, ["0", "1"], 2, 0)
    assert len(learning(model)) == 4 and not lora.lora_layers(model)


def test_a_states_alpha_comes_with_it():
    for alpha in 7, 0.1:
        model, other = tiny_gpt(), tiny_gpt()
        lora.add_lora(model, ["query", "up"], 2, alpha)
        lora.add_lora(other, ["query", "up"], 2, 5)
        state = lora.lora_state(filled(model))
        lora.load_lora(other, state)
        assert {m.alpha for m in lora.lora_layers(other).values()} == {alpha}
        assert torch.equal(other(some_ids(2, 4)), model(some_ids(2, 4)))
    mixed = nn.Sequential(*(a_layer(4, 4, 2, alpha) for alpha in (1, 9)))
    state = {n: w.half() for n, w in lora.lora_state(mixed).items()}
    again = nn.Sequential(*(a_layer(4, 4, 2, 5) for _ in range(2)))
    lora.load_lora(again, state)
    assert [m.alpha for m in again] == [1, 9]
    kept = lora.lora_state(again)
    for bad in 0, -1, math.inf, math.nan:
        wrong = {n: w + 1 for n, w in state.items()}
        wrong["1.alpha"] = torch.tensor(float(bad))
        refuses("1.alpha", lora.load_lora, again, wrong, shown=f"{float(bad)}, ")
        for name, value in lora.lora_state(again).items():
            assert torch.equal(value, kept[name]), "all or nothing"
    bare = matrices(state)
    says = refuses("state", lora.load_lora, again, bare, shown="")
    assert "'0.alpha', '1.alpha'" in says


def test_a_layer_tells_what_is_no_weight():
    class Layer(lora.AdapterState):
        def __init__(self, alpha, merged):
            super().__init__()
            self.alpha, self.merged = alpha, merged

    for alpha, merged in (0.1, True), (7, False):
        with torch.device("meta"):
            state = Layer(alpha, merged).state_dict()
        other = Layer(3, not merged)
        other.load_state_dict(state)
        assert (other.alpha, other.merged) == (alpha, merged)
        assert type(other.alpha) is float and type(other.merged) is bool


@pytest.mark.parametrize("merged", [False, True])
def test_a_whole_state_is_loaded_as_it_was_saved(merged):
    def with_adapters(alpha):
        model = tiny_gpt()
        lora.add_lora(model, ["query", "up"], 2, alpha, generator=generator())
        return model

    model, ids = filled(with_adapters(6)), some_ids(2, 4)
    right = model(ids)
    if merged:
        lora.merge(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    states = [torch.load(file, weights_only=True), model.state_dict()]
    states.append(safetensors.load(safetensors.save(model.state_dict())))
    for state in states:
        for ready in False, True:
            other = with_adapters(3)
            if ready:
                lora.merge(filled(other, seed=5))
            other.load_state_dict(state)
            for layer in lora.lora_layers(other).values():
                assert (layer.alpha, layer.merged) == (6, merged)
                assert type(layer.merged) is bool
            close(other(ids), right, 1e-5)
            lora.merge(other)
            close(other(ids), right, 1e-5)
            lora.unmerge(other)
            close(other(ids), right, 1e-5)


def test_an_adapters_state_travels():
    model, other, ids = tiny_gpt(), tiny_gpt(), some_ids(2, 4)
    for each in model, other:
        lora.add_lora(each, ["query", "up"], 2)
    filled(model)
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
    kept = state["blocks.0.mlp.up.lora_A.weight"].clone()
    filled(model, seed=9)
    assert torch.equal(state["blocks.0.mlp.up.lora_A.weight"], kept), "a copy"


def test_a_state_that_does_not_fit_is_refused():
    model = tiny_gpt()
    lora.add_lora(model, ["query"], 2)
    state = lora.lora_state(model)
    name = "blocks.0.attention.query.lora_A.weight"
    less = {n: w for n, w in state.items() if n != name}
    for bad in less, {**state, "more": torch.ones(1)}, {**state, name: torch.ones(2)}:
        refuses("state", lora.load_lora, model, bad, shown="")
    says = refuses("state", lora.load_lora, model, less, shown="")
    assert name in says and "lora_B" not in says
    lora.merge(model)
    refuses("model", lora.load_lora, model, state, shown=check.shown(gpt.GPT))


# Over four bits


def test_qlora_is_lora_over_the_rounded_base():
    model, twin, ids = tiny_gpt(), tiny_gpt(), some_ids(2, 4)
    with mock.patch.object(
        lora, "NF4Linear", functools.partial(quantization.NF4Linear, group=8)
    ):
        names = lora.quantize_base(model, ALL)
    assert names == names_in(twin, ALL)
    with torch.no_grad():
        for name in names:
            packed = model.get_submodule(name)
            assert isinstance(packed, quantization.NF4Linear) and packed.doubled
            twin.get_submodule(name).weight.copy_(packed.weight)
    close(model(ids), twin(ids), 1e-5)
    for each in model, twin:
        lora.add_lora(each, ALL, 2, generator=generator())
        filled(each)
        F.cross_entropy(each(ids).mT, ids).backward()
    close(model(ids), twin(ids), 1e-5)
    got = {n for n, p in model.named_parameters() if p.grad is not None}
    assert got == set(matrices(lora.lora_state(model)))
    for name in got:
        close(model.get_parameter(name).grad, twin.get_parameter(name).grad, 1e-5)


def test_a_base_in_4_bits_is_not_merged():
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 4))
    lora.quantize_base(model, ["0"])
    assert isinstance(model[0], quantization.NF4Linear)
    lora.add_lora(model, ["0", "1"], 2)
    filled(model)
    kept = model[1].original_layer.weight.clone()
    refuses("model", lora.merge, model, shown="")
    assert torch.equal(model[1].original_layer.weight, kept), "all or nothing"
    assert not model[1].merged
    fast = nn.Sequential(nn.Linear(64, 8))
    lora.quantize_base(fast, ["0"])
    base = fast[0]
    lora.add_lora(fast, ["0"], 2, kind=lora.LoRALinearFast)
    filled(fast)
    x = random(3, 64, dtype=torch.float)
    close(fast(x), base(x) + x @ fast[0].change().T, 1e-5)


# Counting


def test_lora_parameters_are_counted():
    for targets in ["query", "value"], ALL:
        model = tiny_gpt()
        lora.add_lora(model, targets, 3)
        learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
        layers = lora.lora_layers(model).values()
        shapes = [
            (m.original_layer.in_features, m.original_layer.out_features)
            for m in layers
        ]
        assert lora.lora_parameters(shapes, 3) == learn
    gpt3 = 96 * [(12_288, 12_288)] * 2
    found = [lora.lora_parameters(gpt3, rank) for rank in (1, 4, 8)]
    assert found == [4_718_592, 18_874_368, 37_748_736]
    assert lora.lora_parameters([], 4) == 0
    assert lora.lora_parameters([(2, 3)], 2) == 10
    for rank in 0, 3, 1.0, True:
        refuses("rank", lora.lora_parameters, [(5, 4), (2, 3)], rank)


def test_training_bytes_add_up():
    model, ids = tiny_gpt(), some_ids(2, 4)

    def loss():
        return F.cross_entropy(model(ids).mT, ids)

    found = lora.training_bytes(model, loss)
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert list(found) == ["weights", "gradients", "Adam", "activations"]
    assert found["weights"] == found["gradients"] == weights
    assert found["Adam"] == 2 * weights
    with SavedBytes(model.parameters()) as kept:
        loss()
    assert found["activations"] == kept.most > 0
    lora.add_lora(model, ["query"], 2)
    learn = 4 * 2 * 2 * (8 + 8)
    thin = lora.training_bytes(model, loss)
    assert thin["weights"] == weights + learn
    assert (thin["gradients"], thin["Adam"]) == (learn, 2 * learn)
    assert thin["activations"] < found["activations"]
    model.register_buffer("some", torch.zeros(5, dtype=torch.double))
    assert lora.training_bytes(model, loss)["weights"] == weights + learn + 40
    refuses("model", lora.training_bytes, model.requires_grad_(False), loss, shown="")


def test_card_bytes_are_counted_from_a_model():
    model = tiny_llama()
    D, L, V = LLAMA.width, LLAMA.layers, LLAMA.vocab
    shapes = [
        (m.in_features, m.out_features)
        for m in model.modules()
        if isinstance(m, nn.Linear)
    ]
    assert sorted(lora.llama_shapes(LLAMA)) == sorted(shapes)
    matrices = sum(a * b for a, b in shapes)
    every = sum(p.numel() for p in model.parameters()) + V * D  # the output's table
    thin = lora.lora_parameters(shapes, 3)
    work = {"inputs of layers": 2 * 7 * D * L, "at work": 7 * (34 * D + 8 * V)}
    right = {
        "all weights": {"frozen": 0, "learning": 16 * every},
        "LoRA": {"frozen": 2 * every, "learning": 16 * thin},
        "QLoRA": {
            "frozen": matrices * 4.127 / 8 + 2 * (every - matrices),
            "learning": 16 * thin,
        },
    }
    for method, needs in right.items():
        found = lora.card_bytes(LLAMA, method, rank=3, tokens=7)
        assert found == {**needs, **work}
    two = real_model.LlamaConfig(**SIZES, kv_heads=2, hidden=12, eps=1e-5, base=1e4)
    assert lora.llama_shapes(two)[:7] == 4 * [(D, D)] + 2 * [(D, 12)] + [(12, D)]
    small = lora.card_bytes(LLAMA, "LoRA", 4)
    assert small["at work"] == 512 * (34 * D + 8 * V)
    for tokens in 0, -1:
        refuses("tokens", lora.card_bytes, LLAMA, "LoRA", 3, tokens)
    refuses("method", lora.card_bytes, LLAMA, "lora", 3)
    refuses("rank", lora.card_bytes, LLAMA, "LoRA", 9)
    lora.card_bytes(LLAMA, "QLoRA", 3, 1)
    wide = real_model.LlamaConfig(
        **{**SIZES, "width": 32}, kv_heads=1, hidden=40, eps=1e-5, base=1e4
    )
    thin = lora.lora_parameters(lora.llama_shapes(wide), 16)
    assert lora.card_bytes(wide, "LoRA")["learning"] == 16 * thin


def test_qlora_bits_are_those_of_a_packed_layer():
    layer = quantization.NF4Linear(nn.Linear(1024, 1024, bias=False))
    assert abs(quantization.stored_bits(layer) - lora.QLORA_BITS) < 0.001


# A random subspace


@quick
@given(seed=seeds, dimensions=st.integers(1, 9))
def test_a_subspace_moves_along_orthogonal_directions(seed, dimensions):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model.config = "sizes"
    twin = copy.deepcopy(model)
    space = lora.RandomSubspace(model, dimensions, generator=generator(seed))
    space = space.double()
    learn = [n for n, p in space.named_parameters() if p.requires_grad]
    assert learn == ["z"] and space.config == "sizes"
    assert space.z.shape == (dimensions,)
    x = random(5, 3, seed=seed)
    assert torch.equal(space(x), twin(x)), "it begins where the model is"

    def row(weights):
        return torch.cat([w.flatten() for w in weights.values()])

    with torch.no_grad():
        start, directions = row(space.weights()), []
        for unit in torch.eye(dimensions):
            space.z.copy_(unit)
            directions.append(row(space.weights()) - start)
    P = torch.stack(directions)  # (d, weights)
    assert P.abs().round(decimals=9).unique().tolist() in ([0, 1], [1])
    assert torch.equal(P.abs().sum(0).round(), torch.ones(P.size(1)).double())
    right = torch.zeros_like(P)
    right[space.which, torch.arange(len(space.which))] = space.sign
    close(P, right, 1e-9)
    z = random(dimensions, seed=seed)
    space.z.data = z.clone()
    nn.utils.vector_to_parameters(start + z @ P, twin.parameters())
    close(space(x), twin(x), 1e-9)
    space(x).square().sum().backward()
    twin(x).square().sum().backward()
    grads = torch.cat([p.grad.flatten() for p in twin.parameters()])
    close(space.z.grad, P @ grads, 1e-9)
    assert torch.equal(row(dict(model.named_parameters())), start)


def test_a_subspace_uses_all_directions_and_both_signs():
    model = nn.Linear(40, 50)
    model.config = None
    space = lora.RandomSubspace(model, 10, generator=generator())
    counts = space.which.bincount(minlength=10)
    assert counts.sum() == 2050 and counts.min() > 150 and counts.max() < 260
    assert space.sign.unique().tolist() == [-1, 1]
    assert space.sign.mean().abs() < 0.1
    draw = generator()
    assert torch.equal(space.which, torch.randint(10, (2050,), generator=draw))
    signs = torch.randint(2, (2050,), generator=draw)  # 1: forwards
    assert torch.equal(space.sign, 2.0 * signs - 1)
    again = lora.RandomSubspace(model, 10, generator=generator())
    assert torch.equal(space.which, again.which)
    assert torch.equal(space.sign, again.sign)
    for bad in 0, -1, 1.0, True:
        refuses("dimensions", lora.RandomSubspace, model, bad)
    lora.RandomSubspace(model, 1)


# Answers


def some_pairs(count, seed=0, V=11):
    draw = dice.Random(seed)

    def words():
        return [draw.randrange(V) for _ in range(draw.randrange(1, 6))]

    return [(words(), words()) for _ in range(count)]


@quick
@given(seed=seeds, count=st.integers(1, 5))
def test_answer_loss_is_of_the_answers_tokens_alone(seed, count):
    model, pairs = tiny_llama(), some_pairs(count, seed)
    total, tokens = 0.0, 0
    for asked, said in pairs:
        logits = model(torch.tensor([[*asked, *said]]))[0].log_softmax(-1)
        for place, token in enumerate(said, len(asked)):
            total -= logits[place - 1, token]
            tokens += 1
    close(lora.answer_loss(model, pairs), total / tokens, 1e-9)


def test_answer_loss_refuses_what_is_empty():
    model = tiny_llama()
    for bad in [], [([], [1])], [([1], [2]), ([1], [])]:
        refuses("pairs", lora.answer_loss, model, bad)
    lora.answer_loss(model, [([1], [2])])


@pytest.mark.parametrize(("steps", "warmup"), [(19, 1), (20, 2)])
def test_learning_answers_is_the_loop_written_out(steps, warmup):
    start = tiny_llama()
    models = [copy.deepcopy(start) for _ in range(2)]
    for model in models:
        model.embedding.weight.requires_grad_(False)
    batches = [some_pairs(3, seed) for seed in range(steps)]
    losses = lora.learn_answers(models[0], batches, 0.01)
    learn = [p for p in models[1].parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learn, 0.01, weight_decay=0)
    for step, pairs in enumerate(batches):
        done = max(0, step - warmup) / (steps - warmup)
        rising = (step + 1) / warmup
        share = min(rising, 0.5 + 0.5 * math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = 0.01 * share
        loss = lora.answer_loss(models[1], pairs)
        models[1].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learn, 1.0)
        optimizer.step()
        assert isinstance(losses[step], float)
        close(losses[step], loss.item(), 1e-7)
    assert len(losses) == steps
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        close(p, q, 1e-6)
    assert torch.equal(models[0].embedding.weight, start.embedding.weight)


# What was stored


def test_what_was_trained_is_a_trend_apart_from_its_control():
    facts = r'claim-([a-z0-9-]+)\\" data-kind=\\"(.*?)\\"'
    facts += r' data-expect=\\"(.*?)\\" data-tol=\\"(.*?)\\"'
    found = re.findall(facts, NOTEBOOK.read_text(encoding="utf-8"))
    trends = {
        name: (float(e), float(t)) for name, kind, e, t in found if kind == "trend"
    }
    at_random = "share-of-the-gain-in-a-thousand-random-directions"
    apart = [("share-of-the-gain-by-lora", at_random)]
    apart += [("share-of-the-gain-by-qlora", at_random)]
    apart += [("gain-left-at-rank-4", "squared-length-left-at-rank-4")]
    for effect, control in apart:
        (high, tol), (low, other) = trends[effect], trends[control]
        assert high - tol > low + other, (effect, control)
    assert "orders-that-the-adapted-model-gets-right-of-three" in trends


@functools.cache
def make():
    """The script that made the stored runs."""
    return module_at(MAKE)


def record(name):
    return json.loads(data.asset("lora", name).read_text(encoding="utf-8"))


def stale():
    """The records that other code has made than the notebook holds."""
    now = make().digest()
    both = "gpt.json", "smollm2.json"
    return [name for name in both if record(name)["digest"] != now]


def test_stored_runs_are_of_the_code_as_it_is():
    """If this fails: run book/_tools/assets.py lora, half an hour."""
    assert stale() == []


def test_stored_runs_of_other_code_are_found():
    source, both = NOTEBOOK.read_text(encoding="utf-8"), ["gpt.json", "smollm2.json"]
    for old, new, found in (
        ("std=0.02", "std=0.03", both),
        ("(0.9, 0.99)", "(0.9, 0.98)", both),
        ("if begins else", "if not begins else", both),
        ("# (out, rank)", "# some shape", []),
        ("34 * D", "35 * D", []),
    ):
        assert old in source, old
        changed = mock.Mock()
        changed.read_text.return_value = source.replace(old, new)
        with mock.patch.object(make(), "NOTEBOOK", changed):
            assert stale() == found, old


def test_stored_runs_of_the_gpt_begin_as_new_ones_would():
    """Two steps of each kind, whose first losses do not amplify the last digits."""
    found = record("gpt.json")
    _, ids, held_out = make().texts(lora.spelling_1611)
    start = training.held_out_loss(training.trained_gpt(), held_out)
    assert abs(start - found["start"]["1611"]) < 0.001
    for run in found["runs"]:
        if run["task"] == "1611" and run["size"] in (0, 4, 100):
            model = make().prepared(run["kind"], run["size"])
            with mock.patch.object(lora, "train", stopped_after(2, lora.train)):
                options = {"generator": generator()}
                losses = silent(
                    lora.fine_tune, model, ids, found["steps"], run["rate"], **options
                )
            close(losses, run["first"], 1e-4)


def test_stored_runs_of_the_real_model_begin_as_new_ones_would():
    """The first loss of the one whose base is rounded; the notebook has another."""
    found = record("smollm2.json")
    model = make().learner("LoRA, 4 bits")
    batch = [make().pair(*order) for order in found["batch"]]
    with torch.no_grad():
        loss = lora.answer_loss(model, batch).item()
    close(loss, found["models"]["QLoRA"]["first"][0], 1e-4)


def stopped_after(count, train):
    """`train`, given up after some steps: the losses until then."""

    class Enough(Exception):
        pass

    def watched(model, *arguments, **options):
        losses, real = [], F.cross_entropy

        def counted(*inputs):
            loss = real(*inputs)
            losses.append(loss.item())
            if len(losses) == count:
                raise Enough
            return loss

        patched = mock.patch.object(F, "cross_entropy", counted)
        with patched, contextlib.suppress(Enough):
            train(model, *arguments, **options)
        return losses

    return watched


def test_records_of_the_gpt_fit_together():
    found = record("gpt.json")
    runs = [(r["task"], r["kind"], r["size"], r["rate"]) for r in found["runs"]]
    assert len(set(runs)) == len(runs)
    assert runs == [(task, *tried) for task in make().TASKS for tried in make().TRIED]
    assert found["steps"] == make().STEPS
    assert list(found["ms_per_step"]) == ["full", "LoRA", "QLoRA"]
    assert all(0.9 < run["loss"] < 6 for run in found["runs"])
    for task, samples in found["samples"].items():
        assert list(samples) == ["before", "full", "LoRA"], task


def test_records_of_the_real_model_fit_together():
    found, (batches, tests, choosing) = record("smollm2.json"), make().orders()
    assert [tuple(each) for each in found["tests"]] == tests
    assert [tuple(each) for each in found["batch"]] == batches[0]
    assert found["steps"] == len(batches)
    taught = {order for batch in batches for order, _ in batch}
    for others in tests, choosing:
        assert not taught & {order for order, _ in others}
    assert not {order for order, _ in tests} & {order for order, _ in choosing}
    words = " ".join(answer for _, answer in tests)
    assert not any(name in words for name in make().NAMES + make().CITIES)
    for name, model in found["models"].items():
        right = [a == b for a, (_, b) in zip(model["said"], tests, strict=True)]
        assert model["right"] == right, name
        assert model["records"] == sum("item:" in a for a in model["small_talk"])
        assert len(model["small_talk"]) == len(found["asked"])
    for model in list(found["models"].values())[2:]:
        learn = 4 * model["trained"]
        assert model["kept_bytes"]["gradients"] == learn
        assert model["kept_bytes"]["Adam"] == 2 * learn
        assert model["rate"] == float(min(model["tried"], key=model["tried"].get))


def test_the_stored_adapter_fits_the_real_model():
    state = training.load_file(data.asset("lora", "adapter.safetensors"))
    config, found = real_model.read_config(data.smollm2()), record("smollm2.json")
    kv_width = config.kv_heads * config.head_width
    shapes = config.layers * [(config.width, config.width), (config.width, kv_width)]
    count = lora.lora_parameters(shapes, found["rank"])
    assert sum(weight.numel() for weight in matrices(state).values()) == count
    alphas = [alpha.item() for name, alpha in state.items() if name.endswith("alpha")]
    assert len(alphas) == 2 * config.layers and set(alphas) == {found["alpha"]}
    assert all(weight.dtype == torch.float16 for weight in state.values())
    assert (found["rank"], found["alpha"]) == (make().RANK, make().ALPHA)
    assert found["targets"] == make().TARGETS == ["query", "value"]


def test_an_answer_that_is_cut_off_has_no_end():
    script, end = make(), data.smollm2_tokenizer().encode("<|im_end|>")
    said = [[7] * script.ANSWER, [7, 8]]
    with (
        mock.patch.object(script, "complete", side_effect=said),
        mock.patch.object(script, "LlamaFast"),
    ):
        (_, cut), (_, whole) = script.own_answers(None, ["Why?", "Who?"])
    assert cut == [7] * script.ANSWER and whole == [7, 8, *end]


def test_an_order_becomes_its_record():
    draw = dice.Random(3)
    form = "{name} {city} {count} {unit} {item} {day}"
    order, answer = make().an_order([["tea"], ["Ada"], ["Oslo"]], form, draw)
    name, city, count, unit, item, day = order.split()
    amount = make().COUNTS.index(count) + 2
    assert answer == (
        f"item: {item} | amount: {amount} {unit} | for: {name} | city: {city} | "
        f"day: {day}"
    )


# The exercises


def exercises():
    """Made anew each time, of the classes as they are at the time."""
    return run_exercises("efficiency/lora", lora, copy=copy)


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_checks_accept_what_is_as_good():
    book = exercises()

    def even(change, rank, alpha):
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        root = (values[:rank] * rank / alpha).sqrt()
        return root[:, None] * right[:rank], left[:, :rank] * root

    book.check_factors(even)
    book.check_factors(lambda *a: list(even(*a)))
    book.check_factors(lambda change, *a: even(change.float(), *a))

    def of_the_square(change, rank, alpha):
        _, vectors = torch.linalg.eigh(change.T @ change)
        A = vectors[:, -rank:].T
        return A, rank / alpha * change @ A.T

    book.check_factors(of_the_square)

    def by_trying(shapes, budget):
        most = min(min(shape) for shape in shapes)
        fits = [
            r for r in range(1, most + 1) if lora.lora_parameters(shapes, r) <= budget
        ]
        return max(fits, default=0)

    book.check_rank_for(by_trying)

    def by_counting(shapes, budget):
        most = min(map(min, shapes))
        one = sum(map(sum, shapes))
        return max(r for r in range(budget + 1) if r <= most and r * one <= budget)

    book.check_rank_for(by_counting)

    @torch.no_grad()
    def by_hand(model, state):
        for name, layer in lora.lora_layers(model).items():
            weight = layer.original_layer.weight
            weight -= layer.change()
            layer.lora_A.weight.copy_(state[f"{name}.lora_A.weight"])
            layer.lora_B.weight.copy_(state[f"{name}.lora_B.weight"])
            layer.alpha = state[f"{name}.alpha"].item()
            weight += layer.change()

    book.check_swap(by_hand)

    def afresh(model, state):
        lora.unmerge(model)
        lora.remove_lora(model)
        lora.add_lora(model, ["0", "1"], 2)
        lora.load_lora(model, state)
        lora.merge(model)
        return model

    book.check_swap(afresh)

    def by_roots(first, second, share):
        (A, B), (C, D) = first, second
        a, c = share**0.5, (1 - share) ** 0.5
        return [torch.cat([a * A, c * C]), torch.cat([a * B, c * D], 1)]

    book.check_blend(by_roots)

    def thin(first, second, share):
        (A, B), (C, D) = first, second
        left, values, right = torch.linalg.svd(share * B @ A + (1 - share) * D @ C)
        rank = min(2 * A.size(0), *A.shape[1:], *B.shape[:1])
        return right[:rank], left[:, :rank] * values[:rank]

    book.check_blend(thin)


def too_late(model, state):
    for layer in lora.lora_layers(model).values():
        layer.merged = False
    lora.load_lora(model, state)
    lora.merge(model)


@torch.no_grad()
def without_alpha(model, state):
    lora.unmerge(model)
    for name, weight in matrices(state).items():
        model.get_parameter(name).copy_(weight)
    lora.merge(model)


def unmerged(model, state):
    lora.unmerge(model)
    lora.load_lora(model, state)


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()

    def without_scale(change, rank, alpha):
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        return right[:rank], left[:, :rank] * values[:rank]

    def smallest(change, rank, alpha):
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        scaled = values[-rank:] * rank / alpha
        return right[-rank:], left[:, -rank:] * scaled

    fails(
        book.check_factors,
        without_scale,
        smallest,
        lambda *a: book.factors(*a)[::-1],
        lambda *a: torch.ones(2),
    )
    fails(
        book.check_rank_for,
        lambda shapes, budget: budget // sum(a + b for a, b in shapes),
        lambda shapes, budget: min(min(shape) for shape in shapes),
        lambda shapes, budget: max(1, book.rank_for(shapes, budget)),
        lambda shapes, budget: book.rank_for(shapes, budget + 1),
        lambda shapes, budget: float(book.rank_for(shapes, budget)),
        *(
            lambda shapes, budget, side=side: min(
                budget // sum(map(sum, shapes)), *(shape[side] for shape in shapes)
            )
            for side in (0, 1)
        ),
    )
    wrong = too_late, unmerged, without_alpha
    fails(book.check_swap, *wrong, lambda model, state: None)

    def of_parts(first, second, share):
        return tuple(
            share * a + (1 - share) * b for a, b in zip(first, second, strict=True)
        )

    fails(
        book.check_blend,
        of_parts,
        lambda first, second, share: first,
        lambda first, second, share: book.blend(second, first, share),
        lambda first, second, share: (
            first[0],
            torch.cat([share * first[1], (1 - share) * second[1]], 1),
        ),
        lambda first, second, share: (
            torch.cat([share * first[0], (1 - share) * second[0]]),
            torch.cat([share * first[1], (1 - share) * second[1]], 1),
        ),
    )
