"""In code, a name that is made in a fold or on another page leads to its definition.

The first use in each open cell becomes a link, whose tooltip is how the definition
begins. Nothing is written for it. A browser opens the fold that holds the place.
"""

from __future__ import annotations

import ast
import html
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from docutils import nodes
from fieldguide_pages import exports
from sphinx.application import Sphinx

BOOK = Path(__file__).resolve().parents[1]
sys.path.append(str(BOOK / "_tools"))
import digest  # noqa: E402

# What no page builds, the page of notation says in a line.
ELSEWHERE = "notation.html#in-code"
LONGEST = 110  # characters of a tooltip
# Folds begin and end, and cells lie in them or not.
PIECE = re.compile(
    r"(?P<open><details)|(?P<shut></details>)|"
    r'(?P<head><div class="cell_input docutils container">\s*(?:<div[^>]*>){2}<pre>)'
    r"(?P<code>.*?)</pre>",
    re.DOTALL,
)
LIBRARY = digest.Library(BOOK)  # reads each module once, for all pages
DOT, IS = '<span class="o">.</span>', '<span class="o">=</span>'


def link_names(app: Sphinx, pagename, templatename, context, doctree) -> None:
    source = app.env.doc2path(pagename) if doctree else ""
    if source.endswith(".ipynb"):
        context["body"] = Names(pagename, Path(source)).linked(context["body"])


class Names:
    """Where the names of a page are made, and in how many folds its reading is."""

    def __init__(self, page: str, notebook: Path) -> None:
        self.root = "../" * page.count("/")
        cells = exports(notebook)
        self.exported = {name for _, names in cells for name in names}
        self.places: dict[str, tuple[str, str]] = {}  # {name: (address, its beginning)}
        self.depth, self.marked, self.needed = 0, set(), set(self.exported)

    def linked(self, body: str) -> str:
        body = PIECE.sub(self.piece, body)
        unneeded = "|".join(map(re.escape, self.marked - self.needed))
        return re.sub(f' id="code-(?:{unneeded})"', "", body)

    def piece(self, found: re.Match) -> str:
        self.depth += bool(found["open"]) - bool(found["shut"])
        if not found["code"]:
            return found[0]
        text = html.unescape(re.sub("<[^>]*>", "", found["code"]))
        try:
            cell = LIBRARY.parse(text)
        except SyntaxError:  # a magic, or code that is no Python
            return found[0]
        markup = self.anchored(found["code"], cell)
        if not self.depth:
            markup = self.with_links(markup, cell)
        self.know(cell, markup)
        return f"{found['head']}{markup}</pre>"

    def anchored(self, markup: str, cell: digest.Module) -> str:
        """The code, in which each name that a link may lead to has an id."""
        names = cell.definitions.keys() & (
            cell.definitions if self.depth else self.exported
        )
        for name in names - self.marked:
            span = rf'<span class="\w+"(?=>{name}</span>)'
            markup, count = re.subn(span, rf'\g<0> id="code-{name}"', markup, count=1)
            self.marked |= {name} if count else set()
        return markup

    def know(self, cell: digest.Module, markup: str) -> None:
        """Remember what a cell imports and what a fold defines; forget what is seen."""
        for name, place in cell.imports.items():
            if told := self.told(place):
                self.places[name] = told
        for name, made in cell.definitions.items():
            if not makes(made[0], name):
                continue
            self.places.pop(name, None)
            if self.depth and f'id="code-{name}"' in markup:
                self.places[name] = f"#code-{name}", beginning(name, made[0])

    def told(self, place: digest.Place) -> tuple[str, str] | None:
        """The address of a definition in the package, and how it begins."""
        place = [*way(place)][-1]
        module = LIBRARY.module(place.module)
        if place.name not in module.definitions:
            return None
        page = "/".join(place.module.split(".")[1:]).replace("_", "-")
        built = (BOOK / f"{page}.ipynb").exists()
        where = f"{page}.html#code-{place.name}" if built else ELSEWHERE
        return self.root + where, beginning(
            place.name, module.definitions[place.name][0]
        )

    def with_links(self, markup: str, cell: digest.Module) -> str:
        """The code, in which the first use of each known name is a link."""
        statements = [*chain(*cell.definitions.values()), *cell.rest]
        parts = [node for each in statements for node in ast.walk(each)]
        names = [node for node in parts if isinstance(node, ast.Name)]
        own = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
        own |= {node.arg for node in parts if isinstance(node, ast.arg)}
        for name in sorted(({n.id for n in names} - own) & self.places.keys()):
            address, told = self.places[name]
            span = rf'(?<!{DOT})(<span class="n\w?">@?)({name})(?=</span>(?!{IS}))'
            told = told if len(told) < LONGEST else told[:LONGEST] + " ..."
            title = html.escape(told, quote=False).replace('"', "&quot;")
            link = f'<a class="fg-name" href="{address}" title="{title}">{name}</a>'
            before, *found = re.split(span, markup, maxsplit=1)
            if found:
                markup = before + found[0] + link + found[2]
                self.needed.add(name)
        return markup


def way(place: digest.Place) -> Iterator[digest.Place]:
    """From where a page imports a name, to where that is defined."""
    yield place
    module = LIBRARY.module(place.module)
    while place.name in module.imports and place.name not in module.definitions:
        yield (place := module.imports[place.name])
        module = LIBRARY.module(place.module)


def note_modules(app: Sphinx, doctree: nodes.document) -> None:
    """A page is built anew when a module changes of which it tells."""
    for code in doctree.findall(nodes.literal_block):
        if "cell_input" not in code.parent.get("classes", []):
            continue
        with suppress(SyntaxError):
            for place in LIBRARY.parse(code.astext()).imports.values():
                for passed in way(place):
                    if path := LIBRARY.path(passed.module):
                        app.env.note_dependency(str(path))


def makes(node: ast.stmt, name: str) -> bool:
    """`TABLE[key] = value` makes neither name."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return True
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == name]
    return any(isinstance(each.ctx, ast.Store) for each in names)


def beginning(name: str, node: ast.stmt) -> str:
    """A function's arguments, or a value, and the first line of its docstring."""
    if isinstance(node, ast.FunctionDef):
        given = node.args
        arguments = [
            a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)
        ]
        words = f"{name}({', '.join(arguments)})"
    elif isinstance(node, ast.ClassDef):
        words = f"class {name}"
    else:
        return ast.unparse(node).split("\n")[0]
    said = (ast.get_docstring(node) or "").split("\n")[0]
    return f"{words}: {said}" if said else words


def setup(app: Sphinx) -> dict:
    app.connect("doctree-read", note_modules)
    app.connect("html-page-context", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
