"""How long does a page take to read?

    python book/_tools/minutes.py [chapter/name ...]      a line a page

A minute is 75 words of prose, or eight lines of code that are not folded, up to the
exercises. Nine timings by readers lay between 0.85 and 1.3 of this. Boxes and folded
answers are prose; outputs, folded code, solutions and what a reader does not see
(directives, roles' names, links' targets) are not counted, nor are exercises in the
page. A citation is one word.
"""

from __future__ import annotations

import re
import sys

import nbformat
from citations import CITATION
from notebooks import ROOT, chosen, code_cells, page_name, read
from stored import is_folded

WORDS, LINES = 75, 8  # a minute
MOST = 50  # minutes: one sitting
EXERCISES = re.compile(r"^## Exercises", re.M)
HIDDEN = re.compile(
    r"^ *[`:]{3,}[^\n]*$"  # a fence
    r"|^ *:[\w-]+:[^\n]*$"  # its option
    r"|\A<!-- try .*"  # an exercise, all of it
    r"|<!--.*?-->|<svg.*?</svg>|<a [^>]*>"
    r"|\{[\w:]+\}(?=`)"  # a role
    r"|(?<=\])\([^)]*\)"  # where a link leads
    r"|\$\$.*?\$\$",
    re.M | re.S,
)
WORD = re.compile(r"[^\W_]+(?:['\u2019.,/-][^\W_]+)*")


def before_exercises(notebook: nbformat.NotebookNode) -> list:
    """The cells up to the heading Exercises, that one's text cut there."""
    found = []
    for cell in notebook.cells:
        end = cell.cell_type == "markdown" and EXERCISES.search(cell.source)
        if end:
            cut = nbformat.v4.new_markdown_cell(cell.source[: end.start()])
            return [*found, cut]
        found.append(cell)
    return found


def words(text: str) -> int:
    return len(WORD.findall(HIDDEN.sub(" ", CITATION.sub("cited", text))))


def size(notebook: nbformat.NotebookNode) -> tuple[int, int]:
    """Words of prose, and lines of code in view."""
    cells = before_exercises(notebook)
    prose = sum(words(c.source) for c in cells if c.cell_type == "markdown")
    ran = {cell.id for cell in code_cells(notebook)}
    shown = [c for c in cells if c.get("id") in ran and not is_folded(c)]
    shown = [c for c in shown if "hide-cell" not in c.metadata.get("tags", [])]
    lines = [line for c in shown for line in c.source.splitlines()]
    return prose, sum(
        bool(line.strip()) and not line.startswith("#|") for line in lines
    )


def minutes(notebook: nbformat.NotebookNode) -> int:
    prose, lines = size(notebook)
    return round(prose / WORDS + lines / LINES)


def main(names: list[str]) -> int:
    for path in chosen(names, ROOT):
        notebook = read(path)
        prose, lines = size(notebook)
        took = minutes(notebook)
        print(
            f"{page_name(path, ROOT):28}{took:4} minutes{prose:6} words{lines:5} lines"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
