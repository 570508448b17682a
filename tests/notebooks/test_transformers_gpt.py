"""The cells of transformers/gpt against torch, transformers and arithmetic."""

import math
import re
from pathlib import Path
from unittest import mock

import cells
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import KINDS, close, fails, generator, refuses_all, stays
from hypothesis import assume, given, settings
from torch import nn

from fieldguide import data
from fieldguide.transformers import attention, gpt

MAKE = Path(data.asset("next-token", "logits.npz")).with_name("make.py")
FAST = {"attend": attention.simple_attention_fast}

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)
leads = st.sampled_from([(), (3,), (2, 3)])


def drawn(seed, *shape, kind=torch.double):
    return cells.random(*shape, seed=seed, dtype=kind)


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
            parameter.copy_(0.5 * drawn(seed + i, *parameter.shape))
    return model


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
    close(ours, theirs)


@given(seeds, leads, sizes, st.sampled_from([None, 1e-5, 0.3]))
@quick
def test_layer_norm_is_torchs(seed, lead, D, eps):
    x, weight, bias = drawn(seed, *lead, D), drawn(seed + 1, D), drawn(seed + 2, D)
    options = {} if eps is None else {"eps": eps}
    ours = gpt.layer_norm(x, weight, bias, **options)
    close(ours, F.layer_norm(x, (D,), weight, bias, **options), 1e-9)

    x = torch.tensor([[1000, -1000, 500, 7]])
    for kind in torch.float16, torch.bfloat16:  # whose squares overflow
        rest = torch.tensor([[1.5, 1, 2, 1], [0, 0.5, 0, 1]], dtype=kind)
        theirs = F.layer_norm(x.to(kind), (4,), *rest)
        close(gpt.layer_norm(x.to(kind), *rest), theirs, 2e-2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_mlp_is_two_matrices_around_gelu(bias, approximate):
    x = torch.linspace(-8, 8, 401, dtype=torch.double)
    close(gpt.gelu(x, approximate), F.gelu(x, approximate=approximate))
    close(gpt.gelu(x), F.gelu(x))
    torch.manual_seed(0)
    mlp = gpt.MLP(6, bias=bias, approximate=approximate).double()
    x = 3 * drawn(1, 2, 5, 6)
    assert mlp.up.weight.shape == (24, 6) and mlp.down.weight.shape == (6, 24)
    assert (mlp.up.bias is not None) == (mlp.down.bias is not None) == bias
    hidden = F.gelu(F.linear(x, mlp.up.weight, mlp.up.bias), approximate=approximate)
    close(mlp(x), F.linear(hidden, mlp.down.weight, mlp.down.bias))
    assert gpt.MLP(2).up.bias is not None and gpt.MLP(2).approximate == "none"


def test_config_has_gpt_2s_parts_unless_told():
    assert config() == config(positions="learned", bias=True, approximate="none")
    config(width=6)
    config(width=6, heads=3, positions="rotary")
    gpt.GPTConfig(1, 1, 1, 1, 1)
    with pytest.raises(AttributeError):
        config().width = 4


def transformers_twin(model):
    """GPT2LMHeadModel with the weights of `model`, and the pairs of gradients."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes, names = model.config, {"none": "gelu", "tanh": "gelu_new"}
    options = {"vocab_size": sizes.vocab, "n_positions": sizes.context}
    options |= {"n_embd": sizes.width, "n_head": sizes.heads, "n_layer": sizes.layers}
    options |= dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0)
    options["activation_function"] = names[sizes.approximate]
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


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_logits_and_gradients_are_those_of_transformers(approximate, fast):
    model = scrambled(config(approximate=approximate), **(FAST if fast else {}))
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
    loud = scrambled(config())
    gpt.initialise(loud)  # overwrites what is there
    assert loud.token.weight.requires_grad and loud.token.weight.std() < 0.03
    assert all(p.eq(0).all() for n, p in loud.named_parameters() if n.endswith("bias"))


def test_top_p_at_its_edges():
    row, order = torch.tensor([0.25, 0.5, 0.125, 0.125]), torch.tensor([1, 0, 2, 3])
    sizes = {1e-9: 1, 0.5: 1, 0.75: 2, 0.75001: 3, 0.875: 3, 0.876: 4, 1: 4}
    for p, size in sizes.items():
        chosen = row * (order < size)
        close(gpt.keep_top_p(row, p), chosen / chosen.sum(), 1e-6)
    long = torch.cat([torch.tensor([1.0]), torch.full((1000,), 1e-12)])
    assert (gpt.keep_top_p(long, 1) > 0).all(), "1 keeps what rounding would lose"
    fine = torch.tensor([0.5, 1e-9, 1e-9, 1e-9])  # a sum that float32 rounds off
    assert (gpt.keep_top_p(fine, 0.5 + 1.5e-9) > 0).tolist() == [True] * 3 + [False]
    many = torch.full((5000,), 1 / 5000)  # of equals the first stay
    for kept in (gpt.keep_top_k(many, 1234), gpt.keep_top_p(many, 1233.5 / 5000)):
        assert kept[:1234].gt(0).all() and kept[1234:].eq(0).all()


@given(
    seeds,
    leads,
    st.integers(1, 12),
    st.sampled_from([{}, {"temperature": 0.4}, {"temperature": 1.7}]),
    st.sampled_from([{}, {"top_k": 1}, {"top_k": 4}]),
    st.one_of(st.just({}), st.fixed_dictionaries({"top_p": st.floats(0.05, 0.99)})),
)
@quick
def test_next_distribution_is_that_of_transformers(seed, lead, V, heat, first, mass):
    """Temperature, top-k and top-p in one, against the library's warpers."""
    import transformers

    logits, options = 2 * drawn(seed, *lead, V), heat | first | mass
    assume(options.get("top_k", 0) <= V)
    ours = gpt.next_distribution(logits, **options)
    logits = logits.reshape(-1, V)
    kinds = {"temperature": "Temperature", "top_k": "TopK", "top_p": "TopP"}
    for name, value in options.items():
        warp = getattr(transformers, f"{kinds[name]}LogitsWarper")(value)
        logits = warp(None, logits)
    close(ours, logits.softmax(-1).reshape(ours.shape), 1e-9)


def test_extreme_temperatures_stay_finite():
    logits = torch.tensor([3.0, 1e4, -1e4, -math.inf])
    for temperature in (1e-30, 1e-36, 1e-50, 5e-324):
        cold = gpt.next_distribution(logits, temperature)
        assert cold.tolist() == [0, 1, 0, 0]
    assert gpt.next_distribution(torch.zeros(2, 1)).tolist() == [[1.0], [1.0]]
    hot = gpt.next_distribution(logits, 1e30)
    close(hot, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]), 1e-6)


def test_draw_is_one_uniform_number_a_row():
    rows = 3 * drawn(3, 2, 3, 5).softmax(-1)  # any sum will do
    ours = gpt.draw(rows, generator(7))
    darts = torch.rand(2, 3, 1, dtype=torch.double, generator=generator(7))
    expected = (rows.cumsum(-1) <= darts * rows.sum(-1, keepdim=True)).sum(-1)
    assert torch.equal(ours, expected) and ours.dtype == torch.int64


def test_no_dart_hits_a_token_without_probability():
    """Not even where the sum falls short of the dart, or the dart is exactly 0."""
    short = torch.tensor([0.0, 0.25, 0.25, 0.0])  # adds up to a half
    many = gpt.draw(short.expand(2000, 4), generator())
    assert set(many.tolist()) == {1, 2}
    assert gpt.draw(torch.ones(9, 1)).eq(0).all()
    one = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert gpt.draw(one.expand(500, 4)).eq(2).all()

    with thrown(0.0):
        assert gpt.draw(short).item() == 1
    # float32 would not feel these steps
    fine = torch.tensor([1.0] + [1e-9] * 100)
    with thrown(1 - 1.5e-9):
        assert gpt.draw(fine).item() == 99


def thrown(value):
    """Every uniform number is `value`."""

    def rand(shape, **options):
        assert options.pop("generator") is None
        return torch.full(shape, value, **options)

    return mock.patch.object(gpt.torch, "rand", rand)


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


def calls_on(device, kind):
    """{what: (a call, what type it gives)} on a device, from a float type."""
    made = {"device": device, "dtype": kind}
    x, ids = torch.ones(2, 5, 8, **made), torch.zeros(2, 5, device=device).long()
    rotary = gpt.rotary(attention.simple_attention)
    models = [gpt.GPT(config(positions=p)).to(**made) for p in ("learned", "rotary")]
    return {
        "turns": (lambda: gpt.turns(ids[0], 8, 1e4), torch.complex128),
        "turn_pairs": (lambda: turned(x, ids[0], 1e4), kind),
        "rotary": (lambda: rotary(x, x, x)[0], kind),
        "layer_norm": (lambda: gpt.layer_norm(x, x[0, 0], x[0, 0]), kind),
        "gelu": (lambda: gpt.gelu(x), kind),
        "gelu, tanh": (lambda: gpt.gelu(x, "tanh"), kind),
        "MLP": (lambda: gpt.MLP(8).to(**made)(x), kind),
        "keep_top_k": (lambda: gpt.keep_top_k(x / 8, 3), kind),
        "keep_top_p": (lambda: gpt.keep_top_p(x / 8, 0.5), kind),
        "next_distribution": (lambda: gpt.next_distribution(x, 0.5, 3, 0.9), kind),
        "draw": (lambda: gpt.draw(x), torch.int64),
        "GPT": (lambda: models[0](ids), kind),
        "GPT, rotary": (lambda: models[1](ids), kind),
        "generate": (lambda: gpt.generate(models[1], ids, 3), torch.int64),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    stays(calls_on, kind)


HEADS, ROW, ONE = torch.randn(2, 5, 8), torch.full((4,), 0.25), torch.ones(8)
IDS = torch.tensor([0, 10, 3])
BAD_IDS = [IDS[:0], IDS[None, :0], torch.zeros(8).long(), IDS + 1, IDS - 1]
TURNS = gpt.turns(torch.arange(5), 8, 1e4)
SHORT = [ONE[:2], ONE[:1], ONE[None]]
FILTERS = {"temperature": 1, "top_k": 4, "top_p": 1}
NOT_KEPT = {"top_k": [12], "top_p": [1.5]}
ROWS = [0 * ROW, ROW * math.nan, ROW / 0, -ROW, torch.tensor([-0.1, 0.5, 0.5, 0])]
BAD_ROWS = [ROW[:0], *ROWS, *(torch.stack([x, ROW]) for x in ROWS)]


def refusals():
    """{name: (arguments that work, bad values for some of them)}."""
    model, rng = gpt.GPT(config()), {"generator": generator()}
    return {
        "turns": (
            {"positions": torch.arange(4), "width": 2, "base": 1e-3},
            {"positions": [IDS[0], IDS[None], IDS > 0]},
        ),
        "turn_pairs": (
            {"x": HEADS, "factors": TURNS},
            {"factors": [TURNS[:, :3], TURNS[:, :1], TURNS[:1], TURNS.real,
                         torch.cat([TURNS, TURNS], 1), torch.cat([TURNS, TURNS])],
             "x": [HEADS[..., :7]]},
        ),
        "rotary": ({"attend": gpt.draw, "base": 1}, {}),
        "layer_norm": (
            {"x": HEADS, "weight": ONE, "bias": ONE, "eps": 1e-12},
            {"weight": SHORT, "bias": SHORT},
        ),
        "gelu": ({"x": HEADS, "approximate": "tanh"}, {}),
        "MLP": ({"width": 2, "bias": False, "approximate": "tanh"}, {}),
        "GPTConfig": (
            {"vocab": 3, "context": 3, "width": 6, "heads": 3, "layers": 1,
             "positions": "rotary", "bias": True, "approximate": "none"},
            {"heads": [2, 4]},
        ),
        "Block": ({"config": config(), "attend": gpt.draw}, {}),
        "GPT": ({"config": config(), "attend": gpt.draw, **rng}, {}),
        "require_tokens": ({"ids": IDS, "config": config()}, {"ids": BAD_IDS}),
        "initialise": ({"model": model, **rng}, {"model": [nn.ReLU()]}),
        "count_parameters": ({"model": model}, {}),
        "keep_top_k": (
            {"probabilities": ROW, "top_k": 4},
            {"probabilities": BAD_ROWS, "top_k": [5]},
        ),
        "keep_top_p": (
            {"probabilities": ROW, "top_p": 1},
            {"probabilities": BAD_ROWS, "top_p": [0, 1.5]},
        ),
        "next_distribution": (
            {"logits": ROW, **FILTERS},
            {"logits": [ROW[:0], torch.zeros(2, 0), ROW * math.nan, -ROW / 0],
             **NOT_KEPT},
        ),
        "draw": ({"probabilities": ROW, **rng}, {"probabilities": BAD_ROWS}),
        "generate": (
            {"model": model, "ids": IDS, "count": 1, **FILTERS, **rng},
            {"model": [nn.ReLU()], "ids": BAD_IDS, **NOT_KEPT},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", refusals())
def test_bad_input_is_refused_by_name(name):
    good, bad = refusals()[name]
    refuses_all(getattr(gpt, name), good, **bad)


def test_a_model_refuses_what_does_not_fit():
    attend, mask = gpt.rotary(attention.simple_attention), attention.causal_mask(5)
    refuses_all(gpt.GPT(config()).forward, {"ids": IDS}, ids=BAD_IDS)
    block, good = gpt.Block(config()), {"x": HEADS, "mask": mask}
    refuses_all(block.forward, good, x=[ONE, HEADS[..., :6]])
    refuses_all(gpt.MLP(8).forward, {"x": HEADS}, x=[HEADS[0, 0, 0], HEADS[..., :6]])
    x, short = torch.randn(3, 4), torch.randn(2, 4)
    good = {"query": x, "key": x, "value": x}
    refuses_all(attend, good, query=[x[:, :2]], key=[x[:, :2], short])


def test_stored_logits_are_what_the_model_says():
    make = cells.module_at(MAKE)
    with np.load(MAKE.with_name("logits.npz")) as stored:
        prompts, below = stored["prompts"].tolist(), stored["below"] / -1000
    assert prompts == make.PROMPTS
    assert below.shape == (3, len(data.smollm2_tokenizer()))
    assert (below.max(1) == 0).all()
    assert (np.diff(-np.sort(-below)[:, :16]) < 0).all(), "the bars have one order"
    again = make.measure(prompts[0])
    assert np.abs(again - again.max() - below[0]).max() < 0.01


def shifted(model, ids):
    """Surprises, read a row too low."""
    rows = range(1, len(ids))
    return -model(ids).detach().log_softmax(-1)[rows, ids[1:]]


def picked(model, ids, along=None, more=0):
    """Logits of the tokens, or with `along` log probabilities along that axis."""
    table = model(ids[: len(ids) - 1 + more]).detach()
    table = table if along is None else table.log_softmax(along)
    return table[range(len(ids) - 1), ids[1:]]


def kept(p, part, other):
    return p.where(p >= part * p.max(), other)


def wrong_answers(book):
    """Of each check: what it says, and an answer that it says it of."""
    min_p, surprises = book.keep_min_p, book.surprises
    check, width = book.check_winning_width, book.winning_width
    yield check, "a draw", lambda V, L: width(V - 1, L)
    yield check, "biases", lambda V, L: V // (12 * L) + 1
    yield check, "all L blocks", lambda V, L: width(V, 1)
    yield check, "one too small", lambda V, L: width(V, L) - (V > 74)
    yield check, "is right, not", lambda V, L: width(V, L) + 1
    yield check, "1 at least", lambda V, L: (V // L - 13) // 12 - 400
    check, mask = book.check_mended, attention.causal_mask(5)
    for cause, _ in book.block_bugs(gpt.Block(config()), HEADS, mask):
        yield check, cause, lambda *given, c=cause: dict(book.block_bugs(*given))[c]
    yield check, "nothing is mended", book.sent_to_you
    yield check, "reads and adds to", lambda *given: book.mended(*given) + 0.1
    check = book.check_keep_min_p
    yield check, "add up to 1", lambda p, part: p.where(p >= part * p.max(), 0)
    yield check, "with part, not", lambda p, part: min_p(p, min(part / p.max(), 1))
    yield check, "exactly at the bar", lambda p, part: min_p(p, part + 1e-4)
    yield check, "no softmax is needed", lambda *given: kept(*given, 0).softmax(0)
    yield check, "no softmax", lambda *given: kept(*given, -math.inf).softmax(0)
    yield check, "is right, not", lambda p, part: min_p(p, 1 - part)
    check = book.check_surprises
    yield check, "sign", lambda *given: -surprises(*given)
    yield check, "take -log", lambda *given: (-surprises(*given)).exp()
    yield check, "bits", lambda *given: surprises(*given) / math.log(2)
    yield check, "row t", shifted
    yield check, "these are logits", lambda *given: picked(*given)
    yield check, "these are logits", lambda *given: -picked(*given)
    yield check, "over the positions", lambda *given: -picked(*given, along=0)
    yield check, "over the positions", lambda m, i: -picked(m, i, along=0, more=1)
    yield check, "no_grad", lambda *given: surprises(*given).requires_grad_()
    yield check, "is wanted", lambda *given: surprises(*given).mean()


def test_checks_name_the_cause_of_a_wrong_answer():
    book = cells.run_exercises("transformers/gpt", gpt)
    for check, cause, answer in wrong_answers(book):
        fails(check)
        with pytest.raises(AssertionError, match=re.escape(cause)):
            check(answer)
    # and what is as good passes
    book.check_keep_min_p(lambda p, part: book.keep_min_p(p.double(), part))
    book.check_mended(lambda block, x, mask: block(x, mask))
    book.check_surprises(lambda *given: book.surprises(*given).double())
