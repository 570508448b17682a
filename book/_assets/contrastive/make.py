"""Watch eight pairs while the encoder of multimodal/contrastive learns.

.venv/bin/python book/_tools/assets.py contrastive (some seconds)

Runs the page's own cells, up to its training, and writes pairs.json beside this file:
the cosines of eight captions (rows) and their pictures, by the step, to four decimals.
The page opens with them, before it trains, and asserts that its own run gives the same.
"""

from pathlib import Path

import nbformat
import torch

from fieldguide.data import store

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "multimodal" / "contrastive.ipynb"
OPENING = {"matrix", "matrix-explore"}  # what reads the record


def main() -> None:
    here: dict = {}
    for cell in nbformat.read(PAGE, 4).cells:
        if cell.cell_type == "code" and cell.id not in OPENING:
            exec(cell.source, here)
        if cell.id == "real-run":
            break
    seen = here["watch"].cosines.items()
    table = {str(step): torch.round(c, decimals=4).tolist() for step, c in seen}
    store(HERE / "pairs.json", {"cosines": table})


if __name__ == "__main__":
    main()
