"""Train the small GPTs of scaling/data-quality on texts of every kind.

.venv/bin/python book/_tools/assets.py data-quality (four minutes of two cores)

Writes runs.json beside this file: for each kind of filling, share of it and seed the
losses at home and away; and those of clean text read for fewer steps. It holds the
digest of the code that made it.
"""

from multiprocessing import get_context
from pathlib import Path

import torch
from digest import digest_of, exported

from fieldguide.data import store
from fieldguide.scaling import data_quality as page

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "scaling" / "data-quality.ipynb"
MADE_BY = ["training_text", "learn_from", "home_and_away"]

SHARES = [0.5, 0.75, 0.9]
STEPS = [12, 25, 50, 75, 100]  # of clean text; the last is what all others read
SEEDS = range(3)


def digests() -> dict[str, str]:
    """Of each record: the digest of the definitions that make it today."""
    return {"runs.json": digest_of(exported(NOTEBOOK), MADE_BY)}


def run(job):
    """The losses of one model, at home and away."""
    kind, share, steps, seed = job
    text = page.training_text(kind, share, seed)
    losses = page.home_and_away(page.learn_from(text, seed, steps))
    found = [round(loss, 4) for loss in losses]
    print("", *job, found, flush=True)
    return found


def start():
    torch.set_num_threads(1)  # a second thread changes the last digits
    page.sources()


def main() -> None:
    clean = [("nothing", 0.0, steps) for steps in STEPS]
    filled = [(kind, share, STEPS[-1]) for share in SHARES for kind in page.FILLINGS]
    jobs = [(*setting, seed) for setting in clean + filled for seed in SEEDS]
    with get_context("fork").Pool(2, start) as pool:
        found = dict(zip(jobs, pool.map(run, jobs, chunksize=1), strict=True))
    record = {"digest": digests()["runs.json"], "shares": SHARES, "steps": STEPS}
    record["clean"] = [[found["nothing", 0.0, n, s] for s in SEEDS] for n in STEPS]
    record["filled"] = {
        kind: [[found[kind, q, STEPS[-1], s] for s in SEEDS] for q in SHARES]
        for kind in page.FILLINGS
    }
    store(HERE / "runs.json", record)


if __name__ == "__main__":
    main()
