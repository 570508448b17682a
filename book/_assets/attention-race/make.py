"""Train the two readers of transformers/attention, and record their race.

.venv/bin/python book/_tools/assets.py attention-race (a minute of a core)

Writes race.json beside this file: for each reader, distance and run the share of right
answers at each of the steps, and for attention the mean weight on the flag; to four
decimals. Rounding changes the path of an RNN at distances 8 and 16, so that another
processor's record differs there.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from assets import read_json

from fieldguide.data import store
from fieldguide.transformers.attention import READERS, train_reader

HERE = Path(__file__).parent

DISTANCES = [2, 8, 16, 32]
STEPS = list(range(0, 301, 20))
RUNS = [1, 2, 3]  # from the seeds 0, 1, 2


def raced(name: str, distance: int, run: int) -> dict:
    """One run: its curves, rounded to what the page draws."""
    found = train_reader(name, distance, run - 1, STEPS[-1])
    right, weight = zip(*found, strict=True)
    curves = {"right": [round(share, 4) for share in right]}
    if None not in weight:
        curves["weight"] = [round(share, 4) for share in weight]
    print(name, distance, run, curves["right"][-1], flush=True)
    return {"reader": name, "distance": distance, "run": run, **curves}


def remade() -> Iterator[tuple]:
    """One run of the record, and its curves made today; a row or two may flip."""
    kept = read_json(HERE / "race.json")["runs"]
    again = raced("attention", 2, 1)
    names = "reader", "distance", "run"
    (kept,) = (r for r in kept if all(r[name] == again[name] for name in names))
    yield kept["right"], again["right"], 0.005
    yield kept["weight"], again["weight"], 0.001


def main() -> None:
    runs = [raced(name, d, run) for name in READERS for d in DISTANCES for run in RUNS]
    settings = {"distances": DISTANCES, "steps": STEPS}
    made = {**settings, "runs": runs}
    store(HERE / "race.json", made)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    main()
