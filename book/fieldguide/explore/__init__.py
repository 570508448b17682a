"""`explore(fn, **controls)`: a widget that stays alive without a kernel.

It reads like `ipywidgets.interact`. `fn` is evaluated for every setting of its
controls and what it returns is kept with the notebook, so that the published
page answers a slider from these values; with a kernel it is a live widget.
"""

from fieldguide.explore.explorer import Explorer, Twin, explore
from fieldguide.explore.page import Ready, begin, runtime_html
from fieldguide.explore.views import (
    View,
    annotate,
    bands,
    bars,
    figure,
    flow,
    heatmap,
    heatmaps,
    lines,
    number,
    pictures,
    scatter,
    table,
    text,
    tokens,
)
from fieldguide.explore.watch import watched

__all__ = [
    "Explorer",
    "Ready",
    "Twin",
    "View",
    "annotate",
    "bands",
    "bars",
    "begin",
    "explore",
    "figure",
    "flow",
    "heatmap",
    "heatmaps",
    "lines",
    "number",
    "pictures",
    "runtime_html",
    "scatter",
    "table",
    "text",
    "tokens",
    "watched",
]
