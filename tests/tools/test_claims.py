"""claim: what it refuses, what it shows, and what it keeps stable."""

import math
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.claims import ClaimError, claim, measured, restored, sources

EXACT = {"expect": 4, "source": "derived"}
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


@pytest.mark.parametrize(
    "value",
    [4, 4.0, np.int64(4), np.float32(4), torch.tensor(4), torch.tensor([[4.0]])],
)
def test_one_number_from_anything_that_holds_one(value):
    made = claim("four", value, **EXACT)
    assert made.value == 4 and type(made.value) in (int, float)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "4", None, True, 4j, torch.ones(2), np.ones(0), [4]]
)
def test_what_is_not_one_finite_number_is_refused(value):
    with pytest.raises(ValueError, match=r"value = .*one finite number"):
        claim("four", value, **EXACT)


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


def test_a_tolerance_is_absolute():
    claim("four", 4.02, tol=0.02, **EXACT)
    with pytest.raises(ClaimError, match=r"expected 4 ± 0\.02"):
        claim("four", 4.021, tol=0.02, **EXACT)


@pytest.mark.parametrize(
    ("expect", "most"), [(4, 0.04), (-0.5, 0.005), (1571, 15.71), (0, 1e-4)]
)
def test_the_tolerance_of_an_exact_claim_is_a_rounding(expect, most):
    given = {"expect": expect, "source": "derived"}
    assert claim("rounded", expect, tol=most, **given).tol == most
    for tol in (most * 1.01, 1e9):
        with pytest.raises(ValueError, match=rf"^tol = .* most {most:g}, a rounding"):
            claim("rounded", expect, tol=tol, **given)


def test_an_effect_is_twice_as_large_as_its_tolerance():
    """So that a value in the middle is allowed by neither of the two."""
    claim("effect", 0.3, **TREND | {"expect": 0.3, "null": 0.1})  # .3 - .1 < .2
    with pytest.raises(ValueError, match=r"^tol = 0\.1, .* most 0\.095, half of"):
        claim("effect", 0.9, **TREND | {"null": 0.71})


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
        ({"spread": -0.01}, "spread"),
        ({"spread": 0.04}, "spread"),  # more than a third of the tolerance
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


@pytest.mark.parametrize("name", ["", "Four", "four!", "a--b", "-a", "a b", 4, "é"])
def test_a_name_is_a_slug(name):
    with pytest.raises(ValueError, match="name = "):
        claim(name, 4, **EXACT)


def test_sources():
    assert sources("derived") == [("derived", "")]
    assert sources("vaswani2017, footnote 4; glorot2010") == [
        ("vaswani2017", "footnote 4"),
        ("glorot2010", ""),
    ]
    assert sources("two words") == sources("") == sources("a; ") == []


@given(st.floats(0.81, 0.99), st.floats(0.81, 0.99))
def test_the_text_does_not_depend_on_the_measured_value(one, other):
    first, second = claim("effect", one, **TREND), claim("effect", other, **TREND)
    assert repr(first) == repr(second)
    assert Attributes(first._repr_html_()).found["data"]["value"] == repr(one)


def test_the_sentence():
    assert repr(claim("effect", 0.83, **TREND)) == (
        "Claim effect holds: expected 0.9 ± 0.1, and 0.1 without the effect. "
        "Source: vaswani2017, table 2."
    )
    made = claim("weights", 1_049_600, expect=1_049_600, source="derived")
    assert repr(made) == "Claim weights holds: expected 1,049,600. Source: derived."


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
        claim("four", 4, expect=4, source='vaswani2017, "<b>" & co'),  # escaped
        claim("root", 8.0, expect=8.0, source="derived"),
    ],
)
def test_a_claim_is_restored_from_its_page(made):
    page = made._repr_html_()
    assert restored(page) == made and "<b>" not in page
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


@pytest.mark.parametrize(
    ("rows", "tol", "named"),
    [
        ([], 0.1, "rows"),
        ([{}], 0.1, "rows"),
        ([{"a": 1.5}, {"b": 1.5}], 0.1, "rows"),
        ([{"a": 1}], 0.1, "tol"),
        ([{"a": 1.5, "b": 2.5}], {"a": 0.1}, "tol"),
        ([{"a": 1.5}], {"a": 0.1, "c": 1}, "tol"),
        ([{"a": 1.5}], 0, "tol"),
        ([{"a": 1.5}], None, "tol"),
        ([{"a": 1.5}, {"a": math.nan}], 0.1, "a"),
        ([{"a": None, "b": 1.5}], 0.1, "a"),
    ],
)
def test_a_table_that_cannot_be_compared_is_refused(rows, tol, named):
    with pytest.raises(ValueError, match=f"^{named} = "):
        measured(rows, tol=tol)


def test_a_closed_form_in_floats_is_compared_again_within_nine_digits():
    html = claim("root", math.sqrt(64.0), expect=8.0, source="derived")._repr_html_()
    assert float(Attributes(html).found["data"]["data-tol"]) == pytest.approx(8e-9)
