"""Train the small GPTs of scaling/data-quality on texts of every kind.

.venv/bin/python book/_tools/assets.py data-quality       (on two cores 14 minutes)
.venv/bin/python book/_tools/assets.py data-quality runs  (four minutes)
.venv/bin/python book/_tools/assets.py data-quality mix   (ten minutes)

Writes beside this file the losses at home and away:
runs.json: for each kind of filling, share of it and seed; and those of clean text read
for fewer steps;
mix.json: for each mix of four kinds beside one part of clean text, and seed.
And pieces.json: the end of what a run of the first seed reads, by kind and share.
"""

from collections.abc import Iterator
from functools import cache
from itertools import accumulate, pairwise, product
from multiprocessing import get_context
from pathlib import Path

import torch
from assets import make_parts, read_json
from torch import Tensor

from fieldguide.data import king_james, licences, store
from fieldguide.introduction.next_word import characters, to_ids
from fieldguide.scaling.data_quality import (
    imitate,
    licence_families,
    split_families,
    with_typos,
)
from fieldguide.transformers.gpt import GPTConfig
from fieldguide.transformers.training import (
    held_out_loss,
    modern_recipe,
    new_gpt,
    train,
)

HERE = Path(__file__).parent

PARTS = {0.5: 1, 0.75: 3, 0.9: 9}  # a share as equal parts beside a clean one
STEPS = [12, 25, 50, 75, 100]  # of clean text; the last is what all others read
# parts of each kind beside one of clean text
LEVELS = {kind: [0, 1, 3] for kind in ("copies", "typos", "psalms", "imitation")}
# nothing: the good part is reread; echo: it is imitated, not the lost part
KINDS = "nothing", "echo", "imitation", "psalms", "copies", "typos", "licences"
SEEDS = range(3)


@cache
def bible() -> tuple[list, str, Tensor]:
    """Passages of 20 verses, the Psalms of them, and ids of every tenth, unread."""
    verses = king_james().splitlines(keepends=True)
    all_of = ["".join(verses[at : at + 20]) for at in range(0, len(verses), 20)]
    psalms = "".join(all_of[i] for i in range(697, 820) if i % 10)
    home = ids_of("".join(all_of[::10]))
    return [p for i, p in enumerate(all_of) if i % 10], psalms, home


@cache
def legal() -> tuple[str, Tensor]:
    """Licences, and ids of others that are no relatives of these."""
    draw = torch.Generator().manual_seed(0)
    sides = split_families(licence_families(2, 0.2), 0.1, draw)
    read, away = ("".join(plain(licences()[i].text) for i in s) for s in sides)
    return read, ids_of(away)


@cache
def alphabet() -> list[str]:
    return characters(king_james())


def ids_of(text: str) -> Tensor:
    return to_ids(text, alphabet())


def plain(text: str) -> str:
    """The text on one line; a character that King James lacks becomes a space."""
    kept = set(alphabet()) - {"\n"}
    return " ".join("".join(c if c in kept else " " for c in text).split()) + "\n"


def filling(kind: str, text: str, good: str, generator: torch.Generator) -> str:
    """What stands in the place of a text: as long as it, except "nothing"."""
    if kind == "nothing":
        return ""
    if kind == "typos":
        return with_typos(text, 0.2, generator)
    if kind in ("imitation", "echo"):
        known = text if kind == "imitation" else good
        return imitate(known, len(text), 4, generator)
    longer = {
        "copies": lambda: text[:2600],
        "psalms": lambda: bible()[1],
        "licences": lambda: legal()[0],
    }[kind]()
    start = torch.randint(len(longer), (1,), generator=generator).item()
    again = longer[start:] + longer * (1 + len(text) // len(longer))
    return again[: len(text)]


def text_of(seed: int, parts: dict[str, int]) -> str:
    """40 passages drawn at random: a part as they are, so many filled by each kind."""
    generator, known = torch.Generator().manual_seed(seed), bible()[0]
    order = torch.randperm(len(known), generator=generator)[:40]
    drawn = [known[i] for i in order.tolist()]
    sizes = [*accumulate([1, *parts.values()])]
    ends = [round(40 * n / sizes[-1]) for n in sizes]
    good = mixed = "".join(drawn[: ends[0]])
    for kind, (start, end) in zip(parts, pairwise(ends), strict=True):
        if parts[kind]:
            mixed += filling(kind, "".join(drawn[start:end]), good, generator)
    return mixed


def learned(text: str, seed: int, steps: int) -> torch.nn.Module:
    """A small GPT that has read a text."""
    generator, recipe = torch.Generator().manual_seed(seed), modern_recipe(steps)
    sizes = GPTConfig(65, 64, width=64, heads=4, layers=2, bias=False)
    model = new_gpt(sizes, recipe, generator)
    train(model, ids_of(text), recipe, generator=generator)
    return model


def run(parts: dict[str, int], steps: int, seed: int) -> list[float]:
    """The losses of a model that read a mix for so many steps, at home and away."""
    torch.set_num_threads(1)  # a second thread changes the last digits
    model = learned(text_of(seed, parts), seed, steps)
    return [round(held_out_loss(model, x, 256), 4) for x in (bible()[2], legal()[1])]


def measured(settings: list[tuple]) -> list[list]:
    """What `run` gives for (parts, steps), from each seed, by two workers."""
    jobs = [(*setting, seed) for setting in settings for seed in SEEDS]
    legal()  # once, before the workers begin
    with get_context("fork").Pool(2) as pool:
        found = pool.starmap(run, jobs, chunksize=1)
    return [found[at : at + len(SEEDS)] for at in range(0, len(jobs), len(SEEDS))]


def remade() -> Iterator[tuple]:
    """The shortest run, on clean text, on some of home; and a piece of each kind."""
    kept = read_json(HERE / "runs.json")
    model = learned(text_of(0, {}), 0, STEPS[0])
    yield kept["clean"][0][0][0], held_out_loss(model, bible()[2][:20_000], 256), 0.1
    kept = read_json(HERE / "pieces.json")
    for kind in kept.keys() - {"licences"}:  # those take long
        yield True, kept[kind]["0.75"] == text_of(0, {kind: 3})[-200:], 0


def record_runs() -> None:
    clean = measured([({}, steps) for steps in STEPS])
    filled = {
        kind: measured([({kind: n}, STEPS[-1]) for n in PARTS.values()])
        for kind in KINDS
    }
    record = {"shares": [*PARTS], "steps": STEPS, "clean": clean, "filled": filled}
    store(HERE / "runs.json", record)


def record_mix() -> None:
    mixes = [
        dict(zip(LEVELS, parts, strict=True)) for parts in product(*LEVELS.values())
    ]
    ends = measured([(parts, STEPS[-1]) for parts in mixes])
    store(HERE / "mix.json", {"levels": LEVELS, "ends": ends})


def record_pieces() -> None:
    pieces = {
        kind: {str(q): text_of(0, {kind: n})[-200:] for q, n in PARTS.items()}
        for kind in KINDS[2:]
    }
    store(HERE / "pieces.json", pieces)


if __name__ == "__main__":
    make_parts(record_runs, record_mix, record_pieces)
