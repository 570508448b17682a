"""Measure the book against its rivals, in one run.

    python book/_tools/bench.py [GROUP ...] [--json FILE]     (`make bench` calls it)

Prints a row a comparison: what, ours, the rival with its version, the smallest,
median and largest ratio ours / theirs, and the goal. Lower is better in every
row. Goals are goals: a missed one is said, and the command still exits 0, as
it does when a rival cannot be had. It exits 1 when our own side fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import traceback
from pathlib import Path

from rivals.measure import Absent, Row, machine, spread

# modules of rivals/
GROUPS = ["attention", "training", "decode", "experts", "quantization", "lora"]
GROUPS += ["contrastive", "slider", "embed", "heads", "page"]
COLUMNS = "  {:<28}{:>10}  {:<45}{:>10}  {:>5} {:>6} {:>5}  {:>12}  {}"

HEADS = "what", "ours", "rival", "theirs", "min", "median", "max", "goal", ""


def amount(value: float, unit: str) -> str:
    if unit not in ("ms", "s", "kB"):
        return f"{value:,.0f}"
    return f"{value:,.{1 if value < 100 else 0}f} {unit}"


def ratio(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def show(row: Row) -> None:
    theirs, three, goal = "", ["", "", ""], ""
    if isinstance(row.theirs, list):
        theirs = amount(statistics.median(row.theirs), row.unit)
    if row.ratios():
        three = [ratio(value) for value in spread(row.ratios())]
    if row.goal:
        unit = row.unit if row.goal.of == "ours" else "x"
        goal = f"<= {row.goal} {unit}"
    ours = amount(statistics.median(row.ours), row.unit)
    cells = row.what, ours, row.rival, theirs, *three, goal, row.verdict()
    print(COLUMNS.format(*cells).rstrip(), flush=True)
    if isinstance(row.theirs, Absent):
        print(f"      not compared: {row.theirs.why}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    groups = ", ".join(GROUPS)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {groups}")
    parser.add_argument("--json", type=Path, help="also write every value here")
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no group {sorted(unknown)}; there are: {groups}")

    print(machine())
    rows: dict[str, list[dict]] = {}
    failed = []
    for group in options.groups or GROUPS:
        rows[group] = []
        try:
            module = importlib.import_module(f"rivals.{group}")
            print(f"\n{module.TITLE}  [{group}]")
            print(COLUMNS.format(*HEADS).rstrip())
            for row in module.rows():
                show(row)
                rows[group].append(row.record())
        except Exception:
            traceback.print_exc()
            failed.append(group)
    if options.json:
        report = {"machine": machine(), "groups": rows, "failed": failed}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if failed:
        print(f"\nOur own side failed in: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
