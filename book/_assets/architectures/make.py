"""Train the recall models of efficiency/architectures at all sizes and rates.

.venv/bin/python book/_tools/assets.py architectures (six minutes of a core)

Writes recall.json beside this file: for each kind of layer, width of keys and learning
rate the share of right answers by length of the list; the same for the lists with a
mark between them; and how the runs of the notebook end from other seeds. The share on
other lists, by which a rate is chosen, stands beside each.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from assets import read_json

from fieldguide.data import store
from fieldguide.efficiency import architectures

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "efficiency" / "architectures.ipynb"
CELLS = ["recall-batch", "recall-model", "softmax-causal", "kinds", "recaller"]
CELLS += ["recall-train", "recall-measure", "again-batch"]
IMPORTS = """
from fieldguide.transformers.attention import causal_mask, simple_attention
import torch.nn.functional as F
"""

STATES = [4, 8, 16, 32]
RATES = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16]
MARK_RATES = [0.0025, 0.005, 0.01, 0.02, 0.04]
LIVE = "gated state", 16, 0.02  # what the notebook trains itself
SEEDS = [0, 1, 2]
OTHER = 98  # draws the lists by which a rate is chosen


def book():
    """The names that the cells define."""
    names = dict(vars(architectures))
    exec(IMPORTS, names)
    cells = {c["id"]: "".join(c["source"]) for c in read_json(NOTEBOOK)["cells"]}
    for i in CELLS:
        exec(cells[i], names)
    return names


def recalled(names, kind, state, rate, seed=0):
    make = names["KINDS"][kind]
    model = names["train_recaller"](make, state, rate, names["lists"], seed)
    found = [round(share, 3) for share in names["recall"](model)]
    other = round(sum(names["recall"](model, OTHER)) / len(found), 4)
    return {"rate": rate, "recall": found, "other lists": other}


def after_mark(names, kind, rate, seed=0):
    make, batch = names["KINDS"][kind], names["two_lists"]
    model = names["train_recaller"](make, 16, rate, batch, seed)
    found = round(names["right_answers"](model, batch), 3)
    other = round(names["right_answers"](model, batch, OTHER), 4)
    return {"rate": rate, "right": found, "other lists": other}


def remade() -> Iterator[tuple]:
    """One run of the record."""
    again = recalled(book(), "attention", 4, 0.02)
    named = {"kind": "attention", "state": 4, "rate": 0.02}
    for kept in read_json(HERE / "recall.json")["runs"]:
        if named.items() <= kept.items():
            yield kept["recall"], again["recall"], 0.02


def main() -> None:
    names = book()
    record = {"runs": [], "two lists": {}}
    for kind in names["KINDS"]:
        for state in STATES:
            named = {"kind": kind, "state": state}
            runs = [recalled(names, kind, state, rate) for rate in RATES]
            record["runs"] += [named | run for run in runs]
        runs = [after_mark(names, kind, rate) for rate in MARK_RATES]
        rate = max(runs, key=lambda run: run["other lists"])["rate"]
        again = [after_mark(names, kind, rate, seed)["right"] for seed in SEEDS[1:]]
        record["two lists"][kind] = {"runs": runs, "seeds": again}
    seeds = [recalled(names, *LIVE, seed)["recall"] for seed in SEEDS[1:]]
    store(HERE / "recall.json", record | {"seeds": seeds})


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    main()
