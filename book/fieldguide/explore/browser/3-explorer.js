// One explorer: controls, the current setting, and what happens when it moves.

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const GLIDE = 250; // milliseconds from one setting to the next
const STOPS = "button,[tabindex]"; // what can have the focus in a view

// A figure's plain keys are its own: JupyterLab would take an arrow to go to another
// cell, and d d to delete this one. What runs or saves a notebook passes.
const ownKeys = (event) => {
  const passes = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
  if (!passes) event.stopPropagation();
};

class Explorer {
  constructor(element, spec, bytes, drawings, kernel = null) {
    Object.assign(this, { element, spec, kernel });
    for (const [kind, source] of Object.entries(drawings)) bring(kind, source);
    this.fields = new Fields(spec, bytes);
    this.twin = spec.twin && new Function(`return (${spec.twin}\n)`)();
    this.start = Object.fromEntries(spec.controls.map((c) => [c.name, c.keys[c.start]]));
    this.params = { ...this.start };
    this.shows = {}; // control -> function that shows a key in it
    this.marks = new Set(); // the keys of the places that are pointed at
    this.draws = 0;
    this.ready = new Promise((done) => (this.started = done));
    this.build();
    fg.figures.push(this);
  }

  build() {
    const controls = this.spec.controls.map((control) => this.control(control));
    // On a phone it stays in view below a tall drawing.
    const main = Math.max(0, this.spec.controls.findIndex((c) => c.play));
    controls[main]?.setAttribute("data-fg-main", "");
    const buttons = html("div", { class: "fg-buttons" });
    if (controls.length) buttons.append(this.button("reset", "Reset", () => this.move(this.start)));
    if (controls.length && !this.kernel) buttons.append(this.button("link", "Link to this setting", () => this.link()));
    // On the book's site, the first figure of a page leads to how figures are read.
    const root = this.element.matches(".fg-hero") && document.documentElement.dataset.content_root;
    if (root && !/\/figures\.html$/.test(location.pathname)) buttons.append(html("a", { href: `${root}figures.html` }, "How to read the figures"));
    this.boxes = {};
    const pictures = this.spec.views.filter(({ kind }) => !/number|text|tokens/.test(kind));
    const views = this.spec.views.map(({ title, kind, wide }) => {
      const box = (this.boxes[title] = html("div", { class: "fg-box" }));
      const names = { "data-fg-kind": kind, "data-fg-view": title, "aria-label": title };
      if (wide) names["data-fg-wide"] = "";
      if (pictures.length === 1) names["data-fg-alone"] = ""; // it takes the whole width
      return html("section", { class: "fg-view", ...names }, html("h4", {}, title), box);
    });
    this.pointed = html("p", { class: "fg-pointed", "aria-hidden": "true", hidden: "" });
    this.status = html("p", { class: "fg-status fg-unseen", "aria-live": "polite" }, " ");
    // Until the views are drawn, the still picture lies over their place.
    this.still = this.element.querySelector(".fg-still");
    const shown = html("div", { class: "fg-views" }, ...views);
    const stage = (this.stage = html("div", { class: "fg-stage" }, shown, this.pointed));
    if (this.still) {
      // It knows how tall the views are in figures of these widths.
      const [phone, column] = this.still.dataset.fgTall.split(" ").map(Number);
      const share = clamp((this.element.offsetWidth - 328) / (688 - 328), 0, 1);
      stage.style.minHeight = `${phone + share * (column - phone)}px`;
      stage.append(this.still);
    }
    // The picture first: above it its title and what plays, below it or beside it words.
    const caption = this.element.querySelector("figcaption");
    const look = html("p", { class: "fg-look" }, caption.lastElementChild);
    if (this.player) caption.append(this.player);
    const side = html("div", { class: "fg-side" }, look, html("div", { class: "fg-controls" }, ...controls));
    if (this.spec.quiz) side.append(this.quiz(...this.spec.quiz));
    // What is said comes and goes; below the buttons it moves none from under a finger.
    side.append(buttons, this.status);
    this.element.append(html("div", { class: "fg-body" }, stage, side));
    stage.addEventListener("pointerdown", () => {
      this.pressed = true;
      const free = () => (this.pressed = false);
      for (const end of ["pointerup", "pointercancel"]) addEventListener(end, free, { once: true });
    });
    stage.addEventListener("pointerover", ({ target }) => this.over(target));
    stage.addEventListener("pointerleave", ({ pointerType }) => (pointerType === "mouse" ? this.tell([""]) : this.mark([])));
    stage.addEventListener("focusin", ({ target }) => this.over(target));
    this.element.addEventListener("keydown", ownKeys);
    this.showParams();
  }

  // A question. Its answer never opens by itself: the reader's guess comes first and
  // stays beside it, or the reader asks to be told. The guess is written; or `options`
  // are answers to press, or the name of a slider, and a value of it stays marked.
  quiz(question, answer, options) {
    const asked = html("p", {}, html("strong", {}, "Guess first. "), question);
    const told = html("p", { class: "fg-answer", tabindex: -1, hidden: "" }, answer);
    const control = this.spec.controls.find((c) => c.name === options);
    const form = html("form", { class: "fg-guess" });
    const open = (own) => {
      if (own) told.prepend(html("span", { class: "fg-ghost" }, `You guessed: ${own}`), " ");
      told.hidden = false;
      form.remove();
      told.focus({ preventScroll: true });
    };
    const pill = (words) => this.button("guess", words, () => open(words));
    if (Array.isArray(options)) form.append(...options.map(pill));
    else {
      const guess = control ? this.range(control) : html("input", { type: "text", placeholder: "Your guess", autocomplete: "off" });
      const shown = html("output", {});
      const own = () => (control ? `${control.label} ${control.labels[guess.value]}` : guess.value.trim());
      const show = () => control && (put(guess, { "aria-valuetext": own() }), write(shown, own()));
      put(guess, { "aria-label": "Your guess" });
      guess.addEventListener("input", show);
      show();
      form.append(guess, shown, html("button", { "data-fg-guess": "" }, "Compare"));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (!own()) return guess.focus();
        if (control) this.guessed = { name: control.name, at: Number(guess.value) };
        open(own());
        this.repaint(false);
      });
    }
    form.append(this.button("answer", "Just tell me", () => open()));
    return html("div", { class: "fg-quiz" }, asked, form, told);
  }

  showParams() {
    for (const [name, show] of Object.entries(this.shows)) show(this.params[name]);
    for (const link of document.querySelectorAll(`a[href^='#fg=${this.element.id}&']`))
      put(link, { "aria-current": settings(link).every(([name, key]) => this.params[name] === key) });
  }

  button(name, text, action) {
    const node = html("button", { type: "button", [`data-fg-${name}`]: "" }, text);
    node.addEventListener("click", action);
    return node;
  }

  // A row for one control: label, native input, its value; an exact field
  // where values off the grid can be answered.
  control(c) {
    const id = `fg-${fg.figures.length}-${c.name}`;
    const input = { range: this.range, check: this.check }[c.kind]?.(c) ?? this.choice(c);
    Object.assign(input, { id, name: c.name });
    const read = () => (c.kind === "check" ? input.checked : c.keys[input.value]);
    input.addEventListener("input", () => this.move({ [c.name]: read() }, c));
    const shown = html("output", { for: id });
    const row = html("div", { class: "fg-control", "data-fg-kind": c.kind, "data-fg-control": c.name });
    row.append(html("label", { for: id }, c.label), input);
    const longest = Math.max(...c.labels.map((label) => label.length));
    if (input.localName === "select" && longest > 20) row.dataset.fgLong = longest > 30 ? "very" : "";
    if (c.kind === "range") {
      shown.style.minWidth = `${clamp(longest, 3, 16)}ch`;
      row.append(shown);
    }
    const button = c.play && this.button("play", "", () => this.play(c));
    if (button) this.player = button;
    const typed = c.kind === "text" || (c.kind === "range" && c.numeric);
    const exact = typed && (this.kernel || c.free) ? this.exact(c) : null;
    if (exact) row.append(exact);
    this.shows[c.name] = (key) => {
      const at = c.keys.indexOf(key);
      if (c.kind === "check") input.checked = key;
      else if (at >= 0) input.value = at;
      else if (c.kind === "range") input.value = nearest(c.keys.length, (i) => Math.abs(c.keys[i] - key));
      else input.selectedIndex = -1;
      shown.value = at >= 0 ? c.labels[at] : format(key);
      if (c.kind === "range") input.setAttribute("aria-valuetext", shown.value);
      if (button) {
        const word = this.playing === c ? "Pause" : calm.matches ? "Step" : "Play";
        write(button, word);
        put(button, { "aria-label": `${word} ${c.label}` });
      }
      if (exact && document.activeElement !== exact)
        exact.value = at < 0 ? key : c.kind === "text" ? "" : Number(key.toPrecision(4));
    };
    return row;
  }

  range(c) {
    return html("input", { type: "range", min: 0, max: c.keys.length - 1, step: 1 });
  }
  check() {
    return html("input", { type: "checkbox" });
  }
  choice(c) {
    return html("select", {}, ...c.labels.map((text, i) => html("option", { value: i }, text)));
  }

  exact(c) {
    const type = c.kind === "text" ? "text" : "number";
    const label = `${c.label}: ${type === "text" ? "your own text" : "exact value"}`;
    const field = html("input", { type, step: "any", class: "fg-exact", "aria-label": label });
    if (type === "text") field.placeholder = "or type your own text";
    const live = type === "text" && c.free; // answered letter by letter, down to none
    const take = () => {
      const key = type === "number" ? Number(field.value) : field.value;
      if ((field.value === "" && !live) || key === this.params[c.name]) return;
      this.move({ [c.name]: key }, c);
    };
    field.addEventListener(live ? "input" : "change", take);
    field.addEventListener("keydown", (event) => event.key === "Enter" && field.value && take());
    return field;
  }

  // Is the key one of the control's, or one that the twin answers?
  onGrid(control, key) {
    const right = control.kind === "text" ? typeof key === "string" : Number.isFinite(key);
    return control.keys.includes(key) || (control.free && right);
  }

  // Step through a control's values up to its last one. Where two steps or fewer are
  // left, or none was made yet, it begins with the first, unless it was stopped right
  // there. Where motion is not wanted, one step a press.
  async play(c) {
    if (this.playing) return this.pause();
    const last = c.keys.length - 1;
    const at = () => c.keys.indexOf(this.params[c.name]);
    const early = at() > last - 3 || (at() === c.start && this.stopped === undefined);
    let anew = at() > 0 && early && this.stopped !== at();
    const step = () => {
      const next = anew || at() === last ? 0 : at() + 1;
      anew = false;
      return this.set({ [c.name]: c.keys[next] });
    };
    if (calm.matches) return (anew = false), step();
    this.playing = c;
    const slow = this.spec.views.map(({ kind }) => draw[kind].pace ?? 0);
    this.pace = Math.max(clamp(8000 / last, 120, 1000), ...slow);
    const turn = (this.turn = {});
    do {
      await step();
      await new Promise((done) => setTimeout(done, this.pace));
    } while (this.turn === turn && this.params[c.name] !== c.keys[last] && this.inView());
    if (this.turn === turn) this.pause();
  }

  // Stop playing; with a control, only where it is the one that plays.
  pause(control = this.playing) {
    if (!this.playing || control !== this.playing) return;
    this.stopped = control.keys.indexOf(this.params[control.name]);
    this.playing = this.turn = null;
    this.showParams();
    this.sayViews();
  }

  inView() {
    const { top, bottom } = this.element.getBoundingClientRect();
    return !document.hidden && bottom > 0 && top < innerHeight;
  }

  // The one way in which views set controls: `places` has a place for each part of
  // the view, {row: 3}; the control that the part sets takes its key of that place.
  choose(view, places) {
    const changes = {};
    for (const [part, name] of Object.entries(view.sets ?? {})) {
      const control = this.spec.controls.find((c) => c.name === name);
      const key = control.keys[places[part]];
      if (key !== undefined) changes[name] = key;
      if (key !== undefined) this.pause(control);
    }
    if (!Object.keys(changes).length) return;
    this.set(changes);
  }

  // The place of a view's part that is chosen now, or -1.
  chosen(view, part) {
    const name = view.sets?.[part];
    const control = this.spec.controls.find((c) => c.name === name);
    return control ? control.keys.indexOf(this.params[name]) : -1;
  }

  // Mark, in every view, what bears these keys: all of them, where it has several.
  mark(keys) {
    const same = keys.length === this.marks.size && keys.every((key) => this.marks.has(key));
    if (same) return;
    this.marks = new Set(keys);
    this.showMarks();
    for (const [title, view] of Object.entries(this.drawn ?? {}))
      if (view.kind === "heatmap" && (view.rows ?? view.columns)) draw.heatmap(this.boxes[title], view, this);
  }
  showMarks() {
    for (const node of this.stage.querySelectorAll("[data-fg-key]")) {
      const own = node.dataset.fgKey.split("\n");
      const met = own.filter((key) => this.marks.has(key)).length;
      node.classList.toggle("fg-marked", met > 0 && met === Math.min(own.length, this.marks.size));
    }
  }
  over(target) {
    const node = target.closest("[data-fg-key]");
    if (node) this.mark(node.dataset.fgKey.split("\n"));
    else if (!target.closest("canvas,svg,.fg-map")) this.mark([]);
  }

  // Say what is pointed at, above the pointer and inside the stage or, at the top of
  // the window, below it; and mark it everywhere.
  tell([words, ...keys], event) {
    this.pointed.textContent = words;
    this.pointed.hidden = !words || !event;
    if (event) {
      const { left, top, width } = this.stage.getBoundingClientRect();
      const x = event.clientX - left;
      const away = event.pointerType === "touch" ? 44 : 14;
      const up = event.clientY > 2 * away + 60;
      const [y, over] = up ? [-away, "-100%"] : [away + 10, "0"];
      this.pointed.style = `left:${x}px;top:${event.clientY - top + y}px;transform:translate(${(-100 * x) / width}%,${over})`;
    }
    this.mark([...new Set(keys.filter(Boolean))]);
  }

  // A reader moves controls: what plays stops, and what was pointed at is over.
  move(changes, control) {
    this.pause(control);
    this.tell([""]);
    return this.set(changes);
  }

  // Move controls; resolves when the new setting is drawn.
  set(changes) {
    for (const [name, key] of Object.entries(changes)) {
      const control = this.spec.controls.find((c) => c.name === name);
      if (!control) throw new RangeError(`no control ${name}`);
      if (!this.kernel && !this.onGrid(control, key))
        throw new RangeError(`${name} = ${key} is not one of ${control.keys}`);
      this.params[name] = key;
    }
    this.kernel?.set(this.params);
    return this.update();
  }

  async update() {
    this.showParams();
    if (!this.spec.controls.every((c) => this.onGrid(c, this.params[c.name]))) return this.wait();
    let loading;
    while ((loading = this.fields.load(this.params))) await loading; // it may move meanwhile
    let views;
    try {
      views = this.views();
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.element.dataset.fgRefused = "";
      return this.say(error.message); // the twin refuses what was typed
    }
    this.paint(views);
  }

  // Only the kernel knows this setting; it will answer through `paint`.
  wait() {
    this.element.setAttribute("aria-busy", "true");
    this.say("The kernel has not answered yet; is it running?", 5000);
  }

  // The current setting's views: {title: {kind, labels ..., arrays ...}}.
  views() {
    const { spec, fields, params } = this;
    const changes = this.twin?.(params, this.twinData(), readable);
    const entries = spec.views.map(({ title, kind, props, arrays }, i) => {
      if (changes) return [title, { title, kind, ...props, ...changes[title] }];
      const view = { title, kind, ...fields.get(`${i}.props`, params) };
      for (const [name, key] of Object.entries(arrays)) view[name] = fields.get(key, params);
      return [title, view];
    });
    return Object.fromEntries(entries);
  }

  twinData() {
    const data = {};
    for (const key of Object.keys(this.spec.fields)) {
      if (key.endsWith(".shape")) continue;
      data[key] = this.fields.get(key, this.params);
      if (!this.spec.fields[`${key}.shape`]) continue;
      const shape = this.fields.get(`${key}.shape`, this.params);
      data[key] = { shape, values: data[key].values.subarray(0, product(shape)) };
    }
    return data;
  }

  paint(views) {
    this.shown = views;
    this.glide(views, this.dragged ? 0 : this.playing ? this.pace : GLIDE);
    this.element.removeAttribute("aria-busy");
    delete this.element.dataset.fgRefused;
    this.element.dataset.fgDraws = ++this.draws;
    if (this.draws === 1) {
      if (this.still) this.still.parentNode.style.minHeight = "";
      this.still?.remove();
      this.element.dataset.fgReady = "";
      this.started(this);
    } else if (!this.playing) {
      this.sayViews();
    }
  }
  sayViews(first = []) {
    this.say([...first, ...Object.values(this.shown).map((view) => this.describe(view))].join(". "), 350, true);
  }

  // Go in so many milliseconds from what is drawn to these views. It waits while a
  // finger or a button is down: what is pressed must be there when it is let go.
  glide(views, ms) {
    cancelAnimationFrame(this.frame);
    const [from, start] = [this.drawn, performance.now()];
    const step = (now) => {
      const share = from && !calm.matches ? (now - start) / ms : 1;
      const waits = this.pressed && now > start + 16;
      this.frame = share < 1 || waits ? requestAnimationFrame(step) : 0;
      if (waits) return;
      this.drawn = share < 1 ? between(from, views, Math.max(0, share)) : views;
      this.repaint(!this.look);
    };
    step(start + 16); // a first step at once
  }

  // Draw every view; what had the focus keeps it when its node is a new one. Room and
  // colours are asked for only when they may be `new`: it would lay the page out.
  repaint(fresh = true, again = false) {
    if (!this.drawn) return;
    if (fresh) {
      const look = getComputedStyle(this.element);
      this.look = { ink: look.color, mark: look.getPropertyValue("--fg-mark") };
      const hero = this.element.matches(".fg-hero");
      for (const box of Object.values(this.boxes)) Object.assign(box, { room: box.clientWidth || 320, hero });
      if (hero) this.fill(Object.values(this.drawn));
    }
    for (const [title, view] of Object.entries(this.drawn)) {
      const box = this.boxes[title];
      const focused = document.activeElement;
      const stop = box.contains(focused) ? [...box.querySelectorAll(STOPS)].indexOf(focused) : -1;
      draw[view.kind](box, view, this);
      if (stop < 0 || box.contains(focused)) continue;
      const node = box.querySelectorAll(STOPS)[stop];
      if (node) node.at = focused.at;
      node?.focus({ preventScroll: true });
    }
    if (this.marks.size) this.showMarks();
    if (!fresh) return;
    // What is drawn now may need more room beside another view, and stand below it.
    const moved = Object.values(this.boxes).some((box) => box.room !== (box.clientWidth || 320));
    if (moved && !again) return this.repaint(true, true);
    this.element.toggleAttribute("data-fg-tall", this.stage.offsetHeight > 0.5 * innerHeight);
  }

  // Bars that are all there is to see fill the first screen.
  fill(views) {
    const bars = views.filter(({ kind }) => kind === "bars");
    if (!bars.length || views.some(({ kind }) => !/bars|tokens|number|text|table/.test(kind))) return;
    const rows = bars.reduce((sum, { labels }) => sum + labels.length, 0);
    const room = (this.element.offsetWidth < 480 ? 300 : 470) - 50 * bars.length;
    put(this.element, { style: `--fg-row:${clamp(Math.round(room / rows), 24, 64)}px` });
  }

  describe(view) {
    const words = describe[view.kind]?.(view, this);
    const notes = (view.annotations ?? []).map((note) => `. ${note.at(-1)}`);
    return (words === undefined ? view.title : `${view.title}: ${words}`) + notes.join("");
  }

  // Put words under the picture, spoken by a screen reader, after a while; `quietly`
  // for it alone, where the picture shows them to everybody else.
  say(words, delay = 0, quietly = false) {
    clearTimeout(this.saying);
    if (delay) this.saying = setTimeout(() => this.say(words, 0, quietly), delay);
    else {
      this.status.textContent = words;
      this.status.classList.toggle("fg-unseen", quietly);
    }
  }

  // Read values by pointer, and one by one by arrow keys. `find(x, y, target)` gives
  // a place [i, j], where -1 is outside, or nothing; `words(place)` its text,
  // `size()` the last place, `keys(place)` what to mark; where the view sets a
  // control, a click or Enter is `choose(place)`.
  point(node, reads, sets) {
    const anew = !node.reads;
    node.reads = reads; // those of the last drawing
    if (!anew) return;
    const told = (place, event) => {
      const { words, keys = () => [] } = node.reads;
      this.tell(place ? [words(place), ...keys(place)] : [""], event);
    };
    const found = ({ clientX, clientY, target }) => {
      const { left, top } = node.getBoundingClientRect();
      return node.reads.find(clientX - left, clientY - top, target);
    };
    const { choose } = reads; // all drawings have one, or none
    for (const type of ["pointerdown", "pointermove"]) node.addEventListener(type, (event) => told(found(event), event));
    if (choose) node.addEventListener("click", (event) => found(event) && node.reads.choose(found(event)));
    if (sets) {
      node.classList.add("fg-sets");
      node.setAttribute("role", "application");
    } else if (node.localName === "svg") node.setAttribute("role", "img");
    node.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      const step = steps[event.key];
      const chosen = choose && node.at && (event.key === "Enter" || event.key === " ");
      if (!step && !chosen) return;
      event.preventDefault();
      if (chosen) return node.reads.choose(node.at);
      const from = node.at ?? [-step[0], -step[1]]; // the first key reads the first place
      node.at = from.map((at, axis) => clamp(at + step[axis], 0, node.reads.size()[axis] - 1));
      if (node.place) this.repaint(false); // a heatmap marks its cell
      told(node.at);
      this.say(node.reads.words(node.at));
    });
  }

  link() {
    const state = new URLSearchParams({ fg: this.element.id });
    for (const [name, key] of Object.entries(this.params)) state.set(name, JSON.stringify(key));
    history.replaceState(null, "", `#${state}`);
    this.pause();
    navigator.clipboard?.writeText(location.href).catch(() => {});
    this.say("The page's address now restores this setting; it was copied where the browser allows.");
  }

  // Take the setting from an address, if it names this explorer.
  restore(hash = location.hash) {
    const state = new URLSearchParams(hash.slice(1));
    if (state.get("fg") !== this.element.id) return false;
    for (const control of this.spec.controls) {
      try {
        const key = JSON.parse(state.get(control.name));
        if (key !== null && this.onGrid(control, key)) this.params[control.name] = key;
      } catch {
        // not a setting of this control: it keeps its own
      }
    }
    return true;
  }
}
