"""Ask SmolLM2 about forty short programs that fail, each in three wordings.

.venv/bin/python book/_tools/assets.py two-am (a quarter of an hour of one core)

Writes answers.json beside this file. For each wording, pair of TWINS and program of the
pair: what the model writes, up to the end of its first block of code, and how likely it
finds the two lines of which each mends one program (nats); for the first wording also
without the error message (silent). `gaps` says by how much, at the closest choice of
each answer, the chosen token led (in logits): where that is far above a rounding error,
another processor writes the same text.
"""

import json
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

TWINS = [  # two first lines, what fails after both, how, and what mends each
    [
        "total = 3",
        "totals = 3",
        "print(totl)",
        "NameError: name 'totl' is not defined",
        "print(total)",
        "print(totals)",
    ],
    [
        "def greet(): return 'hello'",
        "def greeting(): return 'hello'",
        "print(gret())",
        "NameError: name 'gret' is not defined",
        "print(greet())",
        "print(greeting())",
    ],
    [
        "import math",
        "import math as m",
        "print(sqrt(16))",
        "NameError: name 'sqrt' is not defined",
        "print(math.sqrt(16))",
        "print(m.sqrt(16))",
    ],
    [
        'names = ["Ada", "Alan", "Grace"]',
        'names = ["Ada", "Alan", "Grace", "Kurt"]',
        "print(names[9])  # the last name",
        "IndexError: list index out of range",
        "print(names[2])  # the last name",
        "print(names[3])  # the last name",
    ],
    [
        'word = "cat"',
        'word = "horse"',
        "print(word[9])  # the last letter",
        "IndexError: string index out of range",
        "print(word[2])  # the last letter",
        "print(word[4])  # the last letter",
    ],
    [
        'size = "30;40"',
        'size = "30x40"',
        'print(int(size.split(",")[1]))',
        "IndexError: list index out of range",
        'print(int(size.split(";")[1]))',
        'print(int(size.split("x")[1]))',
    ],
    [
        'clock = "02:15"',
        'clock = "02h15"',
        'print(int(clock.split(".")[1]))  # the minutes',
        "IndexError: list index out of range",
        'print(int(clock.split(":")[1]))  # the minutes',
        'print(int(clock.split("h")[1]))  # the minutes',
    ],
    [
        'date = "2026-11-30"',
        'date = "30-11-2026"',
        'print(date.split("-")[3])  # the year',
        "IndexError: list index out of range",
        'print(date.split("-")[0])  # the year',
        'print(date.split("-")[2])  # the year',
    ],
    [
        'ages = {"Ada": 36}',
        'ages = {"ada": 36}',
        'print(ages["ADA"])',
        "KeyError: 'ADA'",
        'print(ages["Ada"])',
        'print(ages["ada"])',
    ],
    [
        'user = {"name": "Ada", "mail": "ada@home"}',
        'user = {"name": "Ada", "e-mail": "ada@home"}',
        'print(user["email"])',
        "KeyError: 'email'",
        'print(user["mail"])',
        'print(user["e-mail"])',
    ],
    [
        'names = {1: "Ada", 2: "Alan"}',
        'names = {"one": "Ada", "two": "Alan"}',
        'print(names["1"])',
        "KeyError: '1'",
        "print(names[1])",
        'print(names["one"])',
    ],
    [
        'data = {"user": {"name": "Ada"}}',
        'data = {"user": [{"name": "Ada"}]}',
        'print(data["name"])',
        "KeyError: 'name'",
        'print(data["user"]["name"])',
        'print(data["user"][0]["name"])',
    ],
    [
        'names, ages = ["Ada", "Alan"], [36, 41]',
        'names, ages = ["Alan", "Ada"], [41, 36]',
        'print(ages["Ada"])',
        "TypeError: list indices must be integers or slices, not str",
        "print(ages[0])",
        "print(ages[1])",
    ],
    [
        'prices = ["3", "4"]',
        'prices = ["$3", "$4"]',
        "print(sum(prices))",
        "TypeError: unsupported operand type(s) for +: 'int' and 'str'",
        "print(sum(int(price) for price in prices))",
        "print(sum(int(price[1:]) for price in prices))",
    ],
    [
        "rows = [[1, 2], [3, 4]]",
        'rows = [["pears", 3], ["plums", 7]]',
        "print(sum(rows))",
        "TypeError: unsupported operand type(s) for +: 'int' and 'list'",
        "print(sum(sum(row) for row in rows))",
        "print(sum(row[1] for row in rows))",
    ],
    [
        "def area(width, height): return width * height",
        "def area(length, height): return length * height",
        "print(area(w=3, height=4))",
        "TypeError: area() got an unexpected keyword argument 'w'",
        "print(area(width=3, height=4))",
        "print(area(length=3, height=4))",
    ],
    [
        "point = (3, 4)",
        'point = (("x", 3), ("y", 4))',
        "print(point.x)",
        "AttributeError: 'tuple' object has no attribute 'x'",
        "print(point[0])",
        "print(point[0][1])",
    ],
    [
        'user = ["Ada", 36]',
        'user = [36, "Ada"]',
        "print(user.name)",
        "AttributeError: 'list' object has no attribute 'name'",
        "print(user[0])",
        "print(user[1])",
    ],
    [
        'user = {"name": "Ada"}',
        'user = {"person": {"name": "Ada"}}',
        "print(user.name)",
        "AttributeError: 'dict' object has no attribute 'name'",
        'print(user["name"])',
        'print(user["person"]["name"])',
    ],
    [
        'text = "3 pears"',
        'text = "pears: 3"',
        'print(1 + text.split(" "))',
        "TypeError: unsupported operand type(s) for +: 'int' and 'list'",
        'print(1 + int(text.split(" ")[0]))',
        'print(1 + int(text.split(" ")[1]))',
    ],
]


def cells() -> dict[str, str]:
    """The notebook's code, {id: source}."""
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return {c["id"]: "".join(c["source"]) for c in found if c["cell_type"] == "code"}


def book() -> dict:
    """The names that the cells define, and the model."""
    names = {**vars(real_model), "tokenizer": smollm2_tokenizer()}
    names["model"] = real_model.load_smollm2()
    for i in CELLS:
        exec(cells()[i], names)
    return names


def one_block(stop: int, gaps: list, tokenizer):
    """A greedy `choose` that stops after a block of code; lists each token's lead."""
    fences = 0

    def choose(logits):
        nonlocal fences
        if fences == 2:
            return stop
        first, second = logits.topk(2).values.tolist()
        gaps.append(first - second)
        token = real_model.greedy(logits)
        fences += "```" in tokenizer.decode([token])
        return token

    return choose


def ask(names: dict, quick, first: str, twin: list, wording: str) -> dict:
    """An answer, its closest choice, and the likelihood of the two lines."""
    tokenizer, (failing, error, *lines) = names["tokenizer"], twin[2:]
    stop, gaps = tokenizer.encode("<|im_end|>"), []
    asked = names["chat"](names["plea"](first, failing, error, wording))
    choose = one_block(stop[0], gaps, tokenizer)
    ids = real_model.complete(quick, asked, TOKENS, stop=stop, choose=choose)
    found = {"answers": tokenizer.decode(ids), "gaps": round(min(gaps), 4)}
    told = {"nats": error}
    if wording == names["WORDINGS"][0]:
        told["silent"] = ""
    for name, message in told.items():
        nats = names["line_likelihoods"](first, failing, message, lines, wording)
        found[name] = [round(each, 3) for each in nats]
    return found


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
    record = {"twins": TWINS}
    for wording in names["WORDINGS"]:
        for twin in TWINS:
            both = [ask(names, quick, first, twin, wording) for first in twin[:2]]
            for name in both[0]:
                record.setdefault(name, []).append([each[name] for each in both])
            print(len(record["answers"]), both, flush=True)
    store(HERE / "answers.json", record)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    main()
