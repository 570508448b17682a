"""Time two ranks that train one GPT, for deployment/data-parallel, and record it.

.venv/bin/python book/_tools/assets.py data-parallel (three minutes of two cores)

Writes beside this file speed.json: how many times as fast as one process two ranks are,
the book's and torch's DistributedDataParallel, for each of BATCHES. They take turns in
one run, and both cores must be free. The other files beside this one, train.py and
those that start it on a cluster, are written by hand.
"""

from pathlib import Path

from assets import machine
from rivals import parallel

from fieldguide.data import store

HERE = Path(__file__).parent
BATCHES = [4, 8, 16, 32]
ROUNDS = 9


def main() -> None:
    took = [parallel.measured(batch, ROUNDS, steps=1) for batch in BATCHES]
    found = [parallel.speedups(ms) for ms in took]
    record = {
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
