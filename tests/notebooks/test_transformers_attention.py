"""The cells of transformers/attention against torch and arithmetic."""

import math

import hypothesis.strategies as st
import notebooks
import sources
import torch
import torch.nn.functional as F
from cells import Names, cases, close, generator, random, seeds
from torch import nn

from fieldguide.transformers import attention

FORMS = [attention.simple_attention, attention.simple_attention_fast]
sizes = st.integers(1, 6)


@cases(
    seeds,
    *[sizes] * 4,
    st.sampled_from([(), (2,), (2, 3)]),
    st.booleans(),
    st.sampled_from([None, 1, 0.3]),
)
def test_attention_is_torchs_value_and_gradient(seed, T, S, K, V, lead, masked, scale):
    shapes = [(T, K), (S, K), (S, V), (T, S)]
    *arrays, mask = (random(*lead, *s, seed=seed + i) for i, s in enumerate(shapes))
    arrays = [x.requires_grad_() for x in arrays]
    mask = (mask > 0).index_fill(-1, torch.tensor([0]), True) if masked else None
    theirs = F.scaled_dot_product_attention(*arrays, attn_mask=mask, scale=scale)
    signal = random(*theirs.shape, seed=seed + 9)
    expected = torch.autograd.grad((theirs * signal).sum(), arrays)
    for attend in FORMS:
        ours, weights = attend(*arrays, mask=mask, scale=scale)
        close(ours, theirs)
        close(torch.autograd.grad((ours * signal).sum(), arrays), expected, 1e-10)
        if attend is attention.simple_attention:
            close(weights @ arrays[-1], ours)
            close(weights.sum(-1), torch.ones_like(weights[..., 0]))
            assert not masked or weights[~mask].eq(0).all()
        else:
            assert weights is None


def test_a_query_looks_up_what_its_key_holds():
    """By hand: scores 2 and 0, divided by the root of 4."""
    query, key = torch.tensor([[2.0, 0, 0, 0]]), torch.eye(4)[:2]
    for attend in FORMS:
        output, _ = attend(query, key, torch.tensor([[1.0], [0]]))
        close(output.item(), math.e / (math.e + 1), 1e-6)
    lower = [[j <= i for j in range(3)] for i in range(3)]
    assert attention.causal_mask(3).tolist() == lower


def page(old="", new=""):
    """The page's cells, with a piece of its `simple_attention` changed."""
    notebook = notebooks.read(sources.ROOT / "book/transformers/attention.ipynb")
    (cell,) = (c for c in sources.code(notebook) if c.id == "simple-attention")
    assert old in cell.source
    cell.source = cell.source.replace(old, new)
    return Names(notebook, {})


def test_the_figures_move_when_the_root_is_left_out():
    """What the reader sees is what runs: each figure below the cell calls it."""
    taught, bare = page(), page("1 / math.sqrt(query.size(-1))", "1")
    sentence = taught["sentence"]
    for make in (
        lambda p: p["saturation"](64, True)["Weight of each key"],
        lambda p: p["saturation"](1024, True)["Dead softmaxes"],
        lambda p: p["attention_explorer"](sentence, 6, 1, True, True)[
            "Attention weights"
        ],
    ):
        (right, *_), (wrong, *_) = (make(p).arrays.values() for p in (taught, bare))
        assert not torch.allclose(torch.tensor(right), torch.tensor(wrong), rtol=0.1)


@cases(sizes, sizes, sizes, st.sampled_from([(), (2,), (2, 3)]))
def test_heads_split_and_merge(T, heads, K, leading):
    x = torch.arange(math.prod(leading) * T * heads * K)
    x = x.reshape(*leading, T, heads * K)
    split = attention.split_heads(x, heads)
    for head, part in enumerate(x.split(K, -1)):
        assert torch.equal(split[..., head, :, :], part)
    assert torch.equal(attention.merge_heads(split), x)


@cases(seeds, sizes, st.sampled_from([1, 2, 4]), sizes, st.booleans(), st.booleans())
def test_layer_equals_torchs(seed, T, heads, K, causal, bias):
    torch.manual_seed(seed)
    width = heads * K
    layer = attention.MultiHeadAttention(width, heads, bias=bias)
    library = nn.MultiheadAttention(width, heads, bias=bias, batch_first=True)
    parts = layer.query, layer.key, layer.value
    library.in_proj_weight = nn.Parameter(torch.cat([p.weight for p in parts]))
    library.out_proj.weight = layer.output.weight
    if bias:
        library.in_proj_bias = nn.Parameter(torch.cat([p.bias for p in parts]))
        library.out_proj.bias = layer.output.bias
    x = torch.randn(2, T, width, requires_grad=True)
    mask = attention.causal_mask(T) if causal else None
    options = {"attn_mask": ~mask if causal else None, "average_attn_weights": False}
    theirs, output = library(x, x, x, **options), layer(x, mask)
    close(output, theirs, 1e-5)
    close(layer(x[0], mask), (output[0][0], output[1][0]), 1e-5)
    gradients = [torch.autograd.grad(y[0].sum(), x)[0] for y in (output, theirs)]
    close(*gradients, 1e-5)
    layer.attend = attention.simple_attention_fast
    close(layer(x, mask)[0], output[0], 1e-5)


# The race of two readers


@cases(st.integers(1, 5), st.integers(1, 5), seeds)
def test_the_first_letter_of_a_row_is_flagged_and_asked_for(count, distance, seed):
    x, answer = attention.rows_of(count, distance, generator(seed))
    assert x.shape == (count, distance + 1, 9)
    assert x[..., 8].tolist() == [[1.0, *[0.0] * distance]] * count
    assert torch.equal(x[:, 0, :8].argmax(-1), answer)
    assert x[..., :8].sum(-1).eq(1).all()


def test_a_reader_answers_from_its_last_state():
    """The RNN's by its formula, attention's by what the last position gathers."""
    torch.manual_seed(0)
    x, answer = attention.rows_of(8, 3, generator())
    for name in attention.READERS:
        reader = attention.new_reader(name).double()
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
        assert (weight is None) == (name == "RNN")
        if weight is not None:
            close(weight, shares[:, 0, 0].mean().item())
