"""Train the sweep of scaling/laws, forecast a larger model, then train that one.

.venv/bin/python book/_tools/assets.py laws (seven minutes of two cores)

Writes eight files beside this one, in this order. sweep.json: how GPTs of WIDTHS end
from SEEDS at the best of several learning rates, how at the others, and the processor
time of the quickest run. The rates are the recipe's times FACTORS, and then those
beside the best, until both of its neighbours are worse. forecast.json: what the law
that is fitted to sweep.json says of a model of the width LARGER. larger.json: how that
model ends, tuned in the same way, with the SHA-256 of the forecast that lay there
before it was trained. Then the same again with heads that are all HEAD numbers wide:
even.json, even-forecast.json and even-larger.json. Then added.json: one more width,
ADDED, which the first figure may add to the sweep. And swing.json: that figure's laws,
of the sweep without one size or with the added one. `swing` makes the last one alone.
"""

import contextlib
import io
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from assets import king_james_ids, make_parts, read_json

from fieldguide.data import store
from fieldguide.data.files import sha256_of
from fieldguide.scaling import laws
from fieldguide.transformers.gpt import count_parameters
from fieldguide.transformers.training import new_gpt

HERE = Path(__file__).parent

WIDTHS = [8, 12, 16, 24, 32, 40, 48]
LARGER = 96
ADDED = 64  # in no forecast
HEAD = 8  # as wide as every head of the second sweep
EVEN = [8, 16, 24, 32, 40, 48]  # those WIDTHS that it divides
FACTORS = [1.0, 2.0]  # of the recipe's rates, tried first
SEEDS = [0, 1, 2]
DRAWS = 10_000
CORES = 2


def parameters(width: int) -> int:
    model = new_gpt(laws.sweep_config(width), laws.sweep_recipe(), None)
    return count_parameters(model)


def end(width: int, recipe, seed: int, label: object, head: int = 0):
    """How a run ends, nats, and the processor time that it took, seconds."""
    torch.set_num_threads(1)  # a second thread changes the last digits
    ids, held_out = king_james_ids()
    config = laws.sweep_config(width)
    if head:
        config = replace(config, heads=width // head)
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        loss = laws.sweep_loss(config, recipe, ids, held_out, seed)
    took = time.process_time() - start
    print(f"{width:3} {label:4} {seed}: {loss:.4f} nats, {took:.0f} s", flush=True)
    return round(loss, 4), round(took, 1)


def run(width: int, factor: float, seed: int, head: int) -> tuple[float, float]:
    return end(width, laws.sweep_recipe(factor=factor), seed, factor, head)


def trained(run: Callable, jobs: list[tuple]) -> list[tuple[float, float]]:
    """The runs of all jobs, the longest first, so that no core waits for another."""
    order = sorted(jobs, reverse=True)
    with multiprocessing.get_context("fork").Pool(CORES) as pool:
        ends = dict(zip(order, pool.starmap(run, order, chunksize=1), strict=True))
    return [ends[job] for job in jobs]


def wanted(tried: dict[float, list]) -> list[float]:
    """The factors to try next: none once both neighbours of the best are worse."""
    if not tried:
        return FACTORS
    best = min(tried, key=lambda factor: mean(loss for loss, _ in tried[factor]))
    return [factor for factor in (best / 2, 2 * best) if factor not in tried]


def rows(widths: list[int], head: int) -> list[dict]:
    """A row a width: its size, how its runs ended, how long the quickest took."""
    tried = {width: {} for width in widths}  # factor: how its seeds ended
    while jobs := [
        (width, factor, seed, head)
        for width in widths
        for factor in wanted(tried[width])
        for seed in SEEDS
    ]:
        for job, ended in zip(jobs, trained(run, jobs), strict=True):
            tried[job[0]].setdefault(job[1], []).append(ended)
    return [row_of(width, tried[width]) for width in widths]


def row_of(width: int, tried: dict[float, list]) -> dict:
    losses = {factor: [loss for loss, _ in tried[factor]] for factor in sorted(tried)}
    best = min(losses, key=lambda factor: mean(losses[factor]))
    row = {"width": width, "parameters": parameters(width), "factor": best}
    row |= {"losses": losses[best], "tried": losses}
    return row | {"cpu_s": min(took for ends in tried.values() for _, took in ends)}


def means_of(runs: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sizes, and the mean loss of the seeds of each."""
    found = [[run["parameters"], mean(run["losses"])] for run in runs]
    return torch.tensor(found, dtype=torch.double).unbind(1)


def drawn_from(sweep: str, size: int) -> list[float]:
    """The levels of what a sweep's law says of a model of so many parameters."""
    known = means_of(read_json(HERE / f"{sweep}.json")["runs"])
    larger, draw = torch.tensor([size]).double(), torch.Generator().manual_seed(0)
    drawn = laws.forecast(*known, larger, draw, DRAWS).flatten()
    levels = torch.tensor([0.025, 0.5, 0.975], dtype=torch.double)
    return [round(x, 4) for x in drawn.quantile(levels).tolist()]


def study(sweep: str, prefix: str, widths: list[int], head: int) -> None:
    """A sweep, its forecast for LARGER, sealed before that is trained, and the end."""
    store(HERE / f"{sweep}.json", {"seeds": SEEDS, "runs": rows(widths, head)})
    low, middle, high = drawn_from(sweep, parameters(LARGER))
    said = {"sweep": sha256_of(HERE / f"{sweep}.json"), "width": LARGER}
    said |= {"parameters": parameters(LARGER), "level": 0.95}
    said |= {"low": low, "middle": middle, "high": high}
    sealed = HERE / f"{prefix}forecast.json"
    store(sealed, said)
    truth = {"forecast": sha256_of(sealed)} | rows([LARGER], head)[0]
    store(HERE / f"{prefix}larger.json", truth)


def swing_of(runs: list[dict]) -> dict:
    """The law of these sizes, and where 95 % of new means lie around it."""
    sizes, losses = means_of(runs)
    ends = parameters(WIDTHS[0]), parameters(LARGER)
    places = torch.logspace(*map(math.log10, ends), 24).double()
    draw = torch.Generator().manual_seed(0)
    dots, spread = laws.redraw(sizes, losses, 2000, draw)
    luck = torch.randn(len(spread), generator=draw, dtype=torch.double)
    drawn = laws.fit_law(sizes, dots).at(places) * (spread * luck).exp()[:, None]
    law = laws.fit_law(sizes, losses)
    around = drawn.quantile(torch.tensor([0.025, 0.975]).double(), dim=0)
    curves = dict(zip(("least", "most"), around, strict=True))
    curves |= {"places": places, "curve": law.at(places)}
    made = {name: [float(f"{x:.6g}") for x in c] for name, c in curves.items()}
    return {"exponent": round(law.exponents.item(), 4), **made}


def remade() -> Iterator[tuple]:
    """The first sweep's forecast and law, and the one run of its smallest model.

    The sealed forecast left out one draw of its ten thousand.
    """
    said, runs = (
        read_json(HERE / "forecast.json"),
        read_json(HERE / "sweep.json")["runs"],
    )
    levels = [said[name] for name in ("low", "middle", "high")]
    yield levels, drawn_from("sweep", said["parameters"]), 1e-3
    kept, again = read_json(HERE / "swing.json")["the seven"], swing_of(runs)
    for name in kept:
        yield kept[name], again[name], 1e-3
    loss, _ = run(runs[0]["width"], 1.0, SEEDS[0], 0)
    yield runs[0]["tried"]["1.0"][0], loss, 0.1
    yield runs[0]["parameters"], parameters(runs[0]["width"]), 0


def record_sweeps() -> None:
    study("sweep", "", WIDTHS, 0)
    study("even", "even-", EVEN, HEAD)
    store(HERE / "added.json", rows([ADDED], 0)[0])


def record_swing() -> None:
    runs, added = read_json(HERE / "sweep.json")["runs"], read_json(HERE / "added.json")
    made = {"the seven": swing_of(runs)}
    for run in runs:
        left = [other for other in runs if other is not run]
        made[f"{run['parameters']:,}"] = swing_of(left)
    made[f"+ {added['parameters']:,}"] = swing_of([*runs, added])
    store(HERE / "swing.json", made)


if __name__ == "__main__":
    make_parts(record_sweeps, record_swing)
