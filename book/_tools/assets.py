"""Make what the book ships anew, by the script that lies beside it.

    python book/_tools/assets.py NAME [ARGUMENT ...]        runs _assets/NAME/make.py
    python book/_tools/assets.py --restamp NAME [PART ...]  runs nothing

After a run, DIGESTS beside the script holds, for each part that it made, the digest of
the definitions that the part uses. Where these are others today, the part is stale, and
a test says which command to run. `--restamp` writes today's digests and runs nothing:
for definitions that were written anew and compute what they did.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import platform
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import digest

ASSETS = Path(__file__).resolve().parents[1] / "_assets"


def makers() -> dict[str, Path]:
    """The script of each asset that can be made anew, by the asset's name."""
    return {path.parent.name: path for path in sorted(ASSETS.glob("*/make.py"))}


def load(path: Path) -> ModuleType:
    """A maker as a module; nothing is made."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_json(path: Path) -> object:
    """What a record beside a maker holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def parts(maker: Path) -> list[str]:
    """The functions that each make a part: those that `make_parts` takes, or `main`."""
    tree = ast.parse(maker.read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    for call in calls:
        if getattr(call.func, "id", "") == "make_parts":
            return [each.id for each in call.args]
    return ["main"]


def today(maker: Path) -> dict[str, str]:
    """The digest of each part as it would be made now, by the part's name."""
    found = {name: digest.of_part(maker, name) for name in parts(maker)}
    return {name.removeprefix("record_"): each for name, each in found.items()}


def stamped(maker: Path) -> dict[str, str]:
    """The digests of the parts as they were made."""
    path = maker.with_name("DIGESTS")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {name: each for each, name in (line.split("  ") for line in lines)}


def stamp(maker: Path, digests: dict[str, str]) -> None:
    """Keep the digests of parts that have been made; those of the others stay."""
    known, made = today(maker), stamped(maker) | digests
    lines = [f"{made[name]}  {name}\n" for name in sorted(made) if name in known]
    path = maker.with_name("DIGESTS")
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def stale(maker: Path) -> list[str]:
    """What is wrong with the records beside a maker, a sentence each."""
    now, made = today(maker), stamped(maker)
    command = f"python book/_tools/assets.py {maker.parent.name}"
    return [
        f"book/_assets/{maker.parent.name}: {name} was made by other definitions than "
        f"today's: {command}"
        for name in sorted({*now, *made})
        if made.get(name) != now.get(name)
    ]


def processor() -> str:
    """What this machine's processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1] for line in lines if line.startswith("model name")]
    return models[0].strip() if models else platform.processor() or platform.machine()


def machine() -> str:
    """The processor, and the instructions that torch uses on it."""
    import torch

    return f"{processor()}, {torch.backends.cpu.get_cpu_capability()}"


def king_james_ids() -> list:
    """The ids of King James to train on, and those held out."""
    from fieldguide.data import king_james
    from fieldguide.introduction.next_word import characters, split_text, to_ids

    text = king_james()
    alphabet = characters(text)
    return [to_ids(part, alphabet) for part in split_text(text)]


WORD = re.compile(r"[^\W\d_]+")


def reviewed_words() -> set[str]:
    """The words, in small letters, that what a model writes may hold."""
    return set(read_json(ASSETS / "reviewed" / "words.json"))


def unread(text: str, cut: bool = False) -> list[str]:
    """A text's words that nobody has read, in order.

    The last word of a text that was cut need only begin as a listed one does.
    """
    listed = reviewed_words()
    found = [match for match in WORD.finditer(text) if match[0].lower() not in listed]
    if cut and found and found[-1].end() == len(text):
        end = found[-1][0].lower()
        if any(word.startswith(end) for word in listed):
            found.pop()
    return [match[0] for match in found]


def reviewed(text: str) -> str:
    """A text with three dots for each word that nobody has read."""
    listed = reviewed_words()
    return WORD.sub(lambda m: m[0] if m[0].lower() in listed else "...", text)


def make_parts(*recorders: Callable[[], None]) -> None:
    """Run the recorders that the command line names, else all, in one thread.

    `record_times` is named `times`. A second thread would change the last digits.
    """
    import torch

    parts = {record.__name__.removeprefix("record_"): record for record in recorders}
    for name in sys.argv[1:]:
        if name not in parts:
            sys.exit(f"part = {name!r}, but it must be one of {', '.join(parts)}")
    torch.set_num_threads(1)
    for name in sys.argv[1:] or parts:
        parts[name]()


def main(arguments: list[str]) -> int:
    restamp = arguments[:1] == ["--restamp"]
    name, given = "".join(arguments[restamp:][:1]), arguments[restamp:][1:]
    known = makers()
    if name not in known:
        print(
            f"{name or 'no name'}, but it must be one of {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    path = known[name]
    now = today(path)  # of the start: a long run may see an edit
    made = {part: now[part] for part in now if part in given} or now
    if restamp:
        if wrong := sorted(set(given) - set(now)):
            allowed = ", ".join(now)
            print(f"{wrong[0]!r}, but it must be one of {allowed}", file=sys.stderr)
            return 2
        print(f"{name}: {', '.join(made)} stamped as today's; nothing was run")
    else:
        os.environ.setdefault("JAXTYPING_DISABLE", "1")  # no time of a check is stored
        sys.argv = [str(path), *given]
        runpy.run_path(str(path), run_name="__main__")
    stamp(path, made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
