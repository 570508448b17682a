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


@pytest.mark.parametrize("scheme", ["absmax", "zero_point", "levels"])
@cases(seed=seeds, bits=st.integers(2, 8), group=groups)
def test_codes_and_scales_are_by_hand(scheme, seed, bits, group):
    weight = random(2, 12, seed=seed, dtype=torch.double)
    weight[0] = 0.3 * (seed % 2)  # a constant row: zeros, or not
    rows = weight.view(-1, {None: 24, "row": 12}.get(group, group))
    levels, quantize = q.normal_levels(bits), getattr(q, f"quantize_{scheme}")
    given = levels if scheme == "levels" else bits
    codes, scales, *lows = quantize(weight, given, group)
    low, high = torch.stack([row.sort().values[[0, -1]] for row in rows]).T[..., None]
    most, low = torch.maximum(high, -low), low if lows else 0 * low
    step = {
        "absmax": most / (2 ** (bits - 1) - 1),
        "zero_point": (high - low) / (2**bits - 1),
        "levels": most,
    }[scheme]
    shares = (rows - low) / step.where(step > 0, 1)
    right = shares.round()
    if scheme == "levels":
        right = (levels - shares[..., None]).abs().argmin(-1)
    close(scales, step)
    assert torch.equal(codes, right.view(weight.shape).to(codes.dtype))
    assert codes.dtype == (torch.int8 if scheme == "absmax" else torch.uint8)
    if scheme != "levels":
        left = (q.dequantize(codes, scales, *lows) - weight).view(rows.shape)
        assert (left.abs() <= scales / 2 + 1e-12).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_quantiles_in_two_halves(bits):
    quantile = statistics.NormalDist().inv_cdf
    levels, half = q.normal_levels(bits), 2 ** (bits - 1)
    end = 1 - (1 / (4 * half) + 1 / (2 * (2 * half - 1))) / 2
    above = [quantile(0.5 + (end - 0.5) * i / half) for i in range(half + 1)]
    below = [quantile(0.5 + (end - 0.5) * i / (half - 1)) for i in range(half)]
    right = torch.tensor([-x for x in below[:0:-1]] + above) / above[-1]
    close(levels, right, 1e-6)


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


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "inputs, outputs, group", [(128, 5, 64), (12, 70, 4), (6, 4, None)]
)
def test_the_layer_is_that_of_the_stored_weight(inputs, outputs, group, bias):
    """Forth and back; what is unpacked is not kept in between."""
    torch.manual_seed(0)
    original, other = (nn.Linear(inputs, outputs, bias=bias) for _ in range(2))
    x = random(2, 3, inputs).requires_grad_()
    layer, levels = q.NF4Linear(original, group), q.normal_levels(4)
    weight = original.weight.detach()
    codes, scales = q.quantize_levels(weight, levels, group)
    scales = q.dequantize_scales(*q.quantize_scales(scales), len(scales))
    right = q.dequantize(levels[codes.int()], scales)
    assert torch.equal(layer.weight, right) and not layer.weight.requires_grad
    with SavedBytes() as kept:
        y = layer(x)
    assert kept.most == 0
    close(y, F.linear(x, right, original.bias), 1e-4)
    y.backward(grad := random(2, 3, outputs, seed=1))
    close(x.grad, grad @ right, 1e-4)
    assert (right - weight).norm() < 0.2 * weight.norm()
    assert not list(layer.parameters()), "nothing to train"
    other = q.NF4Linear(other, group)
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


@pytest.mark.parametrize("T, inputs, outputs", [(1, 64, 32), (3, 128, 64)])
def test_products_are_right(T, inputs, outputs):
    """Those of whole numbers to the letter; the page compares the kernels'."""
    x, weight = random(T, inputs, seed=T), random(outputs, inputs, seed=9)
    codes, scales = eight = q.quantize_absmax(weight, 8, "row")
    close(q.int8_product(x, *eight), x @ q.dequantize(*eight).T, 1e-4)
    whole, each = q.quantize_absmax(x, 8, "row")
    exact = (whole.long() @ codes.long().T).float() * each * scales.T
    close(q.whole_product(x, *eight), exact, 1e-5)
