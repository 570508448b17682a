"""claim: what it refuses, what it shows, and what it keeps stable."""

import math
import re
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


BIG = 174_604_259_328
THIRD = {"expect": 1 / 3, "source": "derived"}


@pytest.mark.parametrize(
    ("value", "other", "given", "says"),
    [
        (BIG, BIG + 1, {"expect": BIG, "source": "brown2020"}, f"d {BIG + 1}, expec"),
        (sum([1 / 30] * 10), 1 / 3 + 1e-9, THIRD, "fails"),  # nine digits agree
        (Fraction(1, 3), 0.3333, THIRD, "fails"),
        (0, 1e-300, {"expect": 0, "source": "derived"}, "fails"),
        (4.02, 4.021, EXACT | {"tol": 0.02}, r"expected 4 ± 0\.02"),  # absolute
        (0.83, 0.79, TREND, "without the effect"),
    ],
)
def test_a_value_holds_within_its_tolerance_only(value, other, given, says):
    assert claim("four", value, **given).value == float(value)
    with pytest.raises(ClaimError, match=says):
        claim("four", other, **given)


@pytest.mark.parametrize(
    ("expect", "most"), [(4, 0.04), (-0.5, 0.005), (1571, 15.71), (0, 1e-4)]
)
def test_the_tolerance_of_an_exact_claim_is_a_rounding(expect, most):
    given = {"expect": expect, "source": "derived"}
    assert claim("rounded", expect, tol=most, **given).tol == most
    with pytest.raises(ValueError, match=rf"^tol = .* most {most:g}, a rounding"):
        claim("rounded", expect, tol=most * 1.01, **given)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"null": None}, "null"),
        ({"null": 0.71}, "tol"),  # more than half of the effect
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
        ({"source": "see the paper"}, "source"),
        ({"source": None}, "source"),
        ({"name": "Four"}, "name"),
        ({"name": "a--b"}, "name"),
        ({"name": 4}, "name"),
    ],
)
def test_a_claim_that_says_nothing_is_refused(change, named):
    with pytest.raises(ValueError, match=f"^{named} = "):
        claim(**{"name": "effect", "value": 0.9} | TREND | change)


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
    assert Attributes(first._repr_html_()).found["data"]["value"] == repr(one)
    assert (
        repr(first)
        == repr(second)
        == (
            "Claim effect holds: expected 0.9 ± 0.1, and 0.1 without the effect. "
            "Source: vaswani2017, table 2."
        )
    )


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
    html = claim("root", 8.0, expect=8.0, source="derived")._repr_html_()
    again = float(Attributes(html).found["data"]["data-tol"])
    assert again == pytest.approx(8e-9), "compared again to nine digits"


@pytest.mark.parametrize(
    "made",
    [
        claim("effect", 0.83, **TREND, against="R&D < 1"),
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
    page = measured(ROWS, tol=0.05)._repr_html_()
    assert '<th scope="row">&lt;a&gt;</th><td>4</td>' in page
    cells = re.findall(
        r'class="fg-measured" value="(.*?)" data-tol="0.05">(.*?)<', page
    )
    assert cells == [("1.62", "1.62"), ("2", "2")]


@pytest.mark.parametrize(
    ("rows", "tol", "named"),
    [
        ([], 0.1, "rows"),
        ([{"a": 1.5}, {"b": 1.5}], 0.1, "rows"),
        ([{"a": 1}], 0.1, "tol"),
        ([{"a": 1.5, "b": 2.5}], {"a": 0.1}, "tol"),
        ([{"a": 1.5}], 0, "tol"),
        ([{"a": 1.5}, {"a": math.nan}], 0.1, "a"),
        ([{"a": None, "b": 1.5}], 0.1, "a"),
    ],
)
def test_a_table_that_cannot_be_compared_is_refused(rows, tol, named):
    with pytest.raises(ValueError, match=f"^{named} = "):
        measured(rows, tol=tol)
