"""Which words of which pages lead to the glossary?

    python book/_tools/terms.py       write the list, tests/tools/terms.txt

A line for each link that the site makes where a page first uses a term, with the words
around it. A test compares the list: read each line that is new in the diff. Does the
glossary's definition help a reader who points at this word, here? If not, the term has
a second sense: write `: plain` behind it in the glossary, and mark the places that it
does explain with `[ring](../glossary.md#term-ring)`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import nbformat
import yaml
from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.utils import new_document
from myst_parser.config.main import MdParserConfig
from myst_parser.mdit_to_docutils.base import DocutilsRenderer
from myst_parser.parsers.docutils_ import Parser
from myst_parser.parsers.mdit import create_md_parser
from notebooks import ROOT, in_order, page_name, read

sys.path.append(str(ROOT / "book" / "_ext"))
from fieldguide_terms import PLAIN, Words

LIST = ROOT / "tests" / "tools" / "terms.txt"
WORDS_BEFORE = re.compile(r"(?<!\S)(?:\S+\s+){0,9}\S*\Z")
WORDS_AFTER = re.compile(r"\S*(?:\s+\S+){0,6}")


def terms() -> list[str]:
    """The glossary's terms that become links."""
    text = (ROOT / "book" / "glossary.md").read_text("utf8")
    lines = re.findall(r"^\w.*$", text.partition("```{glossary}")[2], re.M)
    return [line for line in lines if not line.endswith(f" : {PLAIN}")]


def tree(notebook: nbformat.NotebookNode) -> nodes.document:
    """The notebook's Markdown as the site's builder reads it."""
    settings = get_default_settings(Parser())
    settings.report_level = 5  # it doesn't know where links lead
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    syntax = MdParserConfig(enable_extensions=config["parse"]["myst_enable_extensions"])
    parser = create_md_parser(syntax, DocutilsRenderer)
    parser.options["document"] = document = new_document("", settings)
    cells = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    parser.render("\n\n".join(cells))
    return document


def links(notebook: nbformat.NotebookNode, words: Words) -> Iterator[str]:
    """Of each link the term, and the word in brackets within its surroundings."""
    for text, chosen in words.uses(tree(notebook)):
        paragraph = text.parent
        while not isinstance(paragraph, nodes.paragraph):
            paragraph = paragraph.parent
        parts = list(paragraph.findall(nodes.Text))
        place = next(k for k, part in enumerate(parts) if part is text)
        before, after = "".join(parts[:place]), "".join(parts[place + 1 :])
        for found in chosen:
            left = WORDS_BEFORE.search(before + text[: found.start()])[0]
            right = WORDS_AFTER.match(text[found.end() :] + after)[0]
            said = " ".join(f"{left}[{found[0]}]{right}".split())
            yield f"{words.term(found)}: {said}"


def listed() -> str:
    words, lines = Words(terms()), []
    for path in (p for p in in_order(ROOT) if p.parent != ROOT / "book"):
        lines += ["", page_name(path, ROOT), *links(read(path), words)]
    return "\n".join(lines[1:]) + "\n"


if __name__ == "__main__":
    LIST.write_text(listed(), "utf8")
