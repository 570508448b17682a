"""The one comparer: is an output the one that is stored in the notebook?

Text and HTML are compared to the letter, with three exceptions. A measured value
(`fieldguide.claims`) may move by its tolerance. An explorer's values may move by
one quantization step, or by less than anybody sees. A picture may differ as another
font library would draw it.

The notebooks' test run and `make notebooks` both ask here. The latter asks for the
`digits`, too: what it keeps must also read the same, since a tolerance that is meant
for another machine would hide what an edit of the cell has changed.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping
from functools import partial

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from fieldguide.claims import number
from fieldguide.explore import payload

# A widget's view holds a random model id, and is dropped from the stored copy.
NOT_COMPARED = {"application/vnd.jupyter.widget-view+json"}

# Warnings name the cell by a temporary file with the kernel's process id.
CELL_FILE = re.compile(r"\S*ipykernel_\d+[/\\]\d+\.py")

EXPLORER = re.compile(r"<figure\b[^>]*\bdata-fg-explore=.*?</figure>", re.S)
MEASURED = re.compile(
    r'<data class="fg-measured" value="(?P<value>[^"]*)" data-tol="(?P<tol>[^"]*)">'
    r"(?P<text>.*?)</data>",
    re.S,
)

# An explorer's value may always move by this share of the largest of its field (of
# its curve, of itself on a logarithmic axis): a third of a pixel, where the field is a
# curve of the usual height. Processors round differently, and layers add that up.
SHARE = 2**-10

# Two pictures agree if, out of focus, no pixel differs by more than this. Blurring
# hides the edges of letters, which another font library draws otherwise, and leaves
# a curve that lies 2 pixels elsewhere, or is dashed, far above the limit.
BLUR = 3  # pixels, the standard deviation
COLOUR = 24  # of 255


def same_outputs(
    new: list[Mapping], stored: list[Mapping], *, digits: bool = False
) -> str | None:
    """Compare all outputs of a cell. None if equal, else what differs."""
    if len(new) != len(stored):
        gives = ", ".join(map(_brief, new)) or "none"
        return f"{len(stored)} outputs are stored, but the cell gives {gives}"
    pairs = zip(new, stored, strict=True)
    differences = (same(a, b, digits=digits) for a, b in pairs)
    return next(filter(None, differences), None)


def same(new: Mapping, stored: Mapping, *, digits: bool = False) -> str | None:
    """Compare two outputs (nbformat's dictionaries).

    Returns None if they are equal within the contract, else one sentence that
    says what differs. With `digits`, the numbers that a reader sees as digits, a
    measured value and an explorer's number, must read the same as well.
    """
    kinds = [output["output_type"] for output in (new, stored)]
    if kinds[0] != kinds[1]:
        return f"a {kinds[1]} is stored, but the cell gives a {kinds[0]}"
    if kinds[0] == "stream":
        if new["name"] != stored["name"]:
            return f"{stored['name']} is stored, but the cell writes to {new['name']}"
        return _text(new["text"], stored["text"], stored["name"])
    if kinds[0] == "error":
        fields = ("ename", "evalue")
        return _text(*(": ".join(o[f] for f in fields) for o in (new, stored)), "error")
    new_data, stored_data = (
        {mime: output["data"][mime] for mime in compared(output["data"])}
        for output in (new, stored)
    )
    if new_data.keys() != stored_data.keys():
        return f"{sorted(stored_data)} is stored, but the cell gives {sorted(new_data)}"
    compare = {"text/html": partial(_html, digits=digits), "image/png": png}
    differences = (
        compare.get(mime, _text)(new_data[mime], stored_data[mime], mime)
        for mime in sorted(stored_data)
    )
    return next(filter(None, differences), None)


def kinds(output: Mapping) -> set[str]:
    """What `same` looks at in an output, beyond constants.

    "text", "html", "measured", "explorer", "png". A picture's `<Figure size ...>`
    and an explorer's sentence say the same whatever is shown, so they do not count.
    """
    if "data" not in output:
        return {"text"}
    data = output["data"]
    found = {"png"} if "image/png" in compared(data) else set()
    found |= {"explorer"} if is_explorer(data) else set()
    html = data.get("text/html", "")
    found |= {"measured"} if MEASURED.search(html) else set()
    if html and not found:
        found.add("html")
    if compared(data) and not found:
        found.add("text")
    return found


def is_explorer(data: Mapping) -> bool:
    """Does an output's data show an explorer?"""
    return bool(EXPLORER.search(data.get("text/html", "")))


def compared(data: Mapping) -> set[str]:
    """The MIME types that count; an explorer's picture is taken after the run."""
    still = {"image/png"} if is_explorer(data) else set()
    return data.keys() - NOT_COMPARED - still


def _brief(output: Mapping) -> str:
    """An output in some words: what of it a log should show."""
    if output["output_type"] == "stream":
        return f"{output['name']} {output['text'][:500]!r}"
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}"
    return f"a {output['output_type']} with {sorted(output['data'])}"


def _text(new: object, stored: object, kind: str) -> str | None:
    if not isinstance(new, str) or not isinstance(stored, str):
        return None if new == stored else f"{kind}: {stored!r} is stored, not {new!r}"
    new, stored = CELL_FILE.sub("cell.py", new), CELL_FILE.sub("cell.py", stored)
    if new == stored:
        return None
    place = next(
        (i for i, (a, b) in enumerate(zip(new, stored, strict=False)) if a != b),
        min(len(new), len(stored)),
    )
    around = slice(max(0, place - 30), place + 30)
    return f"{kind}: {stored[around]!r} is stored, but the cell gives {new[around]!r}"


def _html(new: str, stored: str, kind: str, *, digits: bool) -> str | None:
    pairs = zip(EXPLORER.findall(new), EXPLORER.findall(stored), strict=False)
    rest = [EXPLORER.sub("<figure/>", html) for html in (new, stored)]
    values = zip(MEASURED.finditer(rest[0]), MEASURED.finditer(rest[1]), strict=False)
    letters = [MEASURED.sub(r"<data \g<tol>/>", html) for html in rest]
    differences = (
        _text(*letters, kind),
        *(_measured(a, b, digits) for a, b in values),
        *(_explorer(a, b, digits) for a, b in pairs),
    )
    return next(filter(None, differences), None)


def _measured(new: re.Match, stored: re.Match, digits: bool) -> str | None:
    value, tol = float(stored["value"]), float(stored["tol"])
    if not abs(float(new["value"]) - value) <= tol:
        return f"{value} +- {tol} is stored, but {new['value']} was measured"
    whole = re.fullmatch(r"-?\d+", stored["value"])
    shown = number(int(stored["value"]) if whole else value, 4)
    if shown != stored["text"]:
        return f"the stored value {value} is shown as {stored['text']}"
    if digits and new["text"] != stored["text"]:
        return f"{stored['text']} is stored, but {new['text']} was measured"
    return None


def _explorer(new: str, stored: str, digits: bool) -> str | None:
    try:
        a, b = payload.read(new), payload.read(stored)
    except Exception as error:  # whatever a damaged payload raises
        return f"an explorer cannot be read: {error!r}"
    specs = (json.dumps(x["spec"], sort_keys=True) for x in (a, b))
    differences = (
        _text(a["rest"], b["rest"], "explorer"),
        _text(*specs, "explorer"),
        *(_field(a, b, field) for field in b["fields"]),
        *(_read(a, b, field) for field in _numbers(b) if digits),
    )
    return next(filter(None, differences), None)


def _field(new: Mapping, stored: Mapping, field: str) -> str | None:
    if field not in new["fields"]:
        return f"{field} is stored, but no longer shown"
    a, b = new["fields"][field], stored["fields"][field]
    if len(a) != len(b):
        return f"{field}: {len(b)} settings are stored, not {len(a)}"
    if isinstance(b, list):
        return next(filter(None, map(_labels, a, b, [field] * len(b))), None)
    if a.shape != b.shape:
        return f"{field}: shape {b.shape} is stored, not {a.shape}"
    off = np.abs(a - b)
    step = np.broadcast_to(_step(stored, field), off.shape)
    if (off <= step * (1 + 1e-9)).all():
        return None
    worst = np.argmax(off - step)
    return (
        f"{field}: a value is off by {off.flat[worst]:.3g}, more than "
        f"{step.flat[worst]:.3g}"
    )


def _numbers(stored: Mapping) -> list[str]:
    """The fields that are written out as a number instead of drawn."""
    views = stored["spec"]["views"]
    found = (v.get("arrays", {}).values() for v in views if v["kind"] == "number")
    return [field for fields in found for field in fields]


def _read(new: Mapping, stored: Mapping, field: str) -> str | None:
    values = (x["fields"][field].ravel().tolist() for x in (new, stored))
    read = ([number(float(value), 4) for value in each] for each in values)
    return _text(*(json.dumps(each) for each in read), field)


def _step(stored: Mapping, field: str) -> np.ndarray:
    """How far each value of a field of numbers may move."""
    size, step = np.abs(stored["fields"][field]), stored["steps"][field]
    if not stored["spec"]["fields"][field].get("log"):
        axes = range(size.ndim)
        others = tuple(k for k in axes if step.ndim == 0 or k != 1)  # 1: the curves
        size = size.max(axis=others, keepdims=True, initial=0)
    return np.maximum(step, SHARE * size)


def _labels(new: object, stored: object, field: str) -> str | None:
    if isinstance(stored, dict) and isinstance(new, dict) and "png" in stored:
        return png(new["png"], stored["png"], field)
    return _text(*(json.dumps(x, sort_keys=True) for x in (new, stored)), field)


def png(new: str, stored: str, kind: str) -> str | None:
    files = (io.BytesIO(base64.b64decode(data)) for data in (new, stored))
    a, b = (Image.open(file).convert("RGBA") for file in files)
    if a.size != b.size:
        return f"{kind}: {b.size} pixels are stored, not {a.size}"
    a, b = (image.filter(ImageFilter.GaussianBlur(BLUR)) for image in (a, b))
    off = max(high for _, high in ImageChops.difference(a, b).getextrema())
    return f"{kind}: a colour is off by {off} of 255" if off > COLOUR else None
