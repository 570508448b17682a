"""The GGUF format, as llama.cpp defined it: github.com/ggml-org/ggml, docs/gguf.md."""

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fieldguide.check import require
from fieldguide.data.files import DataError

# A tensor is a run of blocks. These take them, uint8 (N, bytes of a block), and
# give their weights, float32 (N, weights of a block).


def f32(blocks):
    return blocks.view("<f4").astype(np.float32)


def f16(blocks):
    return np.ascontiguousarray(blocks).view("<f2").astype(np.float32)


def q4_1(blocks):  # scale, minimum, 16 bytes: the low halves, then the high ones
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return nibbles.astype(np.float32) * f16(blocks[:, :2]) + f16(blocks[:, 2:4])


def q8_0(blocks):  # scale, 32 signed bytes
    return blocks[:, 2:].view(np.int8).astype(np.float32) * f16(blocks[:, :2])


# ggml's number for it: (name, weights of a block, bytes of a block, function)
KINDS = {
    0: ("F32", 1, 4, f32),
    1: ("F16", 1, 2, f16),
    3: ("Q4_1", 32, 20, q4_1),
    8: ("Q8_0", 32, 34, q8_0),
}
SCALARS = dict(enumerate(["B", "b", "<H", "<h", "<I", "<i", "<f", "?"]))
SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


class Entry(NamedTuple):
    """Where a tensor lies in the file, and how."""

    shape: tuple[int, ...]  # in torch's order: (out, in) for a matrix
    kind: str  # "Q4_1"; "type 12" for one that is not read here
    start: int  # its first byte
    blocks: int
    block_bytes: int
    dequantize: Callable[[np.ndarray], np.ndarray] | None


class Gguf:
    """A GGUF file, version 2 or 3: its metadata, and its tensors on demand.

    metadata  dict: "llama.block_count" -> 30, ...
    entries   dict: a tensor's name -> Entry, in the file's order

    Raises DataError, which ends in `remedy`, if the file is not a GGUF file, is cut
    short or contradicts itself.
    """

    def __init__(self, path: str | Path, remedy: str = "Fetch the file anew."):
        self.path, self.remedy, self._at = Path(path), remedy, 0
        try:
            self._bytes = np.memmap(self.path, np.uint8, "r")
            self._read()
        except (OSError, ValueError, OverflowError, struct.error) as error:
            raise self.error(f"cannot be read at byte {self._at} ({error})") from None

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor `name`, dequantized to float32: a new copy at each call."""
        blocks, entry = self.raw(name), self.entries[name]
        return torch.from_numpy(entry.dequantize(blocks).reshape(entry.shape))

    def raw(self, name: str) -> np.ndarray:
        """The stored blocks of `name`: read-only uint8 (blocks, bytes of a block)."""
        require(name in self.entries, "name", name, f"a tensor of {self.path}")
        _, kind, start, blocks, size, dequantize = self.entries[name]
        if dequantize is None:
            known = ", ".join(kind[0] for kind in KINDS.values())
            raise self.error(f"stores {name} as {kind}; what is read: {known}")
        return self._bytes[start : start + blocks * size].reshape(blocks, size)

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.path} {problem}. {self.remedy}")

    def _read(self) -> None:
        if bytes(self._take(4)) != b"GGUF":
            raise self.error("is not a GGUF file: it does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            raise self.error(f"has GGUF version {version}; what is read: 2 and 3")
        tensors, pairs = self._number("<Q"), self._number("<Q")
        self.metadata = {}
        for _ in range(pairs):
            key = self._string()
            self.metadata[key] = self._value(self._number("<I"))
        places = {}
        for _ in range(tensors):
            name = self._string()
            shape = [self._number("<Q") for _ in range(self._number("<I"))]
            places[name] = shape[::-1], self._number("<I"), self._number("<Q")
        align = self.metadata.get("general.alignment", 32)
        if not isinstance(align, int) or align < 1:
            raise self.error(f"has general.alignment = {align!r}")
        data = -(-self._at // align) * align
        self.entries = {
            name: self._entry(name, tuple(shape), kind, data + offset)
            for name, (shape, kind, offset) in places.items()
        }

    def _entry(self, name: str, shape: tuple, kind: int, start: int) -> Entry:
        if kind not in KINDS:
            return Entry(shape, f"type {kind}", start, 0, 0, None)
        title, weights, size, dequantize = KINDS[kind]
        if math.prod(shape[-1:]) % weights:
            raise self.error(f"has {name} of shape {shape} in {title}")
        blocks = math.prod(shape) // weights
        if start + blocks * size > len(self._bytes):
            raise self.error(f"is cut short: {name} is not all there")
        return Entry(shape, title, start, blocks, size, dequantize)

    def _take(self, count: int) -> np.ndarray:
        piece = self._bytes[self._at : self._at + count]
        if len(piece) < count:
            raise self.error(f"is cut short: it ends at byte {len(self._bytes)}")
        self._at += count
        return piece

    def _number(self, layout: str) -> int | float | bool:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _string(self) -> str:
        return bytes(self._take(self._number("<Q"))).decode()

    def _value(self, kind: int) -> object:
        if kind == STRING:
            return self._string()
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind != ARRAY:
            raise self.error(f"has metadata of type {kind} at byte {self._at}")
        kind, count = self._number("<I"), self._number("<Q")
        if kind == STRING:
            return [self._string() for _ in range(count)]
        if kind not in SCALARS:
            raise self.error(f"has a list of type {kind} at byte {self._at}")
        layout = SCALARS[kind]
        return self._take(count * struct.calcsize(layout)).view(layout).tolist()
