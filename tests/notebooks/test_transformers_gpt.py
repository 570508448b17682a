"""The cells of transformers/gpt against torch, transformers and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import functools
import inspect
import itertools
import math
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import close, fails, module_at, refuses, run_exercises, solutions_pass
from hypothesis import assume, given, settings
from torch import nn

from fieldguide import data
from fieldguide.transformers import attention, gpt, real_model

BOOK = Path(__file__).parents[2] / "book"
PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a little",
    "My favourite colour is",
]

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)
leads = st.sampled_from([(), (3,), (2, 3)])


def drawn(seed, *shape):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.double)


# Positions


def turned(x, places, base):
    return gpt.turn_pairs(x, gpt.turns(places, x.size(-1), base))


@given(seeds, sizes, sizes, st.sampled_from([0.5, 1, 1e4]), st.integers(0, 900))
@quick
def test_fast_rotation_is_rotate(seed, T, pairs, base, start):
    x, places = drawn(seed, 2, T, 2 * pairs), start + torch.arange(T)
    expected = attention.rotate(x, places, base)
    close(turned(x, places, base), expected)
    for kind, tolerance in (torch.float32, 1e-5), (torch.bfloat16, 4e-2):
        fast = turned(x.to(kind), places, base)
        assert fast.dtype == kind
        close(fast, expected.to(kind), tolerance)


def test_turns_refuse_bad_input():
    places = torch.arange(4)
    assert gpt.turns(places, 2, 1e-3).shape == (4, 1)
    assert gpt.turns(places, 6, 1e4).dtype == torch.complex128
    for width in (0, -2, 5, 6.0, "6"):
        refuses("width", gpt.turns, places, width, 1e4)
    for base in (0, -1.0):
        refuses("base", gpt.turns, places, 6, base)
    for bad in (torch.tensor(1), torch.zeros(4, 1)):
        refuses("positions", gpt.turns, bad, 6, 1e4)


def test_turn_pairs_refuses_factors_that_do_not_fit():
    x, places = torch.randn(2, 5, 8), torch.arange(5)
    factors = gpt.turns(places, 8, 1e4)
    assert gpt.turn_pairs(x, factors).shape == x.shape
    bad = [gpt.turns(places, width, 1e4) for width in (2, 6, 10)]
    for wrong in [*bad, factors[:1], factors[:4], factors[0], factors[None]]:
        said = refuses("factors", gpt.turn_pairs, x, wrong)
        assert "(5, 8 / 2)" in said
    refuses("factors", gpt.turn_pairs, x[..., :7], factors[:, :3])


def test_fast_rotation_takes_what_heads_are_cut_into():
    x = attention.split_heads(torch.randn(2, 5, 12), 3)  # not contiguous
    expected = attention.rotate(x, torch.arange(5), 100.0)
    close(turned(x, torch.arange(5), 100.0), expected, 1e-5)


@given(seeds, sizes, sizes, st.sampled_from([None, 100.0]), st.booleans())
@quick
def test_rotary_turns_queries_and_keys_by_their_places(seed, T, more, base, masked):
    S = T + more - 1
    query, key, value = drawn(seed, T, 8), drawn(seed + 1, S, 8), drawn(seed + 2, S, 3)
    mask = drawn(seed + 3, T, S) > 0 if masked else None
    options = {} if base is None else {"base": base}
    attend = gpt.rotary(attention.simple_attention, **options)
    ours = attend(query, key, value, mask=mask, scale=0.7)
    base = base or 10_000.0
    query = attention.rotate(query, torch.arange(S - T, S), base)
    key = attention.rotate(key, torch.arange(S), base)
    theirs = attention.simple_attention(query, key, value, mask=mask, scale=0.7)
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other)


def test_rotary_refuses_more_queries_than_keys():
    x = torch.randn(3, 4)
    attend = gpt.rotary(attention.simple_attention)
    attend(x, x, x)
    said = refuses("query", attend, x, x[:2], x[:2])
    assert "at most 2 rows of 4 numbers" in said
    refuses("query", attend, x[:, :2], x, x)
    refuses("query", attend, x, x[:, :2], x)


def test_turned_product_is_a_mean_of_cosines():
    for width, base in (2, 10), (8, 100), (64, 10_000):
        views = gpt.turned_product(width, base)
        curve, turn = views["Product"], views["Full turn of the slowest pair"]
        assert (curve.kind, turn.kind) == ("lines", "number")
        distance = torch.arange(129).double()
        speed = [base ** (-2 * p / width) for p in range(width // 2)]
        expected = sum(torch.cos(distance * s) for s in speed) / len(speed)
        close(torch.tensor(curve.arrays["y"][0]), expected)
        close(torch.tensor(curve.arrays["x"]), distance)
        assert turn.arrays["value"] == round(2 * math.pi / speed[-1], 1)
        names = curve.props["names"], curve.props["low"], curve.props["high"]
        assert names == (["share of the product"], -1, 1)
        axes = curve.props["x_axis"], curve.props["y_axis"]
        assert axes == ("distance (places)", "q·k (share)")
        assert turn.props == {"unit": "places", "digits": 6}


# Norm and MLP


@given(seeds, leads, sizes, st.sampled_from([None, 1e-5, 0.3]))
@quick
def test_layer_norm_is_torchs(seed, lead, D, eps):
    x, weight, bias = drawn(seed, *lead, D), drawn(seed + 1, D), drawn(seed + 2, D)
    options = {} if eps is None else {"eps": eps}
    ours = gpt.layer_norm(x, weight, bias, **options)
    close(ours, F.layer_norm(x, (D,), weight, bias, **options), 1e-9)


def test_layer_norm_keeps_halves_and_does_not_overflow():
    x = torch.tensor([[1000, -1000, 500, 7]])
    for kind in torch.float16, torch.bfloat16:
        weight, bias = torch.tensor([[1.5, 1, 2, 1], [0, 0.5, 0, 1]], dtype=kind)
        ours = gpt.layer_norm(x.to(kind), weight, bias)
        assert ours.dtype == kind
        close(ours, F.layer_norm(x.to(kind), (4,), weight, bias), 2e-2)


def test_layer_norm_refuses_bad_input():
    x, one = torch.zeros(2, 3), torch.ones(3)
    assert gpt.layer_norm(x, one, one).eq(1).all()
    for bad in (torch.ones(2), torch.ones(1), torch.ones(4), torch.ones(1, 3)):
        refuses("weight", gpt.layer_norm, x, bad, one)
        refuses("bias", gpt.layer_norm, x, one, bad)
    refuses("eps", gpt.layer_norm, x, one, one, 0)
    gpt.layer_norm(x, one, one, 1e-12)


def test_gelu_is_torchs():
    x = torch.linspace(-8, 8, 401, dtype=torch.double)
    close(gpt.gelu(x), F.gelu(x))
    for approximate in ("none", "tanh"):
        close(gpt.gelu(x, approximate), F.gelu(x, approximate=approximate))
    refuses("approximate", gpt.gelu, x, "erf")
    refuses("approximate", gpt.MLP, 4, approximate=None)


@pytest.mark.parametrize(
    ("bias", "approximate"), list(itertools.product([True, False], ["none", "tanh"]))
)
def test_mlp_is_two_matrices_around_gelu(bias, approximate):
    torch.manual_seed(0)
    mlp = gpt.MLP(6, bias=bias, approximate=approximate).double()
    x = 3 * drawn(1, 2, 5, 6)
    assert mlp.up.weight.shape == (24, 6) and mlp.down.weight.shape == (6, 24)
    assert (mlp.up.bias is not None) == (mlp.down.bias is not None) == bias
    hidden = F.gelu(F.linear(x, mlp.up.weight, mlp.up.bias), approximate=approximate)
    close(mlp(x), F.linear(hidden, mlp.down.weight, mlp.down.bias))


def test_mlp_has_biases_and_the_exact_form_unless_told():
    mlp = gpt.MLP(2)
    assert mlp.up.bias is not None and mlp.down.bias is not None
    assert mlp.approximate == "none"


# The model


def config(**changes):
    sizes = {"vocab": 11, "context": 7, "width": 8, "heads": 2, "layers": 2}
    return gpt.GPTConfig(**(sizes | changes))


def test_config_refuses_sizes_that_do_not_fit():
    assert config().positions == "learned" and config().approximate == "none"
    assert config().bias is True
    for name in ("vocab", "context", "width", "heads", "layers"):
        for bad in (0, -1, 2.0, "2", True):
            said = refuses(name, gpt.GPTConfig, **{**vars(config()), name: bad})
            assert "a whole number above 0" in said
    refuses("heads", gpt.GPTConfig, **{**vars(config()), "heads": 3})
    refuses("positions", gpt.GPTConfig, **{**vars(config()), "positions": "none"})
    refuses("approximate", gpt.GPTConfig, **{**vars(config()), "approximate": "erf"})
    odd = vars(config()) | {"width": 6, "heads": 2}
    gpt.GPTConfig(**odd)
    refuses("heads", gpt.GPTConfig, **(odd | {"positions": "rotary"}))
    gpt.GPTConfig(**(odd | {"positions": "rotary", "heads": 3}))
    gpt.GPTConfig(1, 1, 1, 1, 1)
    try:
        config().width = 4
    except AttributeError:
        return
    raise AssertionError("a config is frozen")


def scrambled(sizes, seed=0, **options):
    """A GPT in float64 whose every parameter is random, gains and biases too."""
    model = gpt.GPT(sizes, **options).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * drawn(seed + i, *parameter.shape))
    return model


def transformers_twin(model):
    """GPT2LMHeadModel with the weights of `model`, and where each of ours went."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = model.config
    names = {"none": "gelu", "tanh": "gelu_new"}
    twin = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=sizes.vocab,
            n_positions=sizes.context,
            n_embd=sizes.width,
            n_head=sizes.heads,
            n_layer=sizes.layers,
            activation_function=names[sizes.approximate],
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
        )
    ).double()
    body = twin.transformer
    places = [(model.token, body.wte, False), (model.place, body.wpe, False)]
    places += [(model.norm, body.ln_f, False)]
    for ours, theirs in zip(model.blocks, body.h, strict=True):
        places += [(ours.norm_attention, theirs.ln_1, False)]
        places += [(ours.norm_mlp, theirs.ln_2, False)]
        places += [(ours.attention.output, theirs.attn.c_proj, True)]
        places += [(ours.mlp.up, theirs.mlp.c_fc, True)]
        places += [(ours.mlp.down, theirs.mlp.c_proj, True)]
    D, parts = sizes.width, ("query", "key", "value")
    with torch.no_grad():
        for ours, theirs, turned in places:
            theirs.weight.copy_(ours.weight.T if turned else ours.weight)
            if hasattr(ours, "bias"):
                theirs.bias.copy_(ours.bias)
        for ours, theirs in zip(model.blocks, body.h, strict=True):
            for i, part in enumerate(getattr(ours.attention, name) for name in parts):
                columns = slice(i * D, (i + 1) * D)
                theirs.attn.c_attn.weight[:, columns] = part.weight.T
                theirs.attn.c_attn.bias[columns] = part.bias

    def gradients():
        pairs = []
        for ours, theirs, turned in places:
            grad = theirs.weight.grad
            pairs.append((ours.weight.grad, grad.T if turned else grad))
            if hasattr(ours, "bias"):
                pairs.append((ours.bias.grad, theirs.bias.grad))
        for ours, theirs in zip(model.blocks, body.h, strict=True):
            for i, part in enumerate(getattr(ours.attention, name) for name in parts):
                columns = slice(i * D, (i + 1) * D)
                grad = theirs.attn.c_attn.weight.grad[:, columns].T
                pairs.append((part.weight.grad, grad))
                pairs.append((part.bias.grad, theirs.attn.c_attn.bias.grad[columns]))
        return pairs

    return twin, gradients


@pytest.mark.parametrize(
    ("fast", "approximate"), list(itertools.product([False, True], ["none", "tanh"]))
)
def test_logits_and_gradients_are_those_of_transformers(approximate, fast):
    attend = attention.simple_attention_fast if fast else attention.simple_attention
    model = scrambled(config(approximate=approximate), attend=attend)
    twin, gradients = transformers_twin(model)
    ids = torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(1))
    ours, theirs = model(ids), twin(ids).logits
    close(ours, theirs, 1e-9)
    for logits in (ours, theirs):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    pairs = gradients()
    assert len(pairs) == len(list(model.parameters()))
    for mine, other in pairs:
        assert mine.ne(0).any()
        close(mine, other, 1e-9)


def test_size_is_gpt_2s():
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        OpenAIGPTConfig,
        OpenAIGPTModel,
    )

    with torch.device("meta"):
        ours = gpt.GPT(gpt.GPTConfig(50_257, 1024, 768, 12, 12))
        theirs = GPT2LMHeadModel(GPT2Config())
        first = OpenAIGPTModel(OpenAIGPTConfig())
    assert gpt.count_parameters(ours) == 124_439_808 == theirs.num_parameters()
    parts = gpt.parameters_by_part(ours)
    D = 768
    assert parts == {
        "tokens": 50_257 * D,
        "places": 1024 * D,
        "attention": 12 * (4 * D * D + 4 * D),
        "MLP": 12 * (8 * D * D + 5 * D),
        "norms": 25 * 2 * D,
    }
    sizes = gpt.GPTConfig(40_478, 512, D, 12, 12)  # what the first GPT had
    with torch.device("meta"):
        ours = gpt.GPT(sizes)
    no_last_norm = gpt.count_parameters(ours) - 2 * D
    assert no_last_norm == 116_534_784 == first.num_parameters()


def test_meta_model_runs_without_numbers():
    with torch.device("meta"):
        fast = {"attend": attention.simple_attention_fast}
        model = gpt.GPT(config(), **fast)
        ids = torch.zeros(2, 5, dtype=torch.long)
    assert model(ids).shape == (2, 5, 11)
    refuses("ids", gpt.require_tokens, ids, config(context=4))
    with torch.device("meta"):
        rotary = gpt.GPT(config(positions="rotary"), **fast)
    assert rotary(ids).shape == (2, 5, 11)


def test_without_biases_only_matrices_and_gains_are_left():
    model = gpt.GPT(config(bias=False))
    assert not [name for name, _ in model.named_parameters() if "bias" in name]
    parts = gpt.parameters_by_part(model)
    expected = {"tokens": 88, "places": 56, "attention": 512, "MLP": 1024, "norms": 40}
    assert parts == expected
    rotary = gpt.parameters_by_part(gpt.GPT(config(positions="rotary", bias=False)))
    assert rotary == expected | {"places": 0}


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_leading_sizes_are_free(lead):
    model = scrambled(config())
    ids = torch.randint(11, (*lead, 5), generator=torch.Generator().manual_seed(2))
    logits = model(ids)
    assert logits.shape == (*lead, 5, 11)
    flat = ids.reshape(-1, 5)
    rows = torch.stack([model(row) for row in flat])
    close(logits.reshape(-1, 5, 11), rows)


def test_rotary_model_is_made_of_rotated_attention():
    """A GPT whose blocks attend with `rotary` and that has no table of places."""
    sizes = config(positions="rotary")
    model = scrambled(sizes)
    ids = torch.randint(11, (2, 6), generator=torch.Generator().manual_seed(3))
    x, mask = model.token(ids), attention.causal_mask(6)
    for block in model.blocks:
        layer, heads = block.attention, []
        normed = block.norm_attention(x)
        for matrix in (layer.query, layer.key, layer.value):
            heads.append(attention.split_heads(matrix(normed), 2))
        query, key = (
            attention.rotate(part, torch.arange(6), 10_000.0) for part in heads[:2]
        )
        mixed, _ = attention.simple_attention(query, key, heads[2], mask=mask)
        x = x + layer.output(attention.merge_heads(mixed))
        x = x + block.mlp(block.norm_mlp(x))
    close(model(ids), model.norm(x) @ model.token.weight.T)
    fast = scrambled(sizes, attend=attention.simple_attention_fast)
    close(fast(ids), model(ids), 1e-9)


def test_the_future_does_not_leak():
    model = scrambled(config())
    ids = torch.randint(11, (4, 7), generator=torch.Generator().manual_seed(4))
    for place in range(1, 7):
        changed = ids.clone()
        changed[:, place] = (ids[:, place] + 1) % 11
        before, after = model(ids), model(changed)
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.equal(before[:, place], after[:, place])


def test_any_attend_can_be_given():
    seen = []

    def attend(query, key, value, *, mask=None, scale=None):
        seen.append((query.shape, torch.is_grad_enabled()))
        return attention.simple_attention(query, key, value, mask=mask, scale=scale)

    model, ids = gpt.GPT(config(), attend=attend), torch.zeros(2, 3, dtype=torch.long)
    model(ids)
    assert seen == [((2, 2, 3, 4), True)] * 2
    gpt.generate(model, ids, 1)
    assert seen[2:] == [((2, 2, 3, 4), False)] * 2, "writing needs no gradient"


def test_ids_that_do_not_fit_are_refused():
    model = gpt.GPT(config())
    good = torch.tensor([0, 10, 3])
    assert gpt.require_tokens(good, config()) == 3
    assert gpt.require_tokens(good.expand(2, 3), config()) == 3
    assert gpt.require_tokens(torch.zeros(7, dtype=torch.long), config()) == 7
    bad = [[1, 2], good.float(), torch.tensor(3), good[:0], good[None, :0]]
    bad += [torch.zeros(8, dtype=torch.long), torch.tensor([0, 11])]
    for ids in [*bad, torch.tensor([-1, 0])]:
        refuses("ids", gpt.require_tokens, ids, config())
        refuses("ids", model.forward, ids)
    said = refuses("ids", gpt.require_tokens, torch.tensor([0, 11]), config())
    assert "from 0 to 10" in said
    said = refuses("ids", gpt.require_tokens, torch.zeros(8).long(), config())
    assert "at most 7 tokens" in said


# The first weights


def test_first_weights_are_gpt_2s():
    sizes = gpt.GPTConfig(400, 100, width=128, heads=4, layers=8)
    model = gpt.GPT(sizes, generator=torch.Generator().manual_seed(0))
    writers = 0
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.eq(0).all(), name
        elif "norm" in name:
            assert parameter.eq(1).all(), name
        else:
            writes = name.endswith(("attention.output.weight", "mlp.down.weight"))
            writers += writes
            expected = 0.02 / 4 if writes else 0.02
            assert abs(parameter.mean().item()) < 0.05 * expected, name
            assert abs(parameter.std().item() / expected - 1) < 0.05, name
    assert writers == 16


def test_a_block_starts_without_bias():
    torch.manual_seed(0)
    block = gpt.Block(config())
    for matrix in block.attention.children():
        assert matrix.bias.shape == (8,) and matrix.bias.eq(0).all()
        assert matrix.bias.requires_grad
    bare = gpt.Block(config(bias=False), attend=attention.simple_attention_fast)
    assert [p.shape for p in bare.attention.parameters()] == [(8, 8)] * 4
    assert bare.attention.attend is attention.simple_attention_fast
    assert block.attention.attend is attention.simple_attention


def test_first_weights_come_from_the_generator_alone():
    torch.manual_seed(1)
    one = gpt.GPT(config(), generator=torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    two = gpt.GPT(config(), generator=torch.Generator().manual_seed(5))
    other = gpt.GPT(config(), generator=torch.Generator().manual_seed(6))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.token.weight, other.token.weight)


def test_initialise_overwrites_what_is_there():
    model = scrambled(config())
    rng = torch.Generator().manual_seed(5)
    gpt.initialise(model, rng)
    fresh = gpt.GPT(config(), generator=torch.Generator().manual_seed(5))
    for block in model.blocks:
        assert block.mlp.up.bias.eq(0).all() and block.norm_mlp.bias.eq(0).all()
    assert model.token.weight.std() < 0.03
    assert fresh.token.weight.std() < 0.03
    gpt.initialise(model)
    assert model.token.weight.requires_grad


def test_loss_before_training_is_log_v():
    sizes = gpt.GPTConfig(65, 64, 64, 4, 3)
    model = gpt.GPT(sizes, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(65, (8, 65), generator=torch.Generator().manual_seed(1))
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - math.log(65)) < 0.05


# Sampling


def probabilities(seed, V, lead=(), ties=False):
    x = drawn(seed, *lead, V)
    return (x.round() if ties else 2 * x).softmax(-1)


def top_k_by_hand(row, k):
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
    mass = sum(row[i] for i in order)
    return [row[i] / mass if i in order else 0.0 for i in range(len(row))]


def top_p_by_hand(row, p):
    """The smallest set: likelier first, of equals the lower number."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    kept = []
    for i in order:
        kept.append(i)
        if sum(row[j] for j in kept) >= p:
            break
    mass = sum(row[i] for i in kept)
    return [row[i] / mass if i in kept else 0.0 for i in range(len(row))]


def by_row(function, rows, value):
    flat = rows.reshape(-1, rows.size(-1)).tolist()
    made = [function(row, value) for row in flat]
    return torch.tensor(made, dtype=torch.double).reshape(rows.shape)


@given(seeds, leads, st.integers(1, 9), st.data(), st.booleans())
@quick
def test_top_k_keeps_the_k_likeliest(seed, lead, V, draw, ties):
    k = draw.draw(st.integers(1, V))
    rows = probabilities(seed, V, lead, ties)
    kept = gpt.keep_top_k(rows, k)
    close(kept, by_row(top_k_by_hand, rows, k))
    assert (kept > 0).sum(-1).eq(k).all()


@given(seeds, leads, st.integers(1, 9), st.floats(0.01, 0.99), st.booleans())
@quick
def test_top_p_keeps_the_smallest_set_that_reaches_p(seed, lead, V, p, ties):
    rows = probabilities(seed, V, lead, ties)
    masses = rows.sort(descending=True).values.cumsum(-1)
    assume((masses - p).abs().min() > 1e-9)  # or the last digit decides
    kept = gpt.keep_top_p(rows, p)
    close(kept, by_row(top_p_by_hand, rows, p))
    mass = rows.where(kept > 0, 0).sum(-1)
    least = rows.where(kept > 0, 2).amin(-1)
    assert (mass >= p - 1e-12).all() and (mass - least < p + 1e-12).all()


def test_top_p_at_its_edges():
    row = torch.tensor([0.25, 0.5, 0.125, 0.125])
    for p, kept in (
        (1e-9, [0, 1, 0, 0]),
        (0.5, [0, 1, 0, 0]),
        (0.75, [1, 1, 0, 0]),
        (0.75001, [1, 1, 1, 0]),
        (0.875, [1, 1, 1, 0]),
        (0.876, [1, 1, 1, 1]),
        (1, [1, 1, 1, 1]),
        (1.0, [1, 1, 1, 1]),
    ):
        chosen = row * torch.tensor(kept)
        close(gpt.keep_top_p(row, p), chosen / chosen.sum(), 1e-6)
    long = torch.cat([torch.tensor([1.0]), torch.full((1000,), 1e-12)])
    assert (gpt.keep_top_p(long, 1) > 0).all(), "1 keeps what rounding would lose"
    even = torch.full((4,), 0.25)
    assert gpt.keep_top_p(even, 0.5).tolist() == [0.5, 0.5, 0, 0]
    assert gpt.keep_top_k(even, 2).tolist() == [0.5, 0.5, 0, 0]
    fine = torch.tensor([0.5, 1e-9, 1e-9, 1e-9])  # a sum that float32 rounds off
    assert (gpt.keep_top_p(fine, 0.5 + 1.5e-9) > 0).tolist() == [True] * 3 + [False]


def test_of_many_equals_the_first_stay():
    many = torch.full((5000,), 1 / 5000)
    for kept in (gpt.keep_top_k(many, 1234), gpt.keep_top_p(many, 1233.5 / 5000)):
        assert kept[:1234].gt(0).all() and kept[1234:].eq(0).all()


def test_filters_refuse_what_is_out_of_range():
    row = torch.full((4,), 0.25)
    for k in (0, -1, 5, 2.0, True, "3"):
        assert "from 1 to 4" in refuses("top_k", gpt.keep_top_k, row, k)
        refuses("top_k", gpt.next_distribution, row, top_k=k)
    for p in (0, -0.1, 1.0001, math.nan):
        said = refuses("top_p", gpt.keep_top_p, row, p)
        assert "above 0 and at most 1" in said
        refuses("top_p", gpt.next_distribution, row, top_p=p)
    close(gpt.keep_top_k(row, 4), row, 1e-6)
    close(gpt.keep_top_k(row, 1), torch.tensor([1.0, 0, 0, 0]), 1e-6)


@given(seeds, leads, st.integers(2, 8), st.sampled_from([None, 0.3, 1, 2.5]))
@quick
def test_next_distribution_is_the_softmax_at_a_temperature(seed, lead, V, temperature):
    logits = 3 * drawn(seed, *lead, V)
    options = {} if temperature is None else {"temperature": temperature}
    ours = gpt.next_distribution(logits, **options)
    close(ours, (logits / (temperature or 1)).softmax(-1))


@given(seeds, st.integers(2, 12), st.data())
@quick
def test_next_distribution_is_that_of_transformers(seed, V, draw):
    """Temperature, top-k and top-p in one, against the library's warpers."""
    from transformers import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    k = draw.draw(st.integers(1, V))
    p = draw.draw(st.floats(0.05, 0.99))
    temperature = draw.draw(st.sampled_from([0.4, 1.0, 1.7]))
    logits = 2 * drawn(seed, 1, V)
    ours = gpt.next_distribution(logits, temperature, k, p)
    expected = logits
    for warper in (
        TemperatureLogitsWarper(temperature),
        TopKLogitsWarper(k),
        TopPLogitsWarper(p),
    ):
        expected = warper(None, expected)
    close(ours, expected.softmax(-1), 1e-9)


def test_filters_work_in_the_order_that_is_said():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    ours = gpt.next_distribution(logits, 1.0, 2, 0.55)
    close(ours, torch.tensor([1.0, 0, 0, 0]), 1e-6)  # 4/7 of the two left reach it
    ours = gpt.next_distribution(logits, 1.0, None, 0.55)
    close(ours, torch.tensor([4 / 7, 3 / 7, 0, 0]), 1e-6)
    ours = gpt.next_distribution(logits, top_k=3, temperature=0.5)
    close(ours, torch.tensor([16.0, 9, 4, 0]) / 29, 1e-6)


def test_extreme_temperatures_stay_finite():
    logits = torch.tensor([3.0, 1e4, -1e4, -math.inf])
    for temperature in (1e-30, 1e-36, 1e-50, 5e-324):
        cold = gpt.next_distribution(logits, temperature)
        assert cold.tolist() == [0, 1, 0, 0]
    assert gpt.next_distribution(torch.zeros(2, 1)).tolist() == [[1.0], [1.0]]
    hot = gpt.next_distribution(logits, 1e30)
    close(hot, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]), 1e-6)
    for temperature in (0, -1, math.inf, math.nan):
        said = refuses("temperature", gpt.next_distribution, logits, temperature)
        assert "finite and above 0" in said
    bad = [logits.tolist(), logits.long(), torch.tensor(1.0), logits[:0]]
    for rows in [*bad, torch.zeros(2, 0)]:
        assert "V > 0" in refuses("logits", gpt.next_distribution, rows)
    for worst in (math.nan, math.inf):
        refuses("logits", gpt.next_distribution, torch.tensor([0.0, worst]))
    refuses("logits", gpt.next_distribution, torch.full((2,), -math.inf))


def test_draws_follow_the_probabilities():
    row = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.3, 0.0])
    many = gpt.draw(row.expand(40_000, 6), torch.Generator().manual_seed(0))
    assert many.dtype == torch.int64 and many.shape == (40_000,)
    close(many.bincount(minlength=6) / 40_000, row, 0.01)


def test_draw_is_one_uniform_number_a_row():
    rows = probabilities(3, 5, (2, 3))
    ours = gpt.draw(rows, torch.Generator().manual_seed(7))
    rng = torch.Generator().manual_seed(7)
    darts = torch.rand(2, 3, 1, dtype=torch.double, generator=rng)
    expected = (rows.cumsum(-1) <= darts * rows.sum(-1, keepdim=True)).sum(-1)
    assert torch.equal(ours, expected)


def test_no_dart_hits_a_token_without_probability():
    """Not even where the sum falls short of the dart, or the dart is exactly 0."""
    short = torch.tensor([0.0, 0.25, 0.25, 0.0])  # adds up to a half
    many = gpt.draw(short.expand(2000, 4), torch.Generator().manual_seed(0))
    assert set(many.tolist()) == {1, 2}
    one = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert gpt.draw(one.expand(500, 4)).eq(2).all()

    with thrown(0.0):
        assert gpt.draw(short).item() == 1
    # float32 would not feel these steps
    fine = torch.tensor([1.0] + [1e-9] * 100)
    with thrown(1 - 1.5e-9):
        assert gpt.draw(fine).item() == 99


def test_draw_refuses_what_is_no_distribution():
    good, nothing = torch.tensor([0.0, 0.2, 0.3]), torch.zeros(3)
    assert gpt.draw(torch.stack([good, 5 * good])).shape == (2,), "any sum will do"
    bad = [nothing, good - 0.1, torch.tensor([0.5, math.nan, 0.5])]
    for row in [*bad, torch.tensor([0.5, math.inf, 0.5])]:
        for rows in row, torch.stack([good, row]):
            assert "sum above 0" in refuses("probabilities", gpt.draw, rows)


def thrown(value):
    """Every uniform number is `value`."""

    def rand(shape, **options):
        assert options.pop("generator") is None
        return torch.full(shape, value, **options)

    return mock.patch.object(gpt.torch, "rand", rand)


# Generation


def test_generate_continues_the_text_token_by_token():
    model = scrambled(config())
    prompt = torch.tensor([[1, 2], [3, 4]])
    options = {"temperature": 0.8, "top_k": 6, "top_p": 0.9}
    rng = torch.Generator().manual_seed(0)
    made = gpt.generate(model, prompt, 9, **options, generator=rng)
    assert made.shape == (2, 11) and torch.equal(made[:, :2], prompt)
    rng = torch.Generator().manual_seed(0)
    text = prompt
    for _ in range(9):
        logits = model(text[:, -7:])[:, -1]
        shares = gpt.next_distribution(logits, 0.8, 6, 0.9)
        text = torch.cat([text, gpt.draw(shares, rng)[:, None]], 1)
    assert torch.equal(made, text)
    assert not made.requires_grad


def test_generate_without_options_draws_from_the_softmax():
    model = scrambled(config())
    made = gpt.generate(
        model, torch.tensor([5]), 4, generator=torch.Generator().manual_seed(3)
    )
    rng, text = torch.Generator().manual_seed(3), torch.tensor([5])
    for _ in range(4):
        text = torch.cat([text, gpt.draw(model(text)[-1].softmax(-1), rng)[None]])
    assert torch.equal(made, text)


def test_greedy_text_is_that_of_transformers():
    model = scrambled(config())
    twin, _ = transformers_twin(model)
    prompt = torch.tensor([[1, 2, 3]])
    ours = gpt.generate(model, prompt, 4, top_k=1)
    theirs = twin.generate(
        prompt, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    assert torch.equal(ours, theirs)


def test_generate_refuses_what_it_cannot_continue():
    model = gpt.GPT(config())
    full = torch.zeros(7, dtype=torch.long)
    assert gpt.generate(model, full, 0).tolist() == full.tolist()
    assert gpt.generate(model, full, 2).shape == (9,)
    for ids in (full[:0], torch.zeros(8).long(), torch.tensor([11]), [1]):
        refuses("ids", gpt.generate, model, ids, 1)
    for count in (-1, 1.0, None, True):
        refuses("count", gpt.generate, model, full, count)
    for options in ({"temperature": 0}, {"top_k": 12}, {"top_p": 1.5}):
        (name,) = options
        refuses(name, gpt.generate, model, full, 1, **options)
    for ids in (full[:0], torch.zeros(8).long()):
        refuses("ids", gpt.generate, model, ids, 0)


# Other devices and float types


KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def exported(device, kind):
    """{what: (a call, what type it gives)} on a device, from a float type."""
    made = {"device": device, "dtype": kind}
    x, ids = torch.ones(2, 5, 8, **made), torch.zeros(2, 5, dtype=torch.long)
    row, ids = x[0, 0], ids.to(device)
    rotary = gpt.rotary(attention.simple_attention)
    calls = {
        "turns": (lambda: gpt.turns(ids[0], 8, 1e4), torch.complex128),
        "turn_pairs": (lambda: turned(x, ids[0], 1e4), kind),
        "rotary": (lambda: rotary(x, x, x)[0], kind),
        "layer_norm": (lambda: gpt.layer_norm(x, row, row), kind),
        "gelu": (lambda: gpt.gelu(x), kind),
        "gelu, tanh": (lambda: gpt.gelu(x, "tanh"), kind),
        "MLP": (lambda: gpt.MLP(8).to(**made)(x), kind),
        "keep_top_k": (lambda: gpt.keep_top_k(x / 8, 3), kind),
        "keep_top_p": (lambda: gpt.keep_top_p(x / 8, 0.5), kind),
        "next_distribution": (lambda: gpt.next_distribution(x, 0.5, 3, 0.9), kind),
        "draw": (lambda: gpt.draw(x), torch.int64),
    }
    for positions in "learned", "rotary":
        model = gpt.GPT(config(positions=positions)).to(**made)
        calls[positions] = lambda model=model: model(ids), kind
    calls["generate"] = lambda: gpt.generate(model, ids, 3), torch.int64
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    here = exported("cpu", kind)
    for name, (call, right) in exported("meta", kind).items():
        result, known = call(), here[name][0]()
        assert result.is_meta and result.dtype == known.dtype == right, name
        assert result.shape == known.shape and known.isfinite().all(), name


# SmolLM2's next token


@functools.cache
def make():
    """The script that measured the logits, as a module."""
    path = BOOK / "_assets" / "next-token" / "make.py"
    return module_at(path)


@functools.cache
def measured_again():
    """One prompt, measured now, in float32 (V,)."""
    logits = torch.tensor(make().measure(PROMPTS[0]))
    return (logits - logits.max()).float()


def stale():
    """Was the asset made by other weights, prompts or code than there are now?"""
    with np.load(data.asset("next-token", "logits.npz")) as stored:
        return stored["digest"].item() != make().digest()


def test_stored_logits_were_made_by_what_is_there():
    """If this fails: run book/_tools/assets.py next-token, some seconds."""
    assert not stale()


def test_stored_logits_of_another_model_are_found():
    """A change of what computes makes them stale; of a text or a bystander, not."""
    source = inspect.getsource(real_model)
    for old, new, found in (
        ("(self.gate(x)) * self.up(x)", "(self.gate(x)) + self.up(x)", True),
        ('"rope.freq_base"', '"rope.freq_bass"', True),
        ('"mlp.up": "ffn_up"', '"mlp.up": "ffn_gate"', True),
        ("rotate(key, places, config.base)", "key", True),
        ("A language model: ids", "Ids", False),
        ("# (B, H_kv, T, K)", "# keys", False),
        ("return logits.argmax().item()", "return 0", False),
    ):
        assert old in source, old
        changed = source.replace(old, new)
        with mock.patch.object(inspect, "getsource", return_value=changed):
            assert stale() == found, old
    with mock.patch.object(make(), "PROMPTS", PROMPTS[1:]):
        assert stale()
    with mock.patch.object(make(), "SMOLLM2_SHA256", 64 * "0"):
        assert stale()


def test_stored_logits_are_what_the_model_says():
    stored = gpt.measured_logits()
    assert list(stored) == PROMPTS == make().PROMPTS
    for logits in stored.values():
        assert logits.shape == (len(data.smollm2_tokenizer()),)
        assert logits.dtype == torch.float32 and logits.max() == 0
        assert logits.topk(16).values.diff().lt(0).all(), "the bars have one order"
    assert {type(prompt) for prompt in stored} == {str}
    gap = stored[PROMPTS[0]] - measured_again()
    assert gap.abs().max() < 0.01
    assert gpt.measured_logits() is stored, "read once"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_explorer_shows_the_filtered_distribution(prompt):
    logits = gpt.measured_logits()[prompt]
    for temperature, k, p in [(1.0, 49_152, 1.0), (1.6, 40, 0.8), (0.2, 3, 0.95)]:
        views = gpt.next_token(prompt, temperature, k, p)
        titles = ["Probability of the next token", "Tokens that can be drawn"]
        assert list(views) == [*titles, "Entropy"]
        next_one, count, entropy = views.values()
        kinds = [view.kind for view in views.values()]
        assert kinds == ["bars", "number", "number"]
        shares = gpt.next_distribution(logits, temperature, k, p)
        values = torch.tensor(next_one.arrays["values"])
        best = logits.topk(15).indices
        close(values[:15].float(), shares[best], 1e-6)
        close(values.sum().item(), 1.0, 1e-5)
        assert values.min() >= 0
        text = data.smollm2_tokenizer().decode([best[0].item()])
        labels = next_one.props["labels"]
        assert labels[0] == "␣" + text[1:] and labels[-1] == "the other 49,137"
        assert len(labels) == 16 and not any(" " in label for label in labels[:15])
        assert next_one.props["unit"] == ""
        assert (next_one.props["low"], next_one.props["high"]) == (0, 1)
        assert count.arrays["value"] == (shares > 0).sum()
        assert count.props == {"unit": "", "digits": 5}
        surprise = -(shares * shares.clamp_min(1e-38).log()).sum().item()
        close(float(entropy.arrays["value"]), surprise, 1e-4)
        assert entropy.props["unit"] == "nats"


# The exercises and the notebook's own functions


@functools.cache
def exercises():
    """The notebook's functions, checks and solutions, run in one namespace."""

    return run_exercises("transformers/gpt", gpt, also=["torch-layer", "likeness"])


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()
    fails(
        book.check_gpt_size,
        lambda sizes: book.gpt_size(sizes) + 1,
        lambda sizes: gpt.count_parameters(gpt.GPT(config())),
        lambda sizes: 12 * sizes.layers * sizes.width**2,
        lambda sizes: float(book.gpt_size(sizes)),
    )
    fails(
        book.check_sinusoids,
        lambda T, D: book.sinusoids(T, D).double(),
        lambda T, D: book.sinusoids(T + 1, D),
        lambda T, D: book.sinusoids(T, D).flip(-1),
        lambda T, D: book.sinusoids(T + 1, D)[1:],
        lambda T, D: book.sinusoids(T, D).tolist(),
    )

    def of_all_rows(p, share):
        kept = p.where(p >= share * p.max(), 0)
        return (kept / kept.sum(-1, keepdim=True)).nan_to_num()

    fails(
        book.check_keep_min_p,
        lambda p, share: p.where(p >= share, 0),
        lambda p, share: p.where(p >= share * p.max(), 0),
        of_all_rows,
        lambda p, share: book.keep_min_p(p.double(), share),
        lambda p, share: book.keep_min_p(p, share) if share < 1 else 0 * p,
        lambda p, share: p,
        lambda p, share: book.keep_min_p(p, 1 - share),
        lambda p, share: book.keep_min_p(p, share).tolist(),
    )

    def shifted(model, ids):
        logs = model(ids[1:]).detach().log_softmax(-1)
        return -logs.gather(-1, ids[1:, None]).squeeze(-1)

    fails(
        book.check_surprises,
        shifted,
        lambda model, ids: book.surprises(model, ids).mean(),
        lambda model, ids: -book.surprises(model, ids),
        lambda model, ids: book.surprises(model, ids) / math.log(2),
        lambda model, ids: torch.cat(  # as if only the last token were known
            [book.surprises(model, ids[t - 1 : t + 1]) for t in range(1, len(ids))]
        ),
        lambda model, ids: book.surprises(model, ids).requires_grad_(),
        lambda model, ids: book.surprises(model, ids).tolist(),
    )


def test_checks_accept_what_is_as_good():
    book = exercises()
    book.check_keep_min_p(lambda p, share: book.keep_min_p(p.double(), share).float())
    book.check_surprises(
        lambda model, ids: F.cross_entropy(
            model(ids[:-1]), ids[1:], reduction="none"
        ).detach()
    )
    book.check_surprises(  # the whole text, its last answer left out
        lambda model, ids: (
            -model(ids).detach().log_softmax(-1)[range(len(ids) - 1), ids[1:]]
        )
    )

    def table(T, D):
        rate = torch.exp(-math.log(10_000) * torch.arange(0, D, 2) / D)
        made = torch.empty(T, D)
        made[:, 0::2] = torch.sin(torch.arange(T)[:, None] * rate)
        made[:, 1::2] = torch.cos(torch.arange(T)[:, None] * rate)
        return made

    book.check_sinusoids(table)
    book.check_sinusoids(
        lambda T, D: (
            torch.view_as_real(1j * gpt.turns(torch.arange(T), D, 1e4).conj())
            .flatten(-2)
            .float()
        )
    )


def test_torchs_layer_is_the_block():
    book = exercises()
    model = scrambled(config())
    x, mask = drawn(3, 2, 5, 8), attention.causal_mask(5)
    for block in model.blocks:
        with torch.no_grad():
            layer = book.torch_layer(block.float(), model.config)
        assert isinstance(layer, nn.TransformerEncoderLayer)
        expected = layer(x.float(), src_mask=~mask)
        close(block(x.float(), mask), expected, 1e-4)


def test_likeness_is_a_mean_cosine():
    book = exercises()
    eye, same = torch.eye(3), torch.ones(4, 2)
    assert book.likeness(eye) == 0
    close(book.likeness(same).item(), 1.0, 1e-6)
