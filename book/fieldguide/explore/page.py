"""What a page needs once for its explorers to wake: a style sheet and a script."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from fieldguide.style import PALETTE, STYLE

HERE = Path(__file__).parent


class Ready:
    """What `begin` shows: a sentence, and in a page the widgets' runtime."""

    def __repr__(self) -> str:
        return "Figures and widgets are ready."

    def _repr_html_(self) -> str:
        return runtime_html()


def begin() -> Ready:
    """Set the figures' style; shown, it brings the widgets' browser runtime."""
    plt.switch_backend(plt.get_backend())  # it sets parameters: not in a context
    plt.rcParams.update(STYLE)
    return Ready()


def runtime_source() -> str:
    """The browser's side: palette and colour map, then the files of browser/."""
    stops = matplotlib.colormaps["viridis"](np.linspace(0, 1, 17))[:, :3]
    colours = np.round(255 * stops).astype(int).tolist()
    head = f"self.fgPalette = {json.dumps(PALETTE)};\n"
    head += f"self.fgColours = {json.dumps(colours)};\n"
    parts = [path.read_text() for path in sorted((HERE / "browser").glob("*.js"))]
    return head + '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def runtime_style() -> str:
    return (HERE / "explorer.css").read_text()


def runtime_html() -> str:
    """What a saved notebook needs once for its explorers to wake."""
    return f"<style>{runtime_style()}</style>\n<script>{runtime_source()}</script>"
