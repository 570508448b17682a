"""The cells of transformers/gpt against torch, transformers and arithmetic."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, seeds
from cells import random as drawn

from fieldguide.transformers import attention, gpt

FAST = {"attend": attention.simple_attention_fast}

sizes = st.integers(1, 6)
leads = st.sampled_from([(), (3,), (2, 3)])


def some_ids(*shape):
    return torch.randint(11, shape, generator=generator(1))


def config(**changes):
    sizes = {"vocab": 11, "context": 7, "width": 8, "heads": 2, "layers": 2}
    return gpt.GPTConfig(**(sizes | changes))


def scrambled(sizes, **options):
    """A GPT in float64 whose every parameter is random, gains and biases too."""
    model = gpt.GPT(sizes, **options).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * drawn(*parameter.shape, seed=i))
    return model


@cases(seeds, sizes, sizes, st.sampled_from([0.5, 1.0, 1e4]), st.integers(0, 900))
def test_apply_rope_turns_neighbours_by_sine_and_cosine(seed, T, pairs, base, start):
    x, places = drawn(2, T, 2 * pairs, seed=seed), start + torch.arange(T)
    angle = places[:, None] * base ** (-torch.arange(pairs).double() / pairs)
    a, b = x.unflatten(-1, (pairs, 2)).unbind(-1)
    turned = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    close(gpt.apply_rope(x, places, base), torch.stack(turned, -1).flatten(-2))


@cases(seeds, sizes, sizes, st.sampled_from([None, 100.0]), st.booleans())
def test_rotary_turns_queries_and_keys_by_their_places(seed, T, more, base, masked):
    S, options = T + more - 1, {} if base is None else {"base": base}
    query, key, value = (drawn(n, 8, seed=seed + i) for i, n in enumerate([T, S, S]))
    mask = torch.ones(T, S).tril(S - T).bool() if masked else None
    attend, knobs = attention.simple_attention, {"mask": mask, "scale": 0.7}
    ours = gpt.rotary(attend, **options)(query, key, value, **knobs)
    query = gpt.apply_rope(query, torch.arange(S - T, S), **options)
    key = gpt.apply_rope(key, torch.arange(S), **options)
    close(ours, attend(query, key, value, **knobs))


@cases(seeds, sizes, sizes, st.sampled_from([1e-6, 1e-2, 0.5]))
def test_rms_norm_is_torchs(seed, T, D, eps):
    x, weight = drawn(T, D, seed=seed), drawn(D, seed=seed + 1)
    close(gpt.rms_norm(x, weight, eps), F.rms_norm(x, (D,), weight, eps))


NAMES = {"token": "wte", "place": "wpe", "blocks": "h", "norm.": "ln_f."}
NAMES |= {"norm_attention": "ln_1", "norm_mlp": "ln_2", "mlp.up": "mlp.c_fc"}
NAMES |= {"attention.output": "attn.c_proj", "mlp.down": "mlp.c_proj"}
NAMES |= {f"attention.{part}": "attn.c_attn" for part in ("query", "key", "value")}


def as_gpt2(ours):
    """Our parameters or gradients by name, as transformers names and turns them."""
    found = {}
    for name, x in ours.items():
        for pair in NAMES.items():
            name = name.replace(*pair)
        found.setdefault(name, []).append(x)
    return {n: torch.cat(xs).t() if "c_" in n else xs[0] for n, xs in found.items()}


@pytest.mark.parametrize("options", [{}, FAST])
def test_logits_and_gradients_are_those_of_transformers(options):
    import transformers

    model, ids = scrambled(config(), **options), some_ids(3, 6)
    sizes = {"vocab_size": 11, "n_positions": 7, "n_embd": 8, "n_head": 2, "n_layer": 2}
    sizes |= dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0)
    sizes = transformers.GPT2Config(activation_function="gelu", **sizes)
    twin = transformers.GPT2LMHeadModel(sizes).double()
    twin.transformer.load_state_dict(as_gpt2(model.state_dict()))
    ours, theirs = model(ids), twin(ids).logits
    close(ours, theirs, 1e-9)
    for logits in (ours, theirs):
        F.cross_entropy(logits[:, :-1].mT, ids[:, 1:]).backward()
    ours, theirs = (
        {name: p.grad for name, p in m.named_parameters()}
        for m in (model, twin.transformer)
    )
    assert all(grad.ne(0).any() for grad in ours.values())
    close(as_gpt2(ours), theirs, 1e-9)


def test_without_biases_only_matrices_and_gains_are_left():
    model = gpt.GPT(config(bias=False))
    assert not [name for name, _ in model.named_parameters() if "bias" in name]
    assert gpt.count_parameters(model) == 88 + 56 + 512 + 1024 + 40


def test_rotary_model_attends_with_rotary_and_has_no_table_of_places():
    model, ids = scrambled(config(positions="rotary")), some_ids(2, 3, 6)
    twin = gpt.GPT(config(), attend=gpt.rotary(attention.simple_attention)).double()
    twin.load_state_dict(model.state_dict() | {"place.weight": torch.zeros(7, 8)})
    close(model(ids), twin(ids))
    close(scrambled(model.config, **FAST)(ids), model(ids), 1e-9)


def test_first_weights_are_gpt_2s():
    sizes = gpt.GPTConfig(400, 100, width=128, heads=4, layers=8)
    model = gpt.GPT(sizes, generator=generator())
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            assert parameter.eq("norm" in name and "bias" not in name).all(), name
            continue
        writes = name.endswith(("attention.output.weight", "mlp.down.weight"))
        expected = 0.02 / 4 if writes else 0.02
        assert abs(parameter.mean().item()) < 0.05 * expected, name
        assert abs(parameter.std().item() / expected - 1) < 0.05, name


def test_first_weights_come_from_the_generator_alone():
    models = (gpt.GPT(config(), generator=generator(seed)) for seed in (5, 5, 6))
    first, same, other = ([*model.parameters()] for model in models)
    close(first, same, 0)
    assert not torch.equal(first[0], other[0])


def test_top_p_at_its_edges():
    row, order = torch.tensor([0.25, 0.5, 0.125, 0.125]), torch.tensor([1, 0, 2, 3])
    for p, size in {1e-9: 1, 0.5: 1, 0.75: 2, 0.75001: 3, 0.875: 3, 1: 4}.items():
        chosen = row * (order < size)
        close(gpt.next_distribution(row.log(), top_p=p), chosen / chosen.sum(), 1e-6)


@cases(
    seeds,
    leads,
    st.integers(4, 12),
    st.sampled_from([{}, {"temperature": 0.4}, {"temperature": 1.7}]),
    st.sampled_from([{}, {"top_k": 1}, {"top_k": 4}]),
    st.one_of(st.just({}), st.fixed_dictionaries({"top_p": st.floats(0.05, 0.99)})),
)
def test_next_distribution_is_that_of_transformers(seed, lead, V, heat, first, mass):
    """Temperature, top-k and top-p in one, against the library's warpers."""
    import transformers

    logits, options = 2 * drawn(*lead, V, seed=seed), heat | first | mass
    ours = gpt.next_distribution(logits, **options)
    logits = logits.reshape(-1, V)
    for name, value in options.items():
        kind = name.title().replace("_", "")  # TopK
        logits = getattr(transformers, f"{kind}LogitsWarper")(value)(None, logits)
    close(ours, logits.softmax(-1).reshape(ours.shape), 1e-9)


def test_draw_is_one_uniform_number_a_row():
    rows = 3 * drawn(2, 3, 5, seed=3).softmax(-1)  # any sum will do
    ours = gpt.draw(rows, generator(7))
    darts = torch.rand(2, 3, 1, dtype=torch.double, generator=generator(7))
    expected = (rows.cumsum(-1) <= darts * rows.sum(-1, keepdim=True)).sum(-1)
    assert torch.equal(ours, expected) and ours.dtype == torch.int64


@pytest.mark.parametrize("options", [{"temperature": 0.8, "top_k": 6}, {"top_p": 0.9}])
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
