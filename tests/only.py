"""Check some notebooks, and nothing else: two minutes instead of twenty.

    make test ONLY=transformers/attention      (or: "a/b c/d")

Runs each notebook against its stored outputs, its own tests, and for these notebooks
alone the checks by glob: how a page is made, its exercises, its lint.
"""

import subprocess
import sys

import cpu_modes
from notebooks import ROOT, NotebookError

BY_GLOB = ["structure", "prose", "minutes", "names", "terms", "exercises", "lint"]
BY_GLOB += ["notebooks"]  # are its export and its outputs of today?


def commands(names: list[str]) -> list[list[str]]:
    """Two calls of pytest; NotebookError for a name that is no notebook."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", "2"]
    own = [*pytest, "--nbval", "--dist", "loadfile", *cpu_modes.files(names)]
    made = [f"tests/tools/test_{name}.py" for name in BY_GLOB]
    named = " or ".join([*names, "no_export", "codespell"])
    return [own, [*pytest, *made, "-k", named]]


def main(names: list[str]) -> int:
    try:
        chosen = commands(names)
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2
    return max([subprocess.run(command, cwd=ROOT).returncode for command in chosen])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
