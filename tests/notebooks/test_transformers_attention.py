"""The cells of transformers/attention against torch, transformers and arithmetic."""

import math
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, seeds
from torch import nn

from fieldguide import data
from fieldguide.transformers import attention

FORMS = ["simple_attention", "simple_attention_fast"]
sizes = st.integers(1, 6)


def lookup(seed, T, S, K, V, lead=()):
    """Query, key, value; and a mask, whose second row may look nowhere."""
    shapes = [(T, K), (S, K), (S, V), (T, S)]
    *arrays, mask = (random(*lead, *s, seed=seed + i) for i, s in enumerate(shapes))
    mask = (mask > 0).index_fill(-2, torch.tensor([min(1, T - 1)]), False)
    return [x.requires_grad_() for x in arrays], mask


@cases(
    seeds,
    *[sizes] * 4,
    st.sampled_from([(), (2,), (2, 3)]),
    st.booleans(),
    st.sampled_from([None, 1, 0.3]),
)
def test_attention_is_torchs_value_and_gradient(seed, T, S, K, V, lead, masked, scale):
    arrays, mask = lookup(seed, T, S, K, V, lead)
    options = {"attn_mask": mask if masked else None, "scale": scale}
    theirs = F.scaled_dot_product_attention(*arrays, **options)
    signal = random(*theirs.shape, seed=seed + 9)
    expected = torch.autograd.grad((theirs * signal).sum(), arrays)
    for form in FORMS:
        attend, options = getattr(attention, form), {"scale": scale}
        ours, weights = attend(*arrays, mask=mask if masked else None, **options)
        close(ours, theirs)
        close(torch.autograd.grad((ours * signal).sum(), arrays), expected, 1e-10)
        if form == FORMS[0]:
            close(weights @ arrays[-1], ours)
            one = mask.any(-1).double() if masked else 0 * weights[..., 0] + 1
            close(weights.sum(-1), one)
            assert not masked or weights[~mask].eq(0).all()
        else:
            assert weights is None


def test_a_query_looks_up_what_its_key_holds():
    """By hand: scores 2 and 0, divided by the root of 4."""
    query, key = torch.tensor([[2.0, 0, 0, 0]]), torch.eye(4)[:2]
    for form in FORMS:
        output, _ = getattr(attention, form)(query, key, torch.tensor([[1.0], [0]]))
        close(output.item(), math.e / (math.e + 1), 1e-6)
    assert attention.causal_mask(3).tolist() == [
        [j <= i for j in range(3)] for i in range(3)
    ]


@cases(sizes, sizes, sizes, st.sampled_from([(), (2,), (2, 3)]))
def test_heads_split_and_merge(T, heads, K, leading):
    x = torch.arange(math.prod(leading) * T * heads * K)
    x = x.reshape(*leading, T, heads * K)
    split = attention.split_heads(x, heads)
    for head, part in enumerate(x.split(K, -1)):
        assert torch.equal(split[..., head, :, :], part)
    assert torch.equal(attention.merge_heads(split), x)


@cases(seeds, sizes, st.sampled_from([1, 2, 4]), sizes, st.booleans())
def test_layer_equals_torchs(seed, T, heads, K, causal):
    torch.manual_seed(seed)
    width = heads * K
    layer = attention.MultiHeadAttention(width, heads)
    library = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
    parts = [layer.query.weight, layer.key.weight, layer.value.weight]
    library.in_proj_weight = nn.Parameter(torch.cat(parts))
    library.out_proj.weight = layer.output.weight
    x = torch.randn(2, T, width, requires_grad=True)
    mask = attention.causal_mask(T) if causal else None
    options = {"attn_mask": ~mask if causal else None, "average_attn_weights": False}
    theirs, output = library(x, x, x, **options), layer(x, mask)
    close(output, theirs, 1e-5)
    close(layer(x[0], mask), (output[0][0], output[1][0]), 1e-5)
    gradients = [torch.autograd.grad(y[0].sum(), x)[0] for y in (output, theirs)]
    close(*gradients, 1e-5)
    fast = attention.MultiHeadAttention(
        width, heads, attend=attention.simple_attention_fast
    )
    fast.load_state_dict(layer.state_dict())
    close(fast(x, mask)[0], output[0], 1e-5)


# The race of two readers


@cases(st.integers(1, 5), st.integers(1, 5), seeds)
def test_the_first_letter_of_a_row_is_flagged_and_asked_for(count, distance, seed):
    x, answer = attention.rows_of(count, distance, generator(seed))
    assert x.shape == (count, distance + 1, 9)
    assert x[..., 8].tolist() == [[1.0, *[0.0] * distance]] * count
    assert torch.equal(x[:, 0, :8].argmax(-1), answer)
    assert x[..., :8].sum(-1).eq(1).all()


def test_readers_answer_from_their_last_state():
    """The RNN's by its formula, attention's by what the last position gathers."""
    torch.manual_seed(0)
    x, answer = attention.rows_of(8, 3, generator())
    for name, make in attention.MAKERS.items():
        reader = make().double()
        seen, layer = reader.embed(x), reader.look_back  # (B, T, width)
        if name == "RNN":
            state = torch.zeros(8, 32, dtype=torch.double)
            for t in range(4):
                state = state @ layer.weight_hh_l0.T + layer.bias_hh_l0
                state = state + seen[:, t] @ layer.weight_ih_l0.T + layer.bias_ih_l0
                state = state.tanh()
        else:
            q, k, v = layer.query(seen), layer.key(seen), layer.value(seen)
            shares = (q[:, -1:] @ k.mT / 4).softmax(-1)  # (B, 1, T)
            state = layer.output(shares @ v)[:, 0]
        close(reader(x), reader.answer(state))
        right, weight = attention.scored(reader, x, answer)
        assert right == (reader(x).argmax(-1) == answer).double().mean().item()
        if name == "RNN":
            assert weight is None
        else:
            close(weight, shares[:, 0, 0].mean().item())


# The first layer of a real model


@cases(seeds, sizes, sizes, st.sampled_from([1e-6, 1e-2, 0.5]))
def test_rms_norm_is_torchs(seed, T, D, eps):
    x, weight = random(T, D, seed=seed), random(D, seed=seed + 1)
    close(attention.rms_norm(x, weight, eps), F.rms_norm(x, (D,), weight, eps))


@cases(seeds, sizes, sizes, st.sampled_from([1.0, 10_000.0, 1e5]), st.integers(0, 900))
def test_rotate_multiplies_by_complex_numbers(seed, T, pairs, base, start):
    x, positions = random(2, T, 2 * pairs, seed=seed), start + torch.arange(T)
    speed = base ** (-torch.arange(pairs).double() / pairs)
    angle = torch.outer(positions.double(), speed)
    turn = torch.polar(torch.ones_like(angle), angle)
    as_complex = torch.view_as_complex(x.unflatten(-1, (pairs, 2)))
    expected = torch.view_as_real(as_complex * turn).flatten(-2)
    close(attention.rotate(x, positions, base), expected)
    close(attention.rotate(x.float(), positions, base), expected.float(), 1e-5)


@pytest.mark.parametrize("sentence", ["The robot dropped the cup.", "naïve 東京 42"])
def test_first_layer_is_that_of_transformers(sentence):
    from transformers import LlamaModel

    path = Path(data.smollm2().path)
    options = {"gguf_file": path.name, "dtype": torch.float32}
    options |= {"num_hidden_layers": 1, "attn_implementation": "eager"}
    model = LlamaModel.from_pretrained(path.parent, **options)
    ids = torch.tensor([data.smollm2_tokenizer().encode(sentence)])
    with torch.no_grad():
        expected = model(ids, output_attentions=True).attentions[0][0]  # (H, T, T)
    query, key = attention.queries_and_keys(sentence)
    mask = attention.causal_mask(query.size(1))
    _, weights = attention.simple_attention(query, key, key, mask=mask)
    close(weights, expected, 2e-5)
    views = attention.attention_explorer(sentence, 3, 1, True, True)
    shown = torch.tensor(views["Attention weights"].arrays["values"])
    close(shown.float(), expected[3], 1e-4)
