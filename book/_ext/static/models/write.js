// "Type a beginning": a GPT goes on with it in the reader's own page, letter by letter.
//
// Until it is touched the page shows a text that the same model wrote before, with what
// it might have written instead. The weights, in 8 bits, come as a script beside this one
// when they are needed, so that all of it works from `file:`, too.
(() => {
"use strict";
const here = document.currentScript.src;
const LETTERS = 160; // that it writes in one go
const MOST = 1200; // letters of a text
const SHOWN = 6; // letters that are named, of those that might come next
const PACE = 70; // milliseconds from one letter to the next
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// ---- the model: as `new_gpt` of transformers/training builds it --------------------

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;

function matrix({ rows, steps, codes }) {
  const [scale, whole] = [new Float32Array(bytesOf(steps)), codes && new Int8Array(bytesOf(codes))];
  if (!whole) return scale;
  const columns = whole.length / rows;
  return Float32Array.from(whole, (code, k) => code * scale[Math.floor(k / columns)]);
}

// W x, for W (rows, x.length), row by row.
function times(W, x) {
  const y = new Float32Array(W.length / x.length);
  for (let i = 0, at = 0; i < y.length; i++) {
    let sum = 0;
    for (let j = 0; j < x.length; j++) sum += W[at++] * x[j];
    y[i] = sum;
  }
  return y;
}

const add = (x, y) => x.forEach((_, k) => (x[k] += y[k]));

function norm(x, weight) {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const square = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  const scale = 1 / Math.sqrt(square + 1e-5);
  return x.map((value, k) => (value - mean) * scale * weight[k]);
}

// x times the share of a normal variable below it; erf after Abramowitz and Stegun, 7.1.26.
function gelu(x) {
  const z = Math.abs(x) / Math.SQRT2;
  const t = 1 / (1 + 0.3275911 * z);
  const poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  const erf = 1 - poly * Math.exp(-z * z);
  return 0.5 * x * (1 + (x < 0 ? -erf : erf));
}

function softmax(scores) {
  const most = Math.max(...scores);
  const raised = scores.map((score) => Math.exp(score - most));
  const total = raised.reduce((sum, value) => sum + value, 0);
  return raised.map((value) => value / total);
}

class Model {
  constructor({ alphabet, heads, context, tensors }) {
    Object.assign(this, { alphabet: [...alphabet], heads, context });
    this.weights = Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, matrix(tensor)]));
    const named = (k) => (part) => this.weights[`blocks.${k}.${part}.weight`];
    this.blocks = [];
    while (named(this.blocks.length)("norm_mlp")) this.blocks.push(named(this.blocks.length));
    this.kept = this.blocks.map(() => ({ keys: [], values: [] }));
    this.told = []; // the logits after each letter that was read
  }

  // Bring each head's numbers to length 1, and turn each pair of them by an angle that
  // grows with the place.
  turn(x, place) {
    const size = x.length / this.heads;
    for (let from = 0; from < x.length; from += size) {
      const head = x.subarray(from, from + size);
      const long = Math.max(1e-12, Math.hypot(...head));
      head.forEach((value, k) => (head[k] = value / long));
    }
    for (let k = 0; k < x.length; k += 2) {
      const angle = place * 10000 ** (-(k % size) / size);
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      [x[k], x[k + 1]] = [x[k] * cos - x[k + 1] * sin, x[k] * sin + x[k + 1] * cos];
    }
    return x;
  }

  attend(query, { keys, values }) {
    const size = query.length / this.heads;
    const mixed = new Float32Array(query.length);
    const first = Math.max(0, keys.length - this.context);
    for (let from = 0; from < query.length; from += size) {
      const scores = [];
      for (let s = first; s < keys.length; s++) {
        let score = 0;
        for (let k = from; k < from + size; k++) score += query[k] * keys[s][k];
        scores.push(score * Math.sqrt(size)); // of length 1, both
      }
      softmax(scores).forEach((share, s) => {
        for (let k = from; k < from + size; k++) mixed[k] += share * values[first + s][k];
      });
    }
    return mixed;
  }

  // The logits of what follows these letters; what was read before is kept.
  logits(letters) {
    let same = 0;
    while (same < this.told.length && this.read[same] === letters[same]) same++;
    this.told.length = Math.min(same, letters.length - 1);
    for (const { keys, values } of this.kept) keys.length = values.length = this.told.length;
    this.read = letters.slice();
    for (let at = this.told.length; at < letters.length; at++) this.told.push(this.step(letters[at], at));
    return this.told.at(-1);
  }

  step(letter, place) {
    const width = this.weights["norm.weight"].length;
    const id = this.alphabet.indexOf(letter);
    const x = this.weights["token.weight"].slice(id * width, (id + 1) * width);
    this.blocks.forEach((part, k) => {
      const a = norm(x, part("norm_attention"));
      const [query, key, value] = ["query", "key", "value"].map((name) => times(part(`attention.${name}`), a));
      this.kept[k].keys.push(this.turn(key, place));
      this.kept[k].values.push(value);
      add(x, times(part("attention.output"), this.attend(this.turn(query, place), this.kept[k])));
      add(x, times(part("mlp.down"), times(part("mlp.up"), norm(x, part("norm_mlp"))).map(gelu)));
    });
    return times(this.weights["token.weight"], norm(x, this.weights["norm.weight"]));
  }

  // [letter, probability] of all that may come next, the likeliest first.
  next(letters, temperature) {
    const shares = softmax(Array.from(this.logits(letters), (logit) => logit / temperature));
    return shares.map((share, id) => [this.alphabet[id], share]).sort((a, b) => b[1] - a[1]);
  }
}

let loading = null;
function load() {
  loading ??= new Promise((done, failed) => {
    const tag = document.createElement("script");
    tag.src = new URL("king-james-8.js", here);
    tag.onload = () => done(new Model(self.fieldguideModels["king-james-8"]));
    tag.onerror = () => {
      loading = null; // the next touch tries again
      failed(new Error("The model's file, king-james-8.js, did not arrive. Try again."));
    };
    document.head.append(tag);
  });
  return loading;
}

// ---- the figure -------------------------------------------------------------------

const make = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const readable = (letter) => ({ " ": "space", "\n": "new line" })[letter] ?? letter;
const percent = (share) => (share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);

class Writer {
  constructor(figure) {
    this.figure = figure;
    const record = JSON.parse(figure.querySelector("script").textContent);
    // Each letter: its character, and what might have stood there with the draw.
    this.letters = [...record.text].map((letter, k) => ({ letter, ...record.steps[k - record.begun] }));
    this.at = this.freest();
    this.shown = this.letters.length;
    this.build(this.letters.slice(0, record.begun).map(({ letter }) => letter).join(""));
    this.show();
  }

  build(begun) {
    this.beginning = make("input", { type: "text", "aria-label": "A beginning", value: begun, maxlength: 200, spellcheck: "false" });
    this.button = make("button", { type: "button" }, "Write");
    this.button.addEventListener("click", () => (this.writing ? this.stop() : this.begin(this.beginning.value)));
    const temperature = make("input", { type: "range", min: 0.1, max: 1.5, step: 0.1, value: 0.7 });
    const said = make("output", {}, "0.7");
    temperature.addEventListener("input", () => (said.textContent = temperature.value));
    this.temperature = () => Number(temperature.value);
    const form = make("form", {}, this.beginning, this.button, make("label", {}, "temperature ", temperature, said));
    this.beginning.addEventListener("input", () => {
      this.stop();
      this.say("Press Write to go on from there.");
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin(this.beginning.value);
    });
    this.page = this.figure.querySelector(".fg-written");
    this.page.replaceChildren();
    for (const [name, value] of Object.entries({ role: "application", tabindex: 0, "aria-label": "The text. Arrow keys go from letter to letter." })) this.page.setAttribute(name, value);
    // What is pressed must be there when it is let go.
    this.figure.addEventListener("pointerdown", ({ target }) => target.closest(".fg-next, .fg-written") && this.stop());
    this.page.addEventListener("click", ({ target }) => {
      const k = [...this.page.children].indexOf(target.closest("span"));
      if (k >= 0) this.choose(k);
    });
    this.page.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: this.at - 1, ArrowRight: this.at + 1, Home: 0, End: this.shown - 1 }[event.key];
      if (to === undefined || to < 0 || to >= this.shown) return;
      event.preventDefault();
      this.choose(to);
      const { letter, options = [] } = this.letters[to];
      const others = options.map(([option, share]) => `${readable(option)} ${percent(share)}`).join(", ");
      this.say(`${readable(letter)}. ${others}`);
    });
    this.asked = make("p", {});
    this.line = make("div", { class: "fg-line", "aria-hidden": "true" });
    this.bars = make("ul", {});
    this.status = make("p", { class: "fg-said", "aria-live": "polite" });
    this.page.before(form);
    this.figure.append(make("div", { class: "fg-next" }, this.asked, this.line, this.bars), this.status);
  }

  say(words) {
    this.status.textContent = words;
  }

  // A reader looks at a letter: what writes stops.
  choose(k) {
    this.stop();
    this.at = k;
    this.show();
    this.page.children[k].scrollIntoView({ block: "nearest" });
  }

  // Draw as many letters as are written, and what might have stood at the chosen one.
  show() {
    while (this.page.children.length > this.shown) this.page.lastChild.remove();
    for (let k = 0; k < this.shown; k++) {
      const node = this.page.children[k] ?? this.page.appendChild(make("span", {}));
      const { letter, options } = this.letters[k];
      if (node.textContent !== letter) node.textContent = letter;
      node.className = `${options ? "" : "fg-given"}${k === this.at ? " fg-at" : ""}`.trim();
    }
    const { letter, options, place } = this.letters[this.at] ?? {};
    this.asked.replaceChildren();
    this.line.replaceChildren();
    this.bars.replaceChildren();
    if (!options) return this.asked.append("This letter was given. Click on one that the model wrote.");
    const before = this.letters.slice(Math.max(0, this.at - 14), this.at).map((each) => each.letter).join("");
    this.asked.append("What follows ", make("q", {}, before.replaceAll("\n", " ")), "? A random number, the black line, fell on ", make("q", {}, readable(letter)), ".");
    let left = 0;
    for (const [option, share] of options) {
      const piece = make("i", { style: `left:${100 * left}%;width:${100 * share}%` });
      if (share > 0.04) piece.append(option === " " ? "␣" : option === "\n" ? "⏎" : option);
      if (option === letter) piece.className = "fg-picked";
      this.line.append(piece);
      left += share;
      const bar = make("b", { style: `width:${100 * share}%` });
      const button = make("button", { type: "button", "aria-label": `${readable(option)}, ${percent(share)}: go on from here with it` });
      button.append(make("span", {}, readable(option)), make("span", { class: "fg-amount" }, bar), percent(share));
      if (option === letter) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => this.fork(option));
      this.bars.append(make("li", {}, button));
    }
    this.line.append(make("u", { style: `left:${100 * place}%` }));
  }

  // Put another letter at the chosen place and write on from there.
  fork(letter) {
    const { options, place } = this.letters[this.at];
    const begun = this.letters.slice(0, this.at);
    this.write([...begun, { letter, options, place: this.placeOf(options, letter, place) }]);
  }
  placeOf(options, letter, place) {
    const k = options.findIndex(([option]) => option === letter);
    const before = options.slice(0, k).reduce((sum, [, share]) => sum + share, 0);
    return k < 0 ? place : before + options[k][1] / 2; // as if the draw had fallen there
  }

  // The model; nothing where it did not arrive, which is said.
  async loaded() {
    try {
      return (this.model = await load());
    } catch (error) {
      this.stop();
      this.say(error.message);
    }
  }

  async begin(text) {
    const turn = this.start();
    if (!(await this.loaded()) || this.writing !== turn) return;
    const known = [...text].filter((letter) => this.model.alphabet.includes(letter));
    const unknown = [...new Set(text)].filter((letter) => !this.model.alphabet.includes(letter));
    if (!known.length) {
      this.stop();
      return this.say("Type a letter or more: it has to begin with something.");
    }
    const without = `The text that it learned from has no ${unknown.join(" ")}: it knows ${this.model.alphabet.length} characters.`;
    await this.write(known.map((letter) => ({ letter })), unknown.length ? without : "");
  }

  async write(begun, remark = "") {
    const turn = this.start();
    this.say(remark);
    if (!(await this.loaded()) || this.writing !== turn) return;
    this.letters = begun;
    for (let n = 0; n < LETTERS && this.letters.length < MOST; n++) {
      const options = this.model.next(this.letters.map(({ letter }) => letter), this.temperature());
      const place = Math.random();
      let [k, sum] = [0, options[0][1]];
      while (sum < place && k < options.length - 1) sum += options[++k][1];
      this.letters.push({ letter: options[k][0], options: options.slice(0, SHOWN), place });
      if (calm.matches) continue; // all at once
      this.shown = this.letters.length;
      this.at = this.shown - 1;
      this.show();
      await new Promise((done) => setTimeout(done, PACE));
      if (this.writing !== turn) return;
    }
    this.shown = this.letters.length;
    this.at = this.shown - 1;
    this.stop();
    this.show();
    if (this.shown >= MOST) this.say(`A text has ${MOST} letters at most, and the model looks back at ${this.model.context} of them.`);
  }

  // The record, letter by letter, until somebody touches the figure.
  async replay() {
    const turn = this.start();
    for (this.shown = this.beginning.value.length + 1; this.shown <= this.letters.length; this.shown++) {
      this.at = this.shown - 1;
      this.show();
      await new Promise((done) => setTimeout(done, PACE));
      if (this.writing !== turn) return;
    }
    this.shown = this.letters.length;
    this.stop();
    this.at = this.freest();
    this.show();
  }

  // The letter that was the least certain: there it might have gone another way.
  freest() {
    const top = ({ options }) => options?.[0][1] ?? 1;
    return this.letters.reduce((best, each, k, all) => (top(each) < top(all[best]) ? k : best), 0);
  }

  // From here on, until somebody stops it, this turn alone may change the text.
  start() {
    this.button.textContent = "Stop";
    return (this.writing = {});
  }

  stop() {
    this.writing = null;
    this.button.textContent = "Write";
  }
}

for (const figure of document.querySelectorAll("[data-fg-write]")) {
  const writer = (figure.writer = new Writer(figure));
  if (calm.matches) continue;
  const seen = new IntersectionObserver(([{ isIntersecting }]) => {
    if (!isIntersecting) return;
    seen.disconnect();
    writer.replay();
  });
  seen.observe(figure);
}
self.fieldguideWriter = { load, Model };
})();
