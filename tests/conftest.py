"""What several checks share: the built site, a browser without a network."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock
from rivals.browser import chromium, served

ROOT = Path(__file__).resolve().parents[1]
# No example fails for the time that it takes on a busy machine.
hypothesis.settings.register_profile("book", deadline=None)
hypothesis.settings.load_profile("book")
HANG_S = 300  # a busy machine may be slow; a browser that waits longer hangs


@pytest.fixture(scope="session")
def build():
    """A function that builds the book in a folder as `make book` does."""

    def run(folder, output, **environment):
        return subprocess.run(
            [sys.executable, ROOT / "book" / "_tools" / "build.py", folder, output],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """A function that fills a folder, once for all workers, and returns it."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    def made(name, make):
        folder = shared / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                make(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def site(build, once):
    """The folder of the site, built from nothing, once."""

    def make(folder):
        result = build(ROOT, folder)
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        told = "\n".join(lines[:40]) if result.returncode else ""
        (folder / "failure").write_text(told, "utf8")

    folder = once("site", make)
    if failure := (folder / "failure").read_text("utf8"):
        pytest.fail(f"make book fails:\n{failure}", pytrace=False)
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def server(site):
    """The address at which the site is served on this machine."""

    with served(site) as address:
        yield f"{address}/"


@pytest.fixture(scope="session")
def browser():
    """A Chromium that reaches this machine and nothing else."""
    with chromium("--force-color-profile=srgb") as found:
        yield found


@pytest.fixture
def visit(browser, server):
    """A function that opens a page of the site and keeps account of its troubles.

    `visit(address, width=1280, dark=False, first="")` takes an address below the
    site's or a `file:` one and returns a Playwright page, in which the script
    `first` ran before its own. `page.requests` lists every address it asked for,
    `page.troubles` what went wrong.
    """
    contexts = []

    def open_page(address, *, width=1280, dark=False, first=""):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            has_touch=width < 600,
            reduced_motion="reduce",  # a page that glides can slip from under a click
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(HANG_S * 1000)
        page.requests, page.troubles = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.troubles.append(f"error: {error}"))
        page.on("console", lambda m: page.troubles.extend(complaint(m)))
        page.on("requestfailed", lambda r: page.troubles.append(f"failed: {r.url}"))
        page.on("response", lambda r: r.status < 400 or page.troubles.append(r.url))
        page.add_init_script(SHIFTS + first)
        page.goto(address if ":" in address else server + address)
        return page

    yield open_page
    for context in contexts:
        context.close()


def complaint(message):
    return [message.text] if message.type in ("error", "warning") else []


# `worstJump()` tells how far the page has jumped without the reader's doing: its
# worst burst of layout shifts, as browsers report it. A burst ends after a second
# without a shift, after five in all, or with `pause()`.
SHIFTS = """{
let worst = 0, burst = 0, first = -Infinity, last = -Infinity;
const count = (shifts) => {
  for (const { value, startTime, hadRecentInput } of shifts) {
    if (hadRecentInput) continue;
    const goesOn = startTime - last < 1000 && startTime - first < 5000;
    burst = goesOn ? burst + value : value;
    if (!goesOn) first = startTime;
    last = startTime;
    worst = Math.max(worst, burst);
  }
};
const observer = new PerformanceObserver((list) => count(list.getEntries()));
observer.observe({ type: "layout-shift", buffered: true });
const frames = () => new Promise(done =>
  requestAnimationFrame(() => requestAnimationFrame(done)));
self.worstJump = async () => {
  await frames();
  count(observer.takeRecords());
  return worst;
};
self.pause = async () => { await worstJump(); last = -Infinity; };
}"""
