"""The cells of efficiency/experts against loops in Python, and transformers' own."""

import collections
import functools
import itertools
import math
from fractions import Fraction

import cells
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, seeds

from fieldguide.efficiency import experts
from fieldguide.transformers import gpt, training

FORMS = [experts.grouped_loop, experts.grouped_fast]
FACTORS = ["0.5", "1", "1.1", "1.15", "1.25", "3.3"]
sizes = st.integers(1, 6)


def problem(seed=0, N=5, D=4, H=8, E=3, k=2, dtype=torch.double):
    """Tokens, a routing and experts, as the forms take them."""
    x, logits = random(N, D, seed=seed), random(N, E, seed=seed + 1)
    up, down = random(E, H, D, seed=seed + 2), random(E, D, H, seed=seed + 3)
    weights, chosen, _ = experts.top_k_routing(logits.to(dtype), k)
    return x.to(dtype), weights, chosen, up.to(dtype), down.to(dtype)


def queued(weights, chosen, capacity):
    """The weights, with a counter for each expert: first choices come first."""
    right, served = torch.zeros_like(weights), collections.Counter()
    for choice, n in itertools.product(range(chosen.size(1)), range(len(chosen))):
        expert = chosen[n, choice].item()
        served[expert] += 1
        if served[expert] <= capacity:
            right[n, choice] = weights[n, choice]
    return right


@pytest.mark.parametrize("factor", FACTORS)
@cases(seed=seeds, N=sizes, E=sizes, data=st.data())
def test_routing_queue_and_balance_are_by_hand(factor, seed, N, E, data):
    k, logits = data.draw(st.integers(1, E)), random(N, E, seed=seed)
    weights, chosen, shares = experts.top_k_routing(logits, k)
    close(shares, logits.softmax(-1))
    assert torch.equal(chosen, logits.argsort(-1, descending=True)[:, :k])
    blend = logits.gather(1, chosen).softmax(-1)
    close(weights, blend if k > 1 else shares.gather(1, chosen))
    kept = experts.drop_overflow(weights, chosen, E, float(factor))
    capacity = math.ceil(Fraction(factor) * k * N / E)
    assert torch.equal(kept, queued(weights, chosen, capacity))
    loads = [sum(e in row for row in chosen.tolist()) / N for e in range(E)]
    right = sum(E * load * shares[:, e].mean() for e, load in enumerate(loads))
    close(experts.balance_loss(shares, chosen), right)


def test_a_capacity_that_floats_exceed_is_not_rounded_up():
    ones = torch.ones(100, 1)
    kept = experts.drop_overflow(ones, ones.long() - 1, 10, 1.1)
    assert kept.sum() == 11  # 1.1 x 10 is 11.000000000000002


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


def by_hand(x, weights, chosen, up, down):
    rows = []
    for n in range(len(x)):
        row = torch.zeros_like(x[n])
        for weight, e in zip(weights[n], chosen[n].tolist(), strict=True):
            hidden = F.gelu(torch.mv(up[e], x[n]))
            row = row + weight * torch.mv(down[e], hidden)
        rows.append(row)
    return torch.stack(rows)


@cases(seed=seeds, N=sizes, D=sizes, H=sizes, E=sizes, data=st.data())
def test_forms_agree_on_gradients_and_on_what_is_dropped(seed, N, D, H, E, data):
    k, factor = data.draw(st.integers(1, E)), data.draw(st.sampled_from([0.5, 1, 4]))
    x, weights, chosen, up, down = problem(seed, N, D, H, E, k)

    def gradients(form):
        leaves = [t.clone().requires_grad_() for t in (x, weights, up, down)]
        kept = experts.drop_overflow(leaves[1], chosen, E, factor)
        out = form(leaves[0], kept, chosen, *leaves[2:])
        return out, *torch.autograd.grad(out.square().sum(), leaves)

    right = gradients(by_hand)
    for multiply in FORMS:
        form = functools.partial(experts.mixture_sorted, multiply=multiply)
        close(gradients(form), right, 1e-9)
        assert not form(x, 0 * weights, chosen, up, down).any(), "all are dropped"


@pytest.mark.parametrize("D, H", [(16, 32), (16, 6), (6, 16)])
@pytest.mark.parametrize("whole", [True, False])
def test_the_fast_form_is_right_in_32_bits(whole, D, H, monkeypatch):
    """Forth and back, where PyTorch has the grouped product and where it has not."""
    if not whole:
        monkeypatch.delattr(F, "grouped_mm", raising=False)
    x, weights, chosen, *both = problem(N=13, D=D, H=H, E=6, k=3, dtype=torch.float)
    idle = torch.zeros(13, 1, dtype=torch.long)  # all experts but the first
    for given in (x, weights, chosen, *both), (x, weights[:, :1], idle, *both):
        leaf = both[0].requires_grad_()
        found = experts.mixture_sorted(*given, experts.grouped_fast)
        right = by_hand(*given)
        close(found, right, 1e-4)
        grads = [torch.autograd.grad(y.sum(), leaf) for y in (found, right)]
        close(*grads, 1e-4)


def test_slots_are_sorted_by_expert_and_keep_their_order():
    chosen = torch.tensor([[2, 0], [0, 2], [3, 0]])
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.0], [0.5, 0.6]])
    token, weight, lengths = experts.sort_by_expert(weights, chosen, 5)
    assert token.tolist() == [0, 1, 2, 0, 2] and lengths.tolist() == [3, 0, 1, 1, 0]
    close(weight, torch.tensor([0.2, 0.3, 0.6, 0.1, 0.5]))


limits = st.sampled_from([None, 0.5, 1.0])


@cases(seeds, st.integers(1, 4), st.sampled_from([0.0, 0.5]), limits, st.data())
def test_the_layer_is_the_sum_of_its_parts(seed, E, balance, factor, data):
    k = data.draw(st.integers(1, E))
    config = experts.MixtureConfig(8, E, k, balance, factor)
    layer = experts.Mixture(4, config, generator=generator(seed)).double()
    layer.router.weight.data *= 50
    x, parameters = random(2, 3, 4, seed=seed), list(layer.parameters())
    out = layer(x)
    found = torch.autograd.grad(7 * out.square().sum(), parameters)
    tokens = x.view(6, 4)
    logits = tokens @ layer.router.weight.T
    weights, chosen, shares = experts.top_k_routing(logits, k)
    assert torch.equal(layer.chosen, chosen)
    weights = experts.drop_overflow(weights, chosen, E, factor or E)  # room for all
    stacks = [torch.stack(list(each)) for each in (layer.up, layer.down)]
    right = by_hand(tokens, weights, chosen, *stacks)
    close(out, right.view(2, 3, 4))
    loss = 7 * right.square().sum() + balance * experts.balance_loss(shares, chosen)
    close(found, torch.autograd.grad(loss, parameters, materialize_grads=True), 1e-9)


def test_a_gpt_of_mixtures_has_them_in_place_of_its_mlps():
    mixture, recipe = experts.MixtureConfig(400, 3, 2), training.modern_recipe(4)
    config = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=False)
    model, again = (
        experts.mixture_gpt(config, recipe, mixture, generator()) for _ in range(2)
    )
    for block in model.blocks:
        assert block.mlp.config is mixture
        for weights, std in (block.mlp.up, 0.02), (block.mlp.down, 0.01):
            spread = torch.stack(list(weights)).std()
            assert abs(spread / std - 1) < 0.1  # sqrt(2 L) = 2
    assert all(map(torch.equal, model.parameters(), again.parameters()))


# The exercises, and the notebook's cells of published shapes and variants
book = functools.cache(lambda: cells.run_exercises("efficiency/experts", experts))


def test_published_models_are_counted_to_the_last_parameter():
    import transformers as hub

    qwen = {"num_hidden_layers": 48, "num_key_value_heads": 4, "head_dim": 128}
    switch = {"num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 6}
    switch |= {"num_experts": 128, "d_ff": 3072}
    for shape, kind, config, left_out in (
        (book().mixtral, hub.MixtralForCausalLM, hub.MixtralConfig(), 0),
        (book().qwen, hub.Qwen3MoeForCausalLM, hub.Qwen3MoeConfig(**qwen), 0),
        (book().switch_base, hub.SwitchTransformersForConditionalGeneration,
         hub.SwitchTransformersConfig(**switch), 1e-5),  # norms and places
    ):  # fmt: skip
        with torch.device("meta"):
            whole = sum(p.numel() for p in kind(config).parameters())
        found = shape.parameters(shape.experts)
        assert (1 - left_out) * whole <= found <= whole
        idle = (shape.experts - shape.k) * shape.matrices * shape.width * shape.hidden
        used = found - shape.layers * idle - shape.looked_up
        assert shape.token_flops() == 2 * used
