"""The cells of deployment/parallelism: cut models against whole ones, plans by hand.

Real processes are started once. Elsewhere threads stand for them, with our messages.
"""

import dataclasses
import functools
import math
from unittest import mock

import cells
import threads
import torch
import torch.nn.functional as F

from fieldguide.deployment import parallelism as book
from fieldguide.deployment.data_parallel import launch
from fieldguide.efficiency.experts import MixtureShape, mixture_sorted
from fieldguide.scaling.counting import Shape, parameters, published, token_flops
from fieldguide.transformers.gpt import GPT, GPTConfig, generate
from fieldguide.transformers.training import trained_gpt

CONFIG = GPTConfig(11, 8, width=12, heads=2, layers=2)


def ids(rows=4, count=7):
    return torch.randint(11, (rows, count), generator=cells.generator())


class Uncounted:
    """What stands for CommDebugMode, which follows one thread only."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def get_total_counts(self):
        return 0


def together(count, call, *arguments):
    """call(*arguments) in each of so many threads: the results by rank."""
    work = functools.partial(call, *arguments)
    return threads.together(book, count, work, CommDebugMode=Uncounted)


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


def same_as_whole(found):
    """Are the losses and the gradients of pieces those of the whole model?"""
    loss, whole = learnt()
    for its_loss, slopes, _ in found:
        cells.close(its_loss, loss, 1e-6)
        assert not its_loss.requires_grad
        assert set(slopes) <= set(whole)
    for name, slope in whole.items():
        parts = [each[1][name] for each in found if name in each[1]]
        cells.close(joined(parts, slope), slope, 1e-6)
    assert found[0][1]["blocks.0.mlp.up.weight"].shape == (24, 12)
    assert "blocks.0.mlp.down.bias" not in found[1][1]


def test_two_processes_learn_as_the_whole():
    found = launch(book.learn_in_pieces, 2, CONFIG, ids())
    same_as_whole(found)
    assert [sent for _, _, sent in found] == [[4, 4]] * 2


def test_pieces_write_as_the_whole():
    start, draw = torch.tensor([3, 1, 4]), cells.generator(5)
    options = {"temperature": 0.7, "generator": draw}
    alone = generate(trained_gpt(), start, 12, **options)
    models = []

    def another():
        models.append(trained_gpt.__wrapped__())
        return models[-1]

    with mock.patch.object(book, "trained_gpt", another):
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


# The planner

GPT_SHAPE = Shape(100, 16, 8, 4, 6)
MIXTURE = MixtureShape(8, 16, 3, 4, 2, 6, 1000, 30)
ROUTED = 6 * 4 * 3 * 8 * 16  # layers, experts, matrices of 8 x 16
BLOCK = 16 * 8 * 2  # bytes


def dense():
    return book.gpt_job(GPT_SHAPE, 24)


def mixed():
    common = MIXTURE.parameters(4) - ROUTED
    more = {"routed": ROUTED, "chosen": 2}
    return book.Job(6, 8, 4, common, MIXTURE.token_flops(), 16, 24, **more)


def wires():
    return book.Cluster(rate=1e6, inside=1000.0, between=100.0, server=2, latency=0.5)


def test_what_a_job_counts():
    assert dense().common == sum(parameters(GPT_SHAPE).values())
    assert dense().token_flops == token_flops(GPT_SHAPE)
    flops = dense().token_flops * 16 * 24
    assert dense().step_flops == 4 * flops
    assert dataclasses.replace(dense(), again=False).step_flops == 3 * flops
    for layout, own, apart in [
        (book.Layout(), 24, 24),
        (book.Layout(2, 3, 4), 6, 3),
        (book.Layout(4, 1, 5, 2), 3, 1),
    ]:
        assert dense().micro_batches(layout) == own
        assert mixed().micro_batches(layout) == apart


def test_bytes_of_a_card():
    kept = book.bytes_of_card(dense(), book.Layout(2, 3, 4))
    own = (dense().first + (dense().common - dense().first) / 3) / 2
    assert math.isclose(kept["weights"], 6 * own)
    assert math.isclose(kept["optimizer"], 12 * own)
    assert kept["inputs"] == 6 * BLOCK
    # the batch in two micro-batches of four sequences: two in flight, 2 layers each
    kept = book.bytes_of_card(dense(), book.Layout(1, 4, 3, 4))
    assert kept["inputs"] == 2 * 2 * 4 * BLOCK
    own = mixed().common / 3 + mixed().routed / 6
    kept = book.bytes_of_card(mixed(), book.Layout(2, 3, 1))
    assert math.isclose(kept["weights"], 6 * own)
    assert math.isclose(kept["optimizer"], 12 * own)


def gpt_3():
    return book.gpt_job(published()["GPT-3"], 1536)


def test_the_fullest_card_is_of_the_first_stage():
    """96 layers on 64 stages: two layers, all embeddings, 64 inputs of each."""
    sizes = parameters(published()["GPT-3"])
    first = sizes["tokens"] + sizes["positions"]
    layers = sum(sizes.values()) - first
    held = 18 * (first + layers * 2 / 96) + 2 * 64 * 2048 * 12_288 * 2
    kept = sum(book.bytes_of_card(gpt_3(), book.Layout(1, 64, 16)).values())
    assert math.isclose(kept, held) and round(kept / 1e9) == 83
    uneven = book.bytes_of_card(mixed(), book.Layout(1, 4))  # 2 of 6 layers
    own = (mixed().common + mixed().routed) / 3
    assert math.isclose(uneven["weights"], 6 * own)


def test_seconds_of_a_gpt():
    layout = book.Layout(4, 3, 2, 2)
    spent = book.step_seconds(dense(), layout, wires())
    work = dense().step_flops / 24 / 1e6
    # 6 rounds in each of 2 layers, through two ports of a server
    within = 6 * 2 * (0.5 + 2 * 3 / 4 * 2 * BLOCK / 200)
    wait = 2 * (work / 6 + within)
    hop = 0.5 + 2 * BLOCK / 4 / 100
    copies = 2 * 1 / 2 * 4 * dense().common / 12 / 100
    wanted = [work, 6 * within, wait, 2 * 6 * hop, copies]
    names = ["arithmetic", "within layers", "waiting", "between stages"]
    assert list(spent) == [*names, "between copies"]
    for got, right in zip(spent.values(), wanted, strict=True):
        assert math.isclose(got, right), spent
    once = dataclasses.replace(dense(), again=False, number=4)
    spent = book.step_seconds(once, book.Layout(2), wires())
    assert math.isclose(spent["within layers"], 24 * 6 * 4 * (0.5 + 2 * BLOCK / 1000))
    assert math.isclose(spent["arithmetic"], 3 / 4 * dense().step_flops / 2 / 1e6)
    alone = book.step_seconds(dense(), book.Layout(), wires())
    assert list(alone.values())[1:] == [0, 0, 0, 0]
    two = book.step_seconds(dense(), book.Layout(1, 2), wires())
    assert math.isclose(two["between stages"], 2 * 24 * (0.5 + BLOCK / 1000))
    longest = book.step_seconds(dense(), book.Layout(1, 4), wires())["arithmetic"]
    assert math.isclose(longest, alone["arithmetic"] / 4 * 2 * 4 / 6)


def test_seconds_of_a_mixture():
    spent = book.step_seconds(mixed(), book.Layout(2, 3, 2), wires())
    within = 6 * 2 * (0.5 + 2 * 1 / 2 * BLOCK / 1000)
    work = mixed().step_flops / 12 / 1e6
    assert math.isclose(spent["within layers"], 6 * within)
    assert math.isclose(spent["arithmetic"], work)
    assert math.isclose(spent["waiting"], 2 * (work / 6 + within))
    assert math.isclose(spent["between stages"], 2 * 6 * (0.5 + BLOCK / 100))
    all_meet = 2 * 3 / 4 * 4 * mixed().common / 3 / 200  # two of a server
    experts = 2 * 1 / 2 * 4 * mixed().routed / 6 / 100
    assert math.isclose(spent["between copies"], all_meet + experts)
    # Of three partners, one is in the same server and two behind the port.
    spent = book.step_seconds(mixed(), book.Layout(4, 1), wires())
    within = 36 * (0.5 + 2 / 4 * BLOCK * (1 / 1000 + 2 / 100))
    assert math.isclose(spent["within layers"], 6 * within)
    three = dataclasses.replace(mixed(), chosen=3)  # experts of a token
    spent = book.step_seconds(three, book.Layout(2), wires())
    within = 12 * 6 * (0.5 + 3 * 1 / 2 * BLOCK / 1000)
    assert math.isclose(spent["within layers"], 6 * within)
