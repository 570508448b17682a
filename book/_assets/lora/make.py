"""Fine-tune two models in several ways, and record what each learns and forgets.

.venv/bin/python book/_tools/assets.py lora [gpt] [smollm2] (half an hour of one core)

gpt      writes gpt.json: held-out losses of the trained GPT after short runs on two
         tasks, with all weights, with adapters, also over a base in four bits, and in
         random subspaces, at several rates.
smollm2  writes smollm2.json: what SmolLM2-135M-Instruct answers before and after it has
         seen some orders, with all weights, with adapters, with adapters over a base
         in four bits, and with replay; and adapter.safetensors, one of the adapters.
"""

import contextlib
import copy
import random
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from assets import make_parts, read_json
from safetensors.torch import load_file

from fieldguide.data import king_james, smollm2_tokenizer, store
from fieldguide.efficiency import lora
from fieldguide.introduction.next_word import characters, split_text, to_ids, to_text
from fieldguide.transformers.gpt import generate
from fieldguide.transformers.real_model import LlamaFast, complete, load_smollm2
from fieldguide.transformers.training import held_out_loss, trained_gpt

HERE = Path(__file__).parent


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def median_seconds(steps, rounds):
    """The median processor time of each of some functions, called in turns."""
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(each) for name, each in times.items()}


# The GPT

STEPS = 40
MATRICES = ["query", "key", "value", "output", "up", "down"]
TASKS = {"1611": lora.spelling_1611, "backwards": lora.backwards}
RATES = {  # to be tried, by what learns
    "full": [0.001, 0.002, 0.004],
    "LoRA": [0.01, 0.02],
    "LoRA, query and value": [0.02],
    "QLoRA": [0.01, 0.02],
    "subspace": [0.003, 0.01],
}
SIZES = {"full": [0], "LoRA": [1, 4, 16], "LoRA, query and value": [4], "QLoRA": [4]}
SIZES["subspace"] = [100, 1000, 10_000, 100_000]
TRIED = [(kind, n, rate) for kind in SIZES for n in SIZES[kind] for rate in RATES[kind]]
SAMPLED = [("full", 0, 0.002), ("LoRA", 4, 0.01)]
PROMPT, SAMPLE = "\nJesus", 240  # characters


def texts(change=str):
    """The alphabet, the training ids and the held-out ids of the text, changed."""
    text = king_james()
    alphabet = characters(text)
    parts = split_text(change(text))
    return alphabet, *(to_ids(part, alphabet) for part in parts)


def prepared(kind, size):
    """A fresh copy of the trained GPT, in which only that much learns."""
    model = copy.deepcopy(trained_gpt())
    if kind == "full":
        return model.requires_grad_(True)
    if kind == "subspace":
        return lora.RandomSubspace(model, size, generator=generator())
    if kind == "QLoRA":
        lora.quantize_base(model, MATRICES)
    targets = ["query", "value"] if kind == "LoRA, query and value" else MATRICES
    lora.add_lora(model, targets, size, 2 * size, generator=generator())
    return model


def short_run(kind, size, rate, ids, seed=0):
    """The losses of a short run, and the model."""
    model = prepared(kind, size)
    with contextlib.redirect_stdout(None):
        options = {"generator": generator(seed)}
        losses = lora.fine_tune(model, ids, STEPS, rate, **options)
    return losses, model


def sample(model, prompt, alphabet):
    options = {"temperature": 0.7, "generator": generator(2)}
    ids = to_ids(prompt, alphabet)
    return to_text(generate(model, ids, SAMPLE, **options), alphabet)


def gpt_times():
    """Milliseconds of processor time in a step of three ways to learn."""
    _, ids, _ = texts()

    def step(model):
        with contextlib.redirect_stdout(None):
            lora.fine_tune(model, ids, 1, 1e-4, generator=generator())

    learners = {"full": 0, "LoRA": 4, "QLoRA": 4}
    models = {kind: prepared(kind, size) for kind, size in learners.items()}
    steps = {kind: partial(step, model) for kind, model in models.items()}
    return {kind: round(1000 * t) for kind, t in median_seconds(steps, 31).items()}


def record_gpt() -> None:
    record = {"steps": STEPS, "start": {}, "runs": []}
    record |= {"samples": {}, "ms_per_step": gpt_times()}
    for task, change in TASKS.items():
        alphabet, ids, held_out = texts(change)
        start = held_out_loss(trained_gpt(), held_out)
        record["start"][task] = round(start, 4)
        prompt = change(PROMPT)
        said = record["samples"][task] = {}
        said["before"] = sample(trained_gpt(), PROMPT, alphabet)
        for kind, size, rate in TRIED:
            losses, model = short_run(kind, size, rate, ids)
            run = {"task": task, "kind": kind, "size": size, "rate": rate}
            run["first"] = [round(loss, 4) for loss in losses[:2].tolist()]
            run["loss"] = round(held_out_loss(model, held_out), 4)
            record["runs"].append(run)
            if (kind, size, rate) in SAMPLED:
                said[kind] = sample(model, prompt, alphabet)
    store(HERE / "gpt.json", record)


# SmolLM2: orders into records


def words(text, between=" "):
    return text.split(between)


COUNTS = words("two three four five six seven eight nine ten eleven twelve")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday")
UNITS = words("boxes bags jars crates rolls")
ITEMS = "green tea, brown rice, olive oil, blue paint, white paper, copper wire, "
ITEMS += "red beans, sea salt, plum jam, black pepper, dried figs, wool yarn"
NAMES = words("Ada Omar Lena Hugo Mira Ivan Rosa Paul Nina Karl Emma Luis")
CITIES = words("Turin Oslo Lyon Porto Delhi Lima Cairo Kyoto Boston Dakar")
SEEN = [words(ITEMS, ", "), NAMES, CITIES]
NEW_ITEMS = "dark chocolate, silver foil, apple juice, corn flour, pine nuts, soy milk"
NEW_NAMES = words("Vera Tom Sara Felix Judith Ben")
NEW_CITIES = words("Vienna Quito Perth Hanoi Zagreb Nairobi")
NEW = [words(NEW_ITEMS, ", "), NEW_NAMES, NEW_CITIES]
FORMS = [
    "Could you send {count} {unit} of {item} to {name} in {city} by {day}?",
    "{name} from {city} would like {count} {unit} of {item} on {day}.",
    "Please ship {count} {unit} of {item} to {city} before {day}, for {name}.",
    "We need {count} {unit} of {item} in {city} on {day}. Ask for {name}.",
    "By {day}, {count} {unit} of {item}, please. The name is {name}, in {city}.",
]
NEW_FORM = "Hello, this is {name}. My shop in {city} has run out of {item}: "
NEW_FORM += "{count} {unit} on {day} would help."
RECORD = "item: {item} | amount: {amount} {unit} | for: {name} | city: {city} | "
RECORD += "day: {day}"

# what everybody asks: to be kept in mind, and to see what is forgotten
KEPT = [
    "What is the capital of Italy?",
    "Why do leaves fall in autumn?",
    "What is two plus three?",
    "Tell me a fact about whales.",
    "What is a poem?",
    "Who was Albert Einstein?",
    "Name three fruits.",
    "Is the sun a star?",
]
ASKED = [
    "What is the capital of France?",
    "Why is the sky blue?",
    "What is four plus five?",
    "What is a novel?",
    "Who was Isaac Newton?",
    "Name three colours.",
]

BATCHES, BATCH, ANSWER = 16, 4, 24  # steps, orders in one, tokens of an answer
RANK, ALPHA, TARGETS = 4, 8, ["query", "value"]
SMOLLM2_MATRICES = ["query", "key", "value", "output", "gate", "up", "down"]
LORA_TRIED, FULL_TRIED = [5e-3, 1e-2], [1e-4, 3e-4]  # rates


def an_order(vocabulary, form, draw):
    """An order in words, and the record that it should become."""
    item, name, city = (draw.choice(kind) for kind in vocabulary)
    count, unit, day = (draw.choice(kind) for kind in (COUNTS, UNITS, DAYS))
    facts = {"item": item, "name": name, "city": city, "unit": unit, "day": day}
    order = form.format(count=count, **facts)
    return order, RECORD.format(amount=COUNTS.index(count) + 2, **facts)


def orders():
    """Batches to learn from, tests (new words in known forms, and a new form), and
    more orders of the known words and forms, to choose a rate by.
    """
    draw = random.Random(0)
    batches = [
        [an_order(SEEN, draw.choice(FORMS), draw) for _ in range(BATCH)]
        for _ in range(BATCHES)
    ]
    tests = [an_order(NEW, FORMS[i % len(FORMS)], draw) for i in range(8)]
    tests += [an_order(NEW, NEW_FORM, draw) for _ in range(4)]
    choosing = [an_order(SEEN, FORMS[i % len(FORMS)], draw) for i in range(8)]
    return batches, tests, choosing


def question(text):
    """The ids of what a user says, as SmolLM2 is used to hear it."""
    asked = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return smollm2_tokenizer().encode(asked)


def pair(asked, answer):
    return question(asked), smollm2_tokenizer().encode(f"{answer}<|im_end|>")


def answers(model, asked, count):
    """What a model says to each question, in `count` tokens at most."""
    fast, tokenizer = LlamaFast(model), smollm2_tokenizer()
    stop = tokenizer.encode("<|im_end|>")
    return [
        tokenizer.decode(complete(fast, question(text), count, stop=stop))
        for text in asked
    ]


@torch.no_grad()
def nats(model, pairs):
    return round(lora.answer_loss(model, pairs).item(), 4)


def verses():
    """Six pieces of the King James Bible, each in two halves: (question, answer)."""
    text = king_james()
    starts = range(0, len(text), len(text) // 6)
    encode = smollm2_tokenizer().encode
    pieces = [encode(text[i : i + 600])[:121] for i in starts][:6]
    return [(piece[:1], piece[1:]) for piece in pieces]


def learner(kind):
    """A fresh SmolLM2: "full", "LoRA", "4 bits" or "LoRA, 4 bits"."""
    model = load_smollm2.__wrapped__()
    if kind == "full":
        return model.requires_grad_(True)
    if "4 bits" in kind:
        lora.quantize_base(model, SMOLLM2_MATRICES)
    if "LoRA" in kind:
        lora.add_lora(model, TARGETS, RANK, ALPHA, generator=generator())
    return model


def plain(model):
    """The model with its adapters merged, as one that `LlamaFast` takes."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, lora.NF4Linear):
            shape = layer.in_features, layer.out_features
            linear = torch.nn.Linear(*shape, bias=False)
            linear.weight.data = layer.weight.clone()
            lora.replace_layer(model, name, linear)
    lora.merge(model)
    return lora.remove_lora(model).requires_grad_(False)


def judged(model, tests, kept):
    """What a plain model says and still knows."""
    asked, right = zip(*tests, strict=True)
    said, small_talk = answers(model, asked, 40), answers(model, ASKED, ANSWER)
    return {
        "said": said,
        "right": [a == b for a, b in zip(said, right, strict=True)],
        "small_talk": small_talk,
        "records": sum("item:" in answer for answer in small_talk),
        "own_nats": nats(model, kept),
        "verse_nats": nats(model, verses()),
    }


def smollm2_times(batches):
    """Seconds of processor time in a step of three ways to learn."""
    learners = {kind: learner(kind) for kind in ("full", "LoRA", "LoRA, 4 bits")}
    steps = {
        kind: partial(lora.learn_answers, model, batches[:1], 1e-4)
        for kind, model in learners.items()
    }
    return {kind: round(t, 2) for kind, t in median_seconds(steps, 5).items()}


def taught(kind, batches, rate):
    """A learner of that kind after one step on each batch, and what that took."""
    model = learner(kind)
    kept = lora.training_bytes(model, lambda: lora.answer_loss(model, batches[0]))
    losses = lora.learn_answers(model, batches, rate)
    first = [round(loss, 5) for loss in losses[:2]]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    more = {"rate": rate, "first": first, "trained": trained, "kept_bytes": kept}
    return model, more


def best_taught(kind, batches, rates, choosing):
    """Of the learners at those rates, the one that is best at other orders."""
    found = []
    for rate in rates:
        model, more = taught(kind, batches, rate)
        found.append((nats(model, choosing), model, more))
    tried = {str(more["rate"]): end for end, _, more in found}
    _, model, more = min(found, key=lambda each: each[0])
    return model, {**more, "tried": tried}


def own_answers(model, asked):
    """What the model itself says to those questions, as pairs.

    An answer that is cut off at ANSWER tokens has no end, since the model gave none.
    """
    fast, stop = LlamaFast(model), smollm2_tokenizer().encode("<|im_end|>")
    pairs = []
    for asks in map(question, asked):
        said = complete(fast, asks, ANSWER, stop=stop)
        pairs.append((asks, said if len(said) == ANSWER else said + stop))
    return pairs


def record_smollm2() -> None:
    batches, tests, choosing = orders()
    record = {"tests": tests, "asked": ASKED, "batch": batches[0]}
    record |= {"steps": BATCHES, "rank": RANK, "alpha": ALPHA, "targets": TARGETS}
    lessons = [[pair(*order) for order in batch] for batch in batches]
    record |= {"seconds_per_step": smollm2_times(lessons), "models": {}}
    test_pairs = [pair(*each) for each in tests]
    other_pairs = [pair(*each) for each in choosing]
    base = load_smollm2()
    kept, replayed = own_answers(base, ASKED), own_answers(base, KEPT)
    mixed = [
        [*lesson[1:], replayed[i % len(replayed)]] for i, lesson in enumerate(lessons)
    ]

    def keep(name, model, more):
        found = {**more, "test_nats": nats(model, test_pairs)}
        record["models"][name] = found | judged(plain(model), tests, kept)
        store(HERE / "smollm2.json", record)

    keep("before", learner("none"), {})
    keep("before, in 4 bits", learner("4 bits"), {})
    for name, kind, shown, rates in (
        ("all weights", "full", lessons, FULL_TRIED),
        ("LoRA", "LoRA", lessons, LORA_TRIED),
        ("QLoRA", "LoRA, 4 bits", lessons, []),
        ("LoRA, with replay", "LoRA", mixed, []),
    ):
        tried = rates or [record["models"]["LoRA"]["rate"]]
        model, more = best_taught(kind, shown, tried, other_pairs)
        if name == "LoRA":
            half = {n: w.half() for n, w in lora.lora_state(model).items()}
            store(HERE / "adapter.safetensors", half)
            lora.load_lora(model, half)  # so that what is judged is what is stored
        keep(name, model, more)


def remade() -> Iterator[tuple]:
    """The loss after a short run of the GPT, and of the stored adapter."""
    kind, size, rate = SAMPLED[1]
    run = {"task": "1611", "kind": kind, "size": size, "rate": rate}
    runs = read_json(HERE / "gpt.json")["runs"]
    kept = next(each["loss"] for each in runs if run.items() <= each.items())
    _, ids, held_out = texts(lora.spelling_1611)
    yield kept, held_out_loss(short_run(kind, size, rate, ids)[1], held_out), 0.01
    kept = read_json(HERE / "smollm2.json")["models"]["LoRA"]["test_nats"]
    model = learner("LoRA")
    lora.load_lora(model, load_file(HERE / "adapter.safetensors"))
    yield kept, nats(model, [pair(*each) for each in orders()[1]]), 0.01


if __name__ == "__main__":
    make_parts(record_gpt, record_smollm2)
