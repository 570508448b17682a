"""`make page`: what it writes passes the checks; what cannot be is refused."""

from pathlib import Path

import nbformat
import page
import pytest
from cells import module_at

structure = module_at(Path(__file__).with_name("test_structure.py"))
minutes = module_at(Path(__file__).with_name("test_minutes.py"))
CHECKS = [
    structure.test_it_opens_with_what_it_is_for,
    structure.test_two_opening_cells,
    structure.test_it_ends_once,
    structure.test_the_reader_predicts_before_each_explorer,
    structure.test_cells_are_short,
    structure.test_a_cell_defines_or_runs,
    structure.test_machinery_is_folded,
    structure.test_a_term_in_bold_is_in_the_glossary,
    structure.test_exported_functions_say_what_they_do,
    structure.test_exercises_can_be_tried_and_checked,
]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "book" / "scaling").mkdir(parents=True)
    (tmp_path / "book" / "scaling" / "index.md").write_text("# Scaling\n")
    return tmp_path


def test_a_new_page_passes_the_checks(root, monkeypatch):
    path = page.begin("scaling/new", root)
    notebook = nbformat.read(path, as_version=4)
    for check in CHECKS:
        check(notebook)
    monkeypatch.setitem(minutes.BOOK, "scaling/new", notebook)
    minutes.test_a_page_takes_one_sitting("scaling/new")
    minutes.test_a_page_says_how_long_it_takes("scaling/new")
    path.write_text("mine")
    with pytest.raises(ValueError, match="there already"):
        page.begin("scaling/new", root)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "it must be like scaling/counting"),
        ("scaling/Two Words", "it must be like scaling/counting"),
        ("nowhere/new", "no chapter nowhere"),
    ],
)
def test_a_page_that_cannot_be_is_refused(root, name, says):
    with pytest.raises(ValueError, match=says):
        page.begin(name, root)
