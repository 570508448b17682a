"""Exercises in the page: told what is wrong, told what is right, remembered."""

import json

import pytest
from playwright.sync_api import expect

TRIED = 'class="fg-try"'
PLACE = "item => [...item.parentNode.children].indexOf(item)"


@pytest.fixture(scope="session")
def tries(site):
    """The addresses of the pages that have exercises in them, and how many."""
    texts = {path: path.read_text("utf8") for path in site.rglob("*.html")}
    found = {p: text.count(TRIED) for p, text in texts.items() if TRIED in text}
    assert len(found) >= 5
    return {str(path.relative_to(site)): count for path, count in found.items()}


def answer(page, box, right):
    """Give an answer, right or wrong, by keys alone; it says what it is told."""
    kind, knows = box.get_attribute("data-try"), box.get_attribute("data-knows")
    knows, key = json.loads(knows), page.keyboard.press
    if kind in ("choose", "bug"):
        choices = box.locator("[aria-pressed]")
        choices.nth(knows if right else (knows + 1) % choices.count()).focus()
        key("Enter")
        return
    if right and kind == "order":
        items, order = box.locator("ol li").element_handles(), []
        while len(order) < len(knows):
            free = set(range(len(knows))) - {*order}
            order.append(next(k for k in free if {j for j, _ in knows[k]} <= {*order}))
        for place, k in enumerate(order):
            items[k].query_selector("button").focus()
            key("ArrowDown")
            for _ in range(items[k].evaluate(PLACE) - place):
                key("ArrowUp")
            told = f"It is number {place + 1} of {len(order)} now."
            expect(box.get_by_role("status")).to_have_text(told)
    elif right:
        want = box.locator("details td:not(:first-child)").all_text_contents()
        wide = box.locator("details th").count() - 1
        box.locator("table button").first.focus()
        for k, mark in enumerate(want):
            if k and k % wide == 0:
                key("ArrowDown")
                for _ in range(wide - 1):
                    key("ArrowLeft")
            if mark.strip():
                key("Space")
            key("ArrowRight")
    box.get_by_role("button", name="Check").focus()
    key("Enter")


def test_it_tells_and_remembers(visit, tries, subtests):
    for address, count in tries.items():
        # From a file, Chromium may not yet have kept what was set just before a reload.
        page = visit(address, width=360)
        for k in range(count):
            with subtests.test(address, k=k):
                box = page.locator(".fg-try").nth(k)
                status, details = box.get_by_role("status"), box.locator("details")
                answer(page, box, right=False)
                expect(status).to_contain_text("✗")
                assert len(status.inner_text().split()) > 4, "and why"
                assert details.get_attribute("open") is None
                page.reload()
                expect(status).to_contain_text("✗")
                answer(page, box, right=True)
                expect(status).to_have_text("✓ Right.")
                page.reload()
                expect(status).to_have_text("✓ Right.")
                expect(details).to_have_attribute("open", "")
                box.get_by_role("button", name="Start again").press("Enter")
                expect(status).to_have_text("")
                page.reload()
                expect(status).to_have_text("")
                buttons = box.locator("button:visible").all()
                sizes = [button.bounding_box() for button in buttons]
                assert min(s[side] for s in sizes for side in ("width", "height")) >= 44
        assert not page.troubles


def test_a_finger_paints_a_map_without_scrolling_the_page(visit):
    page = visit("transformers/attention.html", width=360)
    squares = page.locator(".fg-try table").first.get_by_role("button")
    squares.first.scroll_into_view_if_needed()
    at, finger = page.evaluate("scrollY"), page.context.new_cdp_session(page)
    boxes = [squares.nth(k).bounding_box() for k in (0, 1, 6)]
    points = [{"x": b["x"] + 20, "y": b["y"] + 20} for b in boxes]
    for kind, where in zip(
        ["touchStart", "touchMove", "touchMove", "touchEnd"],
        [*([point] for point in points), []],
        strict=True,
    ):
        event = {"type": kind, "touchPoints": where}
        finger.send("Input.dispatchTouchEvent", event)
    for k in (0, 1, 6):
        expect(squares.nth(k)).to_have_attribute("aria-pressed", "true")
    assert page.locator('.fg-try table [aria-pressed="true"]').count() == 3
    assert page.evaluate("scrollY") == at


def test_without_a_script_the_answer_is_there(browser, server, tries):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for address in tries:
        page.goto(server + address)
        for box in page.locator(".fg-try").all():
            answer = box.locator("details > :not(summary)").first
            expect(answer).to_be_hidden()
            box.locator("summary").press("Enter")
            expect(answer).to_be_visible()
    context.close()
