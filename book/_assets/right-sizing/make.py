"""Let the contenders of deployment/right-sizing do their jobs, and record it.

.venv/bin/python book/_tools/assets.py right-sizing [runs] [tried] [small] [figure]
(half an hour)

Writes beside this file scores.npz: the log-probabilities that SmolLM2 gives to the
classes of the held-out texts, and features of the texts, in 16 bits, by MiniLM; and
runs.json: the losses of the adapters, the processor time of each contender, and how
many of 100 texts the linear layers sort right, by the labels that they learn from. Then
tried.json: how many bits a byte a small GPT needs for the beginnings of texts of a
fifth of the families to learn from, if it reads the others, by steps and pace. From
these we chose its steps and pace; the test had no say. And small.json: how many bits a
small GPT, trained on all families to learn from of one domain, and SmolLM2 need for the
beginnings of the held-out texts of each domain. Last, figure.json: which of the
held-out texts each contender sorts right, by scores.npz.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
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

DOMAINS = ["questions", "symptoms", "licences"]
STEPS = 12  # of an adapter
LABELS = [8, 16, 32, 64, 96]  # and all there are
DRAWS = 8  # of so many labels
# Of a small GPT: steps and pace. TRIED says why; licences stop for time
SMALL = {"licences": (1500, 1.0), "symptoms": (120, 0.4), "questions": (60, 0.25)}
TRIED = {
    "symptoms": [(120, 1.0), (120, 0.4), (240, 0.4)],
    "questions": [(20, 1.0), (40, 1.0), (80, 1.0), (40, 0.4), (60, 0.25), (90, 0.25)],
}


def timed(action):
    """What it returns, and its seconds of processor time."""
    start = time.process_time()
    found = action()
    return found, time.process_time() - start


def per_text(seconds, texts):
    return round(seconds / len(texts), 7)


def ask(model, domain, places, examples=()):
    """SmolLM2's scores, and seconds a text."""
    texts = page.job(domain).texts
    asked = [page.asked_about(texts[p]) for p in places]
    before = page.instruction(domain, list(examples))
    tokens = page.class_tokens(domain)
    scores, s = timed(lambda: page.answer_scores(model, before, asked, tokens))
    return scores.numpy(), per_text(s, places)


def shots(domain):
    """The first text of each class, to show."""
    known = page.job(domain)
    labels = known.labels[known.learn].tolist()
    return [known.learn[labels.index(c)] for c in range(len(known.classes))]


def prompted(domain):
    model, test = load_smollm2(), page.job(domain).test
    zero, zero_s = ask(model, domain, test)
    few, few_s = ask(model, domain, test, shots(domain))
    seconds = {"zero": zero_s, "few": few_s}
    return {f"{domain}-zero": zero, f"{domain}-few": few}, {"seconds": seconds}


def teach_job(model, domain, steps, rate=3e-3):
    """Give a SmolLM2 an adapter that learns a job, eight texts a step: the losses."""
    known, draw = page.job(domain), torch.Generator().manual_seed(0)
    add_lora(model, ["query", "value"], 8, 16, generator=draw)
    order = torch.randperm(len(known.learn), generator=draw).tolist()
    drawn = [known.learn[order[i % len(order)]] for i in range(8 * steps)]
    before, tokens = page.instruction(domain), page.class_tokens(domain)
    pairs = [
        (before + page.asked_about(known.texts[p]), [tokens[known.labels[p]]])
        for p in drawn
    ]
    batches = [pairs[at : at + 8] for at in range(0, len(pairs), 8)]
    return learn_answers(model, batches, rate)


def adapted(domain):
    model = load_smollm2.__wrapped__()
    losses, taught_s = timed(lambda: teach_job(model, domain, STEPS))
    scores, s = ask(model, domain, page.job(domain).test)
    return {f"{domain}-lora": scores}, {
        "seconds": {"lora": s, "teach": round(taught_s, 1)},
        "losses": [round(loss, 3) for loss in losses],
    }


@torch.inference_mode()
def embedded(domain):
    known, model = page.job(domain), MiniLM()
    texts = [known.texts[p] for p in known.learn + known.test]
    parts = [texts[at : at + 8] for at in range(0, len(texts), 8)]
    features, s = timed(lambda: torch.cat([model(part) for part in parts]))
    found = {f"{domain}-embeddings": features.half().numpy()}
    return found, {"seconds": {"embeddings": per_text(s, texts)}}


def linear_finds(known, places, learn, test):
    """The classes of the test by a layer that learnt these of the labelled texts."""
    labels = known.labels[[known.learn[i] for i in places]]
    return page.fit_linear(learn, labels, len(known.classes))(test).argmax(1)


def words_in(texts):
    return sorted({w for each in texts for w in page.words_of(each)})


def bags(known, places):
    """Words of the texts that are learnt from, and of the test."""
    learn = [known.texts[known.learn[i]] for i in places]
    test, words = [known.texts[p] for p in known.test], words_in(learn)
    return page.bag_of_words(learn, words), page.bag_of_words(test, words)


def learnt(domain):
    """Right of 100 by number of labels: the mean over several draws."""
    known, found = page.job(domain), {"words": [], "embeddings": []}
    size, truth = len(known.learn), known.labels[known.test]
    features = torch.from_numpy(embedded(domain)[0][f"{domain}-embeddings"]).float()
    learn, test = features.tensor_split([size])
    for count in [*LABELS, size]:
        rights = {kind: [] for kind in found}
        for seed in range(DRAWS if count < size else 1):
            draw = torch.Generator().manual_seed(seed)
            places = torch.randperm(size, generator=draw)[:count].tolist()
            sides = {"words": bags(known, places), "embeddings": (learn[places], test)}
            for kind, side in sides.items():
                hits = linear_finds(known, places, *side) == truth
                rights[kind].append(100 * hits.double().mean().item())
        for kind, each in rights.items():
            found[kind].append(round(sum(each) / len(each), 2))
    return {}, {"labels": [*LABELS, size], "right": found}


def counted(domain):
    known = page.job(domain)
    learn, test = ([known.texts[p] for p in s] for s in (known.learn, known.test))
    words, labels = words_in(learn), known.labels[known.learn]
    layer = page.fit_linear(page.bag_of_words(learn, words), labels, len(known.classes))
    asked = test * 20  # enough to be timed
    _, s = timed(lambda: layer(page.bag_of_words(asked, words)))
    return {}, {"seconds": {"words": per_text(s, asked)}}


KINDS = {"adapted": adapted, "prompted": prompted}  # the longest first
KINDS |= {"learnt": learnt, "embedded": embedded, "counted": counted}
TASKS = [(kind, domain) for kind in KINDS for domain in reversed(DOMAINS)]


def run(task):
    kind, domain = task
    return KINDS[kind](domain)


def in_two(call, tasks):
    """What it returns for each task, from two processes."""
    for domain in DOMAINS:
        page.job(domain)  # both of them find it made
    with get_context("fork").Pool(2, torch.set_num_threads, (1,)) as pool:
        return pool.map(call, tasks, chunksize=1)


# A small GPT that has read nothing but the texts of one domain


# About a million weights
SIZES = GPTConfig(2048, 384, width=128, heads=4, layers=4, bias=False)


def domain_text(domain, places=None):
    """All texts of the families to learn from, or those at places, in one."""
    known = page.job(domain)
    chosen = known.known if places is None else places
    return "\n\n".join(known.whole[p] for p in chosen)


@cache
def small_tokenizer(domain):
    """256 bytes and what 1,792 merges make of the domain."""
    words = Counter(split_words(domain_text(domain)))
    return BytePairTokenizer(learn_merges(words, 1792))


def small_gpt(domain, steps, pace, places=None):
    """pace: what the rates are multiplied by. places: of the texts that it reads."""
    draw = torch.Generator().manual_seed(0)
    recipe = modern_recipe(steps)
    rates = {"rate": recipe.rate * pace, "matrix_rate": recipe.matrix_rate * pace}
    recipe = replace(recipe, batch=6, **rates)
    model = new_gpt(SIZES, recipe, draw)
    ids = small_tokenizer(domain).encode(domain_text(domain, places))
    train(model, torch.tensor(ids), recipe, generator=draw)
    return model.requires_grad_(False)


def held_out_beginnings(domain):
    """The first 400 letters of each whole text of the test."""
    known = page.job(domain)
    return [known.whole[p][:400] for p in known.test]


def bits_of(model, tokenizer):
    """The bits that it needs for each text, by domain; seconds for a kilobyte."""
    texts = {domain: held_out_beginnings(domain) for domain in DOMAINS}
    size = sum(len(text.encode()) for each in texts.values() for text in each)
    found, s = timed(
        lambda: {
            domain: [round(page.text_bits(model, tokenizer, t), 2) for t in each]
            for domain, each in texts.items()
        }
    )
    return found, round(1000 * s / size, 5)


def small(name):
    """A GPT trained on a domain, or SmolLM2: what it takes, and its bits."""
    if name == "smollm2":
        bits, reading = bits_of(load_smollm2(), smollm2_tokenizer())
        return {"bits": bits, "reading": reading}
    model, taught = timed(lambda: small_gpt(name, *SMALL[name]))
    model = model.half().float()  # as its weights are stored
    bits, reading = bits_of(model, small_tokenizer(name))
    return {"taught": round(taught, 1), "bits": bits, "reading": reading}


def parts_to_try(domain):
    """Places to read, and one of each family that is kept back."""
    known = {*page.job(domain).known}  # of a family all or none
    groups = [group for group in page.job(domain).groups if known & {*group}]
    draw = torch.Generator().manual_seed(1)
    read, kept = map(set, page.split_families(groups, 0.2, draw))
    return sorted(read), [group[0] for group in groups if group[0] in kept]


def try_small(task):
    """Bits a byte of beginnings that are kept back."""
    domain, steps, pace = task
    read, kept = parts_to_try(domain)
    model = small_gpt(domain, steps, pace, places=read)
    texts = [page.job(domain).whole[p][:400] for p in kept]
    tokenizer = small_tokenizer(domain)
    bits = sum(page.text_bits(model, tokenizer, text) for text in texts)
    return round(bits / sum(len(text.encode()) for text in texts), 4)


def record_tried() -> None:
    tasks = [(name, *each) for name in TRIED for each in TRIED[name]]
    found = zip(tasks, in_two(try_small, tasks), strict=True)
    rows = [[*task, bits] for task, bits in found]
    store(HERE / "tried.json", {"machine": machine(), "rows": rows})


def record_small() -> None:
    names = ["licences", "smollm2", "symptoms", "questions"]  # the longest first
    found = dict(zip(names, in_two(small, names), strict=True))
    chosen = {name: {"steps": n, "pace": pace} for name, (n, pace) in SMALL.items()}
    record = {"machine": machine(), "chosen": chosen}
    store(HERE / "small.json", record | found)


def record_runs() -> None:
    found = dict(zip(TASKS, in_two(run, TASKS), strict=True))
    record = {"machine": machine(), "steps": STEPS}
    for kind in KINDS:
        record[kind] = {d: more for (k, d), (_, more) in found.items() if k == kind}
    arrays = {}
    for scores, _ in found.values():
        arrays |= {n: np.asarray(x, x.dtype) for n, x in scores.items()}
    store(HERE / "scores.npz", arrays)
    store(HERE / "runs.json", record)


# What the opening figure shows

CONTENDERS = ["words", "embeddings", "zero", "few", "lora"]
SAMPLES = {"licences": 55, "symptoms": 64, "questions": 30}


def found_by(contender, domain):
    """The class, a number, that it gives to each held-out text."""
    known, kept = page.job(domain), np.load(HERE / "scores.npz")
    if contender in ("zero", "few", "lora"):
        scores = torch.from_numpy(kept[f"{domain}-{contender}"])
        return page.calibrated(scores).argmax(1)
    places = range(len(known.learn))
    if contender == "words":
        return linear_finds(known, places, *bags(known, places))
    x = torch.from_numpy(kept[f"{domain}-embeddings"]).float()
    return linear_finds(known, places, *x.tensor_split([len(places)]))


def figure_of(domain):
    known, at = page.job(domain), SAMPLES[domain]
    found = {c: found_by(c, domain) for c in CONTENDERS}
    truth = known.labels[known.test]
    said = {c: known.classes[each[at]] for c, each in found.items()}
    sample = known.texts[known.test[at]], known.classes[truth[at]], said
    texts = held_out_beginnings(domain)
    return {
        "classes": len(known.classes),
        "labels": len(known.learn),
        "words": bags(known, range(len(known.learn)))[0].size(1),
        "bytes": sum(len(text.encode()) for text in texts),
        "sample": sample,
        "right": {c: (each == truth).int().tolist() for c, each in found.items()},
    }


def record_figure() -> None:
    model = new_gpt(SIZES, modern_recipe(1), torch.Generator())
    record = {"small": round(count_parameters(model) / 1e6, 4)}
    store(HERE / "figure.json", record | {d: figure_of(d) for d in DOMAINS})


def remade() -> Iterator[tuple]:
    """What two contenders sort right, and bits of SmolLM2 for one text."""
    kept, again = read_json(HERE / "figure.json")["questions"], figure_of("questions")
    for name in "words", "embeddings", "zero":
        yield kept["right"][name], again["right"][name], 0
    kept = read_json(HERE / "small.json")["smollm2"]["bits"]["licences"][:1]
    text = held_out_beginnings("licences")[0]
    yield kept, [page.text_bits(load_smollm2(), smollm2_tokenizer(), text)], 0.5


if __name__ == "__main__":
    make_parts(record_runs, record_tried, record_small, record_figure)
