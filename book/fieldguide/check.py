"""What a function accepts: shapes and sizes in its signature, the rest by `require`.

    @checked
    def split_heads(x: Float[Tensor, "*b T D"], heads: Size):
        require(x.size(-1) % heads == 0, "heads", heads, "a divisor of the width")

`Bool` and `Int` are jaxtyping's; `Float` may be, or the one below. What an argument
must be by itself stands in the signature, and another one is a `TypeCheckError` (a
TypeError); how arguments must fit each other is a ValueError. Both name the argument,
its value and what is allowed.
"""

import functools
import inspect
import math
import numbers
import operator
import re
import types
from typing import ClassVar

import torch
from beartype import beartype
from jaxtyping import AbstractDtype, jaxtyped

__all__ = [
    "Adapter",
    "AllFinite",
    "Count",
    "Fading",
    "Finite",
    "Float",
    "FloatType",
    "Layered",
    "Limit",
    "LinearLayer",
    "ListOf",
    "Model",
    "NonEmpty",
    "Part",
    "Positive",
    "Share",
    "Size",
    "checked",
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
    words = str(inspect.signature(target))
    sizes = re.findall(r"{self\.([\w.]+)}", words)  # of this object: "{self.width}"
    if isinstance(target, type) or words.count("{") > len(sizes):
        return guarded
    own = operator.attrgetter(*sizes) if sizes else lambda *_: None
    like = functools.partial(likeness, finite=AllFinite.__name__ in words)
    passed = set()

    @functools.wraps(target)
    def call(*arguments, **options):
        key = (*map(like, arguments), *options, *map(like, options.values()))
        key = own(*arguments[:1]), *key
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


def likeness(value: object, finite: bool = False) -> object:
    """All that a signature can say of the value; NEW if there is more to it.

    finite: the signature also says of some tensor that its numbers are finite.
    """
    kind = type(value)
    if kind in TENSORS:
        known = value.dim() and (not finite or isinstance(value, AllFinite))
        return (value.shape, value.dtype) if known else NEW
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


def is_all_finite(x: object) -> bool:
    """A tensor of one number or more, all finite as far as torch knows them."""
    if not isinstance(x, NonEmpty):
        return False
    known = x.is_floating_point() and x.element_size() > 1 and not x.is_meta
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
# In the place of Tensor: Float[NonEmpty, "B D"].
NonEmpty = values(
    "not an empty tensor", lambda x: isinstance(x, torch.Tensor) and x.numel() > 0
)
AllFinite = values("a tensor of finite numbers, one or more", is_all_finite)


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
