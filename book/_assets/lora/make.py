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
import itertools
import random
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from assets import make_parts, read_json
from rivals.measure import own, processor_times
from safetensors.torch import load_file
from torch import nn

from fieldguide.data import king_james, smollm2_tokenizer, store
from fieldguide.efficiency import lora
from fieldguide.introduction.next_word import characters, split_text, to_ids, to_text
from fieldguide.transformers.gpt import generate
from fieldguide.transformers.real_model import LlamaFast, complete, load_smollm2
from fieldguide.transformers.training import held_out_loss, trained_gpt

HERE = Path(__file__).parent


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def median_ms(steps, rounds):
    """The median processor time of each of some functions, called in turns."""
    took = processor_times(steps, rounds=rounds)
    return {name: statistics.median(own(ms)) for name, ms in took.items()}


# The GPT


def backwards(text):
    return "\n".join(line[::-1] for line in text.split("\n"))


STEPS, PROMPT = 40, "\nJesus"
MATRICES = ["query", "key", "value", "output", "up", "down"]
TASKS = {"1611": lora.spelling_1611, "backwards": backwards}
RUNS = [  # what learns, of which size, and the rates to be tried
    ("full", [0], [0.001, 0.002, 0.004]),
    ("LoRA", [1, 4, 16], [0.01, 0.02]),
    ("LoRA, query and value", [4], [0.02]),
    ("QLoRA", [4], [0.01, 0.02]),
    ("subspace", [100, 1000, 10_000, 100_000], [0.003, 0.01]),
]
SAMPLED = [("full", 0, 0.002), ("LoRA", 4, 0.01)]


def texts(change):
    """The ids of the changed text to train on, and those held out."""
    text = king_james()
    return [to_ids(part, characters(text)) for part in split_text(change(text))]


def prepared(kind, size):
    """A fresh copy of the trained GPT, in which only that much learns."""
    model = copy.deepcopy(trained_gpt())
    if kind == "full":
        return model.requires_grad_(True)
    if kind == "subspace":
        return lora.RandomSubspace(model, size, generator=generator())
    if kind == "QLoRA":
        lora.replace_layers(model, MATRICES, lora.NF4Linear)
    targets = ["query", "value"] if kind == "LoRA, query and value" else MATRICES
    lora.add_lora(model, targets, size, 2 * size, generator=generator())
    return model


def learn(model, ids, steps, rate):
    """The model after a short run."""
    with contextlib.redirect_stdout(None):
        lora.fine_tune(model, ids, steps, rate, generator=generator())
    return model


def sample(model, prompt):
    alphabet, draw = characters(king_james()), generator(2)
    ids = to_ids(prompt, alphabet)
    return to_text(generate(model, ids, 240, temperature=0.7, generator=draw), alphabet)


def record_gpt() -> None:
    ids, _ = texts(str)
    kinds = {"full": 0, "LoRA": 4, "QLoRA": 4}
    steps = {k: partial(learn, prepared(k, n), ids, 1, 1e-4) for k, n in kinds.items()}
    times = {k: round(ms) for k, ms in median_ms(steps, 31).items()}
    record = {"steps": STEPS, "start": {}, "runs": []}
    record |= {"samples": {}, "ms_per_step": times}
    tried = [(k, n, r) for k, sizes, rates in RUNS for n in sizes for r in rates]
    for task, change in TASKS.items():
        ids, held_out = texts(change)
        record["start"][task] = round(held_out_loss(trained_gpt(), held_out), 4)
        said = record["samples"][task] = {"before": sample(trained_gpt(), PROMPT)}
        for kind, size, rate in tried:
            model = learn(prepared(kind, size), ids, STEPS, rate)
            run = {"task": task, "kind": kind, "size": size, "rate": rate}
            record["runs"].append(run)
            run["loss"] = round(held_out_loss(model, held_out), 4)
            if (kind, size, rate) in SAMPLED:
                said[kind] = sample(model, change(PROMPT))
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
SEEN = words(ITEMS, ", "), NAMES, CITIES
ITEMS = "dark chocolate, silver foil, apple juice, corn flour, pine nuts, soy milk"
NAMES = words("Vera Tom Sara Felix Judith Ben")
NEW = words(ITEMS, ", "), NAMES, words("Vienna Quito Perth Hanoi Zagreb Nairobi")
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
KEPT = """What is the capital of Italy?
Why do leaves fall in autumn?
What is two plus three?
Tell me a fact about whales.
What is a poem?
Who was Albert Einstein?
Name three fruits.
Is the sun a star?""".splitlines()
ASKED = """What is the capital of France?
Why is the sky blue?
What is four plus five?
What is a novel?
Who was Isaac Newton?
Name three colours.""".splitlines()
BATCHES, BATCH, ANSWER = 16, 4, 24  # steps, orders in one, tokens of an answer
RANK, ALPHA, TARGETS = 4, 8, ["query", "value"]


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
    forms = [FORMS[i % len(FORMS)] for i in range(8)]
    tests = [an_order(NEW, form, draw) for form in [*forms, *4 * [NEW_FORM]]]
    return batches, tests, [an_order(SEEN, form, draw) for form in forms]


def encode(text):
    return smollm2_tokenizer().encode(text)


def asked(text):
    """The ids of what a user says, as SmolLM2 is used to hear it."""
    return encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")


def tokens_of(orders):
    return [(asked(text), encode(f"{record}<|im_end|>")) for text, record in orders]


def answers(model, questions, count):
    """What a model says to each question, in `count` tokens at most."""
    model, stop = LlamaFast(model), encode("<|im_end|>")
    return [complete(model, asked(text), count, stop=stop) for text in questions]


def own_answers(model, questions):
    """What the model itself says to those questions, as pairs.

    An answer that is cut off at ANSWER tokens has no end, since the model gave none.
    """
    said, stop = answers(model, questions, ANSWER), encode("<|im_end|>")
    ended = [each if len(each) == ANSWER else each + stop for each in said]
    return [*zip(map(asked, questions), ended, strict=True)]


@torch.no_grad()
def nats(model, pairs):
    return round(lora.answer_loss(model, pairs).item(), 4)


def verses():
    """Six pieces of the King James Bible, each in two halves: (question, answer)."""
    text = king_james()
    starts = range(0, len(text), len(text) // 6)
    pieces = [encode(text[i : i + 600])[:121] for i in starts][:6]
    return [(piece[:1], piece[1:]) for piece in pieces]


def learner(kind):
    """A fresh SmolLM2: "full", "LoRA", "4 bits" or "LoRA, 4 bits"."""
    model = load_smollm2.__wrapped__()
    if kind == "full":
        return model.requires_grad_(True)
    if "4 bits" in kind:
        lora.replace_layers(model, [*MATRICES, "gate"], lora.NF4Linear)
    if "LoRA" in kind:
        lora.add_lora(model, TARGETS, RANK, ALPHA, generator=generator())
    return model


def plain(model):
    """The model with its adapters merged, as one that `LlamaFast` takes."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, lora.NF4Linear):
            matrix = nn.Linear(layer.in_features, layer.out_features, bias=False)
            matrix.weight.data = layer.weight
            model.set_submodule(name, matrix)
    lora.merge(model)
    for name, layer in lora.lora_layers(model).items():
        model.set_submodule(name, layer.original_layer)
    return model.requires_grad_(False)


def judged(model, tests, kept):
    """What a model, made plain by this, says and still knows."""
    found, model = {"test_nats": nats(model, tokens_of(tests))}, plain(model)
    decode, (orders, right) = smollm2_tokenizer().decode, zip(*tests, strict=True)
    said = map(decode, answers(model, orders, 40))
    small_talk = [*map(decode, answers(model, ASKED, ANSWER))]
    return found | {
        "right": [a == b for a, b in zip(said, right, strict=True)],
        "small_talk": small_talk,
        "records": sum("item:" in answer for answer in small_talk),
        "own_nats": nats(model, kept),
        "verse_nats": nats(model, verses()),
    }


def best_taught(kind, batches, rates, choosing):
    """Of the learners at those rates, the one that is best at other orders."""
    found = []
    for rate in rates:
        model = learner(kind)
        kept = lora.training_bytes(model, partial(lora.answer_loss, model, batches[0]))
        first = round(lora.learn_answers(model, batches, rate)[0], 5)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        more = {"rate": rate, "first": first, "trained": trained, "kept_bytes": kept}
        found.append((nats(model, choosing), model, more))
    return min(found, key=lambda each: each[0])[1:]


def record_smollm2() -> None:
    batches, tests, choosing = orders()
    lessons = list(map(tokens_of, batches))
    steps = {
        kind: partial(lora.learn_answers, learner(kind), lessons[:1], 1e-4)
        for kind in ("full", "LoRA", "LoRA, 4 bits")
    }
    times = {k: round(ms / 1e3, 2) for k, ms in median_ms(steps, 5).items()}
    record = {"tests": tests, "asked": ASKED, "batch": batches[0], "steps": BATCHES}
    record |= {"rank": RANK, "alpha": ALPHA, "targets": TARGETS}
    record |= {"seconds_per_step": times, "models": {}}
    base, models = load_smollm2(), record["models"]
    kept, replayed = own_answers(base, ASKED), own_answers(base, KEPT)
    turns = itertools.cycle(replayed)
    mixed = [[*lesson[1:], next(turns)] for lesson in lessons]
    models["before"] = judged(learner("none"), tests, kept)
    models["before, in 4 bits"] = judged(learner("4 bits"), tests, kept)
    for name, kind, shown, rates in (
        ("all weights", "full", lessons, [1e-4, 3e-4]),
        ("LoRA", "LoRA", lessons, [5e-3, 1e-2]),
        ("QLoRA", "LoRA, 4 bits", lessons, []),
        ("LoRA, with replay", "LoRA", mixed, []),
    ):
        tried = rates or [models["LoRA"]["rate"]]
        model, more = best_taught(kind, shown, tried, tokens_of(choosing))
        if name == "LoRA":
            half = {n: w.half() for n, w in lora.lora_state(model).items()}
            store(HERE / "adapter.safetensors", half)
            lora.load_lora(model, half)  # so that what is judged is what is stored
        models[name] = more | judged(model, tests, kept)
    store(HERE / "smollm2.json", record)


def remade() -> Iterator[tuple]:
    """The loss after a short run of the GPT, and of the stored adapter."""
    kind, size, rate = SAMPLED[1]
    run = {"task": "1611", "kind": kind, "size": size, "rate": rate}
    runs = read_json(HERE / "gpt.json")["runs"]
    kept = next(each["loss"] for each in runs if run.items() <= each.items())
    ids, held_out = texts(lora.spelling_1611)
    model = learn(prepared(kind, size), ids, STEPS, rate)
    yield kept, held_out_loss(model, held_out), 0.01
    kept = read_json(HERE / "smollm2.json")["models"]["LoRA"]["test_nats"]
    model = learner("LoRA")
    lora.load_lora(model, load_file(HERE / "adapter.safetensors"))
    yield kept, nats(model, tokens_of(orders()[1])), 0.01


if __name__ == "__main__":
    make_parts(record_gpt, record_smollm2)
