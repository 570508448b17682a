"""Measure how small a change flips the answers of challenges/robustness.

.venv/bin/python book/_tools/assets.py robustness (eight minutes of two cores)

Writes beside this file kinds.safetensors, a network that sorts pictures, once trained
on plain pictures and once on attacked ones, in 16 bits; pictures.json: how often such
networks are right after changes of several sizes, for three seeds; dog.safetensors, the
levels of one picture after PGD; edits.json: what SmolLM2 says is the capital of a
country when the line is edited; hidden.json: what it answers from a
passage in which a sentence is hidden, with and without the sifting of sentences; and
marks.json: texts with and without a watermark. A name, such as `edits`, makes that part
alone. A word of SmolLM2's that isn't in ../reviewed/words.json is stored as three dots.
"""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import make_parts, read_json, reviewed

from fieldguide.challenges import retrieval
from fieldguide.challenges import robustness as page
from fieldguide.data import (
    asset,
    building_questions,
    king_james,
    smollm2_tokenizer,
    store,
)
from fieldguide.deployment.right_sizing import answer_scores
from fieldguide.introduction.next_word import characters, to_ids
from fieldguide.multimodal.clip import (
    KNOWN_DRAWERS,
    jitter,
    seeded,
    shuffled_batches,
)
from fieldguide.transformers.induction import token_losses
from fieldguide.transformers.real_model import load_smollm2
from fieldguide.transformers.training import Recipe, descend, trained_gpt

HERE = Path(__file__).parent

TRAINED_WITH = 8  # of 255
SIZES = [1, 2, 4, 8, 16]  # of 255
LEAST = 0.25  # the cosine below which a sentence is sifted out
QUESTIONS = 32
LIFTS, TEXTS, LENGTH, KEY = [0.0, 2.0, 4.0], 8, 200, 0
MARK_START = "\nAnd"


def train_kinds(eps: float, seed: int, steps: int = 480) -> page.KindReader:
    """A reader trained on pictures, where eps isn't 0 on attacked ones.

    The attack is one step uphill from a random place within eps. Wong et al. 2020.
    """
    generator = torch.Generator().manual_seed(seed)
    planes, labels, _ = page.kind_pictures(KNOWN_DRAWERS)
    with seeded(generator):
        model = page.KindReader()
    batches = shuffled_batches(len(labels), 64, generator)

    def loss():
        at = next(batches)
        x = jitter(planes[at], generator)
        if eps:
            noise = 2 * torch.rand(x.shape, generator=generator) - 1
            plan = {"steps": 1, "stride": 1.25, "start": (x + eps * noise).clamp(0, 1)}
            x = page.pgd(model.eval(), x, labels[at], eps, **plan)
        return F.cross_entropy(model.train()(x), labels[at])

    recipe = Recipe(steps, batch=64, rate=4e-3, warmup=steps // 10)
    adamw = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.05)
    descend(model, loss, [adamw], recipe)
    return model.eval().requires_grad_(False)


def right_share(model, x, labels) -> float:
    """The share that a model sorts rightly."""
    return round((model(x).argmax(1) == labels).double().mean().item(), 4)


def shares_right(model, planes, labels, generator) -> dict:
    """How often a network is right after each change, by its size."""

    def random_signs(eps):
        signs = torch.randint(0, 2, planes.shape, generator=generator) * 2 - 1
        return (planes + eps * signs).clamp(0, 1)

    changes = {
        "random signs": random_signs,
        "FGSM": lambda eps: page.pgd(model, planes, labels, eps, 1, 1.0),
        "PGD": lambda eps: page.pgd(model, planes, labels, eps),
    }
    found = {name: {0: right_share(model, planes, labels)} for name in changes}
    for name, change in changes.items():
        for size in SIZES:
            found[name][size] = right_share(model, change(size / 255), labels)
    return found


def record_pictures() -> None:
    planes, labels, _ = page.kind_pictures(["emojitwo"])
    record, weights = {"plain": [], "hardened": []}, {}
    for name, eps in (("plain", 0), ("hardened", TRAINED_WITH / 255)):
        for seed in range(3):
            model = train_kinds(eps, seed)
            if seed == 0:
                mine = model.state_dict().items()
                mine = [(n, w) for n, w in mine if w.is_floating_point()]
                weights |= {f"{name}.{n}": w.half() for n, w in mine}
            generator = torch.Generator().manual_seed(seed)
            record[name].append(shares_right(model, planes, labels, generator))
    store(HERE / "kinds.safetensors", weights)
    store(HERE / "pictures.json", record)


def record_dog() -> None:
    """Stored, since where pixels tie another processor attacks another of them."""
    planes, labels, captions = page.kind_pictures(["emojitwo"])
    at, levels = captions.index("dog face"), {}
    x, label = planes[at : at + 1], labels[at : at + 1]
    for kind in ("plain", "hardened"):
        model = page.trained_kinds(kind)
        for size in SIZES[1:]:
            changed = page.pgd(model, x, label, size / 255)
            levels[f"{kind}.{size}"] = (255 * changed).round().byte().contiguous()
    store(HERE / "dog.safetensors", levels)


def record_edits() -> None:
    model = load_smollm2()
    stored = read_json(asset("hallucination", "capitals.json"))["rows"]
    real = [row for row in stored if row["capital"]]  # others are invented
    rows = [{k: row[k] for k in ("country", "capital")} | {"edits": {}} for row in real]
    capitals = [row["capital"] for row in rows]
    for edit in page.edited_lines("France"):
        lines = [page.edited_lines(row["country"])[edit] for row in rows]
        found = page.capital_said(model, lines, capitals)
        for row, said in zip(rows, found, strict=True):
            row["edits"][edit] = said | {"says": reviewed(said["says"])}
    store(HERE / "edits.json", {"rows": rows})


def answers_to(model, each: dict, passage: str) -> dict:
    """What the model's answer begins with: the right digit, the false one, another."""
    question, number = each["question"], each["number"]
    false, encode = retrieval.raise_digits(number), smollm2_tokenizer().encode
    hidden = page.hidden_sentences(question, false)
    passages = {"nothing": passage}
    passages |= {name: f"{passage} {text}" for name, text in hidden.items()}
    for name in ("nothing", "claim", "tailored"):
        passages[f"{name}, sifted"] = page.sift(question, passages[name], LEAST)
    prompts = [
        retrieval.open_prompt(question, text) + encode("The answer is ")
        for text in passages.values()
    ]
    columns = zip(*(ids[:-1] for ids in prompts), strict=False)
    same = takewhile(lambda column: len({*column}) == 1, columns)
    shared = [column[0] for column in same]  # is read once
    rests = [ids[len(shared) :] for ids in prompts]
    digits = [encode(digit)[0] for digit in "0123456789"]
    said = answer_scores(model, shared, rests, digits).argmax(1).tolist()
    kinds = {number[0]: "right", false[0]: "false"}
    row = {"place": each["place"], "question": question, "number": number}
    return row | {
        name: kinds.get(str(digit), "other")
        for name, digit in zip(passages, said, strict=True)
    }


def hidden_questions() -> list[dict]:
    """Those with the shortest passages."""
    handbook = building_questions()
    stored = read_json(asset("retrieval", "questions.json"))
    known = [each for each in stored if not each["tried"] and each["number"][0] != "0"]
    known.sort(key=lambda each: len(handbook[each["place"]].answer))
    return known[:QUESTIONS]


def record_hidden() -> None:
    model, handbook = load_smollm2(), building_questions()
    rows = [
        answers_to(model, each, handbook[each["place"]].answer)
        for each in hidden_questions()
    ]
    store(HERE / "hidden.json", {"rows": rows})


def record_marks() -> None:
    model, text = trained_gpt(), king_james()
    alphabet = characters(text)
    start = torch.as_tensor(to_ids(MARK_START, alphabet)).expand(TEXTS, -1)
    green = page.green_lists(len(alphabet), KEY)
    record = {"key": KEY, "texts": {}, "nats": {}}
    for lift in LIFTS:
        generator = torch.Generator().manual_seed(0)
        ids = page.write_marked(model, start, LENGTH, green, lift, generator)
        nats = token_losses(model, ids[:, : model.config.context]).mean().item()
        record["nats"][lift] = round(nats, 4)
        texts = ["".join(alphabet[i] for i in row) for row in ids]
        record["texts"][lift] = texts
    store(HERE / "marks.json", record)


def remade() -> Iterator[tuple]:
    """The stored network before and after one attack, and the first answers."""
    kept = read_json(HERE / "pictures.json")["plain"]
    planes, labels, _ = page.kind_pictures(["emojitwo"])
    model = page.trained_kinds()
    attacked = page.pgd(model, planes, labels, 2 / 255)
    for size, x in ("0", planes), ("2", attacked):
        yield kept[0]["PGD"][size], right_share(model, x, labels), 0.02
    each = hidden_questions()[0]
    again = answers_to(load_smollm2(), each, building_questions()[each["place"]].answer)
    kept = read_json(HERE / "hidden.json")["rows"][0]
    yield 1, sum(again[name] == kept[name] for name in kept) / len(kept), 0.1


if __name__ == "__main__":
    make_parts(record_hidden, record_pictures, record_dog, record_edits, record_marks)
