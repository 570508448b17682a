"""Rivals timed in turn, and the row that says how they compare."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from assets import processor

SLACK = 1.15  # a time may exceed its goal by this much before it is missed


@dataclass(frozen=True)
class Goal:
    """At most `limit`, for the median of our own values or of ours / theirs."""

    limit: float
    of: str = "ratio"  # or "ours"

    def __str__(self) -> str:
        # 1/20 of a rival's time reads better than 0.05 of it
        if self.of == "ratio" and self.limit <= 0.5:
            return f"1/{1 / self.limit:.3g}"
        return f"{self.limit:,.4g}"


@dataclass(frozen=True)
class Absent:
    """A rival that could not be run here, and why."""

    why: str


@dataclass(frozen=True)
class Row:
    """One comparison on the same work; lower is better everywhere.

    `ours` and `theirs` are values of one round each, in `unit`; `theirs` is
    an Absent where the rival could not be run, None where there is none.
    """

    what: str
    unit: str  # "ms", "s", "kB" or a plural noun
    ours: list[float]
    rival: str
    theirs: list[float] | Absent | None
    goal: Goal | None = None

    def ratios(self) -> list[float]:
        """Ours / theirs round by round, sorted; empty if there is no rival."""
        if not isinstance(self.theirs, list):
            return []
        pairs = zip(self.ours, self.theirs, strict=True)
        return sorted(mine / other for mine, other in pairs if other)

    def verdict(self) -> str:
        if self.goal is None:
            return ""
        values = self.ours if self.goal.of == "ours" else self.ratios()
        if not values:
            return "not compared"
        value = statistics.median(values)
        if value <= self.goal.limit:
            return "met"
        if self.unit in ("ms", "s") and value <= SLACK * self.goal.limit:
            return "within 15 %"
        return "missed"

    def record(self) -> dict:
        """The row as JSON, with its ratios and its verdict."""
        return {**asdict(self), "ratios": self.ratios(), "verdict": self.verdict()}


def spread(values: list[float]) -> tuple[float, float, float]:
    """Minimum, median, maximum."""
    return min(values), statistics.median(values), max(values)


def attempt(action: Callable, *arguments):
    """`action(...)`, or an Absent: what a rival does wrong is not our error."""
    try:
        return action(*arguments)
    except Exception as error:
        words = " ".join(str(error).split())[:160]
        return Absent(f"{type(error).__name__}: {words}")


def alternate(
    rivals: dict[str, Callable[[], float] | Absent], *, rounds: int, warm: int = 1
) -> dict[str, list[float] | Absent]:
    """What each rival answers, once a round, in an order that turns.

    The first `warm` rounds, which fill caches and allocators, are dropped.
    A rival that is Absent, or raises, is Absent in the answer.
    """
    took: dict = {n: r if isinstance(r, Absent) else [] for n, r in rivals.items()}
    names = list(rivals)
    for round_ in range(rounds + warm):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            if isinstance(took[name], Absent):
                continue
            value = attempt(rivals[name])
            if isinstance(value, Absent):
                took[name] = value
            else:
                took[name].append(value)
    return {n: t if isinstance(t, Absent) else t[warm:] for n, t in took.items()}


def each(make: Callable, sides: dict) -> dict:
    """`make(side)` of every side that is not Absent."""
    return {n: s if isinstance(s, Absent) else make(s) for n, s in sides.items()}


def beside(
    took: dict, what: str, mine: str, rival: str, theirs: str, goal: Goal | None = None
) -> Row:
    """Two of the sides that `alternate` timed; RuntimeError where ours did not run."""
    return Row(what, "ms", own(took[mine]), rival, took[theirs], goal)


def processor_ms(action: Callable[[], object], repeats: int) -> Callable[[], float]:
    """A rival for `alternate`: milliseconds of processor time a call."""

    def timed() -> float:
        start = time.process_time()
        for _ in range(repeats):
            action()
        return 1e3 * (time.process_time() - start) / repeats

    return timed


def processor_times(
    sides: dict[str, Callable[[], object] | Absent], *, rounds: int, repeats: int = 1
) -> dict[str, list[float] | Absent]:
    """Milliseconds of processor time a call of each side, by `alternate`."""
    timed = each(lambda side: processor_ms(side, repeats), sides)
    return alternate(timed, rounds=rounds)


def own(took: list[float] | Absent) -> list[float]:
    """Our own values; RuntimeError where our side did not run."""
    if isinstance(took, Absent):
        raise RuntimeError(took.why)
    return took


def versioned(package: str) -> str:
    """`package` with its version, or without one if it is not installed."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def machine() -> str:
    """The processor, its cores, the system and the versions, in one line."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"{processor()}, {os.cpu_count()} cores{load}, {platform.system()}, "
        f"Python {python}, {versioned('torch')}"
    )
