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
            ("join only puts", lambda e, w: prompt(e, w).replace("\n cup", " cup")),
            ("a space follows", lambda e, w: prompt(e, w).replace(": ", ":")),
            ("you swapped", lambda e, w: prompt([p[::-1] for p in e], w)),
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
            ("turn each 0 into", lambda right: right.cumsum(1) - right > 0),
            ("own too", lambda right: right.cumsum(1) > 0),
            ("the whole prompt", lambda r: r.double().mean(1)[:, None] + 0 * r > 0.5),
            ("a tensor", lambda right: most(right).tolist()),
            ("a whole number", lambda right: most(right) + 0.9),
            ("a whole number", lambda right: most(right) * 1j),
            ("is right, not", lambda right: 1 - right),
        ],
        "carried": [
            ("those are the weights", lambda w, v: w),
            ("divide by the sum", lambda w, v: w * sizes(v)),
            ("where are the weights", lambda w, v: parts(w * 0 + 1, v)),
            ("root of the sum", lambda w, v: parts(w * sizes(v), v)),
            ("a softmax", lambda w, v: (w * sizes(v)).softmax(0)),
            ("can cancel", lambda w, v: w * v.sum(-1) / (w * v.sum(-1)).sum()),
            ("absolute", lambda w, v: parts(w, v.abs().sum(-1, keepdim=True))),
            ("the shape", lambda w, v: parts(w, v).sum()),
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


def test_checks_take_right_answers_of_other_types():
    book = exercises()
    most, parts = book.majority, book.carried
    for kind in torch.bool, torch.int32, torch.uint8:
        book.check_majority(lambda right, kind=kind: most(right).to(kind))
    book.check_carried(lambda w, v: parts(w.double(), v.double()))
