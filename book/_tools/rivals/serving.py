"""Many people at once: continuous batching beside static, and beside an engine.

The steps of the page's batcher are timed on the processor's clock: with so many
prompts, so many texts that go on, and texts so long. The page's scheduler then serves
3,000 people who come at random, on a clock that adds these times up, because computing
all that they ask for would take hours. Static batching gets 50 or 75 % of the load that
it can take at most. Nineteen of twenty people then have their first token within some
time, and the row says milliseconds a request at the highest load at which continuous
batching keeps to that time. A round has its own times and its own people.

The engine is llama.cpp, by node-llama-cpp, from the same file: it computes with weights
of four bits, the book's model with the same values in 32. The limit of each is the time
that reading its weights once a step takes: the book's matrices, or the engine's file.
In the rows of that file, the engine's time stands where the book's does.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from fieldguide.data import smollm2
from fieldguide.deployment.serving import (
    Batcher,
    RealClock,
    Request,
    Turn,
    VirtualClock,
    ask_engine,
    first_waits,
    percentile,
    poisson_requests,
    serve,
)
from fieldguide.transformers.real_model import load_smollm2
from rivals.decode import TOKENS as STEPS
from rivals.decode import matrices
from rivals.measure import (
    Absent,
    Goal,
    Row,
    alternate,
    attempt,
    beside,
    each,
    processor_ms,
)

TITLE = "Serving SmolLM2: processor time"
HERE = Path(__file__).with_name("engine")
ENGINE, VERSION = "node-llama-cpp", "3.21.1"
SLOTS, ROOM = 8, 160
PEOPLE, TOKENS = 8, 32  # beside the engine: requests at once, tokens of each
SHARES = [0.5, 0.75]  # of the most that static batching can take
COUNT, TAIL = 3000, 0.95  # people, and how many of them wait no longer
PROMPT = 16  # tokens of theirs
LENGTHS = [PROMPT + 1, 80, 144]  # of the longest text in a timed step
TRIES = 2
ROUNDS = 3


@contextlib.contextmanager
def engine_port(slots: int, context: int) -> Iterator[int]:
    """The port of llama.cpp on this machine, for as long as the `with` lasts.

    RuntimeError says why it does not start; it ends with this process at the latest,
    because it reads our end of a pipe.
    """
    if not (HERE / "node_modules" / ENGINE).exists():
        set_up = "python3 book/_tools/setup.py engine"
        raise RuntimeError(f"{ENGINE} is not installed: {set_up}")
    command = ["node", HERE / "serve.mjs", smollm2().path, 0, slots, context]
    pipe = subprocess.PIPE
    options = {"stdin": pipe, "stdout": pipe, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*map(str, command)], text=True, **options) as process:
        guard = threading.Timer(120, process.kill)  # it never says a word
        guard.start()
        said = process.stdout.readline().split()
        guard.cancel()
        try:
            if said[:1] != ["port"]:
                why = " ".join(said).removeprefix("error ") or "it said nothing"
                raise RuntimeError(f"the engine does not start: {why}")
            yield int(said[1])
        finally:
            process.kill()


def engine_lines(port: int, prompt: str | list[int], count: int) -> list[str]:
    """What the engine sends in answer to a prompt, line by line."""
    question = {"prompt": prompt, "max_tokens": count, "stream": True}
    data, url = json.dumps(question).encode(), f"http://127.0.0.1:{port}/v1/completions"
    with urllib.request.urlopen(url, data, timeout=300) as answer:
        return answer.read().decode().splitlines()


def engine_s(port: int) -> float:
    """Processor time that the engine has spent so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/usage", timeout=60) as answer:
        return json.load(answer)["cpu_s"]


def prompts(count: int) -> list[list[int]]:
    """Sixteen ids for each of `count` people."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(100, 40_000, (count, 16), generator=draw).tolist()


def engine_ms(port: int, people: int) -> float:
    """Processor time a token of `people` who ask at the same time."""

    def one(prompt: list[int]) -> int:
        return len(list(ask_engine(prompt, TOKENS, port, timeout=120)))

    before = engine_s(port)
    with ThreadPoolExecutor(people) as threads:
        found = list(threads.map(one, prompts(people)))
    if found != [TOKENS] * people:
        raise RuntimeError(f"answers of {found} tokens, not {TOKENS}")
    return 1e3 * (engine_s(port) - before) / (people * TOKENS)


def our_ms(people: int) -> float:
    """The same with the book's batcher."""
    batcher = Batcher(load_smollm2(), people, 16 + TOKENS)
    asked = [Request(0.0, prompt, TOKENS) for prompt in prompts(people)]
    start = time.process_time()
    serve(asked, people, RealClock(batcher))
    return 1e3 * (time.process_time() - start) / (people * TOKENS)


def limit_ms(people: int) -> Callable[[], float]:
    """Reading every matrix once a step, a token of each of `people`."""
    timed = processor_ms(matrices(load_smollm2()), 1)
    return lambda: timed() / STEPS / people


def file_ms() -> float:
    """Reading all bytes of the model's file from memory once."""
    data = torch.from_numpy(np.fromfile(smollm2().path, dtype=np.uint8))
    words = data[: len(data) // 8 * 8].view(torch.int64)
    timed = processor_ms(words.sum, 1)
    return min(timed() for _ in range(ROUNDS))


def step_times(batcher) -> dict[tuple[int, int], list[float]]:
    """Seconds of a step for (prompts, texts that go on), by the longest of LENGTHS."""
    request = Request(0.0, [0] * PROMPT, LENGTHS[-1])

    def step_s(new: int, old: int, length: int) -> float:
        made = [[0] * (length - PROMPT)] * old + [[]] * new
        turns = [Turn(request, slot, each) for slot, each in enumerate(made)]
        start = time.process_time()
        batcher.step(turns)
        return time.process_time() - start

    took = {}
    for new in range(SLOTS + 1):
        for old in range(not new, SLOTS + 1 - new):
            lengths = LENGTHS if old else [PROMPT]
            best = [min(step_s(new, old, n) for _ in range(TRIES)) for n in lengths]
            took[new, old] = best if old else best * len(LENGTHS)
    return took


class TimedClock(VirtualClock):
    """A clock for the page's scheduler: each step takes what such a step took."""

    def __init__(self, took: dict[tuple[int, int], list[float]]) -> None:
        self.took, self.now = took, 0.0

    def step(self, turns: list) -> list[int]:
        new = sum(not turn.made for turn in turns)
        longest = max(len(turn.request.prompt) + len(turn.made) for turn in turns)
        took = self.took[new, len(turns) - new]
        self.now += float(np.interp(longest, LENGTHS, took))
        return [0] * len(turns)


def served(took, load: float, seed: int, static: bool) -> list:
    """What becomes of COUNT people, `load` a second."""
    draw = torch.Generator().manual_seed(seed)
    asked = poisson_requests(load, COUNT, draw)
    return serve(asked, SLOTS, TimedClock(took), static=static)


def tail_s(took, load: float, seed: int, static: bool = False) -> float:
    """Seconds to the first token that TAIL of the people do not exceed."""
    return percentile(first_waits(served(took, load, seed, static)), TAIL)


def continuous_load(took, limit_s: float, load: float, seed: int) -> float:
    """The highest load, to 1 %, at which continuous batching keeps that tail.

    `load` is one at which static batching does, and so must continuous batching.
    """
    if tail_s(took, load, seed) > limit_s:
        raise RuntimeError(f"continuous batching does not keep {limit_s:.1f} s")
    low, high = load, 2 * load
    while tail_s(took, high, seed) <= limit_s:
        low, high = high, 2 * high
    while high > 1.01 * low:
        middle = (low + high) / 2
        kept = tail_s(took, middle, seed) <= limit_s
        low, high = (middle, high) if kept else (low, middle)
    return low


def beside_static() -> Iterator[Row]:
    batcher = Batcher(load_smollm2(), SLOTS, ROOM)
    rounds = [step_times(batcher) for _ in range(ROUNDS)]
    for share in SHARES:
        ours, theirs = [], []
        for seed, took in enumerate(rounds):
            # static batching's most: all come at once
            load = share * COUNT / served(took, 1e6, seed, True)[-1].times[-1]
            limit_s = tail_s(took, load, seed, static=True)
            theirs.append(1e3 / load)
            ours.append(1e3 / continuous_load(took, limit_s, load, seed))
        what = f"a request, equal tails, {share:.0%}"
        yield Row(what, "ms", ours, "static batching", theirs, Goal(0.5))


def rows() -> Iterator[Row]:
    yield from beside_static()
    for people in 1, PEOPLE:
        yield from beside_engine(people)


def beside_engine(people: int) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        start = engine_port(people, 16 + TOKENS)
        port = {"engine": attempt(stack.enter_context, start)}
        sides = each(lambda it: lambda: engine_ms(it, people), port)
        sides |= {"ours": lambda: our_ms(people), "limit": limit_ms(people)}
        sides |= {"file": lambda: file_ms() / people}
        took = alternate(sides, rounds=ROUNDS)
    what = f"a token, {people} at once"
    yield beside(took, what, "ours", f"{ENGINE} {VERSION}", "engine")
    yield beside(took, what, "ours", "reading the matrices", "limit")
    if not isinstance(took["engine"], Absent):
        its = f"llama.cpp's token, {people} at once"
        yield beside(took, its, "engine", "reading its file", "file")
