"""Every page in a browser without a network: sound, accessible, alive."""

import io
import re
from collections import Counter

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

AXE = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
    "resultTypes": ["violations"],
    "preload": False,
}
LOOKS = [(1280, False), (1280, True), (360, False), (360, True)]
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


def own(page):
    """The host and port the page came from, or nothing for a file."""
    return re.match(r"\w+://[^/]*", page.url)[0]


# ---- every page, both widths, light and dark --------------------------------


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_pages_are_sound(addresses, visit, width, dark):
    for address in addresses:
        page = visit(address, width=width, dark=dark)
        theme = page.evaluate("document.documentElement.dataset.theme")
        assert theme == ("dark" if dark else "light")
        awake(page)
        page.evaluate("document.fonts.ready")
        assert not page.troubles, (address, page.troubles)
        foreign = [u for u in page.requests if not u.startswith((own(page), "data:"))]
        assert not foreign, (address, foreign)
        spare = page.evaluate("innerWidth - document.documentElement.scrollWidth")
        assert spare >= 0, f"{address} is {-spare} px wider than the screen"
        assert page.evaluate("worstJump()") < MOST_SHIFT, address
        wrong = violations(page)
        assert not wrong, f"{address}: {wrong}"
        page.context.close()


# A page has thousands of coloured words of code in some thirty colours. One of each
# is looked at, which takes a tenth of the time.
THIN = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll(".highlight span[class]")) {
    if (seen.has(word.className)) word.replaceWith(...word.childNodes);
    seen.add(word.className);
  }
}"""


def violations(page):
    """What axe finds wrong in the page as it is now."""
    page.evaluate(THIN)
    return [
        f"{violation['id']} in {node['html'][:150]}"
        for violation in Axe().run(page, options=AXE).response["violations"]
        for node in violation["nodes"][:3]
    ]


def test_a_page_needs_no_server(addresses, site, visit):
    for address in addresses:
        page = visit((site / address).as_uri())
        for k in range(awake(page)):
            name = page.evaluate(f"fieldguide.figures[{k}].spec.controls[0].name")
            assert moves(page, k, name, by_mouse), (address, name)
        assert not page.troubles, (address, page.troubles)
        assert all(url.startswith(("file:", "data:")) for url in page.requests)
        page.context.close()


def test_buttons_have_a_glyph_and_a_name(addresses, visit):
    """The theme's icon font is gone: each icon must be drawn by the style sheet."""
    for address in addresses:
        page = visit(address)
        blank = page.evaluate("""
            [...document.querySelectorAll("i[class*=fa-], span[class*=fa-]")].filter(
              icon => !getComputedStyle(icon).maskImage.startsWith("url(")
            ).map(icon => icon.outerHTML)""")
        assert not blank, address
        nameless = page.evaluate("""
            [...document.querySelectorAll("button, a.btn")].filter(button =>
              !(button.ariaLabel || button.title || button.textContent).trim()
            ).map(button => button.outerHTML)""")
        assert not nameless, address
        page.context.close()


def test_formulas_are_set_in_their_typeface(visit):
    """It is there at once: a formula that waits for it would move the page."""
    page = visit("notation.html")
    assert page.evaluate("[...document.fonts].map(f => [f.family, f.status])") == [
        ["Field Guide Math", "loaded"]
    ]
    sizes = page.evaluate("""
        () => {
          const math = document.querySelector("mfrac").closest("math");
          const wide = () => math.getBoundingClientRect().width;
          const before = wide();
          document.fonts.clear();
          return [before, wide()];
        }""")
    assert sizes[0] != sizes[1], "the typeface makes no difference"


def test_search_finds_a_word_without_a_network(visit, site):
    for address in ("search.html", (site / "search.html").as_uri()):
        page = visit(address + "?q=softmax")
        found = page.locator("#search-results")
        found.get_by_role("link", name="Notation").wait_for()
        assert not page.troubles


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


def test_the_theme_can_be_chosen(visit):
    page = visit("index.html")
    seen = set()
    for _ in range(3):
        page.locator(".theme-switch-button").locator("visible=true").click()
        seen.add(page.evaluate("document.documentElement.dataset.mode"))
    assert seen == {"light", "dark", "auto"}


def test_on_a_phone_code_goes_on_below_its_own_indentation(visit):
    """A line of code that wraps, and nothing of the code is changed."""
    wide, phone = (visit("transformers/gpt.html", width=w) for w in (1280, 360))
    codes = (
        "Array.from(document.querySelectorAll('.cell_input pre'), c => c.textContent)"
    )
    assert wide.evaluate(codes) == phone.evaluate(codes)
    edges = """line => {
      const at = new Range(), words = document.createTreeWalker(line, 4);
      const lefts = [];
      for (let text; (text = words.nextNode()); )
        for (let i = 0; i < text.length; i++) {
          if (text.data[i].trim() === "") continue;
          at.setStart(text, i);
          at.setEnd(text, i + 1);
          const { left, top } = at.getBoundingClientRect();
          if (top !== lefts.at(-1)?.top) lefts.push({ left, top });
        }
      return lefts.map(({ left }) => left);
    }"""
    lines = [line for line in phone.locator(".fg-line").all() if line.is_visible()]
    wrapped = [lefts for lefts in (line.evaluate(edges) for line in lines) if lefts[1:]]
    assert len(wrapped) > 9
    for first, *rest in wrapped:
        assert all(first < left < first + 40 for left in rest)


def test_folded_code_opens_by_keyboard_and_in_print(visit):
    page = visit("transformers/attention.html")
    folds = page.locator("details.fg-fold")
    assert folds.count() > 10
    first, code = folds.first, folds.first.locator("pre").first
    expect(code).to_be_hidden()
    assert first.locator("summary").inner_text() == "Set-up"
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(code).to_be_visible()
    page.emulate_media(media="print")
    for code in page.locator("main details pre").all():  # solutions, too
        expect(code).to_be_visible()


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


# No later figure comes near the view, so none is drawn: its stage shows the still.
BLIND = "IntersectionObserver = class { observe() {} unobserve() {} disconnect() {} }"


@pytest.mark.parametrize(("width", "media"), [(1280, "screen"), (360, "print")])
def test_no_figure_is_blank_before_it_is_in_view(lively, visit, width, media):
    """In a picture of the whole page, or on paper, where nobody scrolls."""
    asleep = 0
    for address in lively:
        page = visit(address, width=width)
        page.add_init_script(BLIND)
        page.reload()
        page.emulate_media(media=media)
        page.add_style_tag(content=".fg-view h4 { color: transparent !important }")
        page.evaluate("Promise.all([...document.images].map(i => i.decode()))")
        for place in page.locator(".fg-stage").all():
            stage = Image.open(io.BytesIO(place.screenshot())).convert("RGB")
            colours = stage.getcolors(stage.width * stage.height)
            assert len(colours or []) > 8, f"{address}: a figure is blank"
        asleep += page.locator("[data-fg-explore]:not([data-fg-ready])").count()
        page.context.close()
    assert asleep


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
            settle(page)
            if page.evaluate(DATA, k) != before and drawn(page, k) != picture:
                reset(page, k)
                assert page.evaluate(DATA, k) == begun, f"{name}: not reset"
                return True
    reset(page, k)
    return False


def place(page, k, setting):
    page.evaluate("([k, to]) => fieldguide.figures[k].set(to)", [k, setting])
    settle(page)


def drawn(page, k):
    """The picture of an explorer's views, as pixels."""
    return explorer(page, k).locator(".fg-views").screenshot()


def settle(page):
    """Wait until what was set is drawn (decompressing a chunk takes a moment)."""
    page.evaluate("""async () => {
        await Promise.all(fieldguide.figures.map(f => f.set({})));
        await new Promise(requestAnimationFrame);
    }""")


def reset(page, k):
    explorer(page, k).locator("[data-fg-reset]").click()
    settle(page)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
@pytest.mark.parametrize("way", [by_mouse, by_keyboard, by_number])
def test_every_control_moves_what_it_should(lively, visit, width, dark, way):
    dead, tried = [], Counter()
    for address in lively:
        page = visit(address, width=width, dark=dark)
        for k in range(awake(page)):
            for spec in page.evaluate(f"fieldguide.figures[{k}].spec.controls"):
                name, box = spec["name"], control(page, k, spec["name"])
                if way is by_number and not box.locator("input[type=number]").count():
                    continue
                tried[spec["kind"]] += 1
                if not moves(page, k, name, way):
                    dead.append(f"{address}: {page.evaluate(ID, k)}: {name}")
        assert not page.troubles, (address, page.troubles)
        page.context.close()
    assert not dead
    assert tried["range"]


ID = "k => fieldguide.figures[k].element.id"


def test_a_link_restores_the_setting(lively, visit):
    for address in lively:
        page = visit(address)
        for k in range(awake(page)):
            start = page.evaluate(f"fieldguide.figures[{k}].params")
            controls = page.evaluate(f"fieldguide.figures[{k}].spec.controls")
            wanted = {c["name"]: other(c, start[c["name"]]) for c in controls}
            place(page, k, wanted)
            figure = explorer(page, k)
            figure.locator("[data-fg-link]").click()
            data, link = page.evaluate(DATA, k), page.url
            assert "#" in link
            again = visit(link)
            count = awake(again)
            assert again.evaluate(f"fieldguide.figures[{k}].params") == wanted
            assert again.evaluate(DATA, k) == data
            for j in range(count):
                at = again.evaluate(
                    "j => [fieldguide.figures[j].params, fieldguide.figures[j].start]",
                    j,
                )
                assert j == k or at[0] == at[1], "a link moves another explorer"
            again.context.close()
        page.context.close()


def other(spec, key):
    """A key of the control that is not `key`."""
    return next(k for k in reversed(spec["keys"]) if k != key)


def test_controls_have_names_and_values_are_spoken(lively, visit):
    for address in lively:
        page = visit(address)
        for k in range(awake(page)):
            figure = explorer(page, k)
            for control in figure.locator("input, select").all():
                assert control.evaluate(
                    "n => (n.labels[0] ?? {}).textContent || n.ariaLabel"
                )
            assert figure.locator("figcaption").inner_text().count(".") >= 1
            assert figure.locator("[aria-live]").count() == 1
        page.context.close()
