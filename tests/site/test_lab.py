"""What a reader meets in JupyterLab, from a fresh clone: figures, keys and saves."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import compare
import nbformat
import pytest
import sources
import stored
from playwright.sync_api import expect

HANG_MS = 300_000  # a machine may be busy; what waits longer hangs

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
    """A clone of the book, in which `make lab` runs: its folder and its address."""
    folder = tmp_path_factory.mktemp("lab") / "my clone"
    for path in sources.files():
        copy = folder / path.relative_to(sources.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    live = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source.strip()) for source in CELLS],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(live, folder / "book" / "live.ipynb")
    recipe = (folder / "Makefile").read_text().partition("\nlab:")[2]
    command = recipe.split("\n\n")[0].splitlines()[-1].strip()
    command = command.replace("$(BIN)", shlex.quote(str(Path(sys.executable).parent)))
    command += " --no-browser --port=0 --allow-root --ServerApp.token="
    command += " --LabApp.expose_app_in_browser=True --LabApp.news_url=None"
    home = folder.parent / "home"
    own = {f"JUPYTER_{k}_DIR": str(home / k) for k in ("CONFIG", "DATA", "RUNTIME")}
    with open(folder.parent / "log", "w+") as log:
        server = subprocess.Popen(
            f"exec env {command}",
            shell=True,
            cwd=folder,
            env={**os.environ, **own},
            stdout=log,
            stderr=log,
        )
        try:
            yield folder, _address(server, folder.parent / "log")
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:  # how it ends is not the question
                server.kill()
                server.wait()


def _address(server, log) -> str:
    for _ in range(600):
        found = re.search(r"(http://127\.0\.0\.1:\d+)/lab", log.read_text())
        if found:
            with contextlib.suppress(OSError):  # it is written a moment too early
                urllib.request.urlopen(found[1] + "/api", timeout=30).close()
                return found[1]
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not start in 300 s:\n{log.read_text()}")


@pytest.fixture
def opened(browser, lab):
    """A function that opens a notebook in JupyterLab, in a window of its own."""
    windows = []

    def window(name):
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        windows.append(page)
        page.set_default_timeout(HANG_MS)
        page.goto(f"{lab[1]}/lab/tree/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_function("window.jupyterapp?.commands")
        page.wait_for_function(KERNEL_IS_IDLE)
        return page

    yield window
    for page in windows:
        page.close()


def command(page, name):
    page.evaluate(f"jupyterapp.commands.execute('{name}')")  # resolves when it is done


def test_slider_to_python_and_back(opened):
    page = opened("live.ipynb")
    command(page, "notebook:run-all-cells")
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


NOTEBOOK = """(() => {
  const { model, activeCellIndex, mode } = jupyterapp.shell.currentWidget.content;
  const cells = [...model.cells].map((cell) => [cell.id, cell.type]);
  return JSON.stringify([cells, activeCellIndex, mode]);
})()"""
LETTERS = "abcdd jkmrxyz"  # each means something to JupyterLab


def figure(page, name):
    """The figure, in view, where it is drawn; what is above it may still grow."""
    page.wait_for_function(
        """(id) => {
        const figure = document.getElementById(id);
        figure?.scrollIntoView({ block: "center" });
        return figure && "fgReady" in figure.dataset;
        }""",
        arg=name,
    )
    return page.locator(f"figure#{name}")


def setting(page, name):
    """The setting of the figure that is in the page, not of one that was."""
    script = "id => fieldguide.figures.findLast(f => f.element.id === id).params"
    return page.evaluate(script, name)


def moves(page, name, control, key, value):
    """Press `key` on a control of a figure: only this control moves."""
    before = {**setting(page, name), control: value}
    page.keyboard.press(key)
    page.wait_for_function(
        """([id, name, value]) =>
        fieldguide.figures.findLast(f => f.element.id === id).params[name] === value""",
        arg=[name, control, value],
    )
    assert setting(page, name) == before


@contextlib.contextmanager
def untouched(page, control):
    """The control has the focus; keys change neither cells nor which is chosen."""
    control.focus()
    before = page.evaluate(NOTEBOOK)
    yield
    assert page.evaluate(NOTEBOOK) == before


def play_by_keyboard(page):
    """Every kind of control of a page's figures, by keys that JupyterLab has, too."""
    where = figure(page, "fg-where")
    layer = where.locator("[data-fg-control=layer] [type=range]")
    layer.click()  # as a hand begins
    start = setting(page, "fg-where")["layer"]
    with untouched(page, layer):
        moves(page, "fg-where", "layer", "ArrowRight", start + 1)
        moves(page, "fg-where", "layer", "ArrowUp", start + 2)
        moves(page, "fg-where", "layer", "Home", 0)
        page.keyboard.type(LETTERS)
    with untouched(page, where.locator("[data-fg-key='robot 1']").first):
        moves(page, "fg-where", "word", "Enter", "robot")
        page.keyboard.type(LETTERS.replace(" ", ""))
    with untouched(page, where.locator("canvas")):
        page.keyboard.press("ArrowDown")
        page.keyboard.type(LETTERS)
    with untouched(page, where.locator("[data-fg-reset]")):
        page.keyboard.type(LETTERS)  # with a space: it is pressed
        page.keyboard.press("ArrowDown")
        assert setting(page, "fg-where") == START
    with untouched(page, figure(page, "fg-replay").get_by_label("distance")):
        moves(page, "fg-replay", "distance", "ArrowDown", 8)
        page.keyboard.type("dd")
    with untouched(page, figure(page, "fg-saturation").get_by_role("checkbox")):
        page.keyboard.press("ArrowDown")
        moves(page, "fg-saturation", "divide", " ", False)
        page.keyboard.type(LETTERS.replace(" ", ""))
        moves(page, "fg-saturation", "divide", " ", True)


START = {"layer": 27, "head": 2, "word": "it", "step": "all"}


def follow_a_link(page):
    """A link in the text sets the figure that it names."""
    page.get_by_role("link", name="head 2 of layer 27").first.click()
    page.wait_for_function(
        """fieldguide.figures.findLast(f => f.element.id === "fg-where")
        .params.layer === 27"""
    )
    assert setting(page, "fg-where") == START | {"step": "weights"}


def saved(page, path):
    """The notebook's bytes after a save."""
    command(page, "docmanager:save")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    return path.read_bytes()


PAGE = "transformers/attention.ipynb"


def test_a_clone_is_alive_before_anything_runs(lab, opened):
    path = lab[0] / "book" / PAGE
    before = path.read_bytes()
    page = opened(PAGE)
    play_by_keyboard(page)
    follow_a_link(page)
    assert saved(page, path) == before


def test_a_page_is_alive_after_it_was_run_and_saved(lab, opened):
    path = lab[0] / "book" / PAGE
    before = nbformat.read(path, as_version=4)
    page = opened(PAGE)
    command(page, "notebook:run-all-cells")
    figure(page, "fg-where")
    page.wait_for_function("fieldguide.figures.some((figure) => figure.kernel)")
    play_by_keyboard(page)
    follow_a_link(page)
    assert stored.WIDGET_VIEW not in saved(page, path).decode()
    after = nbformat.read(path, as_version=4)
    assert after.metadata == before.metadata
    for new, old in zip(after.cells, before.cells, strict=True):
        shown = [cell.pop("outputs", []) for cell in (new, old)]
        assert compare.same_outputs(*shown) is None
        assert new == old

    # The next day: no kernel has these widgets any more.
    page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
    page.close()
    page = opened(PAGE)
    figure(page, "fg-where")
    expect(page.get_by_text("model not found")).to_have_count(0)
    play_by_keyboard(page)
    follow_a_link(page)


def test_a_drawing_is_read_dragged_and_guessed_at(opened):
    """What is annotated, dragged, answered and linked on the site, is so here."""
    page = opened("challenges/hallucination.ipynb")
    paths = figure(page, "fg-two_readers")
    expect(paths.locator("svg").get_by_text("step 300: 12").first).to_be_visible()

    grip = paths.locator(".fg-grip").last
    at = grip.bounding_box()
    x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    before, *_ = json.loads(page.evaluate(NOTEBOOK))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 500, y)
    page.wait_for_function(
        """fieldguide.figures.find((f) => f.element.id === "fg-two_readers")
        .params.news < 5"""
    )
    page.mouse.up()

    expect(paths.get_by_text("Worse: its loss rises")).to_be_hidden()
    paths.get_by_role("button", name="better").click()
    expect(paths.get_by_text("You guessed: better")).to_be_visible()
    expect(paths.get_by_text("Worse: its loss rises")).to_be_visible()
    cells, *_ = json.loads(page.evaluate(NOTEBOOK))
    assert cells == before, "no cell came or went"

    page.get_by_role("link", name="By step 300").first.click()
    page.wait_for_function(
        """fieldguide.figures.find((f) => f.element.id === "fg-two_readers")
        .params.step === 300"""
    )
