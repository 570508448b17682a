// The browser's side of `explore`: a classic script, once a page, no imports.
//
// A stored explorer is <figure data-fg-explore="1"> with a still picture, a
// caption, a spec (JSON) and chunks (base64 of zlib). The spec has
//   controls [{name, label, kind: range | choice | check | text, keys, labels,
//             start, numeric}]          keys: a control's values on the grid
//   views    [{title, kind, arrays: {name: field}}], or with a twin
//            [{title, kind, props}]
//   fields   {field: {by, type, shape, low, step, chunk, per}}
//            one item for each setting of the controls in `by`, row-major;
//            `per` items a chunk, from chunk number `chunk` on;
//            u8 and u16 stand for low + step * integer; json is a list
//   twin     source of (params, data) => {title: changes to the view}, or null
//   by       with a twin: the controls that select its data; the other numeric
//            controls are continuous
// `index.props` is the field of a view's labels, axis names and units.
// Bytes arrive from the page or from a kernel; the rest is the same.
(() => {
  "use strict";
  const fg = (self.fieldguide ??= { figures: [] });
  const ARRAYS = { u8: Uint8Array, u16: Uint16Array, f32: Float32Array, f64: Float64Array };

  // ---- small helpers -------------------------------------------------------
  const make = (kind) => (tag, attributes = {}, ...children) => {
    const node = kind(tag);
    for (const [name, value] of Object.entries(attributes))
      if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    node.append(...children);
    return node;
  };
  const html = make((tag) => document.createElement(tag));
  const svg = make((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
  const extent = (values) => {
    let low = Infinity, high = -Infinity;
    for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
    return [low, high];
  };
  // Numbers as Python's format_cell writes them: four significant digits.
  const format = (value, digits = 4) => {
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
    const power = Math.floor(Math.log10(Math.abs(value)));
    if (power < -4 || power >= Math.max(digits, 6)) return value.toExponential(digits - 1).replace(/\.?0+e/, "e");
    const plain = value.toPrecision(digits);
    return String(plain.includes("e") ? Number(plain) : plain.includes(".") ? plain.replace(/\.?0+$/, "") : plain);
  };
  const colour = (t) => {
    const stops = self.fgColours, at = clamp(t, 0, 1) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(at));
    return [0, 1, 2].map((c) => stops[i][c] + (at - i) * (stops[i + 1][c] - stops[i][c]));
  };
  const inflate = async (bytes) => {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  };
  const base64 = (string) => Uint8Array.from(atob(string), (c) => c.charCodeAt(0));

  // ---- fields: from chunks to the arrays of one setting ---------------------
  class Fields {
    constructor(spec, bytes) {
      this.spec = spec;
      this.bytes = bytes; // chunk number -> compressed bytes
      this.chunks = new Map(); // chunk number -> decoded, or a promise of it
      this.index = {}; // control -> Map from key to its place
      for (const c of spec.controls) this.index[c.name] = { size: c.keys.length, places: new Map(c.keys.map((k, i) => [k, i])) };
    }
    place(field, params) {
      let at = 0;
      for (const name of field.by) at = at * this.index[name].size + this.index[name].places.get(params[name]);
      return [field.chunk + Math.floor(at / field.per), at % field.per];
    }
    // A promise while chunks are on their way; null when all are here.
    load(params) {
      const waiting = [];
      for (const field of Object.values(this.spec.fields)) {
        const [number] = this.place(field, params);
        if (!this.chunks.has(number)) this.chunks.set(number, this.decode(number, field));
        const chunk = this.chunks.get(number);
        if (chunk instanceof Promise) waiting.push(chunk);
      }
      return waiting.length ? Promise.all(waiting) : null;
    }
    async decode(number, field) {
      const buffer = await inflate(this.bytes(number));
      const chunk = field.type === "json" ? JSON.parse(new TextDecoder().decode(buffer)) : new ARRAYS[field.type](buffer);
      this.chunks.set(number, chunk);
      return chunk;
    }
    get(key, params) {
      const field = this.spec.fields[key], [number, at] = this.place(field, params), chunk = this.chunks.get(number);
      if (field.type === "json") return chunk[at];
      const size = field.shape.reduce((a, b) => a * b, 1);
      let values = chunk.subarray(at * size, (at + 1) * size);
      if (field.step !== undefined) values = Float64Array.from(values, (q) => field.low + field.step * q);
      return { shape: field.shape, values, low: field.low, step: field.step, levels: field.type === "u8" ? 255 : 65535 };
    }
  }

  // ---- views: each draws into a box ----------------------------------------
  // The ends of a scale: given, or those of the values of every setting.
  const ends = (view, array) => [
    view.low ?? array.low ?? extent(array.values)[0],
    view.high ?? (array.step ? array.low + array.step * array.levels : extent(array.values)[1]),
  ];
  const dress = (view, value) => `${format(value, view.digits ?? 3)}${view.unit ? ` ${view.unit}` : ""}`;
  const context = (canvas, width, height) => {
    const scale = self.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.aspectRatio = `${width} / ${height}`;
      canvas.style.width = `${width}px`;
    }
    const g = canvas.getContext("2d");
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.clearRect(0, 0, width, height);
    return g;
  };

  const draw = {
    heatmap(box, view, explorer) {
      const { shape: [rows, columns], values } = view.values, [low, high] = ends(view, view.values);
      let canvas = box.querySelector("canvas");
      if (!canvas) {
        canvas = html("canvas", { role: "img", tabindex: 0 });
        box.append(canvas);
        explorer.point(canvas, (x, y) => {
          const { left, top, cell, tall, rows, columns } = canvas.fg;
          const j = Math.floor((x - left) / cell), i = Math.floor((y - top) / tall);
          return i >= 0 && j >= 0 && i < rows && j < columns ? [i, j] : null;
        }, ([i, j]) => {
          const { view, rows, columns } = canvas.fg, name = (labels, k) => labels?.[k] ?? k + 1;
          const axis = (word, text) => (word ? `${word} ${text}` : text);
          return `${axis(view.row_axis, name(view.rows, i))}, ${axis(view.column_axis, name(view.columns, j))}: ` +
            dress(view, view.values.values[i * columns + j]);
        });
      }
      const width = Math.min(box.clientWidth || 320, 420), font = 11, g0 = canvas.getContext("2d");
      g0.font = `${font}px system-ui, sans-serif`;
      const longest = (labels) => Math.min(90, labels ? Math.max(...labels.map((t) => g0.measureText(t).width)) + 8 : 0);
      const fits = (labels, room) => labels && room >= 8;
      let left = longest(view.rows), cell = (width - left - 1) / columns;
      if (!fits(view.rows, cell)) { left = 0; cell = (width - 1) / columns; }
      const tall = clamp(cell, Math.min(12, 420 / rows), Math.max(28, cell * (rows === columns))), top = view.row_axis || view.column_axis ? 18 : 2;
      const below = fits(view.columns, cell) ? longest(view.columns) : 0, height = top + tall * rows + below + 34;
      const g = context(canvas, width, height), style = getComputedStyle(box);
      canvas.fg = { view, left, top, cell, tall, rows, columns };
      const image = new ImageData(columns, rows), span = high - low || 1;
      for (let k = 0; k < values.length; k++) {
        const [r, gr, b] = colour((values[k] - low) / span);
        image.data[4 * k] = r; image.data[4 * k + 1] = gr; image.data[4 * k + 2] = b; image.data[4 * k + 3] = 255;
      }
      const small = (canvas.small ??= document.createElement("canvas"));
      small.width = columns; small.height = rows;
      small.getContext("2d").putImageData(image, 0, 0);
      g.imageSmoothingEnabled = false;
      g.drawImage(small, left, top, cell * columns, tall * rows);
      g.fillStyle = style.color;
      g.font = `${font}px system-ui, sans-serif`;
      g.textBaseline = "middle";
      g.textAlign = "left";
      if (top > 2) {
        const words = [view.row_axis && `↓ ${view.row_axis}`, view.column_axis && `→ ${view.column_axis}`];
        g.fillText(words.filter(Boolean).join("   "), left, 8);
      }
      if (left) { g.textAlign = "right"; view.rows.forEach((t, i) => g.fillText(t, left - 5, top + tall * (i + 0.5), left - 6)); }
      if (below) {
        g.textAlign = "right";
        view.columns.forEach((t, j) => {
          g.save();
          g.translate(left + cell * (j + 0.5), top + tall * rows + 5);
          g.rotate(-Math.PI / 2);
          g.fillText(t, 0, 0, below - 6);
          g.restore();
        });
      }
      // the legend: a strip of the colours with its ends and unit
      const y = height - 22, wide = Math.min(160, width - left);
      for (let k = 0; k < wide; k++) {
        g.fillStyle = `rgb(${colour(k / (wide - 1)).map(Math.round)})`;
        g.fillRect(left + k, y, 1.5, 8);
      }
      g.fillStyle = style.color;
      g.textAlign = "left"; g.fillText(format(low, 3), left, y + 15);
      g.textAlign = "right"; g.fillText(dress(view, high), left + wide, y + 15);
      canvas.setAttribute("aria-label", `${explorer.describe(view)}. Arrow keys read one cell at a time.`);
      if (canvas.at) {
        const [i, j] = canvas.at;
        g.strokeStyle = style.color; g.lineWidth = 2;
        g.strokeRect(left + cell * j, top + tall * i, cell, tall);
      }
    },

    tokens(box, view) {
      const [, high] = ends(view, view.values), values = view.values.values;
      box.replaceChildren(html("p", { class: "fg-tokens" }, ...view.pieces.map((piece, i) => {
        const share = clamp(values[i] / (high || 1), 0, 1);
        return html("span", { style: `--fg-share:${(45 * share).toFixed(1)}%`, title: dress(view, values[i]) }, piece);
      })));
    },

    lines(box, view, explorer) {
      const { shape: [count, length], values } = view.y, x = view.x.values;
      const [low, high] = [view.low ?? ends(view, view.y)[0], view.high ?? ends(view, view.y)[1]];
      const frame = plot(box, explorer.describe(view), extent(x), view.y_log ? [Math.max(low, Number.MIN_VALUE), high] : [low, high], view);
      for (let s = 0; s < count; s++) {
        let d = "";
        for (let k = 0; k < length; k++) d += `${k ? "L" : "M"}${frame.x(x[k]).toFixed(1)},${frame.y(values[s * length + k]).toFixed(1)}`;
        const look = { stroke: self.fgPalette[s % 6], "stroke-dasharray": ["none", "7 3", "2 3", "9 3 2 3"][Math.floor(s) % 4] };
        frame.node.append(svg("path", { d, fill: "none", "stroke-width": 2, ...look }));
      }
      legend(box, view.names, true);
      explorer.point(frame.node, (px) => {
        let best = 0;
        for (let k = 1; k < length; k++) if (Math.abs(frame.x(x[k]) - px) < Math.abs(frame.x(x[best]) - px)) best = k;
        return [0, best];
      }, ([, k]) => `${view.x_axis || "x"} ${format(x[k], 3)}: ` + view.names.map((name, s) => `${name} ${format(values[s * length + k], 3)}`).join(", "), [1, length]);
    },

    scatter(box, view, explorer) {
      const x = view.x.values, y = view.y.values, names = [...new Set(view.groups ?? [""])];
      const frame = plot(box, explorer.describe(view), ends({}, view.x), ends({}, view.y), view);
      for (let k = 0; k < x.length; k++)
        frame.node.append(svg("circle", { cx: frame.x(x[k]), cy: frame.y(y[k]), r: 4, fill: self.fgPalette[names.indexOf(view.groups?.[k] ?? "") % 6], "fill-opacity": 0.8 }));
      legend(box, names, false);
      explorer.point(frame.node, (px, py) => {
        let best = 0, near = Infinity;
        for (let k = 0; k < x.length; k++) { const d = (frame.x(x[k]) - px) ** 2 + (frame.y(y[k]) - py) ** 2; if (d < near) { near = d; best = k; } }
        return [0, best];
      }, ([, k]) => `${view.labels?.[k] ?? view.groups?.[k] ?? k + 1}: ${view.x_axis || "x"} ${format(x[k], 3)}, ${view.y_axis || "y"} ${format(y[k], 3)}`, [1, x.length]);
    },

    bars(box, view) {
      const values = view.values.values, [low, high] = ends(view, view.values), span = high - low || 1;
      box.replaceChildren(html("ul", { class: "fg-bars" }, ...view.labels.map((label, i) => {
        const zero = clamp(-low / span, 0, 1), end = clamp((values[i] - low) / span, 0, 1);
        const bar = `left:${(100 * Math.min(zero, end)).toFixed(2)}%;width:${(100 * Math.abs(end - zero)).toFixed(2)}%`;
        return html("li", {}, html("span", {}, label), html("span", { class: "fg-bar" }, html("i", { style: bar })), html("span", { class: "fg-value" }, dress(view, values[i])));
      })));
    },

    number(box, view) {
      box.replaceChildren(html("p", { class: "fg-number" }, dress(view, view.value.values[0])));
    },

    table(box, view) {
      const cells = (tag, row) => row.map((cell, i) => html(tag, tag === "th" ? { scope: "col" } : {}, cell));
      box.replaceChildren(html("table", {}, html("thead", {}, html("tr", {}, ...cells("th", view.columns))),
        html("tbody", {}, ...view.rows.map((row) => html("tr", {}, ...cells("td", row))))));
    },

    text(box, view) { box.replaceChildren(html("p", { class: "fg-text" }, view.text)); },

    pictures(box, view) {
      const { shape: [count, height, width, channels = 1], values } = view.values, size = height * width * channels;
      box.replaceChildren(html("div", { class: "fg-pictures" }, ...Array.from({ length: count }, (_, n) => {
        const canvas = html("canvas", { width, height, role: "img", "aria-label": view.labels?.[n] ?? `picture ${n + 1} of ${count}` });
        const image = new ImageData(width, height);
        for (let k = 0; k < width * height; k++) for (let c = 0; c < 4; c++)
          image.data[4 * k + c] = c === 3 ? 255 : values[n * size + k * channels + (channels === 3 ? c : 0)];
        canvas.getContext("2d").putImageData(image, 0, 0);
        return html("div", {}, canvas, ...(view.labels ? [html("span", {}, view.labels[n])] : []));
      })));
    },

    figure(box, view, explorer) {
      const image = box.querySelector("img") ?? box.appendChild(html("img", {}));
      image.src = `data:image/png;base64,${view.png}`;
      image.alt = explorer.describe(view);
    },
  };

  // A frame with axes for lines and scatter: returns the SVG node and scales.
  const ticks = (low, high, log) => {
    if (log) {
      const all = [], from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high)), few = to - from < 3;
      for (let p = from; p <= to; p++) for (const m of few ? [1, 2, 5] : [1]) all.push(m * 10 ** p);
      return all.filter((t) => t >= low * 0.999 && t <= high * 1.001);
    }
    const rough = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999), all = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) all.push(Math.abs(t) < step / 1e6 ? 0 : Number(t.toPrecision(12)));
    return all;
  };
  const plot = (box, label, [x0, x1], [y0, y1], { x_axis, y_axis, x_log, y_log }) => {
    const width = Math.min(box.clientWidth || 320, 480), height = Math.round(clamp(width * 0.62, 190, 280)), left = 48, bottom = height - 38;
    const scale = (from, to, a, b, log) => { const f = log ? Math.log10 : (v) => v, span = f(b) - f(a) || 1; return (v) => from + ((f(v) - f(a)) / span) * (to - from); };
    const x = scale(left, width - 10, x0, x1, x_log), y = scale(bottom, 20, y0, y1, y_log);
    const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", tabindex: 0, "aria-label": label });
    const words = (text, place) => svg("text", place, text);
    for (const t of ticks(y0, y1, y_log)) node.append(svg("path", { class: "fg-grid", d: `M${left},${y(t)}H${width - 10}` }), words(format(t, 3), { x: left - 5, y: y(t) + 4, "text-anchor": "end" }));
    for (const t of ticks(x0, x1, x_log)) node.append(words(format(t, 3), { x: x(t), y: bottom + 15, "text-anchor": "middle" }));
    node.append(svg("path", { class: "fg-axis", d: `M${left},20V${bottom}H${width - 10}` }));
    node.append(words(x_axis, { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }), words(y_axis, { x: 2, y: 12 }));
    box.replaceChildren(node);
    return { node, x, y };
  };
  const legend = (box, names, dashed) => {
    if (names.length < 2) return;
    box.append(html("p", { class: "fg-legend" }, ...names.map((name, s) => {
      const stroke = { stroke: self.fgPalette[s % 6], "stroke-width": dashed ? 3 : 9, "stroke-dasharray": dashed ? ["none", "7 3", "2 3", "9 3 2 3"][s % 4] : "none" };
      return html("span", {}, svg("svg", { width: 22, height: 9, "aria-hidden": "true" }, svg("path", { d: dashed ? "M0,5H22" : "M6,5H15", ...stroke })), name);
    })));
  };

  // ---- one explorer ----------------------------------------------------------
  class Explorer {
    constructor(element, spec, bytes, kernel = null) {
      Object.assign(this, { element, spec, kernel });
      this.fields = new Fields(spec, bytes);
      this.twin = spec.twin ? new Function(`return (${spec.twin}\n)`)() : null;
      this.start = Object.fromEntries(spec.controls.map((c) => [c.name, c.keys[c.start]]));
      this.params = { ...this.start };
      this.inputs = {};
      this.draws = 0;
      this.ready = new Promise((done) => (this.started = done));
      this.build();
      fg.figures.push(this);
    }

    build() {
      const { spec, element } = this, panel = html("div", { class: "fg-controls" });
      for (const control of spec.controls) panel.append(this.control(control));
      const buttons = html("div", { class: "fg-buttons" });
      const button = (name, text, action) => {
        const node = html("button", { type: "button", [`data-fg-${name}`]: true }, text);
        node.addEventListener("click", action);
        buttons.append(node);
      };
      button("reset", "Reset", () => this.set(this.start));
      if (!this.kernel) button("link", "Link to this setting", () => this.link());
      this.boxes = {};
      const views = html("div", { class: "fg-views" });
      for (const { title, kind } of spec.views) {
        const box = html("div", { class: "fg-box" });
        this.boxes[title] = box;
        views.append(html("section", { class: "fg-view", "data-fg-kind": kind, "data-fg-view": title, "aria-label": title }, html("h4", {}, title), box));
      }
      this.pointed = html("p", { class: "fg-pointed" }, " ");
      this.status = html("p", { class: "fg-status", "aria-live": "polite" }, " ");
      element.querySelector(".fg-still")?.remove();
      element.append(panel, views, this.pointed, this.status, buttons);
    }

    continuous(control) { return control.numeric && (this.twin ? !this.spec.by.includes(control.name) : false); }
    onGrid(control, key) { return control.keys.includes(key) || (this.continuous(control) && typeof key === "number"); }

    control(c) {
      const id = `fg-${fg.figures.length}-${c.name}`, move = (key) => this.set({ [c.name]: key });
      let input, read;
      const shown = c.kind === "range" ? html("output", { for: id }) : "";
      if (c.kind === "range") {
        input = html("input", { type: "range", min: 0, max: c.keys.length - 1, step: 1 });
        read = () => c.keys[input.value];
      } else if (c.kind === "check") {
        input = html("input", { type: "checkbox" });
        read = () => input.checked;
      } else {
        input = html("select", {}, ...c.labels.map((text, i) => html("option", { value: i }, text)));
        read = () => c.keys[input.value];
      }
      input.id = id;
      input.name = c.name;
      input.addEventListener("input", () => move(read()));
      const row = html("div", { class: "fg-control", "data-fg-kind": c.kind, "data-fg-control": c.name }, html("label", { for: id }, c.label), input, shown);
      const free = c.kind === "text" ? this.kernel : c.kind === "range" && c.numeric && (this.kernel || this.continuous(c));
      let exact = null;
      if (free) {
        const type = c.kind === "text" ? "text" : "number";
        exact = html("input", { type, step: "any", class: "fg-exact", "aria-label": `${c.label}: ${type === "text" ? "your own text" : "exact value"}` });
        const take = () => {
          const key = type === "number" ? Number(exact.value) : exact.value;
          if (exact.value !== "" && key !== this.params[c.name]) move(key);
        };
        exact.addEventListener("change", take);
        exact.addEventListener("keydown", (event) => { if (event.key === "Enter") take(); });
        row.append(exact);
      }
      this.inputs[c.name] = (key) => {
        const at = c.keys.indexOf(key);
        if (c.kind === "check") input.checked = key;
        else if (at >= 0) input.value = at;
        else if (c.kind === "range") input.value = c.keys.reduce((best, k, i) => (Math.abs(k - key) < Math.abs(c.keys[best] - key) ? i : best), 0);
        else input.selectedIndex = -1;
        if (c.kind === "range") {
          shown.value = at >= 0 ? c.labels[at] : format(key);
          input.setAttribute("aria-valuetext", shown.value);
        }
        if (exact && document.activeElement !== exact) exact.value = c.kind === "text" && at >= 0 ? "" : key;
      };
      return row;
    }

    // Move controls; resolves when the new setting is drawn.
    set(changes) {
      for (const [name, key] of Object.entries(changes)) {
        const control = this.spec.controls.find((c) => c.name === name);
        if (!control) throw new RangeError(`no control ${name}`);
        if (!this.kernel && !this.onGrid(control, key)) throw new RangeError(`${name} = ${key} is not one of ${control.keys}`);
        this.params[name] = key;
      }
      this.kernel?.set(this.params);
      return this.update();
    }

    update() {
      for (const [name, show] of Object.entries(this.inputs)) show(this.params[name]);
      if (!this.spec.controls.every((c) => this.onGrid(c, this.params[c.name]))) {
        this.element.setAttribute("aria-busy", "true"); // until the kernel answers
        clearTimeout(this.saying);
        this.saying = setTimeout(() => this.say("The kernel has not answered yet; is it running?"), 5000);
        return Promise.resolve();
      }
      const waiting = this.fields.load(this.params);
      if (!waiting) { this.paint(this.views()); return Promise.resolve(); }
      return waiting.then(() => this.paint(this.views()));
    }

    // The current setting's views: {title: {kind, labels ..., arrays ...}}.
    views() {
      const { spec, fields, params } = this, result = {};
      if (this.twin) {
        const data = {};
        for (const key of Object.keys(spec.fields)) if (!key.endsWith(".shape")) {
          data[key] = fields.get(key, params);
          const shape = spec.fields[`${key}.shape`] && fields.get(`${key}.shape`, params);
          if (shape) data[key] = { shape, values: data[key].values.subarray(0, shape.reduce((a, b) => a * b, 1)) };
        }
        const changes = this.twin(params, data);
        for (const view of spec.views) result[view.title] = { title: view.title, kind: view.kind, ...view.props, ...changes[view.title] };
        return result;
      }
      spec.views.forEach((view, i) => {
        const shown = { title: view.title, kind: view.kind, ...fields.get(`${i}.props`, params) };
        for (const [name, key] of Object.entries(view.arrays)) shown[name] = fields.get(key, params);
        result[view.title] = shown;
      });
      return result;
    }

    paint(views) {
      this.shown = views;
      for (const [title, view] of Object.entries(views)) draw[view.kind](this.boxes[title], view, this);
      this.element.removeAttribute("aria-busy");
      this.element.dataset.fgDraws = ++this.draws;
      if (this.draws === 1) { this.element.dataset.fgReady = ""; this.started(this); }
      else {
        clearTimeout(this.saying);
        this.saying = setTimeout(() => this.say(Object.values(views).map((v) => this.describe(v)).join(". ")), 350);
      }
    }

    say(words) { this.status.textContent = words; }

    // One line on a view, for a screen reader and under the picture.
    describe(view) {
      const name = view.title;
      if (view.kind === "number") return `${name}: ${dress(view, view.value.values[0])}`;
      if (view.kind === "text") return `${name}: ${view.text}`;
      if (view.kind === "lines") {
        const n = view.x.values.length, at = (s, k) => format(view.y.values[s * n + k], 3);
        return `${name}: ${view.names.map((t, s) => `${t} from ${at(s, 0)} to ${at(s, n - 1)}`).join(", ")}`;
      }
      const values = view.values?.values;
      if (!values || view.kind === "pictures") return name;
      let best = 0;
      for (let k = 1; k < values.length; k++) if (values[k] > values[best]) best = k;
      if (view.kind === "heatmap") {
        const columns = view.values.shape[1], i = Math.floor(best / columns), j = best % columns;
        return `${name}: largest ${dress(view, values[best])} at ${view.row_axis || "row"} ${view.rows?.[i] ?? i + 1}, ${view.column_axis || "column"} ${view.columns?.[j] ?? j + 1}`;
      }
      return `${name}: largest ${(view.labels ?? view.pieces)[best]}, ${dress(view, values[best])}`;
    }

    // Read values by pointer, and by arrow keys: find(x, y) -> [i, j] or null.
    point(node, find, words, size = null) {
      const show = (at, spoken) => {
        const text = at ? words(at) : " ";
        this.pointed.textContent = text;
        if (spoken) this.say(text);
      };
      for (const type of ["pointerdown", "pointermove"]) node.addEventListener(type, (event) => {
        const box = node.getBoundingClientRect();
        show(find(event.clientX - box.left, event.clientY - box.top));
      });
      node.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
        if (!step) return;
        event.preventDefault();
        const [rows, columns] = size ?? [node.fg.rows, node.fg.columns], at = node.at;
        node.at = at ? [clamp(at[0] + step[0], 0, rows - 1), clamp(at[1] + step[1], 0, columns - 1)] : [0, 0];
        if (node.fg) this.repaint();
        show(node.at, true);
      });
    }

    repaint() { if (this.shown) for (const [title, view] of Object.entries(this.shown)) draw[view.kind](this.boxes[title], view, this); }

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
      for (const c of this.spec.controls) {
        try {
          const key = JSON.parse(state.get(c.name));
          if (key !== null && this.onGrid(c, key)) this.params[c.name] = key;
        } catch { /* not a setting of this control: it keeps its start */ }
      }
      return true;
    }
  }

  // Redraw when the width or the theme changes.
  const seen = new WeakMap();
  const resized = new ResizeObserver((entries) => {
    for (const { target, contentRect: { width } } of entries) {
      if (seen.get(target) !== width && seen.has(target)) fg.figures.find((f) => f.element === target)?.repaint();
      seen.set(target, width);
    }
  });
  const themed = new MutationObserver(() => fg.figures.forEach((f) => f.repaint()));
  themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light"] });
  if (document.body) themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });

  // ---- the page: wake stored figures when they come near the view ------------
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) {
      near.unobserve(target);
      fg.figures.find((f) => f.element === target)?.update();
    }
  }, { rootMargin: "300px" });
  const wake = (element) => {
    if (element.dataset.fgAwake !== undefined) return;
    element.dataset.fgAwake = "";
    const twins = document.querySelectorAll(`#${CSS.escape(element.id)}`);
    if (twins.length > 1) element.id += `-${[...twins].indexOf(element) + 1}`;
    const spec = JSON.parse(element.querySelector(".fg-spec").textContent);
    const chunks = element.querySelectorAll("[data-fg-chunk]");
    const explorer = new Explorer(element, spec, (number) => base64(chunks[number].textContent));
    if (explorer.restore()) addEventListener("load", () => element.scrollIntoView());
    near.observe(element);
    resized.observe(element);
  };
  addEventListener("hashchange", () => fg.figures.forEach((f) => {
    if (!f.kernel && f.restore()) { f.update(); f.element.scrollIntoView(); }
  }));
  const queue = self.fgQueue ?? [];
  self.fgQueue = { push: wake };
  if (Array.isArray(queue)) queue.forEach(wake);

  // ---- JupyterLab: the same explorer over a kernel's model --------------------
  fg.anywidget = {
    render({ model, el }) {
      const spec = model.get("spec"), names = spec.controls.map((c) => c.name);
      const figure = html("figure", { class: "fg", id: spec.id }, html("figcaption", {}, html("strong", {}, spec.title), ` ${spec.look}`));
      el.append(figure);
      const kernel = { set: (params) => { model.set(params); model.save_changes(); } };
      const bytes = (number) => { const view = model.get("chunks")[number]; return new Uint8Array(view.buffer, view.byteOffset, view.byteLength); };
      const explorer = new Explorer(figure, spec, bytes, kernel);
      const follow = () => { for (const name of names) explorer.params[name] = model.get(name); explorer.update(); };
      const answer = (message) => {
        if (!names.every((name) => message.params[name] === explorer.params[name])) return; // an older setting's
        clearTimeout(explorer.saying);
        if (message.error) { figure.removeAttribute("aria-busy"); explorer.say(message.error); return; }
        for (const [title, view] of Object.entries(message.views)) view.title = title;
        explorer.paint(message.views);
      };
      for (const name of names) model.on(`change:${name}`, follow);
      model.on("msg:custom", answer);
      follow();
      resized.observe(figure);
      return () => {
        for (const name of names) model.off(`change:${name}`, follow);
        model.off("msg:custom", answer);
        fg.figures.splice(fg.figures.indexOf(explorer), 1);
      };
    },
  };
})();
