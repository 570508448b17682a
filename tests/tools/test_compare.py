"""The one comparer: each kind of output, altered, is seen to fail; unaltered, passes.

First the pure functions, then `pytest --nbval` itself on a small notebook.
"""

import base64
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import compare
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from cells import explored

from fieldguide import claims, style
from fieldguide.claims import claim
from fieldguide.explore import explore, heatmap, lines, number, payload, text

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "plain": "text/plain", "html": "text/html", "png": "image/png",
    "json": "application/json", "view": "application/vnd.jupyter.widget-view+json",
}  # fmt: skip


def display(**data):
    data = {NAMES[name]: value for name, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": data}


def printed(words, name="stdout"):
    return {"output_type": "stream", "name": name, "text": words}


def html_differs(new, stored, **options):
    return compare.same(display(html=new), display(html=stored), **options)


# Text


def warning(process, cell, which):
    where = f"/tmp/ipykernel_{process}/{cell}.py:3:"
    return printed(f"{where} UserWarning: the {which} argument\n", "stderr")


@pytest.mark.parametrize(
    ("new", "stored", "other"),
    [
        (printed("loss 0.125\n"), printed("loss 0.126\n"), True),
        (printed("loss 0.125\n"), printed("loss 0.125\n", "stderr"), True),
        (printed("a longer text\n"), printed("a longer\n"), True),
        (display(plain="0.125"), display(plain="0.126"), True),
        (display(html="<b>1</b>"), display(html="<b>2</b>"), True),
        (display(plain="1"), display(plain="1", html="1"), True),
        (display(plain="1"), printed("1"), True),
        (display(json={"a": 1}), display(json={"a": 2}), True),
        # the process in a warning, a widget's view
        (warning(17, 240915, "first"), warning(9981, 17, "first"), False),
        (warning(17, 240915, "first"), warning(17, 240915, "second"), True),
        (display(plain="1", view="a"), display(plain="1", view="b"), False),
    ],
)  # fmt: skip
def test_one_altered_letter_or_a_missing_output_is_a_difference(new, stored, other):
    for one, two in (new, stored), (stored, new):
        assert bool(compare.same(one, two)) == other
        assert compare.same_outputs([one], [one]) is None
        assert compare.same_outputs([], [one]) and compare.same_outputs([one], [])


# Measured values


def measured(value):
    numbers = {"expect": 0.5, "tol": 0.01, "null": 0, "spread": 0.001}
    made = claim("a-trend", value, kind="trend", source="derived", **numbers)
    return made._repr_html_()


def test_a_measured_value_may_move_by_its_tolerance_and_nothing_else_may():
    assert html_differs(measured(0.5), measured(0.5)) is None
    assert html_differs(measured(0.5049), measured(0.5)) is None
    outside = measured(0.5).replace('value="0.5"', 'value="0.5101"')
    assert "was measured" in html_differs(outside, measured(0.5))
    assert html_differs(measured(0.5).replace("0.5", "nan", 2), measured(0.5))
    exact = claim("a-count", 1049600, expect=1049600, source="derived")._repr_html_()
    assert html_differs(exact, exact) is None
    for whole, old, new in (
        (measured(0.5), 'data-tol="0.01">', 'data-tol="0.1">'),  # a wider tolerance
        (measured(0.5), ">0.5</data>", ">0.6</data>"),  # another number on the page
        (measured(0.5), 'data-expect="0.5"', 'data-expect="0.6"'),
        (measured(0.5), "it would be 0.", "it would be 0.4."),
        (exact, "1049600", "1049601"),
        (exact, ">1,049,600<", ">1,049,601<"),
    ):
        assert old in whole
        assert html_differs(whole, whole.replace(old, new)), new


def test_a_measured_table_is_compared_like_its_claims():
    def table(loss, width=4):
        rows = [{"kind": "a", "width": width, "loss": loss}]
        return claims.measured(rows, tol=0.01)._repr_html_()

    assert html_differs(table(0.5049), table(0.5)) is None
    assert html_differs(table(0.5049), table(0.5), digits=True), "it reads otherwise"
    assert "was measured" in html_differs(table(0.52), table(0.5))
    assert html_differs(table(0.5, width=5), table(0.5))


# Explorers


def figure_of(shift=0.0, labels="ab"):
    def wave(angle, high):
        """A wave.

        Look for its crest.
        """
        x = np.linspace(0, 6, 50)
        y = np.sin(x + angle) + shift * (np.arange(50) == 7)
        return {
            "Wave": lines(x, {"sin": y}, low=-2, high=2),
            "Weights": heatmap(np.outer(y, y)[:4, :4], rows=list(labels + "cd")),
            "Crest": number(y.max() * (2 if high else 1), "m"),
            "Words": text("high" if high else "low"),
        }

    return explore(wave, angle=[0, 1, 2], high=False).html()


@pytest.fixture(scope="module")
def stored_figure():
    return figure_of()


def repacked(html, steps, place=3):
    """The figure with a number of its first number field so many steps away."""
    fields = json.loads(payload.SPEC.search(html)[1])["fields"].values()
    field = next(field for field in fields if "scales" in field)
    chunk = f'data-fg-chunk="{field["chunk"]}">'
    body = re.search(f"{chunk}([^<]*)<", html)[1]
    bits = next(b for b, n in payload.NAMES.items() if n == field["type"])
    codes = np.frombuffer(zlib.decompress(base64.b64decode(body)), payload.TYPES[bits])
    codes = codes + (steps * (np.arange(len(codes)) == place)).astype(codes.dtype)
    new = base64.b64encode(zlib.compress(codes.tobytes(), 9)).decode()
    return html.replace(chunk + body, chunk + new)


def test_an_explorer_may_be_a_little_off_and_not_have_other_words(stored_figure):
    # x goes from 0 to 6 in 65,535 steps: SHARE is 64 of them.
    for figure in figure_of(), repacked(stored_figure, 60), figure_of(1e-7):
        assert html_differs(figure, stored_figure) is None
    far = repacked(stored_figure, 70)
    assert "off by" in html_differs(far, stored_figure)
    assert "off by" in html_differs(stored_figure, far)
    for old, new in (
        ("<strong>A wave.", "<strong>A wage."),
        ("Look for its crest", "Look for its chest"),
        ('"name":"angle"', '"name":"angel"'),
    ):
        assert old in stored_figure
        assert html_differs(stored_figure.replace(old, new, 1), stored_figure), new
    for other in figure_of(labels="ax"), "", stored_figure + stored_figure:
        assert html_differs(other, stored_figure)


@pytest.mark.parametrize("log", [False, True])
def test_a_small_curve_is_compared_by_its_own_size(log):
    """Beside one that is a million times as large, and far down a log axis."""

    def curves(shift=0.0):
        def decay(rate):
            small, large = 10.0 ** -(rate * np.arange(1, 9)), 1e6 / np.arange(1, 9)
            small[-1] *= 1 + shift
            y = lines(range(8), {"small": small, "large": large}, y_log=log)
            return {"Decay": y, "N": number([9, 1e-17 * (shift > 0)][rate])}

        return explored(decay, rate=[0, 1]).html()

    assert html_differs(curves(1e-6), curves()) is None
    assert "1e-17" in html_differs(curves(1e-6), curves(), digits=True)
    assert "off by" in html_differs(curves(1e-3), curves())


def test_any_byte_of_any_payload_is_looked_at(stored_figure):
    chunks = list(payload.CHUNK.finditer(stored_figure))
    assert len(chunks) >= 4
    for chunk in chunks:
        start, end = chunk.span(1)
        for place in {start, end - 5, *np.linspace(start, end - 5, 5).astype(int)}:
            letter = "A" if stored_figure[place] != "A" else "B"
            altered = stored_figure[:place] + letter + stored_figure[place + 1 :]
            assert html_differs(stored_figure, altered), chunk[0][:60]


# Pictures


def picture(bump=0.0, **rc):
    x = np.linspace(0, 6, 200)
    with plt.rc_context(style.STYLE | rc):
        figure, ax = plt.subplots()
        ax.plot(x, np.sin(x), label="entropy of a row (nats)")
        ax.plot(x, np.cos(x) + bump * (abs(x - 3) < 0.3), label="scaled")
        ax.set(xlabel="Head width $d_k$", ylabel="Entropy", title="How sharp, where?")
        ax.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer)
        plt.close(figure)
    return display(png=base64.b64encode(buffer.getvalue()).decode())


def test_a_picture_may_differ_by_its_font_library_and_not_by_a_curve():
    """Hinting and antialiasing move each letter's edges, as another freetype does."""
    stored, new = picture(), picture(**{"text.hinting": "none"})
    assert new != stored and compare.same(new, stored) is None
    for altered in (
        {"bump": 0.1},  # a tenth of a curve 8 pixels up
        {"lines.linestyle": "--"},
        {"axes.prop_cycle": plt.cycler(color=["#3B7CB8", "#D55E50"])},
        {"figure.figsize": (6, 3.3)},
    ):
        new = picture(**altered)
        assert compare.same(new, stored) and compare.same(stored, new), altered


# The run itself

CELLS = {
    "imports": "import matplotlib.pyplot as plt\nfrom fieldguide.claims import claim",
    "text": "print('loss', 0.125)",
    "claim": "claim('one-half', 0.5, expect=0.5, tol=0.005, source='derived')",
    "picture": "fig, ax = plt.subplots()\n_ = ax.plot([1, 2, 3])",
    "explorer": (
        "from fieldguide.explore import explore, heatmap\n"
        "def wave(angle):\n"
        '    """A wave.\n\n    Look for its crest."""\n'
        "    return {'Wave': heatmap([[angle, 1]], low=0, high=3)}\n"
        "explore(wave, angle=[1.0, 2.0, 2.5])"
    ),
}


def altered(notebook):
    """Each cell altered in its own way."""
    cells = {cell.id: cell for cell in notebook.cells}
    cells["imports"].execution_count = None
    cells["text"].outputs[0].text = "loss 0.126\n"
    data = cells["claim"].outputs[0].data
    assert 'value="0.5"' in data["text/html"]
    data["text/html"] = data["text/html"].replace('value="0.5"', 'value="0.52"')
    cells["picture"].outputs[0].data["image/png"] = picture()["data"]["image/png"]
    data = cells["explorer"].outputs[0].data
    data["text/html"] = repacked(data["text/html"], 2, place=1)


def cleared(notebook):
    for cell in notebook.cells:
        cell.outputs = []


def test_nbval_is_red_on_each_cell_that_differs_and_on_no_other(tmp_path):
    """A book of one notebook, run and stored by `make notebooks`, and two copies."""
    book, tools = tmp_path / "book", ROOT / "book" / "_tools"
    book.mkdir()
    shutil.copy(ROOT / "book" / "conftest.py", book)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    notebook = nbformat.v4.new_notebook()
    for name, source in CELLS.items():
        notebook.cells.append(nbformat.v4.new_code_cell(source, id=name))
    nbformat.write(notebook, book / "page.ipynb")
    command = [sys.executable, tools / "notebooks.py", "--root", tmp_path]
    subprocess.run(command, check=True)
    for alter in altered, cleared:
        notebook = nbformat.read(book / "page.ipynb", as_version=4)
        alter(notebook)
        nbformat.write(notebook, book / f"{alter.__name__}.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "--color=no", "-rA"]
    command += ["-p", "no:cacheprovider", "--rootdir", book, book]
    path = {**os.environ, "PYTHONPATH": str(tools)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=book, env=path)
    told = re.findall(r"^([A-Z]+) (?:\S*/)?(\w+)\.ipynb::Cell (\d)", done.stdout, re.M)
    passed = {(page, int(at)) for said, page, at in told if said == "PASSED"}
    failed = {(page, int(at)) for said, page, at in told if said == "FAILED"}
    places = range(len(CELLS))
    # The imports print nothing, so they may be cleared.
    assert passed == {("cleared", 0)} | {("page", at) for at in places}, done.stdout
    assert passed | failed == {
        *itertools.product(("page", "altered", "cleared"), places)
    }
    for difference in (
        "This cell was never run",
        "'loss 0.126\\n' is stored",
        "0.52 +- 0.005 is stored, but 0.5 was measured",
        "pixels are stored",
        "a value is off by",
    ):
        assert difference in done.stdout
