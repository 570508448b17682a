"""Train models that invent birthdays, and ask SmolLM2 for capitals.

.venv/bin/python book/_tools/assets.py hallucination [birthdays] [capitals]
(six minutes of one core)

Writes beside this file birthdays.json: for each number of statements read and each
skew, what a model invents at its lowest held-out loss and at the end, about people it
has read about and about others, and what it says of a few people; one of these settings
for longer, and with other seeds. The first of the longer runs also has the loss about
people it has read about and about others, how sure it is of the others, and how much it
and the world say of statements to which it gives a small or a large probability. And
capitals.json: what SmolLM2 says is the capital of a hundred countries and of twenty
that do not exist, with its probability, and the same after examples that admit
ignorance: a word that isn't in ../reviewed/words.json as three dots.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import make_parts, read_json, reviewed

from fieldguide.challenges import hallucination
from fieldguide.data import store
from fieldguide.transformers.real_model import LlamaFast, load_smollm2

HERE = Path(__file__).parent

READ, SKEWS, EVERY = [500, 1000, 2000, 4000], [0.0, 1.0, 1.5], 10
LONG, HELD_OUT, SEEDS = 300, 2000, [1, 2, 3]
CAPITALS = """
Afghanistan Kabul|Albania Tirana|Angola Luanda|Argentina Buenos Aires
Armenia Yerevan|Australia Canberra|Austria Vienna|Azerbaijan Baku|Bahrain Manama
Bangladesh Dhaka|Barbados Bridgetown|Belarus Minsk|Belgium Brussels
Bhutan Thimphu|Botswana Gaborone|Brazil Brasília|Bulgaria Sofia
Cambodia Phnom Penh|Cameroon Yaoundé|Canada Ottawa|Chad N'Djamena|Chile Santiago
China Beijing|Colombia Bogotá|Croatia Zagreb|Cuba Havana|Cyprus Nicosia
Denmark Copenhagen|Ecuador Quito|Egypt Cairo|Eritrea Asmara|Estonia Tallinn
Ethiopia Addis Ababa|Fiji Suva|Finland Helsinki|France Paris|Gabon Libreville
Georgia Tbilisi|Germany Berlin|Ghana Accra|Greece Athens|Guyana Georgetown
Haiti Port-au-Prince|Honduras Tegucigalpa|Hungary Budapest|Iceland Reykjavik
India New Delhi|Iran Tehran|Iraq Baghdad|Italy Rome|Jamaica Kingston|Japan Tokyo
Jordan Amman|Kenya Nairobi|Kyrgyzstan Bishkek|Laos Vientiane|Latvia Riga
Lebanon Beirut|Lesotho Maseru|Liberia Monrovia|Libya Tripoli|Lithuania Vilnius
Madagascar Antananarivo|Malawi Lilongwe|Mali Bamako|Malta Valletta
Mauritania Nouakchott|Moldova Chisinau|Mongolia Ulaanbaatar|Morocco Rabat
Mozambique Maputo|Namibia Windhoek|Nepal Kathmandu|Nicaragua Managua|Niger Niamey
Nigeria Abuja|Norway Oslo|Oman Muscat|Pakistan Islamabad|Paraguay Asunción
Peru Lima|Poland Warsaw|Portugal Lisbon|Qatar Doha|Romania Bucharest
Russia Moscow|Rwanda Kigali|Samoa Apia|Senegal Dakar|Slovakia Bratislava
Slovenia Ljubljana|Somalia Mogadishu|Sudan Khartoum|Suriname Paramaribo
Sweden Stockholm|Syria Damascus|Thailand Bangkok|Togo Lomé|Turkey Ankara
Uganda Kampala|Ukraine Kyiv|Uruguay Montevideo|Venezuela Caracas|Vietnam Hanoi
Yemen Sanaa|Zambia Lusaka|Zimbabwe Harare
"""
INVENTED = """
Veltonia Morubia Carsellia Tovanda Belquar Zantoria Marvegia Quorisia Lundavia
Ebrania Sorvantia Pelmoria Drastania Ulvenia Hastovia Nembria Corvalia Yestria
Fandoria Ostravar
"""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def invented_about(model, world, people) -> float:
    """The probability of a statement about these people that is false."""
    ids = hallucination.birthday_ids(people, world.dates[people])
    logits = model(ids[:, :2]).mT  # (N, V, 2)
    losses = F.cross_entropy(logits, ids[:, 1:3], reduction="none").sum(-1)
    named = losses.neg().double().exp()  # (N,)
    true = hallucination.statement_losses(model, ids).neg().double().exp()  # (N,)
    return (named - true).sum().item()


@torch.no_grad()
def every_statement(model) -> torch.Tensor:
    """The probability of each statement that can be written: (2000, 336)."""
    people = torch.arange(hallucination.PEOPLE)
    ids = hallucination.birthday_ids(people, torch.zeros_like(people))  # (2000, 5)
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


def look_closer(model, losses, is_news, unread, said) -> dict:
    """Where the loss comes from, and what the model and the world say how often."""
    given = every_statement(model)
    groups = [hallucination.by_chance(given, x).tolist() for x in (given, said)]
    sure = hallucination.say_birthdays(model, unread)[1].mean().item()
    return {
        "loss_read": round(losses[~is_news].mean().item(), 4),
        "loss_news": round(losses[is_news].mean().item(), 4),
        "sure_unread": round(sure, 4),
        "says": [round(x, 4) for x in groups[0]],
        "world": [round(x, 4) for x in groups[1]],
    }


def run(n: int, skew: float, seed: int, steps: int) -> dict:
    """One model: what it invents along its training, and what it says at its best."""
    world, draws = hallucination.make_birthdays(skew, seeded(0)), seeded(seed)
    both = torch.multinomial(world.shares, n + HELD_OUT, True, generator=draws)
    read, held_out = both[:n], both[n:]
    counts = read.bincount(minlength=hallucination.PEOPLE)
    ids = hallucination.birthday_ids(held_out, world.dates[held_out])
    people = shown_people(world, counts)
    unread = (counts == 0).nonzero().squeeze(-1)
    met = counts.nonzero().squeeze(-1)
    is_news = counts[held_out] == 0
    spoken = torch.zeros(hallucination.PEOPLE, hallucination.DATES).double()
    spoken[torch.arange(hallucination.PEOPLE), world.dates] = world.shares
    longest = (n, skew, seed, steps) == (READ[1], SKEWS[1], SEEDS[0], LONG)
    losses, invented, unread_wrong, read_wrong, more, best = [], [], [], [], [], {}

    @torch.no_grad()
    def watch(step, model):
        if step % EVERY:
            return
        each = hallucination.statement_losses(model, ids)
        loss = each.mean().item()
        invented.append(round(hallucination.invented_share(model, world), 4))
        for group, wrong in ((unread, unread_wrong), (met, read_wrong)):
            about = invented_about(model, world, group)
            wrong.append(round(about, 4))
        if longest:
            more.append(look_closer(model, each, is_news, unread, spoken))
        losses.append(round(loss, 4))
        if loss <= min(losses) + 1e-4:
            dates, sure = hallucination.say_birthdays(model, torch.tensor(people))
            said = [dates.tolist(), [round(p, 4) for p in sure.tolist()]]
            best.update(step=step, invented=invented[-1], said=said)
            best.update(unread_wrong=unread_wrong[-1], read_wrong=read_wrong[-1])

    hallucination.learn_birthdays(world, read, steps, seeded(seed), watch)
    facts = {"read": n, "skew": skew, "seed": seed}
    facts["once"] = hallucination.good_turing(counts)[0]
    facts["never"] = round(world.shares[counts == 0].sum().item(), 6)
    facts |= {"people": people, "counts": counts[people].tolist()}
    facts |= {"truth": world.dates[people].tolist()}
    facts |= {"best": best, "losses": losses, "invented": invented}
    if longest:
        facts |= {"read_wrong": read_wrong}
        facts |= {name: [one[name] for one in more] for name in more[0]}
    print(n, skew, seed, facts["once"], best, invented[-1], flush=True)
    return facts


def record_birthdays() -> None:
    first = SEEDS[0]
    runs = [run(n, s, first, max(100, 3 * n // 20)) for n in READ for s in SKEWS]
    others = [run(READ[1], SKEWS[1], seed, LONG) for seed in SEEDS]
    record = {"every": EVERY}
    store(HERE / "birthdays.json", record | {"runs": runs, "longer": others})


def record_capitals() -> None:
    model, rows = LlamaFast(load_smollm2()), []
    known = [row.partition(" ") for row in CAPITALS.replace("\n", "|").split("|")]
    asked = [(country, capital) for country, _, capital in known if country]
    for country, capital in asked + [(name, "") for name in INVENTED.split()]:
        row = {"country": country, "capital": capital}
        for name, before in (
            ("plain", hallucination.BEFORE),
            ("admits", hallucination.ADMITS),
        ):
            said, chance = hallucination.name_capital(model, country, before)
            row[name] = [reviewed(said), round(chance, 4)]
        rows.append(row)
        print(len(rows), json.dumps(row, ensure_ascii=False), flush=True)
    store(HERE / "capitals.json", {"rows": rows})


def remade() -> Iterator[tuple]:
    """The first ten steps of the first model; its rate is constant."""
    kept = read_json(HERE / "birthdays.json")["runs"]
    again = run(READ[0], SKEWS[0], SEEDS[0], EVERY)
    for name in "once", "never":
        yield kept[0][name], again[name], 1e-6
    for name in "losses", "invented":
        yield kept[0][name][:1], again[name], 0.05


if __name__ == "__main__":
    make_parts(record_birthdays, record_capitals)
