"""The exercises of transformers/in-context name mistakes; its labels are as it says."""

import functools

import notebooks
import pytest
import sources
import torch
from cells import fails, forever, generator, run_exercises

from fieldguide.transformers import in_context


@functools.cache
def exercises():
    return run_exercises("transformers/in-context", in_context)


def wrong_answers(book):
    """{exercise: [(what the check says, a wrong answer)]}."""
    prompt, most, parts = book.few_shot_prompt, book.majority, book.carried
    lead = lambda right: (2 * right - 1).cumsum(1)  # noqa: E731
    sizes = lambda v: v.norm(dim=-1)  # noqa: E731
    return {
        "few_shot_prompt": [
            ("to the next token", lambda e, w: prompt(e, w) + " "),
            ("no new line", lambda e, w: prompt(e, w) + "\n"),
            ("colon is missing", lambda e, w: prompt(e, w)[:-1]),
            ("with a space", lambda e, w: prompt(e, w)[1:]),
            ("with a space", lambda e, w: prompt(e, w).replace("\n ", "\n")[1:]),
            ("ends in a new line", lambda e, w: prompt(e, w).replace("\n", "")),
            ("without a label", lambda e, w: prompt(e, w + ": thing")),
            ("at the examples", lambda e, w: prompt(e[:1], w)),
            ("a string is wanted", lambda e, w: [prompt(e, w)]),
            ("Does your loop end", forever),
        ],
        "majority": [
            ("the pair itself", lambda right: (lead(right) > 0).long()),
            ("a draw is 0", lambda right: (lead(right) - 2 * right + 1 >= 0).long()),
            ("the rarer", lambda right: (lead(right) - 2 * right + 1 < 0).long()),
            ("for itself", lambda right: most(right.T.contiguous()).T),
            ("the label before", lambda right: right.roll(1, 1)),
            ("a tensor", lambda right: most(right).tolist()),
            ("is right, not", lambda right: 1 - right),
        ],
        "carried": [
            ("those are the weights", lambda w, v: w),
            ("divide by the sum", lambda w, v: w * sizes(v)),
            ("where are the weights", lambda w, v: parts(w * 0 + 1, v)),
            ("root of the sum", lambda w, v: parts(w * sizes(v), v)),
            ("a tensor", lambda w, v: parts(w, v).sum()),
            ("is right, not", lambda w, v: w * 0),
        ],
    }


@pytest.mark.parametrize("name", wrong_answers(exercises()))
def test_checks_name_the_likely_mistakes(name):
    check = exercises()[f"check_{name}"]
    for says, answer in wrong_answers(exercises())[name]:
        with pytest.raises(AssertionError, match=says):
            check(answer)
    fails(check)


def test_labels_are_dealt_as_the_kind_says():
    names, rng = {"torch": torch}, generator()
    path = sources.ROOT / "book" / "transformers" / "in-context.ipynb"
    exec(next(c.source for c in notebooks.read(path).cells if c.id == "deal"), names)
    which = torch.randint(2, (50, 12), generator=rng)
    shown, right = {}, {}
    for kind in "right", "swapped", "random":
        shown[kind], right[kind] = names["deal"](kind, which, rng)
    assert torch.equal(shown["right"], which) and torch.equal(right["right"], which)
    assert shown["swapped"].equal(1 - which) and right["swapped"].equal(1 - which)
    assert torch.equal(right["random"], which)
    assert 0.4 < (shown["random"] == which).double().mean() < 0.6
