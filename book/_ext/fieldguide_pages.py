"""What the book holds, from what each notebook says of itself in its metadata.

    ```{pages}         on a chapter's page: its notebooks, each with its `summary`
    ```{chapters}      on the front page: for each chapter its `picture.svg`, what it
                       `asks` in its first lines, and the names of its notebooks
    ```{live} PAGE ID  the figure that a notebook stores in the cell with this id
    ```{source} NAME   the code of a mechanism that a notebook owns

A new notebook is listed by both lists as soon as it is in _toc.yml.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

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


class Map(SphinxDirective):
    """What both directives share: the pages below one, and Markdown as nodes."""

    def below(self, docname: str) -> list[str]:
        return self.config.external_site_map[docname].child_files()

    def path(self, docname: str) -> Path:
        """A page's file; the page that asks for it is built anew when it changes."""
        path = self.env.doc2path(docname)
        self.env.note_dependency(path)
        return Path(path)

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
        found = []
        for index in self.below(self.env.docname):
            if notebooks := self.below(index):  # the others are pages of reference
                found += self.chapter(index, notebooks)
        return found

    def chapter(self, index: str, notebooks: list[str]) -> list[nodes.Node]:
        folder, text = index.partition("/")[0], self.path(index).read_text("utf8")
        picture = self.path(index).with_name("picture.svg")
        drawn = picture.read_text("utf8") if picture.exists() else ""
        title = re.search("<title>(.*)</title>", drawn)
        asks = re.search("^asks: (.*)$", text, re.M)
        if not title or not asks:
            says = "needs a picture.svg with a <title> that says what it shows"
            raise self.error(f"{index} {says}, and a question, `asks:`, on top")
        name = re.search("^# (.*)$", text, re.M)[1]
        lines = [f"![{title[1]}]({folder}/picture.svg){{.dark-light}}", ""]
        lines += [f"**[{name}]({index}.md)** {asks[1]}", ""]
        lines += [f"- [{self.card(n)['name']}]({n}.ipynb)" for n in notebooks]
        opened = f'<div class="fg-chapter" data-fg-chapter="{folder}">'
        before, after = (nodes.raw("", x, format="html") for x in (opened, "</div>"))
        return [before, *self.markdown(lines), after]


class Live(Map):
    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        from fieldguide.explore.page import runtime_html  # and with it a second's more

        docname, name = self.arguments
        cells = json.loads(self.path(docname).read_text("utf8"))["cells"]
        shown = {
            cell["id"]: "".join(output["data"]["text/html"])
            for cell in cells
            for output in cell.get("outputs", [])
            if "data-fg-explore" in str(output.get("data", {}).get("text/html"))
        }
        if name not in shown:
            raise self.error(
                f"{docname} has no figure {name}; it must be one of {sorted(shown)}"
            )
        markup = f"{runtime_html()}\n{shown[name]}"
        return [nodes.raw("", markup, format="html")]


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


OFFER = """Cells don't run on this page.
<a href="{0}_sources/{1}.ipynb" download>Download the notebook</a>, put it
into the book's folder and open it with <code>make lab</code>
(<a href="{0}index.html#run">the front page</a> says how)."""


def offer_notebook(app: Sphinx, doctree: nodes.document) -> None:
    """Above a page's exercises: where their cells can be filled in."""
    docname = app.env.docname
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    for title in doctree.findall(nodes.title):
        if title.astext() == "Exercises":
            words = OFFER.format("../" * docname.count("/"), docname)
            title.parent.insert(1, nodes.raw("", f"<p>{words}</p>", format="html"))


def in_order(app: Sphinx, docname: str) -> Iterator[str]:
    """A page and those below it, as the book lists them."""
    yield docname
    for below in app.config.external_site_map[docname].child_files():
        yield from in_order(app, below)


def summaries(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """For the page of search: each page's name and what it says of itself."""
    if pagename != "search":
        return
    told = {}
    for docname in in_order(app, app.config.root_doc):
        path = Path(app.env.doc2path(docname))
        try:
            about = card(path)
            told[docname] = about["name"], re.sub(r"[*`]", "", about["summary"])
        except (KeyError, ValueError):  # no notebook, or one that says nothing
            first = app.env.get_doctree(docname).next_node(nodes.paragraph)
            told[docname] = "", first.astext() if first else ""
    text = json.dumps(told, ensure_ascii=False)
    context["fieldguide_pages"] = text.replace("<", "\\u003c")


def setup(app: Sphinx) -> dict:
    app.add_directive("source", Source)
    app.add_directive("live", Live)
    app.add_directive("pages", Pages)
    app.add_directive("chapters", Chapters)
    app.connect("doctree-read", offer_notebook)
    app.connect("html-page-context", summaries)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
