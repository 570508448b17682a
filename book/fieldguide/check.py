"""What a function accepts: shapes and sizes in its signature, the rest by `require`.

    @checked
    def split_heads(x: Float[Tensor, "*b T D"], heads: Size):
        require(x.size(-1) % heads == 0, "heads", heads, "a divisor of the width")

`Bool` and `Int` are jaxtyping's; `Float` may be, or the one below. What an argument
must be by itself stands in the signature, and another one is a `TypeCheckError` (a
TypeError); how arguments must fit each other is a ValueError. Both name the argument,
its value and what is allowed.
"""

import contextlib
import functools
import inspect
import itertools
import linecache
import math
import numbers
import operator
import re
import signal
import threading
import time
import traceback
import types
from typing import ClassVar

import torch
from beartype import beartype
from jaxtyping import AbstractDtype, jaxtyped

__all__ = [
    "Adapter",
    "AllFinite",
    "Below",
    "Count",
    "Fading",
    "Finite",
    "Float",
    "FloatType",
    "Having",
    "Layered",
    "Limit",
    "LinearLayer",
    "ListOf",
    "Model",
    "NonEmpty",
    "Part",
    "Positive",
    "Probabilities",
    "Share",
    "Size",
    "answer_of",
    "checked",
    "graded",
    "require",
]

LONGEST = 80  # characters of a value that an error message shows

CALLS = 1000  # that a function remembers as checked
PLAIN = {bool, int, float, str, type(None), torch.dtype}
TENSORS = {torch.Tensor, torch.nn.Parameter}
FUNCTIONS = types.FunctionType, types.MethodType, functools.partial


def checked(target):
    """Compare the arguments of each call with the signature's shapes and types.

    A check takes up to a tenth of a millisecond, so a call of the same shapes, types
    and plain values as one before is not checked again; this takes a few microseconds.
    """
    guarded = jaxtyped(target, typechecker=beartype)
    signature = inspect.signature(target)
    words, named = str(signature), signature.parameters
    sizes = re.findall(r"{self\.([\w.]+)(?:\[0\])?}", words)  # such as "{self.width}"
    if isinstance(target, type) or words.count("{") > len(sizes) or EACH in words:
        return guarded
    own = operator.attrgetter(*sizes) if sizes else None
    said = target.__annotations__
    looks = {n: likeness if n in said else nothing for n in named}
    looks |= {n: type for n, kind in said.items() if kind is list}  # of anything
    in_order = [looks[n] for n, one in named.items() if one.kind < one.VAR_POSITIONAL]
    others = [looks[n] for n, one in named.items() if one.kind is one.VAR_POSITIONAL]
    rest, passed = others[0] if others else likeness, set()

    @functools.wraps(target)
    def call(*arguments, **options):
        every = in_order
        if len(arguments) > len(in_order):
            every = itertools.chain(in_order, itertools.repeat(rest))
        key = [look(value) for look, value in zip(every, arguments, strict=False)]
        for name, value in options.items():
            key += name, looks.get(name, likeness)(value)
        if own and arguments:
            key.append(own(arguments[0]))
        key = tuple(key)
        if key in passed:
            return target(*arguments, **options)
        answer = guarded(*arguments, **options)
        if NEW not in key:
            if len(passed) == CALLS:
                passed.clear()
            passed.add(key)
        return answer

    return call


NEW = object()  # what must be looked at each time, such as a list


def nothing(value: object) -> None:
    """All that a signature says of an argument without a type."""


def likeness(value: object) -> object:
    """All that a signature can say of the value; NEW if there is more to it."""
    kind = type(value)
    if kind in TENSORS:
        return (value.shape, value.dtype) if value.dim() else NEW
    if kind in PLAIN:
        return kind, value
    return kind if isinstance(value, (torch.nn.Module, *FUNCTIONS)) else NEW


class Values(type):
    """A type whose instances are the values that `allows` holds for."""

    def __instancecheck__(cls, value: object) -> bool:
        return bool(cls.allows(value))

    def __repr__(cls) -> str:
        return cls.__name__


def values(words: str, allows: object) -> type:
    """A type for signatures: error messages call it by these `words`."""
    return Values(words, (), {"allows": staticmethod(allows), "__module__": "builtins"})


def is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """A number, or a float tensor of one, such as a learned temperature."""
    if getattr(value, "is_floating_point", bool)():  # a tensor
        return value.dim() == 0 and (value.is_meta or bool(value.isfinite()))
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value)


def is_stored(x: torch.Tensor) -> bool:
    """Floats of 8 bits, which torch stores and does not compute with."""
    return x.is_floating_point() and x.element_size() == 1


def is_all_finite(x: object) -> bool:
    """A tensor of one number or more, all finite as far as torch knows them."""
    if not isinstance(x, NonEmpty):
        return False
    known = x.is_floating_point() and not is_stored(x) and not x.is_meta
    return not known or bool(x.detach().abs().max() < math.inf)


Size = values("a whole number above 0", lambda n: is_whole(n) and n > 0)
Count = values("a whole number, 0 or more", lambda n: is_whole(n) and n >= 0)
Finite = values("a finite number", is_finite)
Positive = values("a finite number above 0", lambda x: is_finite(x) and x > 0)
Share = values("a number from 0 to 1", lambda x: is_finite(x) and 0 <= x <= 1)
Part = values("a number above 0, at most 1", lambda x: is_finite(x) and 0 < x <= 1)
Fading = values("a number from 0 to below 1", lambda x: is_finite(x) and 0 <= x < 1)
Limit = values(
    "a number above 0, or infinity",
    lambda x: isinstance(x, Positive) or (isinstance(x, float) and x > 0),
)
Model = values("a model with a config", lambda model: hasattr(model, "config"))
Layered = values("a model with blocks", lambda model: hasattr(model, "blocks"))
LinearLayer = values("a linear layer", lambda layer: hasattr(layer, "in_features"))
Adapter = values(
    "a class of adapters", lambda kind: isinstance(kind, type) and "change" in dir(kind)
)
FloatType = values(
    "a type of floats", lambda kind: getattr(kind, "is_floating_point", None) is True
)
# In the place of Tensor: Float[NonEmpty, "B D"], Int64[Below(3), " B"].
NonEmpty = values(
    "not an empty tensor", lambda x: isinstance(x, torch.Tensor) and x.numel() > 0
)
EACH = "a tensor of numbers, each"  # what such a type says, a call like one before not
AllFinite = values(f"{EACH} finite", is_all_finite)


def Below(limit: int) -> type:
    """A type for tensors of numbers from 0 to below `limit`, at least one."""

    def fits(x: object) -> bool:
        real = isinstance(x, NonEmpty) and not x.is_complex() and not is_stored(x)
        return real and bool(((x >= 0) & (x < limit)).all())

    return values(f"{EACH} from 0 to below {limit}", fits)


def Having(*names: str) -> type:
    """A type for anything with these attributes: Having("encode", "decode")."""
    return values(
        f"with {', '.join(names)}", lambda x: all(hasattr(x, n) for n in names)
    )


def are_probabilities(value: object) -> bool:
    ok = isinstance(value, torch.Tensor) and value.is_floating_point()
    if ok and is_stored(value):
        return False
    if not ok or not value.numel() or value.is_meta:  # it has no values to ask
        return ok and value.numel() > 0
    total = value.sum(-1)
    return bool((value >= 0).all() and (total > 0).all() and total.isfinite().all())


Probabilities = values(
    f"{EACH} 0 or more, with a positive sum in each row", are_probabilities
)


class Float(AbstractDtype):
    """jaxtyping's, without the floats of 8 bits: torch stores them, and no more."""

    dtypes: ClassVar = ["float16", "bfloat16", "float32", "float64"]


def ListOf(kind: type, least: int = 0) -> type:
    """A type for lists and tuples: of `list[kind]`, beartype looks at one item only."""

    def fits(items: object) -> bool:
        listed = isinstance(items, (list, tuple)) and len(items) >= least
        return listed and all(isinstance(item, kind) for item in items)

    some = f"{least} or more items" if least else "items"
    return values(f"a list of {some}, each {kind.__name__}", fits)


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
        fault = unlike(answer, like)
        assert not fault, f"{call} {fault}"
        if isinstance(like, torch.Tensor) and like.is_floating_point():
            return answer.to(like.dtype)
    return answer


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

    code = getattr(fn, "__code__", None)
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
