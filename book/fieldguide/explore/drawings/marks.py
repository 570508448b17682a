"""A piece of a transformer in the book's marks: how they are read, on one drawing."""

from __future__ import annotations

from fieldguide.check import require
from fieldguide.explore.views import PARTS, View, _array, _labels, _sets

PARTS["marks"] = {"word": "words"}


def marks(words, vectors, weights, *, operation, sets=None) -> View:
    """T words as chips, with their `vectors` (3, T, C) at three heights.

    Between the lower two the chosen word takes values from the others, by its
    `weights` (T,), between the upper two it goes through the `operation`. `sets`, a
    control's name, lets a click on the k-th word set it to its k-th value.
    """
    weights = _array("weights", weights, 1)
    props = {"words": _labels("words", words, len(weights)), "operation": operation}
    vectors = _array("vectors", vectors, 3)
    fits = vectors.shape[:2] == (3, len(weights))
    require(fits, "vectors.shape", vectors.shape, f"(3, {len(weights)}, C)")
    props |= _sets("marks", sets)
    return View("marks", {"vectors": vectors, "weights": weights}, props)
