"""Ask SmolLM2 about forty short programs that fail, each in three wordings.

.venv/bin/python book/_tools/assets.py two-am (a quarter of an hour of one core)

Fills answers.json beside this file, which holds the programs. For each wording, pair of
TWINS and program of the pair: what the model writes, up to the end of its first block
of code, and how likely it finds the two lines of which each mends one program (nats).
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from assets import read_json

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.transformers import real_model

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "transformers" / "real-model.ipynb"
CELLS = ["chat", "bugs", "ask", "log-probabilities", "line-likelihood"]
TOKENS = 192  # an answer has no more

# of each pair: two first lines, what fails after both, how, and what mends each
TWINS = read_json(HERE / "answers.json")["twins"]


def book() -> dict:
    """The names that the notebook's cells define, and the model."""
    names = {**vars(real_model), "tokenizer": smollm2_tokenizer()}
    names["model"] = real_model.load_smollm2()
    cells = {cell["id"]: cell["source"] for cell in read_json(NOTEBOOK)["cells"]}
    for i in CELLS:
        exec("".join(cells[i]), names)
    return names


def one_block(stop: int, tokenizer):
    """A greedy `choose` that stops after a block of code."""
    fences = 0

    def choose(logits):
        nonlocal fences
        if fences == 2:
            return stop
        token = real_model.greedy(logits)
        fences += "```" in tokenizer.decode([token])
        return token

    return choose


def ask(names: dict, quick, first: str, twin: list, wording: str):
    """An answer, and the likelihood of the two lines."""
    tokenizer, (failing, error, *lines) = names["tokenizer"], twin[2:]
    stop = tokenizer.encode("<|im_end|>")
    asked = names["chat"](names["plea"](first, failing, error, wording))
    choose = one_block(stop[0], tokenizer)
    ids = real_model.complete(quick, asked, TOKENS, stop=stop, choose=choose)
    nats = names["line_likelihoods"](first, failing, error, lines, wording)
    return tokenizer.decode(ids), [round(each, 3) for each in nats]


def remade() -> Iterator[tuple]:
    """Of one answer, the likeliest tokens; and how likely its program's lines are."""
    kept = read_json(HERE / "answers.json")
    names, number = book(), 50
    encode, model = names["tokenizer"].encode, names["model"]
    wording = names["WORDINGS"][number // len(TWINS)]
    first, _, failing, error, *lines = TWINS[number % len(TWINS)]
    before = names["chat"](names["plea"](first, failing, error, wording))
    after = encode(kept["answers"][number][0])
    with torch.inference_mode():
        logits = model(torch.tensor([before + after]))[0, len(before) - 1 : -1]
    yield after, logits.argmax(-1).tolist(), 0
    nats = names["line_likelihoods"](first, failing, error, lines, wording)
    yield kept["nats"][number][0], nats, 0.01


def main() -> None:
    names = book()
    quick = real_model.LlamaFast(names["model"])
    record = {"twins": TWINS, "answers": [], "nats": []}
    for wording in names["WORDINGS"]:
        for twin in TWINS:
            both = [ask(names, quick, first, twin, wording) for first in twin[:2]]
            answers, nats = zip(*both, strict=True)
            record["answers"].append(answers)
            record["nats"].append(nats)
    store(HERE / "answers.json", record)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    main()
