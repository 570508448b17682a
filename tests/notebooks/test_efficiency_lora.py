"""The cells of efficiency/lora against peft, loops in Python and arithmetic."""

import copy
import functools
import io
import math
import random as dice
from unittest import mock

import cells
import hypothesis.strategies as st
import peft
import pytest
import torch
import torch.nn.functional as F
from beartype.door import is_bearable
from cells import cases, close, generator, random, refuses, seeds
from safetensors import torch as safetensors
from torch import nn

from fieldguide import data
from fieldguide.efficiency import lora, quantization
from fieldguide.memory import SavedBytes
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


@pytest.mark.parametrize(("steps", "warmup", "batch"), [(39, 1, 3), (40, 2, 8)])
def test_fine_tune_is_adamw_with_a_fading_rate(steps, warmup, batch):
    ids = torch.randint(7, (200,), generator=generator())
    draw, models = generator(1), [tiny_gpt().double(), tiny_gpt().double()]
    for model in models:
        model.token.weight.requires_grad_(False)

    def loss():
        inputs, targets = training.windows(ids, batch, 4, draw)
        return F.cross_entropy(models[1](inputs).mT, targets)

    options = {} if batch == 8 else {"batch": batch}  # 8 unless told
    options["generator"] = generator(1)
    losses = lora.fine_tune(models[0], ids, steps, 0.01, **options)
    plan = training.Recipe(steps, rate=0.01, warmup=warmup, final=0.0)
    follows(losses, models, loss, plan, betas=(0.9, 0.99))


@pytest.mark.parametrize(("steps", "warmup"), [(19, 1), (20, 2)])
def test_learning_answers_is_the_loop_written_out(steps, warmup):
    draw, models = dice.Random(0), [tiny_llama(), tiny_llama()]
    for model in models:
        model.embedding.weight.requires_grad_(False)

    def words():
        return [draw.randrange(11) for _ in range(draw.randrange(1, 6))]

    batches = [[(words(), words()) for _ in range(3)] for _ in range(steps)]
    losses = lora.learn_answers(models[0], batches, 0.01)
    assert all(isinstance(each, float) for each in losses)
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
    with mock.patch.object(torch, "addmm", wraps=torch.addmm) as last:
        found = layer(x)
    assert last.call_count == (kind == "LoRALinearFast"), "the last product adds"
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


def test_a_state_tells_alpha_and_whether_it_is_merged():
    layer, other = lora.AdapterState(), lora.AdapterState()
    layer.alpha, layer.merged = 0.1, True
    with torch.device("meta"):  # where a layer without weights is made
        other.load_state_dict(layer.state_dict())
    assert (other.alpha, other.merged) == (0.1, True) and type(other.alpha) is float


@both
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_an_adapter_has_32_bits_at_least(kind, dtype):
    dtype = getattr(torch, dtype)
    layer = getattr(lora, kind)(nn.Linear(6, 5, dtype=dtype), 2, generator=generator())
    wide = torch.promote_types(dtype, torch.float32)
    assert layer.lora_A.weight.dtype == layer.lora_B.weight.dtype == wide
    layer.lora_B.weight.data.fill_(1.0)
    x = random(3, 6).to(dtype)
    low = layer.lora_B(layer.lora_A(x.to(wide)))
    right = layer.original_layer(x) + (32 / 2 * low).to(dtype)
    close(layer(x), right, 1e-12 if dtype == torch.float64 else 1e-6)


@both
def test_an_adapter_can_be_the_whole_model(kind):
    layer, other = (a_layer(5, 4, 2, 3, seed=seed, kind=kind) for seed in (0, 7))
    x = random(3, 5)
    plain, apart = layer.original_layer(x), layer(x)
    lora.load_lora(other, lora.lora_state(layer))
    close(other.change(), layer.change())
    for turn, right in (lora.merge, apart), (lora.unmerge, plain):
        turn(layer)
        close(layer(x), apart)
        bare = copy.deepcopy(layer)
        left = lora.remove_lora(bare)
        assert left is bare.original_layer and learning(left) == ["weight", "bias"]
        close(left(x), right)


@both
def test_layers_without_weights_in_memory_are_taken(kind):
    """On the device `meta`, as a large model is laid out before it is loaded."""
    model, kind = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 4)), getattr(lora, kind)
    lora.quantize_base(model, ["0"])
    model.to("meta")
    lora.add_lora(model, ["0", "1"], 2, 6, generator=generator(), kind=kind)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model(torch.empty(3, 64, device="meta")).shape == (3, 4)
    state = lora.lora_state(model)
    assert [state[f"{i}.alpha"].item() for i in (0, 1)] == [6, 6]
    lora.load_lora(model, state)
    refuses("model", lora.merge, model)
    lora.merge(model[1])
    assert model[1].merged and model(torch.empty(0, 64, device="meta")).is_meta
    lora.unmerge(model)
    assert learning(lora.remove_lora(model)) == ["1.weight", "1.bias"]


def names_in(model, targets):
    return [n for n, _ in model.named_modules() if n.split(".")[-1] in targets]


@pytest.mark.parametrize("targets", [ALL, ("up", "down"), {"output"}])
def test_adapters_go_where_they_are_told(targets):
    model, twin = tiny_gpt(), tiny_gpt()
    assert is_bearable(targets, lora.Names)
    names = lora.add_lora(model, targets, 2, 6, generator=generator())
    assert names == names_in(twin, targets) == list(lora.lora_layers(model))
    for name, layer in lora.lora_layers(model).items():
        assert type(layer) is lora.LoRALinear
        assert (layer.rank, layer.alpha) == (2, 6)
        base = twin.get_submodule(name)
        assert torch.equal(layer.original_layer.weight, base.weight)
    assert torch.equal(model(IDS), twin(IDS))
    state = matrices(lora.lora_state(model))
    again = matrices(lora.lora_state(adapted_gpt(targets)))
    assert learning(model) == list(state)
    assert all(torch.equal(w, again[n]) for n, w in state.items()), "drawn in order"
    drawn = [w.flatten()[:8] for n, w in state.items() if n.endswith("A.weight")]
    assert len(torch.stack(drawn).unique(dim=0)) == len(drawn), "each for itself"


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


@pytest.mark.parametrize("half", [False, True])
def test_merging_twice_changes_nothing_and_can_be_undone(half):
    model, twin = adapted_gpt(ALL, 2, 6, seed=0), tiny_gpt()
    apart, layers = model(IDS), lora.lora_layers(model)
    assert (apart - twin(IDS)).abs().max() > 0.01
    whole = {n: m.original_layer.weight + m.change() for n, m in layers.items()}
    lora.unmerge(model)  # nothing to do
    for turn, merged in (lora.merge, True), (lora.unmerge, False):
        for part in [model.blocks[0], model, model][not half :]:
            turn(part)
            close(model(IDS), apart, 1e-5)
        for name, layer in layers.items():
            weight = layer.original_layer.weight
            assert layer.merged == merged and not weight.requires_grad
            right = whole[name] if merged else twin.get_submodule(name).weight
            close(weight, right, 0 if merged else 1e-6)
        plain = lora.remove_lora(copy.deepcopy(model))
        assert {*plain.state_dict()} == {*twin.state_dict()}
        close(plain(IDS), apart if merged else twin(IDS), 1e-5)


@pytest.mark.parametrize("learnt", ["", "nothing", "bias", "blocks.0"])
def test_after_removing_a_model_learns_as_before(learnt):
    model = tiny_gpt()
    for name, p in model.named_parameters():
        p.requires_grad_(learnt in name)
    before = learning(model)
    for _ in range(2):
        lora.add_lora(model, ["query", "up"], 2)
        assert learning(model) == list(matrices(lora.lora_state(model)))
        assert lora.remove_lora(model) is model and learning(model) == before
    lora.add_lora(model, ["query"], 2)
    lora.add_lora(model, ["up"], 3)
    assert all("mlp.up.lora" in name for name in learning(model))
    assert learning(lora.remove_lora(model)) == before
    model.requires_grad_(False)  # what is frozen later stays frozen
    lora.add_lora(model, ["query"], 2)
    assert learning(lora.remove_lora(model)) == []
    box = nn.Sequential(lora.LoRALinear(nn.Linear(4, 4), 2), nn.Linear(4, 4))
    assert len(learning(lora.remove_lora(box))) == 4  # as it was put in by hand


@pytest.mark.parametrize(("alpha", "merged"), [(6, False), (0.1, True)])
def test_a_whole_state_is_loaded_as_it_was_saved(alpha, merged):
    model, file = adapted_gpt(alpha=alpha, seed=0), io.BytesIO()
    right = model(IDS)
    if merged:
        lora.merge(model)
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = safetensors.load(safetensors.save(model.state_dict()))
    for state in torch.load(file, weights_only=True), again:
        other = adapted_gpt(alpha=3, seed=5)
        for _ in range(2):
            other.load_state_dict(state)
            for layer in lora.lora_layers(other).values():
                assert (layer.alpha, layer.merged) == (alpha, merged)
                assert type(layer.alpha) is float and type(layer.merged) is bool
            for turn in lora.unmerge, lora.merge, lora.merge:
                close(other(IDS), right, 1e-5)
                turn(other)  # in the end a merged one is loaded into
            close(other(IDS), right, 1e-5)


def test_an_adapters_state_travels():
    model, other = adapted_gpt(alpha=0.1, seed=0), adapted_gpt()
    state, right = lora.lora_state(model), model(IDS)
    parts = names_in(model.blocks, ["query", "up"])
    ends = "lora_A.weight", "lora_B.weight", "alpha"
    assert list(state) == [f"blocks.{part}.{end}" for part in parts for end in ends]
    assert not any(weight.requires_grad for weight in state.values())
    lora.load_lora(other, {n: state[n] for n in reversed(state)})
    assert torch.equal(right, other(IDS)) and learning(other) == list(matrices(state))
    assert {layer.alpha for layer in lora.lora_layers(other).values()} == {0.1}
    filled(model, seed=9)
    lora.load_lora(model, state)
    assert torch.equal(model(IDS), right), "a copy"
    mixed = nn.Sequential(*(a_layer(4, 4, 2, alpha) for alpha in (1, 9)))
    other = nn.Sequential(*(a_layer(4, 4, 2, 5) for _ in range(2)))
    lora.load_lora(other, {n: w.half() for n, w in lora.lora_state(mixed).items()})
    assert [layer.alpha for layer in other] == [1, 9]


def test_a_state_that_does_not_fit_is_refused_whole():
    model = adapted_gpt(["query"], seed=0)
    kept, start = lora.lora_state(model), "blocks.0.attention.query"
    name, alpha = f"{start}.lora_A.weight", f"{start}.alpha"
    moved = {n: w + 1 for n, w in kept.items()}
    less = {n: w for n, w in moved.items() if n != name}
    wrong = [(matrices(moved), ""), ({**moved, "more": torch.ones(1)}, "['more']")]
    wrong += [({}, ""), (less, f"['{name}']")]
    weight, one = moved[name], moved[alpha]
    bad = [weight[0], weight.numpy(), weight.long(), weight * math.nan, weight / 0]
    wrong += [({**moved, name: part}, f"['{name}']") for part in bad]
    bad = [torch.ones(2), 0 * one, -one, one * math.inf, one * math.nan]
    wrong += [({**moved, alpha: part}, f"['{alpha}']") for part in bad]
    for state, shown in wrong:
        refuses("state", lora.load_lora, model, state, shown=shown)
        for part, value in lora.lora_state(model).items():
            assert torch.equal(value, kept[part]), "all or nothing"
    lora.merge(model)
    refuses("state", lora.load_lora, model, kept, says="none merged")


def test_qlora_is_lora_over_the_rounded_base():
    model, twin = tiny_gpt(), tiny_gpt()
    small = functools.partial(quantization.NF4Linear, group=8)
    with mock.patch.object(lora, "NF4Linear", small):
        names = lora.quantize_base(model, ALL)
    assert names == names_in(twin, ALL)
    for name in names:
        packed = model.get_submodule(name)
        assert isinstance(packed, quantization.NF4Linear) and packed.doubled
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


def test_a_base_in_4_bits_is_not_merged():
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 4))
    lora.quantize_base(model, ["0"])
    base, x = model[0], random(3, 64, dtype=torch.float)
    lora.add_lora(model, ["0", "1"], 2, kind=lora.LoRALinearFast)
    kept = filled(model)[1].original_layer.weight.clone()
    with cells.refusal(r"^model = NF4Linear.* of layers in full precision$"):
        lora.merge(model)
    assert torch.equal(model[1].original_layer.weight, kept), "all or nothing"
    assert not model[1].merged
    close(model[0](x), base(x) + x @ model[0].change().T, 1e-5)


def test_lora_parameters_are_counted():
    model = adapted_gpt(ALL, 3)
    layers = [m.original_layer for m in lora.lora_layers(model).values()]
    shapes = [(m.in_features, m.out_features) for m in layers]
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert lora.lora_parameters(shapes, 3) == learn
    assert lora.lora_parameters(96 * [(12_288, 12_288)] * 2, 8) == 37_748_736
    assert lora.lora_parameters([], 4) == 0


def test_training_bytes_add_up():
    model, learn = adapted_gpt(["query"]), 4 * 2 * 2 * (8 + 8)
    model.register_buffer("some", torch.zeros(5, dtype=torch.double))

    def loss():
        return F.cross_entropy(model(IDS).mT, IDS)

    with SavedBytes([*model.parameters(), *model.buffers()]) as kept:
        loss()
    weights = 4 * sum(p.numel() for p in model.parameters()) + 40
    parts = {"weights": weights, "gradients": learn, "Adam": 2 * learn}
    assert lora.training_bytes(model, loss) == parts | {"activations": kept.most}
    assert kept.most > 0


@cases(seed=seeds, dimensions=st.integers(1, 9))
def test_a_subspace_moves_along_orthogonal_directions(seed, dimensions):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model.config = "sizes"
    twin, x = copy.deepcopy(model), random(5, 3, seed=seed)
    space = lora.RandomSubspace(model, dimensions, generator=generator(seed)).double()
    assert learning(space) == ["z"] and space.config == "sizes"
    assert torch.equal(space(x), twin(x)), "it begins where the model is"
    draw, shape = generator(seed), (3 * 4 + 4 + 4 * 2 + 2,)
    assert torch.equal(space.which, torch.randint(dimensions, shape, generator=draw))
    signs = 2.0 * torch.randint(2, shape, generator=draw).double() - 1
    assert torch.equal(space.sign, signs)
    assert space.z.shape == (dimensions,)
    refuses("inputs", space, "text")

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


def test_the_stored_runs_are_those_of_the_grid():
    script, found = cells.script("lora"), cells.record("lora", "gpt.json")
    tried = [(task, *each) for task in script.TASKS for each in script.TRIED]
    runs = [(r["task"], r["kind"], r["size"], r["rate"]) for r in found["runs"]]
    assert runs == tried and found["steps"] == script.STEPS
    end = data.smollm2_tokenizer().encode("<|im_end|>")
    said = mock.patch.object(script, "complete", side_effect=[[7] * 24, [7, 8]])
    with said, mock.patch.object(script, "LlamaFast"):
        (_, cut), (_, whole) = script.own_answers(None, ["Why?", "Who?"])
    assert cut == [7] * 24 and whole == [7, 8, *end], "what is cut off has no end"


def frozen(model):
    return copy.deepcopy(model).requires_grad_(False)


TEXT, DRAWN, LINEAR = IDS.flatten(), {"generator": generator()}, nn.Linear(6, 4)
NET, BROKEN, FROZEN = nn.Sequential(LINEAR), nn.Linear(6, 4), frozen(LINEAR)
nn.init.constant_(BROKEN.weight[1, 2:3], math.nan)
GPT, LLAMA_2, BOX = tiny_gpt(), tiny_llama(), nn.Sequential(nn.Linear(64, 8))
LAYERS = [nn.Embedding(6, 4), nn.Conv1d(6, 4, 1), BROKEN]
MATRIX = random(4, 3)
MATRICES = [MATRIX[0], MATRIX.half(), MATRIX[:0], BROKEN.weight.detach()]
SHAPES = [[(5,)], [5], [(0, 4)], [(3,), (5, 4)]]
NAMES = [[], "query", ["query", "no"], ["blocks.0.attention.query"], [""], [3]]
REFUSALS = [
    ("spelling_1611", {"text": "us"}, {}),
    ("backwards", {"text": "us"}, {}),
    ("fine_tune",
     {"model": GPT, "ids": TEXT, "steps": 1, "rate": 0.1, "batch": 1} | DRAWN,
     {"model": [frozen(GPT), LINEAR], "ids": [TEXT[:4], TEXT[:0], TEXT.int()]}),
    ("truncate", {"matrix": MATRIX, "rank": 3}, {"matrix": MATRICES, "rank": [4]}),
    *((kind, {"original_layer": LINEAR, "rank": 4, "alpha": 0.1} | DRAWN,
       {"original_layer": LAYERS, "rank": [5]})
      for kind in ("LoRALinear", "LoRALinearFast")),
    ("named_layers", {"model": GPT, "targets": ["query"]},
     {"model": [LINEAR], "targets": NAMES}),
    ("replace_layer", {"model": NET, "name": "0", "layer": LINEAR}, {}),
    ("add_lora", {"model": GPT, "targets": ["query"], "rank": 8, "alpha": 1} | DRAWN,
     {"model": [LINEAR], "rank": [9], "targets": NAMES}),
    *((name, {"model": NET}, {})
      for name in ("lora_layers", "merge", "unmerge", "remove_lora", "lora_state")),
    *((name, {"module": LINEAR}, {}) for name in ("freeze", "thaw")),
    ("trainable", {"model": LINEAR}, {"model": [FROZEN]}),
    ("load_lora", {"model": NET, "state": {}}, {"state": [{"a": None}, {3: None}]}),
    ("quantize_base", {"model": BOX, "targets": ["0"]},
     {"model": [LINEAR], "targets": NAMES}),
    ("training_bytes", {"model": LINEAR, "loss": lambda: LINEAR.bias.sum()},
     {"model": [FROZEN]}),
    ("RandomSubspace", {"model": LINEAR, "dimensions": 1} | DRAWN, {}),
    ("lora_parameters", {"shapes": [(5, 4), (2, 3)], "rank": 2},
     {"shapes": SHAPES, "rank": [3]}),
    ("learn_answers", {"model": LLAMA_2, "batches": [[([1], [2])]], "rate": 0.1},
     {"model": [frozen(LLAMA_2), LINEAR], "batches": [[]]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "good", "bad"), REFUSALS)
def test_bad_input_is_refused_by_name(name, good, bad):
    function = getattr(lora, name)

    @functools.wraps(function)
    def on_a_copy(**given):
        modules = {n: x for n, x in given.items() if isinstance(x, nn.Module)}
        return function(**{**given, **copy.deepcopy(modules)})

    cells.refuses_all(on_a_copy, good, inner_names=["shape", "steps"], **bad)


@both
def test_an_adapter_refuses_inputs_that_do_not_fit(kind):
    for linear in LINEAR, quantization.NF4Linear(nn.Linear(6, 4), 2):
        layer = getattr(lora, kind)(copy.deepcopy(linear), 2)
        x = random(3, 6, dtype=torch.float)
        assert layer(x).shape == (3, 4)
        for bad in x[:, :5], torch.ones(7), x[0, 0], x.long(), x.tolist(), None:
            refuses("x", layer, bad)


def test_a_refused_model_learns_as_before():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    refuses("original_layer", lora.add_lora, model, ["0", "1"], 2)
    refuses("rank", lora.add_lora, model, ["0", "2"], 3)
    refuses("alpha", lora.add_lora, model, ["0", "2"], 2, 0)
    for kind in lora.spelling_1611, nn.Linear, nn.Module, None:
        refuses("kind", lora.add_lora, model, ["0"], 2, kind=kind)
    refuses("linear", lora.quantize_base, model, ["1"])
    assert len(learning(model)) == 6 and type(model[0]) is nn.Linear
    refuses("original_layer", lora.add_lora, adapted_gpt(), ["query"], 2)


book = functools.cache(lambda: cells.run_exercises("efficiency/lora", lora, copy=copy))
SLIPS = [
    ("factors", " * rank / alpha", ""),
    ("factors", "rank / alpha", "alpha / rank"),
    ("rank_for", "budget //", "(budget + 1) //", "budget /"),
    ("rank_for", "// one", "// one or 1"),
    ("rank_for", "min(shape)", "shape[0]", "shape[1]"),
    ("rank_for", "wide + out", "wide"),
    ("swap", "state)\n    merge(model)", "state)"),
    ("swap", "unmerge(model)", "[setattr(m, 'merged', False) for m in model]"),  # late
    ("swap", "(model, state)\n", "(model, {n: w.abs() for n, w in state.items()})\n"),
    ("blend", "share * B", "B"),
    ("blend", "(1 - share) * D", "share * D"),
    ("blend", "= first, second", "= second, first"),
    ("blend", "torch.cat([A, C]), side_by_side", "A + C, share * B + (1 - share) * D"),
]  # fmt: skip


def test_a_slip_in_an_answer_is_noticed():
    for answer, piece, *slips in SLIPS:
        cells.notices(book(), answer, {piece: slips})


def test_factors_that_share_the_values_pass():
    def even(change, rank, alpha):
        left, values, right = torch.linalg.svd(change.float(), full_matrices=False)
        root = (values[:rank] * rank / alpha).sqrt()
        return [root[:, None] * right[:rank], left[:, :rank] * root]

    book().check_factors(even)
