"""A sentence in which a word looks back, and how it comes to what it takes."""

from __future__ import annotations

import numpy as np

from fieldguide.check import require
from fieldguide.explore.views import PARTS, View, _array, _labels, _sets

STEPS = ["word", "query", "keys", "scores", "weights", "values", "blend", "heads"]
STEPS += ["sum", "all"]
PARTS["arcs"] = {"word": "words", "step": "steps"}
TIMES = {"weights": 100, "scores": 10}  # whole steps from 0 to 1
SHAPES = {"query": 1, "keys": 2, "scores": 1, "values": 2, "heads": 2, "stream": 2}


def arcs(words, weights, asks, *, lookup=None, sets=None) -> View:
    """Arcs from the word number `asks` back to N `words`, as wide as `weights` (N,).

    `lookup` shows below how it comes about, by name and as far as given: "query" (Q,),
    "keys" (N, Q), "scores" (N,), "values" (N, V), stacked as tall as their weights
    above their sum, the blend; "heads" (H, V), the blends of all heads; and "stream"
    (2, W), what the word was and what is added to it. Each is a strip whose largest
    number is full, in 7 steps, values in 15; weights are hundredths, scores tenths.
    `sets`, a control's name, lets a click on word k set it to its k-th value. With
    {"word": control, "step": control} the drawing ends at the chosen step, one of
    STEPS, and says above what it does.
    """
    weights = _array("weights", weights, 1)
    words = _labels("words", words, len(weights))
    ok = isinstance(asks, int) and 0 <= asks < len(words)
    require(ok, "asks", asks, f"a word's number, 0 to {len(words) - 1}")
    ok = (weights >= 0).all() and not weights[asks + 1 :].any()
    ok = ok and abs(weights.sum() - 1) < 0.02
    require(ok, "weights", weights, "0 or more, 1 in all, and 0 after the word")
    arrays = {"weights": weights}
    for name, given in (lookup or {}).items():
        require(name in SHAPES, "lookup", name, f"one of {list(SHAPES)}")
        array = _array(f"lookup[{name!r}]", given, SHAPES[name])
        each = {"keys": len(words), "values": len(words), "scores": len(words)}
        count = each.get(name, 2 if name == "stream" else len(array))
        require(len(array) == count, f"len(lookup[{name!r}])", len(array), f"{count}")
        arrays[name] = array
    props = {
        "words": words,
        "asks": asks,
        "steps": STEPS,
        "wide": True,
        **_sets("arcs", sets),
    }
    for name, array in arrays.items():  # whole numbers are stored as they are
        full = 15 if name == "values" else 7
        times = TIMES.get(name, full / (abs(array).max() or 1))
        least = -10 if name == "scores" else -np.inf
        arrays[name] = np.round(np.maximum(array, least) * times)
    return View("arcs", arrays, props, bits=8)
