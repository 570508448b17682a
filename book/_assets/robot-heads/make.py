"""Measure where each of SmolLM2's 270 heads looks, in one sentence.

    .venv/bin/python book/_tools/assets.py robot-heads

writes weights.npz beside this file: the attention weights of every layer and head for
SENTENCE, (L, H, T, T), in thousandths; its tokens; and the digest of what computed
them. The model is the one that the notebook transformers/real-model builds, which its
tests compare with the library transformers.
"""

from pathlib import Path

import numpy as np
import torch
from digest import digest_of, exported

from fieldguide.data import SMOLLM2_SHA256, smollm2_tokenizer, store
from fieldguide.transformers import real_model

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "transformers" / "real-model.ipynb"
SENTENCE = "The robot dropped the cup because it was slippery."


def digests() -> dict[str, str]:
    """Of each record: the digest of the definitions that make it today."""
    names = ["load_smollm2", "run_layers"]
    made = digest_of(exported(NOTEBOOK), names, SMOLLM2_SHA256, SENTENCE)
    return {"weights.npz": made}


def main():
    torch.set_num_threads(1)
    ids = torch.tensor([smollm2_tokenizer().encode(SENTENCE)])
    layers = list(real_model.run_layers(real_model.load_smollm2(), ids))
    weights = torch.cat([w for _, w in layers if w is not None])  # (L, H, T, T)
    weights = (1000 * weights.double()).round().short().numpy()
    pieces = np.array(smollm2_tokenizer().pieces(SENTENCE))
    record = {"digest": digests()["weights.npz"], "pieces": pieces, "weights": weights}
    store(HERE / "weights.npz", record)
    it, cup = list(pieces).index("␣it"), list(pieces).index("␣cup")
    for layer, head in np.argwhere(weights[:, :, it].argmax(-1) == cup):
        print(f"layer {layer}, head {head}: {weights[layer, head, it, cup] / 1000}")


if __name__ == "__main__":
    main()
