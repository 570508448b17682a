"""The cells of multimodal/sound-video against torch, numpy, loops and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import io
import itertools
import math
import wave
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import (
    close,
    fails,
    generator,
    random,
    refuses,
    run_exercises,
    solutions_pass,
)
from hypothesis import given, settings

from fieldguide.multimodal import contrastive, sound_video
from fieldguide.transformers import training

quick = settings(max_examples=20, deadline=None, derandomize=True, database=None)
NOTEBOOK = "multimodal/sound-video"


# Waves


@pytest.mark.parametrize(
    "bad",
    [
        [0.0, 1.0],
        torch.tensor([1, 2]),
        torch.tensor(1.0),
        torch.zeros(0),
        torch.zeros(0, 4),
    ],
)
def test_what_is_no_wave_is_refused(bad):
    says = "floats (..., T), not empty"
    for function in (
        sound_video.require_wave,
        sound_video.fourier,
        lambda wave: sound_video.frames(wave, 2, 2),
        lambda wave: sound_video.wav_bytes(wave, 8),
        lambda wave: sound_video.Sound(wave, "a sound"),
    ):
        refuses("wave", function, bad, says=says)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_waves_with_nan_or_infinity_are_refused(bad):
    says = "free of NaN and infinity"
    refuses("wave", sound_video.require_wave, torch.tensor([0.0, bad]), says=says)
    refuses("wave", sound_video.fourier, torch.tensor([[0.0], [bad]]), says=says)


def test_one_sample_is_a_wave_and_one_choice_enough():
    assert sound_video.require_wave(torch.ones(1)) is None
    assert sound_video.fourier(torch.ones(1)).tolist() == [1]
    one = sound_video.sounds(torch.tensor([[0, 1, 1]]), generator())
    assert one.shape == (1, 4_096)


def test_a_file_holds_the_wave():
    made = sound_video.wav_bytes(torch.tensor([0.0, 0.5, -0.5, 0.25]), 8_000)
    with wave.open(io.BytesIO(made)) as file:
        assert file.getframerate() == 8_000
        assert (file.getnchannels(), file.getsampwidth()) == (1, 1)
        levels = list(file.readframes(99))
    assert levels == [128, 255, 1, 192]  # 128 + 127 * the share of the peak
    assert sound_video.wav_bytes(torch.zeros(2), 1)[-2:] == bytes([128, 128])
    assert sound_video.wav_bytes(torch.tensor([-2.0, 1.0]), 1)[-2:] == bytes([1, 192])


def test_bad_files_are_refused():
    refuses("wave", sound_video.wav_bytes, torch.zeros(2, 2), 8, says="one wave, (T,)")
    for rate in 0, -1, 8.0, True:
        says = "a whole number above 0"
        refuses("rate", sound_video.wav_bytes, torch.zeros(2), rate, says=says)


def test_a_sound_says_what_it_is_and_can_be_played():
    sound = sound_video.Sound(torch.zeros(4_000), 'a "quiet" <one>')
    assert repr(sound) == 'Sound: a "quiet" <one>, 0.50 seconds.'
    safe = "a &quot;quiet&quot; &lt;one&gt;"
    html = sound._repr_html_()
    data = "data:audio/wav;base64,UklGR"  # RIFF
    opening = f'<p class="fg-sound"><audio controls preload="none" aria-label="{safe}" '
    assert html.startswith(f'{opening}src="{data}')
    assert html.endswith(f'"></audio><br>{safe}, 0.50 seconds</p>')
    slow = sound_video.Sound(torch.zeros(4_000), "slow", 1_000)
    assert repr(slow) == "Sound: slow, 4.00 seconds."
    assert slow.file == sound_video.wav_bytes(torch.zeros(4_000), 1_000)


# Spectrograms


@quick
@given(seed=st.integers(0, 999), T=st.integers(1, 40), rows=st.integers(1, 3))
def test_fourier_is_the_transform(seed, T, rows):
    x = random(rows, 2, T, seed=seed)
    close(sound_video.fourier(x), torch.fft.rfft(x), 1e-10)
    assert sound_video.fourier(x.float()).dtype == torch.complex128


@quick
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
def test_frames_are_centred_windows(hops, hop, half, seed):
    T, window = hops * hop, hop + 2 * half
    x = random(2, T, seed=seed)
    if window > T:
        says = f"from {hop} to {T}, and even with the hop"
        refuses("window", sound_video.frames, x, window, hop, says=says)
        return
    got = sound_video.frames(x, window, hop)
    assert got.shape == (2, hops, window)
    for f, k in itertools.product(range(hops), range(window)):
        at = f * hop + k - half
        right = x[:, at] if 0 <= at < T else torch.zeros(2)
        close(got[:, f, k], right.double())


def test_bad_windows_are_refused():
    x = torch.zeros(12)
    for hop in 0, -4, 5, 4.0, True, 24:
        says = "a whole number that divides 12"
        refuses("hop", sound_video.frames, x, 4, hop, says=says)
    for window in 2, 5, 14, 6.0, 0:
        says = "from 4 to 12, and even with the hop"
        refuses("window", sound_video.frames, x, window, 4, says=says)
        refuses("window", sound_video.spectrogram, x, window, 4, says=says)
        refuses("window", sound_video.log_mel, x, window, 4, says=says)
    assert sound_video.frames(x, 12, 4).shape == (3, 12)
    assert sound_video.frames(x, 4, 4).shape == (3, 4)


@pytest.mark.parametrize(("window", "hop"), [(8, 8), (16, 8), (24, 4), (256, 128)])
def test_spectrogram_is_torchs(window, hop):
    x = random(2, 512 if window > 48 else 48)
    side = (window - hop) // 2
    fade = torch.hann_window(window, periodic=False, dtype=torch.double)
    options = {"window": fade, "center": False, "return_complex": True}
    right = torch.stft(F.pad(x, (side, side)), window, hop, **options).abs() ** 2
    close(sound_video.spectrogram(x, window, hop), right.mT, 1e-9)
    if window == 256:
        close(sound_video.spectrogram(x), right.mT, 1e-9)
    assert sound_video.spectrogram(x.float(), window, hop).dtype == torch.float32


def test_backwards_is_backwards():
    x = random(1_024)
    back = sound_video.spectrogram(x.flip(-1))
    close(back, sound_video.spectrogram(x).flip(0), 1e-9)


def test_mel_is_its_formula():
    hertz = [0.0, 20.0, 700.0, 1_000.0, 4_000.0]
    right = [2595 * math.log10(1 + f / 700) for f in hertz]
    close(sound_video.mel(hertz), torch.tensor(right, dtype=torch.double))
    close(sound_video.mel(torch.tensor(hertz)), sound_video.mel(hertz))
    assert sound_video.mel(0) == 0
    refuses("hertz", sound_video.mel, -1.0, says="0 or more", shown="tensor(-1.")
    refuses("hertz", sound_video.mel, [1, -1], shown="<Tensor of shape (2,)")


@pytest.mark.parametrize(("bands", "window", "rate"), [(4, 64, 1000), (32, 256, 8000)])
def test_bands_are_triangles(bands, window, rate):
    high = 2595 * math.log10(1 + rate / 2 / 700)
    tops = [700 * (10 ** (i * high / (bands + 1) / 2595) - 1) for i in range(bands + 2)]
    got = sound_video.mel_bands(bands, window, rate)
    pitches = np.arange(window // 2 + 1) * rate / window
    for i, row in enumerate(got):
        right = np.interp(pitches, tops[i : i + 3], [0, 1, 0])
        close(row, torch.from_numpy(right), 1e-9)
    assert got.min() == 0


def test_bad_bands_are_refused():
    good = {"bands": 4, "window": 8, "rate": 100}
    assert sound_video.mel_bands(**{**good, "bands": 1, "window": 1, "rate": 1}).shape
    for name, bad in itertools.product(good, (0, -1, 2.0, True)):
        says = "a whole number above 0"
        refuses(name, sound_video.mel_bands, **{**good, name: bad}, says=says)
    assert torch.equal(
        sound_video.mel_bands(4, 64), sound_video.mel_bands(4, 64, 8_000)
    )


def test_log_mel_is_log_of_bands():
    x = random(2, 1_024)
    power = sound_video.spectrogram(x, 64, 32)
    right = (power @ sound_video.mel_bands(5, 64, 1_000).T + 0.001).log10()
    close(sound_video.log_mel(x, 64, 32, 5, 1_000), right)
    power = sound_video.spectrogram(x, 256, 128)
    right = (power @ sound_video.mel_bands(32, 256, 8_000).T + 0.001).log10()
    close(sound_video.log_mel(x), right)
    silent = sound_video.log_mel(torch.zeros(256))
    close(silent, torch.full_like(silent, -3), 1e-6)
    close(sound_video.log_mel(x.float()), right.float(), 1e-3)


# Sounds


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
    tone = np.sin(2 * np.pi * turns)
    if timbre in (1, 2):
        tone = tone + 0.7 * np.sin(3 * 2 * np.pi * turns)
    if timbre == 2:
        tone = tone + 0.7 * np.sin(2 * 2 * np.pi * turns)
    if timbre == 3:
        points = (np.arange(T) + 0.5) / 32 - 0.5
        tone = tone * np.interp(points, np.arange(T // 32), draws["breath"])
    tone = tone * np.sqrt(np.maximum(np.sin(np.pi * place), 0))
    return tone * 0.1 / np.sqrt(np.mean(tone**2)) + 0.003 * draws["hiss"]


def test_sounds_are_what_numpy_makes_of_the_same_draws():
    T = sound_video.SAMPLES
    assert (T, sound_video.RATE) == (4_096, 8_000)
    choices = torch.tensor(list(itertools.product(range(3), range(4), range(2))))
    B, draws = len(choices), generator(4)
    names = ["length", "start", "middle", "octaves", "begin"]
    drawn = {
        k: torch.rand(B, 1, generator=draws, dtype=torch.double)[:, 0] for k in names
    }
    drawn["breath"] = torch.randn(B, T // 32, generator=draws, dtype=torch.double)
    drawn["hiss"] = torch.randn(B, T, generator=draws, dtype=torch.double)
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


@pytest.mark.parametrize(
    "bad",
    [
        [[0, 0, 0]],
        torch.zeros(2, 3),
        torch.zeros(3, dtype=torch.long),
        torch.zeros(2, 2, dtype=torch.long),
        torch.zeros(0, 3, dtype=torch.long),
        torch.zeros(2, 3, 2, dtype=torch.long),
        torch.tensor([[0, 0, 0], [0, 4, 0]]),
        torch.tensor([[3, 0, 0]]),
        torch.tensor([[0, -1, 0]]),
    ],
)
def test_bad_choices_are_refused(bad):
    says = "indices (B, 3) below (3, 4, 2)"
    refuses("choices", sound_video.sounds, bad, generator(), says=says)
    says = "indices (B, 2) below (6, 3)"
    if torch.is_tensor(bad) and bad.shape != (2, 2):
        refuses("choices", sound_video.films, bad, generator(), says=says)


def test_captions_name_what_they_say():
    assert sound_video.sound_caption(0, 2, 1) == "a high bright tone that rises"
    assert sound_video.sound_caption(2, 3, 0) == "a low breathy tone that stays"
    made = {
        sound_video.sound_caption(*i)
        for i in itertools.product(range(3), range(4), range(2))
    }
    assert len(made) == 24
    assert {word for text in made for word in text.split()} == {
        *("a", "tone", "that", "rises", "falls", "stays"),
        *("pure", "hollow", "bright", "breathy", "low", "high"),
    }
    assert sound_video.film_caption(3, 0) == "a square that moves down"
    assert sound_video.film_caption(4, 1) == "a disc that gets wider"
    made = {sound_video.film_caption(*i) for i in itertools.product(range(6), range(3))}
    assert len(made) == 18
    assert {word for text in made for word in text.split()} == {
        *("a", "that", "moves", "gets", "square", "disc", "cross"),
        *("left", "right", "up", "down", "wider", "narrower"),
    }


# Films


def numpy_film(choice, draws):
    """One film from its draws, pixel by pixel."""
    move, shape = choice
    film = np.zeros((8, 16, 16))
    for f in range(8):
        way = (4 + 3 * draws["way"]) * (f / 7 - 0.5)
        x, y = 5.5 + 4 * draws["x"], 5.5 + 4 * draws["y"]
        size = 2 + 1.2 * draws["size"]
        x += way * (-1, 1, 0, 0, 0, 0)[move]
        y += way * (0, 0, -1, 1, 0, 0)[move]
        size += way / 4 * (0, 0, 0, 0, 1, -1)[move]
        for row, column in itertools.product(range(16), range(16)):
            a, b = abs(column - x), abs(row - y)
            if shape == 0:
                out = max(a, b) - 0.9 * size
            elif shape == 1:
                out = math.hypot(a, b) - size
            else:
                across = max(a - 1.1 * size, b - 0.35 * size)
                out = min(across, max(b - 1.1 * size, a - 0.35 * size))
            film[f, row, column] = min(max(0.5 - out, 0), 1)
    return film


def test_films_are_what_loops_make_of_the_same_draws():
    choices = torch.tensor(list(itertools.product(range(6), range(3))))
    draws = generator(2)
    drawn = [
        torch.rand(18, 1, generator=draws, dtype=torch.double)[:, 0] for _ in range(4)
    ]
    hiss = torch.randn(18, 8, 16, 16, generator=draws, dtype=torch.double)
    clean = sound_video.films(choices, generator(2), noise=0)
    for i, choice in enumerate(choices.tolist()):
        names = ("x", "y", "size", "way")
        one = {k: float(d[i]) for k, d in zip(names, drawn, strict=True)}
        close(clean[i], torch.from_numpy(numpy_film(choice, one)), 1e-9)
    close(sound_video.films(choices, generator(2)), clean + 0.05 * hiss, 1e-9)
    close(sound_video.films(choices, generator(2), noise=2), clean + 2 * hiss, 1e-9)


@pytest.mark.parametrize(("move", "opposite"), [(0, 1), (2, 3), (4, 5)])
def test_the_opposite_move_is_the_film_backwards(move, opposite):
    there, back = (
        sound_video.films(
            torch.tensor([[m, shape] for shape in range(3)]), generator(1), noise=0
        )
        for m in (move, opposite)
    )
    close(there.flip(1), back, 1e-12)


# Patches


@quick
@given(st.data())
def test_cut_reads_blocks_in_order(data):
    count = data.draw(st.integers(1, 3))
    pairs = [data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))] * count
    pairs = [data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in pairs]
    sizes, patch = [g * p for g, p in pairs], tuple(p for _, p in pairs)
    x = torch.arange(2.0 * math.prod(sizes)).view(2, *sizes)
    right = []
    for corner in itertools.product(*(range(g) for g, _ in pairs)):
        block = [slice(c * p, (c + 1) * p) for c, p in zip(corner, patch, strict=True)]
        right.append(x[:, *block].flatten(1))
    assert torch.equal(sound_video.cut(x, patch), torch.stack(right, 1))
    grid = math.prod(g for g, _ in pairs)
    assert sound_video.tokens_in(tuple(sizes), patch) == grid


def test_cut_is_what_convolutions_do():
    film, matrix = random(2, 4, 6, 8), random(5, 1, 2, 3, 4, seed=1)
    ours = sound_video.cut(film, (2, 3, 4)) @ matrix.flatten(1).mT
    theirs = F.conv3d(film[:, None], matrix, stride=(2, 3, 4)).flatten(2).mT
    close(ours, theirs, 1e-9)


def test_bad_patches_are_refused():
    x = torch.zeros(1, 8, 16, 16)
    for bad in (3, 8, 8), (2, 5, 8), (2, 8), (2, 8, 8, 1), (0, 8, 8), (2, 8, -8), 2:
        says = "divisors of (8, 16, 16), in a tuple"
        refuses("patch", sound_video.cut, x, bad, says=says)
    for bad in [2, 8, 8], (2.0, 8, 8), (True, 8, 8):
        refuses("patch", sound_video.cut, x, bad, says="in a tuple")
    says = "(B, *sizes) with an axis to cut"
    refuses("x", sound_video.cut, torch.zeros(3), (), says=says)
    for bad in (3, 8, 8), (2, 8), (2, 8, 0), (2, 8, -8), (2.0, 8, 8), (2, 8, 8, 1):
        says = "divisors of (8, 16, 16)"
        refuses("patch", sound_video.tokens_in, (8, 16, 16), bad, says=says)
    assert sound_video.tokens_in((8, 16, 16), (2, 8, 8)) == 16
    assert sound_video.tokens_in((1,), (1,)) == 1


# The encoder


def by_hand(encoder, x):
    """The encoder's sums with torch's own layers, one thing at a time."""
    x = F.linear(x, encoder.patch.weight, encoder.patch.bias)
    if encoder.place is not None:
        x = x + encoder.place
    for block in encoder.blocks:
        normed = F.layer_norm(x, (48,), block.norm_attention.weight)
        normed = normed + block.norm_attention.bias
        a = block.attention
        parts = [
            F.linear(normed, m.weight, m.bias).view(*x.shape[:2], 4, 12).transpose(1, 2)
            for m in (a.query, a.key, a.value)
        ]
        scores = (parts[0] @ parts[1].mT / math.sqrt(12)).softmax(-1)
        mixed = (scores @ parts[2]).transpose(1, 2).flatten(2)
        x = x + F.linear(mixed, a.output.weight, a.output.bias)
        normed = F.layer_norm(x, (48,), block.norm_mlp.weight, block.norm_mlp.bias)
        hidden = F.gelu(F.linear(normed, block.mlp.up.weight, block.mlp.up.bias))
        x = x + F.linear(hidden, block.mlp.down.weight, block.mlp.down.bias)
    norm = encoder.norm
    return F.layer_norm(x.mean(1), (48,), norm.weight, norm.bias)


def some_matcher(places=True, seed=0, tokens=6, numbers=5):
    encoder = sound_video.PatchEncoder(tokens, numbers, places=places)
    return sound_video.Matcher(encoder, ["a", "b", "c"], generator(seed))


@pytest.mark.parametrize("places", [True, False])
def test_the_encoder_is_its_sums(places):
    encoder = some_matcher(places).encoder
    with torch.no_grad():
        for i, p in enumerate(encoder.parameters()):
            p.add_(0.3 * random(*p.shape, seed=i))
    x = random(3, 6, 5)
    close(encoder(x), by_hand(encoder, x), 1e-9)
    assert len(encoder.blocks) == 2
    assert (encoder.place is not None) == places
    assert encoder(x).dtype == torch.double


def test_without_places_the_order_is_nothing():
    x, order = random(3, 6, 5), torch.tensor([3, 0, 5, 1, 4, 2])
    free, placed = some_matcher(places=False), some_matcher()
    close(free.encoder(x), free.encoder(x[:, order]), 1e-10)
    assert (placed.encoder(x) - placed.encoder(x[:, order])).abs().max() > 1e-3


def test_the_default_has_places():
    encoder = sound_video.PatchEncoder(6, 5)
    assert torch.equal(encoder.place, torch.zeros(6, 48))
    assert {p.dtype for p in encoder.parameters()} == {torch.double}


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(6, 5, dtype=torch.double),
        torch.zeros(1, 1, 6, 5, dtype=torch.double),
        torch.zeros(2, 5, 5, dtype=torch.double),
        torch.zeros(2, 6, 6, dtype=torch.double),
        torch.zeros(2, 6, 5),
    ],
)
def test_other_tokens_are_refused(bad):
    says = "float64 tokens, (B, (6, 5))"
    refuses("x", sound_video.PatchEncoder(6, 5), bad, says=says)


def test_a_matcher_gives_cosines():
    model, x = some_matcher(), random(4, 6, 5)
    texts = ["a b", "c", "b b c"]
    bags = contrastive.bag_of_words(texts, ["a", "b", "c"]).double()
    text, thing = model.join(bags, model.encoder(x))
    close(model(x, texts), thing @ text.mT)
    parts = model.embed(x, texts)
    close(parts[0], text)
    close(parts[1], thing)
    close(thing.norm(dim=1), torch.ones(4, dtype=torch.double))
    assert thing.shape == (4, 32)
    assert {p.dtype for p in model.parameters()} == {torch.double}
    close(model.scale(), torch.tensor(1 / 0.07, dtype=torch.double), 1e-6)


def test_the_generator_draws_all_weights_in_float64():
    first, again, other = (some_matcher(seed=s) for s in (0, 0, 1))
    for (name, a), b, c in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        if a.dim() > 1:
            assert not torch.equal(a, c), name
            assert not torch.equal(a, a.float().double()), name


def test_teach_steps_as_adamw_with_a_falling_rate():
    model, twin = some_matcher(), some_matcher()
    tokens, captions = random(9, 6, 5), ["a", "a b", "c"]
    which = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1])
    steps, batch = 30, 4
    loss = sound_video.teach(
        model, tokens, which, captions, steps, generator(5), batch=batch
    )
    recipe, draws = training.plain_recipe(steps, rate=0.003), generator(5)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.003 * training.rate_share(step, recipe)
        drawn = torch.randint(9, (batch,), generator=draws)
        bags = contrastive.bag_of_words([captions[which[i]] for i in drawn], "abc")
        text, thing = twin.join(bags.double(), twin.encoder(tokens[drawn]))
        right = contrastive.contrastive_loss_grouped(
            text, thing, which[drawn], 1 / twin.scale()
        )
        optimizer.zero_grad()
        right.backward()
        optimizer.step()
    assert loss == pytest.approx(right.item(), abs=1e-7)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        close(a, b, 1e-6)


def test_teach_draws_batches_of_48():
    seen = []
    model = some_matcher()
    model.encoder.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    which = torch.zeros(50, dtype=torch.long)
    sound_video.teach(model, random(50, 6, 5), which, ["a"], 2, generator())
    assert seen == [48, 48]


def test_teach_learns():
    draws = generator(3)
    which = torch.randint(3, (90,), generator=draws)
    kinds = random(3, 6, 5, seed=8)
    tokens = kinds[which] + 0.1 * random(90, 6, 5)
    model = some_matcher()
    sound_video.teach(model, tokens, which, ["a", "b", "c"], 60, draws, batch=16)
    answers = model(tokens, ["a", "b", "c"]).argmax(1)
    assert (answers == which).double().mean() > 0.9


@pytest.mark.parametrize(
    "bad", [torch.zeros(8).long(), torch.zeros(9), torch.zeros(9, 1).long()]
)
def test_teach_refuses_other_indices(bad):
    says = "(9,) indices, int64"
    model, tokens = some_matcher(), random(9, 6, 5)
    refuses(
        "which", sound_video.teach, model, tokens, bad, ["a"], 1, generator(), says=says
    )


# Order


def test_shuffle_time_gives_each_an_order_of_its_own():
    x = torch.arange(200).view(20, 5, 2)
    got = sound_video.shuffle_time(x, generator())
    assert got.shape == x.shape
    orders = set()
    for before, after in zip(x, got, strict=True):
        order = [before.tolist().index(row) for row in after.tolist()]
        assert sorted(order) == list(range(5))
        orders.add(tuple(order))
    assert len(orders) > 10
    assert torch.equal(got, sound_video.shuffle_time(x, generator()))
    assert not torch.equal(got, sound_video.shuffle_time(x, generator(1)))
    refuses("x", sound_video.shuffle_time, torch.zeros(3), generator(), says="(B, F, ")
    assert sound_video.shuffle_time(x[:, :, 0], generator()).shape == (20, 5)


def test_prefers_compares_a_caption_with_its_mirror_image():
    cosines = torch.tensor([[0.1, 0.2, 0.9], [0.3, 0.2, 0.9], [0.1, 0.2, 0.2]])
    which, mirrored = torch.tensor([0, 0, 1]), torch.tensor([1, 0, 2])
    got = sound_video.prefers(cosines, which, mirrored)
    assert got.tolist() == [False, True, True]  # 0.1 > 0.2, 0.3 > 0.2, 0.2 > 0.1
    same = sound_video.prefers(cosines, which, torch.tensor([0, 1, 2]))
    assert same.tolist() == [False, False, False]  # no ties


# Exercises


def exercises():
    return run_exercises(NOTEBOOK, sound_video)


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()
    fails(
        book.check_heard_as,
        lambda hertz, rate: hertz,
        lambda hertz, rate: hertz % rate,
        lambda hertz, rate: min(hertz, rate / 2),
        lambda hertz, rate: hertz % (rate // 2),
        lambda hertz, rate: book.heard_as(hertz, 8_000),
    )
    fails(
        book.check_put_together,
        lambda tokens, sizes, patch: tokens.reshape(-1, *sizes),
        lambda tokens, sizes, patch: tokens,
        lambda tokens, sizes, patch: book.put_together(tokens.flip(0), sizes, patch),
    )
    fails(
        book.check_longest_film,
        lambda context, rate, frame, sound: context / (rate * frame + sound),
        lambda context, rate, frame, sound: context // (rate * frame),
        lambda context, rate, frame, sound: context // (frame + sound),
        lambda context, rate, frame, sound: 1 + context // (rate * frame + sound),
    )
