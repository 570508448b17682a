"""Every head of a model in one explorer: beside bertviz and circuitsvis.

The model is GPT-2's size: 12 layers of 12 heads, here over 32 tokens. bertviz
takes its scripts from another host; here it gets them from this machine, or it
would be blank. circuitsvis has no control for the layer, so it shows all heads: its
bytes are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import setup
import torch
from ipywidgets import FloatLogSlider

from fieldguide.explore import Twin, explore, heatmap, number, runtime_html
from rivals.browser import chromium, compressed, loader, opened, stepper
from rivals.measure import Absent, Goal, Row, alternate, attempt, each, own, versioned
from rivals.slider import DRAWN

LAYERS, HEADS, T, K = 12, 12, 32, 64
TITLE = f"An attention explorer, {LAYERS} layers x {HEADS} heads x {T} tokens"
PIECES = [f"tok{i}" for i in range(T)]
ROUNDS, LOADS = 11, 5


def scores() -> torch.Tensor:
    """Causal q.k products (layers, heads, T, T); 0 where the future is."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, LAYERS, HEADS, T, K, generator=generator)
    return (query @ key.mT).tril()


def attention(products: torch.Tensor) -> torch.Tensor:
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
    return (products / K**0.5).masked_fill(hidden, -torch.inf).softmax(-1)


def ours(products: torch.Tensor) -> tuple[str, str]:
    """The page with the runtime, and the stored figure alone."""

    def data(layer, head):
        return {"scores": products[layer, head], "width": K, "pieces": PIECES}

    def every_head(layer, head, temperature, scaled, causal):
        """Attention weights of every head

        Look for heads that keep to one token.
        """
        weights = attention(products[layer, head])
        entropy = torch.special.entr(weights).sum(-1).mean()
        labels = {"rows": PIECES, "columns": PIECES, "low": 0, "high": 1}
        return {
            "Attention weights": heatmap(weights, **labels),
            "Mean entropy of a row": number(entropy, "nats"),
        }

    controls = {
        "layer": list(range(LAYERS)),
        "head": list(range(HEADS)),
        "temperature": FloatLogSlider(1, min=-1, max=1),
        "scaled": True,
        "causal": True,
    }
    twin = Twin("attention", by=("layer", "head"), data=data, bits=8)
    figure = explore(every_head, twin=twin, **controls).html()
    return f"<!doctype html>{runtime_html()}{figure}", figure


def bertviz(weights: torch.Tensor) -> str:
    from bertviz import head_view

    html = head_view(list(weights.unsqueeze(1)), PIECES, html_action="return").data
    modules = setup.WEB / "node_modules"
    places = {"d3": "d3/dist/d3.min", "jquery": "jquery/dist/jquery.min"}
    for name, file in places.items():
        address = (modules / file).as_uri()
        html = re.sub(rf"({name}['\"]?: *)'https?:[^']*'", rf"\1'{address}'", html)
    html = re.sub(r'<script src="https:[^>]*></script>', "", html)
    require = (modules / "requirejs/require.js").read_text()
    return f"<!doctype html><meta charset=utf-8><script>{require}</script>{html}"


def circuitsvis(weights: torch.Tensor) -> str:
    from circuitsvis.attention import attention_heads

    # local_src is the form for a machine without a network; asking for the
    # other would ask the network first.
    html = attention_heads(tokens=PIECES, attention=weights.flatten(0, 1)).local_src
    return f"<!doctype html><meta charset=utf-8>{html}"


NEXT = """const select = %s;
select.selectedIndex = (select.selectedIndex + 1) %% select.length;
select.dispatchEvent(new Event("input", { bubbles: true }));
select.dispatchEvent(new Event("change", { bubbles: true }));"""
# name: (live when this is true, changes the layer, what a change alters)
PAGES = {
    "ours": (
        "document.querySelector('[data-fg-ready]')",
        NEXT % "document.querySelector('[data-fg-control=layer] select')",
        DRAWN,
    ),
    "bertviz": (
        "document.querySelector('svg line, svg rect')",
        NEXT % "document.querySelector('select[id*=layer]')",
        "document.querySelector('svg g')",
    ),
}
COUNT_NODES = "document.body.getElementsByTagName('*').length"


def rows() -> Iterator[Row]:
    products = scores()
    weights = attention(products)
    whole, figure = ours(products)
    pages = {"ours": whole, "bertviz": attempt(bertviz, weights)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        browser = stack.enter_context(chromium())

        def touched(name: str) -> tuple:
            """What loads the page, its nodes, and what switches the layer."""
            path, (live, act, mark) = folder / f"{name}.html", PAGES[name]
            path.write_text(pages[name])
            page = stack.enter_context(opened(browser, path.as_uri()))
            page.wait_for_function(f"() => {live}", timeout=30_000)
            nodes = [page.evaluate(COUNT_NODES)]
            return loader(browser, path.as_uri(), live), nodes, stepper(page, act, mark)

        sides = {
            name: html if isinstance(html, Absent) else attempt(touched, name)
            for name, html in pages.items()
        }
        ready = alternate(each(lambda side: side[0], sides), rounds=LOADS)
        nodes = each(lambda side: side[1], sides)
        switched = alternate(each(lambda side: side[2], sides), rounds=ROUNDS, warm=2)

    stored, goal = [len(figure) / 1e3], Goal(110, "ours")
    yield Row("as stored, without runtime", "kB", stored, "", None, goal)
    rival = f"{versioned('bertviz')} head view, scripts at hand"
    other = f"{versioned('circuitsvis')} attention heads"
    pages["circuitsvis"] = attempt(circuitsvis, weights)
    for what, size in ("page", len), ("page, compressed", compressed):
        kB = each(lambda html, size=size: [size(html) / 1e3], pages)
        yield Row(what, "kB", kB["ours"], rival, kB["bertviz"])
        yield Row(what, "kB", kB["ours"], other, kB["circuitsvis"])
    for what, unit, took, limit in (
        ("ready", "ms", ready, 100),
        ("DOM nodes", "nodes", nodes, 100),
        ("layer switch", "ms", switched, 16),
    ):
        goal = Goal(limit, "ours")
        yield Row(what, unit, own(took["ours"]), rival, took["bertviz"], goal)
