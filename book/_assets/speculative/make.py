"""Train the drafts of deployment/speculative and time its passes.

.venv/bin/python book/_tools/assets.py speculative (four minutes of a core)

Writes beside this file drafts.safetensors, the weights of a small GPT and of an extra
head that draft for `trained_gpt`, in 16 bits; drafts.json, how the head's training
began and how often each draft would be accepted; and times.json: what a pass of
SmolLM2 over so many tokens takes on this machine, and the notebook's three answers with
and without guessing, in processor time. The records hold the digest of the code that
made them. A name, such as `times`, makes that part alone.
"""

import sys
import time
from pathlib import Path

import torch
from assets import king_james_ids, processor
from digest import digest_of, exported

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.deployment import speculative
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig
from fieldguide.transformers.real_model import KVCache, complete, load_smollm2

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "deployment" / "speculative.ipynb"
TRAINED_BY = ["ExtraHead", "train_head", "head_loss"]
TIMED_BY = ["CachedTarget", "speculate", "look_up", "SeveralFast"]
TIMED_BY += ["REQUESTS", "asked"]

DRAFT = GPTConfig(65, 128, width=32, heads=2, layers=1, bias=False)
SMALL_STEPS = 400
HEAD = training.Recipe(300, rate=3e-3, warmup=15, decay=0.0)
SEEDS = range(2)
COUNTS = [*range(1, 10), 12, 16, 17, 32, 72]
LENGTHS = [3, 8]
ROUNDS = 4


def digests() -> dict[str, str]:
    """Of each record: the digest of the definitions that make it today."""
    code = exported(NOTEBOOK)
    trained, timed = (digest_of(code, names) for names in (TRAINED_BY, TIMED_BY))
    return {"drafts.json": trained, "times.json": timed}


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


def record_drafts() -> None:
    ids, held_out = king_james_ids()
    king, record = training.trained_gpt(), {"digest": digests()["drafts.json"]}
    record |= {"steps": HEAD.steps, "rate": HEAD.rate, "warmup": HEAD.warmup}
    record["accepted"] = []
    for seed in SEEDS:
        start = torch.Generator().manual_seed(seed)
        recipe = training.modern_recipe(SMALL_STEPS)
        small = training.new_gpt(DRAFT, recipe, start)
        training.train(small, ids, recipe, generator=start)
        start = torch.Generator().manual_seed(seed)
        head, losses = speculative.train_head(king, ids, HEAD, start)
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


def spent(action) -> float:
    """Milliseconds of processor time."""
    start = time.process_time()
    action()
    return 1000 * (time.process_time() - start)


def requests():
    """The notebook's prompts, by name, and its stop tokens."""
    tokenizer, texts = smollm2_tokenizer(), speculative.REQUESTS
    prompts = {n: speculative.asked(tokenizer, text) for n, text in texts.items()}
    return prompts, tokenizer.encode("<|im_end|>")


def passes_ms(model, ids):
    """Of passes over so many tokens behind a text, the best try of it or longer, ms."""
    cache, tries = KVCache(model.config, 256), {n: [] for n in COUNTS}
    model.residual(torch.tensor([ids]), cache)
    for _ in range(3 * ROUNDS):
        for count in COUNTS:
            cache.length = len(ids)
            new = torch.zeros(1, count, dtype=torch.long)
            one = spent(lambda new=new: model.logits(model.residual(new, cache)))
            tries[count].append(one)
    best = {count: round(min(ms), 1) for count, ms in tries.items()}
    return {str(n): min(ms for m, ms in best.items() if m >= n) for n in best}


def record_times() -> None:
    """The best try of each; they take turns, so all meet a busy moment."""
    model = speculative.SeveralFast(load_smollm2())
    prompts, stop = requests()
    facts = {"digest": digests()["times.json"], "machine": processor()}
    with torch.inference_mode():
        facts["pass_ms"] = passes_ms(model, prompts["story"])
    facts["texts"] = {}
    for name, prompt in prompts.items():

        def guessing(length, prompt=prompt):
            target = speculative.CachedTarget(model, len(prompt) + 40)
            speculative.speculate(
                target, prompt, 40, speculative.look_up, length, stop=stop
            )

        tries = {"alone_ms": [], **{str(length): [] for length in LENGTHS}}
        for _ in range(ROUNDS):
            alone = spent(lambda prompt=prompt: complete(model, prompt, 40, stop=stop))
            tries["alone_ms"].append(alone)
            for length in LENGTHS:
                tries[str(length)].append(spent(lambda n=length: guessing(n)))
        facts["texts"][name] = {n: round(min(ms)) for n, ms in tries.items()}
        print(name, facts["texts"][name], flush=True)
    store(HERE / "times.json", facts)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    parts = {"drafts": record_drafts, "times": record_times}
    for part in sys.argv[1:] or parts:
        parts[part]()
