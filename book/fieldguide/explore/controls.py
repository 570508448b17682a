"""Controls: what `ipywidgets.interact` accepts, read into a list of values."""

from __future__ import annotations

from dataclasses import dataclass

import ipywidgets
import numpy as np

from fieldguide.check import require
from fieldguide.explore.views import format_cell

MAX_VALUES = 20_000  # of one control, and of a whole grid
RANGES = (ipywidgets.IntSlider, ipywidgets.FloatSlider, ipywidgets.BoundedIntText)
RANGES += (ipywidgets.BoundedFloatText,)
CHOICES = (ipywidgets.Dropdown, ipywidgets.RadioButtons, ipywidgets.ToggleButtons)
CHOICES += (ipywidgets.Select,)
ALLOWED = (
    "a tuple (min, max[, step]), a list, a dict, a bool, a number, or one of "
    "the ipywidgets IntSlider, FloatSlider, FloatLogSlider, SelectionSlider, "
    "BoundedIntText, BoundedFloatText, Dropdown, RadioButtons, ToggleButtons, "
    "Select, Checkbox, ToggleButton and Combobox(options=...)"
)


@dataclass(frozen=True)
class Control:
    """One control: its `values` on the grid, what each is called, its start.

    `kind` is "range" (a slider), "choice", "check" or "text". `keys` are the
    values as the browser knows them: the value itself where JSON has it, else
    its label. `widget` is the ipywidgets control that was passed in, if any.
    `free` says that a twin answers values off the grid: numbers, or texts.
    """

    name: str
    label: str
    kind: str
    values: list
    labels: list[str]
    start: int
    widget: ipywidgets.Widget | None = None
    free: bool = False

    @property
    def keys(self) -> list:
        plain = (bool, int, float, str)
        pairs = zip(self.values, self.labels, strict=True)
        return [v if isinstance(v, plain) else label for v, label in pairs]

    @property
    def numeric(self) -> bool:
        return all(type(value) in (int, float) for value in self.values)

    def takes(self, key) -> bool:
        """Does the browser know what to show for `key` without a kernel?"""
        kinds = str if self.kind == "text" else (int, float)
        return key in self.keys or (self.free and isinstance(key, kinds))

    def value(self, key):
        """The value that the browser's `key` stands for; off the grid, `key`."""
        keys = self.keys
        return self.values[keys.index(key)] if key in keys else key

    def key(self, value):
        """What the browser calls `value`; off the grid, `value`."""
        return self.keys[self.values.index(value)] if value in self.values else value

    def spec(self) -> dict:
        return {
            "name": self.name,
            "label": self.label,
            "kind": self.kind,
            "keys": self.keys,
            "labels": self.labels,
            "start": self.start,
            "numeric": self.numeric,
            "free": self.free,
        }


def read_control(name: str, given) -> Control:
    """The control called `name`, from an abbreviation or a real widget."""
    widget = given
    if not isinstance(given, ipywidgets.Widget):
        require(not isinstance(given, str), name, given, ALLOWED)
        try:
            widget = ipywidgets.interactive.widget_from_abbrev(given)
        except Exception as error:  # whatever ipywidgets says of the value
            raise ValueError(f"{name} = {given!r}: {error}; use {ALLOWED}") from error
    kind, values, labels = _values(name, widget)
    label = getattr(widget, "description", "") or name
    value = widget.value
    if value not in values:
        require(kind == "range", f"{name}.value", value, "one of its options")
        values = sorted([*values, value])
        labels = [format_cell(v) for v in values]
    passed = widget if widget is given else None
    control = Control(name, label, kind, values, labels, values.index(value), passed)
    require(len(values) > 1, name, given, "a control with two values or more")
    distinct = len(set(control.keys)) == len(values)
    require(distinct, name, control.keys, "distinct values or labels")
    return control


def _steps(name: str, widget) -> range:
    """The places of a slider, counted before they are listed."""
    count = int(np.floor((widget.max - widget.min) / widget.step + 1e-9)) + 1
    return range(_few(name, count))


def _few(name: str, count: int) -> int:
    allowed = f"at most {MAX_VALUES:,}: coarsen it"
    require(count <= MAX_VALUES, f"values of {name}", count, allowed)
    return count


def _values(name: str, widget) -> tuple[str, list, list[str]]:
    if isinstance(widget, RANGES):
        step = widget.step
        ok = step is not None and step > 0
        require(ok, f"{name}.step", step, "above 0")
        kind = type(widget.value)
        places = _steps(name, widget)
        values = [kind(round(widget.min + i * step, 12)) for i in places]
        return "range", values, [format_cell(v) for v in values]
    if isinstance(widget, ipywidgets.FloatLogSlider):
        powers = [widget.min + i * widget.step for i in _steps(name, widget)]
        values = [float(f"{widget.base**p:.6g}") for p in powers]
        return "range", values, [format_cell(v) for v in values]
    if isinstance(widget, (ipywidgets.Checkbox, ipywidgets.ToggleButton)):
        return "check", [False, True], ["off", "on"]
    if isinstance(widget, ipywidgets.Combobox):
        require(widget.options, f"{name}.options", widget.options, "not empty")
        return "text", list(widget.options), list(widget.options)
    if isinstance(widget, (*CHOICES, ipywidgets.SelectionSlider)):
        pairs = widget._options_full
        _few(name, len(pairs))
        labels = [
            format_cell(value) if label == str(value) else label
            for label, value in pairs
        ]
        sliding = isinstance(widget, ipywidgets.SelectionSlider)
        kind = "range" if sliding else "choice"
        return kind, [value for _, value in pairs], labels
    raise ValueError(f"{name} = {widget!r}, but it must be {ALLOWED}")
