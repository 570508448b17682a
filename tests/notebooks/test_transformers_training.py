"""The cells of transformers/training against torch, loops in Python and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import collections
import contextlib
import functools
import io
import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
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
from torch import nn
from torch.optim import _muon
from torch.utils.flop_counter import FlopCounterMode

from fieldguide import check, data
from fieldguide.introduction import next_word
from fieldguide.transformers import attention, gpt, training

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "book" / "transformers" / "training.ipynb"
MAKE = ROOT / "book" / "_assets" / "king-james-gpt" / "make.py"
TINY = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=False)

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)


def some_ids(length=60, V=7, seed=0):
    return torch.randint(V, (length,), generator=generator(seed))


# Counting


@quick
@given(seed=seeds, n=st.integers(1, 8), V=st.integers(2, 7))
def test_ngram_ids_number_the_runs(seed, n, V):
    ids = some_ids(12, V, seed)
    runs = [ids[i : i + n].tolist() for i in range(len(ids) - n + 1)]
    right = [functools.reduce(lambda a, b: V * a + b, run) for run in runs]
    assert training.ngram_ids(ids, n, V).tolist() == right


def counted_losses(train, ids, n, V, prior):
    """The same model with a dictionary, one character at a time."""
    found = collections.Counter()
    for order in range(1, n + 1):
        for i in range(len(train) - order + 1):
            found[tuple(train[i : i + order])] += 1
    losses, places = [0] * n, range(n - 1, len(ids))
    for i in places:
        chance = 1 / V
        for order in range(1, n + 1):
            run = tuple(ids[i - order + 1 : i + 1])
            begun = sum(found[(*run[:-1], c)] for c in range(V))
            chance = (found[run] + prior * chance) / (begun + prior)
            losses[order - 1] -= math.log(chance) / len(places)
    return losses


@quick
@given(
    seed=seeds,
    n=st.integers(1, 5),
    V=st.integers(2, 4),
    prior=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_ngram_losses_are_counting(seed, n, V, prior):
    train, ids = some_ids(30, V, seed), some_ids(9, V, seed + 1)
    counts = training.run_counts(train, ids, n, V)
    assert all(c.shape == (n, 10 - n) and c.dtype == torch.int64 for c in counts)
    found = training.ngram_losses(*counts, V, prior)
    right = counted_losses(train.tolist(), ids.tolist(), n, V, prior)
    assert all(isinstance(loss, float) for loss in found)
    close(found, right)


def test_ngram_losses_count_one_imaginary_character():
    ids = some_ids()
    counts = training.run_counts(ids, ids[:3], 3, 7)  # one place is enough
    found = training.ngram_losses(*counts, 7)
    assert found == training.ngram_losses(*counts, 7, 1.0) and min(found) > 0


def test_counting_refuses_bad_input():
    ids = some_ids(8)
    for n in 0, 9, 2.0, True:
        refuses("n", training.ngram_ids, ids, n, 7)
    assert len(training.ngram_ids(ids, 8, 7)) == 1
    refuses("ids", training.ngram_ids, ids[:3], 4, 7)
    refuses("ids", training.ngram_ids, ids, 2, int(ids.max()))
    refuses("ids", training.ngram_ids, ids.float(), 2, 7)
    refuses("ids", training.ngram_ids, ids.view(2, 4), 2, 7)
    last = training.ngram_ids(torch.full((8,), 233), 8, 234)
    assert last.tolist() == [234**8 - 1]
    refuses("V", training.ngram_ids, ids, 8, 235)
    refuses("V", training.ngram_ids, ids, 7, 2**9)
    counts = training.run_counts(ids, ids, 2, 7)
    for prior in 0, -1:
        refuses("prior", training.ngram_losses, *counts, 7, prior)


def places(known, asked):
    """Where each of asked stands in known, in order, and whether it is there."""
    at = torch.searchsorted(known, asked).clamp(max=len(known) - 1)
    return at, known[at] == asked


def kneser_ney(train, ids, n, V, discount=0.75):
    """Chances of ids[n - 1 :] by interpolated Kneser-Ney (Chen and Goodman 1999)."""
    chance, none = torch.tensor(1 / V), torch.tensor(0)
    for order in range(1, n + 1):
        runs = training.ngram_ids(train, order, V)
        if order < n:  # of shorter runs counts what else they were seen after
            runs = training.ngram_ids(train, order + 1, V).unique() % V**order
        known, times = runs.unique(return_counts=True)
        begun, which = (known // V).unique(return_inverse=True)
        total = which.bincount(times.double())
        asked = training.ngram_ids(ids, order, V)[n - order :]
        at, found = places(known, asked)
        kept = (times[at].where(found, none) - discount).clamp(min=0)
        at, found = places(begun, asked // V)
        spare = discount * which.bincount()[at] * chance
        chance = ((kept + spare) / total[at]).where(found, chance)
    return chance


def test_kneser_ney_shares_out_all_there_is():
    train, V = some_ids(200), 7
    for start in [1, 2], [6, 6], train[-2:].tolist():
        ends = [kneser_ney(train, torch.tensor([*start, c]), 3, V) for c in range(V)]
        close(torch.cat(ends).sum(), torch.tensor(1.0).double())


def test_a_better_counter_beats_the_trained_gpt():
    _, ids, held_out = make().texts()
    loss = -kneser_ney(ids, held_out, 7, 65).log().mean()
    parts = record("run.json")["parts"]
    assert 1.2 < loss < sum(parts) / len(parts) - 0.01


# Batches and the held-out loss


@quick
@given(seed=seeds, batch=sizes, context=sizes)
def test_windows_are_pieces_of_the_text(seed, batch, context):
    ids = torch.arange(9)
    inputs, targets = training.windows(ids, batch, context, generator(seed))
    assert inputs.shape == targets.shape == (batch, context)
    assert torch.equal(inputs + 1, targets)
    assert torch.equal(inputs.diff(dim=1), torch.ones(batch, context - 1))


def test_windows_begin_everywhere():
    inputs, targets = training.windows(torch.arange(6), 200, 3, generator())
    assert inputs[:, 0].unique().tolist() == [0, 1, 2]
    assert targets.max() == 5
    again, _ = training.windows(torch.arange(6), 200, 3, generator())
    assert torch.equal(inputs, again)
    training.windows(torch.arange(4), 1, 3, generator())
    for ids, context in (torch.arange(3), 3), (torch.arange(3), 0):
        refuses("ids", training.windows, ids, 1, context, generator())
    refuses("ids", training.windows, torch.zeros(9, 9).long(), 1, 3, generator())


def test_held_out_loss_is_the_mean_over_even_windows():
    model, ids = gpt.GPT(TINY, generator=generator()), some_ids(30)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = training.held_out_loss(model, ids, pieces=3)
    rows = [ids[i : i + 4] for i in (0, 12, 25)]
    assert torch.equal(seen[0], torch.stack(rows))
    logits = model(torch.stack(rows))
    targets = torch.stack([ids[i + 1 : i + 5] for i in (0, 12, 25)])
    right = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert isinstance(found, float) and math.isclose(found, right, rel_tol=1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_held_out_loss_keeps_no_graph_and_finds_windows_of_a_long_text():
    model, ids, seen = gpt.GPT(TINY, generator=generator()), some_ids(400_003), []

    def look(_, inputs):
        assert not torch.is_grad_enabled()
        seen.append(inputs[0])

    model.register_forward_pre_hook(look)
    training.held_out_loss(model, ids, 2000)  # in 32 bits, 16 would be a place off
    starts = [int(i * (399_998 / 1999)) for i in range(1999)] + [399_998]
    assert torch.equal(seen[0], torch.stack([ids[i : i + 4] for i in starts]))


def test_held_out_loss_takes_128_windows_of_a_text_that_is_long_enough():
    model, seen = gpt.GPT(TINY, generator=generator()), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    training.held_out_loss(model, some_ids(5))
    assert seen[0].shape == (128, 4)
    refuses("ids", training.held_out_loss, model, some_ids(4))


# Optimizers


def stepped(make, start, gradients):
    """The parameters after the optimizer has been given those gradients."""
    parameters = [p.clone().requires_grad_() for p in start]
    optimizer = make(parameters)
    for each in gradients:
        for p, grad in zip(parameters, each, strict=True):
            p.grad = grad.clone()
        optimizer.step()
    return [p.detach() for p in parameters]


def problem(shapes, seed, steps=5):
    start = [random(*shape, seed=seed + i) for i, shape in enumerate(shapes)]
    gradients = [
        [random(*shape, seed=seed + 7 * step + i) for i, shape in enumerate(shapes)]
        for step in range(1, steps)
    ]
    return start, gradients


@quick
@given(
    seed=seeds,
    lr=st.sampled_from([0.0, 1e-3, 0.5]),
    betas=st.sampled_from([(0.9, 0.99), (0.0, 0.5), (0.3, 0.0)]),
    decay=st.sampled_from([0.0, 0.1]),
    eps=st.sampled_from([1e-8, 0.1]),
)
def test_adamw_is_torchs(seed, lr, betas, decay, eps):
    start, gradients = problem([(3,), (2, 4)], seed)
    kind = {"lr": lr, "betas": betas, "eps": eps}

    def ours(ps):
        return training.AdamW(iter(ps), decay=decay, **kind)

    def theirs(ps):
        return torch.optim.AdamW(ps, weight_decay=decay, **kind)

    for a, b in zip(
        *(stepped(m, start, gradients) for m in (ours, theirs)), strict=True
    ):
        close(a, b)


def test_adamw_has_torchs_defaults():
    start, gradients = problem([(3,), (2, 4)], 0)
    start, gradients = start, [[1e-8 * g for g in each] for each in gradients]
    ours = stepped(training.AdamW, start, gradients)
    for a, b in zip(ours, stepped(torch.optim.AdamW, start, gradients), strict=True):
        close(a, b)


def test_adamw_refuses_bad_input():
    refuses("lr", training.AdamW, [], lr=-1)
    refuses("decay", training.AdamW, [], decay=-1)
    for betas in (1.0, 0.9), (0.9, 1.0), (-0.1, 0.9):
        refuses("betas", training.AdamW, [], betas=betas)
    training.AdamW([], lr=0, decay=0, betas=(0, 0))


@quick
@given(seed=seeds, longest=st.sampled_from([0.1, 1.0, 100.0]))
def test_clipping_is_torchs(seed, longest):
    ours = [random(*shape, seed=seed) for shape in ((3,), (2, 4))]
    for p, grad in zip(ours, problem([(3,), (2, 4)], seed, 2)[1][0], strict=True):
        p.grad = grad
    theirs = [p.clone() for p in ours]
    for p, q in zip(ours, theirs, strict=True):
        q.grad = p.grad.clone()
    no_gradient = torch.zeros(2)
    length = training.clip_gradient([*ours, no_gradient], longest)
    close(length, nn.utils.clip_grad_norm_(theirs, longest))
    for p, q in zip(ours, theirs, strict=True):
        close(p.grad, q.grad, 1e-5)  # torch adds 1e-6 to the length
    for bad in 0, -1:
        refuses("longest", training.clip_gradient, ours, bad)
    bare = [torch.zeros(2)]
    refuses("parameters", training.clip_gradient, bare, 1.0, shown=check.shown([]))


def test_clipping_shortens_exactly_and_only_what_is_too_long():
    for scale, right in (1, 1.0), (0.1, 0.5):
        p = torch.zeros(2, dtype=torch.double)
        p.grad = scale * torch.tensor([3.0, 4.0], dtype=torch.double)
        p.grad.requires_grad_()  # as after create_graph=True
        length = training.clip_gradient(iter([p]), 1.0)
        close(length.item(), 5.0 * scale)
        assert not length.requires_grad
        close(p.grad.norm().item(), right)


wide = mock.patch.object(torch.Tensor, "bfloat16", lambda x: x.clone())


@quick
@given(seed=seeds, shape=st.tuples(sizes, sizes), iterations=st.integers(0, 5))
def test_orthogonalize_is_torchs(seed, shape, iterations):
    matrix = random(*shape, seed=seed)
    kept = matrix.clone()
    numbers = (3.4445, -4.7750, 2.0315)
    with wide:
        right = _muon._zeropower_via_newtonschulz(matrix, numbers, iterations, 1e-7)
    found = training.orthogonalize(matrix, iterations, torch.double)
    close(found, right, 1e-9)
    assert torch.equal(matrix, kept)


def test_orthogonalize_counts_five_rounds_in_32_bits():
    matrix = random(4, 3)
    found = training.orthogonalize(matrix)
    assert found.dtype == torch.float32
    close(found, training.orthogonalize(matrix, 5, torch.float32), 0)
    assert training.orthogonalize(matrix, dtype=torch.bfloat16).dtype == torch.bfloat16
    zero = training.orthogonalize(torch.zeros(2, 3))
    assert torch.equal(zero, torch.zeros(2, 3))
    small = training.orthogonalize(1e-7 * torch.eye(1), 0)
    close(small, torch.ones(1, 1), 1e-5)
    for bad in torch.ones(3), torch.ones(1, 2, 3):
        refuses("matrix", training.orthogonalize, bad)


def test_orthogonalize_brings_singular_values_near_1():
    for shape in (8, 8), (20, 5), (5, 20):
        values = torch.linalg.svdvals(training.orthogonalize(random(*shape)))
        assert values.min() > 0.3 and values.max() < 1.3


def test_orthogonalize_multiplies_on_the_smaller_side():
    """A tall matrix is turned first: no product is larger than it must be."""
    for shape in (50, 2), (2, 50):
        matrix = random(*shape, dtype=torch.float32)
        with FlopCounterMode(display=False) as counter:
            training.orthogonalize(matrix, 1)
        assert counter.get_total_flops() == 2 * (2 * 2 * 50 + 2 * 2 * 2 + 2 * 2 * 50)


@quick
@given(
    seed=seeds,
    lr=st.sampled_from([0.0, 0.02, 0.5]),
    momentum=st.sampled_from([0.0, 0.6, 0.95]),
    decay=st.sampled_from([0.0, 0.1]),
    iterations=st.integers(1, 5),
)
def test_muon_is_torchs(seed, lr, momentum, decay, iterations):
    start, gradients = problem([(3, 3), (2, 4), (5, 2), (3, 3)], seed)
    start = [p.float() for p in start]
    gradients = [[g.float() for g in each] for each in gradients]
    kind = {"lr": lr, "momentum": momentum}

    def ours(ps):
        return training.Muon(iter(ps), decay=decay, iterations=iterations, **kind)

    def theirs(ps):
        rest = {"weight_decay": decay, "ns_steps": iterations}
        return torch.optim.Muon(ps, **rest, **kind)

    with wide:
        right = stepped(theirs, start, gradients)
    for a, b in zip(stepped(ours, start, gradients), right, strict=True):
        close(a, b, 2e-4)


def test_muon_has_its_defaults():
    start, gradients = problem([(3, 3)], 0)
    kind = {"lr": 0.02, "momentum": 0.95, "decay": 0.0, "iterations": 5}

    def explicit(ps):
        return training.Muon(ps, **kind)

    start = [p.float() for p in start]
    gradients = [[g.float() for g in each] for each in gradients]
    found = stepped(training.Muon, start, gradients)
    assert torch.equal(found[0], stepped(explicit, start, gradients)[0])


def test_muon_takes_groups_with_rates_of_their_own():
    ps = [torch.ones(2, 2), torch.ones(2, 2)]
    groups = [{"params": [ps[0]], "lr": 0.0}, {"params": [ps[1]], "lr": 0.5}]
    for p in ps:
        p.grad = torch.eye(2)
    training.Muon(groups).step()
    assert torch.equal(ps[0], torch.ones(2, 2))
    assert not torch.equal(ps[1], torch.ones(2, 2))


def test_muon_refuses_bad_input():
    p = torch.zeros(2, 3)
    refuses("lr", training.Muon, [p], lr=-1)
    refuses("decay", training.Muon, [p], decay=-1)
    for momentum in -0.1, 1.0:
        refuses("momentum", training.Muon, [p], momentum=momentum)
    for bad in torch.zeros(3), torch.zeros(1, 2, 3):
        shown = check.shown(bad)
        refuses("matrices", training.Muon, [p, bad], shown=shown)
    training.Muon([p], lr=0, momentum=0, decay=0)


# Recipes


def test_a_recipes_defaults():
    recipe = training.Recipe(10)
    rates = {"rate": 1e-3, "matrix_rate": 0.0, "warmup": 0, "final": 0.1}
    rest = {"betas": (0.9, 0.99), "decay": 0.1, "clip": 1.0}
    model = {"positions": "learned", "normed": False}
    assert recipe == training.Recipe(10, batch=16, **rates, **rest, **model)


def test_a_recipe_refuses_what_cannot_be():
    for name in "steps", "batch":
        for bad in 0, 1.5, True:
            kind = {"steps": 9, name: bad}
            refuses(name, training.Recipe, **kind)
    try:
        training.Recipe(0)
    except ValueError as error:
        assert str(error).endswith("must be a whole number above 0")
    for bad in -1, 9, 0.5:
        refuses("warmup", training.Recipe, 9, warmup=bad)
    for name in "rate", "matrix_rate", "final", "decay", "clip":
        for bad in -1e-9, math.inf, math.nan:
            refuses(name, training.Recipe, 9, **{name: bad})
    training.Recipe(9, rate=0, matrix_rate=0, final=0, decay=0)
    refuses("clip", training.Recipe, 9, clip=0)
    training.Recipe(1, batch=1)
    training.Recipe(9, warmup=8)
    with contextlib.suppress(FrozenInstanceError):
        training.Recipe(9).steps = 3
        raise AssertionError("a recipe can be changed")


def test_the_rate_rises_evenly_and_falls_along_a_cosine():
    recipe = training.Recipe(12, warmup=4, final=0.2)
    shares = [training.rate_share(step, recipe) for step in range(12)]
    close(shares[:4], [0.25, 0.5, 0.75, 1.0])
    close(shares[4], 1.0)
    close(shares[8], 0.6)
    close(shares[10], 0.2 + 0.8 * (1 + math.cos(0.75 * math.pi)) / 2)
    flat = training.Recipe(5, final=1.0)
    assert [training.rate_share(step, flat) for step in range(5)] == [1] * 5


def test_the_two_recipes():
    plain = training.plain_recipe(400, rate=0.01)
    assert plain == training.Recipe(400, rate=0.01, warmup=20)
    assert training.plain_recipe(400) == replace(plain, rate=1e-3)
    modern = training.modern_recipe(7)
    rates = {"rate": 0.02, "matrix_rate": 0.03, "final": 0.0}
    right = training.Recipe(7, **rates, positions="rotary", normed=True)
    assert modern == right


# The model of a recipe


@quick
@given(seed=seeds, T=sizes, K=sizes, scale=st.sampled_from([None, 0.5]))
def test_qk_norm_scales_queries_and_keys(seed, T, K, scale):
    q, k, v = (random(2, T, K, seed=seed + i) for i in range(3))
    mask = attention.causal_mask(T)
    attend = training.qk_norm(attention.simple_attention)
    found = attend(q, k, v, mask=mask, scale=scale)
    q, k = (F.rms_norm(x, (K,), eps=1e-30) for x in (q, k))
    right = attention.simple_attention(q, k, v, mask=mask, scale=scale)
    for a, b in zip(found, right, strict=True):
        close(a, b)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_qk_norm_of_long_halves_does_not_overflow(kind):
    q, k, v = (random(2, 5, 64, seed=i).to(kind) for i in range(3))
    attend = training.qk_norm(attention.simple_attention)
    right, _ = attend(q.double(), k.double(), v.double())
    found, _ = attend(8192 * q, 8192 * k, v)  # a power of two: no rounding
    assert found.dtype == kind
    close(found.double(), right, 16 * torch.finfo(kind).eps)


def test_qk_norm_leaves_zeros():
    zeros = torch.zeros(2, 3)
    seen = []
    training.qk_norm(lambda q, k, v, **_: seen.extend((q, k)))(zeros, zeros, zeros)
    assert torch.equal(seen[0], zeros) and torch.equal(seen[1], zeros)


def test_new_gpt_follows_the_recipe():
    ids = some_ids(4)
    recipe = training.modern_recipe(3)
    model = training.new_gpt(TINY, recipe, generator())
    assert model.config == replace(TINY, positions="rotary")
    attend = training.qk_norm(attention.simple_attention)
    twin = gpt.GPT(model.config, attend=attend)
    twin.load_state_dict(model.state_dict())
    close(model(ids), twin(ids), 1e-5)
    plain = training.new_gpt(TINY, replace(recipe, normed=False), generator())
    twin = gpt.GPT(model.config, generator=generator())
    close(plain(ids), twin(ids), 1e-5)
    learned = training.new_gpt(TINY, training.plain_recipe(3), generator())
    assert learned.config == TINY
    with mock.patch.object(F, "scaled_dot_product_attention") as fast:
        fast.side_effect = lambda q, k, v, **_: v
        learned(ids)
    assert fast.call_count == 2


def test_optimizers_share_the_parameters_out():
    model = gpt.GPT(TINY, generator=generator())
    layers = {id(p) for p in model.blocks.parameters() if p.dim() == 2}
    every = {id(p) for p in model.parameters()}
    matrices = {id(p) for p in model.parameters() if p.dim() == 2}
    for recipe in training.plain_recipe(100), training.modern_recipe(9):
        recipe = replace(recipe, betas=(0.5, 0.6), decay=0.25)
        made = training.optimizers(model, recipe)
        groups = [g for each in made for g in each.param_groups]
        found = [id(p) for group in groups for p in group["params"]]
        assert len(found) == len(set(found)) and set(found) == every
        adam = made[0]
        assert type(adam) is torch.optim.AdamW and adam.defaults["fused"]
        tables, vectors = adam.param_groups
        taken = layers if recipe.matrix_rate else set()
        assert {id(p) for p in tables["params"]} == matrices - taken
        assert tables["weight_decay"] == 0.25 and vectors["weight_decay"] == 0
        for group in tables, vectors:
            assert group["betas"] == (0.5, 0.6) and group["lr"] == recipe.rate
    assert len(training.optimizers(model, training.plain_recipe(9))) == 1
    muon = made[1]
    assert type(muon) is training.Muon
    for group in muon.param_groups:
        assert (group["lr"], group["iterations"], group["decay"]) == (0.03, 3, 0)


# The loop


def printed(function, *arguments, **options):
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        result = function(*arguments, **options)
    return result, stream.getvalue()


def test_progress_rewrites_one_line_and_leaves_one():
    recipe = training.Recipe(1040, batch=3)
    steps = [1, 19, 20, 21, 1040]
    texts = [printed(training.progress, step, recipe, 1.234)[1] for step in steps]
    last = "\r1,040 steps of 3 windows are done.\n"
    assert texts == ["", "", "\rstep 20: 1.23 nats", "", last]
    assert len("step 1,020: 10.00 nats") < len(last)
    with mock.patch("builtins.print") as shown:
        training.progress(20, recipe, 1.234)
    assert shown.call_args.kwargs == {"end": "", "flush": True}  # seen at once


def hand_trained(model, ids, recipe, rng):
    """The loop again, written out with torch's own parts."""
    made, losses = training.optimizers(model, recipe), []
    for step in range(recipe.steps):
        inputs, targets = training.windows(ids, recipe.batch, TINY.context, rng)
        loss = F.cross_entropy(model(inputs).mT, targets)
        for p in model.parameters():
            p.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(list(model.parameters()), recipe.clip)
        share = training.rate_share(step, recipe)
        made[0].param_groups[0]["lr"] = made[0].param_groups[1]["lr"] = (
            recipe.rate * share
        )
        for group in made[1].param_groups if len(made) > 1 else []:
            group["lr"] = recipe.matrix_rate * share
        for each in made:
            each.step()
        losses.append(loss.item())
    return losses


def test_training_is_the_loop_written_out():
    ids = some_ids(200)
    for recipe in training.plain_recipe(25), training.modern_recipe(25):
        recipe = replace(recipe, batch=3, clip=0.3, warmup=2)
        models = [training.new_gpt(TINY, recipe, generator()) for _ in range(2)]
        seen = []

        def watch(step, model, seen=seen):
            seen.append((step, model))

        losses, text = printed(
            training.train,
            models[0],
            ids,
            recipe,
            generator=generator(1),
            watch=watch,
        )
        right = hand_trained(models[1], ids, recipe, generator(1))
        assert losses.shape == (25,) and not losses.requires_grad
        close(losses, torch.tensor(right), 1e-5)
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            close(p, q, 1e-4)
        assert seen == [(step, models[0]) for step in range(1, 26)]
        line = f"\rstep 20: {losses[19]:.2f} nats"
        assert text == f"{line}\r25 steps of 3 windows are done.\n"


def test_training_with_other_optimizers():
    ids, recipe = some_ids(200), training.Recipe(4, batch=2, final=1.0, clip=1e3)
    models = [training.new_gpt(TINY, recipe, generator()) for _ in range(2)]
    made = [torch.optim.SGD(models[0].parameters(), 0.5)]
    printed(training.train, models[0], ids, recipe, generator=generator(1), made=made)
    rng = generator(1)
    for _ in range(4):
        inputs, targets = training.windows(ids, 2, 4, rng)
        loss = F.cross_entropy(models[1](inputs).mT, targets)
        grads = torch.autograd.grad(loss, list(models[1].parameters()))
        with torch.no_grad():
            for p, grad in zip(models[1].parameters(), grads, strict=True):
                p -= 0.5 * grad
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        close(p, q, 1e-5)


# Other devices and float types


KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def exported(device, kind):
    """{what: (a call, what type it gives)} on a device, from a float type."""
    made, ids = {"device": device, "dtype": kind}, some_ids().to(device)
    x, start = torch.ones(2, 5, 8, **made), training.Recipe(2, batch=3)
    attend = training.qk_norm(attention.simple_attention)
    model = training.new_gpt(TINY, start, None).to(**made)

    def stepped(optimizer):
        p = torch.ones(3, 4, **made)
        p.grad = torch.ones_like(p)
        optimizer([p]).step()
        return p

    def clipped():
        p = torch.ones(3, 4, **made)
        p.grad = torch.ones_like(p)
        return training.clip_gradient([p], 1.0)

    whole, matrix = torch.int64, torch.ones(3, 4, **made)
    return {
        "ngram_ids": (lambda: training.ngram_ids(ids, 3, 7), whole),
        "run_counts": (lambda: training.run_counts(ids, ids, 3, 7)[1], whole),
        "windows": (lambda: training.windows(ids, 2, 4, generator())[1], whole),
        "AdamW": (lambda: stepped(training.AdamW), kind),
        "Muon": (lambda: stepped(training.Muon), kind),
        "clip_gradient": (clipped, kind),
        "orthogonalize": (lambda: training.orthogonalize(matrix, 3, kind), kind),
        "qk_norm": (lambda: attend(x, x, x)[0], kind),
        "new_gpt": (lambda: model(ids[:4]), kind),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    here = exported("cpu", kind)
    for name, (call, right) in exported("meta", kind).items():
        result, known = call(), here[name][0]()
        assert result.is_meta and result.dtype == known.dtype == right, name
        assert result.shape == known.shape and known.isfinite().all(), name


def test_training_runs_in_every_float_type():
    ids, recipe = some_ids(), replace(training.modern_recipe(2), batch=2)
    for kind in KINDS:
        model = training.new_gpt(TINY, recipe, generator()).to(kind)
        losses, _ = printed(training.train, model, ids, recipe, generator=generator())
        assert losses.isfinite().all()
        assert math.isfinite(training.held_out_loss(model, ids, 3))


# What was stored


@functools.cache
def make():
    """The script that made the stored run."""
    return module_at(MAKE)


def stored(name):
    return data.asset("king-james-gpt", name)


def record(name):
    return json.loads(stored(name).read_text(encoding="utf-8"))


def stale():
    """The records that other code has made than the notebook holds."""
    now = make().digest()
    return [n for n in ("run.json", "rates.json") if record(n)["digest"] != now]


def test_stored_runs_are_of_the_code_as_it_is():
    """If this fails: run book/_tools/assets.py king-james-gpt, some minutes."""
    assert stale() == []


def test_stored_runs_of_other_code_are_found():
    """A change of what trains makes both stale; a comment makes none so."""
    source = NOTEBOOK.read_text(encoding="utf-8")
    both = ["run.json", "rates.json"]
    for old, new, found in (
        ("1 - momentum", "2 - momentum", both),
        ("0.03, ", "0.04, ", both),
        ("steps // 20", "steps // 10", both),
        ("context + 1)]", "context + 2)]", both),
        ("# Nesterov", "# The", []),
        ("king-james-gpt", "somewhere-else", []),
    ):
        assert old in source, old
        changed = mock.Mock()
        changed.read_text.return_value = source.replace(old, new)
        with mock.patch.object(make(), "NOTEBOOK", changed):
            assert stale() == found, old


def test_stored_run_begins_as_a_new_one_would():
    """What other notebooks give to it, such as the GPT, is still the same."""
    _, ids, _ = make().texts()
    recipe, rng = make().RECIPE, generator()
    model = training.new_gpt(training.trained_sizes(), recipe, rng)

    class Enough(Exception):
        pass

    losses = []
    real = F.cross_entropy

    def watched(*arguments, **options):
        loss = real(*arguments, **options)
        losses.append(loss.item())
        if len(losses) == 3:
            raise Enough
        return loss

    with mock.patch.object(F, "cross_entropy", watched), contextlib.suppress(Enough):
        training.train(model, ids, recipe, generator=rng)
    close(losses, record("run.json")["first"], 1e-4)


def test_stored_rates_begin_as_new_runs_would():
    """Ten steps of each recipe, at a rate that does not amplify the last digits."""
    _, ids, _ = make().texts()
    at = make().RATES.index(0.01)
    for name, runs in record("rates.json")["runs"].items():
        found, _ = printed(make().short_run, name, 0.01, ids)
        close(found[:2], runs[at][:2], 0.01)


def test_trained_gpt_has_the_recorded_loss():
    with mock.patch.object(training, "new_gpt", wraps=training.new_gpt) as new:
        training.trained_gpt.__wrapped__()
    recipe = training.modern_recipe(make().STEPS[-1])
    assert new.call_args.args[:2] == (training.trained_sizes(), recipe)
    model = training.trained_gpt()
    assert model is training.trained_gpt()
    assert training.trained_sizes() == gpt.GPTConfig(
        65, 128, width=128, heads=4, layers=4, bias=False
    )
    assert model.config == replace(training.trained_sizes(), positions="rotary")
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    text = data.king_james()
    alphabet = next_word.characters(text)
    assert len(alphabet) == 65
    held_out = next_word.to_ids(next_word.split_text(text)[1], alphabet)
    found = training.held_out_loss(model, held_out)
    assert abs(found - record("run.json")["held_out"][-1]) < 0.002
    first, *_ = parts = record("run.json")["parts"]
    assert abs(next(make().part_losses(held_out)) - first) < 0.001
    assert len(parts) == 32 and min(parts) > 0.8 and max(parts) < 1.8


def test_records_fit_together():
    run = record("run.json")
    assert run["steps"] == make().STEPS
    assert len(run["held_out"]) == len(run["samples"]) == len(run["steps"])
    maps = training.load_file(stored("run.safetensors"))["attention"]
    T = len(run["sentence"])
    assert maps.shape == (len(run["steps"]), 4, 4, T, T)
    assert (maps.int().sum(-1) - 255).abs().max() <= T / 2
    rates = record("rates.json")
    assert rates["rates"] == make().RATES
    assert list(rates["runs"]) == make().NAMES
    assert all(len(run) == 10 for run in rates["runs"].values())
    assert rates["tuned_rates"] == make().TUNED_RATES
    assert list(rates["tuned"]) == [name for name, _ in make().recipes_at(0.01)]
    assert all(len(losses) == 6 for losses in rates["tuned"].values())
    first = {name: losses[0] for name, losses in rates["seeds"].items()}
    assert list(first) == list(make().LIVE_RUNS)
    assert all(len(losses) == 7 for losses in rates["seeds"].values())
    best = rates["tuned"]["AdamW"][1], rates["tuned"]["AdamW, rotary"][2]
    assert (first["tuned"], first["tuned, rotary"]) == best
    assert first["modern"] == rates["tuned"]["Muon, rotary, normed"][3]


# The exercises


@functools.cache
def exercises():
    return run_exercises("transformers/training", training)


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def gradients(total, clear=True):
    """An answer to `accumulate` that weighs each piece by `total`."""

    def accumulate(model, pieces):
        if clear:
            model.zero_grad()
        for inputs, targets in pieces:
            loss = F.cross_entropy(model(inputs).mT, targets)
            (loss * total(inputs, pieces)).backward()

    return accumulate


def test_checks_accept_what_is_as_good():
    book = exercises()
    book.check_accumulate(
        gradients(lambda inputs, pieces: len(inputs) / sum(len(x) for x, _ in pieces))
    )
    book.check_nearest_orthogonal(
        lambda m: (
            torch.linalg.pinv(torch.linalg.pinv(m)) @ torch.eye(m.size(1))
            if min(m.shape) < 1
            else book.nearest_orthogonal(m)
        )
    )


def all_at_once(model, pieces):
    """The right gradient, with the batch that does not fit."""
    model.zero_grad()
    inputs, targets = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    F.cross_entropy(model(inputs).mT, targets).backward()


def one_turned_round(matrix):
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    left[:, -1] *= -1
    return left @ right


def forgetful(loss, rate):
    """Finds the rate, and trains anew each time that it asks."""
    while math.isnan(loss(rate)):
        rate /= 2
    while loss(2 * rate) < loss(rate):
        rate *= 2
    while loss(rate / 2) < loss(rate):
        rate /= 2
    return rate


def upward(loss, rate):
    """Only looks at larger rates."""
    best = loss(rate)
    while (after := loss(2 * rate)) < best:
        best, rate = after, 2 * rate
    return rate


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()
    fails(
        book.check_find_rate,
        lambda loss, rate: rate,
        forgetful,
        upward,
    )
    fails(
        book.check_plateau_share,
        lambda step, steps, warmup, fall: 1.0,
        lambda step, steps, warmup, fall: min((step + 1) / warmup, 1),
        lambda step, steps, warmup, fall: min(1, (steps - step) / fall),
        lambda step, steps, warmup, fall: min(step / warmup, 1, (steps - step) / fall),
        lambda step, steps, warmup, fall: min(
            (step + 1) / warmup, 1, (steps - step - 1) / fall
        ),
    )
    share = lambda inputs, pieces: len(inputs) / 6  # noqa: E731
    fails(
        book.check_accumulate,
        gradients(lambda inputs, pieces: 1),
        gradients(lambda inputs, pieces: 1 / len(pieces)),
        gradients(share, clear=False),
        all_at_once,
    )
    fails(
        book.check_nearest_orthogonal,
        lambda m: m,
        lambda m: torch.eye(*m.shape, dtype=m.dtype),
        lambda m: -book.nearest_orthogonal(m),
        lambda m: m / m.norm(),
        lambda m: book.nearest_orthogonal(m.mT),
        lambda m: torch.linalg.svd(m, full_matrices=False)[0],
        one_turned_round,
        lambda m: training.orthogonalize(m, dtype=torch.double),
    )
