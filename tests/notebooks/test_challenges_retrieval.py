"""The cells of challenges/retrieval against plain Python, torch and small texts."""

import functools
import math
import re
from unittest import mock

import cells
import pytest
import torch
from cells import close, random, unit

from fieldguide.challenges import retrieval
from fieldguide.data import building_questions

PASSAGES = ["The cat sat on the mat.", "A dog ran far away.", "Permits take 10 weeks."]
QUESTION = "How long does a permit take?"


@functools.cache
def small_index():
    return retrieval.PassageIndex(PASSAGES)


def test_texts_have_the_vectors_of_minilm():
    """In batches of 16, of unequal lengths, against MiniLM's own pooling."""
    texts = [f"{each} {'More. ' * n}" for n, each in enumerate(PASSAGES * 6)]
    whole, tokens = retrieval.embed_texts(texts)
    encoder = retrieval.sentence_encoder()
    close(whole, encoder(texts), 1e-5)
    pieces = encoder.tokenizer.encode(texts[0]).tokens
    assert len(tokens) == 18 and tokens[0].shape == (len(pieces) - 2, 384)
    close(tokens[4].norm(dim=-1), torch.ones(len(tokens[4])), 1e-5)
    alone = retrieval.embed_texts(texts[:1])[1][0]
    close(tokens[0], alone, 1e-5)  # the padding of the others is not read


def bm25(passages, question, k, b):
    """BM25 as its authors write it, word by word."""
    texts = [re.findall(r"[a-z0-9]+", each.lower()) for each in passages]
    mean, found = sum(map(len, texts)) / len(texts), []
    for text in texts:
        total = 0
        for word in {*re.findall(r"[a-z0-9]+", question.lower())}:
            n = sum(word in other for other in texts)
            f = text.count(word)
            weight = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
            total += weight * f * (k + 1) / (f + k * (1 - b + b * len(text) / mean))
        found.append(total)
    return found


@pytest.mark.parametrize(("k", "b"), [(1.2, 0.75), (2.0, 0.0), (0.5, 1.0)])
def test_words_weigh_as_in_bm25(k, b):
    passages = ["a rare word, a word", "the a the", "b2 the rare rare", "the"]
    search = retrieval.BM25(passages, k, b)
    for question in "Rare word?", "the A b2 the", "unknown":
        found = search.scores(question).tolist()
        wanted = [s or -math.inf for s in bm25(passages, question, k, b)]
        assert found == pytest.approx(wanted, rel=1e-5)  # no word, no place


def test_reciprocal_ranks_add_up():
    first, second = torch.tensor([3.0, 2, 1]), torch.tensor([1.0, 5, 9])
    wanted = [1 / 61 + 1 / 63, 2 / 62, 1 / 63 + 1 / 61]
    close(retrieval.reciprocal_rank_fusion([first, second]), torch.tensor(wanted), 1e-6)
    first[1] = -math.inf  # not in that list
    wanted = [1 / 61 + 1 / 63, 1 / 62, 1 / 62 + 1 / 61]
    close(retrieval.reciprocal_rank_fusion([first, second]), torch.tensor(wanted), 1e-6)
    same = torch.tensor([[0.2, 0.9, 0.2, 0.5], [1.0, 1.0, 1.0, 0.0]])
    places = torch.tensor([[3, 1, 3, 2], [1, 1, 1, 4]])  # equals share a place
    close(retrieval.reciprocal_rank_fusion([same]), 1 / (60 + places), 1e-6)


def test_maxsim_is_the_mean_of_the_best_cosines():
    question, passage = unit(random(4, 6)), unit(random(9, 6, seed=1))
    wanted = sum(max(float(q @ p) for p in passage) for q in question) / 4
    found = retrieval.maxsim(question, passage)
    assert math.isclose(found, wanted, rel_tol=1e-9)


def test_a_passage_is_found_by_meaning_and_sorted_by_tokens():
    index = small_index()
    places, found = zip(*index.find(QUESTION, 3), strict=True)
    assert places[0] == 2 and sorted(places) == [0, 1, 2]
    _, (tokens,) = retrieval.embed_texts([QUESTION])
    scores = [retrieval.maxsim(tokens, index.tokens[place]) for place in places]
    close(torch.tensor(found), torch.tensor(sorted(scores)[::-1]))
    assert [place for place, _ in index.rerank(tokens, [1, 2])] == [2, 1]


def test_only_the_first_of_the_fused_list_are_looked_at_again():
    index, question = small_index(), "cat on a mat"
    scores = index.bm25.scores(question)
    meaning = index.vectors @ retrieval.embed_texts([question])[0][0]
    ((only, _),) = index.find(question, 1, 1)
    assert only == retrieval.reciprocal_rank_fusion([scores, meaning]).argmax() == 0
    rooms = retrieval.PassageIndex([f"Room {n}" for n in range(11)])
    with mock.patch.object(rooms, "rerank", return_value=[]) as rerank:
        rooms.find("a room")
    assert len(rerank.call_args.args[1]) == 10


def test_the_nearest_have_the_largest_products():
    vectors, asked = unit(random(50, 4)), unit(random(3, 4, seed=1))
    near = retrieval.exact_nearest(vectors, asked, 2)
    assert near[:, 0].tolist() == [(vectors @ each).argmax() for each in asked]


def test_a_prompt_holds_the_passage_and_the_question():
    decode = retrieval.smollm2_tokenizer().decode
    assert decode(retrieval.open_prompt("How deep?", "150 m")) == (
        "<|im_start|>user\nRead the text and answer the question in one short "
        "sentence.\n\nText: 150 m\n\nQuestion: How deep?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_an_answer_is_read_to_its_end_as_one_line():
    encode = retrieval.smollm2_tokenizer().encode
    written = encode(" The answer is:\n\n10 weeks. ")
    with mock.patch.object(retrieval, "complete", return_value=written) as complete:
        said = retrieval.read_answer(None, "How long?", "10 weeks")
    assert said == "The answer is: 10 weeks."
    assert complete.call_args.args[1] == retrieval.open_prompt("How long?", "10 weeks")
    assert [*complete.call_args.kwargs["stop"]] == encode("<|im_end|>")


def test_digits_rise_and_units_stay():
    assert retrieval.raise_digits("150, 909, IP44, 1:400") == "260, 101, IP55, 2:500"
    assert retrieval.raise_digits("9 m2, 25 m3 and CO2") == "1 m2, 36 m3 and CO2"


def test_each_key_stands_in_its_passage():
    asked, handbook = cells.record("retrieval", "questions.json"), building_questions()
    for each in asked:
        assert each["place"] not in each["also"]
        for place in [each["place"], *each["also"]]:
            numbers = re.findall(r"\d(?:[\d,.:]*\d)?", handbook[place].answer)
            assert each["number"] in numbers, (place, each)
    assert len({each["question"] for each in asked}) == 98
