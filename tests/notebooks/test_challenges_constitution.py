"""The cells of challenges/constitution against a small model and closed forms."""

import functools
import math
import re
from unittest import mock

import cells
import pytest
import torch
from cells import close, generator, refusal, refuses, refuses_all

from fieldguide.challenges import constitution as page
from fieldguide.data import asset, smollm2_tokenizer
from fieldguide.transformers.gpt import GPTConfig
from fieldguide.transformers.real_model import (
    Llama,
    LlamaConfig,
    complete,
    trace_layers,
)
from fieldguide.transformers.training import Recipe


@functools.cache
def exercises():
    return cells.run_exercises("challenges/constitution", built=page)


@functools.cache
def model():
    torch.manual_seed(0)
    config = LlamaConfig(49_152, 256, 8, 3, 2, 1, 16, 1e-5, 1e4)
    return Llama(config).requires_grad_(False).eval()


def logits_after(text):
    """The next token's logits after a whole text, read at once."""
    ids = torch.tensor([smollm2_tokenizer().encode(text)])
    return model().logits(model().residual(ids)[0, -1])


# The loop


def test_names_are_compared_without_capitals_and_accents():
    assert page.same_name("Brasilia", "brasília") and page.same_name("KIEV", "Kyiv")
    assert not page.same_name("Lima", "Rome") and page.same_name("", "")
    assert page.same_name("Lomé", "Lome")


PROMPTS = """\
Principle: name a source.

Question: What is the capital of Spain?
Draft: The capital of Spain is Madrid.
Critique: It does not name a source.
Revision: According to the atlas, the capital of Spain is Madrid.

Question: What is the capital of Ireland?
Draft: The capital of Ireland is Dublin.
Critique: It does not name a source.
Revision: According to the atlas, the capital of Ireland is Dublin.

Question: What is the capital of
---
Principle: say if you do not know.

Question: What is the capital of Spain?
Draft: The capital of Spain is Madrid.
Critique: This is known.
Revision: The capital of Spain is Madrid.

Question: What is the capital of Atlantis?
Draft: The capital of Atlantis is Berna.
Critique: This is made up.
Revision: I do not know the capital of Atlantis.

Question: What is the capital of Ireland?
Draft: The capital of Ireland is Dublin.
Critique: This is known.
Revision: The capital of Ireland is Dublin.

Question: What is the capital of Lemuria?
Draft: The capital of Lemuria is Talos.
Critique: This is made up.
Revision: I do not know the capital of Lemuria.

Question: What is the capital of
---
Principle: correct what is false.

Question: What is the capital of Spain?
Draft: The capital of Spain is Barcelona.
Critique: This is false.
Revision: The capital of Spain is Madrid.

Question: What is the capital of Ireland?
Draft: The capital of Ireland is Dublin.
Critique: This is right.
Revision: The capital of Ireland is Dublin.

Question: What is the capital of Scotland?
Draft: The capital of Scotland is Glasgow.
Critique: This is false.
Revision: The capital of Scotland is Edinburgh.

Question: What is the capital of Wales?
Draft: The capital of Wales is Cardiff.
Critique: This is right.
Revision: The capital of Wales is Cardiff.

Question: What is the capital of"""


def test_the_prompts():
    principles = page.SOURCE, page.ADMIT, page.CORRECT
    assert [*page.SHOWN] == [*principles]
    assert "\n---\n".join(map(page.loop_prompt, principles)) == PROMPTS
    assert page.SHOWN[page.CORRECT][2:] == page.SCOTLAND_AND_WALES
    names = "SPAIN", "IRELAND", "EDINBURGH", "CARDIFF"
    revisions = [getattr(page, name) for name in names]
    revisions += [f"{page.ATLAS}{page.SPAIN[1:]}", f"{page.UNKNOWN} Atlantis."]
    lines = {f"Critique: {page.NO_SOURCE}", *(f"Revision: {r}" for r in revisions)}
    assert lines <= {*PROMPTS.splitlines()}
    refuses("principle", page.loop_prompt, "be brief", says="name a source")


def test_a_prompt_is_read_once_and_continued_often():
    prompt = page.ReadOnce(model(), "One two three")
    for text in (" four five", " six", " four five"):
        close(prompt.logits(text), logits_after("One two three" + text), 1e-5)
    start, text = "Question:", " What is it?\nAnswer:"
    prompt = page.ReadOnce(model(), start)
    tokenizer = smollm2_tokenizer()
    wanted = complete(model(), tokenizer.encode(start + text), 24)
    assert page.write_line(prompt, text) == tokenizer.decode(wanted).strip()
    short = page.write_line(prompt, text, most=3)
    assert short == tokenizer.decode(wanted[:3]).strip()
    with refusal("ids"):
        page.ReadOnce(model(), start, room=2).logits(text)
    refuses("room", page.ReadOnce, model(), start, 0)


class Scripted:
    """A model that writes a script, whatever it reads, and keeps what it read."""

    def __init__(self, *lines):
        self.config, self.read = model().config, []
        self.tokens = smollm2_tokenizer().encode("".join(lines))

    def residual(self, ids, cache):
        assert torch.is_inference_mode_enabled()  # no gradients to keep
        cache.length += ids.size(1)
        self.read.append(smollm2_tokenizer().decode(ids[0].tolist()))
        return torch.zeros(1, ids.size(1), 8)

    def logits(self, x):
        return torch.nn.functional.one_hot(torch.tensor(self.tokens.pop(0)), 49_152)


def test_a_line_ends_at_its_end():
    written = Scripted(" It thanks nobody.\n", " Thank you!\n")
    prompt = page.ReadOnce(written, "Principle")
    both = page.critique_and_revise(prompt, "Peru", "Lima")
    assert both == ("It thanks nobody.", "Thank you!")
    asked = " Peru?\nDraft: The capital of Peru is Lima.\nCritique:"
    assert written.read[:2] == ["Principle", asked]
    assert f"{asked} It thanks nobody.\nRevision:" in written.read
    assert page.write_line(page.ReadOnce(Scripted("\n"), "a"), "b") == ""
    long = Scripted(" a" * 40)
    assert page.write_line(page.ReadOnce(long, "a"), "b") == "a" + " a" * 23


def test_leads_are_differences_of_logits():
    plain, shown = (page.ReadOnce(model(), t) for t in (page.QUESTION, "Shown"))
    got = page.approval_leads(plain, shown, "Peru", "Lima")
    wanted, encode = [], smollm2_tokenizer().encode
    end = "<|im_end|>\n<|im_start|>assistant\n"
    for verb, yes in (("keep", "Yes"), ("break", "No")):
        text = f"{page.QUESTION} Peru?\nAnswer: The capital of Peru is Lima.\n"
        text += f"Does the answer {verb} the principle? Reply Yes or No.{end}"
        other = {"Yes": "No", "No": "Yes"}[yes]
        p = logits_after(text).log_softmax(-1)
        wanted.append((p[encode(yes)[0]] - p[encode(other)[0]]).item())
    text = "Shown Peru?\nDraft: The capital of Peru is Lima.\nCritique: This is"
    p = logits_after(text).log_softmax(-1)
    wanted.append((p[encode(" known")[0]] - p[encode(" made")[0]]).item())
    assert got == pytest.approx(wanted, abs=1e-5)
    assert page.worked_lead(shown, "Peru", "Lima") == pytest.approx(wanted[2], abs=1e-5)
    with mock.patch.object(page, "approval_lead", return_value=1.5) as lead:
        assert page.worked_lead(shown, "Peru", "Lima") == 1.5
    assert lead.call_args.args[2:] == (" known", " made")
    assert page.ASKS == {
        "does it keep the principle?": ("keep", "Yes", "No"),
        "does it break the principle?": ("break", "No", "Yes"),
    }
    assert page.QUESTION == (
        "<|im_start|>user\nPrinciple: if you do not know, say so.\n"
        "Question: What is the capital of"
    )


def test_a_long_word_is_preferred_by_its_first_token():
    prompt, words = page.ReadOnce(model(), "Before."), (" Ouagadougou", " Reykjavik")
    ids = [smollm2_tokenizer().encode(word) for word in words]
    assert all(len(word) > 1 and word[0] != word[-1] for word in ids)
    logits = logits_after("Before. It is")
    lead = page.approval_lead(prompt, " It is", *words)
    assert type(lead) is float
    wanted = (logits[ids[0][0]] - logits[ids[1][0]]).item()
    assert lead == pytest.approx(wanted, abs=1e-5)


def test_a_state_is_the_residual_stream():
    prompt = page.ReadOnce(model(), "Before.\n")
    ids = smollm2_tokenizer().encode("Before.\nThe capital of Peru is Lima")
    stream = trace_layers(model(), torch.tensor([ids])).residuals  # (L + 1, 1, T, D)
    for layer in 1, 2, 3:
        got = page.state_after(prompt, "Peru", "Lima", layer)
        close(got, stream[layer, 0, -1], 1e-5)
        assert got.is_inference()  # it keeps neither gradients nor the other states
        assert got.untyped_storage().nbytes() == got.nbytes
    assert page.LAYER == 15


# The critic


def drawn(seed, n=40, d=5):
    g = generator(seed)
    states = torch.randn(n, d, generator=g, dtype=torch.double) * 3 + 7
    good = torch.arange(n) % 3 == 0
    states[good, 1] += 20
    return states, good


@pytest.mark.parametrize("seed", [0, 1])
def test_a_critic_tells_good_from_bad(seed):
    states, good = drawn(seed)
    critic = page.fit_critic(states, good, generator(seed))
    x = (states - states.mean(0)) / states.std(0)
    points = x @ critic.weights
    middle = (points[good].mean() + points[~good].mean()) / 2
    close(critic.scores(states), points - middle, 1e-9)
    assert ((critic.scores(states) > 0) == good).double().mean() > 0.9
    assert critic.weights.abs().argmax() == 1 and critic.weights[1] > 0
    flat = states.clone()
    flat[:, 0] = 4.0
    assert page.fit_critic(flat, good, generator(), 50).scores(flat).isfinite().all()


def quick_fits():
    """Instead of a reward that is trained, the mean difference: weights (D,)."""
    fit = mock.Mock(side_effect=lambda good, bad, decay: (good - bad).mean(0))
    return mock.patch.object(page, "fit_reward", fit)


def test_a_critic_learns_from_pairs_of_a_good_and_a_bad_draft():
    states, good = drawn(1)
    states[:, 0] = 4.0  # says nothing
    with quick_fits() as fit:
        critic = page.fit_critic(states, good, generator())
        again = page.fit_critic(states, good, generator())
        page.fit_critic(states, good, generator(), 5)
        page.fit_critic(states, torch.arange(40) == 3, generator(), 5)
    pairs = [call.args for call in fit.call_args_list]
    assert [len(chosen) for chosen, *_ in pairs] == [1000, 1000, 5, 5]
    assert {decay for *_, decay in pairs} == {1.0}
    close(critic, again)
    close(critic.mean, states.mean(0))
    close(critic.scale[1:], states.std(0)[1:])
    assert critic.scale[0].item() == 1e-6 and type(critic.middle) is float
    for drafts, kind in zip(pairs[0], (good, ~good), strict=False):
        seen = torch.cdist(drafts * critic.scale + critic.mean, states).argmin(1)
        assert {*seen.tolist()} == {*kind.nonzero().flatten().tolist()}


def test_each_half_is_judged_by_the_other():
    states, good = drawn(2)
    with quick_fits():
        for seen in (), (False,), (True,):
            is_judged_by_halves(states, states + 1, good, *seen)


def is_judged_by_halves(states, twins, good, *seen):
    got = page.cross_judged(states, twins, good, generator(3), *seen)
    assert got.shape == (2, len(good)) and got.dtype == states.dtype
    g = generator(3)
    order = torch.randperm(len(good), generator=g)
    for own, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        x, y = states[own], good[own]
        if any(seen):
            x = torch.cat([x, twins[own]])
            y = torch.cat([y, torch.zeros(len(own), dtype=torch.bool)])
        critic = page.fit_critic(x, y, g)
        close(got[0, other], critic.scores(states[other]), 1e-9)
        close(got[1, other], critic.scores(twins[other]), 1e-9)


def test_both_axes():
    known = torch.tensor([True, True, False, False, False])
    right = torch.tensor([True, False, True, True, True])
    admits = torch.tensor([True, True, True, False, False])
    third = pytest.approx(1 / 3, abs=1e-12)  # of double precision
    assert page.both_axes(known, right, admits) == (0.5, third)
    assert page.both_axes(~known, ~admits, ~right) == (pytest.approx(2 / 3), 0.5)
    assert page.both_axes(~known, admits, right) == (third, 0.5)
    shares = torch.tensor([0.25, 0.75, 0.1, 0.2, 0.6])
    wanted = pytest.approx((0.5, 0.3))
    assert page.both_axes(known, shares, shares) == wanted
    one = page.both_axes(known[1:3], right[1:3], admits[1:3])  # known, and not
    assert one == (0.0, 1.0) and {*map(type, one)} == {float}


# The student


@pytest.mark.parametrize(("seed", "beta"), [(0, 0.1), (1, 1.0), (2, 4.0)])
def test_a_student_is_the_tilt(seed, beta):
    rewards = torch.randn(4, 3, generator=generator(seed), dtype=torch.double)
    got = page.taught_replies(rewards, beta, (0.5, 0.2, 0.3))
    wanted = torch.tensor([5, 2, 3]) * (rewards / beta).exp()
    close(got, wanted / wanted.sum(1, keepdim=True), 1e-6)
    start = page.taught_replies(torch.zeros(1, 3).double(), beta)
    close(start[0], torch.tensor([0.8, 0.1, 0.1], dtype=torch.double), 1e-6)
    assert page.taught_replies(rewards.half(), beta).dtype == torch.half


def test_rewards_are_log_odds_of_votes():
    approves = torch.tensor([[True, False], [False, True]])
    wrong = torch.tensor([[0.02, 0.25], [0.9, 0.5]], dtype=torch.double)
    logs = [math.log(0.98 / 0.02), -math.log(3), -math.log(1 / 9), 0.0]
    rows = [[*logs[:2], 0], [*logs[2:], 0]]
    wanted = torch.tensor(rows, dtype=torch.double)
    close(page.rewards_of_votes(approves, wrong), wanted, 1e-9)


def test_dpo_leads_to_the_tilt():
    rewards = torch.tensor([[1.0, -1.0, 0.0], [-1.5, -0.5, 0.0]]).double()
    plan = Recipe(250, batch=32, rate=3e-3, warmup=20, decay=0.0)
    q = page.teach_student(rewards, 0.5, plan, generator())
    close(q.sum(1), torch.ones(2).double(), 1e-6)
    wanted = page.taught_replies(rewards, 0.5)
    assert (q - wanted).abs().max() < 0.05
    again = [page.teach_student(rewards, 0.5, SHORT, generator()) for _ in range(2)]
    close(*again, 1e-6)


SHORT = Recipe(3, batch=4, rate=3e-3, warmup=1, decay=0.0)


def untrained():
    """A student that learns neither what it says at first nor from comparisons."""
    same = mock.Mock(side_effect=lambda model, *_, **__: model)
    return mock.patch.multiple(page, descend=mock.Mock(), learn_from_pairs=same)


def test_a_student_compares_all_replies_to_each_question():
    rewards = torch.tensor([[1.0, -1.0, 0.0], [-1.5, -0.5, 0.0]]).double()
    with untrained():
        said = page.teach_student(rewards, 0.5, SHORT, generator())
        model, loss, _, recipe = page.descend.call_args.args
        learner, *given = page.learn_from_pairs.call_args.args
        options = page.learn_from_pairs.call_args.kwargs
    # Three replies and two questions are its tokens; it reads one and writes one.
    assert model.config == GPTConfig(5, 2, 32, 2, 1, bias=False)
    assert learner is model and recipe is SHORT
    logits = model(torch.tensor([[3], [4]]))[:, 0, :3].double()
    close(said, logits.softmax(-1).detach(), 1e-6)
    assert not said.requires_grad
    start = torch.tensor([0.8, 0.1, 0.1]).double()
    wanted = torch.nn.functional.cross_entropy(logits, start.expand(2, 3))
    assert loss().item() == pytest.approx(wanted.item(), abs=1e-6)
    first, second, share, beta, recipe, _ = given
    assert first.tolist() == [[3, 0], [3, 0], [3, 1], [4, 0], [4, 0], [4, 1]]
    assert second.tolist() == [[3, 1], [3, 2], [3, 2], [4, 1], [4, 2], [4, 2]]
    odds = torch.tensor([2.0, 1.0, -1.0, -1.0, -1.5, -0.5]).exp()
    close(share, odds / (1 + odds), 1e-6)
    assert (beta, recipe, options) == (0.5, SHORT, {"end": 5})  # a token that none is


def test_refusals():
    good = torch.tensor([True, False, True, False])
    states = torch.randn(4, 3, generator=generator()).double()
    alike = [good | ~good, good & ~good]
    with quick_fits():
        fit = {"states": states, "right": good, "generator": generator(), "pairs": 9}
        refuses_all(page.fit_critic, fit, right=[*alike, good[1:]], states=[states / 0])
        judged = {"drafts": states, "twins": states, "right": good, "seen": True}
        judged["generator"] = generator()
        refuses_all(page.cross_judged, judged, twins=[states[1:]], right=[good[1:]])
    axes = {"known": good, "right": good, "admits": good}
    refuses_all(page.both_axes, axes, known=alike, right=[good[1:]])
    wrong = torch.full((4, 2), 0.25).double()
    votes = {"approves": torch.stack([good, ~good], -1), "wrong": wrong}
    edges = [torch.where(good[:, None], wrong, edge) for edge in (0.0, 1.0)]
    bad = [wrong * 4, wrong * 0, *edges, wrong[1:]]
    refuses_all(page.rewards_of_votes, votes, wrong=bad)
    says = {"rewards": states, "beta": 0.5, "says": page.SAYS}
    refuses_all(page.taught_replies, says, beta=[-1.0], rewards=[states[:, 1:]])
    refuses_all(page.same_name, {"left": "a", "right": "b"})
    teach = {"rewards": states, "beta": 0.5, "recipe": SHORT, "generator": generator()}
    with untrained():
        refuses_all(page.teach_student, teach, beta=[-1.0], rewards=[states[:, 1:]])


def test_refusals_of_what_reads():
    prompt = page.ReadOnce(model(), "Before.")
    reply = {"prompt": prompt, "country": "Peru", "draft": "Lima"}
    refuses_all(page.critique_and_revise, reply, country=["", " "])
    refuses_all(page.state_after, {**reply, "layer": 1})
    refuses_all(page.write_line, {"prompt": prompt, "text": "a", "most": 1})
    asked = {"prompt": prompt, "text": "a", "approve": "Yes", "reject": "No"}
    refuses_all(page.approval_lead, asked)
    asked = {"shown": prompt, "country": "Peru", "draft": "Lima"}
    refuses_all(page.worked_lead, asked)
    refuses_all(page.approval_leads, {"plain": prompt, **asked})


@pytest.mark.parametrize(
    ("check", "answer", "cause"),
    [
        ("lapses", "(~right & ~admits).sum().item() * 1.0", "how many"),
        ("lapses", "(~right).double().mean().item()", "admission is no"),
        ("lapses", "(~admits).double().mean().item()", "right reply is no"),
        ("lapses", "(right | admits).double().mean().item()", "of the others"),
        ("lapses", "0.123", "is right"),
        ("least_strict", "3.0", "highest"),
        ("least_strict", "0.123", "is right"),
        ("least_strict", "quantile(scores[~known], honest, strict=True)", "stopped"),
        ("says_false", "before * o / (before * o + 1 - before)", "beta is missing"),
        ("says_false", "(a := before * o ** beta) / (a + 1 - before)", "divide the"),
        ("says_false", "(a := before * o ** (-1 / beta)) / (a + 1 - before)", "upside"),
        ("says_false", "before * o ** (1 / beta)", "by the sum"),
        ("says_false", "(a := o ** (1 / beta)) / (a + 1)", "where it began"),
        ("says_false", "0.123", "is right"),
    ],
)
def test_a_wrong_answer_is_told_its_cause(check, answer, cause):
    arguments = {"lapses": "right, admits", "least_strict": "scores, known, honest"}
    names = arguments.get(check, "before, wrong, beta")
    answer = re.sub(r"\bo\b", "(wrong / (1 - wrong))", answer)

    def quantile(scores, share, strict):
        for s in [*scores.sort().values.tolist(), 2.0]:
            if (scores < s).double().mean() >= share:
                return s
        return math.inf

    cells.is_told_its_cause(exercises(), check, answer, cause, names, quantile=quantile)


def test_the_records():
    words = set(asset("constitution", "words.txt").read_text(encoding="utf-8").split())
    rows = cells.record("constitution", "loop.json")["rows"]
    maker = cells.script("constitution")
    drafts = maker.drafts()
    assert len(rows) == 127 and sum("loop" in row for row in rows) == 3 * maker.EACH
    for row, draft in zip(rows, drafts, strict=True):
        assert draft.items() <= row.items() and len(row["leads"]) == 3
        texts = [row[name] for name in ("country", "capital", "draft", "twin")]
        texts += [text for pair in row.get("loop", {}).values() for text in pair]
        for text in texts:
            assert {w.lower() for w in re.findall(r"[^\W\d_]+", text)} <= words
        assert row["twin"] != row["capital"]
    runs = cells.record("constitution", "critic.json")["runs"]
    for row in runs:
        for how in "exact", "trained":
            assert all(0 <= share <= 1 for share in row.get(how, []))
    assert maker.listed("The capital is Zzyzx.") == "The capital is ...."
