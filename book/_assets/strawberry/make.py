"""Ask SmolLM2 how often the letter r occurs in a word.

    .venv/bin/python book/_tools/assets.py strawberry

writes answers.json beside this file: for each of WORDS, what the model answers when the
likeliest token is taken each time. The prompt is the model's own chat template. The
model is the one that the notebook transformers/real-model builds, which its tests
compare with the library transformers.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from assets import read_json

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.transformers import real_model

HERE = Path(__file__).parent
WORDS = "strawberry", "mirror", "robot", "house"
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
    "Hugging Face<|im_end|>\n<|im_start|>user\nHow many times does the letter r occur "
    'in "{word}"?<|im_end|>\n<|im_start|>assistant\n'
)
END = "<|im_end|>"


@torch.no_grad()
def answer(word):
    """What the model says, up to the end of its turn."""
    tokenizer, model = smollm2_tokenizer(), real_model.load_smollm2()
    ids = tokenizer.encode(PROMPT.format(word=word))
    start = len(ids)
    while len(ids) < start + 40:
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        said = tokenizer.decode(ids[start:])
        if said.endswith(END):
            return said.removesuffix(END)
    raise RuntimeError(f"no end of the answer: {said!r}")


def remade() -> Iterator[tuple]:
    """One answer, asked for again."""
    kept = read_json(HERE / "answers.json")
    encode = smollm2_tokenizer().encode
    yield encode(kept["answers"]["house"]), encode(answer("house")), 0


def main():
    torch.set_num_threads(1)
    answers = {word: answer(word) for word in WORDS}
    record = {"answers": answers}
    store(HERE / "answers.json", record)
    for word, said in answers.items():
        print(f"{word}: {said}")


if __name__ == "__main__":
    main()
