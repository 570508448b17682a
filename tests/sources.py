"""What the checks by glob read: the book's files, notebooks, cells and sections."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import digest
import notebooks

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
HEADING = re.compile(r"^#{1,6} ", re.M)


def files() -> list[Path]:
    """Every file of the project that is committed, or would be."""
    if not (ROOT / ".git").exists():  # an archive holds what was committed
        skip = {".venv", "_build", "node_modules", "__pycache__"}
        found = (p for p in ROOT.rglob("*") if not skip & set(p.parts))
        return sorted(p for p in found if p.is_file())
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    names = sorted(set(done.stdout.decode().split("\0")) - {""})
    return [ROOT / name for name in names if (ROOT / name).exists()]


def texts() -> dict[str, str]:
    """Those of `files` that are text, {path below the root: content}."""
    found = {}
    for path in files():
        content = path.read_bytes()
        if b"\0" not in content:
            found[path.relative_to(ROOT).as_posix()] = content.decode("utf-8")
    return found


def in_order() -> dict[str, object]:
    """Every notebook of a chapter, {chapter/name: notebook}."""
    book = ROOT / "book"
    paths = [path for path in notebooks.in_order(ROOT) if path.parent != book]
    return {
        path.relative_to(book).with_suffix("").as_posix(): notebooks.read(path)
        for path in paths
    }


def stem(name: str) -> str:
    """What the files that belong to a notebook are called: chapter_name."""
    return re.sub("[/-]", "_", name)


def code(notebook) -> list:
    return notebooks.code_cells(notebook)


def prose(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def is_answer(cell) -> bool:
    """Is it the cell in which the reader writes the answer to an exercise?"""
    return "exercise" in tags(cell)


def is_exported(cell) -> bool:
    return "export" in digest.directives(cell.source)


def sections(notebook) -> list[list]:
    """Cells from one `## ` heading to the next; the opening is the first."""
    found = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.match(r"## ", cell.source):
            found.append([])
        found[-1].append(cell)
    return found


def defined(source: str) -> list[str]:
    """Names of the functions and classes that `source` defines at its top."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in ast.parse(source).body if isinstance(node, kinds)]


def docstrings(tree: ast.AST) -> list[ast.Expr]:
    kinds = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, kinds) and ast.get_docstring(node) is not None
    ]


def code_lines(source: str) -> int:
    """Lines that hold code: no blank ones, comments or docstrings.

    A signature with its decorators is one line, and so is an import, however many
    its shapes or names take.
    """
    reader = io.StringIO(source).readline
    lines = set()
    for token in tokenize.generate_tokens(reader):
        if token.type not in LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    tree = ast.parse(source)
    for node in docstrings(tree):
        lines -= set(range(node.lineno, node.end_lineno + 1))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            lines -= set(range(first + 1, node.body[0].lineno))
        elif isinstance(node, ast.ImportFrom):
            lines -= set(range(node.lineno + 1, node.end_lineno + 1))
    return len(lines)
