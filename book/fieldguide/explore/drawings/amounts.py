"""Amounts of several parts as bars, with one colour a part."""

from __future__ import annotations

from fieldguide.check import require
from fieldguide.explore.drawings.strips import HUES
from fieldguide.explore.views import PARTS, View, _array

PARTS["amounts"] = {}


def amounts(rows, *, unit="", hues=()) -> View:
    """Stacked horizontal bars: `rows` maps a name to a dict of part: amount, 0 or more.

    All rows have the same parts. Their colours are HUES in order, or `hues`, one a
    part; the sum stands behind each bar, with its `unit`.
    """
    ok = (
        isinstance(rows, dict)
        and rows
        and all(isinstance(r, dict) for r in rows.values())
    )
    require(ok, "rows", rows, "a dict of name: {part: amount}")
    parts = [*next(iter(rows.values()))]
    for name, row in rows.items():
        require([*row] == parts, f"parts of {name!r}", [*row], f"{parts}")
    hues = list(hues) or list(HUES)[: len(parts)]
    ok = len(hues) == len(parts) and set(hues) <= set(HUES)
    require(ok, "hues", hues, f"one of {HUES} for each of {parts}")
    values = _array("rows", [list(row.values()) for row in rows.values()], 2)
    require(values.min() >= 0, "rows", rows, "amounts of 0 or more")
    props = {"labels": list(map(str, rows)), "parts": list(map(str, parts))}
    return View("amounts", {"values": values}, props | {"hues": hues, "unit": unit})
