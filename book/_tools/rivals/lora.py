"""LoRA: a training step, and one token, of the reader's adapters beside peft's.

The same GPT with the same adapters on all of its matrices, of the sizes of
`training`: the rival's are put into it by peft. Both sides must give the same logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from fieldguide.efficiency import lora
from rivals.measure import Goal, Row, attempt, beside, each, processor_times, versioned
from rivals.training import LARGE, SMALL, VOCAB, Size, gpt, stepper

TITLE = "LoRA: processor time of a training step, and of one token"
MATRICES = ["query", "key", "value", "output", "up", "down"]
RANK, ALPHA = 8, 16
STEP_GOAL, TOKEN_GOAL, MERGED_GOAL = 0.95, 0.80, 1.0


def ours(size: Size, kind: type) -> nn.Module:
    model = gpt(size)
    lora.add_lora(model, MATRICES, RANK, ALPHA, kind=kind)
    for name in lora.lora_state(model):
        if name.endswith("weight"):
            model.get_parameter(name).data.normal_(
                0, 0.02, generator=torch.Generator().manual_seed(len(name))
            )
    return model


def pefts(size: Size) -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    model = gpt(size)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MATRICES)
    inject_adapter_in_model(config, model)
    for name, weight in lora.lora_state(ours(size, lora.LoRALinear)).items():
        if name.endswith("weight"):
            path = name.replace(".weight", ".default.weight")
            model.get_parameter(path).data.copy_(weight)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model


def token(model: nn.Module) -> Callable[[], None]:
    """The logits after one token, without a graph."""
    ids = torch.zeros(1, 1, dtype=torch.int64)

    @torch.inference_mode()
    def forward() -> None:
        model(ids)

    return forward


def of_size(size: Size) -> Iterator[Row]:
    kinds = {"taught": lora.LoRALinear, "fast": lora.LoRALinearFast}
    models = {name: ours(size, kind) for name, kind in kinds.items()}
    models["peft"] = attempt(pefts, size)
    ids = torch.arange(size.context)[None] % VOCAB
    with torch.no_grad():
        found = each(lambda model: model(ids), models)
    near = partial(torch.testing.assert_close, expected=found["taught"])
    each(partial(near, atol=1e-3, rtol=0), found)
    for work, make, repeats, limit in (
        ("a step", partial(stepper, size), 5 if size is SMALL else 1, STEP_GOAL),
        ("a token", token, 50, TOKEN_GOAL),
    ):
        sides = each(make, models)
        took = processor_times(sides, rounds=size.rounds, repeats=repeats)
        for form, goal in ("taught", None), ("fast", Goal(limit)):
            what = f"{size.name}, {work}, {form}"
            yield beside(took, what, form, versioned("peft"), "peft", goal)
    lora.merge(models["fast"])
    both = {"merged": token(models["fast"]), "base": token(gpt(size))}
    took = processor_times(both, rounds=size.rounds, repeats=50)
    what, goal = f"{size.name}, a token, merged", Goal(MERGED_GOAL)
    yield beside(took, what, "merged", "its base", "base", goal)


def rows() -> Iterator[Row]:
    yield from of_size(SMALL)
    yield from of_size(LARGE)
