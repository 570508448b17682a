"""The cells of transformers/training against torch, loops in Python and arithmetic."""

import functools
import math
from dataclasses import replace
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, seeds
from torch import nn
from torch.optim import _muon

from fieldguide.transformers import attention, gpt, training

TINY = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=False)
PLAIN = training.Recipe(9, rate=0.5)

sizes = st.integers(1, 6)
rounds = st.integers(0, 5)
wide = mock.patch.object(torch.Tensor, "bfloat16", lambda x: x.clone())


def some_gpt():
    return gpt.GPT(TINY, generator=generator())


@cases(seed=seeds, batch=sizes, context=sizes)
def test_a_batch_is_pieces_of_the_text(seed, batch, context):
    inputs, targets = training.get_batch(
        torch.arange(9), batch, context, generator(seed)
    )
    assert inputs.shape == targets.shape == (batch, context)
    assert torch.equal(inputs + 1, targets)
    assert torch.equal(inputs.diff(dim=1), torch.ones(batch, context - 1))
    inputs, _ = training.get_batch(torch.arange(6), 200, 3, generator(seed))
    assert inputs[:, 0].unique().tolist() == [0, 1, 2], "they begin everywhere"


@pytest.mark.parametrize(("pieces", "starts"), [(3, [0, 12, 25]), (2, [0, 25])])
def test_held_out_loss_is_the_mean_over_even_windows(pieces, starts):
    model, ids = some_gpt(), torch.randint(7, (30,), generator=generator())
    found = training.held_out_loss(model, ids, pieces)
    places = torch.tensor(starts)[:, None] + torch.arange(4)
    right = F.cross_entropy(model(ids[places]).mT, ids[places + 1])
    close(found, right.item(), 1e-6)
    close(training.loss_on(model, ids[places], ids[places + 1]), right, 1e-6)


def test_the_rate_rises_evenly_and_falls_along_a_cosine():
    recipe, flat = training.Recipe(12, warmup=4, final=0.2), training.Recipe(5, final=1)
    shares = [training.lr_schedule(step, recipe) for step in range(12)]
    close(shares[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    close(shares[8], 0.6)
    close(shares[10], 0.2 + 0.8 * (1 + math.cos(0.75 * math.pi)) / 2)
    assert [training.lr_schedule(step, flat) for step in range(5)] == [1] * 5


def test_new_gpt_follows_the_recipe():
    ids, recipe = torch.tensor([[1, 5, 2, 0]]), training.modern_recipe(3)
    model = training.new_gpt(TINY, recipe, generator())
    assert model.config == replace(TINY, positions="rotary")
    attend = training.qk_norm(attention.simple_attention)
    by_hand = gpt.GPT(model.config, attend=attend, generator=generator())
    close(model(ids), by_hand(ids), 1e-5)
    plain = training.new_gpt(TINY, replace(recipe, normed=False), generator())
    close(plain(ids), gpt.GPT(model.config, generator=generator())(ids), 1e-5)
    assert training.new_gpt(TINY, PLAIN, None).config == TINY


@pytest.mark.parametrize("recipe", [PLAIN, training.modern_recipe(9)])
def test_optimizers_share_the_parameters_out(recipe):
    model = some_gpt()
    layers = {id(p) for p in model.blocks.parameters() if p.dim() == 2}
    every = {id(p): p.dim() for p in model.parameters()}
    recipe = replace(recipe, betas=(0.5, 0.6), decay=0.25)
    adam, *muon = training.optimizers(model, recipe)
    assert [type(each) for each in muon] == [training.Muon] * recipe.normed
    assert type(adam) is torch.optim.AdamW and adam.defaults["fused"]
    groups = [*adam.param_groups, *(g for each in muon for g in each.param_groups)]
    tables, vectors, *matrices = [{id(p) for p in g["params"]} for g in groups]
    assert vectors == {p for p in every if every[p] == 1}
    assert matrices == [layers] * len(muon)
    assert tables == set(every) - vectors - (layers if muon else set())
    assert [g["weight_decay"] for g in groups[:2]] == [0.25, 0]
    kinds = [(g["betas"], g["lr"]) for g in groups[:2]]
    assert kinds == [((0.5, 0.6), recipe.rate)] * 2
    assert [(g["lr"], g["rounds"]) for g in groups[2:]] == [(0.03, 3)] * len(muon)


@pytest.mark.parametrize("clip", [math.inf, 0.5])
def test_descend_follows_a_closed_form(clip):
    """Down w * w / 2 at a rate r, a step leaves 1 - r of w, or takes r * clip."""
    recipe = training.Recipe(6, final=0.2, warmup=2, clip=clip)
    model, seen = nn.Linear(1, 1, bias=False).double(), []
    nn.init.constant_(model.weight, 4.0)
    made = [torch.optim.SGD(model.parameters(), 0.3)]
    losses = training.descend(
        model,
        lambda: model.weight.square().sum() / 2,
        made,
        recipe,
        watch=lambda *told: seen.append(told),
    )
    w, right = 4.0, []
    for step in range(6):
        right.append(w * w / 2)
        w -= 0.3 * training.lr_schedule(step, recipe) * min(w, clip)
    close(model.weight.item(), w, 1e-5)
    close(losses, torch.tensor(right), 1e-5)
    assert losses.dtype == torch.float32 and not losses.requires_grad
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    close([now.item() for _, now in seen], right, 1e-5)


def test_training_descends_on_windows_of_the_text():
    model, ids, seen = some_gpt(), torch.arange(200) % 7, []
    batch = training.get_batch(ids, 3, TINY.context, generator(1))
    right = training.loss_on(model, *batch).item()
    options = {"generator": generator(1), "watch": lambda *told: seen.append(told)}
    recipe = replace(training.modern_recipe(20), batch=3)
    losses = training.train(model, ids, recipe, **options)
    close(losses[0].item(), right, 1e-5)
    assert losses[-5:].mean() < losses[:5].mean()
    assert seen == [(step, model) for step in range(1, 21)]


@cases(seeds, st.tuples(sizes, sizes), rounds)
def test_newton_schulz_is_torchs(seed, shape, rounds):
    matrix = random(*shape, seed=seed)
    kept, numbers = matrix.clone(), (3.4445, -4.7750, 2.0315)
    with wide:
        right = _muon._zeropower_via_newtonschulz(matrix, numbers, rounds, 1e-7)
    close(training.newton_schulz(matrix, rounds), right, 1e-9)
    assert torch.equal(matrix, kept)


def stepped(make, shapes, seed):
    """The matrices after an optimizer has been given four gradients of each."""
    start, *gradients = ([random(*s, seed=seed + n) for s in shapes] for n in range(5))
    parameters = [p.requires_grad_() for p in start]
    optimizer = make(iter(parameters))
    for each in gradients:
        for p, grad in zip(parameters, each, strict=True):
            p.grad = grad.clone()
        optimizer.step()
    return [p.detach() for p in parameters]


@cases(seeds, *map(st.sampled_from, ([0.0, 0.02, 0.5], [0.0, 0.6, 0.95])), rounds)
def test_muon_is_torchs(seed, lr, momentum, rounds):
    kind, shapes = {"lr": lr, "momentum": momentum}, [(3, 3), (2, 4), (5, 2), (3, 3)]
    ours = functools.partial(training.Muon, rounds=rounds, **kind)
    kind |= {"weight_decay": 0, "ns_steps": rounds}
    with wide:
        theirs = stepped(functools.partial(torch.optim.Muon, **kind), shapes, seed)
    close(stepped(ours, shapes, seed), theirs, 1e-5)


@cases(seed=seeds, T=sizes, K=sizes, scale=st.sampled_from([None, 0.5]))
def test_qk_norm_scales_queries_and_keys(seed, T, K, scale):
    q, k, v = (random(2, T, K, seed=seed + i) for i in range(3))
    mask = torch.ones(T, T).tril().bool()
    attend = training.qk_norm(attention.simple_attention)
    found = attend(q, k, v, mask=mask, scale=scale)
    q, k = (F.rms_norm(x, (K,), eps=1e-30) for x in (q, k))
    close(found, attention.simple_attention(q, k, v, mask=mask, scale=scale))
