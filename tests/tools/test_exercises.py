"""The exercises of every notebook: a solution passes, an empty cell does not."""

import cells
import pytest
import sources


@pytest.mark.parametrize("name", sources.in_order())
def test_each_check_passes_its_solution_and_fails_the_empty_cell(name):
    book = cells.run_exercises(name)
    checks = {n: check for n, check in book.items() if n.startswith("check_")}
    assert len(checks) >= 3
    for asked, check in checks.items():
        answer = asked.removeprefix("check_")
        assert check(getattr(book, answer))
        cells.fails(check)
        told = vars(book)["graded"][asked](lambda *_: None)
        assert not told and told.endswith(" is not written yet."), told
