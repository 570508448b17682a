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


SMALL, ABOUT = book.small_words(), ("kind", "colour", "yes or no")
WORDS = book.Words([*SMALL.words, "so A"])


def some_lesson(about=ABOUT, context=None, **options):
    model = some_llama(len(WORDS.words), context=20)
    context = context or (lambda places, draws: random(len(places), 2, 8))
    return book.Lesson(model, context, WORDS, about, **options)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_words_that_are_told(seed):
    """In either order."""
    model, places = some_llama(27), torch.arange(0, 7000, 99)
    found = book.told_words(model, SMALL)(places, generator(seed))
    drawn = torch.rand(71, 1, generator=generator(seed))
    for mine, at, draw in zip(found, places.tolist(), drawn.tolist(), strict=True):
        pair = [KNOWN.kind[at], KNOWN.colour[at]][:: -1 if draw[0] < 0.5 else 1]
        ids = [SMALL.words.index(word) for word in pair]
        assert torch.equal(mine, model.embedding.weight[ids])


def same(one, two):
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


AT = torch.tensor([2, 7])
FEATURES = random(len(KNOWN.kind), 5, dtype=torch.float32)


def some_reading():
    model = book.small_llama(27, generator(1)).requires_grad_(False)
    return book.Lesson(model, book.told_words(model, SMALL), SMALL, book.ABOUT)


def test_who_learns_and_who_stays_as_it_is(monkeypatch):
    """Reader alone, eyes for the frozen reader, then copies of both."""

    def short(parts, loss, made, plan, **options):
        plan = training.Recipe(2, batch=3, rate=0.01)
        return training.descend(parts, loss, made, plan, **options)

    monkeypatch.setattr(book, "descend", short)
    reading = some_reading()
    reader, new = copy.deepcopy(reading.model), book.small_llama(27, generator(3))
    with clip.seeded(generator(4)):
        fresh = book.Projector(5, 2, 64)
    told, _ = book.learn_to_read(generator(3))
    eyes = book.learn_to_look(reading, FEATURES, generator(4))
    seen = copy.deepcopy(eyes)
    both = book.learn_on(reading, eyes, FEATURES, 0.9, generator(4))
    assert not same(told.model, new) and not same(eyes, fresh)
    assert same(eyes, seen) and same(reading.model, reader)
    assert not same(both.model, reader)
    assert not torch.equal(both.context(AT, None), eyes(FEATURES[AT]))


def test_a_pair_is_question_and_answer_in_ids():
    pair = some_lesson(form="so {} A").pair(9, "kind", generator())
    assert pair == (WORDS.encode("so what kind is it A"), WORDS.encode(KNOWN.kind[9]))
    assert WORDS.encode("What IS it?") == [WORDS.words.index(w) for w in
                                           ("what", "is", "it")]  # fmt: skip
    for share, right in (1.0, "yes"), (0.0, "no"):
        _, told = some_lesson(yes_share=share).pair(9, "yes or no", generator())
        assert WORDS.decode(told) == right


def test_learning_is_adamw_with_a_warm_up():
    """Four steps, by hand, of a loss that draws, of two modules, with dropout."""
    decay, rates = {"betas": (0.5, 0.6)}, {"rate": 0.1, "warmup": 2, "final": 0.5}
    plan = training.Recipe(4, batch=3, **rates, **decay, decay=0.2, clip=0.7)
    with clip.seeded(generator(5)):
        one = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 1)])
    two, draws = copy.deepcopy(one), generator(6)

    def loss(parts, B, draws):
        x = torch.randn(B, 4, generator=draws)
        return sum((F.dropout(part(x), 0.5) - 3).square().mean() for part in parts)

    lesson = mock.Mock(loss=functools.partial(loss, one))
    losses = book.learn_lesson([*one], lesson, generator(6), plan)
    again = functools.partial(loss, two, 3, draws)
    with clip.seeded(draws):
        right = cells.adamw(two.parameters(), again, plan, **decay, weight_decay=0.2)
    close(losses, right, 1e-5)
    close([*one.parameters()], [*two.parameters()], 1e-5)


def test_the_next_token_of_texts_of_any_length():
    model, rows = some_llama(), [[1, 2, 3], [4], [5, 6]]
    for context in random(3, 2, 8), None:
        found = book.next_logits(model, context, rows)
        for at, row in enumerate(rows):
            before = None if context is None else context[at : at + 1]
            x = book.read_texts(model, [row], before)
            close(found[at], model.logits(x)[0, -1])


def test_answers_are_the_likeliest_tokens():
    lesson, context = some_lesson(form="so {} A"), random(2, 2, 8)
    asked = ["what kind is it?", "is it food?"]
    for longest in 1, 4:
        found = book.answers(lesson, context, asked, longest)
        for before, question, text in zip(context, asked, found, strict=True):
            row = WORDS.encode(f"so {question} A")
            start = len(row)
            for _ in range(longest):
                logits = book.next_logits(lesson.model, before[None], [row])
                row = [*row, logits[0].argmax().item()]
            assert text == WORDS.decode(row[start:])
    words = mock.Mock(encode=WORDS.encode, decode=lambda ids: f" a {len(ids)} \nc")
    said = book.answers(lesson._replace(words=words), context, asked, 2)
    assert said == ["a 2", "a 2"], "up to the line's end, without spaces around"


def test_an_examination_asks_each_picture_once():
    def context(places, draws):
        return FEATURES[places, :1, None].expand(-1, 2, 8).double()

    def answers(lesson, context, questions, longest):
        return [
            f"{q} {x:.3f}" for q, x in zip(questions, context[:, 0, 0], strict=True)
        ]

    lesson, places = some_lesson(context=context), torch.arange(100, 200)
    draws, shown = generator(1), FEATURES[400:500, 0].tolist()
    pairs = [book.ask(at, "yes or no", draws) for at in range(100, 200)]
    with mock.patch.object(book, "answers", answers):
        right, given = book.examine(lesson, places, "yes or no", 3, places + 300)
    assert right == [a for _, a in pairs]
    assert given == [f"{q} {x:.3f}" for (q, _), x in zip(pairs, shown, strict=True)]


def test_the_projector_is_two_layers_in_rows():
    eyes = book.Projector(5, tokens=3, D=4).eval()
    features = random(2, 5, dtype=torch.float32)
    close(eyes(features), (0.1 * eyes.layers(features)).view(2, 3, 4), 1e-5)
    places, context = torch.tensor([3, 0, 3]), book.through(nn.ReLU(), FEATURES)
    assert torch.equal(context(places, None), FEATURES[places].relu())


def test_another_picture_is_of_another_kind():
    kinds, places = KNOWN.kind, torch.arange(0, 7000, 70)
    shown = book.another(places, generator(7)).tolist()
    assert {*shown} <= {*places.tolist()} and len({*shown}) > 40
    for a, b in zip(places.tolist(), shown, strict=True):
        assert kinds[a] != kinds[b]
