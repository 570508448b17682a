"""Train the drafts of deployment/speculative and time its passes.

.venv/bin/python book/_tools/assets.py speculative (five minutes of a core)

Writes beside this file drafts.safetensors, the weights of a small GPT and of an extra
head that draft for `trained_gpt`, in 16 bits; drafts.json, how the head's training
began; answers.json, SmolLM2's passes for each of the notebook's requests; and
times.json, in milliseconds of processor time, of each round: a pass of SmolLM2 over so
many tokens, two of the answers with and without guessing, and King James with each
trained draft. A name, such as `times`, makes that part alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import king_james_ids, make_parts, processor, read_json
from rivals.measure import own, processor_times
from safetensors.torch import load_file
from torch import nn

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.deployment import speculative as spec
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig
from fieldguide.transformers.real_model import complete, load_smollm2

HERE = Path(__file__).parent

DRAFT = GPTConfig(65, 128, width=32, heads=2, layers=1, bias=False)
SMALL = training.modern_recipe(400)
HEAD = training.Recipe(300, rate=3e-3, warmup=15, decay=0.0)
COUNTS = [*range(1, 14), 16, 32]


def generator():
    return torch.Generator().manual_seed(0)


def train_head(model, ids, recipe):
    """An ExtraHead for a GPT that stays as it is, and its losses, nats."""
    torch.manual_seed(0)
    head, start = spec.ExtraHead(model), generator()
    adamw = torch.optim.AdamW(head.parameters(), recipe.rate, recipe.betas)

    def loss():
        context = model.config.context - 1
        x, y = training.get_batch(ids, recipe.batch, context, start)
        _, states = spec.with_states(model, x)  # (B, T, D)
        logits = head(states[:, :-1], y[:, :-1], model.token.weight)
        return F.cross_entropy(logits.flatten(0, 1), y[:, 1:].flatten())

    return head, training.descend(head, loss, [adamw], recipe)


def record_drafts() -> None:
    ids, start = king_james_ids()[0], generator()
    small = training.new_gpt(DRAFT, SMALL, start)
    training.train(small, ids, SMALL, generator=start)
    head, losses = train_head(training.trained_gpt(), ids, HEAD)
    weights = nn.ModuleDict({"small": small, "head": head}).half().state_dict()
    store(HERE / "drafts.safetensors", weights)
    first = [round(loss, 4) for loss in losses[:3].tolist()]
    store(HERE / "drafts.json", {"first": first})


def requests():
    """The notebook's prompts, by name, and its stop tokens."""
    tokenizer, texts = smollm2_tokenizer(), spec.REQUESTS
    prompts = {name: spec.asked(tokenizer, text) for name, text in texts.items()}
    return prompts, tokenizer.encode("<|im_end|>")


def answer(model, prompt, stop):
    """The passes of an answer of 40 tokens."""
    target = spec.CachedTarget(model, len(prompt) + 40)
    return spec.speculate(target, prompt, 40, spec.look_up, 8, stop=stop)[1]


def record_answers() -> None:
    model, (prompts, stop) = load_smollm2(), requests()
    made = {name: answer(model, ids, stop) for name, ids in prompts.items()}
    store(HERE / "answers.json", made)


def answers(model, prompt, stop):
    """What is timed of a request: the whole answer, and the reading of the request."""
    return {
        "alone": lambda: complete(model, prompt, 40, stop=stop),
        "8": lambda: answer(model, prompt, stop),
        "request": lambda: spec.CachedTarget(model, len(prompt) + 40)(
            prompt, spec.look_up(prompt, 8)[0]
        ),
    }


def passes(model, prompt):
    """Passes over so many tokens, of any kind, in the middle of an answer."""
    text = [*prompt, *prompt[:20]]
    target = spec.CachedTarget(model, len(text) + max(COUNTS))
    target(text[:-1], [])

    def one(count):
        target.read = text[:-1]
        target(text, text[:1] * (count - 1))

    return {str(count): lambda count=count: one(count) for count in COUNTS}


def trained():
    """The target on King James with no draft and with each, by name."""
    king, (_, held_out) = training.trained_gpt(), king_james_ids()
    small, head = training.new_gpt(DRAFT, SMALL, generator()), spec.ExtraHead(king)
    parts = nn.ModuleDict({"small": small, "head": head}).requires_grad_(False)
    parts.load_state_dict(load_file(HERE / "drafts.safetensors"))
    places = torch.tensor([[0], [len(held_out) - 128]]) + torch.arange(32)

    def write(made_by, length):
        draws = generator()
        judge = spec.sampled(1.0, draws)
        for prompt in held_out[places].tolist():
            target = spec.PlainTarget(king)
            draft = made_by(target, draws)
            spec.speculate(target, prompt, 48, draft, length, judge=judge)

    def by_small(target, draws):
        return spec.model_draft(small, 1.0, draws)

    def by_head(target, draws):
        return spec.head_draft(head, target, 1.0, draws)

    return {
        "alone": lambda: write(lambda *_: lambda ids, length: ([], None), 1),
        "small GPT, 1": lambda: write(by_small, 1),
        "small GPT, 3": lambda: write(by_small, 3),
        "extra head, 1": lambda: write(by_head, 1),
    }


def record_times() -> None:
    """All take turns, round after round, so that a busy moment meets each."""
    model, (prompts, stop) = spec.SeveralFast(load_smollm2()), requests()
    groups = {
        name: answers(model, prompts[name], stop) for name in ("correct", "story")
    }
    groups |= {"pass": passes(model, prompts["correct"]), "trained": trained()}
    runs = {(name, way): run for name in groups for way, run in groups[name].items()}
    tries = {name: {} for name in groups}
    for (name, way), ms in processor_times(runs, rounds=2).items():
        tries[name][way] = [round(one, 1) for one in own(ms)]
    facts = {"machine": processor(), "pass_ms": tries.pop("pass")}
    facts |= {"trained_ms": tries.pop("trained"), "texts": tries}
    store(HERE / "times.json", facts)


def remade() -> Iterator[tuple]:
    """How the head's training begins, made today."""
    ids, _ = king_james_ids()
    few = replace(HEAD, steps=16)
    _, losses = train_head(training.trained_gpt(), ids, few)
    yield read_json(HERE / "drafts.json")["first"], losses[:3].tolist(), 0.01


if __name__ == "__main__":
    make_parts(record_drafts, record_answers, record_times)
