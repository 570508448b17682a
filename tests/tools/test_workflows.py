"""The front door holds what it says: workflows, README and the Makefile agree."""

import re
import shlex

import pytest
import sources
import yaml

ROOT = sources.ROOT
README = ROOT / "README.md"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"\$[({](?:if \$\()?([A-Z]+)\b", MAKEFILE))
ACTION = re.compile(r"actions/[a-z-]+@v\d+\.\d+\.\d+")


def complaints(command):
    """What is wrong with one command of a workflow or of the README."""
    words = shlex.split(command, comments=True)
    if words[0] in ("python", "python3"):
        return [] if (ROOT / words[1]).is_file() else [f"no file {words[1]}"]
    if words[0] != "make":
        return [f"{words[0]!r} is neither make nor python"]
    named = [w.partition("=") for w in words[1:]]
    targets = {name for name, equals, _ in named if not equals}
    variables = {name for name, equals, _ in named if equals}
    return [f"make has no {name}" for name in targets - TARGETS] + [
        f"make reads no variable {name}" for name in variables - VARIABLES
    ]


def steps(workflow):
    for job in yaml.safe_load(workflow)["jobs"].values():
        assert job["timeout-minutes"] <= 90
        yield from job["steps"]


def problems(workflow):
    found = []
    for step in steps(workflow):
        if "uses" in step:
            if not ACTION.fullmatch(step["uses"]):
                found.append(f"{step['uses']} is not pinned to a version")
            continue
        for line in step["run"].splitlines():
            found += complaints(line)
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_runs_only_what_the_project_offers(path):
    assert problems(path.read_text()) == []


def test_the_supported_pythons_are_tested():
    test = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    listed = test["jobs"]["test"]["strategy"]["matrix"]["python"]
    setup = (ROOT / "book/_tools/setup.py").read_text()
    ends = re.search(r"SUPPORTED = \[\(3, (\d+)\), \(3, (\d+)\)\]", setup)
    first, last = map(int, ends.groups())
    assert listed == [f"3.{minor}" for minor in range(first, last + 1)]


def shell_blocks(text):
    """Commands of the README's sh blocks, one a line, without their comments."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from (line for line in block.splitlines() if line.strip())


def test_the_commands_in_the_readme_exist():
    commands = list(shell_blocks(README.read_text()))
    assert {"make book", "make test"} <= {c.split("#")[0].strip() for c in commands}
    assert [c for command in commands for c in complaints(command)] == []


def test_every_command_in_the_prose_exists():
    text = README.read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    used = [" ".join(c.split()) for c in re.findall(r"`(make [^`]+)`", text)]
    assert {"make notebooks", "make notebooks FORCE=1", "make lab"} <= set(used)
    assert [c for command in used for c in complaints(command)] == []


def test_pictures_and_files_that_the_readme_links_are_there():
    text = README.read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    local = [link for link in links if "://" not in link]
    assert any(link.endswith(".png") for link in local)
    assert [link for link in local if not (ROOT / link).exists()] == []
    pictures = re.findall(r"!\[([^\]]*)\]", text)
    assert all(len(alt.split()) > 5 for alt in pictures)
