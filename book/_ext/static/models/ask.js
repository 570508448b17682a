// "Type something": models that answer in the reader's own page.
//
// The page loads this script and nothing else. On a click come, as scripts beside this
// one, the engine and the small model; the large model is fetched, or picked by the
// reader where a page may not fetch, from `file:`. Every way that this can fail ends in
// a sentence. `figure.steps` keeps what was written, a step a token.
(() => {
"use strict";
const here = document.currentScript.src;
const figure = document.querySelector("[data-fg-ask]");
const facts = JSON.parse(figure.querySelector("script[data-fg-facts]").textContent);
const TOP = 5; // tokens shown at each place, and a drawn one that is not among them
const CONTEXT = 1024; // tokens that there is room for, of the large model's 8,192
const READS = 16; // tokens of a text that the large model reads before it can be stopped
const LENGTHS = { smollm2: 96, "king-james": 160 }; // tokens of an answer
const megabytes = (bytes) => Math.round(bytes / 1e6);

class Sentence extends Error {} // what the reader is told

// ---- the two models: each loads once, then writes step by step ------------------

const scripts = {};
const script = (name) =>
  (scripts[name] ??= new Promise((done, failed) => {
    const tag = document.createElement("script");
    tag.src = new URL(`${name}.js`, here);
    tag.onload = () => done(self.fieldguideModels[name]);
    tag.onerror = () => {
      delete scripts[name]; // the next click tries again
      failed(new Sentence(`The file ${name}.js of this site did not arrive. Try again.`));
    };
    document.head.append(tag);
  }));
const module = (code) => import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

async function fetched(signal, said) {
  const { file, bytes } = facts.smollm2;
  const response = await fetch(new URL(file, here), { signal });
  if (!response.ok) throw new Sentence(`The site does not have the file ${file} (${response.status}).`);
  const parts = [];
  let got = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts);
    parts.push(value);
    got += value.length;
    said(`Fetching SmolLM2: ${megabytes(got)} of ${megabytes(bytes)} MB.`, got / bytes);
  }
}

async function whole(blob) {
  const { file, bytes } = facts.smollm2;
  const start = await blob.slice(0, 4).text();
  if (start !== "GGUF") throw new Sentence(`This is not a GGUF file: it begins with “${start}”. Pick ${file}.`);
  if (blob.size !== bytes) {
    const size = `${blob.size.toLocaleString("en")} bytes, not ${bytes.toLocaleString("en")}`;
    throw new Sentence(`This file has ${size}: it was cut off, or it is another model. Pick ${file} again.`);
  }
  return blob;
}

const smollm2 = {
  async load(signal, said, picked) {
    if (navigator.deviceMemory < 1) throw new TooSmall();
    const blob = await whole(picked ?? (await fetched(signal, said)));
    said("Starting llama.cpp with the model: some seconds.", null);
    const { code, wasm } = await script("wllama");
    // A page from `file:` may not start a worker that is a module; this one needs not be.
    const { Wllama } = await module(code.replace(',{type:"module"}', ""));
    let broken;
    const failed = new Promise((_, fail) => (broken = fail));
    const quiet = () => {};
    const logger = { debug: quiet, log: quiet, warn: quiet, error: (...why) => broken(new TooSmall(why)) };
    const address = `data:application/wasm;base64,${wasm}`;
    const engine = new Wllama({ "single-thread/wllama.wasm": address }, { suppressNativeLog: true, logger });
    const ended = new Promise((_, fail) => signal.addEventListener("abort", () => fail(signal.reason)));
    failed.catch(quiet);
    ended.catch(quiet);
    try {
      await Promise.race([engine.loadModel([blob], { n_ctx: CONTEXT }), failed, ended]);
    } catch (error) {
      engine.exit().catch(quiet);
      throw signal.aborted ? error : new TooSmall(error);
    }
    return engine;
  },
  async *write(engine, text, { signal, temperature, count }) {
    let next = await engine.tokenize(`<|im_start|>user\n${text}<|im_end|>\n<|im_start|>assistant\n`, true);
    const room = CONTEXT - next.length + 1; // the last token is written, and not read
    if (room < 1) throw new Sentence(`Your text has ${next.length} tokens, and there is room for ${CONTEXT}. Shorten it and ask again.`);
    const writing = new TextDecoder(); // a token may be half a character
    await engine.kvClear();
    for (let made = 0; made < Math.min(count, room); made++) {
      for (let k = 0; k < next.length; k += READS) await engine.decode(next.slice(k, k + READS), { abortSignal: signal });
      const best = await engine.getLogits(facts.draws.top_k);
      const logits = best.map(({ p }) => Math.log(p));
      const taken = best[temperature ? drawn(softmax(logits, temperature)) : 0];
      const listed = best.slice(0, TOP);
      if (!listed.includes(taken)) listed.push(taken);
      const top = [];
      for (const { token: id, p } of listed) top.push({ id, token: new TextDecoder().decode(await piece(engine, id)), p });
      yield { id: taken.token, token: writing.decode(await piece(engine, taken.token), { stream: true }), top };
      signal.throwIfAborted();
      next = [taken.token];
    }
  },
};

const pieces = new Map(); // the bytes of each token that was shown
async function piece(engine, id) {
  if (!pieces.has(id)) pieces.set(id, engine.isTokenEOG(id) ? new Uint8Array() : await engine.detokenize([id]));
  return pieces.get(id);
}

class TooSmall extends Sentence {
  constructor(why) {
    super("This browser or this device cannot run SmolLM2. The King James GPT needs far less and is chosen now: ask it.");
    this.cause = why;
  }
}

const kingJames = {
  async load(signal, said) {
    said("Fetching and starting ONNX Runtime Web.", null);
    const { code, wasm } = await script("ort");
    const { onnx } = await script("king-james");
    const ort = await module(code);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = bytesOf(wasm).buffer;
    const session = await ort.InferenceSession.create(bytesOf(onnx));
    signal.throwIfAborted();
    return { ort, session };
  },
  async *write({ ort, session }, text, { signal, temperature, count }) {
    const { alphabet, context } = facts["king-james"];
    const ids = Array.from(text, (letter) => alphabet.indexOf(letter));
    const strange = Array.from(text).find((_, i) => ids[i] < 0);
    if (strange) throw new Sentence(`The King James GPT knows ${alphabet.length} characters, and “${strange}” is not one of them.`);
    for (let made = 0; made < count; made++) {
      const seen = BigInt64Array.from(ids.slice(-context), BigInt);
      const input = new ort.Tensor("int64", seen, [1, seen.length]);
      const { [session.outputNames[0]]: output } = await session.run({ [session.inputNames[0]]: input });
      const logits = output.data.slice(-alphabet.length);
      const best = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
      const shares = softmax(logits, 1);
      const id = temperature ? drawn(softmax(logits, temperature)) : best[0];
      const listed = best.slice(0, TOP);
      if (!listed.includes(id)) listed.push(id);
      ids.push(id);
      yield { id, token: alphabet[id], logits, top: listed.map((k) => ({ id: k, token: alphabet[k], p: shares[k] })) };
      await new Promise((next) => setTimeout(next)); // the page stays awake
      signal.throwIfAborted();
    }
  },
};

function softmax(logits, temperature) {
  const high = Math.max(...logits);
  const raised = Array.from(logits, (logit) => Math.exp((logit - high) / temperature));
  const total = raised.reduce((a, b) => a + b);
  return raised.map((value) => value / total);
}

function drawn(shares) {
  let dart = Math.random();
  const hit = shares.findIndex((share) => (dart -= share) < 0);
  return hit < 0 ? shares.length - 1 : hit;
}

const models = { smollm2, "king-james": kingJames };
const loaded = {};

// ---- the figure -----------------------------------------------------------------

const make = (tag, attributes = {}, ...parts) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...parts);
  return element;
};
const control = (name, field, kind = "choice", ...more) => {
  field.id = `fg-ask-${name.replace(/\W/g, "-")}`;
  return make("div", { class: "fg-control", "data-fg-kind": kind }, make("label", { for: field.id }, name), field, ...more);
};
const option = (value, text) => make("option", { value }, text);

const model = make("select", {}, ...Object.keys(models).map((name) => option(name, facts[name].name)));
const choose = make("select", {}, option("0", "the best one"), option(facts.draws.temperature, "drawn at random"));
const words = make("textarea", { rows: 1, style: "flex:1 1 9rem;min-width:0;font:inherit;color:inherit;background:var(--fg-paper);border:1px solid var(--fg-quiet);border-radius:.25rem;padding:.2rem .4rem" });
const go = make("button", { type: "button" });
const stop = make("button", { type: "button", disabled: "", style: "opacity:.5" }, "Stop");
const file = make("input", { type: "file", accept: ".gguf" });
const picker = control("the file", file, "file");
const bar = make("progress", { max: 1, value: 0, "aria-label": "progress", style: "flex:1 1 6rem;visibility:hidden" });
const status = make("p", { class: "fg-status", role: "status" });
const answer = make("p", { class: "fg-text", style: "min-height:7.5em" });
const asked = make("em"), said = make("span", { class: "fg-tokens", style: "font:inherit;font-size:1.3em" });
answer.append(asked, said);
said.addEventListener("click", ({ target }) => target !== said && show([...said.children].indexOf(target) + 1));
const place = make("input", { type: "range", min: 1, max: 1, value: 1 });
const placed = make("span", { "aria-hidden": "true", style: "min-width:8ch" });
const top = make("ul", { class: "fg-bars", style: "min-height:16rem;align-content:start" });
const pace = make("p", { class: "fg-number" });

const title = new Text(); // who wrote it
const view = (name, parts, attributes = {}) => make("div", { class: "fg-view", ...attributes }, make("h4", {}, name), ...parts);
figure.querySelector("[data-fg-stored]").replaceWith(
  make("div", { class: "fg-body", style: "gap:.4rem" },
    make("div", { class: "fg-views", style: "contain:content" }, // a token moves nothing else
      view(title, [answer], { "data-fg-wide": "" }),
      view("The likeliest next tokens", [control("place", place, "range", placed), top]),
      view("Tokens a second", [pace], { "data-fg-kind": "number" })),
    control("your text", words),
    make("div", { class: "fg-controls" }, control("model", model), control("next token", choose)),
    picker,
    make("div", { class: "fg-buttons", style: "flex-wrap:wrap;align-items:center" }, go, stop, bar),
    status));
const look = make("p", { class: "fg-look" }, figure.querySelector("figcaption").lastChild);
figure.querySelector(".fg-views").after(look);
figure.classList.add("fg-hero");
figure.style.setProperty("--fg-row", "50px");
figure.dataset.fgReady = "";

let running = null; // what stops the answer that is being written
const local = location.protocol === "file:";
const seen = (token) => token.replaceAll("\n", "⏎").replaceAll(" ", "·") || "⟨end⟩";

// `share` is how much of the work is done; null says that nobody knows.
function say(text, share) {
  if (status.textContent !== text) status.textContent = text; // said once
  bar.style.visibility = share === undefined ? "hidden" : "visible";
  if (share === null) bar.removeAttribute("value");
  else bar.value = share ?? 0;
}

function show(number) {
  const steps = figure.steps, step = steps[number - 1];
  const likely = ({ id, top }) => top?.find((each) => each.id === id)?.p ?? 0;
  const chip = (each) => make("span", { style: `--fg-share:${45 * likely(each)}%` }, each.token);
  said.replaceChildren(...steps.map(chip));
  said.children[number - 1]?.classList.add("fg-marked");
  if (!steps.length) said.textContent = running ? "…" : "";
  place.max = Math.max(1, steps.length);
  place.value = number;
  placed.textContent = step ? `${number} of ${steps.length}` : "";
  place.setAttribute("aria-valuetext", step ? `${number} of ${steps.length}: ${step.token}` : "none");
  top.replaceChildren(...(step?.top ?? []).map(({ id, token, p }) => {
    const fill = make("i", { style: `width:${100 * p}%` });
    const line = make("li", {}, make("span", {}, seen(token)), make("span", { class: "fg-bar" }, fill), make("span", { class: "fg-value" }, `${(100 * p).toFixed(1)} %`));
    if (id === step.id) line.style.fontWeight = "700";
    return line;
  }));
}

// The last answer of each model: what it answers, its steps, tokens a second.
const kept = { smollm2: { text: facts.smollm2.prompt, steps: facts.stored, pace: facts.pace } };

// What an answer answers stands before it; the small model goes on in the same line.
function fill(name, { text, steps, pace: speed }) {
  title.data = `${facts[name].name} writes`;
  asked.textContent = name === "smollm2" ? `${text}\n` : text;
  figure.steps = steps;
  show(steps.length);
  tell(speed);
}

function tell(speed) {
  figure.pace = speed;
  pace.textContent = speed > 0 ? speed.toFixed(1) : running ? "…" : "–";
}

// Below stands the answer of the model and to the text that are chosen, or none.
function present() {
  const name = model.value, text = words.value;
  if (!running) fill(name, kept[name]?.text === text ? kept[name] : { text, steps: [] });
}

function able(button, may) {
  button.disabled = !may;
  button.style.opacity = may ? 1 : 0.5;
}

function dress() {
  const name = model.value, missing = name === "smollm2" && local && !loaded.smollm2 && !file.files.length;
  go.textContent = loaded[name] ? "Answer" : `Answer (loads ${megabytes(facts[name].loads)} MB)`;
  able(go, !missing);
  picker.hidden = !(name === "smollm2" && local && !loaded.smollm2);
  picker.style.display = picker.hidden ? "none" : "";
  return missing;
}

async function ask() {
  if (running) return;
  const name = model.value, text = words.value, signal = (running = new AbortController()).signal;
  const old = { steps: figure.steps, pace: figure.pace };
  able(go, false);
  able(stop, true);
  try {
    if (typeof WebAssembly === "undefined")
      throw new Sentence("This browser has no WebAssembly, so no model can run in it. The answer below was stored when the page was made.");
    if (!text.trim()) throw new Sentence("Type something first.");
    fill(name, { text, steps: [] });
    loaded[name] ??= await models[name].load(signal, say, local && name === "smollm2" ? file.files[0] : undefined);
    say("Reading your text.", null);
    const temperature = Number(choose.value), steps = [];
    let start, complete = false;
    for await (const step of models[name].write(loaded[name], text, { signal, temperature, count: LENGTHS[name] })) {
      start ??= performance.now(); // the first token also waits for the text to be read
      if (!step.token && step.id === facts[name].end) {
        complete = true;
        break;
      }
      steps.push(step);
      figure.steps = steps;
      show(steps.length);
      tell((1000 * (steps.length - 1)) / (performance.now() - start));
      kept[name] = { text, steps, pace: figure.pace };
      if (steps.length === 1) say("Writing.");
      if (signal.aborted) break;
    }
    const end = signal.aborted ? "Stopped after" : complete ? "Done:" : "Cut at";
    say(`${end} ${steps.length} tokens, written in this page.`);
  } catch (error) {
    running = null;
    if (!figure.steps.length) fill(name, { text, ...old });
    if (error instanceof TooSmall) model.value = "king-james";
    if (signal.aborted) say("Stopped. Nothing is lost: ask again.");
    else if (error instanceof Sentence) say(error.message);
    else say(`It did not work: ${error.message ?? error}. Try again, or choose the other model.`);
  } finally {
    running = null;
    able(stop, false);
    dress();
    figure.dispatchEvent(new CustomEvent("answered"));
  }
}

function hint() {
  if (running) return;
  const missing = dress(), name = model.value;
  const stored = figure.steps === facts.stored ? `Below stands a stored answer, cut at ${facts.stored.length} tokens. ` : "";
  if (missing) say(`A page from a file may not fetch. Pick the model's file: _static/models/${facts.smollm2.file}, beside these pages.`);
  else if (loaded[name]) say(figure.steps.length ? "" : "It is loaded: press Answer.");
  else say(stored + facts[name].hint);
}
go.addEventListener("click", ask);
stop.addEventListener("click", () => running?.abort());
file.addEventListener("change", async () => {
  hint();
  const picked = file.files[0];
  const trouble = picked && (await whole(picked).then(() => "", ({ message }) => message));
  if (trouble && !running && picked === file.files[0]) say(trouble);
});
model.addEventListener("change", () => {
  words.value = kept[model.value]?.text ?? facts[model.value].prompt;
  present();
  dress();
  hint();
});
words.addEventListener("input", () => {
  present();
  hint();
});
place.addEventListener("input", () => show(Number(place.value)));
words.value = facts.smollm2.prompt;
present();
hint();
})();
