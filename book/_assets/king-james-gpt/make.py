"""Train the GPT that `trained_gpt` loads, record the run, and try learning rates.

.venv/bin/python book/_tools/assets.py king-james-gpt (a quarter of an hour of one core)

Writes beside this file weights.safetensors, the trained weights in 16 bits; run.json
and run.safetensors, the run at each of STEPS: losses, a sample, attention; rates.json,
the losses of short runs of a tiny model, and how the notebook's live runs end at other
rates and from other seeds; belts.json, the losses of one run at two rates, with and
without warm-up, clipping and cooling down; times.json, how much longer a modern step
takes; and front.json, a text that the trained model wrote for the front page.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

import torch
from assets import king_james_ids, make_parts, read_json
from torch import nn

from fieldguide.data import king_james, store
from fieldguide.introduction.next_word import characters, to_ids, to_text
from fieldguide.transformers import training
from fieldguide.transformers.attention import simple_attention, simple_attention_fast
from fieldguide.transformers.gpt import GPT, GPTConfig, generate

HERE = Path(__file__).parent

FRONT_SEED = 8
STEPS = [0, 10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 800, 1200, 2000]
RECIPE = training.modern_recipe(STEPS[-1])
SIZES = GPTConfig(65, 128, width=128, heads=4, layers=4, bias=False)
SENTENCE = "And God said, Let there be light"

TINY = GPTConfig(65, 32, width=32, heads=2, layers=2, bias=False)
RATES = [10 ** (n / 2) for n in range(-7, 3)]  # 0.0003 to 10

LIVE = GPTConfig(65, context=64, width=64, heads=4, layers=3, bias=False)
PLAIN, MODERN = training.Recipe(300, warmup=15), training.modern_recipe(300)
LIVE_RUNS = {
    "plain": PLAIN,
    "tuned": replace(PLAIN, rate=5e-3),
    "tuned, rotary": replace(PLAIN, rate=1e-2, positions="rotary"),
    "modern": MODERN,
}


def trained(sizes, recipe, ids, seed=0, **options):
    """A GPT trained by a recipe from a seed, and the losses of its steps."""
    start = torch.Generator().manual_seed(seed)
    model = training.new_gpt(sizes, recipe, start)
    return model, training.train(model, ids, recipe, generator=start, **options)


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
    alphabet, (ids, held_out) = characters(king_james()), king_james_ids()
    prompt, sentence = (to_ids(text, alphabet) for text in ("And ", SENTENCE))
    record = {"steps": STEPS, "sentence": SENTENCE, "held_out": [], "samples": []}
    maps = []

    def watch(step, model):
        if step not in STEPS:
            return
        loss, draws = training.held_out_loss(model, held_out), torch.Generator()
        record["held_out"].append(round(loss, 4))
        options = {"temperature": 0.8, "generator": draws.manual_seed(1)}
        sample = generate(model, prompt, 160, **options)
        record["samples"].append(to_text(sample, alphabet))
        maps.append(attention(model, sentence))

    watch(0, training.new_gpt(SIZES, RECIPE, torch.Generator().manual_seed(0)))
    model, losses = trained(SIZES, RECIPE, ids, watch=watch)
    record["first"] = [round(loss, 5) for loss in losses[:3].tolist()]
    weights = {name: w.half() for name, w in model.state_dict().items()}
    store(HERE / "weights.safetensors", weights)
    store(HERE / "run.safetensors", {"attention": torch.stack(maps)})
    store(HERE / "run.json", record)


def remade() -> Iterator[tuple]:
    """The run's first losses, and what the stored weights give."""
    kept, (ids, held_out) = read_json(HERE / "run.json"), king_james_ids()
    flat = replace(RECIPE, steps=3, final=1.0)  # as good as flat in 2,000 steps
    yield kept["first"], trained(SIZES, flat, ids)[1].tolist(), 1e-4
    whole = training.held_out_loss(training.trained_gpt(), held_out)
    yield kept["held_out"][-1], whole, 0.002
    front, again = read_json(HERE / "front.json"), written(count=2)
    for old, new in zip(front["steps"], again["steps"], strict=False):
        yield *([share for _, share in step["options"]] for step in (old, new)), 0.001


def short_run(momentum, rate, ids):
    """The losses of 100 steps at a rate, (20,) means; without momentum, by AdamW."""
    recipe, made = training.Recipe(100, rate=rate, final=0.0), None
    start = torch.Generator().manual_seed(0)
    model = training.new_gpt(TINY, recipe, start)
    if momentum is not None:
        made = [torch.optim.SGD(model.parameters(), rate, momentum=momentum)]
    losses = training.train(model, ids, recipe, generator=start, made=made)
    return [round(loss, 3) for loss in losses.view(20, -1).mean(-1).tolist()]


def recipes_at(rate):
    """The notebook's live recipes at one rate, changed part by part."""
    plain = replace(PLAIN, rate=rate)
    modern = replace(MODERN, rate=rate, matrix_rate=1.5 * rate)
    yield "AdamW", plain
    yield "AdamW, rotary", replace(plain, positions="rotary")
    yield "AdamW, all else modern", replace(modern, matrix_rate=0.0)
    yield "Muon", replace(modern, positions="learned", normed=False)
    yield "Muon, rotary", replace(modern, normed=False)
    yield "Muon, rotary, normed", modern


def record_rates() -> None:
    ids, held_out = king_james_ids()
    record = {"rates": RATES, "runs": {}, "tuned": {}, "seeds": {}}
    momenta = {"gradient descent": 0.0, "descent with momentum": 0.9, "AdamW": None}
    for name, momentum in momenta.items():
        record["runs"][name] = [short_run(momentum, rate, ids) for rate in RATES]

    def live_end(recipe, seed=0):
        model, _ = trained(LIVE, recipe, ids, seed)
        return round(training.held_out_loss(model, held_out), 3)

    for rate in 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08:
        for name, recipe in recipes_at(rate):
            record["tuned"].setdefault(name, []).append(live_end(recipe))
    for name, recipe in LIVE_RUNS.items():
        record["seeds"][name] = [live_end(recipe, seed) for seed in range(7)]
    store(HERE / "rates.json", record)


def belted_run(rate, warm, clip, cool, ids, held_out):
    """The held-out loss of the notebook's run of 400 steps, after each 25."""
    start, sizes = torch.Generator().manual_seed(0), replace(LIVE, positions="rotary")
    model = GPT(sizes, attend=simple_attention_fast, generator=start)
    options = {"betas": (0.9, 0.99), "weight_decay": 0.1, "fused": True}
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    losses = [training.held_out_loss(model, held_out)]
    for step in range(400):
        draw = torch.Generator().manual_seed(step)
        batch = training.get_batch(ids, 16, sizes.context, draw)
        optimizer.zero_grad()
        training.loss_on(model, *batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0 if clip else math.inf)
        up, down = (step + 1) / 50 if warm else 1, (400 - step) / 100 if cool else 1
        optimizer.param_groups[0]["lr"] = rate * min(up, 1, down)
        optimizer.step()
        if (step + 1) % 25 == 0:
            losses.append(training.held_out_loss(model, held_out))
    return [round(loss, 3) for loss in losses]


def record_belts() -> None:
    """By "rate warm-up clipping cooling-down", such as "0.01 101"."""
    texts, record = king_james_ids(), {}
    for rate, *belts in product([0.001, 0.01], *[[0, 1]] * 3):
        name = "{} {}{}{}".format(rate, *belts)
        record[name] = belted_run(rate, *belts, *texts)
    store(HERE / "belts.json", record)


def record_times() -> None:
    """Processor time of 30 modern steps, of as many of each rival's, in turn."""
    ids, _ = king_james_ids()
    ratios = {"plain": [], "tuned, rotary": []}
    for number in range(10):
        spent = {}
        for name in *ratios, "modern":
            before = time.process_time()
            trained(LIVE, replace(LIVE_RUNS[name], steps=30), ids)
            spent[name] = time.process_time() - before
        for name, found in ratios.items() if number else ():  # the first is cold
            found.append(spent["modern"] / spent[name])
    middle = {name: round(median(found), 2) for name, found in ratios.items()}
    store(HERE / "times.json", {"of a step": middle})


def written(start="And the robot said", count=87, temperature=0.7, shown=6):
    """What the trained model goes on with, drawn letter by letter.

    For each letter the likeliest ones with their probabilities, and the draw: a number
    from 0 to 1 that falls on one of all probabilities laid end to end, largest first.
    """
    model, alphabet = training.trained_gpt(), characters(king_james())
    draw = torch.Generator().manual_seed(FRONT_SEED)
    text, steps = start, []
    for _ in range(count):
        context = to_ids(text, alphabet)[-model.config.context :]
        p = (model(context)[-1] / temperature).softmax(-1)  # (V,)
        p, ids = p.sort(descending=True)
        place = torch.rand((), generator=draw)
        picked = min(int((p.cumsum(0) < place).sum()), len(p) - 1)
        top = zip(to_text(ids[:shown], alphabet), p[:shown].tolist(), strict=True)
        options = [[letter, round(share, 4)] for letter, share in top]
        text += to_text(ids[picked : picked + 1], alphabet)
        steps.append({"options": options, "place": round(place.item(), 4)})
    return {"text": text, "begun": len(start), "steps": steps}


def record_front() -> None:
    store(HERE / "front.json", written())


if __name__ == "__main__":
    make_parts(record_rates, record_run, record_belts, record_times, record_front)
