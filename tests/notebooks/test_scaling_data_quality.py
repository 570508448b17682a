"""The cells of scaling/data-quality against sets, closed forms and plain loops."""

import collections
import itertools
import math
import random

import cells
import torch
from cells import generator

from fieldguide.data import licences
from fieldguide.scaling import data_quality as page

CATS = "The cat sat on the mat", "the cat sat on a Mat!"


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


def test_shingles_and_their_similarity():
    a, b = (page.shingles(text, 2) for text in CATS)
    assert a == {"the cat", "cat sat", "sat on", "on the", "the mat"}
    assert page.jaccard(a, b) == 3 / 7 and page.jaccard(a, a) == 1
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


def test_families_of_licences_hold_close_relatives():
    known = page.licence_signatures()
    row = page.signature(
        page.shingles(licences()[5].text), page.random_orders(112, generator())
    )
    assert known.shape == (1977, 112) and torch.equal(known[5], row)
    place = {each.key: i for i, each in enumerate(licences())}
    strict, loose = page.licence_families(8, 0.5), page.licence_families(2, 0.2)
    i, *others = max(strict, key=len)
    assert max((known[i] == known[j]).double().mean() for j in others) >= 0.5
    for groups in strict, loose:
        home = {i: k for k, group in enumerate(groups) for i in group}
        assert home[place["bsd-new"]] == home[place["bsd-simplified"]]
    assert len(strict) > len(loose) == 747
