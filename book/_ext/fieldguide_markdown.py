"""What a notebook writes as a plain link, for JupyterLab, and the site shows as more.

([Elman, 1990](../bibliography.md#elman1990))    a citation
[rms_norm](gpt.ipynb#code-rms_norm)              alone in its line: the code, folded
[train.yaml](../_assets/a/train.yaml)            alone in its line: what is in the file
[after 50 steps](#fig:steps=50)                  moves a figure: see fieldguide_prose
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import fieldguide_site  # noqa: F401  (it makes the book's tools importable)
from citations import roles
from fieldguide_prose import figures, whole
from sphinx.application import Sphinx
from sphinx.util import logging

MECHANISM = re.compile(r"^\[[^][]+\]\([\w./-]+\.ipynb#code-(\w+)\)$", re.M)
FILE = re.compile(r"^\[[^][]+\]\((\.\./_assets/[^()\s]+\.(\w+))\)$", re.M)
LANGUAGES = {"slurm": "bash"}  # others are called as their files end
logger = logging.getLogger(__name__)


def for_the_site(text: str) -> str:
    def file(found: re.Match) -> str:
        language = LANGUAGES.get(found[2], found[2])
        return f"```{{literalinclude}} {found[1]}\n:language: {language}\n```"

    text = MECHANISM.sub("```{source} \\1\n```", text)
    return roles(FILE.sub(file, text))


def read_links(app: Sphinx, docname: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(docname))

    def stored(page: str) -> list:
        if not page:
            return figures(cells)
        app.env.note_dependency(str(path.parent / page))
        return figures(json.loads((path.parent / page).read_text("utf8"))["cells"])

    def linked(text: str, at: int) -> str:
        try:
            return whole(text, at, stored)
        except ValueError as error:
            logger.warning(f"{docname}: {error}", type="figures")
            return text

    cells = []
    if path.suffix != ".ipynb":
        source[0] = linked(source[0], 0)
        return
    notebook = json.loads(source[0])
    cells = notebook["cells"]
    for k, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            cell["source"] = for_the_site(linked("".join(cell["source"]), k))
    source[0] = json.dumps(notebook)


def setup(app: Sphinx) -> dict:
    app.connect("source-read", read_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
