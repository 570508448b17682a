"""The cells of transformers/gpt against torch, transformers and arithmetic."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, seeds
from cells import random as drawn
from hypothesis import assume
from torch import nn

from fieldguide.transformers import attention, gpt

FAST = {"attend": attention.simple_attention_fast}

sizes = st.integers(1, 6)
leads = st.sampled_from([(), (3,), (2, 3)])


def some_ids(*shape, seed=1, vocab=11):
    return torch.randint(vocab, shape, generator=generator(seed))


def config(**changes):
    sizes = {"vocab": 11, "context": 7, "width": 8, "heads": 2, "layers": 2}
    return gpt.GPTConfig(**(sizes | changes))


def scrambled(sizes, seed=0, **options):
    """A GPT in float64 whose every parameter is random, gains and biases too."""
    model = gpt.GPT(sizes, **options).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * drawn(*parameter.shape, seed=seed + i))
    return model


@cases(seeds, sizes, sizes, st.sampled_from([0.5, 1.0, 1e4]), st.integers(0, 900))
def test_apply_rope_turns_neighbours_by_sine_and_cosine(seed, T, pairs, base, start):
    x, places = drawn(2, T, 2 * pairs, seed=seed), start + torch.arange(T)
    angle = torch.outer(
        places.double(), base ** (-torch.arange(pairs).double() / pairs)
    )
    a, b = x.unflatten(-1, (pairs, 2)).unbind(-1)
    turned = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    close(gpt.apply_rope(x, places, base), torch.stack(turned, -1).flatten(-2))


@cases(seeds, sizes, sizes, st.sampled_from([None, 100.0]), st.booleans())
def test_rotary_turns_queries_and_keys_by_their_places(seed, T, more, base, masked):
    S, options = T + more - 1, {} if base is None else {"base": base}
    shapes = enumerate([(T, 8), (S, 8), (S, 3), (T, S)])
    query, key, value, mask = (drawn(*s, seed=seed + i) for i, s in shapes)
    mask = (mask > 0).index_fill(1, torch.tensor([0]), True)  # all may look
    knobs = {"mask": mask if masked else None, "scale": 0.7}
    ours = gpt.rotary(attention.simple_attention, **options)(query, key, value, **knobs)
    query = gpt.apply_rope(query, torch.arange(S - T, S), base or 10_000.0)
    key = gpt.apply_rope(key, torch.arange(S), base or 10_000.0)
    close(ours, attention.simple_attention(query, key, value, **knobs))


@cases(seeds, sizes, sizes, st.sampled_from([1e-6, 1e-2, 0.5]))
def test_rms_norm_is_torchs(seed, T, D, eps):
    x, weight = drawn(T, D, seed=seed), drawn(D, seed=seed + 1)
    close(gpt.rms_norm(x, weight, eps), F.rms_norm(x, (D,), weight, eps))


def test_mlp_is_two_matrices_around_gelu():
    torch.manual_seed(0)
    for bias in True, False:
        mlp, x = gpt.MLP(6, bias=bias).double(), 3 * drawn(2, 5, 6, seed=1)
        assert (mlp.up.bias is not None) == (mlp.down.bias is not None) == bias
        hidden = F.linear(x, mlp.up.weight, mlp.up.bias)  # (2, 5, 24)
        hidden = hidden * torch.special.ndtr(hidden)
        close(mlp(x), F.linear(hidden, mlp.down.weight, mlp.down.bias))


def transformers_twin(model):
    """GPT2LMHeadModel with the weights of `model`, and the pairs of gradients."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = model.config
    options = {"vocab_size": sizes.vocab, "n_positions": sizes.context}
    options |= {"n_embd": sizes.width, "n_head": sizes.heads, "n_layer": sizes.layers}
    options |= dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0)
    options["activation_function"] = "gelu"
    twin = GPT2LMHeadModel(GPT2Config(**options)).double()
    body, D = twin.transformer, sizes.width
    places = [(model.token, body.wte, ...), (model.norm, body.ln_f, ...)]
    places += [(model.place, body.wpe, ...)]
    for ours, theirs in zip(model.blocks, body.h, strict=True):
        places += [
            (ours.norm_attention, theirs.ln_1, ...),
            (ours.norm_mlp, theirs.ln_2, ...),
            (ours.attention.output, theirs.attn.c_proj, ...),
            (ours.mlp.up, theirs.mlp.c_fc, ...),
            (ours.mlp.down, theirs.mlp.c_proj, ...),
        ]
        for i, name in enumerate(("query", "key", "value")):
            part, columns = getattr(ours.attention, name), slice(i * D, (i + 1) * D)
            places.append((part, theirs.attn.c_attn, columns))

    def pairs(of):
        """(ours, theirs) of each parameter, or of its gradient."""
        for ours, theirs, columns in places:
            weight = of(theirs.weight)
            turned = isinstance(ours, nn.Linear)
            yield of(ours.weight), weight[:, columns].T if turned else weight
            if hasattr(ours, "bias"):
                yield of(ours.bias), of(theirs.bias)[columns]

    for ours, theirs in pairs(lambda p: p.data):
        theirs.copy_(ours)
    return twin, lambda: list(pairs(lambda p: p.grad))


@pytest.mark.parametrize("options", [{}, FAST])
def test_logits_and_gradients_are_those_of_transformers(options):
    model = scrambled(config(), **options)
    twin, gradients = transformers_twin(model)
    ids = some_ids(3, 7)
    ours, theirs = model(ids), twin(ids).logits
    close(ours, theirs, 1e-9)
    for logits in (ours, theirs):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    pairs = gradients()
    assert len(pairs) == len(list(model.parameters()))
    for mine, other in pairs:
        assert mine.ne(0).any()
        close(mine, other, 1e-9)


def test_without_biases_only_matrices_and_gains_are_left():
    model = gpt.GPT(config(bias=False))
    assert not [name for name, _ in model.named_parameters() if "bias" in name]
    assert gpt.count_parameters(model) == 88 + 56 + 512 + 1024 + 40


def test_rotary_model_attends_with_rotary_and_has_no_table_of_places():
    model, ids = scrambled(config(positions="rotary")), some_ids(2, 3, 6)
    twin = gpt.GPT(config(), attend=gpt.rotary(attention.simple_attention)).double()
    lacking = twin.load_state_dict(model.state_dict(), strict=False)
    assert lacking == (["place.weight"], [])
    nn.init.zeros_(twin.place.weight)
    close(model(ids), twin(ids))
    close(scrambled(model.config, **FAST)(ids), model(ids), 1e-9)


def test_first_weights_are_gpt_2s():
    sizes = gpt.GPTConfig(400, 100, width=128, heads=4, layers=8)
    model = gpt.GPT(sizes, generator=generator())
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.eq(0).all(), name
        elif "norm" in name:
            assert parameter.eq(1).all(), name
        else:
            writes = name.endswith(("attention.output.weight", "mlp.down.weight"))
            expected = 0.02 / 4 if writes else 0.02
            assert abs(parameter.mean().item()) < 0.05 * expected, name
            assert abs(parameter.std().item() / expected - 1) < 0.05, name

    made = []  # from the generator alone
    for seed, own in (1, 5), (2, 5), (2, 6):
        torch.manual_seed(seed)
        model = gpt.GPT(config(), generator=generator(own))
        made.append(list(model.parameters()))
    close(made[0], made[1], 0)
    assert not torch.equal(made[1][0], made[2][0])


def test_top_p_at_its_edges():
    row, order = torch.tensor([0.25, 0.5, 0.125, 0.125]), torch.tensor([1, 0, 2, 3])
    sizes = {1e-9: 1, 0.5: 1, 0.75: 2, 0.75001: 3, 0.875: 3, 0.876: 4, 1: 4}
    for p, size in sizes.items():
        chosen = row * (order < size)
        close(gpt.next_distribution(row.log(), top_p=p), chosen / chosen.sum(), 1e-6)


@cases(
    seeds,
    leads,
    st.integers(1, 12),
    st.sampled_from([{}, {"temperature": 0.4}, {"temperature": 1.7}]),
    st.sampled_from([{}, {"top_k": 1}, {"top_k": 4}]),
    st.one_of(st.just({}), st.fixed_dictionaries({"top_p": st.floats(0.05, 0.99)})),
)
def test_next_distribution_is_that_of_transformers(seed, lead, V, heat, first, mass):
    """Temperature, top-k and top-p in one, against the library's warpers."""
    import transformers

    logits, options = 2 * drawn(*lead, V, seed=seed), heat | first | mass
    assume(options.get("top_k", 0) <= V)
    ours = gpt.next_distribution(logits, **options)
    logits = logits.reshape(-1, V)
    kinds = {"temperature": "Temperature", "top_k": "TopK", "top_p": "TopP"}
    for name, value in options.items():
        warp = getattr(transformers, f"{kinds[name]}LogitsWarper")(value)
        logits = warp(None, logits)
    close(ours, logits.softmax(-1).reshape(ours.shape), 1e-9)


def test_draw_is_one_uniform_number_a_row():
    rows = 3 * drawn(2, 3, 5, seed=3).softmax(-1)  # any sum will do
    ours = gpt.draw(rows, generator(7))
    darts = torch.rand(2, 3, 1, dtype=torch.double, generator=generator(7))
    expected = (rows.cumsum(-1) <= darts * rows.sum(-1, keepdim=True)).sum(-1)
    assert torch.equal(ours, expected) and ours.dtype == torch.int64


SETTINGS = {"temperature": 0.8, "top_k": 6, "top_p": 0.9}


@pytest.mark.parametrize("options", [SETTINGS, {}])
def test_generate_continues_the_text_token_by_token(options):
    model = scrambled(config())
    text = prompt = torch.tensor([[1, 2], [3, 4]])
    made = gpt.generate(model, prompt, 9, **options, generator=generator())
    rng = generator()
    for _ in range(9):
        shares = gpt.next_distribution(model(text[:, -7:])[:, -1], **options)
        text = torch.cat([text, gpt.draw(shares, rng)[:, None]], 1)
    assert torch.equal(made, text) and not made.requires_grad
    assert torch.equal(gpt.generate(model, prompt, 0), prompt)
