"""The cells of efficiency/quantization against loops in Python, torch and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import contextlib
import functools
import itertools
import json
import math
import statistics
from pathlib import Path
from unittest import mock

import cells
import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from cells import (
    close,
    fails,
    generator,
    module_at,
    refuses,
    run_exercises,
    solutions_pass,
)
from hypothesis import given, settings
from torch import nn

from fieldguide import data
from fieldguide.efficiency import quantization
from fieldguide.transformers import real_model

ROOT = Path(__file__).parents[2]
MAKE = ROOT / "book" / "_assets" / "quantization" / "make.py"

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
groups = st.sampled_from([None, "row", 12, 6, 4, 1])
random = functools.partial(cells.random, dtype=torch.float32)


def lots(weight, group):
    """The groups of a (..., D) tensor as lists, by hand."""
    D = weight.size(-1)
    flat = weight.flatten().tolist()
    size = {None: len(flat), "row": D}.get(group, group)
    return [flat[i : i + size] for i in range(0, len(flat), size)]


# Rounding


@quick
@given(seed=seeds, group=groups)
def test_groups_are_runs_of_a_row(seed, group):
    weight = random(2, 3, 12, seed=seed)
    rows = quantization.in_groups(weight, group)
    close(rows.tolist(), lots(weight, group), 0)


def test_groups_are_as_precise_as_the_weights():
    for dtype, wide in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        weight = random(2, 4, dtype=dtype)
        rows = quantization.in_groups(weight)
        assert rows.dtype == wide and rows.shape == (1, 8)
        assert torch.equal(rows.flatten(), weight.to(wide).flatten())
    assert quantization.in_groups(torch.ones(1), 1).shape == (1, 1)


def test_grouping_refuses_bad_input():
    good = torch.ones(2, 6)
    for bad in (
        good.int(),
        torch.tensor(1.0),
        torch.ones(0, 6),
        torch.ones(2, 0),
        torch.tensor([1.0, math.nan]),
        torch.tensor([1.0, -math.inf]),
        [1.0, 2.0],
    ):
        refuses("weight", quantization.in_groups, bad)
    for group in 0, -6, 5, 12, 6.0, True, "column":
        refuses("group", quantization.in_groups, good, group)
    for function in quantization.quantize_absmax, quantization.quantize_zero_point:
        refuses("weight", function, good.int(), 8, "row")
        refuses("group", function, good, 8, 4)


@quick
@given(seed=seeds, bits=st.integers(2, 8), group=groups)
def test_absmax_is_rounding_by_hand(seed, bits, group):
    weight = random(2, 12, seed=seed, dtype=torch.double)
    kept = weight.clone()
    codes, scales = quantization.quantize_absmax(weight, bits, group)
    assert codes.dtype == torch.int8 and codes.shape == weight.shape
    most = 2 ** (bits - 1) - 1
    found = []
    for lot, scale in zip(lots(weight, group), scales.tolist(), strict=True):
        close(scale, [max(map(abs, lot)) / most])
        found += [round(value / scale[0]) for value in lot]
    assert codes.flatten().tolist() == found
    assert codes.abs().max() == most
    restored = quantization.dequantize(codes, scales)
    worst = (quantization.in_groups(restored - weight, group).abs()).amax(-1)
    assert (worst <= scales[:, 0] / 2 + 1e-12).all()
    assert torch.equal(weight, kept)


@quick
@given(seed=seeds, bits=st.integers(1, 8), group=groups)
def test_zero_point_is_rounding_by_hand(seed, bits, group):
    weight = random(2, 12, seed=seed, dtype=torch.double) + 3
    codes, scales, lows = quantization.quantize_zero_point(weight, bits, group)
    assert codes.dtype == torch.uint8 and codes.shape == weight.shape
    found = []
    for lot, scale, low in zip(
        lots(weight, group), scales[:, 0].tolist(), lows[:, 0].tolist(), strict=True
    ):
        assert low == min(lot)
        assert math.isclose(scale, (max(lot) - min(lot)) / (2**bits - 1))
        found += [round((value - low) / (scale or 1)) for value in lot]
    assert codes.flatten().tolist() == found
    restored = quantization.dequantize(codes, scales, lows)
    worst = quantization.in_groups(restored - weight, group).abs().amax(-1)
    assert (worst <= scales[:, 0] / 2 + 1e-12).all()
    ends = restored.min(), restored.max(), codes.max()
    close(ends[:2], (weight.min(), weight.max()))
    assert ends[2] == (2**bits - 1 if group != 1 else 0)


def test_what_is_constant_stays_exact():
    zeros = torch.zeros(2, 4)
    for group in None, "row", 2:
        codes, scales = quantization.quantize_absmax(zeros, 4, group)
        assert not codes.any() and not scales.any()
        assert torch.equal(quantization.dequantize(codes, scales), zeros)
        codes, scales = quantization.quantize_levels(
            zeros, quantization.nf4_levels(), group
        )
        assert (codes == 7).all() and not scales.any()
        for constant in zeros, zeros + 0.3, zeros - 7:
            stored = quantization.quantize_zero_point(constant, 4, group)
            assert not stored[0].any()
            assert torch.equal(quantization.dequantize(*stored), constant)


def test_codes_stay_in_range_where_the_scale_cannot_be_exact():
    tiny = 189 * 2.0**-149  # the scale of these is rounded down to 2**-149
    codes, _ = quantization.quantize_absmax(torch.tensor([tiny, -tiny]))
    assert codes.tolist() == [127, -127]
    codes, _, _ = quantization.quantize_zero_point(torch.tensor([0.0, 379 * 2.0**-149]))
    assert codes.tolist() == [0, 255]
    least = torch.tensor([2.0**-149, -(2.0**-149)])  # its scale would be 0
    assert quantization.quantize_absmax(least)[0].tolist() == [0, 0]
    assert quantization.quantize_zero_point(least)[0].tolist() == [0, 0]
    few = torch.tensor([2.0**-149] + [0.0] * 3)
    assert quantization.quantize_ternary(few)[0].tolist() == [0] * 4


def test_rounding_has_eight_bits_and_one_group_unless_told():
    weight = random(2, 6)
    for function in quantization.quantize_absmax, quantization.quantize_zero_point:
        for a, b in zip(function(weight), function(weight, 8, None), strict=True):
            assert torch.equal(a, b) and a.numel() in (1, 12)


def test_bits_out_of_range_are_refused():
    for bits in 1, 9, 4.0, True, "4":
        refuses("bits", quantization.quantize_absmax, torch.ones(2), bits)
        if bits != 1:
            refuses("bits", quantization.quantize_zero_point, torch.ones(2), bits)
        refuses("bits", quantization.normal_levels, bits)
    refuses("bits", quantization.quantize_zero_point, torch.ones(2), 0)


def test_dequantize_takes_groups_that_fit():
    codes = torch.arange(6).view(2, 3)
    scales, lows = torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(3, 1)
    right = [[1.0, 2.0, 5.0], [7.0, 13.0, 16.0]]
    assert quantization.dequantize(codes, scales, lows).tolist() == right
    plain = quantization.dequantize(codes, scales).tolist()
    assert plain == [[0.0, 1.0, 4.0], [6.0, 12.0, 15.0]]
    refuses("scales", quantization.dequantize, codes, torch.ones(4, 1))


def test_relative_error_is_a_share_of_the_root_mean_square():
    weight = torch.tensor([3.0, 0.0, 4.0, 0.0])
    error = quantization.relative_error(weight, weight + torch.tensor([0, 0, 0, 1.0]))
    assert isinstance(error, float) and math.isclose(error, 1 / 5, rel_tol=1e-6)
    assert quantization.relative_error(weight, weight) == 0


def test_bits_per_weight_counts_the_constants():
    assert quantization.bits_per_weight(4, 32) == 4.5
    assert quantization.bits_per_weight(4, 32, constants=2) == 5
    assert quantization.bits_per_weight(8, 1, 32) == 40
    assert quantization.bits_per_weight(0, 1, 0, 0) == 0
    refuses("group", quantization.bits_per_weight, 4, 0.5)
    refuses("bits", quantization.bits_per_weight, -1, 32)
    refuses("scale_bits", quantization.bits_per_weight, 4, 32, -1)
    refuses("scale_bits", quantization.bits_per_weight, 4, 32, 16, -1, shown="16, ")


# Levels

# Dettmers et al. 2023, Appendix E
PRINTED = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
PRINTED += [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
PRINTED += [0.07958029955625534, 0.16093020141124725, 0.24611230194568634]
PRINTED += [0.33791524171829224, 0.44070982933044434, 0.5626170039176941]
PRINTED += [0.7229568362236023, 1.0]


def test_nf4_has_the_levels_that_the_paper_prints():
    levels = quantization.nf4_levels()
    assert levels.dtype == torch.float32
    close(levels, torch.tensor(PRINTED), 1e-6)
    assert str(levels[7].item()) == "0.0" and levels[0] == -1 and levels[15] == 1


def test_levels_are_quantiles_in_two_halves():
    normal = statistics.NormalDist()
    for bits in range(2, 9):
        levels = quantization.normal_levels(bits)
        count = 2**bits
        assert len(levels) == count and (levels.diff() > 0).all()
        end = 1 - (1 / (2 * count) + 1 / (2 * (count - 1))) / 2
        top = normal.inv_cdf(end)
        half = count // 2
        for i in range(half + 1):
            right = normal.inv_cdf(0.5 + (end - 0.5) * i / half) / top
            assert math.isclose(levels[half - 1 + i], right, abs_tol=1e-6)
        for i in range(half):
            right = -normal.inv_cdf(0.5 + (end - 0.5) * i / (half - 1)) / top
            assert math.isclose(levels[half - 1 - i], right, abs_tol=1e-6)
    assert torch.equal(quantization.normal_levels(), quantization.nf4_levels())


@quick
@given(seed=seeds, group=groups, bits=st.integers(2, 8))
def test_quantize_levels_finds_the_nearest(seed, group, bits):
    weight = random(2, 12, seed=seed)
    levels = quantization.normal_levels(bits)
    codes, scales = quantization.quantize_levels(weight, levels, group)
    assert codes.dtype == torch.uint8 and codes.shape == weight.shape
    rows = quantization.in_groups(weight, group)
    assert torch.equal(scales, rows.abs().amax(-1, keepdim=True))
    nearest = (rows / scales)[..., None].sub(levels).abs().argmin(-1)
    assert codes.flatten().tolist() == nearest.flatten().tolist()


def test_quantize_levels_takes_any_that_increase():
    two = torch.tensor([-1.0, 1.0])
    codes, scales = quantization.quantize_levels(torch.tensor([0.1, -0.4]), two)
    assert codes.tolist() == [1, 0]
    close(scales.tolist(), [[0.4]], 1e-6)
    many = torch.linspace(-1, 1, 256)
    codes, _ = quantization.quantize_levels(torch.tensor([1.0, -1.0]), many)
    assert codes.tolist() == [255, 0]
    wide = torch.tensor([0.5000000001, 1.0], dtype=torch.double)
    halves = torch.tensor([0.0, 1.0])
    assert quantization.quantize_levels(wide, halves)[0].tolist() == [1, 1]
    lists = [-1.0, 1.0, 0.0], [[-1.0, 1.0], [-1.0, 1.0]], [1.0, -1.0], [0.0, 0.0]
    many = torch.linspace(-1, 1, 257)
    for bad in two[:1], many, *map(torch.tensor, lists):
        refuses("levels", quantization.quantize_levels, torch.ones(2), bad)
    refuses("group", quantization.quantize_levels, torch.ones(2), two, 3)


# Double quantization, packing, the layer


@quick
@given(seed=seeds, count=st.sampled_from([1, 5, 256, 257, 600]))
def test_scales_are_kept_to_a_sixteenth_of_their_distance_from_the_mean(seed, count):
    scales = random(count, 1, seed=seed).abs() + 1
    codes, seconds, mean = quantization.quantize_scales(scales)
    blocks = math.ceil(count / 256)
    assert codes.dtype == torch.uint8 and codes.shape == (blocks, 256)
    assert seconds.shape == (blocks, 1) and mean.shape == ()
    close(mean, scales.mean())
    again = quantization.dequantize_scales(codes, seconds, mean, count)
    assert again.shape == scales.shape and again.dtype == torch.float32
    for i, (a, b) in enumerate(zip(again, scales, strict=True)):
        least = 2**-10 * seconds[i // 256, 0]  # half the step of the smallest floats
        assert abs(a - b) <= max(abs(b - mean) / 16, least) + 1e-6
    off = F.pad((scales - mean).flatten(), (0, blocks * 256 - count))
    largest = off.view(-1, 256).abs().amax(-1)
    close(seconds.flatten(), largest / 448, 1e-6)


def test_codes_of_scales_are_8_bit_floats():
    off = torch.tensor([[0.0], [448.0], [-448.0], [1.0], [1.06], [1.07], [-0.3]])
    scales = torch.cat([off, torch.full((249, 1), -2.83 / 249)])  # their mean is 0
    codes, seconds, mean = quantization.quantize_scales(scales)
    assert math.isclose(seconds.item(), 1, rel_tol=1e-6)
    again = quantization.dequantize_scales(codes, seconds, mean, 7)[:, 0]
    close(again, torch.tensor([0, 448, -448, 1, 1, 1.125, -0.3125]), 1e-4)
    assert codes[0, 1] == 0b01111110 and codes[0, 2] == 0b11111110


def test_scales_that_are_equal_or_tiny_stay_finite():
    equal = torch.full((300, 1), 0.3)
    parts = quantization.quantize_scales(equal)
    close(quantization.dequantize_scales(*parts, 300), equal, 1e-6)
    least = 2.0**-149
    for most in 300, 627, 671:  # the scale of these is rounded to the least float
        tiny = torch.tensor([[2 * most * least], [0.0]])
        parts = quantization.quantize_scales(tiny)
        again = quantization.dequantize_scales(*parts, 2)
        assert again.isfinite().all() and (again - tiny).abs().max() <= most * least


def test_an_outlier_does_not_spoil_the_scales_of_its_block():
    """One weight of 8 among many of 0.02: the other rows lose what NF4 loses."""
    for rows, columns in (64, 256), (256, 1024):
        original = nn.Linear(columns, rows, bias=False)
        with torch.no_grad():
            original.weight.copy_(0.02 * random(rows, columns))
            original.weight[0, 0] = 8
        others = original.weight.detach()[1:]
        found = {}
        for double in False, True:
            left = quantization.NF4Linear(original, double=double).weight[1:]
            found[double] = quantization.relative_error(others, left)
        assert found[False] < 0.1 and found[True] < found[False] + 0.01


def test_pairs_share_a_byte():
    codes = torch.tensor([[1, 2, 15, 0], [9, 9, 0, 15]], dtype=torch.uint8)
    packed = quantization.pack_pairs(codes)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == [[0x21, 0x0F], [0x99, 0xF0]]
    assert torch.equal(quantization.unpack_pairs(packed), codes)
    every = torch.arange(256, dtype=torch.uint8)
    again = quantization.pack_pairs(quantization.unpack_pairs(every))
    assert torch.equal(again, every)
    one = codes[0, :1]
    for bad in codes.int(), codes[:, :3], codes + 1, one, one[0], codes[:, :1]:
        refuses("codes", quantization.pack_pairs, bad)


def linear(inputs, outputs, bias=True, seed=0):
    made = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p.copy_(random(*p.shape, seed=seed + i))
    return made


def test_the_layer_computes_with_the_stored_weight():
    for inputs, outputs, group in (128, 5, 64), (12, 3, 4), (12, 70, 4), (6, 4, None):
        for bias in False, True:
            for double in False, True:
                original = linear(inputs, outputs, bias)
                layer = quantization.NF4Linear(original, group, double)
                assert (layer.in_features, layer.out_features) == (inputs, outputs)
                levels = quantization.nf4_levels()
                weight = original.weight.detach()
                codes, scales = quantization.quantize_levels(weight, levels, group)
                if double:
                    parts = quantization.quantize_scales(scales)
                    scales = quantization.dequantize_scales(*parts, len(scales))
                right = quantization.dequantize(levels[codes.int()], scales)
                assert torch.equal(layer.weight, right)
                assert not layer.weight.requires_grad
                x = random(2, 3, inputs)
                bias_there = original.bias if bias else None
                close(layer(x), F.linear(x, right, bias_there), 1e-4)
                assert quantization.relative_error(weight, right) < 0.2


def test_the_layer_has_groups_of_64_and_double_scales_unless_told():
    original = linear(128, 8)
    one = quantization.NF4Linear(original)
    two = quantization.NF4Linear(original, 64, True)
    assert torch.equal(one.weight, two.weight)
    assert set(one.state_dict()) == {"packed", "scales", "seconds", "mean", "bias"}
    assert one.scales.dtype == torch.uint8 and one.groups == 16


def test_the_layer_has_nothing_to_train_and_can_be_stored():
    original = linear(64, 8)
    layer = quantization.NF4Linear(original)
    assert list(layer.parameters()) == []
    assert torch.equal(layer.bias, original.bias) and not layer.bias.requires_grad
    with torch.no_grad():
        original.bias.zero_()
        original.weight.zero_()
    assert layer.bias.any() and layer.weight.any()
    other = quantization.NF4Linear(linear(64, 8, seed=9))
    assert not torch.equal(other.weight, layer.weight)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)
    assert torch.equal(other.bias, layer.bias)
    assert quantization.NF4Linear(linear(64, 8, bias=False)).bias is None


def test_the_gradient_reaches_only_the_input():
    layer = quantization.NF4Linear(linear(12, 5), 4).double()
    x = random(2, 3, 12, dtype=torch.double).requires_grad_()
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks
    with hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = layer(x)
    assert kept == [], "the unpacked weight is not kept"
    grad = random(2, 3, 5, seed=1, dtype=torch.double)
    y.backward(grad)
    close(x.grad, grad @ layer.weight.double(), 1e-12)
    assert torch.autograd.gradcheck(layer, x)


def test_the_layer_keeps_the_type_of_its_input():
    for bias in False, True:
        layer = quantization.NF4Linear(linear(64, 4, bias))
        right = layer(random(3, 64))
        for dtype in torch.float16, torch.bfloat16, torch.float32, torch.float64:
            x = random(3, 64).to(dtype).requires_grad_()
            y = layer(x)
            assert y.dtype == dtype
            y.sum().backward()
            assert x.grad.dtype == dtype
            close(y.float(), right, 0.2 if dtype == torch.bfloat16 else 0.05)


def test_the_layer_moves_to_another_device():
    for bias in False, True:
        for double in False, True:
            layer = quantization.NF4Linear(linear(64, 4, bias), double=double)
            here = {
                tensor.device.type
                for tensor in vars(layer).values()
                if torch.is_tensor(tensor)
            }
            assert not here, "a tensor that does not move with the layer"
            bits = quantization.stored_bits(layer)
            layer.to("meta")
            assert quantization.stored_bits(layer) == bits
            x = torch.ones(3, 64, device="meta", requires_grad=True)
            y = layer(x)
            assert y.device.type == "meta" and y.shape == (3, 4)
            y.sum().backward()
            assert x.grad.device.type == "meta"


def test_the_layer_of_a_model_in_another_precision():
    """Built from it, the layer stores as much; turned into it, it computes on."""
    for dtype in torch.float16, torch.bfloat16, torch.float64:
        original = linear(128, 4).to(dtype)
        x = random(3, 128).to(dtype)
        for double in False, True:
            plain = quantization.NF4Linear(linear(128, 4), double=double)
            made = quantization.NF4Linear(original, double=double)
            for part, like in zip(
                (made.packed, made.scales), (plain.packed, plain.scales), strict=True
            ):
                assert part.dtype == like.dtype
            bits = quantization.stored_bits(plain)
            assert quantization.stored_bits(made) == bits
            assert made.weight.dtype == torch.float32
            weight = original.weight.detach()
            assert quantization.relative_error(weight, made.weight) < 0.12
            right = plain(random(3, 128))
            for each in made, plain.to(dtype):
                y = each(x)
                assert y.dtype == dtype
                assert quantization.relative_error(right, y.float()) < 0.02


def test_the_layer_refuses_bad_input():
    make = quantization.NF4Linear
    refuses("linear", make, nn.Embedding(4, 64))
    refuses("linear", make, torch.ones(4, 64))
    refuses("group", make, linear(65, 4), shown="64, ")
    refuses("codes", make, linear(3, 4), None, shown="")
    broken = linear(64, 4)
    with torch.no_grad():
        broken.weight[0, 0] = math.nan
    refuses("weight", make, broken, shown="")


def test_stored_bits_are_those_of_its_bytes():
    for inputs, outputs in (64, 8), (256, 1024):
        for bias in False, True:
            original = linear(inputs, outputs, bias)
            single = quantization.NF4Linear(original, double=False)
            assert quantization.stored_bits(single) == 4 + 32 / 64
            count, groups = inputs * outputs, inputs * outputs / 64
            double = quantization.NF4Linear(original)
            blocks = math.ceil(groups / 256)
            bits = 4 + 8 * (256 * blocks + 4 * blocks + 4) / count
            assert math.isclose(quantization.stored_bits(double), bits)


# Three values, and two


@quick
@given(seed=seeds, group=groups)
def test_ternary_and_sign_are_by_hand(seed, group):
    weight = random(2, 12, seed=seed, dtype=torch.double)
    for quantize in quantization.quantize_ternary, quantization.quantize_sign:
        codes, scales = quantize(weight, group)
        assert codes.dtype == torch.int8 and codes.shape == weight.shape
        found = []
        for lot, scale in zip(lots(weight, group), scales[:, 0].tolist(), strict=True):
            assert math.isclose(scale, sum(map(abs, lot)) / len(lot))
            for value in lot:
                whole = max(-1, min(1, round(value / scale)))
                sign = 1 if value >= 0 else -1
                ternary = quantize is quantization.quantize_ternary
                found.append(whole if ternary else sign)
        assert codes.flatten().tolist() == found


def test_ternary_and_sign_of_zeros():
    zeros = torch.zeros(2, 4)
    codes, scales = quantization.quantize_ternary(zeros)
    assert not codes.any() and not scales.any() and scales.shape == (1, 1)
    codes, scales = quantization.quantize_sign(zeros)
    assert (codes == 1).all() and not scales.any() and scales.shape == (1, 1)
    for quantize in quantization.quantize_ternary, quantization.quantize_sign:
        assert not quantization.dequantize(*quantize(zeros)).any()
        refuses("weight", quantize, torch.tensor([1.0, math.nan]))
        refuses("group", quantize, zeros, 3)


def test_low_bits_go_forward_and_floats_back():
    for bias in False, True:
        original = linear(12, 5, bias)
        layer = quantization.LowBitLinear(original, quantization.quantize_ternary)
        assert layer.weight is original.weight and layer.bias is original.bias
        assert len(list(layer.parameters())) == 1 + bias
        left = quantization.dequantize(
            *quantization.quantize_ternary(original.weight.detach())
        )
        x = random(2, 3, 12).requires_grad_()
        y = layer(x)
        close(y, F.linear(x, left, original.bias), 1e-5)
        grad = random(2, 3, 5, seed=1)
        y.backward(grad)
        close(x.grad, grad @ left, 1e-5)
        weight_grad = torch.einsum("abo,abi->oi", grad, x.detach())
        close(layer.weight.grad, weight_grad, 1e-5)
    refuses("linear", quantization.LowBitLinear, nn.Embedding(2, 3), None)


def test_every_linear_is_replaced():
    tree = nn.Sequential(
        nn.Linear(2, 3), nn.ReLU(), nn.ModuleDict({"a": nn.Linear(3, 3)})
    )
    old = tree[0], tree[2]["a"]
    made = []

    def make(each):
        made.append(each)
        return nn.Identity()

    assert quantization.replace_linears(tree, make) == 2
    assert made == list(old)
    assert isinstance(tree[0], nn.Identity) and isinstance(tree[2]["a"], nn.Identity)
    assert isinstance(tree[1], nn.ReLU)
    assert quantization.replace_linears(tree, make) == 0


# Models


def small_model(seed=0):
    """A model with blocks, and a linear layer outside them."""
    model = nn.Module()
    parts = nn.Linear(4, 4, bias=False), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    model.blocks = nn.ModuleList(parts)
    model.head = nn.Linear(4, 4)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(random(*p.shape, seed=seed + i))
    return model


def test_weights_are_others_for_a_while():
    model = small_model()
    kept = {name: p.clone() for name, p in model.named_parameters()}
    matrices = {"blocks.0.weight", "blocks.1.1.weight"}

    def same(factor):
        for name, p in model.named_parameters():
            times = factor if name in matrices else 1
            assert torch.equal(p, times * kept[name]), name

    with quantization.weights_as(model, lambda w: 2 * w) as got:
        assert got is model
        same(2)
    same(1)
    try:
        with quantization.weights_as(model, lambda w: 3 * w):
            raise KeyError("inside")
    except KeyError:
        same(1)

    calls = []

    def breaks(weight):
        calls.append(weight)
        return 5 * weight if len(calls) == 1 else 1 / 0

    try:
        with quantization.weights_as(model, breaks):
            raise AssertionError("never entered")
    except ZeroDivisionError:
        same(1)


def test_inputs_are_others_for_a_while():
    model, x = small_model(), random(3, 4)

    def run():
        for block in model.blocks:
            yield block(x)
        yield model.head(x)

    plain = list(run())
    with quantization.inputs_as(model, lambda x: 2 * x) as got:
        assert got is model
        changed = list(run())
    close(changed[0], 2 * plain[0], 1e-5)
    second = model.blocks[1][1]
    close(changed[1], F.linear(2 * x.relu(), second.weight, second.bias), 1e-5)
    assert torch.equal(changed[2], plain[2])
    try:
        with quantization.inputs_as(model, lambda x: 1 / 0):
            model.blocks[0](x)
    except ZeroDivisionError:
        pass
    for a, b in zip(run(), plain, strict=True):
        assert torch.equal(a, b)


def test_rounded_quantizes_and_reads_back():
    weight = random(4, 12)
    q = quantization

    def half(parts):
        return [part.half().float() for part in parts]

    for bits in 2, 4, 8:
        for group in None, "row", 4:
            codes, *parts = q.quantize_absmax(weight, bits, group)
            right = q.dequantize(codes, *half(parts))
            assert torch.equal(q.rounded(weight, "absmax", bits, group), right)
            codes, *parts = q.quantize_zero_point(weight, bits, group)
            right = q.dequantize(codes, *half(parts))
            assert torch.equal(q.rounded(weight, "zero point", bits, group), right)
            levels = q.normal_levels(bits)
            codes, *parts = q.quantize_levels(weight, levels, group)
            right = q.dequantize(levels[codes.int()], *half(parts))
            assert torch.equal(q.rounded(weight, "NormalFloat", bits, group), right)
    assert torch.equal(
        q.rounded(weight, "absmax", 4), q.rounded(weight, "absmax", 4, None)
    )
    refuses("scheme", q.rounded, weight, "nearest", 4)
    for scheme in "absmax", "zero point", "NormalFloat":
        refuses("bits", q.rounded, weight, scheme, 9)
        refuses("group", q.rounded, weight, scheme, 4, 5)


def test_rounded_refuses_what_16_bits_cannot_scale():
    rounded, name = quantization.rounded, "weight.abs().max()"
    weight = random(4, 12)
    weight = weight / weight.abs().max()
    weight[0, 0] = -1.5  # the largest is not the highest
    for scheme in "absmax", "zero point", "NormalFloat":
        for bits, group in itertools.product((2, 4, 8), (None, "row", 4)):
            steps = 2 ** (bits - 1) - 1 if scheme == "absmax" else 1
            plain = rounded(weight, scheme, bits, group)
            for factor in 1e-2, 4e4 * steps:
                left = rounded(factor * weight, scheme, bits, group)
                close(left / factor, plain, 0.01)
            for factor in 1e-9, 1e-35, 7e4 * steps, 1e30:
                bad = factor * weight
                text = refuses(name, rounded, bad, scheme, bits, group)
                assert f" = {bad.abs().max().item()}, " in text
                assert text.endswith(": 3e-06 to 65504")
            zeros = torch.zeros(4, 12)
            assert torch.equal(rounded(zeros, scheme, bits, group), zeros)
    refuses(name, rounded, torch.full((2, 4), 1e-9), "zero point", 4)
    weight[1] = 1e-9  # beside the others a loss without harm
    left = rounded(weight, "absmax", 4, "row")
    assert left.any(-1).tolist() == [True, False, True, True]


def test_rounded_moves_a_weight_by_a_hundredth_of_the_largest_at_most():
    """With two bits a scale is the largest weight; float16 has steps of 2**-24."""
    step = 2.0**-24
    weight = torch.tensor([49.5 * step, 0.0])  # half a step of 49.5: over a hundredth
    refuses("weight.abs().max()", quantization.rounded, weight, "absmax", 2)
    weight = torch.tensor([50.5 * step, 0.0])  # half a step of 50.5: less
    close(quantization.rounded(weight, "absmax", 2), weight, step)


def test_scheme_bytes_counts_codes_and_constants():
    weight = torch.ones(4, 12)
    assert quantization.scheme_bytes(weight, "absmax", 4) == 24 + 2
    assert quantization.scheme_bytes(weight, "absmax", 8, "row") == 48 + 2 * 4
    assert quantization.scheme_bytes(weight, "NormalFloat", 4, 6) == 24 + 2 * 8
    assert quantization.scheme_bytes(weight, "zero point", 4, 6) == 24 + 2 * 2 * 8


def test_text_losses_are_those_of_each_piece():
    table = random(7, 7, dtype=torch.double).requires_grad_()
    seen = []

    def model(ids):
        assert ids.shape == (1, 5)
        seen.append(torch.is_grad_enabled())
        return table[ids]

    pieces = torch.randint(7, (3, 6), generator=generator())
    losses = quantization.text_losses(model, pieces)
    assert losses.shape == (3,) and seen == [False] * 3
    for loss, piece in zip(losses.tolist(), pieces.tolist(), strict=True):
        nats = [
            -table[a].log_softmax(-1)[b].item() for a, b in itertools.pairwise(piece)
        ]
        assert math.isclose(loss, sum(nats) / 5)


@quick
@given(seed=seeds, group=st.sampled_from([None, "row"]))
def test_outliers_stay_apart(seed, group):
    x = random(2, 3, 8, seed=seed)
    x[1, 2, 5] = -1e4
    x[0, 0, 2] = 6.5
    got = quantization.outliers_apart(x, 8, group)
    large = {i for i in range(8) if x[..., i].abs().max() > 6}
    assert {2, 5} <= large
    rest = x.clone()
    for i in large:
        rest[..., i] = 0
        assert torch.equal(got[..., i], x[..., i])
    right = quantization.rounded(rest, "absmax", 8, group)
    for i in set(range(8)) - large:
        assert torch.equal(got[..., i], right[..., i])


def test_outliers_are_above_6_unless_told():
    x = torch.tensor([[6.0, 1.0, 0.3], [-2.0, 0.5, 0.1]])
    assert torch.equal(
        quantization.outliers_apart(x), quantization.rounded(x, "absmax", 8)
    )
    for most in 5.9, 1.9:
        got = quantization.outliers_apart(x, 2, None, most)
        assert torch.equal(got[:, 0], x[:, 0])
    assert torch.equal(
        quantization.outliers_apart(x, 4), quantization.rounded(x, "absmax", 4, None)
    )
    refuses("bits", quantization.outliers_apart, x, 1)
    refuses("group", quantization.outliers_apart, x, 8, 2)


# What fewer bits are worth


def test_bits_of_the_formats():
    bits = quantization.FORMAT_BITS
    assert len(bits) == 8 and bits["float32"] == 32 and bits["float16"] == 16
    assert bits["int8, a scale for 4,096"] == 8 + 16 / 4096
    assert bits["4 bits, zero point, groups of 32"] == 5
    assert bits["NF4, groups of 64"] == 4.5
    assert bits["NF4, doubly quantized"] == 4 + 0.126953125
    assert bits["three values, five in a byte"] == 1.6 and bits["one bit"] == 1
    layer = quantization.NF4Linear(linear(1024, 256, bias=False))
    stored = quantization.stored_bits(layer)
    mean = 32 / (1024 * 256)
    assert math.isclose(stored - mean, bits["NF4, doubly quantized"])


def without(*kernels):
    """torch without these functions, as older or other builds are."""
    patches = contextlib.ExitStack()
    for kernel in kernels:
        real = getattr(torch, kernel)
        patches.callback(setattr, torch, kernel, real)
        delattr(torch, kernel)
    return patches


def test_int8_product_is_with_the_weight():
    x, weight = random(3, 24), random(5, 24, seed=1)
    codes, scales = quantization.quantize_absmax(weight, 8, "row")
    right = x @ quantization.dequantize(codes, scales).T
    close(quantization.int8_product(x, codes, scales), right, 1e-5)
    double = quantization.int8_product(x.double(), codes, scales.double())
    assert double.dtype == torch.double
    close(double.float(), right, 1e-5)


def test_kernels_compute_the_product_and_so_do_their_stand_ins():
    q = quantization
    for T, inputs, outputs, seed in (1, 64, 32, 0), (3, 128, 64, 1):
        x, weight = random(T, inputs, seed=seed), random(outputs, inputs, seed=9)
        eight = q.quantize_absmax(weight, 8, "row")
        right = x @ q.dequantize(*eight).T
        four = q.quantize_absmax(weight, 4, 32)
        right_four = x @ q.dequantize(*four).T
        for missing in (
            (),
            (
                "_weight_int8pack_mm",
                "_convert_weight_to_int4pack_for_cpu",
                "_int_mm",
            ),
        ):
            with without(*missing):
                for dtype in torch.float32, torch.float64:
                    fast = q.int8_product_fast(x.to(dtype), *eight)
                    assert fast.dtype == torch.bfloat16
                    assert fast.shape == right.shape
                    assert q.relative_error(right, fast.float()) < 0.02
                parts = q.pack_int4_fast(*four)
                assert (parts[1] is None) == bool(missing)
                fast = q.int4_product_fast(x, *parts)
                assert fast.dtype == torch.bfloat16
                assert q.relative_error(right_four, fast.float()) < 0.02
                whole, each = q.quantize_absmax(x, 8, "row")
                exact = whole.long() @ eight[0].long().T
                exact = exact.float() * each * eight[1].T
                found = q.whole_product(x, *eight)
                assert found.dtype == torch.float32
                close(found, exact, 1e-5)
                assert q.relative_error(right, found) < 0.02


def test_the_kernels_are_used():
    q, x = quantization, random(1, 64)
    eight = q.quantize_absmax(random(32, 64), 8, "row")
    for name, product in (
        ("_weight_int8pack_mm", q.int8_product_fast),
        ("_int_mm", q.whole_product),
    ):
        kernel = getattr(torch, name)
        with mock.patch.object(torch, name, mock.Mock(wraps=kernel)) as used:
            product(x, *eight)
        assert used.call_count == 1, name


def test_int4_is_packed_by_halves():
    codes, scales = quantization.quantize_absmax(random(32, 64), 4, 32)
    packed, pairs, group = quantization.pack_int4_fast(codes, scales)
    assert packed.dtype == torch.uint8 and packed.numel() == codes.numel() // 2
    assert pairs.shape == (2, 32, 2) and group == 32
    assert not pairs[..., 1].any() and pairs.is_contiguous()
    close(pairs[..., 0].T.float(), scales.view(32, 2), 0.01)


# The stored measurement


def stored(name):
    file = ROOT / "book" / "_assets" / "quantization" / name
    return json.loads(file.read_text(encoding="utf-8"))


def load_make():
    return module_at(MAKE)


def test_the_measurements_are_of_this_code():
    make = load_make()
    widths, speed = stored("widths.json"), stored("speed.json")
    assert widths["digest"] == make.digest(make.WIDTHS, make.SMOLLM2_SHA256)
    assert speed["digest"] == make.digest(make.SPEED)
    assert widths["pieces"] == make.pieces_of(data.king_james())
    settings_there = [tuple(row["setting"]) for row in widths["settings"]]
    expected = itertools.product(make.SCHEMES, make.BITS, make.GROUPS)
    assert settings_there == list(expected)
    assert all(len(row["losses"]) == make.PIECES for row in widths["settings"])


def test_the_stored_losses_are_those_of_the_models():
    widths = stored("widths.json")
    model = real_model.load_smollm2()
    piece = torch.tensor(widths["pieces"][2:3])
    exact = quantization.text_losses(model, piece)
    assert abs(exact.item() - widths["exact"][2]) < 1e-3
    row = next(r for r in widths["settings"] if r["setting"] == ["absmax", 8, "row"])
    with quantization.weights_as(
        model, lambda w: quantization.rounded(w, "absmax", 8, "row")
    ):
        loss = quantization.text_losses(model, piece).item()
    assert abs(loss - row["losses"][2]) < 1e-2


def test_fewer_bits_lose_more():
    """In the stored table: with groups of 32, and within the same scheme."""
    widths = stored("widths.json")
    found = {tuple(row["setting"]): row for row in widths["settings"]}
    for scheme in "absmax", "NormalFloat":
        losses = [sum(found[scheme, b, 32]["losses"]) for b in (8, 4, 3, 2)]
        assert losses == sorted(losses)
        gpt = [found[scheme, b, 32]["gpt"] for b in (8, 4, 3, 2)]
        assert gpt == sorted(gpt)
    assert found["zero point", 4, 32]["losses"] == widths["exact"]


# The exercises


@functools.cache
def book():
    return run_exercises("efficiency/quantization", quantization)


def test_the_solutions_pass():
    solutions_pass(book())


def whole_zero_by(
    least=min,
    most=max,
    steps=-1,
    zero_of=round,
    round_=torch.round,
    clamp=True,
    dtype=torch.int64,
):
    """An answer to the exercise, right unless an argument says otherwise."""

    def whole_zero(weight, bits):
        low, high = least(0, weight.min().item()), most(0, weight.max().item())
        scale = (high - low) / (2**bits + steps)
        zero = zero_of(-low / scale)
        codes = round_(weight / scale) + zero
        codes = codes.clamp(0, 2**bits - 1) if clamp else codes
        return codes.to(dtype), scale, zero

    return whole_zero


def data_only(zero, of_data):
    return of_data


def test_whole_zero_is_checked():
    def half_up(x):
        return math.floor(x + 0.5)

    for right in (
        whole_zero_by(),
        whole_zero_by(zero_of=half_up),
        whole_zero_by(round_=lambda x: (x + 0.5).floor()),
        lambda *a: tuple(map(torch.as_tensor, book().whole_zero(*a))),
    ):
        book().check_whole_zero(right)

    def shifted(weight, bits):
        codes, scale, zero = book().whole_zero(weight, bits)
        return codes, scale, zero + 1

    def lowest(weight, bits):
        codes, scales, lows = quantization.quantize_zero_point(weight, bits)
        return codes.long(), scales.item(), (-lows / scales).item()

    def moved(weight, bits):
        codes, scale, zero = book().whole_zero(weight, bits)
        return codes + 1, scale, zero + 1

    def half_as_wide(weight, bits):
        codes, scale, zero = book().whole_zero(weight, bits)
        return codes, scale / 2, zero

    def in_the_middle(weight, bits):
        scale = 2 * weight.abs().max().item() / (2**bits - 1)
        codes = (weight / scale).round() + 2 ** (bits - 1)
        return codes.clamp(0, 2**bits - 1).long(), scale, 2 ** (bits - 1)

    fails(
        book().check_whole_zero,
        whole_zero_by(least=data_only, most=data_only),  # not widened
        whole_zero_by(least=data_only),
        whole_zero_by(most=data_only),
        whole_zero_by(steps=0),
        whole_zero_by(zero_of=float),
        whole_zero_by(zero_of=math.floor),
        whole_zero_by(zero_of=math.ceil),
        whole_zero_by(round_=torch.floor),
        whole_zero_by(round_=torch.ceil),
        whole_zero_by(round_=torch.trunc),
        whole_zero_by(clamp=False),
        whole_zero_by(dtype=torch.float32),
        shifted,
        lowest,
        moved,
        half_as_wide,
        in_the_middle,
    )


def test_pack_trits_is_checked():
    right = book().pack_trits

    def backwards(codes):
        return right(codes.view(-1, 5).flip(-1).flatten())

    def unshifted(codes):
        return right(codes.clamp(min=0))

    def whole(codes):
        return right(codes).int()

    def alone(codes):
        return (codes + 1).to(torch.uint8)

    fails(book().check_pack_trits, backwards, unshifted, whole, alone)


def test_best_scale_is_checked():
    def absmax(weight, bits):
        return quantization.quantize_absmax(weight, bits)[1].item()

    def coarse(weight, bits):
        return 0.5 * absmax(weight, bits)

    def as_tensor(weight, bits):
        return torch.tensor(book().best_scale(weight, bits))

    fails(book().check_best_scale, absmax, coarse, as_tensor)


def test_most_parameters_is_checked():
    def without_scales(memory_bytes, bits, group, scale_bits):
        return int(8 * memory_bytes // (bits * group)) * group

    def part_of_a_group(memory_bytes, bits, group, scale_bits):
        return int(8 * memory_bytes // (bits + scale_bits / group))

    def in_floats(memory_bytes, bits, group, scale_bits):
        return float(book().most_parameters(memory_bytes, bits, group, scale_bits))

    wrong = without_scales, part_of_a_group, in_floats
    fails(book().check_most_parameters, *wrong)
