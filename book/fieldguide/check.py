"""Bad values and wrong answers: errors and sentences that say what would be right.

    require(rank <= width, "rank", rank, f"at most {width}")

is a ValueError that names the argument, its value and what is allowed. Shapes and
types stand in the signatures: `fieldguide/__init__.py` has them checked. `graded` and
`answer_of` do the same for the reader's functions, whatever these do.
"""

import contextlib
import functools
import inspect
import linecache
import math
import signal
import threading
import time
import traceback

__all__ = ["answer_of", "graded", "is_near", "require", "shown"]

LONGEST = 80  # characters of a value that an error message shows


def require(ok: object, name: str, value: object, allowed: str) -> None:
    """Return None if `ok` is true; otherwise raise a ValueError about `value`.

    ok       the condition: a bool, or an array or tensor of one element.
    name     what the caller calls the value: the argument's own name.
    allowed  what would have been right: "a divisor of 8", "one of 1, 2, 4".
    """
    if not bool(ok):
        raise ValueError(f"{name} = {shown(value)}, but it must be {allowed}")


def shown(value: object) -> str:
    """`value` in at most 80 characters; an array or tensor by its shape and dtype."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None and len(shape) > 0:
        kind = type(value).__name__
        return f"<{kind} of shape {tuple(shape)}, {dtype}>"[:LONGEST]
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a broken __repr__ must not hide the error it is part of
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


ANSWER_S = 4  # how long a reader's function may take
CHECK_S = 20  # and a whole check, where no `answer_of` looks after it
AGAIN_S = 0.1  # then it is told so again, in case a bare `except` has swallowed it


def answer_of(fn, *arguments, like: object = None, **options) -> object:
    """What the reader's `fn` returns; whatever goes wrong is an AssertionError.

    like  an answer of the right type: the same tensor shape, or the same Python type.

    The sentence names the call and what happened: an error, nothing returned, another
    type or shape, or no end after `ANSWER_S` seconds of the processor, however busy
    it is, or of waiting. Where there is no alarm (Windows, another thread), a loop is
    not stopped. A tensor of other floats than `like` is one of the same numbers.
    """
    assert callable(fn), f"{shown(fn)} is no function. Hand over its name, without ()"
    call = f"{getattr(fn, '__name__', 'your function')}({listed(arguments, options)})"
    try:
        with time_limit(ANSWER_S):
            answer = fn(*arguments, **options)
    except TimeLimit:
        text = f"{call} has no answer after {ANSWER_S} s. Does your loop end?"
        raise AssertionError(text) from None
    except Exception as error:
        kind = type(error).__name__
        raise AssertionError(f"{call} fails. {kind}: {error}") from None
    if like is not None:
        import torch  # here and below: the site reads claims without it

        fault = unlike(answer, like)
        assert not fault, f"{call} {fault}"
        if isinstance(like, torch.Tensor) and like.is_floating_point():
            return answer.to(like.dtype)
    return answer


def is_near(call: str, got, right, causes: dict[float, str], **within) -> None:
    """Let pass a number that is right; otherwise raise an AssertionError.

    call    what gave `got`, such as "capacity(8)": the sentence begins with it.
    causes  {a wrong number: what leads to it}; the first that `got` is near is told.
    within  tolerances as `math.isclose` takes them; a millionth of `right` if none.
    """
    within = within or {"rel_tol": 1e-6}
    if math.isclose(got, right, **within):
        return
    near = (why for wrong, why in causes.items() if math.isclose(got, wrong, **within))
    told = next(near, f"{right:.4g} is right, not {got:.4g}")
    raise AssertionError(f"{call}: {told}")


class Verdict(str):
    """What a check says of an answer; it counts as true if the answer is right."""

    def __new__(cls, text: str, right: bool):
        verdict = super().__new__(cls, text)
        verdict.right = right
        return verdict

    def __bool__(self) -> bool:
        return self.right

    __repr__ = str.__str__  # a cell shows the sentence without quotation marks


def graded(check):
    """Let the check of an exercise say what is wrong, where it would raise an error.

    `check_x(x)` returns a sentence that is true or false (`if check_x(x): ...`), so the
    cells after a wrong answer still run. The check itself is `check_x.__wrapped__`.
    """

    @functools.wraps(check)
    def call(fn) -> Verdict:
        name = getattr(fn, "__name__", shown(fn))
        if is_stub(fn):
            return Verdict(f"{name} is not written yet.", False)
        try:
            with time_limit(CHECK_S):
                return Verdict(check(fn), True)
        except TimeLimit:
            told = f"{name} has no answer after {CHECK_S} s. Does your loop end?"
        except AssertionError as error:
            told = f"{error or 'the answer is wrong'}{line_in(fn, error)}"
        except Exception as error:
            kind = type(error).__name__
            told = f"{name} fails. {kind}: {error}{line_in(fn, error)}"
        return Verdict(told, False)

    return call


def is_stub(fn: object) -> bool:
    """Is it a function whose body is still `...`?"""

    def empty(): ...

    code = getattr(inspect.unwrap(fn), "__code__", None)
    bare = {None, ...}.issuperset(getattr(code, "co_consts", [0]))
    return bare and code.co_code == empty.__code__.co_code


def line_in(fn: object, error: BaseException) -> str:
    """The line of `fn` in which an error began, if it did so there."""
    while error.__context__:
        error = error.__context__
    code, found = getattr(inspect.unwrap(fn), "__code__", None), ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code is code:
            text = linecache.getline(code.co_filename, number).strip()
            found = f" (line {number}: {text})" if text else f" (line {number})"
    return found


def listed(arguments: tuple, options: dict) -> str:
    given = [*map(shown, arguments)] + [f"{k}={shown(v)}" for k, v in options.items()]
    text = ", ".join(given)
    return text if len(text) <= 120 else text[:117] + "..."


def unlike(answer: object, like: object) -> str:
    """How an answer differs in kind from one that could be right, or nothing."""
    if answer is None:
        return "returns None. Does your function end in a return?"
    import torch

    got, wanted = kind_of(answer), kind_of(like)
    if got != wanted:
        inside = isinstance(answer, torch.Tensor) and answer.numel() == 1
        hint = "; item() takes a number out of a tensor" if inside else ""
        return f"returns {got}, but {wanted} is wanted{hint}"
    if isinstance(like, torch.Tensor) and answer.shape != like.shape:
        shapes = tuple(answer.shape), tuple(like.shape)
        return f"has the shape {shapes[0]}, but {shapes[1]} is wanted"
    if (
        isinstance(like, torch.Tensor)
        and answer.is_floating_point()
        and not like.is_floating_point()
    ):
        return f"holds {answer.dtype}, but whole numbers are wanted"
    return ""


def kind_of(value: object) -> str:
    """The kind of a value in words; whole numbers and floats are numbers."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_complex():
            return "a tensor of complex numbers"
        return f"a tensor of {'boolean' if value.dtype == torch.bool else 'number'}s"
    if isinstance(value, float | int) and not isinstance(value, bool):
        return "a number"
    name = {"str": "string", "bool": "boolean"}.get(type(value).__name__)
    return f"a {name or type(value).__name__}"


class TimeLimit(BaseException):  # no `except Exception` in the function stops it
    """A function has taken too long."""


@contextlib.contextmanager
def time_limit(seconds: float):
    """Raise TimeLimit in the code inside after some seconds of work, or of waiting.

    The work is its thread's: on a busy machine it may take as long as it likes. It
    waits if for so many seconds no thread does anything to speak of.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "SIGPROF"):
        yield
        return
    start, seen = time.thread_time(), time.process_time()

    def work(*_):  # the alarm counts what other threads work, too
        left = start + seconds - time.thread_time()
        signal.setitimer(signal.ITIMER_PROF, max(left, AGAIN_S))
        if left <= 0:
            raise TimeLimit

    def wait(*_):
        nonlocal seen
        before, seen = seen, time.process_time()
        if seen - before < seconds / 50:
            raise TimeLimit

    handlers = {signal.SIGPROF: work, signal.SIGALRM: wait}
    before = {name: signal.signal(name, stop) for name, stop in handlers.items()}
    alarm = signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name, stop in before.items():
            signal.signal(name, stop)
        signal.setitimer(signal.ITIMER_REAL, *alarm)  # somebody else's, if any
