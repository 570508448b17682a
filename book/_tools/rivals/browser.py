"""Chromium with the network cut, a local server that counts, and a stopwatch."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import setup
from playwright.sync_api import Browser, Page, sync_playwright

# Every name but this machine's own resolves to nothing.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
# Runs before a page's own scripts.
#
# `fgStep(act, mark)` moves a control with act() at the start of a frame, where
# browsers deliver a drag, and waits until mark() gives another value and that
# frame is painted. It answers the milliseconds from the event to the paint: the
# wait for the next refresh of the display, the same for all, is not in them.
# `fgWhen(test)` answers the milliseconds from the navigation to the first
# painted frame for which test() is true.
STOPWATCH = """
(() => {
  const painted = (then) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => then(performance.now());
    channel.port2.postMessage(0);
  };
  const until = (test, then, last = performance.now() + 20000) => {
    if (test()) painted(then);
    else if (performance.now() > last) then(NaN);
    else requestAnimationFrame(() => until(test, then, last));
  };
  window.fgStep = (act, mark) => new Promise((done) => requestAnimationFrame(() => {
    const before = mark(), start = performance.now();
    act();
    until(() => mark() !== before, (end) => done(end - start));
  }));
  window.fgWhen = (test) => new Promise((done) => until(test, done));
  // Every element that `selector` finds, inside shadow roots as well.
  window.fgAll = (selector, root = document) => [
    ...root.querySelectorAll(selector),
    ...[...root.querySelectorAll("*")].flatMap((node) =>
      node.shadowRoot ? fgAll(selector, node.shadowRoot) : []),
  ];
  // How often a canvas was painted on; for libraries that do not tell.
  window.fgPaints = 0;
  for (const name of ["drawImage", "putImageData"]) {
    const own = CanvasRenderingContext2D.prototype[name];
    CanvasRenderingContext2D.prototype[name] = function (...given) {
      window.fgPaints++;
      return own.apply(this, given);
    };
  }
  // An arrow key on the first noUiSlider, which JupyterLab and Panel use; at an
  // end of the slider it turns round.
  let arrow = "Right";
  window.fgNudge = () => {
    const handle = fgAll(".noUi-handle")[0];
    const [low, at, high] = ["min", "now", "max"].map((end) =>
      Number(handle.getAttribute(`aria-value${end}`)));
    arrow = at >= high ? "Left" : at <= low ? "Right" : arrow;
    const key = { key: `Arrow${arrow}`, bubbles: true };
    handle.dispatchEvent(new KeyboardEvent("keydown", key));
  };
  // What all pictures show, once they are decoded.
  window.fgPictures = () => fgAll("img").map((image) =>
    image.complete && image.naturalWidth && image.src).join();
})();
"""


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """A Chromium that reaches this machine and nothing else."""
    path = setup.find_browser()
    if not path:
        raise RuntimeError(
            "No Chromium or Chrome is found: `make test` installs one, or set "
            "BROWSER_BIN to the path of yours."
        )
    args = ["--no-sandbox", OFFLINE, *flags]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=args) as browser,
    ):
        yield browser


@contextmanager
def opened(browser: Browser, url: str, script: str = "") -> Iterator[Page]:
    """A page of its own, with nothing cached, at `url`; `script` runs first."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(STOPWATCH + script)
    try:
        page.goto(url)
        yield page
    finally:
        page.close()


def stepper(page: Page, act: str, mark: str) -> Callable[[], float]:
    """Milliseconds of one step of a control, as `fgStep` measures it."""
    return lambda: drawn(page.evaluate(f"fgStep(() => {{ {act} }}, () => {mark})"))


def loader(browser: Browser, url: str, live: str) -> Callable[[], float]:
    """Milliseconds from the navigation to the frame in which `live` is true."""
    script = f"window.fgLive = fgWhen(() => {live});"

    def load() -> float:
        with opened(browser, url, script) as page:
            return drawn(page.evaluate("fgLive"))

    return load


def drawn(took: float) -> float:
    """`took`, or TimeoutError if the picture did not change in 20 s."""
    if took != took:
        raise TimeoutError("the picture did not change within 20 s of the event")
    return took


def compressed(data: bytes | str) -> int:
    """Bytes as a web server sends them."""
    raw = data.encode() if isinstance(data, str) else data
    return len(gzip.compress(raw, 6))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a server of `folder`, on this machine only."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            pass

    handler = partial(Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
