"""The page of claims, built from what is stored: nothing on it is typed by hand.

    ```{assertions}     book/article.yml: for each section of the article, its table
    ```{claims}         for each notebook, a fold with the claims that its cells stored

A chapter that is not in _toc.yml shows as *not yet*. A broken promise is a warning,
so that `-W` fails the build: a claim or a source that does not exist, a name used
twice, a page without its verdict.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from fieldguide import claims
from fieldguide.claims import Claim

VERDICTS = (
    "holds",
    "holds with limits",
    "imprecise",
    "contested",
    "out of date",
    "not yet",
)
NEEDED = {"id", "quote", "notebook", "verdict"}
FIELDS = NEEDED | {"reason", "claims", "sources"}
logger = logging.getLogger(__name__)


# --- What is stored ----------------------------------------------------------------


def read_article(path: Path) -> tuple[list[dict], list[str]]:
    """The article's sections, and a sentence for each fault in them."""
    sections = yaml.safe_load(path.read_text("utf8"))
    entries = [entry for section in sections for entry in section["assertions"]]
    ids = [entry.get("id") for entry in entries]
    faults = [f"{name}: the id is used twice" for name in {*ids} if ids.count(name) > 1]
    faults += [f"{e.get('id')}: {fault}" for e in entries for fault in entry_faults(e)]
    return sections, faults


def entry_faults(entry: dict) -> Iterator[str]:
    if missing := NEEDED - entry.keys():
        yield f"{sorted(missing)} is missing"
        return
    if unknown := entry.keys() - FIELDS:
        yield f"{sorted(unknown)} is no field"
    if entry["verdict"] not in VERDICTS:
        yield f"{entry['verdict']!r} is no verdict; there are {', '.join(VERDICTS)}"
    if entry["verdict"] == "not yet":
        return
    if not str(entry.get("reason", "")).strip().endswith("."):
        yield "the reason is not a sentence"
    claims, sources = entry.get("claims") or [], entry.get("sources") or []
    if not claims + sources:
        yield "neither a claim nor a source shows it"
    elif entry["verdict"] == "contested" and len(claims + sources) < 2:
        yield "it is contested, but what shows it points at one side only"
    elif entry["verdict"] == "out of date" and not sources:
        yield "it is out of date, but there is no source for what is new"


def read_claims(notebook: Path) -> list[Claim]:
    """The claims in the stored outputs of a notebook, in its order."""
    cells = json.loads(notebook.read_text("utf8"))["cells"]
    shown = [output.get("data", {}) for c in cells for output in c.get("outputs", [])]
    found = [claims.restored("".join(data.get("text/html", ""))) for data in shown]
    return [claim for claim in found if claim]


# --- What is shown -----------------------------------------------------------------


class Table(SphinxDirective):
    """What the two directives share: the claims, the sources, table cells."""

    def warn(self, message: str) -> None:
        logger.warning(message, location=self.get_location(), type="claims")

    def collect(self) -> dict[str, list[Claim]]:
        """The stored claims of each page of this site, in the order of the book."""
        pages = self.env.found_docs
        book = getattr(self.config, "external_site_map", sorted(pages))
        found = {}
        for docname in filter(pages.__contains__, book):
            path = Path(self.env.doc2path(docname))
            if path.suffix == ".ipynb":
                self.env.note_dependency(str(path))
                found[docname] = read_claims(path)
        return found

    def text(self, markdown: str) -> list[nodes.Node]:
        return self.state.inline_text(markdown, self.lineno)[0]

    def sources(self, text: str) -> list[nodes.Node]:
        """A claim's `source` with its keys as citations."""
        found = []
        for key, place in claims.sources(text):
            found += [nodes.Text("; ")] if found else []
            found += [nodes.Text(key)] if key == "derived" else self.cite(key)
            found += [nodes.Text(f", {place}")] if place else []
        return found

    def cite(self, key: str) -> list[nodes.Node]:
        return self.text(f"{{cite:t}}`{key}`")

    def link(self, docname: str, text: str, anchor: str = "") -> nodes.reference:
        page = self.env.app.builder.get_relative_uri(self.env.docname, docname)
        return nodes.reference("", text, refuri=page + anchor, internal=True)

    def claim_link(self, docname: str, name: str) -> nodes.reference:
        return self.link(docname, name.replace("-", " "), f"#claim-{name}")

    def table(self, widths: dict[str, int], rows: list) -> nodes.table:
        """A table with a row of headings, and a heading in each of `rows`."""
        group = nodes.tgroup(cols=len(widths))
        for place, width in enumerate(widths.values()):
            group += nodes.colspec(colwidth=width, stub=1 if place == 0 else 0)
        headings = self.row([[nodes.Text(heading)] for heading in widths])
        group += [nodes.thead("", headings), nodes.tbody("", *rows)]
        return nodes.table("", group, classes=["fg-claims", "colwidths-given"])

    def row(self, cells: list[list[nodes.Node]], **attributes) -> nodes.row:
        entries = [nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells]
        return nodes.row("", *entries, **attributes)


class Claims(Table):
    def run(self) -> list[nodes.Node]:
        found = {page: made for page, made in self.collect().items() if made}
        names = [claim.name for made in found.values() for claim in made]
        widths = {"Claim, and its source": 55, "Measured": 15, "Expected": 15}
        widths |= {"Without the effect": 15}
        shown: list[nodes.Node] = []
        for page, made in found.items():
            for claim in made:
                if names.count(claim.name) > 1:
                    self.warn(f"{page}: the claim {claim.name} is made twice")
            label = f"<summary>{html.escape(self.title(page))} ({len(made)})</summary>"
            start = f"<details class='fg-fold fg-ledger'>{label}"
            table = self.table(widths, [self.claim(page, each) for each in made])
            shown += [nodes.raw("", start, format="html"), table]
            shown.append(nodes.raw("", "</details>", format="html"))
        return shown

    def title(self, docname: str) -> str:
        """A notebook's title, the first line of its first cell."""
        cells = json.loads(Path(self.env.doc2path(docname)).read_text("utf8"))["cells"]
        return "".join(cells[0]["source"]).splitlines()[0].strip("# ")

    def claim(self, docname: str, claim: Claim) -> nodes.row:
        expected, null = claims.number(claim.expect, 4), ""
        if claim.tol:
            expected += f" ± {claims.number(claim.tol, 4)}"
        if claim.null is not None:
            null = claims.number(claim.null, 4)
        if claim.against:
            null += f" ({claim.against})"
        source = nodes.inline("", " (", classes=["fg-source"])
        source += [*self.sources(claim.source), nodes.Text(")")]
        texts = [claims.number(claim.value, 4), expected, null]
        cells = [[self.claim_link(docname, claim.name), source]]
        cells += ([nodes.Text(text)] for text in texts)
        return self.row(cells, ids=[f"row-{claim.name}"])


class Assertions(Table):
    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "article.yml"
        self.env.note_dependency(str(path))
        sections, faults = read_article(path)
        for fault in faults:
            self.warn(f"{path.name}: {fault}")
        if faults:
            return []
        claims = self.collect().items()
        pages = {claim.name: page for page, made in claims for claim in made}
        widths = {"The article says": 40, "Verdict, and what shows it": 60}
        entries = [entry for section in sections for entry in section["assertions"]]
        treated = [entry for entry in entries if self.verdict(entry) != "not yet"]
        text = f"{len(treated)} of {len(entries)} have a verdict in this edition."
        made: list[nodes.Node] = [nodes.paragraph(text=text)]
        for section in sections:
            rows = [self.assertion(entry, pages) for entry in section["assertions"]]
            title, table = nodes.title(text=section["title"]), self.table(widths, rows)
            name = f"says-{section['section']}"
            made.append(nodes.section("", title, table, ids=[name], names=[name]))
        return made

    def verdict(self, entry: dict) -> str:
        published = entry["notebook"] in self.env.found_docs
        return entry["verdict"] if published else "not yet"

    def assertion(self, entry: dict, pages: dict[str, str]) -> nodes.row:
        verdict, notebook = self.verdict(entry), entry["notebook"]
        found: list[nodes.Node] = [nodes.strong(text=verdict), nodes.Text(" ")]
        if verdict == "not yet":
            found.append(nodes.Text(f"For the notebook {notebook}."))
            if notebook in self.env.found_docs:
                self.warn(f"{entry['id']}: {notebook} is here, its verdict is not")
        else:
            found += self.why(entry, pages)
        says = [nodes.Text(f"“{entry['quote']}”")]
        kind = "fg-verdict-" + verdict.replace(" ", "-")
        ids = [f"assertion-{entry['id']}"]
        return self.row([says, found], ids=ids, classes=[kind])

    def why(self, entry: dict, pages: dict[str, str]) -> list[nodes.Node]:
        found = self.text(entry["reason"])
        shows: list[list[nodes.Node]] = []
        for name in entry.get("claims", []):
            if name in pages:
                shows.append([self.claim_link(pages[name], name)])
            else:
                self.warn(f"{entry['id']}: no notebook makes the claim {name}")
        shows += map(self.cite, entry.get("sources", []))
        for place, part in enumerate(shows):
            found += [nodes.Text(", " if place else " Shown by "), *part]
        notebook = self.link(entry["notebook"], entry["notebook"])
        return [*found, nodes.Text("; see "), notebook, nodes.Text(".")]


NAME = re.compile(
    r'(id="claim-([a-z0-9-]+)".*?)<span (class="fg-claim-name")>(.*?)</span>'
)


def link_claims(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Each claim's name leads to its row on the page of claims, where all of it is."""
    if "claims" not in app.env.found_docs:
        return
    page = app.builder.get_relative_uri(docname, "claims")
    for node in doctree.findall(nodes.raw):
        link = rf'\1<a \3 href="{page}#row-\2">\4</a>'
        node[:] = [nodes.Text(NAME.sub(link, node.astext()))]


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", link_claims)
    app.add_directive("assertions", Assertions)
    app.add_directive("claims", Claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
