"""Every notebook has the book's skeleton, and nothing that a reader trips over.

All checks go by glob: a new notebook is checked without being listed anywhere.
"""

import ast
import base64
import io
import re
import statistics
import tomllib
from itertools import pairwise
from pathlib import Path

import compare
import digest
import notebooks
import pytest
import sources
import stored
import yaml
from PIL import Image
from setuptools import find_namespace_packages

from fieldguide.explore import payload

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


@EACH
def test_it_opens_with_what_it_is_for(notebook):
    text = words(sources.sections(notebook)[0])
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


@pytest.mark.parametrize("name", sorted({*BOOK} - {*RANKS}))
def test_no_page_imports_itself(name):
    """What runs is the cell in view, not a second copy from the page's module."""
    module = name.split("/")[1].replace("-", "_")
    own = rf"from fieldguide\.\w+(\.{module}\b| import (.*\W)?{module}\b)"
    for cell in sources.code(BOOK[name]):
        assert not re.search(own, cell.source), where(cell, "imports its own page")


@EACH
def test_exported_functions_say_what_they_do(notebook):
    for cell in filter(sources.is_exported, sources.code(notebook)):
        for node in parts(cell.source)[0]:
            described = ast.get_docstring(node) or node.name.startswith("_")
            assert described, where(cell, f"{node.name} has no docstring")


def test_no_name_is_defined_twice():
    """Across the book for what is exported; within a notebook for the rest."""
    exported = exports()
    for notebook, cells in BOOK.items():
        here = {}
        for cell in sources.code(cells):
            for name in sources.defined(cell.source):
                check = name.startswith("check_")  # of an exercise of this page
                owner = notebook if check else exported.get(name, notebook)
                assert owner == notebook, f"{notebook}: import {name} from {owner}"
                first = here.setdefault(name, cell.id)
                again = f"{notebook}: cells {first} and {cell.id} both define {name}"
                answer = is_hidden(cell) or sources.is_answer(cell)
                assert first == cell.id or answer, again


def test_a_link_to_a_mechanism_leads_to_the_notebook_that_exports_it():
    exported, found = exports(), 0
    for notebook, cells in BOOK.items():
        for page, name in re.findall(
            r"\]\(([^()]*)\.ipynb#code-(\w+)\)", words(cells.cells)
        ):
            found += 1
            here = page if "/" in page else f"{notebook.split('/')[0]}/{page}"
            assert here.removeprefix("../") == exported[name], f"{notebook}: {name}"
    assert found


def exports():
    """{name: its notebook} of every definition that a notebook exports."""
    return {
        name: notebook
        for notebook, cells in BOOK.items()
        for cell in filter(sources.is_exported, sources.code(cells))
        for name in sources.defined(cell.source)
    }


def users_of(exported):
    """{name: does another notebook, an exercise, exported code or a file say it?}"""
    files = [text for path, text in sources.texts().items() if path.endswith(".py")]
    files = [text for text in files if notebooks.GENERATED not in text]
    used = set(re.findall(r"\w+", "\n".join(files)))
    for notebook, cells in BOOK.items():
        for cell in sources.code(cells):
            exercise = cell.id.startswith(("check-", "solution-"))
            for node in ast.parse(cell.source).body:
                code = ast.unparse(node)
                names = {*re.findall(r"\w+", code)} - {getattr(node, "name", "")}
                if not exercise and not sources.is_exported(cell):
                    names = {n for n in names if exported.get(n) != notebook}
                    # What new processes import from the page's own module
                    names |= {*re.findall(r"\bbuilt\.(\w+)", code)}
                used |= names
    checks = {name for name in exported if name.startswith("check_")}
    return {name: name in used | checks for name in exported}


def test_what_is_exported_is_used():
    """By another notebook, an exercise, a tool, a test, or other exported code."""
    exported, unknown = exports(), "_".join(["nobody", "asks"])
    unused = {n: exported[n] for n, used in users_of(exported).items() if not used}
    assert unused == {}, "drop the line `#| export` of these cells"
    assert not users_of({unknown: "a/b"})[unknown]


# Outputs


def shows(cell):
    """Must this cell have an output? True where its code leaves no doubt."""
    body = [n.value for n in ast.parse(cell.source).body if isinstance(n, ast.Expr)]
    called = {getattr(c.func, "id", "") for c in body if isinstance(c, ast.Call)}
    return bool(SHOWS & called)


@EACH
def test_outputs_are_stored(notebook):
    cells = sources.code(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run make notebooks"
    for cell in cells:
        assert cell.outputs or not shows(cell), where(cell, "cleared")
        for data in (output.get("data", {}) for output in cell.outputs):
            if compare.is_explorer(data):
                assert payload.STILL.search(data["text/html"]), where(cell, "no still")
                still = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
                colours = still.convert("RGB").getcolors()
                assert len(colours) > 8, where(cell, "a blank still picture")


@EACH
def test_no_error_is_stored_and_no_cell_is_excused(notebook):
    for cell in notebook.cells:
        text = f"{cell.source} {sources.tags(cell)}"
        assert not NBVAL_MARKERS.search(text), where(cell, "excused from checks")
        for output in cell.get("outputs", []):
            assert output.output_type != "error", where(cell, output)
            assert stored.WIDGET_VIEW not in output.get("data", {}), cell.id


@EACH
def test_no_path_of_this_machine_is_stored(notebook):
    local = re.compile(r"(?<![\w.])/(work|home|root|tmp|Users|usr)/|site-packages")
    for cell in sources.code(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            texts = [output.get("text", ""), data.get("text/plain", "")]
            assert not local.search(" ".join(texts)), where(cell, texts)


def test_outputs_are_compared():
    """The share of output-bearing cells whose output the comparer looks at."""
    cells = [c for notebook in BOOK.values() for c in sources.code(notebook)]
    bearing = [cell for cell in cells if cell.outputs]
    compared = [cell for cell in bearing if any(map(compare.kinds, cell.outputs))]
    share = len(compared) / len(bearing)
    print(f"{len(compared)} of {len(bearing)} output-bearing cells are compared")
    assert share >= COMPARED


# Exercises

EXERCISE = re.compile(r"### Exercise (\d+): \S.* \(\d+ minutes?\)\n")


def exercises(notebook):
    """Each exercise's Markdown cell with the cells up to the next one."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("### Exercise"):
            found.append([cell])
        elif cell.cell_type == "markdown" and cell.source.startswith("## "):
            found.append([])
        elif found:
            found[-1].append(cell)
    return [g for g in found if g and g[0].source.startswith("### Exercise")]


@EACH
def test_exercises_can_be_tried_and_checked(notebook):
    found = exercises(notebook)
    assert 3 <= len(found) <= 5
    code = sources.code(notebook)
    for number, (text, *rest) in enumerate(found, 1):
        title = EXERCISE.match(text.source)
        assert title, where(text, "### Exercise 1: Title (5 minutes)")
        assert title[1] == str(number), where(text, f"it is number {number}")
        tried = [c for c in rest if sources.is_answer(c)]
        assert len(tried) == 1, where(text, "one cell tagged exercise to try in")
        solutions = [c for c in rest if is_hidden(c)]
        assert len(solutions) == 1, where(text, "one hidden solution")
        assert stored.is_folded(solutions[0]), where(solutions[0], "#| fold: Solution")
        (answer,) = [
            n for n in ast.parse(solutions[0].source).body if hasattr(n, "args")
        ]
        stub = f"def {answer.name}({ast.unparse(answer.args)}):\n    ..."
        stub += f"\ncheck_{answer.name}({answer.name})"
        same = ast.unparse(ast.parse(tried[0].source)) == ast.unparse(ast.parse(stub))
        assert same, where(tried[0], f"is not\n{stub}")
        before = filter(sources.is_exported, code[: code.index(tried[0])])
        checks = {d for c in before for d in sources.defined(c.source)}
        assert f"check_{answer.name}" in checks, where(text, "its check is exported")
        assert code.index(tried[0]) < code.index(solutions[0]), text.id


# The project


def test_notebooks_and_project_are_small():
    for path in notebooks.in_order(sources.ROOT):
        assert path.stat().st_size <= NOTEBOOK_BYTES, path.name
    assert sum(path.stat().st_size for path in sources.files()) <= PROJECT_BYTES


def test_every_page_is_listed_once_and_is_no_stub():
    toc = (sources.ROOT / "_toc.yml").read_text()
    listed = list(notebooks.toc_entries(yaml.safe_load(toc)))
    pages = [Path(path) for path in sources.texts() if path.startswith("book/")]
    pages = [p.relative_to("book") for p in pages if p.suffix in (".md", ".ipynb")]
    pages = [p for p in pages if not p.parts[0].startswith(("_", "fieldguide"))]
    found = sorted(page.with_suffix("").as_posix() for page in pages)
    assert found == sorted(listed), "_toc.yml: add `- file: chapter/name`"
    for page in pages:
        text = (sources.ROOT / "book" / page).read_text(encoding="utf-8")
        assert len(text.split()) > 40 or "```{" in text, f"{page} is a stub"


# Where packages come from is pip's and npm's business; only the set-up may ask
# PyTorch for its small build.
ADDRESSES = r"pypi\.org|pythonhosted\.org|npmjs\.(org|com)|download\.pytorch\.org"
ADDRESSES += r"|deb\.debian\.org|conda\.anaconda\.org"
HERE = "tests/tools/test_structure.py"


def test_no_file_names_a_registry():
    found = []
    for path, text in sources.texts().items():
        text = re.sub(r"[A-Za-z0-9+/=]{60,}", "", text)  # a picture in base64
        allowed = 1 if path == "book/_tools/setup.py" else 0
        if path != HERE and len(re.findall(ADDRESSES, text)) > allowed:
            found.append(f"{path}: {re.search(ADDRESSES, text)[0]}")
    assert found == []


def test_a_wheel_holds_every_chapter():
    settings = tomllib.loads((sources.ROOT / "pyproject.toml").read_text())
    given = settings["tool"]["setuptools"]["packages"]["find"]
    (where,), include = given["where"], given["include"]
    found = set(find_namespace_packages(sources.ROOT / where, include=include))
    folders = {path.parent.name for path in notebooks.generated(sources.ROOT)}
    assert {f"fieldguide.{name}" for name in {*folders, "data", "explore"}} <= found
