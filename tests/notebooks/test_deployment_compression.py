"""The cells of deployment/compression against loops, torch and ONNX Runtime."""

import contextlib
import copy
import functools
import inspect
import io
import math
import tempfile
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import get_args
from unittest import mock

import cells
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from cells import cases, generator, refuses, refuses_all, seeds
from hypothesis import strategies as st

from fieldguide.deployment import compression as comp
from fieldguide.transformers.gpt import GPT, MLP, GPTConfig, generate
from fieldguide.transformers.training import modern_recipe, new_gpt, windows

V = 7


@functools.cache
def page():
    return cells.run_exercises("deployment/compression")


def tiny(seed=0, heads=4, layers=2, context=12):
    """An untrained GPT of the modern recipe, far from uniform."""
    sizes = GPTConfig(V, context, width=16, heads=heads, layers=layers, bias=False)
    model = new_gpt(sizes, modern_recipe(2), generator(seed))
    for p in model.parameters():
        p.data.mul_(8) if p.dim() > 1 else None
    return model.requires_grad_(False)


def text(seed=0, length=300):
    return torch.randint(V, (length,), generator=generator(seed))


@cases(seeds)
def test_drop_smallest(seed):
    weight = torch.randn(4, 6, generator=generator(seed))
    before = weight.clone()
    for part, gone in (0, 0), (0.25, 6), (0.5, 12), (0.99, 24), (1.0, 24):
        left = comp.drop_smallest(weight, part)
        ranked = sorted(weight.flatten().tolist(), key=abs)
        limit = abs(ranked[gone]) if gone < 24 else math.inf
        assert left.equal(torch.where(weight.abs() >= limit, weight, 0))
    assert weight.equal(before)
    assert comp.drop_smallest(torch.ones(1, 4), 0.5).tolist() == [[0, 0, 1, 1]]
    equals = torch.randint(1, 4, (1, 99), generator=generator(seed)).float()
    order = sorted(range(99), key=lambda n: equals[0, n])  # the first of equals first
    left = comp.drop_smallest(equals, 0.5)
    assert (left == 0).nonzero()[:, 1].tolist() == sorted(order[:50])
    unit = 2.0**-100  # too small for a square
    left = comp.drop_smallest(weight * unit, 0.5)
    assert left.equal(comp.drop_smallest(weight, 0.5) * unit)


@cases(seeds)
def test_a_bitmap_restores_the_weight(seed):
    weight = comp.drop_smallest(torch.randn(4, 6, generator=generator(seed)), 0.5)
    bitmap, kept = comp.pack_bitmap(weight)
    assert (bitmap.nbytes, kept.nbytes, kept.dtype) == (3, 24, torch.float16)
    restored, rest = [], iter(kept.tolist())
    for byte in bitmap.tolist():
        restored += [next(rest) if byte >> n & 1 else 0.0 for n in range(8)]
    assert restored == weight.half().flatten().tolist()


def test_shrink_and_file_bytes():
    weight = torch.randn(4, 16, generator=generator(3))
    left = comp.shrink(0.5, 16)(weight)
    assert left.equal(comp.drop_smallest(weight, 0.5).half().float())
    assert left.dtype == weight.dtype
    left = comp.shrink(0.25, 4)(weight)
    step = comp.drop_smallest(weight, 0.25).abs().amax(1, keepdim=True) / 7
    assert (left - comp.drop_smallest(weight, 0.25)).abs().le(step * 0.51).all()
    refuses("bits", comp.shrink(0.25, 32), weight)
    model = tiny()
    matrices, rows = 2 * 12 * 16 * 16, 2 * (4 * 16 + 64 + 16)
    others = 2 * (V * 16 + 5 * 16)
    assert comp.file_bytes(model, 16) == (
        others + 2 * matrices,
        others + 2 * matrices + matrices // 8,
    )
    model.blocks[0].mlp.up.weight.zero_()
    kept = matrices - 64 * 16
    dense, sparse = comp.file_bytes(model, 4)
    assert dense == others + 2 * rows + matrices // 2
    assert sparse == others + 2 * rows + (matrices + 4 * kept) // 8
    assert {type(size) for size in (dense, sparse)} == {int}, "no tensors"
    below = matrices // 8  # what a bit less a weight saves, but for the scales
    assert comp.file_bytes(model, 16)[0] - comp.file_bytes(model, 15)[0] == (
        below - 2 * rows
    )


def test_a_narrowed_layer_is_a_smaller_copy():
    layer = torch.nn.Linear(3, 4, bias=False)
    before = layer.weight.detach().clone()
    for rows, columns in (slice(None), slice(None)), ([2, 0], slice(2)), ([1], [2, 1]):
        small = comp.narrowed(layer, rows, columns)
        assert small.bias is None and small.weight.requires_grad
        assert small.weight.equal(before[rows][:, columns])
        assert (small.out_features, small.in_features) == small.weight.shape
        x = torch.eye(small.in_features)
        assert small(x).equal(before[rows][:, columns].T)
        small.weight.data.zero_()
    assert layer.weight.equal(before)


@cases(seeds, st.sampled_from([2, 4, 8]))
def test_a_cut_is_the_same_as_zeros(seed, heads):
    """What stays computes what the whole computes with the rest at zero."""
    model, ids = tiny(seed, heads), text(seed, 9)[None]
    half, K = heads // 2, 16 // heads
    small, zeroed = comp.pruned_gpt(model, half, 20), copy.deepcopy(model)
    for block in zeroed.blocks:
        a, mlp = block.attention, block.mlp
        score = a.value.weight.norm(dim=1) * a.output.weight.norm(dim=0)
        for head in score.view(heads, K).sum(-1).argsort()[:half].tolist():
            a.output.weight[:, K * head : K * head + K] = 0
        score = mlp.up.weight.norm(dim=1) * mlp.down.weight.norm(dim=0)
        mlp.down.weight[:, score.argsort()[:44]] = 0
    assert torch.allclose(small(ids), zeroed(ids), atol=1e-4)
    attention, mlp = small.blocks[0].attention, small.blocks[1].mlp
    assert attention.heads == half and attention.query.weight.shape == (8, 16)
    assert attention.output.weight.shape == (16, 8)
    assert mlp.up.weight.shape == (20, 16) and mlp.down.weight.shape == (16, 20)
    assert all(p.requires_grad for p in small.parameters())
    assert model.blocks[0].mlp.up.out_features == 64
    whole = comp.pruned_gpt(model, heads, 64)
    assert torch.allclose(whole(ids), model(ids), atol=1e-5)


@cases(seeds)
def test_zeros_stay_zero_in_training(seed):
    model, ids = tiny(seed), text(seed)
    before = copy.deepcopy(model)
    sparse = comp.with_zeros(model, 0.5)
    linears = [m for m in sparse.blocks.modules() if isinstance(m, torch.nn.Linear)]
    names = [n for n, m in model.blocks.named_modules() if hasattr(m, "in_features")]
    assert len(linears) == len(names) == 12
    masks = []
    for name, linear in zip(names, linears, strict=True):
        whole = model.blocks.get_submodule(name).weight
        assert linear.weight.equal(comp.drop_smallest(whole, 0.5))
        masks.append(linear.weight == 0)
    assert all(mask.float().mean() == 0.5 for mask in masks)
    assert sum(mask.sum() for mask in masks) == matrices_of(sparse) // 2
    comp.distill(sparse, model, ids, modern_recipe(3), generator=generator(), length=10)
    for linear, mask in zip(linears, masks, strict=True):
        assert (linear.weight[mask] == 0).all() and (linear.weight[~mask] != 0).all()
    for mine, old in zip(model.parameters(), before.parameters(), strict=True):
        assert mine.equal(old) and not mine.requires_grad


def matrices_of(model):
    """Weights in the matrices of the blocks."""
    dense, _ = comp.file_bytes(model, 16)
    rest = [p for p in model.parameters() if p.dim() == 1]
    rest.append(model.token.weight)
    return dense // 2 - sum(p.numel() for p in rest)


def test_keep_channels_keeps_the_largest_in_order():
    mlp = MLP(2, bias=False).requires_grad_(False)
    mlp.up.weight.copy_(torch.tensor([[1.0, n] for n in range(8)]))
    mlp.down.weight.fill_(1.0)
    mlp.down.weight[:, 3] = 50
    comp.keep_channels(mlp, 3)
    assert mlp.up.weight[:, 1].tolist() == [3, 6, 7]


@cases(seeds)
def test_divergence(seed):
    p, q = torch.randn(2, 3, 4, 5, generator=generator(seed))
    theirs = F.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="none").sum(-1)
    assert torch.allclose(comp.divergence(p, q), theirs.mean(), atol=1e-6)
    assert comp.divergence(p, p + 3).abs() < 1e-6


def test_the_first_step_of_a_distillation():
    """The loss is that of the windows and places which the arguments name."""
    for own, reverse in product([False, True], repeat=2):
        first_step(own, reverse)


def first_step(own, reverse):
    student, teacher, ids = tiny(1), tiny(2), text()
    recipe = modern_recipe(2)
    options = {"length": 10, "prompt": 4, "own": own, "reverse": reverse}
    draws = generator(5)
    inputs, _ = windows(ids, recipe.batch, 10, draws)
    if own:
        inputs = generate(student, inputs[:, :4], 6, generator=draws)
    pair = teacher(inputs)[:, 3:], student(inputs)[:, 3:]
    expected = comp.divergence(*pair[:: -1 if reverse else 1])
    learner = copy.deepcopy(student).requires_grad_(True)
    losses = comp.distill(
        learner, teacher, ids, recipe, generator=generator(5), **options
    )
    assert losses.shape == (2,) and torch.allclose(losses[0], expected, atol=1e-5)
    assert not torch.equal(learner.token.weight, student.token.weight)


def test_distill_reads_128_characters_and_grades_all_of_them():
    student, teacher = (tiny(n, layers=1, context=128) for n in (1, 2))
    inputs, _ = windows(text(), 16, 128, generator(5))
    with torch.no_grad():
        expected = comp.divergence(teacher(inputs), student(inputs))
    options, learner = {"generator": generator(5)}, student.requires_grad_(True)
    losses = comp.distill(learner, teacher, text(), modern_recipe(1), **options)
    assert torch.allclose(losses[0], expected, atol=1e-5)


def test_writing_grades():
    student, teacher, prompts = tiny(1), tiny(2), text()[:12].view(4, 3)
    got = comp.writing_grades(student, teacher, prompts, 5, generator(1))
    texts = generate(student, prompts, 5, generator=generator(1))
    for model, nats in zip((teacher, student), got, strict=True):
        p = model(texts).log_softmax(-1)
        each = [-p[n, t - 1, texts[n, t]] for n in range(4) for t in range(3, 8)]
        assert abs(sum(each) / 20 - nats) < 1e-4 and type(nats) is float


def test_a_grade_keeps_nothing_for_gradients():
    seen, models = [], [tiny(n).requires_grad_(True) for n in (1, 2)]
    for model in models:
        model.register_forward_hook(lambda *given: seen.append(given[-1]))
    comp.writing_grades(*models, text()[:6].view(2, 3), 2, generator(1))
    assert seen and not any(logits.requires_grad for logits in seen)


def test_student_gpt():
    model = comp.student_gpt(16, 2, 4, generator())
    config = model.config
    assert (config.vocab, config.context, config.width) == (65, 128, 16)
    assert (config.heads, config.layers, config.bias) == (4, 2, False)
    assert config.positions == "rotary"
    ids = text(1, 128)[None]
    assert torch.allclose(comp.StraightGPT(model)(ids), model(ids), atol=1e-5)


def test_a_stored_layer_keeps_codes_with_scales_or_halves():
    linear, draws = torch.nn.Linear(6, 5), generator(3)
    for p in linear.parameters():
        p.data.normal_(generator=draws)
    weight, bias = linear.weight.detach(), linear.bias.detach()
    x = torch.randn(2, 6, generator=draws)
    halves, coded = comp.StoredLinear(linear, 16), comp.StoredLinear(linear, 8)
    assert halves.kept.equal(weight.half()) and halves.scales is None
    assert torch.allclose(halves(x), x @ weight.half().float().T + bias, atol=1e-5)
    assert coded.kept.dtype == torch.int8 and coded.scales.shape == (5, 1)
    assert (coded.kept.abs().amax(1) == 127).all(), "the largest of each row"
    restored = coded.kept * coded.scales
    assert ((restored - weight).abs() <= 0.501 * coded.scales).all()
    assert torch.allclose(coded(x), x @ restored.T + bias, atol=1e-5)
    kept = [b for layer in (halves, coded) for b in layer.buffers()]
    assert len(kept) == 3 and not any(b.requires_grad for b in kept)


def test_a_copy_in_32_bits_is_the_model_frozen():
    model = tiny().requires_grad_(True)
    for twin in comp.stored_copy(model, 32), comp.StraightGPT(model).model:
        assert not any(p.requires_grad for p in twin.parameters())
        mine, theirs = twin.state_dict(), model.state_dict()
        assert mine.keys() == theirs.keys()
        assert all(mine[name].equal(theirs[name]) for name in theirs)
    assert all(p.requires_grad for p in model.parameters())


def test_the_plain_form_computes_the_same():
    for cut, bits in product([False, True], [8, 16, 32]):
        plain_form(bits, cut)


def plain_form(bits, cut):
    model = comp.pruned_gpt(tiny(), 2, 20) if cut else tiny()
    plain, ids = comp.StraightGPT(model, bits), text(0, 12)[None]
    coded = copy.deepcopy(model).requires_grad_(False)
    for layer in coded.blocks.modules():
        if isinstance(layer, torch.nn.Linear):
            step = layer.weight.abs().amax(1, keepdim=True) / 127
            to = {8: (layer.weight / step).round() * step, 16: layer.weight.half()}
            layer.weight.copy_(to.get(bits, layer.weight))
    assert torch.allclose(plain(ids), coded(ids), atol=2e-3)
    assert not any(p.requires_grad for p in plain.parameters())


def test_onnx_computes_the_same():
    with tempfile.TemporaryDirectory() as folder:
        compared_by_onnx(Path(folder) / "tiny.onnx")


def compared_by_onnx(path):
    model, said = tiny(layers=1), io.StringIO()
    with contextlib.redirect_stdout(said):
        assert comp.export_onnx(model, path, bits=8) == path.stat().st_size
    assert not said.getvalue()
    session = onnxruntime.InferenceSession(path)
    plain = comp.StraightGPT(model, 8)
    for length in 1, 5, 12:
        ids = text(0, length)[None]
        (logits,) = session.run(["logits"], {"ids": ids.numpy()})
        assert torch.allclose(torch.from_numpy(logits), plain(ids), atol=1e-3)
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert given.shape[0] == 1 and isinstance(given.shape[1], str), "any length"
    assert made.shape == [*given.shape, V]
    comp.export_onnx(model, str(path), length=6)
    (given,) = onnxruntime.InferenceSession(path).get_inputs()
    assert given.shape == [1, 6]


def test_an_onnx_file_goes_without_notes():
    graph = onnx.parser.parse_graph("made (float[N] x) => (float[N] y) {y = Neg(x)}")
    graph.value_info.append(graph.input[0])
    graph.initializer.append(onnx.numpy_helper.from_array(torch.ones(1).numpy(), "one"))
    proto = onnx.helper.make_model(graph)
    bare, lists = proto.SerializeToString(), ["node", "input", "output", "value_info"]
    parts = [getattr(proto.graph, name)[0] for name in [*lists, "initializer"]]
    parts += [proto, proto.graph]
    for part in parts:
        part.doc_string = "from /home"
        part.metadata_props.add(key="file", value="/home")
    comp.without_notes(proto)
    assert not any(part.doc_string or part.metadata_props for part in parts)
    for part in parts:
        part.ClearField("doc_string")
    assert proto.SerializeToString() == bare, "and nothing else has gone"


def handed(model, **options):
    """What `export_onnx` gives to torch: the plain form, ids and shapes that vary."""
    made = SimpleNamespace(model_proto=onnx.ModelProto())
    with (
        mock.patch.object(torch.export, "export") as export,
        mock.patch.object(torch.onnx, "export", return_value=made),
        tempfile.TemporaryDirectory() as folder,
    ):
        comp.export_onnx(model, Path(folder) / "empty.onnx", **options)
    (plain, (ids,)), shapes = export.call_args
    return plain, ids, shapes["dynamic_shapes"]


def test_an_export_has_the_length_and_the_bits_that_are_asked_for():
    model = tiny()
    matrices = {m.weight.numel() for m in model.blocks.modules() if is_linear(m)}
    for options, kind in (
        ({}, torch.float32),
        ({"bits": 32}, torch.float32),
        ({"bits": 16}, torch.float16),
        ({"bits": 8}, torch.int8),
    ):
        plain, ids, shapes = handed(model, **options)
        stored = plain.model.blocks.state_dict().values()
        found = {w.dtype for w in stored if w.numel() in matrices}
        assert found == {kind} and ids.shape[0] == 1
        assert (shapes["ids"][1].__name__, shapes["ids"][1].max) == ("T", 12)
        assert not plain.training
    bits = inspect.signature(comp.export_onnx).parameters["bits"]
    assert bits.default in get_args(bits.annotation)
    for length in 1, 12:
        _, ids, shapes = handed(model, length=length)
        assert ids.shape == (1, length) and shapes is None


def is_linear(module):
    return isinstance(module, torch.nn.Linear)


def test_the_smallest_gpt_can_be_exported():
    """It knows one character, and reads fewer than an export likes to try."""
    sizes = GPTConfig(1, 3, width=4, heads=2, layers=1, bias=False)
    _, ids, shapes = handed(new_gpt(sizes, modern_recipe(1), generator()))
    assert ids.size(1) <= 3 and shapes["ids"][1].max == 3


def test_a_model_of_other_logits_is_not_exported():
    """One logit that is off by more than a thousandth is enough."""
    model = tiny()
    for by in -1.5e-3, 1.5e-3, 1.0:

        def other(ids, by=by):
            logits = model(ids)
            logits[0, -1, 2] += by
            return logits

        with mock.patch.object(comp, "StraightGPT", lambda *_, other=other: other):
            refuses("model", comp.export_onnx, model, "no.onnx")


def test_what_is_refused():
    weight, model = torch.randn(4, 8), tiny()
    refuses_all(comp.drop_smallest, {"weight": weight, "part": 0.5}, part=[-0.1, 1.1])
    refuses_all(comp.pack_bitmap, {"weight": weight}, weight=[torch.randn(1, 4)])
    good = {"model": model, "heads": 2, "channels": 20}
    refuses_all(comp.pruned_gpt, good, heads=[0, 5], channels=[0, 65])
    refuses_all(comp.with_zeros, {"model": model, "part": 0.5}, part=[-0.1, 1.1])
    refuses_all(comp.file_bytes, {"model": model, "bits": 4}, bits=[0])
    good = {"p": torch.randn(2, 5), "q": torch.randn(2, 5)}
    refuses_all(comp.divergence, good, q=[torch.randn(2, 4), torch.randn(5)])
    older = GPT(GPTConfig(V, 12, width=16, heads=4, layers=1), generator=generator())
    refuses("model", comp.export_onnx, older, "no.onnx")
    refuses("length", comp.export_onnx, model, "no.onnx", length=13)
    refuses("bits", comp.export_onnx, model, "no.onnx", bits=4)


def test_what_is_refused_for_students():
    student, teacher = tiny(layers=1).requires_grad_(True), tiny(1)
    shared = {"student": student, "teacher": teacher, "generator": generator()}
    good = {"ids": text(), "recipe": modern_recipe(1), "length": 5, "prompt": 4}
    good |= {"own": False, "reverse": False, **shared}
    refuses_all(comp.distill, good, prompt=[5], ids=[text()[:5]])
    good = {"prompts": text()[None, :3], "count": 2, **shared}
    refuses_all(comp.writing_grades, good, count=[0])
    good = {"width": 16, "layers": 1, "heads": 2, "generator": generator()}
    refuses_all(comp.student_gpt, good, heads=[3])


SLIPS = [
    ("smallest_file", "math.ceil", "math.floor", ""),
    ("smallest_file", "n * bits, n + kept", "n + kept"),
    ("smallest_file", "n + kept * bits, ", ""),
    ("smallest_file", "n + kept * bits, kept", "kept * bits, kept"),
    ("smallest_file", ", kept * (bits + place)", ""),
    ("weigh_inputs", "weight.abs()", "weight"),
    ("weigh_inputs", " * x.norm(dim=0)", ""),
    ("weigh_inputs", ".argsort(-1)", ".argsort(0)", ".argsort(-1, True)"),
    ("weigh_inputs", "size(1) // 2", "size(0) // 2", "size(1) // 2 - 1"),
    ("mixed_loss", "divergence(teacher, student)", "divergence(student, teacher)"),
    ("mixed_loss", "alpha * surprise", "surprise", "(1 - alpha) * surprise"),
    ("mixed_loss", "(1 - alpha) * ", "", "alpha * "),
]  # fmt: skip


def test_a_slip_in_an_answer_is_noticed():
    for answer, piece, *slips in SLIPS:
        cells.notices(page(), answer, {piece: slips})


def half_dropped(score, weight):
    return weight.scatter(-1, score.argsort(-1)[:, : weight.size(1) // 2], 0)


@pytest.mark.parametrize(
    ("score", "cause"),
    [
        (lambda w, x: w.abs() * (x**2).sum(0), "left out the root"),
        (lambda w, x: w.abs() * x.abs().mean(0), "not a mean of sizes"),
        (lambda w, x: w.abs() * x.abs().amax(0) ** 3, r"row \d should be \["),
    ],
)
def test_slips_in_a_weights_effect_are_named(score, cause):
    with pytest.raises(AssertionError, match=cause):
        page()["check_weigh_inputs"](lambda w, x: half_dropped(score(w, x), w))


def mixed_with_cross_entropy(student, teacher, targets, alpha):
    there = F.cross_entropy(student, teacher.softmax(-1))
    return alpha * F.cross_entropy(student, targets) + (1 - alpha) * there


def test_slips_in_a_mixed_loss_are_named():
    check = page()["check_mixed_loss"]
    with pytest.raises(AssertionError, match="teacher's own entropy"):
        check(mixed_with_cross_entropy)
    with pytest.raises(AssertionError, match=r"\d\.\d{4} is right, not 7\.0"):
        check(lambda *_: torch.tensor(7.0))
