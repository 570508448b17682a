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


def problems(workflow):
    found = []
    for job in yaml.safe_load(workflow)["jobs"].values():
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            for line in step.get("run", "").splitlines():
                found += complaints(line)
            if not re.fullmatch(
                r"actions/[a-z-]+@v\d+\.\d+\.\d+|", step.get("uses", "")
            ):
                found.append(f"{step['uses']} is not pinned to a version")
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


def test_every_command_in_the_prose_exists():
    """Of the sh blocks of the README, and wherever one stands in a line."""
    readme = README.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    commands = [c for block in blocks for c in block.splitlines() if c.strip()]
    assert {"make book", "make test"} <= {c.split("#")[0].strip() for c in commands}
    text = readme + (ROOT / "CONTRIBUTING.md").read_text()
    used = [" ".join(c.split()) for c in re.findall(r"`(make [^`]+)`", text)]
    assert {"make notebooks", "make notebooks FORCE=1", "make lab"} <= set(used)
    assert [c for command in commands + used for c in complaints(command)] == []


def test_pictures_and_files_that_the_readme_links_are_there():
    found = re.findall(r"(!?)\[([^\]]*)\]\(([^)#]+)\)", README.read_text())
    assert any(picture for picture, _, _ in found)
    for picture, words, link in found:
        assert "://" in link or (ROOT / link).exists(), link
        assert not picture or len(words.split()) > 5, link
