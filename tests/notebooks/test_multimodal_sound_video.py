"""The cells of multimodal/sound-video against torch, numpy, loops and arithmetic."""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random

from fieldguide.multimodal import contrastive, sound_video


@cases(st.integers(1, 5), st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
def test_frames_are_centred_windows(hops, hop, half, seed):
    T, window = hops * hop, hop + 2 * half
    x = random(2, T, seed=seed)
    if window > T:
        return
    padded = F.pad(x, (half, half))
    right = [padded[:, at : at + window] for at in range(0, T, hop)]
    close(sound_video.frames(x, window, hop), torch.stack(right, 1))


def mel(hertz):
    return 2595 * math.log10(1 + hertz / 700)


SIZES = [(8, 8, 3, 900), (16, 8, 4, 1000), (24, 4, 9, 6000), (256, 128, 32, 8000)]


@pytest.mark.parametrize("sizes", SIZES)
def test_log_mel_is_torchs_spectrogram_in_numpys_triangles(sizes):
    (window, hop, bands, rate), x = sizes, random(2, 768)
    fade = torch.hann_window(window, periodic=False, dtype=torch.double)
    options = {"window": fade, "center": False, "return_complex": True}
    padded = F.pad(x, [(window - hop) // 2] * 2)
    power = torch.stft(padded, window, hop, **options).abs().mT ** 2
    tops = np.linspace(0, mel(rate / 2), bands + 2)
    hertz, pitches = 700 * (10 ** (tops / 2595) - 1), np.arange(window // 2 + 1)
    peaks = [np.interp(pitches * rate / window, hertz[i : i + 3], [0, 1, 0])
             for i in range(bands)]  # fmt: skip
    for number in 20, 700.0, torch.tensor(1000.0):
        close(sound_video.mel(number).item(), mel(float(number)))
    rows = torch.from_numpy(np.stack(peaks))
    right = (power @ rows.mT + 0.001).log10()
    for some in (sizes, ()) if rate == sound_video.RATE else (sizes,):
        close(sound_video.spectrogram(x, *some[:2]), power, 1e-9)
        close(sound_video.mel_bands(bands, window, *some[3:]), rows, 1e-9)
        close(sound_video.log_mel(x, *some), right, 1e-9)


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
