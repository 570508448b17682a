"""The cells of transformers/tokens against `tokenizers`, `transformers` and sums."""

import functools
import json
import math
import re
import unicodedata

import hypothesis.strategies as st
import numpy as np
import pytest
import tokenizers
import torch
from cells import fails, refuses_all, run_exercises
from hypothesis import example, given, settings
from tokenizers import models, pre_tokenizers, trainers

from fieldguide import data
from fieldguide.check import answer_of
from fieldguide.transformers import tokens

LETTERS = {byte: letter for letter, byte in data.BYTE_OF.items()}
SAMPLES = [
    "The cat sat on the mat.",
    " leading and  double   spaces ",
    "Hello world! It's 2024, naïve café 🙂.\n  def f(x): return x+1\r\n\t",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|><repo_name>a/b<file_sep>",
    "don't can't I'll WE'VE we've they're I'd I'm 'tis 3.14159 1,234,567",
    "日本語のテキスト مرحبا 👩‍👩‍👧 e\u0301 \U000f1234 ﬀ snake_case __init__",
    "a  5 \n 5\x85x\u2003y\ufeffz\u3000\x1cw\x1e \x1f\xa0",
]

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
# Characters that Unicode has had for long, so that every library knows their kind.
old = st.characters(codec="utf-8").filter(
    lambda c: unicodedata.ucd_3_2_0.category(c) == unicodedata.category(c) != "Cn"
)
texts = st.text(st.characters(codec="utf-8"), max_size=30)
old_texts = st.text(st.one_of(st.sampled_from(" \n\t'stredvml5a_.½"), old), max_size=25)
few = st.text(st.sampled_from("aab b'1\né"), max_size=60)


def library_words():
    digits = pre_tokenizers.Digits(individual_digits=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([digits, to_bytes])


def library(text, merges):
    """What `tokenizers` learns, and a tokenizer of it, its bytes numbered as ours."""
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = library_words()
    options = {"special_tokens": [LETTERS[byte] for byte in range(256)]}
    options |= {"min_frequency": 2, "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, **options)
    learner.train_from_iterator([text], trainer)
    model = json.loads(learner.to_str())["model"]
    pairs = [tuple(pair) for pair in model["merges"]]
    reader = tokenizers.Tokenizer(models.BPE(vocab=model["vocab"], merges=pairs))
    reader.pre_tokenizer = library_words()
    return [tuple(map(tokens.from_letters, pair)) for pair in pairs], reader


@functools.cache
def genesis():
    return data.king_james()[:20_000]


@given(old_texts)
@example("  5 a  b'll 've")
@example("\x1c \x1d\x85 \u2028\u3000x")
@quick
def test_words_are_the_librarys(text):
    found = library_words().pre_tokenize_str(text)
    assert tokens.split_words(text) == [text[a:b] for _, (a, b) in found]


def test_spaces_are_those_of_unicode():
    spaces = [*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]
    spaces += [0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
    found = [n for n in range(1 << 16) if re.fullmatch(f"[{tokens.SPACE}]", chr(n))]
    assert found == spaces


@given(few, few, st.integers(0, 40))
@example("aaaaaaa aaaaa aaa aa", "aaab", 40)
@example(genesis(), data.king_james()[50_000:60_000] + SAMPLES[2] + SAMPLES[5], 700)
@quick
def test_merges_and_numbers_are_the_librarys(text, other, merges):
    made = tokens.train_bpe(text, merges)
    theirs, reader = library(text, merges)
    assert made == theirs[: len(made)]
    assert len(theirs) <= len(made) <= merges
    assert len(made) == merges or len(text) < 99
    bpe = tokens.BytePairTokenizer(theirs)
    for each in text, other:
        assert bpe.encode(each) == reader.encode(each).ids


STEPS = {  # merges of "cdcd abab": pieces, pairs, counts, the last merge
    0: ("c d c d ␣ a b a b", "a + b|c + d|␣ + a|b + a|d + ␣", [2, 2, 1, 1, 1]),
    1: ("c d c d ␣ ab ab", "c + d|␣ + ab|d + ␣|d + c|ab + ab", [2, 1, 1, 1, 1]),
    2: ("cd cd ␣ ab ab", "␣ + ab|ab + ab|cd + ␣|cd + cd|-----", [1, 1, 1, 1, 0]),
}
END = ". No pair occurs twice: finished."
LAST = ["none yet", "1: a + b → ab", "2: c + d → cd" + END]


def test_training_is_shown_step_by_step():
    for merges in 0, 1, 2, 9:
        views = tokens.training_views("cdcd abab", merges)
        strip, bars = views["Pieces"], views["Most frequent pairs"]
        pieces, pairs, counts = STEPS[min(merges, 2)]
        assert " ".join(strip.props["pieces"]) == pieces
        assert strip.arrays["values"].tolist() == list(map(len, pieces.split()))
        assert "|".join(bars.props["labels"]).replace("\u2013", "-") == pairs
        assert bars.arrays["values"].tolist() == counts
        assert views["Last merge"].props["text"] == LAST[min(merges, 2)]
        assert views["Tokens"].arrays["value"] == len(pieces.split())
        units = strip.props["unit"], strip.props["high"], bars.props["unit"]
        assert units == ("bytes", 10, "") and bars.props["high"] == 2
    assert tokens.learn_merges({(b"\xff", b"a"): 2, (b"b",) * 2: 2}, 1) == [
        (b"b", b"b")
    ]
    for size, shown in (12, "abcdefghijkl"), (13, "abcde…hijklm"):
        views = tokens.training_views("abcdefghijklm"[:size] * 3, size - 1)
        label = views["Most frequent pairs"].props["labels"][0]
        assert label == f"{shown} + {shown}"
    one = tokens.training_views("é", 1)
    assert one["Last merge"].props["text"] == "none" + END
    one = one["Most frequent pairs"].props["labels"]
    assert one == ["<C3> + <A9>", *("\u2013" * place for place in range(2, 6))]


small_merges = functools.cache(lambda: tokens.train_bpe(genesis(), 300))


def small():
    return tokens.BytePairTokenizer(small_merges())


def tiny():
    vocabulary = [b"<s>", b"<", b"s", b">", b"a", b"sa"]
    return tokens.BytePairTokenizer([(b"s", b"a")], vocabulary, ["<s>"])


@given(texts, st.lists(st.integers(0, 555), max_size=8))
@example("", [230, 157])
@quick
def test_every_text_comes_back_and_any_numbers_give_text(text, numbers):
    bpe = small()
    ids = bpe.encode(text)
    for form in list, tuple, functools.partial(np.array, dtype=int), torch.LongTensor:
        assert bpe.decode(form(ids)) == text
    expected = b"".join(bpe.vocabulary[n] for n in numbers)
    assert bpe.decode(numbers) == expected.decode(errors="replace")


def test_special_texts_and_tokens_made_twice_have_one_number():
    merges = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc"), (b"x", b"y")]
    bpe = tokens.BytePairTokenizer(merges)
    assert bpe.vocabulary[256:] == [b"ab", b"bc", b"abc", b"xy"]
    assert bpe.encode("abc xy") == [258, 32, 259]
    bpe = tiny()
    assert bpe.encode("<s>a<sa<s><s>") == [0, 4, 1, 5, 0, 0]
    assert bpe.word_numbers.cache_info().misses == 4  # each word is worked out once
    assert bpe.decode([0, 4, 1, 5, 0, 0]) == "<s>a<sa<s><s>"
    assert tokens.cut_words("a<s> b", ["<s>", "."]) == ["a", "<s>", " b"]
    assert tokens.cut_words("a.b c.", ["."]) == ["a", ".", "b", " c", "."]
    assert tokens.cut_words("a.b c") == tokens.split_words("a.b c")


def test_tokens_can_be_read():
    shown = {
        b" a": "␣a", b"\n": "\\n", b"a\tb": "a\\tb", "é".encode(): "é",
        b"\xc3": "<C3>", b"\xf0\x9f": "<F0 9F>", b"\0": "<00>", b"\r\n": "<0D 0A>",
        b"\x1f": "<1F>", b"~": "~", b"\x7f": "<7F>", "\x9f".encode(): "<C2 9F>",
        "\xa0".encode(): "\xa0", b"a b c": "a␣b␣c", b"!": "!",
    }  # fmt: skip
    assert {token: tokens.readable(token) for token in shown} == shown


def test_smollm2s_numbers_are_those_of_data():
    ours, theirs = tokens.smollm2_bpe(), data.smollm2_tokenizer()
    assert ours is tokens.smollm2_bpe()
    assert len(ours) == len(theirs) == 49_152
    assert len(ours.special) == 17 and len(ours.rank) == 48_900
    for text in [*SAMPLES, genesis()]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == text


def test_page_data_is_the_tokenizer():
    for bpe in small(), tiny(), tokens.smollm2_bpe():
        found, vocabulary = tokens.bpe_data(bpe), bpe.vocabulary
        pairs = zip(found["left"], found["right"], strict=True)
        made = [vocabulary[a] + vocabulary[b] for a, b in pairs]
        alphabet = [bytes([byte]) for byte in found["alphabet"]]
        special = [text.encode() for text in found["special"]]
        assert [*special, *alphabet, *made] == vocabulary
        assert found["special"] == bpe.special


def test_views_show_the_tokens():
    bpe = tokens.BytePairTokenizer([(b"a", b"b"), (b" ", b"ab")])
    shown = tokens.bpe_views(bpe, "ab ab 東")
    pieces, share = shown["Pieces"], shown["Characters per token"]
    found = pieces.props, pieces.arrays["values"].tolist(), share.props["digits"]
    known = {"unit": "bytes", "high": 10}
    known["pieces"] = ["ab", "␣ab", "␣", "<E6>", "<9D>", "<B1>"]
    assert (found[0] | known, *found[1:]) == (found[0], [2, 3, 1, 1, 1, 1], 3)
    assert shown["Tokens"].arrays["value"] == 6 and share.arrays["value"] == 7 / 6
    numbers = "256=ab 257=␣ab 32=␣ 230=<E6> 157=<9D> 177=<B1>"
    assert shown["Token numbers"].props["text"] == numbers
    assert shown["Last merge"].props["text"] == "2: ␣ + ab → ␣ab"


def refusals():
    """(function, arguments that work, bad values for some of them)."""
    broken = {"text": ["\ud800", "a\udfff", "\udc00b", b"bytes"]}
    for fine in "\ud7ff", "\ue000":
        for name in "utf8", "to_bytes", "split_words", "word_counts", "cut_words":
            yield getattr(tokens, name), {"text": fine}, broken
        yield tokens.train_bpe, {"text": fine, "merges": 0}, broken
    yield small().encode, {"text": "東"}, broken
    yield tokens.smollm2_bpe().encode, {"text": "a"}, {"text": ["\x04", "\ud800"]}
    yield tiny().encode, {"text": "a"}, {"text": ["b", "aé"]}
    yield tokens.bytes_of, {"ids": [0], "vocabulary": [b"a"]}, {"ids": [[1], 0]}
    yield tokens.readable, {"token": b"a"}, {}
    one = {(b"a", b"b"): 1}
    bad = [{"ab": 1}, {("a", "b"): 1}, {(b"a",): 0}, {(b"a",): 0.5}, [b"a"]]
    words = {"words": [b if isinstance(b, list) else one | b for b in bad]}
    yield tokens.PairIndex, {"words": {(b"a",): 1}}, words
    yield tokens.learn_merges, {"words": {(b"a",): 1}, "merges": 0}, words
    merge = [(b"a", b"b")]
    good = {"merges": merge, "vocabulary": [b"a", b"b", b"ab"], "special": ["ab"]}
    bad = [(b"c", b"a"), (b"b", b"a"), ("a", "b"), (b"a", "b"), (b"ab",), None]
    bad = {"merges": [[*merge, pair] for pair in bad]}
    bad["vocabulary"] = [[b"a", b"b"], [b"a", b"ab"], ["a"], [b"a", b"b", b"ab", 3]]
    yield tokens.BytePairTokenizer, good, bad | {"special": [["<s>"], [3], ["ab", 3]]}
    for last in 0, 555:
        bad = [[-1], [556], [0.5], ["a"], [[1]], [True], 3, None, "ab", b"ab", {1: 2}]
        bad += [torch.tensor(3), torch.tensor([0.5]), torch.tensor([[1]])]
        yield small().decode, {"ids": [last]}, {"ids": bad}
    twice = [*merge, (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc")]
    unordered = [tokens.BytePairTokenizer(twice)]
    for listed in "ab a b", "a b ab c", "a b <s> ab", "<s> cc a b ab":
        special = ["<s>"] if "<s>" in listed else []
        vocabulary = listed.encode().split()
        unordered.append(tokens.BytePairTokenizer(merge, vocabulary, special))
    yield tokens.bpe_data, {"tokenizer": small()}, {"tokenizer": unordered}
    for fine in "x", "x " * 500:
        good = {"tokenizer": small(), "text": fine}
        yield tokens.bpe_views, good, {"text": ["", "x" * 1001]}
        good = {"text": fine[:300], "merges": 1}
        yield tokens.training_views, good, {"text": ["", "x" * 301, "\ud800"]}


def test_what_cannot_be_is_refused():
    for function, good, bad in refusals():
        refuses_all(function, good, **bad)


def joined(text, made):
    return functools.reduce(tokens.merge_pair, made, tokens.to_bytes(text))


def stalling(ids, bpe):
    rest = b""
    for n in ids:
        rest += bpe.vocabulary[n]
        done = next(k for k in range(len(rest), -1, -1) if is_text(rest[:k]))
        yield rest[:done].decode()
        rest = rest[done:]


def is_text(some):
    return "\ufffd" not in some.decode(errors="replace")


WRONG = {  # wrong answers, by what the check says of them
    "bits_per_byte": {
        "per token": lambda loss, bpe, text: loss / math.log(2),
        "whole": lambda loss, bpe, text: loss * len(bpe.encode(text)) / math.log(2),
        "upside down": lambda loss, bpe, text: (
            loss / math.log(2) * len(text.encode()) / len(bpe.encode(text))
        ),
        "a number is wanted": lambda loss, bpe, text: "1",
    },
    "read_across": {
        "nothing is joined": lambda text, made: tokens.to_bytes(text),
        "own pairs": lambda text, made: joined(
            text, tokens.learn_merges({tokens.to_bytes(text): 1}, 9)
        ),
        "cut the text into words": lambda text, made: tuple(
            piece for word in tokens.split_words(text) for piece in joined(word, made)
        ),
        "not with the last": lambda text, made: joined(text, made[::-1]),
        "a tuple is wanted": lambda text, made: list(joined(text, made)),
    },
    "longest_match": {
        "shortest": lambda word, tokens: [bytes([byte]) for byte in word],
        "no token": lambda word, tokens: [word],
        "Does your loop end": lambda word, tokens: any(n for n in iter(int, 1)),
    },
    "stream": {
        "half a character": lambda ids, bpe: (bpe.decode([n]) for n in ids),
        "one a number": lambda ids, bpe: (0 for _ in iter(int, 1)),
        "too late": lambda ids, bpe: (
            "" if k else bpe.decode(ids) for k in reversed(range(len(ids)))
        ),
        "can't be completed": lambda ids, bpe: stalling(ids, bpe),
        "a generator is wanted": lambda ids, bpe: [bpe.decode(ids)],
    },
}


def test_solutions_pass_their_checks_and_wrong_answers_are_told_why():
    book = run_exercises("transformers/tokens", tokens, math=math, answer_of=answer_of)
    for name, answers in WRONG.items():
        check = book[f"check_{name}"]
        check(book[name])
        fails(check)
        for says, answer in answers.items():
            with pytest.raises(AssertionError, match=re.escape(says)):
                check(answer)
