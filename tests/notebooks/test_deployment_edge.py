"""The cells of deployment/edge against the book's reader and `complete`."""

import functools
import json
import struct

import cells
import pytest
import torch
from cells import fails, refuses_all

from fieldguide.data import asset, king_james
from fieldguide.deployment import edge
from fieldguide.transformers.real_model import Llama, LlamaConfig, complete

SMALL = LlamaConfig(31, 24, 12, 2, 3, 1, 16, 1e-5, 1e4)


@functools.cache
def page():
    return cells.run_exercises("deployment/edge")


@functools.cache
def small_model():
    torch.manual_seed(0)
    return Llama(SMALL).requires_grad_(False).eval()


# What the page is asked


def test_the_questions_are_those_with_stored_answers():
    for name in "browser.json", "whole.json":
        stored = json.loads(asset("edge", name).read_text(encoding="utf-8"))
        assert [each["question"] for each in stored["answers"]] == edge.QUESTIONS


def test_the_small_model_goes_on_where_its_text_begins():
    assert king_james()[:40].partition(edge.KING)[1]


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


def test_other_blocks_are_refused():
    good = {"blocks": torch.zeros(2, 20, dtype=torch.uint8)}
    wide, signed = torch.zeros(2, 34, dtype=torch.uint8), torch.zeros(2, 20)
    refuses_all(edge.q4_1_weights, good, blocks=[wide, signed, signed.char(), None])


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


def test_a_stream_of_something_else_is_refused():
    good = {"model": small_model(), "ids": [1], "count": 2}
    bad = {"model": [None], "ids": [[], [1.5], [-1], "text"], "count": [0, -1, 1.5]}

    def written(model, ids, count):
        return list(edge.answer_steps(model, ids, count))

    refuses_all(written, good, **bad)
    with pytest.raises(ValueError, match="ids"):  # longer than the context
        list(edge.answer_steps(small_model(), [1] * 20, 9))


# The pace


def test_the_most_tokens_are_bandwidth_over_bytes():
    assert edge.most_tokens(8e9, 16, 60e9) == 3.75
    assert edge.most_tokens(1e9, 4, 1e9) == 2
    assert edge.most_tokens(3, 8, 12) == 4
    good = {"weights": 1e9, "bits": 4, "bandwidth": 1e9}
    refuses_all(edge.most_tokens, good, **{key: [0, -1] for key in good})


# Is it the same model?


def test_a_token_is_behind_by_what_its_logit_lacks():
    logits = torch.tensor([[1.0, 3.0, 2.5], [0.0, -1.0, -4.0], [5.0, 5.0, 1.0]])
    assert edge.behind_best(logits, [2, 0, 1]).tolist() == [0.5, 0.0, 0.0]
    assert edge.behind_best(logits, [0, 2, 2]).tolist() == [2.0, 4.0, 4.0]
    good = {"logits": logits, "ids": [0, 1, 2]}
    bad = {"logits": [logits[0], None], "ids": [[0.5, 1, 2], [-1, 1, 2], "abc"]}
    refuses_all(edge.behind_best, good, **bad)


# The exercises


def test_answers_are_checked():
    here = page()
    for name in "q8_0_weights", "first_answer_s", "ready_text":
        check = here[f"check_{name}"]
        assert check(here[name]) == f"{name} is right."
        fails(check, lambda *_: None)


def halves(blocks):
    return blocks[:, :2].contiguous().view(torch.float16)


def scales_of(blocks):
    return halves(blocks).float()


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (lambda b: scales_of(b) * b[:, 2:], "have a sign"),
        (lambda b: b[:, 2:].contiguous().view(torch.int8).float(), "multiply by"),
        (lambda b: b[:, 2:].contiguous().view(torch.int8), "multiply by"),
        (lambda b: b[:, 2:], "multiply by the scale; and"),
        (lambda b: halves(b) * b[:, 2:].view(torch.int8), "16 bits round"),
        (lambda b: halves(b) * b[:, 2:], "have a sign"),
        (lambda b: torch.zeros(len(b), 32), "other weights"),
    ],
)
def test_slips_of_the_other_format_are_named(answer, cause):
    with pytest.raises(AssertionError, match=cause):
        page()["check_q8_0_weights"](answer)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (lambda s, n, q, a, r, w: s / n + q / r + (a - 1) / w, "a byte has 8"),
        (lambda s, n, q, a, r, w: s / n / 8 + q / r + (a - 1) / w, "other way"),
        (lambda s, n, q, a, r, w: 8 * s / n + q / r + a / w, "first token"),
        (lambda s, n, q, a, r, w: 8 * s / n + (a - 1) / w, "takes time"),
        (lambda s, n, q, a, r, w: q / r + (a - 1) / w, "fetched first"),
        (lambda *_: 7.0, "is right, not 7"),
    ],
)
def test_slips_of_the_wait_are_named(answer, cause):
    with pytest.raises(AssertionError, match=cause):
        page()["check_first_answer_s"](answer)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (lambda data: (data.decode(errors="replace"), b""), "half a character"),
        (lambda data: (data.decode(errors="ignore"), b""), "are lost"),
        (lambda data: ("", data), "shown at once"),
        (lambda data: ("x", data), "is right, not"),
        (lambda data: (data, ""), "and then the bytes"),
        (lambda _: (), "give a pair"),
        (lambda _: (None, b""), "give a pair"),
        (lambda data: ("", b"", data), "give a pair"),
    ],
)
def test_slips_of_half_characters_are_named(answer, cause):
    with pytest.raises(AssertionError, match=cause):
        page()["check_ready_text"](answer)
