"""The cells of deployment/serving against other simulations, torch and real sockets."""

import contextlib
import functools
import http.client
import inspect
import itertools
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import cells
import pytest
import torch
from cells import generator, refusal, refuses, refuses_all
from rivals import serving as rival

from fieldguide.deployment import serving
from fieldguide.transformers.real_model import Llama, LlamaConfig, complete

SMALL = LlamaConfig(31, 24, 16, 2, 4, 2, 16, 1e-5, 1e4)


@functools.cache
def page():
    return cells.run_exercises("deployment/serving")


@functools.cache
def small_model():
    torch.manual_seed(0)
    model = Llama(SMALL).requires_grad_(False).eval()
    for matrix in (p for p in model.blocks.parameters() if p.dim() == 2):
        matrix.mul_(3)  # or it says its last token again and again
    return model


def request(count, arrives=0.0, prompt=(7,)):
    return serving.Request(arrives, list(prompt), count)


def clock(fixed_s=1.0, token_s=0.25):
    return serving.VirtualClock(fixed_s, token_s)


# The scheduler


def simulated(requests, slots, fixed_s, token_s, static):
    """{place in the list: (first, last)}: the same rules, written once more."""
    order = sorted(range(len(requests)), key=lambda i: requests[i].arrives)
    left, now, waits = {}, 0.0, {}
    while order or left:
        if not left:
            now = max(now, requests[order[0]].arrives)
        may = not (static and left)
        while may and order and len(left) < slots:
            if requests[order[0]].arrives > now:
                break
            left[order[0]] = requests[order[0]].count
            order.pop(0)
        fresh = [i for i, n in left.items() if n == requests[i].count]
        read = sum(len(requests[i].prompt) for i in fresh) + len(left) - len(fresh)
        now += fixed_s + token_s * read
        for i in list(left):
            first = waits.get(i, (now, now))[0]
            waits[i] = first, now
            left[i] -= 1
            if not left[i]:
                del left[i]
    return waits


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_it_serves_as_another_simulation_does(slots, static):
    asked = serving.poisson_requests(0.05, 60, generator(slots))
    turns = serving.serve(asked[::-1], slots, clock(0.7, 0.3), static=static)
    expected = simulated(asked, slots, 0.7, 0.3, static)
    assert len(turns) == len(asked)
    for turn in turns:
        first, last = expected[asked.index(turn.request)]
        assert math.isclose(turn.times[0], first) and math.isclose(turn.times[-1], last)
        assert len(turn.times) == len(turn.made) == turn.request.count
        assert 0 <= turn.slot < slots
    assert [t.times[-1] for t in turns] == sorted(t.times[-1] for t in turns)


def test_the_example_by_hand():
    three = [request(n) for n in (2, 5, 3)]
    ends = {}
    for static in False, True:
        turns = serving.serve(three, 2, clock(1.0, 1e-9), static=static)
        ends[static] = {t.request.count: round(t.times[-1], 3) for t in turns}
        assert {t.request.count: t.slot for t in turns} == {2: 0, 5: 1, 3: 0}
        assert all(t.made == [0] * t.request.count for t in turns)
    assert ends == {False: {2: 2, 5: 5, 3: 5}, True: {2: 2, 5: 5, 3: 8}}
    assert serving.serve(three, 2, clock(1.0, 1e-9))[-1].times[-1] < 6  # continuous


def test_a_slot_is_one_persons_at_a_time():
    asked = serving.poisson_requests(0.5, 40, generator())
    turns = serving.serve(asked, 3, clock(0.1, 0.01))
    for slot in range(3):
        spans = sorted((t.times[0], t.times[-1]) for t in turns if t.slot == slot)
        assert len(spans) > 5
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))


def test_waits_and_percentile():
    turn, twin = (
        serving.Turn(request(2, arrives=3.0), 0, [1, 2], [4.5, 8.0]) for _ in "ab"
    )
    assert turn != twin and len({turn, twin}) == 2
    assert turn.ended and turn.new == [2]
    assert serving.first_waits([turn]) == [1.5]
    assert serving.whole_waits([turn]) == [5.0]
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [serving.percentile(values, q) for q in (0.2, 0.5, 0.61, 1)] == [1, 3, 4, 5]
    assert serving.percentile(list(range(1, 101)), 0.99) == 99


def test_arrivals_are_a_poisson_process():
    asked = serving.poisson_requests(4.0, 20_000, generator())
    times = torch.tensor([r.arrives for r in asked], dtype=torch.double)
    gaps = times.diff()
    assert (gaps > 0).all() and abs(gaps.mean() * 4 - 1) < 0.03
    assert abs(gaps.std() / gaps.mean() - 1) < 0.03
    counts = torch.tensor([r.count for r in asked])
    assert counts.min() == 4 and counts.max() == 127
    assert abs((counts < 22.63).double().mean() - 0.5) < 0.02
    assert all(r.prompt == [0] * 16 for r in asked[:9])
    again = serving.poisson_requests(4.0, 20_000, generator())
    assert again == asked


def test_a_full_server_takes_what_the_page_says():
    """36 / slots steps of 120 ms a request, and 9 ms for each of 16 + 35 tokens."""
    many = [request(36, prompt=[7] * 16) for _ in range(800)]
    for slots, load in (4, 39.0), (8, 60.1), (16, 82.3):
        end = serving.serve(many, slots, clock(0.12, 0.009))[-1].times[-1]
        assert abs(60 * 800 / end / load - 1) < 0.02


# The model


def test_sharing_changes_no_token():
    draw = generator(5)
    sizes = [(5, 3), (1, 9), (8, 4), (2, 6), (11, 8), (3, 1), (6, 7)]
    asked = [
        request(n, 0.0, torch.randint(31, (p,), generator=draw).tolist())
        for p, n in sizes
    ]
    model = small_model()
    batcher = serving.Batcher(model, 3, 20)
    for static in False, True:
        real = serving.RealClock(batcher, itertools.count(0.5).__next__)
        turns = serving.serve(asked, 3, real, static=static)
        assert len(turns) == 7
        for turn in turns:
            alone = complete(model, turn.request.prompt, turn.request.count)
            assert turn.made == alone and {*map(type, turn.made)} == {int}
            assert 0 < turn.times[0] <= turn.times[-1] <= real.now
        assert len({*max((turn.made for turn in turns), key=len)}) > 1


def test_a_packed_row_is_two_texts():
    model, draw = small_model(), generator(3)
    one, two = (torch.randint(31, (n,), generator=draw) for n in (5, 3))
    kept = torch.full((2, 2, 2, 6, 2, 4), 9.0)  # what former people left
    slots = torch.tensor([1] * 5 + [0] * 3)
    places = torch.tensor([*range(5), *range(3)])
    x = serving.packed_step(model, kept, torch.cat([one, two]), slots, places)
    for found, ids in (x[:5], one), (x[5:], two):
        cells.close(found, model.residual(ids[None])[0], 1e-5)
    assert (kept[:, :, :, 5] == 9).all() and (kept[:, :, :, 3:, 0] == 9).all()
    assert x.is_inference()


def test_the_real_clock_jumps_over_nothing():
    times = iter([10.0, 11.0, 11.0, 11.5, 12.0, 12.0])
    real = serving.RealClock(None, read=lambda: next(times))
    assert real.now == 1.0
    real.wait(5.0)  # it is 1.0
    assert real.now == 5.5
    real.wait(2.0)
    assert real.now == 6.0


# What is refused


def test_refusals():
    ok = {"arrives": 0.0, "prompt": [1], "count": 1}
    refuses_all(serving.Request, ok, arrives=[-1.0], prompt=[[]], count=[0])
    good = {"load": 1.0, "count": 3, "generator": generator()}
    refuses_all(serving.poisson_requests, good, load=[0, -1.0, math.inf], count=[0])
    some = {"values": [1.0], "share": 0.5}
    refuses_all(serving.percentile, some, values=[[]], share=[0, 1.5])
    refuses_all(serving.VirtualClock, {"fixed_s": 1, "token_s": 1}, fixed_s=[0])
    served = {"requests": [request(1)], "slots": 1, "clock": clock()}
    refuses_all(serving.serve, served, requests=[[], [None]], slots=[0])


def test_what_does_not_fit_is_refused():
    model = small_model()
    refuses_all(serving.Batcher, {"model": model, "slots": 2, "room": 8})
    refuses("room", serving.Batcher, model, 2, 25, says="at most 24")
    batcher = serving.Batcher(model, 2, 8)
    real = serving.RealClock(batcher)
    assert len(serving.serve([request(3, prompt=[1] * 5)], 2, real)) == 1
    for prompt, count in (5, 4), (9, 1), (1, 8):
        turn = serving.Turn(request(count, prompt=[1] * prompt), 0)
        with refusal("request = 9, but it must be at most 8|request = 10"):
            batcher.step([turn])


@pytest.mark.parametrize("static", [False, True])
def test_only_the_request_that_does_not_fit_is_refused(static):
    """Before it gets a slot: the others are answered as if they were alone."""
    texts = ([1, 2], 6), ([3], 4), ([1] * 5, 4), ([4, 31, 5], 2), ([30] * 4, 4)
    texts += (([9] * 7, 2),)
    asked = [request(n, i / 9, prompt) for i, (prompt, n) in enumerate(texts)]
    real = serving.RealClock(serving.Batcher(small_model(), 2, 8))
    turns = serving.serve(asked[::-1], 2, real, static=static)
    assert len(turns) == len(asked)
    bad, good = turns[:3], turns[3:]
    assert [turn.request for turn in bad] == [asked[2], asked[3], asked[5]]
    assert [turn.refused for turn in bad] == [
        "prompt and answer take 9 tokens, but a slot has room for 8",
        "id 31, but the model knows 0 to 30",
        "prompt and answer take 9 tokens, but a slot has room for 8",
    ]
    assert all(t.slot is None and not t.made and not t.times for t in bad)
    for turn in good:
        alone = complete(small_model(), turn.request.prompt, turn.request.count)
        assert turn.made == alone and turn.refused == ""
    for waits in serving.first_waits, serving.whole_waits:
        assert waits(turns) == waits(good) and len(waits(turns)) == 3
    lone = serving.serve([asked[5]], 2, real)
    assert [t.request for t in lone] == [asked[5]] and lone[0].refused


def test_a_clock_without_a_model_refuses_nobody():
    long = request(500, prompt=[99_999] * 500)
    (turn,) = serving.serve([long], 1, clock())
    assert turn.refused == "" and len(turn.made) == 500
    waiting, refused = serving.admit([request(1, 2.0), long], clock())
    assert [r.arrives for r in waiting] == [0.0, 2.0] and refused == []


# The client, against servers that misbehave


@contextlib.contextmanager
def server(answer, chunks=()):
    """A port at which `answer(connection)` is called for one caller."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def run():
            with contextlib.suppress(OSError):
                link, _ = listener.accept()
                with link:
                    link.settimeout(20)
                    asked = link.recv(65536)
                    while b"max_tokens" not in asked:
                        asked += link.recv(65536)
                    seen.append(asked)
                    answer(link)

        seen, thread = [], threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1], seen
    thread.join(30)
    assert not thread.is_alive(), "a server is left running"


def says(*lines, status="200 OK", length=None):
    body = "".join(f"{line}\n" for line in lines)
    head = f"HTTP/1.1 {status}\r\n"
    head += f"Content-Length: {length}\r\n\r\n" if length else "\r\n"
    return lambda link: link.sendall((head + body).encode())


def line(text):
    return "data: " + json.dumps({"choices": [{"text": text}]})


def test_the_client_reads_a_stream():
    two = json.dumps({"choices": [{"text": "b: data: c"}, {"text": "other"}]})
    comments = ": a comment", ": and data: in one"
    lines = [line(" a"), "", *comments, f"data: {two}", "", "data: [DONE]"]
    with server(says(*lines)) as (port, seen):
        assert list(serving.ask_engine([5, 6], 2, port)) == [" a", "b: data: c"]
    head, _, body = seen[0].decode().partition("\r\n\r\n")
    assert head.startswith("POST /v1/completions HTTP/1.1")
    assert json.loads(body) == {"prompt": [5, 6], "max_tokens": 2, "stream": True}
    parameters = inspect.signature(serving.ask_engine).parameters
    assert parameters["timeout"].default == 30  # s


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (says(line("a"), line("b")), "broke off after 2 tokens"),
        (says(line("a"), length=500), "broke off after 1 tokens"),
        (says("too long", status="400 Bad Request"), "refused with 400: too long"),
        (says("data: {oops"), "no answer that makes sense: JSONDecodeError"),
        (says('data: {"choices": []}'), "no answer that makes sense: IndexError"),
        (says('data: {"error": 1}'), "no answer that makes sense: KeyError"),
        (lambda link: None, "no answer that makes sense: RemoteDisconnected"),
        (lambda link: link.sendall(b"hello\r\n\r\n"), "no answer that makes sense"),
        (lambda link: link.recv(1), "no word for 0.2 seconds"),
    ],
)
def test_the_client_says_what_went_wrong(answer, message):
    with server(answer) as (port, _), pytest.raises(serving.EngineError) as error:
        list(serving.ask_engine([5], 2, port, timeout=0.2))
    assert message in str(error.value)


def test_a_refusal_is_told_in_200_bytes_of_any_kind():
    body = b"HTTP/1.1 503 No\r\n\r\n" + b"\xff" * 300
    with (
        server(lambda link: link.sendall(body)) as (port, _),
        pytest.raises(serving.EngineError) as error,
    ):
        list(serving.ask_engine([5], 2, port))
    assert str(error.value) == "refused with 503: " + "\ufffd" * 200


def test_nobody_answers():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(serving.EngineError, match=f"nobody answers on port {port}"):
        list(serving.ask_engine([5], 2, port))


ENGINE = """
import http.server, sys, threading
try:
    s = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), None)
except OSError:
    print("error port", sys.argv[1], "is taken", flush=True); sys.exit(1)
print("port", s.server_port, flush=True)
sys.stdin.read()
"""


def test_an_engine_starts_and_ends():
    command = [sys.executable, "-c", ENGINE]
    with rival.Engine(2, 48, command=command) as engine:
        assert engine.process.poll() is None and engine.port > 0
        second = rival.Engine(2, 48, engine.port, command)
        why = f"the engine does not start: port {engine.port} is taken$"
        with pytest.raises(RuntimeError, match=why):
            second.__enter__()
        assert second.process.returncode == 1
    assert engine.process.returncode == 0
    silent = rival.Engine(1, 8, command=[sys.executable, "-c", "pass"])
    with pytest.raises(RuntimeError, match="it said nothing"):
        silent.__enter__()


def test_the_engine_says_why_it_does_not_start(tmp_path):
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    node = shutil.which("node", path=beside)  # the set-up brings one if there is none
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")

    def said(*arguments):
        command = [node, rival.HERE / "serve.mjs", *map(str, arguments)]
        end = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert end.returncode == 1 and end.stderr == "", end.stderr
        return end.stdout.strip()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        why = f"error port {port} is taken: name another, or 0 for any that is free"
        assert said(model, port, 1, 48) == why
    for arguments in (tmp_path / "no.gguf", 0, 1, 48), (tmp_path, 0, 1, 48), ():
        file = arguments[0] if arguments else ""
        why = f'error no model file at "{file}": name MODEL.gguf PORT SLOTS CONTEXT'
        assert said(*arguments) == why
    assert said(model, 99_999, 1, 48).startswith("error no port 99999: ")


# The bench


def test_the_bench_times_the_steps_that_its_clock_adds_up():
    seen = []

    class Watch:
        def step(self, turns):
            new = [turn for turn in turns if not turn.made]
            lengths = [len(t.request.prompt) + len(t.made) for t in turns]
            assert sorted(t.slot for t in turns) == list(range(len(turns)))
            assert not any(turn.ended for turn in turns)
            seen.append((len(new), len(turns) - len(new), max(lengths)))

    took = rival.step_times(Watch())
    pairs = {(n, m) for n in range(9) for m in range(9) if 0 < n + m < 9}
    assert set(took) == pairs and {*map(len, took.values())} == {3}
    lengths = {True: rival.LENGTHS, False: [16]}
    every = [(n, m, k) for n, m in pairs for k in lengths[m > 0]]
    assert sorted(seen) == sorted(every * rival.TRIES)
    assert rival.LENGTHS[-1] == 16 + 128  # the longest of poisson_requests

    clock = rival.TimedClock({(1, 1): [1.0, 3.0, 7.0], (0, 1): [8.0] * 3})
    made = serving.Turn(request(99, prompt=[0] * 16), 0, [0] * 96)
    fresh = serving.Turn(request(99, prompt=[0] * 16), 1)
    assert clock.step([fresh, made]) == [0, 0] and clock.now == 5.0  # 112 tokens
    assert clock.step([made]) == [0] and clock.now == 13.0
    clock.wait(14.0)
    clock.wait(5.0)
    assert clock.now == 14.0


def test_the_bench_finds_the_load_of_the_same_tail():
    """On the page's line its clock is the virtual one, and 1 % more is too much."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rival, "COUNT", 300)
        pairs = [(n, m) for n in range(9) for m in range(9) if 0 < n + m < 9]
        took = {(n, m): [0.12 + 0.009 * (16 * n + m)] * 3 for n, m in pairs}
        full = rival.full_load(took, 0)
        for static in False, True:
            asked = serving.poisson_requests(0.3, 300, generator(7))
            turns = serving.serve(asked, 8, clock(0.12, 0.009), static=static)
            right = serving.percentile(serving.first_waits(turns), 0.95)
            assert math.isclose(rival.tail_s(took, 0.3, 7, static), right)
        assert 0.45 < full < 0.7
        limit = rival.tail_s(took, full / 2, 0, static=True)
        load = rival.continuous_load(took, limit, full / 2, 0)
        assert load > full  # twice the half and more
        assert rival.tail_s(took, load, 0) <= limit < rival.tail_s(took, 1.02 * load, 0)
        with pytest.raises(RuntimeError, match="does not keep"):
            rival.continuous_load(took, 0.01, full / 2, 0)


# The exercises


def test_wrong_answers_are_told_their_cause():
    checks = page()
    wrong = {
        "static_steps": [
            (lambda counts, slots: sum(counts), "one after another"),
            (lambda counts, slots: max(counts), "only the longest"),
        ],
        "capacity": [
            (lambda s, f, t, p, n: 1 / (f * n / s + t * (p + n - 1)), "a second"),
            (lambda s, f, t, p, n: 60 / (f * n + t * (p + n - 1)), "share a step"),
            (lambda s, f, t, p, n: 60 * s / n / f, "token_s is missing"),
            (lambda s, f, t, p, n: 60 / (f * n / s + t * n), "prompt is missing"),
            (lambda s, f, t, p, n: 60 / (f * n / s + t * (p + n)), "never read"),
        ],
    }
    for name, answers in wrong.items():
        for answer, cause in answers:
            with pytest.raises(AssertionError, match=cause):
                checks[f"check_{name}"](answer)


@pytest.mark.parametrize(
    ("piece", "slip", "cause"),
    [
        ("here[most:]", "[]", "nobody is refused"),
        ("if r.arrives <= clock.now]", "]", "who haven't come yet"),
        ("here[most:]", "here[: max(0, len(here) - most)]", "came first are refused"),
        ("refused.append(request)", "pass", "just one of the two lists"),
        ("return done, refused", "return done", "two lists are wanted"),
        ("here[most:]", "here[most + 1 :]", "others are refused than should be"),
    ],
)
def test_a_wrong_bouncer_is_told_its_cause(piece, slip, cause):
    (solution,) = (s for s in vars(page())["solutions"] if "def bounded(" in s)
    assert solution.count(piece) == 1
    names = {**vars(serving), "Turn": page()["Turn"]}
    exec(solution.replace(piece, slip), names)
    with pytest.raises(AssertionError, match=cause):
        page()["check_bounded"](names["bounded"])


def test_the_bouncer_who_comes_too_early():
    """He refuses before the free slots are filled: as the check's own slip does."""
    solution = next(s for s in vars(page())["solutions"] if "def bounded(" in s)
    lines = solution.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if "here = [" in line)
    block, rest = lines[at : at + 4], lines[:at] + lines[at + 4 :]
    first = next(i for i, line in enumerate(rest) if "free = sorted" in line)
    names = {**vars(serving), "Turn": page()["Turn"]}
    exec("".join(rest[:first] + block + rest[first:]), names)
    with pytest.raises(AssertionError, match="fill the free slots first"):
        page()["check_bounded"](names["bounded"])


def test_one_slot_of_the_page_waits_as_theory_says():
    """M/M/1 at a utilization of 0.6: 1.5 answers in the queue."""
    wait = page()["average_wait"](0.6, 100_000, generator(3))
    assert abs(wait - 1.5) < 0.15


def test_the_engine_stream_is_the_models_text():
    kept = cells.record("serving", "engine.json")
    pieces = list(serving.streamed(x.encode() for x in kept["lines"]))
    assert len(pieces) == cells.script("serving").COUNT
    assert pieces == kept["answer"]
    with pytest.raises(serving.EngineError, match="after 3 tokens"):
        list(serving.streamed(x.encode() for x in kept["lines"][:6]))
    assert issubclass(http.client.IncompleteRead, http.client.HTTPException)
