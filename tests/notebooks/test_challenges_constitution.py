"""The cells of challenges/constitution against a small model and closed forms."""

import functools
import math
from unittest import mock

import pytest
import torch
from cells import close, generator

from fieldguide.challenges import constitution as page
from fieldguide.data import smollm2_tokenizer
from fieldguide.transformers.real_model import Llama, LlamaConfig, complete


@functools.cache
def model():
    torch.manual_seed(0)
    config = LlamaConfig(49_152, 256, 8, 3, 2, 1, 16, 1e-5, 1e4)
    return Llama(config).requires_grad_(False).eval()


def logits_after(text):
    """The next token's logits after a whole text, read at once."""
    ids = torch.tensor([smollm2_tokenizer().encode(text)])
    return model().logits(model().residual(ids)[0, -1])


def test_names_are_compared_without_capitals_and_accents():
    assert page.same_name("Brasilia", "brasília") and page.same_name("KIEV", "Kyiv")
    assert not page.same_name("Lima", "Rome")


def test_a_prompt_is_read_once_and_continued_often():
    prompt = page.ReadOnce(model(), "One two three")
    for text in (" four five", " six", " four five"):
        close(prompt.logits(text), logits_after("One two three" + text), 1e-5)
    start, text = "Question:", " What is it?\nAnswer:"
    prompt = page.ReadOnce(model(), start)
    tokenizer = smollm2_tokenizer()
    wanted = complete(model(), tokenizer.encode(start + text), 24)
    assert page.write_line(prompt, text) == tokenizer.decode(wanted).strip()


class Scripted(torch.nn.Module):
    """A model that writes a script, whatever it reads, and keeps what it read."""

    def __init__(self, *lines):
        super().__init__()
        self.config, self.read = model().config, []
        self.tokens = smollm2_tokenizer().encode("".join(lines))

    def residual(self, ids, cache):
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
    long = Scripted(" a" * 40)
    assert page.write_line(page.ReadOnce(long, "a"), "b") == "a" + " a" * 23


def drawn(seed, n=40, d=5):
    g = generator(seed)
    states = torch.randn(n, d, generator=g, dtype=torch.double) * 3 + 7
    good = torch.arange(n) % 3 == 0
    states[good, 1] += 20
    return states, good


def test_a_critic_tells_good_from_bad():
    states, good = drawn(0)
    critic = page.fit_critic(states, good, generator())
    x = (states - states.mean(0)) / states.std(0)
    points = x @ critic.weights
    middle = (points[good].mean() + points[~good].mean()) / 2
    close(critic.scores(states), points - middle, 1e-9)
    assert ((critic.scores(states) > 0) == good).double().mean() > 0.9
    assert critic.weights.abs().argmax() == 1 and critic.weights[1] > 0


def test_each_half_is_judged_by_the_other():
    states, good = drawn(2)
    twins = states + 1

    def simple(x, y, g):
        """A critic that knows how many it has seen, and of which sum."""
        return mock.Mock(scores=lambda states: (states * x[y].sum()).sum(1) + len(x))

    with mock.patch.object(page, "fit_critic", simple):
        for seen in False, True:
            got = page.cross_judged(states, twins, good, generator(3), seen)
            order = torch.randperm(len(good), generator=generator(3))
            for own, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
                critic = simple(states[own], good[own], None)
                more = len(own) if seen else 0  # its own twins, which are bad
                close(got[0, other], critic.scores(states[other]) + more, 1e-9)
                close(got[1, other], critic.scores(twins[other]) + more, 1e-9)


def test_both_axes():
    known = torch.tensor([True, True, False, False, False])
    right = torch.tensor([0.25, 0.75, 0.1, 0.2, 0.6])
    admits = torch.tensor([0.5, 0.5, 0.3, 0.0, 0.9])
    assert page.both_axes(known, right, admits) == pytest.approx((0.5, 0.4))
    assert page.both_axes(~known, right, admits) == pytest.approx((0.3, 0.5))


@pytest.mark.parametrize(("seed", "beta"), [(0, 0.1), (2, 4.0)])
def test_a_student_is_the_tilt(seed, beta):
    rewards = torch.randn(4, 3, generator=generator(seed), dtype=torch.double)
    got = page.taught_replies(rewards, beta)
    wanted = torch.tensor([8, 1, 1]) * (rewards / beta).exp()
    close(got, wanted / wanted.sum(1, keepdim=True), 1e-6)


def test_rewards_are_log_odds_of_votes():
    approves = torch.tensor([[True, False], [False, True]])
    wrong = torch.tensor([[0.02, 0.25], [0.9, 0.5]], dtype=torch.double)
    logs = [math.log(0.98 / 0.02), -math.log(3), -math.log(1 / 9), 0.0]
    rows = [[*logs[:2], 0], [*logs[2:], 0]]
    wanted = torch.tensor(rows, dtype=torch.double)
    close(page.rewards_of_votes(approves, wrong), wanted, 1e-9)
