"""No number is typed by hand: what the prose says, a cell beside it shows.

Every numeral in a notebook's Markdown occurs in an output of the same section (from
one `##` heading to the next), or in a figure's controls, views or answer, at the
precision that the prose gives; or its sentence cites a source. An assertion that
nobody sees licenses none: `UNSEEN` counts those that older pages still have. Exempt are
0 to 10, years and dates, headings, code, mathematics, links' addresses, names (SmolLM2,
32-bit) and the line that says how long the notebook takes. Links to the bibliography
say what it says.
"""

import json
import re
from decimal import Decimal

import citations
import compare
import pytest
import sources
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from fieldguide.explore import payload

BOOK = sources.in_order()
UNSEEN = {  # these may only fall
    "introduction/next-word": 3,
    "transformers/attention": 4,
    "transformers/gpt": 27,
    "scaling/counting": 2,
    "scaling/laws": 15,
    "scaling/grokking": 13,
    "multimodal/contrastive": 1,
    "multimodal/text-to-image": 6,
    "efficiency/experts": 2,
    "efficiency/quantization": 6,
    "efficiency/lora": 1,
    "efficiency/architectures": 1,
    "deployment/serving": 23,
    "deployment/parallelism": 75,
    "deployment/compression": 7,
    "deployment/edge": 8,
}

NUMERAL = re.compile(
    r"(?<![\w.,$^_/#-])(?P<sign>[-\u2212]?)"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?P<power>e[-+]?\d+)?(?P<percent>\s?%|\s?per cent)?(?![\w])"
)
IN_OUTPUT = re.compile(r"[-\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:e[-+]?\d+)?")
EXEMPT = [
    re.compile(pattern, re.M | re.S)
    for pattern in (
        r"^(`{3,}|~{3,}|:{3,})(?!\{note|\{admonition).*?^\1",
        r"^[`:]{3,}\{[^\n]*$",  # a directive's own line: its title
        r"^:[\w-]+:[^\n]*$",  # its options
        r"\$\$.*?\$\$|\$[^$]+\$",
        r"`[^`]+`",
        r"^#{1,6} [^\n]*$",
        r"^\*Takes:?\*[^\n]*(?:\n(?!\n|\*)[^\n]+)*",
        r"(?<=\])\([^)]*\)|https?://\S+|<!--.*?-->|<svg.*?</svg>|<a [^>]*>",
        r"\b(1[5-9]|20)\d\d\b(?![.,]\d)(?!\s?%)",  # years
        r"\b\d{1,2}(?= (January|February|March|April|May|June|July))",
        r"\b\d{1,2}(?= (August|September|October|November|December))",
        r"\b\d+-(bit|digit|dimensional)\b",
        r"(?i:sections?|equations?|tables?) [\d.]+( and [\d.]+)?",
    )
]
SENTENCE = re.compile(
    r"(?<=[.!?:;])[)*_\"”]*\s+(?=[A-Z*_\"“(\[{0-9-])|\n\s*\n|\n(?=[-*] )"
)


def claimed(text):
    """(numeral, its sentence) for each numeral of `text` that something must show."""
    text = citations.CITATION.sub(" CITED ", text)
    for pattern in EXEMPT:
        text = pattern.sub(" ", text)
    for sentence in SENTENCE.split(text):
        if "CITED" in sentence:
            continue
        for found in NUMERAL.finditer(sentence):
            whole = "." not in found["digits"] and not found["power"]
            if not (whole and not found["percent"] and value_of(found["digits"]) <= 10):
                yield found, " ".join(sentence.split())


def value_of(text):
    return Decimal(text.replace(",", "").replace("\u2212", "-").rstrip("."))


def shown(section):
    """The numbers that a section's cells show."""
    texts = []
    for cell in section:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            html = data.get("text/html", "")
            for figure in compare.EXPLORER.findall(html):
                spec = payload.read(figure)["spec"]
                told = [spec["controls"], spec["views"], spec.get("quiz")]
                texts.append(json.dumps(told))
            html = compare.EXPLORER.sub("", html)
            html = "" if "<script>" in html else re.sub(r"<(?!data)[^>]*>", " ", html)
            texts += [output.get("text", ""), data.get("text/plain", ""), html]
    return {value_of(n) for text in texts for n in IN_OUTPUT.findall(text)}


def agrees(numeral, values):
    """Is the numeral one of the values, at the precision that it is given in?

    Whole numbers to the letter; of fractions, the digits that are given.
    """
    number = value_of(numeral["sign"] + numeral["digits"] + (numeral["power"] or ""))
    if numeral["percent"]:
        values = values | {100 * value for value in values}
    last = Decimal((0, (1,), number.as_tuple().exponent))
    if number == number.to_integral_value() and last >= 1:
        return number in values
    return any(abs(abs(value) - abs(number)) <= last / 2 for value in values)


def unshown(section):
    values = shown(section)
    for cell in section:
        if cell.cell_type == "markdown":
            for numeral, sentence in claimed(cell.source):
                if not agrees(numeral, values):
                    yield f"{cell.id}: {numeral[0].strip()!r} in {sentence!r}"


@pytest.mark.parametrize("name", BOOK)
def test_every_number_in_the_prose_is_shown_or_cited(name):
    found = [line for part in sources.sections(BOOK[name]) for line in unshown(part)]
    if len(found) > UNSEEN.get(name, 0):
        lines = "\n".join(found)
        pytest.fail(f"{len(found)} numbers that nothing shows:\n{lines}", pytrace=False)


@pytest.mark.parametrize("name", BOOK)
def test_every_citation_is_a_link_that_says_what_the_bibliography_says(name):
    for cell in sources.prose(BOOK[name]):
        assert "{cite" not in cell.source, f"{cell.id}: see the file citations.py"
        assert citations.faults(cell.source) == [], cell.id


# The check, checked


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("elman1990", "Elman, 1990"),
        ("jain2019", "Jain and Wallace, 2019"),
        ("allal2025smollm2", "Ben Allal et al., 2025"),
        ("qwen2026", "Qwen Team, 2026"),
    ],
)
def test_a_link_says_authors_and_year(key, words):
    assert citations.link(key) == f"[{words}](../bibliography.md#{key})"
    assert citations.faults(citations.link(key)) == []
    assert citations.faults(f"[It, 1990](../bibliography.md#{key})") != []


@pytest.mark.parametrize(
    ("output", "prose", "unseen"),
    [
        ("0.1250", "The result is 0.125.", []),
        ("0.1260", "The result is 0.125.", ["0.125"]),
        ("0.125", "It is 0.125 for 17 words.", ["17"]),  # an assertion shows nothing
    ],
)
def test_a_section_without_the_number_fails(output, prose, unseen):
    code = new_code_cell("f(2)\nassert len(x) == 17", id="code")
    code.outputs = [new_output("execute_result", {"text/plain": output})]
    found = list(unshown([new_markdown_cell(prose, id="prose"), code]))
    assert [line.split("'")[1] for line in found] == unseen
