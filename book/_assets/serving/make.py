"""Measure what a step of SmolLM2 costs by the number of texts, beside llama.cpp.

.venv/bin/python book/_tools/assets.py serving (ten minutes of one core)

Writes beside this file steps.json: milliseconds of processor time a `packed_step`, by
the number of texts that get a token in it, the best of several rounds; engine.json:
milliseconds of processor time a token when one or
eight people ask at once, for the book's batcher and for llama.cpp (node-llama-cpp,
same GGUF file), what reading all weights once takes for each, and what the engine
answers to one question; it needs `python3 book/_tools/setup.py engine`. And
knee.json (two minutes): waits by load on the virtual clock, what a server finishes when
everybody is there from the start, and the highest load at which 99 of 100 first tokens
come within each of LIMITS_S; these are the same on every machine. A name, such as
`steps`, makes that part alone.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from assets import machine, make_parts, read_json
from rivals import serving as rival

from fieldguide.data import store
from fieldguide.deployment.serving import (
    VirtualClock,
    ask_engine,
    first_waits,
    packed_step,
    percentile,
    poisson_requests,
    serve,
)
from fieldguide.transformers.real_model import load_smollm2

HERE = Path(__file__).parent
TEXTS = [1, 2, 4, 8, 12, 16]
PLACE = 40  # where in its text each new token stands
ROUNDS = 24
CLOCK = 0.12, 0.009  # seconds of a step, and of each token in it: from steps.json
MINUTE_LOADS = [15, 30, 45, 60, 90]  # of the opening figure
SLOTS, LOADS = [4, 8, 16], [*range(5, 105, 5)]  # requests a minute
PEOPLE, MANY = 3000, 6000
LIMITS_S, LIMIT_SLOTS, SEEDS = [15, 20, 30], 8, range(3)
TRIED_LOADS = range(1, 100)  # the limits are kept at the first, not at the last
PROMPT, COUNT = "The best way to learn to program is", 8


@torch.inference_mode()
def step_ms(model, texts: int) -> float:
    """Processor time of one step in which so many texts get a token each."""
    c, slots = model.config, torch.arange(texts)
    kept = torch.zeros(2, c.layers, c.kv_heads, PLACE + 1, texts, c.head_width)
    start = time.process_time()
    x = packed_step(model, kept, slots, slots, torch.full_like(slots, PLACE))
    model.logits(x)
    return 1e3 * (time.process_time() - start)


def record_steps() -> None:
    model = load_smollm2()
    tries = [[step_ms(model, n) for n in TEXTS] for _ in range(ROUNDS)]
    best = [round(min(ms), 1) for ms in zip(*tries, strict=True)]
    facts = {"machine": machine(), "texts": TEXTS, "step_ms": best}
    store(HERE / "steps.json", facts)


def record_engine() -> None:
    rounds, found, answer = range(rival.ROUNDS), {}, {}
    reads = {"ours": rival.limit_ms(1), "llama.cpp": rival.file_ms}
    read = {name: [measure() for _ in rounds] for name, measure in reads.items()}
    for people in 1, rival.PEOPLE:
        took = {"ours": [], "llama.cpp": []}
        with rival.engine_port(people, 16 + rival.TOKENS) as port:
            answer["lines"] = rival.engine_lines(port, PROMPT, COUNT)
            answer["answer"] = list(ask_engine(PROMPT, COUNT, port))
            rival.engine_ms(port, people)  # warm
            for _ in rounds:
                took["ours"].append(rival.our_ms(people))
                took["llama.cpp"].append(rival.engine_ms(port, people))
        found[str(people)] = {name: round(min(ms), 1) for name, ms in took.items()}
    facts = {"machine": machine()}
    facts |= {"engine": f"{rival.ENGINE} {rival.VERSION}", "prompt": PROMPT}
    facts |= {"token_ms": found, "prompt_tokens": 16, "tokens": rival.TOKENS}
    facts |= {"read_ms": {name: round(min(ms), 1) for name, ms in read.items()}}
    store(HERE / "engine.json", facts | answer)


def turns(load, slots, static, seed=0, count=PEOPLE):
    """What becomes of `count` requests, so many a minute."""
    draw = torch.Generator().manual_seed(seed)
    asked = poisson_requests(load / 60, count, draw)
    return serve(asked, slots, VirtualClock(*CLOCK), static=static)


def waits(load, slots, static):
    """The median and the 99 % of the two waits, in seconds."""
    ended = turns(load, slots, static)
    whole = [turn.times[-1] - turn.request.arrives for turn in ended]
    kinds = first_waits(ended), whole
    return [round(percentile(k, share), 3) for k in kinds for share in (0.5, 0.99)]


def capacity(slots, static):
    """Requests a minute when all of them are there from the start."""
    return round(60 * PEOPLE / turns(6e7, slots, static)[-1].times[-1], 1)


def highest_load(limit_s, static, seed):
    """Requests a minute, in whole numbers, at which the limit is just kept."""

    def broken(load):
        ended = turns(load, LIMIT_SLOTS, static, seed, MANY)
        return percentile(first_waits(ended), 0.99) > limit_s

    return TRIED_LOADS[bisect_left(TRIED_LOADS, True, key=broken) - 1]


def record_knee() -> None:
    facts = {"clock": CLOCK, "loads": LOADS}
    facts |= {"limits_s": LIMITS_S, "slots": SLOTS, "people": PEOPLE, "many": MANY}
    for name, static in ("continuous", False), ("static", True):
        facts[name] = {str(n): [waits(x, n, static) for x in LOADS] for n in SLOTS}
        facts[f"{name} capacity"] = {str(n): capacity(n, static) for n in SLOTS}
        facts[f"{name} limits"] = {
            str(s): [highest_load(s, static, seed) for seed in SEEDS] for s in LIMITS_S
        }
    store(HERE / "knee.json", facts)


def slot_picture(turns, slots=8, width=61):
    """(slots, seconds): 0 idle, 1 writes, 2 idle but wanted, 3 reads.

    It says what a slot does in the middle of each second.
    """
    picture, wanted = np.zeros((slots, width), int), np.zeros(width, bool)
    middle = np.arange(width) + 0.5
    for turn in turns:
        first, last, own = turn.times[0], turn.times[-1], picture[turn.slot]
        own[(turn.begun <= middle) & (middle < first)] = 3
        own[(first <= middle) & (middle < last)] = 1
        wanted[math.ceil(turn.request.arrives) : int(turn.begun)] = True
    return np.where((picture == 0) & wanted, 2, picture)


def seen(load, static):
    """The first minute of a server: its slots, its queue and what it has written."""
    ended, seconds = turns(load, 8, static, count=150), range(61)
    times = [at for turn in ended for at in turn.times]
    waits = [(turn.request.arrives, turn.times[0]) for turn in ended]
    return {
        "slots": ["".join(map(str, row)) for row in slot_picture(ended).tolist()],
        "queue": [sum(came <= s < first for came, first in waits) for s in seconds],
        "tokens": [sum(at <= s for at in times) for s in seconds],
    }


def record_minute() -> None:
    facts = {
        name: {str(load): seen(load, static) for load in MINUTE_LOADS}
        for name, static in (("continuous", False), ("static", True))
    }
    store(HERE / "minute.json", facts)


def remade() -> Iterator[tuple]:
    """What a server finishes, and its waits at one load, on the virtual clock."""
    kept = read_json(HERE / "knee.json")
    for name, static in ("continuous", False), ("static", True):
        yield kept[f"{name} capacity"]["8"], capacity(8, static), 0.1
        again = waits(LOADS[4], 8, static)
        yield kept[name]["8"][4], again, 0.001


if __name__ == "__main__":
    make_parts(record_steps, record_engine, record_knee, record_minute)
