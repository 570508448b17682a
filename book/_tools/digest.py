"""What does a piece of code stand on? A digest of the definitions that it uses.

Outputs of a notebook, and the records that the book ships, are stored beside the
digest of what made them; another digest today means that they are stale. Followed are
names, through the modules of `fieldguide`, which are read and never imported: a new
cell in one notebook leaves those alone that do not use it. Comments and layout never
count. Docstrings count in a notebook's own cells, where a figure shows them.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

BOOK = Path(__file__).resolve().parents[1]
PACKAGE = "fieldguide"
HERE = "make"  # the maker that a record's digest begins with
OTHER = re.compile(r"makers\(\)\['([^']+)'\]")  # another maker, loaded
# Whatever these do, a record stays what it is: they check, draw, report and store.
APPARATUS = (
    "check",
    "claims",
    "data.files",
    "explore",
    "ranks",
    "saved_bytes",
    "style",
)
# In an output: nothing of a check; the browser's runtime and the look of a claim are
# stamped anew without a run.
STAMPED = ("check", "claims", "explore.page")
# What lies beside a record, and is none
BESIDE = ("LICENSE", "SHA256SUMS", "DIGESTS", "make.py")
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


class Place(NamedTuple):
    """A definition: the module's full name and the name in it; "" for all of it."""

    module: str
    name: str


@dataclass
class Module:
    """What a source file defines at its top, and where its imported names come from."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Place] = field(default_factory=dict)
    rest: list[ast.stmt] = field(default_factory=list)  # what is done on import


class Library:
    """The modules of the package in the folder `book`, read when they are needed.

    maker  the script that makes a record: modules beside it count, and other makers.
    """

    def __init__(self, book: Path, maker: Path | None = None) -> None:
        self.book, self.maker, self.modules = book, maker, {}

    def path(self, name: str) -> Path | None:
        """The file of a module or package by its full name, if it is in this book."""
        paths = []
        if is_ours(name):
            place = self.book.joinpath(*name.split("."))
            paths = [place.with_suffix(".py"), place / "__init__.py"]
        elif self.maker:
            shelf = self.maker.parent
            paths = [shelf / f"{name}.py", shelf.parent / name / "make.py"]
        return next((path for path in paths if path.is_file()), None)

    def module(self, name: str) -> Module:
        if name not in self.modules:
            path = self.path(name)
            if path is None:
                raise KeyError(f"no module {name} in {self.book}")
            text = path.read_text(encoding="utf-8")
            self.modules[name] = self.parse(text, self.parent(name))
            if not is_ours(name):
                self.modules[name].rest.clear()  # what a script does when it is run
        return self.modules[name]

    def parent(self, name: str) -> str:
        """The package that the relative imports of a module start from."""
        path = self.path(name)
        package = path is not None and path.name == "__init__.py"
        return name if package else name.rpartition(".")[0]

    def parse(self, source: str, parent: str = "") -> Module:
        """The module that `source` is; `parent` is the package that it lies in."""
        found = Module()
        for node in ast.parse(source).body:
            names = list(defined(node))
            if names and (other := OTHER.search(ast.unparse(node))):
                found.imports[names[0]] = Place(other[1], "")
                continue
            for name in names:
                found.definitions.setdefault(name, []).append(node)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found.imports |= self.imported(node, parent)
            elif not names and not is_text(node):
                found.rest.append(node)
        return found

    def imported(
        self, node: ast.Import | ast.ImportFrom, parent: str
    ) -> dict[str, Place]:
        """The names that an import brings from the package, and whence."""
        if isinstance(node, ast.Import):
            ours = [a for a in node.names if self.path(a.name)]
            return {a.asname or a.name: Place(a.name, "") for a in ours}
        stem = node.module or ""
        if node.level:
            above = parent.split(".")[: len(parent.split(".")) - node.level + 1]
            stem = ".".join([*above, *filter(None, [stem])])
        found = {}
        for alias in node.names:
            whole, name = f"{stem}.{alias.name}", alias.asname or alias.name
            if self.path(whole):
                found[name] = Place(whole, "")
            elif self.path(stem):
                found[name] = Place(stem, alias.name)
        return found

    def used(self, node: ast.AST, module: Module, parent: str) -> Iterator[Place]:
        """The places in the package that a statement of `module` names."""
        imports = dict(module.imports)
        for each in ast.walk(node):
            if isinstance(each, (ast.Import, ast.ImportFrom)):  # inside a function
                imports |= self.imported(each, parent)
        # `import fieldguide.a.b`, without another name: all of that module.
        yield from (place for name, place in imports.items() if "." in name)
        attributes = {
            id(each.value): each.attr
            for each in ast.walk(node)
            if isinstance(each, ast.Attribute)
        }
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and each.id in imports:
                place = imports[each.id]
                if not place.name:  # a module: one attribute of it, or all
                    place = Place(place.module, attributes.get(id(each), ""))
                yield place

    def closure(self, wanted: list[Place], skip: tuple[str, ...] = ()) -> set[Place]:
        """These definitions, all that they use, and all that these use."""
        found: set[Place] = set()
        left = list(wanted)
        while left:
            place = left.pop()
            inner = f"{place.module.removeprefix(f'{PACKAGE}.')}."
            if place in found or inner.startswith(tuple(f"{name}." for name in skip)):
                continue
            found.add(place)
            module, parent = self.module(place.module), self.parent(place.module)
            for node in self.nodes(place):
                left += self.used(node, module, parent)
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                left += [Place(place.module, n) for n in names & {*module.definitions}]
            if place.name in module.imports:  # a package that passes it on
                left.append(module.imports[place.name])
        return found

    def is_setting(self, place: Place) -> bool:
        nodes = self.module(place.module).definitions.get(place.name, [])
        return not any(isinstance(node, FUNCTIONS) for node in nodes)

    def nodes(self, place: Place) -> list[ast.stmt]:
        """The statements of a place, and those that its module does on import."""
        module = self.module(place.module)
        every = [n for nodes in module.definitions.values() for n in nodes]
        chosen = module.definitions.get(place.name, []) if place.name else every
        return [*chosen, *module.rest]


def is_ours(name: str) -> bool:
    return name.split(".")[0] == PACKAGE


def defined(node: ast.AST) -> Iterator[str]:
    """What a statement at the top of a module defines or changes."""
    if isinstance(node, ast.Assign):
        targets = [n for t in node.targets for n in ast.walk(t)]
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        targets = list(ast.walk(node.target))
    elif isinstance(node, FUNCTIONS):
        yield node.name
        return
    else:
        return
    # In `TABLE[key] = value` and `Class.name = value`, it is the first name.
    yield from (n.id for n in targets if isinstance(n, ast.Name))


def written(node: object, *, texts: bool = False) -> str:
    """A syntax tree in brackets, the same on every Python.

    Python's own texts of a tree (`ast.dump`, `ast.unparse`) differ from version to
    version. What is empty is left out, and so are annotations, calls of `require` and,
    unless `texts`, docstrings: none of them changes what is computed.
    """
    if isinstance(node, list):
        kept = [each for each in node if texts or not is_text(each)]
        parts = [written(e, texts=texts) for e in kept if not is_check(e)]
        return f"[{' '.join(parts)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        (name, value)
        for name, value in ast.iter_fields(node)
        if name not in ("annotation", "returns") and not is_empty(value)
    ]
    inner = " ".join(f"{name}={written(v, texts=texts)}" for name, v in fields)
    return f"({type(node).__name__} {inner})"


def is_empty(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(map(is_check, value)))


def is_text(node: object) -> bool:
    """A docstring, or another statement that is only a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_check(node: object) -> bool:
    """A call of `require`: it refuses a bad value and does nothing to a good one."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and getattr(call.func, "id", "") == "require"


# Digests


def of_notebook(source: str, book: Path = BOOK) -> str:
    """Of a notebook's code, what it uses of the package, and the files these name."""
    library = Library(book)
    tree, module = ast.parse(source), library.parse(source)
    places = library.closure(list(library.used(tree, module, "")), STAMPED)
    trees = [tree, *(node for place in places for node in library.nodes(place))]
    parts = [written(tree, texts=True), *texts_of(library, places)]
    return sha256([*parts, *files_of(trees, book)])


def of_part(maker: Path, name: str, book: Path = BOOK) -> str:
    """Of what a maker's function names in the package, in whatever way it does.

    Of the maker itself, and of modules beside it, only the settings count that the
    function uses, what they assign: the rest says how a record is laid out. Raises
    KeyError where the maker has no such function.
    """
    library = Library(book, maker)
    if name not in library.module(HERE).definitions:
        raise KeyError(f"{maker} does not define {name}")
    places = library.closure([Place(HERE, name)], APPARATUS)
    kept = {p for p in places if is_ours(p.module) or library.is_setting(p)}
    return sha256(texts_of(library, kept))


def directives(source: str) -> dict[str, str]:
    """What a cell's first lines say of it: `#| export`, `#| fold: LABEL`."""
    found = {}
    for line in source.splitlines():
        if not line.startswith("#|"):
            break
        name, _, text = line.removeprefix("#|").partition(":")
        found[name.strip()] = text.strip()
    return found


def texts_of(library: Library, places: set[Place]) -> list[str]:
    """What the definitions are, in the order of their names."""
    parts = []
    for place in sorted(places):
        nodes = [written(node) for node in library.nodes(place)]
        parts.append(f"{place.module} {place.name} {' '.join(nodes)}")
    return parts


def files_of(trees: list[ast.AST], book: Path) -> Iterator[str]:
    """The book's own files that a call of `asset` or `Twin` names, by their digest."""
    paths = set()
    for node in (n for tree in trees for n in ast.walk(tree)):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = [getattr(each, "value", "*") for each in node.args[:2]]
        if called == "asset" and given:
            given = [g if isinstance(g, str) else "*" for g in (*given, "*")[:2]]
            paths |= set((book / "_assets").glob("/".join(given)))
        elif called == "Twin" and given:
            folder = book / PACKAGE / "explore" / "twins"
            paths |= set(folder.glob(f"{given[0]}.js"))
    for path in sorted(p for p in paths if p.name not in BESIDE):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        yield f"{path.relative_to(book).as_posix()} {content}"


def sha256(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
