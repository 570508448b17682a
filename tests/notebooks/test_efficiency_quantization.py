"""The cells of efficiency/quantization against loops, torch and arithmetic."""

import contextlib
import functools
import math
import statistics

import cells
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, seeds
from torch import nn

from fieldguide.efficiency import quantization as q
from fieldguide.saved_bytes import SavedBytes

groups = st.sampled_from([None, "row", 12, 6, 4, 1])
random = functools.partial(cells.random, dtype=torch.float32)
SCHEMES = ["absmax", "zero_point", "levels"]


def lots(weight, group):
    """The groups of a (..., D) tensor as lists, by hand."""
    flat = weight.flatten().tolist()
    size = {None: len(flat), "row": weight.size(-1)}.get(group, group)
    return [flat[i : i + size] for i in range(0, len(flat), size)]


def linear(inputs, outputs, bias=True, seed=0):
    made = nn.Linear(inputs, outputs, bias=bias)
    for i, p in enumerate(made.parameters()):
        p.data = random(*p.shape, seed=seed + i)
    return made


def off(right, found):
    return (found.float() - right).norm() / right.norm()


def read_back(weight, group, double=False):
    """What a weight in NF4 stands for, step by step."""
    levels = q.normal_levels(4)
    codes, scales = q.quantize_levels(weight, levels, group)
    if double:
        parts = q.quantize_scales(scales)
        scales = q.dequantize_scales(*parts, len(scales))
    return q.dequantize(levels[codes.int()], scales)


def scale_by_hand(scheme, lot, bits):
    """A group's scale, what it is measured from, and what makes a code of a share."""
    levels, most = q.normal_levels(bits).tolist(), max(map(abs, lot))
    step = max(lot) - min(lot)

    def nearest(share):
        return min(range(len(levels)), key=lambda i: abs(levels[i] - share))

    return {
        "absmax": (most / (2 ** (bits - 1) - 1), 0, round),
        "zero_point": (step / (2**bits - 1), min(lot), round),
        "levels": (most, 0, nearest),
    }[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
@cases(seed=seeds, bits=st.integers(2, 8), group=groups)
def test_codes_and_scales_are_by_hand(scheme, seed, bits, group):
    weight = random(2, 12, seed=seed, dtype=torch.double)
    quantize = getattr(q, f"quantize_{scheme}")
    given = q.normal_levels(bits) if scheme == "levels" else bits
    codes, scales, *lows = quantize(weight, given, group)
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


def test_what_is_constant_stays_exact():
    zeros, levels = torch.zeros(2, 4), q.normal_levels(4)
    for quantize, given, code in (
        (q.quantize_absmax, 4, 0),
        (q.quantize_levels, levels, 7),
    ):
        codes, scales = quantize(zeros, given)
        assert (codes == code).all() and not scales.any()
    for constant in zeros, zeros + 0.3, zeros - 7:
        stored = q.quantize_zero_point(constant, 4)
        assert torch.equal(q.dequantize(*stored), constant)


# Dettmers et al. 2023, Appendix E
PRINTED = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
PRINTED += [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
PRINTED += [0.07958029955625534, 0.16093020141124725, 0.24611230194568634]
PRINTED += [0.33791524171829224, 0.44070982933044434, 0.5626170039176941]
PRINTED += [0.7229568362236023, 1.0]


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_quantiles_in_two_halves(bits):
    quantile = statistics.NormalDist().inv_cdf
    levels, half = q.normal_levels(bits), 2 ** (bits - 1)
    end = 1 - (1 / (4 * half) + 1 / (2 * (2 * half - 1))) / 2
    above = [quantile(0.5 + (end - 0.5) * i / half) for i in range(half + 1)]
    below = [quantile(0.5 + (end - 0.5) * i / (half - 1)) for i in range(half)]
    right = torch.tensor([-x for x in below[:0:-1]] + above) / above[-1]
    close(levels, right, 1e-6)
    if bits == 4:
        close(levels, torch.tensor(PRINTED), 1e-6)


@pytest.mark.parametrize("count", [1, 5, 256, 257, 600])
def test_scales_are_kept_to_a_sixteenth_of_their_distance_from_the_mean(count):
    scales = random(count, 1).abs() + 1
    codes, seconds, mean = q.quantize_scales(scales)
    blocks = math.ceil(count / 256)
    again = q.dequantize_scales(codes, seconds, mean, count)
    far = scales - mean
    least = 2**-10 * seconds.repeat_interleave(256, 0)[:count]  # half the least step
    assert ((again - scales).abs() <= torch.maximum(far.abs() / 16, least) + 1e-6).all()
    far = F.pad(far.flatten(), (0, blocks * 256 - count)).view(blocks, 256)
    close(seconds, far.abs().amax(-1, keepdim=True) / 448, 1e-6)
    close(mean, scales.mean())


def test_pairs_share_a_byte():
    codes = torch.tensor([[1, 2, 15, 0], [9, 9, 0, 15]], dtype=torch.uint8)
    packed = q.pack_pairs(codes)
    assert packed.tolist() == [[0x21, 0x0F], [0x99, 0xF0]]
    assert torch.equal(q.unpack_pairs(packed), codes)
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(q.pack_pairs(q.unpack_pairs(every)), every)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    "inputs, outputs, group", [(128, 5, 64), (12, 70, 4), (6, 4, None)]
)
def test_the_layer_is_that_of_the_stored_weight(inputs, outputs, group, double, bias):
    """Forth and back; what is unpacked is not kept in between."""
    original, x = linear(inputs, outputs, bias), random(2, 3, inputs).requires_grad_()
    layer = q.NF4Linear(original, group, double)
    weight = original.weight.detach()
    right = read_back(weight, group, double)
    assert torch.equal(layer.weight, right) and not layer.weight.requires_grad
    with SavedBytes() as kept:
        y = layer(x)
    assert kept.most == 0
    close(y, F.linear(x, right, original.bias), 1e-4)
    y.backward(grad := random(2, 3, outputs, seed=1))
    close(x.grad, grad @ right, 1e-4)
    assert off(weight, right) < 0.2
    assert not list(layer.parameters()), "nothing to train"
    other = q.NF4Linear(linear(inputs, outputs, bias, seed=9), group, double)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), y)


def test_weights_are_others_for_a_while():
    model = nn.Module()
    inner = nn.Sequential(nn.Linear(4, 6))
    model.blocks = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), inner)
    model.head = nn.Linear(4, 4)
    kept = {name: p.clone() for name, p in model.named_parameters()}
    with contextlib.suppress(KeyError), q.weights_as(model, lambda w: 2 * w):
        for name, p in model.named_parameters():
            changed = name in ("blocks.0.weight", "blocks.2.0.weight")
            assert torch.equal(p, (1 + changed) * kept[name]), name
        raise KeyError("inside")
    assert all(torch.equal(p, kept[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("scheme", ["absmax", "zero point", "NormalFloat"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [None, "row", 4])
def test_rounded_reads_back_what_16_bits_can_scale(scheme, bits, group):
    weight, levels = random(4, 12), q.normal_levels(bits)
    weight[0, 0] = -5.0  # the largest is not the highest
    codes, *parts = {
        "absmax": q.quantize_absmax(weight, bits, group),
        "zero point": q.quantize_zero_point(weight, bits, group),
        "NormalFloat": q.quantize_levels(weight, levels, group),
    }[scheme]
    codes = levels[codes.int()] if scheme == "NormalFloat" else codes
    right = q.dequantize(codes, *(part.half().float() for part in parts))
    assert torch.equal(q.rounded(weight, scheme, bits, group), right)


@pytest.mark.parametrize("T, inputs, outputs", [(1, 64, 32), (3, 128, 64)])
def test_products_are_right(T, inputs, outputs):
    x, weight = random(T, inputs, seed=T), random(outputs, inputs, seed=9)
    eight, four = q.quantize_absmax(weight, 8, "row"), q.quantize_absmax(weight, 4, 32)
    right, right_four = (x @ q.dequantize(*each).T for each in (eight, four))
    close(q.int8_product(x, *eight), right, 1e-4)
    whole, each = q.quantize_absmax(x, 8, "row")
    exact = (whole.long() @ eight[0].long().T).float() * each * eight[1].T
    close(q.whole_product(x, *eight), exact, 1e-5)
    fast = q.int4_product_fast(x, *q.pack_int4_fast(*four))
    assert off(right_four, fast) < 0.02
    for found in q.int8_product_fast(x, *eight), q.whole_product(x, *eight):
        assert off(right, found) < 0.02
