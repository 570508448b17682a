"""The cells of transformers/training against torch, loops in Python and arithmetic."""

import math
from dataclasses import replace
from functools import partial
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, seeds
from torch import nn

from fieldguide.transformers import attention, gpt, training

TINY = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=False)
PLAIN, MODERN = training.Recipe(9, rate=0.5), training.modern_recipe(9)

sizes = st.integers(1, 6)


def some_gpt():
    return gpt.GPT(TINY, generator=generator())


@cases(seed=seeds, batch=sizes, context=sizes)
def test_a_batch_is_pieces_of_the_text(seed, batch, context):
    draws = generator(seed)
    inputs, targets = training.get_batch(torch.arange(9), batch, context, draws)
    assert inputs.shape == (batch, context) and torch.equal(inputs + 1, targets)
    assert inputs.diff(dim=1).eq(1).all()
    inputs, _ = training.get_batch(torch.arange(6), 200, 3, draws)
    assert inputs[:, 0].unique().tolist() == [0, 1, 2], "they begin everywhere"


@pytest.mark.parametrize("starts", [[0, 12, 25], [0, 25]])
def test_held_out_loss_is_the_mean_over_even_windows(starts):
    model, ids = some_gpt(), torch.randint(7, (30,), generator=generator())
    places = torch.tensor(starts)[:, None] + torch.arange(4)
    inputs, targets = ids[places], ids[places + 1]
    right = F.cross_entropy(model(inputs).mT, targets)
    close(training.loss_on(model, inputs, targets), right, 1e-6)
    close(training.held_out_loss(model, ids, len(starts)), right.item(), 1e-6)


def test_the_rate_rises_evenly_and_falls_along_a_cosine():
    recipe, flat = training.Recipe(12, warmup=4, final=0.2), training.Recipe(5, final=1)
    shares = [recipe.lr_schedule(step) for step in range(12)]
    close(shares[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    close(shares[8], 0.6)
    close(shares[10], 0.2 + 0.8 * (1 + math.cos(0.75 * math.pi)) / 2)
    assert [flat.lr_schedule(step) for step in range(5)] == [1] * 5


@pytest.mark.parametrize("normed", [True, False])
def test_new_gpt_follows_the_recipe(normed):
    recipe, attend = replace(MODERN, normed=normed), attention.simple_attention
    model = training.new_gpt(TINY, recipe, generator())
    assert model.config == replace(TINY, positions="rotary")
    attend = training.qk_norm(attend) if normed else attend
    twin = gpt.GPT(model.config, attend=attend, generator=generator())
    ids = torch.tensor([[1, 5, 2, 0]])
    close(model(ids), twin(ids), 1e-5)
    assert training.new_gpt(TINY, PLAIN, None).config == TINY


@pytest.mark.parametrize("recipe", [PLAIN, MODERN])
def test_optimizers_share_the_parameters_out(recipe):
    model, recipe = some_gpt(), replace(recipe, betas=(0.5, 0.6), decay=0.25)
    adam, *muon = training.optimizers(model, recipe)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [*adam.param_groups, *(g for each in muon for g in each.param_groups)]
    tables, *others = [{names[id(p)] for p in group["params"]} for group in groups]
    vectors = {name for name in names.values() if "norm" in name}
    layers = {*names.values()} - vectors - {"token.weight", "place.weight"}
    assert others == [vectors, layers][: len(others)]
    assert tables == {*names.values()}.difference(*others)
    kinds = [(g["betas"], g["lr"], g["weight_decay"]) for g in adam.param_groups]
    assert kinds == [((0.5, 0.6), recipe.rate, decay) for decay in (0.25, 0)]
    kinds = [(type(m), m.defaults["lr"], m.defaults["rounds"]) for m in muon]
    assert kinds == [(training.Muon, 0.03, 3)] * recipe.normed


@pytest.mark.parametrize("clip", [math.inf, 0.5])
def test_descend_follows_a_closed_form(clip):
    """Down w * w / 2 at a rate r, a step leaves 1 - r of w, or takes r * clip."""
    recipe = training.Recipe(6, final=0.2, warmup=2, clip=clip)
    model, seen = nn.Linear(1, 1, bias=False).double(), []
    nn.init.constant_(model.weight, 4.0)
    made = [torch.optim.SGD(model.parameters(), 0.3)]
    loss, watch = lambda: model.weight.square().sum() / 2, lambda *x: seen.append(x)
    losses = training.descend(model, loss, made, recipe, watch=watch)
    w, right = 4.0, []
    for step in range(6):
        right.append(w * w / 2)
        w -= 0.3 * recipe.lr_schedule(step) * min(w, clip)
    close(model.weight.item(), w, 1e-5)
    close(losses.tolist(), right, 1e-5)
    close([(n, loss.item()) for n, loss in seen], [*enumerate(right, 1)], 1e-5)


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


def stepped(make, seed):
    """The matrices after an optimizer has been given four gradients of each."""
    shapes = (3, 3), (2, 4), (5, 2)
    start, *gradients = ([random(*s, seed=seed + n) for s in shapes] for n in range(5))
    parameters = [p.requires_grad_() for p in start]
    optimizer = make(iter(parameters))
    for each in gradients:
        for p, grad in zip(parameters, each, strict=True):
            p.grad = grad.clone()
        optimizer.step()
    return [p.detach() for p in parameters]


@cases(seeds, st.sampled_from([0.02, 0.5]), st.sampled_from([0.0, 0.95]), sizes)
def test_muon_is_torchs(seed, lr, momentum, rounds):
    kind = {"lr": lr, "momentum": momentum}
    ours = partial(training.Muon, rounds=rounds, **kind)
    theirs = partial(torch.optim.Muon, weight_decay=0, ns_steps=rounds, **kind)
    with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):  # in 64 bits
        right = stepped(theirs, seed)
    close(stepped(ours, seed), right, 1e-5)


@cases(seed=seeds, T=sizes, K=sizes, scale=st.sampled_from([None, 0.5]))
def test_qk_norm_scales_queries_and_keys(seed, T, K, scale):
    q, k, v = (random(2, T, K, seed=seed + i) for i in range(3))
    mask = torch.ones(T, T).tril().bool()
    attend = training.qk_norm(attention.simple_attention)
    found = attend(q, k, v, mask=mask, scale=scale)
    q, k = (F.rms_norm(x, (K,), eps=1e-30) for x in (q, k))
    close(found, attention.simple_attention(q, k, v, mask=mask, scale=scale))
