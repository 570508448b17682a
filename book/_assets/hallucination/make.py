"""Train models that invent birthdays, and ask SmolLM2 for capitals.

.venv/bin/python book/_tools/assets.py hallucination [birthdays] [capitals] [counter]
(six minutes of one core)

Writes beside this file birthdays.json: for each number of statements read and each
skew, what a model invents at its lowest held-out loss and at the end, about people it
has read about and about others, and what it says of a few people; one of these settings
for longer, and with other seeds. The first of the longer runs also has the loss about
people it has read about and about others, and how much it and the world say of
statements to which it gives a small or a large probability. And it fills capitals.json,
which holds a hundred countries with their capitals and twenty that do not exist: what
SmolLM2 says is the capital, with its probability, and the same after examples that
admit ignorance: a word that isn't in ../reviewed/words.json as three dots. counter.json
has what the reader that counts invents, and its loss on the same new statements, for
each share of news that it may say.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import make_parts, read_json, reviewed

from fieldguide.challenges import hallucination as page
from fieldguide.data import store
from fieldguide.transformers.real_model import LlamaFast, load_smollm2

HERE = Path(__file__).parent

READ, SKEWS, EVERY = [500, 1000, 2000, 4000], [0.0, 1.0, 1.5], 10
HELD_OUT = 2000
NEWS = [0.1, 0.5, 1, 2, 3, 5, 7, 10, 14, 18, 22, 26.3, *range(30, 100, 5), 98, 99.5]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rounded(value) -> list | float:
    """Four decimals of a number, or of each in a tensor."""
    value = torch.as_tensor(value).tolist()
    return [round(x, 4) for x in value] if isinstance(value, list) else round(value, 4)


@torch.no_grad()
def invented_about(model, world, people) -> float:
    """The probability of a statement about these people that is false."""
    ids = page.birthday_ids(people, world.dates[people])
    logits = model(ids[:, :2]).mT  # (N, V, 2)
    losses = F.cross_entropy(logits, ids[:, 1:3], reduction="none").sum(-1)
    named = losses.neg().double().exp()  # (N,)
    true = page.statement_losses(model, ids).neg().double().exp()  # (N,)
    return (named - true).sum().item()


@torch.no_grad()
def every_statement(model) -> torch.Tensor:
    """The probability of each statement that can be written: (2000, 336)."""
    people = torch.arange(page.PEOPLE)
    ids = page.birthday_ids(people, torch.zeros_like(people))  # (2000, 5)
    first = model(ids[:, :3]).log_softmax(-1)  # (2000, 3, V)
    named = first[:, :2].gather(-1, ids[:, 1:3, None]).sum(1)  # (2000, 1)
    months = named + first[:, 2, 91:103]  # (2000, 12)
    ids = ids[:, :4].repeat_interleave(12, 0)  # (24000, 4)
    ids[:, 3] = 91 + torch.arange(12).repeat(len(people))
    days = model(ids)[:, -1].log_softmax(-1)[:, 103:]  # (24000, 28)
    logs = months.reshape(-1, 1) + days  # (24000, 28)
    return logs.double().exp().view(len(people), -1)


def shown_people(world, counts) -> list[int]:
    """The 1st, 30th and 300th most mentioned, and two that were never read."""
    order = world.shares.argsort(descending=True, stable=True)
    if world.shares.max() == world.shares.min():  # all alike
        order = counts.argsort(descending=True, stable=True)
    never = order[counts[order] == 0][:2]
    return [*order[[0, 29, 299]].tolist(), *never.tolist()]


def run(n: int, skew: float, seed: int, steps: int, closer: bool = False) -> dict:
    """One model: what it invents along its training, and what it says at its best.

    Closer: where its loss comes from, and how much it and the world say of each group.
    """
    world, draws = page.make_birthdays(skew, seeded(0)), seeded(seed)
    both = torch.multinomial(world.shares, n + HELD_OUT, True, generator=draws)
    read, held_out = both[:n], both[n:]
    counts = read.bincount(minlength=page.PEOPLE)
    ids = page.birthday_ids(held_out, world.dates[held_out])
    people, is_news = shown_people(world, counts), counts[held_out] == 0
    unread, met = (here.nonzero()[:, 0] for here in (counts == 0, counts > 0))
    spoken = torch.zeros(page.PEOPLE, page.DATES).double()
    spoken[torch.arange(page.PEOPLE), world.dates] = world.shares
    looks, best = [], {}

    @torch.no_grad()
    def watch(step, model):
        if step % EVERY:
            return
        each = page.statement_losses(model, ids)
        look = {"losses": each.mean(), "invented": page.invented_share(model, world)}
        slips = invented_about(model, world, met)
        if closer:
            look |= {"read_wrong": slips, "loss_read": each[~is_news].mean()}
            look["loss_news"] = each[is_news].mean()
            given = every_statement(model)
            look["says"] = page.by_chance(given, given)
            look["world"] = page.by_chance(given, spoken)
        look = {name: rounded(value) for name, value in look.items()}
        looks.append(look)
        if look["losses"] <= min(one["losses"] for one in looks):
            dates, sure = page.say_birthdays(model, torch.tensor(people))
            best.update(step=step, invented=look["invented"], read_wrong=rounded(slips))
            best["unread_wrong"] = rounded(invented_about(model, world, unread))
            best["said"] = [dates.tolist(), rounded(sure)]

    page.learn_birthdays(world, read, steps, seeded(seed), watch)
    facts = {"read": n, "skew": skew, "seed": seed}
    facts["once"] = page.good_turing(counts)[0]
    facts["never"] = round(world.shares[counts == 0].sum().item(), 6)
    facts |= {"people": people, "counts": counts[people].tolist()}
    facts |= {"truth": world.dates[people].tolist(), "best": best}
    return facts | {name: [look[name] for look in looks] for name in looks[0]}


def record_birthdays() -> None:
    runs = [run(n, s, 1, max(100, 3 * n // 20)) for n in READ for s in SKEWS]
    longer = [run(1000, 1.0, seed, 300, closer=seed == 1) for seed in (1, 2, 3)]
    store(HERE / "birthdays.json", {"every": EVERY, "runs": runs, "longer": longer})


def record_capitals() -> None:
    model, rows = LlamaFast(load_smollm2()), read_json(HERE / "capitals.json")["rows"]
    for row in rows:  # of a country and its capital
        for name, before in ("plain", page.BEFORE), ("admits", page.ADMITS):
            said, chance = page.name_capital(model, row["country"], before)
            row[name] = [reviewed(said), round(chance, 4)]
    store(HERE / "capitals.json", {"rows": rows})


def count(news: float) -> dict:
    """A reader that counts the statements of the longer runs: says `news` percent."""
    world, draws = page.make_birthdays(1.0, seeded(0)), seeded(1)
    both = torch.multinomial(world.shares, 1000 + HELD_OUT, True, generator=draws)
    counts = both[:1000].bincount(minlength=page.PEOPLE)
    given = page.counting_reader(counts, world.dates, news / 100)
    true = given[torch.arange(page.PEOPLE), world.dates]
    losses = -true[both[1000:]].log().mean()
    return {"news": news, "invented": rounded(1 - true.sum()), "loss": rounded(losses)}


def record_counter() -> None:
    store(HERE / "counter.json", {"rows": [count(news) for news in NEWS]})


def remade() -> Iterator[tuple]:
    """The first ten steps of the first model; its rate is constant."""
    kept = read_json(HERE / "birthdays.json")["runs"][0]
    again = run(READ[0], SKEWS[0], 1, EVERY)
    for name in "once", "never":
        yield kept[name], again[name], 1e-6
    for name in "losses", "invented":
        yield kept[name][:1], again[name], 0.05
    rows = read_json(HERE / "counter.json")["rows"]
    yield rows[11]["loss"], count(rows[11]["news"])["loss"], 1e-4


if __name__ == "__main__":
    make_parts(record_birthdays, record_capitals, record_counter)
