"""Citations in a notebook: plain links, in brackets, that read well anywhere.

    ([Vaswani et al., 2017](../bibliography.md#vaswani2017attention))
    ([Elman, 1990](../bibliography.md#elman1990); [Press and Wolf, 2017](...))

The site makes of them what Sphinx knows as {cite}`vaswani2017attention`.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from pybtex.database import Entry, Person, parse_file

SOURCES = Path(__file__).resolve().parents[1] / "references.bib"
LINK = r"\[[^\[\]]*\]\((?:\.\./)?bibliography\.md#[^\s()]+\)"
CITATION = re.compile(rf"\({LINK}(?:;\s+{LINK})*\)|{LINK}")
PARTS = re.compile(r"\[([^\[\]]*)\]\((?:\.\./)?bibliography\.md#([^\s()]+)\)")


@functools.cache
def sources() -> dict[str, Entry]:
    return parse_file(SOURCES).entries


def words(key: str) -> str:
    """What the link to a source says: its authors and its year."""
    if key not in sources():
        raise KeyError(f"{key} is not in references.bib")
    names = [last_name(each) for each in sources()[key].persons["author"]]
    several = " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    return f"{several if names[1:] else names[0]}, {sources()[key].fields['year']}"


def last_name(person: Person) -> str:
    parts = [*person.rich_prelast_names, *person.rich_last_names]
    return " ".join(map(str, parts))


def link(key: str) -> str:
    return f"[{words(key)}](../bibliography.md#{key})"


def faults(text: str) -> list[str]:
    """What each link to a source should have been, where it is not so."""
    pairs = [(found[0], found[2]) for found in PARTS.finditer(text)]
    unknown = [
        f"{key} is not in references.bib" for _, key in pairs if key not in sources()
    ]
    stale = [(old, link(key)) for old, key in pairs if key in sources()]
    return unknown + [f"{old} must be {new}" for old, new in stale if old != new]


def roles(text: str) -> str:
    """The text with its citations as Sphinx reads them."""

    def role(found: re.Match) -> str:
        return f"{{cite}}`{','.join(key for _, key in PARTS.findall(found[0]))}`"

    return CITATION.sub(role, text)
