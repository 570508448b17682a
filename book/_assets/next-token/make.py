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
    assert (below == np.round(-1000 * logits)).all(), "a logit below -65.535"
    record = {"prompts": PROMPTS, "below": below}
    store(HERE / "logits.npz", record)
    for prompt, row in zip(PROMPTS, logits, strict=True):
        shares = np.exp(row) / np.exp(row).sum()
        best = shares.argsort()[::-1][:8]
        shown = [f"{smollm2_tokenizer().decode([i])!r} {shares[i]:.3f}" for i in best]
        print(prompt, "->", ", ".join(shown), f"smallest {row.min():.1f}")


if __name__ == "__main__":
    main()
