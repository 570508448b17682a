"""explore in Python: controls, errors, the payload, the live object."""

import re

import ipywidgets as widgets
import numpy as np
import pytest
import sources
import torch
from cells import explored
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldguide.explore import (
    Twin,
    annotate,
    bands,
    bars,
    explore,
    figure,
    flow,
    heatmap,
    lines,
    number,
    payload,
    pictures,
    scatter,
    table,
    text,
    tokens,
)
from fieldguide.explore.controls import read_control
from fieldguide.explore.drawings import amounts, arcs, match, projection, shapes, tower
from fieldguide.explore.page import runtime_style

# What such eyes see of linear RGB (protan, deutan, tritan): Machado et al., 2009.
EYES = np.array([np.eye(3).ravel(), [
    0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216,
    -0.003882, -0.048116, 1.051998,
], [
    0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413,
    -0.011820, 0.042940, 0.968881,
], [
    1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602,
    0.004733, 0.691367, 0.303900,
]]).reshape(4, 3, 3)  # fmt: skip
TO_CONES = [[0.41222147, 0.53633254, 0.05144599], [0.2119035, 0.68069955, 0.10739696]]
TO_CONES = np.array([*TO_CONES, [0.08830246, 0.28171884, 0.6299787]])
TO_LAB = [[0.21045426, 0.79361779, -0.00407205], [1.9779985, -2.42859221, 0.45059371]]
TO_LAB = np.array([*TO_LAB, [0.02590404, 0.78277177, -0.80867577]])  # OKLab


@pytest.mark.parametrize(("dark", "paper"), [(False, "ffffff"), (True, "14181e")])
def test_hues_stay_apart_for_colour_blind_eyes(dark, paper):
    """And from the paper: 3:1, as marks must."""
    style = runtime_style().partition("[data-theme=dark]")[2 * dark]
    names = "stream", "query", "key", "value", "prob", "frozen", "minus"
    found = [re.search(rf"--fg-{name}:#(\w+)", style)[1] for name in names]
    rgb = np.array([list(bytes.fromhex(hue)) for hue in [*found, paper]]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    assert (np.maximum(light, light[-1]) / np.minimum(light, light[-1]))[:-1].min() >= 3
    for eye in EYES:
        lab = np.cbrt((linear[:-1] @ eye.T).clip(0, 1) @ TO_CONES.T) @ TO_LAB.T
        apart = np.linalg.norm(lab[:, None] - lab, axis=-1) + np.eye(len(names))
        assert apart.min() >= 0.088


ASKED = {"predict": "Which?", "answer": "This."}
NOTED = lines([0, 2], {"y": [0, 1]})


def doubled(x, on):
    """Twice a number.

    Look for the sign.
    """
    return {"Double": number(2 * x if on else -2 * x, "m")}


def doubling(x=(0, 3), **given):
    return explore(doubled, x=x, on=True, **given)


def towering(**changes):
    """A tower of two letters and one block."""
    given = {"arcs": np.zeros((1, 2, 3)), "guesses": ["ab", "ba"], "chosen": (0, 0)}
    given |= {"probabilities": np.ones((2, 2))} | changes
    return tower("ab", np.ones((3, 2, 4)), **given)


def square(x):
    """Data for the attention twin, of a shape that the control gives."""
    return {"scores": np.full((x, x), x), "width": 4, "pieces": ["a"] * x}


def squared(name="attention", by=("x",), **given):
    return doubling(x=(1, 3), twin=Twin(name, by, square, **given))


# ---- controls ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("passed", "kind", "values", "start"),
    [
        ((0, 3), "range", [0, 1, 2, 3], 1),
        ((0, 10, 5), "range", [0, 5, 10], 5),
        ((0.0, 1.0, 0.25), "range", [0.0, 0.25, 0.5, 0.75, 1.0], 0.5),
        ([3, 1, 2], "choice", [3, 1, 2], 3),
        ({"one": 1, "two": 2}, "choice", [1, 2], 1),
        (True, "check", [False, True], True),
        (widgets.IntSlider(5, 4, 6), "range", [4, 5, 6], 5),
        (widgets.FloatLogSlider(1, min=-1, max=1, step=1), "range", [0.1, 1, 10], 1),
        (widgets.SelectionSlider(options=[1, 8, 64], value=8), "range", [1, 8, 64], 8),
        (widgets.Dropdown(options=["a", "b"], value="b"), "choice", ["a", "b"], "b"),
        (widgets.ToggleButtons(options=["a", "b"]), "choice", ["a", "b"], "a"),
        (widgets.Combobox(options=["a", "b"], value="b"), "text", ["a", "b"], "b"),
        # A start off the grid joins it.
        (widgets.FloatSlider(0.3, max=1, step=0.5), "range", [0, 0.3, 0.5, 1], 0.3),
    ],
)
def test_controls_are_read_as_interact_reads_them(passed, kind, values, start):
    control = read_control("x", passed)
    assert (control.kind, control.values) == (kind, values)
    assert control.values[control.start] == start


def test_abbreviations_start_where_interact_starts():
    for short in [(0, 7), (1.0, 2.0), [4, 5], True, 3, -2.5]:
        reference = widgets.interactive.widget_from_abbrev(short)
        control = read_control("x", short)
        assert control.values[control.start] == reference.value


# ---- what is refused --------------------------------------------------------


def showing(view, x=(0, 3)):
    """An explorer that shows `view`, or what this gives at x."""
    views = view if callable(view) else lambda x: view
    return explored(lambda x, on: {"a": views(x), "b": number(x + on)}, x=x, on=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        # A control.
        (lambda: read_control("x", "words"), "x.*Combobox"),
        (lambda: read_control("x", {"one": 1, "uno": 1.0}), "x.*distinct"),
        (lambda: read_control("x", (0, 10**6)), "values of x = .* at most 20,000"),
        # A view.
        (lambda: heatmap([1, 2]), "values"),
        (lambda: heatmap([[1, 2]], rows=["a", "b"]), "rows"),
        (lambda: heatmap([[0, 2]], kinds=["free", "red"]), "values"),
        (lambda: tokens(["a"], [1, 2]), "pieces"),
        (lambda: lines([1, 2], {"a": [1]}), "ys"),
        (lambda: lines([1, 2], {"a": [0, 2]}, y_log=True), "ys"),
        (lambda: bars(["a"], [float("inf")]), "values"),
        (lambda: bars(["a"], [1], intervals=[[2, 1]]), "intervals"),
        (lambda: scatter([1], [1, 2]), "y"),
        (lambda: number([1, 2]), "value"),
        (lambda: table(["a"], [[1, 2]]), "row"),
        (lambda: text(3), "string"),
        (lambda: pictures(np.full((1, 2, 2), 2.0)), "images"),
        (lambda: figure("x"), "fig"),
        (lambda: bands("ab", "c", [1, -1]), "weights"),
        (lambda: flow({"a": 1}, [("a", "b")]), "arrow"),
        (lambda: flow({"a": 1}, [("a", "a")]), "circles"),
        (lambda: projection(np.eye(3), 4), "cells"),
        (lambda: towering(arcs=np.ones((1, 2, 3))), "arcs"),  # it looks ahead
        (lambda: towering(arcs=np.ones((1, 2, 2))), "arcs.shape"),
        (lambda: towering(chosen=(2, 0)), "chosen"),
        (lambda: towering(guesses=["ab"]), "guesses"),
        (lambda: towering(notes={("MLP", 0): "a"}), "notes"),
        (lambda: shapes({"W": (4, 4), "A": (2, 4), "B": (4, 3)}), "sizes"),
        (lambda: amounts({"a": {"x": 1}, "b": {"y": 1}}), "parts of 'b'"),
        (lambda: match(np.zeros((2, 4, 4, 3)), "ab", np.eye(2), -np.eye(2)), "shares"),
        (lambda: arcs("ab", [0.5, 0.5], 0), "weights = .*0 after the word"),
        (lambda: arcs("ab", [1, 0], 2), "asks = 2.*0 to 1"),
        (lambda: arcs("ab", [1, 0], 0, lookup={"keys": [[1]]}), "keys.* = 1.*be 2"),
        # What a view sets is a control, and has its values in its order.
        (lambda: showing(heatmap(np.eye(2), sets={"column": "y"})), "'y'.*'x', 'on'"),
        (lambda: showing(tokens("abcde", range(5), sets="x")), "5 .*'x'.*4 values"),
        (lambda: showing(bars([1, 0, 2, 3], range(4), sets="x")), "bar '1' stands"),
        # A function and its controls.
        (lambda: explore(lambda x: {"a": number(x)}, x=(0, 1)), "__doc__"),
        (lambda: explore(doubled, x=(0, 1)), r"doubled takes \['x', 'on'\]"),
        (lambda: doubling(more=[1, 2]), "controls = {'more'}"),
        (lambda: explored(lambda x, y: {"a": number(x)}, x=[1, 2], y=[1, 2]), "= 'y'"),
        # What it returns.
        (lambda: explored(lambda x: {"a": x}, x=(0, 1)), "heatmap"),
        (lambda: showing(lambda x: number(1 if x < 2 else np.nan)), r"\(x=2.*NaN"),
        (lambda: showing(lambda x: bars(range(x), range(x)), (1, 3)), "kind and shape"),
        # A grid that is too large.
        (lambda: doubling(x=(0, 16_000)), r"32,002 settings.*coarsen 'x'"),
        (
            lambda: showing(lambda x: heatmap(torch.rand(200, 200)), (0, 400)),
            r"bytes: coarsen 'x'",
        ),
        # A question, what plays, a twin, what is no stored explorer.
        (lambda: doubling(predict="Which?"), "given together"),
        (lambda: doubling(**ASKED, options=["one"]), "options = .*two different"),
        (lambda: doubling(**ASKED, options="on"), r"options = 'on'.*\['x'\]"),
        (lambda: doubling(play="y"), r"play = 'y'.*\['x'\]"),
        (lambda: squared("atention"), "one of attention"),
        (lambda: annotate(NOTED, {(3, 1): "a"}), "x of the place = 3.*0 to 2"),
        (lambda: annotate(NOTED, {(1, 1): " "}), "some words"),
        (lambda: annotate(NOTED, {1: "a"}), r"place = 1.*\(x, y\)"),
        (lambda: annotate(bars(["a"], [1]), {"b": "a"}), "bar of the place = 'b'"),
        (lambda: annotate(number(1), {0: "a"}), "view.kind = 'number'"),
        (lambda: payload.read("<figure></figure>"), "not a stored explorer"),
    ],
)
def test_bad_input_is_refused_by_name(make, says):
    with pytest.raises(ValueError, match=f"(?s){says}"):
        make()


# ---- the call ---------------------------------------------------------------


def test_any_error_says_at_which_setting():
    """Its kind and its message stay; a note says where it was."""
    with pytest.raises(ZeroDivisionError) as error:
        explored(lambda x: {"a": number(1 / (2 - x))}, x=(0, 3))
    assert error.value.__notes__ == ["in <lambda>(x=2)"]


# ---- what a click sets, what plays, what is asked ---------------------------


def test_what_is_asked_and_what_plays_is_stored():
    given = {"predict": "Which?", "answer": lambda: f"It is {2 * 4}.", "play": "x"}
    spec = payload.read(doubling(**given).html())["spec"]
    assert spec["quiz"] == ["Which?", "It is 8."]
    assert [c.get("play") for c in spec["controls"]] == [True, None]


# ---- the stored figure ------------------------------------------------------


def test_every_setting_is_stored_and_read_back():
    explorer = doubling()
    stored = payload.read(explorer.html())
    expected = [[-2 * x, 2 * x] for x in range(4)]
    np.testing.assert_array_equal(stored["fields"]["0.value"].reshape(4, 2), expected)
    assert stored["steps"]["0.value"] == 0.0
    assert stored["spec"]["controls"][0]["keys"] == [0, 1, 2, 3]


@settings(max_examples=30, deadline=None)
@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(0, 1e6),
    bits=st.sampled_from([8, 16, 32, 64]),
    seed=st.integers(0, 99),
)
def test_quantization_is_within_half_a_step(low, width, bits, seed):
    items = low + width * np.random.default_rng(seed).random((3, 2, 5))
    packer = payload.Packer()
    packer.numbers("a", items, ["x", "y"], bits)
    spec = packer.fields["a"]
    back = payload.unpack(packer.fields, packer.chunks)["a"].reshape(-1)
    step = spec.get("scales", [[low, 0]])[0][1]
    small = {64: 0, 32: 1e-6 * (abs(low) + width)}.get(bits, step * 0.51)
    kept = items if "x" in spec["by"] else items[:1]
    kept = kept if "y" in spec["by"] else kept[:, :1]
    np.testing.assert_allclose(back, kept.ravel(), rtol=1e-12, atol=small + 1e-12)


def stored_fields(**views):
    """What is read back of an explorer that shows `views(x)` at x = 1 and 2."""
    shown = explored(lambda x: {n: view(x) for n, view in views.items()}, x=[1, 2])
    return payload.read(shown.html())["fields"]


def test_a_log_axis_keeps_every_decade_and_a_small_curve_its_digits():
    """A linear step would be as large as the smallest values: 1e-6 read as 1e-8."""
    x, y = np.logspace(-8, 0, 25), np.logspace(3, -5, 25)
    for curve in y, y * 1e-60, y * 1e60:
        fields = stored_fields(
            log=lambda k, y=curve: lines(
                x, {"a": y * k, "b": x}, x_log=True, y_log=True
            ),
            turns=lambda k, y=curve: lines(range(25), {"a": y * k}, y_log=k == 2),
        )
        np.testing.assert_allclose(fields["0.x"][0], x, rtol=1e-7)
        wanted = [[curve * k, x] for k in (1, 2)]
        np.testing.assert_allclose(fields["0.y"], wanted, rtol=1e-7)
        np.testing.assert_allclose(fields["1.y"][:, 0], [curve, curve * 2], rtol=1e-7)
    curves = {
        "small": 1e-6 * np.sin(6 * x),
        "large": 1e3 * np.cos(x),
        "flat": 0.3 + 0 * x,
    }
    fields = stored_fields(
        a=lambda k: lines(x, {name: k * y for name, y in curves.items()})
    )
    off = np.abs(fields["0.y"][1] - [2 * y for y in curves.values()]).max(axis=1)
    assert (off <= np.array([1e-6, 1e3, 0.3]) * 2**-14).all(), off


def test_bars_keep_what_32_bits_would_lose():
    values = np.array([16_777_217.0, 1e39, 1e-46, 0.1])
    fields = stored_fields(
        whole=lambda k: bars("abcd", values * k), part=lambda k: bars("a", [0.1 * k])
    )
    assert fields["0.values"].tolist() == [list(values), list(values * 2)]
    np.testing.assert_allclose(fields["1.values"].ravel(), [0.1, 0.2], rtol=1e-7)


def test_a_projection_keeps_what_lies_in_few_directions():
    few = np.random.default_rng(0).normal(size=(9, 2)) @ np.eye(2, 5)
    to_cells = projection(few, 2)
    np.testing.assert_allclose(to_cells @ to_cells.T, np.eye(2), atol=1e-9)
    np.testing.assert_allclose(few @ to_cells.T @ to_cells, few, atol=1e-9)


def test_the_lines_of_the_tower_add_up():
    """What the page shows is the numbers before, what is added, and the sum."""
    cells = sources.in_order()["transformers/gpt"].cells
    figure = next(cell for cell in cells if cell.id == "rising-widget").outputs[0]
    stored = payload.read(figure.data["text/html"])
    rows = np.reshape(stored["fields"]["1.values"], (6, 5, 10, 16))[:, 1:]
    off = rows[..., :9, :].sum(2) - rows[..., 9, :]
    step = stored["steps"]["1.values"]
    assert np.abs(off).max() <= 5.1 * step and np.abs(rows).max() > 1
    assert np.abs(rows[0, :, 3:8]).max() < step, "the first letter sees no later one"


def test_integers_and_long_fields_are_exact():
    items = np.arange(70_000, dtype=float).reshape(700, 100) % 200
    packer = payload.Packer()
    packer.numbers("a", items, ["x"], 8)
    assert packer.fields["a"]["per"] == 1310
    packer.numbers("b", np.tile(items, (10, 1)), ["x"], 8)
    back = payload.unpack(packer.fields, packer.chunks)
    np.testing.assert_array_equal(back["b"], np.tile(items, (10, 1)))
    assert len(packer.chunks) > 2


def test_labels_cannot_break_the_page():
    evil = "</script><script>alert(1)</script><!-- \u2028 & \" '"

    def titled(x):
        """A <b>title</b> & "more".

        Look </figure> here.
        """
        return {evil: bars([evil, "b"], [x, 1])}

    html = explore(titled, x=(0, 2)).html()
    head, *scripts = html.split("<script")
    assert "<b>" not in head and "</figure>" not in head
    assert html.count("</script>") == len(scripts)
    assert "<script>alert" not in html and "\\u003c/script>" in html
    assert payload.read(html)["spec"]["views"][0]["title"] == evil


def test_the_bundle_holds_text_and_html():
    explorer = doubling()
    assert explorer.html() == doubling().html(), "the same twice"
    bundle, _ = explorer._repr_mimebundle_()
    shown = "Explorer: Twice a number. At x 1, on on: Double (number)."
    assert bundle["text/plain"] == shown
    assert bundle["text/html"].startswith('<figure class="fg"')
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_twin_data_of_several_shapes_is_kept():
    stored = payload.read(squared().html())
    assert stored["fields"]["scores.shape"] == [[1, 1], [2, 2], [3, 3]]
    assert stored["fields"]["scores"].shape == (3, 9)
    assert stored["spec"]["by"] == ["x"]
