"""Train the adders of scaling/emergence, at all sizes and from several seeds.

.venv/bin/python book/_tools/assets.py emergence (four minutes of a core)

Writes adders.json beside this file: for each width and seed the number of parameters,
the share of right digits and the loss at each place of the answer, and the share of
answers without a mistake, on 2,000 sums. The first eight answers stand there as it
wrote them. "longer" holds the same for one width that was
trained three times as long. The digest is that of the definitions that train and score.
"""

from pathlib import Path

import torch
from digest import digest_of, exported

from fieldguide.data import store
from fieldguide.scaling import emergence
from fieldguide.transformers.gpt import count_parameters

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "scaling" / "emergence.ipynb"
MADE_BY = ["adder", "sums_recipe", "right_digits", "scores", "draw_sums"]
MADE_BY += ["place_losses"]

WIDTHS = [4, 6, 8, 12, 16, 24]
SEEDS = range(5)
LONGER = 8  # the width that is also trained for 1,200 steps
TESTS, TEST_SEED = 2000, 98
WRITTEN = 8  # answers that are kept as they were written


def digests() -> dict[str, str]:
    """Of the record: the digest of the definitions that make it today."""
    return {"adders.json": digest_of(exported(NOTEBOOK), MADE_BY)}


@torch.no_grad()
def written(model: torch.nn.Module, texts: list[str]) -> str:
    """The answers that a model writes, in one line."""
    ids = emergence.to_symbols(texts)  # (B, T)
    said = ids[:, : emergence.ASKED]
    while said.size(1) < ids.size(1):
        said = torch.cat([said, model(said)[:, -1:].argmax(-1)], 1)
    answers = said[:, emergence.ASKED :].tolist()
    return " ".join("".join(emergence.SYMBOLS[k] for k in row) for row in answers)


def trained(width: int, seed: int, steps: int = 400) -> dict:
    """One run: its size and its two scores, and those of each digit."""
    drawn = torch.Generator().manual_seed(TEST_SEED)
    texts = emergence.draw_sums(TESTS, drawn)
    model = emergence.adder(width, seed, emergence.sums_recipe(steps))
    right = emergence.right_digits(model, texts)
    digits, whole = emergence.scores(right)
    places = [round(share, 4) for share in right.double().mean(0).tolist()]
    run = {"width": width, "seed": seed, "parameters": count_parameters(model)}
    run |= {"digits": round(digits, 5), "whole": whole, "places": places}
    losses = emergence.place_losses(model, texts).tolist()
    run["losses"] = [round(loss, 4) for loss in losses]
    if steps == 400:
        run["written"] = written(model, texts[:WRITTEN])
    print(run, flush=True)
    return run


def main() -> None:
    runs = [trained(width, seed) for width in WIDTHS for seed in SEEDS]
    longer = [trained(LONGER, seed, steps=1200) for seed in SEEDS]
    record = {"digest": digests()["adders.json"], "runs": runs, "longer": longer}
    store(HERE / "adders.json", record)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    main()
