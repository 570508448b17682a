"""The built site: whole, and closed in itself."""

import importlib
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pygments
import pytest
import tinycss2
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).resolve().parents[2]


class Page(HTMLParser):
    """A page's ids, what it links to, what it loads, and its pictures."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.images = set(), [], [], []
        self.feed(path.read_text("utf8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.update(
            filter(None, [found.get("id"), tag == "a" and found.get("name")])
        )
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if tag in ("img", "script", "iframe", "source", "video", "audio", "embed"):
            self.loads.append(found.get("src"))
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(found["href"])


@pytest.fixture
def extension(monkeypatch):
    """A function that imports one of the site's extensions by its name."""
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module


@pytest.fixture(scope="session")
def pages(site):
    found = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    assert len(found) > 5
    return {path: Page(path) for path in sorted(found)}


def test_internal_links_and_anchors_lead_somewhere(pages, site):
    dead = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link or "")
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            target = path if not parts.path else target
            anchor = unquote(parts.fragment).removeprefix("fg=").split("&")[0]
            known = pages[target].ids if target in pages else set()
            if not target.is_file() or (anchor and anchor not in known):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead


def test_nothing_is_loaded_from_elsewhere(pages, site):
    for path, page in pages.items():
        for address in filter(None, page.loads):
            assert not urlsplit(address).netloc, f"{path}: {address}"
    for style in site.rglob("*.css"):
        for address in re.findall(r"url\(\s*[\"']?([^\"')]*)", style.read_text("utf8")):
            assert not urlsplit(address).netloc, f"{style}: {address[:80]}"


def test_every_picture_says_what_it_shows(pages, site):
    for path, page in pages.items():
        for image in page.images:
            alt = image.get("alt") or ""
            where = f"{path.relative_to(site)}: {image.get('src', '')[:60]}"
            assert len(alt.split()) >= 3 and "/" not in alt.split()[0], where


def test_export_lines_stay_in_the_notebooks(pages, site):
    for path in pages:
        cells = re.findall(r"<pre>.*?</pre>", path.read_text("utf8"), re.DOTALL)
        assert not any("#|" in re.sub("<[^>]*>", "", cell)[:4] for cell in cells), path


def test_exercises_are_in_boxes_and_give_nothing_away(pages):
    counts = set()
    for path in pages:
        text = path.read_text("utf8")
        found = re.findall(r"<h3>Exercise (\d+): ", text)
        assert [int(n) for n in found] == [*range(1, len(found) + 1)], path
        assert text.count('class="fg-exercise admonition"') == len(found), path
        assert text.count(" is not written yet.") == len(found), path
        counts.add(len(found))
        in_view = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
        answer = r"\w is right\.['\"&](?![^<]*>)"  # and no tooltip
        assert not re.search(answer, in_view), path
        assert not found or f"_sources/{path.parent.name}/{path.stem}.ipynb" in text
    assert max(counts) > 2


def test_every_source_is_cited(site):
    entries = re.findall(r"^@\w+\{", (ROOT / "book/references.bib").read_text(), re.M)
    page = (site / "bibliography.html").read_text("utf8")
    assert page.count('class="citation"') == len(entries)


@pytest.mark.parametrize(
    ("css", "kept"),
    [
        (".used{a:b}.unused{c:d}", ".used{a:b}"),
        ("p,.unused p,.used>.used{a:b}", "p,.used>.used{a:b}"),
        ("@media print{.unused{a:b}}.used{c:d}", ".used{c:d}"),
        ("@media print{.used{a:b}.unused{}}", "@media print{.used{a:b}}"),
        ("p:not(.unused),p:is(.used,.unused){a:b}", None),
        ("@keyframes k{to{a:b}}", None),
    ],
)
def test_rules_for_classes_of_no_page_are_left_out(css, kept, extension):
    rules = tinycss2.parse_stylesheet(css, True, True)
    found = extension("fieldguide_site").used_rules(rules, {"used"})
    assert found.replace("\n", "") == (kept or css)


ADDRESS = "https://example.org/guide/"
FRONT = """# Book

```{source} double
```

```{source} triple
```

```{live} page cell
```

```{chapters}
```
"""
TERMS = [
    "## The softmax\n\n`softmax`, Softmax AI, softmaxes and another softmax.",
    "**Logits** are explained here, so logits are no link; a key is plain English.",
    "A [key](glossary.md#term-key) of attention: the page says so.",
    'Large language models are language models. "Softmaxed" is another word.',
]


def configure(folder):
    config = (ROOT / "_config.yml").read_text()
    ours = config.replace(": book/_ext", f": {ROOT / 'book' / '_ext'}")
    (folder / "_config.yml").write_text(ours)


@pytest.fixture(scope="session")
def small_book(build, once):
    """A book of few pages in which much is odd: (its site, what the build said)."""

    def make(folder):
        book = folder / "book"
        book.mkdir()
        shutil.copy(ROOT / "book" / "references.bib", book)
        configure(folder)
        cells = [nbformat.v4.new_markdown_cell(text) for text in ("# Title", *TERMS)]
        told = {"name": "Page", "builds": "a page", "summary": "A page."}
        code = "#| export\ndef double(x):\n    return 2 * x"
        cells.append(nbformat.v4.new_code_cell(code))
        state = {"application/vnd.jupyter.widget-state+json": {"state": {"a": {}}}}
        python = {"name": "python", "pygments_lexer": "ipython3"}
        metadata = {"fieldguide": told, "widgets": state, "language_info": python}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
        nbformat.write(notebook, book / "page.ipynb")
        (book / "index.md").write_text(FRONT)
        (book / "chapter.md").write_text("# Chapter\n\nOf one page.\n")
        names = "softmax", "logits", "large language model", "language model"
        lines = [f"{name}\n  What it is.\n" for name in names]
        lines.append("key : plain\n  What is $k$ {cite}`vaswani2017attention`.\n")
        text = "\n".join(["# Glossary\n", "```{glossary}", *lines, "```\n"])
        (book / "glossary.md").write_text(text)
        part = "{file: chapter, sections: [{file: page}]}"
        chapters = f"chapters: [{part}, {{file: glossary}}]\n"
        toc = f"format: jb-book\nroot: index\n{chapters}"
        (folder / "_toc.yml").write_text(toc)
        said = build(folder, folder, SITE_URL=ADDRESS).stderr
        (folder / "said").write_text(said, "utf8")

    folder = once("small", make)
    return folder / "_build" / "html", (folder / "said").read_text("utf8")


def test_a_build_after_a_change_or_a_sudden_end_is_as_from_nothing(
    build, small_book, tmp_path
):
    """A page changes, and one that quotes it; then what a stop leaves half written."""
    folder, again, new = (tmp_path / name for name in ("folder", "again", "new"))
    skip = shutil.ignore_patterns("_build")
    shutil.copytree(small_book[0].parents[1], folder, ignore=skip)
    front, page = folder / "book" / "index.md", folder / "book" / "page.ipynb"
    front.write_text("# Book\n\n```{source} double\n```\n\n```{bibliography}\n```\n")
    assert build(folder, again).returncode == 0
    page.write_text(page.read_text().replace("return 2 * x", "return x + x"))
    for output in (again, new):
        assert build(folder, output).returncode == 0
    whole = files_of(new)
    assert files_of(again) == whole
    assert "return 2" not in re.sub("<.*?>", "", whole["index.html"].decode())
    (again / "_build" / "built").unlink()
    for lost in ("searchindex.js", "page.html"):
        (again / "_build" / "html" / lost).unlink()
    assert build(folder, again).returncode == 0
    assert files_of(again) == whole


def files_of(output):
    site = output / "_build" / "html"
    found = {p: p.read_bytes() for p in site.rglob("*") if p.is_file()}
    # The search index keeps words that are on no page any more, with an empty list.
    plain = {p: re.sub(rb'"[^"]*": ?\[\],? ?', b"", text) for p, text in found.items()}
    return {str(path.relative_to(site)): text for path, text in plain.items()}


def test_a_term_leads_to_the_glossary_where_a_page_first_uses_it(small_book):
    text = (small_book[0] / "page.html").read_text("utf8")
    links = re.findall(r'<a class="fg-term[^>]*href="([^"]*)"[^>]*>(.*?)</a>', text)
    assert [re.sub("<.*?>", "", words) for _, words in links] == [
        "softmaxes",
        "key",
        "Large language models",
        "language models",
    ]
    addresses = [address for address, _ in links]
    assert addresses[:2] == ["glossary.html#term-softmax", "glossary.html#term-key"]
    assert "term-key" not in small_book[1], "a marked term is no warning"


def test_a_page_brings_the_definitions_of_the_terms_that_it_links(small_book):
    text = (small_book[0] / "page.html").read_text("utf8")
    hints = re.findall(r'role="tooltip" id="(.*?)" hidden>(.*?)</div>', text)
    assert len(hints) == 4
    assert set(dict(hints)) == set(re.findall(r'aria-describedby="(.*?)"', text))
    assert dict(hints)["hint-term-softmax"] == "What it is."
    assert re.fullmatch(r"What is <math.*</math>\.", dict(hints)["hint-term-key"])


def cell_of(code, label=""):
    """The markup of a cell, in a fold if it has a label."""
    lines = pygments.highlight(code, PythonLexer(), HtmlFormatter(nowrap=True))
    head = (
        '<div class="cell_input docutils container">\n<div class="highlight-ipython3">'
    )
    markup = f'{head}<div class="highlight"><pre>{lines}</pre></div>\n</div></div>'
    return f"<details><summary>{label}</summary>{markup}</details>" if label else markup


def test_a_name_in_code_leads_to_where_it_is_made(extension):
    folded = """\
from fieldguide.transformers.training import Recipe, train
from fieldguide.check import require
from math import tau
def double(x, *, size=1):
    'Twice "x".'
    return 2 * x
size, unused = 3, 4
table = {}
table[tau] = 1
"""
    in_view = [
        "def half(x: Recipe):\n    require(x)\n    return double(x.size, size=2) / tau",
        "def plain(train):\n    return half(train)\ndouble(double(size))\n",
        "%timeit size",
    ]
    body = cell_of(folded, "Set-up") + "".join(map(cell_of, in_view))
    body += cell_of("def merge(x):\n    return x")  # the page exports it
    body += cell_of("def merge(x):\n    return x * 1", "In full")
    body += cell_of("merge(2)")
    names = extension("fieldguide_names").Names(
        "efficiency/lora", ROOT / "book/efficiency/lora.ipynb"
    )
    markup = names.linked(body)
    links = re.findall(
        r'<a class="fg-name" href="(.*?)" title="(.*?)">(.*?)</a>', markup
    )
    assert [(place, name) for place, _, name in links] == [
        ("../transformers/training.html#code-Recipe", "Recipe"),
        ("../notation.html#in-code", "require"),
        ("#code-double", "double"),
        ("#code-double", "double"),
        ("#code-size", "size"),
    ]
    assert links[2][1] == "double(x, size): Twice &quot;x&quot;."
    assert links[4][1] == "size, unused = (3, 4)"
    assert re.findall(r'id="code-(\w+)"', markup) == ["double", "size", "merge"]
    added = r'<a class="fg-name[^>]*>(.*?)</a>| id="code-\w+"'
    assert re.sub(added, r"\1", markup) == body


def test_a_plain_link_becomes_what_the_site_shows(extension):
    text = """So it is ([Elman, 1990](../bibliography.md#elman1990)):

[`rms_norm`](gpt.ipynb#code-rms_norm)

See [`rms_norm`](gpt.ipynb#code-rms_norm).

[a.slurm](../_assets/b/a.slurm)"""
    assert (
        extension("fieldguide_markdown").for_the_site(text)
        == """\
So it is {cite}`elman1990`:

```{source} rms_norm
```

See [`rms_norm`](gpt.ipynb#code-rms_norm).

```{literalinclude} ../_assets/b/a.slurm
:language: bash
```"""
    )


STEPS = {"name": "steps", "kind": "range", "numeric": True, "free": False}
STEPS |= {"keys": [0, 50, 49152], "labels": ["0", "50", "all"]}
WORD = {"name": "word", "kind": "choice", "numeric": False, "free": False}
WORD |= {"keys": ["it", "is"], "labels": ["it (the cup)", "is"]}
STORED = [(1, {"id": "fg-path", "controls": [STEPS]})]
STORED += [(3, {"id": "fg-where", "controls": [STEPS, WORD]})]
STORED += [(5, {"id": "fg-turn", "controls": [STEPS]})]
SETTINGS = {  # a link in the fourth cell -> where it leads
    "#fig:steps=50": "#fg=fg-where&amp;steps=50",
    "#fig:path?steps=all": "#fg=fg-path&amp;steps=49152",
    "#fig:steps=50.0&word=it+(the+cup)".replace("(", "%28").replace(")", "%29"): (
        "#fg=fg-where&amp;steps=50&amp;word=%22it%22"
    ),
    "#fig:turn?steps=49152": "#fg=fg-turn&amp;steps=49152",
    "a.ipynb#fig:word=it": "a.html#fg=fg-where&amp;word=%22it%22",
    "#fig:steps=51": "51 is not a value of steps; near are 50, 0, all",
    "#fig:word=its": "its is not a value of word; near are ",
    "#fig:step=50": "there are path?steps, where?steps&word, turn?steps",
    "#fig:word?steps=50": "no such figure",
    "#fig:steps": "bad query",
}


def test_a_link_to_a_setting_is_whole_or_says_what_there_is(extension):
    prose = extension("fieldguide_prose")
    for link, leads in SETTINGS.items():
        try:
            found = prose.whole(f"So [a *b*]({link}).", 4, lambda page: STORED)
            assert found == f'So <a href="{leads}">a *b*</a>.'
            assert prose.whole(found, 4, lambda page: STORED) == found
        except ValueError as error:
            assert leads in str(error) and link in str(error)


def test_a_mechanism_that_a_page_owns_is_shown_folded(small_book):
    text = (small_book[0] / "index.html").read_text("utf8")
    fold = re.search(
        r"<summary>As in double \(Page\)</summary>.*?</details>", text, re.S
    )
    code = re.sub("<.*?>", "", fold[0])
    assert "return 2 * x" in code and "#|" not in code


@pytest.mark.parametrize(
    "sentence",
    [
        "no notebook exports triple; it must be one of ['double']",
        "page has no figure cell; it must be one of []",
        "chapter needs a picture.svg with a <title> that says what it",
    ],
)
def test_what_a_directive_cannot_find_is_named(small_book, sentence):
    assert sentence in small_book[1]


def test_the_address_of_the_site_goes_into_its_cards(small_book):
    """SITE_URL is what a host sets; the page for missing addresses needs it too."""
    html, _ = small_book
    assert f'<meta property="og:url" content="{ADDRESS}index.html" />' in (
        html / "index.html"
    ).read_text("utf8")
    assert f'<base href="{ADDRESS}">' in (html / "404.html").read_text("utf8")


@pytest.mark.parametrize(
    ("tex", "parts"),
    [
        (r"\operatorname{softmax}(z)", ["<mi>softmax</mi><mo"]),
        (r"p \log q", ['<mspace width="0.167em" /><mi>log</mi><mspace']),
        (r"\log_2 3", ["<msub><mi>log</mi><mn>2</mn></msub><mspace"]),
        (r"D_{\mathrm{KL}}", ["<mi>KL</mi>"]),
        (r"\sqrt{d_k}", ["<msqrt>"]),
        (r"\begin{aligned} a &= b \\ &= c \end{aligned}", ["<mtable", "<mtd"]),
        (r"K = D / H", ['<mo lspace="0" rspace="0">/</mo>']),
    ],
)
def test_formulas_become_mathml(formulas, tex, parts):
    markup = formulas.mathml(tex)
    assert markup.startswith("<math ") and "http" not in markup
    for part in parts:
        assert part in markup


@pytest.mark.parametrize("tex", [r"\softmux{z}", r"\frac{1}{", r"a & b"])
def test_a_formula_that_cannot_be_set_is_refused(formulas, tex):
    with pytest.raises(ValueError, match="formula"):
        formulas.mathml(tex)


@pytest.fixture
def formulas(extension):
    return extension("fieldguide_math")


CODE = "#| export\ndef double(x):\n    y = x + x\n    return y"
ANSWER = "\n\n<details><summary>Answer</summary>\n\n{}\n\n</details>"
LIST, BLOCK = "1. One.\n2. Two.", "```py\n{}\n```"
BAD = {
    "guess -->\nWhat?": "guess must be one of choose, bug, order, mask",
    "choose 1 -->\nWhat?": "one answer in <details> is wanted, not 0",
    f"choose 3 -->\n{LIST}{ANSWER.format(LIST)}": "must be one of 1 to 2",
    f"choose 1 -->\n{LIST}{ANSWER.format('1. One.')}": "1 reasons for 2 options",
    f"bug triple -->\n{BLOCK}{ANSWER}": "triple must be one of double",
    f"bug double -->\n{BLOCK.format('y = x + x')}{ANSWER}": "must differ in one line",
    f"bug double -->\n{BLOCK.format('y = x')}{ANSWER}": "must quote the line that is",
    f"order double -->\n{BLOCK.format('y = x')}{ANSWER}": "the statements must be",
    f"mask -->\nSet it.{ANSWER}": "one table is wanted here, not 0",
}


def test_a_bad_exercise_fails_the_build(build, tmp_path):
    """And says where, which, and what is allowed."""
    configure(tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    cells = [nbformat.v4.new_markdown_cell(f"<!-- try {text}") for text in BAD]
    cells = [
        nbformat.v4.new_markdown_cell("# A page"),
        nbformat.v4.new_code_cell(CODE),
        *cells,
    ]
    book = tmp_path / "book"
    book.mkdir()
    (book / "references.bib").write_text("")
    nbformat.write(nbformat.v4.new_notebook(cells=cells), book / "page.ipynb")
    result = build(tmp_path, tmp_path)
    assert result.returncode
    for text, fault in BAD.items():
        name = text.partition(" -->")[0]
        assert any(
            f"page: try {name}: " in part and fault in part
            for part in result.stderr.split("ERROR: ")
        ), (text, fault, result.stderr)
