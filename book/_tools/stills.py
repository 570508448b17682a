"""The stills of explorers: pictures of their start, by the browser that draws them.

They are for readers without JavaScript, for code hosts and for paper.
"""

from __future__ import annotations

import base64
import html
import io

import compare
import nbformat
from PIL import Image
from rivals.browser import chromium

from fieldguide.explore import payload, runtime_html

WIDTH = 560  # CSS pixels
# As many colours do for a picture that a live one replaces, in a fifth of the bytes.
COLOURS = 24
BARE = """
body { margin: 0; overflow: hidden; font: 15px system-ui, sans-serif }
.fg { margin: 0; padding: 0; border: 0 }
.fg-body { display: block !important }
.fg-controls { display: none }
"""


def pictures(figures: list[str], chapter: str) -> list[Image.Image]:
    """The views of each stored figure, in the colour of its chapter."""
    head = f"<!doctype html>{runtime_html()}<style>{BARE}</style>"
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": WIDTH, "height": 900})
        body = f'<body data-fg-chapter="{chapter}">{"".join(figures)}'
        tab.set_content(head + body)
        tab.evaluate("fieldguide.figures.forEach((f) => f.draws || f.update())")
        tab.wait_for_function("fieldguide.figures.every((f) => f.draws)")
        views = tab.locator(".fg-views").all()
        shots = [each.screenshot(animations="disabled") for each in views]
    whole = (Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots)
    return [each.quantize(COLOURS, Image.Quantize.FASTOCTREE) for each in whole]


def packed(picture: Image.Image, kind: str, **options: object) -> str:
    """A picture in base64, with no pixel lost."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def add(
    notebook: nbformat.NotebookNode, chapter: str = "", *, anew: bool = False
) -> int:
    """Give a still to each explorer that has none, or one that looks otherwise.

    anew: take all, and keep of the stored ones those that look the same.
    Returns how many are new.
    """
    outputs = (o for cell in notebook.cells for o in cell.get("outputs", []))
    explorers = filter(compare.is_explorer, (o.get("data", {}) for o in outputs))
    due = [data for data in explorers if anew or "image/png" not in data]
    new = pictures([data["text/html"] for data in due], chapter) if due else []
    count = 0
    for data, picture in zip(due, new, strict=True):
        png, old = packed(picture, "png", optimize=True), data.get("image/png")
        if old and compare.png(png, old, "still") is None:
            continue
        webp = packed(picture.convert("RGB"), "webp", lossless=True, method=6)
        words = html.escape(data["text/plain"].removeprefix("Explorer: "))
        source = f"data:image/webp;base64,{webp}"
        still = f'<img class="fg-still" alt="{words} Still picture." src="{source}">'
        figure, rest = payload.STILL.sub("", data["text/html"]).split("\n", 1)
        data["text/html"] = f"{figure}\n{still}\n{rest}"
        data["image/png"] = png
        count += 1
    return count
