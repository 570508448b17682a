"""The cells of efficiency/architectures against torch, loops in Python and counts."""

import functools
import math
from unittest import mock

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from cells import cases, close, random, seeds

from fieldguide.efficiency import architectures as arch
from fieldguide.transformers import attention

sizes = st.integers(1, 6)


def some_mask(kind, T, S, seed=0):
    """None, causal, or drawn: each may look somewhere."""
    drawn = random(T, S, seed=seed + 3) > 0
    drawn[:, 0] = True
    causal = torch.ones(T, S, dtype=torch.bool).tril()
    return {"none": None, "causal": causal, "drawn": drawn}[kind]


kinds = st.sampled_from(["none", "causal", "drawn"])
LINEAR = ["linear_attention", "linear_recurrence"]
GATED = ["gated_attention", "gated_recurrence"]


def each(names):
    """The module's functions of these names, as they are now."""
    return [getattr(arch, name) for name in names]


@cases(seed=seeds, sizes=st.lists(sizes, min_size=1, max_size=4), kind=kinds)
def test_merged_answers_are_softmax(seed, sizes, kind):
    q, S = random(3, 2, seed=seed), sum(sizes)
    k, v = random(S, 2, seed=seed + 1), random(S, 4, seed=seed + 2)
    mask = some_mask(kind, 3, S, seed)
    seen = [None] * len(sizes) if mask is None else mask.expand(3, S).split(sizes, 1)
    parts = zip(k.split(sizes), v.split(sizes), seen, strict=True)
    answers = [arch.look(q, *part) for part in parts]
    _, total, blend = functools.reduce(arch.merge_tiles, answers[::-1])
    right, _ = attention.simple_attention(q, k, v, mask=mask, scale=1)
    close(blend / total, right, 1e-10)
    parts = zip((1e6, -1e6), torch.tensor([[2.0], [5.0]]).split(1), strict=True)
    a, b = (arch.look(torch.ones(1, 1), torch.full((1, 1), x), v) for x, v in parts)
    for _, total, blend in arch.merge_tiles(a, b), arch.merge_tiles(b, a):
        assert (blend / total).item() == 2  # no overflow


def test_tiles_that_nobody_sees_are_left_out():
    mask = attention.causal_mask(6)
    mask[4:, :2] = False
    cut = arch.tiles(6, 6, 2, 2, mask.expand(3, 6, 6))
    kept = [(i, j, seen) for i, band in cut for j, seen in band]
    starts = [(i.start, j.start) for i, j, _ in kept]
    assert starts == [(0, 0), (2, 0), (2, 2), (4, 2), (4, 4)]
    assert all(torch.equal(seen, mask[i, j].expand(3, 2, 2)) for i, j, seen in kept)


@cases(seeds, sizes, sizes, sizes, sizes, kinds, st.sampled_from([None, 0.3, -2.0]))
def test_tiles_have_the_answers_and_slopes_of_attention(
    seed, T, S, rows, columns, kind, scale
):
    shapes = (2, T, 3), (2, S, 3), (2, S, 4)
    drawn = [random(*shape, seed=seed).requires_grad_() for shape in shapes]
    options = {"mask": some_mask(kind, T, S, seed), "scale": scale}

    def answers(attend, **options):
        output, _ = attend(*drawn, **options)
        loss = (output * random(*output.shape, seed=9)).sum()
        loss = loss + sum(0 * x.sum() for x in drawn)  # where nothing is seen
        return output, *torch.autograd.grad(loss, drawn)

    right = answers(attention.simple_attention, **options)
    found = answers(arch.tiled_attention, **options, rows=rows, columns=columns)
    close(found, right, 1e-9)


@cases(T=sizes, S=sizes, rows=sizes, columns=sizes)
def test_what_crosses_is_each_band_with_all_keys_and_the_output(T, S, rows, columns):
    q, k, v, seen = random(T, 2), random(S, 2), random(S, 3), []

    def move(array):
        seen.append(array)
        return array

    size = {"rows": rows, "columns": columns, "move": move}
    output, _ = arch.tiled_attention(q, k, v, **size)
    assert sum(x.numel() for x in seen) == (T + math.ceil(T / rows) * S) * (2 + 3)
    last = 2 + 2 * math.ceil(S / columns)  # queries, keys and values, output
    assert torch.equal(torch.cat(seen[last - 1 :: last]), output)
    seen.clear()
    output, _ = arch.tiled_attention(q, k, v, mask=torch.zeros(T, S) > 0, **size)
    assert sum(x.numel() for x in seen) == T * (2 + 3)  # no key, no value
    assert not output.any()


def squares(x):
    """Features of another width."""
    return torch.cat([x.square(), x.new_ones(*x.shape[:-1], 2)], -1)


def gated_by_hand(q, k, v, keep):
    """One sequence, one token at a time."""
    state, output = torch.zeros(k.size(-1), v.size(-1), dtype=v.dtype), []
    for t in range(len(q)):
        state = keep[t] * state + torch.outer(k[t], v[t])
        output.append(q[t] @ state)
    return torch.stack(output)


@cases(seed=seeds, T=sizes)
def test_linear_and_gated_layers_are_recurrences(seed, T):
    q, k, v = random(T, 3, seed=seed), random(2, T, 3, seed=seed + 1), random(T, 4)
    keep, one = random(2, T, seed=seed).sigmoid(), torch.ones(T, 1).double()
    keep[:, T // 2] = 1.0
    for function in each(GATED):
        found, shared = function(q, k, v, keep), function(q, k, v, keep[0])
        for b in range(2):
            close(found[b], gated_by_hand(q, k[b], v, keep[b]), 1e-9)
            close(shared[b], gated_by_hand(q, k[b], v, keep[0]), 1e-9)
    elu = {}, lambda x: F.elu(x) + 1  # unless told
    for options, features in elu, ({"features": squares}, squares):
        for function in each(LINEAR):
            found = function(q, k, v, **options)
            for b in range(2):
                given_ = features(q), features(k[b])
                blend, total = (gated_by_hand(*given_, x, one) for x in (v, one))
                close(found[b], blend / total, 1e-9)


def test_strong_gates_cost_the_later_ones_no_digits():
    """Half of the text forgets all at once, the other half next to nothing."""
    drawn = [random(400, 8, seed=n, dtype=torch.float) for n in range(3)]
    weak = random(200, seed=3, dtype=torch.float).sigmoid() / 50
    drawn.append(torch.cat([torch.full((200,), 1e-6), 1 - weak]))

    def with_slopes(function, dtype):
        given_ = [x.to(dtype).requires_grad_() for x in drawn]
        output = function(*given_)
        return output, *torch.autograd.grad(output.square().sum(), given_)

    table, loop = each(GATED)
    right = with_slopes(loop, torch.double)
    for ours, theirs in zip(with_slopes(table, torch.float), right, strict=True):
        assert (ours - theirs).norm() / theirs.norm() < 2e-6


@cases(seed=seeds, T=st.integers(1, 40))
def test_a_scan_is_the_loop_in_log2_rounds(seed, T):
    keep, note = random(T, 2, 3, seed=seed), random(T, 2, 3, seed=seed + 1)
    with mock.patch.object(torch, "cat", wraps=torch.cat) as joined:
        found, state = arch.scan(keep, note), 0
    assert joined.call_count == 2 * math.ceil(math.log2(T))
    for t in range(T):
        state = keep[t] * state + note[t]
        close(found[t], state, 1e-9)


def test_a_selective_layer_by_hand():
    torch.manual_seed(0)
    layer, x = arch.Selective(5, 3).double(), random(2, 6, 5)
    keep = torch.sigmoid(x @ layer.gate.weight[0] + 4)
    q, v = x @ layer.query.weight.T, x @ layer.value.weight.T
    k = x @ layer.key.weight.T / math.sqrt(3)
    for found in layer(x), *(layer(x, mix=mix) for mix in each(GATED)):
        for b in range(2):
            close(found[b], gated_by_hand(q[b], k[b], v[b], keep[b]), 1e-9)
