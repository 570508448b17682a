"""A transformer as a tower: letters at the foot, above each its stream."""

from __future__ import annotations

import numpy as np

from fieldguide.check import require
from fieldguide.explore.views import PARTS, View, _array, _labels, _sets

PARTS["tower"] = {"column": "letters", "level": "levels"}
WHERE = {"stream": 0, "guess": 0, "attention": 1, "MLP": 1}  # and their least number


def tower(
    letters,
    stream,
    *,
    arcs,
    guesses,
    probabilities,
    chosen,
    sizes=None,
    before="...",
    notes=None,
    sets=None,
) -> View:
    """L blocks of attention and MLP over C `letters`, each column with its stream.

    `stream` (2 L + 1, C, N) is what it holds at first and after each part, `arcs`
    (L, C, C + 1) how much a column takes from the text `before` and from each column,
    none of them later. `guesses` L + 1 rows of C letters and `probabilities`
    (L + 1, C) are what a level says comes next, `sizes` L + 1 words. `chosen` are the
    numbers of a column and a level. `notes` has words for (part, number): "stream" and
    "guess" from 0 to L, "attention" and "MLP" from 1. `sets` names the control of
    the "column" and that of the "level".
    """
    letters, stream = [str(letter) for letter in letters], _array("stream", stream, 3)
    L, C = len(stream) // 2, len(letters)
    shapes = {"stream": (2 * L + 1, C, stream.shape[2]), "arcs": (L, C, C + 1)}
    shapes |= {"probabilities": (L + 1, C), "chosen": (2,)}
    given = {"arcs": arcs, "probabilities": probabilities, "chosen": chosen}
    arrays = {"stream": stream}
    arrays |= {name: _array(name, x, len(shapes[name])) for name, x in given.items()}
    for name, array in arrays.items():
        require(array.shape == shapes[name], f"{name}.shape", array.shape, shapes[name])
    later = np.triu(arrays["arcs"][..., 1:], 1).any() or arrays["arcs"].min() < 0
    require(not later, "arcs", arcs, "0 or more, and 0 from later columns")
    known = not (arrays["chosen"] != arrays["chosen"].clip(0, (C - 1, L))).any()
    require(known, "chosen", chosen, f"a column to {C - 1} and a level to {L}")
    loud = 1.5 * np.sqrt(np.square(stream).mean((1, 2), keepdims=True))
    arrays["stream"] = (stream / np.where(loud > 0, loud, 1)).clip(-1, 1)
    guesses = [_labels("guesses", row, C) for row in guesses]
    require(len(guesses) == L + 1, "len(guesses)", len(guesses), f"{L + 1}")
    for where in notes or {}:
        ok = isinstance(where, tuple) and len(where) == 2 and where[0] in WHERE
        ok = ok and WHERE[where[0]] <= where[1] <= L
        require(ok, "notes", where, f"one of {list(WHERE)} and a number to {L}")
    props = {"letters": letters, "before": before, "guesses": guesses}
    props |= {"levels": ["from the table", *(f"after block {b + 1}" for b in range(L))]}
    props |= {"sizes": _labels("sizes", sizes, L + 1), **_sets("tower", sets)}
    props["annotations"] = [[*where, words] for where, words in (notes or {}).items()]
    return View("tower", arrays, props, bits=8)
