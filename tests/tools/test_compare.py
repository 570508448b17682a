"""The one comparer: each kind of output, altered, is seen to fail; unaltered, passes.

First the pure functions, then `pytest --nbval` itself on a small notebook.
"""

import base64
import io
import json
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

from fieldguide import ledger, style
from fieldguide.explore import explore, heatmap, lines, number, payload, text
from fieldguide.ledger import claim

ROOT = Path(__file__).resolve().parents[2]
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def display(**data):
    names = {"plain": "text/plain", "html": "text/html", "png": "image/png"}
    data = {names.get(name, name): value for name, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": data}


def printed(words, name="stdout"):
    return {"output_type": "stream", "name": name, "text": words}


def html_differs(new, stored):
    return compare.same(display(html=new), display(html=stored))


# Text


@pytest.mark.parametrize(
    ("new", "stored"),
    [
        (printed("loss 0.125\n"), printed("loss 0.126\n")),
        (printed("loss 0.125\n"), printed("loss 0.125\n", "stderr")),
        (printed("a longer text\n"), printed("a longer\n")),
        (display(plain="0.125"), display(plain="0.126")),
        (display(html="<b>1</b>"), display(html="<b>2</b>")),
        (display(plain="1"), display(plain="1", html="1")),
        (display(plain="1"), printed("1")),
        (
            display(**{"application/json": {"a": 1}}),
            display(**{"application/json": {"a": 2}}),
        ),
    ],
)
def test_one_altered_letter_is_a_difference(new, stored):
    assert compare.same(new, stored)
    assert compare.same(stored, new)
    assert compare.same(new, new) is None
    assert compare.same(stored, stored) is None


def test_a_missing_output_is_a_difference():
    assert compare.same_outputs([], [printed("1")])
    assert compare.same_outputs([printed("1")], [])
    assert compare.same_outputs([printed("1")], [printed("1")]) is None


def test_the_process_id_in_a_warning_is_dropped():
    warning = "/tmp/ipykernel_{}/{}.py:3: UserWarning: the {} argument\n"
    one = printed(warning.format(17, 240915, "first"), "stderr")
    two = printed(warning.format(9981, 17, "first"), "stderr")
    other = printed(warning.format(17, 240915, "second"), "stderr")
    assert compare.same(one, two) is None
    assert compare.same(one, other)


def test_a_widget_view_is_not_compared():
    views = [{WIDGET_VIEW: {"model_id": n}} for n in "ab"]
    new, stored = (display(plain="1", **view) for view in views)
    assert compare.same(new, stored) is None
    assert compare.kinds(display(**views[0])) == set()


# Measured values


def measured(value):
    numbers = {"expect": 0.5, "tol": 0.01, "null": 0, "spread": 0.001}
    made = claim("a-trend", value, kind="trend", source="derived", **numbers)
    return made._repr_html_()


def test_a_measured_value_may_move_by_its_tolerance_and_no_more():
    assert html_differs(measured(0.5), measured(0.5)) is None
    assert html_differs(measured(0.5049), measured(0.5)) is None
    outside = measured(0.5).replace('value="0.5"', 'value="0.5101"')
    assert "was measured" in html_differs(outside, measured(0.5))
    assert html_differs(measured(0.5).replace("0.5", "nan", 2), measured(0.5))


def test_a_claim_that_is_altered_in_the_notebook_is_a_difference():
    whole = measured(0.5)
    for old, new in (
        ('data-tol="0.01">', 'data-tol="0.1">'),  # a wider tolerance
        (">0.5</data>", ">0.6</data>"),  # another number on the page
        ('data-expect="0.5"', 'data-expect="0.6"'),
        ("without the effect 0", "without the effect 0.4"),
    ):
        assert whole.count(old) == 1
        assert html_differs(whole, whole.replace(old, new)), new


def test_an_exact_claim_shows_the_number_that_it_holds():
    exact = claim("a-count", 1049600, expect=1049600, source="derived")._repr_html_()
    assert html_differs(exact, exact) is None
    assert html_differs(exact, exact.replace("1049600", "1049601"))
    assert html_differs(exact, exact.replace(">1,049,600<", ">1,049,601<"))


def test_a_measured_table_is_compared_like_its_claims():
    def table(loss, width=4):
        rows = [{"kind": "a", "width": width, "loss": loss}]
        return ledger.measured(rows, tol=0.01)._repr_html_()

    assert html_differs(table(0.5049), table(0.5)) is None
    assert "was measured" in html_differs(table(0.52), table(0.5))
    assert html_differs(table(0.5, width=5), table(0.5))
    assert html_differs(table(0.5), table(0.5).replace(">0.5<", ">0.4<"))


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


def repack(html, change):
    """The figure with its first number field changed by `change(codes)`."""
    spec = json.loads(payload.SPEC.search(html)[1])
    name, field = next((k, f) for k, f in spec["fields"].items() if "scales" in f)
    chunk = f'data-fg-chunk="{field["chunk"]}">'
    body = re.search(f"{chunk}([^<]*)<", html)[1]
    bits = next(b for b, n in payload.NAMES.items() if n == field["type"])
    codes = np.frombuffer(zlib.decompress(base64.b64decode(body)), payload.TYPES[bits])
    new = base64.b64encode(zlib.compress(change(codes.copy()).tobytes(), 9)).decode()
    assert new != body, name
    return html.replace(chunk + body, chunk + new)


def add(steps, place=3):
    def change(codes):
        codes[place] += steps
        return codes

    return change


def test_an_explorer_equals_itself_and_one_step_away(stored_figure):
    assert html_differs(figure_of(), stored_figure) is None
    assert html_differs(repack(stored_figure, add(1)), stored_figure) is None
    assert html_differs(figure_of(1e-7), stored_figure) is None


def test_an_explorer_two_steps_away_differs(stored_figure):
    assert "off by" in html_differs(repack(stored_figure, add(2)), stored_figure)
    assert "off by" in html_differs(stored_figure, repack(stored_figure, add(2)))


@pytest.mark.parametrize("log", [False, True])
def test_a_small_curve_is_compared_by_its_own_size(log):
    """Beside one that is a million times as large, and far down a log axis."""

    def curves(shift=0.0):
        def decay(rate):
            """Decay.

            Look at its end."""
            x = np.arange(1, 9)
            small = 10.0 ** -(rate * x)
            small[-1] *= 1 + shift
            return {"Decay": lines(x, {"small": small, "large": 1e6 / x}, y_log=log)}

        return explore(decay, rate=[0, 1]).html()

    assert html_differs(curves(1e-6), curves()) is None
    assert "off by" in html_differs(curves(1e-3), curves())


def test_any_byte_of_any_payload_is_looked_at(stored_figure):
    chunks = list(payload.CHUNK.finditer(stored_figure))
    assert len(chunks) >= 4
    rng = np.random.default_rng(0)
    for chunk in chunks:
        start, end = chunk.span(1)
        for place in {start, end - 5, *rng.integers(start, end - 4, 5)}:
            letter = "A" if stored_figure[place] != "A" else "B"
            altered = stored_figure[:place] + letter + stored_figure[place + 1 :]
            assert html_differs(stored_figure, altered), chunk[0][:60]


def test_an_explorer_with_other_words_or_another_shape_differs(stored_figure):
    assert html_differs(figure_of(labels="ax"), stored_figure)
    for old, new in (
        ("<strong>A wave.", "<strong>A wage."),
        ("Look for its crest", "Look for its chest"),
        ('"name":"angle"', '"name":"angel"'),
        ("<img ", "<img hidden "),
    ):
        assert old in stored_figure
        altered = stored_figure.replace(old, new, 1)
        assert html_differs(stored_figure, altered), new
    assert html_differs("", stored_figure)
    assert html_differs(stored_figure + stored_figure, stored_figure)


def test_an_explorers_still_picture_is_compared(stored_figure):
    picture = payload.STILL.search(stored_figure)[1]
    other = payload.STILL.search(figure_of(shift=0.9))[1]
    altered = stored_figure.replace(picture, other)
    assert "still picture" in html_differs(altered, stored_figure)


# Pictures


def picture(height=0.0, bump=0.0, **rc):
    x = np.linspace(0, 6, 200)
    with plt.rc_context(style.STYLE | rc):
        figure, ax = plt.subplots()
        ax.plot(x, np.sin(x), label="entropy of a row (nats)")
        ax.plot(x, np.cos(x) + height + bump * (abs(x - 3) < 0.3), label="scaled")
        ax.set(xlabel="Head width $d_k$", ylabel="Entropy", ylim=(-1.6, 1.6))
        ax.set_title("How sharp does the softmax get, and where?")
        ax.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer)
        plt.close(figure)
    return display(png=base64.b64encode(buffer.getvalue()).decode())


def test_a_picture_equals_itself_under_another_font_library():
    """Hinting and antialiasing move each letter's edges, as another freetype does."""
    stored = picture()
    assert compare.same(picture(), stored) is None
    for rc in ({"text.hinting": "none"}, {"font.size": 10.1}):
        new = picture(**rc)
        assert new != stored
        assert compare.same(new, stored) is None, rc


@pytest.mark.parametrize(
    "altered",
    [
        {"height": 0.05},  # a curve 4 pixels up
        {"bump": 0.1},  # a tenth of it 8 pixels up
        {"lines.linewidth": 4},
        {"lines.linestyle": "--"},
        {"axes.prop_cycle": plt.cycler(color=["#3B7CB8", "#D55E50"])},
        {"figure.figsize": (6, 3.3)},
    ],
)
def test_one_altered_curve_is_a_difference(altered):
    stored = picture()
    assert compare.same(picture(**altered), stored)
    assert compare.same(stored, picture(**altered))


# What counts as compared


def test_constants_do_not_count_as_compared(stored_figure):
    png = picture()["data"]["image/png"]
    size = "<Figure size 600x320 with 1 Axes>"
    assert compare.kinds(display(plain=size, png=png)) == {"png"}
    assert compare.kinds(display(plain="words", html=measured(0.5))) == {"measured"}
    bundle = display(plain="words", html=stored_figure, png=png)
    assert compare.kinds(bundle) == {"explorer", "png"}
    assert compare.kinds(display(plain="1", html="<b>1</b>")) == {"html"}
    assert compare.kinds(display(plain="1")) == compare.kinds(printed("1")) == {"text"}


# The run itself

CELLS = {
    "imports": "import matplotlib.pyplot as plt\nfrom fieldguide.ledger import claim",
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


@pytest.fixture(scope="module")
def small_book(tmp_path_factory):
    """A book of one notebook, run and stored by `make notebooks`' script."""
    root = tmp_path_factory.mktemp("small")
    book = root / "book"
    book.mkdir()
    shutil.copy(ROOT / "book" / "conftest.py", book)
    (root / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    notebook = nbformat.v4.new_notebook()
    for name, source in CELLS.items():
        notebook.cells.append(nbformat.v4.new_code_cell(source, id=name))
    nbformat.write(notebook, book / "page.ipynb")
    script = ROOT / "book" / "_tools" / "notebooks.py"
    command = [sys.executable, script, "--root", root]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return book


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
    data["text/html"] = repack(data["text/html"], add(2, 1))


def cleared(notebook):
    for cell in notebook.cells:
        cell.outputs = []


@pytest.fixture(scope="module")
def nbval_run(small_book):
    """What `pytest --nbval` prints for the stored notebook and two altered ones."""
    for alter in (altered, cleared):
        notebook = nbformat.read(small_book / "page.ipynb", as_version=4)
        alter(notebook)
        nbformat.write(notebook, small_book / f"{alter.__name__}.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "--color=no", "-rA"]
    command += ["-p", "no:cacheprovider", "--rootdir", small_book, small_book]
    command += ["-o", f"pythonpath={ROOT / 'book' / '_tools'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=small_book)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def verdicts(output, name):
    pattern = rf"^([A-Z]+) (?:\S*/)?{name}\.ipynb::Cell (\d+)"
    found = re.findall(pattern, output, re.M)
    return {list(CELLS)[int(place)]: verdict for verdict, place in found}


def test_nbval_is_green_on_the_stored_notebook(nbval_run):
    assert verdicts(nbval_run, "page") == dict.fromkeys(CELLS, "PASSED"), nbval_run


def test_nbval_is_red_on_each_altered_cell(nbval_run):
    assert verdicts(nbval_run, "altered") == dict.fromkeys(CELLS, "FAILED"), nbval_run
    for difference in (
        "This cell was never run",
        "'loss 0.126\\n' is stored",
        "0.52 +- 0.005 is stored, but 0.5 was measured",
        "pixels are stored",
        "a value is off by",
    ):
        assert difference in nbval_run


def test_nbval_is_red_on_cleared_outputs(nbval_run):
    expected = {**dict.fromkeys(CELLS, "FAILED"), "imports": "PASSED"}
    assert verdicts(nbval_run, "cleared") == expected, nbval_run
