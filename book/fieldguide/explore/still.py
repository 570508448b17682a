"""The still picture of an explorer: its start setting, drawn by matplotlib."""

from __future__ import annotations

import base64
import io
import textwrap
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from PIL import Image

from fieldguide.explore.views import View, format_cell
from fieldguide.style import PALETTE, style_context

LETTERS = 40  # of 8 points, in a line of a view that has a neighbour
ROOM = 12  # points from one line of words to the next


def draw_still(views: dict[str, View], start: dict[str, int]) -> bytes:
    """A PNG of the views side by side (two in a row at most).

    `start` has each control's place on the grid: what it chooses is marked.
    """
    rows = _rows(views)
    columns = max(map(len, rows))
    wide = any(_wide(view) for view in views.values())
    heights = [max(_height(views[title]) for title in row) for row in rows]
    plain = {"axes.grid": False, "text.parse_math": False}
    with style_context(plain), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a script the font lacks
        fig = plt.figure(
            figsize=(6.6 if wide else 3.3 * columns, sum(heights)),
            layout="constrained",
        )
        bands = fig.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)
        for row, band in zip(rows, bands[:, 0], strict=True):
            across = 1 if _wide(views[row[0]]) else columns
            for c, ax in enumerate(band.subplots(1, across, squeeze=False)[0]):
                if c >= len(row):
                    ax.axis("off")
                    continue
                view = views[row[c]]
                ax.set_title(row[c], fontsize=9, loc="left")
                sets = view.props.get("sets", {})
                chosen = {part: start[name] for part, name in sets.items()}
                props = view.props | ({"chosen": chosen} if chosen else {})
                DRAW[view.kind](ax, replace(view, props=props))
        drawn, small = io.BytesIO(), io.BytesIO()
        fig.savefig(drawn, format="png", dpi=72)
        plt.close(fig)
    # 64 colours do for a picture that a live one replaces, in a quarter of the bytes.
    picture = Image.open(drawn).convert("RGB")
    few = picture.quantize(64, Image.Quantize.FASTOCTREE)  # keeps rare bright colours
    few.save(small, "png", optimize=True)
    return small.getvalue()


def _wide(view: View) -> bool:
    """Does the view need a row of its own?"""
    if view.kind == "tokens":
        long = sum(map(len, view.props["pieces"])) > 4 * LETTERS
        return "sets" in view.props or long
    if view.kind == "text":
        return len(view.props["text"]) > 4 * LETTERS
    return view.kind == "flow"


def _rows(views: dict[str, View]) -> list[list[str]]:
    """The titles in rows of at most two; a wide view stands alone."""
    rows = []
    for title, view in views.items():
        full = not rows or len(rows[-1]) == 2 or _wide(views[rows[-1][0]])
        if full or _wide(view):
            rows.append([])
        rows[-1].append(title)
    return rows


def _height(view: View) -> float:
    if view.kind == "flow":
        tallest = max(map(view.props["ranks"].count, view.props["ranks"]))
        return 0.4 + 0.85 * tallest
    if view.kind == "tokens" and "sets" in view.props:
        words = sum(len(piece) + 3 for piece in view.props["pieces"])
        return 0.4 + 0.42 * (1 + words // 80)
    if view.kind in ("text", "tokens"):
        lines = max((line for _, line, _, _ in _set_in_lines(view)), default=0)
        return 0.4 + ROOM / 72 * (1 + lines)
    if view.kind == "table":
        return 0.4 + ROOM / 72 * (1 + len(view.props["rows"]))
    if view.kind == "bars":
        return min(2.8, 0.8 + 0.3 * len(view.arrays["values"]))
    return 0.8 if view.kind == "number" else 2.8


def _frame(ax, x, y, width=1.0, height=1.0, **look):
    look = {"fill": False, "edgecolor": PALETTE[1], "linewidth": 1.6} | look
    ax.add_patch(plt.Rectangle((x, y), width, height, clip_on=False, **look))


def _cell_frame(ax, chosen: dict, rows: int, columns: int):
    """Mark the chosen row, column or cell of a heatmap."""
    i, j = chosen.get("row"), chosen.get("column")
    if i is None and j is None:
        return
    across = (-0.5, columns) if j is None else (j - 0.5, 1)
    down = (-0.5, rows) if i is None else (i - 0.5, 1)
    _frame(ax, across[0], down[0], across[1], down[1])


def _heatmap(ax, view):
    props, values = view.props, view.arrays["values"]
    low, high, kinds = props.get("low"), props.get("high"), props.get("kinds")
    hues = ["0.88", *PALETTE][: len(kinds)] if kinds else None
    look = {"cmap": ListedColormap(hues)} if kinds else {}
    image = ax.imshow(values, vmin=low, vmax=high, aspect="auto", **look)
    for axis, labels in ((ax.yaxis, props["rows"]), (ax.xaxis, props["columns"])):
        if labels and len(labels) <= 24:
            axis.set_ticks(range(len(labels)), labels, fontsize=6)
    ax.tick_params(axis="x", rotation=90 if props["columns"] else 0)
    ax.set(xlabel=props["column_axis"], ylabel=props["row_axis"])
    if kinds:
        marks = [plt.Rectangle((0, 0), 1, 1, color=hue) for hue in hues]
        beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "fontsize": 6}
        ax.legend(marks, kinds, **beside)
    else:
        ax.figure.colorbar(image, ax=ax, label=props["unit"])
    _cell_frame(ax, props.get("chosen", {}), *values.shape)


def _heatmaps(ax, view):
    props, values = view.props, view.arrays["values"]
    count, rows, columns = values.shape
    across = min(props["across"], count)
    down = -(-count // across)
    low = props.get("low", values.min())
    high = props.get("high", values.max())
    for n, (value, title) in enumerate(
        zip(values, props["titles"] or range(1, count + 1), strict=True)
    ):
        c, r = n % across, n // across
        place = (c + 0.06) / across, 1 - (r + 0.8) / down, 0.88 / across, 0.78 / down
        small = ax.inset_axes(place)
        small.imshow(value, vmin=low, vmax=high, aspect="auto")
        small.set(xticks=[], yticks=[])
        small.set_title(title, fontsize=6, pad=1.5)
        chosen = props.get("chosen", {})
        _cell_frame(small, chosen, rows, columns)
        if chosen.get("map") == n:
            _frame(small, -0.5, -0.5, columns, rows, linewidth=2.5)
    ax.axis("off")


def _strip(ax, view):
    """Words in reading order with their weights below; the chosen one outlined."""
    weights, props = view.arrays["values"], view.props
    high = props.get("high") or weights.max() or 1.0
    masked = props.get("masked") or [False] * len(weights)
    x, y = 0.0, 1.0
    for k, (piece, weight) in enumerate(zip(props["pieces"], weights, strict=True)):
        width = 0.014 * max(4, len(piece)) + 0.012
        x, y = (0.0, y - 0.5) if x + width > 1 else (x, y)
        share = 0.0 if masked[k] else 0.6 * max(0.0, min(1.0, weight / high))
        box = {"facecolor": (0.84, 0.37, 0.0, share), "fill": True}
        look = {"edgecolor": "none"} | box
        if props["chosen"]["word"] == k:
            look = {"edgecolor": PALETTE[0], "linewidth": 1.8} | box
        _frame(ax, x, y - 0.44, width - 0.008, 0.4, **look)
        ink = {"ha": "center", "va": "center", "color": "0.5" if masked[k] else "0.1"}
        middle = x + width / 2 - 0.004
        ax.text(middle, y - 0.16, piece, fontsize=9, **ink)
        number = "·" if masked[k] else f"{weight:.2g}"
        ax.text(middle, y - 0.34, number, fontsize=6, **ink)
        x += width
    ax.set(xlim=(0, 1), ylim=(min(0, y - 0.5), 1))
    ax.axis("off")


def _bands(ax, view):
    """Ribbons between two columns of words, each as wide as its weight."""
    weights, props = view.arrays["values"], view.props
    scale = 0.8 / (weights.sum() or 1.0)
    ends = {}
    for side, sums in (("left", weights.sum(1)), ("right", weights.sum(0))):
        gap = 0.2 / len(sums)
        tops = 1 - np.concatenate([[0], np.cumsum(sums * scale + gap)[:-1]]) - gap / 2
        ends[side] = tops
        x, align = (-0.02, "right") if side == "left" else (1.02, "left")
        for k, (word, top) in enumerate(zip(props[side], tops, strict=True)):
            bold = props.get("chosen", {}).get(side) == k
            look = {"fontsize": 8, "fontweight": "bold" if bold else "normal"}
            ax.text(x, top - sums[k] * scale / 2, word, ha=align, va="center", **look)
    t = np.linspace(0, 1, 40)
    bend = t * t * (3 - 2 * t)
    left, right = ends["left"].copy(), ends["right"].copy()
    for i, j in np.ndindex(*weights.shape):
        wide = weights[i, j] * scale
        top = left[i] + (right[j] - left[i]) * bend
        colour = PALETTE[i % len(PALETTE)]
        ax.fill_between(t, top - wide, top, color=colour, alpha=0.55, linewidth=0)
        left[i], right[j] = left[i] - wide, right[j] - wide
    ax.set(xlim=(-0.3, 1.3), ylim=(0, 1))
    ax.axis("off")


def _flow(ax, view):
    """Boxes in columns, with their shapes and cells, and the arrows between them."""
    props, ranks = view.props, view.props["ranks"]
    step, span = 1 / (max(ranks) + 1), 0.72 / (max(ranks) + 1)
    chosen, middles = props.get("chosen", {}).get("box"), []
    for k, (name, rank) in enumerate(zip(props["names"], ranks, strict=True)):
        tall = 1 / ranks.count(rank)
        y = 1 - tall * (ranks[:k].count(rank) + 0.5)
        x = step * rank + (step - span) / 2
        middles.append((x, y))
        faint = 0.4 if chosen is not None and k > chosen else 1.0
        height = min(0.8 * tall, 0.75)
        edge = PALETTE[0] if k == chosen else "0.6"
        _frame(ax, x, y - height / 2, span, height, edgecolor=edge, alpha=faint)
        values = view.arrays.get(f"box{k}")
        label = name if values is None else f"{name}\n{_size(values)}"
        top = y + height * (0 if values is None else 0.25)
        look = {"ha": "center", "va": "center", "fontsize": 7, "alpha": faint}
        ax.text(x + span / 2, top, label, **look)
        if values is not None and values.ndim:
            cells = (x + 0.08 * span, y - 0.4 * height, 0.84 * span, 0.36 * height)
            small = ax.inset_axes(cells, transform=ax.transData)
            ends = {"vmin": props.get("low"), "vmax": props.get("high")}
            small.imshow(np.atleast_2d(values), **ends, aspect="auto", alpha=faint)
            small.axis("off")
    for start, end, *label in props["arrows"]:
        (x0, y0), (x1, y1) = middles[start], middles[end]
        late = chosen is not None and max(start, end) > chosen
        style = {"arrowstyle": "->", "color": "0.4", "alpha": 0.4 if late else 1.0}
        ax.annotate("", (x1, y1), (x0 + span, y0), arrowprops=style)
        middle = (x0 + span + x1) / 2, (y0 + y1) / 2
        ax.text(*middle, *label or [""], fontsize=6, ha="center", va="bottom")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")


def _size(values: np.ndarray) -> str:
    """A shape, with times signs; a number as it is."""
    return " \u00d7 ".join(map(str, values.shape)) or format_cell(float(values))


def _tokens(ax, view):
    if "chosen" in view.props:
        return _strip(ax, view)
    for letter, line, piece, shade in _set_in_lines(view):
        box = {"facecolor": (0.23, 0.49, 0.72, 0.5 * shade), "edgecolor": "none"}
        _word(ax, piece, letter, line, family="monospace", bbox=box | {"pad": 1})
    ax.axis("off")


def _set_in_lines(view) -> list[tuple[int, int, str, float]]:
    """A text's lines, or its tokens: where each begins (letter, line), its shade."""
    width = LETTERS * (2 if _wide(view) else 1)
    if view.kind == "text":
        paragraphs = view.props["text"].splitlines()
        lines = [line for text in paragraphs for line in textwrap.wrap(text, width)]
        return [(0, n, line, 0.0) for n, line in enumerate(lines)]
    weights, pieces = view.arrays["values"], view.props["pieces"]
    shades = np.clip(weights / (view.props.get("high") or weights.max() or 1.0), 0, 1)
    letter, line, places = 0, 0, []
    for piece, shade in zip(pieces, shades, strict=True):
        if letter and letter + len(piece) > width:
            letter, line = 0, line + 1
        places.append((letter, line, piece, shade))
        letter += len(piece) + bool(piece)
    return places


def _word(ax, string, letter=0, line=0, across=0.0, **look):
    """Words at a letter of a line; they take no part in the layout of the axes."""
    at = {"xytext": (4.82 * letter, -ROOM * line), "textcoords": "offset points"}
    look = {"fontsize": 8, "va": "top", "in_layout": False} | look
    ax.annotate(string, (across, 1), xycoords="axes fraction", **at, **look)


def _lines(ax, view):
    props, x, ys = view.props, view.arrays["x"], view.arrays["y"]
    names, band = props["names"], props.get("band", [])
    for s, (name, y) in enumerate(zip(names, ys, strict=True)):
        if s not in band:
            ax.plot(x, y, label=name, color=PALETTE[s % len(PALETTE)])
    if band:
        label = " to ".join(names[s] for s in band)
        colour = PALETTE[band[0] % len(PALETTE)]
        ax.fill_between(x, *ys[band], color=colour, alpha=0.2, lw=0, label=label)
    _axes(ax, props)
    ax.set_ylim(props.get("low"), props.get("high"))
    if "chosen" in props:
        ax.axvline(x[min(props["chosen"]["x"], len(x) - 1)], color="0.4", ls=":")
    if len(props["names"]) > 1:
        ax.legend(fontsize=7)


def _axes(ax, props):
    """What the axes of lines and of points are called; which are logarithmic."""
    ax.set(xlabel=props["x_axis"], ylabel=props["y_axis"])
    for name in "x", "y":
        if props[f"{name}_log"]:
            ax.set(**{f"{name}scale": "log"})
            axis = getattr(ax, f"{name}axis")
            axis.set_major_formatter("{x:g}")  # its own needs mathematics
            axis.set_minor_formatter("")


def _bars(ax, view):
    values = view.arrays["values"]
    ends = view.arrays.get("intervals")
    error = None if ends is None else abs(ends.T - values)
    drawn = ax.barh(np.arange(len(values)), values, xerr=error)
    if view.props.get("chosen", {}).get("bar", len(values)) < len(values):
        drawn[view.props["chosen"]["bar"]].set(edgecolor=PALETTE[1], linewidth=2)
    ax.set_yticks(np.arange(len(values)), view.props["labels"], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlim(view.props.get("low"), view.props.get("high"))
    ax.set_xlabel(view.props["unit"])


def _scatter(ax, view):
    props, x, y = view.props, view.arrays["x"], view.arrays["y"]
    groups, trails = props["groups"] or [""] * len(x), props.get("trails", {})
    for s, name in enumerate(dict.fromkeys(groups)):
        here = np.array([g == name for g in groups])
        look = {"color": PALETTE[s % len(PALETTE)], "label": name}
        look |= {"ls": "-" if name in trails else "", "marker": "o"}
        ax.plot(x[here], y[here], **look, markersize=2 * trails.get(name, 2))
    if props.get("chosen", {}).get("point", len(x)) < len(x):
        k = props["chosen"]["point"]
        ax.scatter(x[k], y[k], s=60, facecolor="none", edgecolor="0.2", zorder=3)
    if props["groups"]:
        ax.legend(fontsize=7)
    _axes(ax, props)
    if props.get("equal"):
        ax.set_aspect("equal")


def _number(ax, view):
    value = float(view.arrays["value"])
    few = float(f"{value:.{view.props['digits']}g}")
    shown = format_cell(int(value) if value.is_integer() else few)
    _word(ax, f"{shown} {view.props['unit']}", fontsize=14)
    ax.axis("off")


def _table(ax, view):
    columns = view.props["columns"]
    for r, row in enumerate([columns, *view.props["rows"]]):
        for c, cell in enumerate(row):
            weight = "normal" if r else "bold"
            _word(ax, cell, 0, r, c / len(row), fontsize=7, fontweight=weight)
    ax.axis("off")


def _text(ax, view):
    for letter, line, words, _ in _set_in_lines(view):
        _word(ax, words, letter, line)
    ax.axis("off")


def _pictures(ax, view):
    images = view.arrays["values"][:8]
    if images.ndim == 3:
        images = images[..., None].repeat(3, -1)
    ax.imshow(np.concatenate(list(images), axis=1).astype(np.uint8))
    ax.axis("off")


def _figure(ax, view):
    ax.imshow(plt.imread(io.BytesIO(base64.b64decode(view.props["png"]))))
    ax.axis("off")


DRAW = {
    "heatmap": _heatmap,
    "heatmaps": _heatmaps,
    "tokens": _tokens,
    "bands": _bands,
    "flow": _flow,
    "lines": _lines,
    "bars": _bars,
    "scatter": _scatter,
    "number": _number,
    "table": _table,
    "text": _text,
    "pictures": _pictures,
    "figure": _figure,
}
