"""The cells of challenges/preferences against enumeration, closed forms and torch."""

import functools
import itertools
import math
from unittest import mock

import pytest
import torch
from cells import cases, close, generator, seeds
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from fieldguide.challenges import preferences as pref
from fieldguide.transformers.gpt import GPT, GPTConfig
from fieldguide.transformers.training import Recipe

V, END = 4, 3


@functools.cache
def gpt(seed=0):
    config = GPTConfig(V, 4, width=8, heads=2, layers=1)
    model = GPT(config, generator=generator(seed)).double().requires_grad_(False)
    model.token.weight.mul_(30)
    return model


def drawn(seed, n=6):
    """Probabilities, and rewards with a tie."""
    p = torch.rand(n, generator=generator(seed), dtype=torch.double) + 0.05
    reward = torch.randn(n, generator=generator(seed + 1), dtype=torch.double)
    reward[0] = reward[-1]
    return p / p.sum(), reward


# Replies and what they are worth


def test_the_replies_and_what_they_are_worth():
    ids = pref.all_replies()
    assert ids.shape == (3906, 6) and len(ids.unique(dim=0)) == 3906
    assert (ids[:, 0] == pref.END).all()
    assert (ids[0] == pref.END).all() and ids[-1].tolist() == [5, 4, 4, 4, 4, 4]
    for row in ids[[0, 7, 500, 3905]]:
        said = [i for i in row.tolist() if i != pref.END]
        counts = pref.phrase_counts(row[None])[0]
        assert counts.tolist() == [said.count(k) for k in range(5)]
        gold = sum([0.5, 1.5, 2, -1, -0.5][k] for k in set(said))
        gold -= len(said) - len(set(said))
        assert pref.gold_reward(counts[None]).item() == gold


@cases(seeds)
def test_log_probabilities_of_replies(seed):
    model, end = gpt(seed % 3), seed % V
    rows = [[end, *said] for said in itertools.product(range(V), repeat=3)]
    ids = torch.tensor(rows)
    got = pref.reply_log_probs(model, ids, end)
    steps = model(ids[:, :-1]).log_softmax(-1)
    for row, value, each in zip(rows, got, steps, strict=True):
        total = 0.0
        for t, token in enumerate(row[1:]):
            total += each[t, token].item()
            if token == end:
                break
        assert math.isclose(value.item(), total, rel_tol=1e-9)


def test_the_supervised_stage():
    model, losses = pref.fine_tune_replies(30)
    assert losses[-1] < losses[0] - 1 and losses.shape == (30,)
    close(pref.shares_of(model).sum(), torch.tensor(1.0).double(), 1e-9)
    p, ids = pref.shares_of(pref.reference_model()), pref.all_replies()
    close(p, pref.reply_log_probs(pref.reference_model(), ids, 5).exp().double(), 1e-4)
    wrote = pref.phrase_counts(pref.written_replies(4000, generator(1))).mean(0)
    close(p @ pref.phrase_counts(ids), wrote, 0.1)  # it says what agents say
    drawn = pref.graded_replies(
        pref.reference_model(),
        pref.reference_model(),
        lambda i: i[:, 1],
        0.0,
        4000,
        generator(),
    )[0]
    assert ((drawn[:, 1:] == pref.END).int().diff(dim=1) >= 0).all()
    close(pref.phrase_counts(drawn).mean(0), p @ pref.phrase_counts(ids), 0.1)


# Comparisons


@cases(seeds, st.floats(0, 1))
def test_bradley_terry_is_cross_entropy(seed, share):
    a, b = torch.randn(2, 7, generator=generator(seed), dtype=torch.double)
    share = torch.full_like(a, share)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(a - b, share)
    close(pref.bradley_terry_loss(a, b, share), bce)
    close(pref.bradley_terry_loss(a, b), -(a - b).sigmoid().log().mean())
    ref = torch.randn(2, 7, generator=generator(seed + 1), dtype=torch.double)
    by_hand = 0.3 * ((a - ref[0]) - (b - ref[1]))
    bce = torch.nn.functional.binary_cross_entropy_with_logits(by_hand, share)
    close(pref.dpo_loss(a, b, *ref, 0.3, share), bce)
    close(pref.dpo_loss(a, b, *ref, 0.3), -by_hand.sigmoid().log().mean())


def test_a_reward_is_found():
    eye = torch.eye(3).double()
    wins = [(0, 1)] * 3 + [(1, 0)] + [(1, 2)] * 3 + [(2, 1)]
    chosen, rejected = (eye[[w[k] for w in wins]] for k in (0, 1))
    weights = pref.fit_reward(chosen, rejected, 0.0)
    close(weights[0] - weights[1], torch.tensor(math.log(3)).double(), 1e-2)
    close(weights[1] - weights[2], torch.tensor(math.log(3)).double(), 1e-2)
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


def test_a_judge_and_its_scale():
    p = pref.shares_of(pref.reference_model())
    counts = pref.phrase_counts(pref.all_replies())
    gold, reward = pref.gold_reward(counts), pref.judged(1)
    close(p @ gold, p @ reward, 1e-9)
    shift = reward - counts @ pref.judge_of(1)
    close(shift, shift.mean().expand_as(shift), 1e-9)
    q = pref.tilted(p, reward, 0.5)
    away = kl_divergence(Categorical(q), Categorical(p)).sqrt().item()
    wanted = {"judge": (q @ reward).item(), "customers": (q @ gold).item()}
    assert pref.report_on(q, reward) == pytest.approx({"distance": away} | wanted)


# The best of n, and the KL penalty


@cases(seeds, st.integers(1, 4))
def test_best_of_n_by_enumeration(seed, n):
    p, reward = drawn(seed, 4)
    wanted = torch.zeros(4).double()
    for draws in itertools.product(range(4), repeat=n):
        chance = math.prod(p[i].item() for i in draws)
        top = max(reward[i].item() for i in draws)
        best = [i for i in draws if reward[i].item() == top]
        for i in best:
            wanted[i] += chance / len(best)
    got = pref.best_of_n(p, reward, n)
    close(got, wanted, 1e-10)
    assert pref.kl_nats(got, p).item() <= math.log(n) - (n - 1) / n + 1e-9
    close(pref.best_of_n(p, reward, 1), p)


@cases(seeds, st.floats(0.05, 20))
def test_the_tilt_is_the_best(seed, beta):
    p, reward = drawn(seed)
    q = pref.tilted(p, reward, beta)
    by_hand = p * (reward / beta).exp()
    close(q, by_hand / by_hand.sum())
    close(pref.kl_nats(q, p), kl_divergence(Categorical(q), Categorical(p)), 1e-9)

    def goal(model):
        return model @ reward - beta * pref.kl_nats(model, p)

    other = torch.rand(6, generator=generator(seed + 2), dtype=torch.double)
    for part in 0.01, 1.0:
        assert goal(q) >= goal((1 - part) * q + part * other / other.sum()) - 1e-9
    assert pref.total_variation(q, p) == pytest.approx(
        (q - p).clamp(min=0).sum().item()
    )


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


def test_the_advantage_is_zero_at_the_tilt():
    """A learner that is the model times exp(score / beta) has nothing to gain."""
    model, learner = pref.reference_model(), pref.new_model(Recipe(1), generator(1))

    def log_probs(who, ids):
        with torch.no_grad():
            return pref.reply_log_probs(who, ids, pref.END)

    def half(ids):
        return (log_probs(learner, ids) - log_probs(model, ids)) / 2

    ids, old, lead = pref.graded_replies(learner, model, half, 0.5, 64, generator())
    close(old, log_probs(learner, ids), 1e-5)
    close(lead, torch.zeros_like(lead), 1e-4)
    sizes = 0.0, 64, generator()
    ids, _, lead = pref.graded_replies(learner, model, lambda i: i[:, 1], *sizes)
    close(lead, ids[:, 1] - ids[:, 1].float().mean(), 1e-5)


# Learning


def test_learning_moves_a_copy_towards_the_tilt():
    p = pref.shares_of(pref.reference_model())
    wanted = pref.tilted(p, pref.judged(), 0.5)
    plan, seen = Recipe(8, **pref.LONG | {"warmup": 0}), []
    with mock.patch.object(pref, "graded_replies", wraps=pref.graded_replies) as drew:
        by_score = pref.policy_gradient(
            0, 0.5, plan, lambda step, copy: seen.append(step)
        )
    assert drew.call_count == 4 and seen == [*range(1, 9)]  # each batch used twice
    by_pairs = pref.from_comparisons(0, plan, 2_000)
    for learner in by_score, by_pairs:
        assert (
            pref.total_variation(pref.shares_of(learner), wanted)
            < pref.total_variation(p, wanted) - 0.05
        )
