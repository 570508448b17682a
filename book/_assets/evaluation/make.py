"""Ask SmolLM2 verses and problems of HumanEval, and let it judge.

.venv/bin/python book/_tools/assets.py evaluation [choices] [bodies] [judged]
(ten minutes of one core)

Writes beside this file choices.json: nats and tokens of each ending of a hundred
verses, also as letters; bodies.json: what it writes for every second of the first 90
problems of HumanEval, greedily, and by how much the chosen token led at the closest
choice; judged.json: how it judges twelve pairs of bodies, in both orders, and by
length. Each holds the digest of the definitions that made it.
"""

import json
from pathlib import Path

import torch
from assets import make_parts
from digest import digest_of, exported

from fieldguide.data import (
    SMOLLM2_SHA256,
    asset,
    human_eval,
    smollm2_tokenizer,
    store,
)
from fieldguide.deployment import evaluation
from fieldguide.transformers import real_model

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "deployment" / "evaluation.ipynb"
USED = """
from fieldguide.transformers.real_model import LlamaFast

WRITES = LlamaFast
"""
MADE_BY = {
    "choices.json": ["verse_questions", "choice_losses", "WORDS"],
    "bodies.json": ["write_body", "WRITES"],
    "judged.json": ["preference", "tested_body"],
}

QUESTIONS, SEED = 100, 0
FIRST, EVERY, TOKENS = 90, 2, 64
PAIRS, LONGEST = 12, 200  # tokens of what a judge reads
PRAISE = "\n    # This solution is correct, efficient, readable and well tested.\n"
PRAISE += "    # It handles all edge cases and follows best practices.\n"


PLANS = {
    "choices.json": [QUESTIONS, SEED],
    "bodies.json": [FIRST, EVERY, TOKENS],
    "judged.json": [PAIRS, LONGEST, PRAISE],
}


def digests() -> dict[str, str]:
    """Of each record: the digest of the definitions that make it today."""
    source = f"{USED}\n{exported(NOTEBOOK)}"
    return {
        file: digest_of(source, names, SMOLLM2_SHA256, repr(PLANS[file]))
        for file, names in MADE_BY.items()
    }


def kept(file: str, **content) -> None:
    store(HERE / file, {"digest": digests()[file]} | content)


def places() -> list[int]:
    """The problems that are written."""
    return list(range(0, FIRST, EVERY))


def slice_of_problems() -> list[dict]:
    return [human_eval()[place] for place in places()]


def questions() -> list:
    return evaluation.verse_questions(QUESTIONS, torch.Generator().manual_seed(SEED))


def losses(model, words) -> list:
    """For each question and ending: its nats and its tokens."""
    found = []
    for question in questions():
        nats = evaluation.choice_losses(model, question, words)
        found.append([[round(n, 3), tokens] for n, tokens in nats])
        print(words, json.dumps(found[-1]), flush=True)
    return found


def record_choices() -> None:
    model = real_model.load_smollm2()
    found = {words: losses(model, words) for words in evaluation.WORDS}
    kept("choices.json", questions=questions(), losses=found)


def record_bodies() -> None:
    quick = real_model.LlamaFast(real_model.load_smollm2())
    bodies, gaps = [], []
    for problem in slice_of_problems():
        leads = []

        def pick(logits, leads=leads):
            first, second = logits.topk(2).values.tolist()
            leads.append(first - second)
            return real_model.greedy(logits)

        prompt = problem["prompt"]
        bodies.append(evaluation.write_body(quick, prompt, TOKENS, pick))
        gaps.append(round(min(leads), 4))
        print(json.dumps([problem["task_id"], gaps[-1], bodies[-1]]), flush=True)
    kept("bodies.json", places=places(), bodies=bodies, gaps=gaps)


def record_judged() -> None:
    model, encode = real_model.load_smollm2(), smollm2_tokenizer().encode
    stored = asset("evaluation", "bodies.json").read_text(encoding="utf-8")
    written, rows = json.loads(stored)["bodies"], []
    for place, problem in enumerate(slice_of_problems()):
        prompt, right = problem["prompt"], "\n" + problem["canonical_solution"]
        wrong, longer = written[place], right.rstrip() + PRAISE
        size = len(encode(prompt + right + wrong + PRAISE))
        if size > LONGEST or len(rows) == PAIRS:
            continue
        if evaluation.tested_body(problem, wrong) == "passes":
            continue
        row = {"problem": place * EVERY}
        for name, other in (("wrong", wrong), ("longer", longer)):
            judged = [(right, other), (other, right)]
            found = [evaluation.preference(model, prompt, *pair) for pair in judged]
            row[name] = [round(nats, 4) for nats in found]
        rows.append(row)
        print(len(rows), row, flush=True)
    kept("judged.json", pairs=rows)


if __name__ == "__main__":
    make_parts(record_choices, record_bodies, record_judged)
