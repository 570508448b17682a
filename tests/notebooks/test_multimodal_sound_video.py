"""The cells of multimodal/sound-video against torch, numpy, loops and arithmetic."""

import itertools
import math

import cells
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random

from fieldguide.multimodal import contrastive, sound_video
from fieldguide.transformers import training


@cases(seed=st.integers(0, 999), T=st.integers(1, 40), rows=st.integers(1, 3))
def test_fourier_is_the_transform(seed, T, rows):
    x = random(rows, 2, T, seed=seed)
    close(sound_video.fourier(x), torch.fft.rfft(x), 1e-10)


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


def numpy_sound(choice, draws, T):
    """One sound from its draws, sample by sample."""
    motion, timbre, register = choice
    length = 0.6 + 0.3 * draws["length"]
    start = draws["start"] * (1 - length)
    low, high = [(220, 320), (600, 900)][register]
    middle = low + (high - low) * draws["middle"]
    octaves = (0.6 + 0.4 * draws["octaves"]) * (1, -1, 0)[motion]
    clock = (np.arange(T) + 0.5) / T
    place = np.clip((clock - start) / length, 0, 1)
    hertz = middle * 2 ** (octaves * (place - 0.5))
    turns = draws["begin"] + (np.cumsum(hertz) - hertz / 2) / 8_000
    parts = [(1, 0, 0), (1, 0, 0.7), (1, 0.7, 0.7), (1, 0, 0)][timbre]
    tone = sum(a * np.sin(2 * np.pi * k * turns) for k, a in enumerate(parts, 1))
    if timbre == 3:
        points = (np.arange(T) + 0.5) / 32 - 0.5
        tone = tone * np.interp(points, np.arange(T // 32), draws["breath"])
    tone = tone * np.sqrt(np.maximum(np.sin(np.pi * place), 0))
    return tone * 0.1 / np.sqrt(np.mean(tone**2)) + 0.003 * draws["hiss"]


def test_sounds_are_what_numpy_makes_of_the_same_draws():
    T = sound_video.SAMPLES
    choices = torch.tensor(list(itertools.product(range(3), range(4), range(2))))
    B, options = len(choices), {"generator": generator(4), "dtype": torch.double}
    names = ["length", "start", "middle", "octaves", "begin"]
    drawn = {name: torch.rand(B, **options) for name in names}
    drawn["breath"] = torch.randn(B, T // 32, **options)
    drawn["hiss"] = torch.randn(B, T, **options)
    got = sound_video.sounds(choices, generator(4))
    for i, choice in enumerate(choices.tolist()):
        one = {k: v[i].numpy() for k, v in drawn.items()}
        close(got[i], torch.from_numpy(numpy_sound(choice, one, T)), 1e-9)


def numpy_film(move, shape, draws):
    """One film from its draws, pixel by pixel."""
    film = np.zeros((8, 16, 16))
    for f, row, column in itertools.product(range(8), range(16), range(16)):
        way = (4 + 3 * draws["way"]) * (f / 7 - 0.5)
        x = 5.5 + 4 * draws["x"] + way * (-1, 1, 0, 0, 0, 0)[move]
        y = 5.5 + 4 * draws["y"] + way * (0, 0, -1, 1, 0, 0)[move]
        size = 2 + 1.2 * draws["size"] + way / 4 * (0, 0, 0, 0, 1, -1)[move]
        a, b = abs(column - x), abs(row - y)
        across = max(a - 1.1 * size, b - 0.35 * size)
        down = max(b - 1.1 * size, a - 0.35 * size)
        square, disc = max(a, b) - 0.9 * size, math.hypot(a, b) - size
        film[f, row, column] = 0.5 - (square, disc, min(across, down))[shape]
    return film.clip(0, 1)


def test_films_are_what_loops_make_of_the_same_draws():
    choices = torch.tensor(list(itertools.product(range(6), range(3))))
    options = {"generator": generator(2), "dtype": torch.double}
    drawn = {k: torch.rand(18, **options).tolist() for k in ("x", "y", "size", "way")}
    hiss = torch.randn(18, 8, 16, 16, **options)
    clean = sound_video.films(choices, generator(2), noise=0)
    for i, choice in enumerate(choices.tolist()):
        film = numpy_film(*choice, {k: numbers[i] for k, numbers in drawn.items()})
        close(clean[i], torch.from_numpy(film), 1e-9)
    close(sound_video.films(choices, generator(2)), clean + 0.05 * hiss, 1e-9)
    close(sound_video.films(choices, generator(2), noise=2), clean + 2 * hiss, 1e-9)


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


@pytest.mark.parametrize("options", [{}, {"batch": 4}])
def test_teach_steps_as_adamw_with_a_falling_rate(options):
    model, twin = some_matcher(), some_matcher()
    tokens, captions = random(9, 6, 5), ["a", "a b", "c"]
    which = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1])
    given = model, tokens, which, captions, 30, generator(5)
    losses, draws = sound_video.teach(*given, **options), generator(5)

    def loss():
        drawn = torch.randint(9, (options.get("batch", 48),), generator=draws)
        bags = contrastive.bag_of_words([captions[which[i]] for i in drawn], WORDS)
        pairs = twin.join(bags.double(), twin.encoder(tokens[drawn]))
        groups, temperature = which[drawn], 1 / twin.scale()
        return contrastive.contrastive_loss_grouped(*pairs, groups, temperature)

    plan = training.Recipe(30, rate=0.003, warmup=1, clip=math.inf)
    close(losses, cells.adamw(twin.parameters(), loss, plan).float(), 1e-6)
    assert losses[-1] < losses[0]
    close([*model.parameters()], [*twin.parameters()], 1e-6)
