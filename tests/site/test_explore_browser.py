"""explore in the browser: what it decodes and computes is what Python had."""

import functools
import itertools
import re
from collections import Counter

import ipywidgets
import notebooks
import numpy as np
import pytest
import sources
import torch
from axe_playwright_python.sync_playwright import Axe
from cells import Names, explored
from matplotlib import colormaps
from playwright.sync_api import expect

from fieldguide.deployment import right_sizing
from fieldguide.efficiency import lora
from fieldguide.explore import (
    Ready,
    Twin,
    annotate,
    bands,
    bars,
    explore,
    flow,
    heatmap,
    heatmaps,
    lines,
    number,
    payload,
    pictures,
    scatter,
    table,
    tokens,
)
from fieldguide.explore import text as text_view
from fieldguide.explore.drawings import arcs, marks, path, tower
from fieldguide.explore.drawings.arcs import STEPS
from fieldguide.explore.explorer import _plain
from fieldguide.transformers import tokens as bpe

HANG_MS = 300_000  # a machine may be busy; what waits longer hangs
AXES = np.linspace(0.1, 3, 30)


def everything(scale, seed, on, kind):
    """Every kind of view."""
    noise = np.random.default_rng(seed)
    return {
        "Heat": heatmap(scale * noise.random((5, 4)), rows="abcde", unit="m"),
        "Tokens": tokens([kind, "</b>", "c"], scale * noise.random(3)),
        "Lines": lines(AXES, {"sine": np.sin(scale * AXES), "line": AXES * on}),
        "Bars": bars(["<i>", kind], noise.standard_normal(2), low=-3),
        "Scatter": scatter(noise.random(9), noise.random(9), groups=list("abc") * 3),
        "Number": number(np.pi * scale * seed, "nats"),
        "Table": table(["a", "b"], [[kind, scale], [seed, on]]),
        "Text": text_view(f"{kind} at {seed}"),
        "Grey": pictures(noise.random((2, 3, 3))),
        "Colour": pictures((255 * noise.random((2, 3, 3, 3))).astype(np.uint8)),
    }


GRID = {"scale": [0.5, 1.0, 2.0], "seed": [1, 2], "on": [False, True]}
GRID |= {"kind": ["x", "</script>"]}


@pytest.fixture
def show(browser, tmp_path):
    """A function that opens a page from `file:` with explorers, ready to be touched.

    An error in a page, or whatever it says on its console, fails the test in the end.
    """
    pages = []

    def said(page, words):
        if "getImageData" not in words:  # that a test is slow in reading pixels
            page.errors.append(words)

    def open_page(*explorers, width=900, **options):
        body = "".join(e if isinstance(e, str) else e.html() for e in explorers)
        head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title>'
        path = tmp_path / f"page{len(pages)}.html"
        path.write_text(f"{head}<body>{Ready()._repr_html_()}{body}</body></html>")
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        pages.append(page)
        page.set_default_timeout(HANG_MS)
        page.errors = []
        page.on("pageerror", lambda error: said(page, str(error)))
        page.on("console", lambda message: said(page, message.text))
        page.goto(path.as_uri())
        page.wait_for_selector("[data-fg-ready]")
        return page

    yield open_page
    for page in pages:
        assert page.errors == []
        page.close()


READ = """async ([n, params]) => {
  const f = fieldguide.figures[n];
  await f.set(params);
  while (f.frame) await new Promise(requestAnimationFrame);
  const plain = (v) => ArrayBuffer.isView(v) ? [...v] : Array.isArray(v) ? v.map(plain)
    : v && typeof v === "object"
      ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, plain(x)])) : v;
  return plain(f.views());
}"""


def compare(shown, views, steps=None, last_bit=0):
    """What the page shows is what Python computed, as finely as it was stored."""
    assert list(shown) == list(views)
    for index, (title, view) in enumerate(views.items()):
        there = shown[title]
        assert there["kind"] == view.kind
        for name, prop in view.props.items():
            assert there[name] == prop, (title, name)
        for name, array in view.arrays.items():
            assert there[name]["shape"] == list(array.shape)
            off = np.abs(np.reshape(there[name]["values"], array.shape) - array)
            step = (steps or {}).get(f"{index}.{name}", 0)
            assert (off <= 0.51 * step + last_bit + 1e-7 * np.abs(array)).all(), title


def test_the_browser_decodes_what_python_computed(show):
    scale = ipywidgets.SelectionSlider(options=GRID["scale"])
    controls = GRID | {"on": True, "scale": scale}
    explorer = explored(everything, **controls)
    steps = payload.read(explorer.html())["steps"]
    page = show(explorer)
    for setting in itertools.product(*GRID.values()):
        params = dict(zip(GRID, setting, strict=True))
        shown = page.evaluate(READ, [0, params])
        compare(shown, everything(**params), steps)


def test_the_attention_twin_agrees_with_the_notebooks_own_function(show):
    notebook = sources.ROOT / "book/transformers/attention.ipynb"
    cells = Names(notebooks.read(notebook), {})
    data, views = cells["attention_data"], cells["attention_explorer"]
    sentences = ["Why does my code only fail at 2 AM?", "naïve café, Zürich, ψυχή"]
    twin = Twin("attention", ("sentence", "head"), data, bits=64)
    explorer = explore(
        views,
        twin=twin,
        sentence=ipywidgets.Dropdown(options=sentences, value=sentences[0]),
        head=[0, 8],
        temperature=ipywidgets.FloatLogSlider(1, min=-1, max=1, step=0.5),
        scaled=True,
        causal=True,
    )
    page = show(explorer)
    grid = {
        "sentence": sentences,
        "head": [0, 8],
        "temperature": [0.1, 0.7318, 1.0, 9.9],  # the second is off the slider's grid
        "scaled": [False, True],
        "causal": [False, True],
    }
    for setting in itertools.product(*grid.values()):
        params = dict(zip(grid, setting, strict=True))
        # Python's scores are 32-bit: where they are large, so is their last bit.
        scores = data(*setting[:2])["scores"]
        largest = scores.abs().max() / (8 if params["scaled"] else 1)
        last_bit = 1e-6 + float(largest) / params["temperature"] * 2**-23
        compare(page.evaluate(READ, [0, params]), views(**params), last_bit=last_bit)


def typing(text, merges):
    return {"Tokens": number(len(text)), "Token numbers": text_view(text)}


def test_a_text_that_is_typed_is_answered_by_a_twin(show):
    """Letter by letter, in a page without a kernel; a refusal is said."""
    data = {"left": [ord("h"), 256], "right": [ord("i"), ord("p")]}
    data |= {"alphabet": range(256), "special": []}
    sentence = ipywidgets.Combobox(options=["hi", "ho"], value="hi")
    twin = Twin("bpe", (), lambda: data)
    explorer = explored(typing, twin=twin, text=sentence, merges=(0, 2))
    page = show(explorer, explored(everything, **GRID))
    box = page.locator("[data-fg-control=text] input")
    shown = page.locator("[data-fg-view='Token numbers'] p")
    typed = {"h": "104=h", "hi": "256=hi", "hip": "256=hi 112=p"}
    typed["é"] = "195=<C3> 169=<A9>"
    for given, ids in typed.items():
        box.fill(given)
        assert shown.inner_text() == ids
    status = page.locator("[aria-live]").first
    box.fill("")
    assert "type something" in status.inner_text()
    box.fill("x" * 1001)
    assert status.inner_text() == "text is longer than 1,000 characters"
    assert shown.inner_text() == typed["é"]
    box.fill("hip")
    page.evaluate("fieldguide.figures[0].set({merges: 2})")
    assert shown.inner_text() == "257=hip"
    page.locator("[data-fg-link]").first.click()
    link = page.url
    page.locator("[data-fg-reset]").first.click()
    assert shown.inner_text() == "256=hi" and box.input_value() == ""
    page.goto("about:blank")
    page.goto(link)
    assert shown.inner_text() == "257=hip" and box.input_value() == "hip"
    # A text control without a twin has no box: nobody could answer it.
    assert page.locator("[data-fg-explore]").nth(1).locator("[type=text]").count() == 0


CORPUS = "the cat, the hat; 12 é é the rat\n\n  then\n\n  they'll see'll 東 東"


def trained(merges):
    words = Counter(bpe.split_words(CORPUS))
    return bpe.BytePairTokenizer(bpe.learn_merges(words, merges))


def merging(text, merges):
    return bpe.bpe_views(trained(merges), text)


@functools.cache
def smollm2():
    return bpe.BytePairTokenizer(*bpe.smollm2_lists())


def reading(text):
    return bpe.bpe_views(smollm2(), text)


def said_of(page, text, figure=0):
    """What a figure says of a text, written in JavaScript."""
    page.evaluate(f"fieldguide.figures[{figure}].set({{ text: {text} }})")
    return page.locator("[aria-live]").nth(figure).inner_text()


BOX = ipywidgets.Combobox(options=["the", "cat"], value="the")
TYPED = [
    "the hat that",
    " It's 2 AM,\twe'LL  see:  12.5\r\n\n x_y __z \x85\xa0\u2003 5",
    "<|im_start|>user\n<|im_end|><|im_en naïve ½ ² ٣ 東京 🙂 👩‍👩‍👧 e\u0301\ufeff",
    "'s'tx'llama '9's  \x1c\x00 \u3000\u3000a \n\n 7",
    " " * 40 + "-" * 70,
]


def test_the_bpe_twin_agrees_with_the_notebooks_own_function(show):
    """In a small vocabulary at any number of merges, and in SmolLM2's whole one."""
    learned = trained(99)
    small = Twin("bpe", (), lambda: bpe.bpe_data(learned))
    whole = Twin("bpe", (), lambda: bpe.bpe_data(smollm2()))
    most = len(learned.rank)
    trained_here = explored(merging, twin=small, text=BOX, merges=(0, most))
    page = show(trained_here, explored(reading, twin=whole, text=BOX))
    random = np.random.default_rng(0)
    letters = [*" \n\t'stlv5a.½é東_", "the", "  ", "\u2028", "🙂", "<|im_end|>"]
    typed = TYPED + ["".join(random.choice(letters, 25)) for _ in range(25)]
    for k, given in enumerate(typed):
        merges = k % (most + 1)
        params = {"text": given, "merges": merges + 0.5 * (k % 2)}
        compare(page.evaluate(READ, [0, params]), merging(given, merges))
        compare(page.evaluate(READ, [1, {"text": given}]), reading(given))
    assert "half a character" in said_of(page, "'\\ud800'", 1)
    assert "the byte 4, which has no token" in said_of(page, "'a\\x04'", 1)
    page.evaluate("fieldguide.figures[1].set({text: '🙂'.repeat(1000)})")
    page.wait_for_function("fieldguide.figures[1].shown.Tokens.value.values[0] > 999")


def learning(text, merges):
    return bpe.training(text, merges)


def test_the_training_twin_agrees_with_the_notebooks_own_function(show):
    explorer = explored(learning, twin=Twin("train", (), dict), text=BOX, merges=(0, 9))
    page = show(explorer)
    for k, given in enumerate([CORPUS, *TYPED, "aaaaaaa", "x", "🙂" * 300]):
        for merges in 0, 1, k, 60:
            params = {"text": given, "merges": merges + 0.5 * (k % 2)}
            compare(page.evaluate(READ, [0, params]), learning(given, merges))
    assert "half a character" in said_of(page, "'\\ud800'")
    assert "longer than 300" in said_of(page, "'x'.repeat(301)")
    assert "Nothing to count" in said_of(page, "''")


KNOWN = ["a", "heat", "is", "roof", "rot", "what"]
VOTES = np.random.default_rng(0).normal(0, 1.5, (3, len(KNOWN)))
DESKS, LEAD = ["taxes", "permits", "repairs"], [0.13, -0.21, 0.0]
ASKING = [
    "What is a roof?",
    "ROT: rot, Rot & new-built heat",
    "naïve İ ½ — What IS",
    "nothing 12 known",
]


def voting(question, desk):
    rows = torch.tensor(VOTES, dtype=torch.float32), torch.tensor(LEAD)
    return right_sizing.vote_views(question, desk, KNOWN, DESKS, *rows)


def test_the_votes_twin_agrees_with_the_notebooks_own_function(show):
    data = {"words": KNOWN, "desks": DESKS, "weight": VOTES, "bias": np.array(LEAD)}
    twin = Twin("votes", (), lambda: data, bits=32)
    asked = ipywidgets.Combobox(options=ASKING, value=ASKING[0])
    page = show(explored(voting, twin=twin, question=asked, desk=DESKS))
    random = np.random.default_rng(1)
    drawn = [" ".join(random.choice([*KNOWN, "new", "Oh!"], 7)) for _ in range(20)]
    for k, question in enumerate([*ASKING, *drawn]):
        params = {"question": question, "desk": DESKS[k % 3]}
        compare(page.evaluate(READ, [0, params]), voting(**params), last_bit=1e-6)
    long = " ".join("b" * i for i in range(1, 51))
    for wrong, why in ("12?", "No word"), (long, "more than 49"):
        page.evaluate("q => fieldguide.figures[0].set({ question: q })", wrong)
        assert why in page.locator("[aria-live]").inner_text()


def test_what_is_not_on_the_grid_is_refused(show):
    page = show(explored(everything, **GRID))
    with pytest.raises(Exception, match=r"scale = 0\.7 is not one of"):
        page.evaluate(READ, [0, {"scale": 0.7}])
    with pytest.raises(Exception, match="no control size"):
        page.evaluate(READ, [0, {"size": 1}])


def test_a_canvas_shows_the_colours_of_its_values(show):
    ramp = explored(lambda x: {"R": heatmap([[0, 0.5 * x]], low=0, high=1)}, x=(1, 2))
    page = show(ramp)
    pixel = """async (x) => { const figure = fieldguide.figures[0];
      await figure.set({ x });
      while (figure.frame) await new Promise(requestAnimationFrame);
      const c = document.querySelector("canvas"), f = c.place;
      const at = [f.left + 1.5 * f.cell, f.top + f.tall / 2].map(Math.round);
      return [...c.getContext("2d").getImageData(...at, 1, 1).data]; }"""
    for x in (1, 2):
        expected = [round(255 * v) for v in colormaps["viridis"](0.5 * x)]
        found = page.evaluate(pixel, x)
        np.testing.assert_allclose(found, expected, atol=3)


def test_curves_read_out_what_was_computed(show):
    """Over eight decades, and beside a curve that is a million times as large."""
    far, near = np.logspace(-8, 0, 9) * 1.2345, np.linspace(0, 8, 9)
    curves = {"small": 1e-6 * near**2, "large": 1e3 - near, "flat": near * 0 + 0.123}

    def drawn(x):
        both = {"x_log": True, "y_log": True}
        return {
            "Far": lines(far, {"down": x / far, "up": far**2}, **both),
            "Near": lines(near, {name: x * y for name, y in curves.items()}),
            "Dots": scatter([0.125, 1e6], [1e-9 * x, 1]),
        }

    page = show(explored(drawn, x=[1, 2]))
    shown = page.evaluate(READ, [0, {"x": 2}])["Far"]
    np.testing.assert_allclose(shown["x"]["values"], far, rtol=1e-7)
    wanted = [*(2 / far), *far**2]
    np.testing.assert_allclose(shown["y"]["values"], wanted, rtol=1e-7)
    near_by = page.locator("[data-fg-view=Near] svg").first
    near_by.focus()
    for k in range(9):
        page.keyboard.press("ArrowRight")
        told = page.locator(".fg-pointed").inner_text()
        small, large, flat = (2 * y[k] for y in curves.values())
        assert told.endswith(f"large {large:,.0f}, flat {flat:.3f}"), told
        shown = float(told.split("small ")[1].split(",")[0])
        assert shown == pytest.approx(small, rel=2e-3, abs=1e-9)
    label = page.locator("[data-fg-view=Far] svg").first.get_attribute("aria-label")
    assert label == "Far: down from 1.62e+8 to 1.62, up from 1.52e-16 to 1.52"
    page.locator("[data-fg-view=Dots] svg").first.focus()
    page.keyboard.press("ArrowRight")
    told = page.locator(".fg-pointed").inner_text()
    assert told == "1: x 0, y 0", "finer than it was stored"


def test_a_figure_that_is_not_in_view_shows_its_still(show):
    """On the screen, which a picture of the whole page shows, and on emulated paper."""
    (head, rest), size = explored(everything, **GRID).html().split("\n", 1), 200
    drawn = f"<svg xmlns='http://www.w3.org/2000/svg' width='{size}' height='{size}'/>"
    still = '<img class="fg-still" alt="" data-fg-tall="300 300" '
    still += f'src="data:image/svg+xml,{drawn}">'
    page = show(*["\n".join([head, still, rest])] * 3)
    last = page.locator("[data-fg-explore]").nth(2)
    still, views = last.locator(".fg-still"), last.locator(".fg-views")
    for media in "screen", "print":
        page.emulate_media(media=media)
        assert still.is_visible() and still.bounding_box()["width"] == size
        assert last.get_attribute("data-fg-ready") is None
        assert not views.is_visible()
        first = page.locator("[data-fg-explore]").first
        assert first.locator(".fg-views").is_visible()
        assert first.locator(".fg-still").count() == 0
    page.emulate_media(media="screen")
    last.scroll_into_view_if_needed()
    last.and_(page.locator("[data-fg-ready]")).wait_for()
    assert views.is_visible() and still.count() == 0


def test_paper_is_never_dark(show):
    """A canvas is drawn anew for it; its words would be light on white."""
    page = show(explored(everything, **GRID))
    page.add_style_tag(content=":root{--pst-color-text-base:#eee}")
    page.evaluate("fieldguide.figures[0].repaint()")
    words = """() => { const c = document.querySelector("[data-fg-view=Heat] canvas");
      const pen = c.getContext("2d"), shades = [];
      const { data } = pen.getImageData(0, 0, c.place.left - 3, c.height);
      for (let i = 0; i < data.length; i += 4)
        if (data[i + 3] > 200) shades.push(data[i]);
      return [Math.min(...shades), Math.max(...shades)]; }"""
    assert page.evaluate(words)[0] > 200
    page.emulate_media(media="print")
    page.wait_for_function(f"({words})()[1] < 50")
    page.emulate_media(media="screen")
    page.wait_for_function(f"({words})()[0] > 200")


def test_the_keyboard_reads_cells_and_the_status_says_them(show):
    def grid(x):
        values = [[1.0, 2.0], [3.0, 4.0 * x]]
        return {"Grid": heatmap(values, rows=["a", "b"], columns=["c", "d"], unit="m")}

    page = show(explored(grid, x=(1, 2)))
    canvas = page.locator("canvas")
    assert "largest 4 m at row b, column d" in canvas.get_attribute("aria-label")
    canvas.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    status = page.locator("[aria-live=polite]")
    assert status.inner_text() == "b, d: 4 m"
    page.locator("input[type=range]").press("End")
    expect(status).to_contain_text("largest 8 m", timeout=HANG_MS)


# ---- what a reader touches --------------------------------------------------

NAMES = ["even", "own", "late"]
WORDS = ["the", "cat", "saw", "the", "dog"]
SEEN = np.tril(1 / np.arange(1, 6)[:, None] * np.ones((5, 5)))
MAPS = np.stack([SEEN, np.eye(5), SEEN[::-1]])


def touched(query, head):
    """Where it looks."""
    head = NAMES.index(head)
    weights = MAPS[head, query]
    masked = [k > query for k in range(5)]
    labels = {"titles": NAMES, "row_labels": WORDS, "column_labels": WORDS}
    both = {"row": "head", "column": "query"}
    return {
        "Sentence": tokens(WORDS, weights, high=1, masked=masked, sets="query"),
        "Heads": heatmaps(
            MAPS, **labels, columns=3, sets={"map": "head", "row": "query"}
        ),
        "Map": heatmap(MAPS[:, :, 0], rows=NAMES, columns=WORDS, sets=both),
        "Bars": bars(WORDS, weights, sets="query"),
        "Bands": bands(
            WORDS, NAMES, MAPS[:, query].T, sets={"left": "query", "right": "head"}
        ),
        "Curve": lines(
            range(5), {"a": MAPS[head, :, 0]}, x_axis="position", sets="query"
        ),
        "Dots": scatter(range(3), range(3), labels=NAMES, sets="head"),
        "Flow": flow(
            {"in": MAPS[head], "row": (weights, WORDS[query]), "out": None},
            [("in", "row", "pick"), ("row", "out")],
            sets="head",
        ),
    }


CONTROLS = {"query": ipywidgets.IntSlider(1, 0, 4), "head": NAMES}
AT = """() => { const { query, head } = fieldguide.figures[0].params;
  return [query, head]; }"""


@pytest.fixture
def touchable(show):
    """A function that opens the page above, so wide or with such options."""

    def open_page(width=900, call=None, **options):
        explorer = explored(touched, **CONTROLS, **(call or {}))
        return show(explorer, width=width, **options)

    return open_page


def view(page, title):
    return page.locator(f"[data-fg-view='{title}']")


def cell(page, row, column):
    """Where a cell of the heatmap lies on its canvas."""
    return page.evaluate(
        """([i, j]) => { const c = document.querySelector("[data-fg-view=Map] canvas");
        const { left, top, cell, tall } = c.place;
        return { x: left + cell * (j + 0.5), y: top + tall * (i + 0.5) }; }""",
        [row, column],
    )


@pytest.mark.parametrize("way", ["click", "tap"])
def test_what_is_pressed_sets_its_control(touchable, way):
    """By a mouse, and by a finger on a phone."""
    finger = way == "tap"
    page = touchable(360 if finger else 900, has_touch=finger)

    def press(node, place=None):
        node.scroll_into_view_if_needed()
        getattr(node, way)(**({"position": place} if place else {}))
        page.wait_for_function("!fieldguide.figures[0].frame")
        return page.evaluate(AT)

    assert press(view(page, "Sentence").locator("button").nth(4)) == [4, "even"]
    assert press(view(page, "Heads").locator("button").nth(2)) == [4, "late"]
    canvas = view(page, "Map").locator("canvas")
    assert press(canvas, cell(page, 1, 3)) == [3, "own"]
    name = cell(page, 0, 0)
    assert press(canvas, {**name, "x": 4}) == [3, "even"], "a row's name sets the row"
    assert press(view(page, "Bars").locator("li").nth(2)) == [2, "even"]
    assert press(view(page, "Bands").locator("text", has_text="own")) == [2, "own"]
    ribbon = view(page, "Bands").locator("path[data-fg-band='1 0']")
    ribbon.dispatch_event("click")
    assert page.evaluate(AT) == [1, "even"]
    curve = view(page, "Curve").locator("svg").first
    size = curve.bounding_box()
    assert press(curve, {"x": size["width"] - 20, "y": 80}) == [4, "even"]
    dot = view(page, "Dots").locator("circle").nth(2)
    dot.scroll_into_view_if_needed()
    spot = dot.bounding_box()
    x, y = (spot[a] + spot[b] / 2 for a, b in (("x", "width"), ("y", "height")))
    page.touchscreen.tap(x, y) if finger else page.mouse.click(x, y)
    assert page.evaluate(AT) == [4, "late"]
    assert press(view(page, "Flow").locator(".fg-node").nth(1)) == [4, "own"]


@pytest.mark.parametrize("finger", [False, True])
def test_a_knob_is_dragged_and_the_page_stays(touchable, finger):
    page = touchable(360 if finger else 900, has_touch=finger)
    knob = view(page, "Curve").locator(".fg-grip")
    knob.scroll_into_view_if_needed()
    place, top = knob.bounding_box(), view(page, "Curve").bounding_box()["y"]
    x, y = (place[a] + place[b] / 2 for a, b in (("x", "width"), ("y", "height")))
    send, far = page.context.new_cdp_session(page).send, 2000
    for kind, dx, dy in [("Start", 0, 0), ("Move", 40, -30), ("Move", far, -90)]:
        point = {"x": x + dx, "y": y + dy}
        if finger:
            send(
                "Input.dispatchTouchEvent",
                {"type": f"touch{kind}", "touchPoints": [point]},
            )
        else:
            page.mouse.move(**point)
            if kind == "Start":
                page.mouse.down()
    page.wait_for_function("fieldguide.figures[0].params.query === 4")
    assert abs(view(page, "Curve").bounding_box()["y"] - top) < 5
    assert view(page, "Curve").locator(".fg-grip").get_attribute("aria-valuenow") == "4"


def risen(letter, level):
    view = tower(
        "abc",
        np.random.default_rng(0).normal(size=(5, 3, 4)),
        arcs=np.tril(np.full((2, 3, 4), 0.2), 1),
        guesses=["bcd", "xcd", "xyd"],
        probabilities=np.full((3, 3), 0.5),
        chosen=("abc".index(letter), level),
        notes={("MLP", 1): "by itself"},
        sets={"column": "letter", "level": "level"},
    )
    return {"Tower": view}


@pytest.mark.parametrize("width", [900, 320])
def test_a_tower_is_chosen_by_click_and_by_keys(show, width):
    page = show(
        explored(risen, letter=[*"abc"], level=(0, 2), play="level"), width=width
    )
    box = view(page, "Tower")

    def sets(letter, level):
        wanted = f"{{ letter, level }}) => letter + level === '{letter}{level}'"
        page.wait_for_function(f"(({wanted})(fieldguide.figures[0].params)")

    box.get_by_text("d", exact=True).nth(2).click()
    sets("c", 2)
    for keys, letter, level in [
        ("ArrowLeft ArrowDown", "b", 1),
        ("Home ArrowLeft ArrowLeft", "a", 0),
        ("End ArrowUp", "a", 2),
    ]:
        for key in keys.split():
            page.keyboard.press(key)
        sets(letter, level)
    box.locator(".fg-chip").nth(1).click()
    sets("b", 2)
    hidden = box.locator("g[opacity='0'] > rect[rx='3']")
    page.get_by_role("button", name="Play level").click()
    page.wait_for_function("fieldguide.figures[0].params.level === 1")
    assert hidden.count() == 6  # what the levels above would say
    box.get_by_text("x", exact=True).first.click()
    sets("a", 1)
    expect(hidden).to_have_count(0)
    right = box.locator("rect[rx='3'][fill='var(--fg-prob)']")
    assert right.count() == 3  # b after a, once, and c after b, twice


def two_ways(step, share):
    """Two ways, and words in marks.

    Drag both.
    """
    ways = {"one": {k: (k, k * k) for k in range(4)}, "other": {9: (0, 1), 7: (3, 8)}}
    shown = path(
        ways, at=[step, share], limit=(2, "no further"), sets=["step", "share"]
    )
    weights = [0.9, 0.1, 0]
    vectors = np.ones((3, 3, 4))
    chips = marks("abc", vectors, weights, operation="MLP", sets="step")
    return {"Ways": annotate(shown, {(3, 9): "the end"}), "Marks": chips}


@pytest.mark.parametrize("width", [900, 360])
def test_each_way_has_a_knob_and_each_word_is_a_button(show, width):
    page = show(explore(two_ways, step=(0, 3), share=[9, 7], play="step"), width=width)
    params = "Object.values(fieldguide.figures[0].params)"
    for knob, keys, at in [(0, "End ArrowLeft", [2, 9]), (1, "ArrowRight", [2, 7])]:
        view(page, "Ways").locator(".fg-grip").nth(knob).focus()
        for key in keys.split():
            page.keyboard.press(key)
        assert page.evaluate(params) == at
    drawn = view(page, "Ways").locator("svg").first
    expect(drawn).to_have_attribute("aria-label", re.compile("one, at 2:.*the end"))
    view(page, "Marks").locator("[role=button]").nth(1).click()
    assert page.evaluate(params) == [1, 7]
    page.wait_for_function("!fieldguide.figures[0].frame")
    knobs = view(page, "Ways").locator(".fg-grip")
    assert knobs.evaluate_all("all => all.map(one => one.ariaValueText)") == ["1", "7"]
    assert page.locator(".fg-buttons a").count() == 0, "no link out of the book's site"


def test_keys_choose_what_a_pointer_can(touchable):
    page = touchable()

    focused = "document.activeElement.closest('[data-fg-view]').dataset.fgView"
    for title, keys, at in [
        ("Sentence", "Tab ArrowRight ArrowRight Enter", [3, "even"]),
        ("Sentence", "Home Space", [0, "even"]),
        ("Heads", "Tab ArrowRight Enter", [0, "own"]),
        ("Map", f"Tab {'ArrowRight ' * 4} ArrowDown Enter", [3, "own"]),
        ("Bars", "Tab ArrowUp Enter", [2, "own"]),
        ("Bands", "Tab ArrowRight ArrowRight ArrowDown Enter", [1, "own"]),
        ("Curve", "Tab ArrowRight Enter ArrowRight Enter", [1, "own"]),
        ("Curve", "Tab End", [4, "own"]),
        ("Curve", "ArrowLeft Home ArrowLeft ArrowRight", [1, "own"]),
        ("Dots", "Tab ArrowRight ArrowRight Enter", [1, "own"]),
        ("Flow", "Tab ArrowRight Enter", [1, "own"]),
    ]:
        for key in keys.split():
            page.keyboard.press(key)
        assert page.evaluate(AT) == at
        assert page.evaluate(focused) == title, "a new picture keeps the focus"


def test_the_tree_says_title_setting_and_values(touchable):
    page = touchable(call={"play": "query"})
    for title, tree in {
        "Sentence": """
            - heading "Sentence" [level=4]
            - group "Sentence":
              - button "the 0.5"
              - button "cat 0.5" [pressed]
              - button "saw ·"
              - button "the ·"
              - button "dog ·"
            """,
        "Heads": """
            - group "Heads":
              - 'button "even: the, the: 1" [pressed]'
              - 'button "own: the, the: 1"'
              - 'button "late: dog, the: 1"'
            """,
        "Map": """
            - application /Map. largest 1 at row even, column the. .*Enter chooses it/
            """,
        "Flow": """
            - group "Flow":
              - paragraph:
                - button "in" [pressed]
                - text: 5 \u00d7 5
              - img /in, 5 \u00d7 5 from 0 to 1/
              - paragraph:
                - button "row"
                - text: "5"
              - paragraph: cat
              - img "row 0.5, 0.5, 0, 0, 0"
              - paragraph:
                - button "out"
            """,
    }.items():
        expect(view(page, title)).to_match_aria_snapshot(tree)
    items = view(page, "Bars").get_by_role("list").get_by_role("listitem").all()
    for item, word, weight in zip(items, WORDS, ["0.5"] * 2 + ["0"] * 3, strict=True):
        button = f'button "{word}"{" [pressed]" if word == "cat" else ""}'
        tree = f'- listitem:\n  - {button}\n  - text: "{weight}"'
        expect(item).to_match_aria_snapshot(tree)
    label = view(page, "Bands").locator("svg").get_attribute("aria-label")
    assert label.startswith("Bands: ") and "the to even 0.5" in label
    figure = page.locator(".fg").aria_snapshot()
    assert 'slider "query"' in figure and 'button "Play query"' in figure


ASKED = {"predict": "How many look at cat?", "answer": "Two: even and own."}


def test_a_question_is_answered_after_a_guess_or_when_asked(touchable):
    """Never by itself; the guess stays beside the answer."""
    page = touchable(call=ASKED)
    answer, guess = page.get_by_text("Two: even"), page.get_by_label("Your guess")
    assert page.get_by_text("How many look at cat?").is_visible()
    page.locator("input[type=range]").press("ArrowRight")
    view(page, "Sentence").locator("button").first.click()
    guess.press("Enter")
    assert not answer.is_visible(), "moves are no guess, and nor are no words"
    assert "Two" not in page.locator(".fg").aria_snapshot()
    guess.fill("three")
    guess.press("Enter")
    assert answer.is_visible() and not guess.is_visible()
    told = page.evaluate("document.activeElement.textContent")
    assert told == "You guessed: three Two: even and own."
    again = touchable(call=ASKED)
    again.get_by_text("Just tell me").press("Enter")
    assert again.evaluate("document.activeElement.textContent") == ASKED["answer"]

    few = touchable(call=ASKED | {"options": ["one", "two"]})
    few.get_by_role("button", name="two").press("Enter")
    told = few.evaluate("document.activeElement.textContent")
    assert told == "You guessed: two Two: even and own."
    marked = touchable(call=ASKED | {"options": "query"})
    marked.get_by_label("Your guess").press("End")
    assert marked.evaluate("fieldguide.figures[0].params.query") != 4
    marked.get_by_text("Compare").press("Enter")
    assert view(marked, "Curve").get_by_text("your guess").is_visible()


VALUES = [[1, -1, 0.6], [0, 0.4, 1], [0.6, 1, -1], [1, 1, 1]]  # in fifteenths
LOOKS = {
    "a": [1, 0, 0, 0],
    "b": [0.4, 0.6, 0, 0],
    "c": [0.5, 0.2, 0.3, 0],
    "d": [0.1, 0.6, 0, 0.3],
}


def looked(asks):
    at, lookup = "abcd".index(asks), {"values": VALUES, "keys": VALUES}
    sets = {"word": "asks", "step": "step"}
    view = arcs("abcd", LOOKS[asks], at, lookup=lookup, sets=sets)
    return {"Looks": view}


@pytest.mark.parametrize("width", [900, 340])
def test_what_a_word_takes_is_drawn_to_scale(show, width):
    """Arcs are together as wide as 1; the cells of the blend are its numbers."""
    page = show(explored(looked, asks=list("abcd"), step=STEPS), width=width)
    for asks in "cda":
        page.locator(f"[data-fg-key='{asks} 1']").click()
        page.wait_for_timeout(400)
        weights = np.array(LOOKS[asks])
        wide = page.locator("path[data-fg-weight]").evaluate_all(
            "nodes => nodes.map(n => Number(n.getAttribute('stroke-width')))"
        )
        assert sum(wide) == pytest.approx(34 if width > 560 else 22, rel=0.01)
        cells = page.locator("[data-fg-strip=blend] rect[fill-opacity]").evaluate_all(
            """nodes => nodes.map(n => n.getAttribute("fill-opacity") ** 1.25 *
            (n.getAttribute("fill").includes("minus") ? -1 : 1))"""
        )
        assert np.allclose(cells, weights @ VALUES, atol=0.01)
        assert page.get_by_text(f"“{asks}” comes to").is_visible()
    page.locator("input[type=range], select").last.press("End")
    assert page.get_by_text("“a” looks back").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def curved(x):
    curve = lines([0, 5, 10], {"up": [0, x, 10]}, x_axis="time")
    return {"Curve": annotate(curve, {(5, 1): "it has begun", (10, 10): "the end"})}


def noted(x):
    return {
        "Map": annotate(heatmap([[x, 1]], columns=["a", "b"]), {(0, "b"): "one"}),
        "Bars": annotate(bars(["a", "b"], [x, 1]), {"b": "a bar of one"}),
    }


@pytest.mark.parametrize("width", [900, 360])
def test_words_stand_on_a_drawing_or_below_it(show, width):
    """Where there is room, beside the place and off the curve; on a phone, a number."""
    page = show(*(explored(each, x=[1, 2]) for each in (curved, noted)), width=width)
    curve = view(page, "Curve").locator("svg").first
    assert curve.get_attribute("aria-label").endswith(". it has begun. the end")
    assert view(page, "Bars").get_by_text("a bar of one").is_visible()
    assert view(page, "Map").locator("ol").inner_text() == "one"
    below = view(page, "Curve").locator("ol")
    if width == 360:
        assert curve.locator("text.fg-pin").all_text_contents() == ["1", "2"]
        assert below.inner_text() == "it has begun\nthe end"
    else:
        boxes = [each.bounding_box() for each in curve.locator(".fg-remark").all()]
        rings = [
            each.bounding_box() for each in curve.locator("circle.fg-leader").all()
        ]
        assert below.count() == 0 and len(boxes) == len(rings) == 2
        for box, ring in zip(boxes, rings, strict=True):
            across = max(box["x"] - ring["x"], ring["x"] - box["x"] - box["width"])
            down = max(box["y"] - ring["y"], ring["y"] - box["y"] - box["height"])
            assert 0 < max(across, down) < 60, "beside its place"


def stored_figure(notebook, cell):
    """The figure that a page stores for a cell."""
    cells = {c.id: c for c in sources.in_order()[notebook].cells}
    (output,) = (o for o in cells[cell].outputs if "text/html" in o.get("data", {}))
    return output["data"]["text/html"]


def test_a_matrix_and_its_strips_are_to_scale_and_counted(show):
    page = show(stored_figure("efficiency/lora", "adapter-widget"))
    drawing = page.locator("[data-fg-kind=shapes] svg").first
    layer = lora.LoRALinear(torch.nn.Linear(1024, 1024, bias=False), rank=16)
    counts = {"frozen": 0, "trained": 0}
    for p in layer.parameters():
        counts["trained" if p.requires_grad else "frozen"] += p.numel()
    for kind, count in counts.items():
        assert f"{count:,}" in drawing.get_attribute("aria-label"), kind
        assert drawing.get_by_text(f"{count:,}").first.is_visible()
    W, A, _ = (each.bounding_box() for each in drawing.locator("rect").all()[:3])
    assert A["height"] / W["height"] == pytest.approx(16 / 1024, rel=0.01)
    corner = page.get_by_role("slider", name="width").first.bounding_box()
    x, y = corner["x"] + 22, corner["y"] + 22
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 300, y + 300)
    page.wait_for_function("fieldguide.figures[0].params.width === 12288")
    page.mouse.up()
    page.get_by_role("slider", name="rank").first.press("Home")
    drawing.get_by_text("To scale, a strip would be 0.02 px").wait_for()


def test_the_shares_of_who_asks_add_up_and_a_cell_is_read(show):
    figure = stored_figure("multimodal/contrastive", "matrix-explore")
    page = show(figure)
    for asks, axis in [("each picture", 1), ("each caption", 0)]:
        setting = {"step": 100, "temperature": 0.07, "asks": asks}
        shares = page.evaluate(READ, [0, setting])["Pictures and captions"]["shares"]
        table = np.reshape(shares["values"], shares["shape"])
        np.testing.assert_allclose(table.sum(axis), 1, atol=1e-3)
    drawing = page.locator("[data-fg-kind=match] svg")
    drawing.press("ArrowRight")
    expect(page.locator(".fg-status")).to_contain_text("picture frog, caption frog")
    assert drawing.get_by_text("° apart").is_visible()


def test_a_view_goes_from_setting_to_setting_and_stays_itself(show):
    """Bars of the same names move; other names, and calm readers, change at once."""

    def grown(size, name):
        return {"Bar": bars([name], [size], high=10), "Size": number(size)}

    grown = explored(grown, size=[0, 10], name=["a", "b"])
    first = """(params) => { const figure = fieldguide.figures[0];
      figure.set(params);
      return figure.drawn.Bar.values.values[0]; }"""
    page = show(grown)
    assert 0 < page.evaluate(first, {"size": 10}) < 5
    assert view(page, "Size").inner_text().endswith("10")
    page.wait_for_function("!fieldguide.figures[0].frame")
    assert view(page, "Bar").locator(".fg-value").inner_text() == "10"
    assert page.evaluate(first, {"size": 0, "name": "b"}) == 0
    page = show(grown, reduced_motion="reduce")
    assert page.evaluate(first, {"size": 10}) == 10


def test_play_steps_to_the_end_and_stops(touchable):
    page = touchable(call={"play": "query"})
    button = page.get_by_role("button", name="Play query")
    assert button.inner_text() == "Play"
    assert page.evaluate(AT) == [1, "even"]
    width = page.locator("[data-fg-play]").bounding_box()["width"]
    seen = page.evaluate("""() => new Promise((done) => {
        const seen = [], figure = fieldguide.figures[0], button = "[data-fg-play]";
        const { paint } = figure;
        figure.paint = (views) => {
          paint.call(figure, views);
          seen.push([figure.params.query, document.querySelector(button).textContent]);
          if (seen.length > 9) done(seen); // it does not stop
        };
        new MutationObserver(() => {
          if (document.querySelector(button).textContent === "Play") done(seen);
        }).observe(document.querySelector(button), { childList: true });
        document.querySelector(button).click();
    })""")
    assert seen == [[k, "Pause"] for k in range(5)]  # from the first, not the start
    assert page.locator("[data-fg-play]").bounding_box()["width"] == width
    button.click()  # again, from the first value
    page.wait_for_function("fieldguide.figures[0].params.query === 0")
    page.get_by_role("button", name="Pause query").click()
    button.wait_for()
    # A hand on the control stops it; one on another does not.
    button.click()
    page.get_by_role("button", name="Pause query").wait_for()
    page.locator("select").select_option(index=1)
    assert page.locator("[data-fg-play]").inner_text() == "Pause"
    view(page, "Sentence").locator("button").first.click()
    assert page.locator("[data-fg-play]").inner_text() == "Play"
    assert page.evaluate(AT) == [0, "own"]


def test_play_is_by_hand_where_motion_is_not_wanted(touchable):
    page = touchable(call={"play": "query"}, reduced_motion="reduce")
    for query in (2, 3, 4, 0):
        page.get_by_role("button", name="Step query").press("Enter")
        assert page.evaluate(AT) == [query, "even"]
        assert page.evaluate("fieldguide.figures[0].playing ?? null") is None


PAINTED = """(node) => [getComputedStyle(node, "::before").backgroundColor,
  ...["backgroundColor", "backgroundImage", "boxShadow"].map(
    (name) => getComputedStyle(node)[name])]"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_forced_colours_leave_what_carries_a_value(touchable, scheme):
    """A reader's own few colours: bars, tints, rings and the triangle stay."""
    look = {"color_scheme": scheme, "forced_colors": "active"}
    page = touchable(call={"play": "query"}, **look)
    paper = "rgb(255, 255, 255)", "rgb(0, 0, 0)"
    strip = view(page, "Sentence").locator("button")
    _, bar, _, _ = view(page, "Bars").locator("i").first.evaluate(PAINTED)
    triangle, button, _, _ = page.locator("[data-fg-play]").evaluate(PAINTED)
    assert bar not in paper and triangle != button
    looks = strip.evaluate_all(f"nodes => nodes.map({PAINTED})")
    assert all("gradient" in image for _, _, image, _ in looks), "tints become bars"
    assert looks[0][3] != looks[1][3], "the chosen word has a ring"
    nodes = view(page, "Flow").locator(".fg-node")
    assert len({n[3] for n in nodes.evaluate_all(f"n => n.map({PAINTED})")}) == 2


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 360, 320])
def test_what_is_touched_fits_and_is_accessible(touchable, width, dark):
    look = {"color_scheme": "dark" if dark else "light", "reduced_motion": "reduce"}
    call = {"predict": "Which?", "answer": "The long one " * 9, "play": "query"}
    page = touchable(width, call=call, **look)
    page.add_style_tag(
        content=""":root { --pst-color-text-muted: #48566b }
          @media (prefers-color-scheme: dark) { :root { color-scheme: dark;
          --pst-color-text-base: #ced6dd; --pst-color-background: #14181e;
          --pst-color-surface: #222832; --pst-color-text-muted: #9ca4af } }
          body { background: var(--pst-color-background, #fff) }"""
    )
    assert page.evaluate("innerWidth - document.documentElement.scrollWidth") >= 0
    boxes = view(page, "Flow").locator(".fg-node")
    left = boxes.evaluate_all("nodes => new Set(nodes.map(n => n.offsetLeft)).size")
    assert left == (3 if width == 1280 else 1), "columns of a flow; on a phone, one"
    tags = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "preload": False}
    for setting in [{}, {"query": 4, "head": "late"}]:
        page.evaluate(READ, [0, setting])
        found = Axe().run(page, options=tags).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []


def test_paper_shows_the_picture_and_the_answer(touchable):
    page = touchable(call={"predict": "Which?", "answer": "This one."})
    page.emulate_media(media="print")
    assert page.get_by_text("This one.").is_visible()
    assert not page.get_by_text("Just tell me").is_visible()
    assert not page.locator(".fg-controls").is_visible()
    for title in ("Sentence", "Heads", "Bands", "Flow"):
        assert view(page, title).is_visible()


PICTURES = """() => ["Grey", "Colour"].map((title) => [
  ...document.querySelectorAll(`[data-fg-view=${title}] canvas`),
].map((canvas) => canvas.toDataURL()))"""


def test_what_a_kernel_answers_is_drawn_as_what_the_page_holds(show):
    """It comes as plain lists, where the page unpacks typed arrays."""
    page = show(explored(everything, **GRID))
    page.evaluate(READ, [0, {"seed": 2, "kind": "x"}])
    held = page.evaluate(PICTURES)
    assert [len(group) for group in held] == [2, 2]
    page.evaluate(READ, [0, {"seed": 1}])
    assert page.evaluate(PICTURES) != held
    views = _plain(everything(0.5, 2, True, "x"))
    for title, view in views.items():
        view["title"] = title
    page.evaluate("(views) => fieldguide.figures[0].paint(views)", views)
    assert page.evaluate(PICTURES) == held


def test_what_was_pointed_at_is_not_said_of_another_setting(show):
    page = show(explored(lambda x: {"L": lines([1, 2], {"y": [x, 1]})}, x=(1, 9)))
    page.locator(".fg-view svg").first.focus()
    said = page.locator(".fg-pointed")
    for key in ("ArrowUp", "End"):
        page.keyboard.press("ArrowRight")
        expect(said).to_contain_text("y ")
        slider = page.locator("input[type=range]")
        slider.focus()
        page.keyboard.press(key)
        expect(said).to_have_text("")
        page.locator(".fg-view svg").first.focus()
    page.keyboard.press("ArrowRight")
    expect(said).to_contain_text("y ")
    page.locator("[data-fg-reset]").click()
    expect(said).to_have_text("")


def test_no_value_is_shown_finer_than_it_was_stored(show):
    def shares(x):
        return {
            "Coarse": heatmap([[1e-9 * x, 0.4321, 1.0]], low=0, high=1),
            "Exact": bars("abc", [1e-9 * x, 0.4321, 1.0]),
            "Large": bars("abc", [16_777_216 + x, 1e39 * x, 0.1]),
        }

    page = show(explored(shares, x=(1, 2)))
    values = page.locator(".fg-value").all_inner_texts()
    assert values == ["1e-9", "0.432", "1", "16,777,217", "1e+39", "0.1"]
    page.locator("canvas").focus()
    read = []
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        read.append(page.locator(".fg-pointed").inner_text())
    assert read == ["1, 1: 0", "1, 2: 0.43", "1, 3: 1"]


def test_a_link_in_jupyterlab_moves_the_nearest_figure_above(show):
    """Each as it is written in the notebook; one that means nothing is left alone."""
    figure = explored(everything, **GRID | {"on": True}).html()
    links = "scale=2.0&on=off", "everything?kind=x&seed=2", "doubled?seed=2"
    body = "".join(f'<p><a href="#fig:{link}">{link}</a></p>' for link in links)
    below = explored(touched, **CONTROLS).html()
    page = show('<div class="jp-NotebookPanel">', figure, body, below, "</div>")
    params = "fieldguide.figures.map(f => f.params)"
    before = page.evaluate(params)
    for link in page.locator("a").all():
        link.click()
    wanted = {"scale": 2, "on": False, "kind": "x", "seed": 2}
    page.wait_for_function("fieldguide.figures[0].params.seed === 2")
    assert page.evaluate(params) == [wanted, before[1]]
    assert page.url.endswith("#fig:doubled?seed=2")


def test_play_near_the_end_begins_anew_but_goes_on_where_it_was_stopped(touchable):
    page = touchable(call={"play": "query"})
    button = page.locator("[data-fg-play]")
    page.evaluate(READ, [0, {"query": 3}])
    button.click()
    page.wait_for_function("fieldguide.figures[0].params.query === 0")
    page.wait_for_function("fieldguide.figures[0].params.query === 3")
    button.click()
    assert button.inner_text() == "Play"
    stopped, _ = page.evaluate(AT)
    assert stopped == 3
    button.click()
    page.wait_for_function("fieldguide.figures[0].params.query === 4")


def test_what_is_pointed_at_is_marked_in_every_view(touchable):
    page = touchable()
    marked = """() => [...document.querySelectorAll(".fg-marked")].map((node) => [
      node.closest("[data-fg-view]").dataset.fgView, node.tagName, node.dataset.fgKey,
    ])"""
    view(page, "Bars").locator("li").nth(3).hover()
    found = page.evaluate(marked)
    assert {key.split("\n")[0] for _, _, key in found} == {"the 2"}, "not the first one"
    assert {title for title, _, _ in found} == {"Sentence", "Bars", "Bands"}
    figures = "[...fieldguide.figures[0].marks]"
    said, (x, y) = page.locator(".fg-pointed"), cell(page, 1, 4).values()
    view(page, "Map").locator("canvas").hover(position={"x": x, "y": y})
    box, canvas = (
        said.bounding_box(),
        view(page, "Map").locator("canvas").bounding_box(),
    )
    assert 0 < canvas["y"] + y - box["y"] - box["height"] < 20, "not above the pointer"
    assert box["x"] < canvas["x"] + x < box["x"] + box["width"]
    assert page.evaluate(figures) == ["own 1", "dog 1"]
    titles = {title for title, _, _ in page.evaluate(marked)}
    assert titles == {"Sentence", "Heads", "Bars", "Bands", "Dots"}
    ribbons = [key for _, tag, key in page.evaluate(marked) if tag == "path"]
    assert ribbons == ["dog 1\nown 1"]
    picture = "document.querySelector('[data-fg-view=Map] canvas').toDataURL()"
    plain = page.evaluate(picture)
    view(page, "Sentence").locator("button").nth(1).hover()
    assert page.evaluate(picture) != plain, "the map marks its column"
    page.locator(".fg-buttons").hover()
    assert page.evaluate(marked) == []
    expect(said).to_be_hidden()
