"""The views that an explored function may return.

A view is a kind, the arrays that the browser draws, and plain properties
(labels, axis names, units). Each function below checks its input and builds
one; nothing here draws.
"""

from __future__ import annotations

import base64
import io
import numbers
from dataclasses import dataclass, field

import numpy as np

from fieldguide.check import require

LARGEST = 1e300  # so that the difference of two values is a number, too


@dataclass(frozen=True)
class View:
    """`kind`, the `arrays` that are drawn (kept in `bits`), the `props`."""

    kind: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    props: dict = field(default_factory=dict)
    bits: int = 16


def _array(name: str, value, *dims: int) -> np.ndarray:
    """`value` as a finite float64 array with one of the given `dims`."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = None
    require(array is not None, name, value, "an array of numbers of one shape")
    shapes = " or ".join(f"{d}-dimensional" for d in dims)
    require(array.ndim in dims, f"{name}.shape", array.shape, shapes)
    require(array.size > 0, f"{name}.shape", array.shape, "not empty")
    bounded = (np.abs(array) < LARGEST).all()
    require(bounded, name, value, f"free of NaN, and of numbers from {LARGEST} on")
    return array


def _labels(name: str, labels, count: int) -> list[str] | None:
    if labels is None:
        return None
    labels = [str(label) for label in labels]
    require(len(labels) == count, f"len({name})", len(labels), f"{count}")
    return labels


def _range(low, high) -> dict:
    props = {"low": low, "high": high}
    for name, value in props.items():
        ok = value is None or (isinstance(value, numbers.Real) and np.isfinite(value))
        require(ok, name, value, "a finite number or None")
    if low is not None and high is not None:
        require(low < high, "low", low, f"below high = {high}")
    return {k: float(v) for k, v in props.items() if v is not None}


def heatmap(
    values,
    *,
    rows=None,
    columns=None,
    row_axis="",
    column_axis="",
    unit="",
    low=None,
    high=None,
) -> View:
    """A matrix as colours: `values` (R, C), `rows` R and `columns` C labels.

    `low` and `high` fix the ends of the colour scale; without them it spans
    the values of every setting. Raises ValueError for NaN or wrong lengths.
    """
    values = _array("values", values, 2)
    props = {
        "rows": _labels("rows", rows, values.shape[0]),
        "columns": _labels("columns", columns, values.shape[1]),
        "row_axis": row_axis,
        "column_axis": column_axis,
        "unit": unit,
        **_range(low, high),
    }
    return View("heatmap", {"values": values}, props, bits=8)


def tokens(pieces, weights, *, unit="", low=0, high=None) -> View:
    """A text, cut in `pieces` (N strings), each shaded by its `weights` (N,)."""
    weights = _array("weights", weights, 1)
    pieces = _labels("pieces", pieces, len(weights))
    props = {"pieces": pieces, "unit": unit, **_range(low, high)}
    return View("tokens", {"values": weights}, props, bits=8)


def lines(
    x, ys, *, x_axis="", y_axis="", x_log=False, y_log=False, low=None, high=None
) -> View:
    """Curves over one `x` (N,): `ys` maps a name to its (N,) values."""
    x = _array("x", x, 1)
    require(isinstance(ys, dict) and ys, "ys", ys, "a dict of name: values, not empty")
    rows = [_array(f"ys[{name!r}]", y, 1) for name, y in ys.items()]
    for name, y in zip(ys, rows, strict=True):
        require(len(y) == len(x), f"len(ys[{name!r}])", len(y), f"len(x) = {len(x)}")
    require(not x_log or (x > 0).all(), "x", x, "positive on a logarithmic axis")
    y = np.stack(rows)
    require(not y_log or (y > 0).all(), "ys", y, "positive on a logarithmic axis")
    props = {
        "names": [str(name) for name in ys],
        "x_axis": x_axis,
        "y_axis": y_axis,
        "x_log": bool(x_log),
        "y_log": bool(y_log),
        **_range(low, high),
    }
    return View("lines", {"x": x, "y": y}, props)


def bars(labels, values, *, unit="", low=0, high=None) -> View:
    """Horizontal bars: N `labels`, N `values`."""
    values = _array("values", values, 1)
    labels = _labels("labels", labels, len(values))
    props = {"labels": labels, "unit": unit, **_range(low, high)}
    return View("bars", {"values": values}, props, bits=32)


def scatter(x, y, *, labels=None, groups=None, x_axis="", y_axis="") -> View:
    """Points at `x` (N,), `y` (N,); `groups` (N names) give their colours."""
    x, y = _array("x", x, 1), _array("y", y, 1)
    require(len(x) == len(y), "len(y)", len(y), f"len(x) = {len(x)}")
    props = {
        "labels": _labels("labels", labels, len(x)),
        "groups": _labels("groups", groups, len(x)),
        "x_axis": x_axis,
        "y_axis": y_axis,
    }
    return View("scatter", {"x": x, "y": y}, props)


def number(value, unit="", digits=4) -> View:
    """One number, shown with `digits` significant digits and its `unit`."""
    value = _array("value", value, 0)
    ok = isinstance(digits, int) and 1 <= digits <= 15
    require(ok, "digits", digits, "an integer from 1 to 15")
    return View("number", {"value": value}, {"unit": unit, "digits": digits}, bits=64)


def table(columns, rows) -> View:
    """A table: C column names, rows of C cells (strings or numbers)."""
    columns = [str(name) for name in columns]
    rows = [[format_cell(cell) for cell in row] for row in rows]
    for row in rows:
        require(len(row) == len(columns), "len(row)", len(row), f"{len(columns)}")
    return View("table", props={"columns": columns, "rows": rows})


def text(string) -> View:
    """A piece of text, shown as it is."""
    require(isinstance(string, str), "string", string, "a string")
    return View("text", props={"text": string})


def pictures(images, labels=None) -> View:
    """N pictures: `images` (N, H, W) grey or (N, H, W, 3), 0..1 or uint8."""
    scale = 1 if getattr(images, "dtype", None) in (np.uint8, "uint8") else 255
    images = _array("images", images, 3, 4)
    if images.ndim == 4:
        allowed = "(N, H, W) or (N, H, W, 3)"
        require(images.shape[3] == 3, "images.shape", images.shape, allowed)
    ok = images.min() >= 0 and images.max() <= 255 / scale
    require(ok, "images", images, "0..1, or of type uint8")
    images = np.round(images * scale)
    props = {"labels": _labels("labels", labels, len(images))}
    return View("pictures", {"values": images}, props, bits=8)


def figure(fig) -> View:
    """A matplotlib `Figure`, kept as a picture for each setting."""
    ok = hasattr(fig, "savefig")
    require(ok, "fig", fig, "a matplotlib Figure")
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    plt.close(fig)
    return View("figure", props={"png": base64.b64encode(buffer.getvalue()).decode()})


def precision(views: list[View], name: str) -> dict:
    """How an array of `views`, one for each setting, is kept: each curve apart."""
    first = views[0]
    curves = first.kind == "lines" and name == "y"
    rows = len(first.arrays[name]) if curves else 1
    log = any(view.props.get(f"{name}_log") for view in views)
    return {"bits": first.bits, "rows": rows, "log": log}


def format_cell(value) -> str:
    """A cell's or label's text: numbers short, everything else as it is."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return str(value)
    require(np.isfinite(value), "number", value, "finite")
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
