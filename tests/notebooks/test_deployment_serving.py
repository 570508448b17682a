"""The cells of deployment/serving against another simulation and a real socket."""

import contextlib
import itertools
import json
import math
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from types import SimpleNamespace

import cells
import pytest
import torch
from cells import generator

from fieldguide.deployment import serving
from fieldguide.transformers.real_model import LlamaConfig, complete

SMALL = LlamaConfig(31, 24, 16, 2, 4, 2, 16, 1e-5, 1e4)


def small_model():
    return cells.llama(SMALL, 3)  # or it says its last token again and again


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
    clock = serving.VirtualClock(0.7, 0.3)
    turns = serving.serve(asked[::-1], slots, clock, static=static)
    expected = simulated(asked, slots, 0.7, 0.3, static)
    assert len(turns) == len(asked)
    for turn in turns:
        first, last = expected[asked.index(turn.request)]
        assert math.isclose(turn.times[0], first) and math.isclose(turn.times[-1], last)
        assert len(turn.times) == len(turn.made) == turn.request.count
        assert 0 <= turn.slot < slots
    assert [t.times[-1] for t in turns] == sorted(t.times[-1] for t in turns)


def test_waits_and_percentile():
    turn = serving.Turn(serving.Request(3.0, [7], 2), 0, [1, 2], [4.5, 8.0])
    assert turn.ended and turn.new == [2]
    assert serving.first_waits([turn]) == [1.5]
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


# The model


def test_sharing_changes_no_token():
    draw = generator(5)
    sizes = [(5, 3), (1, 9), (8, 4), (2, 6), (11, 8), (3, 1), (6, 7)]
    asked = [
        serving.Request(0.0, torch.randint(31, (p,), generator=draw).tolist(), n)
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
            assert turn.made == alone
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


def test_the_real_clock_jumps_over_nothing():
    times = iter([10.0, 11.0, 11.0, 11.5, 12.0, 12.0])
    real = serving.RealClock(SimpleNamespace(step=None), read=lambda: next(times))
    assert real.now == 1.0
    real.wait(5.0)  # it is 1.0
    assert real.now == 5.5
    real.wait(2.0)
    assert real.now == 6.0


# The client


@contextlib.contextmanager
def server(*lines, status=200):
    """A port at which one caller gets these lines, and what it has asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            question = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, json.loads(question)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write("".join(f"{line}\n" for line in lines).encode())

    with TCPServer(("127.0.0.1", 0), Handler) as one:
        thread = threading.Thread(target=one.handle_request, daemon=True)
        thread.start()
        yield one.server_address[1], asked
        thread.join(30)
    assert not thread.is_alive(), "a server is left running"


def line(text):
    return "data: " + json.dumps({"choices": [{"text": text}]})


def test_the_client_reads_a_stream():
    two = json.dumps({"choices": [{"text": "b: data: c"}, {"text": "other"}]})
    comments = ": a comment", ": and data: in one"
    lines = [line(" a"), "", *comments, f"data: {two}", "", "data: [DONE]"]
    with server(*lines) as (port, asked):
        assert list(serving.ask_engine([5, 6], 2, port)) == [" a", "b: data: c"]
    question = {"prompt": [5, 6], "max_tokens": 2, "stream": True}
    assert asked == [("/v1/completions", question)]


@pytest.mark.parametrize(
    ("lines", "status", "message"),
    [([line("a"), line("b")], 200, "broke off"), (["too long"], 400, "too long")],
)
def test_the_client_says_that_an_answer_is_not_whole(lines, status, message):
    wrong = pytest.raises((OSError, EOFError), match=message)
    with server(*lines, status=status) as (port, _), wrong:
        list(serving.ask_engine([5], 2, port, timeout=5))
