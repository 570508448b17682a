"""The cells of transformers/induction against loops, torch and arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import contextlib
import copy
import functools
import json
import math
import random
import types
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from cells import fails, refuses, run_exercises, solutions_pass
from hypothesis import given, settings

from fieldguide import check
from fieldguide.transformers import attention, induction, real_model

NOTEBOOK = Path(__file__).parents[2] / "book" / "transformers" / "induction.ipynb"

quick = settings(max_examples=30, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)


def entered(manager):
    """A function that starts the context manager, which checks as it starts."""

    @functools.wraps(manager)
    def start(*arguments):
        with manager(*arguments):
            pass

    return start


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# Scores

SHAPES = st.sampled_from([(), (3,), (2, 3)])


def random_weights(seed, leading, T):
    rng = torch.Generator().manual_seed(seed)
    weights = torch.rand(*leading, T, T, generator=rng, dtype=torch.double).tril()
    return weights / weights.sum(-1, keepdim=True)


@given(seeds, SHAPES, st.integers(2, 9), st.data())
@quick
def test_scores_are_means_of_their_cells(seed, leading, T, data):
    weights = random_weights(seed, leading, T)
    rows = range(1, T)
    cells = [weights[..., i, 0] for i in rows]
    close(induction.sink_score(weights), torch.stack(cells).mean(0))
    cells = [weights[..., i, i - 1] for i in rows]
    close(induction.previous_token_score(weights), torch.stack(cells).mean(0))
    if T > 2:
        period = data.draw(st.integers(2, T - 1))
        cells = [weights[..., i, i - period + 1] for i in range(period, T)]
        expected = torch.stack(cells).mean(0)
        close(induction.induction_score(weights, period), expected)


@pytest.mark.parametrize("period", [2, 3, 6])
def test_a_perfect_head_scores_one_and_the_others_nothing(period):
    T = 2 * period
    perfect = torch.zeros(T, T)
    perfect[range(period, T), range(1, period + 1)] = 1
    assert induction.induction_score(perfect, period) == 1
    assert induction.sink_score(perfect) == 0
    if period > 2:  # with two tokens what follows is what comes before
        assert induction.previous_token_score(perfect) == 0
    back = torch.zeros(T, T)
    back[range(1, T), range(T - 1)] = 1
    assert induction.previous_token_score(back) == 1
    sink = torch.zeros(T, T)
    sink[:, 0] = 1
    assert induction.sink_score(sink) == 1
    assert induction.induction_score(sink, period) == 0


def test_scores_of_a_head_that_looks_everywhere():
    even = attention.causal_mask(6) / torch.arange(1, 7)[:, None]
    expected = torch.tensor(sum(1 / n for n in range(2, 7)) / 5)
    close(induction.sink_score(even), expected)
    close(induction.previous_token_score(even), expected)
    expected = torch.tensor((1 / 4 + 1 / 5 + 1 / 6) / 3)
    close(induction.induction_score(even, 3), expected)


def test_scores_refuse_what_is_not_square():
    scores = [induction.sink_score, induction.previous_token_score]
    scores.append(functools.partial(induction.induction_score, period=2))
    bad = [[[1.0]], torch.rand(4), torch.rand(3, 4), torch.rand(4, 3)]
    bad += [torch.ones(4, 4).int(), torch.rand(1, 1), torch.rand(2, 4, 5)]
    bad += [torch.tensor(1.0), torch.rand(0, 0), torch.rand(3, 1, 1), None]
    for weights in bad:
        for score in scores:
            try:
                score(weights)
            except ValueError as error:
                shown = check.shown(weights)
                assert str(error).startswith(f"weights = {shown}"), error
            else:
                raise AssertionError(f"accepted {weights!r}")
    assert induction.require_weights(torch.rand(2, 2)) == 2
    assert induction.require_weights(torch.rand(5, 3, 3)) == 3
    assert induction.require_weights(torch.rand(1, 3, 3)) == 3


def test_the_period_lies_inside_the_text():
    weights = torch.rand(6, 6)
    for period in (0, 1, -2, 6, 7, 2.0, "3", True, None):
        refuses("period", induction.induction_score, weights, period)
    for period in (2, 5):
        induction.induction_score(weights, period)


# Losses


@given(seeds, st.integers(1, 3), st.integers(2, 6))
@quick
def test_losses_are_those_of_each_next_token(seed, B, T):
    rng = torch.Generator().manual_seed(seed)
    table = torch.randn(T, 7, 7, generator=rng)
    ids = torch.randint(7, (B, T), generator=rng)

    def model(given):
        return table[torch.arange(T), given]  # (B, T, V): by place and token

    losses = induction.token_losses(model, ids)
    assert losses.shape == (B, T - 1)
    for b in range(B):
        for t in range(T - 1):
            p = table[t, ids[b, t]].softmax(0)[ids[b, t + 1]]
            close(losses[b, t], -p.log(), 1e-5)
    assert not losses.requires_grad


def test_losses_need_two_tokens():
    for ids in ([[1, 2]], torch.tensor([1, 2]), torch.tensor([[1]]), None):
        refuses("ids", induction.token_losses, lambda ids: None, ids)
    refuses("ids", induction.token_losses, None, torch.zeros(1, 2, 3).long())


def test_losses_leave_no_trace_for_a_gradient():
    layer = torch.nn.Linear(4, 4)
    ids = torch.tensor([[1, 2, 3]])
    losses = induction.token_losses(lambda x: layer(F.one_hot(x, 4).float()), ids)
    assert losses.is_inference() and losses.shape == (1, 2)


# The toy


def test_toy_is_attention_added_layer_by_layer():
    torch.manual_seed(0)
    model = induction.AttentionOnly(11, 6, 8, 2, 3)
    ids = torch.tensor([[1, 10, 3, 3], [0, 0, 7, 2]])
    logits, weights = model(ids)
    assert logits.shape == (2, 4, 11) and weights.shape == (3, 2, 2, 4, 4)
    x = model.tokens.weight[ids] + model.places.weight[:4]
    for layer, look in zip(model.layers, weights, strict=True):
        change, own = layer(x, attention.causal_mask(4))
        assert torch.equal(own, look)
        x = x + change
    close(logits, x @ model.unembed.weight.T + model.unembed.bias, 1e-5)
    assert weights.triu(1).eq(0).all()


def test_toy_has_the_sizes_asked_for():
    model = induction.AttentionOnly(11, 6, 8, 2, 3)
    shapes = [tuple(p.shape) for p in model.parameters()]
    expected = [(11, 8), (6, 8), *[(8, 8)] * 12, (11, 8), (11,)]
    assert shapes == expected
    assert all(layer.heads == 2 for layer in model.layers)
    one = induction.AttentionOnly(5, 3, 4, 1, 1)
    assert one(torch.zeros(1, 3).long())[1].shape == (1, 1, 1, 3, 3)


def test_toy_refuses_longer_texts_and_no_layers():
    model = induction.AttentionOnly(5, 3, 4, 1, 1)
    ids = torch.zeros(2, 4).long()
    refuses("ids", model, ids, shown=check.shown(ids))
    for layers in (0, -1, 1.0, "2", True):
        refuses("layers", induction.AttentionOnly, 5, 3, 4, 1, layers)
    for bad in (torch.tensor([[0, 5]]), torch.tensor([[-1]]), torch.ones(1, 2)):
        refuses("ids", model, bad, shown=check.shown(bad))


@given(seeds, st.integers(2, 5), st.integers(0, 3), st.integers(0, 2))
@quick
def test_sequences_repeat_with_a_period_of_their_own(seed, low, more, spare):
    high = low + more
    vocab, context = high + spare, 2 * high + spare + 1
    rng = torch.Generator().manual_seed(seed)
    ids, known = induction.repeating(9, low, high, context, vocab, rng)
    assert ids.shape == (9, context) and known.shape == (9, context - 1)
    assert known.dtype == torch.bool
    assert ids.min() >= 0 and ids.max() < vocab
    for row, sure in zip(ids.tolist(), known.tolist(), strict=True):
        period = row.index(row[0], 1)
        assert low <= period <= high
        assert len(set(row[:period])) == period
        assert row == [row[t % period] for t in range(context)]
        assert sure == [t >= period for t in range(context - 1)]


def test_sequences_use_the_whole_range_and_the_generator():
    rng = torch.Generator().manual_seed(0)
    ids, _ = induction.repeating(300, 2, 4, 9, 6, rng)
    periods = {row.index(row[0], 1) for row in ids.tolist()}
    assert periods == {2, 3, 4} and ids.unique().tolist() == list(range(6))
    again, _ = induction.repeating(300, 2, 4, 9, 6, torch.Generator().manual_seed(0))
    assert torch.equal(ids, again)


def test_sequences_refuse_sizes_that_do_not_fit():
    rng, make = torch.Generator(), induction.repeating
    for low, high in ((1, 4), (0, 4), (5, 4)):
        refuses("low", make, 2, low, high, 9, 6, rng)
    refuses("high", make, 2, 2, 7, 9, 6, rng)
    refuses("high", make, 2, 2, 6, 6, 6, rng)
    make(2, 2, 2, 3, 2, rng)
    make(2, 6, 6, 7, 6, rng)


# Other devices and float types


@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_results_stay_on_the_device_and_in_the_type_of_the_input(kind):
    def results(device):
        ids = torch.tensor([[1, 2, 1, 2]]).to(device)
        model = induction.AttentionOnly(5, 4, 8, 2, 2).to(device, kind)
        logits, weights = model(ids)
        yield from (logits, weights)
        yield induction.token_losses(lambda ids: model(ids)[0], ids)
        yield induction.sink_score(weights)
        yield induction.previous_token_score(weights)
        yield induction.induction_score(weights, 2)

    for known, result in zip(results("cpu"), results("meta"), strict=True):
        assert result.is_meta and result.dtype == known.dtype == kind
        assert result.shape == known.shape and known.isfinite().all()


@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_heads_are_knocked_out_in_every_float_type(kind):
    model = copy.deepcopy(llama()).to(kind)
    with induction.knocked_out(model, [(1, 2)]):
        without = model(IDS)
    assert without.dtype == kind and without.isfinite().all()


# Taking heads out


@functools.cache
def llama():
    """A small Llama with random weights: 3 layers, 4 heads that share 2 keys."""
    torch.manual_seed(0)
    config = real_model.LlamaConfig(
        vocab=13,
        context=16,
        width=16,
        layers=3,
        heads=4,
        kv_heads=2,
        hidden=24,
        eps=1e-5,
        base=100.0,
    )
    return real_model.Llama(config).requires_grad_(False).eval()


IDS = torch.tensor([[1, 5, 2, 7, 5], [3, 3, 12, 0, 1]])


def without_columns(heads):
    """Logits of a copy whose output matrices ignore the heads' columns."""
    twin = copy.deepcopy(llama())
    for layer, head in heads:
        weight = twin.blocks[layer].attention.output.weight
        weight[:, 4 * head : 4 * head + 4] = 0
    return twin(IDS)


@pytest.mark.parametrize(
    "heads", [[(0, 0)], [(2, 3)], [(1, 1), (1, 2)], [(0, 3), (2, 0), (0, 1)], []]
)
def test_a_head_knocked_out_adds_nothing(heads):
    model, before = llama(), llama()(IDS)
    with induction.knocked_out(model, heads):
        out = model(IDS)
    close(out, without_columns(heads), 1e-5)
    assert heads == [] or not torch.allclose(out, before, atol=1e-4)
    assert torch.equal(model(IDS), before), "the model is as it was"


def test_heads_hand_over_what_is_given():
    """The outputs of another text, put in, are what the mixer sees."""
    model = llama()
    given = torch.arange(2 * 5 * 4.0).reshape(2, 5, 4)
    seen = []
    with induction.replaced(model, {(1, 2): given, (1, 0): 7.0, (0, 3): given[0]}):
        for layer in (0, 1):
            mixer = model.blocks[layer].attention.output
            mixer.register_forward_pre_hook(lambda m, x: seen.append(x[0].clone()))
        model(IDS)
    for layer in (0, 1):
        model.blocks[layer].attention.output._forward_pre_hooks.clear()
    first, second = (x.unflatten(-1, (4, 4)) for x in seen)
    assert torch.equal(first[:, :, 3], given[0].expand(2, 5, 4))
    assert torch.equal(second[:, :, 2], given)
    assert second[:, :, 0].eq(7).all()
    assert not second[:, :, 1].eq(7).any() and not first[:, :, :3].eq(0).any()


def test_its_own_output_changes_nothing_and_the_input_is_not_written_to():
    model = llama()
    trace = real_model.trace_layers(model, IDS)
    x = model.blocks[1].attention_norm(trace.residuals[1])
    values = attention.split_heads(model.blocks[1].attention.value(x), 2)
    own = trace.weights[1, :, 3] @ values[:, 1]
    with induction.replaced(model, {(1, 3): own}):
        close(model(IDS), model(IDS))
        same = model(IDS)
    close(same, llama()(IDS), 1e-5)
    hook = induction.replacing({0: 0.0}, 4)
    mixed = torch.ones(1, 2, 16)
    changed = hook(None, (mixed,))
    assert mixed.eq(1).all() and changed[..., :4].eq(0).all()
    assert changed[..., 4:].eq(1).all() and changed.shape == mixed.shape


def test_the_hooks_go_when_the_block_ends_in_an_error():
    model, before = llama(), llama()(IDS)
    out = induction.knocked_out(model, [(0, 0), (1, 1)])
    with contextlib.suppress(KeyError), out:
        raise KeyError
    assert torch.equal(model(IDS), before)
    for block in model.blocks:
        assert not block.attention.output._forward_pre_hooks


def test_layers_and_heads_that_are_not_there_are_refused():
    model, before = llama(), llama()(IDS)
    for layer in (-1, 3, 1.0, "0", True):
        bad = [(0, 0), (layer, 0)]
        refuses(
            "layer",
            entered(induction.knocked_out),
            model,
            bad,
            shown=check.shown(layer),
        )
    for head in (-1, 4, 1.0, None, True):
        bad = [(0, 0), (0, head)]
        refuses(
            "head", entered(induction.knocked_out), model, bad, shown=check.shown(head)
        )
    for output in (torch.zeros(5, 3), torch.zeros(2), torch.zeros(4, 5)):
        bad = {(0, 0): 0, (1, 1): output}
        shown = check.shown(output)
        refuses("output", entered(induction.replaced), model, bad, shown=shown)
    assert torch.equal(model(IDS), before), "nothing was left behind"
    for output in (torch.tensor(1.0), torch.ones(1), torch.ones(5, 4)):
        with induction.replaced(model, {(1, 1): output}):
            assert model(IDS).shape == before.shape


def test_a_heads_output_is_as_wide_as_a_head():
    """Also where a head's width is not the number of heads."""
    config = types.SimpleNamespace(layers=2, heads=3, width=12)
    model = types.SimpleNamespace(config=config)
    given = torch.zeros(5, 4)
    assert induction.heads_by_layer(model, {(1, 2): given}) == {1: {2: given}}
    bad = torch.zeros(5, 3)
    shown = check.shown(bad)
    refuses("output", induction.heads_by_layer, model, {(1, 2): bad}, shown=shown)


# Wilson's interval


@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from([1.0, 1.96, 2.6]))
@quick
def test_the_ends_are_the_rates_that_lie_z_deviations_away(tries, share, z):
    hits = round(share * tries)
    ends = induction.wilson_interval(hits, tries, z)
    for end, sign in zip(ends, (1, -1), strict=True):
        off = sign * (hits / tries - end)
        assert math.isclose(
            off, z * math.sqrt(max(end * (1 - end), 0) / tries), abs_tol=1e-7
        )
        assert -1e-12 <= end <= 1 + 1e-12


def test_intervals_from_tables():
    low, high = induction.wilson_interval(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    low, high = induction.wilson_interval(0, 10)
    assert low == 0 and round(high, 4) == 0.2775
    for hits, tries in ((-1, 4), (5, 4)):
        refuses("hits", induction.wilson_interval, hits, tries)
    for tries in (0, -3):
        refuses("tries", induction.wilson_interval, 0, tries)
    for z in (0, -1.96):
        refuses("z", induction.wilson_interval, 1, 4, z)
    induction.wilson_interval(0, 1)
    induction.wilson_interval(1, 1)


# The real model


def test_the_real_models_heads_are_found():
    """A short list of words, read twice: the best head of each kind."""
    words = torch.tensor([4222, 8330, 12011, 1745, 9906, 20104, 15567, 6713])
    ids = torch.cat([torch.zeros(1).long(), words, words])[None]
    looks = real_model.trace_layers(real_model.load_smollm2(), ids).weights[:, 0]
    scores = [
        induction.sink_score(looks),
        induction.previous_token_score(looks),
        induction.induction_score(looks[..., 1:, 1:], 8),
    ]
    best = [divmod(score.argmax().item(), 9) for score in scores]
    assert best[:2] == [(18, 8), (16, 0)] and best[2][0] in (17, 18)
    assert scores[2][18, 6] > 0.7


# The exercises


@functools.cache
def exercises():
    return run_exercises("transformers/induction", induction)


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()
    fails(
        book.check_duplicate_score,
        induction.induction_score,
        lambda weights, period: weights.diagonal(period, -2, -1).mean(-1),
        lambda weights, period: weights.diagonal(-period, -2, -1).sum(-1),
        lambda weights, period: weights.diagonal(-period, -2, -1).mean(),
        lambda weights, period: weights.diagonal(-period).mean(-1),
    )
    fails(
        book.check_matched_heads,
        lambda heads, count, rng: heads,
        lambda heads, count, rng: [(layer, 4) for layer, _ in heads],
        lambda heads, count, rng: [(layer, 6) for layer, _ in heads],
        lambda heads, count, rng: [(9, h) for h in range(5)],
        lambda heads, count, rng: book.matched_heads(heads, count, rng)[:4],
        lambda heads, count, rng: book.matched_heads(
            heads, count, torch.Generator().manual_seed(0)
        ),
        lambda heads, count, rng: [
            list(head) for head in book.matched_heads(heads, count, rng)
        ],
        lambda heads, count, rng: book.matched_heads(
            heads, count, torch.Generator().manual_seed(random.randrange(10**6))
        ),
    )
    fails(
        book.check_another_pattern,
        lambda weights, values: weights,
        lambda weights, values: torch.ones_like(weights) / len(weights),
        lambda weights, values: weights - 1,
        lambda weights, values: book.another_pattern(weights, values) * 2,
        lambda weights, values: book.another_pattern(weights, values[:, :1]),
        lambda weights, values: book.another_pattern(weights, values).tolist(),
        lambda weights, values: book.another_pattern(weights, values).float(),
    )


def cell(name, **names):
    """What a cell of the notebook defines, given the names it uses."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    (source,) = ("".join(c["source"]) for c in cells if c["id"] == name)
    names = {"torch": torch, "F": F, "math": math, **names}
    exec(source, names)
    return types.SimpleNamespace(**names)


def test_copying_by_search():
    copy_next = cell("copy-next").copy_next
    assert copy_next(".ABCDAB") == "C" and copy_next("AA") == "A"
    assert copy_next("ABA") == "B" and copy_next("ABACA") == "C"
    assert copy_next("ABC") is None and copy_next("A") is None


@pytest.mark.parametrize("gap", [1, 6, 12])
def test_interrupted_texts_hold_the_piece_twice(gap):
    sizes = types.SimpleNamespace(vocab=24, context=24)
    made = cell("interrupted", settings=sizes).interrupted
    ids, known = made(100, gap, torch.Generator().manual_seed(0))
    leads = set()
    for row, sure in zip(ids.tolist(), known.tolist(), strict=True):
        again = sure.index(True)
        assert sure == [again <= t < again + 3 for t in range(23)]
        start = row.index(row[again])
        assert row[start : start + 4] == row[again : again + 4]
        assert again - start == 4 + gap
        leads.add(start)
        rest = row[:again] + row[again + 4 :]
        assert len(set(rest)) == len(rest), "everything else is there once"
    assert leads == {1, 2, 3}


def test_labels_are_dealt_as_the_kind_says():
    deal = cell("deal").deal
    rng = torch.Generator().manual_seed(0)
    which = torch.randint(2, (50, 12), generator=rng)
    shown, right = deal("kind", which, rng)
    assert torch.equal(shown, which) and torch.equal(right, which)
    shown, right = deal("swapped", which, rng)
    assert torch.equal(shown, 1 - which) and torch.equal(right, 1 - which)
    shown, right = deal("invented", which, rng)
    assert torch.equal(shown, right)
    assert {tuple(row.unique().tolist()) for row in shown ^ which} == {(0,), (1,)}
    shown, right = deal("by lot", which, rng)
    assert torch.equal(right, which)
    assert 0.4 < (shown == which).double().mean() < 0.6
    assert len((shown ^ which)[0].unique()) == 2


def test_the_rule_that_needs_no_copying():
    rule = cell("oldest").longest_unseen
    assert rule("ABCD") == "A" and rule("ABCDAB") == "C" and rule("AAB") == "A"


def test_from_how_many_examples_the_coin_is_beaten():
    names = {"wilson_interval": induction.wilson_interval}
    start = cell("few-from", **names).above_the_coin
    hits = torch.ones(40, 4, dtype=torch.bool)
    assert start(hits) == 0
    hits[:, 1] = False
    assert start(hits) == 2
    hits[:20, 3] = False
    assert start(hits) == "never"
    assert start(hits[:, :3]) == 2
