"""Train the small GPTs of scaling/data-quality on texts of every kind.

.venv/bin/python book/_tools/assets.py data-quality       (on two cores 14 minutes)
.venv/bin/python book/_tools/assets.py data-quality runs  (four minutes)
.venv/bin/python book/_tools/assets.py data-quality mix   (ten minutes)

Writes beside this file the losses at home and away:
runs.json: for each kind of filling, share of it and seed; and those of clean text read
for fewer steps;
mix.json: for each mix of four kinds beside one part of clean text, and seed.
"""

from collections.abc import Iterator
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from assets import make_parts, read_json

from fieldguide.data import store
from fieldguide.scaling import data_quality as page

HERE = Path(__file__).parent

SHARES = [0.5, 0.75, 0.9]
STEPS = [12, 25, 50, 75, 100]  # of clean text; the last is what all others read
# parts of each kind beside one of clean text
LEVELS = {kind: [0, 1, 3] for kind in ("copies", "typos", "psalms", "imitation")}
SEEDS = range(3)


def judged(text, seed, steps=STEPS[-1]):
    """The losses of the model that a text makes, at home and away."""
    losses = page.home_and_away(page.learn_from(text, seed, steps))
    return [round(loss, 4) for loss in losses]


def run(job):
    """Of one kind, a share of it, for so many steps, from a seed."""
    kind, share, steps, seed = job
    return judged(page.training_text(kind, share, seed), seed, steps)


def mixed(job):
    """Of parts of each kind, from a seed."""
    *parts, seed = job
    return judged(page.mixed_text(seed, **dict(zip(LEVELS, parts, strict=True))), seed)


def start():
    torch.set_num_threads(1)  # a second thread changes the last digits
    page.sources()


def measured(work, jobs):
    """What `work` finds for each job, by two workers."""
    found = {}
    with get_context("fork").Pool(2, start) as pool:
        for job, losses in zip(jobs, pool.imap(work, jobs), strict=True):
            print("", *job, losses, flush=True)
            found[job] = losses
    return found


def remade() -> Iterator[tuple]:
    """The shortest run, on clean text."""
    kept = read_json(HERE / "runs.json")
    yield kept["clean"][0][0], run(("nothing", 0.0, STEPS[0], 0)), 0.03


def record_runs() -> None:
    clean = [("nothing", 0.0, steps) for steps in STEPS]
    filled = [(kind, share, STEPS[-1]) for share in SHARES for kind in page.FILLINGS]
    jobs = [(*setting, seed) for setting in clean + filled for seed in SEEDS]
    found = measured(run, jobs)
    record = {"shares": SHARES, "steps": STEPS}
    record["clean"] = [[found["nothing", 0.0, n, s] for s in SEEDS] for n in STEPS]
    record["filled"] = {
        kind: [[found[kind, q, STEPS[-1], s] for s in SEEDS] for q in SHARES]
        for kind in page.FILLINGS
    }
    store(HERE / "runs.json", record)


def record_mix() -> None:
    mixes = list(product(*LEVELS.values()))
    found = measured(mixed, [(*mix, seed) for mix in mixes for seed in SEEDS])
    record = {"levels": LEVELS}
    record["ends"] = [[found[*mix, s] for s in SEEDS] for mix in mixes]
    store(HERE / "mix.json", record)


if __name__ == "__main__":
    make_parts(record_runs, record_mix)
