"""Several tokens in a pass: prompt lookup, a trained pair and an extra head.

**SmolLM2** copies a text with one change, greedily. The book's quickest form guesses by
prompt lookup and writes what it writes alone, and what transformers writes with
`prompt_lookup_num_tokens`.

**A pair** is a Llama that has read some King James, and a small one of 70 thousand
parameters that guesses for it. Both are trained when the bench begins, for a few
minutes, because the book ships no Llama as small. There are targets of two sizes: a
small model spends most of its time calling operations, where code can save; a larger
one multiplies. Four passages go on by 96 characters each, greedily. *Alone* is the
book's quickest form without guesses. Both sides guess with the same weights, and each
has its own best setting, found on the same passages before the rounds: the book a
number of guesses, transformers' `assistant_model` a number and a schedule, constant or
heuristic, with and without its threshold of confidence; the row names it. The last row
of a pair gives both sides four guesses, so that both make the same passes. Where
transformers gains little from guessing, the share says what calling costs, not what
guessing brings.

All these texts are easy. Copying is the best case of lookup, and small models that take
their best character repeat themselves: with 16 guesses 384 characters take 24 passes at
least, and hardly more here. A real text allows far fewer tokens a pass.

**The head** is the page's: an extra head on its King James GPT guesses one character a
pass. There is nothing like it in transformers for such a model.

A side that makes another text stops the bench. Passes are counted, too: that share is
the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from assets import king_james_ids
from safetensors.torch import load_file

from rivals.decode import agree, generator, transformers_llama
from rivals.measure import (
    Absent,
    Goal,
    Row,
    attempt,
    own,
    processor_times,
    versioned,
)

TITLE = "Speculative decoding: processor time of an answer"
TOKENS = 96
GUESSED = 10
ROUNDS = 5
ALONE_GOAL = 1 / 1.8  # of the time, and of the passes, without guessing
ASSISTED_GOAL = 1 / 3  # of the time of transformers' assisted generation

TEXT = """The little harbour town wakes before the sun does. Fishermen carry their nets
down to the boats, bakers open their shutters, and the smell of warm bread drifts along
the narrow streets. By seven o'clock the market is full of people who talk about the
weather, the price of fish and othr news from the city. In the afternoon the streets are
quiet again, and only the cats are awake.""".replace("\n", " ")
REQUEST = f"Correct the spelling mistakes in this text:\n{TEXT}"

# width, layers, heads, hidden width; steps of training and windows in a step
TARGETS = {
    "0.8 M": ((128, 4, 4, 352), 300, 16),
    "4.8 M": ((256, 6, 4, 688), 150, 8),
}
DRAFT = (64, 1, 2, 256), 400, 16
WINDOW = 128  # characters
STARTS = 0, 20_000, 60_000, 90_000  # of the passages, in the held-out text
READ = 32  # characters of a passage
LENGTHS = 3, 4, 5, 6, 8, 12, 16, 20
SAME = 4  # guesses on both sides, so that both make the same passes
SETTINGS = [  # transformers': tokens, schedule, threshold of confidence
    (number, schedule, threshold)
    for number in (3, 4, 5, 6, 8, 12, 16, 20)
    for schedule in ("constant", "heuristic")
    for threshold in (0.0, 0.4)  # 0.4 is what it comes with
]


def transformers_assisted(model, stop: list[int]):
    """transformers' generation with its own prompt lookup."""
    options = {"min_new_tokens": 0, "eos_token_id": stop}
    options["prompt_lookup_num_tokens"] = GUESSED
    write = generator(transformers_llama(model), TOKENS, **options)

    def run(ids: list[int]) -> list[int]:
        made = write(ids)
        return made[: made.index(stop[0])] if stop[0] in made else made

    return run


def lookup() -> Iterator[Row]:
    """SmolLM2, which guesses what followed before."""
    from fieldguide.data import smollm2_tokenizer
    from fieldguide.deployment import speculative as spec
    from fieldguide.transformers.real_model import complete, load_smollm2

    tokenizer, model = smollm2_tokenizer(), load_smollm2()
    ids, stop = spec.asked(tokenizer, REQUEST), tokenizer.encode("<|im_end|>")
    quick, passes = spec.SeveralFast(model), []

    def guessing(ids: list[int]) -> list[int]:
        target = spec.CachedTarget(quick, len(ids) + TOKENS)
        args = target, ids, TOKENS, spec.look_up, GUESSED
        made, passes[:] = spec.speculate(*args, stop=stop)
        return made

    sides = {"guessing": guessing}
    sides["alone"] = partial(complete, quick, count=TOKENS, stop=stop)
    sides["transformers"] = attempt(transformers_assisted, model, stop)
    runs = same_texts(sides, [ids])
    expected = sides["alone"](ids)
    took = processor_times(runs, rounds=ROUNDS)
    mine, goal = own(took["guessing"]), Goal(ALONE_GOAL, "ratio")
    counted = [float(len(passes))], [float(len(expected))]
    name = "SmolLM2, lookup"
    yield Row(f"{name}: passes", "passes", counted[0], "alone", counted[1], goal)
    yield Row(name, "ms", mine, "alone", took["alone"], goal)
    rival, goal = versioned("transformers"), Goal(ASSISTED_GOAL, "ratio")
    rival = f"{rival}, assisted by lookup"
    yield Row(name, "ms", mine, rival, took["transformers"], goal)


def same_texts(sides: dict, prompts: list[list[int]]) -> dict:
    """Each side ready to write all the texts, which must be those of "alone"."""
    expected = [sides["alone"](ids) for ids in prompts]
    for name, side in sides.items():
        if not isinstance(side, Absent):
            for ids, text in zip(prompts, expected, strict=True):
                agree(name, side(ids), text)
    return {
        name: side if isinstance(side, Absent) else partial(every, side, prompts)
        for name, side in sides.items()
    }


def every(side: Callable, prompts: list[list[int]]) -> list[list[int]]:
    return [side(ids) for ids in prompts]


def trained(sizes: tuple[int, ...], steps: int, batch: int, ids: torch.Tensor):
    """A Llama that has read some of a text, the same one every time."""
    from fieldguide.transformers.real_model import Llama, LlamaConfig
    from fieldguide.transformers.training import (
        descend,
        get_batch,
        modern_recipe,
        optimizers,
    )

    width, layers, heads, hidden = sizes
    config = {"vocab": 65, "context": 256, "width": width, "layers": layers}
    config |= {"heads": heads, "kv_heads": heads, "hidden": hidden}
    torch.manual_seed(0)
    model = Llama(LlamaConfig(**config, eps=1e-5, base=10_000.0))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.02)
    draws = torch.Generator().manual_seed(0)

    def loss() -> torch.Tensor:
        inputs, targets = get_batch(ids, batch, WINDOW, draws)
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    recipe = modern_recipe(steps)
    descend(model, loss, optimizers(model, recipe), recipe)
    return model.requires_grad_(False).eval()


def assisted(target, draft, setting: tuple | None) -> Callable[[list[int]], list[int]]:
    """transformers' greedy generation, with an assistant if there is a setting."""
    theirs, options = transformers_llama(target), {}
    if setting is not None:
        assistant = transformers_llama(draft)
        number, schedule, threshold = setting
        config = assistant.generation_config
        config.num_assistant_tokens = number
        config.num_assistant_tokens_schedule = schedule
        config.assistant_confidence_threshold = threshold
        options["assistant_model"] = assistant
    return generator(theirs, TOKENS, **options)


class CachedDraft:
    """A draft for `speculate`: a Llama's best tokens, with a cache."""

    def __init__(self, model, room: int) -> None:
        from fieldguide.transformers.real_model import KVCache

        self.model, self.cache, self.read = model, KVCache(model.config, room), []

    @torch.inference_mode()
    def __call__(self, ids: list[int], length: int) -> tuple[list[int], None]:
        pairs = enumerate(zip(self.read, ids[:-1], strict=False))
        parted = (n for n, (a, b) in pairs if a != b)
        keep = next(parted, min(len(self.read), len(ids) - 1))
        self.cache.length, guess = keep, []
        new = torch.tensor([ids[keep:]])
        while len(guess) < length:
            x = self.model.residual(new, self.cache)[:, -1]  # (1, D)
            new = self.model.logits(x).argmax(-1, keepdim=True)  # (1, 1)
            guess.append(new.item())
        self.read = [*ids, *guess[:-1]]  # the last one is not read
        return guess, None


def guessing(target, draft, length: int, passes: list) -> Callable:
    """The book's loop; `passes` gains each text's."""
    from fieldguide.deployment import speculative as spec

    def run(ids: list[int]) -> list[int]:
        room = len(ids) + TOKENS
        judge, guess = spec.CachedTarget(target, room), CachedDraft(draft, room)
        made, found = spec.speculate(judge, ids, TOKENS, guess, length)
        passes.append(found)
        return made

    return run


def quickest(sides: dict, prompts: list[list[int]]):
    """The key of the side that is quickest, by the least time of three."""
    there = {k: side for k, side in sides.items() if not isinstance(side, Absent)}
    if not there:
        return next(iter(sides))
    runs = {k: partial(every, side, prompts) for k, side in there.items()}
    took = processor_times(runs, rounds=3)
    return min(took, key=lambda k: min(own(took[k])))


def pair(size: str, target, draft, prompts: list[list[int]]) -> Iterator[Row]:
    """A target with its draft, beside itself alone and beside transformers."""
    from fieldguide.deployment import speculative as spec
    from fieldguide.transformers.real_model import complete

    quick, small = spec.SeveralFast(target), spec.SeveralFast(draft)
    passes = []
    lengths = {n: guessing(quick, small, n, []) for n in LENGTHS}
    length = quickest(lengths, prompts)
    settings = {s: attempt(assisted, target, draft, s) for s in SETTINGS}
    setting = quickest(settings, prompts)
    sides = {"alone": partial(complete, quick, count=TOKENS)}
    sides["guessing"] = guessing(quick, small, length, passes)
    sides["plain"] = attempt(assisted, target, draft, None)
    sides["assisted"] = settings[setting]
    sides["guessing the same"] = lengths[SAME]
    sides["assisted the same"] = settings[SAME, "constant", 0.0]
    runs = same_texts(sides, prompts)
    texts = passes[: len(prompts)]
    took = processor_times(runs, rounds=ROUNDS)
    mine, rival = own(took["guessing"]), versioned("transformers")
    name, number = f"{size}, {length} guesses", float(sum(map(len, texts)))
    alone, third = Goal(ALONE_GOAL, "ratio"), Goal(ASSISTED_GOAL, "ratio")
    every_token = [float(TOKENS * len(prompts))]
    yield Row(f"{name}: passes", "passes", [number], "alone", every_token, alone)
    yield Row(name, "ms", mine, "alone", took["alone"], alone)
    yield Row(name, "ms", mine, rival, took["plain"])
    tokens, schedule, threshold = setting
    words = f"{rival}, assisted ({tokens}, {schedule}, threshold {threshold})"
    yield Row(name, "ms", mine, words, took["assisted"], third)
    mine, theirs = own(took["guessing the same"]), took["assisted the same"]
    name, words = f"{size}, {SAME} guesses", f"{rival}, assisted, {SAME} guesses"
    yield Row(name, "ms", mine, words, theirs, third)


def head() -> Iterator[Row]:
    """The page's extra head on the King James GPT, greedily."""
    from fieldguide.data import asset
    from fieldguide.deployment import speculative as spec
    from fieldguide.transformers.training import trained_gpt

    king = trained_gpt()
    part = spec.ExtraHead(king).requires_grad_(False)
    weights = load_file(asset("speculative", "drafts.safetensors"))
    own_weights = {k[5:]: w for k, w in weights.items() if k.startswith("head.")}
    part.load_state_dict(own_weights)
    passes = []

    def run(guess: bool, ids: list[int]) -> list[int]:
        target = spec.PlainTarget(king)
        draft = lambda ids, n: ([], None)  # noqa: E731
        if guess:
            draft = spec.head_draft(part, target, temperature=1e-3)
        made, found = spec.speculate(target, ids, TOKENS, draft, 1)
        if guess:
            passes.append(found)
        return made

    # its context has room for as many
    prompts = [ids[: king.config.context - TOKENS] for ids in passages()]
    sides = {"alone": partial(run, False), "head": partial(run, True)}
    runs = same_texts(sides, prompts)
    number = [float(sum(map(len, passes[: len(prompts)])))]
    took, goal = processor_times(runs, rounds=ROUNDS), Goal(ALONE_GOAL, "ratio")
    alone = [float(TOKENS * len(prompts))]
    name = "the page's head, 1 guess"
    yield Row(f"{name}: passes", "passes", number, "alone", alone, goal)
    yield Row(name, "ms", own(took["head"]), "alone", took["alone"], goal)


def passages() -> list[list[int]]:
    _, held_out = king_james_ids()
    return [held_out[start : start + READ].tolist() for start in STARTS]


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    yield from lookup()
    ids, _ = king_james_ids()
    draft, prompts = trained(*DRAFT, ids), passages()
    for name, plan in TARGETS.items():
        yield from pair(f"pair, {name}", trained(*plan, ids), draft, prompts)
    yield from head()
