"""Does the count of what autograd keeps hold?"""

import torch
from torch import nn

from fieldguide.saved_bytes import SavedBytes


def test_saved_bytes_counts_memory_once_and_lets_go():
    x = torch.ones(10, requires_grad=True)
    with SavedBytes() as kept:
        y = x * 2  # keeps nothing but a number
        z = y.exp()  # keeps its output
        w = z * z.view(2, 5).flatten()  # keeps the same memory twice more
        assert kept.now == kept.most == 40
        w = w * y  # keeps w and y
    assert kept.now == kept.most == 120
    w.sum().backward()
    assert (kept.now, kept.most) == (0, 120)


def test_saved_bytes_of_layers():
    x = torch.randn(5, 3, requires_grad=True)
    layer, part = nn.Linear(3, 4), nn.Linear(3, 4, bias=False)
    part.weight = nn.Parameter(torch.randn(5, 3)[1:])  # a part of a larger store

    def kept(module, forward):
        with SavedBytes(module.parameters()) as kept:
            forward()  # what hangs on its result goes with it
        assert kept.now == 0
        return kept.most

    # a product keeps its input; of the weight, only a view; exp keeps its result
    assert kept(layer, lambda: layer(x)) == kept(part, lambda: part(x)) == 4 * 15
    assert kept(layer, lambda: layer(x).exp()) == 4 * (15 + 20)
    layer.requires_grad_(False)
    assert kept(layer, lambda: layer(x)) == 0
