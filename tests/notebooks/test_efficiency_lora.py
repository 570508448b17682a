"""The cells of efficiency/lora against peft, loops in Python and arithmetic."""

import copy
import functools
import random as dice
from unittest import mock

import cells
import hypothesis.strategies as st
import peft
import pytest
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, seeds
from torch import nn

from fieldguide.efficiency import lora, quantization
from fieldguide.transformers import gpt, real_model, training

TINY = gpt.GPTConfig(7, 4, width=8, heads=2, layers=2, bias=True)
SIZES = {"vocab": 11, "context": 16, "width": 8, "layers": 2, "heads": 2}
LLAMA = real_model.LlamaConfig(**SIZES, kv_heads=1, hidden=12, eps=1e-5, base=1e4)
ALL = ["query", "key", "value", "output", "up", "down"]
IDS = torch.randint(7, (2, 4), generator=generator())

sizes, ranks = st.integers(2, 6), st.integers(1, 2)
alphas = st.sampled_from([0.5, 2, 7])
shapes = st.sampled_from([(), (1,), (3,), (2, 3), (0,)])
both = pytest.mark.parametrize("kind", ["LoRALinear", "LoRALinearFast"])


def tiny_gpt(seed=0):
    """A small GPT whose biases are not 0."""
    model = gpt.GPT(TINY, generator=generator(seed))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            p.data.normal_(generator=generator(seed))
    return model


def adapted_gpt(targets=("query", "up"), rank=2, alpha=32, seed=None):
    """The small GPT with adapters, which change something if there is a seed."""
    model = tiny_gpt()
    lora.add_lora(model, targets, rank, alpha, generator=generator())
    return model if seed is None else filled(model, seed)


def tiny_llama():
    """A small Llama in float64, always the same."""
    model = real_model.Llama(LLAMA).double()
    for p in model.parameters():
        p.data.normal_(0, 1, generator=generator())
    return model


def filled(model, seed=0, scale=0.3):
    """The model, with adapters that change something."""
    for place, layer in enumerate(lora.lora_layers(model).values()):
        for part in layer.lora_A, layer.lora_B:
            part.weight.data.normal_(0, scale, generator=generator(seed + place))
    return model


def matrices(state):
    """Of a state of adapters, all but the alphas."""
    return {n: w for n, w in state.items() if not n.endswith("alpha")}


def learning(model):
    return [n for n, p in model.named_parameters() if p.requires_grad]


def test_spellings():
    old = "us. Up! Jesus gave unto every judge Ujv VIUJ vU (u) 4u evil\nunder"
    new = "vs. Vp! Iesus gaue vnto euery iudge Viu VIUI vU (v) 4v euil\nvnder"
    assert lora.spelling_1611(old) == new == lora.spelling_1611(new)
    assert lora.backwards("ab c\n\nde") == "c ba\n\ned"


def follows(losses, models, loss, plan, **options):
    """The first model was trained as the second is now, by hand."""
    trained, model = models
    learn = [p for p in model.parameters() if p.requires_grad]
    right = cells.adamw(learn, loss, plan, weight_decay=0, **options)
    close(torch.as_tensor(losses).double(), right, 1e-5)
    for p, q in zip(trained.parameters(), model.parameters(), strict=True):
        close(p, q, 1e-6)


def test_fine_tune_is_adamw_with_a_fading_rate():
    steps, warmup, batch = 39, 1, 3
    ids = torch.randint(7, (200,), generator=generator())
    draw, models = generator(1), [tiny_gpt().double(), tiny_gpt().double()]
    for model in models:
        model.token.weight.requires_grad_(False)

    def loss():
        inputs, targets = training.get_batch(ids, batch, 4, draw)
        return F.cross_entropy(models[1](inputs).mT, targets)

    options = {"batch": batch, "generator": generator(1)}
    losses = lora.fine_tune(models[0], ids, steps, 0.01, **options)
    plan = training.Recipe(steps, rate=0.01, warmup=warmup, final=0.0)
    follows(losses, models, loss, plan, betas=(0.9, 0.99))


def test_learning_answers_is_the_loop_written_out():
    steps, warmup = 20, 2
    draw, models = dice.Random(0), [tiny_llama(), tiny_llama()]
    for model in models:
        model.embedding.weight.requires_grad_(False)

    def words():
        return [draw.randrange(11) for _ in range(draw.randrange(1, 6))]

    batches = [[(words(), words()) for _ in range(3)] for _ in range(steps)]
    losses = lora.learn_answers(models[0], batches, 0.01)
    plan = training.Recipe(steps, rate=0.01, warmup=warmup, final=0.0)
    left = iter(batches)
    follows(losses, models, lambda: lora.answer_loss(models[1], next(left)), plan)


@cases(seed=seeds, batch=st.sampled_from([(), (3,), (2, 3)]), A=sizes, B=sizes)
def test_truncation_keeps_the_largest_singular_values(seed, batch, A, B):
    matrix = random(*batch, A, B, seed=seed)
    values = torch.linalg.svdvals(matrix)
    for rank in range(min(A, B) + 1):
        cut, left = lora.truncate(matrix, rank), values.clone()
        assert cut.shape == matrix.shape
        left[..., rank:] = 0
        close(torch.linalg.svdvals(cut), left, 1e-9)
        close((matrix - cut).norm(dim=(-2, -1)), (values - left).norm(dim=-1), 1e-9)


def a_layer(wide, out, rank, alpha, bias=True, seed=0, kind="LoRALinear"):
    linear = nn.Linear(wide, out, bias=bias, dtype=torch.double)
    made = getattr(lora, kind)(linear, rank, alpha, generator=generator(seed))
    made = made.double()
    made.lora_B.weight.data = random(out, rank, seed=seed + 1)
    return made


@both
@cases(seeds, sizes, sizes, ranks, alphas, st.booleans(), shapes)
def test_a_lora_layer_is_its_formula(kind, seed, wide, out, rank, alpha, bias, shape):
    layer = a_layer(wide, out, rank, alpha, bias, seed, kind)
    A, B, base = layer.lora_A.weight, layer.lora_B.weight, layer.original_layer
    x = random(*shape, wide, seed=seed).requires_grad_()
    whole = base.weight + alpha / rank * B @ A
    right = F.linear(x, whole, base.bias)
    found = layer(x)
    close(found, right)
    close(layer.change(), whole - base.weight)
    weigh = random(*shape, out, seed=seed + 2)
    slopes = (torch.autograd.grad((y * weigh).sum(), [x, A, B]) for y in (found, right))
    close(*slopes)


def test_the_articles_call():
    layers = []
    for _ in range(2):
        torch.manual_seed(3)
        layers.append(lora.LoRALinear(nn.Linear(1024, 1024), rank=16))
    first, again = (layer.lora_A.weight for layer in layers)
    assert torch.equal(first, again) and abs(first.std().item() - 0.02) < 0.001
    box = nn.Sequential(nn.Linear(20, 20))
    lora.add_lora(box, ["0"], kind=lora.LoRALinearFast)
    assert type(box[0]) is lora.LoRALinearFast
    for layer in layers[0], lora.LoRALinear(nn.Linear(20, 20)), box[0]:
        assert learning(layer) == ["lora_A.weight", "lora_B.weight"]
        assert (layer.rank, layer.alpha) == (16, 32) and not layer.lora_B.weight.any()


def names_in(model, targets):
    return [n for n, _ in model.named_modules() if n.split(".")[-1] in targets]


@pytest.mark.parametrize("targets", [ALL, ("up", "down"), {"output"}])
def test_adapters_go_where_they_are_told(targets):
    model, twin = tiny_gpt(), tiny_gpt()
    names = lora.add_lora(model, targets, 2, 6, generator=generator())
    assert names == names_in(twin, targets) == list(lora.lora_layers(model))
    for name, layer in lora.lora_layers(model).items():
        assert (layer.rank, layer.alpha) == (2, 6)
        base = twin.get_submodule(name)
        assert torch.equal(layer.original_layer.weight, base.weight)
    assert torch.equal(model(IDS), twin(IDS))
    state = matrices(lora.lora_state(model))
    again = matrices(lora.lora_state(adapted_gpt(targets)))
    assert learning(model) == list(state)
    assert all(torch.equal(w, again[n]) for n, w in state.items()), "drawn in order"


@cases(seed=seeds, rank=st.integers(1, 4), alpha=st.sampled_from([1, 8]))
def test_a_model_with_adapters_is_pefts(seed, rank, alpha):
    mine, theirs = tiny_gpt(seed), tiny_gpt(seed)
    lora.add_lora(mine, ALL, rank, alpha)
    filled(mine, seed)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=ALL)
    peft.inject_adapter_in_model(config, theirs)
    for name, weight in matrices(lora.lora_state(mine)).items():
        path = name.replace(".weight", ".default.weight")
        theirs.get_parameter(path).data.copy_(weight)
    close(mine(IDS), theirs(IDS), 1e-5)
    lora.merge(mine)
    for name, layer in lora.lora_layers(mine).items():
        other = theirs.get_submodule(name)
        other.merge()
        close(layer.original_layer.weight, other.base_layer.weight, 1e-6)


def test_merging_twice_changes_nothing_and_can_be_undone():
    model, twin = adapted_gpt(ALL, 2, 6, seed=0), tiny_gpt()
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
        plain = lora.remove_lora(copy.deepcopy(model))
        assert {*plain.state_dict()} == {*twin.state_dict()}
        close(plain(IDS), apart if merged else twin(IDS), 1e-5)


def test_an_adapters_state_travels():
    model, other = adapted_gpt(alpha=0.1, seed=0), adapted_gpt()
    state, right = lora.lora_state(model), model(IDS)
    parts = names_in(model.blocks, ["query", "up"])
    ends = "lora_A.weight", "lora_B.weight", "alpha"
    assert list(state) == [f"blocks.{part}.{end}" for part in parts for end in ends]
    assert not any(weight.requires_grad for weight in state.values())
    lora.load_lora(other, state)
    assert torch.equal(right, other(IDS)) and learning(other) == list(matrices(state))
    assert {layer.alpha for layer in lora.lora_layers(other).values()} == {0.1}
    filled(model, seed=9)
    lora.load_lora(model, state)
    assert torch.equal(model(IDS), right), "a copy"


def test_qlora_is_lora_over_the_rounded_base():
    model, twin = tiny_gpt(), tiny_gpt()
    small = functools.partial(quantization.NF4Linear, group=8)
    with mock.patch.object(lora, "NF4Linear", small):
        lora.quantize_base(model, ALL)
    for name in names_in(twin, ALL):
        packed = model.get_submodule(name)
        assert isinstance(packed, quantization.NF4Linear)
        twin.get_submodule(name).weight.data.copy_(packed.weight)
    close(model(IDS), twin(IDS), 1e-5)
    slopes = []
    for each in model, twin:
        lora.add_lora(each, ALL, 2, generator=generator())
        F.cross_entropy(filled(each)(IDS).mT, IDS).backward()
        named = each.named_parameters()
        slopes.append({n: p.grad for n, p in named if p.grad is not None})
    close(*slopes, 1e-5)
    assert {*slopes[0]} == {*matrices(lora.lora_state(model))}


@cases(seed=seeds, dimensions=st.integers(1, 9))
def test_a_subspace_moves_along_orthogonal_directions(seed, dimensions):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    twin, x = copy.deepcopy(model), random(5, 3, seed=seed)
    space = lora.RandomSubspace(model, dimensions, generator=generator(seed)).double()
    assert learning(space) == ["z"]
    assert torch.equal(space(x), twin(x)), "it begins where the model is"
    assert space.z.shape == (dimensions,) and {*space.sign.tolist()} <= {-1, 1}

    def moved(z):
        space.z.data = z.clone()
        return torch.cat([w.flatten() for w in space.weights().values()]).detach()

    start = moved(torch.zeros(dimensions))
    P = torch.stack([moved(unit) - start for unit in torch.eye(dimensions)])
    right = torch.zeros_like(P)  # one direction and one sign for each weight
    right[space.which, torch.arange(P.size(1))] = space.sign
    close(P, right, 1e-9)
    moved(z := random(dimensions, seed=seed))
    nn.utils.vector_to_parameters(start + z @ P, twin.parameters())
    close(space(x), twin(x), 1e-9)
    for each in space, twin:
        each(x).square().sum().backward()
    grads = torch.cat([p.grad.flatten() for p in twin.parameters()])
    close(space.z.grad, P @ grads, 1e-9)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), start)
