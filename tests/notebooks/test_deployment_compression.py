"""The cells of deployment/compression against loops, torch and ONNX Runtime."""

import copy
import functools
import math
import tempfile
from itertools import product
from pathlib import Path

import cells
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from cells import cases, generator, refuses, refuses_all, seeds

from fieldguide.deployment import compression as comp
from fieldguide.transformers.gpt import GPT, MLP, GPTConfig, generate
from fieldguide.transformers.training import modern_recipe, new_gpt, windows

V = 7


@functools.cache
def page():
    return cells.run_exercises("deployment/compression")


def tiny(seed=0, heads=4, layers=2):
    """An untrained GPT of the modern recipe, far from uniform."""
    sizes = GPTConfig(V, 12, width=16, heads=heads, layers=layers, bias=False)
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
    left = comp.shrink(0.25, 4)(weight)
    step = comp.drop_smallest(weight, 0.25).abs().amax(1, keepdim=True) / 7
    assert (left - comp.drop_smallest(weight, 0.25)).abs().le(step * 0.51).all()
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


@cases(seeds)
def test_a_cut_is_the_same_as_zeros(seed):
    """What stays computes what the whole computes with the rest at zero."""
    model, ids = tiny(seed), text(seed, 9)[None]
    small, zeroed = comp.pruned_gpt(model, 2, 20), copy.deepcopy(model)
    for block in zeroed.blocks:
        a, mlp = block.attention, block.mlp
        score = a.value.weight.norm(dim=1) * a.output.weight.norm(dim=0)
        for head in score.view(4, 4).sum(-1).argsort()[:2].tolist():
            a.output.weight[:, 4 * head : 4 * head + 4] = 0
        score = mlp.up.weight.norm(dim=1) * mlp.down.weight.norm(dim=0)
        mlp.down.weight[:, score.argsort()[:44]] = 0
    assert torch.allclose(small(ids), zeroed(ids), atol=1e-4)
    attention, mlp = small.blocks[0].attention, small.blocks[1].mlp
    assert attention.heads == 2 and attention.query.weight.shape == (8, 16)
    assert attention.output.weight.shape == (16, 8)
    assert mlp.up.weight.shape == (20, 16) and mlp.down.weight.shape == (16, 20)
    assert all(p.requires_grad for p in small.parameters())
    assert model.blocks[0].mlp.up.out_features == 64
    whole = comp.pruned_gpt(model, 4, 64)
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
    sizes = GPTConfig(V, 128, width=8, heads=1, layers=1, bias=False)
    student, teacher = (new_gpt(sizes, modern_recipe(1), generator(n)) for n in (1, 2))
    inputs, _ = windows(text(), 16, 128, generator(5))
    with torch.no_grad():
        expected = comp.divergence(teacher(inputs), student(inputs))
    options = {"generator": generator(5)}
    losses = comp.distill(student, teacher, text(), modern_recipe(1), **options)
    assert torch.allclose(losses[0], expected, atol=1e-6)


def test_writing_grades():
    student, teacher, prompts = tiny(1), tiny(2), text()[:12].view(4, 3)
    got = comp.writing_grades(student, teacher, prompts, 5, generator(1))
    texts = generate(student, prompts, 5, generator=generator(1))
    for model, nats in zip((teacher, student), got, strict=True):
        p = model(texts).log_softmax(-1)
        each = [-p[n, t - 1, texts[n, t]] for n in range(4) for t in range(3, 8)]
        assert abs(sum(each) / 20 - nats) < 1e-4


def test_student_gpt():
    model = comp.student_gpt(16, 2, 4, generator())
    config = model.config
    assert (config.vocab, config.context, config.width) == (65, 128, 16)
    assert (config.heads, config.layers, config.bias) == (4, 2, False)
    assert config.positions == "rotary"
    ids = text(1, 128)[None]
    assert torch.allclose(comp.StraightGPT(model)(ids), model(ids), atol=1e-5)


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
    model = tiny(layers=1)
    assert comp.export_onnx(model, path, bits=8) == path.stat().st_size
    session = onnxruntime.InferenceSession(path)
    plain = comp.StraightGPT(model, 8)
    for length in 1, 5, 12:
        ids = text(0, length)[None]
        (logits,) = session.run(["logits"], {"ids": ids.numpy()})
        assert torch.allclose(torch.from_numpy(logits), plain(ids), atol=1e-3)
    graph = onnx.load(path).graph
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    comp.export_onnx(model, str(path), length=6)
    (given,) = onnxruntime.InferenceSession(path).get_inputs()
    assert given.shape == [1, 6]


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
    options = {"generator": generator(), "length": 5, "prompt": 5}
    refuses("prompt", comp.distill, model, model, text(), modern_recipe(2), **options)
