"""What the tests of a notebook's cells share: draws, comparisons, refusals, more."""

import contextlib
import importlib.util
import inspect
import re
import types

import notebooks
import sources
import torch

from fieldguide import check


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def module_at(path):
    """A file of Python, such as an asset's make.py, as a new module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@contextlib.contextmanager
def refusal(message):
    """What is run inside is refused, with an error that the pattern matches."""
    try:
        yield
    except ValueError as error:
        assert re.search(message, str(error)), error
    else:
        raise AssertionError(f"accepted: {message}")


def refuses(name, function, *arguments, shown=None, says="", **options):
    """The error that the call raises: it names the argument and shows its value.

    `shown` is the value where it is not what was passed under `name`; what the
    message has to say besides stands in `says`.
    """
    given = inspect.signature(function).bind(*arguments, **options).arguments
    if shown is None:
        shown = f"{check.shown(given[name])}, " if name in given else ""
    try:
        function(*arguments, **options)
    except ValueError as error:
        assert str(error).startswith(f"{name} = {shown}"), error
        assert says in str(error), error
        return str(error)
    raise AssertionError(f"{function.__name__} accepted a bad {name}")


def run_exercises(name, module, *, also=(), **names):
    """The checks and solutions of notebook `name`, run in one namespace.

    They see what `module`, the exported part of the notebook, defines, and `names`.
    `also` gives the ids of other cells that they need.
    """
    notebook = notebooks.read(sources.ROOT / "book" / f"{name}.ipynb")
    names = {**vars(module), "__name__": "exercises", **names}
    for cell in sources.code(notebook):
        if cell.id.startswith(("check-", "solution-")) or cell.id in also:
            exec(cell.source, names)
    return types.SimpleNamespace(**names)


def solutions_pass(book):
    checks = {name: f for name, f in vars(book).items() if name.startswith("check_")}
    assert checks
    for name, passes in checks.items():
        assert passes(getattr(book, name.removeprefix("check_"))), name


def fails(check, *answers):
    """The check refuses the empty stub and each of the wrong `answers`."""
    for answer in (lambda *_, **__: None, *answers):
        try:
            check(answer)
        except AssertionError as error:
            assert str(error), "a failing check says what to look at"
        else:
            raise AssertionError(f"{check.__name__} passed a wrong answer")
