"""The cells of scaling/counting against real modules, torch's counter and papers."""

import cells
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fieldguide.efficiency import architectures
from fieldguide.scaling import counting
from fieldguide.transformers.gpt import GPT, GPTConfig, count_parameters
from fieldguide.transformers.real_model import Llama, LlamaConfig, load_smollm2

BARE = {"positions": False, "biases": False, "norms": 2, "last_norm": 1}
LLAMA = BARE | {"gated": True}


def total(shape):
    return sum(counting.parameters(shape).values())


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def gpt(V, T, D, H, L, **options):
    with torch.device("meta"):
        return GPT(GPTConfig(V, T, D, H, L, **options))


def llama(V, T, D, H, L, kv, hidden):
    with torch.device("meta"):
        return Llama(LlamaConfig(V, T, D, L, H, kv, hidden, 1e-5, 1e4))


shape = counting.Shape
PAIRS = {  # every dense architecture of the book, in sizes that differ from each other
    "a GPT": (lambda: gpt(31, 13, 12, 3, 2), lambda: shape(31, 13, 12, 3, 2)),
    "of one head": (lambda: gpt(7, 5, 6, 1, 3), lambda: shape(7, 5, 6, 1, 3)),
    "rotary, no biases": (
        lambda: gpt(31, 13, 12, 3, 2, positions="rotary", bias=False),
        lambda: shape(31, 13, 12, 3, 2, **BARE),
    ),
    "a Llama": (
        lambda: llama(29, 11, 24, 6, 2, 2, 40),
        lambda: shape(29, 11, 24, 6, 2, kv_heads=2, hidden=40, **LLAMA),
    ),
    "one key head": (
        lambda: llama(29, 11, 16, 4, 3, 1, 24),
        lambda: shape(29, 11, 16, 4, 3, kv_heads=1, hidden=24, **LLAMA),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_counts_are_the_modules_and_torchs_to_the_unit(name):
    model, sizes = (make() for make in PAIRS[name])
    assert total(sizes) == count_parameters(model)
    for B, T in (1, sizes.context), (3, 4), (2, 1):
        ids = torch.zeros(B, T, dtype=torch.long, device="meta")
        forward = counted(lambda i=ids: model(i))
        assert forward == B * T * counting.token_flops(sizes, T)
        trained = counted(lambda i=ids: model(i).sum().backward())
        assert trained == 3 * forward
    assert counting.token_flops(sizes) == counting.token_flops(sizes, sizes.context)


def test_what_torchs_counter_does_not_see():
    """A later torch may: then the page's sentence goes, and the plain forms."""
    cases = {name: rest for name, *rest in cells.script("counts").cases()}
    _, _, run, (_, worked) = cases["MiniLM"]
    assert counted(run) == worked - 6 * 4 * 6**2 * 384  # the scores
    _, mixture, _, (_, worked) = cases["mixture of 8 experts"]
    found = counted(lambda: mixture(torch.ones(100, 64)))
    assert found == (
        2 * 100 * 64 * 8 if hasattr(torch.nn.functional, "grouped_mm") else worked
    )
    _, layer, _, (_, worked) = cases["state-space layer"]
    x, T, D, K = torch.ones(1, 20, 64), 20, 64, 16
    found = counted(lambda: layer(x, architectures.gated_recurrence))
    assert found == worked - 2 * T * T * (K + D) + 2 * T * K * D  # it reads its state


def test_the_parts_are_those_of_the_module():
    model, sizes = (make() for make in PAIRS["a GPT"])
    counts = dict.fromkeys(["tokens", "positions", "attention", "MLP", "vectors"], 0)
    words = {"token": "tokens", "place": "positions", "mlp": "MLP"}
    for name, p in model.named_parameters():
        word = next((w for w in words if w in name), "attention")
        counts[words.get(word, word) if p.dim() == 2 else "vectors"] += p.numel()
    assert counting.parameters(sizes) == counts


def test_an_untied_shape_with_narrow_heads_by_hand():
    sizes = shape(31, 13, 12, 3, 2, kv_heads=1, inner=6, gated=True, tied=False)
    matrices = 2 * (12 * 6 + 2 * 12 * 2 + 6 * 12 + 3 * 12 * 48)
    vectors = 12 * 10 + 2 * (6 + 2 * 2 + 12 + 2 * 48 + 12)
    assert total(sizes) == matrices + (2 * 31 + 13) * 12 + vectors
    worked = 2 * (matrices + 31 * 12) + 4 * (2 * 5 * 6)
    assert counting.token_flops(sizes, 5) == worked


CONTEXTS = {"GPT-1": 512, "GPT-2 small": 1024, "SmolLM2": 8192, "Llama 3": 8192}


@pytest.mark.parametrize("name", CONTEXTS)
def test_published_sizes_are_those_of_the_libraries(name):
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaForCausalLM,
        OpenAIGPTConfig,
        OpenAIGPTLMHeadModel,
    )
    from transformers import LlamaConfig as TheirLlama

    large = {"vocab_size": 128_256, "hidden_size": 16_384, "intermediate_size": 53_248}
    large |= {"num_hidden_layers": 126, "num_attention_heads": 128}
    large |= {"num_key_value_heads": 8, "tie_word_embeddings": False}
    with torch.device("meta"):
        model = {
            "GPT-1": lambda: OpenAIGPTLMHeadModel(OpenAIGPTConfig()),
            "GPT-2 small": lambda: GPT2LMHeadModel(GPT2Config()),
            "SmolLM2": load_smollm2,
            "Llama 3": lambda: LlamaForCausalLM(TheirLlama(**large)),
        }[name]()
    found = counting.published()[name]
    assert (total(found), found.context) == (count_parameters(model), CONTEXTS[name])
