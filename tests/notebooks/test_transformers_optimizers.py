"""The cells of transformers/optimizers against torch."""

import functools

import hypothesis.strategies as st
from cells import cases, close, random, seeds
from torch import optim

from fieldguide.transformers import optimizers

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


@cases(seeds, *map(st.sampled_from, ([0.0, 0.02, 0.5], BETAS, [0.0, 0.1])))
def test_adamw_is_torchs(seed, lr, betas, decay):
    kind = {"lr": lr, "betas": betas, "eps": 0.1}
    ours = functools.partial(optimizers.AdamW, decay=decay, **kind)
    theirs = functools.partial(optim.AdamW, weight_decay=decay, **kind)
    close(stepped(ours, seed), stepped(theirs, seed))
    ours, theirs = optimizers.AdamW, optim.AdamW  # with their defaults, too
    close(stepped(ours, seed, 1e-4), stepped(theirs, seed, 1e-4))
