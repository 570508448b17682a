"""Bad input: an error that names the argument, its value and what is allowed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from jaxtyping import TypeCheckError

from fieldguide import check
from fieldguide.check import answer_of, graded, require
from fieldguide.explore import begin
from fieldguide.transformers import attention


def test_bad_input_is_refused_by_name():
    said = "d_k = -1, but it must be a positive width"
    with pytest.raises(ValueError, match=f"^{said}$"):
        require(-1 > 0, "d_k", -1, "a positive width")
    x = torch.eye(3)
    for bad in [(x, x[:, :2], x), (x, x, x.tolist()), (x, x, x[0])]:
        with pytest.raises(TypeCheckError, match="typechecking parameter"):
            attention.simple_attention(*bad)
    output, _ = attention.simple_attention(x, x, x, scale=1)  # for a float
    assert output.shape == x.shape


def test_a_cell_is_checked_after_begin_where_it_says_what_it_takes(monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr("fieldguide.explore.page.get_ipython", lambda: shell)
    begin(), begin()
    assert len(shell.ast_transformers) == 1
    shell.run_cell("def typed(x: int):\n    return x")
    assert isinstance(shell.run_cell("typed('a')").error_in_exec, TypeCheckError)


def test_nothing_is_checked_where_it_is_switched_off():
    code = "from fieldguide.transformers.attention import merge_heads as m; "
    code += "print(hasattr(m, '__wrapped__'))"
    for off, told in ("1", "False"), ("0", "True"):
        run = [sys.executable, "-c", code]
        options = {"env": {**os.environ, "JAXTYPING_DISABLE": off}, "text": True}
        assert subprocess.check_output(run, **options).strip() == told


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(check, "ANSWER_S", 1)


def endless(x):
    while True:
        try:
            x = x + 1
        except:  # noqa: E722  what a reader may write
            x = x - 1


def asleep(x):
    while True:
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("fn", "like", "sentence"),
    [
        (lambda x: None, 1.0, "returns None. Does your function end in a return?"),
        (lambda x: x, 1.0, "a tensor of numbers, but a number is wanted"),
        (lambda x: x.sum(), 1.0, "item() takes a number out of a tensor"),
        (lambda x: x[:1], torch.zeros(2), "the shape (1,), but (2,) is wanted"),
        (lambda x: x > 0, torch.zeros(2), "booleans, but a tensor of numbers"),
        (lambda x: 3, "a", "a number, but a string is wanted"),
        (lambda x: x[5], torch.zeros(2), "fails. IndexError: index 5"),
        (torch.zeros(2), 1, "is no function. Hand over its name, without ()"),
        (lambda x: x / 2, torch.zeros(2).long(), "torch.float32, but whole numbers"),
        (asleep, torch.zeros(2), "has no answer after 1 s. Does your loop end?"),
    ],
)
def test_an_answer_of_the_wrong_kind_gets_a_sentence(fn, like, sentence):
    alarm = signal.getitimer(signal.ITIMER_REAL)[0]  # the time that a test may take
    with pytest.raises(AssertionError) as caught:
        answer_of(fn, torch.zeros(2), like=like)
    assert sentence in str(caught.value)
    assert bool(signal.getitimer(signal.ITIMER_REAL)[0]) == bool(alarm)
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


def test_what_other_threads_work_is_not_the_answers_time():
    def burn():
        end = time.thread_time() + 1.5
        while time.thread_time() < end:
            pass

    def helped():
        helper = threading.Thread(target=burn)
        helper.start()
        helper.join()
        return 1

    assert answer_of(helped) == 1


def test_an_answer_comes_back():
    given = torch.zeros(2)
    answer = answer_of(lambda x, by: x + by, given, by=1, like=torch.ones(2))
    assert answer.tolist() == [1, 1]
    assert answer_of(lambda: 2, like=2.5) == 2
    for other in given.double() + 0.1, given.long():
        same = answer_of(lambda other=other: other, like=given)
        assert same.dtype == torch.float32, "compared as the right answer is"


def check_half(fn):
    """Is fn(x) half of x?"""
    got = answer_of(fn, 1, like=0.5)
    assert got == 0.5, f"for 1: 0.5 is right, not {got}"
    return "half is right."


def stub(x, y=1): ...


def broken(x):
    more = [x]
    return more[x]


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: x / 2, "half is right."),
        (lambda x: x, "for 1: 0.5 is right, not 1"),
        (stub, "stub is not written yet."),
        (broken, "broken(1) fails. IndexError: list index out of range (line "),
        (2, "2 is no function. Hand over its name, without ()"),
        (endless, "endless(1) has no answer after 1 s. Does your loop end?"),
    ],
)
def test_a_graded_check_says_what_is_wrong_and_raises_nothing(fn, says):
    told = graded(check_half)(fn)
    assert told.startswith(says)
    assert bool(told) == (told == "half is right.")
    assert repr(told) == told, "a cell shows it without quotation marks"


def test_a_graded_check_stops_a_loop_of_its_own(monkeypatch):
    monkeypatch.setattr("fieldguide.check.CHECK_S", 0.2)
    told = graded(lambda fn: fn(1))(endless)
    assert not told and "has no answer after 0.2 s" in told
