// One explorer: controls, the current setting, and what happens when it moves.

class Explorer {
  constructor(element, spec, bytes, kernel = null) {
    Object.assign(this, { element, spec, kernel });
    this.fields = new Fields(spec, bytes);
    this.twin = spec.twin && new Function(`return (${spec.twin}\n)`)();
    this.start = Object.fromEntries(spec.controls.map((c) => [c.name, c.keys[c.start]]));
    this.params = { ...this.start };
    this.shows = {}; // control -> function that shows a key in it
    this.draws = 0;
    this.ready = new Promise((done) => (this.started = done));
    this.build();
    fg.figures.push(this);
  }

  build() {
    const controls = this.spec.controls.map((control) => this.control(control));
    const reset = this.button("reset", "Reset", () => this.set(this.start));
    const buttons = html("div", { class: "fg-buttons" }, reset);
    if (!this.kernel) buttons.append(this.button("link", "Link to this setting", () => this.link()));
    this.boxes = {};
    const views = this.spec.views.map(({ title, kind }) => {
      const box = (this.boxes[title] = html("div", { class: "fg-box" }));
      const names = { "data-fg-kind": kind, "data-fg-view": title, "aria-label": title };
      return html("section", { class: "fg-view", ...names }, html("h4", {}, title), box);
    });
    this.pointed = html("p", { class: "fg-pointed" }, " ");
    this.status = html("p", { class: "fg-status", "aria-live": "polite" }, " ");
    // Until the views are drawn, the still picture lies over their place.
    this.still = this.element.querySelector(".fg-still");
    const stage = html("div", { class: "fg-stage" }, html("div", { class: "fg-views" }, ...views));
    if (this.still) stage.append(this.still);
    // What is said comes and goes; below the buttons it moves none from under a finger.
    this.element.append(
      html("div", { class: "fg-controls" }, ...controls),
      stage,
      buttons,
      this.pointed,
      this.status,
    );
    this.showParams();
  }

  showParams() {
    for (const [name, show] of Object.entries(this.shows)) show(this.params[name]);
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
    input.addEventListener("input", () => this.set({ [c.name]: read() }));
    const shown = html("output", { for: id });
    const row = html("div", { class: "fg-control", "data-fg-kind": c.kind, "data-fg-control": c.name });
    row.append(html("label", { for: id }, c.label), input);
    if (c.kind === "range") row.append(shown);
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
    const take = () => {
      const key = type === "number" ? Number(field.value) : field.value;
      if (field.value !== "" && key !== this.params[c.name]) this.set({ [c.name]: key });
    };
    field.addEventListener(type === "text" && c.free ? "input" : "change", take);
    field.addEventListener("keydown", (event) => event.key === "Enter" && take());
    return field;
  }

  // Is the key one of the control's, or one that the twin answers?
  onGrid(control, key) {
    const right = control.kind === "text" ? typeof key === "string" : Number.isFinite(key);
    return control.keys.includes(key) || (control.free && right);
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
    const changes = this.twin?.(params, this.twinData());
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
    this.repaint();
    this.element.removeAttribute("aria-busy");
    this.element.dataset.fgDraws = ++this.draws;
    if (this.draws === 1) {
      this.still?.remove();
      this.element.dataset.fgReady = "";
      this.started(this);
    } else {
      this.say(Object.values(views).map((view) => this.describe(view)).join(". "), 350);
    }
  }

  repaint() {
    for (const [title, view] of Object.entries(this.shown ?? {}))
      draw[view.kind](this.boxes[title], view, this);
  }

  describe(view) {
    const words = describe[view.kind]?.(view);
    return words === undefined ? view.title : `${view.title}: ${words}`;
  }

  // Put words under the picture, spoken by a screen reader, after a while.
  say(words, delay = 0) {
    clearTimeout(this.saying);
    if (delay) this.saying = setTimeout(() => this.say(words), delay);
    else this.status.textContent = words;
  }

  // Read values by pointer, and one by one by arrow keys. `find(x, y)` gives
  // a place [i, j] or null, `words(place)` its text, `size()` the last place.
  point(node, find, words, size) {
    const read = (event) => {
      const { left, top } = node.getBoundingClientRect();
      const place = find(event.clientX - left, event.clientY - top);
      this.pointed.textContent = place ? words(place) : " ";
    };
    node.addEventListener("pointerdown", read);
    node.addEventListener("pointermove", read);
    node.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      const from = node.at ?? [-step[0], -step[1]]; // the first key reads the first place
      node.at = from.map((at, axis) => clamp(at + step[axis], 0, size()[axis] - 1));
      if (node.place) this.repaint(); // a heatmap marks its cell
      this.pointed.textContent = words(node.at);
      this.say(words(node.at));
    });
  }

  link() {
    const state = new URLSearchParams({ fg: this.element.id });
    for (const [name, key] of Object.entries(this.params)) state.set(name, JSON.stringify(key));
    history.replaceState(null, "", `#${state}`);
    navigator.clipboard?.writeText(location.href).catch(() => {});
    this.say("The page's address now restores this setting; it was copied where the browser allows.");
  }

  // Take the setting from the address, if it names this explorer.
  restore() {
    const state = new URLSearchParams(location.hash.slice(1));
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
