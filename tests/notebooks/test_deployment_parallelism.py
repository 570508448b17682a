"""The cells of deployment/parallelism: cut models against whole ones, plans by hand.

Real processes are started once. Elsewhere threads stand for them, with our messages.
"""

import dataclasses
import functools
from unittest import mock

import cells
import pytest
import threads
import torch
import torch.nn.functional as F

from fieldguide.deployment import parallelism as book
from fieldguide.deployment.data_parallel import launch
from fieldguide.efficiency.experts import mixture_sorted
from fieldguide.scaling.counting import Shape, parameters, token_flops
from fieldguide.transformers.gpt import GPT, GPTConfig, generate
from fieldguide.transformers.training import trained_gpt

CONFIG = GPTConfig(11, 8, width=12, heads=2, layers=2)


def ids(rows=4, count=7):
    return torch.randint(11, (rows, count), generator=cells.generator())


def together(count, call, *arguments):
    """call(*arguments) in each of so many threads: the results by rank."""
    return threads.together(book, count, functools.partial(call, *arguments))


def learnt(config=CONFIG):
    """The whole model after one look at the ids: (loss, gradients by name)."""
    model, given = GPT(config, generator=cells.generator()), ids()
    loss = F.cross_entropy(model(given[:, :-1]).flatten(0, 1), given[:, 1:].flatten())
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


# Pieces


def joined(parts, whole):
    """Gradients of pieces side by side, or one of them where nothing is cut."""
    for axis in range(whole.dim()):
        if sum(part.size(axis) for part in parts) == whole.size(axis):
            return torch.cat(parts, axis)
    assert all(torch.equal(part, parts[0]) for part in parts)
    return parts[0]


def test_two_processes_learn_as_the_whole():
    found = launch(book.learn_in_pieces, 2, CONFIG, ids())
    loss, whole = learnt()
    for its_loss, _, sent in found:
        cells.close(its_loss, loss, 1e-6)
        assert sent == [4, 4]
    for name, slope in whole.items():
        parts = [slopes[name] for _, slopes, _ in found if name in slopes]
        cells.close(joined(parts, slope), slope, 1e-6)
    assert found[0][1]["blocks.0.mlp.up.weight"].shape == (24, 12)
    assert "blocks.0.mlp.down.bias" not in found[1][1]


def test_pieces_write_as_the_whole():
    start, draw = torch.tensor([3, 1, 4]), cells.generator(5)
    options = {"temperature": 0.7, "generator": draw}
    alone = generate(trained_gpt(), start, 12, **options)
    with mock.patch.object(book, "trained_gpt", trained_gpt.__wrapped__):
        for written in together(2, book.write_in_pieces, start, 12, 5):
            assert torch.equal(written, alone)


# Stages and experts


def test_stages_learn_as_the_whole():
    config = dataclasses.replace(CONFIG, layers=6)
    loss, whole = learnt(config)
    blocks = [slope for name, slope in whole.items() if name.startswith("blocks")]
    for stages, turns in (2, 2), (1, 4), (2, 1), (3, 2):
        found = together(stages, book.learn_in_line, config, ids(), turns)
        *early, last = [total for total, _ in found]
        assert not any(early) and abs(last - loss) < 1e-6
        assert all(isinstance(total, float) for total, _ in found)
        slopes = [slope for _, own in found for slope in own]
        for own, slope in zip(slopes, blocks, strict=True):
            cells.close(own, slope, 1e-6)


def test_experts_apart_answer_as_together():
    x = cells.random(6, 4)
    weights = cells.random(6, 2, seed=1).softmax(-1)
    chosen = torch.tensor([[0, 1], [1, 0], [2, 0], [3, 2], [0, 1], [3, 0]])
    up, down = cells.random(4, 5, 4, seed=2), cells.random(4, 4, 5, seed=3)
    whole = mixture_sorted(x, weights, chosen, up, down)
    for ranks in 1, 2:
        found = together(ranks, book.share_experts, x, weights, chosen, up, down)
        assert [len(part) for part in found] == [6 // ranks] * ranks
        cells.close(torch.cat(found), whole)


# The planner, by hand: sequences of 16 tokens, 8 wide; servers of two cards

GPT_SHAPE = Shape(100, 16, 8, 4, 6)
ROUTED = 6 * 4 * 3 * 8 * 16  # layers, experts, matrices of 8 x 16
BLOCK = 16 * 8 * 2  # bytes
WIRES = book.Cluster(rate=1e6, inside=1000.0, between=100.0, server=2, latency=0.5)
DENSE = book.gpt_job(GPT_SHAPE, 24)
ONCE = dataclasses.replace(DENSE, again=False, number=4)
MIXED = book.Job(6, 8, 1000, 5000, 16, 24, routed=ROUTED, chosen=2)
THREE = dataclasses.replace(MIXED, chosen=3)  # experts of a token


def test_what_a_job_counts():
    assert DENSE.common == sum(parameters(GPT_SHAPE).values())
    assert DENSE.token_flops == token_flops(GPT_SHAPE)
    assert DENSE.step_flops == 4 * DENSE.token_flops * 16 * 24
    assert ONCE.step_flops == 3 * DENSE.token_flops * 16 * 24


@pytest.mark.parametrize(
    ("job", "cut", "own", "inputs"),
    [  # parameters of a card of the first stage; its micro-batches times layers
        (DENSE, (2, 3, 4), (DENSE.first + (DENSE.common - DENSE.first) / 3) / 2, 6),
        # the batch in two micro-batches of four sequences: two in flight, 2 layers
        (DENSE, (1, 4, 3, 4), DENSE.first + (DENSE.common - DENSE.first) / 3, 16),
        (MIXED, (2, 3, 1), MIXED.common / 3 + ROUTED / 6, 6),
        (MIXED, (1, 4), (MIXED.common + ROUTED) / 3, 8),  # 2 of 6 layers
    ],
)
def test_bytes_of_a_card(job, cut, own, inputs):
    found = book.bytes_of_card(job, book.Layout(*cut))
    right = {"weights": 6 * own, "optimizer": 12 * own, "inputs": inputs * BLOCK}
    assert found == pytest.approx(right)


WORK = DENSE.step_flops / 24 / 1e6  # seconds of a sequence
OTHER = MIXED.step_flops / 24 / 1e6
# 6 rounds in each of 2 layers, through two ports of a server
RING = 6 * 2 * (0.5 + 2 * 3 / 4 * 2 * BLOCK / 200)
LINE = 2 * 6 * (0.5 + 2 * BLOCK / 4 / 100)
# two pieces of a server, which read different sequences
NEAR = 6 * 2 * (0.5 + 2 * 1 / 2 * BLOCK / 1000)
# of three partners, one is in the same server and two behind the port
FAR = 6 * 6 * (0.5 + 2 / 4 * BLOCK * (1 / 1000 + 2 / 100))
# what all tokens meet, in four copies, two of a server; then the experts, in two
SUMS = 2 * 3 / 4 * 4 * 1000 / 3 / 200 + 2 * 1 / 2 * 4 * ROUTED / 6 / 100
DENSE_SUM = 2 * 1 / 2 * 4 * DENSE.common / 12 / 100
WAIT = 2 * (OTHER / 3 + NEAR)


@pytest.mark.parametrize(
    ("job", "cut", "right"),
    [
        (DENSE, (), [24 * WORK, 0, 0, 0, 0]),
        (ONCE, (2,), [9 * WORK, 24 * 24 * (0.5 + 2 * BLOCK / 1000), 0, 0, 0]),
        (DENSE, (1, 2), [12 * WORK, 0, WORK / 2, 48 * (0.5 + BLOCK / 1000), 0]),
        (DENSE, (1, 4), [8 * WORK, 0, WORK, 48 * (0.5 + BLOCK / 100), 0]),
        (DENSE, (4, 3, 2, 2), [WORK, 6 * RING, WORK / 3 + 2 * RING, LINE, DENSE_SUM]),
        (DENSE, (1, 1, 3), [8 * WORK, 0, 0, 0, 2 * 2 / 3 * 4 * DENSE.common / 200]),
        (MIXED, (2, 3, 2), [2 * OTHER, 6 * NEAR, WAIT, 12 * (0.5 + BLOCK / 100), SUMS]),
        (MIXED, (1, 2), [12 * OTHER, 0, OTHER / 2, 48 * (0.5 + BLOCK / 1000), 0]),
        (MIXED, (4,), [6 * OTHER, 6 * FAR, 0, 0, 30]),
        (THREE, (2,), [12 * OTHER, 12 * 36 * (0.5 + 3 / 2 * BLOCK / 1000), 0, 0, 4]),
    ],
)
def test_seconds_of_a_step(job, cut, right):
    spent = book.step_seconds(job, book.Layout(*cut), WIRES)
    names = ["arithmetic", "within layers", "waiting", "between stages"]
    assert list(spent) == [*names, "between copies"]
    assert [*spent.values()] == pytest.approx(right)
