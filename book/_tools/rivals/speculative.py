"""Several tokens in a pass: prompt lookup beside plain decoding and transformers' own.

SmolLM2 copies a text with one change, greedily. The book's quickest form guesses by
prompt lookup and writes what it writes alone, and what transformers writes with
`prompt_lookup_num_tokens`; a side that makes another text stops the bench. Passes are
counted, too: that share is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from rivals.decode import transformers_llama
from rivals.measure import Absent, Goal, Row, attempt, own, processor_times, versioned

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


def transformers_assisted(model, stop: list[int]):
    """transformers' generation with its own prompt lookup."""
    theirs = transformers_llama(model)
    options = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": stop}

    @torch.inference_mode()
    def run(ids: list[int]) -> list[int]:
        prompt = torch.tensor([ids])
        seen = torch.ones_like(prompt)
        options["prompt_lookup_num_tokens"] = GUESSED
        made = theirs.generate(prompt, attention_mask=seen, **options)
        made = made[0, len(ids) :].tolist()
        return made[: made.index(stop[0])] if stop[0] in made else made

    return run


def rows() -> Iterator[Row]:
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
    expected = sides["alone"](ids)
    for name, side in sides.items():
        if not isinstance(side, Absent) and side(ids) != expected:
            raise AssertionError(f"{name} makes another text")
    runs = {
        name: side if isinstance(side, Absent) else partial(side, ids)
        for name, side in sides.items()
    }
    took = processor_times(runs, rounds=ROUNDS)
    mine, goal = own(took["guessing"]), Goal(ALONE_GOAL, "ratio")
    counted = [float(len(passes))], [float(len(expected))]
    yield Row("passes", "passes", counted[0], "without guessing", counted[1], goal)
    yield Row("an answer", "ms", mine, "without guessing", took["alone"], goal)
    rival, goal = versioned("transformers"), Goal(ASSISTED_GOAL, "ratio")
    rival = f"{rival}, assisted"
    yield Row("an answer", "ms", mine, rival, took["transformers"], goal)
