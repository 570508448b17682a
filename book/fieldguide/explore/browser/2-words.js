// Views of words and of many maps: a strip of words, small heatmaps, bands.

// Words in reading order, tinted by their weights; a click chooses one.
function strip(box, view, explorer) {
  const [, high] = ends(view, view.values);
  const word = (text, k) => {
    const number = html("span", { class: "fg-weight" });
    return html("button", { type: "button", ...place(view, k, view.pieces) }, html("span", { class: "fg-word" }, text), number);
  };
  const build = () => {
    const group = { class: "fg-strip", role: "group", "aria-label": view.title };
    return html("div", group, ...view.pieces.map(word));
  };
  keep(box, view, explorer, "word", view.pieces, build);
  box.buttons.forEach((node, k) => {
    const value = view.values.values[k];
    const hidden = Boolean(view.masked?.[k]);
    const share = hidden ? 0 : 62 * clamp(value / (high || 1), 0, 1);
    put(node, { style: `--fg-share:${share.toFixed(1)}%` });
    node.classList.toggle("fg-faint", hidden);
    write(node.lastChild, hidden ? "·" : dress(view, value, view.values));
  });
}

const titleOf = (view, n) => view.titles?.[n] ?? `map ${n + 1}`;

// One pixel a cell; the style sheet enlarges it.
function pixels(canvas, rows, columns, values, low, high) {
  if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
  const image = new ImageData(columns, rows);
  for (let k = 0; k < rows * columns; k++) {
    image.data.set(colour((values[k] - low) / (high - low || 1)), 4 * k);
    image.data[4 * k + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The colours from low to high, under maps that have no room for a legend.
function scale(view, low, high) {
  const canvas = html("canvas", { "aria-hidden": "true" });
  pixels(canvas, 1, 64, Float64Array.from({ length: 64 }, (_, k) => k / 63), 0, 1);
  return html("p", { class: "fg-scale" }, format(low, 3), canvas, dress(view, high));
}

draw.heatmaps = (box, view, explorer) => {
  const { shape: [count, rows, columns], values } = view.values; // prettier-ignore
  const [low, high] = ends(view, view.values);
  const names = Array.from({ length: count }, (_, n) => titleOf(view, n));
  const map = (name, n) => {
    const canvas = html("canvas", { "aria-hidden": "true" });
    const frame = html("span", { class: "fg-map" }, canvas, html("i", { class: "fg-frame" }));
    return html("button", { type: "button", ...place(view, n, names) }, frame, html("span", { class: "fg-word" }, name));
  };
  const build = () => {
    const wall = { class: "fg-wall", role: "group", "aria-label": view.title, style: `--fg-across:${view.across}` };
    const node = html("div", {}, html("div", wall, ...names.map(map)), scale(view, low, high));
    node.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (!button || box.view.sets) return;
      for (const other of box.buttons) other.classList.toggle("fg-large", other === button && !other.matches(".fg-large"));
      for (const other of box.buttons) put(other, { "aria-expanded": other.matches(".fg-large") });
    });
    node.addEventListener("pointermove", (event) => {
      const frame = event.target.closest(".fg-map");
      const at = frame && box.buttons.indexOf(frame.parentNode);
      if (frame) explorer.tell(cell(box.view, at, frame, event.clientX, event.clientY), event);
    });
    return node;
  };
  keep(box, view, explorer, "map", [names, low, high, view.across], build);
  const [i, j] = [explorer.chosen(view, "row"), explorer.chosen(view, "column")];
  const inset = (k, n) => (k < 0 ? "0 auto" : `${(100 * k) / n}% auto`).split(" ")[0];
  const size = (k, n) => (k < 0 ? 100 : 100 / n);
  const frame = `top:${inset(i, rows)};left:${inset(j, columns)};height:${size(i, rows)}%;width:${size(j, columns)}%`;
  box.buttons.forEach((node, n) => {
    put(node.querySelector("i"), { style: i + j > -2 ? frame : "display:none" });
    if (box.drawn === view.values) return; // a step that only chooses
    const own = values.slice(n * rows * columns, (n + 1) * rows * columns);
    const canvas = node.querySelector("canvas");
    pixels(canvas, rows, columns, own, low, high);
    put(canvas, { style: `aspect-ratio:${columns}/${clamp(rows, columns / 3, columns * 2)}` });
    const best = nearest(own.length, (k) => -own[k]);
    put(node, { "aria-label": `${names[n]}: ${cellWords(view, n, Math.floor(best / columns), best % columns)}` });
    if (!view.sets && !node.hasAttribute("aria-expanded")) put(node, { "aria-expanded": false });
  });
  box.drawn = view.values;
};

function cellWords(view, n, i, j) {
  const [, rows, columns] = view.values.shape;
  const value = view.values.values[(n * rows + i) * columns + j];
  return `${view.row_labels?.[i] ?? i + 1}, ${view.column_labels?.[j] ?? j + 1}: ${dress(view, value, view.values)}`;
}

// The words for the cell of map n under the pointer.
function cell(view, n, frame, clientX, clientY) {
  const { left, top, width, height } = frame.getBoundingClientRect();
  const [, rows, columns] = view.values.shape;
  const at = (share, count) => clamp(Math.floor(share * count), 0, count - 1);
  const [i, j] = [at((clientY - top) / height, rows), at((clientX - left) / width, columns)];
  return [`${titleOf(view, n)}: ${cellWords(view, n, i, j)}`, keysOf(view.row_labels)?.[i], keysOf(view.column_labels)?.[j]];
}

// Each band as words, the widest first where they are many.
function eachBand(view, words) {
  const { shape: [, across], values } = view.values; // prettier-ignore
  const order = [...values.keys()].sort((a, b) => values.length > 12 && values[b] - values[a]);
  const told = order.slice(0, 12).map((k) => words([Math.floor(k / across), k % across], dress(view, values[k], view.values)));
  return told.join(", ");
}

// Ribbons from the words on the left to those on the right, as wide as the weights.
draw.bands = (box, view, explorer) => {
  const { shape: [rows, columns], values } = view.values; // prettier-ignore
  const keys = { left: keysOf(view.left), right: keysOf(view.right) };
  const all = Array.from({ length: rows * columns }, (_, k) => [Math.floor(k / columns), k % columns]);
  const build = () => {
    const node = svg("svg", { class: "fg-bands", tabindex: 0 });
    for (const [i, j] of all)
      node.append(svg("path", { "data-fg-band": `${i} ${j}`, "data-fg-key": `${keys.left[i]}\n${keys.right[j]}`, fill: paint(i) }));
    for (const side of ["left", "right"])
      view[side].forEach((word, k) => {
        const band = side === "left" ? `${k} -1` : `-1 ${k}`;
        node.append(svg("rect", { width: 4, "data-fg-band": band, "data-fg-key": keys[side][k] }));
        node.append(svg("text", { class: "fg-end", "data-fg-band": band, "data-fg-key": keys[side][k] }, word));
      });
    for (const _ of all) node.append(svg("text", { class: "fg-on" }));
    explorer.point(node, {
      find: (x, y, target) => target.dataset.fgBand?.split(" ").map(Number),
      words: ([i, j]) => {
        if (i < 0 || j < 0) return "";
        const { left, right, values } = box.view;
        return `${left[i]} → ${right[j]}: ${dress(box.view, values.values[i * right.length + j], values)}`;
      },
      size: () => [rows, columns],
      keys: ([i, j]) => [keys.left[i], keys.right[j]],
      choose: ([left, right]) => explorer.choose(box.view, { left, right }),
    });
    return node;
  };
  keep(box, view, explorer, "left", [view.left, view.right], build);
  const node = box.firstChild;
  const width = Math.min(box.room, 720);
  const height = clamp(44 * Math.max(rows, columns), 150, 420);
  const total = values.reduce((sum, value) => sum + value, 0) || 1;
  const per = (height - 22 * Math.max(rows, columns)) / total;
  const margin = Math.min(width * 0.3, 14 + 8.5 * Math.max(...[...view.left, ...view.right].map((word) => word.length)));
  const [x0, x1] = [margin, width - margin];
  const sums = { left: new Float64Array(rows), right: new Float64Array(columns) };
  all.forEach(([i, j], k) => {
    sums.left[i] += values[k];
    sums.right[j] += values[k];
  });
  // The tops of a side's words: each as tall as what it carries, and a gap.
  const tops = (side) => {
    const gap = (height - per * total) / sums[side].length;
    let y = gap / 2;
    return Array.from(sums[side], (sum) => [y, (y += per * sum + gap)][0]);
  };
  const at = { left: tops("left"), right: tops("right") };
  const words = [...node.querySelectorAll(".fg-end")];
  const rects = [...node.querySelectorAll("rect")];
  ["left", "right"].forEach((side, right) =>
    view[side].forEach((_, k) => {
      const [y, tall] = [at[side][k], per * sums[side][k]];
      const n = right * rows + k;
      put(rects[n], { x: right ? x1 : x0 - 4, y: y.toFixed(1), height: Math.max(tall, 1).toFixed(1) });
      put(words[n], { x: right ? x1 + 10 : x0 - 10, y: (y + tall / 2 + 5).toFixed(1), "text-anchor": right ? "start" : "end" });
      words[n].classList.toggle("fg-chosen", explorer.chosen(view, side) === k);
    }),
  );
  const ribbons = [...node.querySelectorAll("path")];
  const numbers = [...node.querySelectorAll(".fg-on")];
  const middle = (x0 + x1) / 2;
  all.forEach(([i, j], k) => {
    const wide = per * values[k];
    const [a, b] = [at.left[i], at.right[j]];
    const d = `M${x0},${a}C${middle},${a} ${middle},${b} ${x1},${b}v${wide}C${middle},${b + wide} ${middle},${a + wide} ${x0},${a + wide}Z`;
    put(ribbons[k], { d: d.replace(/\d+\.\d+/g, (n) => Number(n).toFixed(1)) });
    const shown = columns === 1 || wide > 13;
    put(numbers[k], { x: x0 + 8, y: (a + wide / 2 + 4).toFixed(1) });
    write(numbers[k], shown ? dress(view, values[k], view.values) : "");
    at.left[i] += wide;
    at.right[j] += wide;
  });
  put(node, { viewBox: `0 0 ${width} ${height}`, width, height, "aria-label": explorer.describe(view) });
  put(node, { role: view.sets ? "application" : "img" });
};
