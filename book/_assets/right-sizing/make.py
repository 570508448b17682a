"""Let the contenders of deployment/right-sizing do their jobs, and record it.

.venv/bin/python book/_tools/assets.py right-sizing [runs] [tried] [small] [figure]
(half an hour)

scores.npz: the log-probabilities that SmolLM2 gives to the classes of the held-out
texts, and features of the texts, in 16 bits, by MiniLM. runs.json: of each job the
losses of the adapter, the processor time of each contender, and how many of 100 texts
the linear layers sort right, by the labels that they learn from. tried.json: how many
bits a byte a small GPT needs for the beginnings of texts of a fifth of the families to
learn from, if it reads the others, by steps and pace. From these we chose its steps and
pace; the test had no say. small.json: how many bits a small GPT, trained on all
families to learn from of one domain, and SmolLM2 need for the beginnings of the
held-out texts of each domain. Last, figure.json: which of the held-out texts each
contender sorts right, by scores.npz.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from operator import call
from pathlib import Path

import numpy as np
import torch
from assets import machine, make_parts, read_json

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.deployment import right_sizing as page
from fieldguide.efficiency.lora import add_lora, learn_answers
from fieldguide.multimodal.clip import MiniLM
from fieldguide.transformers.gpt import GPTConfig, count_parameters
from fieldguide.transformers.real_model import load_smollm2
from fieldguide.transformers.tokens import BytePairTokenizer, learn_merges, split_words
from fieldguide.transformers.training import modern_recipe, new_gpt, train

HERE = Path(__file__).parent

DOMAINS = ["licences", "symptoms", "questions"]  # the longest first
STEPS = 12  # of an adapter
LABELS = [8, 16, 32, 64, 96]  # and all there are
DRAWS = 8  # of so many labels
# Of a small GPT: steps and pace. TRIED says why; licences stop for time
SMALL = {"licences": (1500, 1.0), "symptoms": (120, 0.4), "questions": (60, 0.25)}
TRIED = {
    "symptoms": [(120, 1.0), (120, 0.4), (240, 0.4)],
    "questions": [(20, 1.0), (40, 1.0), (80, 1.0), (40, 0.4), (60, 0.25), (90, 0.25)],
}
SIZES = GPTConfig(2048, 384, width=128, heads=4, layers=4, bias=False)


def timed(action):
    """What it returns, and its seconds of processor time."""
    start = time.process_time()
    found = action()
    return found, time.process_time() - start


def in_two(action, tasks):
    """What it returns for the arguments of each task, from two processes."""
    for domain in DOMAINS:
        page.job(domain)  # both of them find it made
    with get_context("fork").Pool(2, torch.set_num_threads, (1,)) as pool:
        return pool.starmap(action, tasks, chunksize=1)


# SmolLM2: asked, shown examples, taught


def ask(model, domain, examples=()):
    """SmolLM2's scores for the held-out texts, and seconds a text."""
    known = page.job(domain)
    asked = [page.asked_about(known.texts[p]) for p in known.test]
    before, tokens = page.instruction(domain, examples)
    scores, s = timed(lambda: page.answer_scores(model, before, asked, tokens))
    return scores.numpy(), round(s / len(asked), 7)


def prompted(domain):
    """As it is, without examples and with the first text of each class."""
    model, known = load_smollm2(), page.job(domain)
    labels = known.labels[known.learn].tolist()
    shots = [known.learn[labels.index(c)] for c in range(len(known.classes))]
    (zero, zero_s), (few, few_s) = ask(model, domain), ask(model, domain, shots)
    scores = {f"{domain}-zero": zero, f"{domain}-few": few}
    return scores, {"seconds": {"zero": zero_s, "few": few_s}}


def adapted(domain):
    """With an adapter that has learnt the job from eight texts a step."""
    model, known = load_smollm2.__wrapped__(), page.job(domain)
    draw = torch.Generator().manual_seed(0)
    add_lora(model, ["query", "value"], 8, 16, generator=draw)
    order = torch.randperm(len(known.learn), generator=draw).tolist()
    before, tokens = page.instruction(domain)
    pairs = [
        (before + page.asked_about(known.texts[p]), [tokens[known.labels[p]]])
        for p in (known.learn[order[i % len(order)]] for i in range(8 * STEPS))
    ]
    batches = [pairs[at : at + 8] for at in range(0, len(pairs), 8)]
    losses, taught_s = timed(lambda: learn_answers(model, batches, 3e-3))
    scores, s = ask(model, domain)
    losses = [round(loss, 3) for loss in losses]
    seconds = {"lora": s, "teach": round(taught_s, 1)}
    return {f"{domain}-lora": scores}, {"seconds": seconds, "losses": losses}


# Linear layers on words and on embeddings


def words_in(texts):
    """All of their words."""
    return sorted({word for text in texts for word in page.words_of(text)})


def found_linear(known, features, places):
    """By words and by embeddings: the class, a number, of each held-out text.

    Learnt from the texts at places.
    """
    sides = [known.learn[i] for i in places], known.test
    texts = [[known.texts[p] for p in side] for side in sides]
    bags = [page.bag_of_words(each, words_in(texts[0])) for each in texts]
    learn, test = torch.from_numpy(features).float().tensor_split([len(known.learn)])
    found, labels = {}, known.labels[sides[0]]
    for kind, (x, y) in {"words": bags, "embeddings": (learn[places], test)}.items():
        found[kind] = page.fit_linear(x, labels, len(known.classes))(y).argmax(1)
    return found


@torch.inference_mode()
def embedded(known):
    """Features of the texts to learn from and of the test, in 16 bits."""
    texts, model = [known.texts[p] for p in known.learn + known.test], MiniLM()
    parts = [texts[at : at + 8] for at in range(0, len(texts), 8)]
    features, s = timed(lambda: torch.cat([model(part) for part in parts]))
    return features.half().numpy(), round(s / len(texts), 7)


def time_of_words(known):
    """Seconds that the linear layer on words takes for a text."""
    words = words_in(known.texts[p] for p in known.learn)
    asked = [known.texts[p] for p in known.test] * 20  # to be timed
    layer = torch.nn.Linear(len(words), len(known.classes)).requires_grad_(False)
    _, s = timed(lambda: layer(page.bag_of_words(asked, words)))
    return round(s / len(asked), 7)


def linear(domain):
    """Right of 100 by number of labels: the mean over several draws."""
    known = page.job(domain)
    features, s = embedded(known)
    size, truth = len(known.learn), known.labels[known.test]
    right = {"words": [], "embeddings": []}
    for count in [*LABELS, size]:
        hits = {kind: [] for kind in right}
        for seed in range(DRAWS if count < size else 1):
            draw = torch.Generator().manual_seed(seed)
            places = torch.randperm(size, generator=draw)[:count].tolist()
            for kind, found in found_linear(known, features, places).items():
                hits[kind] += (found == truth).tolist()
        for kind, each in hits.items():
            right[kind].append(round(100 * sum(each) / len(each), 2))
    seconds = {"words": time_of_words(known), "embeddings": s}
    found = {"seconds": seconds, "labels": [*LABELS, size], "right": right}
    return {f"{domain}-embeddings": features}, found


def record_runs() -> None:
    tasks = [(kind, d) for kind in (adapted, prompted, linear) for d in DOMAINS]
    arrays, record = {}, {"machine": machine(), "steps": STEPS}
    for (_, domain), (scores, found) in zip(tasks, in_two(call, tasks), strict=True):
        arrays |= scores
        seconds = record.setdefault(domain, {"seconds": {}})["seconds"]
        record[domain] |= found | {"seconds": seconds | found["seconds"]}
    store(HERE / "scores.npz", arrays)
    store(HERE / "runs.json", record)


# A small GPT that has read nothing but the texts of one domain


def domain_text(domain, places):
    return "\n\n".join(page.job(domain).whole[p] for p in places)


@cache
def small_tokenizer(domain):
    """256 bytes and what 1,792 merges make of the families to learn from."""
    words = split_words(domain_text(domain, page.job(domain).known))
    return BytePairTokenizer(learn_merges(Counter(words), 1792))


def small_gpt(domain, steps, pace, places):
    """pace: what the rates are multiplied by. places: of the texts that it reads."""
    draw, recipe = torch.Generator().manual_seed(0), modern_recipe(steps)
    rates = {"rate": recipe.rate * pace, "matrix_rate": recipe.matrix_rate * pace}
    recipe = replace(recipe, batch=6, **rates)
    model = new_gpt(SIZES, recipe, draw)
    ids = small_tokenizer(domain).encode(domain_text(domain, places))
    train(model, torch.tensor(ids), recipe, generator=draw)
    return model.requires_grad_(False)


def beginnings(domain, places=None):
    """The first 400 letters of each whole text, of the test if no places are given."""
    known = page.job(domain)
    return [known.whole[p][:400] for p in places or known.test]


def size_of(texts):
    return sum(len(text.encode()) for text in texts)


def try_small(domain, steps, pace):
    """Bits a byte of one text of each family that is kept back from reading."""
    known = page.job(domain)
    groups = [group for group in known.groups if group[0] in known.known]
    draw = torch.Generator().manual_seed(1)
    read, kept = page.split_families(groups, 0.2, draw)
    model, tokenizer = small_gpt(domain, steps, pace, read), small_tokenizer(domain)
    texts = beginnings(domain, [group[0] for group in groups if group[0] in kept])
    bits = sum(page.text_bits(model, tokenizer, text) for text in texts)
    return round(bits / size_of(texts), 4)


def record_tried() -> None:
    tasks = [(name, *each) for name in TRIED for each in TRIED[name]]
    found = zip(tasks, in_two(try_small, tasks), strict=True)
    rows = [[*task, bits] for task, bits in found]
    store(HERE / "tried.json", {"machine": machine(), "rows": rows})


def small(name):
    """A GPT trained on a domain, or SmolLM2: its bits for each text, and its time."""
    texts, record = {domain: beginnings(domain) for domain in DOMAINS}, {}
    if name == "smollm2":
        model, tokenizer = load_smollm2(), smollm2_tokenizer()
    else:
        known, tokenizer = page.job(name).known, small_tokenizer(name)
        model, taught = timed(lambda: small_gpt(name, *SMALL[name], known))
        model, record = model.half().float(), {"taught": round(taught, 1)}  # as stored

    def bits(text):
        return round(page.text_bits(model, tokenizer, text), 2)

    found, s = timed(lambda: {d: [*map(bits, each)] for d, each in texts.items()})
    size = sum(map(size_of, texts.values()))
    return record | {"bits": found, "reading": round(1000 * s / size, 5)}


def record_small() -> None:
    names = ["licences", "smollm2", "symptoms", "questions"]  # the longest first
    found = dict(zip(names, in_two(small, [[name] for name in names]), strict=True))
    chosen = {name: {"steps": n, "pace": pace} for name, (n, pace) in SMALL.items()}
    store(HERE / "small.json", {"machine": machine(), "chosen": chosen} | found)


# What the opening figure shows

SAMPLES = {"licences": 55, "symptoms": 64, "questions": 30}


def figure_of(domain):
    known, at, kept = page.job(domain), SAMPLES[domain], np.load(HERE / "scores.npz")
    labels, truth = len(known.learn), known.labels[known.test]
    found = found_linear(known, kept[f"{domain}-embeddings"], range(labels))
    for c in "zero", "few", "lora":
        scores = torch.from_numpy(kept[f"{domain}-{c}"])
        found[c] = page.calibrated(scores).argmax(1)
    said = {c: known.classes[each[at]] for c, each in found.items()}
    return {
        "classes": len(known.classes),
        "labels": labels,
        "words": len(words_in(known.texts[p] for p in known.learn)),
        "bytes": size_of(beginnings(domain)),
        "sample": [known.texts[known.test[at]], known.classes[truth[at]], said],
        "right": {c: (each == truth).int().tolist() for c, each in found.items()},
    }


def record_figure() -> None:
    model = new_gpt(SIZES, modern_recipe(1), torch.Generator())
    record = {"small": round(count_parameters(model) / 1e6, 4)}
    store(HERE / "figure.json", record | {d: figure_of(d) for d in DOMAINS})


def remade() -> Iterator[tuple]:
    """What the contenders sort right, and bits of SmolLM2 for one text."""
    kept, again = read_json(HERE / "figure.json")["questions"], figure_of("questions")
    for name in "words", "embeddings", "zero":
        yield kept["right"][name], again["right"][name], 0
    kept = read_json(HERE / "small.json")["smollm2"]["bits"]["licences"][:1]
    text = beginnings("licences")[0]
    yield kept, [page.text_bits(load_smollm2(), smollm2_tokenizer(), text)], 0.5


if __name__ == "__main__":
    make_parts(record_runs, record_tried, record_small, record_figure)
