"""The cells of multimodal/text-to-image against loops, closed forms and torch's pieces.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import dataclasses
import functools
import itertools
import json
import math
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import (
    close,
    fails,
    generator,
    module_at,
    random,
    refusal,
    run_exercises,
    solutions_pass,
)
from torch import nn

from fieldguide import data
from fieldguide.multimodal import clip, text_to_image
from fieldguide.transformers import training

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "book" / "_assets" / "text-to-image"
NAN, INFINITY = float("nan"), float("inf")


def some_pictures(count=2, side=32, seed=0):
    shape = count, side, side, 3
    return torch.randint(256, shape, generator=generator(seed)).to(torch.uint8)


# Paths


FLOATS = torch.float32, torch.double
SHAPES = (1,), (3, 2), (4, 3, 5, 5)


@pytest.mark.parametrize(("shape", "dtype"), list(itertools.product(SHAPES, FLOATS)))
def test_the_way_is_straight(shape, dtype):
    noise, ends = random(*shape, dtype=dtype), random(*shape, seed=1, dtype=dtype)
    t = torch.rand(shape[0], generator=generator(2), dtype=torch.double)
    x, velocity = text_to_image.on_the_way(noise, ends, t)
    assert x.dtype == velocity.dtype == dtype and x.shape == velocity.shape == shape
    for b in range(shape[0]):
        close(x[b], (noise[b] + t[b] * (ends[b] - noise[b])).to(dtype), 1e-5)
        close(velocity[b], ends[b] - noise[b])
    for time, at in (0.0, noise), (1.0, ends):
        close(text_to_image.on_the_way(noise, ends, torch.full_like(t, time))[0], at)


def test_what_is_no_way_is_refused():
    noise, ends, t = random(3, 2), random(3, 2, seed=1), torch.rand(3)
    way = text_to_image.on_the_way
    for bad in noise.long(), noise.tolist(), torch.tensor(1.0), None:
        with refusal(r"^noise = .*floats \(B, ...\)$"):
            way(bad, ends, t)
    for bad in ends[:2], ends[:, :1], ends.float(), torch.cat([ends, ends], 1):
        with refusal(r"^points = .*torch.float64 \(3, 2\)$"):
            way(noise, bad, t)
    outside = [torch.tensor([0.5, each, 0.5]) for each in (-0.5, 1.5)]
    for bad in t[:2], t[:, None], t * NAN, *outside:
        with refusal(r"^t = .*\(3,\) numbers from 0 to 1$"):
            way(noise, ends, bad)


# The exact velocity


def slow_velocity(x, t, points, spread):
    """By Bayes' rule, one place at a time, with torch's own normal densities."""
    found = torch.zeros_like(x)
    for b in range(len(x)):
        time, rest = t[b], 1 - t[b]
        varies = rest**2 + time**2 * spread**2
        normal = torch.distributions.Normal(0.0, varies.sqrt())
        likely = torch.stack([normal.log_prob(x[b] - time * p).sum() for p in points])
        shares = (likely - likely.logsumexp(0)).exp()
        for share, p in zip(shares, points, strict=True):
            # point and noise are normal around p and 0: their means, given x
            point = p + time * spread**2 / varies * (x[b] - time * p)
            noise = rest / varies * (x[b] - time * p)
            found[b] += share * (point - noise)
    return found


CLOUDS = itertools.product([0.0, 0, 0.5, 2.0], [(5, 4, 2), (1, 1, 1), (3, 3, 3)])


@pytest.mark.parametrize(("spread", "sizes"), list(CLOUDS))
def test_the_exact_velocity_is_bayes_rule(spread, sizes):
    B, N, W = sizes
    x, points = random(B, W), random(N, W, seed=1)
    t = 0.9 * torch.rand(B, generator=generator(2), dtype=torch.double)
    t[0] = 0
    found = text_to_image.exact_velocity_fast(x, t, points, spread)
    close(found, slow_velocity(x, t, points, spread), 1e-9)
    if spread == 0:
        close(text_to_image.exact_velocity_fast(x, t, points), found)


def test_what_has_no_exact_velocity_is_refused():
    x, points, t = random(3, 2), random(4, 2, seed=1), torch.rand(3).double()
    exact = text_to_image.exact_velocity_fast
    wide, deep = random(4, 3), random(4, 2, 2)
    for bad in points[:0], points[0], points[:, :1], points[None], wide, deep:
        with refusal(r"^points = .*\(N, 2\), not empty$"):
            exact(x, t, bad)
    with refusal("^points = "):
        exact(x[0], t, points)
    for bad in x[None], random(3, 2, 2):
        with refusal("^points = "):
            exact(bad, t[: len(bad)], points)
    outside = [torch.tensor([0.5, each, 0.5]).double() for each in (-0.5, 1.0)]
    for bad in t[:2], t[:, None], t * NAN, *outside:
        with refusal(r"^t = .*\(3,\) numbers from 0 to below 1$"):
            exact(x, bad, points)
    for bad in -0.1, NAN, INFINITY:
        with refusal("^spread = .*0 or more, finite$"):
            exact(x, t, points, bad)


# Steps


def test_euler_walks_in_equal_steps():
    x, times = random(3, 2), []

    def velocity(x, t):
        assert t.shape == (3,) and t.dtype == x.dtype
        times.append(t[0].item())
        return x * (1 + t[:, None])

    for steps in 1, 2, 5:
        times.clear()
        found, right = text_to_image.euler(velocity, x, steps), x
        for k in range(steps):
            right = right * (1 + (1 + k / steps) / steps)
        close(found, right)
        assert times == [k / steps for k in range(steps)]
    for bad in 0, -1, 1.0, "1", None, True:
        with refusal("^steps = .*a whole number above 0$"):
            text_to_image.euler(velocity, x, bad)


def test_many_steps_end_on_the_points_and_one_on_their_mean():
    points, start = random(5, 2, seed=3), random(40, 2, seed=4)

    def velocity(x, t):
        return text_to_image.exact_velocity_fast(x, t, points)

    one = text_to_image.euler(velocity, start, 1)
    close(one, points.mean(0).expand_as(one), 1e-9)
    many = text_to_image.euler(velocity, start, 200)
    assert torch.cdist(many, points).amin(1).max() < 1e-3


def test_noise_is_drawn_in_float64():
    found = text_to_image.normal((3, 4), generator(5))
    close(found, torch.randn(3, 4, generator=generator(5), dtype=torch.double), 0)


# Training


def test_the_loss_is_of_velocities():
    ends, told = random(2000, 2, dtype=torch.float32), torch.ones(2000, 3)
    seen = {}

    def model(x, t, told):
        seen.update(x=x, t=t, told=told)
        return 3 * x

    loss = text_to_image.flow_loss(model, ends, told, generator(1))
    draws = generator(1)
    noise = torch.randn(2000, 2, generator=draws, dtype=torch.double).float()
    t = torch.rand(2000, generator=draws, dtype=torch.double).float()
    kept = torch.rand(2000, 1, generator=draws) >= 0.1
    x = (1 - t[:, None]) * noise + t[:, None] * ends
    close(seen["x"], x, 1e-6)
    close(seen["t"], t)
    assert torch.equal(seen["told"], kept.float().expand(-1, 3))
    close(loss, (3 * x - (ends - noise)).square().mean(), 1e-5)
    for share in 0.0, 0.7, 1.0:
        text_to_image.flow_loss(model, ends, told, generator(2), share)
        assert abs((seen["told"] == 0).float().mean() - share) < 0.04
    assert seen["x"].dtype == seen["t"].dtype == torch.float32


def test_a_share_that_is_dropped_is_below():
    seen = {}

    def model(x, t, told):
        seen["told"] = told
        return x

    drawn = torch.rand(2).double(), torch.full((2, 1), 0.1)
    with mock.patch.object(torch, "rand", side_effect=drawn):
        text_to_image.flow_loss(model, random(2, 2), torch.ones(2, 3), generator())
    assert (seen["told"] == 1).all(), "a tenth is not below a tenth"


class Line(nn.Module):
    """A model whose training can be done by hand."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([[0.5, -1.0], [2.0, 0.25]]).double())
        self.shift = nn.Parameter(torch.tensor([1.0, 2.0]).double())

    def forward(self, x, t, told):
        return x @ self.scale + self.shift * t[:, None] + told


def test_training_follows_the_plan():
    options = {"betas": (0.8, 0.95), "decay": 0.3, "clip": 0.5, "final": 0.2}
    plan = training.Recipe(6, batch=5, rate=0.05, warmup=2, **options)
    asked = []

    def batch(B, draws):
        asked.append(B)
        return (
            torch.randn(B, 2, generator=draws, dtype=torch.double),
            torch.zeros(B, 2).double(),
        )

    model, again = Line(), Line()
    losses = text_to_image.train_flow(model, batch, plan, generator(3))
    assert asked == [5] * 6 and losses.shape == (6,) and not losses.requires_grad
    optimizer = torch.optim.AdamW(
        again.parameters(), 0.05, betas=(0.8, 0.95), weight_decay=0.3
    )
    draws = generator(3)
    for step in range(6):
        loss = text_to_image.flow_loss(again, *batch(5, draws), draws)
        close(losses[step], loss.detach().float(), 1e-6)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(again.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 0.05 * training.rate_share(step, plan)
        optimizer.step()
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        close(a, b, 1e-7)


# The painter's parts


def test_times_are_waves_of_many_speeds():
    t = torch.tensor([0.0, 0.25, 1.0]).double()
    for W in 64, 4:
        found = text_to_image.time_waves(t, W)
        assert found.shape == (3, W) and found.dtype == torch.double
        for b, k in (0, 0), (1, 0), (1, W // 2 - 1), (2, 1):
            speed = 10 ** (3 * k / (W // 2 - 1))
            close(found[b, k], torch.sin(t[b] * speed), 1e-9)
            close(found[b, W // 2 + k], torch.cos(t[b] * speed), 1e-9)
    assert text_to_image.time_waves(t.float()).dtype == torch.float32
    assert text_to_image.time_waves(t).shape == (3, 64)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(200, 300), nn.Linear(8, 4)
        self.window = nn.Conv2d(16, 32, 3)
        self.norm = nn.GroupNorm(2, 4)


def test_fresh_weights_are_normal():
    model = Parts()
    assert text_to_image.fresh(model, generator(4), silent=("second.weight",)) is model
    draws = generator(4)
    for name, size, inputs in (
        ("first", (300, 200), 200),
        ("window", (32, 16, 3, 3), 144),
    ):
        drawn = torch.randn(size, generator=draws, dtype=torch.double)
        found = getattr(model, name).weight
        close(found, (drawn / math.sqrt(inputs)).float(), 1e-6)
        assert found.requires_grad
    assert not model.second.weight.any() and (model.norm.weight == 1).all()
    for name, weights in model.named_parameters():
        assert name.split(".")[1] == "weight" or not weights.any()
    text_to_image.fresh(model, generator(4))
    assert model.second.weight.all()
    assert text_to_image.fresh(nn.Linear(3, 1), generator()).weight.all()


def test_a_block_is_steered_by_what_it_is_told():
    block = text_to_image.fresh(text_to_image.ToldBlock(16, 5), generator(1))
    x, told = random(2, 16, 4, 4).float(), random(2, 5, seed=1).float()
    with torch.no_grad():
        block.norm1.weight.copy_(random(16, seed=2))
        block.norm1.bias.copy_(random(16, seed=3))
        block.told.bias.copy_(random(32, seed=4))
    assert block.norm2.weight is None

    def normed(x):
        parts = x.view(2, 8, -1)
        mean = parts.mean(2, keepdim=True)
        varies = parts.var(2, keepdim=True, correction=0)
        return ((parts - mean) / (varies + 1e-5).sqrt()).view_as(x)

    y = normed(x) * block.norm1.weight[:, None, None] + block.norm1.bias[:, None, None]
    y = F.conv2d(F.pad(F.silu(y), (1, 1, 1, 1)), block.conv1.weight)
    wanted = told @ block.told.weight.T + block.told.bias
    scale, shift = wanted[:, :16, None, None], wanted[:, 16:, None, None]
    y = F.silu(normed(y) * (1 + scale) + shift)
    y = F.conv2d(F.pad(y, (1, 1, 1, 1)), block.conv2.weight)
    close(block(x, told), x + y, 1e-4)


def test_squares_go_into_the_channels_and_back():
    x = random(2, 3, 4, 6)
    packed = text_to_image.smaller(x, lambda y: y)
    assert packed.shape == (2, 12, 2, 3)
    for c, i, j in (0, 0, 0), (1, 1, 0), (2, 0, 1), (2, 1, 1):
        close(packed[:, 4 * c + 2 * i + j], x[:, c, i::2, j::2])
    close(text_to_image.larger(packed, lambda y: y), x)
    close(text_to_image.smaller(x, lambda y: 2 * y), 2 * packed)
    close(text_to_image.larger(packed, lambda y: 2 * y), 2 * x)


def inputs(B=2, seed=0):
    x = random(B, 3, 32, 32, seed=seed, dtype=torch.float32)
    t = torch.rand(B, generator=generator(seed))
    return x, t, random(B, 384, seed=seed + 1, dtype=torch.float32) / 384**0.5


def test_the_painter_goes_down_and_up():
    model = text_to_image.Painter(generator(2), C=8, D=16, E=6)
    assert sum(p.numel() for p in text_to_image.Painter(generator()).parameters()) == (
        1_874_764
    )
    x, t, told = inputs()
    assert not model(x, t, told).any(), "it starts silent"
    for block in model.blocks:
        assert not block.conv2.weight.any() and block.conv1.weight.all()
    widths = [block.conv1.weight.size(0) for block in model.blocks]
    assert widths == [8, 16, 16, 16, 16, 8]
    text_to_image.fresh(model, generator(3))
    known = F.linear(told * math.sqrt(384), model.caption.weight)
    known = F.silu(known + F.linear(text_to_image.time_waves(t), model.time.weight))
    down, up = F.pixel_unshuffle, F.pixel_shuffle
    blocks, moves = model.blocks, model.moves
    first = blocks[0](F.conv2d(down(x, 2), model.into.weight, padding=1), known)
    second = blocks[1](F.conv2d(down(first, 2), moves[0].weight), known)
    third = blocks[2](F.conv2d(down(second, 2), moves[1].weight), known)
    assert third.shape == (2, 16, 4, 4)
    third = blocks[3](third, known)
    second = blocks[4](second + up(F.conv2d(third, moves[2].weight), 2), known)
    first = blocks[5](first + up(F.conv2d(second, moves[3].weight), 2), known)
    last = F.silu(F.group_norm(first, 8))
    close(model(x, t, told), up(F.conv2d(last, model.out.weight, padding=1), 2), 1e-4)
    assert model.caption.weight.shape == (6, 384) and model.time.weight.shape == (6, 64)


def test_the_draws_of_a_painter_are_its_generators():
    one, two = (text_to_image.Painter(generator(s), 8, 8, 4) for s in (5, 5))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(
        one.into.weight, text_to_image.Painter(generator(6), 8, 8, 4).into.weight
    )
    assert {p.shape for p in text_to_image.Painter(generator()).parameters()} == {
        p.shape for p in text_to_image.trained_painter().parameters()
    }


def test_what_is_no_picture_is_refused():
    x, t, told = inputs()
    model = text_to_image.Painter(generator(), 8, 8, 4)
    for refuse in text_to_image.require_pictures, model:
        for bad in x.double(), x[:0], x[:, :2], x[..., :16], x[0], x.numpy(), None:
            with refusal(r"^x = .*float32 \(B, 3, 32, 32\), not empty$"):
                refuse(bad, t, told)
        for bad in t.double(), t[:1], t[:, None], 0.5, None:
            with refusal(r"^t = .*float32 \(2,\)$"):
                refuse(x, bad, told)
        for bad in told.double(), told[:1], told[:, :5], told[0], None:
            with refusal(r"^told = .*float32 \(2, 384\)$"):
                refuse(x, t, bad)
    text_to_image.require_pictures(x[:1], t[:1], told[:1])


# Guidance


def test_guidance_goes_on_beyond_what_is_told():
    told, x, t = random(3, 2), random(3, 2, seed=1), torch.rand(3).double()
    asked = []

    def model(x, t, told):
        asked.append((x, t, told))
        return x * t[:, None] + told**2 + 1

    for guidance in 0, 1, 3, -1, 2.5:
        asked.clear()
        found = text_to_image.guided(model, told, guidance)(x, t)
        close(found, x * t[:, None] + 1 + guidance * told**2)
        assert len(asked) == 1 and len(asked[0][0]) == 6, "one call for both"
    for bad in NAN, INFINITY, -INFINITY, "1", None, torch.tensor(1.0):
        with refusal("^guidance = .*a finite number$"):
            text_to_image.guided(model, told, bad)
    for bad in told[:0], told[0], told[None], None, told.tolist():
        with refusal(r"^told = .*a tensor \(B, W\), not empty$"):
            text_to_image.guided(model, bad, 1)


def test_pictures_are_painted_from_noise():
    x, t, told = inputs(2)
    model = text_to_image.fresh(
        text_to_image.Painter(generator(), 8, 8, 4), generator(1)
    )
    found = text_to_image.paint(model, told, 2.0, 3, generator(9))
    assert found.shape == (2, 32, 32, 3) and found.dtype == torch.uint8
    assert found.is_inference()
    x = torch.randn(2, 3, 32, 32, generator=generator(9), dtype=torch.double).float()
    with torch.no_grad():
        for k in range(3):
            t = torch.full((2,), k / 3)
            free, bound = model(x, t, 0 * told), model(x, t, told)
            x = x + (2 * bound - free) / 3
    shades = ((x.clamp(-1, 1) / 2 + 0.5) * 255).round().permute(0, 2, 3, 1)
    off = (found.float() - shades).abs()
    assert off.max() <= 1 and (off == 0).float().mean() > 0.99
    assert found.min() == 0 and found.max() == 255
    with refusal("^steps = "):
        text_to_image.paint(model, told, 1, 0, generator())
    with refusal("^guidance = "):
        text_to_image.paint(model, told, NAN, 1, generator())
    with refusal("^told = "):
        text_to_image.paint(model, told[:, :3], 1, 1, generator())
    with refusal("^told = "):
        text_to_image.paint(model, told[0], 1, 1, generator())


def test_no_caption_is_refused_before_it_is_read():
    with refusal("^caption = .*a string with a letter or a digit$"):
        clip.MiniLM()([""])


# What it learns from


def test_two_drawers_without_four_combinations():
    emoji, places = data.emoji(), text_to_image.pictures_to_learn()
    drawers = {emoji.drawers[d] for d in emoji.drawer[places].tolist()}
    assert drawers == {"twemoji", "noto"} == set(text_to_image.DRAWERS)
    shown = emoji.concept[places].tolist()
    assert {emoji.splits[c] for c in shown} == {"train"}
    names = {emoji.captions[c] for c in shown}
    never = {"green heart", "purple heart", "orange circle", "blue circle"}
    assert set(text_to_image.NEVER_DRAWN) == never and not names & never
    assert len(places) == 2 * 1342 - 2 * 4 and len(names) == 1338
    for caption in never:
        colour, shape = caption.split()
        assert any(n.endswith(shape) for n in names)
        assert any(n.startswith(colour) for n in names)


def test_the_plan():
    plan = text_to_image.painter_plan()
    expected = training.Recipe(
        5000, batch=32, rate=2e-3, warmup=250, final=0.0, decay=0.01
    )
    assert dataclasses.asdict(plan) == dataclasses.asdict(expected)
    assert text_to_image.painter_plan(40).warmup == 2


def test_the_painter_is_trained_on_pictures_and_captions():
    emoji, kept = data.emoji(), clip.emoji_features()
    places = text_to_image.pictures_to_learn()[:50]
    seen = {}

    def look(model, batch, plan, draws):
        assert isinstance(model, text_to_image.Painter) and plan == "plan"
        assert model.into.weight.is_contiguous(memory_format=torch.channels_last)
        right = text_to_image.Painter(generator(3))
        assert torch.equal(model.into.weight, right.into.weight)
        state = draws.get_state()
        planes, told = batch(400, draws)
        draws.set_state(state)
        at = torch.randint(50, (400,), generator=draws)
        bare = torch.rand(400, 1, generator=draws) < 0.5
        expected = emoji.pictures[places[at]].float().permute(0, 3, 1, 2) / 127.5 - 1
        close(planes, expected, 1e-6)
        shown = emoji.concept[places[at]]
        right = torch.where(bare, kept.bare[shown], kept.tagged[shown])
        assert torch.equal(told, right) and not torch.equal(told, kept.bare[shown])
        with mock.patch.object(torch, "rand", return_value=torch.full((3, 1), 0.5)):
            at = torch.randint(50, (3,), generator=generator(8))
            _, told = batch(3, generator(8))
        assert torch.equal(told, kept.tagged[emoji.concept[places[at]]])
        seen["looked"] = True
        return "losses"

    with mock.patch.object(text_to_image, "train_flow", look):
        model, losses = text_to_image.train_painter(places, "plan", generator(3))
    assert seen and losses == "losses" and not model.training


def test_a_short_training_learns():
    places = text_to_image.pictures_to_learn()[:4]
    plan = training.Recipe(4, batch=2, rate=1e-2)
    model, losses = text_to_image.train_painter(places, plan, generator())
    assert losses.shape == (4,) and losses.isfinite().all()
    assert model.out.weight.any()


# The judge


def test_the_judge_sees_what_the_encoders_see():
    pictures = some_pictures(3)
    found = text_to_image.seen_by_clip(pictures)
    assert found.shape == (3, 256) and found.is_inference()
    close(found.norm(dim=1), torch.ones(3), 1e-5)
    for side in 112, 64:
        planes = pictures.permute(0, 3, 1, 2) / 255
        large = F.interpolate(planes, size=(side, side), mode="bicubic").clamp(0, 1)
        large = (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        features = clip.picture_features(clip.EfficientNetLite(), large)
        kept = {k: torch.from_numpy(v) for k, v in clip.stored_features().items()}
        along = clip.in_steps(features) * kept["step"]
        whole = along @ (kept["vectors"].double() * kept["vector_step"]).float()
        seen = clip.trained_heads()["pictures"](whole)
        seen = seen / seen.norm(dim=1, keepdim=True)
        close(text_to_image.seen_by_clip(pictures, side), seen, 1e-3)
    close(text_to_image.seen_by_clip(pictures, 112), found)
    assert text_to_image.frozen_eyes() is text_to_image.frozen_eyes()
    assert isinstance(text_to_image.frozen_eyes(), clip.EfficientNetLite)
    with refusal("^pictures = "):
        text_to_image.seen_by_clip(pictures.float())


def test_there_are_two_judges():
    judges, pictures = text_to_image.judges(), some_pictures(2)
    assert list(judges) == ["of emoji", "of photographs"]
    assert text_to_image.judges() is judges
    see, told = judges["of emoji"]
    small = clip.trained_encoders()
    close(see(pictures), small.pictures(pictures))
    emoji = data.emoji()
    for concept in 3, 700:
        close(told[concept], small.captions([clip.describe(concept)])[0], 1e-5)
    see, told = judges["of photographs"]
    close(see(pictures), text_to_image.seen_by_clip(pictures))
    close(told, clip.through_heads(clip.trained_heads())[1])
    assert len(told) == len(emoji.captions)


def test_a_caption_is_found_among_others():
    told = torch.eye(30)
    seen = told[:20].clone()
    seen[5:10] = 0.9 * seen[5:10] + told[25]  # another is nearer, if it is drawn
    seen[10:15] = 0  # all are as near: that is not found
    among, own = torch.arange(30), torch.arange(20)
    found = text_to_image.found_among(seen, told, own, among, generator(), count=30)
    assert found.dtype == torch.bool and found.shape == (20,)
    assert found.tolist() == [True] * 5 + [False] * 10 + [True] * 5
    for count, share in (3, 2 / 29), (20, 19 / 29):
        hits = [
            text_to_image.found_among(seen, told, own, among, generator(s), count)
            for s in range(200)
        ]
        assert abs((~torch.stack(hits)[:, 5:10]).float().mean() - share) < 0.04
    usual = [
        text_to_image.found_among(seen, told, own, among, generator(s))
        for s in range(200)
    ]
    assert torch.equal(torch.stack(usual), torch.stack(hits)), "of twenty, the same"
    few = torch.tensor([25, 25])
    found = text_to_image.found_among(seen, told, own, few, generator(), count=2)
    assert not found[5:10].any(), "the others are those of among"
    drawn = [
        text_to_image.found_among(
            told[[0]],
            torch.tensor([[1.0], [2.0], [0.5]]) @ told[[0]],
            torch.tensor([0]),
            torch.arange(3),
            generator(s),
            count=2,
        ).item()
        for s in range(20)
    ]
    assert {True, False} == set(drawn), "its own is never among the others"
    for bad in 1, 31:
        with refusal("^count = .*from 2 to 30$"):
            text_to_image.found_among(seen, told, own, among, generator(), bad)
    damaged = seen.clone()
    damaged[3, 4] = NAN
    with refusal("^seen = .*free of NaN$"):
        text_to_image.found_among(damaged, told, own, among, generator())
    told = random(40, 3, seed=1)
    seen = told + random(40, 3)
    own, among = torch.arange(40), torch.arange(40)
    found = text_to_image.found_among(seen, told, own, among, generator(), count=40)
    assert found.tolist() == ((seen @ told.T).argmax(1) == own).tolist()
    assert found.any() and not found.all()
    assert text_to_image.found_among(
        seen[:1], told, own[:1], among, generator(), 2
    ).item()


def test_pictures_are_apart_by_the_root_of_the_mean_square():
    a, b = some_pictures(2, 8), some_pictures(3, 8, seed=1)
    found = text_to_image.pixel_distance(a, b)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            off = (a[i].double() - b[j].double()) / 255
            close(found[i, j], off.square().mean().sqrt(), 1e-6)
    white = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    close(
        text_to_image.pixel_distance(white, 0 * white).double(),
        torch.ones(1, 1).double(),
        1e-6,
    )
    with refusal(r"^others = .*of the size of \(8, 8, 3\)$"):
        text_to_image.pixel_distance(a, some_pictures(1, 4))
    for bad in a.float(), a[0], a[:0]:
        with refusal("^pictures = "):
            text_to_image.pixel_distance(bad, b)
        with refusal("^pictures = "):
            text_to_image.pixel_distance(b, bad)


# What is stored


@functools.cache
def made():
    return module_at(FOLDER / "make.py")


def stored(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


RECORDS = [
    ("weights.json", "WEIGHTS_BY"),
    ("measures.json", "MADE_BY"),
    ("samples.json", "SAMPLES_BY"),
]


@pytest.mark.parametrize(("name", "by"), RECORDS)
def test_what_is_stored_was_made_by_the_code_as_it_is(name, by):
    assert stored(name)["digest"] == made().digest(getattr(made(), by)), "run make.py"


CHANGES = {
    'rate": 2e-3': ["weights.json", "measures.json", "samples.json"],
    "side=112": ["measures.json"],
    "planes + 1": ["measures.json", "samples.json"],
    "count=20": ["measures.json"],
}


@pytest.mark.parametrize("old", list(CHANGES))
def test_the_digest_sees_a_change_of_the_code(old):
    source = made().exported(made().NOTEBOOK)
    assert old in source
    damaged = source.replace(old, old + "0")
    with mock.patch.object(made(), "exported", lambda _: damaged):
        for name, by in RECORDS:
            seen = made().digest(getattr(made(), by)) != stored(name)["digest"]
            assert seen == (name in CHANGES[old]), name


def test_the_stored_weights_are_a_painter():
    model = text_to_image.trained_painter()
    assert text_to_image.trained_painter() is model
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert (FOLDER / "weights.safetensors").stat().st_size < 4_000_000
    losses = stored("weights.json")["losses"]
    assert len(losses) == 100 and losses[-1] < losses[0] / 4
    emoji, told = data.emoji(), clip.emoji_features().bare
    places = text_to_image.pictures_to_learn()[::40]
    planes = 2 * clip.to_planes(emoji.pictures[places]) - 1
    words = told[emoji.concept[places]]
    with torch.no_grad():
        loss, other = (
            text_to_image.flow_loss(model, planes, each, generator(), 0.0)
            for each in (words, words.roll(7, 0))
        )
    assert loss < 1.25 * losses[-1] and other > loss, "a wrong caption is worse"


def test_the_stored_pictures_are_those_of_the_stored_weights():
    options = stored("samples.json")
    with np.load(FOLDER / "samples.npz") as found:
        sprite = torch.from_numpy(found["pictures"])
    sizes = [len(options[k]) for k in ("captions", "guidance", "steps")]
    assert tuple(sprite.shape) == (*sizes, 3, 32, 32, 3)
    emoji, told = data.emoji(), clip.emoji_features().bare
    for caption, guidance, steps in (0, 1, 2), (5, 3, 1):
        name = options["captions"][caption]
        again = text_to_image.paint(
            text_to_image.trained_painter(),
            told[[emoji.captions.index(name)] * 3],
            options["guidance"][guidance],
            options["steps"][steps],
            generator(caption),
        )
        shade = options["shade"]
        off = again.float() - shade * sprite[caption, guidance, steps].float()
        assert off.abs().max() <= shade / 2 + 2


# Exercises


def exercises():
    return run_exercises("multimodal/text-to-image", text_to_image)


def test_solutions_pass():
    solutions_pass(exercises())


def test_wrong_answers_fail():
    book = exercises()
    right = book.both_ends
    fails(
        book.check_both_ends,
        lambda x, t, v: right(x, t, v)[::-1],
        lambda x, t, v: (x, x + v),
        lambda x, t, v: (x - t[:, None] * v, x + v),
        lambda x, t, v: right(x, t, v)[0],
        lambda x, t, v: (None, None),
    )
    right = book.midpoint
    fails(
        book.check_midpoint,
        text_to_image.euler,
        lambda v, x, s: text_to_image.euler(v, x, 2 * s),
        lambda v, x, s: right(v, x, s) + 1e-3,
        lambda v, x, s: right(lambda y, t: v(y, t[:1]), x, s),
    )
    right = book.away
    fails(
        book.check_away,
        lambda m, t, a, g: text_to_image.guided(m, t, g),
        lambda m, t, a, g: right(m, a, t, g),
        lambda m, t, a, g: right(m, t, a, g + 1),
        lambda m, t, a, g: lambda x, s: right(m, t, a, g)(x, s)[:, :1],
    )
