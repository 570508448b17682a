"""The cells of efficiency/architectures against torch, loops in Python and counts.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import copy
import functools
import json
import math
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import (
    close,
    fails,
    module_at,
    random,
    refuses,
    run_exercises,
    solutions_pass,
)
from hypothesis import given, settings
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from fieldguide.efficiency import architectures
from fieldguide.memory import SavedBytes
from fieldguide.transformers import attention, gpt

ROOT = Path(__file__).parents[2]
MAKE = ROOT / "book" / "_assets" / "architectures" / "make.py"
TINY = gpt.GPTConfig(7, 4, width=8, heads=2, layers=4, bias=False)

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)


def some_mask(kind, T, S, seed=0):
    """None, causal, drawn (with a row that may look nowhere), or one for all rows."""
    drawn = random(T, S, seed=seed + 3) > 0
    drawn[seed % T] = False
    masks = {"causal": torch.ones(T, S, dtype=torch.bool).tril(), "drawn": drawn}
    return (masks | {"row": drawn[-1] | drawn[0], "none": None})[kind]


kinds = st.sampled_from(["none", "causal", "drawn", "row"])


# Counting bytes


def test_traffic_adds_up_bytes_and_changes_nothing():
    moved = architectures.Traffic()
    assert moved.moved_bytes == 0
    x = torch.zeros(3, 4, dtype=torch.half)
    assert moved(x) is x and moved.moved_bytes == 24
    moved(torch.zeros(5, dtype=torch.double))
    assert moved.moved_bytes == 24 + 40


def test_the_formulas_count_what_crosses():
    T, S, K, V = 3, 5, 2, 7
    steps = (T * K + S * K + T * S) + 2 * T * S + (T * S + S * V + T * V)
    assert architectures.plain_bytes(T, S, K, V) == 4 * steps
    assert architectures.plain_bytes(T, S, K, V, 2) == 2 * steps
    bands = T * (K + V) + 2 * S * (K + V)
    assert architectures.tiled_bytes(T, S, K, V, 2) == 4 * bands
    assert architectures.tiled_bytes(T, S, K, V, 2, 8) == 8 * bands
    # queries, sums, tops and blend of a band; a tile's keys, values and scores
    held = 2 * K + 2 + 2 + 2 * V + 3 * K + 3 * V + 2 * 3
    assert architectures.tile_bytes(K, V, 2, 3) == 4 * held
    assert architectures.tile_bytes(K, V, 2, 3, 1) == held


def test_the_formulas_refuse_sizes_that_are_not_above_0():
    one = dict.fromkeys(["T", "S", "K", "V", "rows", "columns"], 1)
    for function, names in (
        (architectures.plain_bytes, ["T", "S", "K", "V"]),
        (architectures.tiled_bytes, ["T", "S", "K", "V", "rows"]),
        (architectures.tile_bytes, ["K", "V", "rows", "columns"]),
    ):
        good = {name: one[name] for name in names} | {"bytes_per_number": 1}
        assert function(**good) > 0
        for name in good:
            for bad in 0, -1:
                refuses(name, function, **good | {name: bad})


# The online softmax


@quick
@given(seed=seeds, sizes=st.lists(sizes, min_size=1, max_size=4), kind=kinds)
def test_merged_answers_are_softmax(seed, sizes, kind):
    q, S = random(3, 2, seed=seed), sum(sizes)
    k, v = random(S, 2, seed=seed + 1), random(S, 4, seed=seed + 2)
    mask = some_mask(kind, 3, S, seed)
    seen = [None] * len(sizes)
    if mask is not None:
        seen = mask.expand(3, S).split(sizes, 1)
    parts = zip(k.split(sizes), v.split(sizes), seen, strict=True)
    answers = [architectures.look(q, *part) for part in parts]
    state = answers[0]
    for answer in answers[1:]:
        assert [x.shape for x in answer] == [(3, 1), (3, 1), (3, 4)]
        state = architectures.merge_tiles(answer, state)
    right, _ = attention.simple_attention(q, k, v, mask=mask, scale=1)
    close(architectures.settle(*state), right, 1e-10)
    scores = q @ k.mT
    if mask is None:
        close(state[0], scores.amax(-1, keepdim=True))
        close(state[0] + state[1].log(), scores.logsumexp(-1, keepdim=True), 1e-10)


def test_a_look_is_relative_to_the_largest_score():
    q = torch.tensor([[1.0]], requires_grad=True)
    k, v = torch.tensor([[3.0], [1.0]]), torch.tensor([[2.0], [5.0]])
    top, total, blend = architectures.look(q, k, v)
    assert top.item() == 3 and not top.requires_grad
    small = math.exp(-2)
    close(total.item(), 1 + small, 1e-6)
    close(blend.item(), 2 + 5 * small, 1e-6)


def test_large_scores_do_not_overflow():
    for dtype, large in (torch.float, 1e6), (torch.half, 60_000.0):
        q, v = torch.ones(1, 1, dtype=dtype), torch.tensor([[1.0], [3.0]], dtype=dtype)
        k = torch.tensor([[large], [-large]], dtype=dtype)
        a, b = (architectures.look(q, k[i : i + 1], v[i : i + 1]) for i in (0, 1))
        for state in architectures.merge_tiles(a, b), architectures.merge_tiles(b, a):
            assert architectures.settle(*state).item() == 1


def test_a_row_that_sees_nothing_says_nothing():
    for dtype in torch.half, torch.float, torch.double:
        x = torch.ones(2, 3, dtype=dtype)
        nothing = architectures.look(x, x, x, torch.zeros(2, 2, dtype=torch.bool))
        assert nothing[0].eq(torch.finfo(dtype).min).all()
        assert nothing[1].eq(0).all() and nothing[2].eq(0).all()
        assert architectures.settle(*nothing).eq(0).all()
        something = architectures.look(x, -x, x)
        for state in (nothing, something), (something, nothing):
            merged = architectures.merge_tiles(*state)
            for a, b in zip(merged, something, strict=True):
                assert torch.equal(a, b)


# Tiles


def test_tiles_cover_the_table_once():
    for T, S, rows, columns in (5, 7, 2, 3), (4, 4, 4, 4), (3, 2, 9, 9), (1, 1, 1, 1):
        table = torch.zeros(T, S)
        cut = architectures.tiles(T, S, rows, columns)
        assert len(cut) == math.ceil(T / rows)
        for i, band in cut:
            assert len(band) == math.ceil(S / columns)
            for j, seen in band:
                assert seen is None and table[i, j].numel() <= rows * columns
                table[i, j] += 1
        assert table.eq(1).all()


def test_tiles_that_nobody_sees_are_left_out():
    mask = attention.causal_mask(6)
    mask[4:, :2] = False
    cut = architectures.tiles(6, 6, 2, 2, mask.expand(3, 6, 6))
    kept = [(i.start, j.start) for i, band in cut for j, _ in band]
    assert kept == [(0, 0), (2, 0), (2, 2), (4, 2), (4, 4)]
    for i, band in cut:
        for j, seen in band:
            assert torch.equal(seen, mask[i, j].expand(3, 2, 2))


@quick
@given(
    seed=seeds,
    T=sizes,
    S=sizes,
    rows=sizes,
    columns=sizes,
    kind=kinds,
    scale=st.sampled_from([None, 0.3, -2.0]),
)
def test_tiled_attention_is_attention(seed, T, S, rows, columns, kind, scale):
    q, k, v = random(T, 3, seed=seed), random(2, S, 3, seed=seed), random(S, 4)
    options = {"mask": some_mask(kind, T, S, seed), "scale": scale}
    size = {"rows": rows, "columns": columns}
    right, _ = attention.simple_attention(q, k, v, **options)
    for attend in architectures.tiled_attention, architectures.frugal_attention:
        found, weights = attend(q, k, v, **options, **size)
        assert weights is None and found.dtype == right.dtype
        close(found, right, 1e-10)
    found, _ = architectures.tiled_attention(q.float(), k.float(), v.float(), **options)
    close(found.double(), right, 1e-4)


def test_tiles_are_64_by_64_unless_said_otherwise():
    q, k, v = random(130, 2), random(130, 2), random(130, 3)
    for attend in architectures.tiled_attention, architectures.frugal_attention:
        with mock.patch.object(
            architectures, "tiles", wraps=architectures.tiles
        ) as cut:
            attend(q, k, v)
            attend(q, k, v, rows=3, columns=5)
        assert [call.args[2:4] for call in cut.call_args_list] == [(64, 64), (3, 5)]


@quick
@given(T=sizes, S=sizes, rows=sizes, columns=sizes)
def test_tiled_attention_moves_what_the_formula_says(T, S, rows, columns):
    q, k, v = random(T, 2), random(S, 2), random(S, 3)
    moved = architectures.Traffic()
    size = {"rows": rows, "columns": columns, "move": moved}
    architectures.tiled_attention(q, k, v, **size)
    right = architectures.tiled_bytes(T, S, 2, 3, rows, 8)
    assert moved.moved_bytes == right
    mask = torch.zeros(T, S, dtype=torch.bool)
    architectures.tiled_attention(q, k, v, mask=mask, **size)
    assert moved.moved_bytes == right + 8 * T * (2 + 3)  # no key, no value


def test_what_leaves_fast_memory_is_the_output():
    x, seen = random(4, 2), []

    def move(array):
        seen.append(array)
        return array

    output, _ = architectures.tiled_attention(x, x, x, rows=2, columns=4, move=move)
    assert torch.equal(torch.cat([seen[3], seen[7]]), output)


def slopes(attend, mask, seed, **options):
    """The output and its slopes by query, key and value."""
    drawn = random(4, 3, seed=seed), random(2, 5, 3, seed=seed), random(2, 5, 6)
    drawn = [x.clone().requires_grad_() for x in drawn]
    output, _ = attend(*drawn, mask=mask, **options)
    loss = (output * random(2, 4, 6, seed=9)).sum()
    return output, *torch.autograd.grad(loss, drawn)


@quick
@given(seed=seeds, rows=sizes, columns=sizes, kind=kinds)
def test_slopes_of_tiles_are_those_of_attention(seed, rows, columns, kind):
    mask = some_mask(kind, 4, 5, seed)
    right = slopes(attention.simple_attention, mask, seed, scale=0.7)
    size = {"rows": rows, "columns": columns, "scale": 0.7}
    for attend in architectures.tiled_attention, architectures.frugal_attention:
        found = slopes(attend, mask, seed, **size)
        for a, b in zip(found, right, strict=True):
            close(a, b, 1e-9)


def test_frugal_attention_keeps_one_number_a_row():
    given_ = [random(20, 4).requires_grad_() for _ in range(3)]
    with SavedBytes() as kept:
        output, _ = architectures.frugal_attention(*given_, rows=3, columns=7)
    assert kept.now == 8 * 20 * (4 * 4 + 1)
    output.sum().backward()
    del output
    assert kept.now == 0


def again(x):
    return architectures.Again.apply(lambda x: x.square(), x)


def frugal(x):
    return architectures.frugal_attention(x, x, x)[0]


@pytest.mark.parametrize("function", [again, frugal])
def test_what_is_made_again_has_no_second_derivative(function):
    """Nothing of the backward pass is recorded, so it would be wrong."""
    x = random(3, 2).requires_grad_()
    (slope,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    x2 = x.detach().requires_grad_()
    right = {again: x2.square(), frugal: attention.simple_attention(x2, x2, x2)[0]}
    (first,) = torch.autograd.grad(right[function].square().sum(), x2)
    close(slope.detach(), first)
    # nor where the slope comes in by another way as well
    for loss in slope.sum(), (slope * x).sum():
        try:
            loss.backward(retain_graph=True)
        except RuntimeError as error:
            assert "differentiate twice" in str(error)
        else:
            raise AssertionError("a second derivative was given")


def test_frugal_attention_does_seven_products_for_six():
    counts = []
    for attend in attention.simple_attention, architectures.frugal_attention:
        given_ = [random(6, 4).requires_grad_() for _ in range(3)]
        with FlopCounterMode(display=False) as counter:
            attend(*given_)[0].sum().backward()
        counts.append(counter.get_total_flops())
    assert 6 * counts[1] == 7 * counts[0]


def test_attention_in_tiles_refuses_bad_input():
    x = random(4, 2)
    for attend in architectures.tiled_attention, architectures.frugal_attention:
        for name in "rows", "columns":
            for bad in 0, -1, 2.0, True:
                refuses(name, attend, x, x, x, **{name: bad})
        refuses("query", attend, x[:0], x, x)
        refuses("key", attend, x, x[:, :1], x)
        refuses("value", attend, x, x, x[:3])
        refuses("value", attend, x, x, x.float())
        refuses("mask", attend, x, x, x, mask=torch.ones(4, 4))
        refuses("mask", attend, x, x, x, mask=torch.ones(3, 4).bool())
        refuses("scale", attend, x, x, x, scale=math.nan)


# Forgetting


def test_again_gives_the_same_and_calls_twice():
    layer, x = nn.Linear(3, 3).double(), random(2, 3).requires_grad_()
    seen = []

    def function(x):
        seen.append((torch.is_grad_enabled(), x.requires_grad))
        return layer(x).tanh()

    with SavedBytes() as kept:
        y = architectures.Again.apply(function, x)
    assert kept.now == x.nbytes and seen == [(False, True)]
    (y * random(2, 3, seed=1)).sum().backward()
    assert seen[1:] == [(True, True)]
    found = x.grad, layer.weight.grad, layer.bias.grad
    x2 = x.detach().requires_grad_()
    layer.zero_grad()
    (layer(x2).tanh() * random(2, 3, seed=1)).sum().backward()
    right = x2.grad, layer.weight.grad, layer.bias.grad
    assert all(map(torch.equal, found, right))


def a_step(change=lambda model: model):
    draw = torch.Generator().manual_seed(0)
    model = gpt.GPT(TINY, generator=draw).double()
    parameters = list(model.parameters())
    model = change(model)
    ids = torch.randint(7, (3, 4), generator=draw)
    with SavedBytes(parameters) as kept:
        logits = model(ids)
        held = kept.now
        logits.square().sum().backward()
    return model, logits, held, kept, [p.grad for p in parameters]


def test_a_checkpointed_gpt_is_the_same_gpt():
    _, right, held, _, grads = a_step()
    x_bytes, before = 3 * 4 * 8 * 8, held
    for every in 4, 2, 1:
        model, logits, now, kept, found = a_step(
            lambda model, every=every: architectures.checkpointed(model, every)
        )
        assert len(model.blocks) == 4 // every
        assert torch.equal(logits, right) and all(map(torch.equal, found, grads))
        assert now < before and kept.most < held + x_bytes and kept.now == 0
        before = held
    inputs = [g.blocks for g in model.blocks]
    assert [len(group) for group in inputs] == [1] * 4
    # only the blocks' inputs are kept, and what comes before and after them
    _, _, less, *_ = a_step(lambda model: architectures.checkpointed(model, 2))
    assert now - less == 2 * x_bytes


def test_a_forgetful_row_of_blocks_is_torchs_checkpoint():
    draw = torch.Generator().manual_seed(0)
    model = gpt.GPT(TINY, generator=draw).double()
    x, mask = random(2, 4, 8).requires_grad_(), attention.causal_mask(4)
    blocks = list(model.blocks)[:2]
    forgetful = architectures.Forgetful(blocks)
    assert list(forgetful.blocks) == blocks
    ours = torch.autograd.grad(forgetful(x, mask).square().sum(), x)[0]
    y = checkpoint(
        lambda x: blocks[1](blocks[0](x, mask), mask), x, use_reentrant=False
    )
    close(ours, torch.autograd.grad(y.square().sum(), x)[0], 0)
    close(forgetful.run(x, mask), y, 0)


def test_checkpointed_refuses_groups_that_do_not_fit():
    model = gpt.GPT(TINY, generator=torch.Generator().manual_seed(0))
    for bad in 0, -1, 3, 8, 2.0, True:
        refuses("every", architectures.checkpointed, model, bad)
    assert len(model.blocks) == 4


# Sixteen bits


def test_rounding_rounds_both_ways():
    for dtype in torch.bfloat16, torch.half:
        x = random(50, dtype=torch.float).requires_grad_()
        grad = random(50, seed=1, dtype=torch.float)
        for step in (
            lambda x, dtype=dtype: architectures.Rounding.apply(x, dtype),
            architectures.Rounded(dtype),
        ):
            y = step(x)
            (found,) = torch.autograd.grad(y, x, grad)
            assert y.dtype == torch.float and found.dtype == torch.float
            assert torch.equal(y, x.to(dtype).float())
            assert torch.equal(found, grad.to(dtype).float())
            assert not torch.equal(found, grad)


def rounded(x, dtype):
    return x.to(dtype).float()


def test_rounded_products_by_hand():
    for dtype in torch.bfloat16, torch.half:
        layer = nn.Linear(6, 5, bias=False)
        x, grad = (random(4, n, seed=n, dtype=torch.float) for n in (6, 5))
        master = layer.weight.detach().clone()
        model = architectures.round_products(nn.Sequential(layer), dtype)
        x.requires_grad_()
        y = model(x)
        y.backward(grad)
        low = [rounded(t.detach(), dtype) for t in (x, master, grad)]
        close(y, rounded(low[0] @ low[1].T, dtype), 0)
        close(x.grad, rounded(low[2] @ low[1], dtype), 0)
        (kept,) = model.parameters()
        assert torch.equal(kept, master)
        close(kept.grad, rounded(low[2].T @ low[0], dtype), 0)


def test_every_linear_layer_is_rounded_and_nothing_else():
    model = gpt.GPT(TINY, generator=torch.Generator().manual_seed(0))
    twin = architectures.round_products(copy.deepcopy(model), torch.bfloat16)
    count = sum(isinstance(m, architectures.Rounded) for m in twin.modules())
    assert count >= 1
    layers = [m for m in twin.modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 4 * 6 and all(len(m.parametrizations) == 1 for m in layers)
    assert torch.equal(twin.token.weight, model.token.weight)
    ids = torch.randint(7, (2, 4), generator=torch.Generator().manual_seed(1))
    assert 0 < (twin(ids) - model(ids)).abs().max() < 0.05


def test_round_products_refuses_what_is_no_float_type():
    for bad in torch.int8, "bfloat16", None:
        refuses("dtype", architectures.round_products, nn.Linear(1, 1), bad)


def test_autocast_leaves_the_fused_attention_alone():
    """It raises in bfloat16 on a processor with AMX where torch uses AVX2 only."""
    seen = []

    def loss(model, ids, pieces):
        fused = torch.backends.cuda.flash_sdp_enabled()
        seen.append((fused, torch.is_autocast_enabled("cpu")))

    for ratio in 0.1, 10.0:
        cell = {"torch": torch, "held_out": None, "trained_gpt": lambda: None}
        cell["product_s"] = lambda dtype, r=ratio: r if dtype == torch.bfloat16 else 1
        exec(make().cells()["bits-measure-run"], cell | {"held_out_loss": loss})
    assert seen == [(False, True), (False, False)]


# Sums in place of the softmax


def test_positive_is_elu_plus_1():
    x = torch.tensor([-1e4, -3.0, -1e-3, 0.0, 1e-3, 2.0, 1e4], dtype=torch.double)
    x.requires_grad_()
    y = architectures.positive(x)
    close(y, F.elu(x) + 1)
    (slope,) = torch.autograd.grad(y.sum(), x)
    close(slope, torch.autograd.grad(F.elu(x).sum(), x)[0])
    assert y.min() >= 0


def linear_by_hand(q, k, v, features):
    """Lists of one sequence, one number at a time."""
    output = []
    for i in range(len(q)):
        weights = [torch.dot(features(q[i]), features(k[j])) for j in range(i + 1)]
        total = sum(weights)
        output.append(sum(w * v[j] for j, w in enumerate(weights)) / total)
    return torch.stack(output)


LINEAR = ["linear_attention", "linear_recurrence"]


@quick
@given(seed=seeds, T=sizes)
def test_linear_attention_is_a_causal_blend(seed, T):
    q, k, v = random(T, 3, seed=seed), random(2, T, 3, seed=seed + 1), random(T, 4)
    for name in LINEAR:
        found = getattr(architectures, name)(q, k, v)
        assert found.shape == (2, T, 4)
        for b in range(2):
            right = linear_by_hand(q, k[b], v, lambda x: F.elu(x) + 1)
            close(found[b], right, 1e-10)


def test_other_features_may_have_another_width():
    def squares(x):
        return torch.cat([x.square(), x.new_ones(*x.shape[:-1], 2)], -1)

    q, k, v = random(5, 3), random(5, 3, seed=1), random(5, 2, seed=2)
    right = linear_by_hand(q, k, v, squares)
    for name in LINEAR:
        close(getattr(architectures, name)(q, k, v, features=squares), right, 1e-10)


def test_a_sum_of_no_weight_gives_0_and_a_negative_one_an_error():
    x = torch.tensor([[-1.0], [1.0]])
    for name in LINEAR:
        function = getattr(architectures, name)
        found = function(x, x, x + 2, features=torch.relu)
        assert found.tolist() == [[0.0], [3.0]]
        refuses("features", function, x, x.flip(0), x, features=lambda x: x, shown="")
        refuses("features", function, x * math.nan, x, x, shown="")
    found = architectures.share_out(x, torch.tensor([2.0, 0.0]))
    assert found.tolist() == [[-0.5], [0.0]]


def gated_by_hand(q, k, v, keep):
    state, output = torch.zeros(k.size(-1), v.size(-1), dtype=v.dtype), []
    for t in range(len(q)):
        state = keep[t] * state + torch.outer(k[t], v[t])
        output.append(q[t] @ state)
    return torch.stack(output)


GATED = ["gated_attention", "gated_recurrence"]


@quick
@given(seed=seeds, T=sizes)
def test_a_gated_layer_is_its_recurrence(seed, T):
    q, k, v = random(T, 3, seed=seed), random(2, T, 3, seed=seed + 1), random(T, 4)
    keep = random(2, T, seed=seed).sigmoid()
    keep[:, T // 2] = 1.0
    for name in GATED:
        found = getattr(architectures, name)(q, k, v, keep)
        assert found.shape == (2, T, 4)
        for b in range(2):
            close(found[b], gated_by_hand(q, k[b], v, keep[b]), 1e-9)
        shared = getattr(architectures, name)(q, k, v, keep[0])
        close(shared[1], gated_by_hand(q, k[1], v, keep[0]), 1e-9)


def test_the_fading_mask_is_a_product_of_gates():
    mask = architectures.fading_mask(torch.tensor([0.5, 0.25, 0.5]).double())
    right = torch.tensor([[1.0, 0.0, 0.0], [0.25, 1.0, 0.0], [0.125, 0.5, 1.0]])
    close(mask, right.double())
    strong = architectures.fading_mask(torch.full((5,), 1e-300, dtype=torch.double))
    close(strong, torch.eye(5).double())


def test_the_fading_mask_stays_on_the_device_of_the_gates():
    for kind in "cpu", "meta":
        keep = torch.ones(2, 3, device=kind)
        assert architectures.fading_mask(keep).device == keep.device


def test_strong_gates_cost_the_later_ones_no_digits():
    """Half of the text forgets all at once, the other half next to nothing."""
    q, k, v = (random(400, 8, seed=n, dtype=torch.float) for n in range(3))
    weak = random(200, seed=3, dtype=torch.float).sigmoid() / 50
    keep = torch.cat([torch.full((200,), 1e-6), 1 - weak])
    found, right = [], []
    for function, dtype, kept in (
        (architectures.gated_attention, torch.float, found),
        (architectures.gated_recurrence, torch.double, right),
    ):
        given_ = [x.to(dtype).requires_grad_() for x in (q, k, v, keep)]
        output = function(*given_)
        slopes = torch.autograd.grad(output.square().sum(), given_)
        kept += [output, *slopes]
    for ours, theirs in zip(found, right, strict=True):
        error = (ours - theirs).norm() / theirs.norm()
        assert error < 2e-6, error


def test_layers_without_a_softmax_refuse_bad_input():
    x = random(4, 2)
    good = torch.ones(4).double()
    for name in LINEAR + GATED:
        function = getattr(architectures, name)
        more = (good,) if name in GATED else ()
        assert function(x, x, x, *more).shape == (4, 2)
        refuses("query", function, x[:3], x, x, *more)
        refuses("query", function, x, x[:3], x[:3], *more)
        refuses("query", function, x[:0], x[:0], x[:0], *more)
        refuses("key", function, x, x[:, :1], x, *more)
        refuses("value", function, x, x, x[:3], *more)
        if name in GATED:
            for bad in (0.0, -0.5, 1.001, math.nan):
                refuses("keep", function, x, x, x, good.clone().fill_(bad))
            last = good.clone()
            last[3] = 0
            refuses("keep", function, x, x, x, last)
            refuses("keep", function, x, x, x, good[:3])
            refuses("keep", function, x, x, x, good[:1])
            refuses("keep", function, x, x, x, good.sum())
            refuses("keep", function, x, x, x, 0.5)
            one = x[:1]
            refuses("keep", function, one, one, one, good[:2])
            twice = x.expand(3, 4, 2)
            refuses("keep", function, twice, x, x, good.expand(2, 4))


@quick
@given(seed=seeds, T=st.integers(1, 40))
def test_a_scan_is_the_loop(seed, T):
    keep, note = random(T, 1, 3, seed=seed), random(T, 2, 3, seed=seed + 1)
    states, state = [], torch.zeros(2, 3).double()
    for a, b in zip(keep, note, strict=True):
        state = a * state + b
        states.append(state)
    close(architectures.scan(keep, note), torch.stack(states), 1e-9)


def test_a_scan_takes_log2_rounds():
    for T, rounds in (1, 0), (2, 1), (8, 3), (9, 4):
        ones = torch.ones(T)
        with mock.patch.object(torch, "cat", wraps=torch.cat) as joined:
            assert architectures.scan(ones, ones).tolist() == list(range(1, T + 1))
        assert joined.call_count == 2 * rounds
    for bad in 3, 5:
        refuses("keep", architectures.scan, torch.ones(bad), torch.ones(4))


def test_a_selective_layer_by_hand():
    torch.manual_seed(0)
    layer, x = architectures.Selective(5, 3).double(), random(2, 6, 5)
    assert architectures.Selective(1, 1)(torch.ones(1, 1)).shape == (1, 1)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    matrices = {"query.weight": (3, 5), "key.weight": (3, 5), "value.weight": (5, 5)}
    assert shapes == matrices | {"gate.weight": (1, 5), "gate.bias": (1,)}
    assert layer.gate.bias.item() == 4
    keep = torch.sigmoid(x @ layer.gate.weight[0] + 4)
    q, v = x @ layer.query.weight.T, x @ layer.value.weight.T
    k = x @ layer.key.weight.T / math.sqrt(3)
    for mix in None, architectures.gated_attention, architectures.gated_recurrence:
        found = layer(x) if mix is None else layer(x, mix=mix)
        for b in range(2):
            close(found[b], gated_by_hand(q[b], k[b], v[b], keep[b]), 1e-9)
    for name in "width", "state":
        for bad in 0, -1, 2.0, True:
            given_ = {"width": 4, "state": 2} | {name: bad}
            refuses(name, architectures.Selective, **given_)


# Exercises and what is stored


@functools.cache
def exercises():
    return run_exercises("efficiency/architectures", architectures, F=F)


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_checks_refuse_wrong_answers():
    book = exercises()
    fails(
        book.check_tallest,
        lambda *given: book.tallest(*given) + 1,
        lambda memory, K, V, columns, size: (memory // size) // (K + V),
        lambda *given: float(book.tallest(*given)),
    )

    def room(memory, K, V, columns, size, sums=2, limit=math.floor):
        left = memory / size - columns * (K + V)
        return max(0, limit(left / (K + V + sums + columns)))

    fails(
        book.check_tallest,
        lambda memory, K, V, columns, size: book.tallest(memory, K, K, columns, size),
        lambda memory, K, V, columns, size: book.tallest(memory, V, V, columns, size),
        functools.partial(room, sums=0),
        functools.partial(room, sums=1),
        functools.partial(room, limit=math.ceil),
        functools.partial(room, limit=round),
        functools.partial(room, limit=lambda x: math.ceil(x) - 1),
        lambda *given: abs(book.tallest(*given)) or -1,
    )
    fails(
        book.check_together,
        lambda answers: answers[0],
        lambda answers: tuple(
            sum(x) / len(answers) for x in zip(*answers, strict=True)
        ),
        lambda answers: book.together(answers)[::-1],
        lambda answers: (
            sum(o * level.exp() for o, level in answers)
            / sum(level.exp() for _, level in answers),
            sum(level.exp() for _, level in answers).log(),
        ),
    )

    def one_top_for_all(answers):
        outputs, levels = map(torch.stack, zip(*answers, strict=True))
        shares = (levels - levels.amax()).exp()
        total = shares.sum(0)
        return (shares * outputs).sum(0) / total, total.log() + levels.amax()

    fails(book.check_together, one_top_for_all)
    fails(
        book.check_next_scale,
        lambda scale, quiet, overflowed: (
            (scale // 2, 0) if overflowed else book.next_scale(scale, quiet, overflowed)
        ),
        lambda scale, quiet, overflowed: (
            (scale - 4, 0) if overflowed else book.next_scale(scale, quiet, overflowed)
        ),
        lambda scale, quiet, overflowed: (scale, quiet + 1),
        lambda scale, quiet, overflowed: (scale / 2 if overflowed else scale, 0),
        lambda scale, quiet, overflowed: book.next_scale(scale, quiet + 1, overflowed),
    )
    fails(
        book.check_delta_write,
        lambda keys, values: keys.T @ values,
        lambda keys, values: torch.outer(keys[-1], values[-1]),
        lambda keys, values: torch.linalg.pinv(keys) @ values,
        lambda keys, values: book.delta_write(keys[:, :2], values),
        lambda keys, values: book.delta_write(keys.flip(0), values.flip(0)),
    )


def test_checks_pass_other_right_answers():
    book = exercises()

    def one_by_one(memory, K, V, columns, size):
        rows = 0
        while architectures.tile_bytes(K, V, rows + 1, columns, size) <= memory:
            rows += 1
        return rows

    def pair_by_pair(answers):
        output, level = answers[0]
        for more, other in answers[1:]:
            both = torch.logaddexp(level, other)
            output = (level - both).exp() * output + (other - both).exp() * more
            level = both
        return output, level

    def into_zeros(answers):  # of 32 bits, as torch.zeros makes them
        level = torch.stack([level for _, level in answers]).logsumexp(0)
        output = torch.zeros(*answers[0][0].shape)
        for more, other in answers:
            output += (other - level).exp() * more
        return output, level

    def counted(scale, quiet, overflowed):
        quiet = 0 if overflowed else quiet + 1
        if quiet == 2000:
            return 2 * scale, 0
        return (0.5 * scale if overflowed else scale), quiet

    def erased(keys, values):
        state = torch.zeros(keys.size(1), values.size(1))
        for k, v in zip(keys[:, None], values[:, None], strict=True):
            state = state - k.T @ (k @ state) + k.T @ v
        return state

    book.check_tallest(one_by_one)
    book.check_together(pair_by_pair)
    book.check_together(into_zeros)
    book.check_next_scale(counted)
    book.check_delta_write(erased)


@functools.cache
def make():
    return module_at(MAKE)


def test_the_stored_runs_were_made_by_the_cells_as_they_are():
    made, stored = make(), json.loads(MAKE.with_name("recall.json").read_text())
    assert stored["digest"] == made.digest(), f"run {MAKE}"
    names = made.book()
    tried = [(r["kind"], r["state"], r["rate"]) for r in stored["runs"]]
    grid = [(k, s, r) for k in names["KINDS"] for s in made.STATES for r in made.RATES]
    assert tried == grid
    assert all(len(r["recall"]) == len(names["PAIRS"]) for r in stored["runs"])


def test_no_rate_that_was_chosen_is_the_largest_that_was_tried():
    made, stored = make(), json.loads(MAKE.with_name("recall.json").read_text())
    groups = [found["runs"] for found in stored["two lists"].values()]
    groups += [
        [r for r in stored["runs"] if (r["kind"], r["state"]) == (kind, state)]
        for kind in made.book()["KINDS"]
        for state in made.STATES
    ]
    for runs in groups:
        best = max(runs, key=lambda run: run["other lists"])
        assert best["rate"] < max(run["rate"] for run in runs)


def test_the_digest_sees_a_change_of_what_was_run():
    made = make()
    now, cells, exported = made.digest(), made.cells(), made.exported(made.NOTEBOOK)
    for name, old, new in (
        ("recall-train", "warm", "cold"),  # a docstring does not count
        ("recall-train", "steps=600", "steps=601"),
        ("recall-batch", "ASKED = 16", "ASKED = 17"),
        ("again-batch", "pairs=4", "pairs=5"),
        ("selective", "4.0", "5.0"),
        ("fading-mask", "tril(-1)", "tril(0)"),
    ):
        assert old in cells[name]
        changed = cells | {name: cells[name].replace(old, new)}
        text = exported.replace(cells[name], changed[name])
        with mock.patch.multiple(
            made,
            cells=lambda changed=changed: changed,
            exported=lambda _, text=text: text,
        ):
            assert (made.digest() == now) == (old == "warm"), name


def test_a_question_is_one_of_the_pairs():
    names = make().book()
    draw = torch.Generator().manual_seed(0)
    for pairs in names["PAIRS"]:
        keys, values, answers = names["recall_batch"](5, pairs, draw)
        assert keys.shape == values.shape == (5, pairs + 16)
        assert answers.shape == (5, 16) and values[:, pairs:].eq(64).all()
        for key, value, answer in zip(keys, values, answers, strict=True):
            book = dict(zip(key[:pairs].tolist(), value[:pairs].tolist(), strict=True))
            assert len(book) == pairs
            assert [book[k] for k in key[pairs:].tolist()] == answer.tolist()


def test_after_the_mark_the_second_list_counts():
    names = make().book()
    draw = torch.Generator().manual_seed(0)
    keys, values, answers = names["two_lists"](5, draw)
    assert keys.shape == values.shape == (5, 4 + 1 + 4 + 16)
    assert keys[:, 4].eq(64).all() and values[:, 4].eq(64).all()
    assert values[:, 9:].eq(64).all() and keys.ne(64).sum() == 5 * 24
    for key, value, answer in zip(
        *(x.tolist() for x in (keys, values, answers)), strict=True
    ):
        assert sorted(key[:4]) == sorted(key[5:9])
        book = dict(zip(key[5:9], value[5:9], strict=True))
        assert [book[k] for k in key[9:]] == answer
