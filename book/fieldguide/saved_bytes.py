"""How many bytes does autograd keep for the backward pass?"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["SavedBytes"]


class SavedBytes(saved_tensors_hooks):
    """Counts what autograd keeps for the backward pass, in a `with` block.

    now, most: bytes kept at present and at the peak. Memory that several operations
    keep counts once, that of the tensors in `free` not at all (parameters and inputs,
    which are there anyway). What was kept is let go by the backward pass, or with the
    result that it hangs on.
    """

    def __init__(self, free: Iterable[Tensor] = ()) -> None:
        self.now = self.most = 0
        self._uses = {x.untyped_storage().data_ptr(): 1 for x in free}
        super().__init__(lambda x: _Kept(x.detach(), self), lambda kept: kept.tensor)

    def __enter__(self) -> SavedBytes:
        super().__enter__()
        return self

    def _change(self, storage: torch.UntypedStorage, by: int) -> None:
        place = storage.data_ptr()
        before = self._uses.get(place, 0)
        self._uses[place] = before + by
        self.now += storage.nbytes() * ((before + by > 0) - (before > 0))
        self.most = max(self.most, self.now)


class _Kept:
    """A tensor that tells a `SavedBytes` when it is kept and let go.

    It is detached: a result that is kept would hold itself through its own graph.
    """

    def __init__(self, tensor: Tensor, counter: SavedBytes) -> None:
        self.tensor, self._counter = tensor, counter
        counter._change(tensor.untyped_storage(), 1)

    def __del__(self) -> None:
        self._counter._change(self.tensor.untyped_storage(), -1)
