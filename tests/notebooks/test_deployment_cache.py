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


@functools.cache
def model():
    torch.manual_seed(0)
    return Llama(SIZES).double().eval()


def ids(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(31, (1, count), generator=draw)


def alone(text):
    with torch.inference_mode():
        return model()(text)


@pytest.mark.parametrize("room, sinks", [(4, 0), (4, 3), (12, 1)])
def test_the_mask_is_who_is_kept(room, sinks):
    mask = book.near_mask(9, room, sinks)
    for i, row in enumerate(mask):
        gone = {*range(sinks, i + 1 - room + sinks)}
        assert {*row.nonzero().flatten().tolist()} == {*range(i + 1)} - gone


def test_a_room_for_all_forgets_nothing():
    text = torch.cat([ids(9), ids(9, seed=1)])
    cells.close(book.Nearsighted(model(), 9)(text), alone(text))
    near = book.Nearsighted(model(), 3, 1)(text)
    cells.close(near[:, :3], alone(text)[:, :3])


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
