"""Begin a page: a small notebook that passes every check, to be written over.

    make page NAME=scaling/counting

It holds one of each: a mechanism, a figure to touch, a claim, exercises.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).with_name("page.json")
NAME = re.compile(r"[a-z]+/[a-z][a-z0-9]*(-[a-z0-9]+)*")
STEPS = """{path} is there. Now
  1. list it in _toc.yml, below its chapter:    - file: {name}
  2. make notebooks ONLY={name}    runs it and stores what it prints
  3. make test ONLY={name}         checks it
and write. What the article says of it has its verdict in book/article.yml, a source its
entry in book/references.bib, a new term its line in book/glossary.md.
"""


def begin(name: str, root: Path = ROOT) -> Path:
    """Write the page `chapter/name`; ValueError says why it cannot be."""
    if not NAME.fullmatch(name):
        raise ValueError(f"NAME = {name!r}, but it must be like scaling/counting")
    path = root / "book" / f"{name}.ipynb"
    if not (path.parent / "index.md").exists():
        raise ValueError(
            f"NAME = {name!r}, but there is no chapter {path.parent.name}: begin it "
            f"with book/{path.parent.name}/index.md, and list that in _toc.yml"
        )
    if path.exists():
        raise ValueError(f"NAME = {name!r}, but that page is there already")
    text = TEMPLATE.read_text(encoding="utf-8")
    path.write_text(text.replace("NAME", path.stem), encoding="utf-8")
    return path


def main(names: list[str]) -> int:
    try:
        path = begin(names[0] if names else "")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(STEPS.format(path=path.relative_to(ROOT).as_posix(), name=names[0]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
