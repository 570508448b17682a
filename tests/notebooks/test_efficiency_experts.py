"""The cells of efficiency/experts against loops in Python, and transformers' own.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import functools
import json
import math
from dataclasses import FrozenInstanceError, asdict, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from cells import (
    close,
    fails,
    generator,
    module_at,
    random,
    refuses,
    run_exercises,
    solutions_pass,
)
from hypothesis import given, settings
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from fieldguide import data
from fieldguide.efficiency import experts
from fieldguide.transformers import gpt, training

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "book" / "efficiency" / "experts.ipynb"
MAKE = ROOT / "book" / "_assets" / "experts" / "make.py"
FORMS = ["mixture_by_token", "mixture_dense", "mixture_sorted", "mixture_fast"]
TINY = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=False)

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)


def frozen(instance, name):
    try:
        setattr(instance, name, 2)
    except FrozenInstanceError:
        return
    raise AssertionError(f"{name} was changed")


# Routing


@quick
@given(seed=seeds, N=sizes, E=sizes, data=st.data())
def test_routing_takes_the_best_and_blends_them(seed, N, E, data):
    k = data.draw(st.integers(1, E))
    logits = random(N, E, seed=seed)
    weights, chosen, shares = experts.top_k_routing(logits, k)
    close(shares, logits.softmax(-1))
    assert weights.shape == chosen.shape == (N, k) and chosen.dtype == torch.int64
    for row, best, share, weight in zip(logits, chosen, shares, weights, strict=True):
        order = sorted(range(E), key=lambda e: -row[e])
        assert best.tolist() == order[:k]
        right = share[best] if k == 1 else row[best].softmax(-1)
        close(weight, right)


def test_routing_is_mixtrals():
    from transformers import MixtralConfig
    from transformers.models.mixtral import modeling_mixtral

    sizes = {"hidden_size": 6, "num_local_experts": 5, "num_experts_per_tok": 3}
    theirs = modeling_mixtral.MixtralTopKRouter(MixtralConfig(**sizes))
    theirs.weight.data = random(5, 6, dtype=torch.float32)
    x = random(9, 6, seed=1, dtype=torch.float32)
    logits, weights, chosen = theirs(x)
    ours = experts.top_k_routing(logits, 3)
    close(ours[0], weights, 1e-6)
    assert torch.equal(ours[1], chosen)
    loss = modeling_mixtral.load_balancing_loss_func((logits,), 5, 3)
    close(experts.balance_loss(ours[2], ours[1]), loss, 1e-6)


def test_routing_capacity_and_loss_are_switchs():
    from transformers import SwitchTransformersConfig
    from transformers.models.switch_transformers import modeling_switch_transformers

    config = SwitchTransformersConfig(hidden_size=6, num_experts=4, expert_capacity=3)
    router = modeling_switch_transformers.SwitchTransformersTop1Router(config).eval()
    x = random(1, 20, config.hidden_size, dtype=torch.float32)
    served, share, logits = router(x)
    weights, chosen, shares = experts.top_k_routing(logits[0], 1)
    close(weights, share[0], 1e-6)
    kept = experts.drop_overflow(weights, chosen, 4, 3)
    assert torch.equal(kept != 0, served[0].sum(-1, keepdim=True) > 0)
    assert (kept == 0).any()
    theirs = modeling_switch_transformers.load_balancing_loss_func(
        logits.softmax(-1), chosen.T
    )
    close(experts.balance_loss(shares, chosen), theirs, 1e-6)


def test_routing_refuses_bad_input():
    logits = random(3, 4)
    for k in 0, -1, 5, 2.0, True:
        refuses("k", experts.top_k_routing, logits, k)
    experts.top_k_routing(logits, 4)
    for bad in math.nan, math.inf, -math.inf:
        broken = logits.clone()
        broken[2, 1] = bad
        refuses("logits", experts.top_k_routing, broken, 1)


# Computing


def problem(seed=0, N=5, D=4, H=8, E=3, k=2, dtype=torch.double):
    """Tokens, a routing and experts, as the forms take them."""
    x, logits = random(N, D, seed=seed), random(N, E, seed=seed + 1)
    up, down = random(E, H, D, seed=seed + 2), random(E, D, H, seed=seed + 3)
    weights, chosen, _ = experts.top_k_routing(logits.to(dtype), k)
    return x.to(dtype), weights, chosen, up.to(dtype), down.to(dtype)


def by_hand(x, weights, chosen, up, down):
    rows = []
    for n in range(len(x)):
        row = torch.zeros_like(x[n])
        for weight, e in zip(weights[n], chosen[n].tolist(), strict=True):
            hidden = F.gelu(torch.mv(up[e], x[n]))
            row = row + weight * torch.mv(down[e], hidden)
        rows.append(row)
    return torch.stack(rows)


@quick
@given(seed=seeds, N=sizes, D=sizes, H=sizes, E=sizes, data=st.data())
def test_all_forms_agree(seed, N, D, H, E, data):
    k = data.draw(st.integers(1, E))
    given = problem(seed, N, D, H, E, k)
    right = by_hand(*given)
    for form in FORMS:
        close(getattr(experts, form)(*given), right, 1e-10)


@quick
@given(seed=seeds, N=sizes, k=st.integers(1, 3), capacity=st.integers(1, 4))
def test_all_forms_agree_on_gradients_and_on_what_is_dropped(seed, N, k, capacity):
    x, weights, chosen, up, down = problem(seed, N, k=k)

    def gradients(form):
        leaves = [t.clone().requires_grad_() for t in (x, weights, up, down)]
        kept = experts.drop_overflow(leaves[1], chosen, 3, capacity)
        out = form(leaves[0], kept, chosen, *leaves[2:])
        return out, *torch.autograd.grad(out.square().sum(), leaves)

    right = gradients(by_hand)
    for form in FORMS:
        for ours, theirs in zip(gradients(getattr(experts, form)), right, strict=True):
            close(ours, theirs, 1e-9)


def test_the_fast_form_is_right_in_32_bits():
    given = problem(N=13, D=16, H=32, E=6, k=3, dtype=torch.float32)
    assert experts.has_grouped()
    with mock.patch.object(experts, "grouped_loop", side_effect=AssertionError):
        found = experts.mixture_fast(*given)
    close(found, experts.mixture_dense(*given), 1e-4)
    idle = torch.zeros(13, 1, dtype=torch.long)  # all experts but the first
    one = (given[0], given[1][:, :1], idle, *given[3:])
    close(experts.mixture_fast(*one), experts.mixture_dense(*one), 1e-4)


def test_the_grouped_product_falls_back():
    """For rows that are no multiple of 16 bytes, other types, and an older torch."""
    for dtype, A, B in (
        (torch.float32, 3, 4),
        (torch.float32, 4, 3),
        (torch.float32, 4, 6),
        (torch.float32, 6, 4),
        (torch.double, 4, 4),
    ):
        x, matrices = random(5, A, dtype=dtype), random(3, B, A, dtype=dtype)
        lengths = torch.tensor([2, 0, 3])
        with mock.patch.object(F, "grouped_mm", side_effect=AssertionError):
            found = experts.grouped_fast(x, lengths, matrices)
        rows = [x[:2] @ matrices[0].T, x[2:] @ matrices[2].T]
        close(found, torch.cat(rows), 1e-6)


def test_the_grouped_product_is_not_asked_for_on_other_devices():
    lengths = torch.tensor([2, 3])
    x, matrices = torch.ones(5, 4, device="meta"), torch.ones(2, 8, 4, device="meta")
    with mock.patch.object(F, "grouped_mm", side_effect=AssertionError):
        assert experts.grouped_fast(x, lengths, matrices).shape == (5, 8)


def test_whether_there_is_a_grouped_product_is_found_out():
    ask = experts.has_grouped.__wrapped__
    for error in AttributeError, RuntimeError, NotImplementedError:
        with mock.patch.object(F, "grouped_mm", side_effect=error):
            assert ask() is False
    product = SimpleNamespace(seen=None)

    def taken(rows, matrices, offs):
        product.seen = rows.shape, matrices.shape, offs.tolist()

    with mock.patch.object(F, "grouped_mm", taken):
        assert ask() is True
    assert product.seen == ((4, 4), (1, 4, 4), [4])
    x, lengths = random(3, 4, dtype=torch.float32), torch.tensor([1, 2])
    matrices = random(2, 8, 4, dtype=torch.float32)
    with (
        mock.patch.object(experts, "has_grouped", lambda: False),
        mock.patch.object(F, "grouped_mm", side_effect=AssertionError),
    ):
        experts.grouped_fast(x, lengths, matrices)


def test_slots_are_sorted_by_expert_and_keep_their_order():
    chosen = torch.tensor([[2, 0], [0, 2], [3, 0]])
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.0], [0.5, 0.6]])
    token, weight, lengths = experts.sort_by_expert(weights, chosen, 5)
    assert token.tolist() == [0, 1, 2, 0, 2]
    close(weight, torch.tensor([0.2, 0.3, 0.6, 0.1, 0.5]))
    assert lengths.tolist() == [3, 0, 1, 1, 0]
    many = torch.zeros(5000, 1, dtype=torch.long)
    token, _, _ = experts.sort_by_expert(torch.ones(5000, 1), many, 1)
    assert torch.equal(token, torch.arange(5000))


def test_the_sorted_form_computes_what_is_chosen_and_no_more():
    x, weights, chosen, up, down = problem(N=10, D=4, H=8, E=5, k=2)
    weights[0, 0] = 0  # dropped
    for form, slots in ("mixture_sorted", 19), ("mixture_dense", 50):
        with FlopCounterMode(display=False) as counter:
            getattr(experts, form)(x, weights, chosen, up, down)
        assert counter.get_total_flops() == slots * 2 * 2 * 4 * 8


def test_nothing_at_all_may_be_left():
    x, weights, chosen, up, down = problem(dtype=torch.float32)
    for form in FORMS:
        out = getattr(experts, form)(x, 0 * weights, chosen, up, down)
        assert torch.equal(out, torch.zeros_like(x))


def test_forms_refuse_what_does_not_fit():
    x, weights, chosen, up, down = problem()
    for form in map(functools.partial(getattr, experts), FORMS):
        wider = torch.cat([x, x], 1)
        for bad in x[0], x[:, :3], wider, x[:0], x[None], x[..., None]:
            refuses("x", form, bad, weights, chosen, up, down)
        longer = torch.cat([chosen, chosen])
        for bad in chosen[:4], longer, chosen[:, 0], chosen[..., None]:
            refuses("chosen", form, x, weights, bad, up, down)
        for bad in chosen.float(), chosen + 1, chosen - 1:
            refuses("chosen", form, x, weights, bad, up, down)
        for bad in weights[:, :1], weights[:4], torch.cat([weights, weights]):
            refuses("weights", form, x, bad, chosen, up, down)
        for bad in down[:2], down.mT, down[:, :3]:
            refuses("down", form, x, weights, chosen, up, bad)


# Capacity


@quick
@given(
    tokens=st.integers(1, 3000),
    E=st.integers(1, 64),
    factor=st.sampled_from(["0.5", "1", "1.1", "1.15", "1.25", "2", "3.3"]),
    data=st.data(),
)
def test_capacity_is_the_fair_share_rounded_up(tokens, E, factor, data):
    k = data.draw(st.integers(1, E))
    right = math.ceil(Fraction(factor) * k * tokens / E)
    found = experts.expert_capacity(tokens, E, k, float(factor))
    assert found == right and isinstance(found, int)


def test_capacity_has_its_defaults_and_refuses_bad_input():
    assert experts.expert_capacity(100, 10) == 13
    assert experts.expert_capacity(10, 1, 1, 1.1) == 11
    assert experts.expert_capacity(1, 1, 1, 1 + 2e-9) == 2
    assert experts.expert_capacity(1, 1, 1, 1 + 2e-10) == 1
    for name in "tokens", "experts", "k":
        for bad in 0, -1, 1.0, True:
            good = {"tokens": 4, "experts": 2, "k": 1}
            text = refuses(name, experts.expert_capacity, **{**good, name: bad})
            assert text.endswith("must be a whole number above 0")
    refuses("k", experts.expert_capacity, 4, 2, 3, says="at most 2")
    for bad in 0, -1.0, math.inf, math.nan:
        refuses("factor", experts.expert_capacity, 4, 2, 1, bad)


def test_an_expert_takes_one_token_at_least():
    """The share is rounded up, so it cannot be 0, however small the factor."""
    for factor in 1e-9, 1e-12, 5e-324:
        assert experts.expert_capacity(4, 4, 1, factor) == 1
        layer = experts.Mixture(4, experts.MixtureConfig(8, 4, 1, factor=factor))
        assert layer(random(3, 4, dtype=torch.float32)).count_nonzero() > 0


def queued(weights, chosen, capacity):
    """The same, with a counter for each expert."""
    right, served = torch.zeros_like(weights), [0] * 3
    for choice in range(chosen.size(1)):
        for n in range(len(chosen)):
            e = int(chosen[n, choice])
            if served[e] < capacity:
                served[e] += 1
                right[n, choice] = weights[n, choice]
    return right


@quick
@given(seed=seeds, k=st.integers(1, 3), capacity=st.integers(1, 4))
def test_the_queue_takes_first_choices_first(seed, k, capacity):
    chosen = experts.top_k_routing(random(6, 3, seed=seed), k)[1]
    weights = random(6, k, seed=seed + 1)
    right = queued(weights, chosen, capacity)
    assert torch.equal(experts.drop_overflow(weights, chosen, 3, capacity), right)


def test_second_choices_wait_for_all_first_ones():
    weights, chosen = torch.ones(3, 2), torch.tensor([[0, 1], [1, 2], [1, 0]])
    kept = experts.drop_overflow(weights, chosen, 3, 1)
    assert kept.tolist() == [[1, 0], [1, 1], [0, 0]]


def test_the_queue_refuses_bad_input():
    weights, chosen = torch.ones(2, 1), torch.tensor([[0], [1]])
    for bad in 0, 1.0, True:
        refuses("capacity", experts.drop_overflow, weights, chosen, 2, bad)
    refuses("chosen", experts.drop_overflow, weights, chosen, 1, 1)
    refuses("chosen", experts.drop_overflow, weights, chosen.float(), 2, 1)


# Balance


@quick
@given(seed=seeds, N=sizes, E=sizes, data=st.data())
def test_balance_loss_is_the_papers(seed, N, E, data):
    k = data.draw(st.integers(1, E))
    _, chosen, shares = experts.top_k_routing(random(N, E, seed=seed), k)
    right = 0.0
    for e in range(E):
        load = sum(e in row for row in chosen.tolist()) / N
        right = right + E * load * sum(shares[:, e]) / N
    found = experts.balance_loss(shares, chosen)
    assert found.dtype == torch.double
    close(found, torch.as_tensor(right, dtype=torch.double))


def test_balance_loss_refuses_bad_input():
    shares, chosen = torch.full((2, 3), 1 / 3), torch.tensor([[0], [2]])
    longer = torch.cat([chosen, chosen])
    for bad in chosen[:1], longer, chosen[:, 0], chosen[..., None]:
        refuses("chosen", experts.balance_loss, shares, bad)
    for bad in chosen.float(), chosen + 1:
        refuses("chosen", experts.balance_loss, shares, bad)
    lone = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.long)
    assert experts.balance_loss(*lone) == 1


def test_a_loss_is_added_on_the_way_back():
    x, w = (random(3, seed=seed).requires_grad_() for seed in (0, 1))
    out = experts.AddLoss.apply(x * w, 0.5 * w.square().sum())
    assert torch.equal(out, x * w)
    (7 * out.sum()).backward()
    close(x.grad, 7 * w.detach())
    close(w.grad, 7 * x.detach() + w.detach())


# The layer


def stacks(layer):
    return [torch.stack(list(each)) for each in (layer.up, layer.down)]


@quick
@given(
    seed=seeds,
    E=st.integers(1, 4),
    balance=st.sampled_from([0.0, 0.5]),
    factor=st.sampled_from([None, 0.5, 1.0]),
    data=st.data(),
)
def test_the_layer_is_the_sum_of_its_parts(seed, E, balance, factor, data):
    k = data.draw(st.integers(1, E))
    config = experts.MixtureConfig(8, E, k, balance, factor)
    layer = experts.Mixture(4, config, generator=generator(seed)).double()
    with torch.no_grad():
        layer.router.weight.mul_(50)
    x = random(2, 3, 4, seed=seed)
    out = layer(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    found = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    tokens = x.view(6, 4)
    logits = tokens @ layer.router.weight.T
    weights, chosen, shares = experts.top_k_routing(logits, k)
    if factor:
        C = math.ceil(factor * k * 6 / E)
        weights = experts.drop_overflow(weights, chosen, E, C)
    right = by_hand(tokens, weights, chosen, *stacks(layer))
    close(out, right.view(2, 3, 4))
    loss = right.square().sum() + balance * experts.balance_loss(shares, chosen)
    loss.backward()
    for ours, p in zip(found, layer.parameters(), strict=True):
        close(ours, p.grad, 1e-9)


def test_one_expert_is_the_books_mlp():
    layer = experts.Mixture(4, experts.MixtureConfig(16), generator=generator())
    mlp = gpt.MLP(4, bias=False)
    with torch.no_grad():
        mlp.up.weight.copy_(layer.up[0])
        mlp.down.weight.copy_(layer.down[0])
    x = random(2, 3, 4, dtype=torch.float32)
    close(layer(x), mlp(x), 1e-6)


def test_the_first_weights_are_small_and_drawn():
    config = experts.MixtureConfig(64, experts=4, k=2)
    layer = experts.Mixture(32, config, generator=generator())
    shapes = [tuple(p.shape) for p in layer.parameters()]
    assert shapes == [(4, 32), *[(64, 32)] * 4, *[(32, 64)] * 4]
    for p in layer.parameters():
        assert 0.015 < p.std() < 0.025 and abs(p.mean()) < 0.004
        assert isinstance(p, torch.nn.Parameter)
    again = experts.Mixture(32, config, generator=generator())
    other = experts.Mixture(32, config, generator=generator(1))
    assert torch.equal(layer.up[3], again.up[3])
    assert not torch.equal(layer.up[3], other.up[3])
    assert not torch.equal(layer.up[3], layer.up[2])
    assert layer.router.bias is None


def test_the_layer_refuses_bad_input():
    layer = experts.Mixture(4, experts.MixtureConfig(8, 2), generator=generator())
    x = random(2, 3, 4, dtype=torch.float32)
    for bad in x[..., :3], torch.cat([x, x], -1):
        refuses("x", layer.forward, bad)
    broken = x.clone()
    broken[1, 2, 0] = math.nan
    refuses("logits", layer, broken, says="no NaN")
    layer.router.weight.data[0, 0] = math.nan
    refuses("logits", layer, x, says="no NaN")


def test_a_config_has_its_defaults_and_refuses_what_cannot_be():
    config = experts.MixtureConfig(8)
    assert config == experts.MixtureConfig(8, 1, 1, 0.0, None)
    frozen(config, "k")
    for name in "hidden", "experts", "k":
        for bad in 0, -1, 1.5, True:
            kind = {"hidden": 8, "experts": 4, name: bad}
            text = refuses(name, experts.MixtureConfig, **kind)
            assert text.endswith("must be a whole number above 0")
    refuses("k", experts.MixtureConfig, 8, 2, 3, says="at most 2")
    for bad in -1e-9, math.inf, math.nan:
        refuses("balance", experts.MixtureConfig, 8, balance=bad)
    for bad in 0, -1.0, math.inf, math.nan:
        refuses("factor", experts.MixtureConfig, 8, factor=bad)
    experts.MixtureConfig(1, 1, 1, 0, 1e-9)


# The GPT


def test_the_recipe_is_the_modern_one_at_another_rate():
    found = experts.mixture_recipe(40, 0.5)
    assert found == replace(training.modern_recipe(40), matrix_rate=0.5)


def test_a_gpt_of_mixtures_has_them_in_place_of_its_mlps():
    mixture = experts.MixtureConfig(400, experts=3, k=2)
    recipe = experts.mixture_recipe(4, 0.01)
    model = experts.mixture_gpt(TINY, recipe, mixture, generator())
    for block in model.blocks:
        assert isinstance(block.mlp, experts.Mixture)
        assert block.mlp.config is mixture
        ups = torch.stack(list(block.mlp.up)).std()
        downs = torch.stack(list(block.mlp.down)).std()
        assert 0.018 < ups < 0.022 and 0.009 < downs < 0.011  # by sqrt(2 L) = 2
        assert all(p.requires_grad for p in block.mlp.down)
    plain = training.new_gpt(TINY, recipe, generator())
    attention = [m.blocks[1].attention.query.weight for m in (model, plain)]
    assert torch.equal(*attention) and model.config == plain.config
    again = experts.mixture_gpt(TINY, recipe, mixture, generator())
    for ours, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    muon = training.optimizers(model, recipe)[1]
    assert len(muon.param_groups[0]["params"]) == 2 * (4 + 1 + 6)


def test_routes_are_what_the_layers_chose():
    mixture = experts.MixtureConfig(8, experts=5, k=2)
    recipe = experts.mixture_recipe(4, 0.01)
    model = experts.mixture_gpt(TINY, recipe, mixture, generator())
    ids, seen = torch.randint(7, (3, 4), generator=generator()), []
    right = experts.top_k_routing

    def watched(logits, k):
        seen.append(right(logits, k)[1])
        return right(logits, k)

    model(ids)
    with mock.patch.object(experts, "top_k_routing", watched):
        found = experts.routes(model, ids)
    assert found.shape == (2, 12, 2) and not found.is_inference()
    assert torch.equal(found[0], seen[0]) and torch.equal(found[1], seen[2])
    assert all(not block.mlp.router._forward_hooks for block in model.blocks)


def test_routes_keep_no_graph():
    model = experts.mixture_gpt(
        TINY, experts.mixture_recipe(4, 0.01), experts.MixtureConfig(8), generator()
    )
    graph = []
    model.norm.register_forward_hook(lambda *_: graph.append(torch.is_grad_enabled()))
    experts.routes(model, torch.zeros(1, 2, dtype=torch.long))
    assert graph == [False]


def test_a_gpt_of_mixtures_learns():
    import contextlib
    import io

    mixture = experts.MixtureConfig(8, experts=4, k=2, balance=0.01, factor=1.0)
    recipe = replace(experts.mixture_recipe(60, 0.03), batch=8)
    model = experts.mixture_gpt(TINY, recipe, mixture, generator())
    ids = torch.arange(70) % 7
    with contextlib.redirect_stdout(io.StringIO()):
        losses = training.train(model, ids, recipe, generator=generator())
    assert losses[0] > 1.9 and losses[-1] < 0.5


# Published shapes


def test_a_shape_counts_what_it_says():
    shape = experts.MixtureShape(3, 5, 2, 7, 2, 11, rest=1000, looked_up=100)
    assert shape.parameters(7) == 1000 + 11 * (7 * 2 * 3 * 5 + 3 * 7)
    assert shape.parameters(2) == 1000 + 11 * (2 * 2 * 3 * 5 + 3 * 7)
    assert shape.token_flops() == 2 * (shape.parameters(2) - 100)
    frozen(shape, "k")
    plain = experts.MixtureShape(3, 5, 2, 7, 2, 11, 1000)
    assert plain.token_flops() == 2 * plain.parameters(2)


def count_of(kind, config):
    """The parameters of a model of transformers, none of which is stored."""
    with torch.device("meta"):
        return sum(p.numel() for p in kind(config).parameters())


@functools.cache
def shapes():
    """What the notebook's cells of published shapes define."""
    also = ("attention-size", "switch-shapes", "glam-shape", "open-shapes")
    return run_exercises("efficiency/experts", experts, also=also)


def test_open_models_are_counted_to_the_last_parameter():
    import transformers as hub

    book = shapes()
    mixtral = count_of(hub.MixtralForCausalLM, hub.MixtralConfig())
    assert book.mixtral.parameters(8) == mixtral == 46_702_792_704
    config = hub.Qwen3MoeConfig(
        num_hidden_layers=48, num_key_value_heads=4, head_dim=128
    )
    qwen = count_of(hub.Qwen3MoeForCausalLM, config)
    assert book.qwen.parameters(128) == qwen == 30_532_122_624


def test_switch_base_is_counted_but_for_norms_and_places():
    import transformers as hub

    half = {"num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 6}
    config = hub.SwitchTransformersConfig(num_experts=128, d_ff=3072, **half)
    whole = count_of(hub.SwitchTransformersForConditionalGeneration, config)
    found = shapes().switch_base.parameters(128)
    assert 0 < whole - found < 1e-5 * whole


# What is stored


@functools.cache
def make():
    """The script that made the stored runs."""
    return module_at(MAKE)


def record(name):
    return json.loads(data.asset("experts", name).read_text(encoding="utf-8"))


def stale():
    """The records that other code has made than the notebook holds."""
    now = make().digest()
    names = "rates.json", "routes.json", "times.json"
    return [name for name in names if record(name)["digest"] != now]


def test_stored_runs_are_of_the_code_as_it_is():
    """If this fails: run book/_tools/assets.py experts, some minutes."""
    assert stale() == []


def test_stored_runs_of_other_code_are_found():
    for old, new in ("shares.topk(k)", "shares.topk(k + 0)"), ("0.02,", "0.021,"):
        text = NOTEBOOK.read_text(encoding="utf-8")
        assert old in text
        with mock.patch.object(Path, "read_text", return_value=text.replace(old, new)):
            now = make().digest()
        assert record("rates.json")["digest"] != now


def test_records_fit_together():
    rates, routes = record("rates.json"), record("routes.json")
    script = make()
    names = list(script.VARIANTS)
    assert rates["rates"] == script.RATES
    assert list(rates["runs"]) == list(rates["seeds"]) == names
    for name in names:
        runs, ends = rates["runs"][name], rates["seeds"][name]
        assert len(runs) == len(script.RATES) and len(ends) == len(script.SEEDS)
        assert ends[0] == min(runs)
        assert script.RATES[0] < script.best(rates, name) < script.RATES[-1]
    assert len(rates["limited"]) == len(rates["factors"])
    assert (routes["balance"], routes["steps"]) == (script.BALANCE, script.STEPS)
    same = routes["losses"][script.BALANCE.index(0.01)]
    assert same == min(rates["runs"]["16 experts, top-2"])
    chosen = load_file(data.asset("experts", "routes.safetensors"))["chosen"]
    N = script.PIECES * script.SIZES.context
    assert chosen.shape == (len(script.BALANCE), len(script.STEPS), 3, N, 2)
    assert chosen.dtype == torch.uint8 and chosen.max() < 16
    assert (chosen[..., 0] != chosen[..., 1]).all()


def test_the_mixtures_time_stands_beside_both_dense_ones():
    """Its operations are the small one's; its seconds lie between the two."""
    times = record("times.json")
    assert list(times["step_ms"]) == list(make().VARIANTS)
    small, mixed, _, large = times["step_ms"].values()
    assert 0 < small < mixed < large
    assert times["machine"] and times["torch"]


def test_the_notebook_trains_what_the_script_does():
    also = "attention-size", "switch-shapes", "glam-shape", "open-shapes"
    book = run_exercises("efficiency/experts", experts, also=(*also, "variants"))
    both = book.variants, make().VARIANTS
    here, there = ({n: asdict(v) for n, v in variants.items()} for variants in both)
    assert here == there


# The exercises


@functools.cache
def exercises():
    return shapes()


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()

    def in_place(bias, chosen, rate):
        bias += book.update_bias(bias, chosen, rate) - bias
        return bias

    def steps(bias, chosen, rate, sign=1, scale=False):
        load = chosen.flatten().bincount(minlength=len(bias)).float()
        gap = load.mean() - load
        return bias + sign * rate * (gap if scale else gap.sign())

    fails(
        book.check_update_bias,
        in_place,
        functools.partial(steps, sign=-1),
        functools.partial(steps, scale=True),
        lambda bias, chosen, rate: bias,
    )

    def by_token(shares, capacity):
        best = shares.topk(min(capacity, shares.size(1)), dim=1).indices
        return shares * torch.zeros_like(shares).scatter(1, best, 1.0)

    def ones(shares, capacity):
        return (book.expert_choice(shares, capacity) != 0).float()

    def worst(shares, capacity):
        best = shares.topk(capacity, dim=0, largest=False).indices
        return shares * torch.zeros_like(shares).scatter(0, best, 1.0)

    def first_choices(bias, chosen, rate):
        return steps(bias, chosen[:, :1], rate)

    def share_of_tokens(bias, chosen, rate):
        load = chosen.flatten().bincount(minlength=len(bias)).float()
        return bias + rate * (len(chosen) / len(bias) - load).sign()

    def any_rate(bias, chosen, rate):
        return steps(bias, chosen, 0.25)

    fails(book.check_update_bias, first_choices, share_of_tokens, any_rate)

    def blended(shares, capacity):
        gates = book.expert_choice(shares, capacity)
        return gates / gates.sum(-1, keepdim=True).clamp(min=1e-9)

    fails(book.check_expert_choice, blended)
    fails(book.check_expert_choice, lambda shares, capacity: shares, by_token)
    fails(book.check_expert_choice, ones, worst)

    def unchecked(shape, cuts):
        sizes = {"hidden": shape.hidden // cuts, "k": cuts * shape.k}
        return replace(shape, experts=cuts * shape.experts, **sizes)

    fails(
        book.check_finer,
        unchecked,
        lambda shape, cuts: shape,
        lambda shape, cuts: replace(book.finer(shape, cuts), k=shape.k),
        lambda shape, cuts: replace(book.finer(shape, cuts), hidden=shape.hidden),
        lambda shape, cuts: replace(book.finer(shape, cuts), looked_up=0),
    )

    def experts_divide(shape, cuts):
        if shape.experts % cuts:
            raise ValueError("the experts cannot be divided")
        return unchecked(shape, cuts)

    def at_least_one_wide(shape, cuts):
        if shape.hidden < cuts:
            raise ValueError("too many cuts")
        return unchecked(shape, cuts)

    fails(book.check_finer, experts_divide, at_least_one_wide)


def test_checks_pass_other_right_answers():
    book = exercises()

    def one_by_one(bias, chosen, rate):
        load = [(chosen == e).sum().item() for e in range(len(bias))]
        fair = chosen.numel() / len(bias)
        moves = [rate * ((n < fair) - (n > fair)) for n in load]
        return bias + torch.tensor(moves)

    def in_64_bits(bias, chosen, rate):
        load = F.one_hot(chosen, len(bias)).sum((0, 1)).double()
        return bias.double() + rate * torch.sign(load.mean() - load)

    def from_the_least(shares, capacity):
        least = shares.sort(0, descending=True).values[capacity - 1]
        return shares.where(shares >= least, 0)

    def column_by_column(shares, capacity):
        gates = torch.zeros(shares.shape, dtype=torch.double)
        for e in range(shares.size(1)):
            for n in shares[:, e].argsort()[-capacity:]:
                gates[n, e] = shares[n, e]
        return gates

    def spelled_out(shape, cuts):
        if shape.hidden % cuts:
            raise ValueError("not divisible")
        sizes = asdict(shape)
        sizes["hidden"] //= cuts
        sizes["experts"] *= cuts
        sizes["k"] *= cuts
        return experts.MixtureShape(**sizes)

    for right in one_by_one, in_64_bits:
        book.check_update_bias(right)
    for right in from_the_least, column_by_column:
        book.check_expert_choice(right)
    book.check_finer(spelled_out)
