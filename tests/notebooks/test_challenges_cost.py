"""The cells of challenges/cost against published bills and by hand."""

import functools
import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import cells
import pytest
from cells import cases, refuses, refuses_all
from hypothesis import strategies as st

from fieldguide.challenges import cost

amounts = st.floats(0.1, 1e6)


@functools.cache
def page():
    return cells.run_exercises("challenges/cost")


def good():
    """A call of compute_bill, with today's class of chips."""
    amounts = {"operations": 3.14e23, "chip": chip(24.6e12, 330)}
    return amounts | {"grid": 429, "price": 2, "pue": 1.1, "water": 4.2}


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


# Bad input


def test_bad_input_is_refused_by_name():
    bad = {"grid": [-1e-9, -429], "price": [-0.01], "water": [-1]}
    bad |= {"operations": [0, -1], "pue": [0.99, 0, -1]}
    refuses_all(cost.compute_bill, good(), **bad)
    free = cost.compute_bill(**good() | {"grid": 0, "price": 0, "water": 0, "pue": 1})
    assert free["tonnes"] == free["$"] == free["m³"] == 0 < free["MWh"]
    said = {"grid": "grams of CO2", "price": r"$", "pue": "1 or", "water": "litres"}
    for name, says in said.items():
        refuses(name, cost.compute_bill, **good() | {name: -2}, shown="-2", says=says)
    refuses_all(cost.Chip, {"rate": 1e12, "watts": 300}, rate=[0], watts=[0, -1])
    refuses_all(cost.even_after, {"read": 1e9, "slower": 4}, read=[0], slower=[0])
    with pytest.raises(AttributeError):
        cost.Chip(1, 2).rate = 3


# Exercises

SECONDS = "c * 1e6 / g * 3.6e6 / p / w"  # of one chip, from a budget of carbon


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("parameters_for", f"{SECONDS} * r / 2 / t", "counted two"),
        ("parameters_for", f"{SECONDS} * r / t", "six operations"),
        ("parameters_for", f"p * {SECONDS} * r / 6 / t", "building's"),
        ("parameters_for", f"p**2 * {SECONDS} * r / 6 / t", "leaves less"),
        ("parameters_for", f"{SECONDS} / 1e6 * r / 6 / t", "million grams"),
        ("parameters_for", f"{SECONDS} / 1e3 * r / 6 / t", "not a thousand"),
        ("parameters_for", f"{SECONDS} / 3.6e6 * r / 6 / t", "3.6e6 joules"),
        ("parameters_for", f"{SECONDS} / 3600 * r / 6 / t", "watt-hours"),
        ("parameters_for", f"w * {SECONDS} * r / 6 / t", "are seconds"),
        ("parameters_for", f"w**2 * {SECONDS} * r / 6 / t", "are seconds"),
        ("parameters_for", "7.0", "is right, not 7"),
        ("recount", "printed * server / chip * pue", "still subtracted"),
        ("recount", "printed * (1 - bought) * server / chip * pue", "was left"),
        ("recount", "printed / bought * server / chip * pue", "1 - bought"),
        ("recount", "printed / (1 - bought) * pue", "rest of the server"),
        ("recount", "printed / (1 - bought) * chip / server * pue", "draws more"),
        ("recount", "printed / (1 - bought) * server / chip", "cooling is missing"),
        ("recount", "printed / (1 - bought) * server / chip / pue", "multiply"),
        ("recount", "7.0", "is right, not 7"),
        ("share_of_answers", "slower * written / (3 * read)", "by the sum"),
        ("share_of_answers", "3 * read / (3 * read + slower * written)", "training"),
        ("share_of_answers", "written / (read + written)", "costs six"),
        ("share_of_answers", "slower * written / (read + slower * written)", "six"),
        ("share_of_answers", "written / (3 * read + written)", "is missing"),
        ("share_of_answers", "written / (3 * slower * read + written)", "multiply"),
        ("share_of_answers", "7.0", "is right, not 7"),
    ],
)
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    names = {"parameters_for": "c, t, r, w, p, g"}
    names |= {"recount": "printed, chip, server, pue, bought"}
    names |= {"share_of_answers": "read, written, slower"}
    cells.is_told_its_cause(page(), check, answer, cause, names[check])


# The page's own cells


def test_the_figures_say_what_the_text_says():
    book = cells.run_exercises("challenges/cost")  # anew, with today's chips
    assert book.three_digits(12345.6) == "12,300" and book.three_digits(1.5) == "1.5"
    assert book.how_long(0.36) == "8.64 hours" and book.how_long(450) == "450 days"
    assert book.how_long(3650) == "10 years"


@functools.cache
def figures():
    return cells.run_exercises("challenges/cost")


def digits(text):
    """The numbers of a view's text, such as "1,290 to train, 522 to answer"."""
    return [float(n.replace(",", "")) for n in re.findall(r"[\d,]*\.?\d+", text)]


START = {"parameters": "175 billion", "read": "300 billion", "chip": "V100 (2017)"}
START |= {"chips": 10_000, "grid": "the US", "price": 2, "answers": "a million"}
START |= {"prompt": 0}
EVEN, SHARES = "Answers have taken as much after", "Shares, in each of the four"


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
    for name, right in ("Training takes", days), (EVEN, 365 * once / year):
        text = views[name].props["text"]
        scale = {"hours": 1 / 24, "days": 1, "years": 365}[text.split()[-1]]
        assert digits(text)[0] * scale == pytest.approx(right, rel=0.006)
    share = views[SHARES].arrays["values"] / 100
    assert share.tolist() == pytest.approx([once / (once + year), year / (once + year)])


def test_only_what_is_read_the_prompt_and_the_chip_move_the_balance():
    book = figures()

    def even(**changed):
        return book.your_run(**START | changed)[EVEN].props["text"]

    assert even() == "900 days" and even(answers="2.5 billion") == "8.64 hours"
    assert even(prompt=15) == "106 days"  # 2 / (2 + 15) of 900
    same = {"parameters": "405 billion", "chips": 1000, "grid": "India", "price": 5}
    assert all(even(**{name: value}) == "900 days" for name, value in same.items())
    assert even(read="2 trillion") == "16.4 years"
    chips = [even(chip=chip) for chip in book.FLEET]
    assert chips == ["900 days", "600 days", "450 days", "450 days"]
    written = cost.even_after(300e9, book.SLOWER["H100 (2022)"])
    assert even(chip="H100 (2022)") == f"{written / 500 / 1e6:.0f} days"


def test_a_processors_counters_are_added_where_they_can_be_read():
    book = cells.run_exercises("challenges/cost")
    count = book.joules_so_far
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        place = Path(folder)
        patch.setitem(count.__globals__, "Path", lambda where: place)
        assert count() == 0
        for zone, energy in ("0", 1_500_000), ("1", 2_500_000), ("0:0", 7_000_000):
            zone_at = place / f"intel-rapl:{zone}"
            zone_at.mkdir()
            (zone_at / "energy_uj").write_text(f"{energy}\n")
        assert count() == 4  # the part of a processor is in its whole already
        (place / "intel-rapl:1" / "energy_uj").unlink()
        (place / "intel-rapl:1" / "energy_uj").mkdir()  # nobody can read it
        assert count() == 0


def test_the_chains_boxes_are_the_bills():
    book = cells.run_exercises("challenges/cost")
    bill = cost.compute_bill(3.14e23, chip(24.6e12, 330), 429, 2)
    for chips in 5000, 10_000, 20_000:
        held = {name: box[0] for name, box in book.chain_boxes(chips).items()}
        assert held["with cooling"] == f"{bill['MWh']:,.0f} MWh"
        assert held["CO2"] == f"{bill['tonnes']:,.0f} t"
        assert held["days"] == f"{bill['hours'] / chips / 24:.1f} days"
    nodes = book.chain("chips", 5000)["GPT-3's training"].props
    assert nodes["notes"] == ["3.14e23", "5,000", *["?"] * 5]
