"""`fieldguide.digest`: which changes of a source make what it measured stale."""

import json

import pytest

from fieldguide.digest import digest_of, exported

# What Python's versions write differently: quotes in f-strings, empty lists.
SOURCE = '''
RATE = 0.5
NAMES = ["a", 'b']


def half(x, /, *rest, name="n", **options) -> float:
    """Half of x."""
    inner = f"{x!r:>{len(NAMES)}} {options['k']} {{}}" "joined"  # a reason
    return [RATE * x for x in rest], inner, None


class Twice:
    """Both halves."""

    def __call__(self, x):
        return 2 * half(x)


def other(x):
    return -x
'''


def digest(source=SOURCE, names=("Twice",), *more):
    return digest_of(source, list(names), *more)


def test_it_is_the_same_on_each_python():
    """If this fails on a new Python only, every stored digest is another there."""
    assert digest() == (
        "26f2f8adc2afc4c894ad1beee100db3b906a3d98b053913987e4cc895499e438"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # a reason", ""),
        ("Half of x.", "The half."),
        ('    """Both halves."""\n\n', ""),
        ("-x", "+x"),
        ("\n\n\ndef other", "\n# here\ndef another"),
        ("'b'", '"b"'),
    ],
)
def test_what_changes_nothing_leaves_it(old, new):
    assert old in SOURCE and digest(SOURCE.replace(old, new)) == digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * half(x)", "3 * half(x)"),
        ("0.5", "0.25"),
        ("0.5", "'0.5'"),
        ("'b'", "'c'"),
        ("None", "True"),
        ("/, ", ""),
        ("*rest", "rest"),
        ("!r", "!s"),
        (":>", ":<"),
        ('"joined"', '"join"'),
        ("def half", "def halves"),
        ("-> float", "-> int"),
    ],
)
def test_what_computes_otherwise_changes_it(old, new):
    assert old in SOURCE and digest(SOURCE.replace(old, new)) != digest()


def test_names_and_further_texts_count():
    assert digest(SOURCE, ["other"]) != digest()
    assert digest(SOURCE, ["half", "Twice", "Twice"]) == digest()
    assert digest(SOURCE, ["Twice"], "weights") != digest()
    assert digest(SOURCE, [], "a", "b") != digest(SOURCE, [], "b", "a")
    with pytest.raises(KeyError, match="third"):
        digest(SOURCE, ["third"])


def test_only_exported_cells_are_read(tmp_path):
    cells = ["#| export\n", "x = 1"], ["y = 2"], ["#| export\nz = 3"]
    notebook = tmp_path / "n.ipynb"
    notebook.write_text(json.dumps({"cells": [{"source": s} for s in cells]}))
    assert exported(notebook) == "#| export\nx = 1\n#| export\nz = 3"
