"""The cells of multimodal/contrastive against loops in Python, OpenCLIP, arithmetic."""

import functools
import importlib.util
import math
from pathlib import Path

import cells
import hypothesis.strategies as st
import pytest
import torch
from cells import cases, close, random, seeds, unit

from fieldguide.multimodal import contrastive as c

batches = st.integers(1, 7)
FORMS = ["contrastive_loss", "contrastive_loss_fast"]


def pairs(B, D=4, seed=0, dtype=torch.double):
    return unit(random(2, B, D, seed=seed, dtype=dtype)).unbind()


def by_hand(text, image, temperature, groups):
    """The loss, entry by entry; each row's target shared within its group."""
    B, total = len(text), 0.0
    for rows, others in ((text, image), (image, text)):
        for i in range(B):
            logits = torch.stack([rows[i] @ other for other in others]) / temperature
            mates = [j for j in range(B) if groups[j] == groups[i]]
            total -= logits.log_softmax(0)[mates].mean().item()
    return total / (2 * B)


@functools.cache
def clip_loss():
    """OpenCLIP's, from its file: the package itself wants torchvision."""
    path = Path(importlib.util.find_spec("open_clip").origin).with_name("loss.py")
    return cells.module_at(path).ClipLoss()


@cases(seed=seeds, size=st.sampled_from([1e-9, 1.0, 1e9]))
def test_units_keep_their_direction(seed, size):
    x = size * random(3, 2, 5, seed=seed)
    close(c.to_unit(x), unit(x))
    close(c.to_unit(x[0, 0]), unit(x)[0, 0])


def test_the_encoder_maps_both_kinds_to_the_sphere():
    model = c.SimpleMultimodalEncoder(text_dim=5, image_dim=7, shared_dim=3).double()
    inputs = random(4, 5), random(6, 7, seed=1)
    layers = model.text_encoder, model.image_encoder
    for x, layer, made in zip(inputs, layers, model(*inputs), strict=True):
        close(made, unit(x @ layer.weight.mT + layer.bias))


@cases(seed=seeds, B=batches, scale=st.sampled_from([1.0, 1 / 0.07, 100.0]))
def test_values_and_gradients_are_openclips(seed, B, scale):
    """With a temperature that learns; 0.07 without one."""
    inputs = [x.clone().requires_grad_() for x in pairs(B, 6, seed)]
    inputs.append(torch.tensor(scale, dtype=torch.double, requires_grad=True))
    text, image, factor = inputs
    theirs = 3 * clip_loss()(image, text, factor)
    wanted = torch.autograd.grad(theirs, inputs)
    for form in FORMS:
        loss = getattr(c, form)
        close(loss(text, image), c.contrastive_loss(text, image, 0.07), 1e-12)
        ours = 3 * loss(text, image, 1 / factor)
        close(ours, theirs, 1e-9)
        close(torch.autograd.grad(ours, inputs), wanted, 1e-8)


def test_the_scale_learns_up_to_its_limit():
    scale = c.LearnedScale(start=90.0)
    close([x.item() for x in (scale(), c.LearnedScale()())], [90.0, 1 / 0.07], 1e-5)
    scale().backward()
    close(scale.log_scale.grad.item(), 90.0, 1e-5)
    for step, expected in (9, 100), (-0.5, 100 / math.exp(0.5)):
        with torch.no_grad():
            scale.log_scale += step  # beyond it, and down from there
        close(scale().item(), float(expected), 1e-4)


@cases(seed=seeds, temperature=st.sampled_from([0.01, 0.5, 1, 3.0]), data=st.data())
def test_grouped_targets_are_shared_evenly(seed, temperature, data):
    groups = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=7))
    text, image = pairs(len(groups), seed=seed)
    loss = c.contrastive_loss_grouped(text, image, torch.tensor(groups), temperature)
    close(loss.item(), by_hand(text, image, temperature, groups), 1e-10)


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("gap", [70, 72, 200, 1000])
def test_the_fast_form_is_exact_where_one_row_or_column_lies_far_below(rows, gap):
    """All of its exponentials may be 0, so that the logarithm of their sum isn't."""
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    two = torch.tensor([[0.0, -1.0], [-gap - 500.0, -gap]], requires_grad=True)
    loss = c.contrastive_loss_fast(*((two, one) if rows else (one, two)), 1.0)
    close(loss.item(), by_hand(two, one, 1.0, [0, 1]), 1e-5)
    assert all(x.isfinite().all() for x in torch.autograd.grad(loss, [one, two]))


def test_bags_have_length_one_over_their_known_words():
    found = c.words_of("The tiger, the TIGER-cat: 2 t-shirts")
    assert found == ["cat", "shirts", "t", "the", "tiger"]
    bags = c.bag_of_words(["a B b z", "c", "12 z", "z"], ["c", "b", "a"])
    half, none = 2**-0.5, [0.0, 0, 0]
    close(bags, torch.tensor([[0, half, half], [1, 0, 0], none, none]), 1e-6)
