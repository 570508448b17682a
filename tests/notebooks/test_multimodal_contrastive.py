"""The cells of multimodal/contrastive against loops in Python, OpenCLIP, arithmetic."""

import functools
import importlib.util
import itertools
import math
from pathlib import Path
from unittest import mock

import cells
import hypothesis.strategies as st
import pytest
import torch
from cells import cases, close, generator, random, refuses, seeds, unit

from fieldguide.multimodal import contrastive as c

batches, NAN, INF = st.integers(1, 7), math.nan, math.inf
FORMS = ["contrastive_loss", "contrastive_loss_fast"]


def pairs(B, D=4, seed=0, dtype=torch.double):
    return unit(random(2, B, D, seed=seed, dtype=dtype)).unbind()


def by_hand(text, image, temperature, groups):
    """The loss, entry by entry; each row's target shared within its group."""
    B, total = len(text), 0.0
    for rows, others in ((text, image), (image, text)):
        for i in range(B):
            logits = torch.stack([rows[i] @ other for other in others]) / temperature
            mates = [j for j in range(B) if groups[j] == groups[i]]
            total -= logits.log_softmax(0)[mates].mean().item()
    return total / (2 * B)


@functools.cache
def clip_loss():
    """OpenCLIP's, from its file: the package itself wants torchvision."""
    path = Path(importlib.util.find_spec("open_clip").origin).with_name("loss.py")
    return cells.module_at(path).ClipLoss()


@cases(seed=seeds, size=st.sampled_from([1e-9, 1.0, 1e9]))
def test_units_keep_their_direction(seed, size):
    x = size * random(3, 2, 5, seed=seed)
    close(c.to_unit(x), unit(x))
    close(c.to_unit(x[0, 0]), unit(x)[0, 0])


def test_the_encoder_maps_both_kinds_to_the_sphere():
    model = c.SimpleMultimodalEncoder(text_dim=5, image_dim=7, shared_dim=3).double()
    inputs = random(4, 5), random(6, 7, seed=1)
    layers = model.text_encoder, model.image_encoder
    for x, layer, made in zip(inputs, layers, model(*inputs), strict=True):
        close(made, unit(x @ layer.weight.mT + layer.bias))


def test_weights_are_drawn_as_linear_draws_them():
    model, again, other = (
        c.SimpleMultimodalEncoder(400, 100, 300, generator=draws)
        for draws in (generator(3), generator(3), None)
    )
    for name, part in model.named_parameters():
        share = part * (400 if name.startswith("text") else 100) ** 0.5
        assert 0.97 < share.max() <= 1 + 1e-6 and -1 - 1e-6 <= share.min() < -0.97
        assert share.mean().abs() < 0.1
        assert torch.equal(part, again.get_parameter(name))
        assert not torch.equal(part, other.get_parameter(name))


@cases(seed=seeds, B=batches, scale=st.sampled_from([1.0, 1 / 0.07, 100.0]))
def test_values_and_gradients_are_openclips(seed, B, scale):
    """With a temperature that learns; 0.07 without one."""
    inputs = [x.clone().requires_grad_() for x in pairs(B, 6, seed)]
    inputs.append(torch.tensor(scale, dtype=torch.double, requires_grad=True))
    text, image, factor = inputs
    theirs = 3 * clip_loss()(image, text, factor)
    wanted = torch.autograd.grad(theirs, inputs)
    for form in FORMS:
        loss = getattr(c, form)
        close(loss(text, image), c.contrastive_loss(text, image, 0.07), 1e-12)
        ours = 3 * loss(text, image, 1 / factor)
        close(ours, theirs, 1e-9)
        close(torch.autograd.grad(ours, inputs), wanted, 1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_types_stay_and_halves_are_served(form):
    loss, one = getattr(c, form), torch.ones(1, 1)
    kinds = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
    for kind, tolerance in kinds.items():
        text, image = (x.to(kind).requires_grad_() for x in pairs(5, seed=4))
        found = loss(text, image, 0.5)
        assert found.dtype == torch.float32
        exact = c.contrastive_loss(text.double(), image.double(), 0.5)
        close(found.double(), exact, tolerance)
        found.backward()
        assert text.grad.dtype == kind and text.grad.isfinite().all()
    for temperature in 1, torch.tensor(2.0), torch.tensor(0.5).double():
        assert loss(one, -one, temperature) == 0
    text, image = pairs(3, dtype=torch.float32)
    for size, temperature in (1, 1e-37), (3e18, 1.0):
        assert loss(size * text, size * image, temperature).isfinite()
    with mock.patch.object(c, "require_pairs"):  # labels are made where the rows are
        assert c.contrastive_loss(text.to("meta"), image.to("meta")).is_meta


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


def test_the_scale_learns_up_to_its_limit():
    for options, start, most in (
        ({}, 1 / 0.07, 100), ({"start": 90.0}, 90, 100), ({"start": 0.5}, 0.5, 100),
        ({"start": 2.0, "most": 2.0}, 2, 2), ({"start": 5.0, "most": 2.0}, 2, 2),
    ):  # fmt: skip
        scale = c.LearnedScale(**options)
        assert [n for n, _ in scale.named_parameters()] == ["log_scale"]
        scale().backward()
        for found in scale(), scale.log_scale.grad:
            close(found.item(), float(start), 1e-5)
        for step, expected in (9, most), (-0.5, most / math.exp(0.5)):
            with torch.no_grad():
                scale.log_scale += step  # beyond it, and down from there
            close(scale().item(), float(expected), 1e-5)


@cases(seed=seeds, temperature=st.sampled_from([0.01, 0.5, 1, 3.0]), data=st.data())
def test_grouped_targets_are_shared_evenly(seed, temperature, data):
    groups = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=7))
    text, image = pairs(len(groups), seed=seed)
    loss = c.contrastive_loss_grouped(text, image, torch.tensor(groups), temperature)
    close(loss.item(), by_hand(text, image, temperature, groups), 1e-10)


def test_groups_of_one_or_of_equal_captions_change_nothing():
    text, image = pairs(6)
    image.requires_grad_()
    alike, unlike = torch.tensor([0, 1, 1, 2, 1, 0]), torch.tensor([9, -3, 0, 4, 1, 2])
    for told, groups in (text[alike], alike), (text, unlike.int()):
        plain = c.contrastive_loss(told, image)
        grouped = c.contrastive_loss_grouped(told, image, groups)
        close(*(torch.autograd.grad(x, image)[0] for x in (plain, grouped)))


def fast(*inputs):
    """(loss, how often the plain form was called for it)."""
    plain = mock.Mock(wraps=c.contrastive_loss)
    with mock.patch.object(c, "contrastive_loss", plain):
        return c.contrastive_loss_fast(*inputs), plain.call_count


def test_the_fast_form_does_its_own_work_where_it_can():
    kinds = torch.float32, torch.float64, torch.float16, torch.bfloat16
    for kind, temperature in itertools.product(kinds, (0.07, torch.tensor(0.02))):
        text, image = (x.to(kind) for x in pairs(6, 32))
        loss, calls = fast(text, image, temperature)
        assert calls == (torch.finfo(kind).bits < 32)
        close(loss, c.contrastive_loss(text, image, temperature), 1e-5)


@pytest.mark.parametrize("rows", [True, False])
def test_it_falls_back_just_where_sums_lose_digits(rows):
    """A row, or a column, whose sum is a little above the limit, or below it."""
    limits = torch.finfo(torch.float32)
    edge = math.log(limits.eps / limits.tiny)  # 71 nats
    for gap, expected in (edge - 0.1, 0), (edge + 0.1, 1), (edge + 129, 1):
        one = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
        two = torch.tensor([[0.0, -1.0], [-gap - 500, -gap]], requires_grad=True)
        loss, calls = fast(*((two, one) if rows else (one, two)), 1.0)
        assert calls == expected, gap
        close(loss.item(), by_hand(two, one, 1.0, [0, 1]), 1e-5)
        for x in torch.autograd.grad(loss, [one, two]):
            assert x.isfinite().all()


def test_the_fast_form_is_differentiated_once_and_leaves_its_inputs_alone():
    copies = pairs(4)
    inputs = [x.clone().requires_grad_() for x in copies]
    inputs.append(torch.tensor(0.5, dtype=torch.double, requires_grad=True))
    loss = c.contrastive_loss_fast(*inputs)
    once, again = (torch.autograd.grad(loss, inputs, retain_graph=True) for _ in "12")
    close(once, again)
    assert all(map(torch.equal, inputs, copies))
    with torch.no_grad():
        alone = loss.grad_fn.apply(torch.ones((), dtype=torch.double))
    close(alone[2], -(0.5**2) * once[2])  # of 1 / temperature, and no sum is left to do
    assert alone[3:] == (None,) * 4
    for whole in loss, loss + inputs[0].square().sum():  # nor a constant beside others
        with cells.refusal("^create_graph = True, .*loss has second derivatives$"):
            torch.autograd.grad(whole, inputs, create_graph=True)


def test_bags_have_length_one_over_their_known_words():
    found = c.words_of("The tiger, the TIGER-cat: 2 t-shirts")
    assert found == ["cat", "shirts", "t", "the", "tiger"]
    bags = c.bag_of_words(["a B b z", "c", "12 z", "z"], ["c", "b", "a"])
    half, none = 2**-0.5, [0.0, 0, 0]
    close(bags, torch.tensor([[0, half, half], [1, 0, 0], none, none]), 1e-6)


@cases(seed=seeds, B=batches)
def test_recall_counts_the_rows_whose_own_is_among_the_best(seed, B):
    table = torch.randint(4, (B, B), generator=generator(seed))
    rows = enumerate(table.tolist())
    places = [sum(x >= row[i] for x in row) for i, row in rows]
    for k in range(1, B + 1):
        found = c.recall_hits(table.double(), k)
        assert type(found) is int and found == sum(n <= k for n in places)
    assert c.recall_hits(table.float()) == places.count(1)
    assert c.recall_hits(torch.full((B + 1, B + 1), NAN)) == 0


TEXT, IMAGE = pairs(3)
WIDE, FEW, ZERO = TEXT[None], TEXT[:0], TEXT * torch.tensor([[1], [1], [0]])
NO_PAIRS = [WIDE, FEW, TEXT[:, :0], TEXT[:2], TEXT[:, :3], TEXT.float(), ZERO]
NO_PAIRS += [TEXT * NAN, TEXT.index_fill(0, torch.tensor([1]), -INF)]
COLD = [0.0, -0.07, 1e-320, torch.ones(2)]
LOSS = {"text_emb": TEXT, "image_emb": IMAGE, "temperature": 0.5}
BAD_LOSS = {"text_emb": NO_PAIRS, "image_emb": NO_PAIRS, "temperature": COLD}
SINGLE = {"text_emb": TEXT.float(), "image_emb": IMAGE.float(), "temperature": 0.01}
LONG = [3e30 * TEXT.float(), 3e36 * TEXT.float()]
BAD_SINGLE = {"text_emb": LONG, "image_emb": LONG, "temperature": [1e-39, 1e-40]}
WHOLE, TABLE = torch.arange(3), torch.eye(3)
SIZES = {"text_dim": 1, "image_dim": 3, "shared_dim": 1}

REFUSALS = [
    ("to_unit", {"x": TEXT}, {"x": [torch.tensor(1.0), FEW, *NO_PAIRS[-3:]]}),
    ("SimpleMultimodalEncoder", SIZES, {}),
    *((form, LOSS, BAD_LOSS) for form in [*FORMS, "require_pairs"]),
    *((form, SINGLE, BAD_SINGLE) for form in FORMS),
    ("contrastive_loss_grouped", {**LOSS, "groups": WHOLE},
     {**BAD_LOSS, "groups": [WHOLE[:2], WHOLE[:, None]]}),
    ("LearnedScale", {"start": 1.0, "most": 1}, {}),
    ("words_of", {"text": "a"}, {"text": [b"a", ["a"]]}),
    ("bag_of_words", {"texts": ["a", ""], "vocabulary": ["a"]},
     {"texts": [["a", 3]], "vocabulary": [{"a"}, ["a", None], ["a", "a", "b"]]}),
    ("recall_hits", {"similarity": TABLE, "k": 3},
     {"similarity": [TABLE[:2], TABLE[:, :2], TABLE[:0, :0]]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "good", "bad"), REFUSALS)
def test_bad_input_is_refused_by_name(name, good, bad):
    cells.refuses_all(getattr(c, name), good, **bad)
    for argument, values in bad.items():  # by its own name
        refuses(argument, getattr(c, name), **{**good, argument: values[-1]})


def test_features_of_another_width_are_refused():
    good = {"text_features": torch.ones(2, 1), "image_features": torch.ones(2, 3)}
    bad = {k: [x[0], x[:, :0], torch.cat([x, x], 1)] for k, x in good.items()}
    model = c.SimpleMultimodalEncoder(1, 3, 1)
    cells.refuses_all(model.forward, good, **bad)
    model.text_encoder.bias.requires_grad_(False).fill_(NAN)
    refuses("x", model, **good)


@pytest.mark.parametrize("form", FORMS)
def test_rows_that_do_not_fit_are_refused_in_pairs(form):
    """What is wrong with both at once, or with both together."""
    loss, (text, image) = getattr(c, form), pairs(3, dtype=torch.float32)
    uneven, long = torch.tensor([1, 3e18, 1])[:, None] * text, 3e18 * image
    for both in FEW, WIDE, TEXT[0], TEXT[:, :0], TEXT.long(), None:
        refuses("text_emb", loss, both, both)
    for *both, temperature in (
        (3e18 * text, long, 0.01), (uneven, long, 0.01), (long, uneven, 0.01),
        (3e18 * text, image, 1e-21), (text, long, 1e-21),
    ):  # fmt: skip
        refuses("temperature", loss, *both, temperature)


book = functools.cache(lambda: cells.run_exercises("multimodal/contrastive", c))
SLIPS = [
    ("places", ">= own", "> own", ">= own.mT"),
    ("places", "sum(1)", "sum(1).tolist()", "sum(0)"),
    ("places", "(similarity >=", "1 + (similarity >", "(-similarity >="),
    ("classify", "to_unit(text_emb.mean(1))", "text_emb.mean(1)", "text_emb[:, 0]"),
    ("classify", "(image_emb", "(-image_emb"),
    ("sigmoid_loss", "-F.logsigmoid(signs * logits)",
     "(-signs * logits).exp().log1p()"),
    ("sigmoid_loss", "/ len(logits)", "/ len(logits) ** 2"),
    ("sigmoid_loss", "+ bias", "- bias"),
    ("sigmoid_loss", "return",
     "return contrastive_loss(text_emb, image_emb, 1 / scale)"),
    ("loss_in_pieces", "logits.logsumexp(1)", "logits.exp().sum(1).log()"),
    ("loss_in_pieces", "split(size)", "split(2 * size)"),
    ("loss_in_pieces", "B = len(text_emb)",
     "return contrastive_loss(text_emb, image_emb, temperature)",
     "parts = zip(text_emb.split(size), image_emb.split(size))\n    return sum("
     "contrastive_loss(*p, temperature) * len(p[0]) / 13 for p in parts)"),
]  # fmt: skip


def test_a_slip_in_an_answer_is_noticed():
    for answer, piece, *slips in SLIPS:
        cells.notices(book(), answer, {piece: slips})


def test_answers_by_other_means_pass():
    def sorted_places(table):
        rows = enumerate(table.tolist())
        return torch.tensor([sum(x >= row[i] for x in row) for i, row in rows])

    def one_by_one(text, image, temperature, size):
        rows, columns = [], torch.full((len(text),), -INF, dtype=text.dtype)
        for x in text:
            logits = torch.mv(image, x) / temperature
            rows.append(torch.logsumexp(logits, 0))
            columns = torch.logaddexp(columns, logits)
        own = torch.einsum("bd,bd->b", text, image) / temperature
        return (torch.stack(rows) + columns).mean() / 2 - own.mean()

    book().check_places(sorted_places)
    book().check_classify(lambda t, i: (i @ c.to_unit(t.sum(1)).T).argmax(1))
    for right in one_by_one, lambda t, i, *rest: book().loss_in_pieces(i, t, *rest):
        book().check_loss_in_pieces(right)
