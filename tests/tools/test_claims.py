"""claim: what it refuses, what it shows, and what it keeps stable."""

import math
from fractions import Fraction
from html.parser import HTMLParser

import pytest
import torch

from fieldguide.claims import ClaimError, claim, measured, restored

TREND = {
    "kind": "trend",
    "expect": 0.9,
    "tol": 0.1,
    "null": 0.1,
    "spread": 0.02,
    "source": "vaswani2017, table 2",
}


class Attributes(HTMLParser):
    """The attributes of each element by tag, and the text."""

    def __init__(self, html):
        super().__init__()
        self.found, self.text = {}, ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found[tag] = dict(attrs)

    def handle_data(self, data):
        self.text += data


def test_exact_integers_are_compared_to_the_letter():
    big = 174_604_259_328
    claim("gpt-3", big, expect=big, source="brown2020")
    with pytest.raises(ClaimError, match=r"gpt-3 fails: measured 174604259329, expec"):
        claim("gpt-3", big + 1, expect=big, source="brown2020")


def test_closed_forms_in_floats_agree_to_nine_digits():
    claim("third", sum([1 / 30] * 10), expect=1 / 3, source="derived")
    claim("third", Fraction(1, 3), expect=1 / 3, source="derived")
    with pytest.raises(ClaimError):
        claim("third", 1 / 3 + 1e-9, expect=1 / 3, source="derived")
    with pytest.raises(ClaimError):
        claim("none", 1e-300, expect=0, source="derived")


def test_an_exact_claim_allows_a_rounding_only():
    claim("rounded", 4, expect=4, tol=0.04, source="derived")
    with pytest.raises(ValueError, match=r"^tol = .* most 0\.04, a rounding"):
        claim("rounded", 4, expect=4, tol=0.041, source="derived")


def test_a_trend_holds_within_its_tolerance_only():
    assert claim("effect", 0.83, **TREND).null == 0.1
    with pytest.raises(ClaimError, match="without the effect"):
        claim("effect", 0.79, **TREND)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"null": None}, "null"),
        ({"null": 0.85}, "tol"),  # the tolerance would let the null pass
        ({"expect": 1, "null": 0.5, "tol": 0.5, "spread": 0}, "tol"),
        ({"tol": 0, "spread": 0}, "tol"),
        ({"tol": -0.1}, "tol"),
        ({"tol": math.nan}, "tol"),
        ({"spread": None}, "spread"),
        ({"spread": 0.04}, "spread"),  # more than a third of the tolerance
        ({"spread": -0.01}, "spread"),
        ({"against": " "}, "against"),
        ({"kind": "hunch"}, "kind"),
        ({"kind": "exact"}, "null"),
        ({"expect": math.inf}, "expect"),
        ({"source": ""}, "source"),
        ({"source": "see the paper"}, "source"),
        ({"source": None}, "source"),
    ],
)
def test_a_trend_that_says_nothing_is_refused(change, named):
    with pytest.raises(ValueError, match=f"^{named} = "):
        claim("effect", 0.9, **TREND | change)


def test_the_page_carries_the_measured_value_and_every_fact():
    html = claim("effect", torch.tensor(0.875), **TREND)._repr_html_()
    page = Attributes(html)
    assert page.found["p"] == {
        "class": "fg-claim",
        "id": "claim-effect",
        "data-kind": "trend",
        "data-expect": "0.9",
        "data-tol": "0.1",
        "data-null": "0.1",
        "data-spread": "0.02",
        "data-source": "vaswani2017, table 2",
    }
    assert page.found["data"] == {
        "class": "fg-measured",
        "value": "0.875",
        "data-tol": "0.1",
    }
    assert page.text == ("✓ effect: 0.875. If there were no effect, it would be 0.1.")
    html = claim("effect", 0.875, **TREND, against="R&D < 1")._repr_html_()
    assert Attributes(html).text == "✓ effect: 0.875 (R&D < 1: 0.1)"
    assert restored(html)._repr_html_() == html


@pytest.mark.parametrize(
    "made",
    [
        claim("effect", 0.83, **TREND),
        claim("four", 4, expect=4, source='vaswani2017, "<b>" & co'),
        claim("root", 8.0, expect=8.0, source="derived"),
    ],
)
def test_a_claim_is_restored_from_its_page(made):
    assert restored(made._repr_html_()) == made
    assert restored("<p>another</p>") is None


ROWS = [{"kind": "<a>", "width": 4, "loss": 1.62}, {"kind": "b", "width": 8, "loss": 2}]


def test_a_measured_table_marks_what_may_differ():
    made = measured(ROWS, tol=0.05)
    assert repr(made) == "2 rows of measured values: kind, width, loss"
    page = made._repr_html_()
    assert '<th scope="row">&lt;a&gt;</th><td>4</td>' in page
    for value in ("1.62", "2"):
        cell = f'<data class="fg-measured" value="{value}" data-tol="0.05">{value}<'
        assert cell in page


def test_a_closed_form_in_floats_is_compared_again_within_nine_digits():
    html = claim("root", math.sqrt(64.0), expect=8.0, source="derived")._repr_html_()
    assert float(Attributes(html).found["data"]["data-tol"]) == pytest.approx(8e-9)
