"""The cells of deployment/cache against sums by hand, masks and the model itself."""

import dataclasses
import functools
import math

import cells
import pytest
import torch

from fieldguide.deployment import cache as book
from fieldguide.transformers.real_model import Llama, LlamaConfig

SIZES = LlamaConfig(31, 64, 24, 2, 6, 2, 40, 1e-5, 1e4)  # K = 4, 3 queries a key
NUMBERS = 2 * 2 * 2 * 4  # of a token


@functools.cache
def model():
    torch.manual_seed(0)
    return Llama(SIZES).double().eval()


def ids(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(31, (1, count), generator=draw)


def read(cache, *pieces):
    """The logits of ids that are read piece by piece."""
    with torch.inference_mode():
        return torch.cat([model()(piece, cache) for piece in pieces], 1)


def alone(text):
    with torch.inference_mode():
        return model()(text)


# Pages


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_pages_change_no_logit(size):
    pool, text, other = book.PagePool(SIZES, 40, size), ids(11), ids(9, seed=1)
    pool.store = pool.store.double().fill_(math.nan)
    assert pool.store.nbytes == 8 * NUMBERS * 40 * size
    first, second = book.PagedCache(pool), book.PagedCache(pool)
    parts = [read(first, text[:, :5])]  # two texts take turns
    others = read(second, other[:, :4], other[:, 4:])
    parts.append(read(first, text[:, 5:6], text[:, 6:]))
    cells.close(torch.cat(parts, 1), alone(text))
    cells.close(others, alone(other))
    pages = [math.ceil(11 / size), math.ceil(9 / size)]
    assert [len(first.pages), len(second.pages)] == pages
    assert sum(pool.users) == sum(pages) and max(pool.users) == 1
    assert not set(first.pages) & set(second.pages)


@pytest.mark.parametrize("length", [1, 4, 7, 8])
def test_a_shared_beginning_is_lent_and_what_is_begun_is_copied(length):
    pool, text, other = book.PagePool(SIZES, 12, 4), ids(length), ids(6, seed=2)
    pool.store = pool.store.double().fill_(math.nan)
    first = book.PagedCache(pool)
    read(first, text)
    second = book.fork(first)
    full, rest = divmod(length, 4)
    assert second.length == length and second.pool is pool
    assert second.pages[:full] == first.pages[:full]
    assert pool.users.count(2) == full and pool.users.count(1) == 2 * bool(rest)
    mine, ours = read(first, text[:, :1].expand(1, 5)), read(second, other)
    cells.close(ours, alone(torch.cat([text, other], 1))[:, length:])
    again = torch.cat([text, text[:, :1].expand(1, 5)], 1)
    cells.close(mine, alone(again)[:, length:])
    book.release(first)
    assert (first.pages, first.length) == ([], 0)
    assert sum(pool.users) == len(second.pages) and max(pool.users) == 1
    book.release(second)
    assert set(pool.users) == {0}
    taken = [pool.take() for _ in pool.users]
    assert taken == list(range(12))
    with pytest.raises(ValueError):
        pool.take()


# Eight bits


def test_an_8_bit_cache_is_off_by_half_a_step_at_most():
    cache, draw = book.EightBitCache(SIZES, 9, batch=3), cells.random
    assert cache.store.nbytes == NUMBERS * 9 * 3 and cache.store.dtype == torch.int8
    assert cache.scales.nbytes == 2 * (NUMBERS // 4) * 9 * 3
    key, value = draw(3, 2, 9, 4).float(), 100 * draw(3, 2, 9, 4, seed=1).float()
    for start, end in (0, 4), (4, 9):
        cache.length = start
        for layer in 0, 1:
            times = layer + 1
            new = times * key[:, :, start:end], value[:, :, start:end]
            kept = cache.append(layer, *new)
            assert kept.shape == (2, 3, 2, end, 4) and kept.dtype == torch.float32
            for found, exact in zip(kept, (times * key, value), strict=True):
                exact = exact[:, :, :end]
                step = exact.abs().amax(-1, keepdim=True) / 127
                assert ((found - exact).abs() <= step * (0.5 + 127 / 2000)).all()
    assert cache.length == 4


# Forgetting


def test_the_mask_is_who_is_kept():
    page = cells.run_exercises("deployment/cache", book)
    for T, room, sinks in (9, 4, 0), (9, 4, 1), (9, 4, 3), (3, 5, 1), (1, 1, 0):
        mask = book.near_mask(T, room, sinks)
        assert mask.dtype == torch.bool and mask.shape == (T, T)
        for i in range(T):
            assert mask[i].nonzero().flatten().tolist() == page.still_kept(
                i + 1, room, sinks
            )


def test_a_room_for_all_forgets_nothing():
    text = torch.cat([ids(9), ids(9, seed=1)])
    sighted = book.Nearsighted(model(), 9)
    cells.close(sighted(text), alone(text))
    near = book.Nearsighted(model(), 3, 1)(text)
    cells.close(near[:, :3], alone(text)[:, :3])
    assert (near[:, 3:] - alone(text)[:, 3:]).abs().amin() > 0


def test_nothing_but_sinks_is_seen_from_afar():
    text = ids(9)
    other = torch.cat([(text[:, :1] + 1) % 31, text[:, 1:]], 1)  # another beginning
    for sinks, same in (0, True), (1, False):
        last = [book.Nearsighted(model(), 3, sinks)(t)[0, -1] for t in (text, other)]
        assert torch.equal(*last) == same  # two layers look back over 4 tokens


def ring_of(net, text, room, sinks):
    cache = book.WindowCache(net.config, room, sinks)
    cache.store = cache.store.double().fill_(math.nan)
    steps = [book.read_one(net, token, cache) for token in text[0]]
    assert cache.length == text.size(-1) and cache.store.size(-2) == room
    return torch.stack(steps)


@pytest.mark.parametrize(("room", "sinks"), [(1, 0), (4, 0), (20, 2)])
def test_a_ring_gives_the_logits_of_its_mask(room, sinks):
    text = ids(13)  # without sinks, or without forgetting, no key moves
    right = book.Nearsighted(model(), room, sinks)(text)[0]
    cells.close(ring_of(model(), text, room, sinks), right)


@pytest.mark.parametrize(("room", "sinks"), [(4, 1), (5, 3), (2, 1)])
def test_sinks_follow_as_if_what_is_kept_were_read_anew(room, sinks):
    text = ids(13)  # in one layer, a key knows its own token alone
    torch.manual_seed(0)
    lone = Llama(dataclasses.replace(SIZES, layers=1)).double().eval()
    found = ring_of(lone, text, room, sinks)
    for end in range(1, 14):
        last = range(max(sinks, end - room + sinks), end)
        held = text[:, [*range(min(sinks, end)), *last]]
        with torch.inference_mode():
            cells.close(found[end - 1], lone(held)[0, -1])
