"""The cells of multimodal/text-to-image against loops, formulas and torch's pieces."""

import copy
import math
from unittest import mock

import cells
import pytest
import torch
import torch.nn.functional as F
from cells import close, generator, random, unit
from torch import nn

from fieldguide import data
from fieldguide.multimodal import clip
from fieldguide.multimodal import text_to_image as t2i
from fieldguide.transformers import training


def some_pictures(count=2, side=32, seed=0):
    shape = count, side, side, 3
    return torch.randint(256, shape, generator=generator(seed)).to(torch.uint8)


@pytest.mark.parametrize("shape", [(1,), (3, 2), (4, 3, 5, 5)])
def test_the_way_is_straight(shape):
    noise, ends = random(*shape), random(*shape, seed=1)
    t = torch.rand(shape[0], generator=generator(2), dtype=torch.double)
    x, velocity = t2i.on_the_way(noise, ends, t)
    for b in range(shape[0]):
        close(x[b], noise[b] + t[b] * (ends[b] - noise[b]), 1e-5)
    close(velocity, ends - noise)


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("sizes", [(5, 4, 2), (1, 1, 1)])
def test_the_exact_velocity_is_bayes_rule(spread, sizes):
    """One place at a time, with torch's own normal densities."""
    B, N, W = sizes
    x, points = random(B, W), random(N, W, seed=1)
    t = 0.9 * torch.rand(B, generator=generator(2), dtype=torch.double)
    t[0] = 0
    given = [x, t, points, spread] if spread else [x, t, points]
    for place, time, found in zip(x, t, t2i.exact_velocity_fast(*given), strict=True):
        varies = (1 - time) ** 2 + time**2 * spread**2
        normal = torch.distributions.Normal(time * points, varies.sqrt())
        shares = normal.log_prob(place).sum(1).softmax(0)
        # point and noise are normal around p and 0: their means, given the place
        far = (place - time * points) / varies
        moves = points + time * spread**2 * far - (1 - time) * far
        close(found, shares @ moves, 1e-9)


def test_euler_walks_in_equal_steps():
    x = random(3, 2)
    for steps in 1, 2, 5:
        velocity = mock.Mock(side_effect=lambda x, t: x * (1 + t[:, None]))
        right = x * math.prod(1 + (1 + k / steps) / steps for k in range(steps))
        close(t2i.euler(velocity, x, steps), right)
        for k, call in enumerate(velocity.call_args_list):
            close(call.args[1], x.new_full((3,), k / steps))


def test_the_loss_is_of_velocities():
    ends, told = random(2000, 2, dtype=torch.float32), torch.ones(2000, 3)
    model, draws = mock.Mock(side_effect=lambda x, t, told: 3 * x), generator(1)
    loss = t2i.flow_loss(model, ends, told, generator(1))
    noise = torch.randn(2000, 2, generator=draws, dtype=torch.double).float()
    t = torch.rand(2000, generator=draws, dtype=torch.double).float()
    kept = torch.rand(2000, 1, generator=draws) >= 0.1
    x = (1 - t[:, None]) * noise + t[:, None] * ends
    close(model.call_args.args, (x, t, kept.float().expand(-1, 3)), 1e-6)
    close(loss, (3 * x - (ends - noise)).square().mean(), 1e-5)
    t2i.flow_loss(model, ends, told, generator(2), 0.0)
    assert model.call_args.args[2].all()


class Sum(nn.ModuleList):
    def __init__(self, *layers):
        super().__init__(layers)

    def forward(self, x, t, told):
        return self[0](x) + t[:, None] * self[1](told)


def test_training_follows_the_plan():
    options = {"betas": (0.8, 0.95), "decay": 0.3, "clip": 0.5, "final": 0.2}
    plan = training.Recipe(6, batch=5, rate=0.05, warmup=2, **options)

    def drawn(B, draws):
        points = torch.randn(B, 2, generator=draws, dtype=torch.double)
        return points, points.sign()

    model = Sum(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    again, draws = copy.deepcopy(model), generator(3)
    losses = t2i.train_flow(model, drawn, plan, generator(3))

    def loss():
        return t2i.flow_loss(again, *drawn(5, draws), draws)

    options = {"betas": (0.8, 0.95), "weight_decay": 0.3}
    right = cells.adamw(again.parameters(), loss, plan, **options)
    close(losses, right.float(), 1e-6)
    close([*model.parameters()], [*again.parameters()], 1e-7)


@pytest.mark.parametrize("W", [64, 4])
def test_times_are_waves_of_many_speeds(W):
    t = torch.tensor([0.0, 0.25, 1.0]).double()
    speeds = torch.tensor([10 ** (3 * k / (W // 2 - 1)) for k in range(W // 2)])
    angles = t[:, None] * speeds
    close(t2i.time_waves(t, W), torch.cat([angles.sin(), angles.cos()], 1), 1e-3)


def test_fresh_weights_are_normal():
    parts = {"first": nn.Linear(200, 300), "second": nn.Linear(8, 4)}
    parts |= {"window": nn.Conv2d(16, 32, 3), "norm": nn.GroupNorm(2, 4)}
    model, draws = nn.ModuleDict(parts), generator(4)
    t2i.fresh(model, generator(4), silent=("second.weight",))
    for name, inputs in ("first", 200), ("window", 144):
        found = model[name].weight
        drawn = torch.randn(found.shape, generator=draws, dtype=torch.double)
        close(found, nn.Parameter((drawn / math.sqrt(inputs)).float()), 1e-6)
    assert not parts["second"].weight.any() and (parts["norm"].weight == 1).all()
    assert not any(part.bias.any() for part in parts.values())


def test_a_block_is_steered_by_what_it_is_told():
    block = t2i.fresh(t2i.ToldBlock(16, 5), generator(1))
    x, told = random(2, 16, 4, 4).float(), random(2, 5, seed=1).float()
    norm = block.norm1
    with torch.no_grad():
        for seed, part in enumerate((norm.weight, norm.bias, block.told.bias)):
            part.copy_(random(len(part), seed=seed))
    y = F.silu(F.group_norm(x, 8, norm.weight, norm.bias))
    y = F.group_norm(F.conv2d(y, block.conv1.weight, padding=1), 8)
    scale, shift = block.told(told)[:, :, None, None].split(16, 1)
    y = F.silu(y * (1 + scale) + shift)
    close(block(x, told), x + F.conv2d(y, block.conv2.weight, padding=1), 1e-4)


def inputs(B=2, seed=0):
    x = random(B, 3, 32, 32, seed=seed, dtype=torch.float32)
    t = torch.rand(B, generator=generator(seed))
    return x, t, random(B, 384, seed=seed + 1, dtype=torch.float32) / 384**0.5


def test_the_painter_goes_down_and_up():
    model = t2i.Painter(generator(2), C=8, D=16, E=6)
    x, t, told = inputs()
    assert not model(x, t, told).any(), "it starts silent"
    for block in model.blocks:
        assert not block.conv2.weight.any() and block.conv1.weight.all()
    t2i.fresh(model, generator(3))
    known = F.linear(told * math.sqrt(384), model.caption.weight)
    known = F.silu(known + F.linear(t2i.time_waves(t), model.time.weight))
    down, up = F.pixel_unshuffle, F.pixel_shuffle
    blocks, moves = model.blocks, [move.weight for move in model.moves]
    first = blocks[0](F.conv2d(down(x, 2), model.into.weight, padding=1), known)
    second = blocks[1](F.conv2d(down(first, 2), moves[0]), known)
    third = blocks[2](F.conv2d(down(second, 2), moves[1]), known)
    assert third.shape == (2, 16, 4, 4)
    third = blocks[3](third, known)
    second = blocks[4](second + up(F.conv2d(third, moves[2]), 2), known)
    first = blocks[5](first + up(F.conv2d(second, moves[3]), 2), known)
    last = F.silu(F.group_norm(first, 8))
    close(model(x, t, told), up(F.conv2d(last, model.out.weight, padding=1), 2), 1e-4)


def test_guidance_goes_on_beyond_what_is_told():
    told, x, t = random(3, 2), random(3, 2, seed=1), torch.rand(3).double()
    for guidance in 0, 1, 3, -1, 2.5:
        model = mock.Mock(side_effect=lambda x, t, told: x * t[:, None] + told**2 + 1)
        found = t2i.guided(model, told, guidance)(x, t)
        close(found, x * t[:, None] + 1 + guidance * told**2)
        model.assert_called_once()  # with both


def test_pictures_are_painted_from_noise():
    model = t2i.fresh(t2i.Painter(generator(), 8, 8, 4), generator(1))
    told = inputs()[2]
    found = t2i.paint(model, told, 2.0, 3, generator(9))
    x = torch.randn(2, 3, 32, 32, generator=generator(9), dtype=torch.double).float()
    with torch.no_grad():
        for k in range(3):
            t = torch.full((2,), k / 3)
            x = x + (2 * model(x, t, told) - model(x, t, 0 * told)) / 3
    shades = ((x.clamp(-1, 1) / 2 + 0.5) * 255).round().permute(0, 2, 3, 1)
    off = (found.float() - shades).abs()
    assert off.max() <= 1 and (off == 0).float().mean() > 0.99


def test_two_drawers_without_four_combinations():
    emoji, places = data.emoji(), t2i.pictures_to_learn()
    assert {emoji.drawers[d] for d in emoji.drawer[places]} == {"twemoji", "noto"}
    shown = {*emoji.concept[places].tolist()}
    assert {emoji.splits[c] for c in shown} == {"train"}
    names = {emoji.captions[c] for c in shown}
    assert not names & {"green heart", "purple heart", "orange circle", "blue circle"}
    assert len(places) == 2 * 1342 - 2 * 4 and len(names) == 1338


def test_the_painter_is_trained_on_pictures_and_captions():
    emoji, kept = data.emoji(), clip.emoji_features()
    places = t2i.pictures_to_learn()[:50]
    with mock.patch.object(t2i, "train_flow", return_value="losses") as train:
        t2i.train_painter(places, generator(3))
    draws, again = generator(8), generator(8)
    shown = places[torch.randint(50, (400,), generator=again)]
    drawn = torch.rand(400, 1, generator=again)
    planes, told = train.call_args.args[1](400, draws)
    close(planes, 2 * clip.to_planes(emoji.pictures[shown]) - 1, 1e-6)
    shown = emoji.concept[shown]
    right = torch.where(drawn < 0.5, kept.bare[shown], kept.tagged[shown])
    assert torch.equal(told, right)


def test_the_judge_sees_what_the_encoders_see():
    pictures = some_pictures(3)
    kept = clip.emoji_features()
    planes = pictures.permute(0, 3, 1, 2) / 255
    large = F.interpolate(planes, size=(112, 112), mode="bicubic").clamp(0, 1)
    large = (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    features = clip.picture_features(clip.EfficientNetLite(), large)
    whole = clip.in_steps(features) * kept.step @ kept.vectors
    right = unit(clip.load_trained(clip.TwoHeads(), "heads").pictures(whole))
    close(t2i.seen_by_clip(pictures), right, 1e-3)


def test_a_caption_is_found_among_others():
    told, own, among = torch.eye(30), torch.arange(20), torch.arange(30)
    seen = told[:20].clone()
    seen[5:10] = 0.9 * seen[5:10] + told[25]  # another is nearer, if it is drawn
    seen[10:15] = 0  # all are as near: that is not found

    def found(seed=0, among=among):
        return t2i.found_among(seen, told, own, among, generator(seed))

    few = found(among=torch.arange(21))  # 25 is not in it
    assert few.tolist() == [True] * 10 + [False] * 5 + [True] * 5
    misses = torch.stack([~found(seed)[5:10] for seed in range(200)])
    assert abs(misses.float().mean() - 19 / 29) < 0.04


def test_pictures_are_apart_by_the_root_of_the_mean_square():
    a, b = some_pictures(2, 8), some_pictures(3, 8, seed=1)
    off = (a.double()[:, None] - b.double()) / 255  # (2, 3, 8, 8, 3)
    close(t2i.pixel_distance(a, b), off.square().mean((2, 3, 4)).sqrt(), 1e-6)
