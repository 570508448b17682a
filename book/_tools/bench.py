"""Measure the book against its rivals, in one run.

    python book/_tools/bench.py [GROUP ...] [--json FILE]     (`make bench` calls it)

Prints a row a comparison: what, ours, the rival with its version, the smallest,
median and largest ratio ours / theirs, and the goal. Lower is better in every
row. Goals are goals: a missed one is said, and the command still exits 0, as
it does when a rival cannot be had. It exits 1 when our own side fails. What was
measured takes its place in BENCH.md, which says the same to a stranger.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import re
import statistics
import sys
import textwrap
import traceback
from pathlib import Path
from types import ModuleType

import torch
from rivals.measure import Absent, Row, machine, spread

REPORT = Path(__file__).resolve().parents[2] / "BENCH.md"

# modules of rivals/
GROUPS = ["attention", "training", "decode", "speculative", "serving", "scaling"]
GROUPS += ["experts", "quantization", "lora", "contrastive", "slider", "embed"]
GROUPS += ["parallel", "heads", "page", "search"]


def amount(value: float, unit: str) -> str:
    if unit not in ("ms", "s", "kB"):
        return f"{value:,.0f}"
    return f"{value:,.{1 if value < 100 else 0}f} {unit}"


def ratio(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


INTRODUCTION = """# How fast is the book?

Written by `make bench`. Each section puts code of the book beside what else does the
same work: both take turns on one machine, and every number is the median of several
rounds. **Lower is better in every row.** *Share* is the book's value divided by the
other's, the median of the rounds, with the smallest and the largest: 0.50 means half
the time or half the bytes. A *goal* was set before measuring; to miss one fails
nothing. The taught form is the one that a page explains; the fast form gives the same
numbers and comes after it.
"""


def line(row: Row) -> str:
    """A row of a table in Markdown."""
    theirs, share, goal = "", "", ""
    if isinstance(row.theirs, list):
        theirs = amount(statistics.median(row.theirs), row.unit)
    elif isinstance(row.theirs, Absent):
        theirs = f"not to be had ({row.theirs.why})"
    if row.ratios():
        least, middle, most = map(ratio, spread(row.ratios()))
        share = f"{middle} ({least} to {most})"
    if row.goal:
        of = f" {row.unit}" if row.goal.of == "ours" else " of it"
        goal = f"at most {row.goal}{of}: {row.verdict()}"
    ours = amount(statistics.median(row.ours), row.unit)
    return f"| {row.what} | {ours} | {row.rival} | {theirs} | {share} | {goal} |"


HEAD = """| what | the book | beside | its value | share | goal |
|---|--:|---|--:|---|---|"""


def section(module: ModuleType, rows: list[Row]) -> str:
    """What one group measured, as Markdown for somebody who was not there."""
    summary, _, more = module.__doc__.strip().partition("\n\n")
    day = datetime.date.today().isoformat()
    where = textwrap.fill(f"*Measured {day} on {machine()}.*", 88)
    parts = [f"## {module.TITLE}", summary, *([more] if more else []), where]
    return "\n\n".join([*parts, "\n".join([HEAD, *map(line, rows)])]) + "\n"


def report(found: dict[str, str], path: Path = REPORT) -> None:
    """Put the sections of the groups in `found` in their place in BENCH.md."""
    marked = re.compile(r"<!-- (\w+) -->\n(.*?)(?=<!-- \w+ -->|\Z)", re.S)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    known = {name: text.strip() + "\n" for name, text in marked.findall(before)}
    known |= found
    parts = [f"<!-- {g} -->\n{known[g]}" for g in GROUPS if g in known]
    path.write_text("\n".join([INTRODUCTION, *parts]), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    groups = ", ".join(GROUPS)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {groups}")
    parser.add_argument("--json", type=Path, help="also write every value here")
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no group {sorted(unknown)}; there are: {groups}")

    os.environ["JAXTYPING_DISABLE"] = "1"  # no check of a signature is timed
    torch.set_num_threads(1)
    print(machine())
    rows: dict[str, list[Row]] = {}
    written: dict[str, str] = {}
    failed = []
    for group in options.groups or GROUPS:
        rows[group] = []
        try:
            module = importlib.import_module(f"rivals.{group}")
            print(f"\n{module.TITLE}  [{group}]")
            print(HEAD)
            for row in module.rows():
                print(line(row), flush=True)
                rows[group].append(row)
            written[group] = section(module, rows[group])
        except Exception:
            traceback.print_exc()
            failed.append(group)
    report(written)
    if options.json:
        groups = {name: [row.record() for row in found] for name, found in rows.items()}
        values = {"machine": machine(), "groups": groups, "failed": failed}
        options.json.write_text(json.dumps(values, indent=1) + "\n")
    if failed:
        print(f"\nOur own side failed in: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
