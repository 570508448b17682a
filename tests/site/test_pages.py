"""Every page in a browser without a network: sound, light, accessible, alive.

A page is a subtest of its own: what is wrong in one hides nothing in the next.
"""

import gzip
import json
import re
from collections import Counter
from functools import cache
from itertools import cycle
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import pypdfium2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

AXE = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "resultTypes": ["violations"],
    "preload": False,
}
MOST_BYTES, MOST_BYTES_OF_PICTURES = 350_000, 600_000
LIMITS = {  # each may only become lower
    "index.html": 250_000,
    "transformers/tokens.html": 355_500,  # 189,000 are what its figures hold
    "multimodal/clip.html": 640_000,
    "multimodal/text-to-image.html": 758_000,
}
MOST_REQUESTS = 12
LEFTWARDS = re.compile("[\u0590-\u08ff]")  # a PDF has such letters in another order
A4_WIDTH = 718  # of what is printed on it, in CSS pixels
MOST_SHIFT = 0.1  # above it, a page counts as jumping (Core Web Vitals)
# A fingerprint of the data an explorer shows now, and of what its views mark as chosen.
DATA = """i => {
  const { params } = fieldguide.figures[i], views = fieldguide.figures[i].views();
  const sets = Object.values(views).flatMap(view => Object.values(view.sets ?? {}));
  return JSON.stringify([views, sets.map(name => params[name])], (_, value) =>
    ArrayBuffer.isView(value) ? Array.from(value) : value);
}"""


@pytest.fixture(scope="session")
def addresses(site):
    found = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    return sorted(str(path.relative_to(site)) for path in found)


@pytest.fixture(scope="session")
def lively(site, addresses):
    """The pages that have explorers."""
    found = [a for a in addresses if "data-fg-explore" in (site / a).read_text("utf8")]
    assert found
    return found


def awake(page):
    """Scroll through the page until each explorer has drawn; return their number."""
    count = page.locator("[data-fg-explore]").count()
    for k in range(count):
        explorer(page, k).scroll_into_view_if_needed()
        explorer(page, k).and_(page.locator("[data-fg-ready]")).wait_for()
        page.evaluate("pause()")
    assert page.evaluate("self.fieldguide?.figures.length ?? 0") == count
    return count


def foreign(page):
    """What the page asked for that is not where it came from, nor part of it."""
    own = re.match(r"\w+://[^/]*", page.url)[0]  # a file's is "file://"
    return [url for url in page.requests if not url.startswith((own, "data:"))]


# ---- every page, both widths, both themes ------------------------------------


SPARE = "innerWidth >= document.documentElement.scrollWidth"


def sound(page):
    """Nothing fails, nothing comes from elsewhere, nothing is too wide or moves."""
    page.evaluate("document.fonts.ready")
    assert not page.troubles
    assert not foreign(page)
    assert page.evaluate(SPARE), "wider than the screen"
    assert page.evaluate("worstJump()") < MOST_SHIFT
    assert not page.evaluate(BLANK)
    assert not page.evaluate(SILENT)


@cache
def sent(file):
    """The bytes that a server with gzip sends of a file."""
    return min(file.stat().st_size, len(gzip.compress(file.read_bytes(), 6)))


def light(page, site, address):
    """Few requests, and few bytes as a server with gzip sends them; returns these."""
    loaded = {url.split("?")[0] for url in page.requests if url[:5] != "data:"}
    assert len(loaded) <= MOST_REQUESTS, loaded
    size = sum(sent(site / unquote(urlsplit(url).path)[1:]) for url in loaded)
    pictures = address.startswith("multimodal/")
    most = MOST_BYTES_OF_PICTURES if pictures else MOST_BYTES
    assert size <= LIMITS.get(address, most)
    return size


# The theme's icon font is gone: each icon must be drawn by the style sheet.
BLANK = """[...document.querySelectorAll("i[class*=fa-], span[class*=fa-]")]
  .filter(icon => !getComputedStyle(icon).maskImage.startsWith("url("))
  .map(icon => icon.outerHTML)"""

# An explorer has a caption, and one place where it says aloud what it shows. (That
# controls and buttons have names is one of axe's rules.)
SILENT = """[...document.querySelectorAll("[data-fg-explore]")]
  .filter(figure => !figure.querySelector("figcaption")?.innerText
    || !figure.querySelector(".fg-look")?.innerText.includes(".")
    || figure.querySelectorAll("[aria-live]").length !== 1)
  .map(figure => figure.id)"""

# Contrast takes axe most of its time. It depends on a text's colour, size and weight
# and on what lies behind, so one text of each kind is marked to be looked at.
KINDS = """() => {
  document.querySelectorAll("[data-kind]").forEach(e => e.removeAttribute("data-kind"));
  const behind = new Map([[null, ""]]), seen = new Set();
  for (const element of document.querySelectorAll("*")) {
    const { color, backgroundColor, backgroundImage, opacity, fontSize, fontWeight } =
      getComputedStyle(element);
    const paint = [backgroundColor, backgroundImage, opacity].join();
    const under = behind.get(element.parentElement) ?? "";
    const over = paint === "rgba(0, 0, 0, 0),none,1" ? under : under + paint;
    behind.set(element, over);
    if (![...element.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    if (!element.checkVisibility()) continue;
    const kind = [over, color, fontSize, fontWeight].join();
    if (!seen.has(kind)) element.dataset.kind = "";
    seen.add(kind);
  }
  return seen.size;
}"""


# Three quarters of a page's elements are words of code, which have no roles and no
# names: those that are not marked become plain text, and axe takes half its time.
THIN = """() => {
  for (const part of [...document.querySelectorAll("pre span")].reverse())
    if (!part.children.length && !("kind" in part.dataset))
      part.replaceWith(part.textContent);
}"""


def violations(page, every=True):
    """What axe finds wrong in the page as it is now; its code loses its colours.

    All that it knows, or what depends on a page's width and theme alone.
    """
    assert page.evaluate(KINDS)
    page.evaluate(THIN)
    here = ["scrollable-region-focusable", "link-in-text-block"]
    rules = {"color-contrast": {"enabled": False}}
    whole = AXE | ({"rules": rules} if every else {"runOnly": here})
    contrast = AXE | {"runOnly": ["color-contrast"]}
    kinds = {"include": [["[data-kind]"]]}
    found = [Axe().run(page, options=whole), Axe().run(page, kinds, options=contrast)]
    return [
        f"{violation['id']} in {node['html'][:150]}"
        for result in found
        for violation in result.response["violations"]
        for node in violation["nodes"][:3]
    ]


SOUGHT = {  # the pages that come first
    "softmax": [],
    "attention": ["Attention: how does a word"],
    "why do models hallucinate": ["Hallucination: "],
    "quantization": ["Quantization: How few bits", "Glossary"],
    "byte pair encoding": ["Glossary", "Tokens: "],
    "How does a model learn to copy?": ["Induction: "],
    "hallu": ["Hallucination: "],
}


def test_search_ranks_pages_by_their_titles_without_a_network(visit, site, subtests):
    """One entry a page, each with what the page says of itself."""
    places = cycle([(site / "search.html").as_uri(), "search.html"])
    for place, (query, first) in zip(places, SOUGHT.items(), strict=False):
        with subtests.test(place, query=query):
            page = visit(f"{place}?{urlencode({'q': query})}")
            entries = page.locator("#search-results li")
            entries.first.wait_for()
            titles = entries.locator("> a").all_inner_texts()
            assert len(titles) == len(set(titles))
            for title, begins in zip(titles, first, strict=False):
                assert title.startswith(begins)
            assert all(p.inner_text() for p in entries.locator("> p").all())
            entries.first.locator("> a").click()
            page.wait_for_url("**/*.html")
            assert not page.troubles and not foreign(page)
            page.context.close()


def test_a_notebook_is_downloaded_from_a_server_and_from_a_file(visit, site):
    name = "transformers/attention"
    source = (site / "_sources" / f"{name}.ipynb").read_bytes()
    for place in (f"{name}.html", (site / f"{name}.html").as_uri()):
        page = visit(place)
        with page.expect_download() as told:
            page.get_by_role("link", name="Download the notebook").click()
        assert told.value.suggested_filename == "attention.ipynb"
        assert Path(told.value.path()).read_bytes() == source
        assert page.url.endswith(f"{name}.html")


def test_the_menus_of_a_phone_open(visit):
    page = visit("notation.html", width=360)
    menus = {".primary-toggle": "Glossary", ".secondary-toggle": "Probability"}
    for button, entry in menus.items():
        page.locator(button).locator("visible=true").focus()
        page.keyboard.press("Enter")
        page.locator("dialog[open]").get_by_role("link", name=entry).wait_for()
        assert not violations(page)
        page.keyboard.press("Escape")
    assert not page.troubles


def test_folded_code_opens_by_keyboard_and_is_not_printed_closed(visit):
    page = visit("transformers/attention.html")
    folds = page.locator("details.fg-fold")
    assert folds.count() > 10
    first, code = folds.first, folds.first.locator("pre").first
    expect(code).to_be_hidden()
    labels = folds.locator("summary").all_inner_texts()
    assert labels[:2] == ["How this figure is made", "Set-up"]
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(code).to_be_visible()
    page.emulate_media(media="print")
    expect(code).to_be_visible()
    assert page.locator("main pre").locator("visible=true").count() > 5
    closed = page.locator("main :is(.fg-fold, .hide, #exercises details):not([open])")
    assert closed.count() > 15  # solutions and hints, too
    assert not closed.locator("visible=true").count()
    ledger = visit("claims.html")
    ledger.emulate_media(media="print")
    expect(ledger.locator(".fg-ledger tbody tr").first).to_be_visible()


def test_a_name_in_code_opens_the_fold_where_it_is_made(visit):
    page = visit("transformers/attention.html")
    name = page.locator('a.fg-name[href^="#"]').first
    place = page.locator(name.get_attribute("href"))
    expect(place).to_be_hidden()
    name.click()
    expect(place).to_be_visible()
    assert place.inner_text() == name.inner_text()


def test_a_term_shows_its_definition_where_it_is(visit):
    """Under the mouse and with the keyboard's focus, until Escape."""
    page = visit("scaling/compute-optimal.html")
    link = page.get_by_role("link", name="sweep", exact=True)
    hint = page.get_by_role("tooltip")
    expect(hint).to_have_count(0)
    link.hover()
    expect(hint).to_contain_text("Training the same kind of model in several sizes")
    assert not violations(page)
    hint.hover()
    page.wait_for_timeout(500)  # longer than it stays without the mouse
    expect(hint).to_have_count(1)
    page.keyboard.press("Escape")
    expect(hint).to_have_count(0)
    page.mouse.move(0, 0)
    link.focus()
    page.keyboard.press("Shift+Tab")
    expect(hint).to_have_count(0)
    page.keyboard.press("Tab")
    expect(hint).to_have_count(1)
    page.emulate_media(media="print")
    expect(hint).to_have_count(0)
    page.emulate_media(media="screen")
    page.keyboard.press("Enter")
    page.wait_for_url("**/glossary.html#term-sweep")
    assert not page.troubles


def test_the_first_tap_shows_a_definition_and_the_second_leads_there(visit):
    page = visit("scaling/compute-optimal.html", width=360, dark=True)
    link = page.get_by_role("link", name="sweep", exact=True)
    hint = page.get_by_role("tooltip")
    link.tap()
    expect(hint).to_have_count(1)
    box = hint.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    assert not violations(page)
    page.touchscreen.tap(3, 400)  # beside the text
    expect(hint).to_have_count(0)
    link.tap()
    expect(hint).to_have_count(1)
    link.tap()
    page.wait_for_url("**/glossary.html#term-sweep")
    assert not page.troubles


def test_paper_is_never_dark(visit):
    page = visit("transformers/attention.html", dark=True)
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.emulate_media(media="print")
    page.wait_for_function(f"{theme} === 'light'")
    page.emulate_media(media="screen")
    page.wait_for_function(f"{theme} === 'dark'")


def printed_whole(page):
    """Each line of code in view, each title, and each figure is on paper."""

    def plain(text):  # the letters that each font has
        return "".join(c for c in text if "!" <= c < "\u0250")

    page.wait_for_function("fieldguide.figures.every((f) => !f.fields.load(f.params))")
    sheets = pypdfium2.PdfDocument(page.pdf(format="A4"))
    assert not page.locator(".fg-still").count()
    found = [sheet.get_textpage().get_text_range() for sheet in sheets]
    printed = plain("".join(found).replace("\ufffe", "-"))
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4_WIDTH, "height": 1000})
    words = page.locator("main :is(h2, pre, figcaption strong, .fg-view h4)")
    text = "\n".join(words.locator("visible=true").all_inner_texts())
    lines = [n.rstrip("#") for n in text.splitlines() if not LEFTWARDS.search(n)]
    assert lines and [n for n in lines if plain(n) not in printed] == []
    cut = "n => n.filter(e => e.scrollWidth > e.clientWidth).length"
    assert not page.locator("main pre").evaluate_all(cut)


def test_the_keyboard_reaches_the_content(visit):
    """The first stop skips to the content; what has the focus can be seen."""
    page = visit("notation.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to main content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main-content")
    for _ in range(5):
        page.keyboard.press("Tab")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid"


def test_the_first_figure_leads_to_how_figures_are_read(visit, site):
    page = visit((site / "challenges/hallucination.html").as_uri(), width=360)
    awake(page)
    link = page.get_by_role("link", name="How to read the figures").locator(
        "visible=true"
    )
    link.click()
    expect(page.locator("article h1")).to_have_text(re.compile("How to read"))
    awake(page)
    assert page.url.endswith("/figures.html") and not page.troubles
    assert page.locator(".fg-buttons a").count() == 0, "it is here"


def test_the_articles_assertions_can_be_filtered(visit):
    page = visit("claims.html")
    rows, found = page.locator("tr[class*=fg-verdict]"), page.locator(".fg-found")
    total = rows.count()
    expect(found).to_have_text(f"{total} of {total} assertions")
    page.get_by_label("Verdict").select_option("contested")
    shown = rows.locator("visible=true")
    assert {text.split("\n")[0] for text in shown.locator("td").all_inner_texts()} == {
        "contested"
    }
    assert 0 < shown.count() < total
    page.get_by_label("Verdict").select_option("")
    page.get_by_label("Words").fill("No such WORD")
    expect(found).to_have_text(f"0 of {total} assertions")
    page.get_by_label("Words").fill("SQUARE ROOT")
    expect(found).not_to_have_text(f"0 of {total} assertions")
    assert all("square root" in text.lower() for text in shown.all_inner_texts())
    assert not violations(page) and not page.troubles


def test_a_link_to_a_claim_opens_its_notebooks_fold(visit):
    page = visit("claims.html")
    fold = page.locator("details.fg-ledger").first
    row = fold.locator("tbody tr").first
    assert not row.is_visible(), "a notebook's claims are folded"
    page.goto(f"{page.url}#{row.get_attribute('id')}")
    expect(row).to_be_visible()
    assert not violations(page) and not page.troubles


# The pages that are drawn anew next: their first screens hold no figure yet.
UNDRAWN = [
    *("multimodal/clip", "multimodal/image-to-text", "multimodal/text-to-image"),
    *("multimodal/sound-video", "efficiency/quantization", "efficiency/experts"),
    "efficiency/architectures",
]
# How tall the drawing in a first screen is, in pixels: what carries values there, from
# its top to its bottom. A plot counts within its axes, if more than a dot is drawn in
# it. And the plots with less, or that all amounts of the figure are zero.
FIRST = """high => {
  const figure = document.querySelector("main .fg"), spans = [], empty = [];
  const add = ({ top, bottom, height }) => height > 0 && spans.push([top, bottom]);
  const box = node => node.getBoundingClientRect();
  const SVG = ".fg-box svg:not(.fg-legend *)";
  const MARKS = ".fg-box > svg > :is(circle, path:not([class]))"; // not a legend's
  for (const view of figure.querySelectorAll(".fg-view")) {
    const drawn = [...view.querySelectorAll(MARKS)];
    const ends = drawn.map(box).flatMap(({ left, right }) => [left, right]);
    const axis = view.querySelector(".fg-axis");
    const wide = Math.max(...ends) - Math.min(...ends);
    if (!axis) view.querySelectorAll(SVG).forEach(node => add(box(node)));
    else if (wide > 30) add(box(axis));
    else empty.push(view.dataset.fgView);
    for (const canvas of view.querySelectorAll("canvas")) {
      const { top, height } = box(canvas), place = canvas.place;
      const scale = place && height / place.height;
      const cells = place && { top: top + scale * place.top,
        height: scale * place.tall * place.rows };
      if (place) add({ ...cells, bottom: cells.top + cells.height });
      else if (!canvas.closest(".fg-scale")) add(box(canvas));
    }
  }
  const marks = ".fg-bar, .fg-strip button, .fg-tokens span, .fg-bands path, .fg-node";
  figure.querySelectorAll(marks + ", td").forEach(node => add(box(node)));
  const shown = fieldguide.figures.find(each => each.element === figure)?.shown ?? {};
  const amounts = Object.values(shown).map(view => view.values?.values).filter(Boolean);
  const zero = values => values.every(value => value === 0);
  if (amounts.length && amounts.every(zero)) empty.push("only zeros");
  const top = Math.min(...spans.map(span => span[0]));
  const bottom = Math.max(...spans.map(span => span[1]));
  return [Math.min(bottom, high) - top, empty];
}"""


def opens_with_a_drawing(page, width):
    page.locator("main .fg").first.and_(page.locator("[data-fg-ready]")).wait_for()
    high, least = (900, 400) if width > 1000 else (780, 240)
    tall, empty = page.evaluate(FIRST, high)
    assert tall >= least, f"{tall} px of drawing in the first screen"
    assert not empty


# ---- every explorer ---------------------------------------------------------


def by_mouse(page, box, kind):
    """Yield after each move of the control in `box` that a pointer can make."""
    if kind == "check":
        for _ in range(2):
            box.locator("input").click()
            yield
    elif kind == "range":
        slider = box.locator("input[type=range]")
        wide, tall = (slider.bounding_box()[side] for side in ("width", "height"))
        for share in (0.97, 0.03, 0.5, 0.75, 0.25):
            slider.click(position={"x": wide * share, "y": tall / 2})
            yield
    else:
        choice = box.locator("select")
        for k in range(choice.locator("option").count()):
            choice.select_option(index=k)
            yield


def by_keyboard(page, box, kind):
    """The same with keys alone, from the focused control."""
    box.locator("input, select").first.focus()
    keys = {"check": ["Space"] * 2, "range": ["ArrowRight", "End", "Home"]}
    for key in keys.get(kind, ["ArrowDown", "End", "Home"]):
        page.keyboard.press(key)
        yield


def by_number(page, box, kind):
    """A value between two stops, typed, where the explorer can compute it."""
    field = box.locator("input[type=number]")
    if field.count():
        value = float(field.input_value())
        further = 1 if value.is_integer() else 0.01  # some count: 3.2 merges are 3
        field.fill(str(value * 1.07 + further))
        field.press("Enter")
        yield


def explorer(page, k):
    return page.locator("[data-fg-explore]").nth(k)


def control(page, k, name):
    """The box that holds one control of the explorer number `k`."""
    return explorer(page, k).locator(f'[data-fg-control="{name}"]')


def moves(page, k, name, way):
    """Does the control change the data and the picture, where it can?

    Some controls mean nothing at the start (scaling, while the width is one), so
    the others are moved before a control is called dead. Ends at the start.
    """
    box = control(page, k, name)
    kind = box.get_attribute("data-fg-kind")
    controls = page.evaluate(f"fieldguide.figures[{k}].spec.controls")
    start = page.evaluate(f"fieldguide.figures[{k}].start")
    begun = page.evaluate(DATA, k)
    elsewhere = {c["name"]: other(c, start[c["name"]]) for c in controls}
    for setting in (start, elsewhere | {name: start[name]}):
        place(page, k, setting)
        before, picture = page.evaluate(DATA, k), drawn(page, k)
        for _ in way(page, box, kind):
            settle(page, k)
            if page.evaluate(DATA, k) != before and drawn(page, k) != picture:
                reset(page, k)
                assert page.evaluate(DATA, k) == begun, f"{name}: not reset"
                return True
    reset(page, k)
    return False


def place(page, k, setting):
    page.evaluate("([k, to]) => fieldguide.figures[k].set(to)", [k, setting])
    settle(page, k)


# What an explorer's views draw: shapes, words, and the pixels of each canvas.
DRAWN = """k => {
  const views = fieldguide.figures[k].stage.querySelector(".fg-views");
  const pictures = [...views.querySelectorAll("canvas")].map(c => c.toDataURL());
  return views.innerHTML + pictures;
}"""


def drawn(page, k):
    return page.evaluate(DRAWN, k)


def settle(page, k):
    """Wait until what was set is drawn (decompressing a chunk takes a moment)."""
    page.evaluate(
        """async k => {
          await fieldguide.figures[k].set({});
          await new Promise(requestAnimationFrame);
        }""",
        k,
    )


def reset(page, k):
    explorer(page, k).locator("[data-fg-reset]").click()
    settle(page, k)


def dead_controls(page, count, ways, tried):
    """The controls that move nothing; `tried` counts the ways and kinds."""
    dead = []
    for k in range(count):
        for spec in page.evaluate(f"fieldguide.figures[{k}].spec.controls"):
            typed = control(page, k, spec["name"]).locator("[type=number]").count()
            for way in ways:
                if way is by_number and not typed:
                    continue
                tried[way, spec["kind"]] += 1
                if not moves(page, k, spec["name"], way):
                    dead.append(f"{page.evaluate(ID, k)}: {spec['name']}")
    return dead


def stand(page):
    """Each link in the text changes its figure, which then stands there."""
    for link in page.locator("a[href^='#fg=']").locator("visible=true").all():
        state = dict(parse_qsl(urlsplit(link.get_attribute("href")).fragment))
        name, *wanted = state.values()
        wanted = dict(zip([*state][1:], map(json.loads, wanted), strict=True))
        k = page.evaluate("fieldguide.figures.map(f => f.element.id)").index(name)
        specs = page.evaluate(f"fieldguide.figures[{k}].spec.controls")
        specs = {spec["name"]: spec for spec in specs}
        place(page, k, {c: other(specs[c], key) for c, key in wanted.items()})
        expect(link).to_have_attribute("aria-current", "false")
        before = drawn(page, k)
        link.click()
        expect(link).to_have_attribute("aria-current", "true")
        settle(page, k)
        assert page.evaluate(AT, k) == page.evaluate(AT, k) | wanted
        assert drawn(page, k) != before, f"{state} changes nothing"
    assert page.evaluate("worstJump()") < MOST_SHIFT


def test_the_doors_of_the_front_page_lead_to_figures_at_work(visit, subtests):
    """Each is in view, at the setting of the link, which is not where it starts."""
    doors = visit("index.html").locator(".fg-door a[href*='#fg=']")
    links = doors.evaluate_all("nodes => nodes.map(node => node.href)")
    assert len(links) == 5
    for link in links:
        with subtests.test(link):
            page = visit(link)
            wanted = dict(parse_qsl(urlsplit(link).fragment))
            figure = page.locator(f"#{wanted.pop('fg')}[data-fg-ready]")
            figure.wait_for()
            expect(figure).to_be_in_viewport()
            order = "node => fieldguide.figures.findIndex(f => f.element === node)"
            k = figure.evaluate(order)
            settle(page, k)
            setting = {name: json.loads(text) for name, text in wanted.items()}
            assert setting.items() <= page.evaluate(AT, k).items()
            there = drawn(page, k)
            reset(page, k)
            assert drawn(page, k) != there
            page.context.close()


PLACE = "[scrollY, document.body.scrollHeight]"


def test_a_drawing_stays_beside_the_sentences_that_move_it(visit):
    """In the margin, until Escape or paper; where there is none, a way leads back."""
    page = visit("transformers/attention.html")
    link, dock = page.locator("a[href^='#fg=fg-where']").last, page.locator(".fg-dock")
    link.scroll_into_view_if_needed()
    expect(dock.locator("canvas")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dock).to_have_count(0)
    place = page.evaluate(PLACE)
    link.click()
    expect(dock).to_have_count(1)
    assert page.evaluate(PLACE) == place
    page.mouse.move(0, 0)
    assert not violations(page)
    assert dock.bounding_box()["x"] >= page.locator(".bd-article").evaluate(
        "e => e.getBoundingClientRect().right"
    )
    page.emulate_media(media="print")
    expect(dock).to_have_count(0)
    page.emulate_media(media="screen")
    page.mouse.wheel(0, 1)
    expect(dock).to_have_count(1)
    page.set_viewport_size({"width": 1200, "height": 900})
    expect(dock).to_have_count(0)
    link.click()
    page.get_by_role("button", name="Back to the text").click()
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport()
    assert not page.troubles


@pytest.mark.parametrize("address", ["challenges/cost", "transformers/training"])
def test_a_phone_shows_a_tall_drawing_with_its_main_control(visit, address):
    page = visit(f"{address}.html", width=360)
    page.set_viewport_size({"width": 360, "height": 780})
    explorer(page, 0).evaluate("figure => figure.scrollIntoView()")
    expect(explorer(page, 0).locator("[data-fg-main] input")).to_be_in_viewport()
    expect(explorer(page, 0).locator(".fg-views")).to_be_in_viewport(ratio=0.5)


# Each width, each theme, each way to move a control, from a server and from a file.
LOOKS = [(1280, False, [by_keyboard, by_number], True), (360, True, [by_mouse], False)]


@pytest.mark.parametrize(("width", "dark", "ways", "served"), LOOKS)
def test_a_page_is_sound_its_controls_move_and_its_links_restore(
    addresses, lively, site, visit, width, dark, ways, served, subtests, capsys
):
    tried, sizes = Counter(), {}
    for address in addresses:
        with subtests.test(address):
            place = address if served else (site / address).as_uri()
            page = visit(place, width=width, dark=dark)
            theme = page.evaluate("document.documentElement.dataset.theme")
            assert theme == ("dark" if dark else "light")
            if address in lively and address[:-5] not in UNDRAWN:
                opens_with_a_drawing(page, width)
            count = awake(page)
            sound(page)
            if served:
                sizes[address] = light(page, site, address)
            assert not dead_controls(page, count, ways, tried)
            if served and (linked := links(page, count)):
                link, *setting = linked
                anew = visit(link)
                printed_whole(anew)
                restored(anew, count, *setting)
                anew.context.close()
            stand(page)
            assert not page.troubles
            assert not violations(page, every=served)
            if width < 600:
                page.set_viewport_size({"width": 320, "height": 900})
                page.wait_for_function(SPARE)
            page.context.close()
    assert all(tried[way, "range"] for way in ways)
    if sizes:
        name = max(sizes, key=sizes.get)
        with capsys.disabled():
            print(f"\nheaviest page: {name}, {sizes[name]:,} bytes")


ID = "k => fieldguide.figures[k].element.id"


def links(page, count):
    """Each figure's link restores its setting, and no other's; returns the last."""
    last = None
    for k in range(count):
        controls = page.evaluate(f"fieldguide.figures[{k}].spec.controls")
        if not controls:
            continue
        start = page.evaluate(AT, k)
        wanted = {c["name"]: other(c, start[c["name"]]) for c in controls}
        place(page, k, wanted)
        explorer(page, k).locator("[data-fg-link]").click()
        data, link = page.evaluate(DATA, k), page.url
        assert "#" in link
        page.evaluate("history.replaceState(null, '', location.pathname)")
        place(page, k, start)
        page.goto(link)
        settle(page, k)
        last = link, k, wanted, data
        restored(page, count, *last[1:])
        reset(page, k)
    return last


AT = "k => fieldguide.figures[k].params"


def restored(page, count, k, wanted, data):
    """The explorer number `k`, and no other, is at the setting of a link."""
    assert page.evaluate(AT, k) == wanted
    assert page.evaluate(DATA, k) == data
    for j in set(range(count)) - {k}:
        start = page.evaluate(f"fieldguide.figures[{j}].start")
        assert page.evaluate(AT, j) == start, "a link moves another explorer"


def other(spec, key):
    """A key of the control that is not `key`."""
    return next(k for k in reversed(spec["keys"]) if k != key)
