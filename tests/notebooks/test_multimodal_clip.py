"""The cells of multimodal/clip against loops, torch's pieces and transformers' BERT."""

import itertools
import math

import cells
import pytest
import torch
import torch.nn.functional as F
from cells import close, generator, random, unit
from torch import nn

from fieldguide import data
from fieldguide.multimodal import clip, contrastive
from fieldguide.transformers import training

KNOWN = ["twemoji", "noto", "noto, the first"]
EMOJI = data.emoji()


def some_pictures(count=2, height=32, width=32):
    shape = count, height, width, 3
    return torch.randint(256, shape, generator=generator()).to(torch.uint8)


@pytest.mark.parametrize("train", [True, False])
def test_the_picture_encoder_is_four_convolutions(train):
    model, pictures = clip.PictureEncoder(6, 2), some_pictures(5)
    model.drop.p = 0.0
    layers = [m for m in model.blocks.modules() if hasattr(m, "weight")]
    sizes = (2, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 0)
    x = 2 * torch.stack([pictures[..., c] / 255 for c in range(3)], 1) - 1
    for conv, norm, (step, side, pool) in zip(
        layers[::2], layers[1::2], sizes, strict=True
    ):
        x = F.conv2d(x, conv.weight, stride=step, padding=side)
        moments = norm.running_mean.clone(), norm.running_var.clone()
        x = F.batch_norm(x, *moments, norm.weight, norm.bias, train).relu()
        x = F.max_pool2d(x, 2) if pool else x
    close(model.train(train)(pictures), unit(model.out(x.flatten(1))), 1e-4)


def test_pieces_of_words_and_which_of_them_have_rows():
    red, cat = ["<red>", "<re", "red", "ed>"], ["<cat>", "<ca", "cat", "at>"]
    assert clip.caption_pieces("Red, cat!") == [*red, *cat]
    assert clip.caption_pieces("aaaa a") == ["<aaaa>", "<aa", "aaa", "aa>", "<a>"]
    rows = clip.CaptionEncoder(["red car", "red"], 4).rows
    assert rows == {"<red>": 0, "<re": 1, "red": 2, "ed>": 3, "<car>": 4}


def test_the_caption_encoder_mixes_a_mean_of_rows():
    model = clip.CaptionEncoder(["red car", "red apple", "green apple"], 6).eval()
    rows = model.rows
    table, (norm, up, *_, down) = model.table.weight, model.mix
    captions = ["red apple", "Green car, unknown", "apple", "zz"]
    for caption, found in zip(captions, model(captions), strict=True):
        known = [p for p in clip.caption_pieces(caption) if p in rows]
        x = sum((table[rows[p]] / len(known) for p in known), torch.zeros(6))
        close(found, unit(down(F.gelu(up(norm(x))))), 1e-5)
    assert model([]).shape == (0, 6)


@torch.no_grad()
def test_minilm_is_transformers_bert():
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    config = BertConfig(**sizes, intermediate_size=1536)
    bert = BertModel(config, add_pooling_layer=False).eval()
    weights, _ = data.minilm()
    bert.load_state_dict({name: weights[name] for name in bert.state_dict()})
    sentences = ["A cat.", "the cat sits outside, and a dog beside it", "Ünïcode 3!"]
    model = clip.MiniLM()
    found = model.tokenizer.encode_batch(sentences)
    mask = torch.tensor([each.attention_mask for each in found])
    ids = torch.tensor([each.ids for each in found])
    assert mask.min() == 0, "one sentence is shorter"
    states = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    means = unit(torch.einsum("btd,bt->bd", states, mask.float()))
    close(model(sentences), means, 1e-5)
    close(model(sentences[:1]), means[:1], 1e-5)  # without its padding


def by_name(x):
    """EfficientNet-Lite0 from the names in its file, as a program of its own."""
    weights = data.efficientnet()

    def norm(x, name):
        parts = "weight", "bias", "running_mean", "running_var"
        w, b, mean, var = (weights[f"{name}.{p}"][:, None, None] for p in parts)
        return (x - mean) / (var + 1e-3).sqrt() * w + b

    def conv(x, name, stride=1):
        w = weights[f"{name}.weight"]
        reach = [(-(-n // stride) - 1) * stride + w.size(3) - n for n in x.shape[2:]]
        need = [max(n, 0) for n in reach[::-1]]
        x = F.pad(x, [n for m in need for n in (m // 2, m - m // 2)])
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
    last = norm(conv(maps[-1], "_conv_head"), "_bn1").clamp(0, 6)
    kept = [x.flatten(2) for x in maps[-4:]]
    kept = [part for x in kept for part in (x.mean(2), x.max(2).values)]
    return torch.cat([last.mean((2, 3)), *kept], 1)


@pytest.mark.parametrize("sides", [(64, 64), (47, 70)])
def test_efficientnet_is_what_its_file_says(sides):
    pictures = some_pictures(2, *sides)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    model = clip.EfficientNetLite()
    scaled = ((pictures / 255 - mean) / std).permute(0, 3, 1, 2)
    close(model(pictures), by_name(scaled), 2e-4)
    close(model.classes.weight, data.efficientnet()["_fc.weight"])


def test_roles_hold_out_drawers_and_families():
    """No picture is in two of them."""
    cases = itertools.product(("train", "validation", "test"), (KNOWN, ["emojitwo"]))
    shown = []
    for split, drawers in cases:
        places = clip.role(split, drawers)
        shown.append({p.numpy().tobytes() for p in EMOJI.pictures[places]})
    assert all(shown)
    assert not any(a & b for a, b in itertools.combinations(shown, 2))


class FreePairs(nn.Module):
    """A vector for each caption and each picture, all to be learnt."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(random(2, 7000, 4, dtype=torch.float32) / 100)

    def forward(self, places, _):
        return F.normalize(self.table[:, places], dim=-1).unbind()


@pytest.mark.parametrize("learned", [True, False])
def test_aligning_is_adamw_on_the_grouped_loss(learned):
    places = torch.tensor([3, 500, 2000, 4, 6999, 7, 8])
    concepts = EMOJI.concept[places]
    options = {"rate": 0.02, "decay": 0.3, "start": 7.0, "learned": learned}
    options |= {"epochs": 25, "batch": 3}
    model, losses = clip.align_pairs(FreePairs, places, generator(5), **options)
    twin, scale = FreePairs(), contrastive.LearnedScale(7.0).requires_grad_(learned)
    draws = generator(5)
    torch.randint(2**31, (), generator=draws)  # the seed of torch's own generator
    batches = clip.shuffled_batches(7, 3, draws)

    def loss():
        both = twin(places[at := next(batches)], None)
        return contrastive.contrastive_loss_grouped(*both, concepts[at], 1 / scale())

    plan = training.Recipe(50, rate=0.02, warmup=2, clip=math.inf)
    learnt = [*twin.parameters(), scale.log_scale]
    close(losses, cells.adamw(learnt, loss, plan, weight_decay=0.3), 1e-4)
    close(model.table, twin.table, 1e-3)
    assert not model.training


def test_shuffled_batches_hold_each_example_once_an_epoch():
    batches = clip.shuffled_batches(7, 3, generator())
    epochs = [torch.cat([next(batches), next(batches)]).tolist() for _ in range(9)]
    assert all(len({*epoch}) == 6 for epoch in epochs)
    assert {place for epoch in epochs for place in epoch} == {*range(7)}


def test_two_encoders_see_changed_pictures_and_drawn_captions():
    at, again = torch.tensor([2000, 3]), generator(8)
    model = clip.TwoEncoders(at, 8).eval()
    told, seen = model(at, generator(8))
    concepts = EMOJI.concept[at].tolist()
    texts = [clip.describe(c, again) for c in concepts]
    planes = clip.to_planes(EMOJI.pictures[at])
    close(told, model.captions(texts), 1e-5)
    close(seen, model.pictures.embed(clip.jitter(planes, again)), 1e-4)
    seen, told = model.all_vectors()
    close(seen[at], model.pictures(EMOJI.pictures[at]), 1e-4)
    close(told[concepts], model.captions([*map(clip.describe, concepts)]), 1e-5)


def test_two_heads_read_bare_and_tagged_captions_by_halves():
    places, kept = clip.role("train", KNOWN)[:400], clip.emoji_features()
    shown, model = EMOJI.concept[places], clip.TwoHeads().eval()
    bare = torch.rand(400, 1, generator=generator(8)) < 0.5
    told, seen = model(places, generator(8))
    close(
        told,
        unit(model.captions(bare * kept.bare[shown] + ~bare * kept.tagged[shown])),
        1e-4,
    )
    close(seen, unit(model.pictures(kept.pictures[places])), 1e-4)
    seen, told = model.all_vectors()
    close(seen, unit(model.pictures(kept.pictures)), 1e-4)
    both = [unit(model.captions(x)) for x in (kept.bare, kept.tagged)]
    close(told, unit(sum(both)), 1e-4)


def test_found_within_counts_who_is_nearer():
    asked, offered = random(2, 8, 3, dtype=torch.float32)
    fits = torch.rand(8, 8, generator=generator(2)) < 0.3
    fits[:, 5] = True
    for k in range(1, 9):
        found = clip.found_within(asked, offered, fits, k)
        for row, fit, is_found in zip(asked, fits, found, strict=True):
            cosines = offered @ row
            assert is_found == ((cosines[~fit] >= cosines[fit].max()).sum() < k)
    same, own = torch.ones(4, 2), torch.eye(4, dtype=torch.bool)
    assert not clip.found_within(same, same, own, 3).any()  # all are alike
