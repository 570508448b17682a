"""Damage a notebook's exported cells, one way at a time, and run their tests.

    make mutants                                  the notebooks that changed
    make mutants ONLY=transformers/attention      these notebooks
    make mutants ALL=1                            every notebook

A notebook has changed if it or its tests differ from `main` as it was cloned, or, where
nothing does, from the commit before.

`mutants` makes the damaged versions from the syntax tree: a constant altered, an
operator or a comparison exchanged, a condition negated, a keyword or a statement
dropped, arguments or returned values swapped, a method left out or exchanged for its
neighbour. `Trial` puts one into the imported module and calls the test functions
that reach it, the quickest first, until one fails; then it puts the original back.

What survives is printed: a hole in the tests, or a damage that changes nothing that a
caller could see. It takes too long for every push, and one that never ends is stopped
by the clock, so the weekly run makes it, and fails where less than `FLOOR` is killed.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
import io
import itertools
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import hypothesis
import sources

FLOOR = 0.97  # of the mutants that the tests must kill
LIMIT_S = 5  # of processor time beside ten times a test's own, for what never ends
WAITS = 5  # times as long by the clock on the wall, for what waits and never ends
LIMIT_BYTES = 4 << 30  # a damaged loop can eat the machine before its time is up

EXCHANGED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
COMPARED = {
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq, ast.GtE],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
NEIGHBOURS = [
    ("sum", "mean"),
    ("max", "min"),
    ("argmax", "argmin"),
    ("any", "all"),
    ("cos", "sin"),
    ("tril", "triu"),
    ("zeros", "ones"),
    ("new_zeros", "new_ones"),
    ("sqrt", "rsqrt"),
    ("square", "abs"),
    ("exp", "expm1"),
    ("softmax", "log_softmax"),
    ("tanh", "sigmoid"),
    ("stack", "cat"),
    ("repeat_interleave", "repeat"),
    ("float", "double"),
    ("floor", "ceil"),
]
NEIGHBOUR = {a: b for pair in NEIGHBOURS for a, b in (pair, pair[::-1])}
DELETED = (ast.Expr, ast.AugAssign, ast.Assert, ast.If, ast.For)
LIBRARIES = {"F", "math", "nn", "torch"}


@dataclass(frozen=True)
class Mutant:
    """One damage: `line` is the damaged statement, or the deleted one."""

    cell: str
    name: str
    operator: str
    line: str
    tree: ast.Module


# Making them


def mutants(cell: str, source: str) -> Iterator[Mutant]:
    """Every damaged version of every definition in a cell, each once."""
    for statement in ast.parse(source).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            continue
        whole = ast.Module([statement], [])
        seen, sacred = {ast.unparse(whole)}, untouched(statement)
        for index, node in enumerate(ast.walk(whole)):
            if id(node) in sacred:
                continue
            for operator, new in damages(node):
                tree = copy.deepcopy(whole)
                target = next(itertools.islice(ast.walk(tree), index, None))
                line = exchange(tree, target, new)
                text = ast.unparse(ast.fix_missing_locations(tree))
                if text not in seen:
                    seen.add(text)
                    yield Mutant(cell, name_of(statement), operator, line, tree)


def name_of(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.targets[0])
    return statement.name


def untouched(statement: ast.stmt) -> set[int]:
    """Nodes that say something and do nothing: docstrings, types, error texts."""
    found = list(sources.docstrings(statement))
    for node in ast.walk(statement):
        found += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.JoinedStr):
            found.append(node)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            found += node.args[2:]
        if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
            found.append(node.operand)  # -1 is one constant
    return {id(n) for top in found if top is not None for n in ast.walk(top)}


def exchange(tree: ast.Module, target: ast.AST, new: ast.AST | None) -> str:
    """Put `new` in the place of `target`; the text of the statement that it is in."""
    # The innermost one: `walk` comes to what lies deeper later.
    holders = [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]
    statement = [n for n in holders if target in ast.walk(n)][-1]
    deleted = f"deleted: {heading(statement)}"
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, field, new)
            elif isinstance(value, list) and target in value:
                place = value.index(target)
                alone = len(value) == 1 and field in ("body", "finalbody")
                left = [ast.Pass()] if alone else []
                value[place : place + 1] = left if new is None else [new]
    if statement is not target:
        return heading(statement)
    return deleted if new is None else heading(new)


def heading(statement: ast.stmt) -> str:
    """A statement's first line; a function's decorators left out."""
    lines = ast.unparse(statement).splitlines()
    return next(line for line in lines if not line.startswith("@"))


def damages(node: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """(operator, what stands in its place) for each way to damage `node` itself."""
    if isinstance(node, ast.Constant):
        for value in altered(node.value):
            yield "alter a constant", ast.Constant(value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        for step in (-1, 1):
            yield "alter a constant", ast.Constant(-node.operand.value + step)
    elif isinstance(node, ast.UnaryOp):
        yield "drop a sign", node.operand
    elif isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in EXCHANGED:
        yield "exchange an operator", having(node, op=EXCHANGED[type(node.op)]())
    elif isinstance(node, ast.Compare):
        for new in COMPARED[type(node.ops[0])]:
            yield "exchange a comparison", having(node, ops=[new(), *node.ops[1:]])
    elif isinstance(node, ast.Call):
        yield from damages_of_call(node)
    elif isinstance(node, ast.Attribute):
        if node.attr in NEIGHBOUR:
            yield "take a neighbour", having(node, attr=NEIGHBOUR[node.attr])
        if node.attr in ("T", "mT"):
            yield "drop a transpose", node.value
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        backwards = having(node.value, elts=node.value.elts[::-1])
        yield "swap what is returned", having(node, value=backwards)
    elif isinstance(node, ast.Return) and node.value:
        yield "return nothing", ast.Return()
    elif isinstance(node, DELETED) or updates(node):
        yield "delete a statement", None
    if isinstance(node, (ast.BinOp, ast.BoolOp)):
        sides = getattr(node, "values", None) or [node.left, node.right]
        yield "keep the left side", sides[0]
        yield "keep the right side", sides[-1]
    if isinstance(node, ast.BinOp) and type(node.op) in (ast.Sub, ast.Div, ast.MatMult):
        yield "swap the sides", having(node, left=node.right, right=node.left)
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield "negate a condition", having(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.comprehension) and node.ifs:
        yield "drop a filter", having(node, ifs=[])
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        for place, decorator in enumerate(node.decorator_list):
            if getattr(decorator, "id", "") != "cache":
                left = without(node.decorator_list, place)
                yield "drop a decorator", having(node, decorator_list=left)


def damages_of_call(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    for place in range(len(node.keywords)):
        yield "drop a keyword", having(node, keywords=without(node.keywords, place))
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    for place, pair in enumerate(itertools.pairwise(node.args)):
        if name != "transpose" and (name, place) != ("require", 2):
            swapped = [*node.args[:place], *pair[::-1], *node.args[place + 2 :]]
            yield "swap arguments", having(node, args=swapped)
    if isinstance(node.func, ast.Attribute):
        root = node.func.value
        if not (isinstance(root, ast.Name) and root.id in LIBRARIES):
            yield "leave out a method", root
        if node.func.attr in ("tril", "triu") and not node.args:
            for diagonal in (-1, 1):
                yield "shift a diagonal", having(node, args=[ast.Constant(diagonal)])


def having(node: ast.AST, **fields) -> ast.AST:
    """The same node with other fields."""
    new = copy.copy(node)
    vars(new).update(fields)
    return new


def without(items: list, place: int) -> list:
    return items[:place] + items[place + 1 :]


def altered(value: object) -> list:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value - 1, value + 1]
    if isinstance(value, float):
        return [2 * value, -value] if value else [1.0]
    return [value + "x"] if isinstance(value, str) else []


def updates(node: ast.AST) -> bool:
    """Is it an assignment that reads what it writes, as `x = x * scale` does?"""
    if not isinstance(node, ast.Assign):
        return False
    names = {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node.value))


# Trying them


class TooSlow(BaseException):
    """A mutant used up its time; no `except Exception` may swallow this."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow after `seconds` of processor time, or waiting, if it can."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_):
        raise TooSlow

    clocks = {
        signal.ITIMER_PROF: (signal.SIGPROF, seconds),
        signal.ITIMER_REAL: (signal.SIGALRM, WAITS * seconds),
    }
    before = {name: signal.signal(name, stop) for name, _ in clocks.values()}
    # Again and again: what is raised in a callback of the garbage collector is lost.
    for clock, (_, limit) in clocks.items():
        signal.setitimer(clock, limit, 0.2)
    try:
        yield
    finally:
        for clock in clocks:
            signal.setitimer(clock, 0)
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def memory_limit(extra_bytes: int) -> Iterator[None]:
    """Let the process grow by `extra_bytes` at most, where the system can."""
    sizes = Path("/proc/self/statm")
    if not sizes.exists():
        yield
        return
    import resource  # not on Windows

    now = int(sizes.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + extra_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def calls_of(tests: ModuleType) -> dict[str, Callable[[], None]]:
    """The test functions of a module, parametrized ones once for each case.

    Without those of the mark "processes", whose processes no mutant reaches.
    """
    found = {}
    for name, function in vars(tests).items():
        marks = getattr(function, "pytestmark", [])
        if not name.startswith("test_") or "processes" in {m.name for m in marks}:
            continue
        cases = [{}]
        for mark in marks:
            if mark.name == "parametrize":
                cases = [c | one for c in cases for one in settings_of(*mark.args)]
        for case in cases:
            label = f"[{'-'.join(map(str, case.values()))}]" if case else ""
            found[name + label] = functools.partial(function, **case)
    for name, call in found.items():
        needs = set(inspect.signature(call.func).parameters) - set(call.keywords)
        if needs and not hasattr(call.func, "hypothesis"):
            raise ValueError(f"{name} needs {needs}: a mutation test takes no fixture")
    return found


def settings_of(names: str | list[str], cases: list) -> list[dict[str, object]]:
    """The arguments that one `parametrize` gives, a dict for each case."""
    split = [n.strip() for n in names.split(",")] if isinstance(names, str) else names
    rows = [case if len(split) > 1 else [case] for case in cases]
    return [dict(zip(split, row, strict=True)) for row in rows]


def load(path: Path) -> ModuleType:
    """The test module, with hypothesis told not to shrink what it finds."""
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    before = hypothesis.settings.get_current_profile_name()
    hypothesis.settings.register_profile(
        "mutation",
        phases=phases,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutation")
    try:
        spec = importlib.util.spec_from_file_location(f"mutation_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        hypothesis.settings.load_profile(before)
    return module


class Trial:
    """A generated module and the test functions that reach each of its names."""

    def __init__(self, module: ModuleType, tests: ModuleType):
        self.module, self.calls = module, calls_of(tests)
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, list[str]] = {}
        for name, call in self.calls.items():
            for reached in self.record(call):
                self.reached.setdefault(reached, []).append(name)
        # All caches are full after this. One that a mutant filled would stay wrong.
        for name, call in self.calls.items():
            start = time.perf_counter()
            call()
            self.seconds[name] = time.perf_counter() - start
        for names in self.reached.values():
            names.sort(key=self.seconds.get)

    def record(self, call: Callable) -> set[str]:
        """Top names of the module's functions that a test calls."""
        found = set()
        file = self.module.__file__

        def look(frame, event, _):
            if event == "call" and frame.f_code.co_filename == file:
                found.add(frame.f_code.co_qualname.partition(".")[0])

        for value in vars(self.module).values():
            getattr(value, "cache_clear", lambda: None)()
        sys.setprofile(look)
        try:
            call()
        finally:
            sys.setprofile(None)
        return found

    def verdict(self, mutant: Mutant) -> str:
        """The test that fails, "import", "time", or "" for a mutant that survives."""
        names = vars(self.module)
        original = dict(names)
        code = compile(mutant.tree, f"<{mutant.cell}>", "exec", dont_inherit=True)
        # What no test calls by itself, such as a constant, concerns all of them.
        tests = self.reached.get(mutant.name) or sorted(
            self.calls, key=self.seconds.get
        )
        running = "import"
        try:
            with elsewhere(), memory_limit(LIMIT_BYTES), quiet():
                with time_limit(LIMIT_S):
                    exec(code, names)
                for running in tests:
                    with time_limit(LIMIT_S + 10 * self.seconds[running]):
                        self.calls[running]()
        except TooSlow:
            return "time"
        except KeyboardInterrupt:
            raise
        except BaseException:  # SystemExit, pytest.raises and a checkpoint raise such
            return running
        finally:
            names.clear()
            names.update(original)
        return ""


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Work in a folder that goes with all that a mutant writes there."""
    loose = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with loose as folder, contextlib.chdir(folder):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def dotted(name: str) -> str:
    return name.replace("/", ".").replace("-", "_")


def tests_of(name: str) -> Path:
    """The file with the tests of a notebook, by its `chapter/name`."""
    stem = dotted(name).replace(".", "_")
    return Path(__file__).parent / "notebooks" / f"test_{stem}.py"


@dataclass(frozen=True)
class Report:
    """What came of the mutants of a notebook: "" for one that survives."""

    name: str
    verdicts: dict[Mutant, str]
    seconds: float

    @property
    def survivors(self) -> list[Mutant]:
        return [mutant for mutant, verdict in self.verdicts.items() if not verdict]

    def __str__(self) -> str:
        made, survivors = len(self.verdicts), len(self.survivors)
        slow = list(self.verdicts.values()).count("time")
        lines = [
            f"{self.name}: {made} mutants, {made - survivors} killed ({slow} by the "
            f"clock), {survivors} survive; {self.seconds:.0f} s"
        ]
        lines += [f"  {m.cell}: {m.operator}: {m.line}" for m in self.survivors]
        return "\n".join(lines)


def report(name: str) -> Report:
    """Try every mutant of the notebook `chapter/name`, after the cells as they are."""
    start = time.perf_counter()
    if not tests_of(name).exists():
        raise ValueError(f"{name} has no tests: write {tests_of(name)}")
    module = importlib.import_module(f"fieldguide.{dotted(name)}")
    trial, notebook = Trial(module, load(tests_of(name))), sources.in_order()[name]
    code = {c.id: c.source for c in sources.code(notebook) if sources.is_exported(c)}
    whole = ast.parse("\n".join(code.values()))
    failed = trial.verdict(Mutant("all", "", "none", "", whole))
    if failed:
        raise ValueError(f"{name}: {failed} fails on the cells as they are")
    made = (mutant for cell in code for mutant in mutants(cell, code[cell]))
    verdicts = {mutant: trial.verdict(mutant) for mutant in made}
    return Report(name, verdicts, time.perf_counter() - start)


def mechanisms() -> list[str]:
    """The notebooks that export a mechanism, in the book's order."""
    found = sources.in_order().items()
    exported = {n: sum(map(sources.is_exported, sources.code(nb))) for n, nb in found}
    return [name for name, count in exported.items() if count > 1]  # not only imports


def killed_share(reports: list[Report]) -> float:
    made = sum(len(r.verdicts) for r in reports)
    return 1 - sum(len(r.survivors) for r in reports) / made


def changed(root: Path = sources.ROOT) -> list[str]:
    """The notebooks that differ, or whose tests do, from what others have."""

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        return done.stdout.splitlines()

    def files(name: str) -> set[str]:
        tests = tests_of(name).relative_to(sources.ROOT)
        return {f"book/{name}.ipynb", tests.as_posix()}

    for start in [*git("merge-base", "HEAD", "@{upstream}")[:1], "HEAD~1"]:
        differ = set(git("diff", "--name-only", start))
        found = [name for name in mechanisms() if files(name) & differ]
        if found:
            return found
    return []


def main(names: list[str]) -> int:
    if names == ["--all"]:
        names = mechanisms()
    elif not names:
        names = changed()
        print(f"{len(names)} notebooks changed; make mutants ALL=1 tries every one")
        if not names:
            return 0
    unknown = sorted(set(names) - set(mechanisms()))
    if unknown:
        print(f"no mechanism in {unknown[0]!r}; there are: {', '.join(mechanisms())}")
        return 2
    reports = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, max_tasks_per_child=1) as pool:
        for job in as_completed([pool.submit(report, name) for name in names]):
            reports.append(job.result())
            print(reports[-1], flush=True)
    share = killed_share(reports)
    print(f"{share:.2%} of the mutants are killed; the floor is {FLOOR:.0%}")
    return 0 if share >= FLOOR else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
