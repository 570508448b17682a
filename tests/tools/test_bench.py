"""BENCH.md: what `make bench` measured, as a stranger reads it."""

import types

import bench
from rivals.measure import Absent, Goal, Row

MODULE = types.SimpleNamespace(TITLE="Attention", __doc__="Ours beside theirs.\n\nHow.")
ROWS = [
    Row("taught", "ms", [2.0, 4.0, 3.0], "fused", [4.0, 4.0, 4.0], Goal(0.5, "ratio")),
    Row("page", "kB", [12.0], "another", Absent("it is not here")),
]


def test_a_section_says_what_was_measured_beside_what():
    text = bench.section(MODULE, ROWS)
    assert text.startswith("## Attention\n\nOurs beside theirs.\n\nHow.\n\n*Measured 2")
    goal = "at most 1/2 of it: missed"
    assert (
        f"| taught | 3.0 ms | fused | 4.0 ms | 0.75 (0.50 to 1.00) | {goal} |" in text
    )
    assert "| page | 12.0 kB | another | not to be had |  |  |" in text


def test_a_group_takes_its_place_and_leaves_the_others(tmp_path):
    path, old, new = tmp_path / "BENCH.md", "## Old\n\nold\n", "## New\n\nnew\n"
    bench.report({"page": old, "attention": old}, path)
    bench.report({"decode": new, "page": new}, path)
    text = path.read_text()
    assert text.startswith(bench.INTRODUCTION)
    order = ["attention", "decode", "page"]
    places = [text.index(f"<!-- {group} -->") for group in order]
    assert places == sorted(places)
    assert text.count("## Old") == 1 and text.count("## New") == 2
