"""The page of claims: the article's list is well formed, and a broken promise fails.

The extension is run in a small Sphinx project of its own; that the book's own page
is whole is checked by the site's build (`-W`).
"""

import contextlib
import io
import json
import re
from html import unescape
from pathlib import Path

import notebooks
import pytest
import yaml
from cells import module_at
from nbformat import v4
from sphinx.cmd.build import build_main

from fieldguide.claims import claim, sources

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
ARTICLE = BOOK / "article.yml"
NOTEBOOKS = notebooks.in_order(ROOT)
REFERENCES = (BOOK / "references.bib").read_text("utf8")
KEYS = set(re.findall(r"^@\w+\{([^,\s]+),", REFERENCES, re.M))

extension = module_at(BOOK / "_ext/fieldguide_claims.py")


def stored_claims():
    """(notebook, claim) for each claim that the book's notebooks store."""
    return [(path, made) for path in NOTEBOOKS for made in extension.read_claims(path)]


# --- the book's own list -------------------------------------------------------------


def test_the_list_is_well_formed():
    sections, faults = extension.read_article(ARTICLE)
    assert faults == []
    entries = [entry for section in sections for entry in section["assertions"]]
    assert len(entries) == len({entry["quote"] for entry in entries}) >= 148
    assert {entry["verdict"] for entry in entries} == set(extension.VERDICTS)


def test_what_lists_and_claims_point_at_exists():
    names = [made.name for _, made in stored_claims()]
    assert len(names) == len(set(names))
    for section in extension.read_article(ARTICLE)[0]:
        for entry in section["assertions"]:
            assert set(entry.get("claims", [])) <= set(names), entry["id"]
            assert set(entry.get("sources", [])) <= KEYS, entry["id"]
    for path, made in stored_claims():
        cited = {key for key, _ in sources(made.source)} - {"derived"}
        assert cited <= KEYS, f"{path.name}: {made.name}"


def test_each_verdict_is_explained_on_the_page():
    page = (BOOK / "claims.md").read_text("utf8")
    assert tuple(re.findall(r"^(.+)\n: ", page, re.M)) == extension.VERDICTS
    assert "```{assertions}" in page and "```{claims}" in page


def test_each_claim_that_a_cell_makes_is_stored():
    """A claim that is not a cell's last expression would be checked but not shown."""
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text("utf8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if "outputs" in c)
        made = re.findall(r'\bclaim\(\s*"(.*?)"', code)
        assert made == [each.name for each in extension.read_claims(path)]


# --- faults in a list ----------------------------------------------------------------

GOOD = {
    "id": "one",
    "quote": "It works",
    "notebook": "chapter/page",
    "verdict": "holds",
    "reason": "It does.",
    "claims": ["four"],
    "sources": ["vaswani2017attention"],
}
OPEN = {key: GOOD[key] for key in ("id", "quote", "notebook")} | {"verdict": "not yet"}


def faults(tmp_path, *entries):
    path = tmp_path / "article.yml"
    section = {"section": "chapter", "title": "A chapter", "assertions": list(entries)}
    path.write_text(yaml.safe_dump([section]))
    return extension.read_article(path)[1]


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (GOOD | {"verdict": "true"}, "'true' is no verdict; there are holds, "),
        (GOOD | {"reason": ""}, "the reason is not a sentence"),
        (GOOD | {"claims": [], "sources": []}, "neither a claim nor a source"),
        (GOOD | {"verdict": "contested", "claims": []}, "points at one side only"),
        ({"id": "one"}, "['notebook', 'quote', 'verdict'] is missing"),
    ],
)
def test_each_fault_is_named(tmp_path, entry, fault):
    assert [fault in found for found in faults(tmp_path, entry)] == [True]


# --- the page, in a small project --------------------------------------------------

CONF = f"""
import sys
sys.path.insert(0, {str(BOOK / "_ext")!r})
extensions = ["myst_nb", "sphinxcontrib.bibtex", "fieldguide_claims"]
nb_execution_mode = "off"
nb_mime_priority_overrides = [("html", "text/html", 1)]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
html_theme = "basic"
html_permalinks = False
"""
PAGE = (
    "# Claims\n\n```{assertions}\n```\n\n```{claims}\n```\n\n```{bibliography}\n```\n"
)
INDEX = "# Home\n\n```{toctree}\nclaims\nchapter/page\n```\n"


def notebook(*claims):
    """A notebook that has stored `claims`, one a cell."""
    cells = [v4.new_markdown_cell("# A page")]
    for made in claims:
        data = {"text/plain": repr(made), "text/html": made._repr_html_()}
        output = v4.new_output("execute_result", data, execution_count=1)
        cells.append(v4.new_code_cell("claim(...)", outputs=[output]))
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    return v4.new_notebook(cells=cells, metadata=language)


FOUR = claim("four", 4, expect=4, source="vaswani2017attention, section 3")
EFFECT = claim(
    "effect",
    1217.25,
    kind="trend",
    expect=1200,
    tol=100,
    null=1,
    spread=30,
    source="derived, <here>",
)


def build(folder, entries, claims=(FOUR, EFFECT), index=INDEX):
    """Build the project; returns (exit status, what it wrote, the page's HTML)."""
    source = folder / "source"
    (source / "chapter").mkdir(parents=True)
    (source / "conf.py").write_text(CONF)
    (source / "index.md").write_text(index)
    (source / "claims.md").write_text(PAGE)
    (source / "chapter/page.ipynb").write_text(json.dumps(notebook(*claims)))
    (source / "references.bib").write_text(REFERENCES, "utf8")
    section = {"section": "chapter", "title": "A chapter", "assertions": entries}
    (source / "article.yml").write_text(yaml.safe_dump([section]))
    options = ["-q", "-W", "-n", "--keep-going", "-b", "html"]
    exclude = [] if "chapter" in index else ["-D", "exclude_patterns=chapter/*"]
    log = io.StringIO()
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        status = build_main([*options, *exclude, str(source), str(folder / "out")])
    page = folder / "out/claims.html"
    html = page.read_text("utf8") if page.exists() else ""
    return status, log.getvalue(), html


def rows_of(markup):
    """The rows of a page's tables, each a list of texts."""
    rows = re.findall(r"<tr.*?</tr>", markup, re.S)
    cells = [re.findall(r"<t[dh].*?</t[dh]>", row, re.S) for row in rows]
    plain = [[unescape(re.sub("<[^>]*>", "", c)).strip() for c in r] for r in cells]
    return [[" ".join(text.split()) for text in row] for row in plain]


def test_both_tables_and_their_links(tmp_path):
    other = OPEN | {"id": "two", "notebook": "chapter/later", "quote": "<b> & more"}
    status, log, html = build(tmp_path, [GOOD, other])
    assert status == 0, log
    rows = rows_of(html)
    assert rows[:3] == [
        ["The article says", "Verdict, and what shows it"],
        [
            "“It works”",
            "holds It does. Shown by four, Vaswani et al. [2017]; see chapter/page.",
        ],
        ["“<b> & more”", "not yet For the notebook chapter/later."],
    ]
    columns = ["Measured", "Expected", "Without the effect"]
    assert rows[3:] == [
        ["Claim, and its source", *columns],
        ["four (Vaswani et al. [2017], section 3)", "4", "4", ""],
        ["effect (derived, <here>)", "1,217", "1,200 ± 100", "1"],
    ]
    assert html.count('href="chapter/page.html#claim-four"') == 2
    target = (tmp_path / "out/chapter/page.html").read_text("utf8")
    assert 'id="claim-four"' in target and 'id="claim-effect"' in target
    assert "1 of 2 have a verdict in this edition." in html


def test_a_chapter_that_is_not_published_shows_as_not_yet(tmp_path):
    index = "# Home\n\n```{toctree}\nclaims\n```\n"
    status, log, html = build(tmp_path, [GOOD], index=index)
    assert status == 0, log
    assert rows_of(html)[1][1:] == ["not yet For the notebook chapter/page."]


@pytest.mark.parametrize(
    ("entry", "claims", "warning"),
    [
        (GOOD | {"claims": ["five"]}, (FOUR,), "one: no notebook makes the claim five"),
        (GOOD | {"sources": ["nobody1900"]}, (FOUR,), "nobody1900"),
        (GOOD, (FOUR, FOUR), "chapter/page: the claim four is made twice"),
        (OPEN, (FOUR,), "one: chapter/page is here, its verdict is not"),
    ],
)
def test_a_broken_promise_fails_the_build(tmp_path, entry, claims, warning):
    status, log, _ = build(tmp_path, [entry], claims)
    assert status != 0 and warning in log
