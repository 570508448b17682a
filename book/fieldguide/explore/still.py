"""The still picture of an explorer: its start setting, drawn by matplotlib."""

from __future__ import annotations

import base64
import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from fieldguide.explore.views import View
from fieldguide.style import style_context


def draw_still(views: dict[str, View]) -> bytes:
    """A PNG of the views side by side (two in a row at most)."""
    columns = min(2, len(views))
    rows = -(-len(views) // columns)
    heights = [
        max(_height(v) for v in list(views.values())[r * columns : (r + 1) * columns])
        for r in range(rows)
    ]
    plain = {"axes.grid": False, "text.parse_math": False}
    with style_context(plain), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a script the font lacks
        fig, axes = plt.subplots(
            rows,
            columns,
            figsize=(3.3 * columns, sum(heights)),
            height_ratios=heights,
            layout="constrained",
            squeeze=False,
        )
        for ax, (title, view) in zip(axes.flat, views.items(), strict=False):
            ax.set_title(title, fontsize=9)
            DRAW[view.kind](ax, view)
        for ax in axes.flat[len(views) :]:
            ax.axis("off")
        drawn, small = io.BytesIO(), io.BytesIO()
        fig.savefig(drawn, format="png", dpi=72)
        plt.close(fig)
    # 64 colours do for a picture that a live one replaces, in a quarter of the bytes.
    picture = Image.open(drawn).convert("RGB")
    few = picture.quantize(64, Image.Quantize.FASTOCTREE)  # keeps rare bright colours
    few.save(small, "png", optimize=True)
    return small.getvalue()


def _height(view: View) -> float:
    return {"number": 1.0, "text": 1.4, "tokens": 1.4}.get(view.kind, 2.8)


def _heatmap(ax, view):
    props, values = view.props, view.arrays["values"]
    low, high = props.get("low"), props.get("high")
    image = ax.imshow(values, vmin=low, vmax=high, aspect="auto")
    for axis, labels in ((ax.yaxis, props["rows"]), (ax.xaxis, props["columns"])):
        if labels and len(labels) <= 24:
            axis.set_ticks(range(len(labels)), labels, fontsize=6)
    ax.tick_params(axis="x", rotation=90 if props["columns"] else 0)
    ax.set(xlabel=props["column_axis"], ylabel=props["row_axis"])
    ax.figure.colorbar(image, ax=ax, label=props["unit"])


def _tokens(ax, view):
    weights = view.arrays["values"]
    high = view.props.get("high") or weights.max() or 1.0
    x, y = 0.0, 0.9
    for piece, weight in zip(view.props["pieces"], weights, strict=True):
        width = 0.022 * (len(piece) + 1)
        x, y = (0.0, y - 0.2) if x + width > 1 else (x, y)
        colour = (0.23, 0.49, 0.72, 0.5 * max(0.0, min(1.0, weight / high)))
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1}
        ax.text(x, y, piece, fontsize=8, family="monospace", va="top", bbox=box)
        x += width
    ax.axis("off")


def _lines(ax, view):
    props, x = view.props, view.arrays["x"]
    for name, y in zip(props["names"], view.arrays["y"], strict=True):
        ax.plot(x, y, label=name)
    ax.set(xlabel=props["x_axis"], ylabel=props["y_axis"])
    for name in "x", "y":
        if props[f"{name}_log"]:
            ax.set(**{f"{name}scale": "log"})
            axis = getattr(ax, f"{name}axis")
            axis.set_major_formatter("{x:g}")  # its own needs mathematics
            axis.set_minor_formatter("")
    ax.set_ylim(props.get("low"), props.get("high"))
    if len(props["names"]) > 1:
        ax.legend(fontsize=7)


def _bars(ax, view):
    values = view.arrays["values"]
    ax.barh(np.arange(len(values)), values)
    ax.set_yticks(np.arange(len(values)), view.props["labels"], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlim(view.props.get("low"), view.props.get("high"))
    ax.set_xlabel(view.props["unit"])


def _scatter(ax, view):
    x, y = view.arrays["x"], view.arrays["y"]
    groups = view.props["groups"] or [""] * len(x)
    for name in dict.fromkeys(groups):
        here = np.array([g == name for g in groups])
        ax.scatter(x[here], y[here], s=14, label=name)
    if view.props["groups"]:
        ax.legend(fontsize=7)
    ax.set(xlabel=view.props["x_axis"], ylabel=view.props["y_axis"])


def _number(ax, view):
    value = float(view.arrays["value"])
    label = f"{value:.{view.props['digits']}g} {view.props['unit']}"
    ax.text(0, 0.5, label, fontsize=14, va="center")
    ax.axis("off")


def _table(ax, view):
    cells = [view.props["columns"], *view.props["rows"]]
    for r, row in enumerate(cells[:12]):
        for c, cell in enumerate(row):
            place = c / len(row), 1 - r / 12
            weight = "normal" if r else "bold"
            ax.text(*place, cell, fontsize=7, va="top", fontweight=weight)
    ax.axis("off")


def _text(ax, view):
    ax.text(0, 1, view.props["text"], fontsize=8, va="top", wrap=True)
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
    "tokens": _tokens,
    "lines": _lines,
    "bars": _bars,
    "scatter": _scatter,
    "number": _number,
    "table": _table,
    "text": _text,
    "pictures": _pictures,
    "figure": _figure,
}
