"""The cells of multimodal/image-to-text against loops and the models' own ways."""

import copy
import functools
import math
from unittest import mock

import cells
import pytest
import torch
import torch.nn.functional as F
from cells import close, generator, random
from torch import nn

from fieldguide import data
from fieldguide.multimodal import clip
from fieldguide.multimodal import image_to_text as book
from fieldguide.transformers import real_model, training

KNOWN = book.facts()


@functools.cache
def some_llama(vocab=11, context=12):
    """A small model whose weights are large enough to matter."""
    sizes = {"width": 8, "layers": 2, "heads": 2, "kv_heads": 1, "hidden": 6}
    config = real_model.LlamaConfig(vocab, context, **sizes, eps=1e-5, base=1e4)
    model, draws = real_model.Llama(config).double(), generator()
    for p in model.parameters():
        nn.init.normal_(p, std=0.7, generator=draws)
    return model


def test_rows_of_the_table_do_what_ids_do():
    model, ids = some_llama(), torch.randint(11, (2, 12), generator=generator())
    for some in ids, ids[:, :5], ids[:1, :1]:
        found = book.read_vectors(model, model.embedding(some))
        assert torch.equal(found, model.residual(some))


def painted(*colours, side=4):
    """Pictures of rows of one colour each: uint8 (1, side, side, 3)."""
    rows = torch.tensor(colours, dtype=torch.uint8)
    return rows[:, None].expand(side, side, 3)[None].contiguous()


def test_the_most_frequent_shade_wins():
    """By a loop over pixels; of equals the first, and white where nothing is drawn."""
    white, shades = (255, 255, 255), {**book.SHADES, "white": (255, 255, 255)}
    red, blue = shades["red"], shades["blue"]
    rows = [(white, white, white, blue), ((250, 250, 240),) * 3 + (blue,)]
    rows += [(red, red, blue, blue), (blue, blue, red, red), (white,) * 4]
    few = torch.cat([painted(*row) for row in rows])
    light = torch.randint(150, 256, (1000, 1, 1, 3), generator=generator())
    for pictures in few, light.byte(), data.emoji().pictures[::500]:
        for picture, found in zip(pictures, book.main_colour(pictures), strict=True):
            counts = dict.fromkeys(shades, 0)
            for pixel in picture.reshape(-1, 3).tolist():
                near = min(shades, key=lambda name: math.dist(pixel, shades[name]))
                counts[near] += 1
            counts["white"] = 0.5
            assert found == max(counts, key=counts.get)


def test_open_questions_are_about_the_pictures():
    emoji, draws = data.emoji(), generator()
    for at in 0, 77, 4000, 7164:
        concept = emoji.concept[at]
        answers = {"name": emoji.captions[concept]}
        answers["kind"] = book.KIND_WORDS[emoji.groups[concept]]
        (answers["colour"],) = book.main_colour(emoji.pictures[[at]])
        for about, answer in answers.items():
            assert book.ask(at, about, draws) == (book.OPEN[about], answer)


def test_yes_or_no_by_two_draws():
    kind, ask = KNOWN.kind[100], book.ask
    others = [each for each in KNOWN.kind if each != kind]
    one, two = generator(4), generator(4)
    for share in 40 * [0.5, 0.25]:
        found = ask(100, "yes or no", one, share)
        first, second = torch.rand(2, generator=two, dtype=torch.double).tolist()
        right = f"is it {others[int(second * len(others))]}?", "no"
        assert found == ((f"is it {kind}?", "yes") if first < share else right)


def loss_by_loop(model, context, pairs):
    """Each pair by itself, each answer's token by itself."""
    losses = []
    for before, (question, answer) in zip(context, pairs, strict=True):
        for at, token in enumerate(answer):
            ids = torch.tensor([*question, *answer[:at]])
            x = torch.cat([before, model.embedding(ids)])[None]
            logits = model.logits(book.read_vectors(model, x))[0, -1]
            losses.append(-logits.log_softmax(0)[token])
    return torch.stack(losses).mean()


PAIRS = [([1, 2, 3], [4]), ([5], [6, 7, 8]), ([0, 0], [0, 2])]


@pytest.mark.parametrize("P", [None, 0, 1, 3])
def test_the_loss_is_that_of_the_answers(P):
    model, context = some_llama(), random(3, P or 0, 8).requires_grad_()
    given = (lambda at: (None,)) if P is None else lambda at: (context[at],)
    found = book.answer_loss(model, PAIRS, *given(slice(3)))
    close(found, loss_by_loop(model, context, PAIRS), 1e-9)
    one = book.answer_loss(model, PAIRS[1:2], *given(slice(1, 2)))
    close(one, loss_by_loop(model, context[1:2], PAIRS[1:2]), 1e-9)
    if P:
        found.backward()
        assert (context.grad != 0).all()


WORDS = book.Words([*book.WORDS.words, "so A"])
CONTEXT = random(len(KNOWN.kind), 2, 8)
FEATURES = random(len(KNOWN.kind), 5, dtype=torch.float32)


def some_lesson(**options):
    model = some_llama(len(WORDS.words), context=20)
    lesson = book.Lesson(model, lambda places, draws: CONTEXT[places], WORDS)
    return lesson._replace(form="so {} A", **options)


def test_words_are_numbered_and_punctuation_is_dropped():
    ids = WORDS.encode("What IS it?")
    assert ids == [WORDS.words.index(word) for word in ("what", "is", "it")]
    assert WORDS.words == sorted({*WORDS.words}) and WORDS.decode(ids) == "what is it"


def test_a_lesson_asks_about_pictures_to_learn_from():
    """With a text's bytes as its ids: each answer from its space to its line's end."""
    lesson, one, two = some_lesson(yes_share=0.25), generator(3), generator(3)
    words = mock.Mock(encode=lambda text: [*text.encode()])
    lesson = lesson._replace(model=some_llama(128, context=64), words=words)
    places = clip.role("train", clip.KNOWN_DRAWERS)
    at = places[torch.randint(len(places), (20,), generator=two)]
    which = torch.randint(3, (20,), generator=two).tolist()
    asked = [
        book.ask(place, ["kind", "colour", "yes or no"][i], two, 0.25)
        for place, i in zip(at.tolist(), which, strict=True)
    ]
    pairs = [(f"so {q} A".encode(), f" {answer}\n".encode()) for q, answer in asked]
    right = loss_by_loop(lesson.model, CONTEXT[at], pairs)
    close(lesson.loss(20, one), right, 1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_words_that_are_told(seed):
    """In either order."""
    model, places = some_llama(27), torch.arange(0, 7000, 99)
    found = book.told_words(model)(places, generator(seed))
    drawn = torch.rand(71, 1, generator=generator(seed))
    for mine, at, draw in zip(found, places.tolist(), drawn.tolist(), strict=True):
        pair = [KNOWN.kind[at], KNOWN.colour[at]][:: -1 if draw[0] < 0.5 else 1]
        ids = [book.WORDS.words.index(word) for word in pair]
        assert torch.equal(mine, model.embedding.weight[ids])


def test_learning_is_adamw_with_a_warm_up_and_leaves_the_reader_alone():
    """Four steps by hand, with dropout."""
    decay, rates = {"betas": (0.5, 0.6)}, {"rate": 0.01, "warmup": 2, "final": 0.5}
    plan = training.Recipe(4, batch=3, **rates, **decay, decay=0.2, clip=0.7)
    reader, one = (book.small_llama(27, generator(1)) for _ in range(2))
    eyes = book.Projector(FEATURES, 2, 64, generator(5))
    again, draws = copy.deepcopy(eyes), generator(6)
    lesson = book.Lesson(reader, again)
    losses = book.learn_lesson(eyes, lesson._replace(context=eyes), generator(6), plan)
    with clip.seeded(draws):
        learnt, loss = again.parameters(), lambda: lesson.loss(3, draws)
        right = cells.adamw(learnt, loss, plan, **decay, weight_decay=0.2)
    close(losses, right, 1e-5)
    close([*eyes.parameters()], [*again.parameters()], 1e-5)
    close([*reader.parameters()], [*one.parameters()], 0)
    assert not eyes.training and not any(p.requires_grad for p in eyes.parameters())


def test_answers_are_the_likeliest_tokens():
    lesson, places = some_lesson(), torch.tensor([7, 3])
    asked = ["what kind is it?", "is it food?"]
    for longest in 1, 4:
        found = book.answers(lesson, places, asked, longest)
        for at, question, text in zip(places.tolist(), asked, found, strict=True):
            row = WORDS.encode(f"so {question} A")
            start, shares = len(row), []
            for _ in range(longest):
                x = book.read_texts(lesson.model, [row], CONTEXT[at : at + 1])
                shares.append(lesson.model.logits(x[0, -1]).softmax(0))
                row = [*row, shares[-1].argmax().item()]
            assert text == WORDS.decode(row[start:])
            said = book.said(lesson, at, question, longest)
            best = sorted(zip(shares[0].tolist(), WORDS.words, strict=True))[:-6:-1]
            assert said["answer"] == text and said["first"] == [w for _, w in best]
            assert said["shares"] == [round(share, 4) for share, _ in best]
    words = mock.Mock(encode=WORDS.encode, decode=lambda ids: f" a {len(ids)} \nc")
    said = book.answers(lesson._replace(words=words), places, asked, 2)
    assert said == ["a 2", "a 2"], "up to the line's end, without spaces around"


def test_an_examination_asks_each_picture_once():
    def answers(lesson, places, questions, longest):
        pairs = zip(questions, places.tolist(), strict=True)
        return [f"{question} {at} {longest}" for question, at in pairs]

    places, draws = torch.arange(100, 200), generator(1)
    pairs = [book.ask(at, "yes or no", draws) for at in range(100, 200)]
    with mock.patch.object(book, "answers", answers):
        right, given = book.examine(some_lesson(), places, "yes or no", 3, places + 300)
        _, same = book.examine(some_lesson(), places, "yes or no")
    assert right == [a for _, a in pairs]
    assert given == [f"{q} {at + 400} 3" for at, (q, _) in enumerate(pairs)]
    assert same == [f"{q} {at + 100} 1" for at, (q, _) in enumerate(pairs)]


def test_the_projector_is_two_layers_in_rows():
    eyes = book.Projector(FEATURES, tokens=3, D=4, generator=generator()).eval()
    features = FEATURES[[3, 0]]
    right = (0.1 * eyes.layers(features)).view(2, 3, 4)
    close(eyes(torch.tensor([3, 0])), right, 1e-5)


def test_each_token_becomes_the_word_at_the_smallest_angle():
    lesson, at = some_lesson(), torch.tensor([3, 5])
    rows = lesson.model.embedding.weight
    found = book.snapped(lesson).context(at, None)
    cosines = F.cosine_similarity(CONTEXT[at][:, :, None], rows, dim=-1)  # (B, P, V)
    assert torch.equal(found, rows[cosines.argmax(-1)])


def test_another_picture_is_of_another_kind():
    kinds, places = KNOWN.kind, torch.arange(0, 7000, 70)
    shown = book.another(places, generator(7)).tolist()
    assert {*shown} <= {*places.tolist()} and len({*shown}) > 40
    for a, b in zip(places.tolist(), shown, strict=True):
        assert kinds[a] != kinds[b]
