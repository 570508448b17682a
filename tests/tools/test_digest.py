"""`digest`: which changes of a source make what it measured stale."""

import pytest
from digest import of_notebook, of_part

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


@pytest.fixture
def digest(tmp_path):
    """A function: the digest of a maker's part that uses a name of a module."""

    def of(source=SOURCE):
        (tmp_path / "fieldguide").mkdir(exist_ok=True)
        (tmp_path / "fieldguide" / "source.py").write_text(source)
        maker, imports = tmp_path / "make.py", "from fieldguide.source import Twice"
        maker.write_text(f"{imports}\n\n\ndef main():\n    return Twice\n")
        return of_part(maker, "main", tmp_path)

    return of


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("  # a reason", "", False),
        ("Half of x.", "The half.", False),
        ('    """Both halves."""\n\n', "", False),
        ("-x", "+x", False),
        ("\n\n\ndef other", "\n# here\ndef another", False),
        ("'b'", '"b"', False),
        ("-> float", "-> int", False),
        ("    inner =", "    require(x > 0, 'x', x, 'above 0')\n    inner =", False),
        ("2 * half(x)", "3 * half(x)", True),
        ("0.5", "0.25", True),
        ("0.5", "'0.5'", True),
        ("'b'", "'c'", True),
        ("None", "True", True),
        ("/, ", "", True),
        ("*rest", "rest", True),
        ("!r", "!s", True),
        (":>", ":<", True),
        ('"joined"', '"join"', True),
    ],
)
def test_what_computes_otherwise_changes_it_and_nothing_else(digest, old, new, changes):
    assert old in SOURCE and (digest(SOURCE.replace(old, new)) != digest()) == changes


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
MAKERS = {
    "birds/make.py": "import beside\nfrom fieldguide.a.one import one\n\n"
    "sweep = assets.load(assets.makers()['fish'])\nSTEPS = 3\nOTHER = 4\n\n\n"
    "def six(x):\n    return one(STEPS)\n\n\n"
    "def seven(x):\n    return six(x) + beside.far(x) + sweep.deep(x)\n\n\n"
    "if __name__ == '__main__':\n    make_parts(six, seven)\n",
    "birds/beside.py": "from fieldguide.a.one import other\n\n\n"
    "def far(x):\n    return other(x)\n",
    "fish/make.py": "from fieldguide.b.inner import five\nDEPTH = 3\n\n\n"
    "def deep(x):\n    return five(DEPTH)\n\n\ndef main():\n    deep(1)\n\n\n"
    "if __name__ == '__main__':\n    main()\n",
}


@pytest.fixture
def package(tmp_path):
    texts = {f"fieldguide/{name}": text for name, text in MODULES.items()}
    texts |= {f"_assets/{name}": text for name, text in MAKERS.items()}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
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


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("fieldguide/check.py", "pass", "return 1", ""),
        ("fieldguide/a/one.py", "RATE = 2", "RATE = 3", "six seven"),
        ("fieldguide/a/one.py", "return x\n", "return -x\n", "seven"),
        ("fieldguide/b/inner.py", "return x\n", "return -x\n", "seven"),
        ("_assets/birds/make.py", "STEPS = 3", "STEPS = 2", "six seven"),
        ("_assets/birds/make.py", "OTHER = 4", "OTHER = 3", ""),
        ("_assets/birds/make.py", "six(x) +", "print(six(x)) or 2 *", ""),
        ("_assets/birds/beside.py", "other(x)", "x", "seven"),
        ("_assets/fish/make.py", "DEPTH = 3", "DEPTH = 2", "seven"),
        ("_assets/fish/make.py", "deep(1)", "deep(2)", ""),
    ],
)
def test_a_record_stands_on_what_its_part_uses(package, file, old, new, changed):
    """By whatever way; on the maker's settings, and on nothing else of it."""
    maker = package / "_assets/birds/make.py"
    before = {name: of_part(maker, name, package) for name in ("six", "seven")}
    text = (package / file).read_text()
    assert text.count(old) == 1
    (package / file).write_text(text.replace(old, new))
    after = {name: of_part(maker, name, package) for name in before}
    assert [n for n in before if after[n] != before[n]] == changed.split()
