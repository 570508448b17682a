"""The cells of challenges/preferences against enumeration, closed forms and torch."""

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


def test_what_agents_wrote():
    ids = pref.written_replies(2000, generator())
    assert ids.shape == (2000, 6) and (ids[:, 0] == pref.END).all()
    ended = (ids[:, 1:] == pref.END).int()
    assert (ended.diff(dim=1) >= 0).all()  # nothing after an end
    counts = pref.phrase_counts(ids).mean(0)
    wanted = torch.tensor([0.5, 0.59, 1.05, 0.3, 0.3]).double()
    close(counts, wanted, 0.08)


@cases(seeds)
def test_log_probabilities_of_replies(seed):
    model = gpt(seed % 3)
    rows = [[END, *said] for said in itertools.product(range(V), repeat=3)]
    ids = torch.tensor(rows)
    got = pref.reply_log_probs(model, ids, END)
    steps = model(ids[:, :-1]).log_softmax(-1)
    for row, value, each in zip(rows, got, steps, strict=True):
        total = 0.0
        for t, token in enumerate(row[1:]):
            total += each[t, token].item()
            if token == END:
                break
        assert math.isclose(value.item(), total, rel_tol=1e-9)
    whole = {tuple(r[: r.index(END, 1) + 1] if END in r[1:] else r): v
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


def test_comparisons_follow_the_customers():
    p = torch.tensor([0.5, 0.25, 0.25]).double()
    gold = torch.tensor([0.0, 1.0, 9.0]).double()
    winners, losers = pref.compare(p, gold, 20_000, generator())
    assert not ((winners == 0) & (losers == 2)).sum() > 20
    one = ((winners == 1) & (losers == 0)).sum().item()
    two = ((winners == 0) & (losers == 1)).sum().item()
    assert abs(one / (one + two) - 1 / (1 + math.exp(-1))) < 0.03
    assert abs((winners == losers).double().mean().item() - 0.375) < 0.02


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
    many = pref.best_of_n(four, torch.arange(4.0), 10_000)
    assert many[3] == 1 and pref.kl_nats(many, four).item() == pytest.approx(
        math.log(4)
    )


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
    assert pref.gap(q, p) == pytest.approx((q - p).clamp(min=0).sum().item())


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
    better = torch.tensor([1.0, 1.0, 1.0, -1.0]).double()
    loss = pref.clipped_loss(new, old, better, 0.2)
    parts = [math.exp(0.1), 1.2, math.exp(-0.5), -0.8]
    close(loss.detach(), torch.tensor(-sum(parts) / 4, dtype=torch.double))
    loss.backward()
    pushed = [-math.exp(0.1) / 4, 0.0, -math.exp(-0.5) / 4, 0.0]
    close(new.grad, torch.tensor(pushed, dtype=torch.double))
    default = pref.clipped_loss(new.detach(), old, better)
    close(default, loss.detach())


def test_drawn_and_graded_replies():
    model, count = gpt(), 4000
    ids = pref.drawn_replies(model, count, generator(), END, 3)
    assert ids.shape == (count, 4) and (ids[:, 0] == END).all()
    assert ((ids[:, 1:] == END).int().diff(dim=1) >= 0).all()
    first = (ids[:, 1] == END).double().mean().item()
    wanted = model(torch.tensor([[END]])).softmax(-1)[0, 0, END].item()
    assert abs(first - wanted) < 0.03
    ids, old, lead = pref.graded_replies(
        pref.replier(),
        pref.replier(),
        lambda ids: ids[:, 1].double(),
        0.5,
        64,
        generator(),
    )
    close(old, pref.reply_log_probs(pref.replier(), ids, pref.END))
    points = ids[:, 1].to(old.dtype)
    close(lead, points - points.mean(), 1e-6)


def test_learning_moves_a_copy_towards_the_tilt():
    model, p = pref.replier(), pref.shares_of(pref.replier())
    before = [w.clone() for w in model.parameters()]
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
    assert all(
        torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)
    )
    path = pref.unleashed(1, 4, every=2)
    assert [r["step"] for r in path] == [2, 4]


def test_labels_of_the_judge_and_of_customers():
    counts = pref.phrase_counts
    with mock.patch.object(pref, "learn_from_pairs") as learn:
        for by in "judge", "customers":
            pref.from_labels(by, 0.25, 5000, seed=3)
    seen = [call.args for call in learn.call_args_list]
    assert len(seen) == 2
    for model, first, second, share, beta, plan, drawn in seen:
        assert model is pref.replier() and beta == 0.25 and plan.steps == 300
        assert first.shape == second.shape == (5000, 6) and share.shape == (5000,)
        assert isinstance(drawn, torch.Generator)
    _, first, second, share, *_ = seen[0]
    lead = (counts(first) - counts(second)) @ pref.judge_of(0)
    close(share, lead.sigmoid(), 1e-6)
    _, first, second, share, *_ = seen[1]
    assert (share == 1).all()
    lead = pref.gold_reward(counts(first)) - pref.gold_reward(counts(second))
    won = (lead > 0).sum() / (lead != 0).sum()
    assert abs(won - 0.8) < 0.03


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
    found = pref.report_on(pref.tilted(p, reward, 0.5), reward)
    q = pref.tilted(p, reward, 0.5)
    away = kl_divergence(Categorical(q), Categorical(p)).sqrt().item()
    assert found == pytest.approx(
        {"distance": away, "judge": (q @ reward).item(), "customers": (q @ gold).item()}
    )


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


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("win_rate", "float(best(p, reward, n) @ (reward[:, None] > reward).to(p) @ p)",
         "one half"),
        ("win_rate", "float(best(p, reward, n) @ (reward[None].T >= reward).to(p) @ p)",
         "one half"),
        ("win_rate", "n / (n + 1)", "no ties"),
        ("win_rate", "0.5", "best of n, and"),
        ("win_rate", "0.123", "is right"),
        ("implied_reward", "beta * (q / p).log()", "isn't 0"),
        ("implied_reward", "beta * ((q / p).log() - (q / p).log().mean())", "weigh"),
        ("implied_reward", "beta * ((q / p).log() - q @ (q / p).log())", "not of q"),
        ("implied_reward", "beta * ((p / q).log() - p @ (p / q).log())", "upside down"),
        ("implied_reward", "p", "is right"),
        ("leash_for", "100.0", "wrong end"),
        ("leash_for", "2.0", "is right"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    arguments = {"win_rate": "p, reward, n", "implied_reward": "q, p, beta"}
    names = arguments.get(check, "p, reward, most")
    known = {"best": pref.best_of_n, "float": float}
    cells.is_told_its_cause(page(), check, answer, cause, names, **known)


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
