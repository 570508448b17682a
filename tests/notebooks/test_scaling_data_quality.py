"""The cells of scaling/data-quality against sets, closed forms and plain loops."""

import collections
import functools
import itertools
import math
import random
from unittest import mock

import cells
import pytest
import torch
from cells import generator, refuses, refuses_all

from fieldguide.data import DataError, corpora, king_james, licences
from fieldguide.introduction.next_word import characters, to_ids
from fieldguide.scaling import data_quality as page
from fieldguide.transformers import training
from fieldguide.transformers.gpt import GPTConfig

CATS = "The cat sat on the mat", "the cat sat on a Mat!"
FIRST_PSALM = "Blessed is the man that walketh not in the counsel"
LAST_PSALM = "Let every thing that hath breath praise the LORD"


@functools.cache
def book():
    return cells.run_exercises("scaling/data-quality")


# The texts


def test_licences_are_long_english_and_those_that_the_digest_is_of():
    known = licences()
    assert licences() is known and len({each.key for each in known}) == len(known)
    assert len(known) == 1977 and len({each.category for each in known}) == 11
    assert min(len(each.text) for each in known) >= 300
    assert all(each.text == each.text.strip() for each in known)
    other = mock.patch.object(corpora, "LICENCES_SHA256", "0" * 64)
    with other, pytest.raises(DataError, match=r"damaged or changed\. Install it anew"):
        licences.__wrapped__()


def test_home_is_unread_and_away_has_no_relative_in_legal():
    known = page.sources()
    assert page.sources() is known
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
    assert set(known.legal) <= set(known.alphabet) and "  " not in known.legal
    assert known.legal.count("\n") == len(legal)
    twenty = [[i] for i in range(20)]
    with mock.patch.object(page, "licence_families", return_value=twenty) as related:
        assert page.sources.__wrapped__().legal.count("\n") == 18
    related.assert_called_once_with(2, 0.2)


def test_plain_text_has_the_alphabet_only():
    assert page.plain("A (b)\n\n c1d\t", ["\n", " ", "A", "b", "c", "d"]) == "A b c d\n"


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
    with mock.patch.object(torch, "rand", lambda n, **_: torch.zeros(n)):
        assert page.with_typos(text, 0, generator()) == text  # whatever is drawn
    refuses_all(
        page.with_typos,
        {"text": "ab", "share": 0.5, "generator": generator()},
        share=[-0.1, 1.1],
        text=[""],
    )


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
    good = {"text": "abcab", "length": 3, "order": 2, "generator": generator()}
    refuses_all(page.imitate, good, length=[0, -1], order=[0, 5])


def test_what_fills_a_gap_is_as_long_as_it():
    text = "".join(page.sources().passages[:5])
    good = "".join(page.sources().passages[5:7])
    labels = {
        "nothing": "good part, reread",
        "echo": "good part, imitated",
        "imitation": "lost part, imitated",
        **{kind: kind for kind in ("copies", "typos", "licences")},
        "psalms": "psalms only",
    }
    assert labels == page.FILLINGS
    for kind in page.FILLINGS:
        filled = page.filling(kind, text, good, generator(1))
        assert filled == page.filling(kind, text, good, generator(1))
        assert len(filled) == (0 if kind == "nothing" else len(text))
        other = page.filling(kind, text, good, generator(2))
        assert (other == filled) == (kind == "nothing")
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
    right = {"kind": "typos", "text": text, "good": good, "generator": generator()}
    refuses_all(page.filling, right, kind=["clean"])


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
    good = {"kind": "typos", "share": 0.5, "seed": 0, "passages": 4}
    refuses_all(page.training_text, good, share=[-0.1, 0.01, 1.1], passages=[0, 10**6])
    most = len(page.sources().passages)
    whole = page.training_text("nothing", 0.0, 0, most)
    assert len(whole) == sum(map(len, page.sources().passages))
    too_many = ("nothing", 0.0, 0, most + 1)
    refuses("passages", page.training_text, *too_many, says=f"{most} at most")


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
    right = {"seed": 0, **parts, "passages": 8}
    none = [-1, 0.5]
    refuses_all(
        page.mixed_text,
        right,
        **dict.fromkeys(parts, none),
        passages=[0, 7, len(known) + 1],
    )
    assert len(page.mixed_text(0, typos=1, passages=len(known))) == sum(map(len, known))
    refuses("passages", page.mixed_text, 0, 7, passages=7, says="from 8 to")


def test_a_model_learns_from_its_text_alone():
    """By hand, with the training page: a GPT of the book's usual size."""
    text, known = page.training_text("nothing", 0.0, 0, 2), page.sources()
    recipe, ids = training.modern_recipe(2), to_ids(text, known.alphabet)
    for seed in 1, 0:
        model, draw = page.learn_from(text, seed, 2), generator(seed)
        sizes = GPTConfig(65, 64, 64, heads=4, layers=2, bias=False)
        right = training.new_gpt(sizes, recipe, draw)
        training.train(right, ids, recipe, generator=draw)
        for ours, theirs in zip(model.parameters(), right.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    home, away = page.home_and_away(model)
    assert home == training.held_out_loss(right, known.home, 256)
    assert away == training.held_out_loss(right, known.away, 256)
    assert 3 < home < away < 4.5
    with mock.patch.object(page, "train") as train:
        page.learn_from(text, 0)
    assert train.call_args.args[2] == training.modern_recipe(100)
    refuses_all(page.learn_from, {"text": text, "seed": 0, "steps": 1}, steps=[0])


def test_the_price_is_read_off_the_curve():
    steps, losses = [1, 20, 80], [4.0, 2.0, 1.5]
    for loss, right in (4, 1), (3, 10.5), (2, 20), (1.75, 50), (1.5, 80):
        assert math.isclose(page.clean_steps(float(loss), steps, losses), right)
    assert page.clean_steps(9.0, steps, losses) == 1
    assert page.clean_steps(0.5, steps, losses) == 80
    good = {"loss": 1.75, "steps": steps, "losses": losses}
    bad_steps = [[10, 20], [10, 10, 80], [0, 20, 80], [10]]
    bad_losses = [[3.0, 2.0], [3.0, 2.0, 2.0], [3.0]]
    names = ["steps", "losses"]
    refuses_all(
        page.clean_steps, good, inner_names=names, steps=bad_steps, losses=bad_losses
    )


# Near-duplicates


def test_shingles_and_their_similarity():
    a, b = (page.shingles(text, 2) for text in CATS)
    assert a == {"the cat", "cat sat", "sat on", "on the", "the mat"}
    assert page.jaccard(a, b) == 3 / 7 and page.jaccard(a, a) == 1
    assert page.jaccard(a, set()) == page.jaccard(set(), a) == 0
    assert page.shingles("one two", 3) == set()
    assert page.shingles("a b c d e f") == {"a b c d e", "b c d e f"}
    refuses_all(page.shingles, {"text": "a b", "n": 2}, n=[0])
    refuses_all(page.jaccard, {"a": a, "b": b})
    refuses("a", page.jaccard, set(), set(), says="something in it")


def test_a_signature_holds_the_smallest_value_in_each_order():
    orders = page.random_orders(5, generator())
    assert orders.shape == (5, 2) and (orders[:, 0] > 0).all()
    pieces = {"the cat", "cat sat", "on a"}
    numbers = [page.crc32(p.encode()) % page.PRIME for p in pieces]
    pairs = orders.tolist()
    right = [min((a * n + b) % page.PRIME for n in numbers) for a, b in pairs]
    assert page.signature(pieces, orders).tolist() == right
    many = page.random_orders(20_000, generator(1))
    a, b = (page.signature(page.shingles(t, 2), many) for t in CATS)
    assert abs((a == b).double().mean() - 3 / 7) < 0.02
    assert len(many.unique()) > 39_000 and many.max() < page.PRIME == 2**31 - 1
    refuses_all(page.random_orders, {"count": 2, "generator": generator()}, count=[0])
    refuses_all(page.signature, {"pieces": pieces, "orders": orders}, pieces=[set()])


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
    none = page.candidates(torch.tensor([[1, 2], [3, 4]]), 1)
    assert none.shape == (0, 2) and none.dtype == torch.long
    refuses("rows", page.candidates, known, 4, says="a divisor of 6")
    refuses_all(page.candidates, {"signatures": known, "rows": rows}, rows=[0])


def test_families_are_what_pairs_join():
    pairs = torch.tensor([[5, 6], [0, 3], [3, 5], [1, 7], [7, 1]])
    assert page.families(8, pairs) == [[0, 3, 5, 6], [1, 7], [2], [4]]
    assert page.families(2, torch.empty(0, 2, dtype=torch.long)) == [[0], [1]]
    bad = [torch.tensor([[0, 8]]), torch.tensor([[-1, 2]])]
    refuses_all(page.families, {"count": 8, "pairs": pairs}, count=[0, 7], pairs=bad)


@cells.cases(cells.seeds)
def test_a_split_cuts_no_family(seed):
    groups = [[0, 1, 2], [3], [4, 5], [6], [7, 8, 9], *([i] for i in range(10, 20))]
    training, test = page.split_families(groups, 0.2, generator(seed))
    assert sorted(training + test) == list(range(20)) and test == sorted(test)
    assert training == sorted(training) and 2 <= len(test) <= 4
    assert all(set(g) <= set(test) or not set(g) & set(test) for g in groups)
    again = page.split_families(groups, 0.2, generator(seed))
    assert again == (training, test)
    assert sorted(page.split_families([[0], [1]], 0.5, generator(seed))) == [[0], [1]]
    good = {"groups": groups, "share": 0.2, "generator": generator()}
    refuses_all(page.split_families, good, share=[-1, 2], groups=[[[1]]])


def test_families_of_licences_hold_close_relatives():
    known = page.licence_signatures()
    assert known.shape == (1977, 112) and page.licence_signatures() is known
    orders = page.random_orders(112, generator())
    row = page.signature(page.shingles(licences()[5].text), orders)
    assert torch.equal(known[5], row)
    place = {each.key: i for i, each in enumerate(licences())}
    strict, loose = page.licence_families(8, 0.5), page.licence_families(2, 0.2)
    for groups in strict, loose:
        home = {i: k for k, group in enumerate(groups) for i in group}
        assert home[place["bsd-new"]] == home[place["bsd-simplified"]]
    assert len(strict) > len(loose) == 747
    refuses_all(page.licence_families, {"rows": 8, "least": 0.5}, least=[-1, 2])
    tens = torch.arange(10)
    three = torch.stack([tens, tens + (tens > 6), tens + 10 * (tens > 5)])
    with mock.patch.object(page, "licence_signatures", return_value=three):
        assert page.licence_families(1, 0.7) == [[0, 1], [2]]  # seven of ten, and six
        assert page.licence_families(1, 0.7 + 1e-9) == [[0], [1], [2]]
        assert page.licence_families(1, 0.6) == [[0, 1, 2]]
        assert page.licence_families(10, 0.6) == [[0], [1], [2]]


# The page's own cells


def test_the_stored_runs_are_those_of_the_maker():
    script = cells.script("data-quality")
    record = cells.record("data-quality", "runs.json")
    assert record["shares"] == script.SHARES and record["steps"] == script.STEPS
    assert list(record["filled"]) == list(page.FILLINGS)
    assert all(len(rows) == len(script.SHARES) for rows in record["filled"].values())
    flat = [r for rows in (record["clean"], *record["filled"].values()) for r in rows]
    assert all(len(seeds) == len(script.SEEDS) for seeds in flat)


def test_the_stored_mixes_are_those_of_the_maker():
    script = cells.script("data-quality")
    record = cells.record("data-quality", "mix.json")
    assert record["levels"] == script.LEVELS
    mixes = [*itertools.product(*script.LEVELS.values())]
    ends = dict(zip(mixes, record["ends"], strict=True))
    assert all(len(seeds) == len(script.SEEDS) for seeds in ends.values())
    again = script.mixed((3, 0, 3, 0, 1))
    assert again == pytest.approx(ends[3, 0, 3, 0][1], abs=0.03)
    # one kind alone was measured for the other record, too
    runs = cells.record("data-quality", "runs.json")
    alone = {(0, 0, 0, 0): runs["clean"][-1]}
    for place, kind in enumerate(script.LEVELS):
        for parts, share in (1, 0.5), (3, 0.75):
            mix = tuple(parts if i == place else 0 for i in range(4))
            alone[mix] = runs["filled"][kind][script.SHARES.index(share)]
    both = alone.keys() & ends.keys()
    assert len(both) == 1 + sum(len(levels) - 1 for levels in script.LEVELS.values())
    for mix in both:
        for ours, theirs in zip(ends[mix], alone[mix], strict=True):
            assert ours == pytest.approx(theirs, abs=0.03)


def test_close_pairs_are_all_that_there_are():
    """Every fifth licence is put beside all that share some rare pieces with it."""
    sets = [page.shingles(each.text) for each in licences()]
    holders = collections.defaultdict(list)
    for place, pieces in enumerate(sets):
        for piece in pieces:
            holders[piece].append(place)
    close = set()
    for i in range(0, len(sets), 5):
        common = collections.Counter()
        for piece in sets[i]:
            if len(holders[piece]) < 60:  # pairs of .8 share rarer ones, too
                common.update(holders[piece])
        near = [j for j, n in common.items() if n >= 5 and j != i]
        close |= {
            (min(i, j), max(i, j))
            for j in near
            if page.jaccard(sets[i], sets[j]) >= 0.8
        }
    fifth = {(i, j) for i, j in book().close if i % 5 == 0 or j % 5 == 0}
    assert close <= fifth and len(close) > 0.99 * len(fifth)
    assert len(book().close) == 630


def test_similarities_are_those_of_every_pair():
    draw = random.Random(0)
    sets = [{str(draw.randrange(9)) for _ in range(6)} for _ in range(12)]
    found = book().similarities(sets)
    for (i, a), (j, b) in itertools.product(enumerate(sets), repeat=2):
        assert math.isclose(found[i, j].item(), page.jaccard(a, b), rel_tol=1e-6)


def test_each_licence_is_dealt_once_and_no_family_is_cut():
    groups = [[0, 1, 2, 3, 4, 5], [6], [7, 8], *([i] for i in range(9, 20))]
    dealt = book().piles(groups)
    assert sorted(i for each in dealt for i in each) == list(range(20))
    assert len(dealt) == 5
    assert all(any(set(g) <= set(each) for each in dealt) for g in groups)
    assert max(map(len, dealt)) == 6 and min(map(len, dealt)) >= 3


def test_the_curve_is_that_of_bands():
    draw = generator()
    met = torch.rand(20_000, 112, generator=draw) < 0.7
    for rows in (4, 8, 14):
        found = met.view(-1, 112 // rows, rows).all(2).any(1).double().mean().item()
        assert abs(book().caught(0.7, rows) - found) < 0.01


# Exercises


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("containment", "len(a & b) / len(a | b)", "Jaccard"),
        ("containment", "len(a & b) / max(len(a), len(b))", "whichever"),
        ("containment", "len(a & b) / len(a)", "whichever"),
        ("containment", "len(a & b) / len(b)", "whichever"),
        ("containment", "float(len(a & b))", "How many could"),
        ("containment", "0.123", "is right, not"),
        ("contaminated", "float(sum(bool(s(t, n) & S(r, n)) for t in e))", "number"),
        ("contaminated", "sum(s(t, n) <= S(r, n) for t in e) / 5", "enough"),
        ("contaminated", "sum(t in r for t in e) / 5", "not texts"),
        ("contaminated", "sum(bool(s(t, 1) & S(r, 1)) for t in e) / 5", "single"),
        ("contaminated", "sum(bool(s(t, n) & S(e, n)) for t in r) / 4", "test texts"),
        (
            "contaminated",
            "sum(bool(s(t, n) & S(r, n)) for t in e) / sum(bool(s(t, n)) for t in e)",
            "without runs is a test",
        ),
        ("contaminated", "0.123", "is right, not"),
        ("even_chance", "(1 / a) ** (1 / b)", "rule of thumb"),
        ("even_chance", "(1 - 0.5 ** (1 / b)) ** (1 / a)", "exchanged"),
        ("even_chance", "0.5 ** (1 / b)", "one band"),
        ("even_chance", "1 - 0.5 ** (1 / a)", "Take the root"),
        ("even_chance", "0.123", "is right, not"),
    ],
)
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    names = {"contaminated": "e, r, n"}.get(check, "a, b")
    known = {"s": page.shingles}
    known["S"] = lambda texts, n: set().union(*(page.shingles(t, n) for t in texts))
    cells.is_told_its_cause(book(), check, answer, cause, names, **known)
