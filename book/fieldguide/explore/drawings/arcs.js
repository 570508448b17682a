// A sentence: the word that asks, arcs as wide as its weights, and below, row by row,
// how they come about. What comes after the chosen step keeps its room and is not seen.
({ html, svg, put, write, vector, chip, plus, hue, keep, place, format, wrapped, listed }) => {
  const [FULL, VALUE] = [7, 15]; // what fills a cell
  const SHOWN = 0.02; // a weight below it has no number
  const two = (x) => x.toFixed(2);
  const total = (values) => values.reduce((sum, value) => sum + value, 0);

  // What each step does.
  const says = ({ words, asks, heads }) => [
    `“${words[asks]}” comes to the layer as a vector, the green strip: what the model knows about it so far.`,
    `A matrix makes its query: what “${words[asks]}” is looking for.`,
    "Another makes the keys: what each word can be found by.",
    "Query times key is the score: how well a word fits.",
    "A softmax turns scores into weights, which add up to 1. So wide are the arcs.",
    "A third matrix makes the values: what each word hands over. Each is as tall as its weight.",
    `Column by column they add up to the blend: what “${words[asks]}” takes along.`,
    `All ${heads?.shape[0]} heads of the layer do this at once, each its own way.`,
    `A last matrix mixes the heads, and “${words[asks]}” leaves with the sum.`,
    `“${words[asks]}” looks back. The wider an arc, the more it takes from there.`,
  ];

  function arcs(box, view, explorer) {
    const names = ["query", "keys", "scores", "values", "heads", "stream"];
    const has = names.map((name) => view[name]?.shape);
    keep(box, view, explorer, "word", [view.words, has, box.room], () => build(box, view));
    const { scene } = box;
    const { words, asks } = view;
    const step = explorer.chosen(view, "step");
    const now = step < 0 ? view.steps.length : step;
    for (const [node, from] of scene.parts) node.style.opacity = now >= view.steps.indexOf(from) ? 1 : 0;
    write(scene.caption, says(view)[step] ?? "");
    const weights = view.weights.values.map((weight) => weight / 100);
    scene.chips.forEach(({ node, body, words: text }, k) => {
      const later = k > asks;
      put(body, { stroke: hue(k === asks ? "query" : later ? "frozen" : "key"), "stroke-width": k === asks ? 3 : 1.5 });
      put(body, { "stroke-dasharray": later ? "3 3" : "none" });
      put(text, { "fill-opacity": later ? 0.6 : 1, "font-weight": k === asks ? 700 : 400 });
      const said = later ? "not read yet" : two(weights[k]);
      put(node, { "aria-label": `${words[k]}: ${k === asks ? "asks, and keeps" : ""} ${said}` });
    });
    drawArcs(scene, weights, asks);
    const x = scene.centers[asks];
    put(scene.asks, { x });
    put(scene.later, { x: (scene.centers[asks + 1] + scene.centers.at(-1)) / 2 || 0, visibility: asks < words.length - 3 ? "visible" : "hidden" });
    if (view.query) {
      scene.query.set(view.query.values, FULL);
      put(scene.query.node, { transform: `translate(${x},0)` });
    }
    scene.keys?.forEach(({ set, node }, k) => {
      put(node, { visibility: k > asks ? "hidden" : "visible" });
      const many = view.keys.shape[1];
      if (scene.seen !== view.keys) set(view.keys.values.slice(k * many, (k + 1) * many), FULL);
    });
    scene.seen = view.keys;
    scene.scores?.forEach((node, k) => write(node, k > asks ? "" : (view.scores.values[k] / 10).toFixed(1)));
    if (view.values) stack(box, view, weights);
    scene.heads?.forEach(({ set }, k) => {
      const many = view.heads.shape[1];
      set(view.heads.values.slice(k * many, (k + 1) * many), FULL);
    });
    if (view.stream) {
      const wide = view.stream.shape[1];
      const [was, added] = [view.stream.values.slice(0, wide), view.stream.values.slice(wide)];
      const sum = was.map((value, k) => value + added[k]);
      scene.vector.set(was.slice(0, 6), FULL);
      put(scene.vector.node, { transform: `translate(${x},0)` });
      [was, added, sum].forEach((values, k) => scene.stream[k].set(values, FULL));
      scene.names.forEach((node, k) => write(node, [words[asks], "added", words[asks]][k]));
    }
  }

  function build(box, view) {
    const { words } = view;
    const { room } = box;
    const small = room < 560;
    const [gutter, high, tall] = [view.query ? 42 : 4, small ? 84 : 108, small ? 76 : 32];
    const scene = (box.scene = { parts: [], small, high, room });
    const node = svg("svg", { width: room, role: "group", "aria-label": view.title });
    // What is seen from a step on.
    const part = (from) => {
      const group = svg("g", { style: "transition:opacity .25s" });
      scene.parts.push([group, from]);
      return node.appendChild(group);
    };
    const label = (parent, x, y, text = "", more = {}) => parent.appendChild(svg("text", { x, y, ...more }, text));
    const middle = { "text-anchor": "middle" };
    const end = { "text-anchor": "end" };

    const natural = words.map((word) => 16 + 8 * word.length);
    const free = room - gutter - total(natural);
    const turned = free < 3 * words.length;
    const each = (room - gutter) / words.length;
    let left = gutter;
    scene.wides = turned ? words.map(() => Math.min(each - 4, 34)) : natural;
    scene.centers = natural.map((wide) => {
      const step = turned ? each : wide + free / words.length;
      return (left += step) - step / 2;
    });
    const deep = turned ? Math.max(tall, 9 * Math.max(...words.map((word) => word.length))) : tall;
    scene.arcs = part("weights");
    scene.chips = words.map((word, k) => {
      const button = svg("g", { ...place(view, k, words), role: "button" });
      const [x, width] = [scene.centers[k], scene.wides[k]];
      button.append(svg("rect", { class: "fg-hit", x: x - width / 2 - 4, y: high - 4, width: width + 8, height: deep + 8, rx: 9 }));
      const made = chip(button, { x, y: high, width, height: deep, words: word });
      const [body, text] = made.children;
      text.style.fontSize = "14px";
      if (turned) put(text, { transform: `rotate(-90 ${x} ${high + deep / 2})` });
      node.append(button);
      return { node: button, body, words: text };
    });
    let y = high + deep;
    scene.asks = label(part("word"), 0, y + 14, "asks", { ...middle, style: `fill:${hue("query")}` });
    scene.later = label(part("word"), 0, y + 14, "not read yet", middle);
    y += 22;
    const strip = (parent, x, y, width, height, many, name) => vector(parent, { x, y, width, height, values: Array(many).fill(0), hue: name });
    if (view.stream) {
      const [vector, width] = [part("word"), Math.min(each - 4, 56)];
      label(vector, 0, y + 11, "vector");
      scene.vector = strip(vector, -width / 2, y, width, 14, 6, "stream");
      y += 20;
    }
    if (view.query) {
      const [query, width] = [part("query"), Math.min(each - 4, 56)];
      label(query, 0, y + 11, "query");
      scene.query = strip(query, -width / 2, y, width, 14, view.query.shape[0], "query");
      y += 20;
    }
    if (view.keys) {
      const keys = part("keys");
      label(keys, 0, y + 11, "keys");
      scene.keys = words.map((_, k) => {
        const width = Math.min(scene.wides[k], 56);
        return strip(keys, scene.centers[k] - width / 2, y, width, 14, view.keys.shape[1], "key");
      });
      y += 18;
    }
    if (view.scores) {
      const scores = part("scores");
      label(scores, 0, y + 12, "scores");
      scene.scores = words.map((_, k) => label(scores, scene.centers[k], y + 12, "", middle));
      y += 22;
    }
    const from = small ? 78 : 96;
    const wide = Math.min(room - from - (small ? 40 : 178), 620);
    Object.assign(scene, { from, wide });
    if (view.values) {
      const many = view.values.shape[1];
      const values = part("values");
      Object.assign(scene, { top: y + 6, tall: small ? 120 : 150 });
      label(values, 0, y + 16, "values");
      scene.slices = words.map((_, k) => {
        const { node: slice, set } = strip(values, from, 0, wide, 100, many, "value");
        slice.firstChild.remove(); // its frame: all slices have one together
        const name = label(values, from - 10, 0, words[k], end);
        const weight = label(values, from + wide + 8, 0);
        return { slice, set, name, weight, line: values.appendChild(svg("path", { class: "fg-grid" })) };
      });
      values.append(svg("rect", { x: from - 1, y: scene.top - 1, width: wide + 2, height: scene.tall + 2, fill: "none", stroke: hue("value") }));
      scene.remarks = values.appendChild(svg("g", {}));
      y += scene.tall + 18;
      const blend = part("blend");
      label(blend, from - 10, y + 13, "= blend", end);
      scene.blend = strip(blend, from, y, wide, 18, many, "value");
      put(scene.blend.node, { "data-fg-strip": "blend" });
      y += 32;
    }
    if (view.heads) {
      const [count, many] = view.heads.shape;
      const heads = part("heads");
      label(heads, from - 10, y + 13, `${count} heads`, end);
      scene.heads = Array.from({ length: count }, (_, k) => strip(heads, from + (k * wide) / count, y, wide / count - 4, 18, many, "value"));
      y += 32;
    }
    if (view.stream) {
      const sum = part("sum");
      scene.names = [];
      scene.stream = ["", "+", "="].map((sign, k) => {
        if (k === 1) plus(sum, 9, y + 9);
        else label(sum, 4, y + 14, sign);
        scene.names.push(label(sum, from - 10, y + 13, "", end));
        const made = strip(sum, from, y, wide, 18, view.stream.shape[1], k === 1 ? "value" : "stream");
        y += 23;
        return made;
      });
    }
    put(node, { height: y, viewBox: `0 0 ${room} ${y}` });
    scene.caption = html("p", { class: "fg-look", style: `min-height:${small ? 4.8 : 3.2}em` });
    if (!view.sets?.step) scene.caption.style.display = "none";
    return html("div", {}, scene.caption, node);
  }

  // Side by side at the word that asks, the nearest first: together as wide as 1.
  function drawArcs({ arcs, centers, high, small }, weights, asks) {
    const full = small ? 22 : 34;
    let edge = centers[asks] - full / 2;
    const nodes = [];
    const found = []; // where each number might stand
    const numbers = [];
    for (let s = asks - 1; s >= -1; s--) {
      const k = s < 0 ? asks : s; // its own weight comes last
      const width = full * weights[k];
      const [a, b] = [edge + width / 2, centers[k]];
      edge += width;
      if (weights[k] < 0.002) continue;
      const rise = Math.min(high - 14 - width / 2, 22 + Math.abs(a - b) * (small ? 0.4 : 0.3)) / 0.75;
      const [wide, up] = [width + 9, 32 + 26 * weights[k]];
      const d = k === asks ? `M${a},${high}c0,${-up} ${wide},${-up} ${wide},0` : `M${a},${high}C${a},${high - rise} ${b},${high - rise} ${b},${high}`;
      nodes.push(svg("path", { d, fill: "none", stroke: hue("value"), "stroke-width": Math.max(0.6, width), "stroke-opacity": 0.6, "data-fg-weight": weights[k] }));
      const spot = k === asks ? [a + wide / 2 + 8, high - 36 - 26 * weights[k]] : [(a + b) / 2, high - 0.75 * rise - width / 2 - 4];
      if (weights[k] >= 2 * SHOWN) found.push([weights[k], ...spot]);
    }
    for (const [weight, x, y] of found.sort(([a], [b]) => b - a)) {
      if (numbers.some((node) => Math.hypot(node.getAttribute("x") - x, 2 * (node.getAttribute("y") - y)) < 30)) continue;
      numbers.push(svg("text", { x, y: Math.max(y, 10), "text-anchor": "middle", style: "font-size:13px;paint-order:stroke;stroke:var(--fg-sheet);stroke-width:3px" }, two(weight)));
    }
    arcs.replaceChildren(...nodes, ...numbers);
  }

  // The values, each as tall as its weight; column by column they add up to the blend.
  function stack(box, view, weights) {
    const { slices, blend, top, tall, from, wide, remarks, small } = box.scene;
    const [, many] = view.values.shape;
    const values = view.values.values;
    const mean = Array(many).fill(0);
    const middles = [];
    let [y, last] = [top, top - 4];
    slices.forEach(({ slice, set, name, weight, line }, k) => {
      const own = values.slice(k * many, (k + 1) * many);
      own.forEach((value, c) => (mean[c] += weights[k] * value));
      if (box.scene.stacked !== view.values) set(own, VALUE);
      const height = tall * weights[k];
      put(slice, { transform: `translate(0,${y}) scale(1,${height / 100})` });
      middles.push(y + height / 2);
      const words = weights[k] >= SHOWN;
      const at = Math.max(y + height / 2 + 4, last + 12);
      if (words) last = at;
      for (const node of [name, weight, line]) put(node, { visibility: words ? "visible" : "hidden" });
      put(name, { y: at });
      put(weight, { y: at });
      write(weight, `${small ? "" : "× "}${two(weights[k])}`);
      y += height;
      put(line, { d: `M${from},${y}h${wide}` });
    });
    box.scene.stacked = view.values;
    blend.set(mean, VALUE);
    const all = view.annotations ?? [];
    if (small) listed(box, all);
    const notes = all.flatMap(([k, words]) => {
      const [x, y] = [from + wide, middles[k]];
      if (small) return [svg("circle", { class: "fg-pin", cx: x - 9, cy: y, r: 8 }), svg("text", { class: "fg-pin", x: x - 9, y: y + 4 }, all.findIndex(([at]) => at === k) + 1)];
      const lines = wrapped(words, 19);
      const head = Math.max(y - 8 * lines.length, top + 2);
      const spans = lines.map((line, n) => svg("tspan", { x: x + 64, y: head + 17 * n + 12 }, line));
      return [svg("path", { class: "fg-leader", d: `M${x + 44},${y}H${x + 60}` }), svg("text", { class: "fg-remark" }, ...spans)];
    });
    remarks.replaceChildren(...notes);
  }

  arcs.describe = (view) => {
    const found = view.words.map((word, k) => [word, view.weights.values[k] / 100]).filter(([, weight]) => weight >= SHOWN);
    return `${view.words[view.asks]} asks, and takes ${found.map(([word, weight]) => `${format(Number(two(weight)))} of ${word}`).join(", ")}`;
  };
  return arcs;
}
