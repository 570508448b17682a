"""Exercises that work in the page. In a notebook, each is a Markdown cell of its own.

    <!-- try choose 2 -->     a question, a numbered list of options, the second of them
                              right, and an answer with a reason for each
    <!-- try bug NAME -->     the code of a function with one line changed; the answer
                              quotes the line that is right
    <!-- try order NAME -->   the statements of a function, shuffled
    <!-- try mask -->         a map to fill in, which the answer holds as a table

NAME is a function, or a method as in `GPT.forward`, of an exported cell of the page.
The answer stands in `<details>`. So the cell reads as well in JupyterLab, on paper and
without a script; `static/try.js` makes what can be clicked out of what stands there.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from docutils import nodes
from fieldguide_pages import exports
from sphinx.application import Sphinx
from sphinx.builders.html._assets import _JavaScript
from sphinx.util.docutils import SphinxDirective

CELL = re.compile(r"\A<!-- try (.*?) -->\n(.*)\Z", re.S)
KINDS = "choose", "bug", "order", "mask"


class tried(nodes.Admonition, nodes.Element):
    """An exercise in a box; in it, as in others, no word leads to the glossary."""


def open_try(writer, node: tried) -> None:
    writer.body.append(
        f'<div class="fg-try" id="{node["name"]}" role="group" aria-label="Try it"'
        f" data-try='{node['kind']}' data-knows='{json.dumps(node['knows'])}'>\n"
    )


def close_try(writer, node: tried) -> None:
    writer.body.append("</div>\n")


class Fault(Exception):
    """What is wrong with an exercise, for whoever wrote it."""


class Try(SphinxDirective):
    required_arguments = 1
    optional_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        kind, given = [*self.arguments, ""][:2]
        box = tried("", kind=kind, knows=None)
        self.state.nested_parse(self.content, self.content_offset, box)
        number = self.env.temp_data["tries"] = self.env.temp_data.get("tries", 0) + 1
        box["name"] = f"try-{self.env.docname.replace('/', '-')}-{number}"
        try:
            if kind not in KINDS:
                raise Fault(f"{kind} must be one of {', '.join(KINDS)}")
            box["knows"] = getattr(self, kind)(given, *halves(box))
        except Fault as fault:
            said = f"{self.env.docname}: try {kind} {given}".rstrip()
            raise self.error(f"{said}: {fault}") from None
        return [box]

    def choose(self, given: str, asked: nodes.Element, answer: nodes.Element) -> int:
        """The place of the right option, from 0."""
        lists = [one(half, nodes.enumerated_list, "list") for half in (asked, answer)]
        options, reasons = map(len, lists)
        if options != reasons:
            raise Fault(f"{reasons} reasons for {options} options")
        if given not in map(str, range(1, options + 1)):
            raise Fault(f"the right option must be one of 1 to {options}")
        return int(given) - 1

    def bug(self, given: str, asked: nodes.Element, answer: nodes.Element) -> int:
        """The place of the line that differs from the page's function, from 0."""
        own = lines(self.function(given)[1])
        shown = lines(one(asked, nodes.literal_block, "block of code").astext())
        wrong = [place for place, line in enumerate(shown) if line not in own]
        places = [own.index(line) for line in shown if line in own]
        if len(wrong) != 1 or places != sorted(places):
            raise Fault(f"the code must differ in one line from\n{chr(10).join(own)}")
        told = {line for code in answer.findall(is_code) for line in lines(code)}
        if not told & (set(own) - set(shown)):
            raise Fault("the answer must quote the line that is right")
        return wrong[0]

    def order(self, given: str, asked: nodes.Element, answer: nodes.Element) -> list:
        """For each statement shown, what must come before: [its place, why]."""
        node, _ = self.function(given)
        body = node.body[ast.get_docstring(node) is not None :]
        code = one(asked, nodes.literal_block, "block of code").astext()
        own, shown = ([ast.unparse(s) for s in part] for part in (body, parsed(code)))
        if sorted(own) != sorted(shown):
            raise Fault("the statements must be\n" + "\n".join(own))
        places = [shown.index(statement) for statement in own]
        needs: list[list] = [[] for _ in own]
        for first, later in combinations(range(len(own)), 2):
            if why := kept_apart(body[first], body[later]):
                needs[places[later]].append([places[first], why])
        if all(at < place for place, need in enumerate(needs) for at, _ in need):
            raise Fault("the statements are in order already")
        return needs

    def mask(self, given: str, asked: nodes.Element, answer: nodes.Element) -> None:
        """Its table is read where it stands."""
        table = one(answer, nodes.table, "table")
        rows = [[cell.astext() for cell in row] for row in table.findall(nodes.row)]
        squares = {square for row in rows[1:] for square in row[1:]}
        if squares != {"", "●"}:
            raise Fault("a square of the table must be empty or hold ●, and some must")

    def function(self, name: str) -> tuple[ast.FunctionDef, str]:
        """A function that the page exports, and its code."""
        known = {}
        for text, _ in exports(Path(self.env.doc2path(self.env.docname))):
            for node in ast.parse(text).body:
                for inner in [node, *getattr(node, "body", [])]:
                    if isinstance(inner, ast.FunctionDef):
                        path = [node.name] * (inner is not node) + [inner.name]
                        code = ast.get_source_segment(text, inner)
                        known[".".join(path)] = inner, code
        if name not in known:
            raise Fault(f"{name or 'NAME'} must be one of {', '.join(sorted(known))}")
        return known[name]


def halves(box: nodes.Element) -> Iterator[nodes.Element]:
    """What stands before the answer, and the answer."""
    starts = [i for i, n in enumerate(box) if n.astext().startswith("<details")]
    if len(starts) != 1:
        raise Fault(f"one answer in <details> is wanted, not {len(starts)}")
    for part in box[: starts[0]], box[starts[0] :]:
        yield nodes.container("", *(child.deepcopy() for child in part))


def one(half: nodes.Element, kind: type, what: str) -> nodes.Element:
    found = list(half.findall(kind))
    if len(found) != 1:
        raise Fault(f"one {what} is wanted here, not {len(found)}: {half.astext()!r}")
    return found[0]


def is_code(node: nodes.Node) -> bool:
    return isinstance(node, (nodes.literal, nodes.literal_block))


def lines(code: nodes.Node | str) -> list[str]:
    text = code if isinstance(code, str) else code.astext()
    return [line.strip() for line in text.splitlines() if line.strip()]


def parsed(code: str) -> list[ast.stmt]:
    try:
        return ast.parse(textwrap.dedent(code)).body
    except SyntaxError as error:
        raise Fault(f"the code is no Python: {error}") from None


def kept_apart(first: ast.stmt, later: ast.stmt) -> str:
    """Why two statements can't change places, {} being the first one's; or nothing."""
    if isinstance(later, ast.Return):
        return "after it, {} would never run"
    (reads, sets), (needs, changes) = map(names, (first, later))
    if both := sorted(sets & needs):
        return f"it uses <code>{both[0]}</code>, which {{}} has to set first"
    if both := sorted(changes & (reads | sets)):
        return f"it changes <code>{both[0]}</code>, which {{}} needs as it was"
    return ""


def names(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """The names that a statement reads, and those that it sets."""
    found = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
    read = {node.id for node in found if isinstance(node.ctx, ast.Load)}
    return read, {node.id for node in found if isinstance(node.ctx, ast.Store)}


def read_cells(app: Sphinx, docname: str, source: list[str]) -> None:
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        found = CELL.match("".join(cell["source"]))
        if found and cell["cell_type"] == "markdown":
            cell["source"] = f"::::{{try}} {found[1]}\n{found[2]}\n::::"
    source[0] = json.dumps(notebook)


def add_script(app: Sphinx, pagename, templatename, context, doctree) -> None:
    if 'class="fg-try"' in context.get("body", ""):
        script = _JavaScript("_static/try.js", defer="defer")
        context["script_files"] = [*context["script_files"], script]


def setup(app: Sphinx) -> dict:
    html_only = {b: (None, None) for b in ("latex", "text", "man", "texinfo")}
    app.add_node(tried, html=(open_try, close_try), **html_only)
    app.add_directive("try", Try)
    app.connect("source-read", read_cells)
    app.connect("html-page-context", add_script, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
