"""Train the encoders of multimodal/clip in several ways, and record how well they find.

.venv/bin/python book/_tools/assets.py emoji-clip [runs] [halves] [weights] (15 minutes)

weights  writes encoders.safetensors and heads.safetensors, in 16 bits, as the notebook
         trains them, from the first seed.
runs     writes runs.json: recall at 1, from picture to caption, on the two validation
         sets, and the distance between the means of both kinds, for

splits   the notebook's setting, from three seeds, with families of concepts held out,
         and with as many single concepts held out, whatever their families;
scale    a scale that is not learnt, but fixed;
batch    other batches.

halves   writes halves.json: the held-out families, cut at random into halves; recall at
         1 on the one, among its own captions, with the other learnt from and without.

All that is stored was trained on 3,684 pictures: the 3,682 to learn from and two that
emoji/make.py has left out since, by `noto, the first`, for they showed another
concept: man in tuxedo (the picture of person in tuxedo) and cricket (that of cricket
game, which is held out). So runs.json was measured with 890 pictures of the new
drawer, 888 and two that were left out likewise: cricket and UP! button.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from assets import make_parts, read_json

from fieldguide import data
from fieldguide.data import store
from fieldguide.multimodal import clip

HERE = Path(__file__).parent
SEEDS = range(3)
SCALES = [2.0, 50.0]
BATCHES = [64, 512]
CUTS = [0, 100]  # seeds


def families() -> dict[str, torch.Tensor]:
    """The notebook's roles: places of pictures."""
    return {
        "training": clip.role("train", clip.KNOWN_DRAWERS),
        "new drawer": clip.role("train", ["emojitwo"]),
        "new concepts": clip.role("validation", clip.KNOWN_DRAWERS),
    }


def single(seed: int) -> dict[str, torch.Tensor]:
    """Roles with single concepts held out, as many as by families, none of the test."""
    shown, roles = data.emoji().concept, families()
    known, held = roles["training"], roles["new concepts"]
    count = len(shown[held].unique())
    drawn = torch.cat([shown[known].unique(), shown[held].unique()])
    draws = torch.Generator().manual_seed(seed)
    new = drawn[torch.randperm(len(drawn), generator=draws)[:count]]
    every = torch.cat([known, held])
    is_new = torch.isin(shown[every], new)
    return {"training": every[~is_new], "new concepts": every[is_new]}


def halves(cut: int) -> list[torch.Tensor]:
    """The new concepts, at random in two roles: many have relatives in the other."""
    held, shown = families()["new concepts"], data.emoji().concept
    concepts, draws = shown[held].unique(), torch.Generator().manual_seed(cut)
    order = concepts[torch.randperm(len(concepts), generator=draws)]
    return [held[torch.isin(shown[held], part)] for part in order.chunk(2)]


def encoders(training: torch.Tensor, seed: int, **settings) -> clip.TwoEncoders:
    draws = torch.Generator().manual_seed(seed)
    build = lambda: clip.TwoEncoders(training)  # noqa: E731
    return clip.align_pairs(build, training, draws, **settings)[0]


def stored_encoders() -> clip.TwoEncoders:
    return clip.load_trained(clip.TwoEncoders(families()["training"]), "encoders")


def rate(model: clip.TwoEncoders, roles: dict[str, torch.Tensor]) -> dict:
    """Recall at 1 for each role but the training, and the gap for a new drawer."""
    (pictures, captions), found = model.all_vectors(), {}
    for name in roles.keys() - {"training"}:
        shown = data.emoji().concept[roles[name]]
        seen, told = pictures[roles[name]], captions[shown.unique()]
        hits = clip.found_within(seen, told, shown[:, None] == shown.unique())
        found[name] = round(hits.float().mean().item(), 4)
        if name == "new drawer":
            found["gap"] = round((seen.mean(0) - told.mean(0)).norm().item(), 4)
    return found


def run(roles: dict[str, torch.Tensor], seed: int, **settings) -> dict:
    """Train from a seed, and `rate`."""
    found = rate(encoders(roles["training"], seed, **settings), roles)
    print(found, flush=True)
    return found


def remade() -> Iterator[tuple]:
    """What the stored encoders find among the new concepts."""
    new = {"new concepts": families()["new concepts"]}
    kept = read_json(HERE / "runs.json")["splits"]["families"][0]
    yield kept["new concepts"], rate(stored_encoders(), new)["new concepts"], 0.01


def record_runs() -> None:
    roles = families()
    splits = {"families": [run(roles, seed) for seed in SEEDS]}
    splits["single"] = [run(single(seed), seed) for seed in SEEDS]
    scales = [
        {"scale": str(s), **run(roles, 0, start=s, learned=False)} for s in SCALES
    ]
    batches = [{"batch": b, **run(roles, 0, batch=b)} for b in BATCHES]
    store(HERE / "runs.json", {"splits": splits, "scale": scales, "batch": batches})


def record_halves() -> None:
    """What the stored encoders find is "without"; "with" is trained from their seed."""
    known, stored, record = families()["training"], stored_encoders(), []
    for cut in CUTS:
        one, other = halves(cut)
        for asked, learnt in (one, other), (other, one):
            roles = {"training": torch.cat([known, learnt]), "new": asked}
            found = {"without": rate(stored, {"new": asked})["new"]}
            record.append(found | {"with": run(roles, SEEDS[0])["new"]})
    store(HERE / "halves.json", {"halves": record})


def record_weights() -> None:
    places, draws = families()["training"], torch.Generator().manual_seed(SEEDS[0])
    heads, _ = clip.align_pairs(clip.TwoHeads, places, draws, **clip.HEADS_RECIPE)
    models = {"encoders": encoders(places, SEEDS[0]), "heads": heads}
    for name, model in models.items():
        state = model.state_dict().items()
        halved = {k: v.half() if v.is_floating_point() else v for k, v in state}
        store(HERE / f"{name}.safetensors", halved)


if __name__ == "__main__":
    make_parts(record_runs, record_halves, record_weights)
