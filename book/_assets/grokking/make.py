"""Train the adders of scaling/grokking, and record them.

.venv/bin/python book/_tools/assets.py grokking (five minutes on two cores)

Writes beside this file run.safetensors: the tables of one network at STEPS, in 16 bits;
and runs.json: its accuracy on shown and on hidden sums, and that of networks with other
weight decays, parts of the table and seeds, and what the first figure shows. Both are
made by the notebook's own cells.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import read_json
from safetensors.torch import load_file

from fieldguide.data import store
from fieldguide.scaling import grokking

HERE = Path(__file__).parent

P, D, N = 59, 64, 128
SHOWN, DECAY = 0.6, 1.0  # of the run that the page is about
STEPS = [0, 10, 20, 30, 50, 70, 100, 150, 200, 250, 300, 350, 400, 450, 500]
STEPS += [600, 700, 800, 1000, 1200]
LENGTH, EVERY = 2000, 50  # of the other runs
DECAYS = [0.0, 0.1, 0.3, 1.0, 3.0, 10.0]
PARTS = [0.3, 0.4, 0.5, 0.6, 0.8]
SEEDS = [0, 1, 2]


def start(part, seed):
    """A network, the sums that it sees, and those that it doesn't."""
    draw = torch.Generator().manual_seed(seed)
    places = grokking.hide(P * (P + 1) // 2, part, draw)
    both = [[column[at] for column in grokking.sums(P)] for at in places]
    return grokking.Adder(P, D, N, draw), *both


def scored(decay, part, seed):
    """A run's accuracy on the shown and on the hidden sums, by step."""
    torch.set_num_threads(1)
    model, shown, hidden = start(part, seed)
    found = {"step": [], "shown": [], "hidden": []}

    def watch(step, _loss):
        if step % EVERY == 0:
            found["step"].append(step)
            for name, asked in ("shown", shown), ("hidden", hidden):
                found[name].append(round(grokking.accuracy(model, asked), 4))

    grokking.learn_sums(model, shown, grokking.adder_recipe(LENGTH, decay), watch)
    return {"decay": decay, "part": part, "seed": seed, **found}


def recorded(steps=STEPS):
    """The tables of the page's run at `steps`: {name: (steps, ., .)}."""
    torch.set_num_threads(1)
    model, shown, _ = start(SHOWN, 0)
    kept = {name: [] for name, _ in model.named_parameters()}

    def watch(step, _loss):
        if step in steps:
            for name, table in model.named_parameters():
                kept[name].append(table.detach().half())

    watch(0, None)
    recipe = grokking.adder_recipe(steps[-1], DECAY)
    grokking.learn_sums(model, shown, recipe, watch)
    return {name: torch.stack(tables) for name, tables in kept.items()}


def film(tables):
    """What the first figure shows at STEPS: what is right, and the strongest wheel."""
    model, *both = start(SHOWN, 0)
    right = {"shown": [], "hidden": []}
    for at in range(len(STEPS)):
        model.load_state_dict({name: table[at] for name, table in tables.items()})
        for found, asked in zip(right.values(), both, strict=True):
            found.append(round(grokking.accuracy(model, asked), 4))
    vectors = tables["vectors"].double()  # (steps, p, D)
    k = grokking.wheel_shares(vectors[-1]).argmax().item() + 1
    turning = grokking.wheel(P, k, torch.double) @ vectors[-1]
    circle = vectors @ F.normalize(turning, dim=-1).T  # (steps, p, 2)
    return {"wheel": k, **right, "circle": circle.round(decimals=3).tolist()}


def remade() -> Iterator[tuple]:
    """The first ten steps of the page's run, and what its figure shows of it."""
    kept = load_file(HERE / "run.safetensors")
    known = read_json(HERE / "runs.json")["film"]
    for name, again in film(kept).items():
        yield torch.tensor(known[name]).numpy(), torch.tensor(again).numpy(), 2e-3
    for name, again in recorded(steps=STEPS[:2]).items():
        for step, tolerance in (0, 1e-3), (1, 0.02):
            yield kept[name][step].numpy(), again[step].numpy(), tolerance


def main() -> None:
    plans = [(DECAY, part, seed) for seed in SEEDS for part in PARTS]
    others = [decay for decay in DECAYS if decay != DECAY]
    plans += [(decay, SHOWN, seed) for seed in SEEDS for decay in others]
    with ProcessPoolExecutor(2) as workers:
        tables = workers.submit(recorded)
        runs = list(workers.map(scored, *zip(*plans, strict=True)))
    store(HERE / "run.safetensors", tables.result())
    made = {"p": P, "D": D, "N": N, "part": SHOWN, "steps": STEPS}
    made |= {"film": film(tables.result()), "runs": runs}
    store(HERE / "runs.json", made)


if __name__ == "__main__":
    main()
