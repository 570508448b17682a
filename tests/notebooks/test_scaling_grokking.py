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


# The sums and the network


def test_sums_are_all_pairs_once_and_a_part_is_hidden():
    for p in 1, 2, 3, 12, 59:
        right = [(a, b, (a + b) % p) for a in range(p) for b in range(a, p)]
        assert [*zip(*(x.tolist() for x in grokking.sums(p)), strict=True)] == right
    one, two = grokking.hide(10, 0.3, generator(4))
    right = torch.randperm(10, generator=generator(4))
    assert torch.equal(torch.cat([one, two]), right) and len(one) == 3
    assert [len(part) for part in grokking.hide(1770, 0.6, generator())] == [1062, 708]


def test_an_adder_is_three_tables():
    model = small().double()
    assert [tuple(p.shape) for p in model.parameters()] == [(7, 3), (3, 5), (5, 7)]
    E, W, U = (p.detach() for p in model.parameters())
    a, b = torch.tensor([0, 6, 2]), torch.tensor([0, 1, 2])
    right = [[sum(max(0, sum((E[i, d] + E[j, d]) * W[d, n] for d in range(3)))
                  * U[n, c] for n in range(5)) for c in range(7)]
             for i, j in zip(a.tolist(), b.tolist(), strict=True)]  # fmt: skip
    close(model(a, b).detach(), torch.tensor(right, dtype=torch.double))


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


# The clock


@cases(p=PRIMES, k=st.integers(1, 70))
def test_a_wheel_is_a_turning_hand(p, k):
    x, y = grokking.wheel(p, k, torch.double)
    for n in range(p):
        turn = 2 * math.pi * (k * n % p) / p
        close(x[n].item(), math.cos(turn), 1e-10)
        close(y[n].item(), math.sin(turn), 1e-10)


def test_five_neurons_add_on_each_odd_clock_of_the_page():
    for p, ks in (5, [1, 2]), (59, [1, 2, 17, 29]):
        a, b, answers = grokking.sums(p)
        for k in ks:
            assert torch.equal(grokking.hand_adder(p, k)(a, b).argmax(-1), answers)
    close(grokking.hand_adder(59).vectors, grokking.wheel(59, 1).T)
    assert (grokking.hand_adder(59, N=4)(a, b).argmax(-1) != answers).any()
    assert torch.equal(grokking.hand_adder(59, 3, 7)(a, b).argmax(-1), answers)


def test_many_neurons_make_the_clock_times_the_length_of_the_sum():
    p, k, N = 11, 3, 4001
    a, b, _ = grokking.sums(p)
    half = (math.pi * k * (a - b) / p).double().cos().abs()
    off = (a + b)[:, None] - torch.arange(p)
    right = half[:, None] * (2 * math.pi * k * off.double() / p).cos()
    found = grokking.hand_adder(p, k, N).double()(a, b).detach() / N
    close(found, right * 2 * 2 / (3 * math.pi) / 2, 1e-5)


# Which wheels turn in a table


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
