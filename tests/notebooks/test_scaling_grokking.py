"""The cells of scaling/grokking against loops, torch's FFT and closed forms."""

import math

import cells
import torch
import torch.nn.functional as F
from cells import cases, close, generator, random, seeds
from hypothesis import strategies as st

from fieldguide.scaling import grokking

PRIMES = st.sampled_from([3, 5, 7, 11, 13, 59])


def small(seed=0):
    return grokking.Adder(7, 3, 5, generator(seed))


def test_sums_are_all_pairs_once_and_a_part_is_hidden():
    right = [(a, b, (a + b) % 12) for a in range(12) for b in range(a, 12)]
    assert [*zip(*(x.tolist() for x in grokking.sums(12)), strict=True)] == right
    one, two = grokking.hide(10, 0.3, generator(4))
    right = torch.randperm(10, generator=generator(4))
    assert torch.equal(torch.cat([one, two]), right) and len(one) == 3
    assert [len(part) for part in grokking.hide(1770, 0.6, generator())] == [1062, 708]


def test_an_adder_is_three_tables():
    model = small().double()
    assert [tuple(p.shape) for p in model.parameters()] == [(7, 3), (3, 5), (5, 7)]
    E, W, U = (p.detach() for p in model.parameters())
    a, b = torch.tensor([0, 6, 2]), torch.tensor([0, 1, 2])
    x = torch.einsum("sd,dn->sn", E[a] + E[b], W).clamp(min=0)
    close(model(a, b).detach(), torch.einsum("sn,nc->sc", x, U))


def test_an_adder_begins_as_large_as_said():
    draw, model = generator(3), grokking.Adder(40, 50, 60, generator(3))
    for table, scale in zip(model.parameters(), (1, 150**-0.5, 180**-0.5), strict=True):
        close(table.detach(), scale * torch.randn(table.shape, generator=draw), 1e-6)


def test_learning_is_adamw_on_all_sums():
    shown = [column[::2] for column in grokking.sums(7)]
    model, twin, seen = small(), small(), []
    plan = grokking.adder_recipe(6, 0.7)
    losses = grokking.learn_sums(model, shown, plan, lambda *s: seen.append(s))

    def loss():
        return F.cross_entropy(twin(*shown[:2]), shown[2])

    options = {"betas": (0.9, 0.98), "weight_decay": 0.7}
    close(losses, cells.adamw(twin.parameters(), loss, plan, **options), 1e-5)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        close(ours.detach(), theirs.detach(), 1e-5)
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    close(torch.stack([x.detach() for _, x in seen]), losses)


def test_accuracy_counts_the_highest_scores():
    model, (a, b, _) = small(), grokking.sums(7)
    said = model(a, b).argmax(-1)
    some = torch.where(torch.arange(len(a)) < 9, said, (said + 1) % 7)
    assert grokking.accuracy(model, [a, b, some]) == 9 / 28


@cases(p=PRIMES, k=st.integers(1, 70))
def test_a_wheel_is_a_turning_hand(p, k):
    x, y = grokking.wheel(p, k, torch.double)
    for n in range(p):
        turn = 2 * math.pi * (k * n % p) / p
        close(x[n].item(), math.cos(turn), 1e-10)
        close(y[n].item(), math.sin(turn), 1e-10)


@cases(p=PRIMES, seed=seeds)
def test_shares_and_waves_are_the_fourier_transform(p, seed):
    table = random(p, 4, seed=seed)
    spectrum = torch.fft.rfft(table, dim=0)
    power = spectrum.abs().square().sum(1)[1:]
    close(grokking.wheel_shares(table), power / power.sum(), 1e-9)
    kept = [k for k in range(1, p // 2 + 1) if k % 2]
    mask = torch.zeros(len(spectrum), 1, dtype=torch.double)
    mask[kept] = 1
    right = torch.fft.irfft(spectrum * mask, n=p, dim=0)
    close(grokking.waves(table, kept), right, 1e-9)
    every = grokking.waves(table, list(range(1, p // 2 + 1)))
    close(every + table.mean(0), table, 1e-9)
