"""Check some notebooks, and nothing else: two minutes instead of twenty.

    make test ONLY=transformers/attention      (or: "a/b c/d")

Runs each notebook against its stored outputs, its own tests, and the checks by glob
of how a notebook is made, for these notebooks alone.
"""

import subprocess
import sys

import modes
from notebooks import ROOT, NotebookError

BY_GLOB = ["structure", "prose", "names", "terms"]


def commands(names: list[str]) -> list[list[str]]:
    """Two calls of pytest; NotebookError for a name that is no notebook."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", "2"]
    own = [*pytest, "--nbval", "--dist", "loadfile", *modes.files(names)]
    made = [f"tests/tools/test_{name}.py" for name in BY_GLOB]
    return [own, [*pytest, *made, "-k", " or ".join(names)]]


def main(names: list[str]) -> int:
    try:
        chosen = commands(names)
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2
    return max([subprocess.run(command, cwd=ROOT).returncode for command in chosen])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
