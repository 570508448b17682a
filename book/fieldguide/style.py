"""One look for every figure."""

from __future__ import annotations

from cycler import cycler

# Six colours that stay apart in the common forms of colour blindness and have
# at least 3:1 contrast on white and on the dark theme's background.
PALETTE = ["#3B7CB8", "#D55E00", "#228B45", "#B0468E", "#0090A0", "#8C6D1F"]

STYLE = {
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "image.cmap": "viridis",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "figure.figsize": (6.0, 3.2),
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "fieldguide",
}
