"""Train the GPT that `trained_gpt` loads, record the run, and try learning rates.

.venv/bin/python book/_tools/assets.py king-james-gpt (a quarter of an hour of one core)

Writes beside this file weights.safetensors, the trained weights in 16 bits; run.json
and run.safetensors, the run at each of STEPS: losses, a sample, attention; rates.json,
the losses of short runs of a tiny model, and how the notebook's live runs end at other
rates and from other seeds; belts.json, the losses of one run at two rates, with and
without warm-up, clipping and cooling down; and times.json, how much longer a modern
step takes.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from assets import make_parts, read_json

from fieldguide.data import king_james, store
from fieldguide.introduction.next_word import characters, split_text, to_ids, to_text
from fieldguide.transformers import training
from fieldguide.transformers.attention import simple_attention, simple_attention_fast
from fieldguide.transformers.gpt import GPT, GPTConfig, generate

HERE = Path(__file__).parent

STEPS = [0, 10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 800, 1200, 2000]
RECIPE = training.modern_recipe(STEPS[-1])
SIZES = GPTConfig(65, 128, width=128, heads=4, layers=4, bias=False)
PROMPT = "And "
SENTENCE = "And God said, Let there be light"
SAMPLE = 160  # characters

TINY = GPTConfig(65, 32, width=32, heads=2, layers=2, bias=False)
RATES = [10 ** (n / 2) for n in range(-7, 3)]  # 0.0003 to 10
SHORT = training.Recipe(steps=100, final=0.0)
PLAIN = training.Recipe(300, warmup=15)

LIVE = GPTConfig(65, context=64, width=64, heads=4, layers=3, bias=False)
TUNED_RATES = [0.0025, 0.005, 0.01, 0.02, 0.04, 0.08]
SEEDS = range(7)
BELTED = replace(LIVE, positions="rotary")


def texts():
    """The alphabet, the training ids and the held-out ids."""
    text = king_james()
    alphabet = characters(text)
    return alphabet, *(to_ids(part, alphabet) for part in split_text(text))


@torch.no_grad()
def attention(model, ids):
    """All weights of a trained GPT on ids (T,): (L, H, T, T), uint8 of 255."""
    found = []

    def watched(query, key, value, **options):
        output, weights = simple_attention(query, key, value, **options)
        found.append(weights)
        return output, weights

    twin = GPT(model.config, attend=training.qk_norm(watched))
    twin.load_state_dict(model.state_dict())
    twin(ids)
    return (255 * torch.stack(found)).round().to(torch.uint8)


def record_run() -> None:
    alphabet, ids, held_out = texts()
    prompt, sentence = (to_ids(text, alphabet) for text in (PROMPT, SENTENCE))
    start = torch.Generator().manual_seed(0)
    model = training.new_gpt(SIZES, RECIPE, start)
    record = {"steps": STEPS, "sentence": SENTENCE}
    record |= {"held_out": [], "samples": []}
    maps = []

    def watch(step, model):
        if step not in STEPS:
            return
        loss = training.held_out_loss(model, held_out)
        record["held_out"].append(round(loss, 4))
        draws = torch.Generator().manual_seed(1)
        sample = generate(model, prompt, SAMPLE, temperature=0.8, generator=draws)
        record["samples"].append(to_text(sample, alphabet))
        maps.append(attention(model, sentence))
        print(f"\nstep {step}: {loss:.4f} {record['samples'][-1]!r}", flush=True)

    watch(0, model)
    losses = training.train(model, ids, RECIPE, generator=start, watch=watch)
    record["first"] = [round(loss, 5) for loss in losses[:3].tolist()]
    weights = {name: w.half() for name, w in model.state_dict().items()}
    store(HERE / "weights.safetensors", weights)
    record["parts"] = list(part_losses(held_out))
    store(HERE / "run.safetensors", {"attention": torch.stack(maps)})
    store(HERE / "run.json", record)


def part_losses(held_out):
    """Of the stored weights on each of 32 parts, by windows that lie side by side."""
    model = training.trained_gpt.__wrapped__()
    for part in held_out.tensor_split(32):  # all at once would take gigabytes
        pieces = round(len(part) / model.config.context)
        yield round(training.held_out_loss(model, part, pieces), 4)


def remade() -> Iterator[tuple]:
    """The run's first losses, and what the stored weights give."""
    kept = read_json(HERE / "run.json")
    _, ids, held_out = texts()
    start = torch.Generator().manual_seed(0)
    model = training.new_gpt(SIZES, RECIPE, start)
    flat = replace(RECIPE, steps=3, final=1.0)  # as good as flat in 2,000 steps
    first = training.train(model, ids, flat, generator=start)
    yield kept["first"], first.tolist(), 1e-4
    yield kept["parts"][0], next(part_losses(held_out)), 0.001
    whole = training.held_out_loss(training.trained_gpt(), held_out)
    yield kept["held_out"][-1], whole, 0.002


def short_run(name, rate, ids):
    """The losses of SHORT with a recipe of that name at one rate, (20,) means."""
    recipe = replace(SHORT, rate=rate)
    if "warm-up" in name:
        recipe = replace(recipe, warmup=20)
    if "Muon" in name:
        modern = {"positions": "rotary", "normed": True}
        recipe = replace(recipe, matrix_rate=2 * rate, **modern)
    start = torch.Generator().manual_seed(0)
    model = training.new_gpt(TINY, recipe, start)
    made = None
    if "descent" in name:
        share = 0.9 if "momentum" in name else 0.0
        made = [torch.optim.SGD(model.parameters(), rate, momentum=share)]
    losses = training.train(model, ids, recipe, generator=start, made=made)
    means = losses.view(20, -1).mean(-1).tolist()
    return [round(loss, 3) for loss in means]


NAMES = ["gradient descent", "descent with momentum", "AdamW"]
NAMES += ["AdamW, warm-up", "Muon, normed and rotary"]


def recipes_at(rate):
    """The notebook's live recipes at one rate, changed part by part."""
    plain = replace(PLAIN, rate=rate)
    modern = replace(training.modern_recipe(300), rate=rate, matrix_rate=1.5 * rate)
    yield "AdamW", plain
    yield "AdamW, rotary", replace(plain, positions="rotary")
    yield "AdamW, all else modern", replace(modern, matrix_rate=0.0)
    yield "Muon", replace(modern, positions="learned", normed=False)
    yield "Muon, rotary", replace(modern, normed=False)
    yield "Muon, rotary, normed", modern


LIVE_RUNS = {
    "plain": PLAIN,
    "tuned": replace(PLAIN, rate=5e-3),
    "tuned, rotary": replace(PLAIN, rate=1e-2, positions="rotary"),
    "modern": training.modern_recipe(300),
}


def live_end(recipe, ids, held_out, seed=0):
    """The held-out loss that a live run ends at."""
    start = torch.Generator().manual_seed(seed)
    model = training.new_gpt(LIVE, recipe, start)
    training.train(model, ids, recipe, generator=start)
    return round(training.held_out_loss(model, held_out), 3)


def record_rates() -> None:
    _, ids, held_out = texts()
    record = {
        "rates": RATES,
        "tuned_rates": TUNED_RATES,
    }
    record["runs"] = {n: [short_run(n, r, ids) for r in RATES] for n in NAMES}
    record["tuned"] = {}
    for rate in TUNED_RATES:
        for name, recipe in recipes_at(rate):
            losses = record["tuned"].setdefault(name, [])
            losses.append(live_end(recipe, ids, held_out))
    record["seeds"] = {
        name: [live_end(recipe, ids, held_out, seed) for seed in SEEDS]
        for name, recipe in LIVE_RUNS.items()
    }
    store(HERE / "rates.json", record)


def belted_run(rate, warm, clip, cool, ids, held_out):
    """The held-out loss of the notebook's run of 400 steps, after each 25."""
    start = torch.Generator().manual_seed(0)
    model = GPT(BELTED, attend=simple_attention_fast, generator=start)
    options = {"betas": (0.9, 0.99), "weight_decay": 0.1, "fused": True}
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    losses = [training.held_out_loss(model, held_out)]
    for step in range(400):
        draw = torch.Generator().manual_seed(step)
        inputs, targets = training.get_batch(ids, 16, BELTED.context, draw)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        longest = 1.0 if clip else math.inf
        torch.nn.utils.clip_grad_norm_(model.parameters(), longest)
        up, down = (step + 1) / 50 if warm else 1, (400 - step) / 100 if cool else 1
        optimizer.param_groups[0]["lr"] = rate * min(up, 1, down)
        optimizer.step()
        if (step + 1) % 25 == 0:
            losses.append(training.held_out_loss(model, held_out))
    return [round(loss, 3) for loss in losses]


def record_belts() -> None:
    """By "rate warm-up clipping cooling-down", such as "0.01 101"."""
    _, ids, held_out = texts()
    record = {}
    for rate, *belts in product([0.001, 0.01], *[[0, 1]] * 3):
        name = "{} {}{}{}".format(rate, *belts)
        record[name] = belted_run(rate, *belts, ids, held_out)
    store(HERE / "belts.json", record)


def record_times(rounds=9, steps=30) -> None:
    """Processor time of a modern step, of a step of each rival's, taken in turn."""
    _, ids, _ = texts()
    ratios = {name: [] for name in ("plain", "tuned, rotary")}
    for number in range(rounds + 1):
        spent = {}
        for name in *ratios, "modern":
            recipe, start = LIVE_RUNS[name], torch.Generator().manual_seed(0)
            model = training.new_gpt(LIVE, recipe, start)
            before = time.process_time()
            training.train(model, ids, replace(recipe, steps=steps), generator=start)
            spent[name] = time.process_time() - before
        for name, found in ratios.items() if number else ():  # the first is cold
            found.append(spent["modern"] / spent[name])
    middle = {name: round(median(found), 2) for name, found in ratios.items()}
    record = {"of a step": middle}
    record["lowest"] = {name: round(min(found), 2) for name, found in ratios.items()}
    record["highest"] = {name: round(max(found), 2) for name, found in ratios.items()}
    store(HERE / "times.json", record)


if __name__ == "__main__":
    make_parts(record_rates, record_run, record_belts, record_times)
