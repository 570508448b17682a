"""Train the models of challenges/preferences and record what became of them.

.venv/bin/python book/_tools/assets.py preferences (six minutes of a core)

Writes beside this file replier.safetensors, the model after its supervised stage, in 16
bits; paths.json: how that stage began and ended, and for each judge where the policy
gradient without a leash went; gaps.json: how far the policy gradient with a leash and
DPO ended from the closed form, in total variation, for each of SEEDS; and labels.json:
for each of WHOSE labels and each leash, what customers think of DPO's model, a number
for each of FEWER seeds; and opening.json: what the first figure shows. A name, such
as `gaps`, makes that part alone.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from assets import make_parts, read_json

from fieldguide.challenges import preferences
from fieldguide.data import store
from fieldguide.transformers.training import Recipe

HERE = Path(__file__).parent

SEEDS = range(3)
FEWER = range(2)
JUDGES = range(4)
FEW, MANY = 400, 900  # steps: of the policy gradient, of DPO
WHOSE = [("judge", 40_000), ("customers", 2_000), ("customers", 40_000)]
LEASHES = [0.5, 0.12]
BETAS = [0, 8, 4, 2, 1, 0.5, 0.25, 0.12, 0.06]  # of the first figure; 0: untrained
DRAWS = [1, 2, 4, 8, 16, 64, 256, 1024, 16384]


def unleashed(who: int, steps: int = 160, every: int = 4) -> list[dict]:
    """Pleasing a judge without a leash: a report every few steps."""
    plan = Recipe(steps, batch=128, rate=3e-4, decay=0.0)
    reward, path = preferences.judged(who), []

    def watch(step, learner):
        if step % every == 0:
            q = preferences.shares_of(learner)
            path.append({"step": step, **preferences.report_on(q, reward)})

    preferences.policy_gradient(who, 0.0, plan, watch, who)
    return path


def from_labels(by: str, beta: float, count: int, seed: int):
    """DPO in 300 steps: on the judge's exact shares, or each with a customer's choice.

    The judge's pairs carry the share of votes that its scores predict.
    """
    plan = Recipe(300, **preferences.LONG | {"batch": 64, "rate": 1e-2})
    if by == "judge":
        return preferences.from_comparisons(seed, plan, count, beta)
    generator = torch.Generator().manual_seed(seed)
    model, ids = preferences.reference_model(), preferences.all_replies()
    gold = preferences.gold_reward(preferences.phrase_counts(ids))
    p = preferences.shares_of(model)
    pair = preferences.compare(p, gold, count, generator)
    voted = *ids[pair], torch.ones(count)
    return preferences.learn_from_pairs(model, *voted, beta, plan, generator)


def record_paths() -> None:
    model, losses = preferences.fine_tune_replies()
    weights = {name: value.half() for name, value in model.state_dict().items()}
    store(HERE / "replier.safetensors", weights)
    record = {}
    ends = losses[0].item(), losses[-20:].mean().item()
    record["taught"] = [round(loss, 4) for loss in ends]
    record["unleashed"] = []
    for judge in JUDGES:
        path = unleashed(judge)
        record["unleashed"].append([rounded(step) for step in path])
        print("judge", judge, path[-1], flush=True)
    store(HERE / "paths.json", record)


def rounded(step: dict) -> dict:
    """A report with four decimals."""
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in step.items()}


def record_gaps() -> None:
    record, reward = {}, preferences.judged()
    p = preferences.shares_of(preferences.reference_model())
    wanted = preferences.tilted(p, reward, preferences.BETA)
    few, many = (Recipe(steps, **preferences.LONG) for steps in (FEW, MANY))
    ways = {
        "leashed": lambda seed: preferences.policy_gradient(
            seed, preferences.BETA, few
        ),
        "from_comparisons": lambda seed: preferences.from_comparisons(seed, many),
    }
    for name, train in ways.items():
        models = [preferences.shares_of(train(seed)) for seed in SEEDS]
        record[name] = [
            round(preferences.total_variation(q, wanted), 4) for q in models
        ]
        print(name, record[name], flush=True)
    store(HERE / "gaps.json", record)


def record_labels() -> None:
    record = {"rows": []}
    reward = preferences.judged()
    twice = (preferences.all_replies() == 1).sum(1) > 1
    for by, count in WHOSE:
        for leash in LEASHES:
            row = {"by": by, "count": count, "leash": leash}
            row |= {"customers": [], "apologies": []}
            for seed in FEWER:
                model = from_labels(by, leash, count, seed)
                q = preferences.shares_of(model)
                found = preferences.report_on(q, reward)["customers"]
                row["customers"].append(round(found, 4))
                row["apologies"].append(round(q[twice].sum().item(), 4))
            record["rows"].append(row)
            print(row, flush=True)
    store(HERE / "labels.json", record)


def record_opening() -> None:
    """What the first figure shows: scores, distance and five replies of each model."""
    record = {"rows": []}
    ids, reward = preferences.all_replies(), preferences.judged()
    gold = preferences.gold_reward(preferences.phrase_counts(ids))
    p = preferences.shares_of(preferences.reference_model())
    fifths = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.double)
    for beta, n in product(BETAS, DRAWS):
        q = preferences.tilted(p, reward, beta) if beta else p
        q = preferences.best_of_n(q, reward, n)
        drawn = torch.searchsorted(q.cumsum(0), fifths).clamp(max=len(q) - 1)
        row = {"beta": beta, "n": n, "judge": q @ reward, "customers": q @ gold}
        row["nats"] = preferences.kl_nats(q, p).clamp(min=0)
        row = {
            k: round(float(v), 6) if torch.is_tensor(v) else v for k, v in row.items()
        }
        row["replies"] = [[ids[i].tolist(), gold[i].item()] for i in drawn.tolist()]
        record["rows"].append(row)
    store(HERE / "opening.json", record)


def remade() -> Iterator[tuple]:
    """The first steps without a KL penalty; the rate falls later."""
    kept = read_json(HERE / "paths.json")
    yield kept["unleashed"][0][0], unleashed(0, 8)[0], 0.05


if __name__ == "__main__":
    make_parts(record_paths, record_gaps, record_labels, record_opening)
