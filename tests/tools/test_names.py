"""Names that bite: `book/transformers` is a folder, `transformers` a package."""

import importlib.util
import site
import subprocess
import sys
from pathlib import Path

import pytest
import sources

BOOK = sources.ROOT / "book"
CHAPTERS = [p for p in BOOK.iterdir() if p.is_dir() and p.name[0] not in "_."]
CHAPTERS = [p for p in CHAPTERS if p.name != "fieldguide"]


def test_no_chapter_or_test_folder_is_a_package():
    """An __init__.py in one would shadow the installed package of that name."""
    found = [
        p for folder in (*CHAPTERS, sources.ROOT / "tests") for p in folder.rglob("*")
    ]
    assert [p for p in found if p.name == "__init__.py"] == []
    assert not (BOOK / "__init__.py").exists()


def test_tests_lie_in_three_folders():
    tests = sources.ROOT / "tests"
    folders = {p.parent.relative_to(tests).as_posix() for p in tests.rglob("test_*.py")}
    assert folders == {"notebooks", "site", "tools"}


def test_a_file_of_tests_belongs_to_a_notebook():
    folder = sources.ROOT / "tests" / "notebooks"
    wanted = {folder / f"test_{sources.stem(n)}.py" for n in sources.in_order()}
    assert set(folder.glob("*.py")) <= wanted


@pytest.mark.parametrize("folder", [".", "book", "book/transformers", "tests"])
def test_transformers_is_the_installed_package(folder):
    """From wherever a kernel or a test is started, the folder on sys.path first."""
    find = "import importlib.util as u; print(u.find_spec('transformers').origin)"
    done = subprocess.run(
        [sys.executable, "-c", find],
        cwd=sources.ROOT / folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert any(Path(done.stdout).is_relative_to(p) for p in site.getsitepackages())


def test_the_editable_install_maps_only_fieldguide():
    finders = [f for f in sys.meta_path if "EditableFinder" in str(f)]
    modules = [sys.modules[f.__module__] for f in finders]
    mapped = {k: Path(v) for m in modules for k, v in m.MAPPING.items()}
    assert mapped == {"fieldguide": BOOK / "fieldguide"}
    assert str(BOOK) not in sys.path


def test_no_module_of_ours_shadows_another():
    """The helpers that tests import by a short name hide nothing."""
    for module in BOOK.joinpath("fieldguide").rglob("[a-z]*.py"):
        parts = module.relative_to(BOOK).with_suffix("").parts
        assert importlib.util.find_spec(".".join(parts)).origin == str(module)
    names = [p.stem for p in (BOOK / "_tools").glob("*.py")]
    assert set(names).isdisjoint(sys.stdlib_module_names)
