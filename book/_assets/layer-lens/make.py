"""Measure what SmolLM2 would say after each layer, and what the library says.

    .venv/bin/python book/_tools/assets.py layer-lens

writes lens.npz beside this file, for one sentence, all numbers in thousandths:

    pieces   (T,)           its tokens
    share    (L + 1, T)     after each layer: how likely the model's final answer is
    guesses  (L + 1, T, 5)  the five likeliest next tokens there, as token ids
    shares   (L + 1, T, 5)  and how likely each of them is
    library  (V,)           the logits at the last token, by the library transformers,
                            which reads the same file with its own code
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fieldguide.data import smollm2, smollm2_tokenizer, store
from fieldguide.transformers import real_model

HERE = Path(__file__).parent
SENTENCE = "The opposite of hot is cold and the opposite of big is"


def thousandths(numbers):
    return (1000 * numbers.double()).round().int().numpy()


def library(ids):
    """The last token's logits (V,) of transformers' own model of the same file."""
    from transformers import LlamaForCausalLM

    path = Path(smollm2().path)
    options = {"gguf_file": path.name, "dtype": torch.float32}
    with torch.inference_mode():
        model = LlamaForCausalLM.from_pretrained(path.parent, **options)
        return model(ids).logits[0, -1]


def lens():
    """What the model says after each layer, in thousandths."""
    ids = torch.tensor([smollm2_tokenizer().encode(SENTENCE)])
    model = real_model.load_smollm2()
    stream = real_model.trace_layers(model, ids).residuals[:, 0]  # (L + 1, T, D)
    with torch.inference_mode():
        shares = model.logits(stream).softmax(-1)  # (L + 1, T, V)
    best = shares.topk(5)
    answer = shares[-1].argmax(-1).expand(len(shares), -1)  # (L + 1, T)
    share = shares.gather(-1, answer[..., None])[..., 0]
    record = {"share": thousandths(share), "shares": thousandths(best.values)}
    return record | {"guesses": best.indices.int().numpy()}


def remade() -> Iterator[tuple]:
    """How likely the answers are after each layer, remade."""
    kept, again = np.load(HERE / "lens.npz"), lens()
    yield kept["share"], again["share"], 2
    yield kept["shares"], again["shares"], 2


def main():
    torch.set_num_threads(1)
    record = {"pieces": np.array(smollm2_tokenizer().pieces(SENTENCE))}
    ids = torch.tensor([smollm2_tokenizer().encode(SENTENCE)])
    record |= lens() | {"library": thousandths(library(ids))}
    store(HERE / "lens.npz", record)
    print(record["share"][:, -1])


if __name__ == "__main__":
    main()
