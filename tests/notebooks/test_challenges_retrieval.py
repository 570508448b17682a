"""The cells of challenges/retrieval against plain Python, torch and small texts."""

import functools
import math
import re

import cells
import pytest
import torch
from cells import close, generator, random, refuses_all, unit

from fieldguide.challenges import retrieval
from fieldguide.data import building_questions
from fieldguide.transformers.real_model import Llama, LlamaConfig

PASSAGES = ["The cat sat on the mat.", "A dog ran far away.", "Permits take 10 weeks."]


@functools.cache
def page():
    return cells.run_exercises("challenges/retrieval")


def small_index():
    return retrieval.PassageIndex(PASSAGES)


@functools.cache
def model():
    torch.manual_seed(0)
    config = LlamaConfig(49_152, 128, 8, 1, 2, 1, 16, 1e-5, 1e4)
    return Llama(config).requires_grad_(False).eval()


# Passages


def test_passages_are_whole_sentences_where_they_can_be():
    text = "One two. Three four five! Six?  Seven eight nine ten eleven twelve."
    assert retrieval.chunk(text, 5) == [
        "One two. Three four five!",
        "Six?",
        "Seven eight nine ten eleven",
        "twelve.",
    ]
    assert retrieval.chunk(text, 6)[0] == "One two. Three four five! Six?"
    assert retrieval.chunk(text) == [" ".join(text.split())]
    assert retrieval.chunk("") == retrieval.chunk(" \n") == []
    assert [len(retrieval.chunk("word " * n)) for n in (80, 81)] == [1, 2]
    assert retrieval.chunk("1.5 m. Then 2", 2) == ["1.5 m.", "Then 2"]


def test_no_word_is_lost():
    text = " ".join(f"w{n}." if n % 7 == 0 else f"w{n}" for n in range(100))
    for most in 1, 3, 10, 99:
        passages = retrieval.chunk(text, most)
        assert " ".join(passages) == text
        assert max(len(each.split()) for each in passages) <= most


def test_texts_have_the_vectors_of_minilm():
    texts = [f"{each} {'More. ' * n}" for n, each in enumerate(PASSAGES * 6)]
    whole, tokens = retrieval.embed_texts(texts)
    encoder = retrieval.sentence_encoder()
    close(whole, encoder(texts), 1e-5)
    pieces = encoder.tokenizer.encode(texts[0]).tokens
    assert len(tokens) == len(texts) == 18
    assert tokens[0].shape == (len(pieces) - 2, 384)
    close(tokens[4].norm(dim=-1), torch.ones(len(tokens[4])), 1e-5)
    assert retrieval.token_states(["a"], encoder)[0].is_inference()  # for no gradient


def test_the_encoder_is_read_once():
    assert retrieval.sentence_encoder() is retrieval.sentence_encoder()


def test_what_the_encoder_would_cut_is_refused():
    assert len(retrieval.embed_texts(["word " * 254])[0]) == 1
    with cells.refusal(r"^texts = \['word .*256 tokens"):
        retrieval.PassageIndex(["fine", "word " * 255])
    with cells.refusal("1 or more"):
        retrieval.PassageIndex([])


def test_what_has_no_words_is_refused_by_its_name():
    for blank in "", " \n":
        with cells.refusal("^passages = .*none of them empty"):
            retrieval.PassageIndex(["fine", blank])
        with cells.refusal("^question = .*a text with words"):
            retrieval.find_passages(small_index(), blank, 1)
        with cells.refusal("^texts = .*none of them empty"):
            retrieval.embed_texts(["fine", blank])
    assert len(retrieval.PassageIndex(["?"]).tokens[0]) == 1


# Search


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
    weights = retrieval.word_weights(passages, k, b)
    for question in "Rare word?", "the A b2 the", "unknown":
        found = retrieval.word_scores(weights, question).tolist()
        wanted = [s or -math.inf for s in bm25(passages, question, k, b)]
        assert found == pytest.approx(wanted, rel=1e-5)  # no word, no place
    short = ["a", "b a"]  # 1.5 words on average
    found = retrieval.word_scores(retrieval.word_weights(short, k, b), "a").tolist()
    assert found == pytest.approx(bm25(short, "a", k, b), rel=1e-5)
    same = retrieval.word_weights(passages)
    assert same == retrieval.word_weights(passages, 1.2, 0.75)
    assert retrieval.word_weights(["?"]) == [{}]


def test_places_start_at_one_and_equals_share_theirs():
    scores = torch.tensor([[0.2, 0.9, 0.2, 0.5], [1.0, 1.0, 1.0, math.nan]])
    assert retrieval.rank_places(scores).tolist() == [[3, 1, 3, 2], [1, 1, 1, 5]]


def test_fused_votes_add_up():
    first, second = torch.tensor([3.0, 2, 1]), torch.tensor([1.0, 5, 9])
    wanted = [1 / 61 + 1 / 63, 2 / 62, 1 / 63 + 1 / 61]
    close(retrieval.fuse([first, second]), torch.tensor(wanted), 1e-6)
    close(retrieval.fuse([second], 0), torch.tensor([1 / 3, 1 / 2, 1]), 1e-6)
    first[1] = -math.inf  # not in that list
    wanted = [1 / 61 + 1 / 63, 1 / 62, 1 / 62 + 1 / 61]
    close(retrieval.fuse([first, second]), torch.tensor(wanted), 1e-6)


def test_what_is_found_does_not_depend_on_the_order_of_the_passages():
    """Of forty on rain, thirty share a word with the question."""
    rain = [f"Rain fell on day {n}." for n in range(10)]
    rain += [f"After {n} we saw {'no' if n % 2 else 'more'} rain." for n in range(30)]
    right = "A canoe is moved by a paddle."
    for question in "rowing kayaks", "kayaks after the ferry", "???":
        found = []
        for passages in [right, *rain], [*rain, right], [*rain[::-1], right]:
            index = retrieval.PassageIndex(passages)
            best = retrieval.find_passages(index, question)
            found.append([(each.passage, round(each.score, 5)) for each in best])
        assert found[0] == found[1] == found[2]
    assert retrieval.find_passages(index, "rowing kayaks", 1)[0].passage == right


def test_late_interaction_is_the_mean_of_the_best_cosines():
    question, passage = unit(random(4, 6)), unit(random(9, 6, seed=1))
    wanted = sum(max(float(q @ p) for p in passage) for q in question) / 4
    found = retrieval.late_score(question, passage)
    assert type(found) is float and math.isclose(found, wanted, rel_tol=1e-9)


def test_a_passage_is_found_by_meaning_and_sorted_by_tokens():
    index = small_index()
    assert index.weights == retrieval.word_weights(PASSAGES)
    found = retrieval.find_passages(index, "How long does a permit take?", 3)
    assert found[0].passage == PASSAGES[2]
    assert [PASSAGES[each.place] for each in found] == [e.passage for e in found]
    assert found == sorted(found, key=lambda each: -each.score)
    _, (tokens,) = retrieval.embed_texts(["How long does a permit take?"])
    scores = [retrieval.late_score(tokens, each) for each in index.tokens]
    close(torch.tensor([e.score for e in found]), torch.tensor(sorted(scores)[::-1]))
    again = retrieval.rerank(index, tokens, [1, 2])
    assert [each.place for each in again] == [2, 1]
    assert len(retrieval.find_passages(index, "a cat", 1, 2)) == 1
    assert len(retrieval.find_passages(index, "a cat")) == 3


def test_only_the_first_of_the_fused_list_are_looked_at_again():
    index, question = small_index(), "cat on a mat"
    words = retrieval.word_scores(index.weights, question)
    meaning = index.vectors @ retrieval.embed_texts([question])[0][0]
    fused = retrieval.fuse([words, meaning])
    (only,) = retrieval.find_passages(index, question, 1, 1)
    assert only.place == fused.argmax() == 0


def test_five_passages_are_found_among_ten():
    index = retrieval.PassageIndex([f"Room {n}" for n in range(11)])
    assert len(retrieval.find_passages(index, "a room")) == 5
    assert len(retrieval.find_passages(index, "a room", 10)) == 10
    with cells.refusal("^k = 11,"):
        retrieval.find_passages(index, "a room", 11)


# A million


def test_vectors_come_in_clusters_of_unit_length():
    vectors = retrieval.clustered_vectors(400, 32, generator())
    close(vectors.norm(dim=1), torch.ones(400), 1e-5)
    again = retrieval.clustered_vectors(400, 32, generator())
    assert torch.equal(vectors, again)
    cosines = (vectors @ vectors.T).flatten()
    near = (cosines > 0.5).double().mean()  # four centres, a cosine of .8 within
    assert 0.2 < near < 0.35
    within = cosines[cosines > 0.5].mean()
    assert 0.72 < within < 0.88
    for count, centres in (400, 4), (401, 5):
        vectors = retrieval.clustered_vectors(count, 256, generator())
        assert len(vectors) == count
        assert len((vectors @ vectors.T > 0.5).unique(dim=0)) == centres


def test_the_graph_finds_what_exact_search_finds():
    vectors = retrieval.clustered_vectors(1100, 16, generator())
    asked, vectors = vectors[:100], vectors[100:].contiguous()
    truth = retrieval.exact_nearest(vectors, asked, 5)
    assert truth[0, 0] == max(range(1000), key=lambda i: float(vectors[i] @ asked[0]))
    assert truth.shape == (100, 5)
    library = retrieval.graph_index(vectors)
    found = retrieval.graph_nearest(library, asked, 5, 200)
    assert found.dtype == torch.int64 and found.shape == (100, 5)
    many, few = (
        retrieval.shared_neighbours(
            retrieval.graph_nearest(library, asked, 5, n), truth
        )
        for n in (200, 5)
    )
    assert many > 0.99 and few <= many
    assert retrieval.graph_nearest(library, asked[:1], 5, 64).shape == (1, 5)
    assert library.connectivity == 16 and library.expansion_add == 32
    assert torch.equal(torch.from_numpy(library[7]), vectors[7])  # to the last bit
    few = retrieval.graph_index(vectors[:50], 4)
    assert few.connectivity == 4
    everyone = retrieval.graph_nearest(few, asked[:1], 50, 50)
    assert sorted(everyone[0].tolist()) == list(range(50))
    longer = torch.tensor([[1.0, 0.0], [3.0, 3.0]])  # of larger product, less aligned
    nearest = retrieval.graph_nearest(retrieval.graph_index(longer), longer[:1], 1, 2)
    assert nearest.item() == retrieval.exact_nearest(longer, longer[:1], 1).item() == 1


def test_a_graph_that_is_made_again_is_the_same():
    vectors = retrieval.clustered_vectors(2000, 8, generator())
    graphs = [retrieval.graph_index(vectors, 4) for _ in range(2)]
    once, again = (retrieval.graph_nearest(each, vectors, 5, 5) for each in graphs)
    assert torch.equal(once, again)


def test_shared_neighbours_are_counted_in_any_order():
    truth = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = torch.tensor([[4, 3, 9, 0], [8, 7, 6, 5]])
    assert retrieval.shared_neighbours(found, truth) == 0.75
    assert retrieval.shared_neighbours(truth, truth) == 1
    twice, truth = torch.tensor([[1, 1, 9]]), torch.tensor([[1, 2, 3]])
    third = retrieval.shared_neighbours(twice, truth)
    assert type(third) is float and third == 1 / 3


# Answers


def test_a_prompt_holds_the_passage_and_the_question():
    decode = retrieval.smollm2_tokenizer().decode
    alone = decode(retrieval.open_prompt("How deep?"))
    assert alone == (
        "<|im_start|>user\nAnswer the question in one short sentence.\n\n"
        "Question: How deep?<|im_end|>\n<|im_start|>assistant\n"
    )
    reading = decode(retrieval.open_prompt("How deep?", "150 m"))
    assert reading == (
        "<|im_start|>user\nRead the text and answer the question in one short "
        "sentence.\n\nText: 150 m\n\nQuestion: How deep?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def answering(monkeypatch, written):
    """The model is replaced by one that writes this; returns what it was given."""
    tokenizer, given = retrieval.smollm2_tokenizer(), []

    def complete(model, ids, count, *, stop=()):
        given.append((ids, count, set(stop)))
        return tokenizer.encode(written)

    monkeypatch.setattr(retrieval, "complete", complete)
    return given


def test_an_answer_is_read_to_its_end_as_one_line():
    patch = pytest.MonkeyPatch()
    try:
        given = answering(patch, " The answer is:\n\n10 weeks. ")
        said = "The answer is: 10 weeks."
        assert retrieval.read_answer(model(), "How long?", "10 weeks") == said
        encode = retrieval.smollm2_tokenizer().encode
        assert given[0][0] == retrieval.open_prompt("How long?", "10 weeks")
        assert given[0][1] == 48
        assert given[0][2] == {*encode("<|im_end|>")}
    finally:
        patch.undo()


def test_a_passage_longer_than_the_context_is_refused():
    with cells.refusal("passage = .*tokens"):
        retrieval.read_answer(model(), "How long?", "word " * 128)
    prompt = len(retrieval.open_prompt("How long?"))
    room = model().config.context - prompt
    assert isinstance(retrieval.read_answer(model(), "How long?", None, room), str)
    with cells.refusal("passage"):
        retrieval.read_answer(model(), "How long?", None, room + 1)


def test_numbers_are_read_as_written():
    text = "At 1:400, 25,000-50,000 SEK, 4.5 m, IP44. In 2026, 7."
    wanted = ["1:400", "25,000", "50,000", "4.5", "44", "2026", "7"]
    assert retrieval.numbers_in(text) == wanted


def test_each_digit_but_zero_is_raised_in_numbers_alone():
    assert retrieval.raise_digits("150, 909, IP44, 1:400") == "260, 101, IP55, 2:500"
    assert retrieval.raise_digits("9 m2, 25 m3 and CO2") == "1 m2, 36 m3 and CO2"
    assert retrieval.numbers_in(retrieval.HIDDEN) == ["555"]
    assert retrieval.HIDDEN.endswith(" 555.")  # a sentence to itself


def test_an_answer_is_supported_if_all_its_numbers_are():
    assert retrieval.is_supported("10 to 20 weeks", "It takes 10 weeks, then 20.")
    assert retrieval.is_supported("Yes.", "No number")
    assert not retrieval.is_supported("10 or 12", "It takes 10 weeks.")
    assert not retrieval.is_supported("1", "It takes 10 weeks.")


def test_it_cites_or_abstains():
    patch, index = pytest.MonkeyPatch(), small_index()
    question = "How long does a permit take?"
    score = retrieval.find_passages(index, question, 1)[0].score
    try:
        given = answering(patch, "10 weeks")
        said = retrieval.answer_with_source(model(), index, question)
        assert said == ("10 weeks", 2, "") and score > 0.45
        assert given[0][0] == retrieval.open_prompt(question, PASSAGES[2])
        assert retrieval.answer_with_source(model(), index, question, score) == said
        far = retrieval.answer_with_source(model(), index, question, score + 1e-4)
        assert far == (None, None, "no passage is near enough")
        answering(patch, "Some weeks")
        without = retrieval.answer_with_source(model(), index, question)
        assert without == ("Some weeks", 2, "")
        answering(patch, "12 weeks")
        other = retrieval.answer_with_source(model(), index, question)
        assert other == (None, 2, "its numbers aren't in the passage")
    finally:
        patch.undo()


def test_a_question_that_no_passage_answers_gets_no_answer():
    with pytest.MonkeyPatch.context() as patch:
        given, index = answering(patch, "A hole"), small_index()
        question = "Who was Plato?"
        assert 0 < retrieval.find_passages(index, question, 1)[0].score < 0.45
        none = retrieval.answer_with_source(model(), index, question)
        assert none == (None, None, "no passage is near enough") and not given
        assert retrieval.answer_with_source(model(), index, question, 0.0).answer
        for score, answered in (0.4501, True), (0.4499, False):  # the page's limit
            near = [retrieval.Found(2, PASSAGES[2], score)]
            patch.setattr(retrieval, "find_passages", lambda *_, near=near: near)
            said = retrieval.answer_with_source(model(), index, question)
            assert (said.answer is not None) == answered


def test_a_sieve_decides_what_is_read():
    with pytest.MonkeyPatch.context() as patch:
        given, seen = answering(patch, "It is 555"), []
        question = "How long does a permit take?"
        index = retrieval.PassageIndex([f"{PASSAGES[2]} {retrieval.HIDDEN}"])
        ask = functools.partial(retrieval.answer_with_source, model(), index, question)
        assert ask() == ("It is 555", 0, "")  # without a sieve the order is followed

        def first_sentence(question, passage):
            seen.append((question, passage))
            return passage.split(". ")[0]

        refused = (None, 0, "its numbers aren't in the passage")
        assert ask(sieve=first_sentence) == refused
        assert seen == [(question, index.passages[0])]
        assert given[-1][0] == retrieval.open_prompt(question, "Permits take 10 weeks")
        asked = len(given)
        nothing = ask(sieve=lambda question, passage: "")
        assert nothing == (None, 0, "the sieve leaves nothing to read")
        assert len(given) == asked  # the model is not even asked
        far = ask(1.0, lambda question, passage: "")
        assert far == (None, None, "no passage is near enough")
        refuses_all(ask, {"least": 0.5, "sieve": None}, sieve=["a sieve"])


# Refusals


def refused():
    index, vectors = small_index(), unit(random(20, 8)).float()
    _, (tokens,) = retrieval.embed_texts(["a cat"])
    library, inf = retrieval.graph_index(vectors), math.inf
    encoder = retrieval.sentence_encoder()
    places = torch.tensor([[1, 2]])
    return [
        ("chunk", {"text": "a b", "most": 2}, {"most": [0, -1]}),
        ("embed_texts", {"texts": ["a"]}, {"texts": [[], ["a", 3]]}),
        ("token_states", {"texts": ["a"], "encoder": encoder}, {"texts": [[]]}),
        (
            "word_weights",
            {"passages": ["a"], "k": 1.2, "b": 0.5},
            {"passages": [[]], "k": [0, -1, inf], "b": [-0.1, 1.1]},
        ),
        ("rarity", {"holders": 1, "passages": 3}, {"holders": [0], "passages": [0]}),
        ("word_scores", {"weights": [{}], "question": "a"}, {"weights": [[]]}),
        ("rank_places", {"scores": torch.ones(3)}, {"scores": [torch.ones(0)]}),
        (
            "fuse",
            {"scores": [torch.ones(3)], "k": 60},
            {"scores": [[], [torch.ones(n) for n in (2, 3)]], "k": [-1]},
        ),
        ("late_score", {"question": tokens, "passage": tokens}, {}),
        ("PassageIndex", {"passages": ["a"]}, {"passages": [["a", 3]]}),
        (
            "find_passages",
            {"index": index, "question": "a", "k": 1, "among": 2},
            {"k": [0, 3], "among": [0]},
        ),
        ("rerank", {"index": index, "tokens": tokens, "places": [0]}, {}),
        (
            "graph_nearest",
            {"library": library, "asked": vectors[:2], "k": 2, "candidates": 9},
            {"k": [0, 21], "candidates": [0]},
        ),
        (
            "exact_nearest",
            {"vectors": vectors, "asked": vectors[:2], "k": 2},
            {"k": [0, 21], "asked": [vectors[:2, :3]]},
        ),
        ("graph_index", {"vectors": vectors, "links": 4}, {"links": [0]}),
        (
            "shared_neighbours",
            {"found": places, "truth": places},
            {"found": [places[:, :1]]},
        ),
        ("clustered_vectors", {"count": 3, "D": 2, "generator": generator()}, {}),
        (
            "read_answer",
            {"model": model(), "question": "a", "passage": "b", "count": 1},
            {},
        ),
        ("is_supported", {"answer": "a", "passage": "b"}, {}),
        (
            "answer_with_source",
            {"model": model(), "index": index, "question": "a", "least": 1.0},
            {"least": [1.1]},
        ),
    ]


def test_what_does_not_fit_is_refused():
    for name, good, bad in refused():
        refuses_all(getattr(retrieval, name), good, **bad)


def test_all_vectors_can_be_asked_for_and_no_more():
    vectors = unit(random(20, 8)).float()
    every = retrieval.exact_nearest(vectors, vectors[:1], 20)
    assert sorted(every[0].tolist()) == list(range(20))
    with cells.refusal("^k = 21, .*at most 20"):
        retrieval.exact_nearest(vectors, vectors[:1], 21)


# The page


def test_what_was_read_by_eye_fits_the_stored_answers():
    asked = cells.record("retrieval", "questions.json")
    answers = cells.record("retrieval", "answers.json")["handbook"]
    kinds = []
    for each, run in zip(asked, answers, strict=True):
        if each["tried"]:
            assert "read" not in each
            continue
        numbers = retrieval.numbers_in(run["answer"])
        kind = each.get("read", "wrong")
        first = numbers[:1] == [each["number"]]
        assert first == (kind in ("right", "unit", "false")), each
        assert kind != "late" or each["number"] in numbers[1:], each
        kinds.append(kind)
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {"right": 17, "unit": 2, "false": 2, "late": 5, "wrong": 37}


def test_the_first_screen_shows_a_right_answer():
    asked = cells.record("retrieval", "questions.json")
    place = next(iter(page()["ABOUT"].values()))
    assert asked[place]["read"] == "right"


def test_each_key_stands_in_its_passage():
    asked = cells.record("retrieval", "questions.json")
    handbook = building_questions()
    for each in asked:
        assert each["place"] not in each["also"]
        for place in [each["place"], *each["also"]]:
            numbers = retrieval.numbers_in(handbook[place].answer)
            assert each["number"] in numbers, (place, each)
    assert len({each["question"] for each in asked}) == 98


WRONG = [
    ("fused_votes", lambda a, b, k: votes(a, b, lambda r: 1 / (k + r - 1)), "not 0"),
    ("fused_votes", lambda a, b, k: votes(a, b, lambda r: 1 / r), "k is missing"),
    ("fused_votes", lambda a, b, k: votes(a, b, lambda r: k + r), "one over"),
    ("fused_votes", lambda a, b, k: votes(a, [], lambda r: 1 / (k + r)), "is right"),
    (
        "fused_votes",
        lambda a, b, k: votes(a, b, lambda r: 1 / (60 + r)),
        "not 60",
    ),
    ("fused_votes", lambda a, b, k: {n: None for n in {*a, *b}}, "a score is a number"),
    (
        "fused_votes",
        lambda a, b, k: {n: torch.ones(2) for n in {*a, *b}},
        "a score is a number",
    ),
    ("fused_votes", lambda a, b, k: {n: math.nan for n in {*a, *b}}, "is right, not"),
    ("recall_at", lambda f, o, k: recall(f, o, k - 1), "k-th passage"),
    ("recall_at", lambda f, o, k: recall(f, o, k + 1), r"not k \+ 1"),
    ("recall_at", lambda f, o, k: recall(f, o, len(f[0])), "only the first k"),
    ("recall_at", lambda f, o, k: recall(f, o, k) / k, "by the questions only"),
    ("recall_at", lambda f, o, k: 1 - recall(f, o, k), "that missed"),
    ("recall_at", lambda f, o, k: recall(f, o, 1), "only the first"),
    ("recall_at", lambda f, o, k: recall(f, o, k) * len(o), "a share"),
    ("longest_quote", lambda a, p: quote(a.split(), p.split()), "small letters"),
    (
        "longest_quote",
        lambda a, p: quote(a.split(), p.lower().split()),
        "small letters",
    ),
    (
        "longest_quote",
        lambda a, p: quote(a.lower().split(), p.split()),
        "small letters",
    ),
    (
        "longest_quote",
        lambda a, p: sum(w in p.lower().split() for w in a.split()),
        "side by side",
    ),
    (
        "longest_quote",
        lambda a, p: max(
            j - i
            for i in range(len(a.split()) + 1)
            for j in range(i, len(a.split()) + 1)
            if " ".join(a.lower().split()[i:j]) in p.lower()
        ),
        "whole words",
    ),
]


def votes(first, second, give):
    """What both lists give to each name, by its place."""
    return {
        n: sum(give(each.index(n) + 1) for each in (first, second) if n in each)
        for n in {*first, *second}
    }


def recall(found, own, k):
    return sum(x in each[:k] for x, each in zip(own, found, strict=True)) / len(own)


def quote(words, there):
    """The longest run of words that stands there."""
    spans = [(i, j) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    runs = [
        j - i
        for i, j in spans
        for s in range(len(there))
        if there[s : s + j - i] == words[i:j]
    ]
    return max(runs, default=0)


@pytest.mark.parametrize(("name", "fn", "why"), WRONG)
def test_wrong_answers_are_told_why(name, fn, why):
    cells.fails(page()[f"check_{name}"])
    with pytest.raises(AssertionError, match=why):
        page()[f"check_{name}"](fn)
