"""What two frozen encoders make of the emoji and of their captions.

.venv/bin/python book/_tools/assets.py emoji-features (ten minutes of a core; needs npm)

Draws the emoji at 224 pixels, by emoji/make.py, and writes beside this file
features.npz: for each picture EfficientNet-Lite0's features, in whole steps along their
principal directions, and for each caption MiniLM's vector, bare and with its tags;
examples.npz: a few of the pictures at 224 pixels.

The directions that are stored, and the means and spreads, are of 3,684 pictures: the
3,682 to learn from and two that emoji/make.py has left out since, by `noto, the first`,
for they showed another concept: man in tuxedo and cricket. Their rows are gone, and the
row of fluent's hand that points to the right was made anew along these directions, when
its picture was mirrored. A full run takes new directions: all rows move by rounding.
"""

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fieldguide import data
from fieldguide.data import store
from fieldguide.multimodal import clip

HERE = Path(__file__).parent

SIZE = 224  # pixels: what EfficientNet-Lite0 was trained on
KEPT = 640  # principal directions, of 2,688
STEP = 0.5  # of the stored numbers; a feature's spread is 1
VECTOR_STEP = 1 / 400  # of the numbers of a unit vector, of 2,688
TEXT_STEP = 1 / 400  # and of 384
EXAMPLES = ["red heart", "dog face", "red apple", "rocket", "soccer ball", "snowflake"]


def drawn() -> torch.Tensor:
    """The pictures of `data.emoji()`, in its order, at SIZE: uint8 (N, Y, X, 3)."""
    path = HERE.with_name("emoji") / "make.py"
    spec = importlib.util.spec_from_file_location("make_emoji", path)
    emoji = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(emoji)
    with tempfile.TemporaryDirectory() as folder:
        emoji.main(SIZE, Path(folder))
        with np.load(Path(folder) / "emoji.npz") as found:
            for name in "drawer", "concept":
                known = getattr(data.emoji(), name).numpy()
                assert np.array_equal(found[name], known), "another order"
            return torch.from_numpy(found["pictures"])


def directions(features: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Mean and spread of each feature, and the KEPT principal directions."""
    mean, spread = features.mean(0), features.std(0) + 1e-3
    scaled = ((features - mean) / spread).double()
    vectors = torch.linalg.eigh(scaled.mT @ scaled).eigenvectors
    vectors = vectors.flip(1)[:, :KEPT].mT  # (KEPT, F), the longest first
    largest = vectors.abs().argmax(1, keepdim=True)
    return mean, spread, vectors * vectors.gather(1, largest).sign()


def whole(x: torch.Tensor, step: float) -> torch.Tensor:
    """x in whole steps, of 8 bits."""
    steps = (x / step).round()
    assert steps.abs().max() < 128, steps.abs().max()
    return steps.to(torch.int8)


def read(texts: list[str]) -> torch.Tensor:
    reader = clip.MiniLM()
    some = [texts[at : at + 64] for at in range(0, len(texts), 64)]
    return torch.cat([reader(each) for each in some])  # (C, 384)


def seen(pictures: torch.Tensor) -> torch.Tensor:
    model, parts = clip.EfficientNetLite(), []
    for some in pictures.split(64):
        parts.append(clip.picture_features(model, some))
        print(f"\r{len(parts)} of {len(pictures) // 64 + 1}", end="", flush=True)
    return torch.cat(parts)  # (N, F)


def remade() -> Iterator[tuple]:
    """The features of the stored examples, in steps, and some captions' vectors."""
    with np.load(HERE / "examples.npz") as found:
        large, places = (torch.from_numpy(found[n]) for n in ("pictures", "places"))
    kept = clip.stored_features()
    features = clip.picture_features(clip.EfficientNetLite(), large)
    yield kept["steps"][places].float().numpy(), clip.in_steps(features).numpy(), 1
    some = [5, 900]
    vectors = read([data.emoji().captions[c] for c in some])
    yield kept["bare"][some].numpy() * TEXT_STEP, vectors.numpy(), 0.51 * TEXT_STEP


def main() -> None:
    emoji, pictures = data.emoji(), drawn()
    features = seen(pictures)
    known = clip.role("train", clip.KNOWN_DRAWERS).places
    mean, spread, vectors = directions(features[known])
    vectors = whole(vectors, VECTOR_STEP)
    along = (features - mean) / spread @ (vectors * VECTOR_STEP).mT  # (N, KEPT)
    record = {"mean": mean, "spread": spread, "vectors": vectors}
    record |= {"steps": whole(along, STEP), "step": torch.tensor(STEP)}
    record |= {"vector_step": torch.tensor(VECTOR_STEP)}
    record |= {"bare": whole(read(emoji.captions), TEXT_STEP)}
    tagged = [clip.describe(concept) for concept in range(len(emoji.captions))]
    record |= {"tagged": whole(read(tagged), TEXT_STEP)}
    record |= {"text_step": torch.tensor(TEXT_STEP)}
    arrays = {name: tensor.numpy() for name, tensor in record.items()}
    store(HERE / "features.npz", arrays)
    wanted = torch.tensor([emoji.captions.index(each) for each in EXAMPLES])
    places = [(emoji.concept == concept).nonzero()[0, 0] for concept in wanted]
    chosen = torch.stack(places)
    arrays = {"places": chosen.numpy(), "pictures": pictures[chosen].numpy()}
    store(HERE / "examples.npz", arrays)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    main()
