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
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from fieldguide import claims

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
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
logger = logging.getLogger(__name__)


# --- What is stored ----------------------------------------------------------------


def read_article(path: Path) -> tuple[list[dict], list[str]]:
    """The article's sections, and a sentence for each fault in them."""
    sections = yaml.safe_load(path.read_text("utf8"))
    faults, seen = [], set()
    for section in sections:
        for entry in section["assertions"]:
            faults += [f"{entry.get('id')}: {fault}" for fault in entry_faults(entry)]
            if entry.get("id") in seen:
                faults.append(f"{entry['id']}: the id is used twice")
            seen.add(entry.get("id"))
    return sections, faults


def entry_faults(entry: dict) -> Iterator[str]:
    if missing := NEEDED - entry.keys():
        yield f"{sorted(missing)} is missing"
        return
    if unknown := entry.keys() - FIELDS:
        yield f"{sorted(unknown)} is no field"
    if not SLUG.fullmatch(str(entry["id"])):
        yield "the id is not a slug"
    if not re.fullmatch(r"[a-z-]+/[a-z-]+", str(entry["notebook"])):
        yield f"{entry['notebook']!r} is not chapter/notebook"
    if entry["verdict"] not in VERDICTS:
        yield f"{entry['verdict']!r} is no verdict; there are {', '.join(VERDICTS)}"
    open_fields = sorted(entry.keys() - NEEDED)
    if entry["verdict"] == "not yet":
        if open_fields:
            yield f"{open_fields} is given, but the verdict is not yet"
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


class Stored(NamedTuple):
    """A claim as a notebook stores it; numbers as they were written."""

    name: str
    docname: str
    measured: str
    facts: dict[str, str]  # kind, expect, tol, source; of a trend null and spread


class ClaimParser(HTMLParser):
    """Collects the claims in a piece of HTML, as `fieldguide.claims` writes it."""

    def __init__(self, docname: str):
        super().__init__()
        self.docname, self.found, self.last = docname, [], None

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "p" and given.get("class") == "fg-claim":
            self.last = given
        elif tag == "data" and given.get("class") == "fg-measured" and self.last:
            name = self.last["id"].removeprefix("claim-")
            facts = {
                key.removeprefix("data-"): value
                for key, value in self.last.items()
                if key.startswith("data-")
            }
            self.found.append(Stored(name, self.docname, given["value"], facts))
            self.last = None


def read_claims(notebook: Path, docname: str) -> list[Stored]:
    """The claims in the stored outputs of a notebook, in its order."""
    parser = ClaimParser(docname)
    for cell in json.loads(notebook.read_text("utf8"))["cells"]:
        for output in cell.get("outputs", []):
            parser.feed("".join(output.get("data", {}).get("text/html", "")))
    return parser.found


# --- What is shown -----------------------------------------------------------------


class Table(SphinxDirective):
    """What the two directives share: the claims, the sources, table cells."""

    def warn(self, message: str) -> None:
        logger.warning(message, location=self.get_location(), type="claims")

    def collect(self) -> list[Stored]:
        """Every stored claim of this site's pages, in the order of the book."""
        found = []
        pages = self.env.found_docs
        book = getattr(self.config, "external_site_map", sorted(pages))
        for docname in filter(pages.__contains__, book):
            path = Path(self.env.doc2path(docname))
            if path.suffix == ".ipynb":
                self.env.note_dependency(str(path))
                found += read_claims(path, docname)
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

    def claim_link(self, claim: Stored) -> nodes.reference:
        words = claim.name.replace("-", " ")
        return self.link(claim.docname, words, f"#claim-{claim.name}")

    def table(self, widths: dict[str, int], rows: list) -> nodes.table:
        """A table with a row of headings, and a heading in each row.

        Each of `rows` is (cells, id) or (cells, id, class).
        """
        group = nodes.tgroup(cols=len(widths))
        for place, width in enumerate(widths.values()):
            group += nodes.colspec(colwidth=width, stub=1 if place == 0 else 0)
        headings = [[nodes.Text(heading)] for heading in widths]
        body = nodes.tbody("", *(row(*each) for each in rows))
        group += [nodes.thead("", row(headings)), body]
        kinds = ["fg-claims", "colwidths-given"]
        return nodes.table("", group, classes=kinds)


def row(cells: list[list[nodes.Node]], name: str = "", kind: str = "") -> nodes.row:
    made = nodes.row(ids=[name] if name else [], classes=[kind] if kind else [])
    made += [nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells]
    return made


def raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def shown(number: str, digits: int = 10) -> str:
    """A number as the notebook's page shows it, out of the stored attribute."""
    whole = re.fullmatch(r"-?\d+", number)
    return claims.number(int(number) if whole else float(number), digits)


class Claims(Table):
    def run(self) -> list[nodes.Node]:
        tables: dict[str, list] = {}
        names = set()
        for claim in self.collect():
            if claim.name in names:
                self.warn(f"{claim.docname}: the claim {claim.name} is made twice")
            names.add(claim.name)
            tables.setdefault(claim.docname, []).append(self.claim(claim))
        widths = {"Claim, and its source": 55, "Measured": 15, "Expected": 15}
        widths |= {"Without the effect": 15}
        made: list[nodes.Node] = []
        for page, rows in tables.items():
            label = f"{html.escape(self.title(page))} ({len(rows)})"
            made += [
                raw(f"<details class='fg-fold fg-ledger'><summary>{label}</summary>")
            ]
            made += [self.table(widths, rows), raw("</details>")]
        return made

    def title(self, docname: str) -> str:
        """A notebook's title, the first line of its first cell."""
        cells = json.loads(Path(self.env.doc2path(docname)).read_text("utf8"))["cells"]
        return "".join(cells[0]["source"]).splitlines()[0].strip("# ")

    def claim(self, claim: Stored) -> tuple:
        facts = claim.facts
        expected = shown(facts["expect"], 4)
        if facts["tol"] not in ("0", "0.0"):
            expected += f" ± {shown(facts['tol'], 4)}"
        null = shown(facts["null"], 4) if "null" in facts else ""
        null += f" ({facts['against']})" if "against" in facts else ""
        source = nodes.inline("", " (", classes=["fg-source"])
        source += [*self.sources(facts["source"]), nodes.Text(")")]
        texts = [shown(claim.measured, 4), expected, null]
        cells = [[self.claim_link(claim), source], *([nodes.Text(t)] for t in texts)]
        return cells, f"row-{claim.name}"


class Assertions(Table):
    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "article.yml"
        self.env.note_dependency(str(path))
        sections, faults = read_article(path)
        for fault in faults:
            self.warn(f"{path.name}: {fault}")
        if faults:
            return []
        claims = {claim.name: claim for claim in self.collect()}
        widths = {"The article says": 40, "Verdict, and what shows it": 60}
        entries = [entry for section in sections for entry in section["assertions"]]
        treated = [entry for entry in entries if self.verdict(entry) != "not yet"]
        text = f"{len(treated)} of {len(entries)} have a verdict in this edition."
        made: list[nodes.Node] = [nodes.paragraph(text=text)]
        for section in sections:
            rows = [self.assertion(entry, claims) for entry in section["assertions"]]
            title, table = nodes.title(text=section["title"]), self.table(widths, rows)
            name = f"says-{section['section']}"
            made.append(nodes.section("", title, table, ids=[name], names=[name]))
        return made

    def verdict(self, entry: dict) -> str:
        published = entry["notebook"] in self.env.found_docs
        return entry["verdict"] if published else "not yet"

    def assertion(self, entry: dict, claims: dict[str, Stored]) -> tuple:
        verdict, notebook = self.verdict(entry), entry["notebook"]
        found: list[nodes.Node] = [nodes.strong(text=verdict), nodes.Text(" ")]
        if verdict == "not yet":
            found.append(nodes.Text(f"For the notebook {notebook}."))
            if notebook in self.env.found_docs:
                self.warn(f"{entry['id']}: {notebook} is here, its verdict is not")
        else:
            found += self.why(entry, claims)
        says = [nodes.Text(f"“{entry['quote']}”")]
        kind = "fg-verdict-" + verdict.replace(" ", "-")
        return [says, found], f"assertion-{entry['id']}", kind

    def why(self, entry: dict, claims: dict[str, Stored]) -> list[nodes.Node]:
        found = self.text(entry["reason"])
        shows: list[list[nodes.Node]] = []
        for name in entry.get("claims", []):
            if name in claims:
                shows.append([self.claim_link(claims[name])])
            else:
                self.warn(f"{entry['id']}: no notebook makes the claim {name}")
        shows += map(self.cite, entry.get("sources", []))
        for place, part in enumerate(shows):
            found += [nodes.Text(", " if place else " Shown by "), *part]
        notebook = self.link(entry["notebook"], entry["notebook"])
        return [*found, nodes.Text("; see "), notebook, nodes.Text(".")]


NAME = re.compile(r'id="claim-([a-z0-9-]+)".*?<span class="fg-claim-name">(.*?)</span>')


def link_claims(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Each claim's name leads to its row on the page of claims, where all of it is."""
    if "claims" not in app.env.found_docs:
        return
    page = app.builder.get_relative_uri(docname, "claims")
    for node in doctree.findall(nodes.raw):
        found = NAME.search(node.astext())
        if found:
            link = (
                f'<a class="fg-claim-name" href="{page}#row-{found[1]}">{found[2]}</a>'
            )
            old = f'<span class="fg-claim-name">{found[2]}</span>'
            node[:] = [nodes.Text(node.astext().replace(old, link))]


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", link_claims)
    app.add_directive("assertions", Assertions)
    app.add_directive("claims", Claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
