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

WIDTH = 640  # CSS pixels
# As many colours do for a picture that a live one replaces, in a quarter of the bytes.
COLOURS = 64
BARE = """
body { margin: 0; overflow: hidden; font: 15px system-ui, sans-serif }
.fg { margin: 0; padding: 0; border: 0 }
.fg-body { display: block !important }
.fg-controls { display: none }
"""


def pictures(figures: list[str]) -> list[bytes]:
    """A PNG of the views of each stored figure."""
    head = f"<!doctype html>{runtime_html()}<style>{BARE}</style>"
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": WIDTH, "height": 900})
        tab.set_content(head + "".join(figures))
        tab.evaluate("fieldguide.figures.forEach((f) => f.draws || f.update())")
        tab.wait_for_function("fieldguide.figures.every((f) => f.draws)")
        views = tab.locator(".fg-views").all()
        return [small(each.screenshot(animations="disabled")) for each in views]


def small(png: bytes) -> bytes:
    picture, few = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    kept = picture.quantize(COLOURS, Image.Quantize.FASTOCTREE)  # rare bright ones, too
    kept.save(few, "png", optimize=True)
    return few.getvalue()


def add(notebook: nbformat.NotebookNode, *, anew: bool = False) -> int:
    """Give a still to each explorer that has none, or one that looks otherwise.

    anew: take all, and keep of the stored ones those that look the same.
    Returns how many are new.
    """
    outputs = (o for cell in notebook.cells for o in cell.get("outputs", []))
    explorers = filter(compare.is_explorer, (o.get("data", {}) for o in outputs))
    due = [data for data in explorers if anew or "image/png" not in data]
    new = pictures([data["text/html"] for data in due]) if due else []
    count = 0
    for data, png in zip(due, new, strict=True):
        picture, old = base64.b64encode(png).decode(), data.get("image/png")
        if old and compare.png(picture, old, "still") is None:
            continue
        words = html.escape(data["text/plain"].removeprefix("Explorer: "))
        source = f"data:image/png;base64,{picture}"
        still = f'<img class="fg-still" alt="{words} Still picture." src="{source}">'
        figure, rest = payload.STILL.sub("", data["text/html"]).split("\n", 1)
        data["text/html"] = f"{figure}\n{still}\n{rest}"
        data["image/png"] = picture
        count += 1
    return count
