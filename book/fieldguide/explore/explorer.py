"""The call, the grid, and the widget that answers when there is a kernel."""

from __future__ import annotations

import inspect
import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import anywidget
import numpy as np
import traitlets

from fieldguide.check import require
from fieldguide.explore import payload
from fieldguide.explore.controls import MAX_VALUES, Control, read_control
from fieldguide.explore.page import HERE, runtime_source, runtime_style
from fieldguide.explore.views import View, places, precision
from fieldguide.explore.watch import watched

MAX_SETTINGS = MAX_VALUES
MAX_RAW_BYTES = 16_000_000
MAX_STORED_BYTES = 700_000
PATIENCE_S = 2  # who waits longer is shown how far the grid is


@dataclass(frozen=True)
class Twin:
    """A view computed in the browser, by `twins/<name>.js`, from stored data.

    `data(**controls)` is called for each setting of the controls named in
    `by` and returns arrays, numbers, strings or lists of strings; arrays may
    differ in shape from one setting to another. Each other control that holds
    numbers or texts may then take any: what the reader types needs no kernel.
    `bits` is the precision of the stored arrays: 8, 16, 32 or 64.
    """

    name: str
    by: tuple[str, ...]
    data: Callable[..., dict]
    bits: int = 16

    @property
    def source(self) -> str:
        """The function's text, without its comments and indentation."""
        path = HERE / "twins" / f"{self.name}.js"
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.js")))
        require(path.exists(), "Twin.name", self.name, f"one of {known}")
        lines = [line.strip() for line in path.read_text().splitlines()]
        code = [line for line in lines if line and not line.startswith("//")]
        return "\n".join(code).rstrip(";")


def explore(
    fn: Callable[..., dict],
    *,
    twin: Twin | None = None,
    predict: str | None = None,
    answer: str | Callable[[], str] | None = None,
    options: list[str] | str | None = None,
    play: str | None = None,
    **controls,
):
    """Show `fn` as a widget: one control for each of its parameters.

    `fn(**settings)` returns `{title: view}`, with the same titles, kinds and
    array shapes for every setting. A control that `fn` doesn't take, but that a view
    `sets`, only says what is chosen there. The first line of its docstring is the
    widget's title, the rest says what to look for. `controls` are given as to
    `ipywidgets.interact`: (min, max, step), a list, a bool, a number, or a
    real ipywidgets control.

    `twin`  computes the views in the browser, where no grid can serve.
    `predict`, `answer`  a question below the controls, which the reader answers
        first, and the answer. One with a number in it is a function of nothing that
        computes it.
    `options`  what the reader guesses among: answers to press, or the name of a slider
        of which a value is marked. Without, the guess is written.
    `play`  the name of a slider or a list that gets a button which steps through it.

    Raises ValueError when a control is unknown, a view holds NaN or changes
    its shape, sets what is no control or has more places than the control has
    values, or the grid is too large: the message says which, and by how much.
    """
    title, look = _caption(fn)
    parsed = [read_control(name, given) for name, given in controls.items()]
    if twin is not None:
        parsed = [replace(c, free=_free(c, twin)) for c in parsed]
    taken = _taken(fn, parsed)
    _match_parameters(fn, [control.name for control in taken])
    for control in parsed:
        free = not hasattr(Explorer, control.name)
        require(free, "control", control.name, "no attribute of a widget")
    start = {c.name: c.values[c.start] for c in taken}
    views = _checked(fn, start)
    _check_sets(views, parsed)
    marked = {c for view in views.values() for c in view.props.get("sets", {}).values()}
    others = {c.name for c in parsed if c not in taken} - marked
    require(not others, "controls", others, f"what {_name(fn)} takes or a view sets")
    quiz = _quiz(predict, answer, options, parsed)
    players = [c.name for c in parsed if c.kind in ("range", "choice")]
    ok = play is None or play in players
    require(ok, "play", play, f"one of the sliders and lists {players}")
    packer = payload.Packer()
    if twin is None:
        _pack_grid(packer, fn, taken, views, parsed)
    else:
        _pack_twin(packer, twin, parsed)
    stored = sum(len(chunk) for chunk in packer.chunks)
    if stored > MAX_STORED_BYTES:
        raise ValueError(
            f"the grid of {_name(fn)} is {stored:,} bytes compressed, but it must "
            f"be at most {MAX_STORED_BYTES:,}: {_coarsen(parsed)}"
        )
    spec = {
        "version": payload.VERSION,
        "id": f"fg-{_name(fn)}",
        "title": title,
        "look": look,
        "controls": [
            c.spec() | ({"play": True} if c.name == play else {}) for c in parsed
        ],
        "views": [_view_spec(i, t, v, twin) for i, (t, v) in enumerate(views.items())],
        "fields": packer.fields,
        "twin": twin.source if twin else None,
        "by": list(twin.by) if twin else None,
        **quiz,
    }
    drawings = payload.drawings(view.kind for view in views.values())
    return _explorer_class(parsed)(fn, parsed, spec, packer.chunks, drawings)


def _name(fn) -> str:
    """What a function is called; also a partial one, or an object of a class."""
    fn = fn.func if isinstance(fn, partial) else fn
    return getattr(fn, "__name__", type(fn).__name__)


def _taken(fn, controls: list[Control]) -> list[Control]:
    """The controls that `fn` has a parameter for."""
    known = inspect.signature(fn).parameters.values()
    names, kinds = {p.name for p in known}, {p.kind for p in known}
    return [
        c for c in controls if c.name in names or inspect.Parameter.VAR_KEYWORD in kinds
    ]


def _caption(fn) -> tuple[str, str]:
    doc = inspect.getdoc(fn.func if isinstance(fn, partial) else fn) or ""
    title, _, look = doc.partition("\n")
    allowed = "a docstring: first line the title, then what to look for"
    ok = bool(title.strip() and look.strip())
    require(ok, f"{_name(fn)}.__doc__", doc, allowed)
    return title.strip(), " ".join(look.split())


def _free(control: Control, twin: Twin) -> bool:
    """Can the twin answer any value: does the control select none of its data?"""
    return control.name not in twin.by and (control.numeric or control.kind == "text")


def _match_parameters(fn, names: list[str]) -> None:
    try:
        inspect.signature(fn).bind(**dict.fromkeys(names))
    except TypeError as error:
        wanted = list(inspect.signature(fn).parameters)
        raise ValueError(
            f"controls = {names}, but {_name(fn)} takes {wanted}: {error}"
        ) from None


def _quiz(question: str | None, answer: object, options: object, controls) -> dict:
    """The spec of a question to guess at, if there is one."""
    answer = answer() if callable(answer) else answer
    given = {"predict": question, "answer": answer}
    for name, words in given.items():
        ok = words is None or (isinstance(words, str) and words.strip())
        require(ok, name, words, "a string, not empty")
    ok = (question is None) == (answer is None)
    require(ok, "predict, answer", (question, answer), "given together")
    if options is None:
        return {"quiz": [question, answer]} if question else {}
    sliders = [c.name for c in controls if c.kind == "range"]
    several = isinstance(options, list) and len(set(options)) == len(options) > 1
    ok = bool(question) and (several or options in sliders)
    allowed = f"with predict: two different answers or more, or one of {sliders}"
    require(ok, "options", options, allowed)
    return {"quiz": [question, answer, options]}


def _check_sets(views: dict[str, View], controls: list[Control]) -> None:
    """Each place that a view lets the reader choose must be a control's value."""
    known = {c.name: c for c in controls}
    for title, view in views.items():
        for part, name in view.props.get("sets", {}).items():
            what = f"sets[{part!r}] of the view {title!r}"
            require(name in known, what, name, f"one of the controls {list(known)}")
            (count, labels), values = places(view, part), known[name].labels
            if count > len(values):
                raise ValueError(
                    f"{what} = {name!r} has {count} places, but the control {name!r} "
                    f"allows {len(values)} values: {values[0]} .. {values[-1]}"
                )
            for label, value in zip(labels or [], values, strict=False):
                if label != value and set(labels) <= set(values):
                    raise ValueError(
                        f"{what} = {name!r}: {part} {label!r} stands where the control "
                        f"{name!r} has {value}; its values are, in order, {values}"
                    )


def _call(fn, settings: dict) -> str:
    return f"{_name(fn)}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


def _answered(fn, settings: dict) -> dict:
    """`fn(**settings)`; what goes wrong in it says at which setting."""
    try:
        return fn(**settings)
    except ValueError as error:
        raise ValueError(f"{_call(fn, settings)}: {error}") from error
    except Exception as error:
        error.add_note(f"in {_call(fn, settings)}")
        raise


def _checked(fn, settings: dict, like: dict[str, View] | None = None):
    """`fn(**settings)`, checked to be views, of the shapes of `like`."""
    views, call = _answered(fn, settings), _call(fn, settings)
    ok = isinstance(views, dict) and len(views) > 0
    ok = ok and all(isinstance(view, View) for view in views.values())
    allowed = "a dict of title: view, from heatmap(...), lines(...), ..."
    require(ok, call, views, allowed)
    if like is not None:
        here, there = _shapes(views), _shapes(like)
        if here != there:
            raise ValueError(
                f"{call} returns {here}, but the start setting "
                f"returns {there}: a view keeps its kind and shape everywhere"
            )
    return views


def _shapes(views: dict[str, View]) -> dict:
    return {
        title: (view.kind, {k: a.shape for k, a in view.arrays.items()})
        for title, view in views.items()
    }


def _coarsen(controls: list[Control]) -> str:
    sizes = ", ".join(f"{c.name} {len(c.values)}" for c in controls)
    largest = max(controls, key=lambda c: len(c.values))
    return f"coarsen {largest.name!r} (values per control: {sizes})"


def _check_grid(fn, controls: list[Control], views: dict[str, View]) -> None:
    settings = math.prod(len(c.values) for c in controls)
    each = sum(
        array.size * view.bits // 8
        for view in views.values()
        for array in view.arrays.values()
    )
    each += sum(len(json.dumps(view.props)) for view in views.values())
    if settings > MAX_SETTINGS or settings * each > MAX_RAW_BYTES:
        raise ValueError(
            f"the grid of {_name(fn)} has {settings:,} settings of {each:,} bytes, "
            f"but it must be at most {MAX_SETTINGS:,} settings and "
            f"{MAX_RAW_BYTES:,} bytes: {_coarsen(controls)}"
        )


def _settings(names: list[str], axes: list[list]) -> Iterator[dict]:
    """Every setting of the grid."""
    combinations = list(itertools.product(*axes))
    for combination in watched(combinations, "Settings", PATIENCE_S):
        yield dict(zip(names, combination, strict=True))


def _pack_grid(packer, fn, controls: list[Control], like, parsed) -> None:
    """Evaluate `fn` for every setting and pack what varies."""
    _check_grid(fn, controls, like)
    names = [c.name for c in controls]
    grid = [len(c.values) for c in controls]
    settings = _settings(names, [c.values for c in controls])
    states = [_checked(fn, setting, like) for setting in settings]
    for state in states:
        _check_sets(state, parsed)
    for index, (title, view) in enumerate(like.items()):
        here = [state[title] for state in states]
        for key, array in view.arrays.items():
            items = np.stack([v.arrays[key] for v in here])
            items = items.reshape(*grid, *array.shape)
            packer.numbers(f"{index}.{key}", items, names, **precision(here, key))
        _pack_values(packer, f"{index}.props", [v.props for v in here], grid, names)
    moving = {name for field in packer.fields.values() for name in field["by"]}
    for view in like.values():
        moving |= set(view.props.get("sets", {}).values())  # it marks what is chosen
    for name in names:
        moves = name in moving
        require(moves, "control", name, f"one that changes what {_name(fn)} returns")


def _pack_values(packer, key: str, values: list, grid: list, names: list) -> None:
    items = np.empty(len(values), dtype=object)
    items[:] = values
    packer.values(key, items.reshape(grid), names)


def _pack_twin(packer, twin: Twin, controls: list[Control]) -> None:
    """Pack what the twin reads; arrays of several shapes are padded."""
    known = {c.name: c for c in controls}
    for name in twin.by:
        require(name in known, "Twin.by", name, f"one of {list(known)}")
    require(twin.bits in payload.TYPES, "Twin.bits", twin.bits, "8, 16, 32 or 64")
    names, axes = list(twin.by), [known[name].values for name in twin.by]
    grid = [len(axis) for axis in axes]
    data = [_answered(twin.data, setting) for setting in _settings(names, axes)]
    for key, sample in data[0].items():
        values = [state[key] for state in data]
        if isinstance(sample, (str, int, float)) or _strings(sample):
            _pack_values(packer, key, values, grid, names)
            continue
        arrays = [np.asarray(value, dtype=np.float64) for value in values]
        for array in arrays:
            require(np.isfinite(array).all(), f"data[{key!r}]", array, "finite")
        shapes = [list(array.shape) for array in arrays]
        length = max(array.size for array in arrays)
        flat = [np.pad(a.ravel(), (0, length - a.size), mode="edge") for a in arrays]
        items = np.stack(flat).reshape(*grid, length)
        packer.numbers(key, items, names, twin.bits)
        _pack_values(packer, f"{key}.shape", shapes, grid, names)


def _strings(value) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)


def _view_spec(index: int, title: str, view: View, twin: Twin | None) -> dict:
    spec = {"title": title, "kind": view.kind}
    wide = "wide" in view.props or (view.kind == "tokens" and "sets" in view.props)
    spec |= {"wide": True} if wide else {}
    if twin:
        return {**spec, "props": view.props}
    return {**spec, "arrays": {key: f"{index}.{key}" for key in view.arrays}}


def _plain(views: dict[str, View]) -> dict:
    """Views as JSON, for a setting that the kernel computed."""
    return {
        title: {
            "kind": view.kind,
            **view.props,
            **{
                key: {"shape": list(a.shape), "values": a.ravel().tolist()}
                for key, a in view.arrays.items()
            },
        }
        for title, view in views.items()
    }


class Explorer(anywidget.AnyWidget):
    """An explored function with a kernel behind it: a DOMWidget.

    Each control is a trait of the same name: assign it, `.observe` it, or
    link it to another widget's. `views` holds the current setting's views.
    """

    _esm = runtime_source() + "\nexport default fieldguide.anywidget;\n"
    _css = runtime_style()
    spec = traitlets.Dict().tag(sync=True)
    chunks = traitlets.Dict().tag(sync=True)
    drawings = traitlets.Dict().tag(sync=True)

    def __init__(self, fn, controls, spec, chunks, drawings):
        self._fn, self._controls = fn, controls
        start = {c.name: c.keys[c.start] for c in controls}
        packed = {str(i): chunk for i, chunk in enumerate(chunks)}
        super().__init__(spec=spec, chunks=packed, drawings=drawings, **start)
        self.observe(self._answer, list(start))
        for control in controls:
            if control.widget is not None:
                self._follow(control)

    def _follow(self, control: Control) -> None:
        """Keep a control that was passed in and the trait of its name equal."""

        def from_widget(change):
            setattr(self, control.name, control.key(change["new"]))

        def to_widget(change):
            # What the widget rounds or clamps is its own affair: no echo.
            control.widget.unobserve(from_widget, "value")
            with suppress(traitlets.TraitError):  # no option of the widget's own
                control.widget.value = control.value(change["new"])
            control.widget.observe(from_widget, "value")

        control.widget.observe(from_widget, "value")
        self.observe(to_widget, control.name)

    @property
    def params(self) -> dict:
        """The current setting: {control: value}, as `fn` takes it."""
        return {c.name: c.value(getattr(self, c.name)) for c in self._controls}

    @property
    def views(self) -> dict[str, View]:
        """What `fn` returns for the current setting."""
        taken = _taken(self._fn, self._controls)
        return _checked(self._fn, {c.name: self.params[c.name] for c in taken})

    def _on_grid(self) -> bool:
        return all(c.takes(getattr(self, c.name)) for c in self._controls)

    def _answer(self, _change) -> None:
        """Compute a setting that the browser does not hold, and send it."""
        if self._on_grid():
            return
        keys = {c.name: getattr(self, c.name) for c in self._controls}
        try:
            message = {"views": _plain(self.views)}
        except Exception as error:  # shown to whoever moved the control
            message = {"error": str(error)}
        self.send({"params": keys, **message})

    def __repr__(self) -> str:
        """What is shown, without a measured digit: stored as text/plain."""
        start = [f"{c.label} {c.labels[c.start]}" for c in self._controls]
        shown = [f"{v['title']} ({v['kind']})" for v in self.spec["views"]]
        title = self.spec["title"]
        return f"Explorer: {title} At {', '.join(start)}: {', '.join(shown)}."

    def html(self) -> str:
        """The figure as it is stored in a notebook: alive without a kernel."""
        chunks = [self.chunks[str(i)] for i in range(len(self.chunks))]
        return payload.write(self.spec, chunks, self.drawings)

    def _repr_mimebundle_(self, **options):
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        stored = {"text/plain": repr(self), "text/html": self.html()}
        return {**(data or {}), **stored}, metadata


def _explorer_class(controls: list[Control]) -> type[Explorer]:
    """Explorer with one synced trait for each control."""
    traits = {c.name: traitlets.Any().tag(sync=True) for c in controls}
    return type("Explorer", (Explorer,), traits)
