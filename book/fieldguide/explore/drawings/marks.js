// Words as chips, with their vectors above them, on streams that everything adds to.
({ svg, put, hue, vector, chip, operation, plus, keep, place, dress }) => {
  const NAMES = ["what comes out", "an operation, added", "with what it took"];
  NAMES.push("attention, added", "its vector", "a token"); // from above
  function marks(box, view, explorer) {
    const [, count, cells] = view.vectors.shape;
    const across = Math.min(box.room, 640);
    const gap = across > 500 ? 74 : 44; // between the middles of what stands above another
    const level = (k) => 16 + gap * k; // the middle of the k-th, from above
    const column = (across - 128) / count;
    const x = (k) => column * (k + 0.5);
    const wide = Math.min(column - 14, 130);
    const at = Math.max(0, explorer.chosen(view, "word"));
    const build = () => {
      const node = svg("svg", { width: across, height: level(5) + 24, viewBox: `0 0 ${across} ${level(5) + 24}`, "aria-label": view.title });
      NAMES.forEach((words, k) => node.append(svg("text", { x: across - 122, y: level(k) + 4 }, words)));
      for (const k of view.words.keys()) node.append(svg("path", { d: `M${x(k)},${level(5) - 14}V4`, stroke: hue("stream"), "stroke-width": 1.5 }));
      box.between = node.appendChild(svg("g", { "aria-hidden": true }));
      view.words.forEach((words, k) => {
        [4, 2, 0].forEach((from, stage) => {
          const first = (stage * count + k) * cells;
          const values = view.vectors.values.slice(first, first + cells);
          vector(node, { x: x(k) - wide / 2, y: level(from) - 10, width: wide, height: 20, values, scale: 2 });
        });
        const own = svg("g", { ...place(view, k, view.words), role: "button" });
        chip(own, { x: x(k), y: level(5) - 14, width: wide, height: 28, words });
        own.append(svg("rect", { class: "fg-hit", x: x(k) - wide / 2 - 4, y: level(5) - 18, width: wide + 8, height: 36, rx: 10 }));
        node.append(own);
      });
      return node;
    };
    keep(box, view, explorer, "word", [view.words, across, cells], build);
    const to = x(at);
    const [foot, added] = [level(4) - 12, level(3)];
    const beside = at === count - 1 ? to - 34 : to + 34; // on the right stand the names
    const arcs = view.words.map((_, k) => {
      const d = k === at ? `M${to},${foot}V${added + 6}` : `M${x(k)},${foot}C${x(k)},${added - 6} ${(x(k) + to) / 2},${added} ${to},${added}`;
      return svg("path", { d, fill: "none", stroke: hue("value"), "stroke-opacity": 0.75, "stroke-width": 18 * view.weights.values[k] });
    });
    box.between.replaceChildren(...arcs);
    box.between.append(svg("path", { d: `M${to},${level(1) + 24}H${beside}V${level(1)}H${to}`, fill: "none", stroke: "currentColor" }));
    operation(box.between, { x: beside, y: level(1) + 2, width: 40, height: 20, words: view.operation });
    for (const k of [3, 1]) plus(box.between, to, level(k));
  }
  marks.describe = (view) => view.words.map((words, k) => `${words} ${dress({}, view.weights.values[k], view.weights)}`).join(", ");
  return marks;
}
