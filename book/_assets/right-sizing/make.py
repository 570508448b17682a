"""Let the contenders of deployment/right-sizing do their jobs, and record it.

.venv/bin/python book/_tools/assets.py right-sizing [runs] [tried] [small]
(half an hour)

Writes beside this file scores.npz: the log-probabilities that SmolLM2 gives to the
classes of the held-out texts, and features of the texts, in 16 bits, by MiniLM; and
runs.json: the losses of the adapters, the processor time of each contender, and how
many of 100 texts the linear layers sort right, by the labels that they learn from. Then
tried.json: how many bits a byte a small GPT needs for the beginnings of texts of a
fifth of the families to learn from, if it reads the others, by steps and pace. From
these we chose its steps and pace; the test had no say. And small.json: how many bits a
small GPT, trained on all families to learn from of one domain, and SmolLM2 need for the
beginnings of the held-out texts of each domain; and small.safetensors, in 16 bits, the
weights of the one trained on licences.
"""

import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from assets import machine, make_parts

from fieldguide.data import smollm2_tokenizer, store
from fieldguide.deployment import right_sizing as page
from fieldguide.multimodal.clip import MiniLM
from fieldguide.transformers.real_model import load_smollm2

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


def adapted(domain):
    model, steps = load_smollm2.__wrapped__(), STEPS
    losses, taught_s = timed(lambda: page.teach_job(model, domain, steps))
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


def right_from(known, places, learn, test):
    """Right of 100, having learnt from these of the texts to learn from."""
    labels = known.labels[[known.learn[i] for i in places]]
    found = page.fit_linear(learn, labels, len(known.classes))(test).argmax(1)
    return 100 * (found == known.labels[known.test]).double().mean().item()


def bags(known, places):
    """Words of the texts that are learnt from, and of the test."""
    learn = [known.texts[known.learn[i]] for i in places]
    words = sorted({w for each in learn for w in page.words_of(each)})
    test = [known.texts[p] for p in known.test]
    return page.bag_of_words(learn, words), page.bag_of_words(test, words)


def learnt(domain):
    """Right of 100 by number of labels: the mean over several draws."""
    known, found = page.job(domain), {"words": [], "embeddings": []}
    size = len(known.learn)
    features = torch.from_numpy(embedded(domain)[0][f"{domain}-embeddings"]).float()
    learn, test = features.tensor_split([size])
    for count in [*LABELS, size]:
        means = dict.fromkeys(found, 0.0)
        draws = DRAWS if count < size else 1
        for seed in range(draws):
            draw = torch.Generator().manual_seed(seed)
            places = torch.randperm(size, generator=draw)[:count].tolist()
            sides = {"words": bags(known, places)}
            sides["embeddings"] = learn[places], test
            for kind in found:
                means[kind] += right_from(known, places, *sides[kind]) / draws
        for kind, mean in means.items():
            found[kind].append(round(mean, 2))
    return {}, {"labels": [*LABELS, size], "right": found}


def counted(domain):
    known = page.job(domain)
    learn, test = ([known.texts[p] for p in s] for s in (known.learn, known.test))
    words = sorted({w for each in learn for w in page.words_of(each)})
    bags = page.bag_of_words(learn, words)
    layer = page.fit_linear(bags, known.labels[known.learn], len(known.classes))
    asked = test * 20  # enough to be timed
    _, s = timed(lambda: layer(page.bag_of_words(asked, words)))
    return {}, {"seconds": {"words": per_text(s, asked)}}


KINDS = {"adapted": adapted, "prompted": prompted}  # the longest first
KINDS |= {"learnt": learnt, "embedded": embedded, "counted": counted}
TASKS = [(kind, domain) for kind in KINDS for domain in reversed(DOMAINS)]


def run(task):
    kind, domain = task
    found = KINDS[kind](domain)
    print(kind, domain, found[1], flush=True)
    return found


def start():
    torch.set_num_threads(1)  # a second thread changes the last digits
    for domain in DOMAINS:
        page.job(domain)


def bits_of(model, tokenizer):
    """The bits that it needs for each text, by domain; seconds for a kilobyte."""
    texts = {domain: page.held_out_beginnings(domain) for domain in DOMAINS}
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
    model, taught = timed(lambda: page.small_gpt(name, *SMALL[name]))
    model = model.half().float()  # as its weights are stored
    if name == "licences":
        weights = {key: w.half() for key, w in model.state_dict().items()}
        store(HERE / "small.safetensors", weights)
    bits, reading = bits_of(model, page.small_tokenizer(name))
    print(name, round(taught, 1), reading, flush=True)
    return {"taught": round(taught, 1), "bits": bits, "reading": reading}


def parts_to_try(domain):
    """Places to read, and one of each family that is kept back."""
    known = {*page.job(domain).known}
    groups = [[p for p in group if p in known] for group in page.job(domain).groups]
    groups = [group for group in groups if group]
    draw = torch.Generator().manual_seed(1)
    read, kept = map(set, page.split_families(groups, 0.2, draw))
    return sorted(read), [group[0] for group in groups if group[0] in kept]


def try_small(task):
    """Bits a byte of beginnings that are kept back."""
    domain, steps, pace = task
    read, kept = parts_to_try(domain)
    model = page.small_gpt(domain, steps, pace, places=read)
    texts = [page.job(domain).whole[p][:400] for p in kept]
    tokenizer = page.small_tokenizer(domain)
    bits = sum(page.text_bits(model, tokenizer, text) for text in texts)
    return round(bits / sum(len(text.encode()) for text in texts), 4)


def record_tried() -> None:
    start()
    tasks = [(name, *each) for name in TRIED for each in TRIED[name]]
    with get_context("fork").Pool(2, torch.set_num_threads, (1,)) as pool:
        found = pool.map(try_small, tasks, chunksize=1)
    rows = [[*task, bits] for task, bits in zip(tasks, found, strict=True)]
    record = {"machine": machine()}
    store(HERE / "tried.json", record | {"rows": rows})


def record_small() -> None:
    start()
    names = ["licences", "smollm2", "symptoms", "questions"]  # the longest first
    with get_context("fork").Pool(2, torch.set_num_threads, (1,)) as pool:
        found = dict(zip(names, pool.map(small, names, chunksize=1), strict=True))
    record = {"machine": machine()}
    chosen = {name: {"steps": n, "pace": pace} for name, (n, pace) in SMALL.items()}
    store(HERE / "small.json", record | {"chosen": chosen} | found)


def record_runs() -> None:
    start()
    with get_context("fork").Pool(2, torch.set_num_threads, (1,)) as pool:
        keep(dict(zip(TASKS, pool.map(run, TASKS, chunksize=1), strict=True)))


def keep(found) -> None:
    """Write what the tasks have found."""
    record = {"machine": machine()}
    record["steps"] = STEPS
    for kind in KINDS:
        record[kind] = {d: more for (k, d), (_, more) in found.items() if k == kind}
    arrays = {}
    for scores, _ in found.values():
        arrays |= {n: np.asarray(x, x.dtype) for n, x in scores.items()}
    store(HERE / "scores.npz", arrays)
    store(HERE / "runs.json", record)


if __name__ == "__main__":
    make_parts(record_runs, record_tried, record_small)
