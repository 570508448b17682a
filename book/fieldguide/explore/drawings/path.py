"""Ways over a plane: places in an order, joined by a line, and a knob on each way."""

from __future__ import annotations

from fieldguide.check import require
from fieldguide.explore.views import PARTS, View, _array, _range, _sets

PARTS["path"] = {"first": "firsts", "second": "seconds"}


def path(
    ways,
    *,
    at,
    limit=None,
    ends=(0, 100),
    low=None,
    high=None,
    sets=None,
    axes=("", ""),
) -> View:
    """One or two ways: `ways` maps a name to its places, {label: (x, y)}, in order.

    `at` has the label of each way's present place: what comes after is faint. `ends`
    are those of the x axis; `limit`, (x, words), shades what is left of its x; `axes`
    are the names of both. `sets`, a control's name for each way, gives a way a knob,
    which takes the control to the value that is called as the place.
    """
    require(1 <= len(ways) <= 2, "len(ways)", len(ways), "1 or 2")
    require(len(at) == len(ways), "len(at)", len(at), f"{len(ways)}")
    props = {"names": list(ways), "ends": list(ends), **_range(low, high)}
    props |= {"x_axis": axes[0], "y_axis": axes[1]}
    props |= {"limit": [float(limit[0]), limit[1]]} if limit else {}
    props |= _sets(
        "path", dict(zip(PARTS["path"], sets, strict=False)) if sets else None
    )
    spots, now = [], []
    for part, places, here in zip(
        PARTS["path"].values(), ways.values(), at, strict=False
    ):
        labels = props[part] = [str(label) for label in places]
        require(str(here) in labels, "at", here, f"one of {labels}")
        now.append(labels.index(str(here)))
        spots += places.values()
    spots = _array("ways", spots, 2)
    require(spots.shape[1] == 2, "ways", spots.shape, "(x, y) for each place")
    return View(
        "path", {"x": spots[:, 0], "y": spots[:, 1], "at": _array("at", now, 1)}, props
    )
