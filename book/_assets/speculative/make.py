"""Train the drafts of deployment/speculative and time its passes.

.venv/bin/python book/_tools/assets.py speculative (five minutes of a core)

Writes beside this file drafts.safetensors, the weights of a small GPT and of an extra
head that draft for `trained_gpt`, in 16 bits; drafts.json, how the head's training
began and how often each draft would be accepted; answers.json, SmolLM2's passes for
each of the notebook's requests; and times.json, in milliseconds of processor time, of
each round: a pass of SmolLM2 over so many tokens, two of the answers with and without
guessing, and King James with each trained draft. A name, such as `times`, makes that
part alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import king_james_ids, make_parts, processor, read_json
from rivals.measure import own, processor_times
from safetensors.torch import load_file

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.deployment import speculative
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig
from fieldguide.transformers.real_model import complete, load_smollm2

HERE = Path(__file__).parent

DRAFT = GPTConfig(65, 128, width=32, heads=2, layers=1, bias=False)
SMALL_STEPS = 400
HEAD = training.Recipe(300, rate=3e-3, warmup=15, decay=0.0)
SEEDS = range(2)
COUNTS = [*range(1, 14), 16, 32]
LENGTHS = [3, 8]
TIMED = ["correct", "story"]
PASSAGES = 2
ROUNDS = 2


@torch.no_grad()
def accepted(logits, drafted):
    """The mean acceptance rate of drafts, by their logits (..., V)."""
    p, q = logits.softmax(-1), drafted.softmax(-1)
    return round(torch.minimum(p, q).sum(-1).mean().item(), 4)


@torch.no_grad()
def rates(small, head, held_out):
    """Acceptance rates of both drafts on a held-out text."""
    king = training.trained_gpt()
    starts = torch.linspace(0, len(held_out) - 128, 64).long()
    ids = held_out[starts[:, None] + torch.arange(128)]  # (64, T)
    logits, states = speculative.with_states(king, ids)
    table = king.token.weight
    guesses = head(states[:, :-1], ids[:, 1:], table)  # for the token after
    return {
        "small": accepted(logits, small(ids)),
        "head": accepted(logits[:, 1:], guesses),
    }


def head_loss(head, model, ids):
    """Mean nats of an ExtraHead at the second token after each place of ids (B, T)."""
    with torch.no_grad():
        _, states = speculative.with_states(model, ids)  # (B, T, D)
    logits = head(states[:, :-2], ids[:, 1:-1], model.token.weight)
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 2:].flatten())


def train_head(model, ids, recipe, generator):
    """An ExtraHead for a GPT that stays as it is, and its losses, nats."""
    with torch.random.fork_rng():
        torch.manual_seed(generator.initial_seed())
        head = speculative.ExtraHead(model)
    options = {"lr": recipe.rate, "betas": recipe.betas}
    made = [torch.optim.AdamW(head.parameters(), **options)]

    def loss():
        context = model.config.context - 1
        batch = training.get_batch(ids, recipe.batch, context, generator)
        whole = torch.cat([batch[0], batch[1][:, -1:]], -1)  # (B, T)
        return head_loss(head, model, whole)

    return head, training.descend(head, loss, made, recipe)


def record_drafts() -> None:
    ids, held_out = king_james_ids()
    king, record = training.trained_gpt(), {}
    record |= {"steps": HEAD.steps, "rate": HEAD.rate, "warmup": HEAD.warmup}
    record["accepted"] = []
    for seed in SEEDS:
        start = torch.Generator().manual_seed(seed)
        recipe = training.modern_recipe(SMALL_STEPS)
        small = training.new_gpt(DRAFT, recipe, start)
        training.train(small, ids, recipe, generator=start)
        start = torch.Generator().manual_seed(seed)
        head, losses = train_head(king, ids, HEAD, start)
        record["accepted"].append(rates(small, head, held_out))
        print(seed, losses[-20:].mean().item(), record["accepted"][-1], flush=True)
        if seed:
            continue
        record["first"] = [round(loss, 4) for loss in losses[:3].tolist()]
        weights = {
            f"{name}.{key}": value.half()
            for name, part in {"small": small, "head": head}.items()
            for key, value in part.state_dict().items()
        }
        store(HERE / "drafts.safetensors", weights)
    store(HERE / "drafts.json", record)


def requests():
    """The notebook's prompts, by name, and its stop tokens."""
    tokenizer, texts = smollm2_tokenizer(), speculative.REQUESTS
    prompts = {n: speculative.asked(tokenizer, text) for n, text in texts.items()}
    return prompts, tokenizer.encode("<|im_end|>")


def answer(model, prompt, stop, length):
    """The 40 tokens of an answer with guesses, and its passes."""
    target = speculative.CachedTarget(model, len(prompt) + 40)
    args = target, prompt, 40, speculative.look_up, length
    return speculative.speculate(*args, stop=stop)


def record_answers() -> None:
    model, (prompts, stop) = load_smollm2(), requests()
    made = {n: answer(model, ids, stop, max(LENGTHS))[1] for n, ids in prompts.items()}
    store(HERE / "answers.json", made)


def answers(model, prompt, stop):
    """What is timed of a request: the whole answer, and the reading of the request."""

    def reading():
        target = speculative.CachedTarget(model, len(prompt) + 40)
        target(prompt, speculative.look_up(prompt, max(LENGTHS))[0])

    ways = {"alone": lambda: complete(model, prompt, 40, stop=stop)}
    ways |= {str(n): lambda n=n: answer(model, prompt, stop, n) for n in LENGTHS}
    return ways | {"request": reading}


def passes(model, prompt):
    """Passes over so many tokens, of any kind, in the middle of an answer."""
    text = [*prompt, *prompt[:20]]
    target = speculative.CachedTarget(model, len(text) + max(COUNTS))
    target(text[:-1], [])

    def one(count):
        target.read = text[:-1]
        target(text, text[:1] * (count - 1))

    return {str(count): lambda count=count: one(count) for count in COUNTS}


def trained():
    """The target on King James with no draft and with each, by name."""
    king, weights = training.trained_gpt(), load_file(HERE / "drafts.safetensors")
    generator = torch.Generator().manual_seed(0)
    small = training.new_gpt(DRAFT, training.modern_recipe(SMALL_STEPS), generator)
    head, (_, held_out) = speculative.ExtraHead(king), king_james_ids()
    for name, part in {"small": small, "head": head}.items():
        keys = {k: v for k, v in weights.items() if k.startswith(name + ".")}
        part.load_state_dict({k.partition(".")[2]: v for k, v in keys.items()})
    starts = torch.linspace(0, len(held_out) - 128, PASSAGES).long()
    prompts = held_out[starts[:, None] + torch.arange(32)].tolist()

    def write(made_by, length):
        draws = torch.Generator().manual_seed(0)
        judge = speculative.sampled(1.0, draws)
        for prompt in prompts:
            target = speculative.PlainTarget(king)
            draft = made_by(target, draws)
            speculative.speculate(target, prompt, 48, draft, length, judge=judge)

    def by_small(target, draws):
        return speculative.model_draft(small, 1.0, draws)

    def by_head(target, draws):
        return speculative.head_draft(head, target, 1.0, draws)

    def by_none(target, draws):
        return lambda ids, length: ([], None)

    return {
        "alone": lambda: write(by_none, 1),
        "small GPT, 1": lambda: write(by_small, 1),
        "small GPT, 3": lambda: write(by_small, 3),
        "extra head, 1": lambda: write(by_head, 1),
    }


def record_times() -> None:
    """All take turns, round after round, so that a busy moment meets each."""
    model = speculative.SeveralFast(load_smollm2())
    prompts, stop = requests()
    groups = {name: answers(model, prompts[name], stop) for name in TIMED}
    groups |= {"pass": passes(model, prompts[TIMED[0]]), "trained": trained()}
    facts = {"machine": processor()}
    both = {
        (name, way): run for name, ways in groups.items() for way, run in ways.items()
    }
    took, tries = processor_times(both, rounds=ROUNDS), {name: {} for name in groups}
    for (name, way), ms in took.items():
        tries[name][way] = [round(one, 1) for one in own(ms)]
    facts |= {"pass_ms": tries["pass"], "trained_ms": tries["trained"]}
    store(HERE / "times.json", facts | {"texts": {n: tries[n] for n in TIMED}})


def remade() -> Iterator[tuple]:
    """How the head's training begins, made today."""
    ids, _ = king_james_ids()
    kept = read_json(HERE / "drafts.json")["first"]
    few, start = replace(HEAD, steps=16), torch.Generator().manual_seed(0)
    _, losses = train_head(training.trained_gpt(), ids, few, start)
    yield kept, losses[:3].tolist(), 0.01


if __name__ == "__main__":
    make_parts(record_drafts, record_answers, record_times)
