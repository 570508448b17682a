"""ruff and codespell over what is written by hand, notebooks included."""

import subprocess
import sys
from pathlib import Path

import notebooks
import pytest
import sources

CELL_COLUMNS = ["--line-length", "79"]  # the rest: 88, from pyproject.toml
BIN = Path(sys.executable).parent


def run(tool, *arguments):
    """The tool's complaints; empty where there are none."""
    command = [BIN / tool, *map(str, arguments)]
    done = subprocess.run(command, cwd=sources.ROOT, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def clean(tool, *arguments):
    if complaints := run(tool, *arguments):
        pytest.fail(complaints, pytrace=False)


def test_python_is_clean():
    skip = set(notebooks.generated(sources.ROOT))
    python = [p for p in sources.files() if p.suffix == ".py" and p not in skip]
    clean("ruff", "check", *python)
    clean("ruff", "format", "--diff", *python)


@pytest.mark.parametrize("name", sources.in_order())
def test_a_notebook_is_clean(name):
    cells = notebooks.chosen([name], sources.ROOT)
    clean("ruff", "check", *CELL_COLUMNS, *cells)
    clean("ruff", "format", "--diff", *CELL_COLUMNS, *cells)


def test_what_is_exported_stands_alone():
    """A check or a mechanism names nothing that only its notebook has."""
    modules = notebooks.generated(sources.ROOT)
    clean("ruff", "check", "--select", "F821", "--ignore-noqa", *modules)


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
