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

The first two take some twenty minutes each on a processor with bfloat16, the others
five each.

SmolLM2's projector and its blind twin were trained on 3,684 pictures: the 3,682 to
learn from and two that emoji/make.py has left out since, by `noto, the first`, for
they showed another concept: man in tuxedo and cricket. None of the pictures or
questions that they are measured with has changed.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from assets import make_parts, read_json
from torch import nn

from fieldguide.data import store
from fieldguide.multimodal import clip
from fieldguide.multimodal import image_to_text as book
from fieldguide.transformers.training import Recipe

HERE = Path(__file__).parent
SEED = 0
SEEDS = range(3)
SHARES = [0.5, 0.9, 1.0]  # of yes, in questions to learn from
ASKED = 200  # pictures of a test
SHOWN = 6  # pictures of a test, for the explorer
LONGEST = {"name": 8, "kind": 3, "colour": 3, "yes or no": 2}  # tokens of an answer
TESTS = {"new hand": ("train", ["fluent"])}
TESTS |= {"new things": ("test", clip.KNOWN_DRAWERS)}
UNTRAINED = ["can you eat it?", "can you drive it?"]
UNTRAINED += ["is it edible?", "is it a vehicle?"]
QUESTIONS = [*book.OPEN.values(), "is it food?", "is it people?", *UNTRAINED[:2]]
TOLD = "can you eat it?"
NO_NAMES = {"a", "an", "and", "at", "for", "from", "in"}
NO_NAMES |= {"of", "on", "the", "to", "up", "with"}
NETWORKS = {"one matrix": nn.Linear}
NETWORKS |= {"two layers": lambda into, kinds: clip.head(into, kinds, 256)}
AVERAGED = 20  # steps


def learn(name: str, features: torch.Tensor) -> nn.Module:
    generator = torch.Generator().manual_seed(SEED)
    with clip.seeded(generator):
        eyes = book.Projector(2688, tokens=4, D=576)
    lesson = book.smol_lesson(book.through(eyes, features))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        plan = Recipe(400, batch=32, rate=3e-3, warmup=20)
        losses = book.learn_lesson([eyes], lesson, generator, plan)
    means = [round(x, 4) for x in losses.view(-1, AVERAGED).mean(1).tolist()]
    store(HERE / f"{name}.json", {"losses": means})
    return eyes.eval().requires_grad_(False)


def record_looking() -> None:
    eyes = learn("looking", clip.emoji_features().pictures)
    state = {k: v.half().contiguous() for k, v in eyes.state_dict().items()}
    store(HERE / "looking.safetensors", state)


def record_blind() -> None:
    features = torch.zeros_like(clip.emoji_features().pictures)
    tokens = learn("blind", features)(features[:1])  # (1, P, D)
    store(HERE / "blind.safetensors", {"tokens": tokens.half()})


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
    network.eval()
    hits = {}
    for test, (split, drawers) in TESTS.items():
        places = clip.role(split, drawers)
        found = network(features[places]).argmax(1) == right[places]
        hits[test] = [int(found.sum()), len(found)]
    return hits


def equal(right: list[str], said: list[str]) -> list[int]:
    """Hits of tries."""
    return [sum(a == b for a, b in zip(right, said, strict=True)), len(said)]


def hits_of(lesson: book.Lesson) -> dict:
    """Right answers of all, by test and subject."""
    hits = {}
    for test, (split, drawers) in TESTS.items():
        places, hits[test] = clip.role(split, drawers), {}
        for about in book.ABOUT:
            hits[test][about] = equal(*book.examine(lesson, places, about))
    return hits


def record_small() -> None:
    """The small models: weights of the first seed, and what all seeds get right."""
    record = {"looking": [], "snapped": []}
    record |= {name: [] for name in NETWORKS}
    record["yes"] = {share: [] for share in SHARES}
    features = clip.emoji_features().pictures
    places = clip.role("test", clip.KNOWN_DRAWERS)
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        reading, _ = book.learn_to_read(generator)
        eyes = book.learn_to_look(reading, features, generator)
        shut = book.learn_to_look(reading, 0 * features, generator)
        if seed == SEED:
            parts = nn.ModuleDict({"reader": reading.model, "eyes": eyes})
            with torch.inference_mode():
                state = parts.state_dict() | {"blind": shut(0 * features[:1])}
            state = {k: v.half().contiguous() for k, v in state.items()}
            store(HERE / "small.safetensors", state)
        lesson = reading._replace(context=book.through(eyes, features))
        record["looking"].append(hits_of(lesson))
        record["snapped"].append(hits_of(book.snapped(lesson)))
        for name in NETWORKS:
            record[name].append(probe(name, features, generator))
        for share, runs in record["yes"].items():
            lesson = book.learn_on(reading, eyes, features, share, generator)
            row = counted(*book.examine(lesson, places, "yes or no"))
            kinds = equal(*book.examine(lesson, places, "kind"))
            runs.append(row | {"kinds right": kinds})
    store(HERE / "small.json", record)


def given(places: torch.Tensor, about: str, shown: torch.Tensor) -> tuple:
    """Of one question about each picture: what is right, and what is said."""
    return book.examine(looking(), places, about, LONGEST[about], shown)


def looking() -> book.Lesson:
    """SmolLM2 before the stored projector."""
    eyes, features = book.trained_smol_eyes(), clip.emoji_features().pictures
    return book.smol_lesson(book.through(eyes, features))


def given_blind(places: torch.Tensor, about: str) -> list[str]:
    """What is said before the four vectors that are the same for all."""
    lesson, tokens = book.smol_lesson(None), book.blind_tokens()
    asked = [question for question, _ in pairs(places, about)]
    longest, once = LONGEST[about], sorted({*asked})
    said = {q: book.answers(lesson, tokens, [q], longest)[0] for q in once}
    return [said[question] for question in asked]


def pairs(places: torch.Tensor, about: str) -> list[tuple[str, str]]:
    """The questions of `examine`, and their answers."""
    draws = torch.Generator().manual_seed(1)
    return [book.ask(place, about, draws) for place in places.tolist()]


def words(text: str) -> set[str]:
    """The words of a name, without such as *with* and *of*."""
    return {*re.findall(r"\w+", text.lower())} - NO_NAMES


def shared(right: list[str], said: list[str]) -> dict:
    """How many share a word with what is right, and with what is right of others."""
    own = [bool(words(a) & words(b)) for a, b in zip(right, said, strict=True)]
    every = sum(bool(words(a) & words(b)) for a in right for b in said)
    others = len(said) * (len(said) - 1)
    found = {"a word": [sum(own), len(own)]}
    return found | {"a word of another": [every - sum(own), others]}


def by_the_question(places: torch.Tensor) -> list[int]:
    """Hits of tries of who knows how often a question's answer is yes."""
    likelier, asked = book.likelier_answers(), pairs(places, "yes or no")
    said = [likelier[question] for question, _ in asked]
    return equal([answer for _, answer in asked], said)


def record_measures() -> None:
    record = {}
    for test, (split, drawers) in TESTS.items():
        places = some_of(clip.role(split, drawers))
        shown = book.another(places, torch.Generator().manual_seed(2))
        record[test] = {about: measure(about, places, shown) for about in LONGEST}
    record["untrained"] = {question: untrained(question) for question in UNTRAINED}
    store(HERE / "measures.json", record)


def measure(about: str, places: torch.Tensor, shown: torch.Tensor) -> dict:
    """Of one question about each picture: hits of tries, with and without looking."""
    right, said = given(places, about, places)
    guessed = given_blind(places, about)
    row = {"looking": equal(right, said), "blind": equal(right, guessed)}
    row["always the commonest"] = [max(map(right.count, right)), len(right)]
    if about == "name":
        looked, guess = shared(right, said), shared(right, guessed)
        row["names"] = {"looking": looked, "blind": guess}
    if about == "kind":
        _, other = given(places, about, shown)
        here = [book.facts().kind[at] for at in shown.tolist()]
        swapped = {"as asked": equal(right, other), "as shown": equal(here, other)}
        row["swapped"] = swapped
    if about == "yes or no":
        row["by the question"] = by_the_question(places)
        row["said"] = counted(right, said)
        row["swapped"] = counted(*given(places, about, shown))
    return row


def untrained(question: str) -> dict:
    """Of the new things, food and others: how many get a yes, and of how many."""
    split, drawers = TESTS["new things"]
    places, found = clip.role(split, drawers), {}
    lesson = looking()
    kinds = [book.facts().kind[at] for at in places.tolist()]
    for name, wanted in ("food", True), ("the rest", False):
        some = places[torch.tensor([(kind == "food") == wanted for kind in kinds])]
        said = []
        for part in some.split(64):
            with torch.inference_mode():
                context = lesson.context(part, None)
            said += book.answers(lesson, context, [question] * len(part), 2)
        firsts = [re.findall(r"\w+", text)[:1] for text in said]
        found[name] = [firsts.count(["yes"]), len(said)]
    return found


def some_of(places: torch.Tensor) -> torch.Tensor:
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(SEED))
    return places[order[:ASKED]]


def remade() -> Iterator[tuple]:
    """How sure it is of answers to one question of one picture, and of none."""
    kept = read_json(HERE / "answers.json")
    features, lesson = clip.emoji_features().pictures, book.smol_lesson(None)
    seen = book.trained_smol_eyes()(features[kept["places"][4:5]])
    for row, context in (4, seen), (-1, book.blind_tokens()):
        said, again = kept["said"][row][1], book.said(lesson, context, QUESTIONS[1])
        yield said["shares"], again["shares"], 0.01


def record_answers() -> None:
    """Of some pictures: what is said to each question, and its likeliest beginnings."""
    features = clip.emoji_features().pictures
    eyes, places = book.trained_smol_eyes(), []
    for split, drawers in TESTS.values():
        where = clip.role(split, drawers)
        places += where[:: len(where) // SHOWN].tolist()[:SHOWN]
    contexts = [*eyes(features[torch.tensor(places)])[:, None], book.blind_tokens()]
    lesson = book.smol_lesson(None)
    record = {"places": places, "questions": QUESTIONS}
    record["told"] = [told(lesson, at) for at in places]
    record["said"] = [
        [book.said(lesson, context, question) for question in QUESTIONS]
        for context in contexts
    ]
    store(HERE / "answers.json", record)


@torch.inference_mode()
def told(lesson: book.Lesson, place: int) -> str:
    """What is answered to one question, after the name in words."""
    ids = lesson.words.encode(f"{book.facts().name[place]}\n")
    context = lesson.model.embedding(torch.tensor([ids]))  # (1, P, D)
    return book.answers(lesson, context, [TOLD], 8)[0]


if __name__ == "__main__":
    make_parts(
        record_looking, record_blind, record_small, record_measures, record_answers
    )
