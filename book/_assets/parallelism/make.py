"""Measure two processes: a step of training in pieces and in stages, and writing.

.venv/bin/python book/_tools/assets.py parallelism (two minutes of two cores)

Writes points.json beside this file: milliseconds by the wall clock, the best of all
rounds. They need a machine with two idle cores; what each process does is in points.py.
A number as argument: so many rounds. The best of what is stored already and of the new
rounds stays, as long as both are of the same definitions and machine.
"""

import json
import sys
from pathlib import Path

from assets import machine, stale

from fieldguide.data import store
from fieldguide.deployment.data_parallel import launch

HERE = Path(__file__).parent
LAUNCHES, ROUNDS = 3, 20


def merged(pick, first, *more):
    """pick(first, *more) of times, in lists and dicts of such."""
    if isinstance(first, dict):
        return {key: merged(pick, first[key], *(m[key] for m in more)) for key in first}
    if isinstance(first, list):
        return [merged(pick, *times) for times in zip(first, *more, strict=True)]
    return pick(first, *more)


def best(old, new):
    """The smaller time; 0 is of a process that waited."""
    return min(old, new) or max(old, new)


def rounded(ms):
    """To a microsecond."""
    return round(ms, 3)


def main(rounds: int) -> None:
    sys.path.insert(0, str(HERE))
    import points

    path = HERE / "points.json"
    facts = {"machine": machine()}
    facts |= {"batch": points.BATCH, "context": points.CONTEXT}
    facts |= {"width": points.WIDTH, "layers": points.LAYERS}
    facts |= {"widths": points.WIDTHS, "texts": points.TEXTS, "depth": points.DEPTH}
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = not stale(HERE / "make.py")
    same &= all(stored.get(key) == value for key, value in facts.items())
    found = stored["times"] if same else None
    for _ in range(LAUNCHES):
        both = launch(points.measure, 2, rounds, limit_s=600)
        new = merged(max, *both)  # a step is done when both processes are
        found = merged(best, found, new) if found else new
        store(path, facts | {"times": merged(rounded, found)})


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else ROUNDS)
