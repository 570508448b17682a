"""The GPT of the front page: its numbers are PyTorch's, and its text can be forked."""

import base64
import copy
import json

import numpy as np
import pytest
import torch

from fieldguide.data import king_james
from fieldguide.introduction.next_word import characters, to_ids
from fieldguide.transformers.training import held_out_loss, trained_gpt

PAGE = "index.html"
MODEL = "king-james-8.js"
LOGITS = "async (text) => [...(await fieldguideWriter.load()).logits([...text])]"
FIGURE = "document.querySelector('[data-fg-write]').writer"


def array(text, kind):
    return torch.tensor(np.frombuffer(base64.b64decode(text), kind).astype("f4"))


@pytest.fixture(scope="module")
def eight_bits(site):
    """The GPT with the weights that the page loads."""
    script = (site / "_static" / "models" / MODEL).read_text("utf8")
    kept = json.loads(script.partition(" = ")[2].rstrip("\n;"))
    assert kept["alphabet"] == "".join(characters(king_james()))
    model, weights = copy.deepcopy(trained_gpt()), {}
    for name, part in kept["tensors"].items():
        weights[name] = array(part["steps"], "<f4")
        if "codes" in part:
            codes = array(part["codes"], np.int8).view(part["rows"], -1)
            weights[name] = codes * weights[name][:, None]
    model.load_state_dict(weights)
    return model


def test_eight_bits_cost_a_hundredth_of_the_loss_at_most(eight_bits):
    ids = to_ids(king_james()[-50_000:], characters(king_james()))
    whole, packed = (held_out_loss(m, ids) for m in (trained_gpt(), eight_bits))
    assert packed < 1.01 * whole


def test_the_logits_are_pytorchs(visit, eight_bits):
    """Whatever was read before, and of as many letters as it was trained on."""
    page, alphabet = visit(PAGE), characters(king_james())
    whole = king_james()[5000:5128]
    for text in "And God said", "And God saw", "A", whole, whole[:40]:
        with torch.inference_mode():
            right = eight_bits(to_ids(text, alphabet))[-1]
        found = torch.tensor(page.evaluate(LOGITS, text))
        assert (found - right).abs().max() < 1e-4, text
    page.evaluate(LOGITS, king_james()[5000:5300])  # it looks back at the last 128


def written(page):
    return page.locator(".fg-written").text_content()


def wait_until_written(page, begun):
    """Until the text that begins so is whole: the record before it is whole, too."""
    page.wait_for_function(
        f"(begun) => !{FIGURE}.writing && {FIGURE}.page.textContent.startsWith(begun)",
        arg=begun,
    )


def test_nothing_is_loaded_before_it_is_touched(visit):
    page = visit(PAGE)
    assert written(page).startswith("And the robot said")
    page.locator(".fg-written span").nth(30).click()
    assert page.locator(".fg-next button").count() == 6
    assert not [url for url in page.requests if MODEL in url]
    assert not page.troubles


def test_a_beginning_goes_on_and_is_forked(visit):
    page = visit(PAGE)
    page.get_by_label("A beginning").fill("And the computer said")
    page.keyboard.press("Enter")
    wait_until_written(page, "And the computer said")
    before = written(page)
    assert len(before) > 100
    page.locator(".fg-written").focus()
    page.keyboard.press("Home")
    page.locator(".fg-written span").nth(24).click()
    page.keyboard.press("ArrowRight")
    picked = page.locator("[aria-current]")
    assert picked.count() <= 1, "the draw may fall on a letter that is not named"
    other = page.locator(".fg-next button:not([aria-current])").first
    letter = page.evaluate(
        f"(n) => {FIGURE}.letters[25].options.filter(([l]) => l !== n)[0][0]",
        before[25],
    )
    other.press("Enter")
    wait_until_written(page, before[:25] + letter)
    assert len(written(page)) > 100
    assert not page.troubles


def test_what_it_cannot_read_is_said(visit):
    page = visit(PAGE)
    said, field = page.locator(".fg-said"), page.get_by_label("A beginning")
    field.fill("é1")
    field.press("Enter")
    page.wait_for_function("document.querySelector('.fg-said').textContent")
    assert said.inner_text().startswith("Type a letter or more")
    field.fill("Zoë")
    field.press("Enter")
    wait_until_written(page, "Zo")
    assert "has no ë: it knows 65" in said.inner_text() and written(page)[:2] == "Zo"
    alone = visit(PAGE)
    alone.route(f"**/{MODEL}", lambda route: route.abort())
    alone.get_by_role("button", name="Write").click()
    alone.wait_for_function("document.querySelector('.fg-said').textContent")
    assert "did not arrive" in alone.locator(".fg-said").inner_text()
    assert written(alone).startswith("And the robot said")


def test_the_record_plays_until_it_is_touched_and_stands_without_scripts(
    browser, server
):
    page = browser.new_page()
    page.goto(server + PAGE)
    page.wait_for_function(f"{FIGURE}.shown > 22")
    assert page.get_by_role("button", name="Stop").is_visible()
    page.get_by_role("button", name="Stop").click()
    shown = page.evaluate(f"{FIGURE}.shown")
    page.wait_for_timeout(300)
    assert page.evaluate(f"{FIGURE}.shown") == shown
    page.close()
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(server + PAGE)
        assert (
            "And the robot said unto Moses" in page.locator(".fg-written").inner_text()
        )


def test_the_page_is_read_at_a_glance(visit):
    """All chapters in one screen, and no phone has to be swiped for long."""
    chapters = visit(PAGE).locator(".fg-chapter").all()
    boxes = [chapter.bounding_box() for chapter in chapters]
    assert len(boxes) == 7
    assert boxes[-1]["y"] + boxes[-1]["height"] - boxes[0]["y"] < 900
    tall = visit(PAGE, width=360).evaluate("document.documentElement.scrollHeight")
    assert tall <= 3000


def test_forced_colours_leave_the_draw(visit):
    page = visit(PAGE)
    page.emulate_media(forced_colors="active")
    page.locator(".fg-written span").nth(40).click()
    colour = "node => getComputedStyle(node).backgroundColor"
    paper = page.locator("body").evaluate(colour)
    for mark in ".fg-amount b", ".fg-picked":
        assert page.locator(mark).first.evaluate(colour) != paper
    style = "node => getComputedStyle(node).outlineStyle"
    for mark in ".fg-line u", ".fg-at":
        assert page.locator(mark).evaluate(style) == "solid"
