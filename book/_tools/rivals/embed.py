"""One explorer of 80 settings, as a page of its own: bytes, and a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from fieldguide.explore import explore, heatmap, runtime_html
from rivals.browser import chromium, compressed, opened, stepper
from rivals.measure import Goal, Row, alternate, attempt, beside, each, own, versioned
from rivals.slider import DRAWN, SLIDE

LAYERS, HEADS, SIZE, TEMPERATURES = 4, 4, 32, [0.25, 0.5, 1.0, 2.0, 4.0]
SLIDERS = "layer", "head", "temperature"
COUNT = LAYERS * HEADS * len(TEMPERATURES)
TITLE = f"One explorer of {COUNT} settings of {SIZE} x {SIZE}"
ROUNDS = 15


def weights() -> torch.Tensor:
    """Causal attention weights, (layers, heads, temperatures, T, T)."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(LAYERS, HEADS, SIZE, SIZE, generator=generator)
    hidden = torch.ones(SIZE, SIZE, dtype=torch.bool).triu(1)
    scores = scores.masked_fill(hidden, -torch.inf)
    return torch.stack([(scores / t).softmax(-1) for t in TEMPERATURES], 2)


def ours(data) -> tuple[str, str]:
    """The page with the runtime, and the stored figure alone."""

    def heads(layer, head, temperature):
        """Attention weights

        Look for rows that go to one place.
        """
        at = layer, head, TEMPERATURES.index(temperature)
        return {"Weights": heatmap(data[at], low=0, high=1)}

    controls = {"layer": (0, LAYERS - 1), "head": (0, HEADS - 1)}
    figure = explore(heads, **controls, temperature=TEMPERATURES).html()
    return f"<!doctype html>{runtime_html()}{figure}", figure


def panel_page(folder: Path, data: np.ndarray) -> Path:
    """Panel's `embed`: a page with every setting of its three sliders, in Bokeh."""
    import panel
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    panel.extension()
    controls = {
        name: panel.widgets.IntSlider(name=name, start=0, end=count - 1)
        for name, count in zip(SLIDERS, data.shape, strict=False)
    }

    def draw(**at):
        picture = figure(width=400, height=400)
        rows, columns = data.shape[-2:]
        place = {"x": 0, "y": 0, "dw": columns, "dh": rows}
        values = np.ascontiguousarray(data[tuple(at.values())], dtype="float32")
        picture.image(image=[values], palette="Viridis256", **place)
        return picture

    path = folder / "panel.html"
    options = {"max_states": COUNT + 1, "max_opts": COUNT + 1, "progress": False}
    page = panel.Column(*controls.values(), panel.bind(draw, **controls))
    page.save(path, embed=True, resources=INLINE, **options)
    return path


def rows() -> Iterator[Row]:
    data = weights()
    whole, figure = ours(data)
    slide = SLIDE.replace("% 21", f"% {LAYERS}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        browser = stack.enter_context(chromium())
        (folder / "ours.html").write_text(whole)
        page = stack.enter_context(opened(browser, (folder / "ours.html").as_uri()))
        page.wait_for_selector("[data-fg-ready]")

        def panel():
            path = panel_page(folder, data.numpy())
            page = stack.enter_context(opened(browser, path.as_uri()))
            page.locator(".noUi-handle").first.wait_for(timeout=30_000)
            page.wait_for_timeout(1000)
            return path.read_bytes(), stepper(page, "fgNudge()", "fgPaints")

        pages = {"panel": attempt(panel)}
        sides = each(lambda made: made[1], pages)
        sides["ours"] = stepper(page, slide, DRAWN)
        took = alternate(sides, rounds=ROUNDS, warm=2)

    kilobytes = [compressed(figure) / 1e3]
    goal = Goal(50, "ours")
    yield Row("compressed, without runtime", "kB", kilobytes, "", None, goal)
    yield Row("a step", "ms", own(took["ours"]), "", None, Goal(5, "ours"))
    rival = f"{versioned('panel')} embed, Bokeh"
    for what, size in ("page", len), ("page, compressed", compressed):
        theirs = each(lambda made, size=size: [size(made[0]) / 1e3], pages)["panel"]
        yield Row(what, "kB", [size(whole) / 1e3], rival, theirs)
    yield beside(took, "a step", "ours", rival, "panel")
