"""evaluation: intervals, pairs, pass@k, endings, and code that nobody has read."""

import functools
import itertools
import math
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from unittest import mock

import cells
import pytest
import torch
import torch.nn.functional as F

from fieldguide.data import human_eval, smollm2_tokenizer
from fieldguide.deployment import evaluation
from fieldguide.transformers.real_model import LlamaConfig

SMALL = LlamaConfig(49_152, 512, 8, 2, 2, 1, 12, 1e-5, 1e4)


def small():
    return cells.llama(SMALL, 3)  # so that tokens differ


def test_the_sign_test_counts_all_ways_that_coins_fall():
    for first, second in itertools.product(range(6), range(6)):
        n = first + second
        gap = abs(first - second)
        ways = [abs(2 * sum(w) - n) >= gap for w in itertools.product((0, 1), repeat=n)]
        expected = statistics.fmean(ways)
        assert math.isclose(evaluation.sign_test(first, second), expected)
    bell = math.erfc(99 / math.sqrt(2 * 20_100))  # with half a coin less
    assert math.isclose(evaluation.sign_test(10_000, 10_100), bell, rel_tol=1e-3)


def test_pass_at_k_is_the_share_of_sets_that_hold_one():
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            sets = itertools.combinations([True] * c + [False] * (n - c), k)
            expected = statistics.fmean(map(any, sets))
            assert math.isclose(evaluation.pass_at_k(n, c, k), expected, abs_tol=1e-12)


def test_endings_cost_what_the_model_says_of_their_tokens():
    model, encode = small(), smollm2_tokenizer().encode
    before, endings = "In the beginning God created", [" heaven.", " A", " the earth, "]
    found = evaluation.ending_losses(model, before, endings)
    for ending, losses in zip(endings, found, strict=True):
        first, ids = encode(before), encode(ending)
        logits = model(torch.tensor([first + ids]))[0, len(first) - 1 : -1]
        right = F.cross_entropy(logits, torch.tensor(ids), reduction="none")
        cells.close(losses, right, 1e-4)


def test_a_question_is_a_verse_and_the_endings_of_its_neighbours():
    found = evaluation.verse_questions(40, cells.generator(3))
    verses = evaluation.king_james().splitlines()
    whole = {verse: place for place, verse in enumerate(verses)}
    assert {own for *_, own in found} == {0, 1, 2, 3}
    for start, endings, own in found:
        assert start + endings[own] in whole and len(endings) == 4
        assert 60 <= len(start + endings[own]) <= 140
        assert min(len(start), *map(len, endings)) >= 25 and start[-1] in ",:;"


def test_a_verse_is_cut_after_the_mark_nearest_its_middle():
    cut = evaluation.cut_verse
    assert cut("no mark at all in this verse of the Bible") is None
    assert cut("a" * 24 + "," + "b" * 25) == ("a" * 24 + ",", "b" * 25)
    assert cut("a" * 23 + "," + "b" * 25) is None
    assert cut("a" * 24 + ":" + "b" * 24) is None
    # Cuts at 30, 48 and 70 of 100; the letter x is nearer to 50 and no mark.
    verse = "a" * 29 + "," + "b" * 17 + ";" + "cxc" + "d" * 18 + ":" + "e" * 30
    assert cut(verse) == (verse[:48], verse[48:])


def test_losses_of_a_choice_and_of_a_judge_are_those_of_its_letters_or_endings():
    model, question = small(), ("In the beginning", [" God", " was", " it", " A b"], 0)
    said = "In the beginning\n\nHow does this verse end?\nA. God\nB. was\nC. it\nD. A b"
    letters = f"{said}\nAnswer:", [" A", " B", " C", " D"]
    for given, asked in ((), question[:2]), (("letters",), letters):
        found = evaluation.choice_losses(model, question, *given)
        losses = evaluation.ending_losses(model, *asked)
        assert [n for _, n in found] == [*map(len, losses)]
        sums = torch.tensor([nats for nats, _ in found])
        cells.close(sums, torch.stack([*map(sum, losses)]), 1e-4)
    said = "def f():\n\nTwo bodies for this function:\n\nA:\n  x\n\nB:\n  y\n\n"
    said += "The better body is"
    a, b = map(sum, evaluation.ending_losses(model, said, [" A", " B"]))
    found = evaluation.preference(model, "def f():\n", "\n  x\n", "\n  y\n")
    assert math.isclose(found, b - a, abs_tol=1e-4)


def test_what_is_written_follows_the_logits():
    model, prompt = small(), human_eval()[53]["prompt"]
    ids = smollm2_tokenizer().encode("\n    return x + y\ndef g")
    left = iter(ids)
    written = evaluation.write_body(model, prompt, 30, lambda logits: next(left))
    assert written == "\n    return x + y" and next(left, None) is not None
    end = smollm2_tokenizer().encode("<|im_end|>")
    cut = smollm2_tokenizer().decode(ids[:3])
    for said, most in (ids[:3] + end, 30), (ids, 3):
        pick = functools.partial(lambda left, logits: next(left), iter(said))
        found = evaluation.write_body(model, prompt, most, pick)
        assert found == cut


VERDICTS = {
    "assert 1 + 1 == 2": "passes",
    "assert 1 + 1 == 3": "fails: AssertionError",
    "def": "fails: SyntaxError",
    "input()": "fails: EOFError",
    "while True: pass": "runs on until it is stopped",
    "import os\nwhile True: os.fork()": "starts a process",
    "import os\nos.kill(os.getppid(), 9)": "starts a process",
    "open('here', 'w')": "writes a file",
    "import os\nos.remove('/etc/hosts')": "writes a file",
    "import urllib.request as u\nu.urlopen('http://1.1.1.1')": "asks for the network",
    "import ctypes\nctypes.CDLL(None)": "calls native code",
    "raise SystemExit(0)": "ends before its tests",
    "import os\nos._exit(0)": "ends before its tests",
    "import os\nos.write(3, b'passes')\nos._exit(0)": "meddles with the verdict",
    "import os\nos.write(3, b'fails: \\xff' + b'E' * 999)": "meddles with the verdict",
    "import faulthandler\nfaulthandler._sigsegv()": "crashes: signal 11",
}


@pytest.mark.parametrize("code", VERDICTS)
def test_each_program_gets_its_sentence(code):
    assert evaluation.run_apart(code, seconds=1) == VERDICTS[code]


def test_memory_is_limited():
    large = "x = [0] * 2 * 10**7"
    verdict = evaluation.run_apart(large, megabytes=100)
    assert verdict == "takes too much memory"
    assert evaluation.run_apart(large) == "passes"


def is_running(pid):
    """Is there such a process, other than one that waits to be forgotten?"""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return state != "" and state[0] != "Z"


OPEN_GUARD = """
def stop(why):
    os.write(out, (secret + why).encode())
def guard(event, given):
    pass
"""


def test_nothing_hangs_and_nothing_is_left_running():
    folder = tempfile.TemporaryDirectory()
    child = Path(folder.name) / "child"
    code = f"""
import os, time
if os.fork() == 0:
    open({str(child)!r}, "w").write(str(os.getpid()))
time.sleep(987)
"""
    with mock.patch.object(evaluation, "GUARD", OPEN_GUARD):
        verdict = evaluation.run_apart(code, seconds=1)
    stopped = "runs on until it is stopped", "fails: BlockingIOError"
    assert verdict.startswith(stopped)
    deadline = time.monotonic() + 20
    while child.exists() and is_running(child.read_text()):
        assert time.monotonic() < deadline, "left running"
        time.sleep(0.1)
    folder.cleanup()


def test_nothing_is_lost_when_the_reader_interrupts():
    started = []

    def interrupt(self, *given, **options):
        started.append(self.pid)
        raise KeyboardInterrupt

    with (
        mock.patch.object(subprocess.Popen, "communicate", interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        evaluation.run_apart("import time\ntime.sleep(987)")
    assert not is_running(started[0])


def test_what_a_body_may_see_and_say():
    problem = human_eval()[53]
    right = "\n" + problem["canonical_solution"]
    assert evaluation.tested_body(problem, right) == "passes"
    assert evaluation.tested_body(problem, "") == "fails: AssertionError"
    root = os.environ.get("SYSTEMROOT", "root")  # Windows starts nothing without it
    with mock.patch.dict(os.environ, HOME="h", SYSTEMROOT=root, TOKEN="t"):
        seen = "{'HOME', 'SYSTEMROOT', 'TOKEN'} & {*os.environ}"
        code = f"import os\nassert {seen} == {{'SYSTEMROOT'}}"
        assert evaluation.run_apart(code) == "passes"


PLAIN = "(1, 2.5, inf, 'x', True, None, [()], {'a': {3}}, b'y', 10**5000)"
EQUAL = "[type('Yes', (), {'__eq__': lambda *_: True})()] * 2"


@pytest.mark.parametrize(
    ("body", "wanted", "verdict"),
    [
        (PLAIN, PLAIN, "passes"),  # plain types come back as they were
        ("x", PLAIN, "fails: AssertionError"),
        (EQUAL, "[1, 2]", "fails: ValueError"),  # what calls itself equal to all
    ],
)
def test_a_body_comes_back_as_data(body, wanted, verdict):
    problem = {"entry_point": "f", "prompt": "from math import inf\ndef f(x):"}
    problem["test"] = f"def check(f):\n    assert f(1) == {wanted}"
    assert evaluation.tested_body(problem, f"\n    return {body}") == verdict
