"""The cells of scaling/counting against real modules, torch's counter and papers."""

import cells
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fieldguide.efficiency import architectures, experts
from fieldguide.scaling import counting
from fieldguide.transformers.gpt import GPT, GPTConfig, count_parameters
from fieldguide.transformers.real_model import Llama, LlamaConfig, load_smollm2

TOTALS = {
    "GPT-1": 116_534_784,
    "GPT-2 small": 124_439_808,
    "GPT-3": 174_604_259_328,
    "PaLM": 540_354_281_472,
    "SmolLM2": 134_515_008,
    "Llama 3": 405_853_388_800,
}
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


@pytest.mark.parametrize("k", [1, 2])
def test_a_token_meets_the_experts_that_it_takes(k):
    D, L, E, hidden = 12, 2, 4, 20
    model = GPT(GPTConfig(31, 13, D, 3, L, bias=False))
    for block in model.blocks:
        block.mlp = experts.Mixture(D, experts.MixtureConfig(hidden, E, k))
    router, bare = L * D * E, BARE | {"positions": True}
    stored = shape(31, 13, D, 3, L, hidden=E * hidden, **bare)
    assert total(stored) + router == count_parameters(model)
    ids = torch.zeros(3, 5, dtype=torch.long)
    at_work = shape(31, 13, D, 3, L, hidden=k * hidden, **bare)
    each = counting.token_flops(at_work, 5) + 2 * router
    # torch's counter doesn't see the grouped products of grouped_fast
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experts, "grouped_fast", experts.grouped_loop)
        assert counted(lambda: model(ids)) == 15 * each
        assert counted(lambda: model(ids).sum().backward()) == 3 * 15 * each


def test_what_torchs_counter_does_not_see():
    """A later torch may: then the page's sentence goes, and the plain forms."""
    cases = {name: rest for name, *rest in cells.script("counts").cases()}
    _, _, run, (_, worked) = cases["MiniLM"]
    assert counted(run) == worked - 6 * 4 * 6**2 * 384  # the scores
    _, mixture, _, (_, worked) = cases["mixture of 8 experts"]
    found = counted(lambda: mixture(torch.ones(100, 64)))
    assert found == (2 * 100 * 64 * 8 if hasattr(F, "grouped_mm") else worked)
    _, layer, _, (_, worked) = cases["state-space layer"]
    x, T, D, K = torch.ones(1, 20, 64), 20, 64, 16
    found = counted(lambda: layer(x, architectures.gated_recurrence))
    assert found == worked - 2 * T * T * (K + D) + 2 * T * K * D  # it reads its state


def test_the_parts_are_those_of_the_module():
    model, sizes = (make() for make in PAIRS["a GPT"])
    counts, named = counting.parameters(sizes), dict(model.named_parameters())
    assert list(counts) == ["tokens", "positions", "attention", "MLP", "vectors"]
    matrix = {n: p.numel() for n, p in named.items() if p.dim() == 2}
    for part, word in {"attention": "attention", "MLP": "mlp"}.items():
        right = sum(size for n, size in matrix.items() if f".{word}." in n)
        assert counts[part] == right
    assert counts["tokens"] == matrix["token.weight"]
    assert counts["positions"] == matrix["place.weight"]
    assert counts["vectors"] == sum(p.numel() for p in named.values() if p.dim() == 1)


def test_an_untied_shape_with_narrow_heads_by_hand():
    sizes = shape(31, 13, 12, 3, 2, kv_heads=1, inner=6, gated=True, tied=False)
    matrices = 2 * (12 * 6 + 2 * 12 * 2 + 6 * 12 + 3 * 12 * 48)
    vectors = 12 * 10 + 2 * (6 + 2 * 2 + 12 + 2 * 48 + 12)
    assert total(sizes) == matrices + (2 * 31 + 13) * 12 + vectors
    worked = 2 * (matrices + 31 * 12) + 4 * (2 * 5 * 6)
    assert counting.token_flops(sizes, 5) == worked


def test_published_sizes_give_the_published_totals():
    known = counting.published()
    assert {name: total(sizes) for name, sizes in known.items()} == TOTALS
    contexts = [512, 1024, 2048, 2048, 8192, 8192]
    assert [sizes.context for sizes in known.values()] == contexts


GPT_2 = shape(50_257, 1024, 1600, 25, 48)


@pytest.mark.parametrize(
    "name", ["GPT-1", "GPT-2 small", "GPT-2", "SmolLM2", "Llama 3"]
)
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
    gpt_2 = {"n_embd": 1600, "n_layer": 48, "n_head": 25}
    with torch.device("meta"):
        model = {
            "GPT-1": lambda: OpenAIGPTLMHeadModel(OpenAIGPTConfig()),
            "GPT-2 small": lambda: GPT2LMHeadModel(GPT2Config()),
            "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(**gpt_2)),
            "SmolLM2": load_smollm2,
            "Llama 3": lambda: LlamaForCausalLM(TheirLlama(**large)),
        }[name]()
    known = counting.published() | {"GPT-2": GPT_2}
    assert total(known[name]) == count_parameters(model)


def test_the_palm_block_is_multi_query_attention_beside_an_mlp():
    torch.manual_seed(0)
    block = cells.run_exercises("scaling/counting").PalmBlock(D=12, H=3, K=4).double()
    x = cells.random(5, 12)
    q, k, v = (block.into[name](x) for name in ("query", "key", "value"))
    heads = nn.functional.scaled_dot_product_attention(
        q.view(5, 3, 4).transpose(0, 1), k[None], v[None], scale=1
    )
    mixed = block.output(heads.transpose(0, 1).flatten(1))
    hidden = nn.functional.silu(block.into["gate"](x)) * block.into["up"](x)
    cells.close(block(x), x + mixed + block.down(hidden))
