"""Make what the book ships anew, by the script that lies beside it.

    python book/_tools/assets.py NAME [ARGUMENT ...]      runs book/_assets/NAME/make.py

Such a script stores the digest of the definitions that it used; where a test finds
another one today, it says which command to run.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "_assets"


def main(arguments: list[str]) -> int:
    makers = {path.parent.name: path for path in sorted(ASSETS.glob("*/make.py"))}
    if not arguments or arguments[0] not in makers:
        given = repr(arguments[0]) if arguments else "no name"
        print(f"{given}, but it must be one of {', '.join(makers)}", file=sys.stderr)
        return 2
    path = makers[arguments[0]]
    sys.argv = [str(path), *arguments[1:]]
    runpy.run_path(str(path), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
