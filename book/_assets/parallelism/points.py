"""What each of two processes does while `make.py` measures: a module, so that
`launch` finds it by name."""

import copy
import time
from functools import partial

import torch
import torch.distributed as dist

from fieldguide.deployment.parallelism import cut_gpt, train_in_line
from fieldguide.transformers.attention import causal_mask
from fieldguide.transformers.gpt import GPT, GPTConfig

BATCH, CONTEXT, WIDTH, LAYERS = 16, 64, 256, 4
WIDTHS, TEXTS, ROUNDS = [128, 256, 512, 1024, 2048], 8, 20


def best_ms(call, rounds=ROUNDS, alone=False):
    """Milliseconds that a call takes at best; alone: the others wait meanwhile."""
    if alone and dist.get_rank() > 0:
        dist.barrier()
        return 0.0
    took = []
    for _ in range(rounds + 1):  # the first is not counted
        if not alone:
            dist.barrier()
        start = time.perf_counter()
        call()
        took.append(1e3 * (time.perf_counter() - start))
    if alone:
        dist.barrier()
    return min(took[1:])


def blocks_of(width, layers):
    sizes = GPTConfig(2, CONTEXT, width=width, heads=width // 64, layers=layers)
    return GPT(sizes, generator=torch.Generator().manual_seed(0))


def through(blocks, mask, x):
    for block in blocks:
        x = block(x, mask)
    return x


def loss(y, n=0):
    return y.square().mean()


def training():
    """A step on one batch: in one process, in two stages, in two pieces."""
    model, mask = blocks_of(WIDTH, LAYERS), causal_mask(CONTEXT)
    x = torch.randn(BATCH, CONTEXT, WIDTH)

    def step():
        loss(through(model.blocks, mask, x.requires_grad_())).backward()

    times = {"one process": best_ms(step, alone=True)}
    rank, half = dist.get_rank(), LAYERS // 2
    stage = partial(through, model.blocks[rank * half :][:half], mask)
    for turns in 1, 2, 4:
        name = f"2 stages, {turns} micro-batch" + "es" * (turns > 1)
        parts = x.detach().chunk(turns)
        times[name] = best_ms(partial(train_in_line, stage, parts, loss))
    cut_gpt(model, rank, 2)
    return times | {"2 pieces": best_ms(step)}


@torch.inference_mode()
def writing():
    """A token for each of TEXTS texts through a block, by width."""
    times = {}
    for width in WIDTHS:
        x, mask = torch.randn(TEXTS, 1, width), causal_mask(1)
        model = blocks_of(width, 1)
        piece = cut_gpt(copy.deepcopy(model), dist.get_rank(), 2)
        for count, part in (1, model), (2, piece):
            call = partial(through, part.blocks, mask, x)
            times[f"{count}, width {width}"] = best_ms(call, alone=count == 1)
    return times


def measure():
    """All times in milliseconds, as this process saw them."""
    times = {}
    for name, size in ("empty", 1), ("full", BATCH * CONTEXT * WIDTH):
        call = partial(dist.all_reduce, torch.zeros(size))
        times[f"{name} message"] = best_ms(call, 5 * ROUNDS)
    return times | training() | writing()
