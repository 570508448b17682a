"""Time two ranks that train one GPT, for deployment/data-parallel, and record it.

.venv/bin/python book/_tools/assets.py data-parallel (three minutes of two cores)

Writes beside this file speed.json: how many times as fast as one process two ranks are,
the book's and torch's DistributedDataParallel, for each of BATCHES. They take turns in
one run, and both cores must be free. The record holds the digest of the code that made
it. The other files beside this one, train.py and those that start it on a cluster, are
written by hand.
"""

from pathlib import Path

from assets import machine
from digest import digest_of, exported
from rivals import parallel

from fieldguide.data import store

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "deployment" / "data-parallel.ipynb"
MADE_BY = ["average_gradients", "part_of_batch"]
BATCHES = [4, 8, 16, 32]
ROUNDS = 9


def digests() -> dict[str, str]:
    """Of the record: the digest of the definitions that make it today."""
    return {"speed.json": digest_of(exported(NOTEBOOK), MADE_BY)}


def main() -> None:
    took = [parallel.measured(batch, ROUNDS, steps=1) for batch in BATCHES]
    found = [parallel.speedups(ms) for ms in took]
    record = {
        "digest": digests()["speed.json"],
        "machine": machine(),
        "batches": BATCHES,
        "speedup": {
            name: [round(each[name], 3) for each in found] for name in ("ours", "DDP")
        },
    }
    store(HERE / "speed.json", record)
    print(record["speedup"])


if __name__ == "__main__":
    main()
