"""Train the models of challenges/preferences and record what became of them.

.venv/bin/python book/_tools/assets.py preferences (six minutes of a core)

Writes beside this file replier.safetensors, the model after its supervised stage, in 16
bits; paths.json: how that stage began and ended, and for each judge where the policy
gradient without a leash went; gaps.json: how far the policy gradient with a leash and
DPO ended from the closed form, in total variation, for each of SEEDS; and labels.json:
for each of WHOSE labels and each leash, what customers think of DPO's model, a number
for each of FEWER seeds. A name,
such as `gaps`, makes that part alone.
"""

from pathlib import Path

from assets import make_parts

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


def record_paths() -> None:
    model, losses = preferences.teach_replies()
    weights = {name: value.half() for name, value in model.state_dict().items()}
    store(HERE / "replier.safetensors", weights)
    record = {}
    ends = losses[0].item(), losses[-20:].mean().item()
    record["taught"] = [round(loss, 4) for loss in ends]
    record["unleashed"] = []
    for judge in JUDGES:
        path = preferences.unleashed(judge)
        record["unleashed"].append([rounded(step) for step in path])
        print("judge", judge, path[-1], flush=True)
    store(HERE / "paths.json", record)


def rounded(step: dict) -> dict:
    """A report with four decimals."""
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in step.items()}


def record_gaps() -> None:
    record = {}
    p, reward = preferences.shares_of(preferences.replier()), preferences.judged()
    wanted = preferences.tilted(p, reward, preferences.BETA)
    few, many = (Recipe(steps, **preferences.LONG) for steps in (FEW, MANY))
    ways = {
        "leashed": lambda seed: preferences.please(seed, preferences.BETA, few),
        "from_comparisons": lambda seed: preferences.from_comparisons(seed, many),
    }
    for name, train in ways.items():
        models = [preferences.shares_of(train(seed)) for seed in SEEDS]
        record[name] = [round(preferences.gap(q, wanted), 4) for q in models]
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
                model = preferences.from_labels(by, leash, count, seed)
                q = preferences.shares_of(model)
                found = preferences.report_on(q, reward)["customers"]
                row["customers"].append(round(found, 4))
                row["apologies"].append(round(q[twice].sum().item(), 4))
            record["rows"].append(row)
            print(row, flush=True)
    store(HERE / "labels.json", record)


if __name__ == "__main__":
    make_parts(record_paths, record_gaps, record_labels)
