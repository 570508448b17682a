"""Names that bite: `book/transformers` is a folder, `transformers` a package."""

import site
import subprocess
import sys
from pathlib import Path

import pytest
import sources

BOOK = sources.ROOT / "book"


def test_a_file_of_tests_belongs_to_a_notebook():
    folder = sources.ROOT / "tests" / "notebooks"
    wanted = {folder / f"test_{sources.stem(n)}.py" for n in sources.in_order()}
    assert set(folder.glob("*.py")) <= wanted


@pytest.mark.parametrize("folder", [".", "book", "book/transformers", "tests"])
def test_transformers_is_the_installed_package(folder):
    """From wherever a kernel or a test is started, the folder on sys.path first."""
    find = "import importlib.util as u; print(u.find_spec('transformers').origin)"
    command, cwd = [sys.executable, "-c", find], sources.ROOT / folder
    found = Path(subprocess.check_output(command, cwd=cwd, text=True))
    assert any(found.is_relative_to(place) for place in site.getsitepackages())


def test_the_editable_install_maps_only_fieldguide():
    finders = [f for f in sys.meta_path if "EditableFinder" in str(f)]
    modules = [sys.modules[f.__module__] for f in finders]
    mapped = {k: Path(v) for m in modules for k, v in m.MAPPING.items()}
    assert mapped == {"fieldguide": BOOK / "fieldguide"}
    assert str(BOOK) not in sys.path
