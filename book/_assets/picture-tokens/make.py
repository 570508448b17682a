"""Train picture tokens for SmolLM2, and measure what it answers.

.venv/bin/python book/_tools/assets.py picture-tokens [PART ...], of these parts:

looking   writes looking.safetensors, the projector of multimodal/image-to-text in 16
          bits, and looking.json: the loss, the mean of each twenty steps.
blind     the same for a projector that gets zeros for every picture. It gives the same
          four vectors for all; these are what is stored, in blind.safetensors.
measures  writes measures.json from the two: right answers by test and question, also
          with another picture in place of the one that is asked about, and how often
          it says yes to questions that nobody trained.
small     writes small.safetensors, the small models of the notebook in 16 bits, and
          small.json, of three runs: what is right, also by the nearest words and
          without a language model, and what is said by the share of yes in training.
answers   writes answers.json: what it says of some pictures, for the explorer.

The first two take some twenty minutes each on a processor with bfloat16, measures
ten, the others five each.

SmolLM2's projector and its blind twin were trained on 3,684 pictures: the 3,682 to
learn from and two that emoji/make.py has left out since, by `noto, the first`, for
they showed another concept: man in tuxedo and cricket. None of the pictures or
questions that they are measured with has changed.
"""

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from assets import make_parts, read_json
from safetensors.torch import load_file
from torch import nn

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.multimodal import clip
from fieldguide.multimodal import image_to_text as book
from fieldguide.transformers.real_model import load_smollm2
from fieldguide.transformers.training import Recipe

HERE = Path(__file__).parent
SEED = 0
SEEDS = range(3)
SHARES = [0.5, 0.9, 1.0]  # of yes, in questions to learn from
ASKED = 200  # pictures of a test
SHOWN = 6  # pictures of a test, for the explorer
LONGEST = {"name": 8, "kind": 3, "colour": 3, "yes or no": 2}  # tokens of an answer
TESTS = {
    "new hand": clip.role("train", ["fluent"]),
    "new things": clip.role("test", clip.KNOWN_DRAWERS),
}
UNTRAINED = ["can you eat it?", "can you drive it?"]
UNTRAINED += ["is it edible?", "is it a vehicle?"]
QUESTIONS = [*book.OPEN.values(), "is it food?", "is it people?", *UNTRAINED[:2]]
NO_NAMES = {"a", "an", "and", "at", "for", "from", "in"}
NO_NAMES |= {"of", "on", "the", "to", "up", "with"}
NETWORKS = {"one matrix": nn.Linear}
NETWORKS |= {"two layers": lambda into, kinds: clip.head(into, kinds, 256)}
AVERAGED = 20  # steps


def seeded(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def store_halved(name: str, tensors: dict) -> None:
    store(HERE / name, {k: v.half().contiguous() for k, v in tensors.items()})


def smol_lesson(context: Callable) -> book.Lesson:
    return book.Lesson(load_smollm2(), context, smollm2_tokenizer(), **book.SMOL)


def learn(name: str, features: torch.Tensor) -> nn.Module:
    generator = seeded()
    eyes = book.Projector(features, tokens=4, D=576, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        plan = Recipe(400, batch=32, rate=3e-3, warmup=20)
        losses = book.learn_lesson(eyes, smol_lesson(eyes), generator, plan)
    means = [round(x, 4) for x in losses.view(-1, AVERAGED).mean(1).tolist()]
    store(HERE / f"{name}.json", {"losses": means})
    return eyes


def record_looking() -> None:
    eyes = learn("looking", clip.emoji_features().pictures)
    store_halved("looking.safetensors", eyes.state_dict())


def record_blind() -> None:
    eyes = learn("blind", 0 * clip.emoji_features().pictures)
    store_halved("blind.safetensors", {"tokens": eyes(torch.tensor([0]))})  # (1, P, D)


def smol() -> tuple:
    """SmolLM2 before what is stored: the projector, and four vectors for all."""
    features = clip.emoji_features().pictures
    eyes = book.Projector(features, tokens=4, D=576, generator=seeded())
    eyes.load_state_dict(load_file(HERE / "looking.safetensors"))
    tokens = load_file(HERE / "blind.safetensors")["tokens"].float()
    blind = smol_lesson(lambda places, _: tokens.expand(len(places), -1, -1))
    return smol_lesson(eyes.eval().requires_grad_(False)), blind


def counted(right: list[str], said: list[str]) -> dict:
    """Of answers yes or no: how many are yes, and right by what is right."""
    record = {"said yes": [said.count("yes"), len(said)]}
    for answer in "yes", "no":
        hits = [b for a, b in zip(right, said, strict=True) if a == answer]
        record[f"right, of {answer}"] = [hits.count(answer), len(hits)]
    return record


def probe(name: str, features: torch.Tensor, generator: torch.Generator) -> dict:
    """A network from features to kinds, without a language model: hits by test."""
    kinds, known = list(book.KIND_WORDS.values()), book.facts().kind
    right = torch.tensor([kinds.index(kind) for kind in known])  # (all pictures,)
    learnt = clip.role("train", clip.KNOWN_DRAWERS)
    with clip.seeded(generator):  # weights, dropout
        network = NETWORKS[name](features.size(1), len(kinds))
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
        for _ in range(400):
            at = learnt[torch.randint(len(learnt), (64,), generator=generator)]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(features[at]), right[at]).backward()
            optimizer.step()
    found = network.eval()(features).argmax(1) == right  # (all pictures,)
    return {test: [int(found[at].sum()), len(at)] for test, at in TESTS.items()}


def equal(right: list[str], said: list[str]) -> list[int]:
    """Hits of tries."""
    return [sum(a == b for a, b in zip(right, said, strict=True)), len(said)]


def hits_of(lesson: book.Lesson) -> dict:
    """Right answers of all, by test and subject."""
    return {
        test: {
            about: equal(*book.examine(lesson, places, about)) for about in book.ABOUT
        }
        for test, places in TESTS.items()
    }


def record_small() -> None:
    """The small models: weights of the first seed, and what all seeds get right."""
    record = {name: [] for name in ["looking", "snapped", *NETWORKS]}
    record["yes"] = {share: [] for share in SHARES}
    features, places = clip.emoji_features().pictures, TESTS["new things"]
    for seed in SEEDS:
        generator = seeded(seed)
        reader = book.small_llama(len(book.WORDS.words), generator)
        reading = book.Lesson(reader, book.told_words(reader))
        book.learn_lesson(reader, reading, generator)
        both = []
        for seen in features, 0 * features:
            both.append(book.Projector(seen, 2, 64, generator))
            lesson = reading._replace(context=both[-1])
            book.learn_lesson(both[-1], lesson, generator)
        eyes, shut = both
        if seed == SEED:
            parts = nn.ModuleDict({"reader": reader, "eyes": eyes})
            blind = {"blind": shut(torch.tensor([0]))}
            store_halved("small.safetensors", parts.state_dict() | blind)
        lesson = reading._replace(context=eyes)
        record["looking"].append(hits_of(lesson))
        record["snapped"].append(hits_of(book.snapped(lesson)))
        for name in NETWORKS:
            record[name].append(probe(name, features, generator))
        for share, runs in record["yes"].items():
            parts = copy.deepcopy(nn.ModuleList([reader, eyes]))
            lesson = book.Lesson(*parts, yes_share=share)
            book.learn_lesson(parts, lesson, generator)
            row = counted(*book.examine(lesson, places, "yes or no"))
            kinds = equal(*book.examine(lesson, places, "kind"))
            runs.append(row | {"kinds right": kinds})
    store(HERE / "small.json", record)


def words(text: str) -> set[str]:
    """The words of a name, without such as *with* and *of*."""
    return {*re.findall(r"\w+", text.lower())} - NO_NAMES


def shared(right: list[str], said: list[str]) -> dict:
    """How many share a word with what is right, and with what is right of others."""
    own = sum(bool(words(a) & words(b)) for a, b in zip(right, said, strict=True))
    every = sum(bool(words(a) & words(b)) for a in right for b in said)
    others = len(said) * (len(said) - 1)
    return {"a word": [own, len(said)], "a word of another": [every - own, others]}


def by_the_question(places: torch.Tensor) -> list[int]:
    """Hits of tries of who knows how often a question's answer is yes."""
    learnt, draws = clip.role("train", clip.KNOWN_DRAWERS).tolist(), seeded(2)
    tally = Counter(book.ask(place, "yes or no", draws) for place in learnt)
    draws = seeded(1)  # as `examine` has it
    asked = [book.ask(place, "yes or no", draws) for place in places.tolist()]
    said = [max("yes", "no", key=lambda a: tally[q, a]) for q, _ in asked]
    return equal([answer for _, answer in asked], said)


def record_measures() -> None:
    lessons, record = smol(), {}
    for test, places in TESTS.items():
        places = places[torch.randperm(len(places), generator=seeded())[:ASKED]]
        shown = book.another(places, seeded(2))
        record[test] = {
            about: measure(*lessons, about, places, shown) for about in LONGEST
        }
    found = {question: untrained(lessons[0], question) for question in UNTRAINED}
    store(HERE / "measures.json", record | {"untrained": found})


def measure(
    looking: book.Lesson,
    blind: book.Lesson,
    about: str,
    places: torch.Tensor,
    shown: torch.Tensor,
) -> dict:
    """Of one question about each picture: hits of tries, with and without looking."""
    asked = places, about, LONGEST[about]
    right, said = book.examine(looking, *asked)
    _, guessed = book.examine(blind, *asked)
    row = {"looking": equal(right, said), "blind": equal(right, guessed)}
    row["always the commonest"] = [max(map(right.count, right)), len(right)]
    if about == "name":
        looked, guess = shared(right, said), shared(right, guessed)
        row["names"] = {"looking": looked, "blind": guess}
    if about == "kind":
        _, other = book.examine(looking, *asked, shown)
        here = [book.facts().kind[at] for at in shown.tolist()]
        swapped = {"as asked": equal(right, other), "as shown": equal(here, other)}
        row["swapped"] = swapped
    if about == "yes or no":
        row["by the question"] = by_the_question(places)
        row["said"] = counted(right, said)
        row["swapped"] = counted(*book.examine(looking, *asked, shown))
    return row


def untrained(lesson: book.Lesson, question: str) -> dict:
    """Of the new things, food and others: how many get a yes, and of how many."""
    places, found = TESTS["new things"], {}
    is_food = torch.tensor([book.facts().kind[at] == "food" for at in places])
    for name, some in ("food", places[is_food]), ("the rest", places[~is_food]):
        said = book.answers(lesson, some, [question] * len(some), 2)
        firsts = [re.findall(r"\w+", text)[:1] for text in said]
        found[name] = [firsts.count(["yes"]), len(said)]
    return found


def remade() -> Iterator[tuple]:
    """How sure it is of answers to one question of one picture, and of none."""
    kept = read_json(HERE / "answers.json")
    for lesson, row in zip(smol(), (4, -1), strict=True):
        again = book.said(lesson, kept["places"][4], QUESTIONS[1])
        yield kept["said"][row][1]["shares"], again["shares"], 0.01


def record_answers() -> None:
    """Of some pictures: what is said to each question, and its likeliest beginnings."""
    (looking, blind), places = smol(), []
    for where in TESTS.values():
        places += where[:: len(where) // SHOWN].tolist()[:SHOWN]
    record = {"places": places, "questions": QUESTIONS}
    record["told"] = [told(looking, at) for at in places]
    asked = [(looking, place) for place in places] + [(blind, places[0])]
    record["said"] = [
        [book.said(*each, question) for question in QUESTIONS] for each in asked
    ]
    store(HERE / "answers.json", record)


def told(lesson: book.Lesson, place: int) -> str:
    """What is answered to a question nobody trained, after the name in words."""
    ids = lesson.words.encode(f"{book.facts().name[place]}\n")
    name = lesson.model.embedding(torch.tensor([ids]))  # (1, P, D)
    lesson = lesson._replace(context=lambda places, generator: name)
    return book.answers(lesson, torch.tensor([place]), [UNTRAINED[0]], 8)[0]


if __name__ == "__main__":
    make_parts(
        record_looking, record_blind, record_small, record_measures, record_answers
    )
