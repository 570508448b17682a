"""The cells of deployment/speculative against enumeration and plain generation."""

import functools
import math
from unittest import mock

import cells
import pytest
import torch
import torch.nn.functional as F
from cells import cases, generator, seeds
from hypothesis import strategies as st

from fieldguide.deployment import speculative as spec
from fieldguide.transformers.gpt import GPT, GPTConfig, generate, next_distribution
from fieldguide.transformers.real_model import Llama, LlamaConfig, complete

V = 11


@functools.cache
def llama(seed=0, context=64, heads=4):
    torch.manual_seed(seed)
    sizes = {"vocab": V, "context": context, "width": 16, "layers": 2, "heads": heads}
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


@pytest.mark.parametrize(
    ("text", "length", "guess"),
    [
        ([1, 2, 3, 4, 1, 2, 3, 5, 6, 1, 2, 3], 2, [5, 6]),  # the last place
        ([1, 2, 3, 4, 1, 2, 3, 5, 6, 1, 2, 3], 9, [5, 6, 1, 2, 3]),
        ([7, 2, 3, 9, 8, 3, 2, 3], 1, [9]),  # two, not one
        ([1, 2, 3, 4, 9, 0, 2, 3, 4, 8, 1, 2, 3, 4], 1, [8]),  # three at most
        ([5, 5], 3, [5]),
        ([1, 2, 3], 3, []),
        ([], 3, []),
    ],
)
def test_look_up(text, length, guess):
    assert spec.look_up(text, length) == (guess, None)


@cases(seeds, st.integers(1, 7), st.integers(1, 30))
def test_greedy_text_is_the_models_own(seed, length, count):
    model = llama().float()
    ids = torch.randint(V, (5,), generator=generator(seed)).tolist()
    right = complete(model, ids, count)
    draws = generator(seed)

    def noisy(text, n):  # often right, sometimes not, sometimes short
        known = right[len(text) - len(ids) :][:n]
        wrong = torch.rand(len(known), generator=draws) < 0.3
        guess = [(t + w) % V for t, w in zip(known, wrong.tolist(), strict=True)]
        return guess[: torch.randint(n + 1, (), generator=draws).item()], None

    nothing = lambda ids, n: ([], None)  # noqa: E731
    for draft in nothing, noisy, spec.look_up, oracle(ids + right):
        target = spec.CachedTarget(model, len(ids) + count)
        made, passes = spec.speculate(target, ids, count, draft, length)
        assert made == right == [t for _, new in passes for t in new]
    assert len(passes) == math.ceil(count / (length + 1))  # of the oracle


def test_a_target_forgets_what_was_refused_and_other_texts():
    model = llama()
    target = spec.CachedTarget(model, 20)
    texts = [1, 2, 3], [1, 2, 3, 4], [1, 9], [1, 9], [4, 4, 4, 4]
    for ids, guess in zip(texts, ([4, 5], [6, 7, 8], [], [3], [1]), strict=True):
        full = model(torch.tensor([ids + guess]))[0, len(ids) - 1 :]
        cells.close(target(ids, guess), full, 1e-5)
    target([1, 2, 3], [4, 5])
    with mock.patch.object(model, "residual", wraps=model.residual) as read:
        target([1, 2, 3, 4, 6], [7])  # 5 was refused: 6 and 7 are new
    assert read.call_args[0][0].tolist() == [[6, 7]]


def test_stop_ends_the_text():
    ids, model = [1, 2, 3], llama()
    right = complete(model, ids, 20)
    first = right.index(right[6])
    target = spec.CachedTarget(model, 23)
    args = target, ids, 20, oracle(ids + right), 4
    made, passes = spec.speculate(*args, stop=[right[6]])
    assert made == right[:first]
    assert right[6] in passes[-1][1] and len(passes) <= first + 1


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
    assert (p > q)[out[~kept]].all()
    same, kept = spec.accept_or_redraw(args[0], args[0], guess)  # an exact draft
    assert kept.all() and (same == guess).all()


def test_drawn_texts_have_the_models_law():
    """All texts of two tokens, by the loop itself, against the model's own law."""
    target, small = spec.PlainTarget(gpt()), gpt(1)
    first = gpt()(torch.tensor([[1, 2]]))[0, -1].softmax(-1)
    second = gpt()(torch.tensor([[1, 2, t] for t in range(V)]))[:, -1].softmax(-1)
    law = (first[:, None] * second).flatten()
    for draft in spec.model_draft(small, 1.0, generator(3)), oracle([1, 2, 4, 4]):
        judge, N, found = spec.sampled(1.0, generator(4)), 800, []
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


def test_a_head_drafts_from_the_state_before_the_last_token():
    model = gpt()
    table, state, ids = model.token.weight, cells.random(3, 8), torch.tensor([1, 2, 3])
    torch.manual_seed(0)
    head = spec.ExtraHead(model).double()
    both = torch.cat([state, table[ids]], -1)
    new = state + head.out(F.gelu(head.mix(both)))
    cells.close(head(state, ids, table), new @ table.T)
    target = spec.PlainTarget(model)
    logits = target([1, 5, 7], [2, 4])
    cells.close(logits, model(torch.tensor([[1, 5, 7, 2, 4]]))[0, 2:])
    cells.close(target.states[2:] @ table.T, logits)
    assert not model.norm._forward_hooks
    logits = head(target.states[1], ids[0] * 7, table)
    _, q = spec.head_draft(head, target)([1, 5, 7], 1)  # 2 and 4 were refused
    cells.close(q, next_distribution(logits, 1.0)[None].detach())


@pytest.mark.parametrize("second", [[2, 4, 6, 8, 1, 3, 5, 7, 2], [3, 4], [6]])
def test_a_head_that_is_used_on_a_second_text_has_read_nothing_of_it(second):
    target = spec.PlainTarget(gpt())
    draft = spec.head_draft(spec.ExtraHead(gpt()).double(), target)
    spec.speculate(target, [1, 5, 7], 4, draft, 1)
    assert draft(second, 1) == ([], None)
    made, _ = spec.speculate(target, second, 4, draft, 1)
    alone = spec.speculate(target, second, 4, lambda *_: ([], None), 1)
    assert made == alone[0]


def test_the_quick_form_is_the_model():
    model = llama().float()
    quick, ids = spec.SeveralFast(model), [1, 2, 3, 4]
    targets = [spec.CachedTarget(m, 40) for m in (model, quick)]
    for guess in [5, 6, 7], [], [8]:
        ours, fast = (target(ids, guess) for target in targets)
        cells.close(ours, fast, 1e-5)
        ids = [*ids, 9]
    cells.close(*(target.cache.store[..., :7, :] for target in targets), 1e-5)
    assert complete(quick, [1, 2], 9) == complete(model, [1, 2], 9)
