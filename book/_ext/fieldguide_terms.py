"""Where a notebook first uses a term of the glossary, the word leads there.

Nothing is written for it: a new line in the glossary links its term on every page.
Headings, code, formulas, figures, links, names and words that a page itself puts in
bold, to explain them there, stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

# Words that plain English uses more often than the field does.
PLAIN = {"band", "block", "capacity", "claim", "code", "explorer", "frozen", "gate"}
PLAIN |= {"group", "head", "hop", "key", "leak", "loss", "merge", "patch", "pitch"}
PLAIN |= {"query", "rank", "replay", "scale", "scan", "score", "shape", "sound"}
PLAIN |= {"surprise", "value", "variety", "velocity", "greedy", "expert", "channel"}
PLAIN |= {"smoothing", "decoding"}
OUTSIDE = nodes.title, nodes.literal, nodes.literal_block, nodes.reference, nodes.math
OUTSIDE += nodes.math_block, nodes.raw, nodes.caption, nodes.strong, nodes.term
OUTSIDE += nodes.Admonition, nodes.table
NAME = r"[A-Z][\w-]*\s+[A-Z]"  # Epoch AI, or the title of a work


def forms(term: str) -> str:
    """A pattern for a term and its plural; a name keeps its capitals."""
    stem = re.escape(term[:-1]) + "(?:y|ies)" if term.endswith("y") else None
    plain = stem or re.escape(term) + ("" if term.endswith("s") else "(?:s|es)?")
    return plain if term != term.lower() else f"(?!{NAME})(?i:{plain})"


def linked(terms: list[str]) -> dict[str, str]:
    """{term: its pattern} of the terms that become links, the longest first."""
    kept = [t for t in terms if t not in PLAIN and "(" not in t]
    return {t: forms(t) for t in sorted(kept, key=lambda t: (-len(t), t))}


def pattern(patterns: dict[str, str]) -> re.Pattern:
    named = [f"(?P<t{n}>{p})" for n, p in enumerate(patterns.values())]
    return re.compile(rf"(?<![\w-])(?:{'|'.join(named)})(?![\w-])")


def link_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    objects = app.env.get_domain("std").objects
    places = {name: place for (kind, name), place in objects.items() if kind == "term"}
    patterns = linked(list(places))
    names, find = list(patterns), pattern(patterns)
    seen = set()
    for strong in doctree.findall(nodes.strong):  # explained on this page
        found = find.fullmatch(strong.astext())
        seen |= {names[int(found.lastgroup[1:])]} if found else set()
    for paragraph in list(doctree.findall(nodes.paragraph)):
        for text in list(paragraph.findall(nodes.Text)):
            if inside(text.parent):
                continue
            parts, end = [], 0
            for found in find.finditer(text):
                name = names[int(found.lastgroup[1:])]
                if name not in seen:
                    seen.add(name)
                    page, label = places[name]
                    uri = app.builder.get_relative_uri(docname, page) + f"#{label}"
                    options = {"internal": True, "classes": ["fg-term"]}
                    link = nodes.reference("", found[0], refuri=uri, **options)
                    parts += [nodes.Text(text[end : found.start()]), link]
                    end = found.end()
            if parts:
                text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def inside(node: nodes.Node) -> bool:
    while node is not None:
        if isinstance(node, OUTSIDE):
            return True
        node = node.parent
    return False


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", link_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
