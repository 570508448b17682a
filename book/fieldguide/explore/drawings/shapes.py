"""A frozen square matrix and the two thin ones beside it, to one scale."""

from __future__ import annotations

import numpy as np

from fieldguide.check import require
from fieldguide.explore.views import PARTS, View, _sets

PARTS["shapes"] = {"width": "square", "rank": "strips"}


def shapes(sizes, *, sets=None) -> View:
    """A square matrix and two strips: `sizes` maps three names to (rows, columns).

    The first, (D, D), is frozen and grey; the second, (r, D), and the third, (D, r),
    are trained. How many numbers they hold is written on them. `sets` names the
    controls whose values are D and r, as {"width": ..., "rank": ...}: the corner of
    the square and the edges of the strips are then knobs that move them.
    """
    fit = isinstance(sizes, dict) and len(sizes) == 3
    if fit:
        (D, width), (rank, across), (down, thin) = sizes.values()
        fit = D == width == across == down and 0 < rank == thin
    require(fit, "sizes", sizes, "three names and their (D, D), (r, D), (D, r)")
    first, *others = map(str, sizes)
    props = {"square": [first], "strips": others, "values_log": True, "wide": True}
    values = np.array([D, rank], float)
    return View("shapes", {"values": values}, props | _sets("shapes", sets), bits=32)
