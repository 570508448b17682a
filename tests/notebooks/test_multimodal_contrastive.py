"""The cells of multimodal/contrastive against loops in Python, OpenCLIP, arithmetic.

The module is imported whole and its functions are looked up at each call, so that
a check can swap a damaged cell in and see these tests fail.
"""

import copy
import functools
import importlib.util
import math
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from cells import (
    close,
    fails,
    generator,
    module_at,
    random,
    refusal,
    refuses,
    run_exercises,
    solutions_pass,
)
from hypothesis import given, settings
from torch import nn

from fieldguide.multimodal import contrastive as c

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10_000)
batches = st.integers(1, 7)
temperatures = st.sampled_from([0.01, 0.07, 0.5, 1, 3.0])
NAN, INF = float("nan"), float("inf")


def unit(*shape, seed=0, dtype=torch.double):
    rows = random(*shape, seed=seed, dtype=dtype)
    return rows / rows.norm(dim=-1, keepdim=True)


def pairs(B, D=4, seed=0, dtype=torch.double):
    return unit(2, B, D, seed=seed, dtype=dtype).unbind()


def with_zero(*shape):
    rows = unit(*shape)
    rows[-1] = 0
    return rows


def changed(rows, value):
    rows = rows.clone()
    rows[0, -1] = value
    return rows


def by_hand(text, image, temperature, groups=None):
    """The loss, entry by entry; each row's target shared within its group."""
    B = len(text)
    groups = list(range(B)) if groups is None else groups
    total = 0.0
    for rows, others in ((text, image), (image, text)):
        for i in range(B):
            logits = [float(rows[i] @ others[j]) / temperature for j in range(B)]
            top = max(logits)
            log_sum = top + math.log(sum(math.exp(z - top) for z in logits))
            mates = [j for j in range(B) if groups[j] == groups[i]]
            total -= sum(logits[j] - log_sum for j in mates) / len(mates)
    return total / (2 * B)


@functools.cache
def clip_loss():
    """OpenCLIP's, from its file: the package itself wants torchvision."""
    path = Path(importlib.util.find_spec("open_clip").origin).with_name("loss.py")
    return module_at(path).ClipLoss()


FORMS = ["contrastive_loss", "contrastive_loss_fast"]


# Directions


@quick
@given(seed=seeds, size=st.sampled_from([1e-9, 1.0, 1e9]))
def test_units_keep_their_direction(seed, size):
    x = size * random(3, 2, 5, seed=seed)
    made = c.to_unit(x)
    for row, one in zip(x.flatten(0, 1), made.flatten(0, 1), strict=True):
        length = math.sqrt(sum(float(v) ** 2 for v in row))
        close(one, row / length)
    assert made.shape == x.shape
    close(c.to_unit(x[0, 0]), made[0, 0])


def test_units_refuse_what_has_no_direction():
    for bad in (
        [1.0, 2.0],
        torch.tensor([1, 2]),
        torch.tensor(1.0),
        with_zero(3, 4),
        torch.zeros(2, 3),
        changed(unit(3, 4), NAN),
        changed(unit(3, 4), INF),
    ):
        refuses("x", c.to_unit, bad)
        refuses("rows", c.to_unit, bad, "rows", shown="")


def test_units_pass_gradients_on():
    x = random(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(c.to_unit, x)


# The encoder


def test_the_encoder_maps_both_kinds_to_the_sphere():
    model = c.SimpleMultimodalEncoder(text_dim=5, image_dim=7, shared_dim=3).double()
    words, pixels = random(4, 5), random(6, 7, seed=1)
    text, image = model(words, pixels)
    for made, x, layer in (
        (text, words, model.text_encoder),
        (image, pixels, model.image_encoder),
    ):
        expected = x @ layer.weight.mT + layer.bias
        close(made, expected / expected.norm(dim=1, keepdim=True))
    assert text.shape == (4, 3) and image.shape == (6, 3)


def test_the_articles_call_works_as_it_stands():
    model = c.SimpleMultimodalEncoder(text_dim=512, image_dim=2048, shared_dim=256)
    text_emb, image_emb = model(torch.randn(32, 512), torch.randn(32, 2048))
    loss = c.contrastive_loss(text_emb, image_emb)
    assert math.log(32) - 0.5 < loss.item() < 5
    assert sorted(n for n, _ in model.named_parameters()) == [
        "image_encoder.bias",
        "image_encoder.weight",
        "text_encoder.bias",
        "text_encoder.weight",
    ]


def test_weights_are_drawn_as_linear_draws_them():
    model = c.SimpleMultimodalEncoder(400, 100, 300, generator=generator(3))
    for layer, wide in (model.text_encoder, 400), (model.image_encoder, 100):
        for part in layer.weight, layer.bias:
            bound = wide**-0.5
            assert part.abs().max() <= bound * (1 + 1e-6)
            assert part.max() > 0.97 * bound and part.min() < -0.97 * bound
            assert part.mean().abs() < 0.1 * bound
    again = c.SimpleMultimodalEncoder(400, 100, 300, generator=generator(3))
    other = c.SimpleMultimodalEncoder(400, 100, 300)
    for a, b, d in zip(
        model.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b) and not torch.equal(a, d)


def test_the_encoder_refuses_bad_sizes_and_features():
    for name in "text_dim", "image_dim", "shared_dim":
        for bad in 0, -1, 2.0, True, "3":
            sizes = {"text_dim": 2, "image_dim": 3, "shared_dim": 4, name: bad}
            refuses(name, c.SimpleMultimodalEncoder, **sizes)
    model = c.SimpleMultimodalEncoder(1, 3, 1)
    good = {"text_features": torch.ones(2, 1), "image_features": torch.ones(2, 3)}
    model(**good)
    for name, fine in good.items():
        for bad in (
            fine[0],
            fine[None],
            fine[:, :, None],
            fine[:, :0],
            torch.cat([fine, fine], 1),
            fine.long(),
            fine.tolist(),
            changed(fine, NAN),
            changed(fine, INF),
        ):
            refuses(name, model.forward, **{**good, name: bad})


def test_an_embedding_of_zero_is_refused():
    model = c.SimpleMultimodalEncoder(2, 3, 4)
    nn.init.zeros_(model.image_encoder.weight)
    nn.init.zeros_(model.image_encoder.bias)
    name = "the embedding of image_features"
    refuses(name, model.forward, torch.ones(2, 2), torch.ones(2, 3))


# The loss


@quick
@given(seed=seeds, B=batches, temperature=temperatures)
def test_the_loss_is_the_sum_written_out(seed, B, temperature):
    text, image = pairs(B, seed=seed)
    expected = by_hand(text, image, temperature)
    for form in FORMS:
        loss = getattr(c, form)(text, image, temperature)
        assert loss.shape == ()
        close(loss.item(), expected, 1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_the_temperature_is_the_articles(form):
    text, image = pairs(5)
    loss = getattr(c, form)
    close(loss(text, image), loss(text, image, temperature=0.07))


@quick
@given(seed=seeds, B=batches, scale=st.sampled_from([1.0, 1 / 0.07, 100.0]))
def test_values_and_gradients_are_openclips(seed, B, scale):
    inputs = [x.clone().requires_grad_() for x in pairs(B, 6, seed)]
    inputs.append(torch.tensor(scale, dtype=torch.double, requires_grad=True))
    text, image, factor = inputs
    theirs = clip_loss()(image, text, factor)
    wanted = torch.autograd.grad(theirs, inputs)
    for form in FORMS:
        ours = getattr(c, form)(text, image, 1 / factor)
        close(ours, theirs, 1e-9)
        for mine, other in zip(torch.autograd.grad(ours, inputs), wanted, strict=True):
            close(mine, other, 1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_captions_and_pictures_may_change_places(form):
    text, image = pairs(6)
    loss = getattr(c, form)
    close(loss(text, image), loss(image, text))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    close(loss(text, image), loss(text[order], image[order]))


@pytest.mark.parametrize("form", FORMS)
def test_types_stay_and_halves_are_served(form):
    for kind, tolerance in (
        (torch.float32, 1e-5),
        (torch.float16, 2e-2),
        (torch.bfloat16, 1e-1),
    ):
        text, image = (x.to(kind).requires_grad_() for x in pairs(5, seed=4))
        loss = getattr(c, form)(text, image, 0.5)
        assert loss.dtype == torch.float32
        exact = c.contrastive_loss(text.double(), image.double(), 0.5)
        close(loss.double(), exact, tolerance)
        loss.backward()
        assert text.grad.dtype == kind and text.grad.isfinite().all()


@pytest.mark.parametrize("form", [*FORMS, "contrastive_loss_grouped"])
def test_the_sum_over_a_batch_in_half_precision_stays_finite(form):
    """Each pair loses 200 nats and more, all together what float16 cannot hold."""
    B = 400
    signs = torch.ones(B, 1, dtype=torch.float16)
    signs[::2] = -1
    inputs = [x.requires_grad_() for x in (signs, -signs)]
    groups = [torch.arange(B)] if "grouped" in form else []
    loss = getattr(c, form)(*inputs, *groups, 0.01)
    assert B * loss > torch.finfo(torch.float16).max
    close(loss.item(), 200 + math.log(B / 2), 1e-3)
    loss.backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in inputs)


@pytest.mark.parametrize("form", [*FORMS, "match_shares", "contrastive_loss_grouped"])
def test_bad_pairs_are_refused(form):
    groups = {"groups": torch.arange(3)} if "grouped" in form else {}
    fn = getattr(c, form)
    text, image = pairs(3)
    good = {"text_emb": text, "image_emb": image, **groups}
    for name in "text_emb", "image_emb":
        for bad in (
            text.tolist(),
            text.long(),
            text[0],
            text[None],
            text[:0],
            text[:, :0],
            with_zero(3, 4),
            changed(text, NAN),
            changed(text, -INF),
        ):
            refuses(name, fn, **{**good, name: bad})
    for bad in text[:2], text[:, :3], text.float():
        refuses("image_emb", fn, **{**good, "image_emb": bad})
    for bad in 0, 0.0, -0.07, NAN, INF, "0.07", None, 1e-320, torch.ones(2):
        refuses("temperature", fn, **good, temperature=bad)
    fn(**good, temperature=torch.tensor([0.5]).squeeze())
    fn(**good, temperature=1)


def test_logits_that_overflow_are_refused():
    for form in FORMS:
        loss = getattr(c, form)
        text, image = pairs(3, dtype=torch.float32)
        for bad in 1e-39, 1e-40:
            refuses("temperature", loss, text, image, bad)
        assert loss(text, image, 1e-37).isfinite()
        refuses("temperature", loss, 3e18 * text, 3e18 * image, 0.01)
        refuses("temperature", loss, 3e18 * text, image, 1e-21)
        refuses("temperature", loss, text, 3e18 * image, 1e-21)
        assert loss(3e18 * text, 3e18 * image, 1.0).isfinite()
        refuses("text_emb", loss, 3e30 * text, image)
        text[1] *= 3e18
        refuses("temperature", loss, text, 3e18 * image, 0.01)
        refuses("temperature", loss, 3e18 * image, text, 0.01)


def test_one_pair_of_one_number_is_a_batch():
    one = torch.ones(1, 1)
    for form in FORMS:
        assert getattr(c, form)(one, -one) == 0


def test_labels_are_made_where_the_embeddings_are():
    text, image = pairs(3)
    with mock.patch.object(torch, "arange", wraps=torch.arange) as made:
        c.contrastive_loss(text, image)
    assert made.call_args.kwargs["device"] == text.device


# Its number


@quick
@given(B=st.integers(1, 40))
def test_alike_pairs_lose_the_logarithm_of_their_number(B):
    alike = unit(1, 4).expand(B, 4)
    for form in FORMS:
        close(getattr(c, form)(alike, alike).item(), math.log(B))


def test_shares_are_softmaxes_both_ways():
    text, image = pairs(4)
    for options in {}, {"temperature": 0.3}:
        p, q = c.match_shares(text, image, **options)
        scaled = text @ image.mT / options.get("temperature", 0.07)
        powers = scaled.exp()
        close(p, powers / powers.sum(1, keepdim=True))
        close(q, powers / powers.sum(0, keepdim=True))


def test_the_gradient_is_what_the_shares_say():
    table = (unit(5, 5) @ unit(5, 5, seed=1).mT).requires_grad_()
    eye = torch.eye(5, dtype=torch.double)
    c.contrastive_loss(table, eye, 0.3).backward()
    p, q = c.match_shares(table.detach(), eye, 0.3)
    close(table.grad, (p + q - 2 * eye) / (2 * 5 * 0.3))


@pytest.mark.parametrize(
    ("B", "D", "temperature"), [(32, 256, 0.2), (64, 512, 0.1), (200, 300, 0.3)]
)
def test_the_first_loss_is_about_what_is_promised(B, D, temperature):
    losses = [c.contrastive_loss(*pairs(B, D, s), temperature) for s in range(30)]
    about = c.loss_at_start(B, D, temperature)
    excess = about - math.log(B)
    found = (sum(losses) / 30).item() - math.log(B)
    assert abs(found - excess) < 0.3 * excess
    close(excess, 1 / (2 * D * temperature**2))


def test_the_first_loss_refuses_what_is_not_above_zero():
    for name in "B", "D", "temperature":
        for bad in 0, -1, NAN:
            good = {"B": 2, "D": 3, "temperature": 0.5}
            refuses(name, c.loss_at_start, **{**good, name: bad})
    c.loss_at_start(1, 1, 0.5)
    c.loss_at_start(0.5, 0.5, 0.5)


# The scale


def test_the_scale_starts_where_clip_starts_it():
    scale = c.LearnedScale()
    close(scale().item(), 1 / 0.07, 1e-6)
    assert [n for n, _ in scale.named_parameters()] == ["log_scale"]
    close(scale.log_scale.item(), math.log(1 / 0.07), 1e-6)
    assert scale.log_scale.shape == ()


def test_the_scale_is_limited_and_comes_down_again():
    for start, most in (90.0, 100.0), (2.0, 2.0):
        scale = c.LearnedScale(start, most) if most < 100 else c.LearnedScale(start)
        optimizer = torch.optim.SGD(scale.parameters(), 1.0)
        for direction, expected in (-1, most), (1, most / math.exp(0.5)):
            optimizer.zero_grad()
            (direction * 0.5 * scale.log_scale).backward()
            optimizer.step()
            made = scale()
            close(made.item(), expected, 1e-5)
            assert made.requires_grad
    scale = c.LearnedScale(0.5)
    close(scale().item(), 0.5, 1e-6)


def test_the_scales_gradient_is_the_scale():
    scale = c.LearnedScale(3.0)
    scale().backward()
    close(scale.log_scale.grad.item(), 3.0, 1e-6)


def test_the_scale_refuses_bad_limits():
    for bad in 0.0, -1.0, NAN, 100.5, INF:
        refuses("start", c.LearnedScale, bad)
    for bad in 0.0, -1.0, NAN, INF:
        refuses("most", c.LearnedScale, 1.0, bad)
    c.LearnedScale(0.5, 0.5)
    c.LearnedScale(100.0)


# Groups


@quick
@given(seed=seeds, B=batches, temperature=temperatures, data=st.data())
def test_grouped_targets_are_shared_evenly(seed, B, temperature, data):
    groups = data.draw(st.lists(st.integers(0, 2), min_size=B, max_size=B))
    text, image = pairs(B, seed=seed)
    loss = c.contrastive_loss_grouped(text, image, torch.tensor(groups), temperature)
    close(loss.item(), by_hand(text, image, temperature, groups), 1e-10)


def test_groups_of_one_change_nothing():
    text, image = pairs(5)
    for groups in torch.arange(5), torch.tensor([9, -3, 0, 4, 1]).int():
        grouped = c.contrastive_loss_grouped(text, image, groups)
        close(grouped, c.contrastive_loss(text, image))
    groups = torch.tensor([False, True])
    grouped = c.contrastive_loss_grouped(text[:2], image[:2], groups)
    close(grouped, c.contrastive_loss(text[:2], image[:2]))


def test_equal_captions_need_no_groups():
    groups = torch.tensor([0, 1, 1, 2, 1, 0])
    text = unit(3, 4)[groups].requires_grad_()
    image = unit(6, 4, seed=1).requires_grad_()
    plain = c.contrastive_loss(text, image)
    grouped = c.contrastive_loss_grouped(text, image, groups)
    close(plain, grouped)
    (_, one), (_, two) = (
        torch.autograd.grad(loss, (text, image)) for loss in (plain, grouped)
    )
    close(one, two)


def test_a_groups_floor_is_the_logarithm_of_its_size():
    groups = torch.tensor([0, 0, 0, 1])
    perfect = torch.eye(4, dtype=torch.double)[groups]
    for loss in (
        c.contrastive_loss(perfect, perfect, 0.01),
        c.contrastive_loss_grouped(perfect, perfect, groups, 0.01),
    ):
        close(loss.item(), 3 / 4 * math.log(3), 1e-9)


def test_bad_groups_are_refused():
    text, image = pairs(3)
    whole = torch.arange(3)
    for bad in (
        [0, 1, 2],
        whole[:2],
        whole[:, None],
        whole.double(),
        whole.to(torch.complex64),
    ):
        refuses("groups", c.contrastive_loss_grouped, text, image, bad)


# The fast form


def fast(*inputs):
    """(loss, how often the plain form was called for it)."""
    plain = mock.Mock(wraps=c.contrastive_loss)
    with mock.patch.object(c, "contrastive_loss", plain):
        return c.contrastive_loss_fast(*inputs), plain.call_count


def test_the_fast_form_does_its_own_work_where_it_can():
    for kind in torch.float32, torch.float64:
        for temperature in 0.07, torch.tensor(0.02):
            text, image = pairs(6, 32, dtype=kind)
            loss, calls = fast(text, image, temperature)
            assert calls == 0
            expected = c.contrastive_loss(text, image, temperature)
            close(loss, expected, 1e-5 if kind is torch.float32 else 1e-12)
    for kind in torch.float16, torch.bfloat16:
        text, image = (x.to(kind) for x in pairs(6, 32))
        assert fast(text, image, 0.07)[1] == 1


@pytest.mark.parametrize("rows", [True, False])
def test_opposite_vectors_fall_back_to_the_plain_form(rows):
    """One row, or one column, lies 200 below the largest logit."""
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    inputs = [x.requires_grad_() for x in ((image, text) if rows else (text, image))]
    loss, calls = fast(*inputs, 0.01)
    assert calls == 1 and loss.isfinite()
    expected = c.contrastive_loss(*inputs, 0.01)
    assert torch.equal(loss, expected)
    for one, two in zip(
        torch.autograd.grad(loss, inputs),
        torch.autograd.grad(expected, inputs),
        strict=True,
    ):
        assert one.isfinite().all() and torch.equal(one, two)


@pytest.mark.parametrize("rows", [True, False])
def test_it_falls_back_just_where_sums_lose_digits(rows):
    """A row, or a column, whose sum is a little above the limit, or below it."""
    limits = torch.finfo(torch.float32)
    edge = math.log(limits.eps / limits.tiny)  # 71 nats
    for gap, expected in (edge - 0.1, 0), (edge + 0.1, 1), (edge + 40, 1):
        # logits: 0 and minus infinity, nearly, in one row; -gap in the other
        one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        two = torch.tensor([[0.0, -500.0], [-500.0, -gap]])
        loss, calls = fast(*((two, one) if rows else (one, two.T.contiguous())), 1.0)
        assert calls == expected, gap
        close(loss.item(), by_hand(two, one, 1.0), 1e-5)


def test_the_fast_form_scales_its_gradient():
    inputs = [x.requires_grad_() for x in (*pairs(5), torch.tensor(0.2).double())]
    (3 * c.contrastive_loss_fast(*inputs)).backward()
    wanted = torch.autograd.grad(3 * c.contrastive_loss(*inputs), inputs)
    for mine, other in zip(inputs, wanted, strict=True):
        close(mine.grad, other, 1e-9)


def test_the_fast_form_cannot_be_differentiated_twice():
    """Nor may it pass for a constant beside another part of the loss."""
    inputs = [x.requires_grad_() for x in pairs(3)]
    loss = c.contrastive_loss_fast(*inputs)
    for whole in loss, loss + inputs[0].square().sum():
        with refusal("^create_graph = True, .*False: contrastive_loss has"):
            torch.autograd.grad(whole, inputs, create_graph=True)
    torch.autograd.grad(loss, inputs)


def test_the_fast_form_leaves_its_inputs_alone():
    text, image = pairs(4)
    copies = copy.deepcopy((text, image))
    inputs = [x.requires_grad_() for x in (text, image)]
    loss = c.contrastive_loss_fast(*inputs)
    loss.backward(retain_graph=True)
    once = [x.grad.clone() for x in inputs]
    loss.backward()
    for x, before, grad in zip(inputs, copies, once, strict=True):
        assert torch.equal(x.detach(), before)
        close(x.grad, 2 * grad)


# Words, pictures, recall


def test_words_are_small_sorted_and_different():
    assert c.words_of("The tiger, the TIGER-cat: 2 t-shirts") == [
        "cat", "shirts", "t", "the", "tiger",
    ]  # fmt: skip
    for bad in "", "  ", "12 !", None, ["a"], b"a":
        refuses("text", c.words_of, bad)


def test_bags_have_length_one_over_their_known_words():
    bags = c.bag_of_words(["a B b z", "c", "z"], ["c", "b", "a"])
    half = 2**-0.5
    assert bags.shape == (3, 3) and bags.dtype == torch.float32
    close(bags, torch.tensor([[0, half, half], [1.0, 0, 0], [0, 0, 0]]), 1e-6)


def test_bags_refuse_what_is_empty():
    refuses("texts", c.bag_of_words, [], ["a"])
    for bad in [], ["a", "a"]:
        refuses("vocabulary", c.bag_of_words, ["a"], bad)
    refuses("text", c.bag_of_words, ["a", ""], ["a"], shown="''")
    c.bag_of_words(["a"], ["a"])


def test_thumbnails_are_means_of_squares():
    pictures = torch.randint(256, (2, 8, 8, 3), generator=generator())
    pictures = pictures.to(torch.uint8)
    for side in 1, 2, 8:
        small = c.thumbnails(pictures, side)
        assert small.shape == (2, 3 * side * side)
        small = small.view(2, 3, side, side)
        size = 8 // side
        for n in range(2):
            for colour in range(3):
                for i in range(side):
                    for j in range(side):
                        part = pictures[n, i * size :, j * size :, colour]
                        mean = part[:size, :size].double().mean() / 255
                        close(small[n, colour, i, j].double(), mean, 1e-5)
    assert torch.equal(c.thumbnails(pictures), c.thumbnails(pictures, 8))


def test_thumbnails_refuse_other_types_and_shapes():
    good = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    for bad in (
        good.float(),
        good.long(),
        good.numpy(),
        good.tolist(),
        good[0],
        good[None],
        good[:0],
        good[:, :4],
        good[:, :, :4],
        good[..., :1],
        good[..., [0, 1, 2, 2]],
        good[..., None],
        good.permute(0, 3, 1, 2),
    ):
        refuses("pictures", c.thumbnails, bad)
    for bad in 0, 3, 16, 2.0, True, -8:
        refuses("side", c.thumbnails, good, bad)
    c.thumbnails(good[:1], 1)


@quick
@given(seed=seeds, B=batches)
def test_recall_counts_the_rows_whose_own_is_among_the_best(seed, B):
    table = torch.randint(4, (B, B), generator=generator(seed)).double()
    for k in range(1, B + 1):
        hits = 0
        for i in range(B):
            rivals = [j for j in range(B) if j != i and table[i, j] >= table[i, i]]
            hits += len(rivals) < k
        found = c.recall_hits(table, k)
        assert type(found) is int and found == hits
    assert c.recall_hits(table) == c.recall_hits(table, 1)


def test_recall_refuses_bad_tables():
    table = torch.eye(3)
    for bad in (
        table[0],
        table[:2],
        table[:, :2],
        table[None],
        table[..., None],
        table.tolist(),
        changed(table, NAN),
    ):
        refuses("similarity", c.recall_hits, bad)
    for bad in 0, 4, 1.0, True, -1:
        refuses("k", c.recall_hits, table, bad)
    assert c.recall_hits(torch.eye(3).long(), 3) == 3


# The exercises


def exercises():
    """Made anew each time, of the functions as they are at the time."""
    return run_exercises("multimodal/contrastive", c, also=["group-toy-run"])


def test_solutions_pass_their_checks():
    solutions_pass(exercises())


def test_checks_accept_what_is_as_good():
    book = exercises()

    def sorted_places(table):
        made = []
        for i, row in enumerate(table.tolist()):
            made.append(sum(value >= row[i] for value in row))
        return torch.tensor(made)

    book.check_places(sorted_places)

    def sums(text, image):
        classes = text.sum(1)
        return (image @ (classes / classes.norm(dim=1, keepdim=True)).T).argmax(1)

    book.check_classify(sums)

    def by_columns(text, image, temperature, size):
        return book.loss_in_pieces(image, text, temperature, size)

    def one_by_one(text, image, temperature, size):
        rows, columns = [], torch.full((len(text),), -INF, dtype=text.dtype)
        for x in text:
            logits = torch.mv(image, x) / temperature
            rows.append(torch.logsumexp(logits, 0))
            columns = torch.logaddexp(columns, logits)
        own = torch.einsum("bd,bd->b", text, image) / temperature
        return (torch.stack(rows) + columns).mean() / 2 - own.mean()

    book.check_loss_in_pieces(by_columns)
    book.check_loss_in_pieces(one_by_one)


def test_checks_fail_the_empty_cell_and_wrong_answers():
    book = exercises()
    fails(
        book.check_places,
        lambda table: (table > table.diagonal()[:, None]).sum(1),
        lambda table: (table > table.diagonal()[:, None]).sum(1) + 1,
        lambda table: (table >= table.diagonal()).sum(0),
        lambda table: book.places(table).tolist(),
        lambda table: book.places(table).double(),
    )
    fails(
        book.check_classify,
        lambda text, image: (image @ text.mean(1).T).argmax(1),
        lambda text, image: (image @ text[:, 0].T).argmax(1),
        lambda text, image: (text @ image.T).amax(1).argmax(0),
        lambda text, image: book.classify(text, -image),
    )

    def unsafe(text, image, scale, bias):
        logits = scale * text @ image.T + bias
        signs = 2 * torch.eye(len(logits)).to(logits) - 1
        return (-signs * logits).exp().log1p().sum() / len(logits)

    def over_all(*inputs):
        return book.sigmoid_loss(*inputs) / len(inputs[0])

    fails(
        book.check_sigmoid_loss,
        unsafe,
        over_all,
        lambda text, image, scale, bias: book.sigmoid_loss(text, image, scale, -bias),
        lambda text, image, scale, bias: c.contrastive_loss(text, image, 1 / scale),
    )

    def rows_alone(text, image, temperature, size):
        logits = text @ image.T / temperature
        return (logits.logsumexp(1) - logits.diagonal()).mean()

    def of_parts(text, image, temperature, size):
        parts = zip(text.split(size), image.split(size), strict=True)
        return sum(c.contrastive_loss(*p, temperature) * len(p[0]) for p in parts) / 13

    def bare(text, image, temperature, size):
        powers = (text @ image.T / temperature).exp()
        own = (text * image).sum(1) / temperature
        return ((powers.sum(0).log() + powers.sum(1).log()) / 2 - own).mean()

    def whole(text, image, temperature, size):
        return c.contrastive_loss(text, image, temperature)

    def too_large(text, image, temperature, size):
        return book.loss_in_pieces(text, image, temperature, 2 * size)

    wrong = rows_alone, of_parts, bare, whole, too_large
    fails(book.check_loss_in_pieces, *wrong)
