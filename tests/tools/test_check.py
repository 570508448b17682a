"""Bad input: an error that names the argument, its value and what is allowed."""

import contextlib
import math
import signal
import threading
import time
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int, TypeCheckError
from torch import Tensor

from fieldguide import check
from fieldguide.check import (
    Adapter,
    AllFinite,
    Below,
    Count,
    Fading,
    Finite,
    FloatType,
    Having,
    Layered,
    Limit,
    LinearLayer,
    ListOf,
    Model,
    NonEmpty,
    Part,
    Positive,
    Probabilities,
    Share,
    Size,
    answer_of,
    checked,
    graded,
    require,
)


def message(value):
    with pytest.raises(ValueError) as error:
        require(False, "x", value, "right")
    return str(error.value)


def test_a_good_value_passes_in_silence():
    assert require(True, "d_k", 4, "positive") is None
    assert require(torch.tensor(1) > 0, "d_k", 1, "positive") is None


def test_the_message_names_argument_value_and_what_is_allowed():
    with pytest.raises(ValueError) as error:
        require(-1 > 0, "d_k", -1, "a positive width")
    assert str(error.value) == "d_k = -1, but it must be a positive width"


def test_a_long_value_is_cut():
    text = message("a" * 1000)
    assert text.startswith("x = 'aaa") and "...," in text and len(text) < 120
    assert "\n" not in message(np.array(0.5)) and "\n" not in message("a\nb")


def test_an_array_shows_its_shape_and_dtype():
    assert "<Tensor of shape (2, 3), torch.float32>" in message(torch.zeros(2, 3))
    assert "<ndarray of shape (5,), int8>" in message(np.zeros(5, np.int8))
    assert "tensor(2.)" in message(torch.tensor(2.0))


def test_a_broken_repr_does_not_hide_the_error():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert "<Broken>" in message(Broken())


@checked
def scaled(x: Float[Tensor, "*b T K"], y: Float[Tensor, "T K"], heads: Size = 1):
    return x * y * heads


def test_a_signature_checks_shapes_and_sizes():
    x = torch.ones(2, 3, 4)
    assert scaled(x, x[0]).shape == x.shape
    calls = {"x": (x[0, 0], x[0]), "y": (x, x), "heads": (x, x[0], 0)}
    for name, arguments in calls.items():
        with pytest.raises(TypeCheckError) as error:
            scaled(*arguments)
        assert f"typechecking parameter '{name}'" in str(error.value)
    assert "Actual value: 0\nExpected type: a whole number above 0." in str(error.value)


WHOLE, ROWS = torch.ones(2, 3).long(), torch.eye(2)
FLOATS = torch.tensor([1.0, -2.0])
FLOAT8 = [FLOATS.to(getattr(torch, f"float8_{kind}")) for kind in ("e4m3fn", "e5m2")]
ENDLESS = [FLOATS * math.nan, FLOATS * math.inf, FLOATS.log()]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Size, [1, np.int64(3)], [0, -1, True, 2.0, None, torch.tensor(1)]),
        (Count, [0, 7], [-1, False, 0.5, "1"]),
        (Finite, [-2, 0.5, torch.tensor(3.0)], [math.inf, math.nan, torch.ones(1)]),
        (Positive, [1e-9, torch.tensor(0.1)], [0, -1, math.inf, True, "1", None]),
        (Share, [0, 1, 0.5], [-0.1, 1.1, math.nan]),
        (Part, [1, 0.5], [0, 1.1, math.nan, True]),
        (Fading, [0, 0.99], [1, -0.1, math.nan, None]),
        (Limit, [1, 0.5, math.inf], [0, -1, math.nan, True, "1", None]),
        (Model, [SimpleNamespace(config=3)], [None, "text", torch.nn.ReLU()]),
        (Layered, [SimpleNamespace(blocks=[])], [None, "text", torch.nn.ReLU()]),
        (
            LinearLayer,
            [torch.nn.Linear(1, 1)],
            [None, torch.nn.Linear, torch.nn.ReLU()],
        ),
        (Adapter, [type("A", (), {"change": 1})], [torch.nn.Linear, None, "change"]),
        (FloatType, [torch.half, torch.double], [torch.int8, None, "half", float]),
        (Int[NonEmpty, "..."], [WHOLE], [WHOLE[:0], None, "text", WHOLE / 2]),
        (
            Float[Probabilities, "..."],
            [ROWS, ROWS[0], ROWS.to("meta")],
            [ROWS[:0], None, -ROWS, 0 * ROWS, ROWS / 0, ROWS.tril(-1), WHOLE],
        ),
        (Int[Below(2), "..."], [WHOLE, 0 * WHOLE], [-WHOLE, 2 * WHOLE, WHOLE[:0]]),
        (Float[Below(2), "..."], [WHOLE / 2], [WHOLE, WHOLE * math.nan, WHOLE * 1j]),
        (Having("real", "imag"), [1, 2j], [None, SimpleNamespace(real=3)]),
        (
            check.Float[AllFinite, "*n"],
            [FLOATS, FLOATS.half(), FLOATS.to("meta"), FLOATS[0]],
            [*FLOAT8, *ENDLESS, FLOATS[:0], WHOLE, WHOLE > 0, FLOATS.numpy(), None],
        ),
        (ListOf(str), [[], ["a"], ("a", "b")], [None, "ab", {"a"}, 9 * ["a"] + [1]]),
        (ListOf(str, 1), [["a"], ["a", "b"]], [[], (), [1]]),
        (ListOf(Count), [[0, 3]], [[0, True], [-1], [0.5], ["a"]]),
    ],
)
def test_values_that_a_type_allows(kind, good, bad):
    assert all(isinstance(value, kind) for value in good)
    assert not any(isinstance(value, kind) for value in bad)


def test_the_numbers_of_a_tensor_are_looked_at_in_each_call():
    @checked
    def kept(p: Float[Probabilities, "N V"]):
        return p

    assert kept(ROWS) is ROWS
    with pytest.raises(TypeCheckError):
        kept(ROWS / 0)


def test_a_call_like_one_before_is_not_checked_again_and_another_is():
    x, calls = torch.ones(2, 3, 4), []

    @checked
    def kept(x: Float[Tensor, "*b T K"], heads: Size, names: list[str] | None = None):
        calls.append(heads)
        return heads

    assert kept(x, 1) == kept(x, 1) == kept(x, heads=1) == 1
    for arguments in (x, True), (x, 1.0), (x[0, 0], 1), (x.int(), 1), (x, 1, [2]):
        for _ in range(2):
            with pytest.raises(TypeCheckError):
                kept(*arguments)
    assert kept(x, 1, ["a"]) == 1
    with pytest.raises(TypeCheckError):
        kept(x, 1, [1])
    assert calls == [1] * 4


def test_an_argument_without_a_type_makes_no_call_new():
    guarded = []

    def jaxtyped(target, typechecker):
        return lambda *values, **named: (
            guarded.append(values) or target(*values, **named)
        )

    with mock.patch.object(check, "jaxtyped", jaxtyped):

        @checked
        def put(place, *, size: Size):
            return place, size

        @checked
        def put_all(size: Size, *places):
            return size, *places

        @checked
        def sizes(place, *all: Size):
            return place, *all

    for place in [1], [2], [3]:
        assert put(place, size=3) == (place, 3)
    assert guarded == [([1],)]
    assert put(place=[4], size=3) == ([4], 3) and put([5], size=4) == ([5], 4)
    assert guarded == [([1],), (), ([5],)]
    for place in [1], [2], [3]:
        assert put_all(1, place, 3) == (1, place, 3)
        assert sizes(place, 2, 3) == (place, 2, 3)
    assert guarded[3:] == [(1, [1], 3), ([1], 2, 3)]
    assert sizes([1], 2, 4) == ([1], 2, 4) and sizes([1], 2) == ([1], 2)
    assert guarded[5:] == [([1], 2, 4), ([1], 2)]


def test_a_list_of_anything_is_not_looked_at_again():
    guarded, own = [], check.jaxtyped

    def jaxtyped(target, typechecker):
        whole = own(target, typechecker=typechecker)
        return lambda *values: guarded.append(values) or whole(*values)

    with mock.patch.object(check, "jaxtyped", jaxtyped):

        @checked
        def kept(guess: list, names: list[int] = ()):
            return guess

    for guess in [1], ["a"], []:
        assert kept(guess) == guess
    assert guarded == [([1],)]
    for _ in range(2):
        with pytest.raises(TypeCheckError):
            kept((1,))
    assert kept([1], [1]) == [1]
    with pytest.raises(TypeCheckError):
        kept([1], ["a"])


def test_numbers_are_looked_at_in_each_call():
    @checked
    def kept(x: Float[AllFinite, " n"], y: Float[Tensor, " n"]):
        return y

    for _ in range(2):
        assert kept(FLOATS, FLOATS) is FLOATS and kept(FLOATS, ENDLESS[0]) is ENDLESS[0]
        for bad in ENDLESS:
            with pytest.raises(TypeCheckError, match="'x'"):
                kept(bad, FLOATS)


def test_a_size_of_the_object_is_compared_for_each_object():
    class Wide(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.width = width

        @checked
        def forward(self, x: Float[Tensor, "*b {self.width}"]):
            return x

    x = torch.ones(2, 3)
    wide = Wide(3)
    assert wide(x) is Wide(3)(x) is wide(x) is x
    wide.width = 4
    for other in Wide(4), wide:
        with pytest.raises(TypeCheckError):
            other(x)


def endless(x):
    while True:
        with contextlib.suppress(Exception):
            x = x + 1


def stubborn(x):
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
        (lambda x: [1.0], torch.zeros(2), "a list, but a tensor of numbers is wanted"),
        (lambda x: x[:1], torch.zeros(2), "the shape (1,), but (2,) is wanted"),
        (lambda x: x > 0, torch.zeros(2), "booleans, but a tensor of numbers"),
        (lambda x: True, 1, "a boolean, but a number is wanted"),
        (lambda x: 3, "a", "a number, but a string is wanted"),
        (lambda x: x[5], torch.zeros(2), "fails. IndexError: index 5"),
        (lambda: 1, 1, "fails. TypeError"),
        (torch.zeros(2), 1, "is no function. Hand over its name, without ()"),
        (lambda x: x * 1j, torch.zeros(2), "of complex numbers, but a tensor of num"),
        (lambda x: x / 2, torch.zeros(2).long(), "torch.float32, but whole numbers"),
        (endless, torch.zeros(2), "has no answer after 4 s. Does your loop end?"),
        (stubborn, torch.zeros(2), "has no answer after 4 s. Does your loop end?"),
        (asleep, torch.zeros(2), "has no answer after 4 s. Does your loop end?"),
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
        end = time.thread_time() + 1
        while time.thread_time() < end:
            pass

    def helped():
        helper = threading.Thread(target=burn)
        helper.start()
        helper.join()
        return 1

    with mock.patch.object(check, "ANSWER_S", 0.2):
        assert answer_of(helped) == 1


def test_an_answer_comes_back():
    given = torch.zeros(2)
    answer = answer_of(lambda x, by: x + by, given, by=1, like=torch.ones(2))
    assert answer.tolist() == [1, 1]
    assert answer_of(lambda: 2, like=2.5) == 2
    double = answer_of(lambda: given.double() + 0.1, like=given)
    assert double.dtype == torch.float32, "compared as the right answer is"
    assert answer_of(lambda: given.long(), like=given).dtype == torch.float32


def check_half(fn):
    """Is fn(x) half of x?"""
    for x in 1, 3:
        got = answer_of(fn, x, like=0.5)
        assert got == x / 2, f"for {x}: {x / 2} is right, not {got}"
    return "half is right."


def stub(x, y=1): ...


def forgetful(x):
    x = x / 2


def broken(x):
    more = [x]
    return more[x]


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: x / 2, "half is right."),
        (lambda x: x, "for 1: 0.5 is right, not 1"),
        (stub, "stub is not written yet."),
        (forgetful, "forgetful(1) returns None. Does your function end in a return?"),
        (broken, "broken(1) fails. IndexError: list index out of range (line "),
        (2, "2 is no function. Hand over its name, without ()"),
    ],
)
def test_a_graded_check_says_what_is_wrong_and_raises_nothing(fn, says):
    told = graded(check_half)(fn)
    assert told.startswith(says)
    assert bool(told) == (told == "half is right.")
    assert repr(told) == told, "a cell shows it without quotation marks"


def test_an_error_in_a_check_without_guards_is_told_too():
    check = graded(lambda fn: fn(1) + 1)
    assert check(lambda x: "a").startswith("<lambda> fails. TypeError: ")
    assert check(broken).endswith("return more[x])")


def test_a_graded_check_stops_a_loop(monkeypatch):
    monkeypatch.setattr("fieldguide.check.CHECK_S", 0.2)
    told = graded(lambda fn: fn(1))(endless)
    assert not told and "has no answer after 0.2 s" in told


def test_the_check_itself_raises():
    with pytest.raises(AssertionError, match="not 1"):
        graded(check_half).__wrapped__(lambda x: x)
