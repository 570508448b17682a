"""The cells of transformers/training against torch, loops in Python and arithmetic."""

import contextlib
import functools
import io
import itertools
import json
import math
import signal
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from unittest import mock

import cells
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import close, fails, generator, module_at, random, refuses_all
from hypothesis import given, settings
from torch import nn
from torch.optim import _muon
from torch.utils.flop_counter import FlopCounterMode

from fieldguide import data
from fieldguide.transformers import attention, gpt, training

MAKE = Path(data.asset("king-james-gpt", "run.json")).with_name("make.py")
TINY = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=False)

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)
rates, decays = st.sampled_from([0.0, 0.02, 0.5]), st.sampled_from([0.0, 0.1])


def some_ids(length=60, V=7, seed=0):
    return torch.randint(V, (length,), generator=generator(seed))


def some_gpt():
    return gpt.GPT(TINY, generator=generator())


@functools.cache
def exercises():
    return cells.run_exercises("transformers/training", training)


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


@quick
@given(seed=seeds, batch=sizes, context=sizes)
def test_windows_are_pieces_of_the_text(seed, batch, context):
    ids = torch.arange(9)
    inputs, targets = training.windows(ids, batch, context, generator(seed))
    assert inputs.shape == targets.shape == (batch, context)
    assert torch.equal(inputs + 1, targets)
    assert torch.equal(inputs.diff(dim=1), torch.ones(batch, context - 1))
    inputs, _ = training.windows(ids[:6], 200, 3, generator(seed))
    assert inputs[:, 0].unique().tolist() == [0, 1, 2], "they begin everywhere"


def test_held_out_loss_is_the_mean_over_even_windows():
    model, seen = some_gpt(), []
    model.register_forward_pre_hook(
        lambda _, inputs: seen.append((*inputs, torch.is_grad_enabled()))
    )
    many = [int(i * (399_998 / 1999)) for i in range(1999)]  # exact in 64 bits only
    for length, pieces, starts in (
        (30, [3], [0, 12, 25]),
        (5, [], [0] * 128),
        (400_003, [2000], [*many, 399_998]),
    ):
        ids = some_ids(length)
        found = training.held_out_loss(model, ids, *pieces)
        places = torch.tensor(starts)[:, None] + torch.arange(4)
        assert torch.equal(seen[-1][0], ids[places]) and not seen[-1][1]
        right = F.cross_entropy(model(ids[places]).mT, ids[places + 1]).item()
        assert isinstance(found, float) and math.isclose(found, right, rel_tol=1e-6)


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


@quick
@given(seeds, st.sampled_from([0.1, 1, 100.0, math.inf]))
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


@quick
@given(seeds, st.tuples(sizes, sizes), st.integers(0, 5))
def test_orthogonalize_is_torchs(seed, shape, iterations):
    matrix = random(*shape, seed=seed)
    kept, numbers = matrix.clone(), (3.4445, -4.7750, 2.0315)
    with wide:
        right = _muon._zeropower_via_newtonschulz(matrix, numbers, iterations, 1e-7)
    close(training.orthogonalize(matrix, iterations, torch.double), right, 1e-9)
    assert torch.equal(matrix, kept)


def test_orthogonalize_counts_five_rounds_in_32_bits():
    matrix = random(4, 3)
    found = training.orthogonalize(matrix)
    assert found.dtype == torch.float32
    close(found, training.orthogonalize(matrix, 5, torch.float32), 0)
    close(training.orthogonalize(torch.zeros(2, 3)), torch.zeros(2, 3), 0)
    close(training.orthogonalize(1e-7 * torch.eye(1), 0), torch.ones(1, 1), 1e-5)
    with FlopCounterMode(display=False) as counter:  # a tall one is turned
        training.orthogonalize(torch.ones(50, 2), 1)
    assert counter.get_total_flops() == 2 * (200 + 8 + 200)


@quick
@given(seeds, rates, st.sampled_from([0.0, 0.6, 0.95]), decays, st.integers(1, 5))
def test_muon_is_torchs(seed, lr, momentum, decay, iterations):
    given = problem([(3, 3), (2, 4), (5, 2), (3, 3)], seed, dtype=torch.float32)
    kind = {"lr": lr, "momentum": momentum}
    rest = {"decay": decay, "iterations": iterations}
    ours = stepped(lambda ps: training.Muon(iter(ps), **rest, **kind), *given)
    rest = {"weight_decay": decay, "ns_steps": iterations}
    with wide:
        theirs = stepped(functools.partial(torch.optim.Muon, **rest, **kind), *given)
    close(ours, theirs, 2e-4)


def test_muon_has_its_defaults_and_rates_of_groups():
    kind = {"lr": 0.02, "momentum": 0.95, "decay": 0.0, "iterations": 5}
    start = nn.Parameter(torch.eye(2))
    two = [{"params": [start]}, {"params": [nn.Parameter(torch.eye(2))], "lr": 0.0}]
    muon = training.Muon(two)
    assert muon.defaults == kind
    for group in muon.param_groups:
        group["params"][0].grad = torch.eye(2)
    muon.step()
    moved = [not torch.equal(g["params"][0], torch.eye(2)) for g in muon.param_groups]
    assert moved == [True, False]


def test_recipes_and_their_defaults():
    recipe = training.Recipe(10)
    rates = {"rate": 1e-3, "matrix_rate": 0.0, "warmup": 0, "final": 0.1}
    rest = {"betas": (0.9, 0.99), "decay": 0.1, "clip": 1.0}
    model = {"positions": "learned", "normed": False}
    assert recipe == training.Recipe(10, batch=16, **rates, **rest, **model)
    training.Recipe(1, batch=1, rate=2, clip=math.inf, decay=2)
    plain = training.plain_recipe(400, rate=0.01)
    assert plain == training.Recipe(400, rate=0.01, warmup=20)
    assert training.plain_recipe(400) == replace(plain, rate=1e-3)
    rates, model = {"rate": 0.02, "matrix_rate": 0.03, "final": 0.0}, training.Recipe(7)
    model = replace(model, positions="rotary", normed=True)
    assert training.modern_recipe(7) == replace(model, **rates)
    with pytest.raises(FrozenInstanceError):
        recipe.steps = 3


def test_the_rate_rises_evenly_and_falls_along_a_cosine():
    recipe, flat = training.Recipe(12, warmup=4, final=0.2), training.Recipe(5, final=1)
    shares = [training.rate_share(step, recipe) for step in range(12)]
    close(shares[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    close(shares[8], 0.6)
    close(shares[10], 0.2 + 0.8 * (1 + math.cos(0.75 * math.pi)) / 2)
    assert [training.rate_share(step, flat) for step in range(5)] == [1] * 5


@quick
@given(seed=seeds, T=sizes, K=sizes, scale=st.sampled_from([None, 0.5]))
def test_qk_norm_scales_queries_and_keys(seed, T, K, scale):
    q, k, v = (random(2, T, K, seed=seed + i) for i in range(3))
    mask = attention.causal_mask(T)
    attend = training.qk_norm(attention.simple_attention)
    found = attend(q, k, v, mask=mask, scale=scale)
    q, k = (F.rms_norm(x, (K,), eps=1e-30) for x in (q, k))
    close(found, attention.simple_attention(q, k, v, mask=mask, scale=scale))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_qk_norm_of_long_halves_and_of_zeros(kind):
    q, k, v = (random(2, 5, 64, seed=i).to(kind) for i in range(3))
    attend = training.qk_norm(attention.simple_attention)
    right, _ = attend(q.double(), k.double(), v.double())
    found, _ = attend(8192 * q, 8192 * k, v)  # a power of two: no rounding
    assert found.dtype == kind
    close(found.double(), right, 16 * torch.finfo(kind).eps)
    attend = training.qk_norm(lambda q, k, v, **_: (q, k))
    close(attend(0 * q, 0 * k, v), (0 * q, 0 * k), 0)


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
    with mock.patch("builtins.print") as shown:
        training.progress(20, recipe, 1.234)
    assert shown.call_args.kwargs["flush"], "a line without an end waits otherwise"


@pytest.mark.parametrize("given", [True, False])
def test_training_is_a_descent_on_windows(given):
    """`descend` is tested below: here, what it is told."""
    recipe = replace(training.modern_recipe(25), batch=3)
    model, ids = training.new_gpt(TINY, recipe, generator()), some_ids(200)
    made, seen = training.optimizers(model, training.plain_recipe(2)), []
    options = {"made": made} if given else {}
    options |= {"generator": generator(1), "watch": lambda *told: seen.append(told)}
    first = training.windows(ids, 3, TINY.context, generator(1))
    right = F.cross_entropy(model(first[0]).mT, first[1]).item()
    with mock.patch.object(training, "descend", wraps=training.descend) as descend:
        losses, text = printed(training.train, model, ids, recipe, **options)
    close(losses[0].item(), right, 1e-5)
    told, _, used, plan = descend.call_args.args
    assert told is model and plan == recipe and (used == made) == given
    assert len(used) == (1 if given else 2)
    assert losses.shape == (25,)
    assert seen == [(step, model) for step in range(1, 26)]
    line = f"\rstep 20: {losses[19]:.2f} nats"
    assert text == f"{line}\r25 steps of 3 windows are done.\n"


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
        w -= 0.3 * training.rate_share(step, recipe) * min(w, clip)
    close(model.weight.item(), w, 1e-5)
    close(losses, torch.tensor(right), 1e-5)
    assert losses.dtype == torch.float32 and not losses.requires_grad
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    close([now.item() for _, now in seen], right, 1e-5)


def calls(device, kind):
    """{what: (a call, what type it gives)} on a device, from a float type."""
    made, ids = {"device": device, "dtype": kind}, some_ids().to(device)
    x, matrix = torch.ones(2, 5, 8, **made), torch.ones(3, 4, **made)
    attend = training.qk_norm(attention.simple_attention)
    model = training.new_gpt(TINY, training.Recipe(2), None).to(**made)
    matrix.grad = torch.ones_like(matrix)
    muon = training.Muon([matrix])
    return {
        "windows": (lambda: training.windows(ids, 2, 4, generator())[1], torch.int64),
        "Muon": (lambda: (muon.step(), matrix)[1], kind),
        "clip": (lambda: training.clip_gradient([matrix], 1.0), kind),
        "orthogonalize": (lambda: training.orthogonalize(matrix, 3, kind), kind),
        "qk_norm": (lambda: attend(x, x, x)[0], kind),
        "new_gpt": (lambda: model(ids[:4]), kind),
    }


@pytest.mark.parametrize("kind", cells.KINDS)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    cells.stays(calls, kind)


BELOW = [-1e-9, math.inf, math.nan]  # no rate and no decay
IDS, LINE = some_ids(9), nn.Linear(1, 1, bias=False)
MATRIX = torch.ones(2, 3)
MATRIX.grad = torch.ones(2, 3)
MADE = [torch.optim.SGD(LINE.parameters(), 0.1)]
RATES, RNG = {"lr": 0.1, "decay": 0.0}, {"generator": generator()}
SIZES, NO_BETAS = {"steps": 20, "rate": 0.1}, [(0.9,), (1, 0.9), (0.9, 1), (-0.1, 0.9)]


def refusals():
    """{name: (arguments that work, bad values for some of them)}."""
    model, recipe = {"model": some_gpt()}, {"recipe": training.Recipe(2)}
    return {
        "windows": (
            {"ids": IDS, "batch": 2, "context": 3, **RNG},
            {"ids": [IDS[:3], IDS[:0]], "context": [9]},
        ),
        "counter_losses": ({"ids": IDS, "held_out": IDS, "V": 7}, {}),
        "held_out_loss": (
            model | {"ids": IDS, "pieces": 2},
            {"ids": [IDS[:4], IDS[:0]], "model": [LINE]},
        ),
        "Recipe": (
            {"steps": 9, "batch": 2, "rate": 0, "matrix_rate": 0, "warmup": 8,
             "final": 0, "betas": (0.5, 0.5), "decay": 0, "clip": math.inf,
             "positions": "rotary", "normed": True},
            {"warmup": [9], "final": [1.1], "betas": NO_BETAS, "normed": [1],
             "clip": [0, -1.0, math.nan]},
        ),
        "rate_share": ({"step": 0, **recipe}, {}),
        "plain_recipe": (SIZES, {}),
        "modern_recipe": ({"steps": 20}, {}),
        "progress": ({"step": 1, "loss": 1.5, **recipe}, {"loss": [IDS]}),
        "clip_gradient": (
            {"parameters": [MATRIX], "longest": 1},
            {"parameters": [[torch.ones(2)], [], [1]], "longest": [-1.0]},
        ),
        "optimizers": (model | recipe, {"model": [LINE]}),
        "new_gpt": ({"config": TINY, **recipe, **RNG}, {}),
        "descend": (
            {"model": LINE, "loss": lambda: LINE.weight.sum(), "made": MADE,
             "clip": training.clip_gradient, "watch": print, **recipe},
            {"made": [[None], [*MADE, 1]]},
        ),
        "train": (
            model | {"ids": IDS, "made": MADE, "watch": print, **recipe, **RNG},
            {"ids": [IDS[:4]], "made": [[None], [*MADE, 1]], "model": [LINE]},
        ),
        "orthogonalize": (
            {"matrix": MATRIX, "iterations": 1, "dtype": torch.float64},
            {"matrix": [MATRIX[:0]], "dtype": [torch.int64, torch.complex64]},
        ),
        "Muon": (
            {"matrices": [MATRIX], "momentum": 0, "iterations": 1, **RATES},
            {"lr": BELOW, "decay": BELOW, "momentum": [-0.1, 1], "matrices": [["x"]]},
        ),
        "qk_norm": ({"attend": attention.simple_attention}, {}),
    }  # fmt: skip


@pytest.mark.parametrize("name", refusals())
def test_bad_input_is_refused_by_name(name):
    good, bad = refusals()[name]
    printed(refuses_all, getattr(training, name), good, **bad)


@functools.cache
def make():
    """The script that made the stored run."""
    return module_at(MAKE)


def record(name):
    return json.loads(MAKE.with_name(name).read_text(encoding="utf-8"))


def test_stored_run_begins_as_a_new_one_would():
    """What other notebooks give to it, such as the GPT, is still the same."""
    rng, losses = generator(), []
    recipe = training.Recipe(**vars(make().RECIPE))
    model = training.new_gpt(training.trained_sizes(), recipe, rng)

    def look(step, recipe, loss):
        losses.append(loss.item())
        if step == 3:
            raise InterruptedError

    halted, ids = contextlib.suppress(InterruptedError), make().texts()[1]
    with mock.patch.object(training, "progress", look), halted:
        training.train(model, ids, recipe, generator=rng)
    close(losses, record("run.json")["first"], 1e-4)


def test_trained_gpt_has_the_recorded_loss():
    training.trained_gpt.cache_clear()  # or a change of it would not be seen
    with mock.patch.object(training, "new_gpt", wraps=training.new_gpt) as new:
        model = training.trained_gpt()
    recipe = training.modern_recipe(make().STEPS[-1])
    assert new.call_args.args[:2] == (training.trained_sizes(), recipe)
    assert model is training.trained_gpt()
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    *_, held_out = make().texts()
    found = training.held_out_loss(model, held_out)
    assert abs(found - record("run.json")["held_out"][-1]) < 0.002
    first, *_ = parts = record("run.json")["parts"]
    assert abs(next(make().part_losses(held_out)) - first) < 0.001
    assert len(parts) == 32


def accumulating(weight, clear=1):
    """An answer to `accumulate` with a `weight` for each piece."""

    def accumulate(model, pieces):
        for place, (inputs, targets) in enumerate(pieces):
            if place < clear:
                model.zero_grad()
            loss = F.cross_entropy(model(inputs).mT, targets)
            (loss * weight(inputs, pieces)).backward()

    return accumulate


def half(s, n, w):
    return (1 + math.cos(math.pi * (s - w) / (n - w))) / 2


def cosine(up=lambda s, w: (s + 1) / w, fall=half):
    return lambda s, n, w: up(s, w) if s < w else fall(s, n, w)


def turned(x):
    return (1 + math.cos(x)) / 2


def part(inputs, pieces):
    return len(inputs) / 6


def uneven(_, pieces):
    return 0.4 if len(pieces) > 1 else 1


def wrong_answers(book):
    """{exercise: {what its check says: the answer that it says it of}}."""

    def stepping(*bugs, by=1):
        return lambda *given: by * book.step_with(bugs, *given)

    def twice(*given):
        return stepping(0, 0, 0)(*given) + stepping(0, 0, 0)(*given)

    def doubled(model, pieces):
        book.accumulate(model, pieces)
        for p in model.parameters():
            p.grad += p.detach()

    def whole(model, pieces):
        inputs, targets = (torch.cat(side) for side in zip(*pieces, strict=True))
        book.accumulate(model, [(inputs, targets)])

    return {
        "cosine_fraction": {
            "a number is wanted, not True": lambda *_: True,
            "fails. ZeroDivisionError": lambda *_: 1 / 0,
            "you start at 0": cosine(up=lambda s, w: s / w),
            "without a warm-up": half,
            "starts at step 0": cosine(fall=lambda s, n, w: half(s, n, 0)),
            "ends a step early": cosine(fall=lambda s, n, w: half(s, n - 1, w)),
            "forgot to halve": cosine(fall=lambda *given: 2 * half(*given)),
            "not by all of them": cosine(fall=lambda s, n, w: half(s - w, n, 0)),
            "add 1 and halve": cosine(fall=lambda *given: 2 * half(*given) - 1),
            "a quarter of a turn": cosine(fall=lambda *given: half(*given) ** 0.5),
            "half a turn is pi": cosine(fall=lambda s, n, w: turned((s - w) / (n - w))),
            "is right, not 0.1230": lambda *_: 0.123,
        },
        "reviewed": {
            "the targets.*old gradients.*clipped after": book.sent_to_you,
            "still wrong: the targets are not moved by one$": stepping(1, 0, 0),
            "still wrong: old gradients.*clipped after": stepping(0, 1, 1),
            "gradients are still there; the.*not at all": stepping(0, 1, 2),
            "still wrong: the gradient is clipped after": stepping(0, 0, 1),
            "wrong: the gradient.*not at all": stepping(0, 0, 2),
            "still wrong: old gradients are still there$": stepping(0, 1, 0),
            "more than the three bugs": twice,
            "no parameter has moved": lambda *_: 0.0,
            "the returned loss isn't": stepping(0, 0, 0, by=2),
        },
        "accumulate": {
            "one piece at a time": whole,
            "a gradient is missing": lambda model, _: model.zero_grad(),
            "averaged the pieces": accumulating(lambda _, p: 1 / len(p)),
            "added the pieces' means": accumulating(lambda *_: 1),
            "of the sum, not of the mean": accumulating(lambda x, _: 6 * len(x)),
            "an old gradient is still there": accumulating(part, clear=0),
            "only the last piece counts; erase": accumulating(part, clear=9),
            "only the last piece.*weigh": accumulating(lambda *_: 1, clear=9),
            "number of all characters, but": accumulating(lambda *_: 1 / 36),
            "number of all windows, but": accumulating(lambda *_: 1 / 6),
            "weigh by windows": accumulating(lambda x, _: len(x)),
            "the weights 0.300, but 1.000": accumulating(lambda *_: 0.3),
            "0.400, 0.400, but 0.167, 0.833": accumulating(uneven),
            "no sum of the pieces'": doubled,
        },
    }


@pytest.mark.parametrize("name", ["cosine_fraction", "reviewed", "accumulate"])
def test_checks_name_the_cause_of_a_wrong_answer(name):
    book = exercises()
    check = book[f"check_{name}"]
    check(book[name])
    fails(check)
    for cause, answer in wrong_answers(book)[name].items():
        with pytest.raises(AssertionError, match=cause):
            check(answer)


def test_a_check_does_not_wait_for_ever():
    def soon(which, seconds, *again, given=signal.setitimer):
        return given(which, seconds / 20, *again)

    ended = pytest.raises(AssertionError, match="Does your loop end")
    with mock.patch.object(signal, "setitimer", soon), ended:
        endless = lambda *_: any(0 for _ in itertools.count())  # noqa: E731
        exercises().check_cosine_fraction(endless)
