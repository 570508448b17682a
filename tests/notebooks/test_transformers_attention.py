"""The cells of transformers/attention against torch, transformers and arithmetic."""

import functools
import math
import types
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import KINDS, close, generator, random, refuses, refuses_all, stays
from hypothesis import given, settings
from torch import nn

from fieldguide import data
from fieldguide.transformers import attention

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2}
SENTENCES = ["The robot dropped the cup because it was slippery.", "naïve 東京 42", "a"]

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)


@st.composite
def lookups(draw, types=tuple(TOLERANCE)):
    """Query, key, value, mask of shapes that broadcast, and the full shapes."""
    rng = generator(draw(seeds))
    kind = draw(st.sampled_from(types))
    leading = draw(st.sampled_from([(), (2,), (2, 3)]))
    T, S, K, V = (draw(sizes) for _ in range(4))

    def some(last, leading=leading, ones=False):
        lead = [draw(st.sampled_from([1, n])) for n in leading]
        lead = lead[draw(st.integers(0, len(lead))) :]
        last = [draw(st.sampled_from([1, n])) if ones else n for n in last]
        return torch.randn(*lead, *last, generator=rng, dtype=torch.double)

    arrays = [some((T, K)), some((S, K)), some((S, V))]
    joint = torch.broadcast_shapes(*(array.shape[:-2] for array in arrays))
    mask = some((T, S), joint, ones=True) > 0 if draw(st.booleans()) else None
    full = [(*leading, T, K), (*leading, S, K), (*leading, S, V)]
    return [array.to(kind).requires_grad_() for array in arrays], mask, full


def torch_attention(arrays, full, mask, scale=None):
    """Torch's function on arrays expanded to their full shapes."""
    expanded = [x.expand(shape) for x, shape in zip(arrays, full, strict=True)]
    if mask is not None:
        mask = mask.expand(*full[0][:-1], full[1][-2])
    return F.scaled_dot_product_attention(*expanded, attn_mask=mask, scale=scale)


# Attention


@given(lookups(), st.sampled_from([None, 1, 0.3]))
@quick
def test_attention_is_torchs_value_and_gradient(case, scale):
    """The fast form too, with sizes of 1 left to broadcasting, which torch refuses."""
    arrays, mask, full = case
    tolerance = TOLERANCE[arrays[0].dtype]
    ours, weights = attention.simple_attention(*arrays, mask=mask, scale=scale)
    fast, nothing = attention.simple_attention_fast(*arrays, mask=mask, scale=scale)
    theirs = torch_attention(arrays, full, mask, scale)
    lead = torch.broadcast_shapes(ours.shape, theirs.shape)
    close(ours.expand(lead), theirs, tolerance)
    close(ours.expand(fast.shape), fast, tolerance)
    assert fast.shape[:-2] == torch.broadcast_shapes(*(x.shape[:-2] for x in arrays))
    assert weights.shape[-2:] == (full[0][-2], full[1][-2]) and nothing is None
    assert ours.dtype == weights.dtype == fast.dtype == arrays[0].dtype
    signal = torch.randn(lead, generator=generator(1)).to(ours.dtype)
    gradients = [
        torch.autograd.grad((out.expand(lead) * signal).sum(), arrays)
        for out in (ours, theirs)
    ]
    for mine, other in zip(*gradients, strict=True):
        assert mine.isfinite().all()
        close(mine, other, 4 * tolerance)


@given(lookups(types=(torch.float64,)))
@quick
def test_weights_are_the_softmax_of_scaled_scores(case):
    """And those that a mask hides exactly 0."""
    (query, key, value), mask, _ = case
    mask = torch.tensor(True) if mask is None else mask
    _, weights = attention.simple_attention(query, key, value, mask=mask)
    scores = torch.einsum("...tk,...sk->...ts", query, key) / math.sqrt(query.size(-1))
    shares = scores.exp() * mask
    total = shares.sum(-1, keepdim=True)
    close(weights, shares / total.where(total > 0, 1))
    assert weights.masked_select(~mask.expand(weights.shape)).eq(0).all()


HALVES = [torch.float16, torch.bfloat16]
FORMS = ["simple_attention", "simple_attention_fast"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("scale", [None, 50.0])
def test_scores_of_halves_do_not_overflow(form, kind, scale):
    """Beyond 65,504, where float16 ends; all of it is exact in float32."""
    drawn = torch.randint(-3, 4, (2, 2, 6, 64), generator=generator())
    query, key = 128.0 * drawn.double()
    value = torch.linspace(-6e4, 6e4, 48, dtype=torch.double).view(2, 6, 4)
    value = value.to(kind).double()
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    mask[2] = False
    for seen in (None, mask):
        exact = query @ key.mT * (1 / 8 if scale is None else scale)
        assert exact.abs().max() > 65_504
        if seen is not None:
            exact = exact.masked_fill(~seen, -math.inf)
        shares = exact.softmax(-1).nan_to_num(0)  # a row without a place
        arrays = [x.to(kind).requires_grad_() for x in (query, key, value)]
        attend = getattr(attention, form)
        output, weights = attend(*arrays, mask=seen, scale=scale)
        assert output.dtype == kind
        close(output.double(), shares @ value, 2 * torch.finfo(kind).eps)
        if weights is not None:
            assert weights.dtype == kind
            close(weights.double(), shares, 2 * torch.finfo(kind).eps)
        for gradient in torch.autograd.grad(output.sum(), arrays):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_a_hidden_score_counts_for_nothing_whatever_it_is(kind):
    """Even one that has overflowed, as a product of halves does beyond 65,504."""
    mask = torch.tensor([True, False, True])
    for hidden in (math.inf, -math.inf, math.nan, torch.finfo(kind).max):
        scores = torch.tensor([1.0, hidden, 1.0], dtype=kind, requires_grad=True)
        shares = attention.masked_softmax(scores, mask)
        assert shares.tolist() == [0.5, 0.0, 0.5] and shares.dtype == kind
        (gradient,) = torch.autograd.grad(shares[0], scores)
        assert gradient.tolist() == [0.25, 0.0, -0.25]
        blind = attention.masked_softmax(scores, torch.tensor([False]))
        (gradient,) = torch.autograd.grad(blind.sum(), scores)
        assert blind.tolist() == gradient.tolist() == [0.0] * 3


def test_causal_mask_table():
    expected = [[True, False, False], [True, True, False], [True, True, True]]
    assert attention.causal_mask(3).tolist() == expected
    assert attention.causal_mask(1).tolist() == [[True]]


@pytest.mark.parametrize("form", FORMS)
def test_one_wide_queries_and_small_masks_are_allowed(form):
    x, attend = torch.randn(2, 2, 3, 1), getattr(attention, form)
    for shape in ((), (1,), (3,), (1, 3), (3, 1), (3, 3), (1, 3, 3), (2, 1, 3)):
        output, _ = attend(x, x, x, mask=torch.ones(shape, dtype=torch.bool))
        close(output, attention.simple_attention(x, x, x)[0], 1e-6)


# Heads


@given(sizes, sizes, sizes, st.sampled_from([(), (2,), (2, 3)]))
@quick
def test_heads_split_and_merge(T, heads, K, leading):
    x = torch.arange(math.prod(leading) * T * heads * K)
    x = x.reshape(*leading, T, heads * K)
    split = attention.split_heads(x, heads)
    assert split.shape == (*leading, heads, T, K)
    for head in range(heads):
        part = x[..., head * K : (head + 1) * K]
        assert torch.equal(split[..., head, :, :], part)
    assert torch.equal(attention.merge_heads(split), x)


def torch_layer(layer, width, heads):
    """nn.MultiheadAttention with the matrices of `layer`."""
    made = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
    parts = [layer.query.weight, layer.key.weight, layer.value.weight]
    made.in_proj_weight = nn.Parameter(torch.cat(parts))
    made.out_proj.weight = layer.output.weight
    return made


@given(seeds, sizes, st.sampled_from([1, 2, 4]), sizes, st.booleans())
@quick
def test_layer_equals_torchs(seed, T, heads, K, causal):
    torch.manual_seed(seed)
    layer = attention.MultiHeadAttention(heads * K, heads)
    assert [p.shape for p in layer.parameters()] == [(heads * K, heads * K)] * 4
    x = torch.randn(2, T, heads * K, requires_grad=True)
    mask = attention.causal_mask(T) if causal else None
    options = {"attn_mask": ~mask if causal else None, "average_attn_weights": False}
    theirs = torch_layer(layer, heads * K, heads)(x, x, x, **options)
    output, weights = layer(x, mask)
    close(output, theirs[0], 1e-5)
    close(weights, theirs[1], 1e-5)
    close(layer(x[0], mask), (output[0], weights[0]), 1e-5)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (output, theirs[0])]
    close(*gradients, 1e-5)
    row = x[0, :, 0] > 0  # serves every query
    close(layer(x, row), layer(x, row.expand(T, T)), 1e-5)
    layer.attend = attention.simple_attention_fast
    close(layer(x, mask)[0], output, 1e-5)


@pytest.mark.parametrize("sentences", [2, 3])
@pytest.mark.parametrize("form", FORMS)
def test_each_sentence_of_a_batch_has_its_own_mask(sentences, form):
    """Padding: (B, T, T) is not taken for (H, T, T), where B is H or is not."""
    torch.manual_seed(sentences)
    layer = attention.MultiHeadAttention(8, 2, attend=getattr(attention, form))
    x = torch.randn(sentences, 4, 8)
    mask = torch.rand(sentences, 4, 4) > 0.4
    output, _ = layer(x, mask)
    alone = [layer(x[b], mask[b])[0] for b in range(sentences)]
    close(output, torch.stack(alone), 1e-6)
    pairs, masks = x.expand(2, *x.shape), torch.stack([mask, ~mask])
    expected = torch.stack([output, layer(x, ~mask)[0]])
    close(layer(pairs, masks)[0], expected, 1e-6)


def calls(device, kind):
    """{what: (a call, what type it gives)} on a device, from a float type."""
    made = {"device": device, "dtype": kind}
    x, heads, matrix = (torch.ones(s, **made) for s in [(5, 8), (2, 5, 4), (5, 5)])
    mask, places = attention.causal_mask(5).to(device), torch.arange(5, device=device)
    found = {
        "masked_softmax": lambda: attention.masked_softmax(matrix, mask),
        "plain": lambda: attention.masked_softmax(x),
        "split_heads": lambda: attention.split_heads(x, 2),
        "merge_heads": lambda: attention.merge_heads(heads),
        "rms_norm": lambda: attention.rms_norm(x, x[0], 1e-6),
        "rotate": lambda: attention.rotate(heads, places, 1e4),
    }
    for form in FORMS:
        attend = getattr(attention, form)
        layer = attention.MultiHeadAttention(8, 2, attend=attend).to(**made)
        attend = functools.partial(attend, *[heads] * 3, mask=mask, scale=2)
        found[form] = lambda attend=attend: attend()[0]
        found[f"layer, {form}"] = lambda layer=layer: layer(x, mask)[0]
    return {name: (call, kind) for name, call in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    stays(calls, kind)


# The race of two readers


@given(st.integers(1, 5), st.integers(1, 5), seeds)
@quick
def test_a_row_is_letters_of_which_the_first_is_flagged_and_asked_for(
    count, distance, seed
):
    x, answer = attention.rows_of(count, distance, generator(seed))
    size = (count, distance + 1)
    assert x.shape == (*size, 9) and x.dtype == torch.double
    letters = torch.randint(8, size, generator=generator(seed))
    assert torch.equal(x[..., :8], F.one_hot(letters, 8).double())
    assert x[..., 8].tolist() == [[1.0, *[0.0] * distance]] * count
    assert torch.equal(answer, letters[:, 0])


def some_readers():
    """Of each kind one, drawn at random, in double."""
    torch.manual_seed(0)
    makers = attention.rnn_reader, attention.attention_reader
    return [make().double() for make in makers]


def test_readers_are_made_by_their_name():
    kinds = {"RNN": nn.RNN, "attention": attention.MultiHeadAttention}
    made = {name: make().look_back for name, make in attention.MAKERS.items()}
    assert {name: type(layer) for name, layer in made.items()} == kinds


def test_readers_answer_from_their_last_state():
    """The RNN's by its formula, attention's by what the last position gathers."""
    for reader in some_readers():
        x, _ = attention.rows_of(5, 3, generator())
        seen = reader.embed(x)  # (B, T, width)
        if isinstance(reader.look_back, nn.RNN):
            weights = dict(reader.look_back.named_parameters())
            assert [w.shape for w in weights.values()] == [(32, 32)] * 2 + [(32,)] * 2
            w_in, w_rec, *biases = weights.values()
            state = torch.zeros(5, 32, dtype=torch.double)
            for t in range(4):
                state = (seen[:, t] @ w_in.T + state @ w_rec.T + sum(biases)).tanh()
        else:
            layer = reader.look_back
            assert layer.query.weight.shape == (16, 16)
            names = ("query", "key", "value")
            query, key, value = (getattr(layer, name)(seen) for name in names)
            state, _ = attention.simple_attention(query[:, -1:], key, value)
            state = layer.output(state)[:, 0]
        expected = state @ reader.answer.weight.T + reader.answer.bias
        close(reader(x), expected)
        assert expected.shape == (5, 8)


def test_a_reader_is_scored_by_its_answers_and_its_look_at_the_flag():
    for reader in some_readers():
        graphs = []
        reader.embed.register_forward_hook(lambda *call, of=graphs: of.append(call[2]))
        x, _ = attention.rows_of(8, 5, generator())
        answer = reader(x).argmax(-1)
        answer[:2] = (answer[:2] + 1) % 8  # two of eight are wrong
        graphs.clear()
        right, weight = attention.scored(reader, x, answer)
        assert graphs and not any(out.requires_grad for out in graphs)
        assert right == pytest.approx(6 / 8)
        if isinstance(reader.look_back, nn.RNN):
            assert weight is None
        else:
            _, weights = reader.look_back(reader.embed(x))  # (B, 1, T, T)
            assert weights.shape == (8, 1, 6, 6)
            by_hand = sum(weights[b, 0, 5, 0].item() for b in range(8)) / 8
            assert weight == pytest.approx(by_hand, abs=1e-12)


def trained_by_hand(make, distance, seed, steps):
    """A reader after so many steps, and (accuracy, weight) on 1,000 fresh rows."""
    torch.manual_seed(seed)
    reader, draw = make().double(), generator(seed)
    adam = torch.optim.Adam(reader.parameters(), lr=0.003)
    for _ in range(steps):
        x, answer = attention.rows_of(64, distance, draw)
        adam.zero_grad()
        (-reader(x).log_softmax(-1)[range(64), answer]).mean().backward()
        adam.step()
    fresh = attention.rows_of(1000, distance, generator(1000 + seed))
    return attention.scored(reader, *fresh)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_reader_is_scored_every_twenty_steps_of_its_training(seed):
    make = attention.attention_reader
    found = attention.train_reader(make, 1, seed, steps=40)
    assert len(found) == 3
    for steps, (right, weight) in zip([0, 20, 40], found, strict=True):
        expected = trained_by_hand(make, 1, seed, steps)
        assert right == pytest.approx(expected[0], abs=0.0021), "two rows may flip"
        assert weight == pytest.approx(expected[1], abs=1e-6)
        assert 1000 * right == pytest.approx(round(1000 * right), abs=1e-9)
    assert len(attention.train_reader(make, 1, seed, steps=39)) == 2


# The first layer of a real model


@given(seeds, sizes, sizes, st.sampled_from([1e-6, 1e-2, 0.5]))
@quick
def test_rms_norm_is_torchs(seed, T, D, eps):
    x, weight = random(T, D, seed=seed), random(D, seed=seed + 1)
    close(attention.rms_norm(x, weight, eps), F.rms_norm(x, (D,), weight, eps))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_rms_norm_of_halves_does_not_overflow(kind):
    x = torch.tensor([[300.0, -300.0], [0.0, 0.0]], dtype=kind)
    weight = torch.tensor([1.0, 0.5], dtype=kind)
    scaled = attention.rms_norm(x, weight, 1e-8)
    assert scaled.dtype == kind
    assert scaled.tolist() == [[1.0, -0.5], [0.0, 0.0]]


@given(seeds, sizes, sizes, st.sampled_from([1.0, 10_000.0, 1e5]), st.integers(0, 900))
@quick
def test_rotate_multiplies_by_complex_numbers(seed, T, pairs, base, start):
    x, positions = random(2, T, 2 * pairs, seed=seed), start + torch.arange(T)
    speed = base ** (-torch.arange(pairs).double() / pairs)
    angle = torch.outer(positions.double(), speed)
    turn = torch.polar(torch.ones_like(angle), angle)
    as_complex = torch.view_as_complex(x.unflatten(-1, (pairs, 2)))
    expected = torch.view_as_real(as_complex * turn).flatten(-2)
    close(attention.rotate(x, positions, base), expected)
    close(attention.rotate(x.float(), positions, base), expected.float(), 1e-5)


@functools.cache
def oracle():
    """The first layer of transformers' model of the same file, read by itself."""
    from transformers import LlamaModel

    path = Path(data.smollm2().path)
    options = {"gguf_file": path.name, "dtype": torch.float32}
    options |= {"num_hidden_layers": 1, "attn_implementation": "eager"}
    return LlamaModel.from_pretrained(path.parent, **options)


@functools.cache
def oracle_weights(sentence):
    ids = torch.tensor([data.smollm2_tokenizer().encode(sentence)])
    with torch.no_grad():
        return oracle()(ids, output_attentions=True).attentions[0][0]  # (H, T, T)


def test_first_layer_is_that_of_transformers():
    assert attention.first_layer() is attention.first_layer(), "it is read once"
    for sentence in SENTENCES:
        expected = oracle_weights(sentence)
        query, key = attention.queries_and_keys(sentence)
        assert expected.shape[:2] == query.shape[:2] and key.shape == query.shape
        mask = attention.causal_mask(query.size(1))
        _, weights = attention.simple_attention(query, key, key, mask=mask)
        close(weights, expected, 2e-5)


@pytest.mark.parametrize("head", [0, 8])
def test_explorer_shows_the_real_weights(head):
    sentence, named = SENTENCES[0], ["Attention weights", "Mean entropy of a row"]
    raw = attention.attention_data(sentence, head)
    pieces = data.smollm2_tokenizer().pieces(sentence)
    future = ~attention.causal_mask(len(pieces))
    for temperature, scaled, causal in [(1, True, True), (3, False, False)]:
        given = (sentence, head, temperature, scaled, causal)
        views = attention.attention_explorer(*given)
        scores = raw["scores"] / (8 if scaled else 1) / temperature
        expected = scores.masked_fill(future & causal, -math.inf).softmax(-1)
        if scaled:
            close(expected, oracle_weights(sentence)[head], 2e-5)
        assert list(views) == named and raw["pieces"] == pieces and raw["width"] == 64
        table, entropy = views.values()
        close(torch.tensor(table.arrays["values"]).float(), expected, 1e-4)
        labels = {"rows": pieces, "columns": pieces, "low": 0, "high": 1}
        labels |= {"row_axis": "query", "column_axis": "key"}
        assert labels.items() <= table.props.items()
        spread = -(expected * expected.clamp_min(1e-30).log()).sum(-1)
        close(float(entropy.arrays["value"]), spread.mean().item(), 1e-4)
        assert entropy.props["unit"] == "nats"


def test_heads_share_keys_as_the_file_says():
    """A made-up model: four query heads, one key head, other constants."""
    facts = {
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 0.25,
        "llama.rope.freq_base": 100.0,
    }
    torch.manual_seed(0)
    embedding, norm = torch.randn(10, 16), torch.randn(16)
    w_query, w_key, ids = torch.randn(16, 16), torch.randn(4, 16), [3, 7, 3]
    made = {
        "smollm2": types.SimpleNamespace(metadata=facts),
        "smollm2_tokenizer": types.SimpleNamespace(encode=lambda text: ids),
        "first_layer": [embedding, norm, w_query, w_key],
    }
    made = {name: lambda value=value: value for name, value in made.items()}
    with mock.patch.multiple(attention, **made):
        query, key = attention.queries_and_keys("three tokens")
    x = F.rms_norm(embedding[ids], (16,), norm, 0.25)
    for found, matrix, heads in (query, w_query, 4), (key, w_key, 1):
        expected = attention.split_heads(x @ matrix.T, heads)
        expected = attention.rotate(expected, torch.arange(3), 100.0)
        close(found, expected.expand(4, 3, 4), 1e-5)


# What is refused

X, WORDS = torch.randn(3, 4), torch.randn(2, 3, 4)
OTHERS = [X.double(), X[:0, :0], X[:, :3]]
SEEN = torch.ones(3, 3, dtype=torch.bool)
SHORT, WIDE, MANY = SEEN[:, :2], SEEN.expand(2, 3, 3), SEEN.expand(5, 3, 3)
LOOKUP = {"query": X, "key": X, "value": X, "mask": SEEN, "scale": 1.0}
BAD_LOOKUP = {
    "query": [X[0], X.int(), *OTHERS],
    "key": [X[0], X[:2], *OTHERS],
    "value": [X[0], X[:2], X.double()],
    "mask": [SEEN.float(), SHORT, SEEN[:2], WIDE, [[True] * 3] * 3],
    "scale": [math.nan, math.inf],
}
REFUSALS = [
    ("simple_attention", LOOKUP, BAD_LOOKUP),
    ("simple_attention_fast", LOOKUP, BAD_LOOKUP),
    (
        "simple_attention",
        {"query": WORDS, "key": X, "value": X, "mask": WIDE},
        {"key": [X.expand(3, 3, 4)], "value": [X.expand(3, 3, 4)], "mask": [MANY]},
    ),
    ("simple_attention", {"query": X[:, :1], "key": X[:, :1], "value": X},
     {"query": [X[:, :0]]}),
    ("masked_softmax", {"scores": X, "mask": X > 0}, {"mask": [X]}),
    ("causal_mask", {"T": 3}, {"T": [0, True]}),
    ("split_heads", {"x": X, "heads": 2}, {"x": [X[0]], "heads": [0, 3]}),
    ("merge_heads", {"x": WORDS}, {"x": [X]}),
    ("MultiHeadAttention", {"width": 8, "heads": 2},
     {"width": [0, 7], "heads": [0, 3, True]}),
    ("forward", {"x": WORDS, "mask": WIDE},
     {"x": [X[0]], "mask": [[[True]], WIDE.float(), WIDE[None], MANY, SHORT]}),
    ("rows_of", {"count": 1, "distance": 1, "rng": generator()},
     {"count": [0, True], "distance": [0, 0.5]}),
    ("rms_norm", {"x": X, "weight": torch.ones(4), "eps": 1e-6},
     {"weight": [torch.ones(1), torch.ones(5)], "eps": [0, math.nan]}),
    ("rotate", {"x": X, "positions": torch.arange(3), "base": 1e4},
     {"x": [X[0], X[:, :3]], "base": [0],
      "positions": [torch.arange(4), torch.zeros(3, 1)]}),
    ("queries_and_keys", {"sentence": "a"}, {"sentence": [""]}),
    ("attention_data", {"sentence": "a", "head": 8}, {"head": [9, True]}),
    (
        "attention_explorer",
        {"sentence": "a", "head": 0, "temperature": 1, "scaled": True, "causal": True},
        {"temperature": [0]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "good", "bad"), REFUSALS)
def test_bad_input_is_refused_by_name(name, good, bad):
    layer = attention.MultiHeadAttention(4, 2)
    function = layer.forward if name == "forward" else getattr(attention, name)
    refuses_all(function, good, **bad)


def test_a_reader_refuses_what_are_no_rows():
    x, answer = attention.rows_of(5, 3, generator())
    wrong = [x[0], x[..., :8], x.int()]
    for reader in some_readers():
        refuses_all(reader.forward, {"x": x}, x=wrong)
        good = {"reader": reader, "x": x, "answer": answer}
        refuses_all(attention.scored, good, x=wrong, answer=[answer[:1], x[:, 0, 0]])


@pytest.mark.parametrize("form", FORMS)
def test_an_error_names_what_does_not_fit_and_what_would(form):
    attend, layer = getattr(attention, form), attention.MultiHeadAttention(4, 2)
    refuses("query", attend, X[:, :0], X[:, :0], X, says="at least 1 wide")
    refuses("value", attend, X, X, X.double(), says="float32, as query is")
    refuses("mask", layer.forward, WORDS, SHORT, says="broadcastable to (2, 3, 3)")
