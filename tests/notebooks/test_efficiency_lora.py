"""The cells of efficiency/lora against peft, loops in Python and arithmetic."""

import copy

import cells
import hypothesis.strategies as st
import peft
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, seeds
from torch import nn

from fieldguide.efficiency import lora
from fieldguide.transformers import gpt, real_model, training

ALL = ["query", "key", "value", "output", "up", "down"]
IDS = torch.randint(7, (2, 4), generator=generator())

sizes, ranks = st.integers(2, 6), st.integers(1, 2)
shapes = st.sampled_from([(), (1,), (3,), (2, 3), (0,)])
kinds = st.sampled_from([lora.LoRALinear, lora.LoRALinearFast])


def drawn(model, seed=0):
    """The model; what learns in it is random, and changes something."""
    draw = generator(seed)
    for p in filter(lambda p: p.requires_grad, model.parameters()):
        p.data.normal_(0, 0.3, generator=draw)
    return model


def tiny_gpt(seed=0):
    config = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=True)
    return drawn(gpt.GPT(config), seed)


def adapted_gpt(targets=ALL, rank=2, alpha=6, **options):
    model = tiny_gpt()
    lora.add_lora(model, targets, rank, alpha, **options)
    return drawn(model)


def learning(model):
    return [n for n, p in model.named_parameters() if p.requires_grad]


def follows(losses, trained, twin, loss, **betas):
    """The first model was trained as the second is now, by hand."""
    plan = training.Recipe(len(losses), rate=0.01, warmup=2, final=0.0)
    learn = [p for p in twin.parameters() if p.requires_grad]
    right = cells.adamw(learn, loss, plan, weight_decay=0, **betas)
    close(torch.as_tensor(losses).double(), right, 1e-5)
    for p, q in zip(trained.parameters(), twin.parameters(), strict=True):
        close(p, q, 1e-6)


def test_fine_tune_is_adamw_with_a_fading_rate():
    ids = torch.randint(7, (200,), generator=generator())
    draw, model, twin = generator(1), tiny_gpt().double(), tiny_gpt().double()
    for each in model, twin:
        each.token.weight.requires_grad_(False)

    def loss():
        inputs, targets = training.get_batch(ids, 3, 4, draw)
        return F.cross_entropy(twin(inputs).mT, targets)

    losses = lora.fine_tune(model, ids, 59, 0.01, batch=3, generator=generator(1))
    follows(losses, model, twin, loss, betas=(0.9, 0.99))


def test_learning_answers_is_the_loop_written_out():
    sizes = {"vocab": 11, "context": 16, "width": 8, "layers": 2, "heads": 2}
    more = {"kv_heads": 1, "hidden": 12, "eps": 1e-5, "base": 1e4}
    config = real_model.LlamaConfig(**sizes, **more)
    model, twin = (drawn(real_model.Llama(config).double()) for _ in range(2))
    batches = [[([1, 2, i % 9], [3, 4]), ([5], [i % 7, 6, 10])] for i in range(20)]
    losses, left = lora.learn_answers(model, batches, 0.01), iter(batches)
    follows(losses, model, twin, lambda: lora.answer_loss(twin, next(left)))


@cases(seeds, sizes, sizes, ranks, st.sampled_from([0.5, 7]), shapes, kinds)
def test_a_lora_layer_is_its_formula(seed, wide, out, rank, alpha, shape, kind):
    layer = kind(nn.Linear(wide, out), rank, alpha, generator=generator(seed)).double()
    drawn(layer, seed)
    A, B, base = layer.lora_A.weight, layer.lora_B.weight, layer.original_layer
    x, weigh = random(*shape, wide, seed=seed).requires_grad_(), random(*shape, out)
    whole = base.weight + alpha / rank * B @ A
    close(layer.change(), whole - base.weight)
    both = layer(x), F.linear(x, whole, base.bias)
    close(*both)
    close(*(torch.autograd.grad((y * weigh).sum(), [x, A, B]) for y in both))


def test_the_articles_call():
    layer = lora.LoRALinear(nn.Linear(1024, 1024), generator=generator())
    assert abs(layer.lora_A.weight.std().item() - 0.02) < 0.001
    assert learning(layer) == ["lora_A.weight", "lora_B.weight"]
    assert (layer.rank, layer.alpha) == (16, 32) and not layer.lora_B.weight.any()


@pytest.mark.parametrize("targets", [ALL, ("up", "down"), {"output"}])
@cases(seed=seeds, rank=st.integers(1, 4), alpha=st.sampled_from([1, 8]), kind=kinds)
def test_a_model_with_adapters_is_pefts(targets, seed, rank, alpha, kind):
    mine, theirs = tiny_gpt(seed), tiny_gpt(seed)
    named = [n for n, _ in mine.named_modules() if n.split(".")[-1] in targets]
    assert lora.add_lora(mine, targets, rank, alpha, kind=kind) == named
    assert torch.equal(mine(IDS), theirs(IDS)), "it begins where the model is"
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=[*targets])
    peft.inject_adapter_in_model(config, theirs)
    for name in learning(drawn(mine, seed)):
        path = name.replace(".weight", ".default.weight")
        theirs.get_parameter(path).data.copy_(mine.get_parameter(name))
    close(mine(IDS), theirs(IDS), 1e-5)
    lora.merge(mine)
    assert list(lora.lora_layers(mine)) == named
    for name, layer in lora.lora_layers(mine).items():
        other = theirs.get_submodule(name)
        other.merge()
        close(layer.original_layer.weight, other.base_layer.weight, 1e-6)


def test_merging_twice_changes_nothing_and_can_be_undone():
    model, twin = adapted_gpt(), tiny_gpt()
    apart, layers = model(IDS), lora.lora_layers(model)
    whole = {n: m.original_layer.weight + m.change() for n, m in layers.items()}
    lora.unmerge(model)  # nothing to do
    for turn, merged in (lora.merge, True), (lora.unmerge, False):
        for part in model.blocks[0], model, model:
            turn(part)
        close(model(IDS), apart, 1e-5)
        for name, layer in layers.items():
            right = whole[name] if merged else twin.get_submodule(name).weight
            close(layer.original_layer.weight, right, 1e-6)


def test_an_adapters_state_travels():
    model, other = adapted_gpt(["query"], alpha=0.1), adapted_gpt(["query"])
    state, right = lora.lora_state(model), model(IDS)
    ends = "lora_A.weight", "lora_B.weight", "alpha"
    names = [f"blocks.{i}.attention.query.{end}" for i in range(2) for end in ends]
    assert list(state) == names
    drawn(model, seed=1)  # what is kept is a copy
    for each in model, other:
        lora.load_lora(each, state)
        assert torch.equal(each(IDS), right)
        assert learning(each) == [n for n in names if n.endswith("weight")]


@cases(seed=seeds, dimensions=st.integers(1, 9))
def test_a_subspace_moves_along_orthogonal_directions(seed, dimensions):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    twin, x = copy.deepcopy(model), random(5, 3, seed=seed)
    space = lora.RandomSubspace(model, dimensions, generator=generator(seed)).double()
    assert learning(space) == ["z"] and space.z.shape == (dimensions,)
    assert torch.equal(space(x), twin(x)), "it begins where the model is"

    def moved(z):
        space.z.data = z.clone()
        return torch.cat([w.flatten() for w in space.weights().values()]).detach()

    start = moved(torch.zeros(dimensions))
    P = torch.stack([moved(unit) - start for unit in torch.eye(dimensions)])
    close(P.abs().sum(0), torch.ones_like(start), 1e-9)  # one for each weight
    close(P, P.sign() * (P.abs() > 0.5), 1e-9)  # with a sign
    moved(z := random(dimensions, seed=seed))
    nn.utils.vector_to_parameters(start + z @ P, twin.parameters())
    close(space(x), twin(x), 1e-9)
    for each in space, twin:
        each(x).square().sum().backward()
    grads = torch.cat([p.grad.flatten() for p in twin.parameters()])
    close(space.z.grad, P @ grads, 1e-9)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), start)
