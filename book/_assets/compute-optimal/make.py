"""Train small GPTs of several sizes for four budgets: scaling/compute-optimal.

.venv/bin/python book/_tools/assets.py compute-optimal (four minutes of two cores)

grid.json has a row for each budget and width: how many tokens the budget buys at
6 operations for a parameter and a token, how the runs from SEEDS end, and the
processor time of the quickest. The largest budget is run from the first seed only.
"""

import contextlib
import io
import multiprocessing
import time
from pathlib import Path

import torch
from digest import digest_of, exported

from fieldguide.data import king_james, store
from fieldguide.introduction.next_word import characters, split_text, to_ids
from fieldguide.scaling import laws
from fieldguide.transformers.gpt import count_parameters
from fieldguide.transformers.training import new_gpt

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "scaling" / "laws.ipynb"
RUN_BY = ["sweep_config", "sweep_recipe", "sweep_loss"]

SEEDS = [0, 1, 2]
BUDGETS = {  # operations: widths
    4.0e9: [8, 12, 16, 24, 32],
    1.2e10: [8, 12, 16, 24, 32, 40],
    3.6e10: [12, 16, 24, 32, 40, 48],
    1.08e11: [16, 24, 32, 40, 48, 96],
}
ONCE = 1.08e11  # from the first seed only
STEP = 16 * 64  # tokens in a step of the recipe
CORES = 2


def digests() -> dict[str, str]:
    """Of the record: the digest of the definitions that make it today."""
    return {"grid.json": digest_of(exported(NOTEBOOK), RUN_BY)}


def parameters(width: int) -> int:
    model = new_gpt(laws.sweep_config(width), laws.sweep_recipe(), None)
    return count_parameters(model)


def steps_of(budget: float, width: int) -> int:
    return round(budget / (6 * parameters(width) * STEP))


def run(steps: int, width: int, seed: int) -> tuple[float, float]:
    """How a run ends, nats, and the processor time that it took, seconds."""
    torch.set_num_threads(1)  # a second thread changes the last digits
    text = king_james()
    alphabet = characters(text)
    ids, held_out = (to_ids(part, alphabet) for part in split_text(text))
    recipe = laws.sweep_recipe(steps)
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        loss = laws.sweep_loss(laws.sweep_config(width), recipe, ids, held_out, seed)
    took = time.process_time() - start
    print(f"{width:3} {steps:4} {seed}: {loss:.4f} nats, {took:.0f} s", flush=True)
    return round(loss, 4), round(took, 1)


def main() -> None:
    points = [(budget, width) for budget, widths in BUDGETS.items() for width in widths]
    jobs = [
        (steps_of(budget, width), width, seed)
        for budget, width in points
        for seed in (SEEDS[:1] if budget == ONCE else SEEDS)
    ]
    order = sorted(jobs, reverse=True)  # the longest first: no core waits for another
    with multiprocessing.get_context("fork").Pool(CORES) as pool:
        ends = dict(zip(order, pool.starmap(run, order, chunksize=1), strict=True))
    runs = []
    for budget, width in points:
        steps = steps_of(budget, width)
        seeds = SEEDS[:1] if budget == ONCE else SEEDS
        losses, took = zip(*(ends[steps, width, seed] for seed in seeds), strict=True)
        row = {"budget": budget, "width": width, "parameters": parameters(width)}
        row |= {"steps": steps, "tokens": steps * STEP, "losses": list(losses)}
        runs.append(row | {"cpu_s": min(took)})
    made = {"digest": digests()["grid.json"], "seeds": SEEDS}
    store(HERE / "grid.json", made | {"runs": runs})


if __name__ == "__main__":
    main()
