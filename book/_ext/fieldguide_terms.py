"""Where a notebook first uses a term of the glossary, the word leads there.

Nothing is written for it: a new line in the glossary links its term on every page.
Headings, code, formulas, figures, links, names, titles, quotations, exercises and words
that a page itself puts in bold, to explain them there, stay as they are.

A term that plain English uses in another sense stands in the glossary as
`ring : plain`. It is linked only where a page says so:
`[ring](../glossary.md#term-ring)`.

A link shows its definition where it is (static/terms.js). The definitions of the terms
that a page links stand at its end, hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

PLAIN = "plain"
OUTSIDE = nodes.title, nodes.literal, nodes.literal_block, nodes.reference, nodes.math
OUTSIDE += nodes.math_block, nodes.raw, nodes.caption, nodes.strong, nodes.term
OUTSIDE += nodes.Admonition, nodes.table, nodes.emphasis
NAME = r"[A-Z][\w-]*\s+[A-Z]|(?<=\w\s)[A-Z]"  # Epoch AI, Switch Transformer
QUOTES = re.compile('["\u201c\u201d]')  # as typed, and as the site sets them
TARGET = re.compile(r"#term-[\w-]+$")
LINK = re.compile(r'<a class="fg-term [^>]*#(term-[\w-]+)"')
HINT = '<div class="fg-hint" role="tooltip" id="hint-{}" hidden>{}</div>'


def forms(term: str) -> str:
    """A group for a term and its plural; a name keeps its capitals."""
    stem = re.escape(term[:-1]) + "(?:y|ies)" if term.endswith("y") else None
    plain = stem or re.escape(term) + ("" if term.endswith("s") else "(?:s|es)?")
    plain = plain.replace("'", "['\u2019]")
    return f"({plain})" if term != term.lower() else f"(?!{NAME})((?i:{plain}))"


class Words:
    """The terms that become links, and where a page first uses each."""

    def __init__(self, terms: list[str]) -> None:
        kept = [term for term in terms if "(" not in term]
        self.names = sorted(kept, key=lambda t: (t[0].lower(), -len(t), t))
        # By their first letter, or each would be tried at each place.
        named = "|".join(
            f"(?=[{letter}{letter.upper()}])(?:{'|'.join(map(forms, names))})"
            for letter, names in groupby(self.names, key=lambda t: t[0].lower())
        )
        self.pattern = re.compile(rf"(?<![\w-])(?:{named})(?![\w-])")

    def term(self, found: re.Match) -> str:
        return self.names[found.lastindex - 1]

    def uses(self, page: nodes.Node) -> Iterator[tuple[nodes.Text, list[re.Match]]]:
        """Each text of a page that has links, and the matches that become links."""
        bold = [self.pattern.fullmatch(s.astext()) for s in page.findall(nodes.strong)]
        seen = {self.term(found) for found in bold if found}  # explained on this page
        for paragraph in list(page.findall(nodes.paragraph)):
            before = 0  # quotation marks
            for text in list(paragraph.findall(nodes.Text)):
                chosen = []
                for found in () if inside(text) else self.pattern.finditer(text):
                    marks = before + len(QUOTES.findall(text, 0, found.start()))
                    if marks % 2 == 0 and self.term(found) not in seen:
                        seen.add(self.term(found))
                        chosen.append(found)
                if chosen:
                    yield text, chosen
                before += len(QUOTES.findall(text))


def inside(node: nodes.Node) -> bool:
    while node is not None:
        if isinstance(node, OUTSIDE):
            return True
        if isinstance(node, nodes.section) and node[0].astext() == "Exercises":
            return True
        node = node.parent
    return False


def add_anchors(app: Sphinx, env) -> list[str]:
    """Let Markdown links lead to terms: MyST knows the anchors of headings only."""
    for (kind, name), (page, label) in env.get_domain("std").objects.items():
        if kind == "term":
            env.metadata[page].setdefault("myst_slugs", {})[label] = 0, label, name
    return []


def link_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    objects = app.env.get_domain("std").objects
    places = {name: place for (kind, name), place in objects.items() if kind == "term"}
    entries = app.env.get_domain("index").entries.values()
    plain = {entry[2] for page in entries for entry in page if entry[4] == PLAIN}
    words = Words([name for name, (_, label) in places.items() if label not in plain])
    for text, chosen in words.uses(doctree):
        parts, end = [], 0
        for found in chosen:
            page, label = places[words.term(found)]
            uri = app.builder.get_relative_uri(docname, page) + f"#{label}"
            link = nodes.reference("", found[0], refuri=uri, internal=True)
            parts += [nodes.Text(text[end : found.start()]), link]
            end = found.end()
        text.parent.replace(text, [*parts, nodes.Text(text[end:])])
    for link in doctree.findall(nodes.reference):
        if TARGET.search(link.get("refuri", "")):
            link["classes"].append("fg-term")


def add_hints(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """At a page's end, the definitions of the terms that it links, once each."""
    labels = dict.fromkeys(LINK.findall(context.get("body", "")))
    if labels:
        known = definitions(app)
        hints = [HINT.format(label, known[label]) for label in labels]
        described = LINK.sub(r'\g<0> aria-describedby="hint-\1"', context["body"])
        context["body"] = "\n".join([described, *hints])


def definitions(app: Sphinx) -> dict[str, str]:
    """{anchor: what the glossary says there}, without its citations."""
    if not hasattr(app, "fieldguide_definitions"):
        objects = app.env.get_domain("std").objects.items()
        found = app.fieldguide_definitions = {}
        for name in {page for (kind, _), (page, _) in objects if kind == "term"}:
            glossary = app.env.get_doctree(name)
            for item in glossary.findall(nodes.definition_list_item):
                said = item[-1].deepcopy()
                for citation in list(said.findall(addnodes.pending_xref)):
                    citation.parent.remove(citation)
                markup = app.builder.render_partial(said)["fragment"]
                text = re.sub(r"</?(dd|p)>", "", markup).strip()
                found[item[0]["ids"][0]] = re.sub(r"\s+(?=[.,:;])", "", text)
    return app.fieldguide_definitions


def setup(app: Sphinx) -> dict:
    app.add_js_file("terms.js", priority=900)
    app.connect("env-updated", add_anchors)
    app.connect("doctree-resolved", link_terms)
    app.connect("html-page-context", add_hints)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
