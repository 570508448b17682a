"""Pictures down, captions across, and how well each two of them agree."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from fieldguide.check import require
from fieldguide.explore.views import PARTS, View, _array, _labels, pictures

PARTS["match"] = {}


def match(images, captions, cosines, shares, *, groups=None) -> View:
    """A table of N pictures and their captions, the right pairs on its diagonal.

    `images` are (N, H, W, 3), as `pictures` takes them, and `captions` N strings. A
    cell is tinted by its cosine (N, N) and has a bar for its share (N, N), 0 to 1;
    under the pointer its two directions are drawn with their angle. `groups` are N
    words, equal for rows of one kind: a line parts the kinds.
    """
    drawn = pictures(images, captions).arrays["values"].astype(np.uint8)
    count = len(drawn)
    arrays = {"cosines": _array("cosines", cosines, 2)}
    arrays["shares"] = _array("shares", shares, 2)
    for name, array in arrays.items():
        shape = array.shape
        require(shape == (count, count), f"{name}.shape", shape, f"{count} by {count}")
        low = -1 if name == "cosines" else 0
        inside = low - 1e-6 <= array.min() and array.max() <= 1 + 1e-6
        require(inside, name, array, f"from {low} to 1")
    groups = _labels("groups", groups or [""] * count, count)
    props = {"images": [_png(each) for each in drawn], "groups": groups, "wide": True}
    return View("match", arrays, props | {"labels": list(map(str, captions))})


def _png(picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
