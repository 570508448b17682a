"""One explorer of 80 settings, as a page of its own: bytes, and a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from rivals import panels
from rivals.browser import chromium, compressed, opened, stepper
from rivals.measure import Absent, Goal, Row, alternate, attempt, own, versioned
from rivals.slider import DRAWN, SLIDE

LAYERS, HEADS, SIZE, TEMPERATURES = 4, 4, 32, [0.25, 0.5, 1.0, 2.0, 4.0]
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
    from fieldguide.explore import explore, heatmap, runtime_html

    def heads(layer, head, temperature):
        """Attention weights

        Look for rows that go to one place.
        """
        at = layer, head, TEMPERATURES.index(temperature)
        return {"Weights": heatmap(data[at], low=0, high=1)}

    controls = {"layer": (0, LAYERS - 1), "head": (0, HEADS - 1)}
    figure = explore(heads, **controls, temperature=TEMPERATURES).html()
    return f"<!doctype html>{runtime_html()}{figure}", figure


def rows() -> Iterator[Row]:
    data = weights()
    whole, figure = ours(data)
    slide = SLIDE.replace("% 21", f"% {LAYERS}")
    sliders = [("layer", LAYERS), ("head", HEADS), ("temperature", len(TEMPERATURES))]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        browser = stack.enter_context(chromium())
        (folder / "ours.html").write_text(whole)
        page = stack.enter_context(opened(browser, (folder / "ours.html").as_uri()))
        page.wait_for_selector("[data-fg-ready]")

        def panel(bokeh: bool):
            path = panels.save(folder, sliders, data.numpy(), bokeh=bokeh)
            page = stack.enter_context(opened(browser, path.as_uri()))
            return path.read_bytes(), panels.slider(page, bokeh=bokeh)

        pages = {"Bokeh": attempt(panel, True), "matplotlib": attempt(panel, False)}
        sides = {n: p if isinstance(p, Absent) else p[1] for n, p in pages.items()}
        sides["ours"] = stepper(page, slide, DRAWN)
        took = alternate(sides, rounds=ROUNDS, warm=2)

    kilobytes = [compressed(figure) / 1e3]
    yield Row(
        "compressed, without runtime", "kB", kilobytes, "", None, Goal(50, "ours")
    )
    yield Row("a step", "ms", own(took["ours"]), "", None, Goal(5, "ours"))
    for name, page in pages.items():
        rival = f"{versioned('panel')} embed, {name}"
        for what, size in (("page", len), ("page, compressed", compressed)):
            theirs = page if isinstance(page, Absent) else [size(page[0]) / 1e3]
            yield Row(what, "kB", [size(whole) / 1e3], rival, theirs)
        yield Row("a step", "ms", own(took["ours"]), rival, took[name])
