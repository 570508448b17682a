"""The cells of multimodal/sound-video against torch, numpy, loops and arithmetic."""

import itertools
import math
from dataclasses import replace
from unittest import mock

import cells
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, refuses, refuses_all

from fieldguide.multimodal import contrastive, sound_video
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig


@cases(seed=st.integers(0, 999), T=st.integers(1, 40), rows=st.integers(1, 3))
def test_fourier_is_the_transform(seed, T, rows):
    x = random(rows, 2, T, seed=seed)
    close(sound_video.fourier(x), torch.fft.rfft(x), 1e-10)
    assert sound_video.fourier(x.float()).dtype == torch.complex128


@cases(st.integers(1, 5), st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
def test_frames_are_centred_windows(hops, hop, half, seed):
    T, window = hops * hop, hop + 2 * half
    x = random(2, T, seed=seed)
    if window > T:
        refuses("window", sound_video.frames, x, window, hop, says=f"{hop} to {T}")
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
    assert sound_video.mel_bands(bands, window, rate).min() == 0
    close(sound_video.log_mel(x.float(), *sizes), right.float(), 1e-2)
    for kind, tolerance in (torch.float32, 1e-3), (torch.float16, 0.1):
        narrow = sound_video.spectrogram(x.to(kind), window, hop)
        close(narrow, power.float(), tolerance)


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
    assert (T, sound_video.RATE) == (4_096, 8_000)
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


def drawn(numbers, function, *given):
    """What a function makes when the shares of its ranges are these numbers."""
    shares = iter(numbers)

    def uniform(low, high, count, _):
        share = torch.full((count, 1), float(next(shares)), dtype=torch.double)
        return low + (high - low) * share

    with mock.patch.object(sound_video, "uniform", uniform):
        return function(*given, generator())


@pytest.mark.parametrize("register", [0, 1])
def test_a_rising_sound_backwards_is_a_falling_one_equally_likely(register):
    up, down, same = (torch.tensor([i]) for i in (0, 1, register))
    rising = drawn([0.3, 0.25, 0.7, 0.6], sound_video.glide, up, same)
    falling = drawn([0.3, 0.75, 0.7, 0.6], sound_video.glide, down, same)
    for there, back in zip(rising, falling, strict=True):  # pitch, loudness
        close(there.flip(1), back, 1e-6)
    turns = rising[0].sum() / 8_000  # so that one begins where the other ends
    for timbre in torch.arange(3).split(1):
        there = drawn([0], sound_video.voices, rising[0], timbre)
        back = drawn([-turns], sound_video.voices, falling[0], timbre)
        close(there.flip(1), -back, 1e-8)


def test_no_pitch_is_too_high_for_the_samples():
    choices = torch.tensor([[0, 2, 1]] * 200)
    hertz, loudness = sound_video.glide(*choices[:, [0, 2]].T, generator())
    assert 3 * hertz.max() < sound_video.RATE / 2
    assert loudness.min() >= 0 and not loudness.isnan().any()


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
    sizes = {"width": 48, "heads": 4, "layers": len(encoder.blocks)}
    assert encoder.config == GPTConfig(1, context=6, **sizes) and sizes["layers"] == 2
    start = sound_video.PatchEncoder(6, 5).place
    assert start.dtype == torch.double and not start.any()
    for bad in x[0], x[:, 1:], x[..., 1:], x.float(), None:
        refuses("x", encoder, bad)


def test_a_matcher_gives_cosines():
    model, x, texts = some_matcher(), random(4, 6, 5), ["a b", "c", "b b c"]
    bags = contrastive.bag_of_words(texts, WORDS).double()
    text, thing = model.join(bags, model.encoder(x))
    close(model(x, texts), thing @ text.mT)
    close(model.embed(x, texts), (text, thing))
    close(thing.norm(dim=1), torch.ones(4, dtype=torch.double))
    assert thing.shape == (4, 32)
    close(model.scale(), torch.tensor(1 / 0.07, dtype=torch.double), 1e-6)
    again, other = some_matcher().parameters(), some_matcher(seed=1).parameters()
    for (name, a), b, c in zip(model.named_parameters(), again, other, strict=True):
        assert torch.equal(a, b) and a.dtype == torch.double, name
        same = torch.equal(a, c) or torch.equal(a, a.float().double())
        assert a.dim() < 2 or not same, f"{name} is drawn anew, in float64"


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

    plan = replace(training.plain_recipe(30, rate=0.003), clip=math.inf)
    close(losses, cells.adamw(twin.parameters(), loss, plan).float(), 1e-6)
    assert losses[-1] < losses[0]
    none = model, tokens[:0], which[:0], captions, 1, generator()
    refuses("tokens", sound_video.teach, *none)
    close([*model.parameters()], [*twin.parameters()], 1e-6)


DRAWS, NONE, EIGHT = generator(), torch.zeros(9).long(), random(8, 16)[None]
LAST, HIGH = torch.tensor(8 * [0] + [1]), random(9, 64)
WAVE = torch.zeros(12)
NO_WAVES = [WAVE[:0], WAVE[:7], WAVE[None, :0], WAVE + math.inf, WAVE * math.nan]
FRAMED = {"wave": WAVE, "window": 6, "hop": 4}
FRAMING = {"wave": NO_WAVES, "window": [2, 5, 14]}
PLAN = {"model": some_matcher(), "tokens": random(9, 6, 5), "which": NONE}
PLAN |= {"captions": ["a"], "steps": 1, "generator": DRAWS, "batch": 2}
DIVISORS = [(3, 8), (2, 5), (2,), (2, 8, 1), (0, 8), (2, -8), [2, 8], (2.0, 8)]


def rows(*choices):
    return [torch.tensor(choice).view(-1, len(choice)) for choice in choices]


REFUSALS = {
    "fourier": ({"wave": WAVE[:1]}, {"wave": [WAVE[:0], *NO_WAVES[3:]]}),
    "frames": (FRAMED, FRAMING),
    "spectrogram": (FRAMED, FRAMING),
    "log_mel": (FRAMED | {"bands": 4, "rate": 9}, FRAMING),
    "mel": ({"hertz": 20.0}, {}),
    "mel_bands": ({"bands": 1, "window": 1, "rate": 1}, {}),
    "uniform": ({"low": 0, "high": 1.0, "count": 2, "generator": DRAWS}, {}),
    "glide": ({"motion": 2 + NONE, "register": 1 + NONE, "generator": DRAWS},
     {"motion": [NONE[:0], 3 + NONE, -LAST], "register": [NONE[:3], 2 * LAST, -LAST]}),
    "voices": ({"hertz": HIGH, "timbre": 3 + NONE, "generator": DRAWS},
     {"hertz": [HIGH[:, :0], HIGH / 0], "timbre": [NONE[:3], 4 * LAST, -LAST]}),
    "sounds": ({"choices": rows([2, 3, 1])[0], "generator": DRAWS},
     {"choices": rows([3, 0, 0], [0, 4, 0], [0, 0, 2], [0, -1, 0], [0, 0])}),
    "films": ({"choices": rows([5, 2])[0], "generator": DRAWS, "noise": 0},
     {"choices": rows([6, 0], [0, 3], [0, 0, 0])}),
    "require_choices": ({"choices": rows([1, 2])[0], "counts": (2, 3)},
     {"choices": [NONE[:0].view(0, 2), rows([0, 0, 0])[0]], "counts": [(2,), (1, 1)]}),
    "outlines": ({"x": EIGHT, "y": EIGHT, "size": EIGHT[..., :1]},
     {"y": [EIGHT[..., :3]]}),
    "cut": ({"x": EIGHT, "patch": (2, 8)}, {"x": [NONE], "patch": DIVISORS}),
    "PatchEncoder": ({"tokens": 6, "numbers": 5, "places": False}, {}),
    "Matcher": ({"encoder": PLAN["model"].encoder, "words": WORDS, "generator": DRAWS},
     {"encoder": [torch.nn.Linear(1, 1)], "words": ["abc", [], 9 * ["a"] + [2]]}),
    "teach": (PLAN, {"tokens": [PLAN["tokens"] / 0], "captions": [9 * ["a"] + [2]],
     "which": [NONE[:8], LAST, -LAST]}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_refused_by_name(name):
    good, bad = REFUSALS[name]
    refuses_all(getattr(sound_video, name), good, **bad)


SLIPS = [
    ("heard_as", "min(rest, rate - rest)", "hertz", "rest", "min(hertz, rate / 2)"),
    ("heard_as", "hertz % rate", "hertz % (rate // 2)"),
    ("heard_as", "rest =", "rate = 8_000\n    rest ="),
    ("put_together", "blocks.permute(0, *order)", "tokens", "blocks"),
    ("put_together", "= tokens", "= tokens.flip(0)"),
    ("put_together", "return", "return tokens\n    return"),
    ("longest_film", "return context //", "return context /", "return 1 + context //"),
    ("longest_film", "rate * tokens_a", "tokens_a"),
    ("longest_film", "e + sound", "e"),
]  # fmt: skip


def test_a_slip_in_an_answer_is_noticed():
    book = cells.run_exercises("multimodal/sound-video", sound_video)
    for answer, piece, *slips in SLIPS:
        cells.notices(book, answer, {piece: slips})
