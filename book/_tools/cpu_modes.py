"""Run every notebook and its own tests as other processors would.

    python book/_tools/cpu_modes.py [NAME ...]   (`make modes`, `make modes ONLY=NAME`)

Other instructions round otherwise, and training makes the last bit grow, so what is
stored must hold in each of `MODES`. The variables make PyTorch and MKL leave out what
this processor has; what it does not have they cannot add. (On a processor with AMX
that imitates an older one, PyTorch's own attention in bfloat16 raises "pack_vnni2 is
only supported when avx512 is supported"; a page that needs it there asks for the
mathematical kernel.)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from notebooks import ROOT, NotebookError, chosen, module_name

MODES = {
    "this processor": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "no vectors": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
    "AVX2 in MKL": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
NAMES = {name for mode in MODES.values() for name in mode}


def files(names: list[str]) -> list[str]:
    """The notebooks of these names, or all, each with its tests where it has some."""
    found = []
    for path in chosen(names, ROOT):
        stem = module_name(path).replace(".", "_")
        found += [path, ROOT / "tests" / "notebooks" / f"test_{stem}.py"]
    return [str(path.relative_to(ROOT)) for path in found if path.exists()]


def run(mode: dict[str, str], paths: list[str]) -> bool:
    plain = {k: v for k, v in os.environ.items() if k not in NAMES}
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-n", "2"]
    command += ["--dist", "loadfile", *paths]
    return subprocess.run(command, cwd=ROOT, env=plain | mode).returncode == 0


def main(names: list[str]) -> int:
    try:
        paths = files(names)
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2
    report = []
    for title, mode in MODES.items():
        settings = " ".join(f"{k}={v}" for k, v in mode.items()) or "nothing set"
        print(f"\n{title}: {settings}", flush=True)
        start = time.perf_counter()
        passed = run(mode, paths)
        minutes = (time.perf_counter() - start) / 60
        report.append((passed, f"{title}: {minutes:.1f} min, {settings}"))
    for passed, line in report:
        print("passed " if passed else "FAILED ", line)
    return 0 if all(passed for passed, _ in report) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
