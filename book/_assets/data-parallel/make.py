"""Record what deployment/data-parallel shows from files: memory, and two ranks' times.

.venv/bin/python book/_tools/assets.py data-parallel speed (three minutes of two cores)

Writes beside this file memory.json, what a device keeps of a parameter, and speed.json:
how many times as fast as one process two ranks are, the book's and torch's
DistributedDataParallel, for each of BATCHES. They take turns in one run, and both cores
must be free. train.py and what starts it on a cluster are written by hand.
"""

from collections.abc import Iterator
from pathlib import Path

from assets import machine, make_parts, read_json
from rivals import parallel

from fieldguide.data import store
from fieldguide.deployment.data_parallel import SPREAD, device_bytes

HERE = Path(__file__).parent
DEVICES = [1, 2, 4, 8, 16, 32, 64]
BATCHES = [4, 8, 16, 32]


def kept_of_one() -> dict:
    """{way: {devices: bytes on each of them, for one parameter}}."""
    return {way: {str(n): device_bytes(1, n, way) for n in DEVICES} for way in SPREAD}


def remade() -> Iterator[tuple]:
    kept, again = read_json(HERE / "memory.json")["bytes"], kept_of_one()
    for way in SPREAD:
        for n, each in again[way].items():
            yield [*kept[way][n].values()], [*each.values()], 0


def record_memory() -> None:
    store(HERE / "memory.json", {"bytes": kept_of_one()})


def record_speed() -> None:
    took = [parallel.measured(batch) for batch in BATCHES]
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
    make_parts(record_memory, record_speed)
