"""Each word that leads to the glossary has been read where it stands."""

import re

import pytest
import sources
import terms
from nbformat.v4 import new_markdown_cell, new_notebook

BOOK = sources.in_order()
NEAR = re.compile(r"(?<!\S)(?:\S+ ){0,2}\S*\[[^]]+\]\S*(?: \S+){0,2}")


@pytest.fixture(scope="module")
def words():
    return terms.Words(terms.terms())


@pytest.fixture(scope="module")
def read():
    """{page: its lines} of the list that is committed."""
    blocks = terms.LIST.read_text("utf8").strip().split("\n\n")
    return {page: lines for page, *lines in map(str.splitlines, blocks)}


def near(lines):
    """What must be read anew if it changes: the term, and two words on each side."""
    return [(line.partition(": ")[0], NEAR.search(line)[0]) for line in lines]


@pytest.mark.parametrize("name", BOOK)
def test_each_word_that_leads_to_the_glossary_has_been_read(name, words, read):
    assert list(read) == list(BOOK), "a page that is gone"
    made = list(terms.links(BOOK[name], words))
    new = [line for line in made if near([line])[0] not in near(read.get(name, []))]
    message = "run `python book/_tools/terms.py` and read its lines in the diff:"
    assert near(made) == near(read.get(name, [])), "\n".join([message, *new])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One mask, and a mask.", ["mask: One [mask], and a mask."]),
        ("Masks, first: masks.", ["mask: [Masks], first: masks."]),
        ("The Big Mask of Mask Makers.", []),
        ('He says "a mask, perhaps". Two masks.', ["Two [masks]."]),
        ("\u201c*The* mask\u201d is quoted, the mask isn't.", ["the [mask] isn't."]),
        ("*A mask*, `mask`, [a mask](b.md), $mask$, two masks.", ["two [masks]."]),
        ("**Masks** are explained here, so a mask is no link.", []),
        ("A ring, and a causal mask.", ["causal mask: A ring, and a [causal mask]."]),
        ("# Page\n\n## Exercises\n\n### One\n\nA mask.", []),
        ("```{exercise} A mask\nOne mask.\n```\n\n# A mask\n\n| a mask |\n|---|", []),
    ],
)
def test_which_words_become_links(text, found):
    page = new_notebook(cells=[new_markdown_cell(text)])
    made = list(terms.links(page, terms.Words(["mask", "causal mask"])))
    assert len(made) == len(found)
    assert all(line.endswith(end) for line, end in zip(made, found, strict=True))


def test_plain_terms_are_left_to_the_pages():
    assert {"token", "2:4 sparsity"} <= set(terms.terms())
    assert {"ring", "key", "% A page"}.isdisjoint(terms.terms())
