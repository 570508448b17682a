"""The stills of explorers: pictures of their start, by the browser that draws them.

They are for readers without JavaScript, for code hosts and for paper. Beside each
stands how tall the figure is in a page, so that nothing moves when it is drawn.
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
FRAMES = [328, 688]  # CSS pixels of a figure on a phone, and in the book's column
# As many colours do for a picture that a live one replaces, in a fifth of the bytes.
COLOURS = 24
FONT = '16px/1.65 -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif'
PAGE = f"<style>body {{ margin: 0; overflow: hidden; font: {FONT} }}</style>"
BARE = """
.fg { margin: 0; padding: 0; border: 0 }
.fg-body { display: block !important }
.fg-side { display: none !important }
"""
HEIGHTS = """async () => {
  for (const _ of "123456") await new Promise(requestAnimationFrame);
  return [...document.querySelectorAll(".fg-views")].map((views) => views.offsetHeight);
}"""


def taken(figures: list[str], chapter: str) -> list[tuple[Image.Image, str]]:
    """A picture of each stored figure's views; its heights at the widths FRAMES."""
    head, heights = f"<!doctype html>{PAGE}{runtime_html()}", []
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": WIDTH, "height": 900})
        body = f'<body data-fg-chapter="{chapter}">{"".join(figures)}'
        tab.set_content(head + body)
        tab.evaluate("fieldguide.figures.forEach((f) => f.draws || f.update())")
        tab.wait_for_function("fieldguide.figures.every((f) => f.draws)")
        for width in FRAMES:
            tab.set_viewport_size({"width": width, "height": 900})
            heights.append(tab.evaluate(HEIGHTS))
        tab.set_viewport_size({"width": WIDTH, "height": 900})
        tab.add_style_tag(content=BARE)
        tab.evaluate(HEIGHTS)  # it is drawn anew
        views = tab.locator(".fg-views").all()
        shots = [each.screenshot(animations="disabled") for each in views]
    whole = (Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots)
    few = (each.quantize(COLOURS, Image.Quantize.FASTOCTREE) for each in whole)
    return [(each, f"{a} {b}") for each, a, b in zip(few, *heights, strict=True)]


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
    bare = [payload.STILL.sub("", data["text/html"]) for data in due]
    new = taken(bare, chapter) if due else []
    count = 0
    for data, (picture, tall) in zip(due, new, strict=True):
        png, old = packed(picture, "png", optimize=True), data.get("image/png")
        same = old and compare.png(png, old, "still") is None
        if same and f'data-fg-tall="{tall}"' in data["text/html"]:
            continue
        webp = packed(picture.convert("RGB"), "webp", lossless=True, method=6)
        words = html.escape(data["text/plain"].removeprefix("Explorer: "))
        source = f"data:image/webp;base64,{webp}"
        still = f'<img class="fg-still" data-fg-tall="{tall}" src="{source}"'
        still += f' alt="{words} Still picture.">'
        figure, rest = payload.STILL.sub("", data["text/html"]).split("\n", 1)
        data["text/html"] = f"{figure}\n{still}\n{rest}"
        data["image/png"] = png
        count += 1
    return count
