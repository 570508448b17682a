"""The cells of challenges/preferences against enumeration, closed forms and torch."""

import copy
import functools
import itertools
import math
from unittest import mock

import cells
import pytest
import torch
from cells import cases, close, generator, refuses, refuses_all, seeds
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from fieldguide.challenges import preferences as pref
from fieldguide.transformers.gpt import GPT, GPTConfig
from fieldguide.transformers.training import Recipe

V, END = 4, 3


@functools.cache
def page():
    return cells.run_exercises("challenges/preferences", built=pref)


@functools.cache
def gpt(seed=0):
    config = GPTConfig(V, 4, width=8, heads=2, layers=1)
    model = GPT(config, generator=generator(seed)).double().requires_grad_(False)
    model.token.weight.mul_(30)
    return model


def given(trainer, call, *arguments, **options):
    """What a function returns, and what it gives to what trains, which does nothing."""
    with mock.patch.object(pref, trainer) as train:
        return call(*arguments, **options), train.call_args


def loss_of(call, learner, model, plan):
    """What `descend` lowers; it was given a copy of `model`, and all of it to move."""
    trained, loss, made, recipe = call.args
    assert trained is learner is not model and recipe is plan
    assert alike(learner, model) and all(w.requires_grad for w in learner.parameters())
    own = {id(w) for w in learner.parameters()}
    assert {id(w) for g in made[0].param_groups for w in g["params"]} == own
    return loss


def alike(one, other):
    """Do two models hold the same weights?"""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def drawn(seed, n=6):
    """Probabilities, and rewards with a tie."""
    p = torch.rand(n, generator=generator(seed), dtype=torch.double) + 0.05
    reward = torch.randn(n, generator=generator(seed + 1), dtype=torch.double)
    reward[0] = reward[-1]
    return p / p.sum(), reward


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
    assert pref.in_words(ids[0]) == "(silence)"
    row = torch.tensor([5, 1, 2, 5, 5, 5])
    assert pref.in_words(row) == "So sorry! Restart the router."
    every = "Hello! So sorry! Restart the router. Buy a new one. Who knows."
    assert pref.in_words(torch.tensor([5, 0, 1, 2, 3, 4])) == every


def written(dice):
    """What agents write whose dice show this: (N, 8) to (N, 6)."""
    with mock.patch.object(torch, "rand", return_value=dice):
        return pref.written_replies(len(dice), generator())


def test_an_agent_says_what_the_dice_allow():
    table = []
    for place in range(8):
        dice = torch.ones(100, 8)
        dice[:, place] = (torch.arange(100) + 0.5) / 100
        said = written(dice)[:, 1:]
        assert (said[:, 1:] == pref.END).all()  # one phrase at most
        spoken = said[:, 0][said[:, 0] != pref.END]
        assert len(spoken.unique()) == 1
        table.append((spoken[0].item(), len(spoken)))
    hello, sorry, who_knows = [(0, 50)], [(1, 45), (1, 6)], [(4, 30)]
    restart, buy, sorry_again = [(2, 60), (2, 45)], [(3, 30)], [(1, 8)]
    assert table == hello + sorry + who_knows + restart + buy + sorry_again
    assert written(torch.zeros(1, 8)).tolist() == [[5, 0, 1, 1, 4, 2]]  # five fit
    assert written(torch.ones(1, 8)).tolist() == [[5] * 6]
    with mock.patch.object(pref, "OFTEN", [0.0] * 8):
        assert written(torch.zeros(1, 8)).tolist() == [[5] * 6]


def test_what_agents_wrote():
    ids = pref.written_replies(2000, generator())
    assert ids.shape == (2000, 6) and (ids[:, 0] == pref.END).all()
    ended = (ids[:, 1:] == pref.END).int()
    assert (ended.diff(dim=1) >= 0).all()  # nothing after an end
    counts = pref.phrase_counts(ids).mean(0)
    wanted = torch.tensor([0.5, 0.59, 1.05, 0.3, 0.3]).double()
    close(counts, wanted, 0.08)
    assert torch.equal(ids, pref.written_replies(2000, generator()))


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
    whole = {tuple(r[: r.index(end, 1) + 1] if end in r[1:] else r): v
             for r, v in zip(rows, got.tolist(), strict=True)}  # fmt: skip
    assert math.isclose(sum(map(math.exp, whole.values())), 1, rel_tol=1e-9)


@cases(seeds, st.floats(0, 1))
def test_bradley_terry_is_cross_entropy(seed, share):
    a, b = torch.randn(2, 7, generator=generator(seed), dtype=torch.double)
    lead = a - b
    share = torch.full_like(a, share)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(lead, share)
    close(pref.bradley_terry_loss(a, b, share), bce)
    close(pref.bradley_terry_loss(a, b), -lead.sigmoid().log().mean())
    ref = torch.randn(2, 7, generator=generator(seed + 1), dtype=torch.double)
    by_hand = 0.3 * ((a - ref[0]) - (b - ref[1]))
    bce = torch.nn.functional.binary_cross_entropy_with_logits(by_hand, share)
    close(pref.dpo_loss(a, b, *ref, 0.3, share), bce)
    close(pref.dpo_loss(a, b, *ref, 0.3), -by_hand.sigmoid().log().mean())


def test_a_reward_is_found_and_contradictions_are_refused():
    eye = torch.eye(3).double()
    wins = [(0, 1)] * 3 + [(1, 0)] + [(1, 2)] * 3 + [(2, 1)]
    chosen, rejected = (eye[[w[k] for w in wins]] for k in (0, 1))
    weights = pref.fit_reward(chosen, rejected, 0.0)
    close(weights[0] - weights[1], torch.tensor(math.log(3)).double(), 1e-2)
    close(weights[1] - weights[2], torch.tensor(math.log(3)).double(), 1e-2)
    always = pref.fit_reward(eye[:1], eye[1:2])
    assert always.isfinite().all() and always[0] > always[1] and always[2] == 0
    assert always.abs().max() < pref.fit_reward(eye[:1], eye[1:2], 0.0).abs().max()
    around = eye, eye[[1, 2, 0]]
    refuses("chosen", pref.fit_reward, *around, says="contradict")
    both = eye[[0, 1]], eye[[1, 0]]
    refuses("chosen", pref.fit_reward, *both, says="contradict")


def test_a_coin_is_hardly_worse():
    """With 527 of 1,000 the chances explain 2 x 0.027 ** 2 nats more, about."""
    eye = torch.eye(2).double()

    def fit(wins):
        won = (torch.arange(1000) >= wins).long()
        return pref.fit_reward(eye[won], eye[1 - won])

    weights = fit(527)
    odds = torch.tensor(math.log(527 / 473)).double()
    close(weights[0] - weights[1], odds, 1e-3)
    assert not weights.requires_grad
    with cells.refusal("contradict"):
        fit(515)


def test_how_a_reward_is_fitted():
    eye = torch.eye(3).double()
    for options, decay in ({}, 1e-3), ({"decay": 0.25}, 0.25):
        idle = mock.patch.object(pref, "descend")
        with idle as descend, cells.refusal("contradict each other$"):
            pref.fit_reward(eye[:1], eye[1:2], **options)
        judge, loss, made, recipe = descend.call_args.args
        assert [tuple(w.shape) for w in judge.parameters()] == [(1, 3)]
        assert loss().item() == pytest.approx(math.log(2))
        assert recipe == Recipe(300, final=0.0)
        (group,) = made[0].param_groups
        assert len(made) == 1 and type(made[0]) is torch.optim.AdamW
        assert group["params"] == [judge.weight]
        assert (group["lr"], group["weight_decay"]) == (0.1, decay)


def test_comparisons_follow_the_customers():
    p = torch.tensor([0.5, 0.25, 0.25]).double()
    gold = torch.tensor([0.0, 1.0, 9.0]).double()
    winners, losers = pref.compare(p, gold, 20_000, generator())
    assert not ((winners == 0) & (losers == 2)).sum() > 20
    one = ((winners == 1) & (losers == 0)).sum().item()
    two = ((winners == 0) & (losers == 1)).sum().item()
    assert abs(one / (one + two) - 1 / (1 + math.exp(-1))) < 0.03
    assert abs((winners == losers).double().mean().item() - 0.375) < 0.02
    again = pref.compare(p, gold, 20_000, generator())
    assert torch.equal(again, torch.stack([winners, losers]))
    hopeless = torch.tensor([0.0, 1e3, 1e3]).double()
    with mock.patch.object(torch, "rand", return_value=torch.zeros(500)):
        winners, losers = pref.compare(p, hopeless, 500, generator())
    assert not ((winners == 0) & (losers != 0)).any()


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
    away = pref.kl_nats(got, p).item()
    assert away <= math.log(n) - (n - 1) / n + 1e-9
    noise = reward + torch.tensor([0, 0, 0, 1e-13])
    close(pref.best_of_n(p, noise, n), got)
    close(pref.best_of_n(3 * p, reward, n), got)
    close(pref.best_of_n(p, reward, 1), p)


def test_best_of_n_at_the_ends():
    four = torch.full((4,), 0.25, dtype=torch.double)
    best = pref.best_of_n(four, torch.arange(4.0), 16)
    assert round(pref.kl_nats(best, four).item(), 3) == 1.330
    assert pref.best_of_n(four.float(), torch.arange(4.0), 2).dtype == torch.float32
    gone = torch.tensor([0.0, 0.5, 0.5]).double()
    close(
        pref.best_of_n(gone, torch.tensor([5.0, 1, 0]), 3)[0],
        torch.tensor(0.0).double(),
    )
    rare = torch.tensor([1.5e-300, 1.0], dtype=torch.double)
    least = pref.best_of_n(rare, torch.arange(2.0), 1)[0].item()
    assert least / 1.5e-300 == pytest.approx(1)
    many = pref.best_of_n(four, torch.arange(4.0), 10_000)
    assert many[3] == 1 and pref.kl_nats(many, four).item() == pytest.approx(
        math.log(4)
    )


def test_nine_digits_make_a_tie():
    half = torch.full((2,), 0.5).double()
    for apart, top in (4e-10, 0.5), (2e-9, 0.75):
        reward = torch.tensor([1, 1 + apart], dtype=torch.double)
        best = pref.best_of_n(half, reward, 2)
        close(best, torch.tensor([1 - top, top]).double())


def test_the_distance_of_what_is_never_said():
    q, p = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]).double()
    close(pref.kl_nats(q, p), torch.tensor(2.0).double().log())
    close(pref.kl_nats(2 * q, 3 * p), torch.tensor(2.0).double().log())
    assert 100 < pref.kl_nats(p, q) < 1000  # what q never says is far away
    close(pref.kl_nats(p, p), torch.tensor(0.0).double())


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
    apart = pref.gap(q, p)
    assert apart == pytest.approx((q - p).clamp(min=0).sum().item())
    assert type(apart) is float


def test_dpo_on_a_table_finds_the_tilt():
    p, reward = drawn(3, 5)
    pairs = torch.combinations(torch.arange(5)).T
    share = (reward[pairs[0]] - reward[pairs[1]]).sigmoid()
    table = p.log().clone().requires_grad_(True)
    found = torch.optim.LBFGS([table], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        found.zero_grad()
        now, ref = table.log_softmax(0)[pairs], p.log()[pairs]
        value = pref.dpo_loss(*now, *ref, 0.5, share)
        value.backward()
        return value

    found.step(loss)
    wanted = pref.tilted(p, reward, 0.5)
    assert pref.gap(table.detach().softmax(0), wanted) < 0.001


def test_the_clip():
    old = torch.zeros(4).double()
    new = torch.tensor([0.1, 0.5, -0.5, -0.5], dtype=torch.double)
    new.requires_grad_(True)
    better = torch.tensor([3.0, 2.0, 0.5, -4.0]).double()
    loss = pref.clipped_loss(new, old, better, 0.2)
    parts = [3 * math.exp(0.1), 2.4, 0.5 * math.exp(-0.5), -3.2]
    close(loss.detach(), torch.tensor(-sum(parts) / 4, dtype=torch.double))
    loss.backward()
    pushed = [-3 * math.exp(0.1) / 4, 0.0, -0.5 * math.exp(-0.5) / 4, 0.0]
    close(new.grad, torch.tensor(pushed, dtype=torch.double))
    default = pref.clipped_loss(new.detach(), old, better)
    close(default, loss.detach())


@pytest.mark.parametrize("end", [1, 3])
def test_drawn_replies(end):
    model, count = gpt(), 4000
    ids = pref.drawn_replies(model, count, generator(), end, 3)
    assert ids.shape == (count, 4) and (ids[:, 0] == end).all()
    assert ((ids[:, 1:] == end).int().diff(dim=1) >= 0).all()
    kinds, times = ids.unique(dim=0, return_counts=True)
    chance = pref.reply_log_probs(model, kinds, end).exp()
    assert (times / count - chance).abs().sum() < 0.1  # twice the total variation
    assert torch.equal(ids, pref.drawn_replies(model, count, generator(), end, 3))


def test_drawn_replies_of_the_replier():
    ids = pref.drawn_replies(pref.replier(), 9, generator())
    assert ids.shape == (9, 6) and (ids[:, 0] == pref.END).all()


def test_the_grade_is_zero_at_the_tilt():
    """A learner that is the model times exp(score / beta) has nothing to gain."""
    model, learner = pref.replier(), pref.new_replier(Recipe(1), generator(1))

    def log_probs(who, ids):
        with torch.no_grad():
            return pref.reply_log_probs(who, ids, pref.END).double()

    def moved(ids):
        return log_probs(learner, ids) - log_probs(model, ids)

    def graded(score, beta):
        sizes = beta, 64, generator()
        ids, old, lead = pref.graded_replies(learner, model, score, *sizes)
        assert ids.shape == (64, 6) and old.dtype == lead.dtype == torch.float32
        assert not old.requires_grad and not lead.requires_grad
        close(old.double(), log_probs(learner, ids), 1e-5)
        return ids, lead.double()

    for _, lead in graded(lambda ids: moved(ids) / 2, 0.5), graded(moved, 1.0):
        close(lead, torch.zeros_like(lead), 1e-4)
    ids, lead = graded(lambda ids: ids[:, 1], 0.0)
    close(lead, ids[:, 1] - ids[:, 1].double().mean(), 1e-5)
    assert torch.equal(ids, pref.drawn_replies(learner, 64, generator()))


def test_a_batch_of_replies_is_used_twice():
    model, plan, draws = pref.replier(), Recipe(4, batch=6, rate=0.01), generator()
    score, seen = (lambda ids: ids), []
    learner, call = given(
        "descend",
        pref.learn_by_reward,
        *(model, score, 0.3, plan, draws, lambda *step: seen.append(step)),
    )
    loss = loss_of(call, learner, model, plan)
    call.kwargs["watch"](3, None)
    assert seen == [(3, learner)]
    ids = pref.all_replies()[[5, 700, 3000]]
    now = pref.reply_log_probs(learner, ids, pref.END)
    lead = torch.tensor([1.0, -3.0, 0.5])
    batch = ids, now.detach(), lead
    with mock.patch.object(pref, "graded_replies", return_value=batch) as graded:
        calls = []
        for _ in range(5):
            value = loss()
            calls.append(graded.call_count)
    assert calls == [1, 1, 2, 2, 3]
    assert graded.call_args.args == (learner, model, score, 0.3, 6, draws)
    close(value, -lead.mean(), 1e-5)
    weights = list(learner.parameters())
    by_hand = torch.autograd.grad(-(lead * now).mean(), weights)
    for pushed, right in zip(torch.autograd.grad(value, weights), by_hand, strict=True):
        close(pushed, right, 1e-5)
    _, call = given("descend", pref.learn_by_reward, model, print, 0.3, plan, draws)
    assert call.kwargs == {"watch": None}


def test_a_comparison_is_drawn_with_its_votes():
    model, plan = pref.replier(), Recipe(3, batch=64, rate=0.01)
    first, second = (pref.all_replies()[i] for i in ([5, 700, 3000], [8, 90, 2000]))
    share = torch.tensor([0.25, 0.5, 0.875]).double()
    learner, call = given(
        "descend",
        pref.learn_from_pairs,
        *(model, first, second, share, 0.3, plan, generator()),
    )
    loss = loss_of(call, learner, model, plan)
    with torch.no_grad():
        learner.token.weight.mul_(1.5)  # as if it had learned
    with mock.patch.object(pref, "dpo_loss", wraps=pref.dpo_loss) as dpo:
        value = loss()
    *four, beta, votes = dpo.call_args.args
    assert beta == 0.3 and value.dtype == votes.dtype == torch.float32
    rows = torch.searchsorted(share, votes.double())
    assert len(rows) == 64 and len(rows.unique()) == 3
    close(votes.double(), share[rows])
    wanted = [
        pref.reply_log_probs(who, ids, pref.END)[rows]
        for who in (learner, model)
        for ids in (first, second)
    ]
    for got, right in zip(four, wanted, strict=True):
        close(got, right, 1e-5)
    lead = 0.3 * ((wanted[0] - wanted[2]) - (wanted[1] - wanted[3]))
    bce = torch.nn.functional.binary_cross_entropy_with_logits(lead, votes)
    close(value, bce, 1e-5)
    assert value.requires_grad


def test_a_reply_ends_where_the_caller_says():
    """A reply's second end, and what follows it, is not compared."""
    ids = torch.tensor([[END, 0, END, 1], [END, 1, 1, 1]])
    plan, votes = Recipe(3, batch=2), torch.ones(2).double()
    losses = []
    for tail in 1, 2:
        ids[0, 3] = tail
        arguments = gpt(), ids, ids.flip(0), votes, 0.3, plan, generator(), END
        learner, call = given("descend", pref.learn_from_pairs, *arguments)
        with torch.no_grad():
            learner.token.weight.mul_(1.5)
        losses.append(call.args[1]())
    close(*losses)


def test_pleasing_is_given_the_judges_score():
    plan, ids = Recipe(3, batch=8), pref.all_replies()[[9, 70, 3000]]
    for who, more in (0, {}), (1, {"who": 1}):
        _, call = given("learn_by_reward", pref.please, 7, 0.25, plan, **more)
        model, score, beta, recipe, draws, watch = call.args
        assert model is pref.replier() and (beta, recipe) == (0.25, plan)
        assert draws.initial_seed() == 7 and watch is None
        close(score(ids), pref.phrase_counts(ids) @ pref.judge_of(who))
    _, call = given("learn_by_reward", pref.please, 7, 0.25, plan, print)
    assert call.args[-1] is print


def test_without_a_leash():
    path, call = given("please", pref.unleashed, 1)
    who, beta, plan, watch, judge = call.args
    assert (who, beta, judge) == (1, 0.0, 1)
    assert plan == Recipe(160, batch=128, rate=3e-4, decay=0.0)
    for step in range(1, 10):
        watch(step, pref.replier())
    at_first = pref.report_on(pref.shares_of(pref.replier()), pref.judged(1))
    assert path == [{"step": step} | at_first for step in (4, 8)]


def test_learning_moves_a_copy_towards_the_tilt():
    model, p = pref.replier(), pref.shares_of(pref.replier())
    before = copy.deepcopy(model)
    wanted, plan = (
        pref.tilted(p, pref.judged(), 0.5),
        Recipe(8, **pref.LONG | {"warmup": 0}),
    )
    seen = []
    by_score = pref.please(0, 0.5, plan, lambda step, copy: seen.append(step))
    by_pairs = pref.from_comparisons(0, plan, 2_000)
    for learner in by_score, by_pairs:
        q = pref.shares_of(learner)
        assert pref.gap(q, wanted) < pref.gap(p, wanted) - 0.05
        assert abs(q.sum().item() - 1) < 1e-9
    assert seen == list(range(1, 9))
    again = pref.shares_of(pref.please(0, 0.5, plan))
    close(again, pref.shares_of(by_score), 1e-6)
    assert alike(before, model)
    path = pref.unleashed(1, 4, every=2)
    assert [r["step"] for r in path] == [2, 4]


def test_pairs_are_drawn_from_the_replier():
    p, counts = pref.shares_of(pref.replier()), pref.phrase_counts
    plan = Recipe(9, batch=8)
    _, call = given("learn_from_pairs", pref.from_comparisons, 6, plan)
    model, first, second, share, beta, recipe, draws = call.args
    assert model is pref.replier() and beta == 0.5 and recipe is plan
    assert draws.initial_seed() == 6
    assert first.shape == second.shape == (40_000, 6)
    lead = (counts(first) - counts(second)) @ pref.judge_of(0)
    close(share, lead.sigmoid(), 1e-6)
    mean = p @ counts(pref.all_replies())
    for ids in first, second:
        close(counts(ids).mean(0), mean, 0.04)
    same = (first == second).all(1).double().mean()
    close(same, p @ p, 0.01)
    _, again = given("learn_from_pairs", pref.from_comparisons, 6, plan)
    assert torch.equal(again.args[1], first) and torch.equal(again.args[2], second)


def test_a_long_training():
    """The settings that the records are made with."""
    slow = {"batch": 256, "rate": 0.003, "warmup": 20, "decay": 0.0, "final": 0.0}
    assert slow == pref.LONG


def test_labels_of_the_judge_and_of_customers():
    counts = pref.phrase_counts
    with mock.patch.object(pref, "learn_from_pairs") as learn:
        for by in "judge", "customers":
            pref.from_labels(by, 0.25, 5000, seed=3)
            pref.from_labels(by, 0.25, 5000, seed=3)
            pref.from_labels(by, 0.25, 5000)
    seen = [call.args for call in learn.call_args_list]
    rates = {"rate": 0.01, "warmup": 20, "decay": 0.0, "final": 0.0}
    for model, first, second, share, beta, plan, _ in seen:
        assert model is pref.replier() and beta == 0.25
        assert plan == Recipe(300, batch=64, **rates)
        assert first.shape == second.shape == (5000, 6) and share.shape == (5000,)
    assert [each[-1].initial_seed() for each in seen] == [3, 3, 0, 3, 3, 0]
    for one, same, other in seen[:3], seen[3:]:
        assert torch.equal(one[1], same[1]) and not torch.equal(one[1], other[1])
    seen = seen[::3]
    _, first, second, share, *_ = seen[0]
    lead = (counts(first) - counts(second)) @ pref.judge_of(0)
    close(share, lead.sigmoid(), 1e-6)
    _, first, second, share, *_ = seen[1]
    assert (share == 1).all()
    lead = pref.gold_reward(counts(first)) - pref.gold_reward(counts(second))
    won = (lead > 0).sum() / (lead != 0).sum()
    assert abs(won - 0.8) < 0.03


def test_a_new_replier():
    model = pref.new_replier(Recipe(1), generator(3))
    sizes = {"width": 32, "heads": 2, "layers": 1, "bias": False}
    assert model.config == GPTConfig(6, 6, **sizes)
    matrices, norms, tables = 12 * 32**2, 3 * 32, 2 * 6 * 32
    count = sum(w.numel() for w in model.parameters())
    assert count == matrices + norms + tables
    assert alike(model, pref.new_replier(Recipe(1), generator(3)))
    assert not alike(model, pref.new_replier(Recipe(1), generator(4)))
    turned = pref.new_replier(Recipe(1, positions="rotary"), generator())
    assert turned.config.positions == "rotary"
    with mock.patch.object(pref, "MOST", 3):
        config = pref.new_replier(Recipe(1), generator()).config
    assert (config.vocab, config.context) == (6, 4)


def test_the_reference_is_one_and_not_trained():
    model = pref.replier()
    assert pref.replier() is model
    assert not any(w.requires_grad for w in model.parameters())
    free = copy.deepcopy(model).requires_grad_(True)
    p = pref.shares_of(free)
    assert p.dtype == torch.double and not p.requires_grad
    ids = pref.all_replies()
    close(p, pref.reply_log_probs(model, ids, 5).exp().double(), 1e-4)
    wrote = pref.phrase_counts(pref.written_replies(4000, generator(1))).mean(0)
    close(p @ pref.phrase_counts(ids), wrote, 0.1)  # it says what agents say


def test_what_the_supervised_stage_trains():
    write = mock.patch.object(pref, "written_replies", side_effect=pref.written_replies)
    with mock.patch.object(pref, "descend", return_value="losses") as descend, write:
        model, losses = pref.teach_replies()
        assert pref.written_replies.call_args.args[0] == 2000
    trained, loss, made, recipe = descend.call_args.args
    assert trained is model and losses == "losses"
    assert made[0].defaults["lr"] == recipe.rate
    assert recipe == Recipe(300, batch=64, rate=0.005, warmup=20, decay=0.0)
    draws = generator(0)
    assert alike(model, pref.new_replier(recipe, draws))
    known = set(map(tuple, pref.written_replies(2000, draws).tolist()))
    ask = mock.patch.object(pref, "reply_log_probs", side_effect=pref.reply_log_probs)
    _, again = given("descend", pref.teach_replies)
    with ask as asked:
        value = loss()
        loss()
        again.args[1]()
    (one, ids, end), (_, others, _), (_, same, _) = (
        call.args for call in asked.call_args_list
    )
    assert torch.equal(same, ids)  # by the seed alone
    assert (
        one is model
        and end == pref.END
        and len(ids) == 64
        and not torch.equal(ids, others)
    )
    assert set(map(tuple, ids.tolist())) <= known
    close(value, -pref.reply_log_probs(model, ids, pref.END).mean(), 1e-5)
    assert not alike(model, given("descend", pref.teach_replies, 20, seed=1)[0][0])


def test_the_supervised_stage():
    model, losses = pref.teach_replies(30)
    assert losses[-1] < losses[0] - 1 and losses.shape == (30,)
    p = pref.shares_of(model)
    close(p.sum(), torch.tensor(1.0).double(), 1e-9)


def test_a_judge_and_its_scale():
    p, counts = pref.shares_of(pref.replier()), pref.phrase_counts(pref.all_replies())
    gold, reward = pref.gold_reward(counts), pref.judged(1)
    close(p @ gold, p @ reward, 1e-9)
    shift = reward - counts @ pref.judge_of(1)
    close(shift, shift.mean().expand_as(shift), 1e-9)
    assert not torch.equal(pref.judge_of(0), pref.judge_of(1))
    close(pref.judged(), pref.judged(0))
    found = pref.report_on(pref.tilted(p, reward, 0.5), reward)
    q = pref.tilted(p, reward, 0.5)
    away = kl_divergence(Categorical(q), Categorical(p)).sqrt().item()
    assert found == pytest.approx(
        {"distance": away, "judge": (q @ reward).item(), "customers": (q @ gold).item()}
    )


def test_a_judge_is_fitted_to_choices_of_customers():
    pairs = torch.tensor([[3, 700], [9, 3000]])
    with (
        mock.patch.object(pref, "compare", return_value=pairs) as compare,
        mock.patch.object(pref, "fit_reward", return_value="weights") as fit,
    ):
        for options, count, seed in ({}, 2000, 0), ({"seed": 4, "count": 9}, 9, 4):
            made = pref.judge_of.__wrapped__(**options)  # not from the cache
            assert made == "weights"
            p, gold, asked, draws = compare.call_args.args
            assert asked == count and draws.initial_seed() == seed
    ids = pref.all_replies()
    close(p, pref.shares_of(pref.replier()))
    close(gold, pref.gold_reward(pref.phrase_counts(ids)))
    for got, places in zip(fit.call_args.args, pairs, strict=True):
        close(got, pref.phrase_counts(ids[places]))


def test_a_distance_below_zero_is_rounding():
    p, reward = pref.shares_of(pref.replier()), pref.judged()
    for away, shown in (-1e-9, 0.0), (0.25, 0.5):
        away = torch.tensor(away).double()
        with mock.patch.object(pref, "kl_nats", return_value=away):
            report = pref.report_on(p, reward)
        assert report["distance"] == pytest.approx(shown)
        assert [type(number) for number in report.values()] == [float] * 3


def test_refusals():
    p, reward = drawn(1)
    good = {"p": p, "reward": reward}
    bad = {"p": [-p, p * 0], "reward": [reward / 0, reward[1:]]}
    refuses_all(pref.best_of_n, good | {"n": 3}, n=[0, -1, 1.5], **bad)
    refuses_all(pref.tilted, good | {"beta": 0.5}, beta=[0, -1.0, math.inf], **bad)
    refuses_all(pref.kl_nats, {"q": p, "p": p}, q=[-p], p=[-p])
    x = torch.zeros(3).double()
    loss = {"chosen": x, "rejected": x, "share": 0.5}
    refuses_all(pref.bradley_terry_loss, loss, share=[-0.1, 1.1], rejected=[x[1:]])
    loss |= {"ref_chosen": x, "ref_rejected": x, "beta": 0.1}
    refuses_all(pref.dpo_loss, loss, beta=[0, -0.1], ref_chosen=[x[1:]])
    step = {"log_p": x, "log_old": x, "advantage": x, "clip": 0.2}
    refuses_all(pref.clipped_loss, step, clip=[0, -1.0], log_old=[x[1:]])
    eye = torch.eye(3).double()
    fit = {"chosen": eye[:2], "rejected": eye[1:], "decay": 0.1}
    refuses_all(pref.fit_reward, fit, chosen=[eye / 0, eye], decay=[-1.0])
    ids = torch.tensor([[END, 0, END]])
    refuses_all(
        pref.reply_log_probs, {"model": gpt(), "ids": ids, "end": END}, end=[-1]
    )
    learn = {"model": pref.replier(), "beta": 0.5, "recipe": Recipe(2, batch=2)}
    learn |= {"generator": generator()}
    score = {"score": print, "watch": print}
    ids = pref.all_replies()[5:8]
    pairs = {"chosen": ids, "rejected": ids, "share": x, "end": 5}
    with mock.patch.object(pref, "descend"):
        refuses_all(pref.learn_by_reward, learn | score, beta=[-0.5, math.inf])
        wrong = {"beta": [0, -0.5], "rejected": [ids[1:]], "share": [x[1:]]}
        refuses_all(pref.learn_from_pairs, learn | pairs, **wrong)


def halves(reward):
    """Who beats whom, a tie counting one half."""
    lead = reward[:, None] - reward
    return (lead > 0).double() + (lead == 0).double() / 2


def search(moved, p, reward, most):
    """The leash at which `moved` of the model is `most`, if it falls with beta."""
    low, high = 0.01, 100.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        far = moved(pref.tilted(p, reward, middle)) > most
        low, high = (middle, high) if far else (low, middle)
    return middle


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("win_rate", "float(best(p, reward, n) @ (reward[:, None] > reward).to(p) @ p)",
         "one half"),
        ("win_rate", "float(best(p, reward, n) @ (reward[None].T >= reward).to(p) @ p)",
         "one half"),
        ("win_rate", "n / (n + 1)", "no ties"),
        ("win_rate", "float(p @ halves(reward) @ p)", "best of n, and"),
        ("win_rate", "float(best(p, reward, n) @ halves(reward) @ best(p, reward, n))",
         "best of n, and"),
        ("win_rate", "float(best(p, reward, n) @ halves(reward).T @ p)", "other one"),
        ("win_rate", "float(p @ halves(reward) @ best(p, reward, n))", "other one"),
        ("win_rate", "float(best(p, reward, n + 1) @ halves(reward) @ p)", "is right"),
        ("implied_reward", "beta * (q / p).log()", "isn't 0"),
        ("implied_reward", "beta * ((q / p).log() - (q / p).log().mean())", "weigh"),
        ("implied_reward", "beta * ((q / p).log() - q @ (q / p).log())", "not of q"),
        ("implied_reward", "beta * ((p / q).log() - p @ (p / q).log())", "upside down"),
        ("implied_reward", "(q / p).log() - p @ (q / p).log()", "leash is missing"),
        ("implied_reward", "p", r"\[-0.7, 0.3, 1.3\] is right, not \[0.5, 0.3, 0.2\]"),
        ("implied_reward", "(beta * (q / p).log()).tolist()", "returns a list"),
        ("implied_reward", "(beta * (q / p).log())[:, None]", r"shape \(3, 1\)"),
        ("implied_reward", "(q / p).log().to(torch.complex64)", "complex"),
        ("leash_for", "100.0", "wrong end"),
        ("leash_for", "search(lambda q: -KL(q, p), p, reward, -most)", "wrong end"),
        ("leash_for", "search(lambda q: GAP(q, p), p, reward, most)", "variation"),
        ("leash_for", "search(lambda q: KL(p, q), p, reward, most)", "new model"),
        ("leash_for", "search(lambda q: KL(q, p) ** 0.5, p, reward, most)", "square"),
        ("leash_for", "2.0", "is right"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    arguments = {"win_rate": "p, reward, n", "implied_reward": "q, p, beta"}
    names = arguments.get(check, "p, reward, most")
    known = {"best": pref.best_of_n, "halves": halves, "search": search}
    known |= {"KL": pref.kl_nats, "GAP": pref.gap, "float": float, "torch": torch}
    cells.is_told_its_cause(page(), check, answer, cause, names, **known)


@cases(seeds, st.floats(0.2, 3), st.floats(0.2, 2))
def test_where_a_form_turns(seed, alpha, beta):
    d = torch.rand(12, generator=generator(seed), dtype=torch.double) * 3 + 0.1
    many = torch.linspace(1e-4, 8, 80_001, dtype=torch.double)
    for name, (bend, top) in page().FORMS.items():
        gain = d * (alpha - beta * (d if "best" in name else d.log()))
        found = page().fit_form(d, gain, bend)
        assert found == pytest.approx([alpha, beta])
        *both, turn, miss = page().fitted(d, gain)[name]
        assert both == pytest.approx(found) and miss < 1e-9
        curve = many * (alpha - beta * (many if "best" in name else many.log()))
        if turn < 8:
            assert turn == pytest.approx(many[curve.argmax()].item(), abs=1e-3)
        assert turn == top(alpha, beta) or turn == pytest.approx(top(alpha, beta))
    off = gain + torch.tensor([1.0] + [-1.0] * 11)
    a, b, _, miss = page().fitted(d, off)["training"]
    assert miss == pytest.approx((off - d * (a - b * d.log())).abs().max().item())


def test_the_best_of_what_training_ends_at():
    p, reward = pref.shares_of(pref.replier()), pref.judged()
    for beta, n in (0, 1), (0.5, 1), (0, 8), (0.5, 8):
        q = pref.tilted(p, reward, beta) if beta else p
        close(page().after_both(beta, n), pref.best_of_n(q, reward, n))


def test_the_records():
    maker = cells.script("preferences")
    gaps = cells.record("preferences", "gaps.json")
    for name in "leashed", "from_comparisons":
        assert len(gaps[name]) == len(maker.SEEDS) and max(gaps[name]) < 0.02
    rows = cells.record("preferences", "labels.json")["rows"]
    wanted = [(*who, leash) for who in maker.WHOSE for leash in maker.LEASHES]
    assert [(row["by"], row["count"], row["leash"]) for row in rows] == wanted
    assert all(len(row["customers"]) == len(maker.FEWER) for row in rows)
    paths = cells.record("preferences", "paths.json")["unleashed"]
    assert len(paths) == len(maker.JUDGES)
    for path in paths:
        judge = [step["judge"] for step in path]
        assert judge[-1] > judge[0] + 1 and path[-1]["customers"] < 0
