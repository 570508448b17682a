"""Measure what deployment/cache shows of the real model and of this machine.

.venv/bin/python book/_tools/assets.py cache (eight minutes of one core)

Writes beside this file windows.json: the loss of SmolLM2 along a text of LENGTH tokens
when it keeps only some of them, for each of ROOMS and SINKS; others.json: the same on
other texts, when it reads the last tokens anew for each bin, and when the sink is far
away, or follows; and pace.json: what this machine's memory and arithmetic do at most,
and how many seconds of processor time a step takes that writes the first token of each
text. A name, such as `pace`, makes that part alone.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from assets import machine, make_parts, read_json
from rivals.measure import own, processor_times
from torch.nn import functional as F

from fieldguide.data import king_james, smollm2_tokenizer, store
from fieldguide.deployment.cache import (
    Nearsighted,
    WindowCache,
    near_mask,
    read_one,
)
from fieldguide.transformers.induction import token_losses
from fieldguide.transformers.real_model import KVCache, load_smollm2

HERE = Path(__file__).parent

STARTS = [1_500_000, 2_500_000, 3_300_000]  # characters; the first text has all rows
LENGTH, BIN = 1000, 50  # tokens; neighbours whose losses are averaged
ROOMS, SINKS = [128, 256, 512], [0, 1, 4]
ROOM = 256  # on the other texts
LATER, NEAR, READ = [0, 2000, 8000, 16_000, 50_000, 200_000], 64, 400  # a far sink
AT_ONCE = [1, 2, 4, 8, 16, 32]


def text(start):
    """The ids of a text, (1, LENGTH + 1)."""
    letters = king_james()[start : start + 8 * LENGTH]
    return torch.tensor([smollm2_tokenizer().encode(letters)[: LENGTH + 1]])


def row(ids, room, sinks) -> dict:
    """The loss after ROOM tokens, and along the text, in bins."""
    losses = token_losses(Nearsighted(load_smollm2(), room, sinks), ids)[0]  # (LENGTH,)
    along = [round(x.mean().item(), 4) for x in losses.split(BIN)]
    after = round(losses[ROOM - 1 :].mean().item(), 5)
    return {"room": room, "sinks": sinks, "after": after, "along": along}


def read_anew(ids, room) -> list[float]:
    """The loss in bins when the last tokens are read anew for each: the last bins.

    A bin's first token sees `room` tokens, itself included; its last, BIN - 1 more.
    """
    model, along = load_smollm2(), []
    for end in range(BIN * (room // BIN + 1), LENGTH + 1, BIN):
        start = max(0, end - room - BIN + 1)
        losses = token_losses(model, ids[:, start : end + 1])[0, -BIN:]
        along.append(round(losses.mean().item(), 4))
    return along


def loss_of(logits, ids) -> float:
    """The loss after 100 tokens."""
    return round(F.cross_entropy(logits, ids[0, 101 : READ + 1]).item(), 3)


@torch.inference_mode()
def far_from_sink(ids, later) -> float:
    """The loss when all tokens but the first stand so many places later."""
    model, places = load_smollm2(), torch.arange(READ) + later
    x, places[0] = model.embedding(ids[:, :READ]), 0
    for block in model.blocks:
        x, _ = block(x, places, near_mask(READ, NEAR, 1))
    return loss_of(model.logits(x)[0, 100:], ids)


def with_a_ring(ids) -> float:
    """The same with a cache whose sink follows, wherever the text stands."""
    model = load_smollm2()
    cache = WindowCache(model.config, NEAR, 1)
    logits = [read_one(model, token, cache) for token in ids[0, :READ]]
    return loss_of(torch.stack(logits[100:]), ids)


def record_windows() -> None:
    ids = text(STARTS[0])
    kinds = [(room, sinks) for room in ROOMS for sinks in SINKS]
    rows = [row(ids, *kind) for kind in ((LENGTH, 0), *kinds)]
    store(HERE / "windows.json", {"bin": BIN, "rows": rows})


def record_others() -> None:
    first, *texts = map(text, STARTS)
    kinds = (LENGTH, 0), (ROOM, 0), (ROOM, 1)
    loss = [far_from_sink(first, later) for later in LATER]
    drift = {"room": NEAR, "read": READ, "later": LATER, "loss": loss}
    facts = {
        "anew": {room: read_anew(first, room) for room in ROOMS},
        "drift": drift | {"follows": with_a_ring(first)},
        "after": [[row(ids, *kind)["after"] for kind in kinds] for ids in texts],
    }
    store(HERE / "others.json", facts)


def best(*works) -> list[float]:
    """Seconds of processor time of each, the best of some tries, which alternate."""
    took = processor_times(dict(enumerate(works)), rounds=5)
    return [min(own(ms)) / 1e3 for ms in took.values()]


def step(model, ids):
    """Add ids (B, 1) to empty texts, and predict the next token of each."""
    cache = KVCache(model.config, ids.size(1), ids.size(0))
    cache.store.zero_()

    @torch.inference_mode()
    def work():
        cache.length = 0
        model.logits(model.residual(ids, cache)[:, -1])

    return work


def record_pace() -> None:
    model, vocab = load_smollm2(), load_smollm2().config.vocab
    square, wide = torch.randn(1024, 1024), torch.randn(8192, 16384)
    column = torch.randn(16384)  # arithmetic bound, memory bound
    product_s, vector_s = best(lambda: square @ square, lambda: wide @ column)
    steps = [best(step(model, torch.randint(vocab, (n, 1))))[0] for n in AT_ONCE]
    facts = {
        "machine": machine(),
        "torch": torch.__version__,
        "peak": float(f"{2 * 1024**3 / product_s:.3g}"),
        "bandwidth": float(f"{wide.nbytes / vector_s:.3g}"),
        "at_once": AT_ONCE,
        "step": [float(f"{seconds:.3g}") for seconds in steps],
    }
    store(HERE / "pace.json", facts)


def remade() -> Iterator[tuple]:
    """The loss when the first token is near, and when it's far away, made today."""
    kept = read_json(HERE / "others.json")["drift"]["loss"]
    for place in 0, 3:
        yield kept[place], far_from_sink(text(STARTS[0]), LATER[place]), 0.002


if __name__ == "__main__":
    make_parts(record_windows, record_others, record_pace)
