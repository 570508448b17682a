"""Vector search: one of a million vectors found by a library, beside exact search.

The vectors are drawn, not measured: 10,000 centres of 32 normal numbers, then for each
vector one of them plus half as much noise, at length 1 (`clustered_vectors`, seed 0).
The library looks at the fewest candidates with which it finds 95 of 100 true
neighbours; a thousand questions tell. Exact search is the page's own, a matrix product
and a top-k. The first hundred are asked one at a time and at once; the time is that of
one. To build the library's graph takes minutes, which are not counted.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch

from rivals.measure import Goal, Row, own, processor_times, versioned

TITLE = "Ten nearest of a million vectors: processor time a question"
COUNT, WIDTH, ASKED, NEAREST = 1_000_000, 32, 1_000, 10
CANDIDATES = [16, 32, 64, 128, 256, 512]
RECALL, TIMED, ROUNDS = 0.95, 100, 5
GOAL = Goal(1 / 20, "ratio")


class Prepared(NamedTuple):
    """A million vectors, those asked about, their true neighbours and the graph."""

    vectors: torch.Tensor  # (COUNT, WIDTH)
    asked: torch.Tensor  # (ASKED, WIDTH)
    truth: torch.Tensor  # (ASKED, NEAREST)
    library: object
    built_s: float  # processor time of the graph

    def found(self, candidates: int) -> float:
        """The recall with so many candidates."""
        from fieldguide.challenges import retrieval as page

        near = page.graph_nearest(self.library, self.asked, NEAREST, candidates)
        return page.shared_neighbours(near, self.truth)


@functools.cache
def prepared() -> Prepared:
    from fieldguide.challenges import retrieval as page

    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    vectors = page.clustered_vectors(COUNT + ASKED, WIDTH, rng)
    asked, vectors = vectors[:ASKED], vectors[ASKED:].contiguous()
    parts = [page.exact_nearest(vectors, some, NEAREST) for some in asked.split(25)]
    start = time.process_time()
    library = page.graph_index(vectors)
    built_s = time.process_time() - start
    return Prepared(vectors, asked, torch.cat(parts), library, built_s)


def rows() -> Iterator[Row]:
    from fieldguide.challenges import retrieval as page

    known = prepared()
    reached = {count: known.found(count) for count in CANDIDATES}
    enough = [count for count, recall in reached.items() if recall >= RECALL]
    if not enough:
        raise RuntimeError(f"recall {reached}, at most")
    name = f"{versioned('usearch')}, recall {reached[enough[0]]:.2f}"
    for what, size in ("one at a time", 1), ("a hundred at once", TIMED):
        some = known.asked[:TIMED].split(size)
        graph = partial(page.graph_nearest, known.library, k=NEAREST)
        graph = partial(graph, candidates=enough[0])
        exact = partial(page.exact_nearest, known.vectors, k=NEAREST)
        sides = {"graph": partial(each_of, graph, some)}
        sides |= {"exact": partial(each_of, exact, some)}
        times = processor_times(sides, rounds=ROUNDS)
        ms = {side: [t / TIMED for t in own(took)] for side, took in times.items()}
        rival, goal = f"exact search, {versioned('torch')}", GOAL if size == 1 else None
        yield Row(f"{what}, {name}", "ms", ms["graph"], rival, ms["exact"], goal)


def each_of(search, parts) -> None:
    for part in parts:
        search(asked=part)
