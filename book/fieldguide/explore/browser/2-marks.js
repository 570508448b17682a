// The marks that drawings share. One hue an object on every page, and never colour
// alone: a cell below zero is ink and half as tall, and what is frozen is grey.

const hue = (name) => `var(--fg-${name})`;

// A vector: a strip of cells. `set(values, scale)` fills them: full at `scale`.
function vector(parent, { x, y, width, height, values, hue: name = "stream", scale = 1, rows = 1 }) {
  const per = values.length / rows;
  const [wide, tall] = [width / per, height / rows];
  const gap = wide >= 5 ? 0.5 : 0;
  const at = (k) => [x + (k % per) * wide + gap, y + Math.floor(k / per) * tall];
  const cells = Array.from(values, (_, k) => svg("rect", { x: at(k)[0], width: wide - 2 * gap, "shape-rendering": "crispEdges" }));
  const frame = { class: "fg-paper", x: x - 1, y: y - 1, width: width + 2, height: height + 2, rx: 2, stroke: hue(name) };
  const node = parent.appendChild(svg("g", { "aria-hidden": true }, svg("rect", frame), ...cells));
  const set = (values, scale) =>
    cells.forEach((cell, k) => {
      const inset = values[k] < 0 ? 0.25 * tall : gap;
      const fill = hue(values[k] < 0 ? "minus" : name);
      const strength = (clamp(Math.abs(values[k]) / (scale || 1), 0, 1) ** 0.8).toFixed(3);
      put(cell, { y: at(k)[1] + inset, height: tall - 2 * inset, fill, "fill-opacity": strength });
    });
  set(values, scale);
  return { node, set };
}

// A token: a chip around its words, which stand in the middle at `x`.
function chip(parent, { x, y, width, height, words, hue: name = "frozen" }) {
  const body = { class: "fg-paper", x: x - width / 2, y, width, height, rx: Math.min(8, height / 2), stroke: hue(name) };
  const text = svg("text", { x, y: y + height / 2 + 5, "text-anchor": "middle" }, words);
  return parent.appendChild(svg("g", { class: "fg-chip" }, svg("rect", body), text));
}

// An operation: a small box with its name.
function operation(parent, { x, y, width, height, words }) {
  const body = { class: "fg-op", x: x - width / 2, y, width, height, rx: 4 };
  const text = svg("text", { x, y: y + height / 2 + 4, "text-anchor": "middle" }, words);
  return parent.appendChild(svg("g", {}, svg("rect", body), text));
}

// Add: a plus on the stream.
function plus(parent, x, y, radius = 8) {
  const r = radius * 0.55;
  const sign = svg("path", { d: `M${x - r},${y}h${2 * r}M${x},${y - r}v${2 * r}` });
  return parent.appendChild(svg("g", { class: "fg-plus" }, svg("circle", { cx: x, cy: y, r: radius }), sign));
}

// What can be dragged: a knob that stands at the chosen one of `spots`, [x, y] for
// each key of the control that the `part` of the view sets. It follows the pointer to
// the nearest spot; arrows lead to the next one that way, Home and End to the ends.
function grip(box, view, part, explorer, spots) {
  const grips = (box.grips ??= {});
  const knob = (grips[part] ??= newGrip(part, explorer));
  if (knob.parentNode !== box) box.append(knob);
  const control = explorer.spec.controls.find((c) => c.name === view.sets[part]);
  const at = Math.max(0, explorer.chosen(view, part));
  Object.assign(knob, { view, spots, at });
  Object.assign(knob.style, { left: `${spots[at][0]}px`, top: `${spots[at][1]}px` });
  put(knob, { "aria-label": control.label, "aria-valuemin": 0, "aria-valuemax": spots.length - 1 });
  put(knob, { "aria-valuenow": at, "aria-valuetext": control.labels[at] });
  return knob;
}

function newGrip(part, explorer) {
  const knob = html("span", { class: "fg-grip", role: "slider", tabindex: 0 });
  const go = (k) => k !== knob.at && explorer.choose(knob.view, { [part]: k });
  const follow = ({ clientX, clientY }) => {
    const { left, top } = knob.parentNode.getBoundingClientRect();
    go(nearest(knob.spots.length, (k) => Math.hypot(knob.spots[k][0] - clientX + left, knob.spots[k][1] - clientY + top)));
  };
  const end = () => {
    explorer.dragged = false;
    knob.removeEventListener("pointermove", follow);
  };
  knob.addEventListener("pointerdown", (event) => {
    event.preventDefault(); // no text is selected, and no page scrolled
    knob.focus({ preventScroll: true });
    knob.setPointerCapture(event.pointerId);
    explorer.dragged = true; // drawn at once, without a glide
    knob.addEventListener("pointermove", follow);
  });
  for (const name of ["pointerup", "pointercancel"]) knob.addEventListener(name, end);
  knob.addEventListener("keydown", (event) => {
    const last = knob.spots.length - 1;
    const [axis, way] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1], ArrowDown: [1, 1] }[event.key] ?? [];
    const gain = (k) => (knob.spots[k] ? (knob.spots[k][axis] - knob.spots[knob.at][axis]) * way : 0);
    const step = gain(knob.at + 1) > 0 ? 1 : gain(knob.at - 1) > 0 ? -1 : 0;
    const to = { Home: 0, End: last }[event.key] ?? (step ? knob.at + step : undefined);
    if (axis === undefined && to === undefined) return;
    event.preventDefault();
    if (to !== undefined) go(to);
  });
  return knob;
}

// A drawing that the core lacks comes with its figure: the source of a function of
// the names below, which returns what `draw` and, as its `describe`, `describe` hold.
const kit = { html, svg, put, write, clamp, product, extent, nearest, format, dress, keysOf, keep, place, plot, note, pins };
Object.assign(kit, { hue, vector, chip, operation, plus, grip, wrapped, quietest, listed, along, ticks });
function bring(kind, source) {
  if (draw[kind]) return;
  draw[kind] = new Function(`"use strict"; return (${source}\n)`)()(kit);
  describe[kind] = draw[kind].describe;
}
