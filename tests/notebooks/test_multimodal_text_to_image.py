"""The cells of multimodal/text-to-image against loops, formulas and what is stored."""

import copy
import math
from unittest import mock

import cells
import numpy as np
import pytest
import torch
from cells import close, generator, random
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


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_euler_walks_in_equal_steps(steps):
    x = random(3, 2)
    right = x * math.prod(1 + (1 + k / steps) / steps for k in range(steps))
    close(t2i.euler(lambda x, t: x * (1 + t[:, None]), x, steps), right)


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


class Told(nn.Linear):
    def forward(self, x, t, told):
        return super().forward(x) + told


def test_training_is_that_of_torchs_adamw():
    plan = training.Recipe(6, batch=5, rate=0.05, betas=(0.8, 0.95), decay=0.3)
    model, draws = Told(2, 2), generator(3)
    again = copy.deepcopy(model)

    def batch(B, generator):
        return torch.randn(B, 2, generator=generator), torch.ones(B, 2)

    def loss():
        return t2i.flow_loss(again, *batch(5, draws), draws)

    losses = t2i.train_flow(model, batch, plan, generator(3))
    options = {"betas": (0.8, 0.95), "weight_decay": 0.3}
    close(losses, cells.adamw(again.parameters(), loss, plan, **options), 1e-5)


def test_a_new_painter_draws_normal_weights_and_is_silent():
    model, ones = t2i.Painter(generator(2)), torch.ones(2, 64, 16, 16)
    for name, weights in model.named_parameters():
        if name.endswith(("bias", "conv2.weight", "out.weight")):
            assert not weights.any(), name
        elif weights.dim() > 1:
            assert 0.9 < weights.std() * weights[0].numel() ** 0.5 < 1.1, name
        else:
            assert (weights == 1).all(), name
    told = torch.ones(2, 384)
    assert not model(random(2, 3, 32, 32).float(), torch.rand(2), told).any()
    assert torch.equal(model.blocks[0](ones, torch.ones(2, 192)), ones)


@pytest.mark.parametrize("guidance, steps", [(0, 4), (1, 2), (8, 4)])
def test_stored_pictures_are_painted_again(guidance, steps):
    """The network, its blocks and times, guidance and steps, to within a rounding."""
    options = cells.record("text-to-image", "samples.json")
    at = options["guidance"].index(guidance), options["steps"].index(steps)
    with np.load(data.asset("text-to-image", "samples.npz")) as found:
        kept = torch.from_numpy(found["pictures"][1][at])  # drawn from seed 1
    own = data.emoji().captions.index(options["captions"][1])
    told = clip.emoji_features().bare[[own] * 3]
    model = t2i.trained_painter()
    again = t2i.paint(model, told, guidance, steps, generator(1))
    off = again.double() / options["shade"] - kept
    assert off.abs().max() < 0.6 and (off.round() == 0).double().mean() > 0.99


def test_two_drawers_without_four_combinations():
    emoji, places = data.emoji(), t2i.pictures_to_learn()
    names = {emoji.captions[c] for c in emoji.concept[places]}
    assert not names & {"green heart", "purple heart", "orange circle", "blue circle"}
    assert {emoji.drawers[d] for d in emoji.drawer[places]} == {"twemoji", "noto"}
    assert len(places) == 2 * len(names) == 2 * 1338


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
