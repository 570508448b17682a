"""The cells of deployment/compression against loops, torch and ONNX Runtime."""

import copy
import math

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from cells import cases, generator, seeds
from hypothesis import strategies as st

from fieldguide.deployment import compression as comp
from fieldguide.transformers.gpt import GPTConfig, generate
from fieldguide.transformers.training import get_batch, modern_recipe, new_gpt

V = 7


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
    for part, gone in (0, 0), (0.25, 6), (0.5, 12), (0.99, 24), (1.0, 24):
        left = comp.drop_smallest(weight, part)
        ranked = sorted(weight.flatten().tolist(), key=abs)
        limit = abs(ranked[gone]) if gone < 24 else math.inf
        assert left.equal(torch.where(weight.abs() >= limit, weight, 0))
    assert comp.drop_smallest(torch.ones(1, 4), 0.5).tolist() == [[0, 0, 1, 1]]


def test_file_bytes():
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
    assert attention.query.weight.shape == (8, 16)
    assert mlp.up.weight.shape == (20, 16)
    assert all(p.requires_grad for p in small.parameters())
    assert model.blocks[0].mlp.up.out_features == 64


@cases(seeds)
def test_divergence(seed):
    p, q = torch.randn(2, 3, 4, 5, generator=generator(seed))
    theirs = F.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="none").sum(-1)
    assert torch.allclose(comp.divergence(p, q), theirs.mean(), atol=1e-6)
    assert comp.divergence(p, p + 3).abs() < 1e-6


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_step_of_a_distillation(own, reverse):
    """The loss is that of the windows and places which the arguments name."""
    student, teacher, ids = tiny(1), tiny(2), text()
    recipe = modern_recipe(2)
    options = {"length": 10, "prompt": 4, "own": own, "reverse": reverse}
    draws = generator(5)
    inputs, _ = get_batch(ids, recipe.batch, 10, draws)
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


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("cut", [False, True])
def test_the_plain_form_computes_the_same(bits, cut):
    model = comp.pruned_gpt(tiny(), 2, 20) if cut else tiny()
    plain, ids = comp.StraightGPT(model, bits), text(0, 12)[None]
    coded = copy.deepcopy(model).requires_grad_(False)
    for layer in coded.blocks.modules():
        if isinstance(layer, torch.nn.Linear):
            step = layer.weight.abs().amax(1, keepdim=True) / 127
            to = {8: (layer.weight / step).round() * step, 16: layer.weight.half()}
            layer.weight.copy_(to.get(bits, layer.weight))
    assert torch.allclose(plain(ids), coded(ids), atol=2e-3)


def test_onnx_computes_the_same(tmp_path):
    model, path = tiny(layers=1), tmp_path / "tiny.onnx"
    assert comp.export_onnx(model, path, bits=8) == path.stat().st_size
    assert b"fieldguide" not in path.read_bytes(), "the exporter's notes"
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
