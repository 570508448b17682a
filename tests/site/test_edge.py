"""Models that answer in the page: really loaded, with the network cut.

Both models are compared with what they write elsewhere, and what can go wrong ends in
its sentence. `HANG_S` guards each wait; no other limit of time is set.
"""

import itertools
import json
import math

import pytest
import torch
from playwright.sync_api import Error, expect

from fieldguide.data import asset, king_james, smollm2, smollm2_tokenizer
from fieldguide.deployment.edge import KING, QUESTIONS, behind_best
from fieldguide.deployment.speculative import asked
from fieldguide.introduction.next_word import characters
from fieldguide.transformers.real_model import load_smollm2
from fieldguide.transformers.training import trained_gpt

PAGE = "deployment/edge.html"
LIMIT = 1  # more than 8 bits move a lead of PyTorch, as the page says
FIGURE = "document.querySelector('[data-fg-ask]')"
STOPS = f"""enough => {{
  const figure = {FIGURE}, [, stop] = figure.querySelectorAll("button");
  if (figure.steps.length >= enough) stop.click();
  return stop.disabled;
}}"""


def part(page):
    """The figure: other figures of the page have a control `model`, too."""
    return page.locator("[data-fg-ask]")


def ask(page, text, enough=math.inf, model="smollm2"):
    """Press Answer, stop when so many tokens are there; returns the steps."""
    part(page).get_by_label("model", exact=True).select_option(model)
    part(page).get_by_label("your text").fill(text)
    page.evaluate(f"{FIGURE}.steps = []")
    part(page).get_by_role("button", name="Answer").click()
    page.wait_for_function(STOPS, arg=min(enough, 10_000), polling=200)
    steps = f"{FIGURE}.steps.map(s => ({{...s, logits: s.logits && [...s.logits]}}))"
    return page.evaluate(steps)


def says(page):
    return part(page).get_by_role("status").inner_text()


def own_only(page, kinds):
    where = page.url.split(PAGE)[0]
    return [u for u in page.requests if not u.startswith((where, *kinds))]


def test_both_models_answer_in_the_page(visit):
    page = visit(PAGE)
    before = [url for url in page.requests if "/models/" in url]
    assert [url.partition("?")[0][-7:] for url in before] == ["/ask.js"]

    steps = ask(page, KING, 24, "king-james")[:24]
    alphabet = characters(king_james())
    text = KING + "".join(step["token"] for step in steps)
    ids = torch.tensor([[alphabet.index(letter) for letter in text]])
    with torch.inference_mode():
        logits = trained_gpt()(ids)[0, len(KING) - 1 : -1]
    written = torch.tensor([step["logits"] for step in steps])
    assert (logits - written).abs().max() < 1e-3
    assert logits.argmax(-1).tolist() == [step["id"] for step in steps]

    for question in QUESTIONS:
        steps = ask(page, question, 24)
        ids = [step["id"] for step in steps]
        prompt = asked(smollm2_tokenizer(), question)
        with torch.inference_mode():
            logits = load_smollm2()(torch.tensor([prompt + ids]))
        behind = behind_best(logits[0, len(prompt) - 1 : -1], ids)
        assert behind.max() < LIMIT, (question, behind)
        assert all(len(step["top"]) == 5 for step in steps)
        assert page.evaluate(f"{FIGURE}.pace") > 0

    assert ask(page, "word " * 1200) == []
    assert says(page).startswith("Your text has 12") and "1024" in says(page)
    assert ask(page, QUESTIONS[1])[0]["token"] == "The"  # nothing is lost
    assert not page.troubles and not own_only(page, ["data:", "blob:"])


def test_drawn_tokens_are_drawn_anew_and_all_are_shown(visit):
    page = visit(PAGE)
    choose = part(page).get_by_label("next token", exact=True)
    for model, text in ("smollm2", "Tell me a long story."), ("king-james", KING):
        part(page).get_by_label("model", exact=True).select_option(model)
        choose.select_option("drawn at random")
        tries = [ask(page, text, 24, model)[:24] for _ in range(2)]
        one, other = ([step["id"] for step in steps] for steps in tries)
        assert one and one != other
        for step in itertools.chain(*tries):
            ids = [token["id"] for token in step["top"]]
            assert ids.count(step["id"]) == 1
            assert len(ids) == 5 + (step["id"] not in ids[:5])
            assert all(0 <= token["p"] <= 1 for token in step["top"])
    assert not page.troubles


def test_no_answer_stands_under_another_text_or_model(visit):
    page = visit(PAGE)
    model = part(page).get_by_label("model", exact=True)
    text = part(page).get_by_label("your text")
    count = f"{FIGURE}.steps.length"
    stored = page.evaluate(count)
    assert stored > 9 and "stored answer" in says(page)
    expect(part(page)).to_contain_text("SmolLM2 writes")
    text.fill("What is rain?")
    assert page.evaluate(count) == 0 and "stored" not in says(page)
    text.fill(QUESTIONS[0])
    assert page.evaluate(count) == stored
    model.select_option("king-james")
    expect(part(page)).to_contain_text("King James GPT writes")
    assert page.evaluate(count) == 0
    model.select_option("smollm2")
    assert page.evaluate(count) == stored and text.input_value() == QUESTIONS[0]


def test_a_page_from_a_file_lets_the_reader_pick_the_model(visit, site, tmp_path):
    page = visit((site / PAGE).as_uri())
    assert "Pick the model's file" in says(page)
    expect(part(page).get_by_role("button", name="Answer")).to_be_disabled()
    small = "".join(step["token"] for step in ask(page, KING, 24, "king-james")[:24])
    stored = json.loads(asset("edge", "browser.json").read_text(encoding="utf-8"))
    assert small == stored["letters"][:24]  # it needs no file to be picked
    part(page).get_by_label("model", exact=True).select_option("smollm2")
    file = part(page).get_by_label("the file")
    half, other = tmp_path / "half.gguf", tmp_path / "other.gguf"
    half.write_bytes(smollm2().path.read_bytes()[: smollm2().path.stat().st_size // 2])
    other.write_text("PK, and not a model")
    for path, sentence in (half, "it was cut off"), (other, "not a GGUF file"):
        file.set_input_files(path)
        assert ask(page, QUESTIONS[1]) == []
        assert sentence in says(page)
    lies = site / "_static" / "models" / smollm2().path.name
    file.set_input_files(lies)
    steps = ask(page, QUESTIONS[1])
    assert "".join(step["token"] for step in steps) == "The capital of France is Paris."
    assert not page.troubles
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)


WITHOUT = "delete self.WebAssembly"
NARROW = """Object.defineProperty(navigator, "deviceMemory", { value: 0.5 })"""


@pytest.mark.parametrize(
    ("script", "sentence", "chosen"),
    [
        (WITHOUT, "no WebAssembly", "smollm2"),
        (NARROW, "The King James GPT needs far less", "king-james"),
    ],
)
def test_a_browser_that_cannot_says_so(visit, script, sentence, chosen):
    page = visit(PAGE)
    page.add_init_script(script)
    page.reload()
    stored = page.evaluate(f"{FIGURE}.steps.length")
    part(page).get_by_role("button", name="Answer").click()
    expect(part(page).get_by_role("status")).to_contain_text(sentence)
    expect(part(page).get_by_label("model", exact=True)).to_have_value(chosen)
    assert page.evaluate(f"{FIGURE}.steps.length") == stored > 9
    assert not [url for url in page.requests if url.endswith(".gguf")]


# Safari's WebAssembly: memories have 32 bits, and no call waits for a promise.
SAFARI = """
delete WebAssembly.Suspending;
delete WebAssembly.promising;
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(kind) {
    if (kind.address === "i64") throw new TypeError("no memory of 64 bits");
    super(kind);
  }
};
"""
# A worker has globals of its own, so the page puts that before each script it makes.
EVERYWHERE = f"""{SAFARI}
self.Blob = class extends Blob {{
  constructor(parts, options) {{
    const code = options?.type === "text/javascript";
    super(code ? [{json.dumps(SAFARI)}, ...parts] : parts, options);
  }}
}};
"""


def test_a_browser_with_neither_memory64_nor_jspi_answers(visit):
    page = visit(PAGE, first=EVERYWHERE)
    refused = "new WebAssembly.Memory({ address: 'i64', initial: 1n })"
    with pytest.raises(Error, match="no memory of 64 bits"):
        page.evaluate(refused)
    steps = ask(page, QUESTIONS[1])
    written = "".join(step["token"] for step in steps)
    assert written == "The capital of France is Paris.", says(page)
    assert not page.troubles and not own_only(page, ["data:", "blob:"])


def test_a_stop_while_the_text_is_read_loses_nothing(visit):
    page = visit(PAGE)
    ask(page, QUESTIONS[1], 1)  # loaded
    part(page).get_by_label("your text").fill("word " * 900)
    part(page).get_by_role("button", name="Answer").click()
    expect(part(page).get_by_role("status")).to_contain_text("Reading")
    part(page).get_by_role("button", name="Stop").click()
    expect(part(page).get_by_role("button", name="Answer")).to_be_enabled()
    assert says(page).startswith("Stopped. Nothing is lost")
    written = "".join(step["token"] for step in ask(page, QUESTIONS[1]))
    assert written == "The capital of France is Paris."
    assert not page.troubles


def test_what_is_cut_on_the_way_or_stopped_is_told(visit):
    page = visit(PAGE)
    start = smollm2().path.read_bytes()[:1_000_000]
    page.route("**/*.gguf", lambda route: route.fulfill(body=start))
    assert ask(page, QUESTIONS[1]) == []
    assert "1,000,000 bytes, not" in says(page)
    page.unroute("**/*.gguf")
    page.route("**/*.gguf", lambda route: None)  # it never comes
    part(page).get_by_role("button", name="Answer").click()
    part(page).get_by_role("button", name="Stop").click()
    expect(part(page).get_by_role("status")).to_contain_text("Stopped")
    expect(part(page).get_by_role("button", name="Answer")).to_be_enabled()
