"""Build the site from the outputs that the notebooks store.

    python book/_tools/build.py [FOLDER [OUTPUT]]     (`make book` calls it)

FOLDER holds book/ and the two files of settings; the site comes to OUTPUT/_build/html.

After a change of a page it is written anew, and so are the pages that quote it: they
say so to Sphinx (`note_dependency`). What may show on every page is in
the first of the `keys`: titles, the glossary, references, extensions, styles. With
another one, or after a build that did not end well, everything is built from nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = "_config.yml", "_toc.yml", "requirements.txt"
LINKED = re.compile(r"^(?:#+ |\(\S+\)=).*", re.M)  # headings and labels of a page
OTHERS = ".venv", "node_modules", "__pycache__", ".ipynb_checkpoints", "_build"
# Each takes a second or more to import, one to check addresses in schemas, the other
# to draw cards; the book has neither.
sys.modules["rfc3987_syntax"] = None
CARDS = SimpleNamespace(DEFAULT_SOCIAL_CONFIG={}, create_social_card=None)
sys.modules["sphinxext.opengraph._social_cards"] = CARDS


def keys(folder: Path) -> list[str]:
    """Digests of all that is built, and of what more than one page may show of it."""
    start = f"{sys.version} {os.environ.get('SITE_URL')}".encode()
    whole, found = hashlib.sha256(start), hashlib.sha256(start)
    for path in sorted([*folder.glob("book/**/*"), *map(folder.joinpath, SETTINGS)]):
        name = path.relative_to(folder)
        if path.is_file() and not set(OTHERS) & set(name.parts):
            content = path.read_bytes()
            for digest, part in (whole, content), (found, shared(path, content)):
                digest.update(f"{name} {hashlib.sha256(part).hexdigest()}".encode())
    return [found.hexdigest(), whole.hexdigest()]


def shared(path: Path, content: bytes) -> bytes:
    """What pages besides its own may show of the file `path`."""
    if path.suffix in (".ipynb", ".md") and path.name != "glossary.md":
        text = content.decode()
        if path.suffix == ".ipynb":
            cells = [c for c in json.loads(text)["cells"] if c["cell_type"] != "code"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
        return "\n".join(LINKED.findall(text)).encode()
    chapter, package = path.parent, path.parents[1]
    if package.name == "fieldguide" and (package.parent / chapter.name).is_dir():
        return b""  # exported: the pages that it concerns depend on it
    return content


def build(folder: Path, output: Path) -> int:
    """Build the site; 1 if there is as much as a warning."""
    made, now = output / "_build", keys(folder)
    mark = made / "built"
    whole = mark.exists() and (made / "html" / "index.html").exists()
    before = mark.read_text().split() if whole else []
    if before == now:
        print("Nothing has changed since the site was built.")
        return 0
    if before[:1] != now[:1]:
        shutil.rmtree(made / "html", ignore_errors=True)
        shutil.rmtree(made / ".doctrees", ignore_errors=True)
    import pybtex.plugin
    from jupyter_book.sphinx import build_sphinx

    # For each citation it looks through all packages for the same two names.
    pybtex.plugin._load_entry_point = cache(pybtex.plugin._load_entry_point)
    mark.unlink(missing_ok=True)
    os.chdir(folder)  # where the settings' paths begin
    failed = build_sphinx(
        folder / "book",
        made / "html",
        noconfig=True,
        path_config=folder / "_config.yml",
        confoverrides={
            "external_toc_path": (folder / "_toc.yml").as_posix(),
            "latex_individualpages": False,
            "nitpicky": True,
        },
        warningiserror=True,
        keep_going=True,
        jobs=1 + min(os.cpu_count() or 1, 4),
    )
    if failed:
        return 1
    mark.write_text("\n".join(now))
    return 0


if __name__ == "__main__":
    given = [Path(each).resolve() for each in sys.argv[1:]] or [ROOT]
    sys.exit(build(given[0], given[-1]))
