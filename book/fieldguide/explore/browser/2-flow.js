// A computation as boxes and arrows, with the values of this setting.

const shapeOf = ({ shape, values }) => shape.join(" × ") || format(values[0], 3);

// A box as words: few values are all said, many by their ends.
function sayBox(view, k) {
  const array = view[`box${k}`];
  if (!array) return view.names[k];
  const values = Array.from(array.values, (value) => dress(view, value, array));
  if (values.length <= 12) return `${view.names[k]} ${values.join(", ")}`;
  const [low, high] = extent(array.values).map((value) => dress(view, value, array));
  return `${view.names[k]}, ${shapeOf(array)} from ${low} to ${high}`;
}

function flowBox(box, view, k, explorer) {
  const name = view.sets ? html("button", { type: "button" }, view.names[k]) : html("span", {}, view.names[k]);
  const head = html("p", { class: "fg-head" }, name, html("span", { class: "fg-size" }));
  const node = html("div", { class: "fg-node", ...place(view, k, view.names), style: `--fg-rank:${view.ranks[k] + 1}` });
  node.append(head, html("p", { class: "fg-note" }));
  if (!view[`box${k}`]?.shape.length) return node;
  const canvas = html("canvas", { role: "img", tabindex: 0 });
  const size = () => {
    const { shape } = box.view[`box${k}`];
    return [shape.length > 1 ? shape[0] : 1, shape.at(-1)];
  };
  const find = (x, y) => {
    const [rows, columns] = size();
    const at = (share, count) => clamp(Math.floor(share * count), 0, count - 1);
    return [at(y / canvas.clientHeight, rows), at(x / canvas.clientWidth, columns)];
  };
  const words = ([i, j]) => {
    const array = box.view[`box${k}`];
    const at = array.shape.length > 1 ? `${i + 1}, ${j + 1}` : j + 1;
    return `${box.view.names[k]} ${at}: ${dress(box.view, array.values[i * size()[1] + j], array)}`;
  };
  explorer.point(canvas, { find, words, size });
  node.append(html("div", { class: "fg-cells" }, canvas, html("div", { class: "fg-digits", "aria-hidden": "true" })));
  return node;
}

// The numbers of a few cells, written into them.
function digits(node, { shape, values }, low, high) {
  const few = values.length <= 25 && shape.at(-1) <= 5;
  node.style.gridTemplateColumns = `repeat(${few ? shape.at(-1) : 1},1fr)`;
  while (node.children.length > (few ? values.length : 0)) node.lastChild.remove();
  for (let k = 0; few && k < values.length; k++) {
    const cell = node.children[k] ?? node.appendChild(html("span", {}));
    write(cell, format(values[k], values.length > 1 ? 2 : 3).replace(/^(-?)0\./, "$1."));
    cell.classList.toggle("fg-dark", (values[k] - low) / (high - low || 1) < 0.6);
  }
  return few;
}

draw.flow = (box, view, explorer) => {
  const build = () => {
    const wires = svg("svg", { class: "fg-wires", "aria-hidden": "true" });
    const labels = svg("svg", { class: "fg-labels", "aria-hidden": "true" });
    for (const [, , label] of view.arrows) {
      wires.append(svg("path", {}));
      labels.append(svg("text", {}, label ?? ""));
    }
    const boxes = view.names.map((_, k) => flowBox(box, view, k, explorer));
    const group = { class: "fg-flow", role: "group", "aria-label": view.title };
    return html("div", { ...group, style: `--fg-ranks:${Math.max(...view.ranks) + 1}` }, wires, ...boxes, labels);
  };
  const shapes = view.names.map((_, k) => view[`box${k}`]?.shape);
  keep(box, view, explorer, "box", [view.names, view.arrows, shapes], build);
  const nodes = [...box.querySelectorAll(".fg-node")];
  const at = explorer.chosen(view, "box");
  nodes.forEach((node, k) => {
    const array = view[`box${k}`];
    node.classList.toggle("fg-faint", at >= 0 && k > at);
    node.classList.toggle("fg-chosen", k === at);
    write(node.querySelector(".fg-size"), array ? shapeOf(array) : "");
    write(node.querySelector(".fg-note"), view.notes[k]);
    const canvas = node.querySelector("canvas");
    if (!canvas || canvas.drawn === array) return;
    canvas.drawn = array;
    const rows = array.shape.length > 1 ? array.shape[0] : 1;
    const range = ends(view, array);
    pixels(canvas, rows, array.shape.at(-1), array.values, ...range);
    const tall = digits(canvas.nextSibling, array, ...range) ? 20 : 12;
    put(canvas, { style: `height:${clamp(rows * tall, 16, 120)}px`, "aria-label": sayBox(view, k) });
  });
  const room = box.room / (Math.max(...view.ranks) + 1);
  box.firstChild.classList.toggle("fg-tall", room < 118); // one column, on a phone
  const [wires, labels] = box.querySelectorAll(".fg-wires,.fg-labels");
  const lain = JSON.stringify([box.room, view.notes]);
  if (wires.lain !== lain) wire(wires.children, labels.children, view, nodes);
  wires.lain = lain;
  view.arrows.forEach(([from, to], n) => {
    for (const node of [wires.children[n], labels.children[n]])
      node.classList.toggle("fg-faint", at >= 0 && Math.max(from, to) > at);
  });
};

// Lay the arrows between the boxes, where the style sheet has put these.
function wire(wires, labels, view, nodes) {
  const around = nodes.map(({ offsetLeft: x, offsetTop: y, offsetWidth: wide, offsetHeight: tall }) => ({ x, y, wide, tall }));
  view.arrows.forEach(([from, to], n) => {
    const [a, b] = [around[from], around[to]];
    let [x0, y0, x1, y1] = [a.x + a.wide, a.y + a.tall / 2, b.x - 2, b.y + b.tall / 2];
    let bend = `C${(x0 + x1) / 2},${y0} ${(x0 + x1) / 2},${y1} `;
    let tip = `M${x1 - 7},${y1 - 4}L${x1},${y1}L${x1 - 7},${y1 + 4}`;
    const down = () => `M${x1 - 4},${y1 - 7}L${x1},${y1}L${x1 + 4},${y1 - 7}`;
    const passed = around.filter((c) => {
      const f = (c.x + c.wide / 2 - x0) / (x1 - x0);
      const y = y0 + (y1 - y0) * f * f * (3 - 2 * f);
      return c !== a && c !== b && f > 0 && f < 1 && y > c.y && y < c.y + c.tall;
    });
    if (a.x === b.x) {
      // One below the other, on a phone: down, or past others along the left edge.
      [x0, x1] = [a.x, b.x - 2];
      bend = `C${x0 - 22},${y0} ${x0 - 22},${y1} `;
      if (to === from + 1) {
        [x0, y0, x1, y1] = [a.x + a.wide / 2, a.y + a.tall, b.x + b.wide / 2, b.y - 2];
        [bend, tip] = ["L", down()];
      }
    } else if (passed.length) {
      // Over the boxes that it would run behind.
      const top = Math.min(a.y, b.y, ...passed.map((c) => c.y)) - 18;
      [x0, y0, x1, y1] = [a.x + 0.6 * a.wide, a.y, b.x + 0.4 * b.wide, b.y - 2];
      [bend, tip] = [`C${x0},${top} ${x1},${top} `, down()];
    }
    put(wires[n], { d: `M${x0},${y0}${bend}${x1},${y1}${tip}` });
    // Its words stand at its tip: left of a box, or above the left end of one below.
    const below = a.x === b.x, next = to === from + 1;
    const x = below ? (next ? x1 + 8 : b.x + 6) : x1 + 1;
    put(labels[n], { x, y: below ? b.y - 6 : y1 - 9, "text-anchor": below ? "start" : "end" });
  });
}
