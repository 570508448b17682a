"""The cells of transformers/tokens against `tokenizers`, `transformers` and sums.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import functools
import json
import math
import re
import unicodedata
from collections import Counter
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import tokenizers
import torch
from cells import fails, refuses, run_exercises, solutions_pass
from hypothesis import example, given, settings
from tokenizers import models, pre_tokenizers, trainers

from fieldguide import data
from fieldguide.transformers import tokens

LETTERS = {byte: letter for letter, byte in data.BYTE_OF.items()}
SAMPLES = [
    "",
    " ",
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


def in_bytes(token):
    return bytes(data.BYTE_OF[letter] for letter in token)


def library(text, merges):
    """What `tokenizers` learns, and a tokenizer of it, its bytes numbered as ours."""
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = library_words()
    alphabet = [LETTERS[byte] for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges,
        min_frequency=2,
        special_tokens=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator([text], trainer)
    model = json.loads(learner.to_str())["model"]
    pairs = [tuple(pair) for pair in model["merges"]]
    reader = tokenizers.Tokenizer(models.BPE(vocab=model["vocab"], merges=pairs))
    reader.pre_tokenizer = library_words()
    return [tuple(map(in_bytes, pair)) for pair in pairs], reader


@functools.cache
def genesis():
    return data.king_james()[:20_000]


# Bytes and words


@given(texts)
@quick
def test_utf8_is_pythons(text):
    assert tokens.utf8(text) == text.encode("utf-8")
    assert tokens.one_by_one(text.encode()) == tuple(
        bytes([byte]) for byte in text.encode()
    )


def test_what_is_no_text_is_refused():
    for bad in ("\ud800", "a\udfff", "\udc00b", None, 3, b"bytes", ["a"]):
        says = "a string without lone surrogates"
        bpe = tokens.BytePairTokenizer([])
        refuses("text", tokens.utf8, bad, says=says)
        refuses("text", tokens.split_words, bad)
        refuses("text", tokens.cut_words, bad)
        refuses("text", tokens.train_bpe, bad, 1)
        refuses("text", bpe.encode, bad)
    for fine in ("\ud7ff", "\ue000"):
        assert bpe.decode(bpe.encode(fine)) == fine


@given(old_texts)
@example("  5 a  b'll 've")
@example("\x1c \x1d\x85 \u2028\u3000x")
@example("_a _ a_b")
@quick
def test_words_are_the_librarys(text):
    found = library_words().pre_tokenize_str(text)
    assert tokens.split_words(text) == [text[a:b] for _, (a, b) in found]


@given(texts)
@quick
def test_words_joined_are_the_text(text):
    words = tokens.split_words(text)
    assert "".join(words) == text and "" not in words
    numerals = [word for word in words if unicodedata.category(word[0])[0] == "N"]
    assert all(len(word) == 1 for word in numerals)
    counts = tokens.word_counts(text)
    assert counts == Counter(tokens.one_by_one(word.encode()) for word in words)


def test_spaces_are_those_of_unicode():
    spaces = [*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]
    spaces += [0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
    found = [n for n in range(1 << 16) if re.fullmatch(f"[{tokens.SPACE}]", chr(n))]
    assert found == spaces


def test_words_are_cut_as_promised():
    assert tokens.split_words("It's 16:  I'VE\n") == [
        "It", "'s", " ", "1", "6", ":", " ", " I", "'", "VE", "\n",
    ]  # fmt: skip


# Training


def test_pairs_are_counted_and_joined():
    words = {(b"a", b"b", b"a", b"b"): 3, (b"b", b"a"): 2, (b"c",): 9}
    expected = {(b"a", b"b"): 6, (b"b", b"a"): 5}
    assert tokens.count_pairs(words) == expected
    parts = tokens.one_by_one(b"aaabaa")
    assert tokens.merge_pair(parts, (b"a", b"a")) == (b"aa", b"a", b"b", b"aa")
    assert tokens.merge_pair(parts, (b"a", b"b")) == (b"a", b"a", b"ab", b"a", b"a")
    assert tokens.merge_pair(parts, (b"b", b"b")) == parts
    assert tokens.merge_pair((), (b"a", b"b")) == ()


def test_bytes_are_their_own_numbers():
    assert tokens.byte_numbers() == {bytes([n]): n for n in range(256)}


@given(few, st.integers(0, 40))
@example("aaaaaaa aaaaa aaa aa", 40)
@quick
def test_merges_are_the_librarys_and_the_plain_loops(text, merges):
    made = tokens.train_bpe(text, merges)
    theirs, _ = library(text, merges)
    assert made == theirs[: len(made)]
    assert len(theirs) <= len(made) <= merges
    assert made == tokens.learn_merges(tokens.word_counts(text), merges)


def test_merges_of_a_real_text_are_the_librarys():
    made = tokens.train_bpe(genesis(), 700)
    assert made == library(genesis(), 700)[0] and len(made) == 700
    words = tokens.word_counts(genesis())
    assert made[:150] == tokens.learn_merges(words, 150)
    assert tokens.train_bpe(genesis(), 0) == []


def test_draws_go_to_smaller_numbers_and_pairs_seen_once_are_left():
    assert tokens.train_bpe("dcdc baba", 1) == [(b"b", b"a")]
    assert tokens.train_bpe("ba!! bc!!", 1) == [(b"!", b"!")]
    assert tokens.train_bpe("ab", 5) == tokens.train_bpe("", 5) == []
    assert tokens.learn_merges({}, 5) == []
    assert tokens.learn_merges({(b"a", b"b"): 1}, 5) == []
    assert tokens.train_bpe("ab\nab", 5) == [(b"a", b"b")]


def test_a_bad_number_of_merges_is_refused():
    for bad in (-1, 1.0, "3", None, True):
        refuses("merges", tokens.train_bpe, "abab", bad, says="0 or above")


@given(few)
@quick
def test_the_index_counts_as_a_fresh_count_does(text):
    words = tokens.word_counts(text)
    index = tokens.PairIndex(words)
    for pair in tokens.train_bpe(text, 8):
        before = Counter(index.total)
        assert before[pair] > 0
        holders = {n for n, w in enumerate(index.words) if pair in pairwise(w)}
        assert holders <= index.places[pair]
        changed = index.join(pair)
        fresh = tokens.count_pairs(dict(zip(index.words, index.counts, strict=True)))
        assert +index.total == fresh
        now = before.keys() | fresh.keys()
        assert {p for p in now if before[p] != fresh[p]} <= changed
        for p in fresh:
            assert {n for n, w in enumerate(index.words) if p in pairwise(w)} <= (
                index.places[p]
            )
    assert index.join((b"x", b"y")) == set()


# Reading and writing


@given(few, few, st.integers(0, 40))
@quick
def test_numbers_are_the_librarys(seen, text, merges):
    made, reader = library(seen, merges)
    bpe = tokens.BytePairTokenizer(made)
    assert bpe.encode(text) == reader.encode(text).ids
    assert bpe.encode(seen) == reader.encode(seen).ids


def test_numbers_of_a_real_text_are_the_librarys():
    made, reader = library(genesis(), 700)
    bpe = tokens.BytePairTokenizer(made)
    text = data.king_james()[50_000:60_000] + SAMPLES[4] + SAMPLES[7]
    assert bpe.encode(text) == reader.encode(text).ids
    assert len(bpe) == 956 == len(bpe.vocabulary)


@functools.cache
def small_merges():
    return tokens.train_bpe(genesis(), 300)


def small():
    return tokens.BytePairTokenizer(small_merges())


@given(texts)
@quick
def test_every_text_comes_back(text):
    bpe = small()
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert bpe.decode(torch.tensor(ids, dtype=torch.long)) == text
    assert bpe.decode(np.array(ids, dtype=int)) == text
    assert bpe.decode(tuple(ids)) == text


@given(st.lists(st.integers(0, 555), max_size=8))
@example([230, 157])
@quick
def test_any_numbers_give_text(ids):
    expected = b"".join(small().vocabulary[n] for n in ids)
    assert small().decode(ids) == expected.decode(errors="replace")


def test_bad_numbers_are_refused():
    bad = [[-1], [556], [0.5], ["a"], [[1]], [True], 3, None, "ab", b"ab", {1: 2}]
    for ids in [*bad, torch.tensor(3), torch.tensor([0.5]), torch.tensor([[1]])]:
        refuses("ids", small().decode, ids, says="whole numbers from 0 to 555")
    assert small().decode([0, 555]) == "\0" + small().vocabulary[555].decode()


class Counted(dict):
    """A dictionary that counts how often it is asked for a key."""

    asked = 0

    def get(self, *arguments):
        self.asked += 1
        return super().get(*arguments)


def test_a_word_costs_at_most_half_its_square_in_looks():
    """As `smollm2_bpe` says; a word that joins to the end costs just that."""
    rank, parts = Counted(), (b"a",) * 40
    for n in range(40):  # aa, aaa, aaaa, and so on
        rank[b"a" * (n + 1), b"a"] = 40 - n
    assert tokens.join_by_rank(parts, rank) == [b"a" * 40]
    assert 39 * 40 / 4 < rank.asked <= 40**2 / 2


def test_a_pair_joins_by_rank_and_from_the_left():
    rank = {(b"b", b"c"): 0, (b"a", b"b"): 1, (b"a", b"bc"): 2}
    one = tokens.one_by_one
    assert tokens.join_by_rank(one(b"abcab"), rank) == [b"abc", b"ab"]
    assert tokens.join_by_rank(one(b"xyz"), rank) == [b"x", b"y", b"z"]
    assert tokens.join_by_rank((), rank) == []
    assert tokens.join_by_rank((b"a",), {}) == [b"a"]
    runs = {(b"a", b"a"): 0}
    assert tokens.join_by_rank(one(b"aaa"), runs) == [b"aa", b"a"]


def test_merges_that_make_the_same_token_share_a_number():
    merges = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc"), (b"x", b"y")]
    bpe = tokens.BytePairTokenizer(merges)
    assert len(bpe) == 260 and bpe.vocabulary[256:] == [b"ab", b"bc", b"abc", b"xy"]
    assert bpe.encode("abc xy") == [258, 32, 259]
    refuses("tokenizer", tokens.bpe_data, bpe)


def test_special_texts_are_one_token_each():
    vocabulary = [b"<s>", b"<", b"s", b">", b"a", b"sa"]
    bpe = tokens.BytePairTokenizer([(b"s", b"a")], vocabulary, ["<s>"])
    assert bpe.encode("<s>a<sa<s><s>") == [0, 4, 1, 5, 0, 0]
    assert bpe.decode([0, 4, 1, 5, 0, 0]) == "<s>a<sa<s><s>"
    assert tokens.cut_words("a<s> b", ["<s>", "."]) == ["a", "<s>", " b"]
    assert tokens.cut_words("a.b c.", ["."]) == ["a", ".", "b", " c", "."]
    assert tokens.cut_words("a.b c") == tokens.split_words("a.b c")
    refuses("text", bpe.encode, "b", says="of bytes that have a token")


def test_merges_need_their_tokens():
    make = tokens.BytePairTokenizer
    for merges, vocabulary in [
        ([(b"ab", b"c")], None),
        ([(b"a", b"bc")], None),
        ([(b"a", b"b")], [b"a", b"b"]),
    ]:
        refuses("merges", make, merges, vocabulary, says="of known tokens")
    refuses("merges", make, [], [b"a"], ["<s>"])
    assert make([[b"a", b"b"]]).rank == {(b"a", b"b"): 0}
    assert len(make([])) == 256


def test_a_word_is_worked_out_once():
    bpe = tokens.BytePairTokenizer([])
    bpe.encode("\nab\nab\n\nab")
    assert bpe.word_numbers.cache_info().misses == 2


def test_tokens_can_be_read():
    shown = {
        b" a": "␣a", b"\n": "\\n", b"a\tb": "a\\tb", "é".encode(): "é",
        b"\xc3": "<C3>", b"\xf0\x9f": "<F0 9F>", b"\0": "<00>", b"\r\n": "<0D 0A>",
        b"\x1f": "<1F>", b"~": "~", b"\x7f": "<7F>", "\x9f".encode(): "<C2 9F>",
        "\xa0".encode(): "\xa0", b"a b c": "a␣b␣c", b"!": "!",
    }  # fmt: skip
    assert {token: tokens.readable(token) for token in shown} == shown


# The real model's tokenizer


def test_smollm2s_numbers_are_those_of_data():
    ours, theirs = tokens.smollm2_bpe(), data.smollm2_tokenizer()
    assert ours is tokens.smollm2_bpe()
    assert len(ours) == len(theirs) == 49_152
    assert len(ours.special) == 17 and len(ours.rank) == 48_900
    for text in [*SAMPLES, genesis()]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == text
    refuses("text", ours.encode, "\x04", says="of bytes that have a token")
    for seed in range(50):
        ids = torch.randint(49_152, (5,), generator=torch.Generator().manual_seed(seed))
        assert ours.decode(ids) == theirs.decode(ids)


@given(old_texts)
@quick
def test_smollm2s_numbers_of_any_text_are_those_of_data(text):
    try:
        expected = data.smollm2_tokenizer().encode(text)
    except ValueError:
        refuses("text", lambda text: tokens.smollm2_bpe().encode(text), text)
        return
    assert tokens.smollm2_bpe().encode(text) == expected


@functools.cache
def reference():
    from transformers import AutoTokenizer

    path = data.smollm2().path
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def test_smollm2s_numbers_are_those_of_transformers():
    """Which cuts at 0 to 9 only, and otherwise before a digit after two spaces."""
    for text in SAMPLES[:-1]:
        expected = reference()(text, add_special_tokens=False)["input_ids"]
        assert tokens.smollm2_bpe().encode(text) == expected, text
    pieces = [tokens.smollm2_bpe().vocabulary[n] for n in (216, 34, 32, 34, 36)]
    assert tokens.smollm2_bpe().encode(" 2024") == [216, 34, 32, 34, 36], pieces


def test_letters_of_the_file_are_bytes():
    assert tokens.from_letters("ĠhiĊ") == b" hi\n"


# What the explorers show


def test_page_data_is_the_tokenizer():
    for bpe in (small(), tokens.smollm2_bpe()):
        found = tokens.bpe_data(bpe)
        first = len(found["special"]) + len(found["alphabet"])
        assert first + len(found["left"]) == len(bpe)
        assert found["special"] == bpe.special
        pairs = zip(found["left"], found["right"], strict=True)
        made = [bpe.vocabulary[a] + bpe.vocabulary[b] for a, b in pairs]
        assert made == bpe.vocabulary[first:]
        cut = len(bpe.special)
        assert bytes(found["alphabet"]) == b"".join(bpe.vocabulary[cut:first])
    merge = [(b"a", b"b")]
    for vocabulary, special in [
        ([b"ab", b"a", b"b"], []),
        ([b"a", b"b", b"<s>", b"ab"], ["<s>"]),
        ([b"a", b"b", b"ab", b"c"], []),
        ([b"<s>", b"cc", b"a", b"b", b"ab"], ["<s>"]),
    ]:
        bpe = tokens.BytePairTokenizer(merge, vocabulary, special)
        refuses("tokenizer", tokens.bpe_data, bpe, says="in order of its merges")


def test_views_show_the_tokens():
    bpe = tokens.BytePairTokenizer([(b"a", b"b"), (b" ", b"ab")])
    shown = tokens.bpe_views(bpe, "ab ab 東")
    assert list(shown) == [
        "Pieces",
        "Tokens",
        "Characters per token",
        "Token numbers",
        "Last merge",
    ]
    pieces = shown["Pieces"]
    assert pieces.props["pieces"] == ["ab", "␣ab", "␣", "<E6>", "<9D>", "<B1>"]
    assert pieces.arrays["values"].tolist() == [2, 3, 1, 1, 1, 1]
    assert (pieces.props["unit"], pieces.props["high"]) == ("bytes", 10)
    assert shown["Tokens"].arrays["value"] == 6
    assert shown["Tokens"].props["digits"] == 4
    assert shown["Characters per token"].arrays["value"] == 7 / 6
    assert shown["Characters per token"].props["digits"] == 3
    assert shown["Token numbers"].props["text"] == "256 257 32 230 157 177"
    assert shown["Last merge"].props["text"] == "2: ␣ + ab → ␣ab"
    none = tokens.bpe_views(tokens.BytePairTokenizer([]), "x")
    assert none["Last merge"].props["text"] == "none yet"
    many = tokens.bpe_views(tokens.smollm2_bpe(), "x")
    assert many["Last merge"].props["text"] == "48,900: ect + able → ectable"


def test_views_are_for_a_short_text():
    for bad in ("", "x" * 1001):
        refuses("text", tokens.bpe_views, small(), bad, says="1 to 1,000 characters")
    for fine in ("x", "x " * 500):
        assert tokens.bpe_views(small(), fine)["Tokens"].arrays["value"] > 0


# The exercises


@functools.cache
def exercises():
    return run_exercises("transformers/tokens", tokens, math=math)


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()
    fails(
        book.check_bits_per_byte,
        lambda loss, tokenizer, text: loss / math.log(2),
        lambda loss, tokenizer, text: loss * len(tokenizer.encode(text)) / len(text),
        lambda loss, tokenizer, text: book.bits_per_byte(loss, tokenizer, text) * 1.01,
        lambda loss, tokenizer, text: (
            loss * len(tokenizer.encode(text)) / math.log(2) / len(text)
        ),
    )
    fails(
        book.check_group_digits,
        lambda text: re.findall(r"[0-9]{1,3}|[^0-9]+", text),
        lambda text: re.findall(r"[0-9]+|[^0-9]+", text),
        lambda text: re.findall(r"\d{1,3}(?=(?:\d{3})*(?!\d))|\D+", text),
        lambda text: list(text),
    )
    fails(
        book.check_longest_match,
        lambda word, tokens: [word[i : i + 1] for i in range(len(word))],
        lambda word, tokens: [word] if word else [],
    )
    fails(
        book.check_stream,
        lambda ids, tokenizer: (tokenizer.decode([n]) for n in ids),
        lambda ids, tokenizer: [tokenizer.decode(ids)],
        lambda ids, tokenizer: [t for t in book.stream(ids, tokenizer) if t],
    )


def test_a_list_of_pieces_is_as_good_as_a_generator():
    book = exercises()
    assert book.check_stream(lambda ids, bpe: list(book.stream(ids, bpe)))


def test_bits_per_byte_of_a_fair_guess():
    bpe = tokens.BytePairTokenizer([])
    assert math.isclose(exercises().bits_per_byte(math.log(256), bpe, "any text"), 8)
