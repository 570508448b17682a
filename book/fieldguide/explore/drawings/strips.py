"""Vectors as strips of cells, one below the other."""

from __future__ import annotations

import numpy as np

from fieldguide.check import require
from fieldguide.explore.views import PARTS, View, _array, _sets

HUES = ("stream", "query", "key", "value", "prob", "frozen")
PARTS["strips"] = {"row": "rows"}


def projection(vectors, cells=16):
    """A map (cells, D) for strips of vectors (N, D): what it maps still adds up.

    Its rows are the directions that keep most of the vectors, each taken as long as
    1 (SVD), turned so that each vector needs few of them (varimax).
    """
    vectors = _array("vectors", vectors, 2)
    most = min(vectors.shape)
    require(1 <= cells <= most, "cells", cells, f"1 to {most}, vectors' least axis")
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    kept = np.linalg.svd(vectors, full_matrices=False)[2][:cells]
    parts, turn = vectors @ kept.T, np.eye(cells)
    for _ in range(200):
        now = parts @ turn
        target = now**3 - now * np.square(now).mean(0)
        left, _, right = np.linalg.svd(parts.T @ target)
        turn = left @ right
    return turn.T @ kept


def strips(
    rows, *, hues="stream", signs=None, notes=None, high=None, sets=None
) -> View:
    """Vectors (C,) by name, each a strip of C cells: `rows` maps a name to its values.

    A cell above zero has the row's hue, one below zero is ink and half as tall; full
    is `high` (without: the largest size that any setting has). `hues` is one of HUES
    or one a row, `signs` a "+" or "=" before each row, and `notes` the words behind
    it. `sets`, a control's name, lets a click on row k set it to its k-th value.
    """
    require(isinstance(rows, dict) and rows, "rows", rows, "a dict, not empty")
    values = _array("rows", list(rows.values()), 2)
    each = {"hues": [hues] * len(rows) if isinstance(hues, str) else list(hues)}
    each |= {"signs": signs or [""] * len(rows), "notes": notes or [""] * len(rows)}
    for name, given in each.items():
        require(len(given) == len(rows), f"len({name})", len(given), f"{len(rows)}")
    for hue in each["hues"]:
        require(hue in HUES, "hues", hue, f"one of {HUES}")
    props = {"rows": [str(name) for name in rows], **each, **_sets("strips", sets)}
    props |= {} if high is None else {"high": float(high)}
    return View("strips", {"values": values}, props, bits=8 if values.size > 64 else 32)
