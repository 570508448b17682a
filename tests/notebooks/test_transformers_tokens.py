"""The cells of transformers/tokens against the library `tokenizers`."""

import functools
import json
import unicodedata
from collections import Counter

import hypothesis.strategies as st
import tokenizers
from hypothesis import example, given, settings
from tokenizers import models, pre_tokenizers, trainers

from fieldguide import data
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
    return [tuple(map(spelled, pair)) for pair in pairs], reader


def spelled(token):
    return bytes(map(data.BYTE_OF.get, token))


def learned(text, merges):
    return tokens.learn_merges(Counter(tokens.split_words(text)), merges)


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


@given(few, few, st.integers(0, 40))
@example("aaaaaaa aaaaa aaa aa", "aaab", 40)
@example(genesis(), data.king_james()[50_000:60_000] + SAMPLES[2] + SAMPLES[5], 700)
@quick
def test_merges_and_numbers_are_the_librarys(text, other, merges):
    made = learned(text, merges)
    theirs, reader = library(text, merges)
    assert made == theirs[: len(made)]
    assert len(theirs) <= len(made) <= merges
    assert len(made) == merges or len(text) < 99
    bpe = tokens.BytePairTokenizer(theirs)
    for each in text, other:
        assert bpe.encode(each) == reader.encode(each).ids


@functools.cache
def small():
    return tokens.BytePairTokenizer(learned(genesis(), 300))


def tiny():
    vocabulary = [b"<s>", b"<", b"s", b">", b"a", b"sa"]
    return tokens.BytePairTokenizer([(b"s", b"a")], vocabulary, ["<s>"])


@given(texts, st.lists(st.integers(0, 555), max_size=8))
@example("", [230, 157])
@quick
def test_every_text_comes_back_and_any_numbers_give_text(text, numbers):
    bpe = small()
    assert bpe.decode(bpe.encode(text)) == text
    expected = b"".join(bpe.vocabulary[n] for n in numbers)
    assert bpe.decode(numbers) == expected.decode(errors="replace")


def test_special_texts_and_tokens_made_twice_have_one_number():
    merges = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc"), (b"x", b"y")]
    bpe = tokens.BytePairTokenizer(merges)
    assert bpe.vocabulary[256:] == [b"ab", b"bc", b"abc", b"xy"]
    assert bpe.encode("abc xy") == [258, 32, 259]
    bpe = tiny()
    assert bpe.encode("<s>a<sa<s><s>") == [0, 4, 1, 5, 0, 0]
    assert bpe.decode([0, 4, 1, 5, 0, 0]) == "<s>a<sa<s><s>"


def test_smollm2s_numbers_are_those_of_data():
    ours = tokens.BytePairTokenizer(*tokens.smollm2_lists())
    theirs = data.smollm2_tokenizer()
    assert len(ours) == len(theirs) == 49_152
    for text in [*SAMPLES, genesis()]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == text
