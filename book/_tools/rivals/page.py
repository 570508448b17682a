"""The attention page as published, and the same page on html-manager.

html-manager is how a Jupyter book shows ipywidgets without a kernel. Its page
is ours with each stored explorer replaced by the saved state of its widget; the
scripts come from npm and PyPI and lie on the same server.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import anywidget
import setup
from ipywidgets.embed import embed_data
from playwright.sync_api import Browser

from fieldguide.explore import explore, number, payload
from rivals.browser import chromium, compressed, loader, opened, served
from rivals.measure import Goal, Row, alternate, attempt, beside, each

TITLE = "The attention page: what a reader downloads, and the first live explorer"
PAGE = "transformers/attention.html"
LIVE = "document.querySelector('figure[data-fg-ready]')"
LOADS = 5
FIGURE = re.compile(r'<figure class="fg".*?</figure>', re.DOTALL)
WIDGET = "application/vnd.jupyter.widget-"


def build(folder: Path) -> Path:
    """The site, from clean; its folder."""
    command = [sys.executable, "book/_tools/build.py", setup.ROOT, folder]
    done = subprocess.run(command, cwd=setup.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the site does not build:\n{done.stderr[-2000:]}")
    return folder / "_build" / "html"


def widget_state(figures: list[str]) -> tuple[dict, list[str]]:
    """Saved state of one widget for each stored figure, and their model ids."""

    def dummy(x):
        """A widget whose state is the pattern for the others.

        It shows a number.
        """
        return {"x": number(x)}

    pattern = explore(dummy, x=[0, 1])
    saved = embed_data(views=[pattern], drop_defaults=False)["manager_state"]
    linked = saved["state"]  # with the layout, which all refer to
    record = linked.pop(pattern.model_id)
    own_state = {k: v for k, v in record["state"].items() if k not in ("x", "chunks")}
    state, names = {}, []
    for index, figure in enumerate(figures):
        spec = json.loads(payload.SPEC.search(figure)[1])
        chunks = payload.CHUNK.findall(figure)
        start = {c["name"]: c["keys"][c["start"]] for c in spec["controls"]}
        buffers = [
            {"path": ["chunks", str(i)], "encoding": "base64", "data": chunk}
            for i, chunk in enumerate(chunks)
        ]
        names.append(f"{index:032x}")
        full = {**own_state, **start, "spec": spec, "chunks": {}}
        state[names[-1]] = {**record, "state": full, "buffers": buffers}
    return {**saved, "state": {**linked, **state}}, names


def anchor(figure: str) -> str:
    return re.search(r'id="([^"]*)"', figure)[1]


def write_rival(site: Path) -> str:
    """Writes the same page on html-manager beside PAGE; its address."""
    page = (site / PAGE).read_text()
    state, names = widget_state(FIGURE.findall(page))
    identifiers = iter(names)

    def view(figure: re.Match) -> str:
        model = json.dumps({"model_id": next(identifiers)})
        script = f'<script type="{WIDGET}view+json">{model}</script>'
        return f'<div id="{anchor(figure[0])}">{script}</div>'

    page = FIGURE.sub(view, page)
    packed = json.dumps(state).replace("</", "<\\/")
    scripts = f'<script type="{WIDGET}state+json">{packed}</script>'
    # deferred, to run after the site's own script: that knows no `define`
    for name in ("require.js", "embed-amd.js"):
        scripts += f'<script defer src="{name}"></script>'
    rival = (site / PAGE).with_name("rival.html")
    rival.write_text(page.replace("</body>", f"{scripts}</body>"))
    modules = setup.WEB / "node_modules"
    shutil.copy(modules / "requirejs/require.js", rival.parent)
    dist = "@jupyter-widgets/html-manager/dist"
    shutil.copy(modules / dist / "embed-amd.js", rival.parent)
    fonts = shutil.ignore_patterns("*.js", "*.ts", "*.map")
    shutil.copytree(modules / dist, rival.parent / dist, ignore=fonts)
    front = Path(anywidget.__file__).parent / "nbextension" / "index.js"
    shutil.copy(front, rival.with_name("anywidget.js"))
    return f"/{rival.relative_to(site).as_posix()}"


def download(browser: Browser, url: str) -> dict[str, list[float]]:
    """What loading `url` and scrolling to its end takes from the server."""
    hosts, answers = set(), []
    with opened(browser, "about:blank") as page:
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.on("response", lambda answer: answers.append(answer))
        page.goto(url, wait_until="networkidle")
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(500)
        answers = [a for a in answers if a.url.startswith("http")]
        sizes = [compressed(answer.body()) / 1e3 for answer in answers]
    return {
        "bytes": [sum(sizes)],
        "requests": [len(sizes)],
        "hosts": [len(hosts - {"127.0.0.1", None})],
    }


def rows() -> Iterator[Row]:
    with ExitStack() as stack:
        site = build(Path(stack.enter_context(TemporaryDirectory())))
        written = attempt(write_rival, site)
        with (site / "_static" / "site.css").open("a") as css:
            css.write(":root{scroll-behavior:auto!important}")  # not the thing timed
        base = stack.enter_context(served(site))
        browser = stack.enter_context(chromium())
        first = anchor(FIGURE.search((site / PAGE).read_text())[0])
        urls = {"ours": f"/{PAGE}", "rival": written}
        taken = each(lambda url: download(browser, base + url), urls)
        sides = each(lambda url: loader(browser, f"{base}{url}#{first}", LIVE), urls)
        took = alternate(sides, rounds=LOADS)

    rival = f"html-manager {npm_version('@jupyter-widgets/html-manager')}"
    for what, key, unit, limit in (
        ("page, compressed", "bytes", "kB", 1000),
        ("requests", "requests", "requests", 12),
        ("other hosts", "hosts", "hosts", 0),
    ):
        values = each(lambda loaded, key=key: loaded[key], taken)
        goal = Goal(limit, "ours")
        yield Row(what, unit, values["ours"], rival, values["rival"], goal)
    yield beside(took, "first live explorer", "ours", rival, "rival", Goal(1 / 2))


def npm_version(package: str) -> str:
    manifest = setup.WEB / "node_modules" / package / "package.json"
    return json.loads(manifest.read_text())["version"] if manifest.exists() else ""
