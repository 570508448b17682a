"""Export the King James GPT, and ask a browser and llama.cpp what SmolLM2 answers.

.venv/bin/python book/_tools/assets.py edge (five minutes of one core)

Writes beside this file king-james.onnx, by `export_onnx`: the GPT of the book with its
matrices in 16 bits, as they were stored. browser.json: how the page itself continues
three prompts in headless Chromium, by a page from a file and the model's file picked:
llama.cpp in WebAssembly, and the logits of the small model by ONNX Runtime Web beside
torch's; processor time a token, tokens a second, and how busy the machine was; and of
the same machine the processor time of a token of llama.cpp outside the browser
(node-llama-cpp, same GGUF file), and of reading that file from memory once. whole.json:
the page's answers to the end, or to where it cuts them, and llama.cpp's; at each place
of the page's text torch's two best tokens, and their lead in torch and in the page
(null where the page's five likeliest tokens lack one). Both need the site, from
`make book`, and `python3 book/_tools/setup.py engine`. A name, such as `whole`, makes
that part alone.
"""

import contextlib
import itertools
import json
import math
import os
from pathlib import Path

import torch
from assets import machine, make_parts
from rivals import serving as rival
from rivals.browser import chromium, opened

from fieldguide.data import king_james, smollm2, smollm2_tokenizer, store
from fieldguide.data.files import sha256_of, sums
from fieldguide.deployment.compression import export_onnx
from fieldguide.deployment.edge import KING, QUESTIONS
from fieldguide.deployment.speculative import asked
from fieldguide.introduction.next_word import characters
from fieldguide.transformers.real_model import load_smollm2
from fieldguide.transformers.training import trained_gpt

HERE = Path(__file__).parent
BOOK = HERE.parents[1]
PAGE = BOOK.parent / "_build" / "html" / "deployment" / "edge.html"
ONNX = HERE / "king-james.onnx"
COUNT = 24  # tokens of each answer
WHOLE = 96  # tokens after which the page cuts an answer
LETTERS = 40  # of the small model
END = 2  # <|im_end|>
ROUNDS = 3


def record_onnx() -> None:
    size = export_onnx(trained_gpt(), ONNX, bits=16)
    listed = sums(HERE) | {ONNX.name: sha256_of(ONNX)}
    lines = [f"{listed[name]}  {name}\n" for name in sorted(listed)]
    (HERE / "SHA256SUMS").write_text("".join(lines), encoding="utf-8", newline="\n")
    print(f"{size:,} bytes", flush=True)


def engine_ids(port: int, prompt: list[int], count: int) -> list[int]:
    """llama.cpp's best tokens after a prompt, until it ends."""
    lines = rival.engine_lines(port, prompt, count)
    chunks = [line.removeprefix("data: ") for line in lines if "{" in line]
    ids = [json.loads(chunk)["choices"][0]["token"] for chunk in chunks]
    return list(itertools.takewhile(lambda token: token != END, ids))


@torch.inference_mode()
def beside_torch(prompt: list[int], ids: list[int]) -> torch.Tensor:
    """torch's logits before each token of a text that another engine wrote, (T, V)."""
    return load_smollm2()(torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1]


def answered(page, model: str, text: str, enough: int) -> list[dict]:
    """The steps of an answer of the page's figure; it is stopped when it is long."""
    figure = page.locator("[data-fg-ask]")
    figure.get_by_label("model", exact=True).select_option(model)
    figure.get_by_label("your text").fill(text)
    if model == "smollm2" and figure.get_by_label("the file").is_visible():
        figure.get_by_label("the file").set_input_files(smollm2().path)
    page.evaluate("document.querySelector('[data-fg-ask]').steps = []")
    figure.get_by_role("button", name="Answer").click()
    page.wait_for_function(
        """enough => {
          const figure = document.querySelector("[data-fg-ask]");
          const stop = [...figure.querySelectorAll("button")].at(-1);
          if (figure.steps.length >= enough) stop.click();
          return stop.disabled;
        }""",
        arg=enough,
        polling=200,  # a poll a frame would make the browser draw them all
        timeout=300_000,
    )
    script = """document.querySelector("[data-fg-ask]").steps.map(step =>
      ({...step, logits: step.logits && [...step.logits]}))"""
    return page.evaluate(script)


@torch.inference_mode()
def furthest(steps: list[dict]) -> float:
    """The largest difference of a logit of the small model from torch's."""
    alphabet = characters(king_james())
    text = KING + "".join(step["token"] for step in steps)
    ids = torch.tensor([[alphabet.index(letter) for letter in text]])
    own = trained_gpt()(ids)[0, len(KING) - 1 : -1]
    theirs = torch.tensor([step["logits"] for step in steps])
    return (own - theirs).abs().max().item()


@contextlib.contextmanager
def the_page():
    """A browser, and the built page in it."""
    with chromium() as browser, opened(browser, PAGE.as_uri()) as page:
        page.set_default_timeout(300_000)
        yield browser, page


def record_browser() -> None:
    tokenizer, answers, paces = smollm2_tokenizer(), [], []
    figure = "document.querySelector('[data-fg-ask]')"
    with the_page() as (browser, page):
        small = answered(page, "king-james", KING, LETTERS)[:LETTERS]
        for question in QUESTIONS:
            steps = answered(page, "smollm2", question, COUNT)[:COUNT]
            paces.append(round(page.evaluate(f"{figure}.pace"), 1))
            ids = [step["id"] for step in steps]
            logits = beside_torch(asked(tokenizer, question), ids)
            said = logits.log_softmax(-1)[range(len(ids)), ids].tolist()
            top = [{t["id"]: t["p"] for t in step["top"]} for step in steps]
            shares = [p[token] for p, token in zip(top, ids, strict=True)]
            pairs = zip(shares, said, strict=True)
            off = max(abs(math.log(p) - q) for p, q in pairs)
            answers.append({"question": question, "ids": ids, "off": off})
            print(repr(tokenizer.decode(ids)), paces[-1], off, flush=True)
            if question == QUESTIONS[0]:
                shown = rounded(steps)
        processor_ms = spent(browser, page)
        version = browser.version
    with rival.engine_port(1, 16 + rival.TOKENS) as port:
        rival.engine_ms(port, 1)  # warm
        native = min(rival.engine_ms(port, 1) for _ in range(ROUNDS))
    facts = {"machine": machine()}
    facts |= {"browser": version, "load": round(os.getloadavg()[0], 1)}
    facts |= {
        "processor_ms": processor_ms,
        "native_ms": round(native, 1),
        "read_ms": round(rival.file_ms(), 1),
        "tokens_s": paces,
        "answers": answers,
        "steps": shown,
    }
    facts |= {"letters": "".join(step["token"] for step in small)}
    store(HERE / "browser.json", facts | {"logits_off": furthest(small)})


def record_whole() -> None:
    prompts = [asked(smollm2_tokenizer(), question) for question in QUESTIONS]
    with rival.engine_port(1, 160) as port:
        native = [engine_ids(port, prompt, WHOLE) for prompt in prompts]
    with the_page() as (browser, page):
        told = [answered(page, "smollm2", q, 10 * WHOLE) for q in QUESTIONS]
        version = browser.version
    answers = []
    for question, prompt, ids, steps in zip(
        QUESTIONS, prompts, native, told, strict=True
    ):
        answers.append({"question": question, "llama.cpp": ids})
        answers[-1] |= decided(prompt, steps)
        print(repr(smollm2_tokenizer().decode(answers[-1]["page"])), flush=True)
    facts = {"machine": machine()}
    facts |= {"engine": f"{rival.ENGINE} {rival.VERSION}", "browser": version}
    store(HERE / "whole.json", facts | {"answers": answers})


def decided(prompt: list[int], steps: list[dict]) -> dict:
    """The page's tokens, torch's two best there, and their lead in both."""
    ids = [step["id"] for step in steps]
    two, best = beside_torch(prompt, ids).topk(2)
    here = []
    for step, pair in zip(steps, best.tolist(), strict=True):
        shares = {token["id"]: token["p"] for token in step["top"]}
        both = all(shares.get(token, 0) > 0 for token in pair)
        lead = both and math.log(shares[pair[0]] / shares[pair[1]])
        here.append(round(lead, 4) if both else None)
    torch_s = [round(x, 4) for x in (two[:, 0] - two[:, 1]).tolist()]
    return {"page": ids, "two": best.tolist(), "torch_s": torch_s, "page_s": here}


def spent(browser, page) -> float:
    """Milliseconds of processor time a token, all of the browser's processes together.

    The question was asked before, and is still in the cache.
    """
    ask, tries = browser.new_browser_cdp_session(), []
    for _ in range(ROUNDS):
        times = []
        for count in 0, COUNT:
            if count:
                steps = answered(page, "smollm2", QUESTIONS[-1], count)
            processes = ask.send("SystemInfo.getProcessInfo")["processInfo"]
            times.append(sum(process["cpuTime"] for process in processes))
        tries.append(1000 * (times[1] - times[0]) / len(steps))
    print(tries, flush=True)
    return round(min(tries), 1)


def rounded(steps: list[dict]) -> list[dict]:
    """The steps of an answer, with three decimals."""
    for step in steps:
        for token in step["top"]:
            token["p"] = round(token["p"], 3)
    return steps


if __name__ == "__main__":
    make_parts(record_onnx, record_browser, record_whole)
