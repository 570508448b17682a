"""Measure SmolLM2's logits for the token after three prompts.

    .venv/bin/python book/_tools/assets.py next-token

writes logits.npz beside this file: for each of PROMPTS, and for each of the 49,152
tokens, how far its logit lies below the largest, in thousandths. The model is the one
that the notebook transformers/real-model builds, which its tests compare with the
library transformers.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.transformers import real_model

HERE = Path(__file__).parent
PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a little",
    "My favourite colour is",
]


def measure(prompt):
    """The logits (V,) of the token after the prompt, as float64."""
    ids = torch.tensor([smollm2_tokenizer().encode(prompt)])
    return real_model.load_smollm2()(ids)[0, -1].double().numpy()


def remade() -> Iterator[tuple]:
    """The first prompt's logits, each less the largest."""
    with np.load(HERE / "logits.npz") as stored:
        below = stored["below"][0] / -1000
    again = measure(PROMPTS[0])
    yield below, again - again.max(), 0.01


def main():
    torch.set_num_threads(1)
    logits = np.stack([measure(prompt) for prompt in PROMPTS])
    logits -= logits.max(axis=1, keepdims=True)
    below = np.round(-1000 * logits).astype(np.uint16)
    record = {"prompts": PROMPTS, "below": below}
    store(HERE / "logits.npz", record)


if __name__ == "__main__":
    main()
