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

sizes = st.integers(1, 6)
rates, decays = st.sampled_from([0.0, 0.02, 0.5]), st.sampled_from([0.0, 0.1])


def some_ids(length=60, V=7, seed=0):
    return torch.randint(V, (length,), generator=generator(seed))


def some_gpt():
    return gpt.GPT(TINY, generator=generator())


def test_counters_are_mackays():
    """p(a|abc's end) by hand: a count, plus what the shorter run predicts, over one."""
    ids, V = some_ids(40, 3).tolist(), 3
    held_out = [0, 0, 1, 2, 2, 1]

    def chance(c, run):
        if run is None:
            return 1 / V
        n = len(run)
        seen = [ids[i : i + n + 1] for i in range(len(ids) - n)]
        count, total = seen.count([*run, c]), sum(s[:n] == run for s in seen)
        return (count + chance(c, run[1:] if run else None)) / (total + 1)

    runs = [held_out[i : i + 3] for i in range(4)]
    right = [
        -sum(math.log(chance(run[-1], run[3 - n : -1])) for run in runs) / 4
        for n in (1, 2, 3)
    ]
    found = training.counter_losses(torch.tensor(ids), torch.tensor(held_out), V)
    close(found, right)
    assert all(isinstance(loss, float) for loss in found)


@cases(seed=seeds, batch=sizes, context=sizes)
def test_windows_are_pieces_of_the_text(seed, batch, context):
    ids = torch.arange(9)
    inputs, targets = training.get_batch(ids, batch, context, generator(seed))
    assert inputs.shape == targets.shape == (batch, context)
    assert torch.equal(inputs + 1, targets)
    assert torch.equal(inputs.diff(dim=1), torch.ones(batch, context - 1))
    inputs, _ = training.get_batch(ids[:6], 200, 3, generator(seed))
    assert inputs[:, 0].unique().tolist() == [0, 1, 2], "they begin everywhere"


@pytest.mark.parametrize(("pieces", "starts"), [(3, [0, 12, 25]), (2, [0, 25])])
def test_held_out_loss_is_the_mean_over_even_windows(pieces, starts):
    model, ids = some_gpt(), some_ids(30)
    found = training.held_out_loss(model, ids, pieces)
    places = torch.tensor(starts)[:, None] + torch.arange(4)
    right = F.cross_entropy(model(ids[places]).mT, ids[places + 1]).item()
    assert math.isclose(found, right, rel_tol=1e-6)


def stepped(make, start, gradients):
    """The parameters after the optimizer has been given those gradients."""
    parameters = [p.clone().requires_grad_() for p in start]
    optimizer = make(parameters)
    for each in gradients:
        for p, grad in zip(parameters, each, strict=True):
            p.grad = grad.clone()
        optimizer.step()
    return [p.detach() for p in parameters]


def problem(shapes, seed=0, scale=1.0, dtype=torch.double):
    """Where some parameters start, and four gradients of each."""
    start, *gradients = (
        [random(*shape, seed=seed + n, dtype=dtype) * scale**n for shape in shapes]
        for n in range(5)
    )
    return start, gradients


@cases(seeds, st.sampled_from([0.1, 1, 100.0, math.inf]))
def test_clipping_is_torchs(seed, longest):
    ours, (grads, *_) = problem([(3,), (2, 4)], seed)
    theirs = [p.clone() for p in ours]
    for p, q, grad in zip(ours, theirs, grads, strict=True):
        p.grad, q.grad = grad.clone().requires_grad_(), grad.clone()
    no_gradient = torch.zeros(2)
    length = training.clip_gradient(iter([*ours, no_gradient]), longest)
    close(length, nn.utils.clip_grad_norm_(theirs, longest))
    close([p.grad for p in ours], [q.grad for q in theirs], 1e-5)  # torch adds 1e-6
    assert not length.requires_grad


wide = mock.patch.object(torch.Tensor, "bfloat16", lambda x: x.clone())


@cases(seeds, st.tuples(sizes, sizes), st.integers(0, 5))
def test_orthogonalize_is_torchs(seed, shape, iterations):
    matrix = random(*shape, seed=seed)
    kept, numbers = matrix.clone(), (3.4445, -4.7750, 2.0315)
    with wide:
        right = _muon._zeropower_via_newtonschulz(matrix, numbers, iterations, 1e-7)
    close(training.orthogonalize(matrix, iterations, torch.double), right, 1e-9)
    assert torch.equal(matrix, kept)


@cases(seeds, rates, st.sampled_from([0.0, 0.6, 0.95]), decays, st.integers(1, 5))
def test_muon_is_torchs(seed, lr, momentum, decay, iterations):
    given = problem([(3, 3), (2, 4), (5, 2), (3, 3)], seed, dtype=torch.float32)
    kind = {"lr": lr, "momentum": momentum}
    rest = {"decay": decay, "iterations": iterations}
    ours = stepped(lambda ps: training.Muon(iter(ps), **rest, **kind), *given)
    rest = {"weight_decay": decay, "ns_steps": iterations}
    with wide:
        theirs = stepped(functools.partial(torch.optim.Muon, **rest, **kind), *given)
    close(ours, theirs, 2e-4)


def test_the_rate_rises_evenly_and_falls_along_a_cosine():
    recipe, flat = training.Recipe(12, warmup=4, final=0.2), training.Recipe(5, final=1)
    shares = [training.lr_schedule(step, recipe) for step in range(12)]
    close(shares[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    close(shares[8], 0.6)
    close(shares[10], 0.2 + 0.8 * (1 + math.cos(0.75 * math.pi)) / 2)
    assert [training.lr_schedule(step, flat) for step in range(5)] == [1] * 5


@cases(seed=seeds, T=sizes, K=sizes, scale=st.sampled_from([None, 0.5]))
def test_qk_norm_scales_queries_and_keys(seed, T, K, scale):
    q, k, v = (random(2, T, K, seed=seed + i) for i in range(3))
    mask = attention.causal_mask(T)
    attend = training.qk_norm(attention.simple_attention)
    found = attend(q, k, v, mask=mask, scale=scale)
    q, k = (F.rms_norm(x, (K,), eps=1e-30) for x in (q, k))
    close(found, attention.simple_attention(q, k, v, mask=mask, scale=scale))


def test_new_gpt_follows_the_recipe():
    ids, recipe = some_ids(4), training.modern_recipe(3)
    model = training.new_gpt(TINY, recipe, generator())
    assert model.config == replace(TINY, positions="rotary")
    attend = training.qk_norm(attention.simple_attention)
    twin = gpt.GPT(model.config, attend=attend, generator=generator())
    close(model(ids), twin(ids), 1e-5)
    plain = training.new_gpt(TINY, replace(recipe, normed=False), generator())
    close(plain(ids), gpt.GPT(model.config, generator=generator())(ids), 1e-5)
    assert training.new_gpt(TINY, training.plain_recipe(3), None).config == TINY


def test_optimizers_share_the_parameters_out():
    model = some_gpt()
    layers = {id(p) for p in model.blocks.parameters() if p.dim() == 2}
    every = {id(p): p.dim() for p in model.parameters()}
    for recipe in training.plain_recipe(100), training.modern_recipe(9):
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
    (group,) = muon[0].param_groups
    assert (group["lr"], group["iterations"], group["decay"]) == (0.03, 3, 0)


@pytest.mark.parametrize("clip", [math.inf, 0.5])
def test_descend_follows_a_closed_form(clip):
    """Down w * w / 2 at a rate r, a step leaves 1 - r of w, or takes r * clip."""
    recipe = training.Recipe(6, final=0.2, warmup=2, clip=clip)
    model, seen = nn.Linear(1, 1, bias=False).double(), []
    nn.init.constant_(model.weight, 4.0)
    made = [torch.optim.SGD(model.parameters(), 0.3)]

    def clipped(parameters, longest):
        assert list(parameters) == [model.weight] and longest == clip
        return nn.utils.clip_grad_norm_(parameters, longest)

    def loss():
        assert model.training and torch.is_grad_enabled()
        return model.weight.square().sum() / 2

    options = {"clip": clipped, "watch": lambda *told: seen.append(told)}
    losses = training.descend(model, loss, made, recipe, **options)
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
    model, ids = some_gpt(), torch.arange(200) % 7
    inputs, targets = training.get_batch(ids, 3, TINY.context, generator(1))
    right = F.cross_entropy(model(inputs).mT, targets).item()
    recipe = replace(training.modern_recipe(20), batch=3)
    losses = training.train(model, ids, recipe, generator=generator(1))
    close(losses[0].item(), right, 1e-5)
    assert losses[-5:].mean() < losses[:5].mean()
