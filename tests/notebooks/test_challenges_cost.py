"""The cells of challenges/cost against published bills and by hand."""

import functools
import math

from cells import cases
from hypothesis import strategies as st

from fieldguide.challenges import cost

amounts = st.floats(0.1, 1e6)


def chip(rate, watts):
    return cost.Chip(rate=rate, watts=watts)


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
