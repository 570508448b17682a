"""Let SmolLM2 judge its own answers, and record what challenges/constitution shows.

.venv/bin/python book/_tools/assets.py constitution (ten minutes of a core)

The drafts are SmolLM2's answers that ../hallucination keeps. Writes beside this file
loop.json: how much the model approves of each draft, by three ways of asking, and of
another country's capital, and for some of them its critique and revision by each
principle; states.safetensors: its hidden states after the draft and after the other
capital, in 16 bits; and critic.json: what the critics approve of, for each of SEEDS,
and what students of several teachers say. A name, such as `critic`, makes that part
alone, from the parts before. A word that isn't in ../reviewed/words.json is stored as
three dots.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from assets import machine, make_parts, read_json, reviewed
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
    found = []
    for row in read_json(asset("hallucination", "capitals.json"))["rows"]:
        draft, capital = row["plain"][0], row["capital"]
        right = capital and page.same_name(draft, capital)
        kind = "right" if right else "wrong" if capital else "invented"
        about = {"country": row["country"], "capital": capital}
        found.append(about | {"draft": draft, "kind": kind})
    capitals = [row["capital"] for row in found if row["capital"]]
    for place, row in enumerate(found):
        row["twin"] = capitals[(place + 40) % len(capitals)]  # another country's
    return found


def looped(rows: list[dict]) -> list[dict]:
    """Those that go through the loop, EACH of a kind, evenly drawn."""
    found = []
    for kind in KINDS:
        some = [row for row in rows if row["kind"] == kind]
        found += [some[k * len(some) // EACH] for k in range(EACH)]
    return found


def approval_leads(plain, shown, country: str, name: str) -> list[float]:
    """By how many nats the model approves of a capital, by each way of asking."""
    encode, found = smollm2_tokenizer().encode, []
    answer, asks = f"The capital of {country} is {name}.", []
    for verb, approve, reject in ASKS:
        ask = f"Does the answer {verb} the principle? Reply Yes or No.{ENDS}"
        asks.append((plain, f"Answer: {answer}\n{ask}", approve, reject))
    critique = f"Draft: {answer}\nCritique: This is"
    asks.append((shown, critique, " known", " made"))  # after worked examples
    for prompt, text, approve, reject in asks:
        logits = prompt.logits(f" {country}?\n{text}")
        lead = logits[encode(approve)[0]] - logits[encode(reject)[0]]
        found.append(round(lead.item(), 3))
    return found


@torch.inference_mode()
def state_after(prompt, country: str, name: str) -> torch.Tensor:
    """The residual stream after a capital's last token and LAYER: (D,)."""
    ids = prompt.continued(f"The capital of {country} is {name}")
    layers = run_layers(prompt.model, ids, prompt.cache)
    return [x for x, _ in layers][LAYER][0, -1].clone()


def ask(rows: list[dict]) -> torch.Tensor:
    """Write the leads into some drafts' rows; their hidden states, (N, 2, D)."""
    model, states = load_smollm2(), []
    plain = page.ReadOnce(model, QUESTION)
    shown = page.ReadOnce(model, page.loop_prompt(page.ADMIT))
    before = page.ReadOnce(model, BEFORE)
    for row in rows:
        draft, twin = ((row["country"], row[name]) for name in NAMES)
        row["leads"] = approval_leads(plain, shown, *draft)
        row["twin_lead"] = approval_leads(plain, shown, *twin)[-1]
        both = [state_after(before, *about) for about in (draft, twin)]
        states.append(torch.stack(both))
    return torch.stack(states)


def loop() -> None:
    rows = drafts()
    states = ask(rows).half()
    for principle in page.SHOWN:
        model = LlamaFast(load_smollm2())
        prompt = page.ReadOnce(model, page.loop_prompt(principle))
        for row in looped(rows):
            pair = page.critique_and_revise(prompt, row["country"], row["draft"])
            row.setdefault("loop", {})[principle] = [*map(reviewed, pair)]
    store(HERE / "loop.json", {"machine": machine(), "rows": rows})
    found = {name: states[:, k].clone() for k, name in enumerate(NAMES)}
    store(HERE / "states.safetensors", found)


def teach_student(rewards, generator) -> torch.Tensor:
    """DPO from comparisons with these rewards: probabilities (N, 3).

    A question is one token, so is each of the replies 0, 1 and 2. What counts
    is how often it says one of them rather than the others.
    """
    N, recipe = len(rewards), Recipe(300, 128, rate=3e-3, warmup=20, decay=0.0)
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
    voted = *pairs, share.float(), BETA, recipe, generator
    model = learn_from_pairs(model, *voted, end=N + 3)  # nothing ends it
    return said().detach().exp().double()


def verdicts(rows, seed: int, seen: bool) -> torch.Tensor:
    """What a critic approves of, drafts and twins: (N, 2)."""
    states = load_file(HERE / "states.safetensors")
    good = torch.tensor([row["kind"] == "right" for row in rows])
    both = [states[name].double() for name in NAMES]
    generator = torch.Generator().manual_seed(seed)
    return page.cross_judged(*both, good, generator, seen).T > 0


def approved_shares(rows, approves) -> dict:
    """Of each kind of draft, and of the twins, the share that is approved of."""
    found = {"twins": round(approves[:, 1].double().mean().item(), 4)}
    for kind in KINDS:
        its = torch.tensor([row["kind"] == kind for row in rows])
        found[kind] = round(approves[its, 0].double().mean().item(), 4)
    return found


def critic() -> None:
    rows, runs = read_json(HERE / "loop.json")["rows"], []
    critics = {"critic": False, "critic that has seen twins": True}
    for seed in SEEDS:
        for name, seen in critics.items():
            shares = approved_shares(rows, verdicts(rows, seed, seen))
            runs.append({"seed": seed, "judge": name} | shares)
    good = torch.tensor([row["kind"] == "right" for row in rows])
    leads = torch.tensor([[row["leads"][2], row["twin_lead"]] for row in rows])
    teachers = {"people": torch.stack([good, torch.zeros_like(good)], -1)}
    teachers["words"] = leads > 0
    teachers |= {name: verdicts(rows, 0, seen) for name, seen in critics.items()}
    slips = torch.full((len(rows), 2), SLIPS).double()
    for name, approves in teachers.items():
        rewards = page.rewards_of_votes(approves, slips)
        said = {"exact": page.taught_replies(rewards, BETA)}
        said["trained"] = teach_student(rewards, torch.Generator().manual_seed(0))
        row = {"seed": 0, "taught by": name}
        for how, q in said.items():
            row[how] = [round(v, 4) for v in page.both_axes(good, q[:, 0], q[:, 2])]
        runs.append(row)
    store(HERE / "critic.json", {"runs": runs})


def remade() -> Iterator[tuple]:
    """The first draft asked about; what the first critic approves of, give or take."""
    kept = read_json(HERE / "critic.json")["runs"][0]
    rows = read_json(HERE / "loop.json")["rows"]
    states, again = load_file(HERE / "states.safetensors"), [dict(rows[0])]
    both = ask(again)[0]
    yield rows[0]["leads"], again[0]["leads"], 0.02
    first = torch.stack([states[name][0].float() for name in NAMES])
    yield 0, ((both - first).norm() / first.norm()).item(), 0.01
    shares = approved_shares(rows, verdicts(rows, kept["seed"], False))
    for name, share in shares.items():
        yield kept[name], share, 0.05


if __name__ == "__main__":
    make_parts(loop, critic)
