// Views: `draw[kind](box, view, explorer)` shows a view in its box. A view has
// its properties (labels, units ...) and its arrays as {shape, values}.

const DASHES = ["none", "7 3", "2 3", "9 3 2 3"];
const paint = (s) => self.fgPalette[s % self.fgPalette.length];

// The ends of a view's scale: given, or those of the values of every setting.
const ends = (view, array) => [
  view.low ?? array.low ?? extent(array.values)[0],
  view.high ?? array.high ?? extent(array.values)[1],
];

// A value of `array` with the view's unit, no finer than its row was stored.
function dress(view, value, array = {}, row = 0) {
  const known = array.decimals ? Number(value.toFixed(array.decimals[row])) : value;
  return format(known, view.digits ?? 3) + (view.unit ? ` ${view.unit}` : "");
}

// A share of 0 .. 1 as the colour map's [red, green, blue].
function colour(share) {
  const stops = self.fgColours;
  const at = clamp(share, 0, 1) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(at));
  return [0, 1, 2].map((c) => stops[i][c] + (at - i) * (stops[i + 1][c] - stops[i][c]));
}

// A context for drawing in CSS pixels, sharp on any screen.
function context(canvas, width, height) {
  const scale = self.devicePixelRatio || 1;
  const [wide, tall] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== wide || canvas.height !== tall) {
    Object.assign(canvas, { width: wide, height: tall });
    Object.assign(canvas.style, { width: `${width}px`, aspectRatio: `${width} / ${height}` });
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.textBaseline = "middle";
  return pen;
}

// Where the parts of a heatmap go: labels left and below, the cells, a legend.
function layout(view, rows, columns, { room, hero }, measure) {
  const longest = (labels) => Math.min(90, Math.max(...labels.map(measure)) + 8);
  const width = Math.min(room, hero ? 640 : 480);
  let left = view.rows ? longest(view.rows) : 0;
  let cell = (width - left - 1) / columns;
  if (cell < 8 && rows > 16) [left, cell] = [0, (width - 1) / columns]; // too narrow for words
  const top = view.row_axis || view.column_axis ? 18 : 2;
  // As tall as it may be wide, if its words still fit; the first figure of a page is.
  const even = (hero && room < 480 ? 260 : 420) / rows;
  const most = clamp(even, 12, hero ? 42 : 28);
  const tall = rows === columns ? cell : clamp(cell, hero ? Math.min(even, most) : Math.min(12, even), most);
  const flat = view.columns && Math.max(...view.columns.map(measure)) < cell - 8;
  const foot = flat ? 20 : view.columns && cell >= 8 ? longest(view.columns) : 0;
  const height = top + tall * rows + foot + (view.kinds ? 2 : 34);
  return { width, height, left, top, cell, tall, foot, flat, rows, columns };
}

// Kinds have the palette's colours; kind 0 is an empty place.
const EMPTY = "#80808040";
const kindPaint = (k) => (k ? paint(k - 1) : EMPTY);
const bytes = (hex) => hex.match(/\w\w/g).map((byte) => parseInt(byte, 16));

function drawCells(canvas, pen, { view, place }, low, high) {
  const { left, top, cell, tall, rows, columns } = place;
  const image = new ImageData(columns, rows);
  const kinds = view.kinds?.map((_, k) => bytes(kindPaint(k)));
  view.values.values.forEach((value, k) => {
    image.data[4 * k + 3] = 255;
    image.data.set(kinds?.[Math.round(value)] ?? colour((value - low) / (high - low || 1)), 4 * k);
  });
  const small = (canvas.small ??= document.createElement("canvas"));
  Object.assign(small, { width: columns, height: rows });
  small.getContext("2d").putImageData(image, 0, 0);
  const [wide, deep] = [cell * columns, tall * rows];
  pen.save();
  if (kinds && Math.min(cell, tall) >= 5) {
    // Gaps are left out, not cleared: in print, that clears the sheet in Chromium.
    onlyWithin(pen, rows, (i) => [left, top + tall * i + 0.5, wide, tall - 1]);
    onlyWithin(pen, columns, (j) => [left + cell * j + 0.5, top, cell - 1, deep]);
  }
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, left, top, wide, deep);
  pen.restore();
}

// From now on, draw in so many rectangles alone.
function onlyWithin(pen, count, rectangle) {
  pen.beginPath();
  for (let k = 0; k < count; k++) pen.rect(...rectangle(k));
  pen.clip();
}

function drawWords(pen, view, { left, top, cell, tall, foot, flat, rows }) {
  const axes = [view.row_axis && `↓ ${view.row_axis}`, view.column_axis && `→ ${view.column_axis}`];
  pen.textAlign = "left";
  pen.fillText(axes.filter(Boolean).join("   "), left, 8);
  pen.textAlign = "right";
  if (left)
    view.rows.forEach((text, i) => pen.fillText(text, left - 5, top + tall * (i + 0.5), left - 6));
  if (foot)
    view.columns.forEach((text, j) => {
      pen.save();
      pen.translate(left + cell * (j + 0.5), top + tall * rows + 5);
      pen.textAlign = flat ? "center" : "right";
      if (!flat) pen.rotate(-Math.PI / 2);
      pen.fillText(text, 0, flat ? 8 : 0, flat ? cell : foot - 6);
      pen.restore();
    });
}

// A strip of the colours with its ends and unit.
function drawLegend(pen, view, { width, height, left }, ink, low, high) {
  const wide = Math.min(160, width - left);
  for (let k = 0; k < wide; k++) {
    pen.fillStyle = `rgb(${colour(k / (wide - 1)).map(Math.round)})`;
    pen.fillRect(left + k, height - 22, 1.5, 8);
  }
  pen.fillStyle = ink;
  pen.textAlign = "left";
  pen.fillText(format(low, 3), left, height - 7);
  pen.textAlign = "right";
  pen.fillText(dress(view, high), left + wide, height - 7);
}

// A new heatmap's canvas, which reads a cell out under the pointer or by keys.
function heatmapCanvas(explorer) {
  const canvas = html("canvas", { tabindex: 0 });
  const find = (x, y) => {
    const { left, top, cell, tall, rows, columns } = canvas.place;
    const within = (k, count) => (k < count ? Math.max(k, -1) : -1);
    return [within(Math.floor((y - top) / tall), rows), within(Math.floor((x - left) / cell), columns)];
  };
  const words = ([i, j]) => {
    const { view, place } = canvas;
    if (i < 0 || j < 0) return "";
    const row = `${view.row_axis} ${view.rows?.[i] ?? i + 1}`.trim();
    const column = `${view.column_axis} ${view.columns?.[j] ?? j + 1}`.trim();
    const value = view.values.values[i * place.columns + j];
    return `${row}, ${column}: ${view.kinds?.[Math.round(value)] ?? dress(view, value, view.values)}`;
  };
  explorer.point(canvas, {
    find,
    words,
    size: () => [canvas.place.rows, canvas.place.columns],
    keys: ([i, j]) => [keysOf(canvas.view.rows)?.[i], keysOf(canvas.view.columns)?.[j]],
    choose: ([row, column]) => explorer.choose(canvas.view, { row, column }),
  });
  return canvas;
}

// The numbers of the notes, on their cells.
function drawPins(pen, { left, top, cell, tall }, all, ink) {
  pen.textAlign = "center";
  pen.font = "11px system-ui, sans-serif";
  all.forEach(([i, j], k) => {
    const [x, y] = [left + cell * (j + 0.5), top + tall * (i + 0.5)];
    pen.fillStyle = "#fff";
    pen.beginPath();
    pen.arc(x, y, 8, 0, 7);
    pen.fill();
    pen.fillStyle = "#111";
    pen.fillText(k + 1, x, y);
  });
  pen.fillStyle = ink;
}

// Frames over the cells: what is pointed at elsewhere, and what is chosen.
function drawFrames(canvas, pen, view, explorer) {
  const { left, top, cell, tall, rows, columns } = canvas.place;
  const frame = (i, j, colour, wide) => {
    const [x, across] = j < 0 ? [left, cell * columns] : [left + cell * j, cell];
    const [y, down] = i < 0 ? [top, tall * rows] : [top + tall * i, tall];
    pen.strokeStyle = colour;
    pen.lineWidth = wide;
    pen.strokeRect(x, y, across, down);
  };
  if (explorer.marks.size) {
    keysOf(view.rows)?.forEach((key, i) => explorer.marks.has(key) && frame(i, -1, explorer.look.mark, 1.5));
    keysOf(view.columns)?.forEach((key, j) => explorer.marks.has(key) && frame(-1, j, explorer.look.mark, 1.5));
  }
  const [row, column] = [explorer.chosen(view, "row"), explorer.chosen(view, "column")];
  if (row < rows && column < columns && row + column > -2) {
    frame(row, column, "#fff", 4);
    frame(row, column, "#c2410c", 2);
  }
  if (canvas.at) frame(...canvas.at, explorer.look.ink, 2);
}

// Change what is not so yet: a page that has nothing to do does nothing.
function put(node, attributes) {
  for (const [name, value] of Object.entries(attributes))
    if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}
const write = (node, words) => node.textContent !== words && (node.textContent = words);

// What marks a node as place k of a view: what it chooses, what it is called.
const place = (view, k, labels = view.labels) => ({ "data-fg-place": k, "data-fg-key": keysOf(labels)[k] });

// Build a view's nodes when its `names` are new; else they stay, under the pointer and
// with the focus. Those with a place choose the `part` of the view when it sets a
// control: by a click, or with one stop of the Tab key and arrows.
function keep(box, view, explorer, part, names, build) {
  const sign = JSON.stringify(names);
  if (box.sign !== sign) {
    box.sign = sign;
    box.replaceChildren(build());
    const items = [...box.querySelectorAll("[data-fg-place]")];
    const buttons = "button,[role=button]";
    box.buttons = items.map((node) => (node.matches(buttons) ? node : node.querySelector(buttons))).filter(Boolean);
    box.firstChild.addEventListener("click", ({ target }) => {
      const node = target.closest("[data-fg-place]");
      if (node && box.view.sets) explorer.choose(box.view, { [part]: Number(node.dataset.fgPlace) });
    });
    box.firstChild.addEventListener("keydown", (event) => {
      const to = beside(box.buttons, event.target, event.key);
      const press = event.target.matches("g[role=button]") && (event.key === "Enter" || event.key === " ");
      if (!to && !press) return;
      event.preventDefault();
      if (to) to.focus();
      else event.target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    });
  }
  box.view = view;
  const at = explorer.chosen(view, part);
  const stop = box.buttons.findIndex((node) => node === document.activeElement);
  box.buttons.forEach((node, k) => {
    if (view.sets) put(node, { "aria-pressed": k === at });
    put(node, { tabindex: k === Math.max(0, stop < 0 ? at : stop) ? 0 : -1 });
  });
}

// The button that an arrow key leads to: the next one, or the nearest in another line.
function beside(buttons, from, key) {
  const at = buttons.indexOf(from);
  if (at < 0) return null;
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (step) return buttons[at + step];
  if (key === "Home" || key === "End") return buttons.at(key === "Home" ? 0 : -1);
  const way = { ArrowDown: 1, ArrowUp: -1 }[key];
  if (!way) return null;
  const spot = (node) => node.getBoundingClientRect();
  const { left, top } = spot(from);
  const there = buttons.filter((node) => (spot(node).top - top) * way > 4);
  const far = (k) => 9 * Math.abs(spot(there[k]).top - top) + Math.abs(spot(there[k]).left - left);
  return there[nearest(there.length, far)];
}

// A frame with axes, for lines and scatter: its SVG node and the two scales.
function plot(box, label, [x0, x1], [y0, y1], { x_axis, y_axis, x_log, y_log, equal }) {
  const width = Math.min(box.room, equal > 1 ? equal : equal ? 330 : 720);
  const even = ((width - 58) * (y1 - y0)) / (x1 - x0) + 58;
  const tall = box.hero ? clamp(width * 0.72, 315, 480) : clamp(width * 0.62, Math.min(240, width * 0.8), 400);
  const height = Math.round(equal ? even : tall);
  const [left, right, top, bottom] = [48, width - 10, 20, height - 38];
  const scale = (from, to, a, b, log) => {
    const f = log ? Math.log10 : (value) => value;
    const span = f(b) - f(a) || 1;
    return (value) => from + ((f(value) - f(a)) / span) * (to - from);
  };
  const x = scale(left, right, x0, x1, x_log);
  const y = scale(bottom, top, y0, y1, y_log);
  const words = (text, place) => svg("text", place, text);
  const middle = { "text-anchor": "middle" };
  const size = { viewBox: `0 0 ${width} ${height}`, width, height };
  const node = box.querySelector(":scope > svg") ?? svg("svg", { tabindex: 0 });
  put(node, { ...size, "aria-label": label });
  node.replaceChildren();
  for (const t of ticks(y0, y1, y_log)) {
    node.append(svg("path", { class: "fg-grid", d: `M${left},${y(t)}H${right}` }));
    node.append(words(format(t, 3), { x: left - 5, y: y(t) + 4, "text-anchor": "end" }));
  }
  for (const t of ticks(x0, x1, x_log))
    node.append(words(format(t, 3), { x: x(t), y: bottom + 15, ...middle }));
  node.append(svg("path", { class: "fg-axis", d: `M${left},${top}V${bottom}H${right}` }));
  node.append(words(x_axis, { x: (left + width) / 2, y: height - 6, ...middle }));
  node.append(words(y_axis, { x: 2, y: 12 }));
  for (const old of [...box.children]) if (old !== node && !old.matches(".fg-grip")) old.remove();
  if (!node.parentNode) box.append(node);
  return { node, x, y, top, bottom, left, right };
}

function ticks(low, high, log) {
  const all = [];
  if (log) {
    const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    for (let p = from; p <= to; p++)
      for (const m of to - from < 3 ? [1, 2, 5] : [1]) all.push(m * 10 ** p);
    return all.filter((t) => t >= low * 0.999 && t <= high * 1.001);
  }
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999);
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step)
    all.push(Math.abs(t) < step / 1e6 ? 0 : Number(t.toPrecision(12)));
  return all;
}

// The scale below bars; where there is little room, its ends alone.
function drawTicks(axis, low, high, share, narrow) {
  const all = ticks(low, high);
  const kept = narrow ? [all[0], all.at(-1)] : all;
  const sign = kept.join();
  if (axis.sign === sign) return;
  axis.sign = sign;
  axis.replaceChildren(...kept.map((t) => html("i", { style: `left:${share(t)}%` }, format(t, 3))));
}

function legend(box, names, mark) {
  if (names.length < 2) return;
  const entry = (name, s) => {
    const sample = svg("svg", { width: 22, height: 9, "aria-hidden": "true" }, mark(s));
    return html("span", {}, sample, name);
  };
  box.append(html("p", { class: "fg-legend" }, ...names.map(entry)));
}

const draw = {
  heatmap(box, view, explorer) {
    const [rows, columns] = view.values.shape;
    const [low, high] = ends(view, view.values);
    const canvas = box.querySelector("canvas") ?? box.appendChild(heatmapCanvas(explorer));
    const { ink } = explorer.look;
    // Words are drawn on a canvas apart, and again only when they are others: a font
    // that is set on a canvas of the page has all styles computed at once.
    const { row_axis, column_axis, unit } = view;
    const around = [rows, columns, view.rows, view.columns, row_axis, column_axis, unit, low, high];
    const sign = JSON.stringify([...around, box.room, ink, self.devicePixelRatio]);
    if (canvas.sign !== sign) {
      const words = (canvas.words ??= document.createElement("canvas"));
      const font = `${Math.max(rows, columns) > 16 ? 11 : 13}px system-ui, sans-serif`;
      const measuring = words.getContext("2d");
      measuring.font = font;
      const place = layout(view, rows, columns, box, (text) => measuring.measureText(text).width);
      const pen = context(words, place.width, place.height);
      pen.font = font;
      pen.fillStyle = ink;
      drawWords(pen, view, place);
      if (!view.kinds) drawLegend(pen, view, place, ink, low, high);
      else if (!canvas.sign) legend(box, view.kinds, (k) => svg("rect", { x: 8, width: 14, height: 9, fill: kindPaint(k) }));
      Object.assign(canvas, { sign, place });
    }
    canvas.view = view;
    const { place } = canvas;
    const pen = context(canvas, place.width, place.height);
    pen.drawImage(canvas.words, 0, 0, place.width, place.height);
    drawCells(canvas, pen, canvas, low, high);
    drawFrames(canvas, pen, view, explorer);
    drawPins(pen, place, view.annotations ?? [], ink);
    listed(box, view.annotations ?? []);
    const hint = `Arrow keys read one cell at a time${view.sets ? ", Enter chooses it" : ""}.`;
    put(canvas, { role: view.sets ? "application" : "img", "aria-label": `${explorer.describe(view)}. ${hint}` });
    canvas.classList.toggle("fg-sets", Boolean(view.sets));
  },

  tokens(box, view, explorer) {
    if (view.sets) return strip(box, view, explorer);
    const keys = keysOf(view.pieces);
    const [, high] = ends(view, view.values);
    const piece = (text, i) => {
      const value = view.values.values[i];
      const share = 45 * clamp(value / (high || 1), 0, 1);
      const look = { style: `--fg-share:${share.toFixed(1)}%`, title: dress(view, value, view.values) };
      return html("span", { ...look, "data-fg-key": keys[i] }, text);
    };
    box.replaceChildren(html("p", { class: "fg-tokens" }, ...view.pieces.map(piece)));
  },

  lines(box, view, explorer) {
    const { shape: [count, length], values } = view.y; // prettier-ignore
    const x = view.x.values;
    const frame = plot(box, explorer.describe(view), extent(x), ends(view, view.y), view);
    const look = (s) => ({ fill: "none", stroke: paint(s), "stroke-dasharray": DASHES[s % 4] });
    const [from, to] = view.band ?? []; // no curves: the area between them
    const spots = (s) =>
      Array.from(x, (value, k) => [frame.x(value), frame.y(values[s * length + k])].map((px) => px.toFixed(1)));
    const node = (s, d, width) =>
      svg("path", s === from ? { d, fill: paint(s), "fill-opacity": 0.2 } : { d, "stroke-width": width, ...look(s) });
    const kept = [...view.names.keys()].filter((s) => s !== to);
    for (const s of kept) {
      const back = s === from ? spots(to).reverse() : [];
      frame.node.append(node(s, `M${[...spots(s), ...back].join("L")}`, 2));
      if (s === from || length > 12) continue;
      for (const [cx, cy] of spots(s)) frame.node.append(svg("circle", { cx, cy, r: 3, fill: paint(s) }));
    }
    const names = kept.map((s) => (s === from ? `${view.names[s]} to ${view.names[to]}` : view.names[s]));
    legend(box, names, (k) => node(kept[k], kept[k] === from ? "M0,0H22V9H0" : "M0,5H22", 3));
    const find = (px) => [0, nearest(length, (k) => Math.abs(frame.x(x[k]) - px))];
    const words = ([, k]) => {
      const at = (s) => dress({}, values[s * length + k], view.y, s);
      const each = view.names.map((name, s) => `${name} ${at(s)}`);
      return `${view.x_axis || "x"} ${dress({}, x[k], view.x)}: ${each.join(", ")}`;
    };
    const at = explorer.chosen(view, "x");
    if (at >= 0 && at < length) {
      const px = frame.x(x[at]);
      frame.node.append(svg("path", { class: "fg-chosen", d: `M${px},${frame.top}V${frame.bottom}` }));
      for (let s = 0; s < count; s++)
        frame.node.append(svg("circle", { cx: px, cy: frame.y(values[s * length + at]), r: 5, fill: paint(s) }));
      grip(box, view, "x", explorer, Array.from(x, (value) => [frame.x(value), frame.bottom]));
    }
    const { name, at: own } = explorer.guessed ?? {};
    if (name && name === view.sets?.x) {
      const px = frame.x(x[own]);
      frame.node.append(svg("path", { class: "fg-guessed", d: `M${px},${frame.top}V${frame.bottom}` }));
      frame.node.append(svg("text", { x: px, y: frame.top - 4, "text-anchor": "middle" }, "your guess"));
    }
    const drawn = (_, s) => along(spots(s).map((spot) => spot.map(Number)));
    note(box, frame, view, () => view.names.flatMap(drawn));
    const choose = ([, k]) => explorer.choose(view, { x: k });
    explorer.point(frame.node, { find, words, size: () => [1, length], choose }, view.sets);
  },

  scatter(box, view, explorer) {
    const [x, y] = [view.x.values, view.y.values];
    const names = [...new Set(view.groups ?? [""])];
    const frame = plot(box, explorer.describe(view), ends({}, view.x), ends({}, view.y), view);
    const dot = (cx, cy, s) => svg("circle", { cx, cy, r: 4, fill: paint(s), "fill-opacity": 0.8 });
    const keys = keysOf(view.labels);
    // A group in `trails` is joined by a line, and its number is its dots' radius.
    const trails = view.trails ?? {};
    const line = (d, s) => svg("path", { d, fill: "none", stroke: paint(s), "stroke-width": 2 });
    for (const name of Object.keys(trails)) {
      const spots = [...x.keys()].filter((k) => view.groups[k] === name);
      const spot = (k) => `${frame.x(x[k]).toFixed(1)},${frame.y(y[k]).toFixed(1)}`;
      frame.node.append(line(`M${spots.map(spot).join("L")}`, names.indexOf(name)));
    }
    const chosen = explorer.chosen(view, "point");
    for (let k = 0; k < x.length; k++) {
      const node = dot(frame.x(x[k]), frame.y(y[k]), names.indexOf(view.groups?.[k] ?? ""));
      if (view.groups?.[k] in trails) put(node, { r: trails[view.groups[k]] });
      if (keys) node.dataset.fgKey = keys[k];
      if (k === chosen) put(node, { r: 7, class: "fg-chosen" });
      frame.node.append(node);
    }
    if (view.trails && chosen >= 0)
      grip(box, view, "point", explorer, Array.from(x, (value, k) => [frame.x(value), frame.y(y[k])]));
    legend(box, names, (s) => (names[s] in trails ? line("M0,5H22", s) : dot(11, 5, s)));
    note(box, frame, view, () => Array.from(x, (value, k) => [frame.x(value), frame.y(y[k])]));
    const far = (px, py) => (k) => (frame.x(x[k]) - px) ** 2 + (frame.y(y[k]) - py) ** 2;
    const find = (px, py) => [0, nearest(x.length, far(px, py))];
    const words = ([, k]) => {
      const name = view.labels?.[k] ?? view.groups?.[k] ?? k + 1;
      const [across, up] = [dress({}, x[k], view.x), dress({}, y[k], view.y)];
      return `${name}: ${view.x_axis || "x"} ${across}, ${view.y_axis || "y"} ${up}`;
    };
    explorer.point(
      frame.node,
      {
        find,
        words,
        size: () => [1, x.length],
        keys: ([, k]) => [keys?.[k]],
        choose: ([, k]) => explorer.choose(view, { point: k }),
      },
      view.sets,
    );
  },

  bars(box, view, explorer) {
    const [low, high] = ends(view, view.values);
    const share = (value) => 100 * clamp((value - low) / (high - low || 1), 0, 1);
    const across = (...values) => {
      const [from, to] = values.map(share).sort((a, b) => a - b);
      return `left:${from.toFixed(2)}%;width:${(to - from).toFixed(2)}%`;
    };
    const said = (value) => dress({ digits: view.digits }, value, view.values);
    const bar = (label, i) => {
      const name = view.sets ? html("button", { type: "button" }, label) : html("span", {}, label);
      const line = html("span", { class: "fg-bar" }, html("i", {}), view.intervals ? html("b", {}) : "");
      return html("li", place(view, i), name, line, html("span", { class: "fg-value" }));
    };
    const axis = html("span", { class: "fg-ticks" });
    const list = () => html("ul", { class: "fg-bars" }, ...view.labels.map(bar), html("li", { "aria-hidden": "true" }, axis));
    keep(box, view, explorer, "bar", [view.labels, view.annotations], list);
    const rows = [...box.firstChild.children];
    drawTicks(rows.pop().firstChild, low, high, share, box.room < 400);
    put(box.firstChild, { style: `--fg-zero:${share(0).toFixed(2)}%` });
    for (const [i, words] of view.annotations ?? [])
      if (!rows[i].querySelector(".fg-remark")) rows[i].append(html("em", { class: "fg-remark" }, words));
    rows.forEach((node, i) => {
      const value = view.values.values[i];
      put(node.querySelector("i"), { style: across(0, value) });
      const written = node.querySelector(".fg-value");
      if (!view.intervals) return write(written, dress(view, value, view.values));
      const span = view.intervals.values.slice(2 * i, 2 * i + 2);
      put(node.querySelector("b"), { style: across(...span) });
      write(written, `${dress(view, value, view.values)} (${[...span].map(said).join(" to ")})`);
    });
  },

  number(box, view) {
    box.replaceChildren(html("p", { class: "fg-number" }, dress(view, view.value.values[0])));
  },

  table(box, view) {
    const row = (cells, tag, attributes) =>
      html("tr", tag === "td" ? { "data-fg-key": keys.shift() } : {}, ...cells.map((cell) => html(tag, attributes, cell)));
    const keys = keysOf(view.rows.map(([first]) => first));
    const head = html("thead", {}, row(view.columns, "th", { scope: "col" }));
    const body = html("tbody", {}, ...view.rows.map((cells) => row(cells, "td", {})));
    box.replaceChildren(html("table", {}, head, body));
  },

  text(box, view) {
    box.replaceChildren(html("p", { class: "fg-text" }, view.text));
  },

  pictures(box, view) {
    const { shape: [count, height, width, channels = 1], values } = view.values; // prettier-ignore
    const size = height * width * channels;
    const picture = (_, n) => {
      const name = view.labels?.[n] ?? `picture ${n + 1} of ${count}`;
      const canvas = html("canvas", { width, height, role: "img", "aria-label": name });
      const image = new ImageData(width, height);
      for (let i = 0; i < image.data.length; i++) {
        const at = n * size + Math.floor(i / 4) * channels + (channels === 3 ? i % 4 : 0);
        image.data[i] = i % 4 === 3 ? 255 : values[at];
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
      return html("div", {}, canvas, html("span", {}, view.labels?.[n] ?? ""));
    };
    box.replaceChildren(html("div", { class: "fg-pictures" }, ...Array.from({ length: count }, picture)));
  },

  figure(box, view, explorer) {
    const image = box.querySelector("img") ?? box.appendChild(html("img", {}));
    image.src = `data:image/png;base64,${view.png}`;
    image.alt = explorer.describe(view);
  },
};

// One line on a view, for a screen reader and under the picture.
const describe = {
  number: (view) => dress(view, view.value.values[0]),
  text: (view) => view.text,
  lines(view) {
    const length = view.x.values.length;
    const at = (s, k) => dress({}, view.y.values[s * length + k], view.y, s);
    return view.names.map((name, s) => `${name} from ${at(s, 0)} to ${at(s, length - 1)}`).join(", ");
  },
  heatmap(view) {
    if (view.kinds) {
      const count = (k) => view.values.values.filter((value) => Math.round(value) === k).length;
      return view.kinds.map((name, k) => `${name} ${count(k)}`).join(", ");
    }
    const [k, value] = greatest(view);
    const columns = view.values.shape[1];
    const [i, j] = [Math.floor(k / columns), k % columns];
    const row = `${view.row_axis || "row"} ${view.rows?.[i] ?? i + 1}`;
    return `largest ${value} at ${row}, ${view.column_axis || "column"} ${view.columns?.[j] ?? j + 1}`;
  },
  bars: (view) => `largest ${view.labels[greatest(view)[0]]}, ${greatest(view)[1]}`,
  heatmaps(view) {
    const [k, value] = greatest(view);
    return `largest ${value} in ${titleOf(view, Math.floor((k / view.values.values.length) * view.values.shape[0]))}`;
  },
  bands: (view) => eachBand(view, ([i, j], value) => `${view.left[i]} to ${view.right[j]} ${value}`),
  flow(view, explorer) {
    const at = explorer.chosen(view, "box");
    return sayBox(view, at < 0 ? view.names.length - 1 : at);
  },
  tokens: (view) => `largest ${view.pieces[greatest(view)[0]]}, ${greatest(view)[1]}`,
};

function greatest(view) {
  const values = view.values.values;
  const k = nearest(values.length, (place) => -values[place]);
  return [k, dress(view, values[k], view.values)];
}
