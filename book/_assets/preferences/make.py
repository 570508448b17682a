"""Train the models of challenges/preferences and record what became of them.

.venv/bin/python book/_tools/assets.py preferences (six minutes of a core)

Writes beside this file replier.safetensors, the model after its supervised stage, in 16
bits; paths.json: how that stage began and ended, and for each judge where the policy
gradient without a leash went; gaps.json: how far the policy gradient with a leash and
DPO ended from the closed form, in total variation, for each of three seeds; and
labels.json: for each of WHOSE labels and each leash, what customers think of DPO's
model, a number for each of two seeds; and opening.json: what the first figure shows.
A name, such as `gaps`, makes that part alone.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from assets import make_parts, read_json

from fieldguide.challenges import preferences as page
from fieldguide.data import store
from fieldguide.transformers.training import Recipe

HERE = Path(__file__).parent

WHOSE = [("judge", 40_000), ("customers", 2_000), ("customers", 40_000)]
LEASHES = [0.5, 0.12]
BETAS = [0, 8, 4, 2, 1, 0.5, 0.25, 0.12, 0.06]  # of the first figure; 0: untrained
DRAWS = [1, 2, 4, 8, 16, 64, 256, 1024, 16384]


def gold_of_all() -> torch.Tensor:
    """What customers think of every reply."""
    return page.gold_reward(page.phrase_counts(page.all_replies()))


def unleashed(who: int, steps: int = 160) -> list[dict]:
    """Pleasing a judge without a leash: a report every four steps."""
    plan = Recipe(steps, batch=128, rate=3e-4, decay=0.0)
    p, path = page.shares_of(page.reference_model()), []
    reward, gold = page.judge_of(who)[1], gold_of_all()

    def watch(step, learner):
        if step % 4 == 0:
            q = page.shares_of(learner)
            far = page.kl_nats(q, p).clamp(min=0).sqrt()
            found = {"distance": far, "judge": q @ reward, "customers": q @ gold}
            values = {name: round(value.item(), 4) for name, value in found.items()}
            path.append({"step": step} | values)

    page.policy_gradient(who, 0.0, plan, watch, who)
    return path


def from_labels(by: str, beta: float, count: int, seed: int, recipe: Recipe):
    """The shares of DPO's model: from the judge's exact labels or customers' choices.

    The judge's pairs carry the share of votes that its scores predict.
    """
    generator = torch.Generator().manual_seed(seed)
    model, ids = page.reference_model(), page.all_replies()
    p, reward = page.shares_of(model), page.judge_of()[1]
    if by == "judge":
        pair = p.expand(2, -1).multinomial(count, True, generator=generator)
        share = (reward[pair[0]] - reward[pair[1]]).sigmoid()
    else:
        pair = page.compare(p, gold_of_all(), count, generator)
        share = torch.ones(count)
    plan = beta, recipe, generator
    return page.shares_of(page.learn_from_pairs(model, *ids[pair], share, *plan))


def record_paths() -> None:
    model, losses = page.fine_tune_replies()
    weights = {name: value.half() for name, value in model.state_dict().items()}
    store(HERE / "replier.safetensors", weights)
    ends = losses[0].item(), losses[-20:].mean().item()
    record = {"taught": [round(loss, 4) for loss in ends]}
    record["unleashed"] = [unleashed(judge) for judge in range(4)]
    store(HERE / "paths.json", record)


def record_gaps() -> None:
    p, reward = page.shares_of(page.reference_model()), page.judge_of()[1]
    wanted, record = page.tilted(p, reward, page.BETA), {}
    few, many = (Recipe(steps, **page.LONG) for steps in (400, 900))
    for seed in range(3):
        model = page.policy_gradient(seed, page.BETA, few)
        by_pairs = from_labels("judge", page.BETA, 40_000, seed, many)
        found = {"leashed": page.shares_of(model), "from_comparisons": by_pairs}
        for name, q in found.items():
            moved = (q - wanted).abs().sum().item() / 2
            record.setdefault(name, []).append(round(moved, 4))
    store(HERE / "gaps.json", record)


def record_labels() -> None:
    record, gold = {"rows": []}, gold_of_all()
    twice = (page.all_replies() == 1).sum(1) > 1
    recipe = Recipe(300, **page.LONG | {"batch": 64, "rate": 1e-2})
    for (by, count), leash in product(WHOSE, LEASHES):
        found = [from_labels(by, leash, count, seed, recipe) for seed in range(2)]
        row = {"by": by, "count": count, "leash": leash}
        row["customers"] = [round((q @ gold).item(), 4) for q in found]
        row["apologies"] = [round(q[twice].sum().item(), 4) for q in found]
        record["rows"].append(row)
    store(HERE / "labels.json", record)


def record_opening() -> None:
    """What the first figure shows: scores, distance and five replies of each model."""
    record = {"rows": []}
    ids, gold, reward = page.all_replies(), gold_of_all(), page.judge_of()[1]
    p = page.shares_of(page.reference_model())
    fifths = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.double)
    for beta, n in product(BETAS, DRAWS):
        q = page.best_of_n(page.tilted(p, reward, beta) if beta else p, reward, n)
        drawn = torch.searchsorted(q.cumsum(0), fifths).clamp(max=len(q) - 1)
        far = page.kl_nats(q, p).clamp(min=0)
        found = {"judge": q @ reward, "customers": q @ gold, "nats": far}
        row = {"beta": beta, "n": n}
        row |= {name: round(value.item(), 6) for name, value in found.items()}
        row["replies"] = [[ids[i].tolist(), gold[i].item()] for i in drawn.tolist()]
        record["rows"].append(row)
    store(HERE / "opening.json", record)


def remade() -> Iterator[tuple]:
    """The first steps without a KL penalty; the rate falls later."""
    kept = read_json(HERE / "paths.json")
    yield kept["unleashed"][0][0], unleashed(0, 8)[0], 0.05


if __name__ == "__main__":
    make_parts(record_paths, record_gaps, record_labels, record_opening)
