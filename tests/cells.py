"""What the tests of a notebook's cells share: draws, comparisons, the page itself."""

import ast
import functools
import json

import digest
import hypothesis
import notebooks
import sources
import torch
from assets import load as module_at
from hypothesis import strategies as st

from fieldguide import data
from fieldguide.data import files
from fieldguide.explore import explore
from fieldguide.transformers.real_model import Llama

KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
seeds = st.integers(0, 10_000)


def cases(*strategies, **named):
    """Call a test with 25 draws from hypothesis' strategies, the same each time."""
    same = {"deadline": None, "derandomize": True, "database": None}
    few = hypothesis.settings(max_examples=25, **same)
    return lambda test: few(hypothesis.given(*strategies, **named)(test))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def adamw(parameters, loss, plan, **options):
    """Train by hand with torch's AdamW, as a recipe says: the losses, (steps,)."""
    parameters, losses = list(parameters), []
    optimizer = torch.optim.AdamW(parameters, plan.rate, **options)
    for step in range(plan.steps):
        losses.append(loss())
        optimizer.zero_grad()
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimizer.param_groups[0]["lr"] = plan.rate * plan.lr_schedule(step)
        optimizer.step()
    return torch.stack(losses).detach()


@functools.cache
def llama(config, times=1):
    """An untrained Llama whose blocks' matrices are some `times` as large."""
    torch.manual_seed(0)
    model = Llama(config).requires_grad_(False).eval()
    for matrix in (p for p in model.blocks.parameters() if p.dim() == 2):
        matrix.mul_(times)
    return model


def script(folder):
    """The program that made what a folder of the book's assets holds."""
    return module_at(files.ASSETS / folder / "make.py")


def record(folder, name):
    """What a JSON file holds that the book ships."""
    return json.loads(data.asset(folder, name).read_text(encoding="utf-8"))


def kept(load):
    """The module that `load` gives: one and the same, not to be trained."""
    model = load()
    assert load() is model and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    return model


def explored(views, **given):
    """`explore` of a function without a caption, which is given one."""
    views.__doc__ = "Title.\n\nLook."
    return explore(views, **given)


class Names(dict):
    """What a notebook's cells define; a cell runs when a name of it is asked for."""

    def __init__(self, notebook, names):
        super().__init__()
        exec(sources.code(notebook)[0].source, self)  # the imports
        self.update(names)
        found = vars(self)["sources"] = {}
        code = [c for c in sources.code(notebook) if not sources.is_answer(c)]
        # The first definition of a name counts, unless another one is exported.
        for cell in [*reversed(code), *filter(sources.is_exported, code)]:
            for node in ast.parse(cell.source).body:
                imported = [a.asname or a.name for a in getattr(node, "names", ())]
                for name in [*digest.defined(node), *imported]:
                    found[name] = cell.source

    def __missing__(self, name):
        while name not in self:
            try:
                exec(vars(self)["sources"][name], self)
            except NameError as error:  # in a class, nobody asks for what is missing
                self[error.name]
        return self[name]

    def __getattr__(self, name):
        return self[name]


def run_exercises(name, module=None, **names):
    """The checks and solutions of notebook `name`, and whatever they need of it.

    They see what `module`, the exported part of the notebook, defines, and `names`.
    """
    notebook = notebooks.read(sources.ROOT / "book" / f"{name}.ipynb")
    names = {**(vars(module) if module else {}), "__name__": "exercises", **names}
    names = Names(notebook, names)
    code = {cell.id: cell.source for cell in sources.code(notebook)}
    solutions = [s for n, s in code.items() if n.startswith("solution-")]
    vars(names)["solutions"] = {n: s for s in solutions for n in sources.defined(s)}
    for name, source in code.items():
        if name.startswith(("check-", "solution-")):
            exec(source, names)
    return names
