"""LoRA: a training step, and one token, of the reader's adapters beside peft's.

The same GPT with the same adapters on all of its matrices, of the sizes of
`training`: the rival's are put into it by peft. Both sides must give the same logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from rivals.measure import (
    Absent,
    Goal,
    Row,
    attempt,
    own,
    processor_times,
    versioned,
)
from rivals.training import LARGE, SMALL, VOCAB, Size, config_of

TITLE = "LoRA: processor time of a training step, and of one token"
MATRICES = ["query", "key", "value", "output", "up", "down"]
RANK, ALPHA = 8, 16
STEP_GOAL, TOKEN_GOAL, MERGED_GOAL = 0.95, 0.80, 1.0


def base(size: Size) -> nn.Module:
    from fieldguide.transformers.attention import simple_attention_fast
    from fieldguide.transformers.gpt import GPT

    start = torch.Generator().manual_seed(0)
    return GPT(config_of(size), attend=simple_attention_fast, generator=start)


def ours(size: Size, kind: str) -> nn.Module:
    from fieldguide.efficiency import lora

    model = base(size)
    lora.add_lora(model, MATRICES, RANK, ALPHA, kind=getattr(lora, kind))
    for name in lora.lora_state(model):
        if name.endswith("weight"):
            model.get_parameter(name).data.normal_(
                0, 0.02, generator=torch.Generator().manual_seed(len(name))
            )
    return model


def pefts(size: Size) -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    from fieldguide.efficiency.lora import lora_state

    model = base(size)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MATRICES)
    inject_adapter_in_model(config, model)
    for name, weight in lora_state(ours(size, "LoRALinear")).items():
        if name.endswith("weight"):
            path = name.replace(".weight", ".default.weight")
            model.get_parameter(path).data.copy_(weight)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model


def stepper(size: Size, model: nn.Module) -> Callable[[], None]:
    """A step of training on random tokens: loss, gradients, AdamW."""
    learn = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learn, 0.0, fused=True)
    draw = torch.Generator().manual_seed(0)
    shape = (2, size.batch, size.context)
    inputs, targets = torch.randint(VOCAB, shape, generator=draw).unbind()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs).mT, targets).backward()
        optimizer.step()

    return step


def token(model: nn.Module) -> Callable[[], None]:
    """The logits after one token, without a graph."""
    ids = torch.zeros(1, 1, dtype=torch.int64)

    @torch.inference_mode()
    def forward() -> None:
        model(ids)

    return forward


def same(size: Size, models: dict[str, nn.Module | Absent]) -> None:
    ids = torch.arange(size.context)[None] % VOCAB
    with torch.no_grad():
        logits = [m(ids) for m in models.values() if not isinstance(m, Absent)]
    for other in logits[1:]:
        torch.testing.assert_close(logits[0], other, atol=1e-3, rtol=0)


def timed(make: Callable, models: dict, repeats: int, rounds: int) -> dict:
    sides = {n: m if isinstance(m, Absent) else make(m) for n, m in models.items()}
    return processor_times(sides, rounds=rounds, repeats=repeats)


def compared(size: Size) -> Iterator[Row]:
    from fieldguide.efficiency.lora import merge

    models = {"taught": ours(size, "LoRALinear"), "fast": ours(size, "LoRALinearFast")}
    models["peft"] = attempt(pefts, size)
    same(size, models)
    peft, repeats = versioned("peft"), 5 if size is SMALL else 1
    took = timed(partial(stepper, size), models, repeats, size.rounds)
    for form, goal in ("taught", None), ("fast", Goal(STEP_GOAL, "ratio")):
        what = f"{size.name}, a step, {form}"
        yield Row(what, "ms", own(took[form]), peft, took["peft"], goal)
    took = timed(token, models, 50, size.rounds)
    for form, goal in ("taught", None), ("fast", Goal(TOKEN_GOAL, "ratio")):
        what = f"{size.name}, a token, {form}"
        yield Row(what, "ms", own(took[form]), peft, took["peft"], goal)
    merge(models["fast"])
    both = {"merged": models["fast"], "base": base(size)}
    took = timed(token, both, 50, size.rounds)
    what, goal = f"{size.name}, a token, merged", Goal(MERGED_GOAL, "ratio")
    yield Row(what, "ms", own(took["merged"]), "its base", took["base"], goal)


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    yield from compared(SMALL)
    yield from compared(LARGE)
