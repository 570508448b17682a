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
from fieldguide.challenges.preferences import learn_from_pairs
from fieldguide.data import asset, smollm2_tokenizer, store
from fieldguide.transformers.gpt import GPTConfig
from fieldguide.transformers.real_model import LlamaFast, load_smollm2, run_layers
from fieldguide.transformers.training import Recipe, descend, new_gpt, optimizers

HERE = Path(__file__).parent

NAMES = "draft", "twin"
KINDS = "right", "wrong", "invented"
EACH = 12  # of each kind go through the loop
SEEDS = range(3)
TAUGHT = 1  # of the seeds, by DPO
PLAN = {"steps": 300, "batch": 128, "rate": 3e-3, "warmup": 20, "decay": 0.0}
BETA, SLIPS = 0.5, 0.25
LAYER = 15  # in the middle of 30
QUESTION = (
    "<|im_start|>user\nPrinciple: if you do not know, say so.\n"
    "Question: What is the capital of"
)
ENDS = "<|im_end|>\n<|im_start|>assistant\n"
ASKS = ("keep", "Yes", "No"), ("break", "No", "Yes")


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


def approval_lead(prompt, text: str, approve: str, reject: str) -> float:
    """By how many nats the model prefers one word to another after a text."""
    logits, encode = prompt.logits(text), smollm2_tokenizer().encode
    return (logits[encode(approve)[0]] - logits[encode(reject)[0]]).item()


def worked_lead(shown, country: str, draft: str) -> float:
    """After worked examples: how far *known* leads *made up*."""
    answer = f"The capital of {country} is {draft}."
    text = f" {country}?\nDraft: {answer}\nCritique: This is"
    return approval_lead(shown, text, " known", " made")


def approval_leads(plain, shown, country: str, draft: str) -> list[float]:
    """How much the model approves of a draft, by each way of asking."""
    answer, found = f"The capital of {country} is {draft}.", []
    for verb, approve, reject in ASKS:
        ask = f"Does the answer {verb} the principle? Reply Yes or No.{ENDS}"
        text = f" {country}?\nAnswer: {answer}\n{ask}"
        found.append(approval_lead(plain, text, approve, reject))
    return [*found, worked_lead(shown, country, draft)]


@torch.inference_mode()
def state_after(prompt, country: str, draft: str) -> torch.Tensor:
    """The residual stream after a draft's last token and LAYER: (D,)."""
    ids = prompt.continued(f"The capital of {country} is {draft}")
    layers = run_layers(prompt.model, ids, prompt.cache)
    return [x for x, _ in layers][LAYER][0, -1].clone()


def asked(rows: list[dict]):
    """The leads and the hidden states of some drafts."""
    torch.set_num_threads(1)
    model, states = load_smollm2(), []
    plain = page.ReadOnce(model, QUESTION)
    shown = page.ReadOnce(model, page.loop_prompt(page.ADMIT))
    before = page.ReadOnce(model, BEFORE)
    for row in rows:
        about = row["country"], row["draft"]
        leads = approval_leads(plain, shown, *about)
        row["leads"] = [round(lead, 3) for lead in leads]
        lead = worked_lead(shown, row["country"], row["twin"])
        row["twin_lead"] = round(lead, 3)
        both = [state_after(before, row["country"], row[n]) for n in NAMES]
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


def teach_student(rewards, beta: float, recipe: Recipe, generator) -> torch.Tensor:
    """DPO from comparisons with these rewards: probabilities (N, 3).

    A question is one token, so is each of the replies 0, 1 and 2. What counts
    is how often it says one of them rather than the others.
    """
    N = len(rewards)
    sizes = {"width": 32, "heads": 2, "layers": 1, "bias": False}
    model = new_gpt(GPTConfig(N + 3, 2, **sizes), recipe, generator)
    asked = torch.arange(N) + 3

    def said():
        return model(asked[:, None])[:, 0, :3].log_softmax(-1)  # (N, 3)

    def loss():
        return -(said() @ torch.tensor(page.SAYS)).mean()

    descend(model, loss, optimizers(model, recipe), recipe)
    first, second = torch.tensor([(0, 0, 1), (1, 2, 2)])
    pairs = [
        torch.stack([asked.repeat_interleave(3), each.repeat(N)], -1)
        for each in (first, second)
    ]  # (3 N, 2) each
    share = (rewards[:, first] - rewards[:, second]).sigmoid().flatten()
    voted = *pairs, share.float(), beta, recipe, generator
    model = learn_from_pairs(model, *voted, end=N + 3)  # nothing ends it
    return said().detach().exp().double()


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
                said["trained"] = teach_student(reward, BETA, plan, generator)
            for how, q in said.items():
                row[how] = [round(v, 4) for v in page.both_axes(good, q[:, 0], q[:, 2])]
            runs.append(row)
            print(row, flush=True)
    store(HERE / "critic.json", record | {"runs": runs})


def rounded(shares: dict) -> dict:
    return {name: round(value, 4) for name, value in shares.items()}


def remade() -> Iterator[tuple]:
    """The first draft asked about; what the first critic approves of, give or take."""
    kept = read_json(HERE / "critic.json")["runs"][0]
    rows = read_json(HERE / "loop.json")["rows"]
    states = load_file(HERE / "states.safetensors")
    (again,), both = asked([dict(rows[0])])
    yield rows[0]["leads"], again["leads"], 0.02
    first = torch.stack([states[name][0].float() for name in NAMES])
    yield 0, ((both[0] - first).norm() / first.norm()).item(), 0.01
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
