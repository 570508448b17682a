"""Measure how small a change flips the answers of challenges/robustness.

.venv/bin/python book/_tools/assets.py robustness (eight minutes of two cores)

Writes beside this file kinds.safetensors, a network that sorts pictures, once trained
on plain pictures and once on attacked ones, in 16 bits; pictures.json: how often such
networks are right after changes of several sizes, for each of SEEDS; dog.safetensors,
the levels of one picture after PGD; edits.json: what SmolLM2 says is the capital of a
country when the line is edited; hidden.json: what it answers from a
passage in which a sentence is hidden, with and without the sifting of sentences; and
marks.json: texts with and without a watermark. A name, such as `edits`, makes that part
alone. A word of SmolLM2's that isn't in ../reviewed/words.json is stored as three dots.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import make_parts, read_json, reviewed, unread

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

SEEDS = range(3)
TRAINED_WITH = 8  # of 255
SIZES = [0, 1, 2, 4, 8, 16]  # of 255
LEAST = 0.25  # the cosine below which a sentence is sifted out
QUESTIONS = 32
LIFTS, TEXTS, LENGTH, KEY = [0.0, 2.0, 4.0], 8, 200, 0
MARK_START = "\nAnd"


def attacked_start(model, x, labels, eps: float, generator) -> torch.Tensor:
    """One step uphill from a random place within eps. Wong et al. 2020."""
    noise = 2 * torch.rand(x.shape, generator=generator) - 1
    start = (x + eps * noise).clamp(0, 1)
    return page.pgd(model, x, labels, eps, steps=1, stride=1.25, start=start)


def train_kinds(eps: float | None, seed: int, steps: int = 480) -> page.KindReader:
    """A reader trained on pictures, or with eps on attacked ones."""
    generator = torch.Generator().manual_seed(seed)
    planes, labels, _ = page.kind_pictures(KNOWN_DRAWERS)
    with seeded(generator):
        model = page.KindReader()
    batches = shuffled_batches(len(labels), 64, generator)

    def loss():
        at = next(batches)
        x = jitter(planes[at], generator)
        if eps is not None:
            x = attacked_start(model.eval(), x, labels[at], eps, generator)
        return F.cross_entropy(model.train()(x), labels[at])

    recipe = Recipe(steps, batch=64, rate=4e-3, warmup=steps // 10)
    adamw = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.05)
    descend(model, loss, [adamw], recipe)
    return model.eval().requires_grad_(False)


def shares_right(model, planes, labels, generator) -> dict:
    """How often a network is right after each change, by its size."""
    changes = {
        "random signs": lambda eps: page.random_signs(planes, eps, generator),
        "FGSM": lambda eps: page.fgsm(model, planes, labels, eps),
        "PGD": lambda eps: page.pgd(model, planes, labels, eps),
    }
    found = {name: {} for name in changes}
    for name, change in changes.items():
        for size in SIZES:
            x = change(size / 255) if size else planes
            found[name][size] = round(page.right_share(model, x, labels), 4)
    return found


def record_pictures() -> None:
    planes, labels, _ = page.kind_pictures(["emojitwo"])
    record, weights = {}, {}
    for name, eps in (("plain", None), ("hardened", TRAINED_WITH / 255)):
        record[name] = []
        for seed in SEEDS:
            model = train_kinds(eps, seed)
            if seed == 0:
                mine = model.state_dict().items()
                mine = [(n, w) for n, w in mine if w.is_floating_point()]
                weights |= {f"{name}.{n}": w.half() for n, w in mine}
            generator = torch.Generator().manual_seed(seed)
            record[name].append(shares_right(model, planes, labels, generator))
            print(name, seed, record[name][-1]["PGD"], flush=True)
    store(HERE / "kinds.safetensors", weights)
    store(HERE / "pictures.json", record)


def record_dog() -> None:
    """Stored, since where pixels tie another processor attacks another of them."""
    planes, labels, captions = page.kind_pictures(["emojitwo"])
    at, levels = captions.index("dog face"), {}
    x, label = planes[at : at + 1], labels[at : at + 1]
    for kind in ("plain", "hardened"):
        model = page.trained_kinds(kind)
        for size in SIZES[2:]:
            changed = page.pgd(model, x, label, size / 255)
            levels[f"{kind}.{size}"] = (255 * changed).round().byte().contiguous()
    store(HERE / "dog.safetensors", levels)


def record_edits() -> None:
    model = load_smollm2()
    stored = json.loads(asset("hallucination", "capitals.json").read_text("utf-8"))
    real = [row for row in stored["rows"] if row["capital"]]  # others are invented
    rows = [{k: row[k] for k in ("country", "capital")} for row in real]
    capitals = [row["capital"] for row in rows]
    for row in rows:
        row["edits"] = {}
    for edit in page.edited_lines("France"):
        lines = [page.edited_lines(row["country"])[edit] for row in rows]
        found = page.capital_said(model, lines, capitals)
        for row, said in zip(rows, found, strict=True):
            row["edits"][edit] = said | {"says": reviewed(said["says"])}
        hits = sum(row["edits"][edit]["right"] for row in rows)
        print(edit, hits, "of", len(rows), flush=True)
    store(HERE / "edits.json", {"rows": rows})


def first_digits(model, question: str, passages: list[str]) -> list[str]:
    """The digit that the answer begins with, from each passage."""
    encode = smollm2_tokenizer().encode
    said = encode("The answer is ")
    prompts = [retrieval.open_prompt(question, each) + said for each in passages]
    same = [len({*ids}) == 1 for ids in zip(*(p[:-1] for p in prompts), strict=False)]
    begun = [*same, False].index(False)  # what all share is read once
    shared, rests = prompts[0][:begun], [p[begun:] for p in prompts]
    digits = [encode(digit)[0] for digit in "0123456789"]
    scores = answer_scores(model, shared, rests, digits)  # (N, 10)
    return [str(digit) for digit in scores.argmax(1).tolist()]


def answers_to(model, each: dict, passage: str) -> dict:
    """What the model's answer begins with: the right digit, the false one, another."""
    question, number = each["question"], each["number"]
    false = retrieval.raise_digits(number)
    hidden = page.hidden_sentences(question, false)
    passages = {"nothing": passage}
    passages |= {name: f"{passage} {text}" for name, text in hidden.items()}
    sifted = {
        f"{name}, sifted": page.sift(question, passages[name], LEAST)
        for name in ("nothing", "claim", "tailored")
    }
    row = {"place": each["place"], "question": question, "number": number}
    for group in (passages, sifted):  # each shares its beginning
        texts = [*dict.fromkeys(group.values())]
        found = dict(zip(texts, first_digits(model, question, texts), strict=True))
        for name, text in group.items():
            digit = found[text]
            says = {number[0]: "right", false[0]: "false"}.get(digit, "other")
            row[name] = says
    return row


def hidden_questions() -> list[dict]:
    """Those with the shortest passages."""
    handbook = building_questions()
    stored = json.loads(asset("retrieval", "questions.json").read_text("utf-8"))
    known = [each for each in stored if not each["tried"] and each["number"][0] != "0"]
    known.sort(key=lambda each: len(handbook[each["place"]].answer))
    return known[:QUESTIONS]


def record_hidden() -> None:
    model, handbook = load_smollm2(), building_questions()
    rows = []
    for each in hidden_questions():
        rows.append(answers_to(model, each, handbook[each["place"]].answer))
        print(*rows[-1].values(), flush=True)
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
        news = [word for each in texts for word in unread(each, cut=True)]
        assert not news, f"read these words, then list them in ../reviewed: {news}"
        record["texts"][lift] = texts
        scores = [page.mark_score(row, green) for row in ids]
        print(lift, record["nats"][lift], sum(scores) / TEXTS, min(scores), flush=True)
    store(HERE / "marks.json", record)


def remade() -> Iterator[tuple]:
    """The stored network before and after one attack, and the first answers."""
    kept = read_json(HERE / "pictures.json")["plain"]
    planes, labels, _ = page.kind_pictures(["emojitwo"])
    model = page.trained_kinds()
    attacked = page.fgsm(model, planes, labels, 2 / 255)
    for size, x in ("0", planes), ("2", attacked):
        yield kept[0]["FGSM"][size], page.right_share(model, x, labels), 0.02
    each = hidden_questions()[0]
    again = answers_to(load_smollm2(), each, building_questions()[each["place"]].answer)
    kept = read_json(HERE / "hidden.json")["rows"][0]
    yield 1, sum(again[name] == kept[name] for name in kept) / len(kept), 0.1


if __name__ == "__main__":
    make_parts(record_hidden, record_pictures, record_dog, record_edits, record_marks)
