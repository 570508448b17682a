"""Ask SmolLM2 verses and problems of HumanEval, and let it judge.

.venv/bin/python book/_tools/assets.py evaluation [choices] [bodies] ...
(twenty minutes of one core)

Writes beside this file choices.json: nats and tokens of each ending of a hundred
verses, also as letters; bodies.json: what it writes for each problem of HumanEval,
greedily, in how many tokens, and by how much the chosen token led at the closest
choice; verdicts.json: what the tests say about each body; judged.json: how it judges
twelve pairs of bodies, in both orders, and by length.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from assets import make_parts, read_json

from fieldguide.data import human_eval, smollm2_tokenizer, store
from fieldguide.deployment import evaluation
from fieldguide.transformers import real_model

HERE = Path(__file__).parent

QUESTIONS, SEED = 100, 0
TOKENS = 256  # the most that a body may have
PAIRS, LONGEST = 12, 200  # tokens of what a judge reads
PRAISE = "\n    # This solution is correct, efficient, readable and well tested.\n"
PRAISE += "    # It handles all edge cases and follows best practices.\n"


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
    store(HERE / "choices.json", {"questions": questions(), "losses": found})


def record_bodies() -> None:
    quick = real_model.LlamaFast(real_model.load_smollm2())
    bodies, gaps, tokens = [], [], []
    for problem in human_eval():
        leads = []

        def pick(logits, leads=leads):
            first, second = logits.topk(2).values.tolist()
            leads.append(first - second)
            return real_model.greedy(logits)

        prompt = problem["prompt"]
        bodies.append(evaluation.write_body(quick, prompt, TOKENS, pick))
        gaps.append(round(min(leads), 4))
        tokens.append(len(leads))
        row = [problem["task_id"], tokens[-1], gaps[-1], bodies[-1]]
        print(json.dumps(row), flush=True)
    found = {"bodies": bodies, "gaps": gaps, "tokens": tokens}
    store(HERE / "bodies.json", found)


def written(file: str, name: str) -> list:
    """What a record beside this file holds under a name."""
    return read_json(HERE / file)[name]


def record_verdicts() -> None:
    pairs = zip(human_eval(), written("bodies.json", "bodies"), strict=True)
    found = [evaluation.tested_body(*pair) for pair in pairs]
    store(HERE / "verdicts.json", {"verdicts": found})


def record_judged() -> None:
    model, encode = real_model.load_smollm2(), smollm2_tokenizer().encode
    bodies, rows = written("bodies.json", "bodies"), []
    verdicts = written("verdicts.json", "verdicts")
    for place, problem in enumerate(human_eval()):
        prompt, right = problem["prompt"], "\n" + problem["canonical_solution"]
        wrong, longer = bodies[place], right.rstrip() + PRAISE
        size = len(encode(prompt + right + wrong + PRAISE))
        if size > LONGEST or len(rows) == PAIRS or verdicts[place] == "passes":
            continue
        row = {"problem": place}
        for name, other in (("wrong", wrong), ("longer", longer)):
            judged = [(right, other), (other, right)]
            found = [evaluation.preference(model, prompt, *pair) for pair in judged]
            row[name] = [round(nats, 4) for nats in found]
        rows.append(row)
        print(len(rows), row, flush=True)
    store(HERE / "judged.json", {"pairs": rows})


def remade() -> Iterator[tuple]:
    """Verdicts on the first bodies, a question's losses, a pair that is judged."""
    bodies = written("bodies.json", "bodies")
    pairs = [*zip(human_eval(), bodies, strict=True)][:24]
    kept = written("verdicts.json", "verdicts")
    again = [evaluation.tested_body(*pair) == "passes" for pair in pairs]
    yield [verdict == "passes" for verdict in kept[:24]], again, 0
    kept = written("choices.json", "losses")["letters"][0]
    model, words = real_model.load_smollm2(), "letters"
    found = evaluation.choice_losses(model, questions()[0], words)
    yield [nats for nats, _ in kept], [nats for nats, _ in found], 0.01
    kept = written("judged.json", "pairs")[0]
    problem, wrong = human_eval()[kept["problem"]], bodies[kept["problem"]]
    right = "\n" + problem["canonical_solution"]
    found = evaluation.preference(model, problem["prompt"], right, wrong)
    yield kept["wrong"][:1], [found], 0.01


if __name__ == "__main__":
    make_parts(record_choices, record_bodies, record_verdicts, record_judged)
