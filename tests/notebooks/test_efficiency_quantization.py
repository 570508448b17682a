"""The cells of efficiency/quantization against loops, torch and arithmetic."""

import contextlib
import copy
import functools
import itertools
import json
import math
import statistics
from pathlib import Path
from unittest import mock

import cells
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, refuses, seeds
from torch import nn

from fieldguide import data
from fieldguide.efficiency import quantization as q
from fieldguide.explore import payload
from fieldguide.memory import SavedBytes

groups = st.sampled_from([None, "row", 12, 6, 4, 1])
random = functools.partial(cells.random, dtype=torch.float32)
MOST = "weight.abs().max()"
KERNELS = ["_weight_int8pack_mm", "_convert_weight_to_int4pack_for_cpu", "_int_mm"]
SCHEMES = ["absmax", "zero_point", "ternary", "sign", "levels"]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def lots(weight, group):
    """The groups of a (..., D) tensor as lists, by hand."""
    flat = weight.flatten().tolist()
    size = {None: len(flat), "row": weight.size(-1)}.get(group, group)
    return [flat[i : i + size] for i in range(0, len(flat), size)]


@functools.cache
def linear(inputs, outputs, bias=True, seed=0):
    made = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p.copy_(random(*p.shape, seed=seed + i))
    return made


def read_back(weight, group, double=False):
    """What a weight in NF4 stands for, step by step."""
    levels = q.nf4_levels()
    codes, scales = q.quantize_levels(weight, levels, group)
    if double:
        parts = q.quantize_scales(scales)
        scales = q.dequantize_scales(*parts, len(scales))
    return q.dequantize(levels[codes.int()], scales)


W, TWO = random(2, 6), torch.tensor([-1.0, 1.0])
BYTES = torch.tensor([[1, 2, 15, 0], [9, 9, 0, 15]], dtype=torch.uint8)
ONE, SCALES = BYTES[0, :1], torch.ones(3, 1)
NO_WEIGHTS = [torch.ones(0, 6), torch.ones(2, 0), torch.tensor(1.0)]
NO_WEIGHTS += [W.where(W.min() != W, bad) for bad in (math.nan, -math.inf)]
LEVELS = [[-1.0, 1.0, 0.0], [1.0, -1.0], [0.0, 0.0], [1.0], [[-1.0, 1.0]]]
LEVELS = [*map(torch.tensor, LEVELS), torch.linspace(-1, 1, 257)]
GROUPED, BITS = {"weight": W, "group": 3}, {"weight": W, "group": 3, "bits": 4}
NOT_GROUPED = {"weight": NO_WEIGHTS, "group": [5, 12, 6.0]}
NO_BITS = {"bits": [1, 9, 4.0]}
STORED = dict(zip(["codes", "seconds", "mean"], q.quantize_scales(SCALES), strict=True))
WIDE, ROWS = torch.ones(16, 32, dtype=torch.int8), torch.ones(16, 1)
LAYER = nn.Linear(4, 6)
UNFIT = [WIDE.view(8, 64), WIDE[:, :16], WIDE.view(32, 16), 8 * WIDE, -9 * WIDE]
PIECES = torch.zeros(1, 2, dtype=torch.long)
PRODUCT = {"x": random(2, 16), "codes": WIDE.view(32, 16), "scales": torch.ones(32, 1)}
INT4 = {"packed": random(8, 16).bfloat16(), "pairs": None, "group": None}
REFUSALS = [
    *((name, GROUPED, NOT_GROUPED)
      for name in ("in_groups", "quantize_ternary", "quantize_sign")),
    ("quantize_absmax", BITS, NOT_GROUPED | NO_BITS),
    ("quantize_zero_point", BITS, NOT_GROUPED | {"bits": [9, 4.0]}),
    ("quantize_levels", GROUPED | {"levels": TWO}, NOT_GROUPED | {"levels": LEVELS}),
    ("rounded", BITS | {"scheme": "absmax"},
     NOT_GROUPED | NO_BITS | {"scheme": ["nearest"]}),
    ("outliers_apart", {"x": W, "bits": 4, "group": 3, "most": 6},
     NO_BITS | {"x": NO_WEIGHTS, "group": [5, 12]}),
    ("normal_levels", {"bits": 4}, NO_BITS),
    ("dequantize", {"codes": W, "scales": SCALES},
     {"scales": [SCALES[:0], torch.ones(5, 1), SCALES[:, 0], W[:1, :3].log().T]}),
    ("dequantize", {"codes": W[0], "scales": SCALES, "lows": SCALES}, {"lows": [W]}),
    ("relative_error", {"weight": W, "restored": W}, {"restored": [W[0]]}),
    ("quantize_scales", {"scales": SCALES}, {"scales": [SCALES[:, 0], SCALES.mT]}),
    ("dequantize_scales", STORED | {"groups": 3}, {}),
    ("pack_pairs", {"codes": BYTES}, {"codes": [BYTES[:, :3], BYTES + 1, ONE, ONE[0]]}),
    ("unpack_pairs", {"packed": BYTES}, {"packed": [ONE[0]]}),
    ("NF4Linear", {"linear": LAYER, "group": 4},
     {"linear": [W, nn.ReLU(), nn.Linear(6, 4)]}),
    ("NF4Linear", {"linear": LAYER, "group": None}, {"linear": [nn.Linear(3, 5)]}),
    ("stored_bits", {"layer": LAYER}, {"layer": [nn.ReLU()]}),
    ("LowBitLinear", {"linear": LAYER, "quantize": len}, {"linear": [nn.ReLU()]}),
    ("text_losses", {"model": lambda ids: F.one_hot(ids, 2).float(), "pieces": PIECES},
     {"pieces": [PIECES[:0], PIECES[:, :1]]}),
    ("pack_int4_fast", {"codes": -8 * WIDE, "scales": ROWS},
     {"codes": UNFIT, "scales": [ROWS[:0], ROWS[:5], ROWS[:15]]}),
    ("absmax_codes", {"rows": W, "most": 7}, {}),
    *((f"{name}_product{end}", PRODUCT, {"scales": [ROWS, ROWS[:0]]})
      for name, end in (("int8", ""), ("int8", "_fast"), ("whole", ""))),
    ("int4_product_fast", INT4 | {"x": random(1, 16)}, {"packed": [UNFIT[0]]}),
    ("require_width", {"x": W[0], "width": 6}, 
     {"x": [None, [6.0], W[0].int(), W[0, 0]], "width": [0, 5]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "good", "bad"), REFUSALS)
def test_bad_input_is_refused(name, good, bad):
    inner = {"inner_names": ["weight", "codes"]}
    with without(*KERNELS):  # on bad input they may end the process
        cells.refuses_all(getattr(q, name), good, **inner, **bad)


def test_layers_and_products_refuse_inputs_that_do_not_fit():
    x, layer, weight = random(2, 64), linear(64, 8), random(32, 64)
    eight, four = q.quantize_absmax(weight, 8, "row"), q.quantize_absmax(weight, 4, 32)
    products = q.int8_product, q.int8_product_fast, q.whole_product
    calls = [(product, *eight) for product in products]
    calls += [(q.int4_product_fast, *q.pack_int4_fast(*four)), (q.NF4Linear(layer),)]
    for function, *parts in [*calls, (q.LowBitLinear(layer, q.quantize_sign),)]:
        assert len(function(x, *parts)) == 2
        for bad in x[:, :32], x.int(), None, x[0, 0], x.to(torch.float8_e5m2):
            refuses("x", function, bad, *parts)
    narrow = q.quantize_absmax(random(32, 24), 8, "row")
    with mock.patch.object(torch, KERNELS[0]):  # it would end the process
        refuses("codes", q.int8_product_fast, x[:, :24], *narrow)
    for group in 32, 64, 128, 256:
        stored = q.quantize_absmax(random(16, 256), 4, group)
        assert q.pack_int4_fast(*stored)[2] == group


@cases(seed=seeds, group=groups)
def test_groups_are_runs_of_a_row_as_precise_as_the_weights(seed, group):
    for dtype, wide in zip(FLOATS, [torch.float32] * 3 + [torch.float64], strict=True):
        weight = random(2, 3, 12, seed=seed).to(dtype)
        rows = q.in_groups(weight, group)
        assert rows.dtype == wide and rows.tolist() == lots(weight, group)
    assert q.in_groups(torch.ones(1)).tolist() == [[1]]


def scale_by_hand(scheme, lot, bits):
    """A group's scale, what it is measured from, and what makes a code of a share."""
    sizes, levels = list(map(abs, lot)), q.normal_levels(bits).tolist()
    mean, most, step = sum(sizes) / len(lot), max(sizes), max(lot) - min(lot)

    def nearest(share):
        return min(range(len(levels)), key=lambda i: abs(levels[i] - share))

    return {
        "absmax": (most / (2 ** (bits - 1) - 1), 0, round),
        "zero_point": (step / (2**bits - 1), min(lot), round),
        "ternary": (mean, 0, lambda share: max(-1, min(1, round(share)))),
        "sign": (mean, 0, lambda share: 1 if share >= 0 else -1),
        "levels": (most, 0, nearest),
    }[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
@cases(seed=seeds, bits=st.integers(2, 8), group=groups)
def test_codes_and_scales_are_by_hand(scheme, seed, bits, group):
    weight = random(2, 12, seed=seed, dtype=torch.double)
    kept, quantize = weight.clone(), getattr(q, f"quantize_{scheme}")
    options = {"levels": [q.normal_levels(bits)], "ternary": [], "sign": []}
    codes, scales, *lows = quantize(weight, *options.get(scheme, [bits]), group)
    kind = torch.uint8 if scheme in ("zero_point", "levels") else torch.int8
    assert codes.dtype == kind and codes.shape == weight.shape
    parts = zip(lots(weight, group), lots(codes, group), scales, strict=True)
    for i, (lot, found, scale) in enumerate(parts):
        step, low, code = scale_by_hand(scheme, lot, bits)
        close(scale.item(), step)
        assert found == [code((x - low) / (step or 1)) for x in lot]
        assert not lows or lows[0][i].item() == low
    if scheme in ("absmax", "zero_point"):
        left = q.in_groups(q.dequantize(codes, scales, *lows) - weight, group)
        assert (left.abs().amax(-1) <= scales[:, 0] / 2 + 1e-12).all()
    assert torch.equal(weight, kept)


def test_what_is_constant_stays_exact():
    zeros, levels = torch.zeros(2, 4), q.nf4_levels()
    for group in None, "row", 2:
        for quantize, *bits, code in (
            (q.quantize_absmax, 4, 0),
            (q.quantize_ternary, 0),
            (q.quantize_sign, 1),
            (q.quantize_levels, levels, 7),
        ):
            codes, scales = quantize(zeros, *bits, group)
            assert (codes == code).all() and not scales.any()
        for constant in zeros, zeros + 0.3, zeros - 7:
            stored = q.quantize_zero_point(constant, 4, group)
            assert not stored[0].any()
            assert torch.equal(q.dequantize(*stored), constant)


def test_codes_stay_in_range_where_the_scale_cannot_be_exact():
    """And so they do with 8 bits and one group, which is the default."""
    for quantize, numbers, codes in (
        (q.quantize_absmax, [189, -189], [127, -127]),  # the scale is rounded
        (q.quantize_zero_point, [0, 379], [0, 255]),
        (q.quantize_absmax, [1, -1], [0, 0]),  # the scale would be 0
        (q.quantize_zero_point, [1, -1], [0, 0]),
        (q.quantize_ternary, [1, 0, 0, 0], [0, 0, 0, 0]),
    ):
        assert quantize(2.0**-149 * torch.tensor(numbers))[0].tolist() == codes
        bits = [] if quantize is q.quantize_ternary else [8]
        assert all(map(torch.equal, quantize(W), quantize(W, *bits, None)))


def test_relative_error_is_a_share_of_the_root_mean_square():
    weight, off = torch.tensor([3.0, 0.0, 4.0, 0.0]), torch.tensor([0, 0, 0, 1.0])
    error = q.relative_error(weight, weight + off)
    assert isinstance(error, float) and math.isclose(error, 1 / 5, rel_tol=1e-6)


# Dettmers et al. 2023, Appendix E
PRINTED = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
PRINTED += [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
PRINTED += [0.07958029955625534, 0.16093020141124725, 0.24611230194568634]
PRINTED += [0.33791524171829224, 0.44070982933044434, 0.5626170039176941]
PRINTED += [0.7229568362236023, 1.0]


def test_levels_are_quantiles_in_two_halves():
    quantile = statistics.NormalDist().inv_cdf
    for bits in range(2, 9):
        levels, half = q.normal_levels(bits), 2 ** (bits - 1)
        assert len(levels) == 2 * half and (levels.diff() > 0).all()
        end = 1 - (1 / (4 * half) + 1 / (2 * (2 * half - 1))) / 2
        above = [quantile(0.5 + (end - 0.5) * i / half) for i in range(half + 1)]
        below = [quantile(0.5 + (end - 0.5) * i / (half - 1)) for i in range(half)]
        right = torch.tensor([-x for x in below[:0:-1]] + above) / above[-1]
        close(levels, right, 1e-6)
    levels = q.nf4_levels()
    close(levels, torch.tensor(PRINTED), 1e-6)
    assert str(levels[7].item()) == "0.0" and levels[0] == -1 and levels[15] == 1
    assert torch.equal(q.normal_levels(), levels)


def test_quantize_levels_takes_any_that_increase():
    for weight, levels, codes in (
        ([0.1, -0.4], TWO, [1, 0]),
        ([1.0, -1.0], torch.linspace(-1, 1, 256), [255, 0]),
        ([0.5000000001, 1.0], torch.tensor([0.0, 1.0]), [1, 1]),  # in 64 bits
    ):
        weight = torch.tensor(weight, dtype=torch.double)
        assert q.quantize_levels(weight, levels)[0].tolist() == codes


@cases(seed=seeds, count=st.sampled_from([1, 5, 256, 257, 600]))
def test_scales_are_kept_to_a_sixteenth_of_their_distance_from_the_mean(seed, count):
    scales = random(count, 1, seed=seed).abs() + 1
    codes, seconds, mean = q.quantize_scales(scales)
    blocks = math.ceil(count / 256)
    assert codes.shape == (blocks, 256) and seconds.shape == (blocks, 1)
    close(mean, scales.mean())
    again = q.dequantize_scales(codes, seconds, mean, count)
    assert again.shape == scales.shape and again.dtype == torch.float32
    least = 2**-10 * seconds.repeat_interleave(256, 0)[:count]  # half the least step
    allowed = torch.maximum((scales - mean).abs() / 16, least) + 1e-6
    assert ((again - scales).abs() <= allowed).all()
    off = F.pad((scales - mean).flatten(), (0, blocks * 256 - count))
    close(seconds.flatten(), off.view(-1, 256).abs().amax(-1) / 448, 1e-6)


def test_scales_that_are_equal_or_tiny_stay_finite():
    equal = torch.full((300, 1), 0.3)
    parts = q.quantize_scales(equal)
    close(q.dequantize_scales(*parts, 300), equal, 1e-6)
    least = 2.0**-149
    for most in 300, 627, 671:  # the scale of these is rounded to the least float
        tiny = torch.tensor([[2 * most * least], [0.0]])
        parts = q.quantize_scales(tiny)
        again = q.dequantize_scales(*parts, 2)
        assert again.isfinite().all() and (again - tiny).abs().max() <= most * least


def test_pairs_share_a_byte():
    packed, every = q.pack_pairs(BYTES), torch.arange(256, dtype=torch.uint8)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == [[0x21, 0x0F], [0x99, 0xF0]]
    assert torch.equal(q.unpack_pairs(packed), BYTES)
    assert torch.equal(q.pack_pairs(q.unpack_pairs(every)), every)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    "inputs, outputs, group", [(128, 5, 64), (12, 3, 4), (12, 70, 4), (6, 4, None)]
)
def test_the_layer_is_that_of_the_stored_weight(inputs, outputs, group, double, bias):
    """Forth and back; what is unpacked is not kept in between."""
    original, x = linear(inputs, outputs, bias), random(2, 3, inputs).requires_grad_()
    layer = q.NF4Linear(original, group, double)
    assert (layer.in_features, layer.out_features) == (inputs, outputs)
    weight = original.weight.detach()
    right = read_back(weight, group, double)
    assert torch.equal(layer.weight, right) and not layer.weight.requires_grad
    with SavedBytes() as kept:
        y = layer(x)
    assert kept.most == 0
    close(y, F.linear(x, right, original.bias), 1e-4)
    y.backward(grad := random(2, 3, outputs, seed=1))
    close(x.grad, grad @ right, 1e-4)
    assert q.relative_error(weight, right) < 0.2
    meta = copy.deepcopy(layer).to("meta")(x.to("meta"))
    assert meta.is_meta and meta.shape == (2, 3, outputs)


def test_the_layer_has_nothing_to_train_and_can_be_stored():
    """Groups of 64 weights and double scales, unless told."""
    original = copy.deepcopy(linear(128, 8))
    layer = q.NF4Linear(original)
    assert torch.equal(layer.weight, read_back(original.weight.detach(), 64, True))
    assert set(layer.state_dict()) == {"packed", "scales", "seconds", "mean", "bias"}
    assert layer.scales.dtype == torch.uint8 and layer.groups == 16
    assert list(layer.parameters()) == []
    assert torch.equal(layer.bias, original.bias) and not layer.bias.requires_grad
    original.bias.data.zero_(), original.weight.data.zero_()
    assert layer.bias.any() and layer.weight.any(), "a copy"
    other, x = q.NF4Linear(linear(128, 8, seed=9)), random(2, 128)
    assert not torch.equal(other.weight, layer.weight)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_layer_of_a_model_in_another_precision(dtype, double):
    """Built from it, the layer stores as much; turned into it, it computes on."""
    original = copy.deepcopy(linear(128, 4)).to(dtype)
    plain = q.NF4Linear(linear(128, 4), double=double)
    made = q.NF4Linear(original, double=double)
    assert made.weight.dtype == torch.float32
    assert q.stored_bits(made) == q.stored_bits(plain)
    weight = original.weight.detach().float()
    assert q.relative_error(weight, made.weight) < 0.12
    right, x = plain(random(3, 128)), random(3, 128).to(dtype).requires_grad_()
    for each in made, plain, copy.deepcopy(plain).to(dtype):
        y = each(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert y.dtype == slope.dtype == dtype
        assert q.relative_error(right, y.float()) < 0.02


@pytest.mark.parametrize("inputs, outputs", [(64, 8), (256, 1024)])
def test_stored_bits_are_those_of_its_bytes(inputs, outputs):
    original, count = linear(inputs, outputs, inputs == 64), inputs * outputs
    assert q.stored_bits(q.NF4Linear(original, double=False)) == 4 + 32 / 64
    blocks = math.ceil(count / 64 / 256)
    bits = 4 + 8 * (256 * blocks + 4 * blocks + 4) / count
    assert math.isclose(q.stored_bits(q.NF4Linear(original)), bits)


@pytest.mark.parametrize("bias", [False, True])
def test_low_bits_go_forward_and_floats_back(bias):
    original = copy.deepcopy(linear(12, 5, bias))
    layer = q.LowBitLinear(original, q.quantize_ternary)
    assert layer.weight is original.weight and layer.bias is original.bias
    left = q.dequantize(*q.quantize_ternary(original.weight.detach()))
    x, grad = random(2, 3, 12).requires_grad_(), random(2, 3, 5, seed=1)
    y = layer(x)
    close(y, F.linear(x, left, original.bias), 1e-5)
    y.backward(grad)
    close(x.grad, grad @ left, 1e-5)
    weight_grad = torch.einsum("abo,abi->oi", grad, x.detach())
    close(layer.weight.grad, weight_grad, 1e-5)


def test_weights_are_others_for_a_while():
    model, factors = nn.Module(), [5, 2, 2]
    model.blocks = nn.Sequential(linear(4, 4, False), nn.ReLU(), nn.Sequential(LAYER))
    model.head = linear(4, 4, seed=2)
    kept = {name: p.clone() for name, p in model.named_parameters()}

    def same(factor):
        for name, p in model.named_parameters():
            times = factor if name in ("blocks.0.weight", "blocks.2.0.weight") else 1
            assert torch.equal(p, times * kept[name]), name

    def change(weight):
        return factors.pop() * weight

    refuses("model", q.weights_as, LAYER, change)
    with contextlib.suppress(KeyError), q.weights_as(model, change) as got:
        assert got is model
        same(2)
        raise KeyError("inside")
    same(1)
    with contextlib.suppress(IndexError), q.weights_as(model, change):
        raise AssertionError("the second matrix finds no factor")
    same(1)


@pytest.mark.parametrize("scheme", ["absmax", "zero point", "NormalFloat"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [None, "row", 4])
def test_rounded_reads_back_what_16_bits_can_scale(scheme, bits, group):
    weight, levels = random(4, 12), q.normal_levels(bits)
    weight = weight / weight.abs().max()
    weight[0, 0] = -1.5  # the largest is not the highest
    codes, *parts = {
        "absmax": q.quantize_absmax(weight, bits, group),
        "zero point": q.quantize_zero_point(weight, bits, group),
        "NormalFloat": q.quantize_levels(weight, levels, group),
    }[scheme]
    codes = levels[codes.int()] if scheme == "NormalFloat" else codes
    right = q.dequantize(codes, *(part.half().float() for part in parts))
    options = [group] if group else []  # one group unless told
    assert torch.equal(q.rounded(weight, scheme, bits, *options), right)
    steps = 2 ** (bits - 1) - 1 if scheme == "absmax" else 1
    for factor in 1e-2, 4e4 * steps:
        left = q.rounded(factor * weight, scheme, bits, group)
        close(left / factor, right, 0.01)
    for factor in 1e-9, 1e-35, 7e4 * steps, 1e30:
        scaled = factor * weight
        most = scaled.abs().max().item()
        refuses(MOST, q.rounded, scaled, scheme, bits, group, shown=most)
    assert not q.rounded(0 * weight, scheme, bits, group).any()


def test_rounded_refuses_by_the_largest_weight():
    refuses(MOST, q.rounded, torch.full((2, 4), 1e-9), "zero point", 4)
    weight = random(4, 12)
    weight[1] = 1e-9  # beside the others a loss without harm
    left = q.rounded(weight, "absmax", 4, "row")
    assert left.any(-1).tolist() == [True, False, True, True]
    step = 2.0**-24  # float16's; with 2 bits a scale is the largest weight
    over, under = (step * torch.tensor([[10.5], [most]]) for most in (49.5, 50.0))
    with cells.refusal(r"float16 holds the scales: 3e-06 to 65504$"):
        q.rounded(over, "absmax", 2, "row")
    close(q.rounded(under, "absmax", 2, "row"), under, step)  # half a step


def test_text_losses_are_those_of_each_piece():
    table, seen = random(7, 7, dtype=torch.double).requires_grad_(), []

    def model(ids):
        seen.append((ids.shape, torch.is_grad_enabled()))
        return table[ids]

    pieces = torch.randint(7, (3, 6), generator=generator())
    losses = q.text_losses(model, pieces)
    assert losses.shape == (3,) and seen == [((1, 5), False)] * 3
    nats = -table.log_softmax(-1)
    for loss, piece in zip(losses, pieces, strict=True):
        close(loss, nats[piece[:-1], piece[1:]].mean())


@cases(seed=seeds, group=st.sampled_from([None, "row"]))
def test_outliers_stay_apart(seed, group):
    x = random(2, 3, 8, seed=seed)
    x[1, 2, 5], x[0, 0, 2], x[0, 0, 3] = -1e4, 6.5, 6.0
    for bits, most in (8, 6.0), (2, 5.9), (2, 1.9):
        large = x.abs().amax((0, 1)) > most
        right = q.rounded(x.masked_fill(large, 0), "absmax", bits, group)
        right[..., large] = x[..., large]
        assert torch.equal(q.outliers_apart(x, bits, group, most), right)
        if (bits, group) == (8, None):
            assert torch.equal(q.outliers_apart(x), right)


def without(*kernels):
    """torch without these functions, as older or other builds are."""
    patches = contextlib.ExitStack()
    for kernel in kernels:
        real = getattr(torch, kernel)
        patches.callback(setattr, torch, kernel, real)
        delattr(torch, kernel)
    return patches


@contextlib.contextmanager
def used(kernel):
    """torch's kernel is called in here, once."""
    with mock.patch.object(torch, kernel, side_effect=getattr(torch, kernel)) as called:
        yield
    assert called.call_count == 1, kernel


@pytest.mark.parametrize("missing", [[], KERNELS])
@pytest.mark.parametrize("T, inputs, outputs", [(1, 64, 32), (3, 128, 64)])
def test_products_are_right_with_kernels_and_without(T, inputs, outputs, missing):
    x, weight = random(T, inputs, seed=T), random(outputs, inputs, seed=9)
    eight, four = q.quantize_absmax(weight, 8, "row"), q.quantize_absmax(weight, 4, 32)
    right, right_four = (x @ q.dequantize(*each).T for each in (eight, four))
    close(q.int8_product(x, *eight), right, 1e-4)
    assert q.int8_product(x.double(), eight[0], eight[1].double()).dtype == torch.double
    whole, each = q.quantize_absmax(x, 8, "row")
    exact = (whole.long() @ eight[0].long().T).float() * each * eight[1].T
    with without(*missing):
        parts = q.pack_int4_fast(*four)
        assert (parts[1] is None) == bool(missing)
        fast = q.int4_product_fast(x, *parts)
        assert fast.dtype == torch.bfloat16
        assert q.relative_error(right_four, fast.float()) < 0.02
        with contextlib.nullcontext() if missing else used(KERNELS[2]):
            close(q.whole_product(x, *eight), exact, 1e-5)
        for dtype in FLOATS[1:]:
            with contextlib.nullcontext() if missing else used(KERNELS[0]):
                fast = q.int8_product_fast(x.to(dtype), *eight)
            assert fast.dtype == torch.bfloat16 and fast.shape == right.shape
            for found in fast, q.whole_product(x.to(dtype), *eight):
                assert q.relative_error(right, found.float()) < 0.02


def test_the_measurements_are_those_of_the_grid():
    make, widths = (
        cells.script("quantization"),
        cells.record("quantization", "widths.json"),
    )
    assert widths["pieces"] == make.pieces_of(data.king_james())
    found = [tuple(row["setting"]) for row in widths["settings"]]
    assert found == [*itertools.product(make.SCHEMES, make.BITS, make.GROUPS)]
    assert all(len(row["losses"]) == make.PIECES for row in widths["settings"])


book = functools.cache(lambda: cells.run_exercises("efficiency/quantization", q))
SLIPS = [
    ("whole_zero", "min(0.0, weight.min().item())", "weight.min().item()"),
    ("whole_zero", "max(0.0, weight.max().item())", "weight.max().item()"),
    ("whole_zero", "most = 2**bits - 1", "most = 2**bits"),
    ("whole_zero", "round(-low", "(-low", "math.floor(-low", "math.ceil(-low"),
    ("whole_zero", ".round()", "", ".floor()", ".ceil()", ".trunc()"),
    ("whole_zero", ".long()", ""),
    ("whole_zero", "codes, scale", "codes + 1, scale", "codes, scale / 2"),
    ("whole_zero", "scale, zero", "scale, zero + 1"),
    ("pack_trits", "[1, 3, 9, 27, 81]", "[81, 27, 9, 3, 1]"),
    ("pack_trits", " + 1 ", " "),
    ("pack_trits", ".to(torch.uint8)", ""),
    ("best_scale", "square()", "abs()"),
    ("best_scale", ".clamp(-most, most)", ""),
    ("best_scale", "key=error", "key=lambda scale: -scale"),  # absmax
    ("best_scale", "return min", "return torch.tensor(0.1) + min"),
    ("most_parameters", "+ scale_bits", "", "+ scale_bits / group"),
    ("most_parameters", "8 * memory_bytes", "memory_bytes"),
    ("most_parameters", "int(8", "float(8"),
]  # fmt: skip


def test_the_drawn_levels_are_as_many_as_the_bits_make():
    """At 8 bits, too: each of 255 levels is a spike with a gap beside it."""
    path = Path(__file__).parents[2] / "book/efficiency/quantization.ipynb"
    every = json.loads(path.read_text("utf8"))["cells"]
    (cell,) = (cell for cell in every if cell["id"] == "widths-explorer")
    drawn = payload.read("".join(cell["outputs"][0]["data"]["text/html"]))
    key = next(k for k in drawn["fields"] if k.endswith(".y"))
    by = drawn["spec"]["fields"][key]["by"]
    sizes = [len(c["keys"]) for c in drawn["spec"]["controls"] if c["name"] in by]
    levels = drawn["fields"][key][:, 1].reshape(*sizes, -1)
    for at, bits in enumerate([8, 6, 4, 3, 2]):  # absmax, the whole tensor
        up = np.diff(levels[0, at, 0] > 0, prepend=False).sum()
        assert math.ceil(up / 2) == 2**bits - 1


def test_a_slip_in_an_answer_is_noticed():
    for answer, piece, *slips in SLIPS:
        cells.notices(book(), answer, {piece: slips})


def test_answers_by_other_means_pass():
    def half_up(weight, bits):
        _, scale, zero = map(torch.as_tensor, book().whole_zero(weight, bits))
        codes = (weight / scale + zero + 0.5).floor().clamp(0, 2**bits - 1)
        return codes.long(), scale, zero

    book().check_whole_zero(half_up)
