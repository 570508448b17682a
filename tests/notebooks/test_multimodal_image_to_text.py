"""The cells of multimodal/image-to-text against loops and the models' own ways.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import functools
import json
import math
import re
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from cells import (
    close,
    fails,
    generator,
    module_at,
    random,
    refusal,
    refuses,
    run_exercises,
    solutions_pass,
)
from torch import nn

from fieldguide import check, data
from fieldguide.multimodal import clip, image_to_text
from fieldguide.transformers import real_model, training

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "book" / "_assets" / "picture-tokens"
NAN = float("nan")


def some_llama(vocab=11, seed=0, **sizes):
    """A small model whose weights are large enough to matter."""
    sizes = {"width": 8, "layers": 2, "heads": 2, "kv_heads": 1, "hidden": 6} | sizes
    sizes = {"context": 12, "eps": 1e-5, "base": 1e4} | sizes
    model = real_model.Llama(real_model.LlamaConfig(vocab, **sizes)).double()
    draws = generator(seed)
    for p in model.parameters():
        nn.init.normal_(p, std=0.7, generator=draws)
    return model


def some_ids(*shape, vocab=11, seed=0):
    return torch.randint(vocab, shape, generator=generator(seed))


# The door


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 12)])
def test_rows_of_the_table_do_what_ids_do(shape):
    model, ids = some_llama(), some_ids(*shape)
    found = image_to_text.read_vectors(model, model.embedding(ids))
    assert torch.equal(found, model.residual(ids))
    found = model.logits(found)
    assert torch.equal(found, model(ids))


def test_what_is_no_row_of_vectors_is_refused():
    model, read = some_llama(), image_to_text.read_vectors
    allowed = "finite floats (B, T, 8), T from 1 to 12"
    damaged = random(2, 3, 8)
    damaged[1, 2, 3] = NAN
    for bad in damaged, random(2, 3, 9), random(2, 3, 8, 1):
        refuses("x", read, model, bad, says=allowed)
    for bad in random(2, 13, 8), random(2, 0, 8), random(0, 3, 8), random(2, 3, 7):
        refuses("x", read, model, bad, says=allowed)
    for bad in random(3, 8), random(1, 1, 3, 8), None, [[1.0] * 8], some_ids(2, 3, 8):
        refuses("x", read, model, bad, says=allowed)


# Facts and questions


def painted(*colours, side=4):
    """Pictures of rows of one colour each: uint8 (1, side, side, 3)."""
    rows = torch.tensor(colours, dtype=torch.uint8)
    return rows[:, None].expand(side, side, 3)[None].contiguous()


WHITE, RED, BLUE = (255, 255, 255), (221, 46, 68), (60, 140, 230)


def test_the_most_frequent_shade_wins():
    colour = image_to_text.main_colour
    assert colour(painted(WHITE, WHITE, WHITE, BLUE)) == ["blue"]
    assert colour(painted(RED, BLUE, BLUE, WHITE)) == ["blue"]
    assert colour(painted(RED, RED, BLUE, BLUE)) == ["red"], "of equals the first"
    assert colour(painted(BLUE, BLUE, RED, RED)) == ["red"]
    assert colour(painted(*[WHITE] * 4)) == ["white"], "no ink"
    assert colour(painted(WHITE, WHITE, WHITE, WHITE, RED, side=5)) == ["red"]
    near = (250, 250, 240)  # counts as white
    assert colour(painted(near, near, near, BLUE)) == ["blue"]
    both = torch.cat([painted(*[RED] * 4), painted(*[BLUE] * 4)])
    assert colour(both) == ["red", "blue"]
    for name, shade in image_to_text.SHADES.items():
        assert colour(painted(*[shade] * 4)) == [name]
        other = tuple(min(c + 5, 255) for c in shade)
        assert colour(painted(*[other] * 4)) == [name]
    for bad in painted(*[RED] * 4).float(), painted(*[RED] * 4)[0], None:
        refuses("pictures", colour, bad)


def test_white_is_white():
    with mock.patch.object(torch, "cdist", wraps=torch.cdist) as seen:
        image_to_text.main_colour(painted(*[RED] * 4))
    assert seen.call_args[0][1].tolist()[-1] == [255, 255, 255]


def test_the_colours_by_a_loop():
    pictures = data.emoji().pictures[::500]
    shades = image_to_text.SHADES | {"white": WHITE}
    for picture, found in zip(
        pictures, image_to_text.main_colour(pictures), strict=True
    ):
        counts = dict.fromkeys(shades, 0)
        for pixel in picture.reshape(-1, 3).tolist():
            off = {
                name: sum((a - b) ** 2 for a, b in zip(pixel, shade, strict=True))
                for name, shade in shades.items()
            }
            counts[min(off, key=off.get)] += 1
        counts["white"] = 0.5
        assert counts[found] == max(counts.values())


SPOKEN = {
    "smileys-emotion": "feeling",
    "people-body": "people",
    "animals-nature": "nature",
    "food-drink": "food",
    "travel-places": "travel",
    "activities": "activity",
    "objects": "object",
    "symbols": "symbol",
}


def test_the_facts_are_those_of_the_pictures():
    emoji, known = data.emoji(), image_to_text.facts()
    assert image_to_text.facts() is known
    assert image_to_text.KIND_WORDS == SPOKEN
    for part in known:
        assert len(part) == len(emoji.pictures)
    for at in 0, 77, 4000, 7164:
        concept = emoji.concept[at]
        assert known.name[at] == emoji.captions[concept]
        assert known.kind[at] == SPOKEN[emoji.groups[concept]]
        assert [known.colour[at]] == image_to_text.main_colour(emoji.pictures[[at]])
    assert len(set(known.kind)) == 8 and len(set(known.colour)) == 11
    shades = [(221, 46, 68), (244, 144, 12), (255, 204, 77), (90, 160, 60)]
    shades += [(60, 140, 230), (150, 100, 200), (240, 130, 180), (140, 85, 60)]
    shades += [(140, 150, 160), (40, 45, 50)]
    names = "red orange yellow green blue purple pink brown grey black"
    assert dict(zip(names.split(), shades, strict=True)) == image_to_text.SHADES


def test_questions_have_their_answers():
    known, ask = image_to_text.facts(), image_to_text.ask
    for at in 3, 5000:
        asked = ask(at, "name", generator())
        assert asked == ("what is it?", known.name[at])
        asked = ask(at, "kind", generator())
        assert asked == ("what kind is it?", known.kind[at])
        asked = ask(at, "colour", generator())
        assert asked == ("which colour is it?", known.colour[at])
    last = len(known.kind) - 1
    assert ask(last, "name", generator())[1] == known.name[last]
    assert ask(0, "name", generator())[1] == known.name[0]


def test_yes_or_no_by_two_draws():
    kinds = image_to_text.facts().kind
    kind, others = kinds[100], [each for each in kinds if each != kinds[100]]
    assert image_to_text.wrong_kinds(kind) == others
    assert image_to_text.wrong_kinds(kind) is image_to_text.wrong_kinds(kind)
    for bad in "dog", None:
        with refusal(r"^kind = .*one of \['feeling', .*'symbol'\]$"):
            image_to_text.wrong_kinds(bad)
    one, two = generator(4), generator(4)
    for _ in range(50):
        found = image_to_text.ask(100, "yes or no", one)
        first, second = torch.rand(2, generator=two, dtype=torch.double).tolist()
        right = (f"is it {others[int(second * len(others))]}?", "no")
        assert found == ((f"is it {kind}?", "yes") if first < 0.5 else right)
    half = torch.tensor([0.5, 0.0], dtype=torch.double)
    with mock.patch.object(torch, "rand", return_value=half):
        assert image_to_text.ask(100, "yes or no", one) == (
            f"is it {others[0]}?",
            "no",
        )


def test_places_are_those_of_the_pictures():
    last = len(image_to_text.facts().kind) - 1
    for good in torch.tensor([0]), torch.tensor([last, 3, 3]):
        image_to_text.require_places("places", good)
    bad = [[0], None, torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor(0)]
    bad += [torch.tensor([3, -1]), torch.tensor([0, last + 1])]
    bad += [torch.tensor([], dtype=torch.long)]
    for each in bad:
        with refusal(rf"^shown = .*\(N,\) int64 from 0 to {last}, not empty$"):
            image_to_text.require_places("shown", each)


def test_open_questions_draw_nothing():
    draws = generator()
    before = draws.get_state()
    image_to_text.ask(3, "colour", draws)
    assert torch.equal(draws.get_state(), before)


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_yes_in_the_share_that_is_asked_for(share):
    draws, kind = generator(), image_to_text.facts().kind[100]
    options = {} if share == 0.5 else {"yes_share": share}
    asked = [image_to_text.ask(100, "yes or no", draws, **options) for _ in range(2000)]
    said = [answer for _, answer in asked]
    assert abs(said.count("yes") / 2000 - share) < 0.04
    assert said.count("yes") + said.count("no") == 2000
    named = {}
    for question, answer in asked:
        start, word = question.split("is it ")
        assert start == "" and word.endswith("?")
        named[word[:-1]] = named.get(word[:-1], 0) + 1
        assert (word[:-1] == kind) == (answer == "yes")
    if share == 0.5:
        assert set(named) == set(SPOKEN.values())
        kinds = image_to_text.facts().kind
        rest = len(kinds) - kinds.count(kind)
        for word in set(named) - {kind}:
            wanted = said.count("no") * kinds.count(word) / rest
            assert abs(named[word] - wanted) < 5 * math.sqrt(wanted)


def test_what_cannot_be_asked_is_refused():
    ask, count = image_to_text.ask, len(image_to_text.facts().kind)
    for bad in -1, count, 1.0, None, torch.tensor(1):
        refuses("place", ask, bad, "kind", generator(), says=f"from 0 to {count - 1}")
    for bad in "size", "", None:
        refuses("about", ask, 1, bad, generator(), says="'colour', 'yes or no']")
    for bad in -0.1, 1.1, NAN, None, "0.5":
        refuses("yes_share", ask, 1, "kind", generator(), bad, says="from 0 to 1")


# Words


def test_words_are_numbered_by_the_alphabet():
    words = image_to_text.Words(["what is it?", "Is it red", "it"])
    assert words.words == ["is", "it", "red", "what"]
    assert words.encode("What IS it?") == [3, 0, 1]
    assert words.encode("it what red is") == [1, 3, 2, 0]
    assert words.encode(" red\n") == [2] and words.encode("?") == []
    assert words.decode([2, 0, 2]) == "red is red" and words.decode([]) == ""
    for bad, strange in ("what is blue", "['blue']"), (None, "['none']"):
        says = f"without {strange}: made of is, it, red, what"
        refuses("text", words.encode, bad, says=says)
    for bad in [-1], [0, 4]:
        refuses("ids", words.decode, bad, says="from 0 to 3")
    for bad in "what is it", [], ["?"]:
        refuses("texts", image_to_text.Words, bad, says="a list of texts, with a word")


# The loss


def loss_by_loop(model, context, pairs):
    """Each pair by itself, each answer's token by itself."""
    losses = []
    for before, (question, answer) in zip(context, pairs, strict=True):
        for at, token in enumerate(answer):
            ids = torch.tensor([*question, *answer[:at]])
            x = torch.cat([before, model.embedding(ids)])[None]
            logits = model.logits(image_to_text.read_vectors(model, x))[0, -1]
            losses.append(-logits.log_softmax(0)[token])
    return torch.stack(losses).mean()


PAIRS = [([1, 2, 3], [4]), ([5], [6, 7, 8]), ([0, 0], [0, 2])]


@pytest.mark.parametrize("P", [0, 1, 3])
def test_the_loss_is_that_of_the_answers(P):
    model, context = some_llama(), random(3, P, 8)
    found = image_to_text.seen_loss(model, context, PAIRS)
    close(found, loss_by_loop(model, context, PAIRS), 1e-9)
    one = image_to_text.seen_loss(model, context[1:2], PAIRS[1:2])
    close(one, loss_by_loop(model, context[1:2], PAIRS[1:2]), 1e-9)


def test_the_loss_goes_back_to_the_context():
    model, context = some_llama(), random(3, 2, 8).requires_grad_()
    image_to_text.seen_loss(model, context, PAIRS).backward()
    assert (context.grad != 0).all()


def test_a_context_and_ids_are_joined():
    model, context, ids = some_llama(), random(3, 2, 8), some_ids(3, 4)
    found = image_to_text.joined(model, context, ids)
    assert found.shape == (3, 6, 8) and torch.equal(found[:, :2], context)
    assert torch.equal(found[:, 2:], model.embedding.weight[ids])
    assert torch.equal(image_to_text.joined(model, context[:, :0], ids), found[:, 2:])
    wrong = [context[:2], context[0], None, context[..., :7], context[..., None]]
    for bad in wrong:
        refuses("context", image_to_text.joined, model, bad, ids, says="(3, P, 8)")
    for bad in ids + 11, ids - 11, ids.double():
        refuses("ids", image_to_text.joined, model, context, bad)


def test_lists_of_any_length_are_filled_up():
    filled = image_to_text.filled
    found = filled("rows", [[3], [1, 2, 4], [5, 6]])
    assert found.tolist() == [[3, 0, 0], [1, 2, 4], [5, 6, 0]]
    assert found.dtype == torch.long and filled("rows", [[7]]).tolist() == [[7]]
    bad = [[], None, [[1], []], [[1], None], [[1, 2.0]], ["ab"], [(1, 2)], [[True]]]
    for each in bad:
        with refusal("^some = .*lists of ids, none of them empty$"):
            filled("some", each)


def test_what_has_no_loss_is_refused():
    model, context = some_llama(), random(3, 2, 8)
    loss, allowed = image_to_text.seen_loss, "pairs of lists of ids, none of them"
    for bad in [], [([1], [])] * 3, [([], [1])] * 3, [*PAIRS[:2], ([1], [])], None:
        refuses("pairs", loss, model, context, bad, says=allowed)
    for bad in [*PAIRS[:2], ([1], [1.5])], [*PAIRS[:2], ("a", "b")]:
        with refusal(r"^pairs = .*lists of ids"):
            loss(model, context, bad)
    for bad in context[:2], context[..., :7], None:
        with refusal(r"^context = .*\(3, P, 8\)"):
            loss(model, bad, PAIRS)
    with refusal(r"^x = .*finite"):
        loss(model, context * NAN, PAIRS)
    with refusal(r"^ids = "):
        loss(model, context, [*PAIRS[:2], ([1], [11])])


# The small model and the lesson


def test_the_small_model():
    model = image_to_text.small_llama(7, generator(3))
    sizes = real_model.LlamaConfig(7, 32, 64, 2, 4, 4, 128, 1e-5, 1e4)
    assert model.config == sizes
    again, other = (image_to_text.small_llama(7, generator(s)) for s in (3, 4))
    for a, b, c in zip(*(m.parameters() for m in (model, again, other)), strict=True):
        assert torch.equal(a, b) and (a.dim() == 1 or not torch.equal(a, c))
    assert 0.015 < model.embedding.weight.std() < 0.025


WORDS = image_to_text.Words(
    [
        *image_to_text.OPEN.values(),
        *image_to_text.KIND_WORDS.values(),
        *image_to_text.SHADES,
        "yes no so A white",
    ]
)


def some_lesson(about=("kind", "colour", "yes or no"), context=None, **options):
    model = some_llama(len(WORDS.words), context=20)
    context = context or (lambda places, draws: random(len(places), 2, 8))
    return image_to_text.Lesson(model, context, WORDS, about, **options)


def test_the_words_and_the_plan_of_the_small_models():
    words = image_to_text.small_words()
    expected = {*SPOKEN.values(), *image_to_text.SHADES, "yes", "no"}
    expected |= {"is", "it", "what", "which", "kind", "colour", "white"}
    assert words.words == sorted(expected)
    plan = image_to_text.small_plan()
    assert plan == training.Recipe(400, batch=64, rate=2e-3, warmup=20)
    assert image_to_text.ABOUT == ("kind", "colour", "yes or no")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_words_that_are_told(seed):
    model, words = some_llama(27), image_to_text.small_words()
    context = image_to_text.told_words(model, words)
    known, places = image_to_text.facts(), torch.arange(0, 7000, 99)
    found = context(places, generator(seed))
    turned = torch.rand(len(places), 1, generator=generator(seed)) < 0.5
    assert found.shape == (len(places), 2, 8) and turned.any() and not turned.all()
    for mine, at, turn in zip(found, places.tolist(), turned.tolist(), strict=True):
        pair = [known.kind[at], known.colour[at]][:: -1 if turn[0] else 1]
        ids = [words.words.index(word) for word in pair]
        assert torch.equal(mine, model.embedding.weight[ids])
    half = torch.full((1, 1), 0.5)
    with mock.patch.object(torch, "rand", return_value=half):
        found = context(places[:1], generator())
    ids = words.encode(f"{known.kind[0]} {known.colour[0]}")
    assert torch.equal(found[0], model.embedding.weight[ids])
    with refusal("^places = .*not empty$"):
        context(places[:1] - 1, generator())


def look_at_learning(seen, losses="losses"):
    """A stand-in for `learn_lesson` that keeps what it is given."""

    def learn(parts, lesson, plan, draws):
        assert plan == image_to_text.small_plan()
        seen.update(parts=parts, lesson=lesson, draws=draws)
        seen["training"] = [m.training for part in parts for m in part.modules()]
        seen["learns"] = [p.requires_grad for part in parts for p in part.parameters()]
        for part in parts:
            for p in part.parameters():
                nn.init.ones_(p)
        return losses

    return mock.patch.object(image_to_text, "learn_lesson", learn)


def test_the_reader_learns_from_words():
    seen, draws = {}, generator(3)
    with look_at_learning(seen):
        lesson, losses = image_to_text.learn_to_read(draws)
    assert losses == "losses" and seen["lesson"] == lesson and seen["draws"] is draws
    assert seen["parts"] == [lesson.model] and all(seen["learns"])
    assert not any(p.requires_grad for p in lesson.model.parameters())
    assert lesson.words.words == image_to_text.small_words().words
    assert lesson[3:] == (image_to_text.ABOUT, "{}", 0.5)
    right = image_to_text.small_llama(27, generator(3))
    assert lesson.model.config == right.config and draws.initial_seed() == 3
    rows = lesson.context(torch.tensor([3, 4]), generator())
    assert torch.equal(rows, torch.ones(2, 2, 64)), "rows of its own table"
    with look_at_learning({}) as _, mock.patch.object(nn.init, "ones_"):
        lesson, _ = image_to_text.learn_to_read(generator(3))
    assert torch.equal(lesson.model.embedding.weight, right.embedding.weight)


def some_reading():
    words = image_to_text.small_words()
    model = image_to_text.small_llama(27, generator(1)).requires_grad_(False)
    context = image_to_text.told_words(model, words)
    return image_to_text.Lesson(model, context, words, image_to_text.ABOUT)


def some_features():
    rows = len(image_to_text.facts().kind)
    return random(rows, 5, dtype=torch.float32)


def test_a_projector_learns_before_the_frozen_reader():
    seen, reading, features = {}, some_reading(), some_features()
    draws = generator(4)
    with look_at_learning(seen):
        eyes = image_to_text.learn_to_look(reading, features, draws)
    assert seen["parts"] == [eyes] and all(seen["training"])
    assert seen["draws"] is draws and not eyes.training
    assert (eyes.into, eyes.tokens) == (5, 2)
    assert seen["lesson"]._replace(context=reading.context) == reading
    at = torch.tensor([2, 7])
    found = seen["lesson"].context(at, None)
    assert found.shape == (2, 2, 64) and torch.equal(found, eyes(features[at]))
    with clip.seeded(generator(4)):
        right = image_to_text.Projector(5, 2, 64)
    with look_at_learning({}), mock.patch.object(nn.init, "ones_"):
        eyes = image_to_text.learn_to_look(reading, features, generator(4))
    for a, b in zip(eyes.parameters(), right.parameters(), strict=True):
        assert torch.equal(a, b)
    wrong = [None, features.tolist(), features[:, 0], features[None], features[:9]]
    for bad in wrong:
        look = image_to_text.learn_to_look
        refuses("features", look, reading, bad, generator(), says=f"{len(features)}")


def test_reader_and_projector_learn_on_as_copies():
    seen, reading, features = {}, some_reading(), some_features()
    eyes = image_to_text.Projector(5, 2, 64).eval().requires_grad_(False)
    before = [p.clone() for m in (reading.model, eyes) for p in m.parameters()]
    draws = generator(4)
    with look_at_learning(seen):
        lesson = image_to_text.learn_on(reading, eyes, features, 0.9, draws)
    after = [p for m in (reading.model, eyes) for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    (both,) = seen["parts"]
    assert all(seen["training"]) and all(seen["learns"]) and seen["draws"] is draws
    assert len(seen["learns"]) == len(before) and seen["lesson"] == lesson
    assert not both.training and lesson.model is both[0]
    assert lesson[2:] == (reading.words, image_to_text.ABOUT, "{}", 0.9)
    found = lesson.context(torch.tensor([2, 7]), None)
    assert torch.equal(found, both[1](features[[2, 7]]))


def test_the_same_tokens_for_all():
    tokens = random(1, 3, 4)
    found = image_to_text.always(tokens)(torch.tensor([5, 6]), None)
    assert torch.equal(found, torch.cat([tokens, tokens]))
    for bad in tokens[0], tokens[None], torch.cat([tokens, tokens]), None:
        refuses("tokens", image_to_text.always, bad, says="a tensor (1, P, D)")


def test_the_likelier_answer_to_each_question():
    found = image_to_text.likelier_answers()
    assert set(found) == {f"is it {kind}?" for kind in SPOKEN.values()}
    draws, tally = generator(2), {}
    for at in clip.role("train", clip.KNOWN_DRAWERS).places.tolist():
        question, answer = image_to_text.ask(at, "yes or no", draws)
        tally[question] = tally.get(question, 0) + (1 if answer == "yes" else -1)
    assert 0 not in tally.values(), "no question is in balance"
    assert found == {q: "yes" if more > 0 else "no" for q, more in tally.items()}
    assert set(found.values()) == {"yes", "no"}
    seeds = set()

    def ask(place, about, draws):
        seeds.add(draws.initial_seed())
        return about, "yes"

    with mock.patch.object(image_to_text, "ask", ask):
        assert image_to_text.likelier_answers() == {"yes or no": "yes"}
    assert seeds == {2}


def test_the_nearest_word_in_a_tokens_place():
    draws = generator(8)
    tokens = random(3, 2, 8)

    def context(places, generator):
        assert places == "places" and generator is draws
        return tokens

    lesson = some_lesson(context=context)
    found = image_to_text.snapped(lesson)
    assert found._replace(context=context) == lesson
    near, table = found.context("places", draws), lesson.model.embedding.weight
    assert near.shape == (3, 2, 8)
    ids = []
    for mine, token in zip(near.flatten(0, 1), tokens.flatten(0, 1), strict=True):
        cosines = [F.cosine_similarity(token, row, dim=0).item() for row in table]
        ids.append(cosines.index(max(cosines)))
        assert torch.equal(mine, table[ids[-1]])
    products = (tokens.flatten(0, 1) @ table.T).argmax(-1).tolist()
    assert ids != products, "by the angle, not by the product"


def test_the_stored_small_models():
    models = image_to_text.small_models()
    assert image_to_text.small_models() is models and len(models) == 3
    reading, looking, blind = models
    words = image_to_text.small_words()
    for lesson in models:
        assert lesson.model is reading.model and lesson.words.words == words.words
        assert lesson[3:] == (image_to_text.ABOUT, "{}", 0.5)
    assert not reading.model.training
    assert not any(p.requires_grad for p in reading.model.parameters())
    places = clip.role("test", clip.KNOWN_DRAWERS).places[::3]
    found = looking.context(places, None)
    assert found.shape == (len(places), 2, 64) and not found.requires_grad
    assert torch.equal(found, looking.context(places, None)), "no dropout"
    same = blind.context(places, None)
    assert same.dtype == torch.float32 and (same == same[:1]).all()
    shares = []
    for lesson in models:
        right, given = image_to_text.examine(lesson, places, "kind")
        shares.append(sum(a == b for a, b in zip(right, given, strict=True)))
    assert shares[0] == len(places) > shares[1] / 0.9 > 1.8 * shares[2]
    assert (FOLDER / "small.safetensors").stat().st_size < 2_000_000


def test_a_question_is_put_into_its_form():
    assert image_to_text.in_form("so {} A", "is it food?") == "so is it food? A"
    assert image_to_text.in_form("{}", "is it food?") == "is it food?"
    for bad in "what", "", None:
        refuses("form", image_to_text.in_form, bad, "a", says="a text with {}")


def test_a_pair_is_question_and_answer_in_ids():
    kind = image_to_text.facts().kind[9]
    pair = some_lesson().pair(9, "kind", generator())
    assert pair == (WORDS.encode("what kind is it"), WORDS.encode(kind))
    pair = some_lesson(form="so {} A").pair(9, "kind", generator())
    assert pair[0] == WORDS.encode("so what kind is it A")
    for share, answer in (1.0, "yes"), (0.0, "no"):
        lesson = some_lesson(yes_share=share)
        told = [lesson.pair(9, "yes or no", generator(s))[1] for s in range(8)]
        assert told == [WORDS.encode(answer)] * 8
    said = [some_lesson().pair(9, "yes or no", generator(s))[1] for s in range(30)]
    assert 5 < said.count(WORDS.encode("yes")) < 25
    words = mock.Mock(encode=lambda text: [text])
    told = some_lesson()._replace(words=words).pair(9, "kind", generator())
    assert told == (["what kind is it?"], [f" {kind}\n"])


def test_a_lesson_asks_about_pictures_to_learn_from():
    seen, known = {}, image_to_text.facts()
    learnt = set(clip.role("train", clip.KNOWN_DRAWERS).places.tolist())

    def context(places, draws):
        seen["places"], seen["draws"] = places, draws
        return random(len(places), 2, 8)

    def look(model, context, pairs):
        seen["pairs"] = pairs
        assert model is lesson.model and len(context) == len(pairs)
        return "loss"

    lesson, draws = some_lesson(context=context), generator(1)
    with mock.patch.object(image_to_text, "seen_loss", look):
        assert lesson.loss(600, draws) == "loss"
    assert seen["draws"] is draws and len(seen["pairs"]) == 600
    places = seen["places"].tolist()
    assert set(places) <= learnt and len(set(places)) > 500
    assert max(places) > 4400 and min(places) < 50
    asked = {}
    for at, (question, answer) in zip(places, seen["pairs"], strict=True):
        asked[tuple(question[:1])] = asked.get(tuple(question[:1]), 0) + 1
        if WORDS.decode(question) == "what kind is it":
            assert WORDS.decode(answer) == known.kind[at]
        elif WORDS.decode(question) == "which colour is it":
            assert WORDS.decode(answer) == known.colour[at]
        else:
            told = WORDS.decode(question).removeprefix("is it ") == known.kind[at]
            assert WORDS.decode(answer) == ("yes" if told else "no")
    assert len(asked) == 3 and min(asked.values()) > 150, "each as likely"


def test_a_lesson_without_a_subject_is_refused():
    for bad in (), ("size",), ("kind", "size"):
        with refusal(rf"^about = {re.escape(check.shown(bad))}, .*'yes or no'\]$"):
            some_lesson(about=bad).loss(2, generator())
    for about in "name", "kind":
        lesson = some_lesson(about=(about,))
        words = mock.Mock(encode=lambda text: [1])
        with mock.patch.object(image_to_text, "seen_loss", lambda *_: "loss"):
            assert lesson._replace(words=words).loss(2, generator()) == "loss"


def test_a_lesson_is_the_loss_of_its_pairs():
    lesson = some_lesson()
    for bad in 0, -1, 2.0, None:
        with refusal("^B = .*a whole number above 0$"):
            lesson.loss(bad, generator())
    assert lesson.loss(1, generator()).isfinite()
    found = lesson.loss(5, generator(2))
    assert torch.equal(found, lesson.loss(5, generator(2)))
    assert found.isfinite() and found != lesson.loss(5, generator(3))


def test_learning_is_adamw_with_a_warm_up():
    """Two steps, by hand, of a loss that draws, with dropout."""
    plan = training.Recipe(
        4, batch=3, rate=0.1, warmup=2, final=0.5, betas=(0.5, 0.6), decay=0.2, clip=0.7
    )

    class Draws:
        def __init__(self, part):
            self.part = part

        def loss(self, B, draws):
            x = torch.randn(B, 4, generator=draws)
            return (F.dropout(self.part(x), 0.5) - 3).square().mean()

    def fresh():
        part = nn.Linear(4, 2)
        for p in part.parameters():
            nn.init.normal_(p, generator=generator(5))
        return part

    one, two = fresh(), fresh()
    draws = generator(6)
    losses = image_to_text.learn_lesson([one], Draws(one), plan, draws)
    assert losses.shape == (4,) and not losses.requires_grad
    draws, expected = generator(6), []
    optimizer = torch.optim.AdamW(
        two.parameters(), 0.1, betas=(0.5, 0.6), weight_decay=0.2
    )
    with clip.seeded(draws):
        for step in range(4):
            loss = Draws(two).loss(3, draws)
            optimizer.zero_grad()
            loss.backward()
            length = nn.utils.clip_grad_norm_(two.parameters(), 0.7)
            assert length > 0.7, "the clip is used"
            optimizer.param_groups[0]["lr"] = 0.1 * training.rate_share(step, plan)
            optimizer.step()
            expected.append(loss.detach())
    close(losses, torch.stack(expected), 1e-5)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        close(a, b, 1e-5)


def test_several_modules_learn():
    parts = [nn.Linear(1, 1), nn.Linear(1, 1)]
    lesson = mock.Mock(loss=lambda B, draws: sum(p.weight.sum() for p in parts))
    before = [p.weight.item() for p in parts]
    plan = training.Recipe(2, rate=0.1, decay=0.0)
    image_to_text.learn_lesson(parts, lesson, plan, generator())
    assert all(p.weight.item() < w - 0.1 for p, w in zip(parts, before, strict=True))


# Answers


def test_the_next_token_of_texts_of_any_length():
    model, context = some_llama(), random(3, 2, 8)
    rows = [[1, 2, 3], [4], [5, 6]]
    found = image_to_text.next_logits(model, context, rows)
    assert found.shape == (3, 11) and found.is_inference()
    for mine, before, row in zip(found, context, rows, strict=True):
        x = torch.cat([before, model.embedding(torch.tensor(row))])[None]
        close(mine, model.logits(image_to_text.read_vectors(model, x))[0, -1], 1e-9)
    for bad in [[1], [], [2]], [], None, [[1.5]] * 3:
        refuses("rows", image_to_text.next_logits, model, context, bad)
    with refusal(r"^context = .*\(2, P, 8\)"):
        image_to_text.next_logits(model, context, rows[:2])


def test_answers_are_the_likeliest_tokens():
    lesson, context = some_lesson(form="so {} A"), random(2, 2, 8)
    asked = ["what kind is it?", "is it food?"]
    for longest in 1, 4:
        found = image_to_text.answers(lesson, context, asked, longest)
        for before, question, text in zip(context, asked, found, strict=True):
            row = WORDS.encode(f"so {question} A")
            start = len(row)
            for _ in range(longest):
                logits = image_to_text.next_logits(lesson.model, before[None], [row])
                row = [*row, logits[0].argmax().item()]
            assert text == WORDS.decode(row[start:])
    one = image_to_text.answers(lesson, context, asked)
    assert one == image_to_text.answers(lesson, context, asked, 1)

    def decode(ids):
        assert [type(each) for each in ids] == [int, int]
        return " a b \nc"

    words = mock.Mock(encode=WORDS.encode, decode=decode)
    said = image_to_text.answers(lesson._replace(words=words), context, asked, 2)
    assert said == ["a b", "a b"], "up to the line's end, without spaces around"
    for bad in 0, -1, 1.0, None:
        refuses("longest", image_to_text.answers, lesson, context, asked, bad)


def test_an_examination_asks_each_picture_once():
    seen = []

    def context(places, draws):
        assert torch.is_inference_mode_enabled()
        seen.append(places)
        return random(len(places), 2, 8)

    def answers(lesson, context, questions, longest):
        told.extend(questions)
        assert len(context) == len(questions) <= 64
        return [f"{longest}"] * len(questions)

    lesson, told = some_lesson(context=context), []
    places = torch.arange(100, 200)
    with mock.patch.object(image_to_text, "answers", answers):
        right, given = image_to_text.examine(lesson, places, "yes or no", 3)
        assert given == ["3"] * 100 and 35 < right.count("yes") < 65
        assert torch.equal(torch.cat(seen), places)
        assert [len(each) for each in seen] == [64, 36]
        draws = generator(1)
        pairs = [image_to_text.ask(at, "yes or no", draws) for at in range(100, 200)]
        assert told == [q for q, _ in pairs] and right == [a for _, a in pairs]
        again, given = image_to_text.examine(lesson, places, "yes or no")
        assert again == right and given == ["1"] * 100
        seen.clear()
        shown = places + 300
        right, _ = image_to_text.examine(lesson, places, "kind", shown=shown)
        assert torch.equal(torch.cat(seen), shown)
        assert right == image_to_text.facts().kind[100:200]
        for bad in shown[:50], torch.cat([shown, shown]):
            with refusal(r"^shown = .*100 places"):
                image_to_text.examine(lesson, places, "kind", shown=bad)
        for name, bad in ("places", places[:0]), ("shown", places - 200):
            with refusal(f"^{name} = .*not empty$"):
                given = {"places": places, "shown": shown} | {name: bad}
                image_to_text.examine(lesson, about="kind", **given)


# The projector


def test_the_projector_is_two_layers_in_rows():
    eyes = image_to_text.Projector(5, tokens=3, D=4, wide=6, scale=0.5).eval()
    features = random(2, 5, dtype=torch.float32)
    found = eyes(features)
    assert found.shape == (2, 3, 4)
    first, second = (m for m in eyes.modules() if isinstance(m, nn.Linear))
    assert first.weight.shape == (6, 5) and second.weight.shape == (12, 6)
    x = F.gelu(features @ first.weight.T + first.bias)
    x = 0.5 * (x @ second.weight.T + second.bias)
    close(found, x.view(2, 3, 4), 1e-5)
    usual = image_to_text.Projector(5, 3, 4).eval()
    assert usual.scale == 0.1
    first = next(m for m in usual.modules() if isinstance(m, nn.Linear))
    assert first.weight.shape == (256, 5)
    damaged = features.clone()
    damaged[1, 2] = NAN
    wrong = [features[:, :4], features[0], None, damaged, features[None]]
    wrong += [random(2, 6), random(2, 5, 3), features.long(), features[:0]]
    for bad in wrong:
        refuses("features", eyes, bad, shown="", says="finite floats (B, 5), not empty")
    for bad in NAN, math.inf, None:
        with refusal("^scale = .*a finite number$"):
            image_to_text.Projector(5, 3, 4, scale=bad)
    sizes = {"into": 5, "tokens": 3, "D": 4, "wide": 6}
    for name in sizes:
        for bad in 0, -1, 2.0, None:
            with refusal(f"^{name} = .*above 0$"):
                image_to_text.Projector(**sizes | {name: bad})
        image_to_text.Projector(**sizes | {name: 1})


def test_the_context_is_what_the_projector_makes_of_the_picture():
    features = some_features()
    context = image_to_text.through(lambda x: 2 * x, features)
    places = torch.tensor([3, 0, 3])
    assert torch.equal(context(places, None), 2 * features[places])
    with refusal("^places = .*not empty$"):
        context(places - 1, None)
    for bad in features[:9], torch.cat([features, features[:1]]), None:
        rows = f"{len(features)} rows"
        refuses("features", image_to_text.through, None, bad, says=rows)


def test_another_picture_is_of_another_kind():
    kinds = image_to_text.facts().kind
    places = torch.arange(0, 7000, 70)
    shown = image_to_text.another(places, generator(1))
    assert set(shown.tolist()) <= set(places.tolist())
    for a, b in zip(places.tolist(), shown.tolist(), strict=True):
        assert kinds[a] != kinds[b]
    assert len(shown.unique()) > 50, "not always the same"
    draws = [image_to_text.another(places[:12], generator(s)) for s in range(200)]
    taken = torch.cat(draws)
    counts = [(taken == at).sum().item() for at in places[:12]]
    of = [kinds[at] for at in places[:12].tolist()]
    for at, kind in enumerate(of):
        wanted = sum(200 / (12 - of.count(k)) for k in of if k != kind)
        assert abs(counts[at] - wanted) < 5 * math.sqrt(wanted)
    one, two = generator(7), generator(7)
    shown = image_to_text.another(places, one)
    drawn = torch.rand(len(places), generator=two, dtype=torch.double)
    for a, b, draw in zip(places.tolist(), shown.tolist(), drawn.tolist(), strict=True):
        rest = [other for other in places.tolist() if kinds[other] != kinds[a]]
        assert b == rest[int(draw * len(rest))]
    pair = torch.tensor([0, next(at for at in range(7000) if kinds[at] != kinds[0])])
    assert image_to_text.another(pair, one).tolist() == pair.flip(0).tolist()
    with refusal(r"^places = .*not empty$"):
        image_to_text.another(places - 1, one)
    same = torch.tensor([at for at in range(200) if kinds[at] == kinds[0]])
    refuses("places", image_to_text.another, same, generator(), says="two kinds")


# SmolLM2


def test_what_smollm2_learns():
    lesson = image_to_text.smol_lesson("context")
    assert lesson.model is real_model.load_smollm2()
    assert lesson.context == "context" and lesson.yes_share == 0.5
    assert lesson.words is data.smollm2_tokenizer()
    assert lesson.about == ("name", "name", "kind", "colour", "yes or no")
    assert lesson.form == "Q: {}\nA:"
    plan = image_to_text.smol_plan()
    assert plan == training.Recipe(400, batch=32, rate=3e-3, warmup=20)
    eyes = image_to_text.smol_eyes()
    assert (eyes.into, eyes.tokens, eyes.scale) == (2688, 4, 0.1)
    assert eyes(torch.zeros(1, 2688)).shape == (1, 4, 576)


def test_what_is_said_and_how_it_could_begin():
    lesson, context = some_lesson(form="so {} A"), random(1, 2, 8)
    found = image_to_text.said(lesson, context, "is it food?", 3, 4)
    row = WORDS.encode("so is it food A")
    logits = image_to_text.next_logits(lesson.model, context, [row])[0]
    best = logits.softmax(0).sort(descending=True)
    assert found["first"] == [WORDS.words[i] for i in best.indices[:4].tolist()]
    assert found["shares"] == [round(x, 4) for x in best.values[:4].tolist()]
    right = image_to_text.answers(lesson, context, ["is it food?"], 3)
    assert [found["answer"]] == right and len(found) == 3

    def decode(ids):
        assert all(type(each) is int for each in ids)
        return "so"

    words = mock.Mock(encode=WORDS.encode, decode=decode)
    strict = lesson._replace(words=words)
    assert image_to_text.said(strict, context, "is it food?")["first"] == ["so"] * 5
    V = len(WORDS.words)
    for bad in 0, V + 1, 2.0, None:
        with refusal(f"^best = .*from 1 to {V}$"):
            image_to_text.said(lesson, context, "is it food?", best=bad)
    every = image_to_text.said(lesson, context, "is it food?", best=V)
    assert sorted(every["first"]) == sorted(WORDS.words)
    assert len(image_to_text.said(lesson, context, "is it food?", 1, 1)["first"]) == 1
    usual = image_to_text.said(lesson, context, "is it food?")
    assert len(usual["answer"].split()) == 8 and len(usual["first"]) == 5


# What is stored


@functools.cache
def made():
    return module_at(FOLDER / "make.py")


def stored(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


RECORDS = [
    ("small.json", "SMALL_BY"),
    ("looking.json", "LEARNT_BY"),
    ("blind.json", "LEARNT_BY"),
    ("measures.json", "MEASURED_BY"),
    ("answers.json", "SAID_BY"),
]


@pytest.mark.parametrize(("name", "by"), RECORDS)
def test_what_is_stored_was_made_by_the_code_as_it_is(name, by):
    assert stored(name)["digest"] == made().digest(getattr(made(), by)), "run make.py"


CHANGES = {
    "rate=3e-3": ["looking.json", "blind.json", "measures.json", "answers.json"],
    "rate=2e-3": ["small.json"],
    "split(64": ["small.json", "measures.json"],
    "best=5": ["answers.json"],
}


@pytest.mark.parametrize("old", list(CHANGES))
def test_the_digest_sees_a_change_of_the_code(old):
    source = made().exported(made().NOTEBOOK)
    assert old in source
    damaged = source.replace(old, old + "0")
    with mock.patch.object(made(), "exported", lambda _: damaged):
        for name, by in RECORDS:
            seen = made().digest(getattr(made(), by)) != stored(name)["digest"]
            assert seen == (name in CHANGES[old]), name


def test_the_stored_projector_knows_its_pictures():
    eyes = image_to_text.trained_smol_eyes()
    assert image_to_text.trained_smol_eyes() is eyes and not eyes.training
    assert not any(p.requires_grad for p in eyes.parameters())
    assert (FOLDER / "looking.safetensors").stat().st_size < 3_000_000
    tokens = image_to_text.blind_tokens()
    assert image_to_text.blind_tokens() is tokens
    assert tokens.shape == (1, 4, 576) and tokens.dtype == torch.float32
    for name in "looking.json", "blind.json":
        assert len(stored(name)["losses"]) == 20
    features = clip.emoji_features().pictures
    lesson = image_to_text.smol_lesson(image_to_text.through(eyes, features))
    blind = lesson._replace(context=lambda at, _: tokens.expand(len(at), -1, -1))
    with torch.no_grad():
        seeing, guessing = (each.loss(24, generator()) for each in (lesson, blind))
    assert seeing < guessing - 0.3


def test_the_stored_answers_are_those_of_the_stored_weights():
    kept = stored("answers.json")
    assert len(kept["said"]) == len(kept["places"]) + 1 == 13
    features = clip.emoji_features().pictures
    lesson, eyes = image_to_text.smol_lesson(None), image_to_text.trained_smol_eyes()
    seen = eyes(features[kept["places"][4:5]])
    for row, context in (4, seen), (-1, image_to_text.blind_tokens()):
        found = image_to_text.said(lesson, context, kept["questions"][1])
        right = kept["said"][row][1]
        assert found["answer"] == right["answer"]
        off = torch.tensor(found["shares"]) - torch.tensor(right["shares"])
        assert off.abs().max() < 0.01


# Exercises


def exercises():
    return run_exercises("multimodal/image-to-text", image_to_text)


def test_solutions_pass():
    solutions_pass(exercises())


def test_wrong_answers_fail():
    book = exercises()
    fails(
        book.check_picture_tokens,
        lambda height, width, patch, merged=1: (height // patch) * (width // patch),
        lambda height, width, patch, merged=1: -(-height * width // patch**2),
        lambda h, w, patch, merged=1: -(-h // patch) * -(-w // patch) // merged**2,
        lambda h, w, p, merged=1: -(-(-(-h // p) * -(-w // p)) // merged**2),
        lambda height, width, patch, merged=1: None,
    )
    right = book.yes_scores
    fails(
        book.check_yes_scores,
        lambda expected, given: right(given, expected),
        lambda expected, given: right(expected, given) | {"yes": 0.5},
        lambda expected, given: right(expected, given) | {"precision": 1},
        lambda expected, given: list(right(expected, given).values()),
        lambda expected, given: {"accuracy": right(expected, given)["accuracy"]},
    )
    right = book.woven
    fails(
        book.check_woven,
        lambda model, pieces: right(model, pieces)[0],
        lambda model, pieces: right(model, pieces[::-1]),
        lambda model, pieces: right(model, pieces[:1]),
        lambda model, pieces: 2 * right(model, pieces),
        lambda model, pieces: right(model, pieces).detach(),
        lambda model, pieces: pieces,
    )
