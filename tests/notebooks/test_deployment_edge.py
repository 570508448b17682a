"""The cells of deployment/edge against the book's reader and `complete`."""

import struct

import torch

from fieldguide.deployment import edge
from fieldguide.transformers.real_model import Llama, LlamaConfig, complete

torch.manual_seed(0)
MODEL = Llama(LlamaConfig(31, 24, 12, 2, 3, 1, 16, 1e-5, 1e4)).eval()


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


def test_a_stream_is_the_whole_answer():
    for ids in [3], [1, 2, 3, 4, 5, 6]:
        said, logits = zip(*edge.answer_steps(MODEL, ids, 9), strict=True)
        assert [*said] == complete(MODEL, ids, 9)
        anew = MODEL(torch.tensor([[*ids, *said]]))[0, len(ids) - 1 : -1]
        torch.testing.assert_close(torch.stack(logits), anew, atol=1e-5, rtol=0)
        assert all(each.is_inference() for each in logits)


def test_nothing_runs_before_it_is_asked_for():
    asked = []

    def choose(logits):
        asked.append(logits.shape)
        return len(asked)

    steps = edge.answer_steps(MODEL, [4], 5, choose)
    assert not asked
    assert next(steps)[0] == 1 and next(steps)[0] == 2
    steps.close()
    assert asked == [(31,), (31,)]


def test_a_token_is_behind_by_what_its_logit_lacks():
    logits = torch.tensor([[1.0, 3.0, 2.5], [0.0, -1.0, -4.0], [5.0, 5.0, 1.0]])
    assert edge.behind_best(logits, [2, 0, 1]).tolist() == [0.5, 0.0, 0.0]
    assert edge.behind_best(logits, [0, 2, 2]).tolist() == [2.0, 4.0, 4.0]
