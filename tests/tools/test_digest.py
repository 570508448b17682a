"""`digest`: which changes of a source make what it measured stale."""

import json

import pytest
from digest import digest_of, exported, of_notebook

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
        "387bf4dc4e164a98dbb6b371271b30d9309ce5d89943906074d90a9d37d142d2"
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
        ("-> float", "-> int"),
        ("    inner =", "    require(x > 0, 'x', x, 'above 0')\n    inner ="),
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


# Through the modules of the package

MODULES = {
    "__init__.py": "",
    "check.py": "def require(*_):\n    pass\n",
    "a/one.py": "from ..check import require\n\nRATE = 2\n\n\ndef one(x):\n"
    "    require(x, 'x', x, 'x')\n    return RATE * x\n\n\n"
    "def other(x):\n    return x\n",
    "a/two.py": "from .one import one\nfrom . import one as whole\n\n\ndef two(x):\n"
    "    return one(one(x))\n\n\ndef three(x):\n    return whole.other(x)\n",
    "b/__init__.py": "from fieldguide.b.inner import four\n",
    "b/inner.py": "def four(x):\n    from fieldguide.a.two import two\n"
    "    return two(two(x))\n\n\ndef five(x):\n    return x\n",
}


@pytest.fixture
def package(tmp_path):
    for name, text in MODULES.items():
        path = tmp_path / "fieldguide" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


CHANGES = {
    "rate": ("a/one.py", "RATE = 2", "RATE = 3"),
    "other": ("a/one.py", "return x\n", "return -x\n"),
    "two": ("a/two.py", "one(one(x))", "one(x)"),
    "five": ("b/inner.py", "return x\n", "return -x\n"),
}
USES = {
    "from fieldguide.a.two import two\ntwo(1)": {"rate", "two"},
    "from fieldguide.a.two import three as t\nt(1)": {"other"},
    "from fieldguide.a import two\ntwo.two(1)": {"rate", "two"},
    "from fieldguide.a import two as t\nvars(t)": {"rate", "two", "other"},
    "def f():\n    from fieldguide.a.one import other\n    other(1)": {"other"},
    "from fieldguide.b import four\nfour(1)": {"rate", "two"},
    "import fieldguide.a.one\nfieldguide.a.one.other(1)": {"rate", "other"},
    "from fieldguide.a.two import two": set(),
}


@pytest.mark.parametrize("code", USES)
def test_a_definition_is_followed_through_modules(package, code):
    """What is used, by whatever way, changes the digest; what is not does not."""
    before, seen = of_notebook(code, package), set()
    for name, (file, old, new) in CHANGES.items():
        path, text = package / "fieldguide" / file, MODULES[file]
        path.write_text(text.replace(old, new))
        if of_notebook(code, package) != before:
            seen.add(name)
        path.write_text(text)
    assert seen == USES[code]


def test_what_computes_is_followed_and_what_checks_is_not(package):
    source = "from fieldguide.a.one import one\n\n\ndef six(x):\n    return one(x)\n"
    before, notebook = (
        digest_of(source, ["six"], book=package),
        of_notebook(source, package),
    )
    (package / "fieldguide/check.py").write_text("def require(*_):\n    return 1\n")
    assert digest_of(source, ["six"], book=package) == before
    assert of_notebook(source, package) == notebook
    path = package / "fieldguide/a/one.py"
    path.write_text(MODULES["a/one.py"].replace("RATE = 2", "RATE = 3"))
    assert digest_of(source, ["six"], book=package) != before


def test_a_module_that_is_not_in_the_book_is_left_to_the_run(package):
    code = "from fieldguide.none import x\nfrom math import pi\nx(pi)"
    assert of_notebook(code, package) == of_notebook(code, package / "nowhere")
