"""The damages that `make mutants` does, and what it makes of the tests' answers."""

import ast
import subprocess
import sys
import types
from pathlib import Path

import mutation
import pytest
import sources


@pytest.mark.parametrize("name", mutation.mechanisms())
def test_the_tests_of_a_mechanism_can_be_called_one_by_one(name):
    assert mutation.calls_of(mutation.load(mutation.tests_of(name)))


# The check, checked

SOURCE = '''
def attend(scores, mask, *, scale=1.0):
    """Shares of each row; 3 is not a constant of the code."""
    require(scale > 0, "scale", scale, "above 0")
    scores = scores * scale
    if mask is not None and mask.any():
        scores = scores.masked_fill(~mask.tril(), -math.inf)
    return scores.softmax(-1), scores.transpose(-2, -1).sum(dim=0)[1:]
'''
MADE = [
    ("alter a constant", "def attend(scores, mask, *, scale=2.0):"),
    ("alter a constant", "require(scale > 1, 'scale', scale, 'above 0')"),
    ("alter a constant", "require(scale > 0, 'scalex', scale, 'above 0')"),
    ("exchange a comparison", "require(scale >= 0, 'scale', scale, 'above 0')"),
    ("delete a statement", "deleted: require(scale > 0, 'scale', scale, 'above 0')"),
    ("delete a statement", "deleted: scores = scores * scale"),
    ("exchange an operator", "scores = scores / scale"),
    ("keep the left side", "scores = scores"),
    ("keep the right side", "scores = scale"),
    ("delete a statement", "deleted: if mask is not None and mask.any():"),
    ("negate a condition", "if not (mask is not None and mask.any()):"),
    ("exchange an operator", "if mask is not None or mask.any():"),
    ("exchange a comparison", "if mask is None and mask.any():"),
    ("take a neighbour", "if mask is not None and mask.all():"),
    ("drop a sign", "scores = scores.masked_fill(mask.tril(), -math.inf)"),
    ("drop a sign", "scores = scores.masked_fill(~mask.tril(), math.inf)"),
    ("take a neighbour", "scores = scores.masked_fill(~mask.triu(), -math.inf)"),
    ("shift a diagonal", "scores = scores.masked_fill(~mask.tril(-1), -math.inf)"),
    ("leave out a method", "scores = scores.masked_fill(~mask, -math.inf)"),
    ("leave out a method", "scores = scores"),
    ("swap arguments", "scores = scores.masked_fill(-math.inf, ~mask.tril())"),
]
RETURNED = [
    "scores.transpose(-2, -1).sum(dim=0)[1:], scores.softmax(-1)",  # swapped
    "scores.softmax(0), scores.transpose(-2, -1).sum(dim=0)[1:]",  # another axis
    "scores.softmax(-1), scores.transpose(-2, -1).sum(dim=1)[1:]",
    "scores.softmax(-1), scores.transpose(-2, -1).sum()[1:]",  # no keyword
    "scores.softmax(-1), scores.transpose(-2, -1).mean(dim=0)[1:]",  # a neighbour
    "scores.softmax(-1), scores.sum(dim=0)[1:]",  # no transpose
    "scores.softmax(-1), scores.transpose(-2, -1).sum(dim=0)[2:]",  # off by one
    "scores, scores.transpose(-2, -1).sum(dim=0)[1:]",  # no softmax
]


def test_the_damages_are_those_that_are_promised():
    made = {(m.operator, m.line) for m in mutation.mutants("cell", SOURCE)}
    assert set(MADE) <= made
    lines = {line for _, line in made}
    assert {f"return ({returned})" for returned in RETURNED} <= lines


def test_texts_and_symmetric_arguments_are_left_alone():
    made = list(mutation.mutants("cell", SOURCE))
    texts = [ast.unparse(m.tree) for m in made]
    assert len(set(texts)) == len(texts), "each damage once"
    original = ast.unparse(ast.parse(SOURCE))
    assert original not in texts
    for text in texts:
        assert "3 is not a constant of the code" in text
        assert "'above 0'" in text or "require" not in text
        assert "transpose(-1, -2)" not in text


def test_the_only_statement_of_a_finally_can_go():
    source = "def f(x):\n    try:\n        x()\n    finally:\n        x.close()\n"
    made = [m for m in mutation.mutants("f", source) if m.line == "deleted: x.close()"]
    assert [ast.unparse(m.tree).split()[-1] for m in made] == ["pass"]
    compile(made[0].tree, "f", "exec")


def trial(source, test, tmp_path):
    """A trial of a module with one function, and one test of it."""
    path = tmp_path / "module.py"
    path.write_text(source)
    module = types.ModuleType("module")
    module.__file__ = str(path)
    exec(compile(source, str(path), "exec"), vars(module))
    tests = types.ModuleType("tests")
    tests.test_it = lambda: test(module)
    return mutation.Trial(module, tests)


HALVES = "def half(x):\n    while x > 7:\n        x = x - 7\n    return x / 2\n"


def verdicts_of(test, tmp_path, monkeypatch):
    monkeypatch.setattr(mutation, "LIMIT_S", 0.3)
    tried = trial(HALVES, test, tmp_path)
    made = list(mutation.mutants("half", HALVES))
    return tried, {m.line: tried.verdict(m) for m in made}


def test_a_weak_test_lets_a_mutant_survive(tmp_path, monkeypatch):
    def weak(module):
        assert module.half(4) > 0

    _, verdicts = verdicts_of(weak, tmp_path, monkeypatch)
    assert verdicts["return x * 2"] == ""
    assert verdicts["return 2"] == ""
    assert verdicts["return"] == "test_it"


def test_a_strong_test_kills_it_and_the_original_comes_back(tmp_path, monkeypatch):
    def strong(module):
        assert [module.half(x) for x in (4, 7, 8, 9, 16)] == [2, 3.5, 0.5, 1, 1]

    tried, verdicts = verdicts_of(strong, tmp_path, monkeypatch)
    assert verdicts["return x * 2"] == "test_it"
    assert [line for line, verdict in verdicts.items() if not verdict] == []
    assert tried.module.half(9) == 1


def test_what_ends_python_or_is_no_exception_counts_as_a_failure(tmp_path, monkeypatch):
    def leaves(module):
        if module.half(4) != 2:
            raise SystemExit

    _, verdicts = verdicts_of(leaves, tmp_path, monkeypatch)
    assert verdicts["return x * 2"] == "test_it"


def test_a_mutant_that_never_ends_is_stopped(tmp_path, monkeypatch):
    def call(module):
        module.half(9)

    _, verdicts = verdicts_of(call, tmp_path, monkeypatch)
    assert verdicts["x = x + 7"] == "time"
    assert verdicts["return x * 2"] == ""


def test_a_mutant_that_waits_for_ever_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(mutation, "LIMIT_S", 0.3)
    monkeypatch.setattr(mutation, "WAITS", 1)
    naps = "import time\ndef nap(n):\n    while n > 0:\n        time.sleep(0.01)\n"
    naps += "        n = n - 1\n"
    tried = trial(naps, lambda module: module.nap(2), tmp_path)
    made = {m.line: m for m in mutation.mutants("nap", naps)}
    assert tried.verdict(made["n = n + 1"]) == "time"


def test_a_mutant_that_never_ends_is_stopped_though_its_end_is_swallowed(
    tmp_path, monkeypatch
):
    def call(module):
        try:
            module.half(9)
        except BaseException:  # as a callback of the garbage collector does
            module.half(9)

    _, verdicts = verdicts_of(call, tmp_path, monkeypatch)
    assert verdicts["x = x + 7"] == "time"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process")
def test_a_mutant_that_eats_memory_is_stopped(tmp_path, monkeypatch):
    def call(module):
        module.zeros(1)

    monkeypatch.setattr(mutation, "LIMIT_BYTES", 1 << 28)
    source = "def zeros(x):\n    return bytes(x * 2**29)\n"
    tried = trial("def zeros(x):\n    return bytes(x)\n", call, tmp_path)
    made = mutation.Mutant("zeros", "zeros", "none", "", ast.parse(source))
    assert tried.verdict(made) == "test_it"


def test_a_mutant_that_writes_a_file_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lengths = []

    def call(module):
        lengths.append(module.note("note.txt"))

    tried = trial("def note(path):\n    return 0\n", call, tmp_path)
    writes = "def note(path):\n    with open(path, 'x') as file:\n"
    writes += "        return file.write(path)\n"
    made = mutation.Mutant("note", "note", "none", "", ast.parse(writes))
    assert [tried.verdict(made), tried.verdict(made)] == ["", ""]
    assert lengths[-2:] == [8, 8], "it has written, each time in a new folder"
    assert [path.name for path in tmp_path.iterdir()] == ["module.py"]
    assert Path.cwd() == tmp_path


def test_a_test_with_a_fixture_is_refused(tmp_path):
    tests = types.ModuleType("tests")
    tests.test_it = lambda tmp_path: None
    with pytest.raises(ValueError, match="takes no fixture"):
        mutation.calls_of(tests)


def test_a_test_that_starts_python_anew_is_left_out():
    @pytest.mark.processes
    def test_anew():
        pass

    tests = types.ModuleType("tests")
    tests.test_anew, tests.test_here = test_anew, lambda: None
    assert [*mutation.calls_of(tests)] == ["test_here"]


def test_parametrized_tests_run_once_for_each_case():
    seen = []

    @pytest.mark.parametrize(("a", "b"), [(1, 2), (3, 4)])
    def test_pair(a, b):
        seen.append(a + b)

    @pytest.mark.parametrize("a", "xy")
    def test_one(a):
        seen.append(a)

    @pytest.mark.timeout(9)
    @pytest.mark.parametrize("a", "xy")
    @pytest.mark.parametrize(("b", "c"), [(5, 6)])
    def test_several(a, b, c):
        seen.append(f"{a}{b}{c}")

    tests = types.ModuleType("tests")
    for test in (test_pair, test_one, test_several):
        setattr(tests, test.__name__, test)
    for call in mutation.calls_of(tests).values():
        call()
    assert seen == [3, 7, "x", "y", "x56", "y56"]


def test_what_survives_is_printed_and_counted():
    made = list(mutation.mutants("cell", SOURCE))[:4]
    verdicts = dict(zip(made, ["test_it", "", "time", "test_it"], strict=True))
    report = mutation.Report("chapter/name", verdicts, 3)
    counted, survivor = str(report).splitlines()
    assert "4 mutants, 3 killed (1 by the clock), 1 survive" in counted
    assert survivor.split() == f"cell: {made[1].operator}: {made[1].line}".split()
    assert mutation.killed_share([report]) == 0.75
    assert mutation.killed_share([report, report]) == 0.75


def test_a_name_without_a_mechanism_is_refused(capsys):
    assert mutation.main(["chapter/none"]) == 2
    assert "'chapter/none'" in capsys.readouterr().out


def test_what_changed_is_tried(tmp_path):
    """In the work tree; else in the last commit; by its notebook or by its tests."""
    names = mutation.mechanisms()
    files = [f"book/{names[0]}.ipynb", "README.md"]
    files += [mutation.tests_of(names[1]).relative_to(sources.ROOT)]

    def git(*words):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    def write(text):
        for path in (tmp_path / file for file in files):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    git("init", "-q")
    for text in ("one", "two", "two more"):
        write(text)
        git("add", ".")
        git("commit", "-q", "-m", text)
    assert mutation.changed(tmp_path) == names[:2]
    (tmp_path / "README.md").write_text("another")
    git("commit", "-q", "-am", "README")
    assert mutation.changed(tmp_path) == []
    (tmp_path / files[0]).write_text("changed")
    assert mutation.changed(tmp_path) == names[:1]
