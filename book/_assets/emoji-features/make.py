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

import tempfile
from collections.abc import Iterator
from pathlib import Path

import assets
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
    with tempfile.TemporaryDirectory() as folder:
        assets.load(HERE.with_name("emoji") / "make.py").main(SIZE, Path(folder))
        with np.load(Path(folder) / "emoji.npz") as found:
            known = data.emoji().concept.numpy()
            assert np.array_equal(found["concept"], known), "another order"
            return torch.from_numpy(found["pictures"])


def directions(scaled: torch.Tensor) -> torch.Tensor:
    """The KEPT principal directions, the longest first, signs by the largest number."""
    vectors = torch.linalg.eigh(scaled.mT @ scaled).eigenvectors
    vectors = vectors.flip(1)[:, :KEPT].mT  # (KEPT, F)
    largest = vectors.abs().argmax(1, keepdim=True)
    return vectors * vectors.gather(1, largest).sign()


def whole(x: torch.Tensor, step: float) -> torch.Tensor:
    """x in whole steps, of 8 bits."""
    steps = (x / step).round()
    assert steps.abs().max() < 128, steps.abs().max()
    return steps.to(torch.int8)


def read(texts: list[str]) -> torch.Tensor:
    reader = clip.MiniLM()
    some = [texts[at : at + 64] for at in range(0, len(texts), 64)]
    return torch.cat([reader(each) for each in some])  # (C, 384)


def remade() -> Iterator[tuple]:
    """The features of the stored examples, in steps, and some captions' vectors."""
    with np.load(HERE / "examples.npz") as found:
        large, places = (torch.from_numpy(found[n]) for n in ("pictures", "places"))
    kept, some = clip.emoji_features(), [5, 900]
    steps = clip.in_steps(clip.EfficientNetLite()(large))
    yield kept.steps[places].float().numpy(), steps.numpy(), 1
    vectors = read([data.emoji().captions[c] for c in some])
    yield kept.bare[some].numpy(), vectors.numpy(), 0.51 * TEXT_STEP


def main() -> None:
    emoji, pictures, model = data.emoji(), drawn(), clip.EfficientNetLite()
    features = torch.cat([model(some) for some in pictures.split(64)])  # (N, F)
    known = features[clip.role("train", clip.KNOWN_DRAWERS)]
    mean, spread = known.mean(0), known.std(0) + 1e-3
    vectors = whole(directions(((known - mean) / spread).double()), VECTOR_STEP)
    along = (features - mean) / spread @ (vectors * VECTOR_STEP).mT  # (N, KEPT)
    tagged = [clip.describe(concept) for concept in range(len(emoji.captions))]
    record = {
        "mean": mean,
        "spread": spread,
        "vectors": vectors,
        "steps": whole(along, STEP),
        "step": torch.tensor(STEP),
        "vector_step": torch.tensor(VECTOR_STEP),
        "bare": whole(read(emoji.captions), TEXT_STEP),
        "tagged": whole(read(tagged), TEXT_STEP),
        "text_step": torch.tensor(TEXT_STEP),
    }
    store(HERE / "features.npz", {name: x.numpy() for name, x in record.items()})
    wanted = [emoji.captions.index(each) for each in EXAMPLES]
    places = torch.tensor([emoji.concept.tolist().index(each) for each in wanted])
    examples = {"places": places.numpy(), "pictures": pictures[places].numpy()}
    store(HERE / "examples.npz", examples)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    main()
