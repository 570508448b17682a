"""Was a stored measurement made by the code as it is now?

A script in `book/_assets/` stores `digest_of` the definitions that it uses beside what
they computed; a test compares it with that of the definitions as they are.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

__all__ = ["digest_of", "exported"]


def exported(notebook: Path) -> str:
    """The code of a notebook's exported cells, as it is written there now."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    return "\n".join(s for s in sources if s.startswith("#| export"))


def digest_of(source: str, names: list[str], *more: str) -> str:
    """SHA-256 of what `source` defines as `names`, of all that these use of it, and
    of further texts.

    Comments, docstrings and layout do not count. Python's own texts of a syntax tree
    (`ast.dump`, `ast.unparse`) differ from version to version; this one does not.
    Raises KeyError for one of `names` that is not defined.
    """
    code = {name: node for node in ast.parse(source).body for name in defined(node)}
    made, wanted = {}, {name: code[name] for name in names}
    while wanted:
        name, node = wanted.popitem()
        made[name] = written(node)
        used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        wanted |= {name: code[name] for name in used & set(code) - set(made)}
    parts = [*more, *(made[name] for name in sorted(made))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def defined(node: ast.AST) -> Iterator[str]:
    """What a statement at the top of a module defines."""
    if isinstance(node, ast.Assign):
        yield from (t.id for t in node.targets if isinstance(t, ast.Name))
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name


def written(node: object) -> str:
    """A syntax tree in brackets: what is empty is left out, and so are docstrings."""
    if isinstance(node, list):
        return f"[{' '.join(written(each) for each in node if not is_text(each))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(k, v) for k, v in ast.iter_fields(node) if v is not None and v != []]
    inner = " ".join(f"{name}={written(value)}" for name, value in fields)
    return f"({type(node).__name__} {inner})"


def is_text(node: object) -> bool:
    """A docstring, or another statement that is only a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
