"""The cells of multimodal/clip against loops, torch's pieces and transformers' BERT.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import collections
import functools
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cells import close, generator, random, refuses
from torch import nn

from fieldguide import clip, data

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "book" / "multimodal" / "clip.ipynb"


def some_pictures(count=2, height=32, width=32, seed=0):
    shape = count, height, width, 3
    made = torch.randint(256, shape, generator=generator(seed))
    return made.to(torch.uint8)


def refused(name, function, *bad, says="", **options):
    """The function refuses each of `bad` with an error that names the argument."""
    for each in bad:
        with pytest.raises(ValueError, match=f"^{name} = .*{says}"):
            function(each, **options)


# Pictures

BAD_PICTURES = [
    some_pictures().float(),
    some_pictures()[0],
    some_pictures()[..., :2],
    some_pictures()[:0],
    some_pictures().numpy(),
    [[1]],
    None,
]


def test_planes_are_pictures_from_0_to_1():
    pictures = some_pictures(2, 3, 4)
    planes = clip.to_planes(pictures)
    assert planes.shape == (2, 3, 3, 4) and planes.dtype == torch.float32
    for b, y, x, c in (0, 0, 0, 0), (1, 2, 3, 2), (1, 0, 3, 1):
        close(planes[b, c, y, x], pictures[b, y, x, c] / 255)
    assert clip.to_planes(torch.full_like(pictures, 255)).unique().tolist() == [1]
    refused("pictures", clip.to_planes, *BAD_PICTURES, says="uint8")


def test_the_picture_encoder_is_four_convolutions():
    model = clip.PictureEncoder(6, channels=2)
    pictures = some_pictures(5)
    for train in True, False:
        model.train(train)
        model.drop.p = 0.0
        x = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        at = iter([m for m in model.blocks.modules() if hasattr(m, "weight")])
        for size, step, side, pool in (
            (2, 2, 0, 0),
            (3, 1, 1, 1),
            (3, 1, 1, 1),
            (3, 1, 1, 0),
        ):
            conv, norm = next(at), next(at)
            assert conv.weight.shape[2:] == (size, size) and conv.bias is None
            x = F.conv2d(x, conv.weight, stride=step, padding=side)
            moments = norm.running_mean, norm.running_var
            if train:
                moments = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            mean, var = (m[:, None, None] for m in moments)
            x = (x - mean) / (var + 1e-5).sqrt()
            x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
            x = x.clamp(min=0)
            if pool:
                x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        assert x.shape == (5, 16, 4, 4)
        y = x.reshape(5, -1) @ model.out.weight.T + model.out.bias
        found = model.eval()(pictures) if not train else model(pictures)
        if not train:
            close(found, y / y.norm(dim=1, keepdim=True), 1e-5)
        else:
            close(found, y / y.norm(dim=1, keepdim=True), 1e-4)


def test_the_picture_encoder_drops_only_in_training():
    model = clip.PictureEncoder(4, channels=2)
    assert model.drop.p == 0.1
    assert clip.PictureEncoder(4, channels=2, dropout=0.4).drop.p == 0.4
    pictures = some_pictures(6)
    model.eval()
    close(model(pictures), model(pictures))
    close(model(pictures), model.embed(clip.to_planes(pictures)))
    seen = model.out.weight.shape
    assert seen == (4, 16 * 16)
    assert clip.PictureEncoder(4).out.weight.shape == (4, 128 * 16)


def test_the_picture_encoder_refuses_what_is_no_picture():
    model = clip.PictureEncoder(4, channels=2).eval()
    refused("pictures", model, *BAD_PICTURES)
    for sides in (32, 31), (16, 32), (224, 224):
        refused("pictures", model, some_pictures(1, *sides), says="32 pixels")


# Captions


def test_pieces_of_words():
    assert clip.word_pieces("cat") == ("<cat>", "<ca", "cat", "at>")
    assert clip.word_pieces("a") == ("<a>",)
    assert clip.word_pieces("nana") == ("<nana>", "<na", "nan", "ana", "na>")
    assert clip.word_pieces("aaaa")[1:] == ("<aa", "aaa", "aa>")
    expected = [*clip.word_pieces("red"), *clip.word_pieces("cat")]
    assert clip.caption_pieces("Red, cat!") == expected
    assert clip.caption_pieces("8") == ["<8>"]
    assert clip.caption_pieces("Fête")[0] == "<fête>"
    refused("caption", clip.caption_pieces, "", " ", "?!", None, 3, ["a"])


def test_rows_keep_words_and_what_occurs_twice():
    rows = clip.piece_rows(["red car", "red"])
    assert list(rows) == ["<red>", "<re", "red", "ed>", "<car>"]
    assert list(rows.values()) == [0, 1, 2, 3, 4]
    assert clip.piece_rows(["go"]) == {"<go>": 0}
    assert list(clip.piece_rows(["aba aba"])) == ["<aba>", "<ab", "aba", "ba>"]


def test_the_caption_encoder_mixes_a_mean_of_rows():
    rows = clip.piece_rows(["red car", "red apple", "green apple"])
    model = clip.CaptionEncoder(rows, 6).eval()
    assert model.table.weight.shape == (len(rows), 6) and model.rows == rows
    captions = ["red apple", "Green car, unknown", "apple", "zz"]
    norm, up, bend, drop, down = model.mix
    assert drop.p == 0.1 and clip.CaptionEncoder(rows, 6, dropout=0.3).mix[3].p == 0.3
    assert up.weight.shape == (12, 6) and isinstance(bend, nn.GELU)
    for caption, found in zip(captions, model(captions), strict=True):
        known = [p for p in clip.caption_pieces(caption) if p in rows]
        x = torch.zeros(6)
        for piece in known:
            x = x + model.table.weight[rows[piece]] / len(known)
        y = down(F.gelu(up(F.layer_norm(x, (6,), norm.weight, norm.bias))))
        close(found, y / y.norm(), 1e-5)
    torch.manual_seed(0)
    big = clip.CaptionEncoder(dict.fromkeys(map(str, range(999)), 0), 64)
    assert 0.29 < big.table.weight.std() < 0.31


def test_the_caption_encoder_refuses_what_is_no_list_of_captions():
    model = clip.CaptionEncoder(clip.piece_rows(["red car"]), 4)
    refused("captions", model, [], "red", ())
    refused("caption", model, [""], ["red", "!"], [3])


# MiniLM


@functools.cache
def minilm():
    return clip.MiniLM()


SENTENCES = ["A cat.", "the cat sits outside, and a dog beside it", "Ünïcode 3!"]


@functools.cache
def bert():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30_522, hidden_size=384, num_hidden_layers=6,
        num_attention_heads=12, intermediate_size=1536,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    weights, _ = data.minilm()
    kept = {n: w for n, w in weights.items() if "position_ids" not in n}
    kept = {n: w for n, w in kept.items() if not n.startswith("pooler")}
    model.load_state_dict(kept)
    return model


@torch.no_grad()
def test_minilm_is_transformers_bert():
    _, tokenizer = data.minilm()
    found = tokenizer.encode_batch(SENTENCES)
    mask = torch.tensor([each.attention_mask for each in found])
    ids = torch.tensor([each.ids for each in found])
    states = bert()(input_ids=ids, attention_mask=mask).last_hidden_state
    total = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    expected = total / total.norm(dim=1, keepdim=True)
    assert mask.min() == 0, "one sentence is shorter"
    close(minilm()(SENTENCES), expected, 1e-5)


def test_minilm_does_not_see_its_padding_and_learns_nothing():
    alone, beside = minilm()(SENTENCES[:1]), minilm()(SENTENCES)[:1]
    close(alone, beside, 1e-5)
    assert alone.shape == (1, 384)
    assert not any(p.requires_grad for p in minilm().parameters())
    assert not minilm().training
    refused("sentences", minilm(), [], "A cat.")
    refused("caption", minilm(), ["A cat.", ""], [None])


def test_a_bert_layer_normalises_after_its_sums():
    torch.manual_seed(0)
    layer = clip.BertLayer(8, 12, 2)
    for p in layer.parameters():
        nn.init.normal_(p)
    x, mask = random(2, 3, 8, dtype=torch.float32), torch.ones(2, 1, 1, 3).bool()
    mask[1, ..., 2] = False
    shape = 2, 3, 2, 4
    q, k, v = (f(x).view(shape) for f in (layer.query, layer.key, layer.value))
    scores = torch.einsum("bthk,bshk->bhts", q, k) / 2
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    mixed = torch.einsum("bhts,bshk->bthk", weights, v).reshape(2, 3, 8)
    y = layer.norm1(x + layer.output(mixed))
    z = layer.norm2(y + layer.down(F.gelu(layer.up(y))))
    close(layer(x, mask), z, 1e-5)
    assert layer.norm1.eps == layer.norm2.eps == 1e-12
    assert layer.up.weight.shape == (12, 8)


# EfficientNet


@functools.cache
def efficientnet():
    return clip.EfficientNetLite()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "around"),
    [(5, 3, 1, (1, 1)), (5, 3, 2, (1, 1)), (6, 3, 2, (0, 1)), (6, 5, 2, (1, 2)),
     (4, 1, 1, (0, 0)), (4, 1, 2, (0, 0)), (7, 5, 1, (2, 2)), (7, 1, 3, (0, 0))],
)  # fmt: skip
def test_padding_is_tensorflows(size, kernel, stride, around):
    x = torch.ones(1, 1, size, 3 * size)
    row = clip.pad_same(x, kernel, stride)[0, 0, :, 3 * size // 2]
    assert row.tolist() == [0] * around[0] + [1] * size + [0] * around[1]
    y = F.max_pool2d(clip.pad_same(x, kernel, stride), kernel, stride)
    assert y.shape[2:] == (-(-size // stride), -(-3 * size // stride))


def by_name(x):
    """EfficientNet-Lite0 from the names in its file, as a program of its own."""
    weights = data.efficientnet()

    def norm(x, name):
        w, b, mean, var = (
            weights[f"{name}.{each}"][:, None, None]
            for each in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-3).sqrt() * w + b

    def conv(x, name, stride=1):
        w = weights[f"{name}.weight"]
        need = [
            max((-(-n // stride) - 1) * stride + w.size(3) - n, 0) for n in x.shape[2:]
        ]
        x = F.pad(x, [n for m in need[::-1] for n in (m // 2, m - m // 2)])
        return F.conv2d(x, w, stride=stride, groups=x.size(1) // w.size(1))

    maps = [norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)]
    blocks = 0
    for count, stride in zip((1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1), strict=True):
        x = maps[-1]
        for at in range(count):
            name, step, y = f"_blocks.{blocks}.", stride if at == 0 else 1, x
            if f"{name}_expand_conv.weight" in weights:
                y = norm(conv(y, f"{name}_expand_conv"), f"{name}_bn0").clamp(0, 6)
            y = norm(conv(y, f"{name}_depthwise_conv", step), f"{name}_bn1").clamp(0, 6)
            y = norm(conv(y, f"{name}_project_conv"), f"{name}_bn2")
            x = x + y if at else y
            blocks += 1
        maps.append(x)
    return [*maps, norm(conv(maps[-1], "_conv_head"), "_bn1").clamp(0, 6)]


@torch.no_grad()
@pytest.mark.parametrize("sides", [(64, 64), (47, 70)])
def test_efficientnet_is_what_its_file_says(sides):
    pictures = some_pictures(2, *sides)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((pictures / 255 - mean) / std).permute(0, 3, 1, 2)
    found, expected = efficientnet()(pictures), by_name(x)
    assert len(found) == len(expected) == 9
    for a, b in zip(found, expected, strict=True):
        close(a, b, 2e-4)
    head = found[-1].mean((2, 3))
    assert found[-1].shape[1] == 1280 and efficientnet().classes(head).shape == (
        2,
        1000,
    )
    close(efficientnet().classes.weight, data.efficientnet()["_fc.weight"])
    features = clip.picture_features(efficientnet(), pictures)
    parts = [head]
    for x in found[4:8]:
        parts += [x.flatten(2).mean(2), x.flatten(2).max(2).values]
    close(features, torch.cat(parts, 1), 1e-5)
    assert features.shape == (2, 2688)


def test_efficientnet_is_frozen_and_wants_pictures():
    assert not any(p.requires_grad for p in efficientnet().parameters())
    assert not efficientnet().training
    refused("pictures", efficientnet(), *BAD_PICTURES)
    kinds = collections.Counter(type(m).__name__ for m in efficientnet().modules())
    assert kinds["MobileBlock"] == 16 and kinds["Conv2d"] == 49


def test_a_block_adds_its_input_only_where_sizes_agree():
    torch.manual_seed(0)
    for into, out, stride, short in (4, 4, 1, 1), (4, 6, 1, 0), (4, 4, 2, 0):
        block = clip.MobileBlock(into, out, 3, stride, 2).eval()
        x = random(1, 4, 6, 6, dtype=torch.float32)
        y = block.narrow(block.look(block.widen(x)))
        close(block(x), x + y if short else y)
