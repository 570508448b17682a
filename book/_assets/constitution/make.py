"""Let SmolLM2 judge its own answers, and record what challenges/constitution shows.

.venv/bin/python book/_tools/assets.py constitution (five minutes of two cores)

The drafts are SmolLM2's answers that ../hallucination keeps. Writes beside this file
loop.json: how much the model approves of each draft, by three ways of asking, and of
another country's capital, and for some of them its critique and revision by each
principle; states.safetensors: its hidden states after the draft and after the other
capital, in 16 bits; and critic.json: what the critics approve of, and what students of
several teachers say, for each of SEEDS. A name, such as `critic`, makes that part
alone, from the parts before.

A word that isn't in words.txt, which was read by people, is stored as three dots.
"""

import json
import re
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import torch
from assets import machine, make_parts, read_json
from safetensors.torch import load_file

from fieldguide.challenges import constitution as page
from fieldguide.challenges.hallucination import BEFORE
from fieldguide.data import asset, store
from fieldguide.transformers.real_model import LlamaFast, load_smollm2
from fieldguide.transformers.training import Recipe

HERE = Path(__file__).parent

NAMES = "draft", "twin"
KINDS = "right", "wrong", "invented"
EACH = 12  # of each kind go through the loop
SEEDS = range(3)
TAUGHT = 1  # of the seeds, by DPO
PLAN = {"steps": 300, "batch": 128, "rate": 3e-3, "warmup": 20, "decay": 0.0}
BETA, SLIPS = 0.5, 0.25


def drafts() -> list[dict]:
    """SmolLM2's stored answers: a country, its capital or "", the draft, its kind."""
    path, found = asset("hallucination", "capitals.json"), []
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        draft, capital = row["plain"][0], row["capital"]
        right = capital and page.same_name(draft, capital)
        kind = "right" if right else "wrong" if capital else "invented"
        about = {"country": row["country"], "capital": capital}
        found.append(about | {"draft": draft, "kind": kind})
    capitals = [row["capital"] for row in found if row["capital"]]
    for place, row in enumerate(found):
        row["twin"] = capitals[(place + 40) % len(capitals)]  # another country's
    return found


def looped(rows: list[dict]) -> set[int]:
    """Places of those that go through the loop, EACH of a kind, evenly drawn."""
    places = set()
    for kind in KINDS:
        some = [k for k, row in enumerate(rows) if row["kind"] == kind]
        places |= {some[k * len(some) // EACH] for k in range(EACH)}
    return places


def listed(text: str) -> str:
    """A text without the words that nobody has read."""
    known = set((HERE / "words.txt").read_text(encoding="utf-8").split())
    words = r"[^\W\d_]+"
    return re.sub(words, lambda m: m[0] if m[0].lower() in known else "...", text)


def asked(rows: list[dict]):
    """The leads and the hidden states of some drafts."""
    torch.set_num_threads(1)
    model, states = load_smollm2(), []
    plain = page.ReadOnce(model, page.QUESTION)
    shown = page.ReadOnce(model, page.loop_prompt(page.ADMIT))
    before = page.ReadOnce(model, BEFORE)
    for row in rows:
        about = row["country"], row["draft"]
        leads = page.approval_leads(plain, shown, *about)
        row["leads"] = [round(lead, 3) for lead in leads]
        lead = page.worked_lead(shown, row["country"], row["twin"])
        row["twin_lead"] = round(lead, 3)
        both = [page.state_after(before, row["country"], row[n]) for n in NAMES]
        states.append(torch.stack(both))
    print(len(rows), "drafts asked about", flush=True)
    return rows, torch.stack(states)


def revised(task):
    """Critiques and revisions of some drafts, by one principle."""
    principle, rows = task
    torch.set_num_threads(1)
    prompt = page.ReadOnce(LlamaFast(load_smollm2()), page.loop_prompt(principle))
    found = []
    for row in rows:
        pair = page.critique_and_revise(prompt, row["country"], row["draft"])
        found.append([listed(text) for text in pair])
    print(principle, *found[:2], flush=True)
    return found


def run(task):
    action, argument = task
    return action(argument)


def loop() -> None:
    rows = drafts()
    places = sorted(looped(rows))
    some, half = [rows[k] for k in places], len(rows) // 2
    principles = [*page.SHOWN]
    tasks = [(revised, (each, some)) for each in principles]
    tasks += [(asked, rows[:half]), (asked, rows[half:])]
    with get_context("fork").Pool(2) as pool:
        *texts, first, second = pool.map(run, tasks, chunksize=1)
    rows = first[0] + second[0]
    for place, *by_principle in zip(places, *texts, strict=True):
        rows[place]["loop"] = dict(zip(principles, by_principle, strict=True))
    record = {"machine": machine(), "rows": rows}
    store(HERE / "loop.json", record)
    states = torch.cat([first[1], second[1]]).half()
    found = {name: states[:, k].clone() for k, name in enumerate(NAMES)}
    store(HERE / "states.safetensors", found)


def critic() -> None:
    rows = read_json(HERE / "loop.json")["rows"]
    good = torch.tensor([row["kind"] == "right" for row in rows])
    states = load_file(HERE / "states.safetensors")
    both = [states[name].double() for name in NAMES]
    kinds = {k: torch.tensor([r["kind"] == k for r in rows]) for k in KINDS}
    record, runs = {}, []
    leads = torch.tensor([[row["leads"][2], row["twin_lead"]] for row in rows])
    slips = torch.full((len(rows), 2), SLIPS).double()
    truth = torch.stack([good, torch.zeros_like(good)], -1)
    for seed in SEEDS:
        verdicts = {"people": truth, "words": leads > 0}
        for name, seen in (("critic", False), ("critic that has seen twins", True)):
            generator = torch.Generator().manual_seed(seed)
            scores = page.cross_judged(*both, good, generator, seen)
            verdicts[name] = scores.T > 0
            approved = verdicts[name].double()
            shares = {k: approved[its, 0].mean().item() for k, its in kinds.items()}
            shares["twins"] = approved[:, 1].mean().item()
            runs.append({"seed": seed, "judge": name} | rounded(shares))
        for name, approves in verdicts.items():
            reward = page.rewards_of_votes(approves, slips)
            row = {"seed": seed, "taught by": name}
            said = {"exact": page.taught_replies(reward, BETA)}
            if seed < TAUGHT:
                generator = torch.Generator().manual_seed(seed)
                plan = Recipe(**PLAN)
                said["trained"] = page.teach_student(reward, BETA, plan, generator)
            for how, q in said.items():
                row[how] = [round(v, 4) for v in page.both_axes(good, q[:, 0], q[:, 2])]
            runs.append(row)
            print(row, flush=True)
    store(HERE / "critic.json", record | {"runs": runs})


def rounded(shares: dict) -> dict:
    return {name: round(value, 4) for name, value in shares.items()}


def remade() -> Iterator[tuple]:
    """What the first critic approves of; a few drafts may be near its limit."""
    kept = read_json(HERE / "critic.json")["runs"][0]
    rows = read_json(HERE / "loop.json")["rows"]
    states = load_file(HERE / "states.safetensors")
    both = [states[name].double() for name in NAMES]
    good = torch.tensor([row["kind"] == "right" for row in rows])
    generator = torch.Generator().manual_seed(kept["seed"])
    approved = (page.cross_judged(*both, good, generator) > 0).double()
    for kind in KINDS:
        its = torch.tensor([row["kind"] == kind for row in rows])
        yield kept[kind], approved[0, its].mean().item(), 0.05
    yield kept["twins"], approved[1].mean().item(), 0.05


if __name__ == "__main__":
    make_parts(loop, critic)
