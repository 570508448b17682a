"""Vector search: one of a million vectors found by a library, beside exact search.

The vectors are drawn, not measured: 10,000 centres of 32 normal numbers, then for each
vector one of them plus half as much noise, at length 1 (`clustered_vectors`, seed 0).
The library looks at the fewest candidates with which it finds 95 of 100 true
neighbours; a thousand questions tell. Exact search is the page's own, a matrix product
and a top-k. The first hundred are asked one at a time. To build the library's graph
takes minutes, which are not counted.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from rivals.measure import Goal, Row, beside, each, processor_times, versioned

TITLE = "Ten nearest of a million vectors: processor time a question"
COUNT, WIDTH, ASKED, NEAREST = 1_000_000, 32, 1_000, 10
CANDIDATES = [16, 32, 64, 128, 256, 512]
RECALL, TIMED, ROUNDS = 0.95, 100, 5
GOAL = Goal(1 / 20)


def clustered_vectors(count: int, D: int, generator: torch.Generator) -> torch.Tensor:
    """Unit vectors (count, D) around count / 100 centres, with noise of .5."""
    centres = torch.randn(-(-count // 100), D, generator=generator)
    own = torch.randint(len(centres), (count,), generator=generator)
    noise = torch.randn(count, D, generator=generator)
    vectors = centres[own] + 0.5 * noise
    return vectors / vectors.norm(dim=-1, keepdim=True)


def graph_index(vectors: torch.Tensor, links: int = 16):
    """usearch's graph of the vectors, each linked to about so many others."""
    from usearch.index import Index

    sizes = {"connectivity": links, "expansion_add": 32}
    library = Index(ndim=vectors.size(1), metric="ip", dtype="f32", **sizes)
    library.add(np.arange(len(vectors)), vectors.numpy(), threads=1)
    return library


def graph_nearest(library, asked: torch.Tensor, k: int, candidates: int):
    """Places of k near vectors, (Q, k), from the best `candidates` met."""
    library.expansion_search = candidates
    matches = library.search(asked.numpy(), k, threads=1)
    return torch.from_numpy(matches.keys.astype(np.int64)).view(-1, k)


def shared_neighbours(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Which part of the true neighbours was found: a recall, 0 to 1."""
    both = found[:, :, None] == truth[:, None]  # (Q, k, k)
    return both.any(1).double().mean().item()


class Prepared(NamedTuple):
    """A million vectors, those asked about, their true neighbours and the graph."""

    vectors: torch.Tensor  # (COUNT, WIDTH)
    asked: torch.Tensor  # (ASKED, WIDTH)
    truth: torch.Tensor  # (ASKED, NEAREST)
    library: object
    built_s: float  # processor time of the graph

    def found(self, candidates: int) -> float:
        """The recall with so many candidates."""
        near = graph_nearest(self.library, self.asked, NEAREST, candidates)
        return shared_neighbours(near, self.truth)


@functools.cache
def prepared() -> Prepared:
    from fieldguide.challenges import retrieval as page

    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    vectors = clustered_vectors(COUNT + ASKED, WIDTH, rng)
    asked, vectors = vectors[:ASKED], vectors[ASKED:].contiguous()
    parts = [page.exact_nearest(vectors, some, NEAREST) for some in asked.split(25)]
    start = time.process_time()
    library = graph_index(vectors)
    built_s = time.process_time() - start
    return Prepared(vectors, asked, torch.cat(parts), library, built_s)


def rows() -> Iterator[Row]:
    from fieldguide.challenges import retrieval as page

    known = prepared()
    reached = {count: known.found(count) for count in CANDIDATES}
    enough = [count for count, recall in reached.items() if recall >= RECALL]
    if not enough:
        raise RuntimeError(f"recall {reached}, at most")
    asked = known.asked[:TIMED].split(1)

    def graph() -> None:
        for one in asked:
            graph_nearest(known.library, one, NEAREST, enough[0])

    def exact() -> None:
        for one in asked:
            page.exact_nearest(known.vectors, one, NEAREST)

    took = processor_times({"graph": graph, "exact": exact}, rounds=ROUNDS)
    took = each(lambda times: [ms / TIMED for ms in times], took)
    what = f"{versioned('usearch')}, recall {reached[enough[0]]:.2f}"
    yield beside(
        took, what, "graph", f"exact search, {versioned('torch')}", "exact", GOAL
    )
