"""Train the mixtures and the dense rivals of efficiency/experts, and record them.

.venv/bin/python book/_tools/assets.py experts (eight minutes of one core)

Writes beside this file rates.json: how each variant ends at each of RATES, from other
seeds at its best rate, and with a capacity; routes.safetensors: which experts the
tokens of a held-out text take at STEPS, for each of BALANCE; and times.json: what a
step of training costs on this machine, in processor time.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from assets import king_james_ids, machine, make_parts, read_json

from fieldguide.data import store
from fieldguide.efficiency import experts
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig

HERE = Path(__file__).parent

SIZES = GPTConfig(65, context=64, width=64, heads=4, layers=3, bias=False)
MIXTURE = "16 experts, top-2"
VARIANTS = {
    "dense, equal active": experts.MixtureConfig(128),
    MIXTURE: experts.MixtureConfig(64, experts=16, k=2, balance=0.01),
    "8 experts, top-1": experts.MixtureConfig(128, experts=8, k=1, balance=0.01),
    "dense, equal total": experts.MixtureConfig(1024),
}
LENGTH = 300  # steps
RATES = [0.0075, 0.015, 0.03, 0.06]
SEEDS = range(3)
FACTORS = [1.0, 1.25]
BALANCE = [0.0, 0.01, 0.1, 1.0]
STEPS = [1, 10, 30, 100, 300]
PIECES = 16  # windows of the held-out text whose routes are kept
ROUNDS, TIMED = 15, 10  # tries of each variant, and steps in a try


def run(mixture, rate, seed=0, watch=None):
    """Train from a seed; the model, and its loss on the held-out text."""
    ids, held_out = king_james_ids()
    generator = torch.Generator().manual_seed(seed)
    recipe = replace(training.modern_recipe(LENGTH), matrix_rate=rate)
    model = experts.mixture_gpt(SIZES, recipe, mixture, generator)
    training.train(model, ids, recipe, generator=generator, watch=watch)
    return model, round(training.held_out_loss(model, held_out), 4)


def best(record, name):
    """How low a variant ends, and at which rate."""
    return min(zip(record["runs"][name], record["rates"], strict=True))


def remade() -> Iterator[tuple]:
    """How the smallest variant ends at one rate."""
    record, name = read_json(HERE / "rates.json"), "dense, equal active"
    yield record["runs"][name][1], run(VARIANTS[name], RATES[1])[1], 0.01


def record_rates() -> None:
    record = {"rates": RATES, "runs": {}, "seeds": {}}
    for name, mixture in VARIANTS.items():
        record["runs"][name] = [run(mixture, rate)[1] for rate in RATES]
    for name, mixture in VARIANTS.items():
        known, rate = best(record, name)
        rest = [run(mixture, rate, seed)[1] for seed in SEEDS[1:]]
        record["seeds"][name] = [known, *rest]
    rate, record["factors"] = best(record, MIXTURE)[1], FACTORS
    limited = [replace(VARIANTS[MIXTURE], factor=factor) for factor in FACTORS]
    record["limited"] = [run(each, rate)[1] for each in limited]
    store(HERE / "rates.json", record)


def record_routes() -> None:
    rate = best(read_json(HERE / "rates.json"), MIXTURE)[1]
    held_out, chosen, losses = king_james_ids()[1], [], []
    starts = torch.linspace(0, len(held_out) - SIZES.context, PIECES).long()
    text = held_out[starts[:, None] + torch.arange(SIZES.context)]

    @torch.no_grad()
    def watch(step, model):
        if step in STEPS:
            model(text)
            layers = [block.mlp.chosen.to(torch.uint8) for block in model.blocks]
            chosen.append(torch.stack(layers))

    for balance in BALANCE:
        mixture = replace(VARIANTS[MIXTURE], balance=balance)
        losses.append(run(mixture, rate, watch=watch)[1])
    shape = len(BALANCE), len(STEPS), *chosen[0].shape
    found = torch.stack(chosen).view(shape)  # (balance, steps, L, N, k)
    store(HERE / "routes.safetensors", {"chosen": found})
    facts = {"balance": BALANCE, "steps": STEPS, "losses": losses}
    store(HERE / "routes.json", facts)


def step_s(mixture) -> float:
    """Processor time of a step: forward, backward and the optimizers."""
    ids, generator = king_james_ids()[0], torch.Generator().manual_seed(0)
    recipe = replace(training.modern_recipe(TIMED), matrix_rate=RATES[0])
    model = experts.mixture_gpt(SIZES, recipe, mixture, generator)
    start = time.process_time()
    training.train(model, ids, recipe, generator=generator)
    return (time.process_time() - start) / TIMED


def record_times() -> None:
    """The best try of each variant; they take turns, so all meet a busy moment."""
    tries = [{n: step_s(v) for n, v in VARIANTS.items()} for _ in range(ROUNDS)]
    best_ms = {n: round(1000 * min(t[n] for t in tries), 1) for n in VARIANTS}
    facts = {"machine": machine(), "torch": torch.__version__, "step_ms": best_ms}
    store(HERE / "times.json", facts)


if __name__ == "__main__":
    make_parts(record_rates, record_routes, record_times)
