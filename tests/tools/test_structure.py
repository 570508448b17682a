"""Every notebook has the book's skeleton, and nothing that a reader trips over.

All checks go by glob: a new notebook is checked without being listed anywhere.
"""

import ast
import re
import statistics
import tomllib
from itertools import pairwise

import compare
import digest
import notebooks
import pytest
import sources
import stored
import yaml
from setuptools import find_namespace_packages

BOOK = sources.in_order()
EACH = pytest.mark.parametrize("notebook", BOOK.values(), ids=BOOK)
LONGEST_CELL, MEDIAN_CELL, OPENING_CELL = 25, 6, 16
COMPARED = 0.95
NOTEBOOK_BYTES, PROJECT_BYTES = 1_000_000, 60_000_000
CLOSING = ["What the toy does not show", "Summary", "Exercises", "Further reading"]
SHOWS = {"begin", "claim", "explore", "print"}
NBVAL_MARKERS = re.compile(r"nbval|raises.exception|PYTEST_VALIDATE", re.I)


def bullets(text):
    return re.findall(r"^(?:[-*]|\d+[.)]) +\S", text, re.M)


def where(cell, what):
    return f"cell {cell.id}: {what}"


def is_hidden(cell):
    hidden = cell.metadata.get("jupyter", {}).get("source_hidden")
    return "hide-cell" in sources.tags(cell) and bool(hidden)


# The skeleton


def words(cells):
    return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def opening(notebook):
    """The Markdown before the first section; a figure may stand in it."""
    return words(sources.sections(notebook)[0])


@EACH
def test_it_opens_with_what_it_is_for(notebook):
    text = opening(notebook)
    title = re.match(r"# (.+)\n", text)
    assert title, "a title"
    assert len(title[1].split()) >= 4, "the title is a claim or a question"
    parts = re.split(r"\*You will be able to\*|\*Needs:?\*|\*Takes:?\*", text)
    assert len(parts) == 4, "You will be able to, Needs, Takes"
    assert 3 <= len(bullets(parts[1])) <= 5, "three to five things to be able to do"
    assert "](" in parts[0], "the article is quoted and linked"
    assert "minute" in parts[3]


@EACH
def test_two_opening_cells(notebook):
    imports, setup = sources.code(notebook)[:2]
    assert sources.is_exported(imports) and not sources.is_exported(setup)
    for cell in imports, setup:
        assert sources.code_lines(cell.source) <= OPENING_CELL, cell.id
    kinds = (ast.Import, ast.ImportFrom)
    assert all(isinstance(n, kinds) for n in ast.parse(imports.source).body)
    assert "torch.set_num_threads(1)" in setup.source
    assert ".manual_seed(" in setup.source
    assert setup.source.endswith("\nbegin()")


@EACH
def test_it_ends_once(notebook):
    """The closing sections stand last, and in this order; one story needs few."""
    headings = re.findall(r"^## (.+)$", words(notebook.cells), re.M)
    found = [h for h in CLOSING if h in headings]
    assert "Exercises" in found and headings[-len(found) :] == found


TERM = re.compile(r"(?<!\*)\*\*([a-z][a-z-]+(?: [a-z-]+){0,2})\*\*(?!\*)")


@EACH
def test_a_term_in_bold_is_in_the_glossary(notebook):
    known = " ".join(sources.texts()["book/glossary.md"].lower().split())
    for cell in notebook.cells:
        found = TERM.findall(cell.source) if cell.cell_type == "markdown" else []
        for term in set(found) - {"predict"}:
            one = re.sub(r"ies$", "y", term).removesuffix("s")
            assert one in known, where(cell, f"explain {term!r} in book/glossary.md")


@EACH
def test_the_reader_predicts_before_each_explorer(notebook):
    asked = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            asked = asked or bool(re.search(r"\*\*Predict", cell.source))
        elif re.search(r"^explore\(", cell.source, re.M):
            asked = asked or "predict=" in cell.source
            assert asked, where(cell, "no prediction since the last explorer")
            asked = False


# Cells


@EACH
def test_cells_are_short(notebook):
    sizes = {c.id: sources.code_lines(c.source) for c in sources.code(notebook)}
    assert {i: n for i, n in sizes.items() if n > LONGEST_CELL} == {}
    code = sources.code(notebook)
    seen = [c for c in code if not stored.is_folded(c) or is_hidden(c)]
    assert statistics.median(sizes[cell.id] for cell in seen) <= MEDIAN_CELL


def parts(source):
    """The top statements that define, and those that run something.

    Constants count as neither, nor does an instance of a class defined beside it,
    such as a notebook's settings.
    """
    names, define, run = sources.defined(source), [], []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            define.append(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
            known = all(getattr(call, "id", None) in names for call in calls)
            run += [] if known else [node]
        elif not isinstance(node, (ast.Import, ast.ImportFrom)):
            run.append(node)
    return define, run


@EACH
def test_a_cell_defines_or_runs(notebook):
    for cell in sources.code(notebook):
        define, run = parts(cell.source)
        apart = sources.is_answer(cell) or not (define and run)
        assert apart, where(cell, "defines and runs")
        if sources.is_exported(cell):
            assert not run, where(cell, "is exported, so it must do nothing")


DRAWN = re.compile(r"\b(plt|ax|axes|fig|figure)\.")


def machinery(notebook):
    """Cells that check, draw or set up: what a reader need not see to follow."""
    cells = [c for c in sources.code(notebook) if not is_hidden(c)]
    calls = {}
    for cell in cells:
        found = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)]
        calls[cell.id] = {getattr(c.func, "id", ""): c for c in found}
    figures = [found["explore"].args for found in calls.values() if "explore" in found]
    drawn = {getattr(n, "id", "") for args in figures for n in ast.walk(args[0])}
    for place, cell in enumerate(cells):
        made = drawn & set(sources.defined(cell.source))
        checks = {"claim", "explore", "subplots"} & set(calls[cell.id])
        opening, check = place < 2, cell.id.startswith("check-")
        if opening or check or made or checks or DRAWN.search(cell.source):
            yield cell


@EACH
def test_machinery_is_folded(notebook):
    """Under a label that says what is inside: `#| fold: How this figure is drawn`."""
    for cell in machinery(notebook):
        assert stored.is_folded(cell), where(cell, "add `#| fold: LABEL`")


FOLDS = 15
MORE_FOLDS = {  # these may only become fewer
    "multimodal/contrastive": 16,
    "multimodal/text-to-image": 19,
    "multimodal/sound-video": 18,
    "efficiency/quantization": 17,
    "efficiency/lora": 22,
    "efficiency/architectures": 20,
}


@pytest.mark.parametrize("name", BOOK)
def test_folds_are_few(name):
    """Labels in grey; solutions, which have their own, are not counted."""
    labels = [digest.directives(c.source).get("fold") for c in BOOK[name].cells]
    starts = [b for a, b in pairwise([None, *labels]) if b and b != a]
    count = len(starts) - starts.count("Solution")
    most = MORE_FOLDS.get(name, FOLDS)
    assert count <= most, f"{name}: {count} folds, not {most}"
    assert count > FOLDS or name not in MORE_FOLDS, f"take {name} out of MORE_FOLDS"
    assert starts.count("Checks") <= 1, f"{name}: one fold *Checks*"


@EACH
def test_no_magic_install_or_hidden_state(notebook):
    for cell in sources.code(notebook):
        for line in cell.source.splitlines():
            assert not line.rstrip().endswith(";"), where(cell, f"{line}: _ = expr")
        assert "pip install" not in cell.source, where(cell, "installs")
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                allowed = node.func.id not in ("exec", "eval", "get_ipython")
                assert allowed, where(cell, node.func.id)


RANKS = ["deployment/data-parallel", "deployment/parallelism"]  # new processes import
ITSELF = ["deployment/right-sizing"]  # fewer
