"""What the tests of a notebook's cells share: draws, comparisons, refusals, more."""

import ast
import contextlib
import inspect
import json
import math
import re

import digest
import hypothesis
import notebooks
import pytest
import sources
import torch
from assets import load as module_at
from beartype.door import is_bearable
from hypothesis import strategies as st
from jaxtyping import AnnotationError, TypeCheckError

from fieldguide import data
from fieldguide.data import files
from fieldguide.explore import explore
from fieldguide.transformers.training import rate_share

KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
seeds = st.integers(0, 10_000)


def cases(*strategies, **named):
    """Call a test with 25 draws from hypothesis' strategies, the same each time."""
    same = {"deadline": None, "derandomize": True, "database": None}
    few = hypothesis.settings(max_examples=25, **same)
    return lambda test: few(hypothesis.given(*strategies, **named)(test))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def adamw(parameters, loss, plan, **options):
    """Train by hand with torch's AdamW, as a recipe says: the losses, (steps,)."""
    parameters, losses = list(parameters), []
    optimizer = torch.optim.AdamW(parameters, plan.rate, **options)
    for step in range(plan.steps):
        losses.append(loss())
        optimizer.zero_grad()
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimizer.param_groups[0]["lr"] = plan.rate * rate_share(step, plan)
        optimizer.step()
    return torch.stack(losses).detach()


def script(folder):
    """The program that made what a folder of the book's assets holds."""
    return module_at(files.ASSETS / folder / "make.py")


def record(folder, name):
    """What a JSON file holds that the book ships."""
    return json.loads(data.asset(folder, name).read_text(encoding="utf-8"))


def kept(load):
    """The module that `load` gives: one and the same, not to be trained."""
    model = load()
    assert load() is model and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    return model


@contextlib.contextmanager
def refusal(message):
    """What is run inside is refused, with an error that the pattern matches."""
    try:
        yield
    except (ValueError, TypeCheckError) as error:
        assert re.search(message, str(error)), error
    else:
        raise AssertionError(f"accepted: {message}")


def refuses(name, function, *arguments, shown="", says="", **options):
    """The call raises an error that names the argument `name`, and `says` so much.

    What a type or a shape in the signature does not allow is a TypeCheckError, what
    `require` refuses a ValueError. Another error, or none, fails.
    """
    try:
        function(*arguments, **options)
    except TypeCheckError as error:
        assert f"typechecking parameter '{name}'" in str(error), error
        assert says in str(error), error
    except ValueError as error:
        assert str(error).startswith(f"{name} = {shown}"), error
        assert says in str(error), error
    else:
        raise AssertionError(f"{function.__qualname__} accepted a bad {name}")


def refuses_all(function, good, *, inner_names=(), **bad):
    """`function(**good)` works, and with one argument exchanged it is refused.

    `bad` lists values for an argument's name. What is wrong for any argument of its
    type, such as None or a tensor of another rank, is tried for all of them. The error
    names an argument, or one of `inner_names`: what such a list or dict holds.
    """
    parameters = inspect.signature(function).parameters
    assert set(bad) <= set(good) <= set(parameters), function
    function(**good)
    for name, value in good.items():
        allowed = parameters[name].annotation
        tried = [] if allowed is inspect.Parameter.empty else strangers(value)
        tried = [other for other in tried if not may_fit(other, allowed)]
        for other in (*tried, *bad.get(name, ())):
            error = refused_with(function, {**good, name: other})
            assert error, f"{function.__qualname__} accepted {name} = {other!r}"
            named = re.search(r"typechecking parameter '(\w+)'|^([\w. ]+) = ", error)
            names = set(named.groups()) - {None} if named else set()
            assert names and names <= {*parameters, *inner_names}, (
                f"{name} = {other!r}: {error}"
            )


def may_fit(value, allowed):
    """Does an annotation by itself allow the value? Sizes of `self` are not known."""
    try:
        return is_bearable(value, allowed)
    except AnnotationError:
        return True


def strangers(value):
    """What is no good in the place of `value`: another type, rank or kind of number."""
    found = [None, "text", object()]
    if torch.is_tensor(value):
        found += [value.tolist(), value[None, None, None], value.to(torch.complex64)]
        found += [value.long() if value.is_floating_point() else value.double()]
        found += [value.to(torch.float8_e5m2), value * math.nan]
        found += value[:1] if value.dim() else []  # of one rank less
    elif isinstance(value, (int, float)):
        found += [-1, 0, True, 2.5, math.nan, math.inf, [value]]
    return found


def refused_with(function, arguments):
    """The text of the refusal, or "" if the call is accepted."""
    try:
        function(**arguments)
    except (TypeCheckError, ValueError) as error:
        return str(error)
    return ""


def stays(calls, kind):
    """Results stay on the device and have the type that is promised.

    calls(device, kind): {what: (a call, the type that it gives)}.
    """
    here = calls("cpu", kind)
    for name, (call, right) in calls("meta", kind).items():
        result, known = call(), here[name][0]()
        assert result.is_meta and result.dtype == known.dtype == right, name
        assert result.shape == known.shape and known.isfinite().all(), name


def explored(views, **given):
    """`explore` of a function without a caption, which is given one."""
    views.__doc__ = "Title.\n\nLook."
    return explore(views, **given)


class Names(dict):
    """What a notebook's cells define; a cell runs when a name of it is asked for."""

    def __init__(self, notebook, names):
        super().__init__()
        exec(sources.code(notebook)[0].source, self)  # the imports
        self.update(names)
        found = vars(self)["sources"] = {}
        code = [c for c in sources.code(notebook) if not sources.is_answer(c)]
        # The first definition of a name counts, unless another one is exported.
        for cell in [*reversed(code), *filter(sources.is_exported, code)]:
            for node in ast.parse(cell.source).body:
                imported = [a.asname or a.name for a in getattr(node, "names", ())]
                for name in [*digest.defined(node), *imported]:
                    found[name] = cell.source

    def __missing__(self, name):
        while name not in self:
            try:
                exec(vars(self)["sources"][name], self)
            except NameError as error:  # in a class, nobody asks for what is missing
                self[error.name]
        return self[name]

    def __getattr__(self, name):
        return self[name]


def run_exercises(name, module=None, **names):
    """The checks and solutions of notebook `name`, and whatever they need of it.

    They see what `module`, the exported part of the notebook, defines, and `names`.
    The checks are bare: they raise what a reader is only told.
    """
    notebook = notebooks.read(sources.ROOT / "book" / f"{name}.ipynb")
    names = {**(vars(module) if module else {}), "__name__": "exercises", **names}
    names = Names(notebook, names)
    code = {cell.id: cell.source for cell in sources.code(notebook)}
    solutions = [s for n, s in code.items() if n.startswith("solution-")]
    vars(names)["solutions"] = {n: s for s in solutions for n in sources.defined(s)}
    for name, source in code.items():
        if name.startswith(("check-", "solution-")):
            exec(source, names)
    checks = [n for n in names if n.startswith("check_")]
    vars(names)["graded"] = {n: names[n] for n in checks}
    names.update({n: inspect.unwrap(names[n]) for n in checks})
    return names


def forever(*_):
    """An answer whose loop never ends."""
    while True:
        pass


def fails(check, *answers):
    """The check refuses the empty stub and each of the wrong `answers`."""
    for answer in (lambda *_, **__: None, *answers):
        try:
            check(answer)
        except AssertionError as error:
            assert str(error), "a failing check says what to look at"
        else:
            raise AssertionError(f"{check.__name__} passed a wrong answer")


def notices(names, answer, slips):
    """The check of an exercise refuses its solution with any of the slips.

    names: of `run_exercises`. slips: of a piece of the solution, what stands there.
    """
    solution = vars(names)["solutions"][answer]
    right = names[answer]
    for piece, slip in [(old, new) for old, some in slips.items() for new in some]:
        assert piece in solution, piece
        exec(solution.replace(piece, slip), names)
        wrong, names[answer] = names[answer], right
        fails(names[f"check_{answer}"], wrong)


def is_told_its_cause(page, check, answer, cause, names, **known):
    """A check of an exercise refuses `lambda names: answer`, and says why."""
    fn = eval(f"lambda {names}: {answer}", known)
    with pytest.raises(AssertionError, match=cause):
        page[f"check_{check}"](fn)
