"""Models that answer in a page: their files reach the site, and load on a click.

A page with a figure `data-fg-ask` gets the script `static/models/ask.js`. What that
loads is written beside it when the site is built, into `_static/models`, and never
committed: the engines come from npm (`book/_web`), the large model from its package,
the small one from `book/_assets/edge`. Code travels as scripts, which a page may also
load from `file:`, where it may not fetch.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.builders.html._assets import _JavaScript
from sphinx.errors import ExtensionError

PACKAGES = Path(__file__).parents[1] / "_web" / "node_modules"
MARK = "data-fg-ask"
MODULE = ',{type:"module"}'  # what `ask.js` takes out of wllama
WLLAMA, ORT = "@wllama/wllama", "onnxruntime-web/dist"
ENGINES = {  # name: its module and its binary
    "wllama": (f"{WLLAMA}/esm/index.min.js", f"{WLLAMA}/esm/single-thread/wllama.wasm"),
    "ort": (f"{ORT}/ort.wasm.bundle.min.mjs", f"{ORT}/ort-wasm-simd-threaded.wasm"),
}


def bring(package_file: str) -> bytes:
    path = PACKAGES / package_file
    if not path.is_file():
        command = "python3 book/_tools/setup.py web"
        raise ExtensionError(f"{path} is missing; this command brings it: {command}")
    return path.read_bytes()


def write_script(folder: Path, name: str, **parts: str) -> None:
    """A script that leaves its parts where `ask.js` looks for them."""
    text = json.dumps(parts).replace("</", "<\\/")
    place = f"(self.fieldguideModels ??= {{}})[{json.dumps(name)}]"
    (folder / f"{name}.js").write_text(f"{place} = {text};\n", "utf8")


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def place(source: Path, target: Path) -> None:
    """The file itself under a second name; a copy where that is not allowed."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def add_script(app: Sphinx, pagename, templatename, context, doctree) -> None:
    if MARK in context.get("body", ""):
        script = _JavaScript("_static/models/ask.js", defer="defer")
        context["script_files"] = [*context["script_files"], script]


def write_models(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.name != "html":
        return
    folder = Path(app.outdir) / "_static" / "models"
    pages = Path(app.outdir).rglob("*.html")
    if not any(MARK in page.read_text("utf8") for page in pages):
        shutil.rmtree(folder, ignore_errors=True)
        return
    if any(folder.glob("*.gguf")):  # the last that is placed
        return
    from fieldguide.data import asset, smollm2

    for name, (code, wasm) in ENGINES.items():
        text = bring(code).decode()
        if name == "wllama" and text.count(MODULE) != 1:
            raise ExtensionError(f"{code} holds {MODULE!r} not once: see ask.js")
        write_script(folder, name, code=text, wasm=in_base64(bring(wasm)))
    # The other engine's licence stands in its code.
    (folder / "wllama.LICENCE").write_bytes(bring(f"{WLLAMA}/LICENCE"))
    onnx = asset("edge", "king-james.onnx").read_bytes()
    write_script(folder, "king-james", onnx=in_base64(onnx))
    model = smollm2().path
    place(model, folder / model.name)


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", add_script, priority=950)
    app.connect("build-finished", write_models)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
