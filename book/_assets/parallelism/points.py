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
TURNS = [1, 2, 4]
WIDTHS, TEXTS, DEPTH = [128, 256, 512, 1024, 2048], 8, 1


def best_ms(call, rounds: int, alone: bool = False) -> float:
    """Milliseconds that a call takes at best; alone: the others wait meanwhile."""
    if alone and dist.get_rank() > 0:
        dist.barrier()
        return 0.0
    call()
    took = []
    for _ in range(rounds):
        if not alone:
            dist.barrier()
        start = time.perf_counter()
        call()
        took.append(1e3 * (time.perf_counter() - start))
    if alone:
        dist.barrier()
    return min(took)


def blocks_of(width: int, layers: int) -> GPT:
    sizes = GPTConfig(2, CONTEXT, width=width, heads=width // 64, layers=layers)
    return GPT(sizes, generator=torch.Generator().manual_seed(0))


def through(blocks, x, mask):
    for block in blocks:
        x = block(x, mask)
    return x


def message_ms(numbers: int, rounds: int) -> float:
    x = torch.zeros(numbers)
    return best_ms(lambda: dist.all_reduce(x), rounds)


def training(rounds: int) -> dict:
    """A step on one batch: in one process, in two pieces, in two stages."""
    model, mask = blocks_of(WIDTH, LAYERS), causal_mask(CONTEXT)
    x = torch.randn(BATCH, CONTEXT, WIDTH)

    def step(blocks):
        through(blocks, x.requires_grad_(), mask).square().mean().backward()

    one = best_ms(lambda: step(model.blocks), rounds, alone=True)
    rank, half = dist.get_rank(), LAYERS // 2
    own = model.blocks[rank * half : (rank + 1) * half]
    lines = {}
    for turns in TURNS:
        parts = x.detach().chunk(turns)
        lines[str(turns)] = best_ms(
            lambda parts=parts: train_in_line(
                lambda part: through(own, part, mask),
                parts,
                lambda y, n: y.square().mean(),
            ),
            rounds,
        )
    cut_gpt(model, rank, 2)
    two = best_ms(lambda: step(model.blocks), rounds)
    return {"one_ms": one, "pieces_ms": two, "stages_ms": lines}


@torch.inference_mode()
def writing(rounds: int) -> dict:
    """A token for each of TEXTS texts through DEPTH blocks, by width."""
    one, two = [], []
    for width in WIDTHS:
        x, mask = torch.randn(TEXTS, 1, width), causal_mask(1)
        model = blocks_of(width, DEPTH)
        mine = model if dist.get_rank() == 0 else None
        piece = cut_gpt(copy.deepcopy(model), dist.get_rank(), 2)
        del model
        whole = mine and partial(through, mine.blocks, x, mask)
        one.append(best_ms(whole, rounds, alone=True))
        two.append(best_ms(partial(through, piece.blocks, x, mask), rounds))
    return {"one_ms": one, "pieces_ms": two}


def measure(rounds: int) -> dict:
    """All times in milliseconds, as this process saw them."""
    block = BATCH * CONTEXT * WIDTH
    sums = {str(n): message_ms(n, 5 * rounds) for n in (1, block)}
    return {
        "all_reduce_ms": sums,
        "training": training(rounds),
        "writing": writing(rounds),
    }
