"""nbval, strict: `pytest --nbval book` runs every notebook and compares its outputs.

nbval's own comparison is replaced by `compare`, the one comparer, which
says what is compared how. It skips one thing, a live widget's view, because that
holds a random id and no stored notebook has one.

nbval runs a cell without history, so `expr;` shows its value here though not in
JupyterLab: write `_ = expr` (tests/test_structure.py refuses the semicolon).
"""

import compare
from nbval.plugin import IPyNbCell

CELL_TIMEOUT_S = 1500  # for what hangs; the slowest cell takes half a minute


def pytest_configure(config):
    if config.option.nbval_cell_timeout == 2000:  # nbval's default
        config.option.nbval_cell_timeout = CELL_TIMEOUT_S


def compare_outputs(self, test, ref, skip_compare=None):
    difference = compare.same_outputs(test, ref)
    self.comparison_traceback = [difference] if difference else []
    return difference is None


def runtest(self):
    nbval_runtest(self)
    if self.cell.source.strip() and self.cell.execution_count is None:
        self.raise_cell_error("This cell was never run: `make notebooks` stores it.")


nbval_runtest = IPyNbCell.runtest
IPyNbCell.compare_outputs = compare_outputs
IPyNbCell.runtest = runtest
