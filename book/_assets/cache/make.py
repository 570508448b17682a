"""Measure what deployment/cache shows of the real model and of this machine.

.venv/bin/python book/_tools/assets.py cache (eight minutes of one core)

Writes beside this file windows.json: the loss of SmolLM2 along a text of LENGTH tokens
when it keeps only some of them, for each of ROOMS and SINKS; others.json: the same on
other texts, when it reads the last tokens anew for each bin, and when the sink is far
away; and pace.json: what this
machine's memory and arithmetic do at most, and how many seconds of processor time the
model takes to read and to write. Each holds the digest of the code that made it. A
name, such as `pace`, makes that part alone.
"""

import sys
import time
from pathlib import Path

import torch
from assets import machine
from digest import digest_of, exported
from torch.nn.functional import cross_entropy

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
NOTEBOOK = HERE.parents[1] / "deployment" / "cache.ipynb"
USES = """
from fieldguide.transformers.induction import token_losses
from fieldguide.transformers.real_model import KVCache, load_smollm2

def reads():
    return load_smollm2, token_losses, Nearsighted

def steps():
    return load_smollm2, KVCache
"""

STARTS = [1_500_000, 2_500_000, 3_300_000]  # characters; the first text has all rows
LENGTH, BIN = 1000, 50  # tokens; neighbours whose losses are averaged
ROOMS, SINKS = [128, 256, 512], [0, 1, 4]
ROOM = 256  # on the other texts
LATER, NEAR, READ = [0, 2000, 8000, 16_000, 50_000, 200_000], 64, 400  # a far sink
AT_ONCE = [1, 2, 4, 8, 16, 32]
BEFORE = 256  # tokens in each text's cache
TRIES = 3


def digests() -> dict[str, str]:
    """Of each record: the digest of the definitions that make it today."""
    cells = exported(NOTEBOOK) + USES
    reads, steps = (digest_of(cells, [name]) for name in ("reads", "steps"))
    return {"windows.json": reads, "others.json": reads, "pace.json": steps}


def text(start):
    """The ids of a text, (1, LENGTH + 1)."""
    letters = king_james()[start : start + 8 * LENGTH]
    return torch.tensor([smollm2_tokenizer().encode(letters)[: LENGTH + 1]])


def row(ids, room, sinks) -> dict:
    """The loss after ROOM tokens, and along the text, in bins."""
    model = Nearsighted(load_smollm2(), room, sinks)
    losses = token_losses(model, ids)[0]  # (LENGTH,)
    facts = {
        "room": room,
        "sinks": sinks,
        "after": round(losses[ROOM - 1 :].mean().item(), 5),
        "along": [round(x.mean().item(), 4) for x in losses.split(BIN)],
    }
    print(facts["room"], facts["sinks"], facts["after"], flush=True)
    return facts


def read_anew(ids, room) -> list[float]:
    """The loss in bins when the last tokens are read anew for each: the last bins."""
    model, along = load_smollm2(), []
    for end in range(BIN * (room // BIN + 1), LENGTH + 1, BIN):
        piece = ids[:, end - room : end + 1]
        along.append(token_losses(model, piece)[0, -BIN:].mean().item())
    return [round(x, 4) for x in along]


@torch.inference_mode()
def far_from_sink(ids, later) -> float:
    """The loss after 100 tokens; all but the first stand so many places later."""
    model, places = load_smollm2(), torch.arange(READ) + later
    x, places[0] = model.embedding(ids[:, :READ]), 0
    for block in model.blocks:
        x, _ = block(x, places, near_mask(READ, NEAR, 1))
    logits = model.logits(x)[0, 100:]
    return round(cross_entropy(logits, ids[0, 101 : READ + 1]).item(), 3)


def with_a_ring(ids) -> float:
    """The same with a cache whose sink follows, wherever the text stands."""
    model = load_smollm2()
    cache = WindowCache(model.config, NEAR, 1)
    logits = [read_one(model, token, cache) for token in ids[0, :READ]]
    logits = torch.stack(logits[100:])
    return round(cross_entropy(logits, ids[0, 101 : READ + 1]).item(), 3)


def record_windows() -> None:
    ids = text(STARTS[0])
    kinds = [(room, sinks) for room in ROOMS for sinks in SINKS]
    rows = [row(ids, *kind) for kind in ((LENGTH, 0), *kinds)]
    facts = {"digest": digests()["windows.json"], "bin": BIN, "rows": rows}
    store(HERE / "windows.json", facts)


def record_others() -> None:
    kinds, texts = ((LENGTH, 0), (ROOM, 0), (ROOM, 1)), map(text, STARTS[1:])
    facts = {
        "digest": digests()["others.json"],
        "anew": {room: read_anew(text(STARTS[0]), room) for room in ROOMS},
        "drift": {
            "later": LATER,
            "loss": [far_from_sink(text(STARTS[0]), later) for later in LATER],
            "follows": with_a_ring(text(STARTS[0])),
        },
        "after": [[row(ids, *kind)["after"] for kind in kinds] for ids in texts],
    }
    store(HERE / "others.json", facts)


def best(*works) -> list[float]:
    """Seconds of processor time of each, the best of some tries, which alternate."""
    found = [float("inf")] * len(works)
    for _ in range(TRIES):
        for k, work in enumerate(works):
            start = time.process_time()
            work()
            found[k] = min(found[k], time.process_time() - start)
    return found


def limits() -> tuple[float, float]:
    """FLOP and bytes a second: a large product, and one that meets a vector."""
    square, wide = torch.randn(1024, 1024), torch.randn(8192, 16384)
    column = torch.randn(16384)
    product_s, vector_s = best(lambda: square @ square, lambda: wide @ column)
    return 2 * 1024**3 / product_s, wide.nbytes / vector_s


@torch.inference_mode()
def step(model, ids, before):
    """Add ids (B, T) to texts of so many tokens, and predict the next of each."""
    B, T = ids.shape
    cache = KVCache(model.config, before + T, B)
    cache.store.zero_()
    cache.length = before
    return lambda: again(model, ids, cache, before)


@torch.inference_mode()
def again(model, ids, cache, before):
    cache.length = before
    model.logits(model.residual(ids, cache)[:, -1])


def record_pace() -> None:
    model = load_smollm2()
    peak, bandwidth = limits()
    ids = torch.randint(model.config.vocab, (1, max(AT_ONCE)))
    facts = {
        "digest": digests()["pace.json"],
        "machine": machine(),
        "torch": torch.__version__,
        "peak": float(f"{peak:.3g}"),
        "bandwidth": float(f"{bandwidth:.3g}"),
        "before": BEFORE,
        "at_once": AT_ONCE,
    }
    for kind in "prompt", "texts":
        facts[kind] = []
        for n in AT_ONCE:
            piece = ids[:, :n]
            work = step(model, piece if kind == "prompt" else piece.T, BEFORE)
            facts[kind].append(float(f"{best(work)[0]:.3g}"))
            print(kind, n, facts[kind][-1], flush=True)
    store(HERE / "pace.json", facts)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second thread changes the last digits
    parts = {"windows": record_windows, "others": record_others}
    parts["pace"] = record_pace
    for part in sys.argv[1:] or parts:
        parts[part]()
