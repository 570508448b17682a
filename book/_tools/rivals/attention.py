"""The reader's multi-head attention beside torch's and other teachers'.

All hold the same weights and are checked to give the same output before they
are timed. The reference is the plainest use of torch's fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from fieldguide.transformers import attention
from rivals.measure import Goal, Row, attempt, beside, each, processor_times, versioned

B, T, D, H = 8, 256, 256, 8
TITLE = f"Multi-head attention, B {B}, T {T}, D {D}, H {H}: forward + backward"
ROUNDS, REPEATS = 15, 2


class Fused(nn.Module):
    """One projection in, `scaled_dot_product_attention`, one projection out."""

    def __init__(self, qkv: nn.Linear, out: nn.Linear):
        super().__init__()
        self.qkv, self.out = qkv, out

    def forward(self, x):
        q, k, v = self.qkv(x).view(B, T, 3, H, D // H).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(B, T, D))


def ours(qkv: nn.Linear, out: nn.Linear) -> dict[str, Callable]:
    forms = {
        "taught": attention.simple_attention,
        "fast": attention.simple_attention_fast,
    }
    mask = attention.causal_mask(T)
    sides = {}
    for name, attend in forms.items():
        module = attention.MultiHeadAttention(D, H, attend=attend)
        parts = module.query, module.key, module.value
        with torch.no_grad():
            for part, weight in zip(parts, qkv.weight.chunk(3), strict=True):
                part.weight.copy_(weight)
            module.output.weight.copy_(out.weight)
        sides[name] = lambda x, module=module: module(x, mask)[0]
    return sides


def torch_module(qkv: nn.Linear, out: nn.Linear) -> Callable:
    module = nn.MultiheadAttention(D, H, bias=False, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(T)
    with torch.no_grad():
        module.in_proj_weight.copy_(qkv.weight)
        module.out_proj.weight.copy_(out.weight)

    def forward(x):
        return module(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]

    return forward


def llms_from_scratch(qkv: nn.Linear, out: nn.Linear) -> Callable:
    from llms_from_scratch.ch03 import MultiHeadAttention

    module = MultiHeadAttention(D, D, T, dropout=0.0, num_heads=H)
    with torch.no_grad():
        parts = module.W_query, module.W_key, module.W_value
        for part, weight in zip(parts, qkv.weight.chunk(3), strict=True):
            part.weight.copy_(weight)
        module.out_proj.weight.copy_(out.weight)
        module.out_proj.bias.zero_()
    return module


def rows() -> Iterator[Row]:
    torch.manual_seed(0)
    qkv, out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
    x = torch.randn(B, T, D, requires_grad=True)
    sides = {
        **ours(qkv, out),
        "fused": Fused(qkv, out),
        "module": attempt(torch_module, qkv, out),
        "teacher": attempt(llms_from_scratch, qkv, out),
    }
    expected = sides["fused"](x)

    def step(forward: Callable) -> Callable[[], None]:
        torch.testing.assert_close(forward(x), expected)
        return lambda: forward(x).sum().backward()

    took = processor_times(each(step, sides), rounds=ROUNDS, repeats=REPEATS)
    row, package = partial(beside, took), versioned("torch")
    fused = f"fused kernel, {package}", "fused"
    yield row("as taught", "taught", *fused, Goal(1.5))
    yield row("fast form", "fast", *fused, Goal(1.05))
    yield row("as taught", "taught", f"nn.MultiheadAttention, {package}", "module")
    yield row("as taught", "taught", versioned("llms-from-scratch"), "teacher")
