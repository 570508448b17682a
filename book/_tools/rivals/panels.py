"""Panel's `embed`: a page that holds every setting of its sliders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from playwright.sync_api import Page

from rivals.browser import stepper


def save(folder: Path, sliders: list[tuple[str, int]], data, *, bokeh: bool) -> Path:
    """A page with one heatmap of `data`, one leading axis for each slider."""
    import panel
    from bokeh.plotting import figure
    from bokeh.resources import INLINE
    from matplotlib.figure import Figure

    panel.extension()
    controls = {
        name: panel.widgets.IntSlider(name=name, start=0, end=count - 1)
        for name, count in sliders
    }

    def draw_bokeh(**at):
        picture = figure(width=400, height=400)
        rows, columns = data.shape[-2:]
        place = {"x": 0, "y": 0, "dw": columns, "dh": rows}
        values = np.ascontiguousarray(data[tuple(at.values())], dtype="float32")
        picture.image(image=[values], palette="Viridis256", **place)
        return picture

    def draw_matplotlib(**at):
        picture = Figure(figsize=(4, 4))
        picture.subplots().imshow(data[tuple(at.values())])
        return picture

    draw = panel.bind(draw_bokeh if bokeh else draw_matplotlib, **controls)
    path = folder / f"panel-{'bokeh' if bokeh else 'matplotlib'}.html"
    most = int(np.prod([count for _, count in sliders])) + 1
    options = {"max_states": most, "max_opts": most, "progress": False}
    page = panel.Column(*controls.values(), draw)
    page.save(path, embed=True, resources=INLINE, **options)
    return path


def slider(page: Page, *, bokeh: bool) -> Callable[[], float]:
    """What moves the first slider of such a page, and times it."""
    page.locator(".noUi-handle").first.wait_for(timeout=30_000)
    page.wait_for_timeout(1000)
    return stepper(page, "fgNudge()", "fgPaints" if bokeh else "fgPictures()")
