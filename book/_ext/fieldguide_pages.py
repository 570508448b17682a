"""What the book holds, from what each notebook says of itself in its metadata.

    ```{pages}         on a chapter's page: its notebooks, each with its `summary`
    ```{chapters}      on the front page: every notebook, with what it `builds`
    ```{source} NAME   in a notebook: the code of a mechanism that another one owns

A new notebook is listed by both lists as soon as it is in _toc.yml.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from fieldguide_site import DIRECTIVES, digest, fold
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

FIELDS = "name", "builds", "summary"
logger = logging.getLogger(__name__)


def card(notebook: Path) -> dict[str, str]:
    """What a notebook says of itself; KeyError names what is missing."""
    metadata = json.loads(notebook.read_text("utf8"))["metadata"]
    given = metadata.get("fieldguide", {})
    return {field: given[field] for field in FIELDS}


def section(article: Path, chapter: str) -> str:
    """The article's name for a chapter: of "Scale Wars: When ...", the first half."""
    for each in yaml.safe_load(article.read_text("utf8")):
        if each["section"] == chapter:
            return each["title"].partition(":")[0]
    raise KeyError(chapter)


def tagline(index: Path) -> str:
    """The line in italics below a chapter's title, as it goes on after a colon."""
    line = index.read_text("utf8").splitlines()[2].strip("*")
    return line[0].lower() + line[1:]


class Map(SphinxDirective):
    """What both directives share: the pages below one, and Markdown as nodes."""

    def below(self, docname: str) -> list[str]:
        self.env.note_reread()  # the list of pages may change, and the notebooks
        return self.config.external_site_map[docname].child_files()

    def path(self, docname: str) -> Path:
        return Path(self.env.doc2path(docname))

    def card(self, docname: str) -> dict[str, str]:
        try:
            return card(self.path(docname))
        except KeyError as error:
            message = f"{docname}.ipynb: metadata fieldguide.{error.args[0]} is missing"
            logger.warning(message, location=self.get_location(), type="pages")
            return dict.fromkeys(FIELDS, docname)

    def markdown(self, lines: list[str]) -> list[nodes.Node]:
        holder = nodes.container()
        self.state.nested_parse(StringList(lines), self.content_offset, holder)
        return holder.children


class Pages(Map):
    def run(self) -> list[nodes.Node]:
        lines = []
        for docname in self.below(self.env.docname):
            told, file = self.card(docname), self.path(docname).name
            lines += [f"[{told['name']}]({file})", f": {told['summary']}", ""]
        return self.markdown(lines)


class Chapters(Map):
    def run(self) -> list[nodes.Node]:
        book = Path(self.env.srcdir)
        lines = [
            "| The article's section | Notebook | What you build |",
            "|---|---|---|",
        ]
        for index in self.below(self.env.docname):
            notebooks = self.below(index)
            if not notebooks:  # a page of reference
                continue
            chapter = index.partition("/")[0]
            first = section(book / "article.yml", chapter)
            first += f": [{tagline(self.path(index))}]({index}.md)"
            for docname in notebooks:
                told = self.card(docname)
                link = f"[{told['name']}]({docname}.ipynb)"
                lines.append(f"| {first} | {link} | {told['builds']} |")
                first = ""
        return self.markdown(lines)


def exports(notebook: Path) -> Iterator[tuple[str, list[str]]]:
    """Each exported cell, and the names that it defines."""
    for cell in json.loads(notebook.read_text("utf8"))["cells"]:
        text = "".join(cell["source"])
        if "export" in digest.directives(text):
            body = ast.parse(text).body
            yield text, [name for node in body for name in digest.defined(node)]


class Source(Map):
    """The exported cell that defines a name, folded: "As in rms_norm (Attention)"."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name, known = self.arguments[0], []
        for index in self.below(self.config.root_doc):
            for docname in self.below(index):
                for text, found in exports(self.path(docname)):
                    known += found
                    if name in found:
                        return self.shown(name, docname, DIRECTIVES.sub("", text))
        message = f"no notebook exports {name}; it must be one of {sorted(known)}"
        raise self.error(message)

    def shown(self, name: str, docname: str, code: str) -> list[nodes.Node]:
        told = self.card(docname)["name"]
        folded = fold("", label=f"As in {name} ({told})")
        folded += nodes.literal_block(code, code, language="python")
        return [folded]


def setup(app: Sphinx) -> dict:
    app.add_directive("source", Source)
    app.add_directive("pages", Pages)
    app.add_directive("chapters", Chapters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
