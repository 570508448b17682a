"""Real processes that do what Python itself can: what comes of them?"""

import multiprocessing
import os
import time

import pytest
import torch.distributed as dist

from fieldguide.ranks import RankError, launch


def test_each_rank_is_told_who_it_is_and_what_it_says_comes_back(capfd):
    assert launch(dist.get_rank, 2) == [0, 1]
    assert launch(print, 2, "here\nagain") == [None, None]
    lines = "rank 0: here", "rank 0: again", "rank 1: here", "rank 1: again"
    assert capfd.readouterr().out.splitlines() == [*lines]


@pytest.mark.parametrize(
    ("limit_s", "what", "says"),
    [
        (99, (os._exit, 2, 7), "failed with exit code 7. It said last: (nothing)"),
        (99, (os.abort, 2), "was ended by SIGABRT"),
        (99, (int, 2, "x"), "ValueError: invalid literal for int"),
        (1, (time.sleep, 2, 99), "had not ended in time"),
    ],
)
def test_a_rank_that_dies_is_named_and_none_is_left(limit_s, what, says):
    with pytest.raises(RankError) as error:
        launch(*what, limit_s=limit_s)
    assert not multiprocessing.active_children()
    assert error.value.rank in (0, 1) and says in str(error.value)


def test_a_function_of_this_session_is_refused():
    def mine(): ...

    mine.__module__ = "__main__"
    with pytest.raises(ValueError, match="that a module defines"):
        launch(mine, 2)
