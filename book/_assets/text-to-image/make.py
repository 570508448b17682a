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
from pathlib import Path

import torch
from assets import make_parts, read_json

from fieldguide import data
from fieldguide.data import store
from fieldguide.multimodal import clip
from fieldguide.multimodal import text_to_image as book

HERE = Path(__file__).parent
SEED = 0

GUIDANCES = [0, 1, 2, 4, 8]
STEPS = [1, 2, 4, 8, 16, 32]
CAPTIONS = 150  # that are asked for in a measurement
USUAL = {"guidance": 4, "steps": 16}
DRAWN = ["red heart", "blue heart", "green circle", "purple circle"]
PAINTED = ["red heart", "green heart", "grinning face with big eyes", "dog face"]
PAINTED += ["red apple", "rocket"]
FEWER = [1, 2, 4, 8, 16]  # steps, for the explorer
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "brown", "black"]
SHADE = 17  # of 255: pictures are stored in sixteen shades of a colour


def record_weights() -> None:
    generator = torch.Generator().manual_seed(SEED)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        model, losses = book.train_painter(book.pictures_to_learn(), generator)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    store(HERE / "weights.safetensors", state)
    means = [round(x, 4) for x in losses.view(-1, 50).mean(1).tolist()]
    store(HERE / "weights.json", {"losses": means})


def painted(captions: torch.Tensor, guidance: float, steps: int, seed: int):
    """Pictures of captions, by their places: uint8 (B, 32, 32, 3)."""
    model, told = book.trained_painter(), clip.emoji_features().bare[captions]
    draws = torch.Generator().manual_seed(seed)
    some = told.split(50)
    return torch.cat([book.paint(model, x, guidance, steps, draws) for x in some])


@torch.inference_mode()
def judged(pictures: torch.Tensor, own: torch.Tensor, among: torch.Tensor) -> dict:
    """By judge: how many find their caption among twenty, and of how many."""
    hits = {}
    for name, (see, told) in book.judges().items():
        seen = torch.cat([see(some) for some in pictures.split(50)])
        generator = torch.Generator().manual_seed(SEED)
        found = book.found_among(seen, told, own, among, generator)
        hits[name] = [int(found.sum()), len(found)]
    return hits


def some_of(places: torch.Tensor) -> torch.Tensor:
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(SEED))
    return places[order[:CAPTIONS]]


def real_ones(known: torch.Tensor) -> dict:
    """The judge's hits for real pictures: learnt from, and by another drawer."""
    emoji, found = data.emoji(), {}
    for name, drawers in (("learnt from", book.DRAWERS), ("new drawer", ["emojitwo"])):
        places = some_of(clip.role("train", drawers))
        found[name] = judged(emoji.pictures[places], emoji.concept[places], known)
    return found


def of_drawers(known: torch.Tensor) -> float:
    """How far the two drawers' pictures of a caption are apart, on average."""
    emoji, apart = data.emoji(), []
    first, second = (emoji.drawers.index(name) for name in book.DRAWERS)
    for concept in some_of(known).tolist():
        shown = emoji.concept == concept
        pair = [emoji.pictures[shown & (emoji.drawer == d)] for d in (first, second)]
        apart.append(book.pixel_distance(*pair))
    return round(torch.cat(apart).mean().item(), 4)


def by_guidance(guidance: float, known: torch.Tensor, learnt: torch.Tensor) -> dict:
    """Fit, variety, and the nearest pictures of the training."""
    emoji, asked = data.emoji(), some_of(known)
    one, two = (painted(asked, guidance, USUAL["steps"], seed) for seed in (1, 2))
    apart = book.pixel_distance(one, two).diagonal().mean().item()
    near, place = book.pixel_distance(one, emoji.pictures[learnt]).min(1)
    same = emoji.concept[learnt[place]] == asked
    return {
        "guidance": guidance,
        "found": judged(one, asked, known),
        "variety": round(apart, 4),
        "nearest": round(near.mean().item(), 4),
        "same caption": [int(same.sum()), len(same)],
    }


def new_captions() -> dict:
    """Concepts of families that were held out: what is painted, and real pictures."""
    emoji, test = data.emoji(), clip.role("test", book.DRAWERS)
    shown = emoji.concept[test]
    asked = shown.unique()
    of_painted, of_real = painted(asked, **USUAL, seed=1), emoji.pictures[test]
    found = {"painted": judged(of_painted, asked, asked)}
    return found | {"real": judged(of_real, shown, asked)}


def combinations() -> dict:
    """Is the nearest real heart or circle of the shape and colour that was asked?"""
    emoji, found = data.emoji(), {}
    shapes = [c for c in emoji.captions if c.split()[-1] in ("heart", "circle")]
    shapes = [c for c in shapes if c.rsplit(" ", 1)[0] in COLOURS]
    ids = torch.tensor([emoji.captions.index(c) for c in shapes])
    by = torch.tensor([emoji.drawers.index(name) for name in book.DRAWERS])
    real = torch.isin(emoji.concept, ids) & torch.isin(emoji.drawer, by)
    places = real.nonzero()[:, 0]
    for name, asked in (("never shown", book.NEVER_DRAWN), ("shown", DRAWN)):
        eight = torch.tensor([emoji.captions.index(c) for c in asked for _ in range(8)])
        pictures = painted(eight, **USUAL, seed=3)
        near = places[book.pixel_distance(pictures, emoji.pictures[places]).argmin(1)]
        pairs = [
            (emoji.captions[a], emoji.captions[b])
            for a, b in zip(eight.tolist(), emoji.concept[near].tolist(), strict=True)
        ]
        shape = [a.split()[-1] == b.split()[-1] for a, b in pairs]
        colour = [a.split()[0] == b.split()[0] for a, b in pairs]
        both = [a == b for a, b in pairs]
        parts = {"shape": shape, "colour": colour, "both": both}
        found[name] = {k: [sum(v), len(v)] for k, v in parts.items()}
    return found


@torch.no_grad()
def remade() -> Iterator[tuple]:
    """The loss of the stored weights, on some pictures with their captions."""
    kept = read_json(HERE / "weights.json")["losses"]
    emoji, places = data.emoji(), book.pictures_to_learn()[::40]
    planes = 2 * clip.to_planes(emoji.pictures[places]) - 1
    told = clip.emoji_features().bare[emoji.concept[places]]
    generator = torch.Generator().manual_seed(SEED)
    loss = book.flow_loss(book.trained_painter(), planes, told, generator, 0.0)
    yield kept[-1], loss.item(), 0.25 * kept[-1]


def record_measures() -> None:
    learnt = book.pictures_to_learn()
    known = data.emoji().concept[learnt].unique()
    record = {"real": real_ones(known)}
    record["variety of drawers"] = of_drawers(known)
    pictures, new = data.emoji().pictures, clip.role("test", book.DRAWERS)
    near = book.pixel_distance(pictures[new], pictures[learnt]).amin(1)
    record["nearest of held out"] = round(near.mean().item(), 4)
    record["guidance"] = [by_guidance(g, known, learnt) for g in GUIDANCES]
    asked, record["steps"] = some_of(known), []
    for steps in STEPS:
        found = judged(painted(asked, USUAL["guidance"], steps, 1), asked, known)
        record["steps"].append({"steps": steps, "found": found})
    record["new captions"] = new_captions()
    record["combinations"] = combinations()
    store(HERE / "measures.json", record)


def record_samples() -> None:
    emoji, every = data.emoji(), []
    for seed, caption in enumerate(PAINTED):
        three = torch.tensor([emoji.captions.index(caption)] * 3)
        rows = [
            torch.stack([painted(three, g, steps, seed) for steps in FEWER])
            for g in GUIDANCES
        ]
        every.append(torch.stack(rows))  # (guidances, steps, 3, 32, 32, 3)
    shades = (torch.stack(every).double() / SHADE).round().to(torch.uint8)
    store(HERE / "samples.npz", {"pictures": shades.numpy()})
    options = {"captions": PAINTED, "guidance": GUIDANCES, "steps": FEWER}
    options |= {"shade": SHADE}
    store(HERE / "samples.json", options)


if __name__ == "__main__":
    make_parts(record_weights, record_measures, record_samples)
