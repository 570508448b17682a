"""The cells of transformers/in-context: labels are dealt as the kind says."""

import cells
import torch

from fieldguide.transformers import in_context


def test_labels_are_dealt_as_the_kind_says():
    deal = cells.run_exercises("transformers/in-context", in_context).deal
    which = torch.randint(2, (50, 12), generator=cells.generator())
    shown, right = {}, {}
    for kind in "right", "swapped", "random":
        shown[kind], right[kind] = deal(kind, which, cells.generator(1))
    assert torch.equal(shown["right"], which) and torch.equal(right["right"], which)
    assert shown["swapped"].equal(1 - which) and right["swapped"].equal(1 - which)
    assert torch.equal(right["random"], which)
    assert 0.4 < (shown["random"] == which).double().mean() < 0.6
