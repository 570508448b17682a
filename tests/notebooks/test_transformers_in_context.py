"""The cells of transformers/in-context against loops and arithmetic."""

import functools
import math
import types

import notebooks
import sources
import torch
import torch.nn.functional as F
from cells import fails, generator, run_exercises

from fieldguide.transformers import in_context


@functools.cache
def exercises():
    return run_exercises("transformers/in-context", in_context)


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()
    fails(
        book.check_another_pattern,
        lambda weights, values: weights,
        lambda weights, values: torch.ones_like(weights) / len(weights),
        lambda weights, values: weights - 1,
        lambda weights, values: book.another_pattern(weights, values) * 2,
        lambda weights, values: book.another_pattern(weights, values[:, :1]),
        lambda weights, values: book.another_pattern(weights, values).tolist(),
        lambda weights, values: book.another_pattern(weights, values).float(),
    )
    fails(
        book.check_carried,
        lambda weights, values: weights,
        lambda weights, values: weights * values.norm(dim=-1),
        lambda weights, values: values.norm(dim=-1) / values.norm(dim=-1).sum(),
    )
    fails(
        book.check_majority,
        lambda right: right,
        lambda right: (right.double().cumsum(1) * 2 > torch.arange(1, 7)).long(),
        lambda right: 1 - book.majority(right),
    )


def cell(name, **names):
    """What a cell of the notebook defines, given the names it uses."""
    path = sources.ROOT / "book" / "transformers" / "in-context.ipynb"
    (source,) = (c.source for c in notebooks.read(path).cells if c.id == name)
    names = {"torch": torch, "F": F, "math": math, **names}
    exec(source, names)
    return types.SimpleNamespace(**names)


def test_labels_are_dealt_as_the_kind_says():
    deal = cell("deal").deal
    rng = generator()
    which = torch.randint(2, (50, 12), generator=rng)
    shown, right = deal("kind", which, rng)
    assert torch.equal(shown, which) and torch.equal(right, which)
    shown, right = deal("swapped", which, rng)
    assert torch.equal(shown, 1 - which) and torch.equal(right, 1 - which)
    shown, right = deal("invented", which, rng)
    assert torch.equal(shown, right)
    assert {tuple(row.unique().tolist()) for row in shown ^ which} == {(0,), (1,)}
    shown, right = deal("by lot", which, rng)
    assert torch.equal(right, which)
    assert 0.4 < (shown == which).double().mean() < 0.6
    assert len((shown ^ which)[0].unique()) == 2


def test_from_how_many_examples_the_coin_is_beaten():
    names = {"wilson_interval": in_context.wilson_interval}
    start = cell("few-from", **names).above_the_coin
    hits = torch.ones(40, 4, dtype=torch.bool)
    assert start(hits) == 0
    hits[:, 1] = False
    assert start(hits) == 2
    hits[:20, 3] = False
    assert start(hits) == "never"
    assert start(hits[:, :3]) == 2
