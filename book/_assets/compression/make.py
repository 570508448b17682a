"""Shrink the King James GPT in every way of deployment/compression, and record it.

.venv/bin/python book/_tools/assets.py compression (eight minutes of one core)

Writes beside this file students.json and .safetensors: small GPTs that learned from the
text or from `trained_gpt`, their losses from SEEDS, the weights of SHIPPED in 16 bits;
halves.json and .safetensors: `trained_gpt` with half of its heads and channels, after
retraining; zeros.json: `trained_gpt` with zeros, retrained in the same way; own.json: a
student that learns from its own writing, and a line that it wrote; grid.json: loss,
sample and bytes of the first figure's settings; times.json: processor time on this
machine. A name, such as `times`, makes that part alone.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import king_james_ids, machine, make_parts, read_json
from rivals import measure
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune

from fieldguide.data import king_james, store
from fieldguide.deployment import compression
from fieldguide.efficiency.quantization import rounded, weights_as
from fieldguide.introduction.next_word import characters, to_ids, to_text
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig, generate

HERE = Path(__file__).parent

SIZES = {"student": (64, 3, 4), "small student": (32, 2, 2)}  # width, layers, heads
SEEDS = range(3)
RECIPE = replace(training.modern_recipe(150), batch=4)
RETRAIN = replace(training.modern_recipe(60), batch=4, rate=0.006, matrix_rate=0.01)
OWN = replace(training.modern_recipe(24), batch=8, rate=0.006, matrix_rate=0.01)
LENGTH, PROMPT = 64, 16  # characters of a window that is graded, and given
PARTS, BITS = [0.0, 0.25, 0.5, 0.75, 0.9], [16, 8, 4, 3]
START, SAMPLE = "And ", 72


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def held_out_loss(model) -> float:
    return round(training.held_out_loss(model, king_james_ids()[1], 64), 4)


def new_gpt(width, layers, heads, generator):
    """A new GPT for King James: the modern recipe, a context of 128."""
    sizes = GPTConfig(65, 128, width, heads, layers, bias=False)
    return training.new_gpt(sizes, training.modern_recipe(100), generator)


def in_half(model):
    """Two of four heads and half of the channels in each block."""
    return compression.pruned_gpt(model, 2, 256)


def learn(model, generator, recipe=RECIPE, teacher=True, **options):
    """The loss of a model that learned from `trained_gpt`, or from the text alone."""
    ids, options = king_james_ids()[0], options | {"generator": generator}
    if teacher:
        compression.distill(model, training.trained_gpt(), ids, recipe, **options)
    else:
        training.train(model, ids, recipe, **options)
    return held_out_loss(model)


def in_16_bits(model, start=""):
    return {start + name: w.half() for name, w in model.state_dict().items()}


def record_students() -> None:
    twice, weights = replace(RECIPE, steps=2 * RECIPE.steps), {}
    ways = {"text": (RECIPE, False), "text, twice the steps": (twice, False)}
    ways["teacher"] = RECIPE, True
    record = {way: [] for way in ways}
    for seed, way in product(SEEDS, ways):
        generator = seeded(seed)
        model = new_gpt(*SIZES["student"], generator)
        record[way].append(learn(model, generator, *ways[way]))
        if seed == 0:  # of the last way
            weights |= in_16_bits(model, "student.")
    model = new_gpt(*SIZES["small student"], generator := seeded(0))
    learn(model, generator)
    weights |= in_16_bits(model, "small student.")
    store(HERE / "students.safetensors", weights)
    store(HERE / "students.json", record)


def shipped(name):
    """A model with the weights that are stored here, or `trained_gpt`."""
    if name == "whole":
        return training.trained_gpt()
    if name == "half":
        model = in_half(training.trained_gpt())
        weights = load_file(HERE / "halves.safetensors")
    else:
        model, start = new_gpt(*SIZES[name], seeded(0)), f"{name}."
        stored = load_file(HERE / "students.safetensors").items()
        weights = {n.removeprefix(start): w for n, w in stored if n.startswith(start)}
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def record_halves() -> None:
    """Cut and retrained by the teacher or the text, and that shape from new weights."""
    record = {"retrained": [], "new": [], "text": []}
    for seed in SEEDS:
        generator, model = seeded(seed), in_half(training.trained_gpt())
        record["retrained"].append(learn(model, generator, RETRAIN))
        if seed == 0:
            store(HERE / "halves.safetensors", in_16_bits(model))
        model = in_half(new_gpt(128, 4, 4, generator))
        steps = replace(RECIPE, steps=RETRAIN.steps)
        record["new"].append(learn(model, generator, steps))
        model = in_half(training.trained_gpt())
        record["text"].append(learn(model, seeded(seed), RETRAIN, teacher=False))
    store(HERE / "halves.json", record)


def zeroed(part, seed):
    """Retrained with this part of each matrix, the smallest, at zero; and its loss."""
    model = copy.deepcopy(training.trained_gpt()).requires_grad_(True)
    linears = [m for m in model.blocks.modules() if isinstance(m, nn.Linear)]
    for linear in linears:
        prune.l1_unstructured(linear, "weight", part)  # and keep it there
    loss = learn(model, seeded(seed), RETRAIN)
    for linear in linears:
        prune.remove(linear, "weight")
    return model.requires_grad_(False), loss


def record_zeros() -> None:
    """Retrained as the halves are, with the smallest weights kept at zero, by part.

    The losses of three seeds, in 16 bits; and [loss, bytes without the zeros, sample]
    of the first seed's model in each of BITS.
    """
    record = {}
    for part in PARTS[2:]:
        models, record[str(part)] = zip(
            *(zeroed(part, seed) for seed in SEEDS), strict=True
        )
        for bits in BITS:
            loss, _, size, line = setting(models[0], 0.0, bits)
            record[f"{part}, {bits} bits"] = [loss, size, line]
    store(HERE / "zeros.json", record)


def sample(model, temperature=1.0):
    alphabet, ids = characters(king_james()), to_ids(START, characters(king_james()))
    options = {"temperature": temperature, "generator": seeded(1)}
    return to_text(generate(model, ids, SAMPLE, **options), alphabet)


@torch.no_grad()
def graded(model):
    """The teacher's and the student's surprise at the student's own text, nats."""
    held_out, count = king_james_ids()[1], LENGTH - PROMPT
    starts = torch.linspace(0, len(held_out) - PROMPT, 32).long()
    prompts = held_out[starts[:, None] + torch.arange(PROMPT)]  # (32, PROMPT)
    texts = generate(model, prompts, count, generator=seeded(1))
    found = []
    for each in training.trained_gpt(), model:
        logits = each(texts[:, :-1])[:, PROMPT - 1 :]  # (32, count, V)
        nats = F.cross_entropy(logits.mT, texts[:, PROMPT:])
        found.append(round(nats.item(), 4))
    return found


def record_own() -> None:
    """By who writes and which divergence: [loss, teacher's nats, its own] a seed.

    And a line that the first seed's student writes.
    """
    before = shipped("student")
    record = {"lines": {}, "before": [held_out_loss(before), *graded(before)]}
    for own, reverse in product([False, True], repeat=2):
        name = f"{'own' if own else 'text'}, {'reverse' if reverse else 'forward'}"
        options = {"length": LENGTH, "prompt": PROMPT, "own": own, "reverse": reverse}
        record[name] = []
        for seed in SEEDS:
            model = shipped("student").requires_grad_(True)
            loss = learn(model, seeded(10 + seed), OWN, **options)
            record[name].append([loss, *graded(model)])
            if seed == 0:
                record["lines"][name] = sample(model.requires_grad_(False))
    store(HERE / "own.json", record)


def setting(model, part, bits):
    """Loss, bytes with and without the zeros, and a sample of a shrunk model."""

    def shrink(weight):
        kept = compression.drop_smallest(weight, part)
        return kept.half() if bits == 16 else rounded(kept, "absmax", bits, "row")

    with weights_as(model, shrink):
        counted, written = compression.file_bytes(model, bits), sample(model, 0.8)
        return [held_out_loss(model), *counted, written]


def record_grid() -> None:
    record = {"parts": PARTS, "bits": BITS}
    for name in "whole", "half", *SIZES:
        model = shipped(name)
        record[name] = [[setting(model, p, b) for b in BITS] for p in PARTS]
    store(HERE / "grid.json", record)


def best_ms(runs, rounds):
    """{name: milliseconds of its best try}; the runs take turns."""
    took = measure.processor_times(runs, rounds=rounds)
    return {name: round(min(measure.own(ms)), 3) for name, ms in took.items()}


def record_times() -> None:
    ids = king_james_ids()[1][None, :128]
    models = {name: shipped(name) for name in ("whole", "half", *SIZES)}
    passes = {name: lambda m=m: m(ids) for name, m in models.items()}
    draws, products = seeded(0), {}
    weight, x = (torch.randn(1024, n, generator=draws) for n in (1024, 128))
    for part in 0.0, 0.5, 0.75, 0.9, 0.95, 0.99:
        zeros = compression.drop_smallest(weight, part)
        sparse = zeros.to_sparse_csr()
        products[f"dense {part}"] = lambda w=zeros: w @ x
        products[f"sparse {part}"] = lambda w=sparse: w @ x
    with torch.no_grad():
        record = {"pass_ms": best_ms(passes, 30), "product_ms": best_ms(products, 10)}
    store(HERE / "times.json", {"machine": machine()} | record)


def remade() -> Iterator[tuple]:
    """The stored weights' losses, a setting of the grid, and grades."""
    for name, file, key in (
        ("student", "students", "teacher"),
        ("half", "halves", "retrained"),
    ):
        kept = read_json(HERE / f"{file}.json")[key]
        yield kept[:1], [held_out_loss(shipped(name))], 0.01
    kept = read_json(HERE / "grid.json")["small student"][2][2]
    again = setting(shipped("small student"), PARTS[2], BITS[2])
    yield kept[:3], again[:3], 0.01
    kept = read_json(HERE / "own.json")["before"]
    yield kept[1:], graded(shipped("student")), 0.1


if __name__ == "__main__":
    make_parts(
        record_students,
        record_halves,
        record_zeros,
        record_own,
        record_grid,
        record_times,
    )
