"""How far is a long cell? Shown to whoever waits for it, and never stored."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

import ipywidgets
from IPython.display import display


def watched(items: Sequence, what: str, patience: float = 0) -> Iterator:
    """The items one by one, in Jupyter with a bar that says how many of them are done.

    It is there from the first item that begins after `patience` seconds to the end.
    The Jupyter server tells its kernels the session's name. A notebook that is run
    without a person has none, so no bar is ever stored.
    """
    begun, bar = time.monotonic(), None
    waits = "JPY_SESSION_NAME" in os.environ
    for done, item in enumerate(items):
        if waits and bar is None and time.monotonic() - begun >= patience:
            bar = ipywidgets.IntProgress(max=len(items), description=what)
            display(bar)
        if bar is not None:
            bar.value = done
        yield item
    if bar is not None:
        bar.close()
