"""ruff and codespell over what is written by hand, notebooks included."""

import subprocess
import sys
from pathlib import Path

import notebooks
import pytest
import sources

CELL_COLUMNS = ["--line-length", "79"]  # the rest: 88, from pyproject.toml
PAGES = [notebooks.page_name(p, sources.ROOT) for p in notebooks.in_order(sources.ROOT)]
BIN = Path(sys.executable).parent


def run(tool, *arguments):
    """The tool's complaints; empty where there are none."""
    command = [BIN / tool, *map(str, arguments)]
    done = subprocess.run(command, cwd=sources.ROOT, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def clean(tool, *arguments):
    complaints = run(tool, *arguments)
    if complaints:
        pytest.fail(complaints, pytrace=False)


def python():
    skip = set(notebooks.generated(sources.ROOT))
    return [p for p in sources.files() if p.suffix == ".py" and p not in skip]


def test_ruff_finds_nothing():
    clean("ruff", "check", *python())


@pytest.mark.parametrize("name", PAGES)
def test_ruff_finds_nothing_in_a_notebook(name):
    clean("ruff", "check", *CELL_COLUMNS, *notebooks.chosen([name], sources.ROOT))


def test_what_is_exported_stands_alone():
    """A check or a mechanism names nothing that only its notebook has."""
    modules = notebooks.generated(sources.ROOT)
    clean("ruff", "check", "--select", "F821", "--ignore-noqa", *modules)


def test_ruff_would_format_nothing():
    clean("ruff", "format", "--diff", *python())


@pytest.mark.parametrize("name", PAGES)
def test_ruff_would_format_no_cell(name):
    cells = notebooks.chosen([name], sources.ROOT)
    clean("ruff", "format", "--diff", *CELL_COLUMNS, *cells)


def test_codespell_finds_nothing():
    names = [p for p in sources.texts() if not p.endswith((".json", ".js.map"))]
    assert len(names) > 30
    clean("codespell", *names)


def test_the_tools_see_a_fault(tmp_path):
    """That a tool ran at all: a file with a fault is not passed."""
    bad = tmp_path / "bad.py"
    bad.write_text("import os\nx = undefined  # t" + "eh word\n")
    assert "F821" in run("ruff", "check", bad)
    assert run("codespell", bad)
    bad.write_text("x = {  'a':1 }\n")
    assert run("ruff", "format", "--diff", bad)
