"""Measure where each of SmolLM2's 270 heads looks, in one sentence with two endings.

    .venv/bin/python book/_tools/assets.py robot-heads

writes beside this file weights.npz, shares in thousandths:

    weights  (L, H, T, T)  the attention of every layer and head, for the first ending
    pieces   (T,)          its tokens
    values   (L, 3, T)     how long each token's value vector is, in hundredths; three
                           query heads share one
    scores   (L, H, T, T)  how well the keys fit, query . key / 8, in tenths
    query    (L, H, T, 8)  the first 8 of the 64 numbers of each query, in hundredths
    key      (L, 3, T, 8)  and of each key, both turned
    value    (L, 3, T, 16) the first 16 of the 64 numbers of each value
    stream   (L, T, 16)    the first 16 of the 576 numbers that a layer reads
    added    (L, T, 16)    and that its attention adds to them
    ending   (2, L, H, 9)  what the last word gives to itself and each word before it,
                           for both endings; a word's tokens count together
    says     (2, 2)        after "The thing that was ... was the": cup, robot

and queries.npz, what the first layer asks and offers in a few sentences, in float32:

    sentences  (S,)        both endings, the second one last
    q0, q1 ..  (9, T, 64)  the queries of sentence 0, 1 and so on, turned
    k0, k1 ..  (3, T, 64)  the keys; three query heads share one

The model is the one that the notebook transformers/real-model builds, which its tests
compare with the library transformers.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.transformers import real_model
from fieldguide.transformers.attention import causal_mask, simple_attention, split_heads
from fieldguide.transformers.gpt import apply_rope

HERE = Path(__file__).parent
SENTENCE = "The robot dropped the cup because it was {}."
ENDINGS = ["slippery", "clumsy"]
ASKED = " The thing that was {} was the"
SENTENCES = [
    SENTENCE.format(ENDINGS[0]),
    "Why does my code only fail at 2 AM?",
    "the cat saw the dog and the dog saw the cat",
    "def add(a, b): return a + b",
    "one two three four one two three four",
    "She poured water from the bottle into the cup until it was full.",
    "naïve café, Zürich, ψυχή",
    SENTENCE.format(ENDINGS[1]),
]


def thousandths(shares):
    return (1000 * shares.double()).round().short().numpy()


def ids_of(text):
    return torch.tensor([smollm2_tokenizer().encode(text)])


def look(text):
    """The attention weights of every layer and head, (L, H, T, T)."""
    layers = real_model.run_layers(real_model.load_smollm2(), ids_of(text))
    return torch.cat([weights for _, weights in layers if weights is not None])


def asked(block, config, x):
    """A layer's queries (H, T, K), keys and values (H_kv, T, K) for x (T, D)."""
    x, places, part = block.attention_norm(x), torch.arange(len(x)), block.attention
    query = split_heads(part.query(x), config.heads)
    key, value = (split_heads(f(x), config.kv_heads) for f in (part.key, part.value))
    return [*(apply_rope(y, places, config.base) for y in (query, key)), value]


def looked_up(text):
    """What each layer's attention reads, asks, offers and adds, by name."""
    model, found = real_model.load_smollm2(), []
    states = [x[0] for x, _ in real_model.run_layers(model, ids_of(text))]
    mask = causal_mask(len(states[0]))
    for block, x in zip(model.blocks, states[:-1], strict=True):
        query, key, value = asked(block, model.config, x)
        scores = (query @ key.repeat_interleave(3, 0).mT / 8).tril()
        places, normed = torch.arange(len(x)), block.attention_norm(x)[None]
        added, _ = block.attention(normed, places, mask)
        parts = {"values": value.norm(dim=-1), "scores": scores / 10}
        parts |= {"query": query[..., :8], "key": key[..., :8]}
        parts |= {"value": value[..., :16], "stream": x[:, :16]}
        found.append(parts | {"added": added[0, :, :16]})
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def queries_and_keys(text):
    """What the first layer asks and offers: (H, T, K) and (H_kv, T, K)."""
    model = real_model.load_smollm2()
    x = model.embedding(ids_of(text)[0])  # (T, D)
    return asked(model.blocks[0], model.config, x)[:2]


def last_word(weights, words=9):
    """What the last token before the full stop gives to each word, (L, H, 9)."""
    row = weights[:, :, -2, :-1]  # (L, H, T - 1)
    last = row[..., words - 1 :].sum(-1, keepdim=True)  # all its tokens
    return torch.cat([row[..., : words - 1], last], -1)


def answers(ending):
    """How likely the model finds cup and robot, (2,)."""
    ids = ids_of(SENTENCE.format(ending) + ASKED.format(ending))
    shares = real_model.load_smollm2()(ids)[0, -1].softmax(-1)
    encode = smollm2_tokenizer().encode
    return shares[[encode(" cup")[0], encode(" robot")[0]]]


def remade() -> Iterator[tuple]:
    """The first layer of the first sentence: queries, keys, where they look."""
    stored = np.load(HERE / "queries.npz")
    query, key = queries_and_keys(SENTENCES[0])
    for name, again in ("q0", query), ("k0", key):
        yield stored[name], again.numpy(), 1e-4
    key, mask = key.repeat_interleave(3, 0), causal_mask(query.size(1))
    _, weights = simple_attention(query, key, key, mask=mask)
    yield np.load(HERE / "weights.npz")["weights"][0] / 1000, weights.numpy(), 0.001


def main():
    torch.set_num_threads(1)
    looks = [look(SENTENCE.format(ending)) for ending in ENDINGS]
    pieces = np.array(smollm2_tokenizer().pieces(SENTENCE.format(ENDINGS[0])))
    record = {"pieces": pieces}
    record["weights"] = thousandths(looks[0])
    for name, found in looked_up(SENTENCE.format(ENDINGS[0])).items():
        record[name] = (100 * found.double()).round().short().numpy()
    record["ending"] = thousandths(torch.stack([last_word(w) for w in looks]))
    record["says"] = thousandths(torch.stack([answers(e) for e in ENDINGS]))
    store(HERE / "weights.npz", record)
    first = {"sentences": np.array(SENTENCES)}
    for i, sentence in enumerate(SENTENCES):
        query, key = queries_and_keys(sentence)
        first |= {f"q{i}": query.numpy(), f"k{i}": key.numpy()}
    store(HERE / "queries.npz", first)


if __name__ == "__main__":
    main()
