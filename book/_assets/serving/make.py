"""Measure what a step of SmolLM2 costs by the number of texts, beside llama.cpp.

.venv/bin/python book/_tools/assets.py serving (twelve minutes of one core)

Writes beside this file steps.json: milliseconds of processor time a `packed_step`, by
the number of texts that get a token in it, the best of several rounds; engine.json:
milliseconds of processor time a token when one or eight people ask at once, for the
book's batcher, for llama.cpp (node-llama-cpp, same GGUF file) and for reading every
matrix once a step, with the lines that the engine streams to one question; it needs
`python3 book/_tools/setup.py engine`. And knee.json: waits by load on the virtual
clock, and the highest load at which 99 of 100 first tokens come within LIMIT_S; these
are the same on every machine. A name, such as `steps`, makes that part alone.
"""

import http.client
import json
import platform
import re
import sys
import time
from pathlib import Path

import torch
from digest import digest_of, exported
from rivals import serving as rival

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.deployment.serving import (
    VirtualClock,
    first_waits,
    packed_step,
    percentile,
    poisson_requests,
    serve,
    whole_waits,
)
from fieldguide.transformers.real_model import load_smollm2

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "deployment" / "serving.ipynb"
TEXTS = [1, 2, 4, 8, 12, 16]
PLACE = 40  # where in its text each new token stands
ROUNDS = 12
CLOCK = 0.1, 0.01  # seconds of a step, and of each token in it: rounded from steps.json
SLOTS, LOADS = [1, 4, 8, 16], [*range(5, 85, 5)]  # requests a minute
PEOPLE, MANY = 800, 1500
LIMIT_S, LIMIT_SLOTS, SEEDS = 15, 8, range(3)
PROMPT, COUNT = "The best way to learn to program is", 8


def digests() -> dict[str, str]:
    """Of each record: the digest of the definitions that make it today."""
    code = exported(NOTEBOOK)
    steps = digest_of(code, ["packed_step"])
    engine = digest_of(code, ["Batcher", "serve", "RealClock"])
    names = ["VirtualClock", "first_waits", "whole_waits", "percentile"]
    knee = digest_of(code, [*names, "poisson_requests", "serve"])
    return {"steps.json": steps, "engine.json": engine, "knee.json": knee}


def machine() -> str:
    """What this processor calls itself, and the instructions torch uses on it."""
    facts = Path("/proc/cpuinfo")
    named = facts.exists() and re.search("model name.*: (.*)", facts.read_text())
    name = named[1] if named else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


@torch.inference_mode()
def step_ms(model, texts: int) -> float:
    """Processor time of one step in which each of so many texts gets a token."""
    c = model.config
    kept = torch.zeros(2, c.layers, c.kv_heads, PLACE + 1, texts, c.head_width)
    places = torch.full((texts,), PLACE)
    start = time.process_time()
    x = packed_step(model, kept, torch.arange(texts), torch.arange(texts), places)
    model.logits(x)
    return 1e3 * (time.process_time() - start)


def record_steps() -> None:
    model = load_smollm2()
    tries = [{n: step_ms(model, n) for n in TEXTS} for _ in range(ROUNDS)]
    best = [round(min(t[n] for t in tries), 1) for n in TEXTS]
    print(best, flush=True)
    facts = {"digest": digests()["steps.json"], "machine": machine()}
    store(HERE / "steps.json", facts | {"texts": TEXTS, "step_ms": best})


def streamed_lines(port: int) -> list[str]:
    """What the engine sends in answer to PROMPT, line by line."""
    ids = smollm2_tokenizer().encode(PROMPT)
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    question = {"prompt": ids, "max_tokens": COUNT, "stream": True}
    link.request("POST", "/v1/completions", json.dumps(question))
    text = link.getresponse().read().decode()
    link.close()
    return text.splitlines()


def record_engine() -> None:
    rounds, found, lines = range(rival.ROUNDS), {}, []
    for people in 1, rival.PEOPLE:
        took = {"ours": [], "limit": [], "llama.cpp": []}
        with rival.Engine(people, 16 + rival.TOKENS) as engine:
            lines = streamed_lines(engine.port)
            limit = rival.limit_ms(people)
            rival.engine_ms(engine, people)  # warm
            for _ in rounds:
                took["ours"].append(rival.our_ms(people))
                took["llama.cpp"].append(rival.engine_ms(engine, people))
                took["limit"].append(limit())
        found[str(people)] = {name: round(min(ms), 1) for name, ms in took.items()}
        print(people, found[str(people)], flush=True)
    facts = {"digest": digests()["engine.json"], "machine": machine()}
    facts |= {"engine": f"{rival.ENGINE} {rival.VERSION}", "prompt": PROMPT}
    store(HERE / "engine.json", facts | {"token_ms": found, "lines": lines})


def turns(load, slots, static, seed=0, count=PEOPLE):
    """What becomes of `count` requests, so many a minute."""
    draw = torch.Generator().manual_seed(seed)
    asked = poisson_requests(load / 60, count, draw)
    return serve(asked, slots, VirtualClock(*CLOCK), static=static)


def waits(load, slots, static):
    """The median and the 99 % of the two waits, in seconds."""
    ended = turns(load, slots, static)
    kinds = first_waits(ended), whole_waits(ended)
    return [round(percentile(k, share), 3) for k in kinds for share in (0.5, 0.99)]


def highest_load(static, seed):
    """Requests a minute, in whole numbers, from 1 on as long as the limit holds."""
    load = 0
    while True:
        ended = turns(load + 1, LIMIT_SLOTS, static, seed, MANY)
        if percentile(first_waits(ended), 0.99) > LIMIT_S:
            return load
        load += 1


def record_knee() -> None:
    facts = {"digest": digests()["knee.json"], "clock": CLOCK, "loads": LOADS}
    facts |= {"limit_s": LIMIT_S, "slots": SLOTS, "people": PEOPLE, "many": MANY}
    for name, static in ("continuous", False), ("static", True):
        facts[name] = {str(n): [waits(x, n, static) for x in LOADS] for n in SLOTS}
        print(name, flush=True)
        facts[f"{name} limit"] = [highest_load(static, seed) for seed in SEEDS]
        print(facts[f"{name} limit"], flush=True)
    store(HERE / "knee.json", facts)


if __name__ == "__main__":
    torch.set_num_threads(1)  # what is compared has one thread, too
    parts = {"steps": record_steps, "engine": record_engine, "knee": record_knee}
    for part in sys.argv[1:] or parts:
        parts[part]()
