"""What a page needs once for its explorers to wake: a style sheet and a script."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import jaxtyping
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from jaxtyping._import_hook import JaxtypingTransformer, Typechecker

from fieldguide.style import PALETTE, STYLE

HERE = Path(__file__).parent


class Ready:
    """What `begin` shows: a sentence, and in a page the widgets' runtime."""

    def __repr__(self) -> str:
        return "Figures and widgets are ready."

    def _repr_html_(self) -> str:
        return runtime_html()


def begin() -> Ready:
    """Set the figures' style; shown, it brings the widgets' browser runtime.

    From the next cell on, signatures are checked as those of the package are.
    """
    check_cells()
    plt.switch_backend(plt.get_backend())  # it sets parameters: not in a context
    plt.rcParams.update(STYLE)
    return Ready()


def check_cells() -> None:
    """Have the functions of later cells checked that say what they take."""
    shell = get_ipython()
    if shell and not jaxtyping.config.jaxtyping_disable:
        others = [t for t in shell.ast_transformers if not isinstance(t, Annotated)]
        shell.ast_transformers = [*others, Annotated()]


class Annotated(JaxtypingTransformer):
    """jaxtyping's, for functions with annotations: the others cost no time."""

    def __init__(self) -> None:
        super().__init__(typechecker=Typechecker("fieldguide.typed"))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if any(isinstance(n, ast.arg) and n.annotation for n in ast.walk(node.args)):
            super().visit_FunctionDef(node)
        else:
            self.generic_visit(node)
        return node


def runtime_source() -> str:
    """The browser's side: palette and colour map, then the files of browser/."""
    stops = matplotlib.colormaps["viridis"](np.linspace(0, 1, 17))[:, :3]
    colours = np.round(255 * stops).astype(int).tolist()
    head = f"self.fgPalette = {json.dumps(PALETTE)};\n"
    head += f"self.fgColours = {json.dumps(colours)};\n"
    parts = [slim(path) for path in sorted((HERE / "browser").glob("*.js"))]
    return head + '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def runtime_style() -> str:
    return slim(HERE / "explorer.css")


def slim(path: Path) -> str:
    """The text without comments of their own lines, indentation and needless breaks.

    Every saved notebook holds a copy, and each line costs a dozen bytes more there.
    """
    comments = re.compile(r"^ *//[^\n]*\n|^ */\*.*?\*/\n", re.M | re.S)
    lines = comments.sub("", path.read_text()).splitlines()
    text = "\n".join(line.strip() for line in lines if line.strip())
    # A line goes on to the next after these, unless a comment would swallow it.
    return re.sub(r"^((?:(?!//).)*[{;,(])\n", r"\1", text, flags=re.M) + "\n"


def runtime_html() -> str:
    """What a saved notebook needs once for its explorers to wake."""
    return f"<style>{runtime_style()}</style>\n<script>{runtime_source()}</script>"
