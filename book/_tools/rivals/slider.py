"""A slider and a 64 x 64 heatmap: this page, and a kernel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import numpy as np
from ipywidgets import IntSlider

from fieldguide.explore import explore, heatmap, runtime_html
from rivals.browser import chromium, opened, stepper
from rivals.measure import Goal, Row, alternate, attempt, beside, own, versioned

ROUNDS, SETTINGS, SIZE = 15, 21, 64
TITLE = f"A slider over {SIZE} x {SIZE} heatmaps: its event to the repainted page"
DATA = np.random.default_rng(0).random((SETTINGS, SIZE, SIZE))

SLIDE = """const slider = document.querySelector("[data-fg-control] input");
slider.value = (Number(slider.value) + 1) % 21;
slider.dispatchEvent(new Event("input", { bubbles: true }));"""
DRAWN = "document.querySelector('[data-fg-draws]').dataset.fgDraws"

KERNEL_IS_IDLE = """jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel
?.status == 'idle'"""
KERNEL_CELL = f"""%matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from ipywidgets import IntSlider, interactive_output
data = np.random.default_rng(0).random(({SETTINGS}, {SIZE}, {SIZE}))
def draw(step):
    plt.imshow(data[step])
    plt.show()
slider = IntSlider(max={SETTINGS - 1})
display(slider, interactive_output(draw, {{"step": slider}}))"""


def page_of_ours(folder: Path) -> str:
    """The published form in a page of its own; its address."""

    def noise(step):
        """A picture of noise.

        It changes everywhere.
        """
        return {"Noise": heatmap(DATA[step], low=0, high=1)}

    figure = explore(noise, step=IntSlider(max=SETTINGS - 1))
    path = folder / "ours.html"
    path.write_text(f"<!doctype html>{runtime_html()}{figure.html()}")
    return path.as_uri()


def kernel(stack, browser, folder: Path) -> Callable[[], float]:
    """The same slider in JupyterLab: over the kernel, drawn by matplotlib."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(KERNEL_CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "kernel.ipynb")
    page = stack.enter_context(opened(browser, stack.enter_context(lab(folder))))
    page.wait_for_function(KERNEL_IS_IDLE, timeout=60_000)
    page.locator(".jp-Cell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    page.locator(".noUi-handle").first.wait_for(timeout=60_000)
    page.locator(".jp-OutputArea img").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1000)
    return stepper(page, "fgNudge()", "fgPictures()")


@contextmanager
def lab(folder: Path) -> Iterator[str]:
    """The address of kernel.ipynb in a JupyterLab on `folder`."""
    home = {f"JUPYTER_{k}_DIR": str(folder / k) for k in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0"]
    command += ["--ServerApp.token=", "--allow-root", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    with open(folder / "log", "w") as log:
        streams = {"stdout": log, "stderr": log}
        server = subprocess.Popen(command, env={**os.environ, **home}, **streams)
        try:
            yield address(folder / "log") + "/lab/tree/kernel.ipynb"
        finally:
            server.terminate()
            server.wait(20)


def address(log: Path) -> str:
    """Where the server that writes `log` listens, once it answers."""
    for _ in range(240):
        if found := re.search(r"(http://127\.0\.0\.1:\d+)/lab", log.read_text()):
            urllib.request.urlopen(found[1] + "/api", timeout=30).close()
            return found[1]
        time.sleep(0.25)
    raise TimeoutError("JupyterLab did not start in 60 s")


def rows() -> Iterator[Row]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        browser = stack.enter_context(chromium())
        page = stack.enter_context(opened(browser, page_of_ours(folder)))
        page.wait_for_selector("[data-fg-ready]")
        sides = {"ours": stepper(page, SLIDE, DRAWN)}
        sides["kernel"] = attempt(kernel, stack, browser, folder)
        took = alternate(sides, rounds=ROUNDS, warm=2)

    what, goal = "event to frame", Goal(16, "ours")
    yield Row(what, "ms", own(took["ours"]), "", None, goal)
    name = f"{versioned('jupyterlab')}, interactive_output, matplotlib"
    yield beside(took, what, "ours", name, "kernel", Goal(1 / 20))
