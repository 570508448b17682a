"""The cells of scaling/data-quality against sets, closed forms and plain loops."""

import collections
import itertools
import math
import random
from unittest import mock

import cells
import pytest
import torch
from cells import generator

from fieldguide.data import DataError, corpora, king_james, licences
from fieldguide.introduction.next_word import characters, to_ids
from fieldguide.scaling import data_quality as page
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig

CATS = "The cat sat on the mat", "the cat sat on a Mat!"
FIRST_PSALM = "Blessed is the man that walketh not in the counsel"
LAST_PSALM = "Let every thing that hath breath praise the LORD"


# The texts


def test_licences_are_those_that_the_digest_is_of():
    assert len({each.key for each in licences()}) == len(licences()) == 1977
    other = mock.patch.object(corpora, "LICENCES_SHA256", "0" * 64)
    with other, pytest.raises(DataError, match="damaged or changed"):
        licences.__wrapped__()


def test_home_is_unread_and_away_has_no_relative_in_legal():
    known = page.sources()
    assert known.alphabet == characters(king_james())
    verses = king_james().splitlines(keepends=True)
    home = [v for i, v in enumerate(verses) if i // 20 % 10 == 0]
    assert torch.equal(known.home, to_ids("".join(home), known.alphabet))
    read = [v for i, v in enumerate(verses) if i // 20 % 10]
    assert "".join(known.passages) == "".join(read)
    assert {len(p.splitlines()) for p in known.passages[:-1]} == {20}
    assert known.psalms in "".join(read)
    first = next(i for i, v in enumerate(verses) if v.startswith(FIRST_PSALM))
    last = next(i for i, v in enumerate(verses) if v.startswith(LAST_PSALM))
    cut = range(math.ceil(first / 20) * 20, last, 20)
    inside = [v for at in cut if at // 20 % 10 for v in verses[at : at + 20]]
    assert known.psalms == "".join(inside)
    groups = page.licence_families(2, 0.2)
    away, legal = page.split_families(groups, 0.1, generator())[::-1]
    text = {i: licences()[i].text for i in (*away, *legal[:2])}
    plain = {i: page.plain(text[i], known.alphabet) for i in text}
    one_by_one = "".join(plain[i] for i in away)
    assert torch.equal(known.away, to_ids(one_by_one, known.alphabet))
    assert known.legal.startswith(plain[legal[0]] + plain[legal[1]])


# Spoiled texts


def test_typos_are_as_many_as_asked_for_and_drawn_evenly():
    text = "ab" * 20_000 + "cd"
    spoiled = page.with_typos(text, 0.2, generator())
    changed = [new for old, new in zip(text, spoiled, strict=True) if old != new]
    assert len(spoiled) == len(text)
    assert math.isclose(len(changed) / len(text), 0.2 * 3 / 4, rel_tol=0.05)
    counts = collections.Counter(changed)
    assert set(counts) == set("abcd")
    assert math.isclose(counts["c"], counts["a"] + counts["b"], rel_tol=0.1)


@cells.cases(seed=cells.seeds, order=cells.st.integers(1, 4))
def test_an_imitation_holds_only_runs_of_the_original(seed, order):
    letters = random.Random(seed)
    text = "".join(letters.choice("abc") for _ in range(30))
    new = page.imitate(text, 50, order, generator(seed))
    assert len(new) == 50
    ring = text + text[:order]
    known = {ring[i : i + order + 1] for i in range(len(text))}
    whole = text[:order] + new
    assert {whole[i : i + order + 1] for i in range(50)} <= known


def test_an_imitation_follows_the_counts():
    new = page.imitate("abracadabra", 40_000, 1, generator())
    after = collections.Counter(b for a, b in itertools.pairwise(new) if a == "a")
    total = sum(after.values())
    for letter, part in {"b": 0.4, "c": 0.2, "d": 0.2, "a": 0.2}.items():
        assert abs(after[letter] / total - part) < 0.02


def test_what_fills_a_gap_is_as_long_as_it():
    text = "".join(page.sources().passages[:5])
    good = "".join(page.sources().passages[5:7])
    for kind in page.FILLINGS:
        filled = page.filling(kind, text, good, generator(1))
        assert len(filled) == (0 if kind == "nothing" else len(text))
    copies = page.filling("copies", text, good, generator(1))
    assert copies[:2600] == copies[2600:5200] and copies[:2600] in text[:2600] * 2
    assert page.filling("psalms", text, good, generator()) in page.sources().psalms * 2
    assert page.filling("licences", text, good, generator()) in page.sources().legal
    typos = page.filling("typos", text, good, generator())
    changed = sum(a != b for a, b in zip(typos, text, strict=True))
    assert 0.17 < changed / len(text) < 0.2
    for kind, known in ("imitation", text), ("echo", good):
        last = page.imitate(known, len(text), 4, generator())
        assert page.filling(kind, text, good, generator()) == last


def test_a_training_text_keeps_the_good_part():
    clean = page.training_text("nothing", 0.0, 3)
    order = torch.randperm(len(page.sources().passages), generator=generator(3))[:40]
    drawn = [page.sources().passages[i] for i in order]
    assert clean == "".join(drawn)
    half = page.training_text("nothing", 0.5, 3)
    assert half == "".join(drawn[:20])
    for kind in set(page.FILLINGS) - {"nothing"}:
        text = page.training_text(kind, 0.9, 3)
        assert text.startswith("".join(drawn[:4])) and len(text) == len(clean)
        assert text != clean
    known = "".join(drawn[:4])
    runs = {(known * 2)[i : i + 5] for i in range(len(known))}
    echo = page.training_text("echo", 0.9, 3)[len(known) :]
    assert {echo[i : i + 5] for i in range(len(echo) - 4)} <= runs


def test_a_mix_holds_a_clean_part_and_the_parts_asked_for():
    known = page.sources().passages
    draw = generator(3)
    drawn = [known[i] for i in torch.randperm(len(known), generator=draw)]
    assert page.mixed_text(3) == page.training_text("nothing", 0.0, 3)
    for kind in "copies", "typos", "psalms", "imitation":
        for parts, share in (1, 0.5), (3, 0.75):
            alone = page.mixed_text(3, **{kind: parts})
            assert alone == page.training_text(kind, share, 3)
    parts = {"copies": 1, "typos": 2, "psalms": 1, "imitation": 3}
    cuts = [(2, 4), (4, 8), (8, 10), (10, 16)]
    right = good = "".join(drawn[:2])
    for kind, cut in zip(parts, cuts, strict=True):
        right += page.filling(kind, "".join(drawn[slice(*cut)]), good, draw)
    assert page.mixed_text(3, **parts, passages=16) == right
    draw = generator(3)
    torch.randperm(len(known), generator=draw)
    right = drawn[0] + drawn[1]  # the cuts are at 1.7 and 3.3
    for kind, bad in ("copies", drawn[2]), ("typos", drawn[3] + drawn[4]):
        right += page.filling(kind, bad, "", draw)
    assert page.mixed_text(3, copies=1, typos=1, passages=5) == right


def test_a_model_learns_from_its_text_alone():
    """By hand, with the training page: a GPT of the book's usual size."""
    text, known = page.training_text("nothing", 0.0, 0, 2), page.sources()
    recipe, ids = training.modern_recipe(2), to_ids(text, known.alphabet)
    model, draw = page.learn_from(text, 1, 2), generator(1)
    sizes = GPTConfig(65, 64, 64, heads=4, layers=2, bias=False)
    right = training.new_gpt(sizes, recipe, draw)
    training.train(right, ids, recipe, generator=draw)
    home, away = page.home_and_away(model)
    assert home == training.held_out_loss(right, known.home, 256)
    assert away == training.held_out_loss(right, known.away, 256)
    assert 3 < home < away < 4.5


def test_the_price_is_read_off_the_curve():
    steps, losses = [1, 20, 80], [4.0, 2.0, 1.5]
    for loss, right in (4, 1), (3, 10.5), (2, 20), (1.75, 50), (1.5, 80):
        assert math.isclose(page.clean_steps(float(loss), steps, losses), right)
    assert page.clean_steps(9.0, steps, losses) == 1
    assert page.clean_steps(0.5, steps, losses) == 80


# Near-duplicates


def test_shingles_and_their_similarity():
    a, b = (page.shingles(text, 2) for text in CATS)
    assert a == {"the cat", "cat sat", "sat on", "on the", "the mat"}
    assert page.jaccard(a, b) == 3 / 7 and page.jaccard(a, a) == 1
    assert page.jaccard(a, set()) == page.jaccard(set(), a) == 0
    assert page.shingles("one two", 3) == set()
    assert page.shingles("a b c d e f") == {"a b c d e", "b c d e f"}


def test_a_signature_holds_the_smallest_value_in_each_order():
    orders = page.random_orders(5, generator())
    pieces = {"the cat", "cat sat", "on a"}
    numbers = [page.crc32(p.encode()) % page.PRIME for p in pieces]
    pairs = orders.tolist()
    right = [min((a * n + b) % page.PRIME for n in numbers) for a, b in pairs]
    assert page.signature(pieces, orders).tolist() == right
    many = page.random_orders(20_000, generator(1))
    a, b = (page.signature(page.shingles(t, 2), many) for t in CATS)
    assert abs((a == b).double().mean() - 3 / 7) < 0.02
    assert len(many.unique()) > 39_000 and many.max() < page.PRIME == 2**31 - 1


@cells.cases(seed=cells.seeds, rows=cells.st.sampled_from([1, 2, 3, 6]))
def test_candidates_agree_in_a_whole_band(seed, rows):
    known = torch.randint(3, (9, 6), generator=generator(seed))
    found = page.candidates(known, rows)
    right = [
        [i, j]
        for i, j in itertools.combinations(range(9), 2)
        if (known[i] == known[j]).view(-1, rows).all(1).any()
    ]
    assert found.tolist() == right and found.shape == (len(right), 2)


def test_families_are_what_pairs_join():
    pairs = torch.tensor([[5, 6], [0, 3], [3, 5], [1, 7], [7, 1]])
    assert page.families(8, pairs) == [[0, 3, 5, 6], [1, 7], [2], [4]]
    assert page.families(2, torch.empty(0, 2, dtype=torch.long)) == [[0], [1]]


@cells.cases(cells.seeds)
def test_a_split_cuts_no_family(seed):
    groups = [[0, 1, 2], [3], [4, 5], [6], [7, 8, 9], *([i] for i in range(10, 20))]
    training, test = page.split_families(groups, 0.2, generator(seed))
    assert sorted(training + test) == list(range(20)) and test == sorted(test)
    assert training == sorted(training) and 2 <= len(test) <= 4
    assert all(set(g) <= set(test) or not set(g) & set(test) for g in groups)
    assert sorted(page.split_families([[0], [1]], 0.5, generator(seed))) == [[0], [1]]


def test_families_of_licences_hold_close_relatives():
    known = page.licence_signatures()
    assert known.shape == (1977, 112)
    orders = page.random_orders(112, generator())
    row = page.signature(page.shingles(licences()[5].text), orders)
    assert torch.equal(known[5], row)
    place = {each.key: i for i, each in enumerate(licences())}
    strict, loose = page.licence_families(8, 0.5), page.licence_families(2, 0.2)
    for groups in strict, loose:
        home = {i: k for k, group in enumerate(groups) for i in group}
        assert home[place["bsd-new"]] == home[place["bsd-simplified"]]
    assert len(strict) > len(loose) == 747
    tens = torch.arange(10)
    three = torch.stack([tens, tens + (tens > 6), tens + 10 * (tens > 5)])
    with mock.patch.object(page, "licence_signatures", return_value=three):
        assert page.licence_families(1, 0.7) == [[0, 1], [2]]  # seven of ten, and six
        assert page.licence_families(1, 0.7 + 1e-9) == [[0], [1], [2]]
        assert page.licence_families(1, 0.6) == [[0, 1, 2]]
        assert page.licence_families(10, 0.6) == [[0], [1], [2]]
