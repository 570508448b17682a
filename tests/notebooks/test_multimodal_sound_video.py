"""The cells of multimodal/sound-video against loops and their parts."""

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
from cells import cases, close, generator, random

from fieldguide.multimodal import contrastive, sound_video


@cases(st.data())
def test_cut_reads_blocks_in_order(data):
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    pairs = data.draw(st.lists(pair, min_size=1, max_size=3))
    sizes, patch = [g * p for g, p in pairs], tuple(p for _, p in pairs)
    x = torch.arange(2.0 * math.prod(sizes)).view(2, *sizes)
    right = []
    for corner in itertools.product(*(range(g) for g, _ in pairs)):
        block = [slice(c * p, (c + 1) * p) for c, p in zip(corner, patch, strict=True)]
        right.append(x[:, *block].flatten(1))
    assert torch.equal(sound_video.cut(x, patch), torch.stack(right, 1))


WORDS = ["a", "b", "c"]


def some_matcher(places=True, seed=0, tokens=6, numbers=5):
    encoder = sound_video.PatchEncoder(tokens, numbers, places=places)
    return sound_video.Matcher(encoder, WORDS, generator(seed))


@pytest.mark.parametrize("places", [True, False])
def test_the_encoder_is_a_mean_of_what_its_blocks_leave(places):
    encoder, x = some_matcher(places).encoder, random(3, 6, 5)
    with torch.no_grad():
        for i, p in enumerate(encoder.parameters()):
            p.add_(0.3 * random(*p.shape, seed=i))
    states = encoder.patch(x) + (encoder.place if places else 0)
    for block in encoder.blocks:
        states = block(states, None)
    close(encoder(x), encoder.norm(states.mean(1)))
    backwards = encoder(x.flip(1))
    assert torch.allclose(backwards, encoder(x)) != places, "each sees all others"


def test_a_matcher_gives_cosines():
    model, x, texts = some_matcher(), random(4, 6, 5), ["a b", "c", "b b c"]
    bags = contrastive.bag_of_words(texts, WORDS).double()
    text, thing = model.join(bags, model.encoder(x))
    close(model(x, texts), thing @ text.mT)
    close(model.embed(x, texts), (text, thing))
    close(thing.norm(dim=1), torch.ones(4, dtype=torch.double))
    close(model.scale(), torch.tensor(1 / 0.07, dtype=torch.double), 1e-6)
