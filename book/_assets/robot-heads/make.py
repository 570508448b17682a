"""Measure where each of SmolLM2's 270 heads looks, in one sentence with two endings.

    .venv/bin/python book/_tools/assets.py robot-heads

writes weights.npz beside this file, shares in thousandths:

    weights  (L, H, T, T)  the attention of every layer and head, for the first ending
    pieces   (T,)          its tokens
    values   (L, 3, T)     how long each token's value vector is, in hundredths; three
                           query heads share one
    ending   (2, L, H, 9)  what the last word gives to itself and each word before it,
                           for both endings; a word's tokens count together
    says     (2, 2)        after "The thing that was ... was the": cup, robot

The model is the one that the notebook transformers/real-model builds, which its tests
compare with the library transformers.
"""

from pathlib import Path

import numpy as np
import torch

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.transformers import real_model
from fieldguide.transformers.attention import split_heads

HERE = Path(__file__).parent
SENTENCE = "The robot dropped the cup because it was {}."
ENDINGS = ["slippery", "clumsy"]
ASKED = " The thing that was {} was the"


def thousandths(shares):
    return (1000 * shares.double()).round().short().numpy()


def look(text):
    """The attention weights of every layer and head, (L, H, T, T)."""
    ids = torch.tensor([smollm2_tokenizer().encode(text)])
    layers = real_model.run_layers(real_model.load_smollm2(), ids)
    return torch.cat([weights for _, weights in layers if weights is not None])


def value_lengths(text):
    """The lengths of all value vectors, (L, H_kv, T)."""
    model = real_model.load_smollm2()
    ids = torch.tensor([smollm2_tokenizer().encode(text)])
    states = [x for x, weights in real_model.run_layers(model, ids)]
    found = []
    for block, x in zip(model.blocks, states[:-1], strict=True):
        value = block.attention.value(block.attention_norm(x))  # (1, T, H_kv K)
        found.append(split_heads(value, model.config.kv_heads).norm(dim=-1))
    return torch.cat(found)


def last_word(weights, words=9):
    """What the last token before the full stop gives to each word, (L, H, 9)."""
    row = weights[:, :, -2, :-1]  # (L, H, T - 1)
    last = row[..., words - 1 :].sum(-1, keepdim=True)  # all its tokens
    return torch.cat([row[..., : words - 1], last], -1)


def answers(ending):
    """How likely the model finds cup and robot, (2,)."""
    text = SENTENCE.format(ending) + ASKED.format(ending)
    encode = smollm2_tokenizer().encode
    shares = real_model.load_smollm2()(torch.tensor([encode(text)]))[0, -1].softmax(-1)
    return shares[[encode(" cup")[0], encode(" robot")[0]]]


def main():
    torch.set_num_threads(1)
    looks = [look(SENTENCE.format(ending)) for ending in ENDINGS]
    pieces = np.array(smollm2_tokenizer().pieces(SENTENCE.format(ENDINGS[0])))
    record = {"pieces": pieces}
    record["weights"] = thousandths(looks[0])
    lengths = value_lengths(SENTENCE.format(ENDINGS[0]))
    record["values"] = (100 * lengths.double()).round().short().numpy()
    record["ending"] = thousandths(torch.stack([last_word(w) for w in looks]))
    record["says"] = thousandths(torch.stack([answers(e) for e in ENDINGS]))
    store(HERE / "weights.npz", record)
    print(record["says"])
    print(record["ending"][:, 14, 8])


if __name__ == "__main__":
    main()
