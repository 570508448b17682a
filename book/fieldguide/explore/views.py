"""The views that an explored function may return.

A view is a kind, the arrays that the browser draws, and plain properties
(labels, axis names, units). Each function below checks its input and builds
one; nothing here draws.
"""

from __future__ import annotations

import base64
import io
import numbers
from dataclasses import dataclass, field, replace

import numpy as np

from fieldguide.check import require
from fieldguide.style import PALETTE

LARGEST = 1e300  # so that the difference of two values is a number, too

# The parts of a view that a click can choose, and the property that names each: a
# click on the k-th one sets its control to the control's k-th value.
PARTS = {
    "heatmap": {"row": "rows", "column": "columns"},
    "heatmaps": {"map": "titles", "row": "row_labels", "column": "column_labels"},
    "tokens": {"word": "pieces"},
    "bars": {"bar": "labels"},
    "lines": {"x": None},
    "scatter": {"point": "labels"},
    "bands": {"left": "left", "right": "right"},
    "flow": {"box": "names"},
}


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


def _axes(x_axis, y_axis, x_log, y_log) -> dict:
    """What the axes of lines and of points are called; which are logarithmic."""
    logs = {"x_log": bool(x_log), "y_log": bool(y_log)}
    return {"x_axis": x_axis, "y_axis": y_axis, **logs}


def _positive(name: str, values, log) -> None:
    ok = not log or (values > 0).all()
    require(ok, name, values, "positive on a logarithmic axis")


def _sets(kind: str, sets) -> dict:
    """`sets` as {part: control}; a control's name alone stands for the first part."""
    if sets is None:
        return {}
    parts = list(PARTS[kind])
    sets = {parts[0]: sets} if isinstance(sets, str) else sets
    ok = isinstance(sets, dict) and sets and set(sets) <= set(parts)
    ok = ok and all(isinstance(name, str) for name in sets.values())
    require(ok, "sets", sets, f"a control's name, or a dict of {parts} to such names")
    return {"sets": dict(sets)}


def places(view: View, part: str) -> tuple[int, list[str] | None]:
    """How many places the `part` of a view has, and what they are called."""
    labels = view.props.get(PARTS[view.kind][part])
    if labels is not None:
        return len(labels), labels
    axis = list(PARTS[view.kind]).index(part)
    return view.arrays["x" if "x" in view.arrays else "values"].shape[axis], None


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
    kinds=None,
    sets=None,
) -> View:
    """A matrix as colours: `values` (R, C), `rows` R and `columns` C labels.

    `low` and `high` fix the ends of the colour scale; without them it spans
    the values of every setting. With `kinds`, K names, the values 0 .. K - 1 are
    kinds, not amounts: each has a colour of its own, and kind 0 is an empty
    place, in grey. `sets`, as {"row": control, "column": control}
    or one of them, lets a click on a cell set these controls: row k to the
    control's k-th value. Raises ValueError for NaN or wrong lengths.
    """
    values = _array("values", values, 2)
    props = {
        "rows": _labels("rows", rows, values.shape[0]),
        "columns": _labels("columns", columns, values.shape[1]),
        "row_axis": row_axis,
        "column_axis": column_axis,
        "unit": unit,
        **_range(low, high),
        **_sets("heatmap", sets),
    }
    if kinds is not None:
        most = len(PALETTE) + 1  # the empty kind has no colour of the palette
        require(2 <= len(kinds) <= most, "kinds", kinds, f"2 to {most} names")
        known = np.isin(values, range(len(kinds))).all()
        require(known, "values", values, f"whole numbers from 0 to {len(kinds) - 1}")
        ends = {"low": 0, "high": len(kinds) - 1}
        props |= ends | {"kinds": _labels("kinds", kinds, len(kinds))}
    return View("heatmap", {"values": values}, props, bits=8)


def heatmaps(
    values,
    *,
    titles=None,
    columns=4,
    row_labels=None,
    column_labels=None,
    unit="",
    low=None,
    high=None,
    sets=None,
) -> View:
    """Small heatmaps side by side, at most `columns` of them in a row.

    `values` are N matrices of one shape (N, R, C), with N `titles` and one colour
    scale. `sets`, a control's name, lets a click on the k-th map set it to its
    k-th value; {"map": ..., "row": ..., "column": ...} marks a row or a column in
    every map, too. Without it a click enlarges the map where it stands.
    """
    values = _array("values", values, 3)
    ok = isinstance(columns, int) and columns > 0
    require(ok, "columns", columns, "an integer above 0: how many stand in a row")
    props = {
        "titles": _labels("titles", titles, values.shape[0]),
        "row_labels": _labels("row_labels", row_labels, values.shape[1]),
        "column_labels": _labels("column_labels", column_labels, values.shape[2]),
        "across": columns,
        "unit": unit,
        **_range(low, high),
        **_sets("heatmaps", sets),
    }
    return View("heatmaps", {"values": values}, props, bits=8)


def tokens(
    pieces, weights, *, unit="", low=0, high=None, masked=None, sets=None
) -> View:
    """A text, cut in `pieces` (N strings), each shaded by its `weights` (N,).

    `sets`, a control's name, makes each piece a button with its weight below: a
    click on the k-th sets the control to its k-th value, and the chosen piece is
    outlined. `masked` (N booleans) are then grey, without a weight.
    """
    weights = _array("weights", weights, 1)
    pieces = _labels("pieces", pieces, len(weights))
    props = {"pieces": pieces, "unit": unit, **_range(low, high)}
    props |= _sets("tokens", sets)
    if masked is not None:
        require(sets is not None, "masked", masked, "given with sets")
        masked = [bool(hidden) for hidden in masked]
        count = len(masked)
        require(count == len(weights), "len(masked)", count, f"{len(weights)}")
        props["masked"] = masked
    return View("tokens", {"values": weights}, props, bits=8)


def bands(left, right, weights, *, unit="", sets=None) -> View:
    """Ribbons from L words on the left to R on the right, as wide as `weights`.

    `weights` (L, R), or (L,) where there is one word on the right; none below 0.
    `sets`, as {"left": control, "right": control} or one of them, lets a click
    on the k-th word of a side set that control to its k-th value.
    """
    weights = _array("weights", weights, 1, 2)
    weights = weights[:, None] if weights.ndim == 1 else weights
    require(weights.min() >= 0, "weights", weights, "0 or more")
    props = {
        "left": _labels("left", left, weights.shape[0]),
        "right": _labels("right", right, weights.shape[1]),
        "unit": unit,
        **_sets("bands", sets),
    }
    for side in "left", "right":
        require(props[side] is not None, side, None, "the words of that side")
    return View("bands", {"values": weights}, props)


def flow(nodes, arrows, *, low=None, high=None, sets=None) -> View:
    """Boxes joined by arrows: a computation with the values of this setting.

    `nodes` maps a box's name to its values, or to (values, note): a number, a
    vector or a matrix is shown with its shape as a strip of cells; None shows the
    name alone. `arrows` are (from, to) or (from, to, label), without a circle: a
    box stands one column to the right of the last one that points at it. All boxes
    share the colours from `low` to `high` (without: each its own range). `sets`,
    a control's name, lets a click on the k-th box set it to its k-th value: the
    boxes after the chosen one are faint, so that the control steps through.
    """
    require(isinstance(nodes, dict) and nodes, "nodes", nodes, "a dict, not empty")
    names, notes, arrays = [str(name) for name in nodes], [], {}
    for k, (name, node) in enumerate(nodes.items()):
        values, note = node if isinstance(node, tuple) else (node, "")
        notes.append(str(note))
        if values is not None:
            arrays[f"box{k}"] = _array(f"nodes[{name!r}]", values, 0, 1, 2)
    joined = []
    for arrow in arrows:
        ok = isinstance(arrow, (tuple, list)) and len(arrow) in (2, 3)
        ok = ok and all(end in names for end in arrow[:2])
        require(ok, "arrow", arrow, f"(from, to) or (from, to, label) of {names}")
        joined.append([*map(names.index, arrow[:2]), *map(str, arrow[2:])])
    props = {"names": names, "notes": notes, "arrows": joined}
    props |= {"ranks": _ranks(names, joined), **_range(low, high)}
    props |= _sets("flow", sets)
    numbers = max((array.size for array in arrays.values()), default=0)
    return View("flow", arrays, props, bits=32 if numbers <= WRITTEN else 8)


WRITTEN = 64  # numbers in a box that a reader may compare one by one: stored as floats


def _ranks(names: list[str], arrows: list[list]) -> list[int]:
    """The column of each box: one more than the last of those that point at it."""
    ranks = [0] * len(names)
    for _ in names:
        for start, end, *_label in arrows:
            ranks[end] = max(ranks[end], ranks[start] + 1)
    ok = max(ranks) < len(names)
    require(ok, "arrows", arrows, "free of circles")
    return ranks


def lines(
    x,
    ys,
    *,
    x_axis="",
    y_axis="",
    x_log=False,
    y_log=False,
    low=None,
    high=None,
    band=None,
    sets=None,
) -> View:
    """Curves over one `x` (N,): `ys` maps a name to its (N,) values.

    `band`, the names of two of them, draws no curves for these but the area between.
    `sets`, a control's name, lets a click near the k-th x set the control to its
    k-th value, and marks the chosen x.
    """
    x = _array("x", x, 1)
    require(isinstance(ys, dict) and ys, "ys", ys, "a dict of name: values, not empty")
    rows = [_array(f"ys[{name!r}]", y, 1) for name, y in ys.items()]
    for name, y in zip(ys, rows, strict=True):
        require(len(y) == len(x), f"len(ys[{name!r}])", len(y), f"len(x) = {len(x)}")
    y = np.stack(rows)
    _positive("x", x, x_log)
    _positive("ys", y, y_log)
    props = {
        "names": [str(name) for name in ys],
        **_axes(x_axis, y_axis, x_log, y_log),
        **_range(low, high),
        **_sets("lines", sets),
    }
    if band is not None:
        ok = len(band) == 2 and band[0] != band[1] and set(band) <= set(ys)
        require(ok, "band", band, f"two of the names {list(ys)}")
        props["band"] = [list(ys).index(name) for name in band]
    return View("lines", {"x": x, "y": y}, props)


def bars(
    labels, values, *, intervals=None, unit="", low=0, high=None, sets=None
) -> View:
    """Horizontal bars: N `labels`, N `values`.

    `intervals`, N pairs of ends, are drawn over the bars as whiskers. `sets`, a
    control's name, lets a click on the k-th bar set the control to its k-th value,
    and marks the chosen bar.
    """
    arrays = {"values": _array("values", values, 1)}
    labels = _labels("labels", labels, len(arrays["values"]))
    if intervals is not None:
        arrays["intervals"] = pairs = _array("intervals", intervals, 2)
        ordered = pairs.shape == (len(labels), 2) and (pairs[:, 0] <= pairs[:, 1]).all()
        allowed = f"{len(labels)} pairs, the lower end first"
        require(ordered, "intervals", intervals, allowed)
    props = {"labels": labels, "unit": unit, **_range(low, high)}
    props |= _sets("bars", sets)
    return View("bars", arrays, props, bits=32)


def scatter(
    x,
    y,
    *,
    labels=None,
    groups=None,
    x_axis="",
    y_axis="",
    x_log=False,
    y_log=False,
    equal=False,
    trails=None,
    sets=None,
) -> View:
    """Points at `x` (N,), `y` (N,); `groups` (N names) give their colours.

    `trails`, names of groups, joins each one's points by a line; as a dict of such
    names it also gives the radius of their dots in pixels (without: 0, no dots).
    `equal` draws one unit as long on both axes; a number is the width in pixels.
    `sets`, a control's name, lets a click near the k-th point set the control to
    its k-th value, and marks the chosen point.
    """
    x, y = _array("x", x, 1), _array("y", y, 1)
    require(len(x) == len(y), "len(y)", len(y), f"len(x) = {len(x)}")
    groups = _labels("groups", groups, len(x))
    props = {
        "labels": _labels("labels", labels, len(x)),
        "groups": groups,
        **_axes(x_axis, y_axis, x_log, y_log),
        **_sets("scatter", sets),
    }
    _positive("x", x, x_log)
    _positive("y", y, y_log)
    if equal:
        ok = equal is True or (isinstance(equal, int) and 100 <= equal <= 720)
        ok = ok and not (x_log or y_log)
        require(ok, "equal", equal, "True or 100 to 720 pixels, without logarithms")
        props["equal"] = equal
    if trails is not None:
        radii = trails if isinstance(trails, dict) else dict.fromkeys(trails, 0)
        ok = set(radii) <= set(groups or []) and all(
            isinstance(radius, numbers.Real) and radius >= 0
            for radius in radii.values()
        )
        allowed = f"names of groups, {sorted(set(groups or []))}, or a dict to radii"
        require(ok, "trails", trails, allowed)
        props["trails"] = radii
    return View("scatter", {"x": x, "y": y}, props)


def annotate(view: View, notes: dict) -> View:
    """The `view` with words on it, each with a line to what it is about.

    `notes` maps a place to its words: (x, y) on lines, a scatter and a path, (row,
    column) of a heatmap, the label of a bar or a word of arcs, by name or number from
    0. Where there is little room a number stands at the place, and the words below.
    Raises ValueError for a place that the view doesn't have, or without places.
    """
    known = "lines", "scatter", "path", "heatmap", "bars", "arcs"
    require(view.kind in known, "view.kind", view.kind, f"one of {known}")
    placed = []
    for place, words in notes.items():
        require(bool(str(words).strip()), f"notes[{place!r}]", words, "some words")
        at = place if isinstance(place, tuple) else (place,)
        find = _point if view.kind in ("lines", "scatter", "path") else _named
        placed.append([*find(view, place, at), str(words)])
    return replace(view, props=view.props | {"annotations": placed})


def _point(view: View, place, at: tuple) -> list[float]:
    """A point of a plot, inside its axes."""
    require(len(at) == 2, "place", place, "(x, y)")
    for axis, value in zip("xy", at, strict=True):
        ends = [view.arrays[axis].min(), view.arrays[axis].max()]
        given = [view.props.get(end) for end in ("low", "high")] if axis == "y" else []
        ends += [end for end in given if end is not None]
        inside = min(ends) <= value <= max(ends)
        require(
            inside, f"{axis} of the place", value, f"{min(ends):g} to {max(ends):g}"
        )
    return [float(value) for value in at]


MARKS = ("row", "column", "bar", "word")  # the parts that words can be about


def _named(view: View, place, at: tuple) -> list[int]:
    """The numbers of a heatmap's row and column, or of a bar."""
    parts = [part for part in PARTS[view.kind] if part in MARKS]
    require(len(at) == len(parts), "place", place, f"one name for each of {parts}")
    found = []
    for part, name in zip(parts, at, strict=True):
        count, labels = places(view, part)
        names = labels or []
        known = name in names or (isinstance(name, int) and 0 <= name < count)
        require(known, f"{part} of the place", name, f"one of {labels or range(count)}")
        found.append(names.index(name) if name in names else name)
    return found


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
