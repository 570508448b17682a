"""What a stored explorer holds: fields over the grid, quantized and packed.

A field is one array (or list) for each setting of the controls it depends on,
in row-major order. Numbers become 8- or 16-bit steps between the least and the
greatest value, or floats; everything is compressed by zlib and written as base64.
The first lines of browser/1-values.js describe the format.
"""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fieldguide.explore.page import slim

DRAWINGS = Path(__file__).parent / "drawings"
VERSION = 2
CHUNK_BYTES = 1 << 17
TYPES = {8: np.uint8, 16: np.dtype("<u2"), 32: np.dtype("<f4"), 64: np.dtype("<f8")}
NAMES = {8: "u8", 16: "u16", 32: "f32", 64: "f64"}


def varying(items: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Shorten to 1 each leading axis of `items`, one a name, that changes nothing.

    Returns the shortened array and the names that remain.
    """
    kept = []
    for axis, name in enumerate(names):
        first = items.take([0], axis)
        if all(_equal(items.take([i], axis), first) for i in range(items.shape[axis])):
            items = first
        else:
            kept.append(name)
    return items, kept


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype == object:
        return a.tolist() == b.tolist()
    return np.array_equal(a, b)


class Packer:
    """Collects fields; `fields` goes into the spec, `chunks` beside it."""

    def __init__(self):
        self.fields: dict[str, dict] = {}
        self.chunks: list[bytes] = []

    def numbers(
        self,
        key: str,
        items: np.ndarray,
        names: list[str],
        bits: int,
        *,
        rows: int = 1,
        log: bool = False,
    ):
        """Add a number field: `items` (*grid, *shape), one grid axis a name.

        Each of `rows` equal parts of an item has steps of its own. On a `log`
        axis a step would be too coarse for what is small: floats are kept there.
        Floats are of 32 bits where these hold the values, else of 64.
        """
        shape = list(items.shape[len(names) :])
        bits = max(bits, 32) if log else bits
        bits = 64 if bits == 32 and not _fits_32(items) else bits
        spec = {"type": NAMES[bits], "shape": shape}
        spec |= {"low": float(items.min()), "high": float(items.max())}
        spec |= {"log": True} if log else {}
        if bits <= 16:
            items, scales = _steps(items, len(names), rows, (1 << bits) - 1)
            spec |= {"scales": scales}
        items, by = varying(items.astype(TYPES[bits]), names)
        items = items.reshape(-1, int(np.prod(shape, dtype=int)))
        self._add(key, {"by": by, **spec}, items)

    def values(self, key: str, items: np.ndarray, names: list[str]):
        """Add a field of JSON values: `items` an object array over the grid."""
        items, by = varying(items, names)
        flat = items.ravel().tolist()
        spec = {"by": by, "type": "json", "per": len(flat), "chunk": len(self.chunks)}
        self.fields[key] = spec
        plain = json.dumps(flat, ensure_ascii=False, separators=(",", ":"))
        self.chunks.append(zlib.compress(plain.encode(), 9))

    def _add(self, key: str, spec: dict, items: np.ndarray):
        per = max(1, CHUNK_BYTES // max(1, items.itemsize * items.shape[1]))
        self.fields[key] = {**spec, "per": per, "chunk": len(self.chunks)}
        for start in range(0, len(items), per):
            raw = items[start : start + per].tobytes()
            self.chunks.append(zlib.compress(raw, 9))


def _fits_32(items: np.ndarray) -> bool:
    """Do 32-bit floats hold whole numbers as they are, others to seven digits?"""
    size = np.abs(items[items != 0])
    return bool(((size > 2.0**-126) & (size < 2**24)).all())


def _steps(items: np.ndarray, grid: int, rows: int, levels: int):
    """`items` as whole steps, and each row's scale: [its least value, its step].

    A row of whole numbers that are at most `levels` apart is exact.
    """
    parts = items.reshape(*items.shape[:grid], rows, -1)
    others = (*range(grid), grid + 1)
    low, high = parts.min(others, keepdims=True), parts.max(others, keepdims=True)
    whole = np.all(parts % 1 == 0, axis=others, keepdims=True)
    step = np.where(whole & (high - low <= levels), 1.0, (high - low) / levels)
    parts = np.round((parts - low) / np.where(step > 0, step, 1.0))
    scales = np.stack([low.ravel(), step.ravel()], axis=1)
    return parts.reshape(items.shape), scales.tolist()


def unpack(fields: dict, chunks: list[bytes]) -> dict:
    """Every field in full: {key: array (settings, *shape) or list}."""
    starts = [*sorted(spec["chunk"] for spec in fields.values()), len(chunks)]
    result = {}
    for key, spec in fields.items():
        end = starts[starts.index(spec["chunk"]) + 1]
        raw = b"".join(zlib.decompress(c) for c in chunks[spec["chunk"] : end])
        if spec["type"] == "json":
            result[key] = json.loads(raw)
            continue
        bits = next(b for b, name in NAMES.items() if name == spec["type"])
        items = np.frombuffer(raw, TYPES[bits]).astype(np.float64)
        items = items.reshape(-1, *spec["shape"])
        if "scales" in spec:
            low, step = _scales(spec)
            items = low + step * items
        result[key] = items
    return result


def _scales(spec: dict) -> np.ndarray:
    """The least values and the steps of a field, to go with one of its items."""
    scales = np.array(spec["scales"]).T
    one = scales.shape[1] == 1
    shape = [] if one else [scales.shape[1], *[1] * (len(spec["shape"]) - 1)]
    return scales.reshape(2, *shape)


def script(kind: str, body: str, attributes: str = "") -> str:
    """A `<script>` that holds data; `</` and `<!--` cannot end it early."""
    body = body.replace("<", "\\u003c") if "json" in kind else body
    return f'<script type="{kind}"{attributes}>{body}</script>'


def drawing(kind: str, source: str) -> str:
    """The source of a kind of view, for the runtime to take in."""
    return script("text/plain", source.rstrip(), f' data-fg-drawing="{kind}"')


# The bootstrap: hand the figure to the runtime, or queue it until that comes.
WAKE = (
    "<script>(self.fgQueue = self.fgQueue || [])"
    ".push(document.currentScript.parentNode)</script>"
)


def drawings(kinds: Iterable[str]) -> dict[str, str]:
    """The sources of those kinds of views that the runtime's core doesn't draw."""
    paths = {kind: DRAWINGS / f"{kind}.js" for kind in kinds}
    return {kind: slim(path) for kind, path in paths.items() if path.exists()}


def write(spec: dict, chunks: list[bytes], drawings: dict[str, str]) -> str:
    """The stored figure: caption, spec, its own drawings, chunks, bootstrap."""
    title, look = map(html.escape, (spec["title"], spec["look"]))
    packed = json.dumps(spec, ensure_ascii=False, separators=(",", ":"))
    parts = [
        f'<figure class="fg" data-fg-explore="{VERSION}" id="{spec["id"]}">',
        f"<figcaption><strong>{title}</strong> <span>{look}</span></figcaption>",
        script("application/json", packed, ' class="fg-spec"'),
    ]
    parts += [drawing(kind, source) for kind, source in drawings.items()]
    for index, chunk in enumerate(chunks):
        body = base64.b64encode(chunk).decode()
        parts.append(script("text/plain", body, f' data-fg-chunk="{index}"'))
    return "\n".join([*parts, WAKE, "</figure>"])


SPEC = re.compile(r'<script type="application/json" class="fg-spec">(.*?)</script>')
CHUNK = re.compile(r'<script type="text/plain" data-fg-chunk="\d+">(.*?)</script>')
DRAWING = re.compile(
    r'<script type="text/plain" data-fg-drawing="(.*?)">(.*?)</script>\n', re.S
)
STILL = re.compile(r'<img class="fg-still"[^>]*>\n')


def refreshed(figure: str) -> str:
    """The stored figure with today's sources of its own drawings."""
    return DRAWING.sub(
        lambda m: drawing(m[1], slim(DRAWINGS / f"{m[1]}.js")) + "\n", figure
    )


def read(figure: str) -> dict:
    """Decode one stored figure.

    Returns `spec` (without the quantization's own numbers), `fields`
    ({key: array or list}), `steps` ({key: quantization step, 0 where exact; an
    array where each row has its own}) and `rest`, the HTML with all of these, and
    drawing and a still picture, cut out.
    Raises ValueError when `figure` is not a stored explorer.
    """
    found = SPEC.search(figure)
    if not found:
        raise ValueError("figure is not a stored explorer: it has no spec")
    spec = json.loads(found[1])
    chunks = [base64.b64decode(body) for body in CHUNK.findall(figure)]
    fields = unpack(spec["fields"], chunks)
    own = "low", "high", "scales"
    steps, layout = {}, {}
    for key, field in spec["fields"].items():
        steps[key] = _scales(field)[1] if "scales" in field else np.zeros(())
        layout[key] = {k: v for k, v in field.items() if k not in own}
    rest = DRAWING.sub("", STILL.sub("", CHUNK.sub("", SPEC.sub("", figure))))
    spec = {**spec, "fields": layout}
    return {"spec": spec, "fields": fields, "steps": steps, "rest": rest}
