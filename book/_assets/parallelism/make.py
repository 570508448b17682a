"""Measure two processes: a step of training in pieces and in stages, and writing.

.venv/bin/python book/_tools/assets.py parallelism (two minutes of two cores)

Writes points.json beside this file: milliseconds by the wall clock, the best of all
rounds. They need a machine with two idle cores; what each process does is in points.py.
"""

import sys
from pathlib import Path

from assets import machine

from fieldguide.data import store
from fieldguide.ranks import launch

HERE = Path(__file__).parent


def main() -> None:
    sys.path.insert(0, str(HERE))
    import points

    record = {"machine": machine(), "batch": points.BATCH, "context": points.CONTEXT}
    record |= {"width": points.WIDTH, "layers": points.LAYERS}
    launches = [launch(points.measure, 2, limit_s=600) for _ in range(3)]
    times = {  # a step is done when both processes are
        name: round(min(max(took[name] for took in both) for both in launches), 3)
        for name in launches[0][0]
    }
    record |= {"widths": points.WIDTHS, "times": times}
    store(HERE / "points.json", record)


if __name__ == "__main__":
    main()
