"""Train the painter of multimodal/text-to-image, and measure what it paints.

.venv/bin/python book/_tools/assets.py text-to-image [weights] [measures] [samples]

weights   writes weights.safetensors, in 16 bits, and weights.json: the loss, the mean
          of each fifty steps. Products are taken in bfloat16: a quarter of an hour on a
          processor that has it, much longer on one that has not.
measures  writes measures.json, from the stored weights: fit, variety and copying by
          guidance; fit by steps; captions and combinations that were never shown.
samples   writes samples.npz and samples.json: pictures of some captions by guidance and
          by steps, for the explorer. (Five minutes, with the measures.)

The 150 real pictures by the new drawer were drawn from 890; emoji/make.py left out two
of these later, which are not among the 150.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from assets import make_parts, read_json

from fieldguide import data
from fieldguide.data import store
from fieldguide.multimodal import clip
from fieldguide.multimodal import text_to_image as book

HERE = Path(__file__).parent
GUIDANCES = [0, 1, 2, 4, 8]
STEPS = [1, 2, 4, 8, 16, 32]
CAPTIONS = 150  # that are asked for in a measurement
DRAWN = ["red heart", "blue heart", "green circle", "purple circle"]
PAINTED = ["red heart", "green heart", "grinning face with big eyes", "dog face"]
PAINTED += ["red apple", "rocket"]
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "brown", "black"]
SHADE = 17  # of 255: pictures are stored in sixteen shades of a colour


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(captions: list[str]) -> torch.Tensor:
    return torch.tensor([data.emoji().captions.index(each) for each in captions])


def record_weights() -> None:
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        model, losses = book.train_painter(book.pictures_to_learn(), seeded())
    state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    store(HERE / "weights.safetensors", state)
    means = [round(x, 4) for x in losses.view(-1, 50).mean(1).tolist()]
    store(HERE / "weights.json", {"losses": means})


def painted(own: torch.Tensor, guidance: float, steps: int, seed: int):
    """Pictures of captions, by their places: uint8 (B, 32, 32, 3)."""
    model, draws = book.trained_painter(), seeded(seed)
    some = clip.emoji_features().bare[own].split(50)
    return torch.cat([book.paint(model, x, guidance, steps, draws) for x in some])


@torch.inference_mode()
def judged(pictures: torch.Tensor, own: torch.Tensor, among: torch.Tensor) -> dict:
    """By judge: how many find their caption among twenty, and of how many."""
    hits = {}
    for name, (see, told) in book.judges().items():
        seen = torch.cat([see(some) for some in pictures.split(50)])
        found = book.found_among(seen, told, own, among, seeded())
        hits[name] = [int(found.sum()), len(found)]
    return hits


def some_of(found: torch.Tensor) -> torch.Tensor:
    return found[torch.randperm(len(found), generator=seeded())[:CAPTIONS]]


def of_real(drawers: list[str], among: torch.Tensor) -> dict:
    """The judges' hits among real pictures."""
    real, emoji = some_of(clip.role("train", drawers)), data.emoji()
    return judged(emoji.pictures[real], emoji.concept[real], among)


def by_guidance(guidance: float, asked, known, learnt) -> dict:
    """Fit, variety, and the nearest pictures of the training."""
    emoji = data.emoji()
    one, two = (painted(asked, guidance, 16, seed) for seed in (1, 2))
    near, place = book.pixel_distance(one, emoji.pictures[learnt]).min(1)
    same = emoji.concept[learnt[place]] == asked
    apart = book.pixel_distance(one, two).diagonal().mean().item()
    return {
        "guidance": guidance,
        "found": judged(one, asked, known),
        "variety": round(apart, 4),
        "nearest": round(near.mean().item(), 4),
        "same caption": [int(same.sum()), len(same)],
    }


def combinations() -> dict:
    """Is the nearest real heart or circle of the shape and colour that was asked?"""
    emoji, found = data.emoji(), {}
    kinds = places([f"{c} {s}" for s in ("heart", "circle") for c in COLOURS])
    real = clip.role("train", book.DRAWERS)
    real = real[torch.isin(emoji.concept[real], kinds)]
    for name, captions in (("never shown", book.NEVER_DRAWN), ("shown", DRAWN)):
        asked = places(captions).repeat_interleave(8)
        apart = book.pixel_distance(painted(asked, 4, 16, 3), emoji.pictures[real])
        pairs = zip(asked.tolist(), emoji.concept[real[apart.argmin(1)]], strict=True)
        words = [[emoji.captions[c].split() for c in pair] for pair in pairs]
        colour, shape = torch.tensor([[*map(str.__eq__, *w)] for w in words]).T
        parts = {"shape": shape, "colour": colour, "both": colour & shape}
        found[name] = {k: [int(v.sum()), len(v)] for k, v in parts.items()}
    return found


def of_drawers(known: torch.Tensor) -> float:
    """How far the two drawers' pictures of a caption are apart, on average."""
    emoji, asked = data.emoji(), some_of(known)
    drawn = [clip.role("train", [name]) for name in book.DRAWERS]
    by = [p[torch.isin(emoji.concept[p], asked)] for p in drawn]  # by concept, both
    apart = book.pixel_distance(*(emoji.pictures[p] for p in by)).diagonal()
    return round(apart.mean().item(), 4)


@torch.no_grad()
def remade() -> Iterator[tuple]:
    """The loss of the stored weights; two drawers' distance, and what judges find."""
    kept = read_json(HERE / "weights.json")["losses"]
    emoji, learnt = data.emoji(), book.pictures_to_learn()
    planes = 2 * clip.to_planes(emoji.pictures[learnt[::40]]) - 1
    told = clip.emoji_features().bare[emoji.concept[learnt[::40]]]
    loss = book.flow_loss(book.trained_painter(), planes, told, seeded(), 0.0)
    yield kept[-1], loss.item(), 0.25 * kept[-1]
    kept = read_json(HERE / "measures.json")
    known = emoji.concept[learnt].unique()
    yield kept["variety of drawers"], of_drawers(known), 1e-4
    for judge, (hits, _) in of_real(book.DRAWERS, known).items():
        yield kept["real"]["learnt from"][judge][0], hits, 3


def record_measures() -> None:
    emoji, learnt = data.emoji(), book.pictures_to_learn()
    known, test = emoji.concept[learnt].unique(), clip.role("test", book.DRAWERS)
    asked, real = some_of(known), {"learnt from": of_real(book.DRAWERS, known)}
    real["new drawer"] = of_real(["emojitwo"], known)
    record = {"real": real, "variety of drawers": of_drawers(known)}
    near = book.pixel_distance(emoji.pictures[test], emoji.pictures[learnt])
    record["nearest of held out"] = round(near.amin(1).mean().item(), 4)
    record["guidance"] = [by_guidance(g, asked, known, learnt) for g in GUIDANCES]
    record["steps"] = [
        {"steps": steps, "found": judged(painted(asked, 4, steps, 1), asked, known)}
        for steps in STEPS
    ]
    shown, new = emoji.concept[test], emoji.concept[test].unique()
    record["new captions"] = {
        "painted": judged(painted(new, 4, 16, 1), new, new),
        "real": judged(emoji.pictures[test], shown, new),
    }
    record["combinations"] = combinations()
    store(HERE / "measures.json", record)


def record_samples() -> None:
    settings = product(enumerate(places(PAINTED)), GUIDANCES, STEPS[:-1])
    every = [painted(own.expand(3), g, n, seed) for (seed, own), g, n in settings]
    shades = (torch.stack(every).double() / SHADE).round().to(torch.uint8)
    sizes = len(PAINTED), len(GUIDANCES), len(STEPS) - 1
    store(HERE / "samples.npz", {"pictures": shades.unflatten(0, sizes).numpy()})
    options = {"captions": PAINTED, "guidance": GUIDANCES, "steps": STEPS[:-1]}
    store(HERE / "samples.json", {**options, "shade": SHADE})


if __name__ == "__main__":
    make_parts(record_weights, record_measures, record_samples)
