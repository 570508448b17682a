"""The concept test: fair options, marks that are right, a score that is remembered."""

from pathlib import Path

from cells import module_at
from playwright.sync_api import expect

BOOK = Path(__file__).resolve().parents[2] / "book"
QUESTIONS, FAULTS = module_at(BOOK / "_ext/fieldguide_quiz.py").read_quiz(
    BOOK / "concepts.yml"
)


def test_the_right_option_is_not_given_away_by_its_place_or_length():
    assert len(QUESTIONS) == 20 and not FAULTS
    assert {len(question["options"]) for question in QUESTIONS} == {4}
    chance = len(QUESTIONS) / 4
    for place in range(1, 5):
        assert sum(question["right"] == place for question in QUESTIONS) <= chance
    longest = [
        max(question["options"], key=lambda text: len(str(text)))
        == question["options"][question["right"] - 1]
        for question in QUESTIONS
    ]
    assert sum(longest) <= chance


def test_the_first_score_is_remembered_beside_the_second(visit):
    page = visit("concepts.html", width=360)
    questions = page.locator(".fg-concepts fieldset")
    status = page.get_by_role("status")
    check = page.get_by_role("button", name="Check my answers")
    check.click()
    expect(status).to_contain_text("0 of 20 are right. 20 not answered yet.")
    for question, fieldset in zip(QUESTIONS, questions.all(), strict=True):
        other = question["right"] % 4 + 1  # all wrong but those whose answer is 1
        place = 1 if question["right"] == 1 else other
        fieldset.locator("input").nth(place - 1).check()
    check.press("Enter")
    first = sum(question["right"] == 1 for question in QUESTIONS)
    expect(status).to_have_text(f"{first} of 20 are right. ")
    wrong = page.locator(".fg-concepts [data-state=wrong] details[open]")
    assert wrong.count() == 20 - first
    page.reload()
    expect(status).to_contain_text(f"Your first score was {first} of 20")
    for question, fieldset in zip(QUESTIONS, questions.all(), strict=True):
        fieldset.locator("input").nth(question["right"] - 1).check()
    check.click()
    expect(status).to_contain_text(f"20 of 20 are right. Your first score was {first}")
    page.get_by_role("button", name="Clear my answers").click()
    assert not page.locator(".fg-concepts :is([data-state=right], :checked)").count()
    assert not page.troubles
