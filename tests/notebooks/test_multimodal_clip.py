"""The cells of multimodal/clip against loops, torch's pieces and transformers' BERT.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import re
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cells import (
    close,
    fails,
    generator,
    module_at,
    random,
    refusal,
    run_exercises,
    solutions_pass,
)
from torch import nn

from fieldguide import data
from fieldguide.multimodal import clip, contrastive
from fieldguide.transformers import training

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "book" / "multimodal" / "clip.ipynb"


def some_pictures(count=2, height=32, width=32, seed=0):
    shape = count, height, width, 3
    made = torch.randint(256, shape, generator=generator(seed))
    return made.to(torch.uint8)


def refused(name, function, *bad, says="", **options):
    """The function refuses each of `bad` with an error that names the argument."""
    for each in bad:
        with refusal(f"^{name} = .*{says}"):
            function(each, **options)


# Pictures

BAD_PICTURES = [
    some_pictures().float(),
    some_pictures()[0],
    some_pictures()[..., :2],
    torch.cat([some_pictures()] * 2, -1),
    torch.stack([some_pictures(2, 3, 3)] * 2),
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
    says = r"a tensor of type uint8 and shape \(B, Y, X, 3\), not empty$"
    refused("pictures", clip.to_planes, *BAD_PICTURES, says=says)


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


def test_a_block_of_convolution_keeps_the_sides():
    x = torch.zeros(1, 2, 9, 12)
    for kernel in 1, 3, 5, 7:
        assert clip.conv_block(2, 3, kernel)(x).shape == (1, 3, 9, 12)
    assert clip.conv_block(2, 3, kernel=3, stride=3)(x).shape == (1, 3, 3, 4)


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
    assert clip.word_pieces("cat") is clip.word_pieces("cat"), "kept"
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
    close(model(["zz"]), model(captions)[3:], 1e-5)  # none of its pieces is known
    torch.manual_seed(0)
    big = clip.CaptionEncoder(dict.fromkeys(map(str, range(999)), 0), 64)
    assert 0.29 < big.table.weight.std() < 0.31


def test_the_caption_encoder_refuses_what_is_no_list_of_captions():
    model = clip.CaptionEncoder(clip.piece_rows(["red car"]), 4)
    refused("captions", model, [], "red", ())
    refused("caption", model, [""], ["red", "!"], [3])


# MiniLM


def minilm():
    return clip.MiniLM()  # anew: the class may be damaged


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
    model = minilm()
    alone, beside = model(SENTENCES[:1]), model(SENTENCES)[:1]
    close(alone, beside, 1e-5)
    assert alone.shape == (1, 384) and model.norm.eps == 1e-12
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    refused("sentences", model, [], "A cat.")
    refused("caption", model, ["A cat.", ""], [None])


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


def efficientnet():
    return clip.EfficientNetLite()  # anew, too


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
    model = efficientnet()
    found, expected = model(pictures), by_name(x)
    assert len(found) == len(expected) == 9
    for a, b in zip(found, expected, strict=True):
        close(a, b, 2e-4)
    head = found[-1].mean((2, 3))
    assert found[-1].shape[1] == 1280 and model.classes(head).shape == (
        2,
        1000,
    )
    close(model.classes.weight, data.efficientnet()["_fc.weight"])
    features = clip.picture_features(model, pictures)
    parts = [head]
    for x in found[4:8]:
        parts += [x.flatten(2).mean(2), x.flatten(2).max(2).values]
    close(features, torch.cat(parts, 1), 1e-5)
    assert features.shape == (2, 2688)
    with torch.enable_grad():
        assert clip.picture_features(model, pictures[:1]).is_inference()


def test_efficientnet_is_frozen_and_wants_pictures():
    model = efficientnet()
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    refused("pictures", model, *BAD_PICTURES)
    kinds = collections.Counter(type(m).__name__ for m in model.modules())
    assert kinds["MobileBlock"] == 16 and kinds["Conv2d"] == 49
    assert sum(blocks for blocks, *_ in clip.STAGES) == 16


def test_efficientnet_uses_all_of_its_file():
    more = {**data.efficientnet(), "unused": torch.zeros(1)}
    with mock.patch.object(data, "efficientnet", lambda: more), refusal("longer"):
        efficientnet()


def test_a_block_adds_its_input_only_where_sizes_agree():
    torch.manual_seed(0)
    for into, out, stride, short in (4, 4, 1, 1), (4, 6, 1, 0), (4, 4, 2, 0):
        block = clip.MobileBlock(into, out, 3, stride, 2).eval()
        x = random(1, 4, 6, 6, dtype=torch.float32)
        y = block.narrow(block.look(block.widen(x)))
        close(block(x), x + y if short else y)


# The data


def test_roles_hold_out_drawers_and_families():
    emoji = data.emoji()
    train = clip.role("train", clip.KNOWN_DRAWERS)
    new = clip.role("validation", clip.KNOWN_DRAWERS)
    assert emoji.drawers[:3] == clip.KNOWN_DRAWERS
    assert not set(train.concepts.tolist()) & set(new.concepts.tolist())
    for where, split in (train, "train"), (new, "validation"):
        expected = [
            place
            for place in range(len(emoji.drawer))
            if emoji.drawer[place] < 3 and emoji.splits[emoji.concept[place]] == split
        ]
        assert where.places.tolist() == expected
        shown = sorted(set(emoji.concept[expected].tolist()))
        assert where.concepts.tolist() == shown
    one = clip.role("train", ["fluent"])
    assert set(emoji.drawer[one.places].tolist()) == {4}
    assert set(one.concepts.tolist()) <= set(train.concepts.tolist())
    with refusal(r"^split = 'all', .*'train'"):
        clip.role("all", ["noto"])
    with refusal(r"^drawers = \['me'\], .*noto"):
        clip.role("train", ["me"])


def pictures_of(where):
    """The pictures of a role, as bytes: {bytes: the captions they stand for}."""
    emoji, found = data.emoji(), collections.defaultdict(set)
    for place in where.places.tolist():
        picture = emoji.pictures[place].numpy().tobytes()
        found[picture].add(emoji.captions[emoji.concept[place]])
    return found


def test_no_role_shows_a_picture_of_another():
    roles = [
        clip.role(split, drawers)
        for split in ("train", "validation", "test")
        for drawers in (clip.KNOWN_DRAWERS, ["emojitwo"])
    ]
    roles.append(clip.role("train", ["fluent"]))
    for one, other in itertools.combinations(map(pictures_of, roles), 2):
        both = [(one[x], other[x]) for x in one.keys() & other.keys()]
        assert not both, "a picture under two captions"


def test_an_insect_is_no_game_and_a_hand_points_where_it_says():
    emoji = data.emoji()
    of = dict(zip(emoji.captions, range(len(emoji.captions)), strict=True))

    def drawn(caption):
        here = emoji.concept == of[caption]
        drawers = [emoji.drawers[d] for d in emoji.drawer[here]]
        return dict(zip(drawers, emoji.pictures[here], strict=True))

    for one, other in ("cricket", "cricket game"), ("UP! button", "upwards button"):
        one, other = drawn(one), drawn(other)
        assert len(one) >= 3 and len(other) == 5
        assert not any(torch.equal(one[d], other[d]) for d in one)
    right, left = (drawn(f"backhand index pointing {x}") for x in ("right", "left"))
    off = right["fluent"].float() - left["fluent"].flip(1).float()
    assert off.abs().mean() < 2


def test_an_alias_is_a_name_of_its_own_or_a_mirror_image():
    with tempfile.TemporaryDirectory() as folder:
        aliases_are_names_or_mirror_images(Path(folder))


def aliases_are_names_or_mirror_images(tmp_path):
    made = made_by("emoji")
    bar = '<path d="M0 0h2v8h-2z" fill="red"/>'
    record = {"icons": {"cricket-game": {"body": bar}, "hand-left": {"body": bar}}}
    record |= {"width": 8, "height": 8}
    record["aliases"] = {
        "cricket": {"parent": "cricket-game"},
        "bat": {"parent": "hand-left"},
        "hand-right": {"parent": "hand-left", "hFlip": True},
        "hand": {"parent": "hand-right"},
    }
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "icons.json").write_text(json.dumps(record))
    called = {"cricket", "cricket-game", "hand-left", "hand-right"}
    found = made.icons(tmp_path, "set@1.0", called - {"hand-left"})
    assert list(found) == ["cricket-game", "hand-left", "bat", "hand-right"]
    assert list(made.icons(tmp_path, "set@1.0", called)) == [
        "cricket-game", "hand-left", "hand-right",
    ]  # fmt: skip
    left, right, bat = (
        made.draw(found[name], 8) for name in ("hand-left", "hand-right", "bat")
    )
    assert np.array_equal(left, bat) and (left[:, :2] == [255, 0, 0]).all()
    assert np.array_equal(right, left[:, ::-1]) and (left[:, 2:] == 255).all()


# Training


def pixel(ink, row, column):
    """The ink at a pixel; none outside."""
    inside = 0 <= row < ink.size(1) and 0 <= column < ink.size(2)
    return ink[:, row, column] if inside else torch.zeros(3)


def test_jitter_is_one_map_of_the_plane_for_each_picture():
    planes = clip.to_planes(some_pictures(2, 5, 6))
    draws = (2 * torch.rand(2, 7, generator=generator(6)) - 1).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clip.jitter(planes, generator(6), 0.9, 0.6, 0.4, colour=3)
    expected = torch.empty(2, 3, 5, 6)
    for b, (turn, size, right, down, *colours) in enumerate(draws):
        cos, sin = (f(0.9 * turn) * (1 + 0.6 * size) for f in (math.cos, math.sin))
        tint = 1 + 3 * torch.tensor(colours)
        for i in range(5):
            for j in range(6):
                x, y = (2 * j + 1) / 6 - 1, (2 * i + 1) / 5 - 1  # a pixel's middle
                u = cos * x - sin * y + 0.4 * right
                v = sin * x + cos * y + 0.4 * down
                column, row = ((u + 1) * 6 - 1) / 2, ((v + 1) * 5 - 1) / 2
                left, top = math.floor(column), math.floor(row)
                ink = sum(
                    (1 - abs(column - c))
                    * (1 - abs(row - r))
                    * pixel(1 - planes[b], r, c)
                    for r in (top, top + 1)
                    for c in (left, left + 1)
                )
                expected[b, :, i, j] = 1 - (ink * tint).clamp(0, 1)
    close(found, expected, 1e-4)


def test_jitter_turns_scales_moves_and_colours():
    planes = clip.to_planes(some_pictures(3, 16, 16))
    still = clip.jitter(planes, generator(), turn=0, size=0, move=0, colour=0)
    close(still, planes, 1e-5)
    draws = 2 * torch.rand(3, 7, generator=generator(4)) - 1
    drawn = {name: 0 for name in ("turn", "size", "move", "colour")}
    tinted = clip.jitter(planes, generator(4), **{**drawn, "colour": 0.5})
    ink = (1 - planes) * (1 + 0.5 * draws[:, 4:, None, None])
    close(tinted, 1 - ink.clamp(0, 1), 1e-5)
    dot = torch.ones(1, 3, 33, 33)
    dot[:, :, 16, 26] = 0  # ten to the right of the middle
    draws = (2 * torch.rand(1, 7, generator=generator(4)) - 1)[0]

    def place(**changes):
        made = clip.jitter(dot, generator(4), **{**drawn, **changes})
        ink = 1 - made[0, 0]
        ink = ink / ink.sum()
        rows = torch.arange(33.0) - 16
        return (ink.sum(0) @ rows).item(), (ink.sum(1) @ rows).item()

    x, y = place(turn=1.5)
    angle = 1.5 * draws[0].item()
    assert abs(x - 10 * torch.tensor(angle).cos()) < 0.6
    assert abs(y + 10 * torch.tensor(angle).sin()) < 0.6
    x, y = place(size=0.5)
    assert abs(x - 10 / (1 + 0.5 * draws[1].item())) < 0.6 and abs(y) < 0.3
    x, y = place(move=0.3)
    assert abs(x - (10 - 0.3 * 16.5 * draws[2].item())) < 0.6
    assert abs(y + 0.3 * 16.5 * draws[3].item()) < 0.6
    away = clip.jitter(torch.zeros(1, 3, 8, 8), generator(4), **{**drawn, "move": 4})
    assert (away == 1).all(), "white outside"


def test_defaults_of_jitter_change_a_little():
    planes = clip.to_planes(some_pictures(2))
    options = {"turn": 0.25, "size": 0.2, "move": 0.15, "colour": 0.1}
    made = clip.jitter(planes, generator(1))
    close(made, clip.jitter(planes, generator(1), **options))
    assert made.min() >= 0 and made.max() <= 1


def test_descriptions_have_some_tags_or_all():
    emoji = data.emoji()
    concept = max(range(len(emoji.tags)), key=lambda c: len(emoji.tags[c]))
    caption, tags = emoji.captions[concept], emoji.tags[concept]
    assert clip.describe(concept) == " ".join([caption, *tags])
    draws, lengths, seen = generator(), collections.Counter(), set()
    for _ in range(400):
        text = clip.describe(concept, draws)
        assert text.startswith(caption)
        rest = text[len(caption) :].split()
        assert set(rest) <= {word for tag in tags for word in tag.split()}
        lengths[bool(rest)] += 1
        seen |= set(rest)
        assert len(clip.describe(concept, draws, most=1)) <= len(caption) + 1 + max(
            map(len, tags)
        )
    assert 150 < lengths[False] < 250
    assert seen == {word for tag in tags for word in tag.split()}
    draws = generator(3)
    while (text := clip.describe(concept, draws)) == caption:
        pass
    found = text[len(caption) + 1 :]
    matches = [t for t in tags if re.search(rf"\b{re.escape(t)}\b", found)]
    assert len(matches) >= 4 and len(found.split()) <= 4 * 3


def test_descriptions_are_drawn_by_the_generator_alone():
    emoji = data.emoji()
    concept = max(range(len(emoji.tags)), key=lambda c: len(emoji.tags[c]))
    caption, tags = emoji.captions[concept], emoji.tags[concept]
    assert len(tags) > 5
    for seed in range(8):
        draws, order = generator(seed), []
        if torch.rand((), generator=draws) >= 0.5:
            order = torch.randperm(len(tags), generator=draws)[:4].tolist()
        expected = " ".join([caption, *(tags[i] for i in order)])
        assert clip.describe(concept, generator(seed)) == expected
    # of the numbers from 0 to 1, 1 left out, the half that is below a half
    with mock.patch.object(torch, "rand", return_value=torch.tensor(0.5)):
        assert clip.describe(concept, generator()) != caption


def test_seeded_makes_torchs_own_draws_repeat():
    def drawn(seed):
        with clip.seeded(generator(seed)):
            return torch.rand(3), nn.Linear(2, 2).weight.detach()

    torch.manual_seed(11)
    before = torch.get_rng_state()
    a, b, c = drawn(1), drawn(1), drawn(2)
    assert torch.equal(torch.get_rng_state(), before), "the state is put back"
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not torch.equal(a[0], c[0])
    draws = generator(1)
    with clip.seeded(draws):
        one = torch.rand(3)
    with clip.seeded(draws):
        other = torch.rand(3)
    assert torch.equal(one, a[0]) and not torch.equal(one, other)
    fork = torch.random.fork_rng
    with mock.patch.object(torch.random, "fork_rng", side_effect=fork) as forked:
        for seed in range(6):
            with clip.seeded(generator(seed)):
                drawn = torch.randint(2**31, (), generator=generator(seed))
                assert torch.initial_seed() == drawn
    assert forked.call_args_list == 6 * [mock.call(devices=[])], "no other device's"


def test_a_recipe_that_cannot_be_is_refused():
    plain = clip.Alignment()
    expected = (20, 256, 4e-3, 0.3, 10.0, True)
    assert dataclasses.astuple(plain) == expected and plain.learned is True
    with contextlib.suppress(dataclasses.FrozenInstanceError):
        plain.epochs = 3
    assert plain.epochs == 20, "frozen"
    for name in "epochs", "batch":
        with refusal(f"^{name} = 0, .*a whole number above 0$"):
            clip.Alignment(**{name: 0})
    for name, bad in {
        "epochs": [0, 1.5, True],
        "batch": [0, 1, 2.0],
        "rate": [0, -1, float("inf"), float("nan")],
        "start": [0, float("inf"), float("nan")],
        "decay": [-1, float("inf"), float("nan")],
    }.items():
        for value in bad:
            with refusal(f"^{name} = "):
                clip.Alignment(**{name: value})
    assert clip.Alignment(epochs=1, batch=2, decay=0).decay == 0


class Pairs(nn.Module):
    """Free vectors for N captions and N pictures."""

    def __init__(self, N, D, seed=0):
        super().__init__()
        self.both = nn.Parameter(random(2, N, D, seed=seed, dtype=torch.float32))
        self.asked = []

    def embed(self, at, draws):
        self.asked.append((at.tolist(), draws))
        return F.normalize(self.both[0][at], dim=-1), F.normalize(
            self.both[1][at], dim=-1
        )


def test_aligning_is_adamw_on_the_grouped_loss():
    recipe = clip.Alignment(epochs=25, batch=3, rate=0.02, decay=0.3, start=7.0)
    concepts = torch.tensor([0, 1, 1, 2, 3, 4, 5])
    pairs, twin, draws = Pairs(7, 4), Pairs(7, 4), generator(5)
    adamw = torch.optim.AdamW
    with mock.patch.object(torch.optim, "AdamW", side_effect=adamw) as made:
        losses = clip.train_pairs(pairs, pairs.embed, concepts, recipe, draws)
    assert made.call_args.kwargs["fused"] is True
    assert losses.shape == (50,) and not losses.requires_grad
    order = torch.randperm(7, generator=generator(5)).tolist()
    assert [pairs.asked[0][0], pairs.asked[1][0]] == [order[:3], order[3:6]]
    scale = contrastive.LearnedScale(7.0)
    optimizer = torch.optim.AdamW([twin.both, scale.log_scale], 0.02, weight_decay=0.3)
    for epoch in range(25):
        ats = [at for at, _ in pairs.asked[2 * epoch : 2 * epoch + 2]]
        assert len({*ats[0], *ats[1]}) == 6, "each example once at most"
    assert pairs.asked[0][0] != pairs.asked[2][0]
    assert all(d is draws for _, d in pairs.asked)
    plan = training.plain_recipe(50, 0.02)
    for step, (at, _) in enumerate(pairs.asked):
        loss = contrastive.contrastive_loss_grouped(
            *twin.embed(torch.tensor(at), None), concepts[at], 1 / scale()
        )
        close(losses[step], loss.detach(), 1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 0.02 * training.rate_share(step, plan)
        optimizer.step()
    close(pairs.both.detach(), twin.both.detach(), 1e-3)


def test_a_fixed_scale_stays():
    for learned in True, False:
        options = {"batch": 3, "rate": 0.05, "start": 30.0, "learned": learned}
        recipe = clip.Alignment(epochs=20, **options)
        pairs, twin = Pairs(3, 4), Pairs(3, 4)
        losses = clip.train_pairs(
            pairs, pairs.embed, torch.arange(3), recipe, generator()
        )
        loss = contrastive.contrastive_loss_grouped(
            *twin.embed(torch.tensor(pairs.asked[0][0]), None), torch.arange(3), 1 / 30
        )
        close(losses[0], loss.detach(), 1e-4)
        last = pairs.embed(torch.arange(3), None)
        at_30 = contrastive.contrastive_loss_grouped(*last, torch.arange(3), 1 / 30)
        assert losses[-1] < losses[0]
        assert (abs(losses[-1] - at_30) < 2e-3) != learned


def test_a_batch_fits_into_the_examples():
    pairs = Pairs(3, 4)
    with refusal(r"^batch = 4, .*3"):
        recipe = clip.Alignment(batch=4)
        clip.train_pairs(pairs, pairs.embed, torch.arange(3), recipe, generator())


def test_emoji_are_aligned_from_scratch():
    places = clip.role("train", clip.KNOWN_DRAWERS).places[:24]
    recipe = clip.Alignment(epochs=2, batch=8)
    model, losses = clip.align_emoji(places, recipe, generator())
    _, same = clip.align_emoji(places, recipe, generator())
    assert losses.shape == (6,) and not model.training
    close(losses, same, 1e-3)
    emoji = data.emoji()
    shown = emoji.concept[places].unique().tolist()
    known = clip.piece_rows([clip.describe(c) for c in shown])
    assert model.captions.rows == known
    assert model.captions(["a face"]).shape == (1, 128)
    small = clip.TwoEncoders(["red"], D=5)
    assert small.pictures(emoji.pictures[:2]).shape == (2, 5)
    assert small.captions(["red"]).shape == (1, 5)
    # of a concept that several have drawn, a caption counts once
    often = (emoji.concept < 4).nonzero()[:, 0]
    assert len(often) >= 8
    model, _ = clip.align_emoji(often, clip.Alignment(1, 8), generator())
    assert model.captions.rows == clip.piece_rows([*map(clip.describe, range(4))])
    # pictures are changed, and captions drawn, anew in each step
    with (
        mock.patch.object(clip, "jitter", side_effect=clip.jitter) as jittered,
        mock.patch.object(clip, "describe", side_effect=clip.describe) as told,
    ):
        clip.align_emoji(places, recipe, generator())
    assert jittered.call_count == 6
    drawn = [call for call in told.call_args_list if len(call.args) == 2]
    assert len(drawn) == 48
    assert all(call.args[1] is not None for call in drawn)


def test_emoji_are_aligned_captions_first():
    places, emoji = torch.tensor([3, 500, 2000]), data.emoji()

    def look(parts, embed, concepts, recipe, draws):
        at, again = torch.tensor([2, 0]), generator(8)
        shown = emoji.concept[places[at]]
        texts = [clip.describe(c, again) for c in shown.tolist()]
        planes = clip.to_planes(emoji.pictures[places[at]])
        parts.eval()
        told, seen = embed(at, generator(8))
        close(told, parts.captions(texts), 1e-5)
        close(seen, parts.pictures.embed(clip.jitter(planes, again)), 1e-4)
        return torch.zeros(1)

    with mock.patch.object(clip, "train_pairs", look):
        clip.align_emoji(places, clip.Alignment(), generator())


# Retrieval and classes


def test_found_within_counts_who_is_nearer():
    asked, offered = random(6, 3), random(8, 3, seed=1)
    fits = torch.rand(6, 8, generator=generator(2)) < 0.3
    fits[:, 5] = True
    for k in range(1, 9):
        found = clip.found_within(asked, offered, fits, k)
        for row in range(6):
            cosines = (offered @ asked[row]).tolist()
            best = max(c for c, f in zip(cosines, fits[row], strict=True) if f)
            nearer = sum(
                c >= best and not f for c, f in zip(cosines, fits[row], strict=True)
            )
            assert found[row].item() == (nearer < k)
        share = clip.recall_at(asked, offered, fits, k)
        assert isinstance(share, float)
        close(share, sum(found).item() / 6, 1e-6)
    assert torch.equal(
        clip.found_within(asked, offered, fits),
        clip.found_within(asked, offered, fits, 1),
    )
    assert clip.recall_at(asked, offered, fits) == clip.recall_at(
        asked, offered, fits, 1
    )


def test_who_finds_all_alike_finds_nothing():
    same, own = torch.ones(4, 2), torch.eye(4, dtype=torch.bool)
    assert clip.recall_at(same, same, own, 3) == 0
    assert clip.recall_at(same, same, own, 4) == 1
    both = own | own.roll(1, 1)
    assert clip.recall_at(same, same, both, 2) == 0
    assert clip.recall_at(same, same, both, 3) == 1


def test_found_within_refuses_what_does_not_fit():
    a, b, own = random(3, 2), random(4, 2), torch.ones(3, 4, dtype=torch.bool)
    for k in 0, 5, 1.0, True, None:
        with refusal(r"^k = .*from 1 to 4"):
            clip.found_within(a, b, own, k)
    none = own.clone()
    none[1] = False
    for fits in own[:2], own.float(), none, own.mT:
        with refusal(r"^fits = "):
            clip.found_within(a, b, fits)
    for offered in random(4, 3), random(4, 1), b[0], b[None]:
        with refusal(r"^offered = "):
            clip.found_within(a, offered, own)
    with refusal(r"^offered = "):
        clip.found_within(random(3, 2, 2), b, own)
    for row in slice(3), 1:
        bad = a.clone()
        bad[row] = float("nan")
        with refusal(r"^asked = "):
            clip.found_within(bad, b, own)


def test_both_captions_lie_between_bare_and_tagged():
    emoji = data.emoji()

    def encode(texts):
        rows = [[len(t), t.count("a") + 1.0, t.count(" ")] for t in texts]
        return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)

    found = clip.both_captions(encode)
    assert found.shape == (len(emoji.captions), 3) and found.is_inference()
    for concept in 0, 77, 1000:
        bare, tagged = encode([emoji.captions[concept], clip.describe(concept)])
        middle = bare + tagged
        close(found[concept], middle / middle.norm(), 1e-5)
        close(clip.both_captions(encode, 0)[concept], tagged, 1e-5)
        close(clip.both_captions(encode, bare_share=1)[concept], bare, 1e-5)


def test_retrieval_goes_both_ways():
    emoji = data.emoji()
    where = clip.role("validation", clip.KNOWN_DRAWERS)
    seen = random(len(emoji.drawer), 5, dtype=torch.float32)
    told = random(len(emoji.captions), 5, seed=1, dtype=torch.float32)
    for k in 1, 20:
        there, back = clip.retrieval(seen, told, where, k)
        assert there.shape == where.places.shape
        assert back.shape == where.concepts.shape
        for row in range(0, len(where.places), 50):
            place = where.places[row]
            cosines = told[where.concepts] @ seen[place]
            own = where.concepts == emoji.concept[place]
            assert there[row] == ((cosines[~own] >= cosines[own]).sum() < k)
        for row in range(0, len(where.concepts), 30):
            concept = where.concepts[row]
            cosines = seen[where.places] @ told[concept]
            own = emoji.concept[where.places] == concept
            best = cosines[own].max()
            assert back[row] == ((cosines[~own] >= best).sum() < k)
    one = clip.retrieval(seen, told, where)
    assert torch.equal(one[0], clip.retrieval(seen, told, where, 1)[0])


def test_zero_shot_is_a_softmax_of_cosines():
    pictures, classes = random(4, 3), random(5, 3, seed=1)
    found = clip.zero_shot(pictures, classes, 7.0)
    for b in range(4):
        powers = torch.exp(7 * classes @ pictures[b])
        close(found[b], powers / powers.sum())
    for scale in 0, -1, float("inf"), float("nan"):
        with refusal(r"^scale = "):
            clip.zero_shot(pictures, classes, scale)
    for bad in classes[:, :2], classes[0]:
        with refusal(r"^classes = .*\(K, 3\)"):
            clip.zero_shot(pictures, bad, 1)
    with refusal(r"^classes = "):
        clip.zero_shot(random(2, 3, 3), classes, 1)


def test_the_gap_is_the_distance_of_the_means():
    a, b = random(4, 3), random(6, 3, seed=1)
    gap = clip.modality_gap(a, b)
    assert isinstance(gap, float)
    assert abs(gap - (a.sum(0) / 4 - b.sum(0) / 6).square().sum().sqrt()) < 1e-9
    assert clip.modality_gap(a, a) == 0
    assert abs(clip.modality_gap(a[:1], b[:1]) - (a[0] - b[0]).norm()) < 1e-9
    for bad in a[:0], a[None]:
        with refusal(r"^pictures = "):
            clip.modality_gap(bad, b)
    for bad in b[:0], b[0], b[None], b[:, :2]:
        with refusal(r"^captions = "):
            clip.modality_gap(a, bad)


# What is stored


def made_by(folder):
    return module_at(ROOT / "book" / "_assets" / folder / "make.py")


def stored(folder, name):
    path = ROOT / "book" / "_assets" / folder / name
    return json.loads(path.read_text(encoding="utf-8"))


RECORDS = [
    ("emoji-features", "made.json"),
    ("emoji-clip", "runs.json"),
    ("emoji-clip", "halves.json"),
]


def test_the_weights_were_made_by_the_code_as_it_is():
    made = made_by("emoji-clip")
    digest = made.digest(made.WEIGHTS_BY)
    assert stored("emoji-clip", "weights.json")["digest"] == digest, (
        "run make.py weights"
    )


def test_the_stored_weights_are_the_two_models():
    emoji, model = data.emoji(), clip.trained_encoders()
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert clip.trained_encoders() is model
    where = clip.role("validation", clip.KNOWN_DRAWERS)
    seen = torch.zeros(len(emoji.drawer), 128)
    seen[where.places] = model.pictures(emoji.pictures[where.places])
    told = clip.both_captions(model.captions, 0)
    hits, _ = clip.retrieval(seen, told, where)
    recorded = stored("emoji-clip", "runs.json")["splits"]["families"][0][
        "new concepts"
    ]
    assert abs(hits.float().mean() - recorded) < 0.01
    heads = clip.trained_heads()
    assert not heads.training and not any(p.requires_grad for p in heads.parameters())
    assert clip.trained_heads() is heads
    hits, _ = clip.retrieval(*clip.through_heads(heads), where)
    assert hits.float().mean() > 0.25


@pytest.mark.parametrize(("folder", "name"), RECORDS)
def test_what_is_stored_was_made_by_the_code_as_it_is(folder, name):
    assert stored(folder, name)["digest"] == made_by(folder).digest(), "run make.py"


CHANGES = [(*record, old) for record in RECORDS for old in ("eps=1e-3", "most=4")]


@pytest.mark.parametrize(("folder", "name", "old"), CHANGES)
def test_the_digest_sees_a_change_of_the_code(folder, name, old):
    made = made_by(folder)
    source = made.exported(NOTEBOOK)
    assert old in source
    changed = mock.patch.object(
        made, "exported", lambda _: source.replace(old, old + "0")
    )
    with changed:
        seen = made.digest() != stored(folder, name)["digest"]
    assert seen == (folder == "emoji-features" or old == "most=4")


def test_the_halves_are_the_new_concepts():
    held = clip.role("validation", clip.KNOWN_DRAWERS)
    shown = data.emoji().concept
    one, other = made_by("emoji-clip").halves(0)
    assert len(one.concepts) == len(other.concepts) == 76
    for part in one, other:
        assert torch.equal(part.concepts, shown[part.places].unique())
    for both, whole in zip(zip(one, other, strict=True), held, strict=True):
        assert torch.equal(torch.cat(both).sort().values, whole.sort().values)


def test_the_stored_features_are_the_encoders():
    with np.load(data.asset("emoji-features", "examples.npz")) as found:
        large, places = (torch.from_numpy(found[n]) for n in ("pictures", "places"))
    assert large.shape == (6, 224, 224, 3)
    steps = torch.from_numpy(clip.stored_features()["steps"])
    features = clip.picture_features(efficientnet(), large)
    off = clip.in_steps(features) - steps[places]
    assert off.abs().max() <= 1 and (off == 0).float().mean() > 0.99
    kept, arrays = clip.emoji_features(), clip.stored_features()
    assert kept.pictures.shape == (7165, 2688) and kept.pictures.dtype == torch.float32
    scaled = (features - torch.from_numpy(arrays["mean"])) / torch.from_numpy(
        arrays["spread"]
    )
    alike = F.cosine_similarity(kept.pictures[places], scaled)
    assert (alike > 0.8).all(), "most of the spread is kept"
    along = steps[places].double() * float(arrays["step"])
    vectors = torch.from_numpy(arrays["vectors"]).double() * float(
        arrays["vector_step"]
    )
    close(kept.pictures[places], (along @ vectors).float(), 1e-3)
    emoji, reader = data.emoji(), minilm()
    for concept in 5, 900:
        for found, text in (
            (kept.bare, emoji.captions[concept]),
            (kept.tagged, clip.describe(concept)),
        ):
            expected = reader([text])[0]
            assert found.shape == (1644, 384)
            assert (found[concept] - expected).abs().max() < 0.51 / 400 + 1e-5
    assert clip.emoji_features() is kept and clip.stored_features() is arrays


# Heads


def test_heads_are_small_networks_on_frozen_features():
    torch.manual_seed(0)
    model = clip.head(6, 3, wide=5)
    first, up, bend, second, down = model
    assert first.p == second.p == 0.3 and isinstance(bend, nn.GELU)
    assert up.weight.shape == (5, 6) and down.weight.shape == (3, 5)
    assert clip.head(6, 3)[1].weight.shape == (512, 6)
    assert clip.head(6, 3, dropout=0.2)[0].p == 0.2
    model.eval()
    x = random(2, 6, dtype=torch.float32)
    close(model(x), down(F.gelu(up(x))))


def test_the_recipe_of_the_heads():
    found = dataclasses.astuple(clip.heads_recipe())
    assert found == (40, 512, 1e-3, 0.1, 1 / 0.07, True)


def test_heads_are_aligned_and_used():
    places = clip.role("train", clip.KNOWN_DRAWERS).places[:40]
    recipe = clip.Alignment(epochs=3, batch=20)
    heads, losses = clip.align_heads(places, recipe, generator(), D=7)
    _, same = clip.align_heads(places, recipe, generator(), D=7)
    assert losses.shape == (6,) and not heads.training
    close(losses, same, 1e-3)
    assert clip.align_heads(places, recipe, generator())[0]["pictures"][
        -1
    ].weight.shape == (256, 512)
    seen, told = clip.through_heads(heads)
    assert seen.shape == (7165, 7) and told.shape == (1644, 7)
    assert seen.is_inference() and told.is_inference()
    kept = clip.emoji_features()
    with torch.no_grad():
        one = heads["pictures"](kept.pictures[:3])
        close(seen[:3], one / one.norm(dim=1, keepdim=True), 1e-4)
        parts = [heads["captions"](x[:3]) for x in (kept.bare, kept.tagged)]
        total = sum(x / x.norm(dim=1, keepdim=True) for x in parts)
        close(told[:3], total / total.norm(dim=1, keepdim=True), 1e-4)


def test_heads_read_bare_and_tagged_captions_by_halves():
    places = clip.role("train", clip.KNOWN_DRAWERS).places[:400]
    kept, emoji = clip.emoji_features(), data.emoji()
    found = collections.Counter()

    def look(parts, embed, concepts, recipe, draws):
        at = torch.arange(400)
        inputs = []
        hook = parts["captions"].register_forward_pre_hook(
            lambda _, x: inputs.append(x[0])
        )
        drawn = torch.rand(400, 1, generator=generator(8))
        told, seen = embed(at, generator(8))
        with mock.patch.object(torch, "rand", return_value=torch.full((400, 1), 0.5)):
            embed(at, draws)
        hook.remove()
        shown = emoji.concept[places]
        assert torch.equal(concepts, shown)
        for row, x in zip(shown.tolist(), inputs[0], strict=True):
            found["bare"] += torch.equal(x, kept.bare[row])
            found["tagged"] += torch.equal(x, kept.tagged[row])
        bare = torch.where(drawn < 0.5, kept.bare[shown], kept.tagged[shown])
        assert torch.equal(inputs[0], bare)
        assert torch.equal(inputs[1], kept.tagged[shown]), "a half is not below a half"
        close(told.norm(dim=1), torch.ones(400), 1e-4)
        close(seen.norm(dim=1), torch.ones(400), 1e-4)
        parts.eval()
        told, seen = embed(at, draws)
        expected = F.normalize(parts["pictures"](kept.pictures[places]), dim=-1)
        close(seen, expected, 1e-4)
        return torch.zeros(1)

    with mock.patch.object(clip, "train_pairs", look):
        clip.align_heads(places, clip.Alignment(), generator())
    assert found["bare"] > 150 and found["tagged"] > 150


# Exercises


def exercises():
    return run_exercises("multimodal/clip", clip)


def test_solutions_pass():
    solutions_pass(exercises())


def test_checks_accept_what_is_as_good():
    book = exercises()

    def by_cosines(asked, offered, fits):
        unit = (F.normalize(x, dim=-1) for x in (asked, offered))
        return book.median_rank(*unit, fits)

    book.check_median_rank(by_cosines)


def test_wrong_answers_fail():
    book = exercises()
    right = book.median_rank

    def lower_median(asked, offered, fits):
        cosines = asked @ offered.mT
        best = cosines.masked_fill(~fits, -math.inf).amax(1, keepdim=True)
        ranks = 1 + ((cosines >= best) & ~fits).sum(1)
        return ranks.double().median().item()

    fails(
        book.check_median_rank,
        lambda *_: 1.0,
        lambda a, o, f: right(a, o, f) + 1,
        lambda a, o, f: int(right(a, o, f)),
        lambda a, o, f: right(-a, o, f),
        lower_median,
    )
    right = book.ensemble
    fails(
        book.check_ensemble,
        lambda e, n, t: 2 * right(e, n, t),
        lambda e, n, t: right(e, n, t[:1]),
        lambda e, n, t: right(e, n[::-1], t),
        lambda e, n, t: (right(e, n, t), e(n))[0],
        lambda e, n, t: e([t[0].format(x) for x in n]),
    )
    right = book.close_gap
    fails(
        book.check_close_gap,
        lambda p, c, s: right(p, c, s)[::-1],
        lambda p, c, s: right(p, c, 2 * s),
        lambda p, c, s: right(p, c, s)[0],
        lambda p, c, s: tuple(2 * x for x in right(p, c, s)),
        lambda p, c, s: (right(p, c, s), p.mul_(2))[0],
    )
