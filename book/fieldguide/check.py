"""The one kind of error that bad input gets: a ValueError that says what is allowed.

Public functions of the book open with one line of it:

    require(d_k > 0, "d_k", d_k, "a positive width")
"""

__all__ = ["require"]

LONGEST = 80  # characters of a value that an error message shows


def require(ok: object, name: str, value: object, allowed: str) -> None:
    """Return None if `ok` is true; otherwise raise a ValueError about `value`.

    ok       the condition: a bool, or an array or tensor of one element.
    name     what the caller calls the value: the argument's own name.
    allowed  what would have been right: "a positive width", "one of 1, 2, 4".
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
