"""The cells of deployment/edge against the book's reader and `complete`."""

import functools
import struct

import torch

from fieldguide.deployment import edge
from fieldguide.transformers.real_model import Llama, LlamaConfig, complete

SMALL = LlamaConfig(31, 24, 12, 2, 3, 1, 16, 1e-5, 1e4)


@functools.cache
def small_model():
    torch.manual_seed(0)
    return Llama(SMALL).requires_grad_(False).eval()


# The file


def block(scale, least, codes):
    """A Q4_1 block, byte by byte."""
    halves = zip(codes[:16], codes[16:], strict=True)
    packed = bytes(low | high << 4 for low, high in halves)
    return struct.pack("<ee", scale, least) + packed


def test_a_block_is_read_as_it_was_written():
    lists = [
        (0.5, -4.0, [k % 16 for k in range(32)]),
        (0.125, 1.5, [15 - k % 16 for k in range(32)]),
        (-2.0, 0.0, [(7 * k + 3) % 16 for k in range(32)]),
    ]
    data = b"".join(block(*each) for each in lists)
    blocks = torch.tensor(list(data), dtype=torch.uint8).view(3, 20)
    expected = [[s * code + m for code in codes] for s, m, codes in lists]
    found = edge.q4_1_weights(blocks)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor(expected))
    assert edge.q4_1_weights(blocks[:0]).shape == (0, 32)


# The loop


def test_a_stream_is_the_whole_answer():
    model = small_model()
    for ids in [3], [1, 2, 3, 4, 5, 6]:
        steps = list(edge.answer_steps(model, ids, 9))
        assert [token for token, _ in steps] == complete(model, ids, 9)
        text = torch.tensor([ids + [token for token, _ in steps]])
        anew = model(text)[0, len(ids) - 1 : -1]
        found = torch.stack([logits for _, logits in steps])
        assert torch.allclose(found, anew, atol=1e-5)
        assert found.shape == (9, 31)
        assert all(logits.is_inference() for _, logits in steps)


def test_nothing_runs_before_it_is_asked_for():
    asked = []

    def choose(logits):
        asked.append(logits.shape)
        return len(asked)

    steps = edge.answer_steps(small_model(), [4], 5, choose)
    assert not asked
    assert next(steps)[0] == 1 and next(steps)[0] == 2
    steps.close()
    assert asked == [(31,), (31,)]
    assert not list(edge.answer_steps(small_model(), [4], 1, choose))[1:]
    assert len(asked) == 3


# Is it the same model?


def test_a_token_is_behind_by_what_its_logit_lacks():
    logits = torch.tensor([[1.0, 3.0, 2.5], [0.0, -1.0, -4.0], [5.0, 5.0, 1.0]])
    assert edge.behind_best(logits, [2, 0, 1]).tolist() == [0.5, 0.0, 0.0]
    assert edge.behind_best(logits, [0, 2, 2]).tolist() == [2.0, 4.0, 4.0]
