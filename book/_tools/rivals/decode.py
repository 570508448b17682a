"""One token after another: the reader's cached model beside transformers'.

The two small models are Llamas of nanoGPT's two sizes with random weights; the large
one is SmolLM2 from its file. Every side has the same weights and makes the same
number of tokens, greedily; a side that makes another text stops the bench.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from fieldguide.data import smollm2_tokenizer
from fieldguide.transformers import real_model
from rivals.measure import Goal, Row, attempt, beside, each, processor_times, versioned

TITLE = "Cached generation: processor time a token"
TOKENS = 128
ROUNDS = 7

# width, layers, heads, and inside SwiGLU, for about as many parameters as GPT-2's
# network has; the goal, of the time that transformers takes
SIZES = {
    "0.8 M": ((128, 4, 4, 352), 1 / 3),
    "10.7 M": ((384, 6, 6, 1024), 1 / 1.7),
}
VOCAB, CONTEXT = 65, 256
SMOLLM2_GOAL = 1 / 1.3
LIMIT_GOAL = 1 / 0.65  # 65 % of what the matrices alone would reach
PROMPT = "The most useful thing about a notebook is that"


def matrices(model: nn.Module) -> Callable[[], None]:
    """Every matrix of a model against one vector: what no decoder can undercut."""
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    weights.append(model.embedding.weight)
    pairs = [(weight, torch.randn(1, weight.size(1))) for weight in weights]

    @torch.inference_mode()
    def multiply() -> None:
        for _ in range(TOKENS):
            for weight, x in pairs:
                F.linear(x, weight)

    return multiply


def halves(weight: torch.Tensor, head_width: int) -> torch.Tensor:
    """Rows of a pair (2i, 2i + 1) of a head to (i, i + K / 2)."""
    pairs = weight.unflatten(0, (-1, head_width // 2, 2))
    return pairs.transpose(1, 2).flatten(0, 2)


def renamed(model) -> dict[str, torch.Tensor]:
    """The model's weights under transformers' names, heads in halves."""
    own_weights = model.state_dict()
    new = {name: own_weights[f"{mine}.weight"] for mine, name in ENDS.items()}
    for layer in range(model.config.layers):
        for mine, name in PARTS.items():
            weight = own_weights[f"blocks.{layer}.{mine}.weight"]
            if mine in ("attention.query", "attention.key"):
                weight = halves(weight, model.config.head_width)
            new[f"model.layers.{layer}.{name}.weight"] = weight
    return new | {"lm_head.weight": new["model.embed_tokens.weight"]}


# ours -> transformers'
ENDS = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight"}
PARTS = {  # of a layer
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def transformers_llama(model, **options) -> nn.Module:
    """The same weights in transformers' class; `options` are of its config."""
    import transformers

    config = model.config
    theirs = transformers.LlamaConfig(
        vocab_size=config.vocab,
        hidden_size=config.width,
        intermediate_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.context,
        rms_norm_eps=config.eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.base},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    twin = transformers.LlamaForCausalLM(theirs)
    twin.load_state_dict(renamed(model), assign=True)
    return twin.requires_grad_(False).eval()


def generator(
    model: nn.Module, tokens: int = TOKENS, **options
) -> Callable[[list[int]], list[int]]:
    """transformers' own greedy generation of so many tokens; `options` are of it."""
    fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    fixed |= options

    @torch.inference_mode()
    def run(ids: list[int]) -> list[int]:
        prompt = torch.tensor([ids])
        seen = torch.ones_like(prompt)
        made = model.generate(prompt, attention_mask=seen, use_cache=True, **fixed)
        return made[0, len(ids) :].tolist()

    return run


def small_llama(width: int, layers: int, heads: int, hidden: int):
    """A Llama of random weights, the same every time."""
    torch.manual_seed(0)
    sizes = VOCAB, CONTEXT, width, layers, heads, heads, hidden
    config = real_model.LlamaConfig(*sizes, eps=1e-6, base=10_000.0)
    return real_model.Llama(config).requires_grad_(False).eval()


def both_forms(name: str, model, ids: list[int], goal: Goal) -> Iterator[Row]:
    """Rows of a model's two forms beside transformers and its matrices."""
    fast = real_model.LlamaFast(model)
    sides = {
        "taught": partial(real_model.complete, model, count=TOKENS),
        "fast": partial(real_model.complete, fast, count=TOKENS),
        "transformers": attempt(lambda: generator(transformers_llama(model))),
    }
    expected = sides["taught"](ids)

    def ready(side: Callable) -> Callable:
        agree(side(ids), expected)
        return partial(side, ids)

    timed = {**each(ready, sides), "limit": matrices(model)}
    took = processor_times(timed, rounds=ROUNDS)
    took = each(lambda times: [ms / TOKENS for ms in times], took)
    row, package = partial(beside, took), versioned("transformers")
    fast = f"{name}, fast", "fast"
    yield row(f"{name}, taught", "taught", package, "transformers")
    yield row(*fast, package, "transformers", goal)
    yield row(*fast, "its matrices alone", "limit", Goal(LIMIT_GOAL))


def agree(found: list[int], expected: list[int]) -> None:
    if found != expected:
        raise RuntimeError(f"a side makes {found[:8]}, not {expected[:8]}")


def rows() -> Iterator[Row]:
    for name, (sizes, goal) in SIZES.items():
        model, ids = small_llama(*sizes), torch.randint(VOCAB, (16,)).tolist()
        yield from both_forms(name, model, ids, Goal(goal))
    model, ids = real_model.load_smollm2(), smollm2_tokenizer().encode(PROMPT)
    yield from both_forms("SmolLM2", model, ids, Goal(SMOLLM2_GOAL))
