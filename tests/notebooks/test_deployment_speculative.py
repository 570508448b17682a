"""The cells of deployment/speculative against enumeration and plain generation."""

import functools
import math

import cells
import pytest
import torch
from cells import cases, generator, refuses, refuses_all, seeds
from hypothesis import strategies as st

from fieldguide.deployment import speculative as spec
from fieldguide.transformers.gpt import GPT, GPTConfig, generate
from fieldguide.transformers.real_model import Llama, LlamaConfig, LlamaFast, complete
from fieldguide.transformers.training import Recipe

V = 11


@functools.cache
def page():
    return cells.run_exercises("deployment/speculative")


@functools.cache
def llama(seed=0, context=64):
    torch.manual_seed(seed)
    sizes = {"vocab": V, "context": context, "width": 16, "layers": 2, "heads": 4}
    config = LlamaConfig(**sizes, kv_heads=2, hidden=24, eps=1e-5, base=1e4)
    model = Llama(config).double().requires_grad_(False)
    for p in model.parameters():
        p.mul_(3) if p.dim() > 1 else None  # far from ties
    return model


@functools.cache
def gpt(seed=0):
    config = GPTConfig(V, 24, width=8, heads=2, layers=1)
    model = GPT(config, generator=generator(seed)).double().requires_grad_(False)
    model.token.weight.mul_(30)
    return model


def shares(seed, *shape):
    return torch.rand(*shape, generator=generator(seed), dtype=torch.double).softmax(-1)


def oracle(text):
    """A draft that knows a text by heart."""
    return lambda ids, n: (text[len(ids) : len(ids) + n], None)


def test_shared():
    for left, right, right_count in (
        ([], [1], 0),
        ([1, 2, 3], [1, 2, 4], 2),
        ([1, 2], [1, 2, 3], 2),
        ([2, 2], [1, 2], 0),
    ):
        assert spec.shared(left, right) == spec.shared(right, left) == right_count


def test_agreed_keeps_what_is_right_and_adds_one():
    own = torch.eye(6)[[3, 1, 4, 1]]
    for guess, new in (
        ([3, 1, 4], [3, 1, 4, 1]),
        ([3, 1, 5], [3, 1, 4]),
        ([0, 1, 4], [3]),
    ):
        assert spec.agreed(own[: len(guess) + 1], guess) == new
    assert spec.agreed(own[:1], []) == [3]


def test_look_up():
    text = [1, 2, 3, 4, 1, 2, 3, 5, 6, 1, 2, 3]
    assert spec.look_up(text, 2) == ([5, 6], None)  # the last place
    assert spec.look_up(text, 9) == ([5, 6, 1, 2, 3], None)
    assert spec.look_up([7, 2, 3, 9, 8, 3, 2, 3], 1) == ([9], None)  # two, not one
    assert spec.look_up([7, 2, 3, 9, 8, 3, 2, 3], 1, longest=1) == ([2], None)
    assert spec.look_up([4, 1, 2, 3, 9, 0, 2, 3, 8, 1, 2, 3], 1) == ([9], None)
    assert spec.look_up([5, 5], 3) == ([5], None)
    for nothing in [], [1], [1, 2, 3]:
        assert spec.look_up(nothing, 3) == ([], None)


@cases(seeds, st.integers(1, 7), st.integers(1, 30))
def test_greedy_text_is_the_models_own(seed, length, count):
    model, ids = llama(), torch.randint(V, (5,), generator=generator(seed)).tolist()
    right = complete(model, ids, count)
    draws = generator(seed)

    def noisy(text, n):  # often right, sometimes not, sometimes short
        known = right[len(text) - len(ids) :][:n]
        wrong = torch.rand(len(known), generator=draws) < 0.3
        guess = [(t + w) % V for t, w in zip(known, wrong.tolist(), strict=True)]
        return guess[: torch.randint(n + 1, (), generator=draws).item()], None

    for draft in noisy, spec.look_up, oracle(ids + right):
        target = spec.CachedTarget(model, len(ids) + count)
        made, passes = spec.speculate(target, ids, count, draft, length)
        assert made == right == [t for _, new in passes for t in new]
    assert len(passes) == math.ceil(count / (length + 1))  # of the oracle


def test_a_target_forgets_what_was_refused_and_other_texts():
    model = llama()
    target = spec.CachedTarget(model, 20)
    for ids, guess in (
        ([1, 2, 3], [4, 5]),
        ([1, 2, 3, 4], [6, 7, 8]),
        ([1, 9], []),
        ([1, 9], [3]),
        ([4, 4, 4, 4], [1]),
    ):
        full = model(torch.tensor([ids + guess]))[0, len(ids) - 1 :]
        cells.close(target(ids, guess), full, 1e-9)
    assert target.room == 20 and spec.CachedTarget(model, 99).room == 64
    read = []
    own = model.residual

    def watched(new, cache):
        read.append(new.size(1))
        return own(new, cache)

    try:
        model.residual = watched
        target = spec.CachedTarget(model, 20)
        target([1, 2, 3], [4, 5])
        target([1, 2, 3, 4, 6], [7])  # 5 was refused: 6 and 7 are new
    finally:
        del model.residual
    assert read == [5, 2]


def test_stop_ends_the_text():
    ids, model = [1, 2, 3], llama()
    right = complete(model, ids, 20)
    stop = right[6]
    first = right.index(stop)
    for draft in spec.look_up, oracle(ids + right):
        target = spec.CachedTarget(model, 23)
        made, passes = spec.speculate(target, ids, 20, draft, 4, stop=[stop])
        assert made == right[:first]
        assert stop in passes[-1][1] and len(passes) <= first + 1


@cases(seeds)
def test_every_token_comes_out_with_the_models_probability(seed):
    p, q = shares(seed, V), shares(seed + 1, V) ** 2
    q, N = q / q.sum(), 40_000
    guess = torch.multinomial(q, N, True, generator=generator(seed))
    args = p.expand(N, V), q.expand(N, V), guess, generator(seed + 1)
    out, kept = spec.accept_or_redraw(*args)
    assert (out.bincount(minlength=V) / N - p).abs().sum() / 2 < 0.015
    overlap = torch.minimum(p, q).sum().item()
    assert abs(kept.double().mean().item() - overlap) < 0.015
    assert (out[kept] == guess[kept]).all()
    lacking = out[~kept]
    assert (p[lacking] > q[lacking]).all()


def test_an_exact_draft_is_always_kept():
    p = torch.tensor([0.5, 0.25, 0.25, 0.0]).double()
    guess = torch.tensor([0, 1, 2] * 50)
    out, kept = spec.accept_or_redraw(p.expand(150, 4), p.expand(150, 4), guess)
    assert kept.all() and (out == guess).all()
    q = torch.tensor([0.0, 0.0, 0.0, 1.0]).double()  # what can't be said
    three = torch.full((150,), 3)
    out, kept = spec.accept_or_redraw(p.expand(150, 4), q.expand(150, 4), three)
    assert not kept.any() and (out < 3).all()


def test_drawn_texts_have_the_models_law():
    """All texts of two tokens, by the loop itself, against the model's own law."""
    target, small = spec.PlainTarget(gpt()), gpt(1)
    first = gpt()(torch.tensor([[1, 2]]))[0, -1].softmax(-1)
    second = gpt()(torch.tensor([[1, 2, t] for t in range(V)]))[:, -1].softmax(-1)
    law = (first[:, None] * second).flatten()
    for draft in spec.model_draft(small, 1.0, generator(3)), oracle([1, 2, 4, 4]):
        judge, N, found = spec.sampled(1.0, generator(4)), 1500, []
        for _ in range(N):
            (a, b), _ = spec.speculate(target, [1, 2], 2, draft, 3, judge)
            found.append(V * a + b)
        counts = torch.tensor(found).bincount(minlength=V * V)
        expected = N * law
        chi = ((counts - expected) ** 2 / expected)[expected > 3].sum().item()
        assert chi < 2 * (expected > 3).sum().item() + 20


def test_temperature_reaches_the_judge_and_the_draft():
    ids, model = [1, 2, 3], gpt()
    judge, draft = spec.sampled(1e-3), spec.model_draft(model, 1e-3)
    target = spec.PlainTarget(model)
    made, passes = spec.speculate(target, ids, 12, draft, 3, judge)
    own = generate(model, torch.tensor(ids), 12, temperature=1e-3)[3:].tolist()
    assert made == own and len(passes) == 3
    guess, q = draft(ids, 2)
    assert q.shape == (2, V) and guess == own[:2] and q.amax() > 0.999
    warm = spec.model_draft(model, 1.0, generator())(ids, 2)[1]
    cells.close(warm[0], model(torch.tensor([ids]))[0, -1].softmax(-1))


def test_expected_tokens_and_speed_up():
    for a, g in (0.75, 7), (0.3, 4), (0.0, 5), (0.9, 0):
        cells.close(spec.expected_tokens(a, g), (1 - a ** (g + 1)) / (1 - a))
        right = spec.expected_tokens(a, g) / (1 + 0.1 * g)
        cells.close(spec.speed_up(a, g, 0.1), right)
    assert spec.expected_tokens(1.0, 3) == 4
    assert f"{spec.expected_tokens(0.75, 7):.3f}" == "3.600"


def test_states_make_the_logits_and_the_hook_goes():
    model, ids = gpt(), torch.tensor([[1, 2, 3]])
    logits, states = spec.with_states(model, ids)
    cells.close(logits, states @ model.token.weight.T)
    assert not model.norm._forward_hooks
    target = spec.PlainTarget(model)
    cells.close(target([1, 2], [3]), logits[0, 1:])
    cells.close(target.states, states[0])
    assert target.room == 24 and target([1], []).shape == (1, V)


def test_a_head_learns_the_token_after_the_next():
    model = gpt()
    text = torch.tensor([1, 5, 7, 2] * 40)
    recipe = Recipe(60, batch=4, rate=1e-2)
    head, losses = spec.train_head(model.float(), text, recipe, generator())
    again = spec.train_head(model, text, recipe, generator())[1]
    assert losses[-1] < 0.1 < losses[0] and torch.equal(losses, again)
    target = spec.PlainTarget(model)
    draft = spec.head_draft(head, target, 0.01, generator())
    assert draft([1, 5], 1) == ([], None)
    target([1, 5], [])
    guess, q = draft([1, 5, 7], 1)  # from the state at 5, and 7
    assert guess == [2] and q.shape == (1, V)
    ids = text[:12].view(2, 6)
    _, states = spec.with_states(model, ids)
    logits = head(states[:, :4], ids[:, 1:5], model.token.weight)
    by_hand = -logits.log_softmax(-1).gather(-1, ids[:, 2:, None]).mean()
    cells.close(spec.head_loss(head, model, ids), by_hand, 1e-6)
    model.double()


def test_the_quick_form_is_the_model():
    model = llama()
    quick, ids = spec.SeveralFast(model), [1, 2, 3, 4]
    targets = [spec.CachedTarget(m, 40) for m in (model, quick)]
    for guess in [5, 6, 7], [], [8]:
        ours, fast = (target(ids, guess) for target in targets)
        cells.close(ours, fast, 1e-9)
        ids = [*ids, 9]
    assert isinstance(quick, LlamaFast)
    two = torch.tensor([[1, 2, 3], [3, 2, 1]])
    cells.close(quick.residual(two), model.residual(two))
    assert complete(quick, [1, 2], 9) == complete(model, [1, 2], 9)


def test_refusals():
    target, model = spec.CachedTarget(llama(), 16), gpt()
    good = {"target": target, "ids": [1, 2], "count": 5, "draft": spec.look_up}
    good |= {"length": 3}
    long = {"ids": [[], [1] * 12, [1, V]], "count": [15], "length": [0, -1, 1.5]}
    refuses_all(spec.speculate, good, **long)
    refuses("ids", spec.speculate, target, [1] * 12, 5, spec.look_up, 3, says="most 16")
    other = {
        "another vocabulary": lambda ids, n: ([V], None),
        "too long": lambda ids, n: ([1] * (n + 1), None),
        "no ids": lambda ids, n: ([1.0], None),
    }
    for draft in other.values():
        refuses("guess", spec.speculate, target, [1, 2], 5, draft, 3, says="vocabulary")
    wide = lambda ids, n: ([1], torch.ones(1, V + 1))  # noqa: E731
    refuses("q", spec.speculate, target, [1, 2], 5, wide, 3, says=f"1 rows of {V}")
    for function in spec.sampled, functools.partial(spec.model_draft, model):
        for bad in 0.0, -1.0, math.nan:
            with cells.refusal("temperature"):
                function(temperature=bad)
    refuses("g", spec.expected_tokens, 0.5, -1)
    refuses("a", spec.speed_up, 1.5, 2, 0.1)
    refuses("cost", spec.speed_up, 0.5, 2, -0.1)


def test_an_empty_draft_still_writes():
    target = spec.CachedTarget(llama(), 16)
    made, passes = spec.speculate(target, [1], 6, lambda ids, n: ([], None), 4)
    assert made == complete(llama(), [1], 6) and len(passes) == 6


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("tokens_a_pass", "1 + sum(rates)", "all before it"),
        ("tokens_a_pass", "rates[0] + rates[0] * rates[1]", "model's own"),
        ("tokens_a_pass", "sum(rates)", "kept in a row"),
        ("tokens_a_pass", "1 + math.prod(rates)", "right whole"),
        ("tokens_a_pass", "9.0", "is right"),
        ("redrawn", "p", "must not come back"),
        ("redrawn", "p * (p != p[token])", "add up to 1"),
        ("redrawn", "(p != p[token]).double() / (len(p) - 1)", "proportions"),
        ("redrawn", "1 - p", "is right"),
        ("best_length", "most", "longest isn't"),
        ("best_length", "4 if cost == 0.05 else 1", "is right|not guessing"),
        ("best_length", "99", "is right"),
    ],
)
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    arguments = {"tokens_a_pass": "rates", "redrawn": "p, token"}
    names = arguments.get(check, "a, cost, most")
    cells.is_told_its_cause(page(), check, answer, cause, names, math=math)


def test_the_records_are_of_the_stored_weights():
    record = cells.record("speculative", "drafts.json")
    maker = cells.script("speculative")
    assert len(record["accepted"]) == len(maker.SEEDS)
    times = cells.record("speculative", "times.json")
    assert set(times["texts"]) == set(spec.REQUESTS)
    assert times["pass_ms"]["8"] < 8 * times["pass_ms"]["1"]
