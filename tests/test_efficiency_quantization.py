"""The cells of efficiency/quantization against loops in Python, torch and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import math
import statistics

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from cells import close, refuses
from hypothesis import given, settings
from torch import nn

from fieldguide import quantization

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
groups = st.sampled_from([None, "row", 12, 6, 4, 1])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


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
    for bad in two[:1], torch.linspace(-1, 1, 257), -two, torch.zeros(2), two[None]:
        refuses("levels", quantization.quantize_levels, torch.ones(2), bad)
    refuses("group", quantization.quantize_levels, torch.ones(2), two, 3)


# Double quantization, packing, the layer


@quick
@given(seed=seeds, count=st.sampled_from([1, 5, 256, 257, 600]))
def test_scales_are_kept_to_half_a_step(seed, count):
    scales = random(count, 1, seed=seed).abs() + 1
    codes, seconds, mean = quantization.quantize_scales(scales)
    blocks = math.ceil(count / 256)
    assert codes.dtype == torch.int8 and codes.shape == (blocks, 256)
    assert seconds.shape == (blocks, 1) and mean.shape == ()
    close(mean, scales.mean())
    again = quantization.dequantize_scales(codes, seconds, mean, count)
    assert again.shape == scales.shape
    for i, (a, b) in enumerate(zip(again, scales, strict=True)):
        assert abs(a - b) <= seconds[i // 256, 0] / 2 + 1e-6
    off = F.pad((scales - mean).flatten(), (0, blocks * 256 - count))
    largest = off.view(-1, 256).abs().amax(-1)
    close(seconds.flatten(), largest / 127, 1e-6)


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
    assert one.scales.dtype == torch.int8 and one.groups == 16


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
