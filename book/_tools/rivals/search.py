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
from collections.abc import Iterator

import numpy as np
import torch

from fieldguide.challenges import retrieval as page
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


def graph_index(vectors: torch.Tensor):
    """usearch's graph of the vectors, each linked to about 16 others."""
    from usearch.index import Index

    sizes = {"connectivity": 16, "expansion_add": 32}
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


@functools.cache
def prepared() -> tuple:
    """A million vectors, those asked about, their true neighbours and the graph."""
    rng = torch.Generator().manual_seed(0)
    vectors = clustered_vectors(COUNT + ASKED, WIDTH, rng)
    asked, vectors = vectors[:ASKED], vectors[ASKED:].contiguous()
    parts = [page.exact_nearest(vectors, some, NEAREST) for some in asked.split(25)]
    return vectors, asked, torch.cat(parts), graph_index(vectors)


def rows() -> Iterator[Row]:
    vectors, asked, truth, library = prepared()
    reached = {}
    for count in CANDIDATES:
        found = graph_nearest(library, asked, NEAREST, count)
        reached[count] = shared_neighbours(found, truth)
    enough = [count for count, recall in reached.items() if recall >= RECALL]
    if not enough:
        raise RuntimeError(f"recall {reached}, at most")
    some = asked[:TIMED].split(1)

    def graph() -> None:
        for one in some:
            graph_nearest(library, one, NEAREST, enough[0])

    def exact() -> None:
        for one in some:
            page.exact_nearest(vectors, one, NEAREST)

    took = processor_times({"graph": graph, "exact": exact}, rounds=ROUNDS)
    took = each(lambda times: [ms / TIMED for ms in times], took)
    what = f"{versioned('usearch')}, recall {reached[enough[0]]:.2f}"
    rival = f"exact search, {versioned('torch')}"
    yield beside(took, what, "graph", rival, "exact", GOAL)
