"""Several tokens in a pass: prompt lookup, a trained pair and an extra head.

**SmolLM2** copies a text with one change, greedily. The book's quickest form guesses by
prompt lookup and writes what it writes alone, and what transformers writes with
`prompt_lookup_num_tokens`.

**A pair** is a Llama of 4.8 million parameters that has read some King James, and one
of 70 thousand that guesses four characters for it. Both are trained when the bench
begins, for a few minutes, because the book ships no Llama as small. Four passages go on
by 96 characters each, greedily. *Alone* is the book's quickest form without guesses.
transformers' `assistant_model` has the same weights and makes as many guesses, so that
both make the same passes.

All these texts are easy. Copying is the best case of lookup, and small models that take
their best character repeat themselves. A real text allows far fewer tokens a pass.

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

from fieldguide.data import asset, smollm2_tokenizer
from fieldguide.deployment import speculative as spec
from fieldguide.transformers import training
from fieldguide.transformers.real_model import KVCache, complete, load_smollm2
from rivals.decode import agree, generator, small_llama, transformers_llama
from rivals.measure import Goal, Row, attempt, beside, each, processor_times, versioned

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
TARGET = (256, 6, 4, 688), 150, 8
DRAFT = (64, 1, 2, 256), 400, 16
WINDOW = 128  # characters
STARTS = 0, 20_000, 60_000, 90_000  # of the passages, in the held-out text
READ = 32  # characters of a passage
GUESSES = 4  # of the draft


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
    took = same_texts(sides, [ids])
    alone = len(sides["alone"](ids))
    yield from against_alone("SmolLM2, lookup", took, len(passes), alone)
    rival = f"{versioned('transformers')}, assisted by lookup"
    name, goal = ("SmolLM2, lookup", "guessing"), Goal(ASSISTED_GOAL)
    yield beside(took, *name, rival, "transformers", goal)


def same_texts(sides: dict, prompts: list[list[int]]) -> dict:
    """How long each side takes for all the texts, which must be those of "alone"."""
    expected = [sides["alone"](ids) for ids in prompts]

    def ready(side: Callable) -> Callable[[], list]:
        every = lambda: [side(ids) for ids in prompts]  # noqa: E731
        for found, text in zip(every(), expected, strict=True):
            agree(found, text)
        return every

    return processor_times(each(ready, sides), rounds=ROUNDS)


def against_alone(name: str, took: dict, passes: int, alone: int) -> Iterator[Row]:
    """Passes, and times, with guesses and without."""
    counts, goal = ([float(passes)], "alone", [float(alone)]), Goal(ALONE_GOAL)
    yield Row(f"{name}: passes", "passes", *counts, goal)
    yield beside(took, name, "guessing", "alone", "alone", goal)


def trained(sizes: tuple[int, ...], steps: int, batch: int, ids: torch.Tensor):
    """A Llama that has read some of a text, the same one every time."""
    model = small_llama(*sizes)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.normal_(0, 0.02)
    model.requires_grad_(True)
    draws = torch.Generator().manual_seed(0)

    def loss() -> torch.Tensor:
        inputs, targets = training.get_batch(ids, batch, WINDOW, draws)
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    recipe = training.modern_recipe(steps)
    training.descend(model, loss, training.optimizers(model, recipe), recipe)
    return model.requires_grad_(False)


def assisted(target, draft) -> Callable[[list[int]], list[int]]:
    """transformers' greedy generation, with an assistant."""
    assistant = transformers_llama(draft)
    config = assistant.generation_config
    config.num_assistant_tokens = GUESSES
    config.num_assistant_tokens_schedule = "constant"
    config.assistant_confidence_threshold = 0.0
    return generator(transformers_llama(target), TOKENS, assistant_model=assistant)


class CachedDraft:
    """A draft for `speculate`: a Llama's best tokens, with a cache."""

    def __init__(self, model, room: int) -> None:
        self.model, self.cache, self.read = model, KVCache(model.config, room), []

    @torch.inference_mode()
    def __call__(self, ids: list[int], length: int) -> tuple[list[int], None]:
        keep = spec.shared(self.read, ids[:-1])
        self.cache.length, guess = keep, []
        new = torch.tensor([ids[keep:]])
        while len(guess) < length:
            x = self.model.residual(new, self.cache)[:, -1]  # (1, D)
            new = self.model.logits(x).argmax(-1, keepdim=True)  # (1, 1)
            guess.append(new.item())
        self.read = [*ids, *guess[:-1]]  # the last one is not read
        return guess, None


def pair() -> Iterator[Row]:
    """A target with its draft, beside itself alone and beside transformers."""
    read, _ = king_james_ids()
    target, draft, prompts = trained(*TARGET, read), trained(*DRAFT, read), passages()
    quick, small, passes = spec.SeveralFast(target), spec.SeveralFast(draft), []

    def guessing(ids: list[int]) -> list[int]:
        room = len(ids) + TOKENS
        judge, guess = spec.CachedTarget(quick, room), CachedDraft(small, room)
        made, found = spec.speculate(judge, ids, TOKENS, guess, GUESSES)
        passes.append(len(found))
        return made

    sides = {"guessing": guessing, "alone": partial(complete, quick, count=TOKENS)}
    sides["assisted"] = attempt(assisted, target, draft)
    took = same_texts(sides, prompts)
    name, count = f"pair, 4.8 M, {GUESSES} guesses", sum(passes[: len(prompts)])
    yield from against_alone(name, took, count, TOKENS * len(prompts))
    rival, goal = f"{versioned('transformers')}, assisted", Goal(ASSISTED_GOAL)
    yield beside(took, name, "guessing", rival, "assisted", goal)


def head() -> Iterator[Row]:
    """The page's extra head on the King James GPT, greedily."""
    king = training.trained_gpt()
    part = spec.ExtraHead(king).requires_grad_(False)
    weights = load_file(asset("speculative", "drafts.safetensors"))
    own_weights = {k[5:]: w for k, w in weights.items() if k.startswith("head.")}
    part.load_state_dict(own_weights)
    target, passes = spec.PlainTarget(king), []
    guess = spec.head_draft(part, target, temperature=1e-3)

    def run(draft: Callable, passes: list, ids: list[int]) -> list[int]:
        made, found = spec.speculate(target, ids, TOKENS, draft, 1)
        passes.append(len(found))
        return made

    # its context has room for as many
    prompts = [ids[: king.config.context - TOKENS] for ids in passages()]
    sides = {"guessing": partial(run, guess, passes)}
    sides["alone"] = partial(run, lambda ids, n: ([], None), [])
    took, count = same_texts(sides, prompts), len(prompts)
    guessed = sum(passes[:count])
    name = "the page's head, 1 guess"
    yield from against_alone(name, took, guessed, TOKENS * count)


def passages() -> list[list[int]]:
    _, held_out = king_james_ids()
    return [held_out[start : start + READ].tolist() for start in STARTS]


def rows() -> Iterator[Row]:
    yield from lookup()
    yield from pair()
    yield from head()
