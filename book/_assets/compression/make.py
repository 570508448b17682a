"""Shrink the King James GPT in every way of deployment/compression, and record it.

.venv/bin/python book/_tools/assets.py compression (eight minutes of one core)

Writes beside this file students.json and .safetensors: small GPTs that learned from the
text or from `trained_gpt`, their losses from SEEDS, the weights of SHIPPED in 16 bits;
halves.json and .safetensors: `trained_gpt` with half of its heads and channels, before
and after retraining; zeros.json: `trained_gpt` with zeros, retrained in the same way;
own.json: a student that learns from its own writing, and a line that it wrote;
grid.json: loss, sample and bytes of the first figure's settings; times.json: processor
time on this machine. A name, such as `times`, makes that part alone.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import king_james_ids, machine, make_parts, read_json
from rivals import measure
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize

from fieldguide.data import king_james, store
from fieldguide.deployment import compression
from fieldguide.efficiency.quantization import rounded, weights_as
from fieldguide.introduction.next_word import characters, to_ids, to_text
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig, generate

HERE = Path(__file__).parent

SIZES = {"student": (64, 3, 4), "small student": (32, 2, 2)}  # width, layers, heads
HALF = (2, 256)  # heads and channels in a block
SEEDS = range(3)
RECIPE = replace(training.modern_recipe(150), batch=4)
RETRAIN = replace(training.modern_recipe(60), batch=4, rate=0.006, matrix_rate=0.01)
OWN = replace(training.modern_recipe(24), batch=8, rate=0.006, matrix_rate=0.01)
LENGTH, PROMPT = 64, 16  # characters of a window that is graded, and given
PIECES = 64  # windows of the held-out text
PARTS, BITS = [0.0, 0.25, 0.5, 0.75, 0.9], [16, 8, 4, 3]
START, SAMPLE = "And ", 72


def held_out_loss(model) -> float:
    return round(training.held_out_loss(model, king_james_ids()[1], PIECES), 4)


def student_gpt(width, layers, heads, generator):
    """A new GPT for King James: the modern recipe, a context of 128."""
    sizes = GPTConfig(65, 128, width, heads, layers, bias=False)
    return training.new_gpt(sizes, training.modern_recipe(100), generator)


def student(name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return student_gpt(*SIZES[name], generator), generator


def from_text(name, seed, recipe=RECIPE):
    """The loss of a student that learned from the text alone."""
    model, generator = student(name, seed)
    training.train(model, king_james_ids()[0], recipe, generator=generator)
    return held_out_loss(model)


def from_teacher(model, generator, recipe=RECIPE, **options):
    """A model that learned from `trained_gpt`, and its loss."""
    ids, teacher = king_james_ids()[0], training.trained_gpt()
    options |= {"generator": generator}
    compression.distill(model, teacher, ids, recipe, **options)
    return model, held_out_loss(model)


def in_half(model):
    return {name: weight.half() for name, weight in model.state_dict().items()}


def record_students() -> None:
    record = {"text": [], "teacher": []}
    record |= {"text, twice the steps": []}
    twice, shipped = replace(RECIPE, steps=2 * RECIPE.steps), {}
    for seed in SEEDS:
        model, loss = from_teacher(*student("student", seed))
        record["teacher"].append(loss)
        if seed == 0:
            shipped |= {f"student.{n}": w for n, w in in_half(model).items()}
        record["text"].append(from_text("student", seed))
        record["text, twice the steps"].append(from_text("student", seed, twice))
        print(record, flush=True)
    model, record["small student"] = from_teacher(*student("small student"))
    shipped |= {f"small student.{n}": w for n, w in in_half(model).items()}
    store(HERE / "students.safetensors", shipped)
    store(HERE / "students.json", record)


def shipped(name):
    """A model with the weights that are stored here, or `trained_gpt`."""
    if name == "whole":
        return training.trained_gpt()
    if name == "half":
        model = compression.pruned_gpt(training.trained_gpt(), *HALF)
        weights = load_file(HERE / "halves.safetensors")
    else:
        model, start = student(name)[0], f"{name}."
        stored = load_file(HERE / "students.safetensors").items()
        weights = {n.removeprefix(start): w for n, w in stored if n.startswith(start)}
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def record_halves() -> None:
    """Cut and retrained by the teacher or the text, and that shape from new weights."""
    record = {"retrained": [], "new": []}
    record["text"], ids = [], king_james_ids()[0]
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        model = compression.pruned_gpt(training.trained_gpt(), *HALF)
        record["cut"] = held_out_loss(model)
        model, loss = from_teacher(model, generator, RETRAIN)
        record["retrained"].append(loss)
        if seed == 0:
            store(HERE / "halves.safetensors", in_half(model))
        new = student_gpt(128, 4, 4, generator)
        new = compression.pruned_gpt(new, *HALF)
        steps = replace(RECIPE, steps=RETRAIN.steps)
        record["new"].append(from_teacher(new, generator, steps)[1])
        generator = torch.Generator().manual_seed(seed)
        model = compression.pruned_gpt(training.trained_gpt(), *HALF)
        training.train(model, ids, RETRAIN, generator=generator)
        record["text"].append(held_out_loss(model))
        print(record, flush=True)
    store(HERE / "halves.json", record)


class Kept(nn.Module):
    """A parametrization of a weight: where it is 0 now, it stays 0."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("kept", weight != 0)

    def forward(self, weight):
        return weight * self.kept


def linears(model):
    return [m for m in model.blocks.modules() if isinstance(m, nn.Linear)]


def with_zeros(model, part):
    """A copy in which this part of each matrix is 0, and stays 0 in training."""
    model = copy.deepcopy(model).requires_grad_(True)
    for linear in linears(model):
        linear.weight.data = compression.drop_smallest(linear.weight.data, part)
        mask = Kept(linear.weight)
        parametrize.register_parametrization(linear, "weight", mask)
    return model


def record_zeros() -> None:
    """Retrained as the halves are, with the smallest weights kept at zero, by part.

    The losses of three seeds, in 16 bits; and [loss, bytes without the zeros, sample]
    of the first seed's model in each of BITS.
    """
    record = {}
    for part in PARTS[2:]:
        record[str(part)] = []
        for seed in SEEDS:
            generator = torch.Generator().manual_seed(seed)
            model = with_zeros(training.trained_gpt(), part)
            model, loss = from_teacher(model, generator, RETRAIN)
            record[str(part)].append(loss)
            if seed == 0:
                record |= in_bits(model, part)
        print(record, flush=True)
    store(HERE / "zeros.json", record)


def in_bits(model, part):
    """A retrained model with zeros, as the first figure's settings are recorded."""
    for layer in linears(model):
        parametrize.remove_parametrizations(layer, "weight")
    model, found = model.requires_grad_(False), {}
    for bits in BITS:
        loss, _, size, line = setting(model, 0.0, bits)
        found[f"{part}, {bits} bits"] = [loss, size, line]
    return found


def prompts(count):
    """Beginnings from the held-out text that lie evenly over it: (count, PROMPT)."""
    _, held_out = king_james_ids()
    starts = torch.linspace(0, len(held_out) - PROMPT, count).long()
    return held_out[starts[:, None] + torch.arange(PROMPT)]


def sample(model, temperature=1.0):
    alphabet, draws = characters(king_james()), torch.Generator().manual_seed(1)
    options = {"temperature": temperature, "generator": draws}
    return to_text(
        generate(model, to_ids(START, alphabet), SAMPLE, **options), alphabet
    )


@torch.no_grad()
def graded(model):
    """The teacher's and the student's surprise at the student's own text, nats."""
    draws, count = torch.Generator().manual_seed(1), LENGTH - PROMPT
    texts = generate(model, prompts(32), count, generator=draws)
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
    record = {"lines": {}}
    before = shipped("student")
    record["before"] = [held_out_loss(before), *graded(before)]
    record["teacher"] = [held_out_loss(shipped("whole")), *graded(shipped("whole"))]
    for own in False, True:
        for reverse in False, True:
            name = f"{'own' if own else 'text'}, {'reverse' if reverse else 'forward'}"
            record[name] = []
            for seed in SEEDS:
                generator = torch.Generator().manual_seed(10 + seed)
                options = {"length": LENGTH, "prompt": PROMPT}
                options |= {"own": own, "reverse": reverse}
                model = shipped("student").requires_grad_(True)
                model, loss = from_teacher(model, generator, OWN, **options)
                record[name].append([loss, *graded(model)])
                if seed == 0:
                    record["lines"][name] = sample(model.requires_grad_(False))
            print(name, record[name], flush=True)
    store(HERE / "own.json", record)


def shrink(part, bits):
    """A change for `weights_as`: drop this part, keep the rest in `bits`."""

    def change(weight):
        kept = compression.drop_smallest(weight, part)
        if bits == 16:
            return kept.half().float()
        return rounded(kept, "absmax", bits, "row")

    return change


def setting(model, part, bits):
    """Loss, bytes with and without the zeros, and a sample of a shrunk model."""
    _, held_out = king_james_ids()
    with weights_as(model, shrink(part, bits)):
        loss = training.held_out_loss(model, held_out, PIECES)
        counted, written = compression.file_bytes(model, bits), sample(model, 0.8)
    return [round(loss, 4), *counted, written]


def record_grid() -> None:
    record = {"parts": PARTS, "bits": BITS}
    for name in "whole", "half", *SIZES:
        model = shipped(name)
        record[name] = [[setting(model, p, b) for b in BITS] for p in PARTS]
        print(name, [[s[0] for s in row] for row in record[name]], flush=True)
    store(HERE / "grid.json", record)


def best_ms(runs, rounds=30):
    """{name: milliseconds of its best try}; the runs take turns."""
    took = measure.processor_times(runs, rounds=rounds)
    return {name: round(min(measure.own(ms)), 3) for name, ms in took.items()}


def step_ms(steps=3):
    """What a step of a student takes that learns from the text or the teacher."""
    (ids, _), (model, generator) = king_james_ids(), student("student")
    short, options = replace(RECIPE, steps=steps), {"generator": generator}
    learn = {
        "text": lambda: training.train(model, ids, short, **options),
        "teacher": lambda: compression.distill(
            model, training.trained_gpt(), ids, short, **options
        ),
    }
    return {name: round(ms / steps, 1) for name, ms in best_ms(learn, 8).items()}


def record_times() -> None:
    ids = king_james_ids()[1][None, :128]
    models = {name: shipped(name) for name in ("whole", "half", *SIZES)}
    passes = {name: lambda m=m: m(ids) for name, m in models.items()}
    record = {"machine": machine()}
    with torch.no_grad():
        record["pass_ms"] = best_ms(passes)
    record["step_ms"] = step_ms()
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(1024, 1024, generator=draws)
    x, products = torch.randn(1024, 128, generator=draws), {}
    for part in 0.0, 0.5, 0.75, 0.9, 0.95, 0.99:
        zeros = compression.drop_smallest(weight, part)
        sparse = zeros.to_sparse_csr()
        products[f"dense {part}"] = lambda w=zeros: w @ x
        products[f"sparse {part}"] = lambda w=sparse: w @ x
    record["product_ms"] = best_ms(products, 10)
    print(record, flush=True)
    store(HERE / "times.json", record)


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
