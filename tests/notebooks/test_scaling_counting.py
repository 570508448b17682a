"""The cells of scaling/counting against real modules, torch's counter and papers."""

import ast
import dataclasses
import functools
import math
from functools import partial

import cells
import pytest
import sources
import torch
from cells import refuses, refuses_all
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from fieldguide.deployment import compression
from fieldguide.efficiency import architectures, experts, lora, quantization
from fieldguide.multimodal import clip
from fieldguide.scaling import counting
from fieldguide.transformers import real_model
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
LLAMA = {"gated": True, "positions": False, "biases": False}
LLAMA |= {"norms": 2, "last_norm": 1}
BARE = {"positions": False, "biases": False, "norms": 2, "last_norm": 1}


@functools.cache
def page():
    return cells.run_exercises("scaling/counting")


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


def shape(*sizes, **options):
    return counting.Shape(*sizes, **options)


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
        assert trained == counting.training_flops(sizes, B * T, T)
    assert counting.token_flops(sizes) == counting.token_flops(sizes, sizes.context)
    once = counting.training_flops(sizes, 1)
    assert once == counting.training_flops(sizes, 1, sizes.context)
    assert counting.training_flops(sizes, 2.5e9) == 2.5e9 * once


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
    # torch's counter doesn't see the grouped products of mixture_fast
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experts, "mixture_fast", experts.mixture_sorted)
        assert counted(lambda: model(ids)) == 15 * each
        assert counted(lambda: model(ids).sum().backward()) == 3 * 15 * each


# Every architecture of the book


@functools.cache
def make():
    return cells.script("counts")


@functools.cache
def cases():
    """{name: (what it reads, model, run, our count)} of the table on the page."""
    return {name: rest for name, *rest in make().cases()}


def shown_forms():
    """What pages build in view, and wrappers of what the table counts."""
    tally, layers = counting.tally, make().layers
    ids, T, D, L = torch.zeros(1, 7, dtype=torch.long), 7, 12, 2
    induction, gpt_page = (
        cells.run_exercises(f"transformers/{name}") for name in ("induction", "gpt")
    )
    real = cells.run_exercises("transformers/real-model", real_model)
    tables = [(24, 48, 0), (24, 48, 0), (48, 24, T)]
    hand = tally([*tables, *8 * [(48, 48, T)]], 2 * 4 * T * T * 48, 24)
    yield induction.AttentionOnly(2), ids, hand
    sizes = shape(31, 13, D, 3, L)
    hand = total(sizes), T * counting.token_flops(sizes, T)
    yield gpt_page.PlainGPT(31, 13, D, 3, L), ids[0], hand
    config = LlamaConfig(29, 11, 24, 2, 6, 2, 40, 1e-5, 1e4)
    sizes = shape(29, 11, 24, 6, 2, kv_heads=2, hidden=40, **LLAMA)
    hand = total(sizes), T * counting.token_flops(sizes, T)
    yield real.PlainLlama(config), ids, hand
    x, K, hidden = torch.randn(1, T, D), 5, 20
    recall = cells.run_exercises("efficiency/architectures", architectures)
    for mix, flops in {
        architectures.linear_attention: 2 * T * T * (K + D),
        architectures.linear_recurrence: 2 * T * K * D,  # states: number by number
    }.items():
        yield recall.Mixer(D, K, mix), x, tally([*2 * [(D, K, T)], (D, D, T)], flops)
    S, W = recall.SYMBOLS, recall.SIZE
    into = [(W, K, T), (W, K, T), (W, W, T), (W, 1, T), (W, S, T)]
    hand = tally([*2 * [(S + 1, W, 0)], *into], 2 * T * T * (K + W), 1 + 2 * W + S)
    recaller = recall.Recaller(architectures.Selective, K)
    yield recaller, partial(recaller, ids, ids), hand
    mover = cells.run_exercises("multimodal/text-to-image").Mover(cells.generator())
    given = torch.zeros(3, 2).double(), torch.zeros(3).double()
    hand = tally([(20, 64, 3), *2 * [(64, 64, 3)], (64, 2, 3)], 0, 3 * 64 + 2)
    yield mover, partial(mover, *given, given[0]), hand
    palm = page().PalmBlock(D=D, H=3, K=4)
    matrices = [*2 * [(D, 12, T)], *2 * [(D, 4, T)], *3 * [(D, 4 * D, T)]]
    yield palm, x[0], tally(matrices, 4 * T * T * 12)
    plain = partial(nn.Linear, D, hidden)
    hand = tally([(D, hidden, T)], 0, hidden)
    low = quantization.LowBitLinear(plain(), quantization.quantize_ternary)
    yield low, x, hand
    yield architectures.round_products(plain(), torch.bfloat16), x, hand
    nf4 = quantization.NF4Linear(nn.Linear(64, hidden))  # it holds no parameters
    yield nf4, torch.zeros(T, 64), (0, 2 * T * 64 * hidden)
    stored = compression.StoredLinear(plain(), 8)
    yield stored, x, (hidden, hand[1])  # codes are no parameters
    zeros = plain()
    parametrize.register_parametrization(
        zeros, "weight", compression.Kept(zeros.weight)
    )
    yield zeros, x, hand
    fast = lora.LoRALinearFast(plain(), 4)
    yield fast, x, tally([(D, hidden, T), (D, 4, T), (4, hidden, T)], 0, hidden)
    block = gpt(31, 13, D, 3, L, bias=False).to_empty(device="cpu").blocks
    again = architectures.Forgetful(list(block))
    hand = tally(layers(L, D, 4 * D, T), L * 4 * T * T * D, L * 2 * D)
    yield again, partial(again, x, None), hand
    modern = GPT(GPTConfig(31, 13, D, 3, L, positions="rotary", bias=False))
    sizes = shape(31, 13, D, 3, L, **BARE)
    worked = T * counting.token_flops(sizes, T)
    straight = compression.StraightGPT(modern)
    yield straight, ids, (total(sizes), worked)
    subspace = lora.RandomSubspace(modern, 9)
    yield subspace, ids, (total(sizes) + 9, worked)


def modules_of(model):
    """Names of the classes in it, those that parametrize a weight included."""
    return {type(part).__name__ for part in model.modules()}


@functools.cache
def shown():
    return list(shown_forms())


def test_every_model_of_the_book_is_counted_as_torch_counts_it():
    for name, (_, model, run, by_hand) in cases().items():
        assert (count_parameters(model), make().flops(run)) == by_hand, name
    for model, given, by_hand in shown():
        run = given if callable(given) else partial(model, given)
        found = count_parameters(model), make().flops(run)
        assert found == by_hand, type(model).__name__


def test_the_stored_counts_are_those_of_today():
    """Else: python book/_tools/assets.py counts"""
    rows = cells.record("counts", "counts.json")["rows"]
    assert [row["model"] for row in rows] == list(cases())
    for row, (reads, _, _, (stored, worked)) in zip(
        rows, cases().values(), strict=True
    ):
        assert row["parameters"] == row["in the model"] == stored
        assert row["operations"] == row["by PyTorch"] == worked
        assert row["reads"] == reads


def test_what_torchs_counter_does_not_see():
    """A later torch may: then the page's sentence goes, and the plain forms."""
    _, _, run, (_, worked) = cases()["MiniLM"]
    assert counted(run) == worked - 6 * 4 * 6**2 * 384  # the scores
    _, mixture, _, (_, worked) = cases()["mixture of 8 experts"]
    router = 2 * 100 * 64 * 8
    found = counted(lambda: mixture(torch.ones(100, 64)))
    assert found == (router if experts.has_grouped() else worked)
    _, layer, _, (_, worked) = cases()["state-space layer"]
    x, T, D, K = torch.ones(1, 20, 64), 20, 64, 16
    found = counted(lambda: layer(x, architectures.gated_recurrence))
    assert found == worked - 2 * T * T * (K + D) + 2 * T * K * D  # it reads its state


def test_a_tally_adds_up_matrices_products_and_vectors():
    assert counting.tally([(2, 3, 5), (7, 11, 0)]) == (6 + 77, 2 * 6 * 5)
    assert counting.tally([(2, 3, 1)], 1000, 50) == (56, 1012)
    assert counting.tally([], products=4) == (0, 4)
    assert counting.tally((), vectors=4) == (4, 0)
    good = {"matrices": [(2, 3, 5)], "products": 1, "vectors": 1}
    refuses_all(counting.tally, good, matrices=[[3]], products=[-1], vectors=[-1])


NOT_CALLED = {"TwoEncoders"}  # the base of adapters; two of the table


def test_no_model_of_the_book_is_left_out():
    models = [model for _, model, *_ in cases().values()] + [m for m, *_ in shown()]
    known = set().union(*map(modules_of, models)) | NOT_CALLED
    found = {}
    for name, notebook in sources.in_order().items():
        for cell in sources.code(notebook):
            for node in ast.walk(ast.parse(cell.source)):
                bases = {ast.unparse(b) for b in getattr(node, "bases", ())}
                if isinstance(node, ast.ClassDef) and bases & {"nn.Module", *found}:
                    found[node.name] = name
    assert len(found) > 40 and set(found) > NOT_CALLED
    assert {n: page for n, page in found.items() if n not in known} == {}
    both = clip.TwoEncoders(["a cat", "a cat"])
    assert modules_of(both) - known == set()


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


def test_the_ledger_lists_each_matrix():
    sizes = shape(31, 13, 12, 3, 2, kv_heads=1, inner=6, gated=True, tied=False)
    assert counting.ledger(sizes) == [
        ("tokens", 31, 12, 2),
        ("positions", 13, 12, 1),
        ("attention", 12, 6, 2),
        ("attention", 12, 2, 4),
        ("attention", 6, 12, 2),
        ("MLP", 12, 48, 4),
        ("MLP", 48, 12, 2),
        ("vectors", 1, 12, 10),
        ("vectors", 1, 6 + 2 * 2 + 12 + 2 * 48 + 12, 2),
    ]
    assert counting.token_flops(sizes, 5) == 2 * (
        2 * (12 * 6 + 2 * 12 * 2 + 6 * 12 + 3 * 12 * 48) + 31 * 12
    ) + 4 * (2 * 5 * 6)
    defaults = shape(31, 13, 12, 3, 2)
    said = shape(31, 13, 12, 3, 2, kv_heads=3, inner=12, hidden=48)
    assert counting.ledger(defaults) == counting.ledger(said)


def test_published_sizes_give_the_published_totals():
    known = counting.published()
    assert {name: total(sizes) for name, sizes in known.items()} == TOTALS
    contexts = [512, 1024, 2048, 2048, 8192, 8192]
    assert [sizes.context for sizes in known.values()] == contexts
    heads = [(s.heads, s.kv_heads) for s in known.values()]
    assert heads[:3] == [(12, None), (12, None), (96, None)]
    assert heads[3:] == [(48, 1), (9, 3), (128, 8)]
    rule = 6 * TOTALS["GPT-3"] * 300e9
    assert math.isclose(rule, 3.14e23, rel_tol=2e-3)
    assert math.isclose(6 * 70e9 * 1.4e12, 5.76e23, rel_tol=0.03)
    exact = counting.training_flops(known["GPT-3"], 300e9)
    assert 1.02 < exact / rule < 1.03


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
    with torch.device("meta"):
        model = {
            "GPT-1": lambda: OpenAIGPTLMHeadModel(OpenAIGPTConfig()),
            "GPT-2 small": lambda: GPT2LMHeadModel(GPT2Config()),
            "GPT-2": lambda: GPT2LMHeadModel(
                GPT2Config(n_embd=1600, n_layer=48, n_head=25)
            ),
            "SmolLM2": load_smollm2,
            "Llama 3": lambda: LlamaForCausalLM(TheirLlama(**large)),
        }[name]()
    known = counting.published() | {"GPT-2": GPT_2}
    assert total(known[name]) == count_parameters(model)


GOOD = {"vocab": 31, "context": 13, "width": 12, "heads": 4, "layers": 2}
MORE = {"kv_heads": 2, "inner": 8, "hidden": 5}
BAD = {"heads": [5, 24], "kv_heads": [3, 8], "inner": [6]}


def test_a_shape_that_no_model_can_have_is_refused():
    named = ["heads", "kv_heads"]  # of LlamaConfig, which compares them
    refuses_all(counting.Shape, GOOD | MORE, inner_names=named, **BAD)
    for name in "norms", "last_norm":
        for value in (-1, 2.5, None):
            refuses(name, counting.Shape, **GOOD, **{name: value})
    for name in "gated", "positions", "biases", "tied":
        refuses(name, counting.Shape, **GOOD, **{name: 2})
    for sizes in (12, 5), (12, 7), (4, 8):
        width, heads = sizes
        says = f"a divisor of {width}"
        bad = GOOD | {"width": width, "heads": heads}
        refuses("heads", counting.Shape, **bad, shown=str(heads), says=says)
    with pytest.raises(dataclasses.FrozenInstanceError):
        shape(31, 13, 12, 3, 2).width = 24


def test_bad_input_is_refused_by_name():
    sizes = shape(31, 13, 12, 3, 2)
    for function in counting.ledger, counting.parameters:
        refuses_all(function, {"shape": sizes})
    refuses_all(counting.token_flops, {"shape": sizes, "context": 5})
    good = {"shape": sizes, "tokens": 7, "context": 5}
    refuses_all(counting.training_flops, good, tokens=[0, -1])
    for part in 0.5, 0.999:
        refuses("tokens", counting.training_flops, sizes, part, says="1 or more")
    assert counting.training_flops(sizes, 1.0) == counting.training_flops(sizes, 1)


# The page's own cells


def test_the_models_of_the_figure_keep_their_proportions():
    book = cells.run_exercises("scaling/counting")
    wide, palm = book.resized("PaLM", width=2), counting.published()["PaLM"]
    assert (wide.width, wide.inner) == (2 * palm.width, 2 * palm.inner)
    assert book.resized("GPT-3", layers=0.5).layers == 48
    for model in book.MODELS:
        counts = book.built.parameters(book.resized(model))
        assert sum(counts.values()) == (TOTALS | {"GPT-2": total(GPT_2)})[model]


def test_the_operations_of_the_parts_add_up():
    book = page()
    for model in book.MODELS:
        for size in book.DOUBLED[1:]:
            shape = book.resized(model, **{size: 2})
            assert sum(book.worked(shape).values()) == counting.token_flops(shape)
            assert list(book.worked(shape)) == book.PARTS


def test_the_palm_block_is_multi_query_attention_beside_an_mlp():
    torch.manual_seed(0)
    block = page().PalmBlock(D=12, H=3, K=4).double()
    x = cells.random(5, 12)
    q, k, v = (block.into[name](x) for name in ("query", "key", "value"))
    heads = nn.functional.scaled_dot_product_attention(
        q.view(5, 3, 4).transpose(0, 1), k[None], v[None], scale=1
    )
    mixed = block.output(heads.transpose(0, 1).flatten(1))
    hidden = nn.functional.silu(block.into["gate"](x)) * block.into["up"](x)
    cells.close(block(x), x + mixed + block.down(hidden))


# Exercises


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("modern_size", "V * D + L * D * (2 * H * K + 2 * G * K + 3 * F)", "output's"),
        ("modern_size", "2 * V * D + L * D * (2 * (H + G) * K + 2 * F)", "three"),
        ("modern_size", "2 * V * D + L * D * (4 * H * K + 3 * F)", "G heads"),
        ("modern_size", "2 * V * D + L * D * (2 * H * K + G * K + 3 * F)", "are two"),
        ("modern_size", "2 * V * D + L * D * (H * K + 2 * G * K + 3 * F)", "after the"),
        ("modern_size", "2 * V * D + L * D * (2 * D + 2 * G * K + 3 * F)", "H K wide"),
        ("modern_size", "2 * V * D + D * (2 * (H + G) * K + 3 * F)", "one layer"),
        ("modern_size", "L * D * (2 * (H + G) * K + 3 * F)", "two tables"),
        ("modern_size", "7", "is right, not 7"),
        ("modern_size", "None", "returns None"),
        ("training_days", "2 * N * t / (p * f * u) / 86400", "training six"),
        ("training_days", "6 * N * t / (p * f) / 86400", "the fraction"),
        ("training_days", "6 * N * t / (p * f) * u / 86400", "divide by"),
        ("training_days", "6 * N * t / (f * u) / 86400", "same time"),
        ("training_days", "6 * N * t / (p * f * u)", "seconds"),
        ("training_days", "6 * N * t / (p * f * u) / 3600", "hours"),
        ("training_days", "1.0", "days is right, not 1"),
        ("crossover", "12 * D", "two products"),
        ("crossover", "3 * D", "two operations"),
        ("crossover", "2 * D", "MLP's"),
        ("crossover", "4 * D", "attention's four"),
        ("crossover", "D", "is right, not 768"),
    ],
)
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    names = {"modern_size": "V, D, L, H, G, K, F", "training_days": "N, t, p, f, u"}
    cells.is_told_its_cause(page(), check, answer, cause, names.get(check, "D"))
