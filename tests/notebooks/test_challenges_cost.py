"""The cells of challenges/cost against published bills and by hand."""

import functools
import math
import re

import cells
import pytest
from cells import cases
from hypothesis import strategies as st

from fieldguide.challenges import cost

amounts = st.floats(0.1, 1e6)


def chip(rate, watts):
    return cost.Chip(rate=rate, watts=watts)


# Published bills


def test_gpt_3s_bill_is_the_papers():
    bill = cost.compute_bill(3.14e23, chip(24.6e12, 330), 429, 2)
    assert [*bill] == ["hours", "MWh", "tonnes", "m³", "$"]
    assert round(bill["MWh"]) == 1287 and round(bill["tonnes"]) == 552
    assert round(bill["hours"] / 24 / 10_000, 1) == 14.8
    assert round(bill["m³"] / 1e3, 1) == 5.4  # million litres
    assert bill["$"] == 2 * bill["hours"]


def test_blooms_bill_is_the_papers():
    hours = 1_082_990  # of a chip
    bill = cost.compute_bill(hours * 3600 * 99e12, chip(99e12, 400), 57, 0, pue=1)
    assert math.isclose(bill["hours"], hours) and bill["$"] == 0
    assert round(bill["MWh"], 1) == 433.2 and round(bill["tonnes"], 1) == 24.7


@cases(amounts, amounts, amounts, amounts, amounts)
def test_each_factor_does_its_part(operations, rate, watts, grid, price):
    here = chip(rate, watts)
    bill = cost.compute_bill(operations, here, grid, price, pue=1.5, water=3)
    joules = operations / rate * watts * 1.5
    near = functools.partial(math.isclose, rel_tol=1e-9)
    assert near(bill["MWh"], joules / 3.6e9)
    assert near(bill["tonnes"], joules / 3.6e6 * grid / 1e6)
    assert near(bill["m³"], joules / 3.6e6 * 3 / 1e3)
    assert near(bill["$"], operations / rate / 60 / 60 * price)
    twice = cost.compute_bill(2 * operations, here, grid, price, pue=1.5, water=3)
    assert all(near(twice[unit], 2 * amount) for unit, amount in bill.items())


@cases(amounts, st.floats(1, 100), st.floats(1, 1e4))
def test_answers_match_training_where_even_after_says(read, slower, size):
    written = cost.even_after(read, slower)
    here, where = chip(1e12, 100), (400, 1)
    training = cost.compute_bill(6 * size * read, here, *where)
    answers = cost.compute_bill(slower * 2 * size * written, here, *where)
    for unit, amount in training.items():
        assert math.isclose(answers[unit], amount, rel_tol=1e-9)


def test_without_a_factor_answers_cost_as_much_an_operation():
    assert cost.even_after(7) == cost.even_after(7, 1) == 21
    assert cost.even_after(300e9, 4) == 225e9
    # 15 tokens of a prompt for each one written, read as cheaply as in training
    assert math.isclose(cost.even_after(300e9, 2, 15), 6 * 300e9 / (2 * 2 + 2 * 15))


# The page's own cells


@functools.cache
def figures():
    return cells.run_exercises("challenges/cost")


def digits(text):
    """The numbers of a view's text, such as "1,290 to train, 522 to answer"."""
    return [float(n.replace(",", "")) for n in re.findall(r"[\d,]*\.?\d+", text)]


START = {"parameters": "175 billion", "read": "300 billion", "chip": "V100 (2017)"}
START |= {"chips": 10_000, "grid": "the US", "price": 2, "answers": "a million"}
START |= {"prompt": 0}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"parameters": "8 billion", "chip": "B200 (2024)", "grid": "Norway"},
        {"read": "15.6 trillion", "chip": "H100 (2022)", "answers": "2.5 billion"},
        {"chip": "A100 (2020)", "price": 5, "chips": 100_000, "grid": "India"},
        {"prompt": 15},
    ],
)
def test_your_run_is_the_chain_by_hand(changed):
    book, given = figures(), START | changed
    N, read = book.SIZES[given["parameters"]], book.READ[given["read"]]
    chip, slower = book.FLEET[given["chip"]], book.SLOWER[given["chip"]]
    views = book.your_run(**given)
    once = 6 * N * read / chip.rate  # seconds of a chip
    answers = 365 * book.DAILY[given["answers"]]
    year = (slower + given["prompt"]) * 2 * N * 500 * answers / chip.rate
    kilowatt_hours = chip.watts * 1.1 / 3.6e6  # of such a second, with cooling
    by_hand = {
        "Electricity, MWh": kilowatt_hours / 1e3,
        "CO2, tonnes": kilowatt_hours * book.GRIDS[given["grid"]] / 1e6,
        "Water, m³": kilowatt_hours * 4.2 / 1e3,
        "Rent, million $": given["price"] / 3600 / 1e6,
    }
    for name, each in by_hand.items():
        said = digits(views[name].props["text"])
        assert said == pytest.approx([once * each, year * each], rel=0.006)
    days = once / 86_400 / given["chips"]
    even = "Answers have taken as much after", 365 * once / year
    for name, right in ("Training takes", days), even:
        text = views[name].props["text"]
        scale = {"hours": 1 / 24, "days": 1, "years": 365}[text.split()[-1]]
        assert digits(text)[0] * scale == pytest.approx(right, rel=0.006)
    share = views["Shares, in each of the four"].arrays["values"] / 100
    assert share.tolist() == pytest.approx([once / (once + year), year / (once + year)])
