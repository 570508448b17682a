"""Explorers in JupyterLab: with a kernel, beside other widgets, and saved."""

import os
import re
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from nbclient import NotebookClient
from playwright.sync_api import expect

CELLS = [
    """
import ipywidgets
from fieldguide.explore import explore, number
from fieldguide.explore import begin
begin()
""",
    '''
def doubled(x, on):
    """Twice a number.

    Look for the sign.
    """
    if x > 100:
        raise ValueError("x is above 100")
    return {"Double": number(2 * x if on else -2 * x, "m")}
''',
    """
slider = ipywidgets.IntSlider(1, min=0, max=3, description="outer")
explorer = explore(doubled, x=slider, on=True)
seen = ipywidgets.Label()
explorer.observe(lambda c: setattr(seen, "value", f"Python saw {c['new']}"), "x")
linked = ipywidgets.FloatSlider(1, min=0, max=3, step=1, description="linked")
ipywidgets.jslink((linked, "value"), (explorer, "x"))
ipywidgets.HBox([ipywidgets.VBox([slider, linked, seen]), explorer])
""",
]

KERNEL_IS_IDLE = (
    "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on a folder with two notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    live = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source.strip()) for source in CELLS],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(live, folder / "live.ipynb")
    live.cells[2].source = "explore(doubled, x=(0, 3), on=True)"
    NotebookClient(live, timeout=120).execute()
    for cell in live.cells:
        for output in cell.outputs:
            output.data.pop("application/vnd.jupyter.widget-view+json", None)
    live.metadata.pop("widgets", None)
    nbformat.write(live, folder / "saved.ipynb")
    home = {f"JUPYTER_{k}_DIR": str(folder / k) for k in ("CONFIG", "DATA", "RUNTIME")}
    environment = {**os.environ, **home}
    trust = [sys.executable, "-m", "jupyter", "trust", folder / "saved.ipynb"]
    subprocess.run(trust, env=environment, check=True, capture_output=True)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0"]
    command += ["--ServerApp.token=", "--allow-root", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    with open(folder / "log", "w+") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield _address(server, folder / "log")
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:  # how it ends is not the question
                server.kill()
                server.wait()


def _address(server, log) -> str:
    for _ in range(120):
        found = re.search(r"(http://127\.0\.0\.1:\d+)/lab", log.read_text())
        if found:
            urllib.request.urlopen(found[1] + "/api", timeout=30).close()
            return found[1]
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not start in 60 s:\n{log.read_text()}")


def opened(browser, lab, name):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{lab}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    return page


def test_slider_to_python_and_back(browser, lab):
    page = opened(browser, lab, "live.ipynb")
    page.wait_for_function("window.jupyterapp?.commands")
    page.wait_for_function(KERNEL_IS_IDLE)
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector("figure.fg[data-fg-ready]")
    value = page.locator("[data-fg-view=Double] .fg-number")
    expect(value).to_have_text("2 m")

    # From the explorer to Python, and to the widget that was passed in.
    inner = page.locator("[data-fg-control=x] input[type=range]")
    inner.focus()
    page.keyboard.press("End")
    expect(value).to_have_text("6 m")
    expect(page.get_by_text("Python saw 3")).to_be_visible()
    expect(page.locator(".widget-readout").first).to_have_text("3")

    # From a linked widget, through the browser, to the explorer and to Python.
    linked = page.locator(".widget-slider", has_text="linked").get_by_role("slider")
    linked.focus()
    page.keyboard.press("Home")
    expect(value).to_have_text("0 m")
    expect(page.get_by_text("Python saw 0")).to_be_visible()

    # Off the grid, only the kernel knows.
    exact = page.locator("[data-fg-control=x] .fg-exact")
    exact.fill("2.25")
    exact.press("Enter")
    expect(value).to_have_text("4.5 m")

    # An error in Python is said, and the next setting works again.
    exact.fill("101")
    exact.press("Enter")
    expect(page.locator(".fg-status")).to_contain_text("x is above 100")
    page.locator("[data-fg-reset]").click()
    expect(value).to_have_text("2 m")
    page.close()


def test_a_saved_notebook_is_alive_before_it_runs(browser, lab):
    page = opened(browser, lab, "saved.ipynb")
    page.wait_for_selector("figure.fg[data-fg-ready]")
    value = page.locator("[data-fg-view=Double] .fg-number")
    expect(value).to_have_text("2 m")
    page.locator("[data-fg-control=on] input").uncheck()
    expect(value).to_have_text("-2 m")
    page.close()
