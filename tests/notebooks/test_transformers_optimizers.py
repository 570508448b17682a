"""The cells of transformers/optimizers against torch."""

import functools
import math

import cells
import hypothesis.strategies as st
import pytest
import torch
from cells import close, fails, random, refuses_all
from hypothesis import given, settings

from fieldguide.transformers import optimizers

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
BETAS = [(0.9, 0.99), (0.0, 0.5), (0.3, 0.0)]


def stepped(make, seed, scale=1.0):
    """Two parameters after an optimizer has been given four gradients of each."""
    start, *gradients = (
        [random(*shape, seed=seed + n) * scale**n for shape in [(3,), (2, 4)]]
        for n in range(5)
    )
    optimizer = make(iter(start))
    for each in gradients:
        for p, grad in zip(start, each, strict=True):
            p.grad = grad.clone()
        optimizer.step()
    return start


@quick
@given(seeds, *map(st.sampled_from, ([0.0, 0.02, 0.5], BETAS, [0.0, 0.1])))
def test_adamw_is_torchs(seed, lr, betas, decay):
    kind = {"lr": lr, "betas": betas, "eps": 0.1}
    ours = functools.partial(optimizers.AdamW, decay=decay, **kind)
    theirs = functools.partial(torch.optim.AdamW, weight_decay=decay, **kind)
    close(stepped(ours, seed), stepped(theirs, seed))
    ours, theirs = optimizers.AdamW, torch.optim.AdamW  # with their defaults, too
    close(stepped(ours, seed, 1e-4), stepped(theirs, seed, 1e-4))


def test_adamw_keeps_the_device_and_the_type_and_refuses_the_rest_by_name():
    for kind in torch.bfloat16, torch.float32, torch.float64:
        p = torch.ones(3, 4, device="meta", dtype=kind, requires_grad=True)
        p.grad = torch.ones_like(p)
        optimizers.AdamW([p]).step()
        assert p.device.type == "meta" and p.dtype == kind
    good = {"parameters": [], "lr": 0.1, "betas": (0, 0), "eps": 1e-8, "decay": 0.0}
    below, betas = [-1e-9, math.inf, math.nan], [(0.9,), (1, 0.9), (0.9, 1), (-1, 0.9)]
    bad = {"parameters": [[1]], "lr": below, "decay": below, "betas": betas}
    refuses_all(optimizers.AdamW, good, **bad)


def exact_muon(p, slope, mean, rate, momentum=0.95, ahead=0.95, full=False, long=True):
    """The solution, with room for mistakes."""
    new = mean.lerp(slope, 1 - momentum)
    u, _, v = torch.linalg.svd(slope.lerp(new, ahead), full_matrices=full)
    longer = math.sqrt(max(1, p.size(0) / p.size(1))) if long else 1
    return p - rate * longer * u @ v, new


WRONG = {  # likely wrong answers, by a word of what the check says about each
    "largest_rate": {
        "flattest": lambda c: 2 / min(c),
        "lands": lambda c: 1 / max(c),
        "float": lambda c: str(2 / max(c)),
        "first": lambda c: 2 / c[0],
        "loop end": lambda c: next(x for x in iter(int, 1) if x),
    },
    "sign_step": {
        "uphill": lambda x, g, r: x + r * g.sign(),
        "size": lambda x, g, r: x - r * g,
        "divide 0": lambda x, g, r: x - r * g / g.abs(),
        "changed": lambda x, g, r: x.sub_(r * g.sign()),
        "not the new": lambda x, g, r: -r * g.sign(),
    },
    "exact_muon": {
        "full_matrices": lambda *a: exact_muon(*a, full=True),
        "uphill": lambda p, g, m, r: exact_muon(p, g, m, -r),
        "rate": lambda p, g, m, r: exact_muon(p, g, m, 1),
        "`longer`": lambda *a: exact_muon(*a, long=False),
        "look ahead": lambda *a: exact_muon(*a, ahead=1),
        "without its mean": lambda *a: exact_muon(*a, ahead=0),
        "both are mixed": lambda *a: exact_muon(*a, momentum=0.05, ahead=0.05),
        "one is mixed": lambda *a: exact_muon(*a, momentum=0.05),
        "one is mixed up": lambda *a: exact_muon(*a, ahead=0.05),
        "mean: it takes": lambda p, g, m, r: (
            exact_muon(p, g, m, r)[0],
            m.lerp(g, 0.95),
        ),
        "not changed": lambda p, g, m, r: (exact_muon(p, g, m, r)[0], m),
        "two|wanted": lambda *a: exact_muon(*a)[0],
        "you changed": lambda p, g, m, r: exact_muon(p, g, m.lerp_(g, 0.05), r),
    },
}


def test_checks_name_the_cause_of_a_wrong_answer():
    book = cells.run_exercises("transformers/optimizers", optimizers)
    for name, answers in WRONG.items():
        check = book[f"check_{name}"]
        assert check(book[name]) == f"{name} is right."
        fails(check)
        for cause, answer in answers.items():
            with pytest.raises(AssertionError, match=cause):
                check(answer)
