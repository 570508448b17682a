"""Train the adders of scaling/emergence, forecast a larger one, then train that one.

.venv/bin/python book/_tools/assets.py emergence (nine minutes of a core)

Writes four files beside this one, in this order. adders.json: for each width and seed
the number of parameters, the share of right digits and the loss at each place of the
answer, and the share of answers without a mistake, on 2,000 sums. The first eight
answers stand there as it wrote them. "longer" holds the same for one width that was
trained three times as long. more.json: further seeds of the largest width.
forecast.json: what the wrong digits of the smallest and of the largest width say of the
exact match of the width LARGER. larger.json: how models of that width end, with the
SHA-256 of the forecast that lay there before they were trained.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from assets import read_json

from fieldguide.data import store
from fieldguide.data.files import sha256_of
from fieldguide.scaling import emergence
from fieldguide.transformers.gpt import GPTConfig, count_parameters
from fieldguide.transformers.training import new_gpt

HERE = Path(__file__).parent

WIDTHS = [4, 6, 8, 12, 16, 24]
SEEDS = range(5)
MORE = range(5, 20)  # further seeds of the largest width
LARGER = 48  # the width that is forecast before it is trained
NEW = range(20)  # its seeds


def parameters(width: int) -> int:
    """How many an untrained model of that width has."""
    sizes = GPTConfig(12, 11, width, heads=2, layers=2, bias=False)
    return count_parameters(new_gpt(sizes, emergence.sums_recipe(), None))


@torch.no_grad()
def written(model: torch.nn.Module, texts: list[str]) -> str:
    """The answers that a model writes, in one line."""
    ids = emergence.to_symbols(texts)  # (B, T)
    said = ids[:, : emergence.ASKED]
    while said.size(1) < ids.size(1):
        said = torch.cat([said, model(said)[:, -1:].argmax(-1)], 1)
    answers = said[:, emergence.ASKED :].tolist()
    return " ".join("".join(emergence.SYMBOLS[k] for k in row) for row in answers)


def trained(width: int, seed: int, steps: int = 400, kept: int = 0) -> dict:
    """One run: its size, its two scores, those of each digit, and `kept` answers."""
    texts = emergence.draw_sums(2000, torch.Generator().manual_seed(98))
    model = emergence.adder(width, seed, emergence.sums_recipe(steps))
    right = emergence.right_digits(model, texts)
    digits, whole = emergence.scores(right)
    places = [round(share, 4) for share in right.double().mean(0).tolist()]
    run = {"width": width, "seed": seed, "parameters": count_parameters(model)}
    run |= {"digits": round(digits, 5), "whole": whole, "places": places}
    losses = emergence.place_losses(model, texts).tolist()
    run["losses"] = [round(loss, 4) for loss in losses]
    if kept:
        run["written"] = written(model, texts[:kept])
    return run


def drawn_scores(size: int) -> list[float]:
    """The levels of what the known runs say of models of so many parameters."""
    known = [
        run
        for name in ("adders.json", "more.json")
        for run in read_json(HERE / name)["runs"]
    ]
    ends = [[r for r in known if r["width"] == WIDTHS[k]] for k in (0, -1)]
    sizes = *(runs[0]["parameters"] for runs in ends), size
    wrong = (1 - torch.tensor([r["digits"] for r in e]).double() for e in ends)
    draw = torch.Generator().manual_seed(0)
    drawn = emergence.whole_ahead(sizes, *wrong, len(NEW), draw, 10_000)
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.double)
    return [round(x, 3) for x in drawn.quantile(levels).tolist()]


def remade() -> Iterator[tuple]:
    """The forecast, and its size; the page trains one of the runs anew."""
    said = read_json(HERE / "forecast.json")
    levels = [said[name] for name in ("low", "middle", "high")]
    yield levels, drawn_scores(said["parameters"]), 2e-3
    yield said["parameters"], parameters(LARGER), 0


def main() -> None:
    runs = [trained(width, seed, kept=8) for width in WIDTHS for seed in SEEDS]
    longer = [trained(8, seed, steps=1200) for seed in SEEDS]
    store(HERE / "adders.json", {"runs": runs, "longer": longer})
    more = [trained(WIDTHS[-1], seed) for seed in MORE]
    store(HERE / "more.json", {"runs": more})
    low, middle, high = drawn_scores(parameters(LARGER))
    made = {name: sha256_of(HERE / f"{name}.json") for name in ("adders", "more")}
    made |= {"width": LARGER, "parameters": parameters(LARGER), "seeds": len(NEW)}
    said = {"low": low, "middle": middle, "high": high, "level": 0.8}
    store(HERE / "forecast.json", made | said)
    sealed = {"forecast": sha256_of(HERE / "forecast.json")}  # before it is trained
    runs = [trained(LARGER, seed) for seed in NEW]
    store(HERE / "larger.json", sealed | {"runs": runs})


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    main()
