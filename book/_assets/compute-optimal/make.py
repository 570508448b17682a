"""Train small GPTs of several sizes for four budgets: scaling/compute-optimal.

.venv/bin/python book/_tools/assets.py compute-optimal (four minutes of two cores)

grid.json has a row for each budget and width: how many tokens the budget buys at
6 operations for a parameter and a token, how the runs from SEEDS end, and the
processor time of the quickest. The largest budget is run from the first seed only.
"""

from collections.abc import Iterator
from pathlib import Path

import assets
from assets import read_json

from fieldguide.data import store
from fieldguide.scaling import laws

HERE = Path(__file__).parent

SEEDS = [0, 1, 2]
BUDGETS = {  # operations: widths
    4.0e9: [8, 12, 16, 24, 32],
    1.2e10: [8, 12, 16, 24, 32, 40],
    3.6e10: [12, 16, 24, 32, 40, 48],
    1.08e11: [16, 24, 32, 40, 48, 96],
}
ONCE = 1.08e11  # from the first seed only
STEP = 16 * 64  # tokens in a step of the recipe
sweep = assets.load(assets.makers()["laws"])  # which trains one point, and many


def steps_of(budget: float, width: int) -> int:
    return round(budget / (6 * sweep.parameters(width) * STEP))


def run(steps: int, width: int, seed: int) -> tuple[float, float]:
    return sweep.end(width, laws.sweep_recipe(steps), seed, steps)


def remade() -> Iterator[tuple]:
    """The run of the fewest steps."""
    kept = read_json(HERE / "grid.json")["runs"]
    (kept,) = (row for row in kept if (row["budget"], row["width"]) == (4.0e9, 32))
    loss, _ = run(steps_of(4.0e9, 32), 32, SEEDS[0])
    yield kept["losses"][0], loss, 0.01


def main() -> None:
    points = [(budget, width) for budget, widths in BUDGETS.items() for width in widths]
    jobs = [
        (steps_of(budget, width), width, seed)
        for budget, width in points
        for seed in (SEEDS[:1] if budget == ONCE else SEEDS)
    ]
    ends = dict(zip(jobs, sweep.trained(run, jobs), strict=True))
    runs = []
    for budget, width in points:
        steps = steps_of(budget, width)
        seeds = SEEDS[:1] if budget == ONCE else SEEDS
        losses, took = zip(*(ends[steps, width, seed] for seed in seeds), strict=True)
        row = {"budget": budget, "width": width, "parameters": sweep.parameters(width)}
        row |= {"steps": steps, "tokens": steps * STEP, "losses": list(losses)}
        runs.append(row | {"cpu_s": min(took)})
    made = {"seeds": SEEDS}
    store(HERE / "grid.json", made | {"runs": runs})


if __name__ == "__main__":
    main()
