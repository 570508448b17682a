"""The cells of challenges/preferences against enumeration, closed forms and torch."""

import itertools
import math
from unittest import mock

import torch
from cells import cases, close, generator, random, seeds
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Categorical, kl_divergence

from fieldguide.challenges import preferences as pref
from fieldguide.transformers.training import Recipe


def drawn(seed, n=6):
    """Probabilities, and rewards with a tie."""
    p = torch.rand(n, generator=generator(seed), dtype=torch.double) + 0.05
    reward = torch.randn(n, generator=generator(seed + 1), dtype=torch.double)
    reward[0] = reward[-1]
    return p / p.sum(), reward


def test_the_replies_and_what_they_are_worth():
    ids = pref.all_replies()
    assert ids.shape == (3906, 6) and len(ids.unique(dim=0)) == 3906
    for row in ids[[0, 7, 500, 3905]]:
        said = [i for i in row.tolist() if i != pref.END]
        counts = pref.phrase_counts(row[None])[0]
        assert counts.tolist() == [said.count(k) for k in range(5)]
        gold = sum([0.5, 1.5, 2, -1, -0.5][k] for k in set(said))
        gold -= len(said) - len(set(said))
        assert pref.gold_reward(counts[None]).item() == gold


@cases(seeds)
def test_log_probabilities_of_replies(seed):
    pairs, end = random(4, 4, seed=seed), seed % 4  # a model that looks back by one
    rows = [[end, *said] for said in itertools.product(range(4), repeat=3)]
    model = nn.Embedding.from_pretrained(pairs)
    got = pref.reply_log_probs(model, torch.tensor(rows), end)
    each = pairs.log_softmax(-1)
    for row, found in zip(rows, got, strict=True):
        said = row[: [*row, end].index(end, 1) + 1]
        close(found, sum(each[pair] for pair in itertools.pairwise(said)))


@cases(seeds, st.floats(0, 1))
def test_bradley_terry_is_cross_entropy(seed, share):
    a, b, *ref = torch.randn(4, 7, generator=generator(seed), dtype=torch.double)
    share = torch.full_like(a, share)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    ones = torch.ones_like(a)
    close(pref.bradley_terry_loss(a, b, share), bce(a - b, share))
    close(pref.bradley_terry_loss(a, b), bce(a - b, ones))
    by_hand = 0.3 * ((a - ref[0]) - (b - ref[1]))
    close(pref.dpo_loss(a, b, *ref, 0.3, share), bce(by_hand, share))
    close(pref.dpo_loss(a, b, *ref, 0.3), bce(by_hand, ones))


def test_a_reward_is_found():
    eye = torch.eye(3).double()
    wins = [(0, 1)] * 3 + [(1, 0)] + [(1, 2)] * 3 + [(2, 1)]
    chosen, rejected = (eye[[w[k] for w in wins]] for k in (0, 1))
    weights = pref.fit_reward(chosen, rejected, 0.0)
    close(weights[:2] - weights[1:], torch.full((2,), math.log(3)).double(), 1e-2)
    always = pref.fit_reward(eye[:1], eye[1:2])
    assert always.isfinite().all() and always[0] > always[1] and always[2] == 0


def test_comparisons_follow_the_customers():
    p = torch.tensor([0.5, 0.25, 0.25]).double()
    gold = torch.tensor([0.0, 1.0, 9.0]).double()
    winners, losers = pref.compare(p, gold, 20_000, generator())
    one = ((winners == 1) & (losers == 0)).sum().item()
    two = ((winners == 0) & (losers == 1)).sum().item()
    assert abs(one / (one + two) - 1 / (1 + math.exp(-1))) < 0.03
    assert abs((winners == losers).double().mean().item() - 0.375) < 0.02


@cases(seeds, st.integers(1, 4))
def test_best_of_n_by_enumeration(seed, n):
    p, reward = drawn(seed, 4)
    wanted = torch.zeros(4).double()
    for draws in map(list, itertools.product(range(4), repeat=n)):
        best = (reward[draws] == reward[draws].max()).double()
        share = p[draws].prod() * best / best.sum()
        wanted.index_add_(0, torch.tensor(draws), share)
    got = pref.best_of_n(p, reward, n)
    close(got, wanted, 1e-10)
    assert pref.kl_nats(got, p).item() <= math.log(n) - (n - 1) / n + 1e-9


@cases(seeds, st.floats(0.05, 20))
def test_the_tilt_is_the_best(seed, beta):
    p, reward = drawn(seed)
    q = pref.tilted(p, reward, beta)
    by_hand = p * (reward / beta).exp()
    close(q, by_hand / by_hand.sum())
    close(pref.kl_nats(q, p), kl_divergence(Categorical(q), Categorical(p)), 1e-9)
    never = torch.tensor([0.0, 1, 0, 0, 0, 0]).double()
    close(pref.kl_nats(never, p), -p[1].log())


def test_the_clip():
    old = torch.zeros(4).double()
    new = torch.tensor([0.1, 0.5, -0.5, -0.5], dtype=torch.double)
    new.requires_grad_(True)
    better = torch.tensor([3.0, 2.0, 0.5, -4.0]).double()
    loss = pref.ppo_clip_loss(new, old, better)
    parts = [3 * math.exp(0.1), 2.4, 0.5 * math.exp(-0.5), -3.2]
    close(loss.detach(), torch.tensor(-sum(parts) / 4, dtype=torch.double))
    loss.backward()
    pushed = [-3 * math.exp(0.1) / 4, 0.0, -0.5 * math.exp(-0.5) / 4, 0.0]
    close(new.grad, torch.tensor(pushed, dtype=torch.double))


def test_a_batch_is_used_twice_with_points_above_its_mean():
    plan, seen = Recipe(4, **pref.LONG), []
    with mock.patch.object(pref, "ppo_clip_loss", wraps=pref.ppo_clip_loss) as clip:
        pref.policy_gradient(0, 0.5, plan, lambda k, _: seen.append(k))
    advantages = torch.stack([call.args[2] for call in clip.call_args_list])
    close(advantages.mean(1), torch.zeros(4), 1e-5)
    assert torch.equal(advantages[::2], advantages[1::2]) and seen == [1, 2, 3, 4]
