"""Many people at once: continuous batching beside static, and beside an engine.

The scheduler of the page runs SmolLM2 on a real clock, which counts processor time.
Requests come at random, and the load is raised until the first token of the slowest in
twenty comes too late; the row says milliseconds a request at that load. The engine is
llama.cpp, by node-llama-cpp, from the same file: it computes with weights of four bits,
the book's model with the same values in 32. The limit is the time that reading the
book's matrices once a step takes.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from rivals.decode import matrices
from rivals.measure import Absent, Goal, Row, alternate, attempt, own

TITLE = "Serving SmolLM2: processor time"
HERE = Path(__file__).with_name("engine")
ENGINE, VERSION = "node-llama-cpp", "3.21.1"
SLOTS, ROOM = 8, 160
PEOPLE, TOKENS = 8, 32  # beside the engine: requests at once, tokens of each
STATIC_LOAD, COUNT, SEED = 0.25, 24, 1  # requests a second, how many, which draw
FACTORS = [1, 2, 2.5, 3, 4]  # of that load, which continuous batching tries
TAIL = 0.95
ROUNDS = 3


class Engine:
    """llama.cpp behind a port of this machine, for as long as the `with` lasts.

    RuntimeError says why it does not start; it ends with this process at the latest,
    because it reads our end of a pipe.
    """

    def __init__(self, slots: int, context: int, port: int = 0, command=None) -> None:
        if command is None:
            from fieldguide.data import smollm2

            if not (HERE / "node_modules" / ENGINE).exists():
                set_up = "python3 book/_tools/setup.py engine"
                raise RuntimeError(f"{ENGINE} is not installed: {set_up}")
            command = ["node", HERE / "serve.mjs", smollm2().path]
        self.command = [*map(str, command), str(port), str(slots), str(context)]

    def __enter__(self) -> Engine:
        pipe = subprocess.PIPE
        options = {"stdin": pipe, "stdout": pipe, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, text=True, **options)
        guard = threading.Timer(120, self.process.kill)  # it never says a word
        guard.start()
        said = self.process.stdout.readline().split()
        guard.cancel()
        if said[:1] != ["port"]:
            self.__exit__()
            taken = said[1:] == ["EADDRINUSE"]
            port = self.command[-3]
            why = f"port {port} is taken: name another, or 0 for any" if taken else said
            raise RuntimeError(f"the engine does not start: {why or 'it said nothing'}")
        self.port = int(said[1])
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def processor_s(self) -> float:
        """Processor time that the engine has spent so far."""
        url = f"http://127.0.0.1:{self.port}/usage"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)["cpu_s"]


def prompts(count: int = PEOPLE) -> list[list[int]]:
    """Sixteen ids for each of `count` people."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(100, 40_000, (count, 16), generator=draw).tolist()


def engine_ms(engine: Engine, people: int) -> float:
    """Processor time a token of `people` who ask at the same time."""
    from fieldguide.deployment.serving import ask_engine

    before, found, failed = engine.processor_s(), [], []

    def one(prompt: list[int]) -> None:
        try:
            found.append(
                len(list(ask_engine(prompt, TOKENS, engine.port, timeout=120)))
            )
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=[p]) for p in prompts(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed or found != [TOKENS] * people:
        raise RuntimeError(f"answers of {found} tokens, not {TOKENS}: {failed[:1]}")
    return 1e3 * (engine.processor_s() - before) / (people * TOKENS)


def our_ms(people: int) -> float:
    """The same with the book's batcher."""
    from fieldguide.deployment.serving import Batcher, RealClock, Request, serve
    from fieldguide.transformers.real_model import load_smollm2

    batcher = Batcher(load_smollm2(), people, 16 + TOKENS)
    asked = [Request(0.0, prompt, TOKENS) for prompt in prompts(people)]
    start = time.process_time()
    serve(asked, people, RealClock(batcher))
    return 1e3 * (time.process_time() - start) / (people * TOKENS)


def limit_ms(people: int) -> Callable[[], float]:
    """Reading every matrix once a step, a token of each of `people`."""
    from fieldguide.transformers.real_model import load_smollm2

    once = matrices(load_smollm2())

    def timed() -> float:
        start = time.process_time()
        once()
        return 1e3 * (time.process_time() - start) / 128 / people

    return timed


def file_ms() -> float:
    """Reading all bytes of the model's file from memory once."""
    from fieldguide.data import smollm2

    data = torch.from_numpy(np.fromfile(smollm2().path, dtype=np.uint8))
    words = data[: len(data) // 8 * 8].view(torch.int64)
    took = []
    for _ in range(ROUNDS):
        start = time.process_time()
        words.sum()
        took.append(1e3 * (time.process_time() - start))
    return min(took)


def tail_s(load: float, static: bool, seed: int = SEED) -> float:
    """The first token of the slowest in twenty, in seconds of the real clock."""
    from fieldguide.deployment.serving import (
        Batcher,
        RealClock,
        first_waits,
        percentile,
        poisson_requests,
        serve,
    )
    from fieldguide.transformers.real_model import load_smollm2

    draw = torch.Generator().manual_seed(seed)
    asked = poisson_requests(load, COUNT, draw)
    clock = RealClock(Batcher(load_smollm2(), SLOTS, ROOM))
    return percentile(first_waits(serve(asked, SLOTS, clock, static=static)), TAIL)


def continuous_load(limit_s: float) -> float:
    """The highest of the loads at which continuous batching keeps that tail."""
    best = 0.0
    for factor in FACTORS:
        if tail_s(factor * STATIC_LOAD, static=False) > limit_s:
            break
        best = factor * STATIC_LOAD
    if not best:
        raise RuntimeError(f"continuous batching does not keep {limit_s:.1f} s")
    return best


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    limit_s = tail_s(STATIC_LOAD, static=True)
    continuous, static = [1e3 / continuous_load(limit_s)], [1e3 / STATIC_LOAD]
    what, goal = "a request, at equal tails", Goal(0.5, "ratio")
    yield Row(what, "ms", continuous, "static batching", static, goal)
    for people in 1, PEOPLE:
        yield from beside_engine(people)


def beside_engine(people: int) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        engine = Engine(people, 16 + TOKENS)
        started = attempt(stack.enter_context, engine)
        theirs = started
        if not isinstance(started, Absent):
            theirs = lambda: engine_ms(engine, people)  # noqa: E731
        sides = {"ours": lambda: our_ms(people), "limit": limit_ms(people)}
        took = alternate({**sides, "engine": theirs}, rounds=ROUNDS)
    what = f"a token, {people} at once"
    mine = own(took["ours"])
    yield Row(what, "ms", mine, f"{ENGINE} {VERSION}", took["engine"])
    yield Row(what, "ms", mine, "reading the matrices", took["limit"])
