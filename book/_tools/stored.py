"""What a notebook's file keeps, whoever saves it: `make notebooks` or JupyterLab."""

from __future__ import annotations

import copy
from pathlib import Path

import digest
import nbformat
from nbformat.sign import NotebookNotary
from nbval.plugin import coalesce_streams

# What stays of the metadata; the rest is a trace of the last program that saved.
NOTEBOOK_METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
CARD = ("name", "builds", "summary")  # what the book's lists say of a notebook
# Jupyter says with `trusted` that it may sign a cell, and never writes it.
CELL_METADATA = ("jupyter", "mystnb", "slideshow", "tags", "trusted")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def is_folded(cell: nbformat.NotebookNode) -> bool:
    """Is the cell's code folded under a label, `#| fold: LABEL`?"""
    return cell.cell_type == "code" and "fold" in digest.directives(cell.source)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drop what differs from run to run, or from one editor to the next."""
    said = notebook.metadata.get("fieldguide", {})
    card = {name: said[name] for name in (*CARD, "key") if name in said}
    metadata = {**copy.deepcopy(NOTEBOOK_METADATA), "fieldguide": card}
    notebook.metadata = nbformat.from_dict(metadata)
    notebook.nbformat_minor = 5
    for cell in notebook.cells:
        kept = {k: v for k, v in cell.metadata.items() if k in CELL_METADATA}
        kept.pop("jupyter", None)
        if "hide-cell" in kept.get("tags", []) or is_folded(cell):
            kept["jupyter"] = {"source_hidden": True}
        cell.metadata = nbformat.from_dict(kept)
    tidy_outputs(notebook)


def tidy_outputs(notebook: nbformat.NotebookNode) -> None:
    """Leave of a widget the figure that lives without its kernel."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        lasting = [o for o in cell.outputs if not is_bare_widget(o)]
        cell.outputs = coalesce_streams(lasting)
        for output in cell.outputs:
            output.pop("transient", None)
            if "data" in output:
                output.data.pop(WIDGET_VIEW, None)
                output.metadata.pop(WIDGET_VIEW, None)


def is_bare_widget(output: nbformat.NotebookNode) -> bool:
    """Was it displayed in passing, as a bar of progress is, with no picture of it?"""
    shown = output.get("data", {}) if output.output_type == "display_data" else {}
    return shown.keys() == {WIDGET_VIEW, "text/plain"}


def before_save(model: dict, **_) -> None:
    """JupyterLab's hook: a page of the book is saved as `make notebooks` stores it.

    Of any other notebook only the outputs change. Should anything fail here, Jupyter
    logs it and saves the notebook as it is.
    """
    if model["type"] != "notebook":
        return
    notebook = nbformat.from_dict(model["content"])  # a copy
    if "fieldguide" in notebook.metadata:
        tidy(notebook)
    else:
        tidy_outputs(notebook)
    model["content"] = notebook


def trust(book: Path) -> None:
    """Let the figures of the book's own pages move before anything has run."""
    notary = NotebookNotary()
    for path in sorted(book.glob("[!_.]*/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if not notary.check_signature(notebook):
            notary.sign(notebook)
