"""The exercises of every notebook: the stub, the solution, right and wrong answers.

A notebook's table, `tests/exercises/<chapter>_<name>.yml`, lists answers by exercise:

    window_mask:                                   # what the reader defines
      right:                                       # other answers that pass
        - "lambda T, width: ..."
      wrong:
        - answer: "lambda T, width: causal_mask(T)"
          says: makes no difference                # a pattern of what the check says
        - slip: [".tril()", ".triu()"]             # the solution with one piece changed
          says: sees the future

An answer is an expression, or a `def`; it sees what the notebook's cells define.
"""

import ast
import re

import cells
import pytest
import sources
import yaml

TABLES = sources.ROOT / "tests" / "exercises"
KEYS = ({"answer", "says"}, {"slip", "says"})


def table(name):
    path = TABLES / f"{sources.stem(name)}.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def answered(source, names):
    """The function that an expression or a `def` is, where `names` are known."""
    last = ast.parse(source).body[-1]
    return (
        eval(source, names)
        if isinstance(last, ast.Expr)
        else defined(source, last.name, names)
    )


def defined(source, name, names):
    """What `source` defines as `name`, which stays what it was in `names`."""
    before = names.get(name)
    exec(source, names)
    found, names[name] = names[name], before
    return found


def slipped(name, book, piece, instead):
    """The solution `name` with one piece of it changed."""
    solution = vars(book)["solutions"][name]
    assert piece in solution, f"{name}: the solution has no {piece!r}"
    return defined(solution.replace(piece, instead), name, book)


@pytest.mark.parametrize("name", sources.in_order())
def test_a_check_tells_right_answers_from_wrong_ones(name):
    book = cells.run_exercises(name)
    checks = {
        n.removeprefix("check_"): check
        for n, check in book.items()
        if n.startswith("check_")
    }
    listed = table(name)
    assert len(checks) >= 3 and set(listed) <= set(checks)
    for answer, check in checks.items():
        rows = listed.get(answer, {})
        assert set(rows) <= {"right", "wrong"}, f"{answer}: {set(rows)}"
        told = check(lambda *_: None)
        assert not told and told.endswith(" is not written yet."), told
        for source in rows.get("right", []):
            told = check(answered(source, book))
            assert told, f"{answer}: {source}: {told}"
        for row in rows.get("wrong", []):
            assert {*row} in KEYS, f"{answer}: {row}"
            if "slip" in row:
                told = check(slipped(answer, book, *row["slip"]))
            else:
                told = check(answered(row["answer"], book))
            assert not told and re.search(row["says"], told), f"{row}: {told}"
        told = check(book[answer])
        assert told, f"{answer}: {told}"


def test_a_table_belongs_to_a_notebook():
    wanted = {f"{sources.stem(name)}.yml" for name in sources.in_order()}
    assert {path.name for path in TABLES.iterdir()} <= wanted
