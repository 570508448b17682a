// Words as chips, with their vectors above them, on streams that everything adds to.
({ svg, put, hue, vector, chip, operation, plus, keep, place, dress }) => {
  const NAMES = [[20, "what comes out"], [64, "an operation, added"], [108, "with what it took"]];
  NAMES.push([152, "attention, added"], [206, "its vector"], [244, "a token"]);
  const TOPS = [190, 94, 6]; // of the vectors, from below
  function marks(box, view, explorer) {
    const [, count, cells] = view.vectors.shape;
    const across = Math.min(box.room, 640);
    const column = (across - 128) / count;
    const x = (k) => column * (k + 0.5);
    const wide = Math.min(column - 14, 130);
    const at = Math.max(0, explorer.chosen(view, "word"));
    const build = () => {
      const node = svg("svg", { width: across, height: 266, viewBox: `0 0 ${across} 266`, "aria-label": view.title });
      for (const [y, words] of NAMES) node.append(svg("text", { x: across - 122, y }, words));
      for (const k of view.words.keys()) node.append(svg("path", { d: `M${x(k)},226V4`, stroke: hue("stream"), "stroke-width": 1.5 }));
      box.between = node.appendChild(svg("g", { "aria-hidden": true }));
      view.words.forEach((words, k) => {
        TOPS.forEach((y, level) => {
          const from = (level * count + k) * cells;
          const values = view.vectors.values.slice(from, from + cells);
          vector(node, { x: x(k) - wide / 2, y, width: wide, height: 20, values, scale: 2 });
        });
        const own = svg("g", { ...place(view, k, view.words), role: "button" });
        chip(own, { x: x(k), y: 226, width: wide, height: 28, words });
        own.append(svg("rect", { class: "fg-hit", x: x(k) - wide / 2 - 4, y: 222, width: wide + 8, height: 36, rx: 10 }));
        node.append(own);
      });
      return node;
    };
    keep(box, view, explorer, "word", [view.words, across, cells], build);
    const to = x(at);
    const arcs = view.words.map((_, k) => {
      const d = k === at ? `M${to},188V152` : `M${x(k)},188C${x(k)},140 ${(x(k) + to) / 2},146 ${to},146`;
      return svg("path", { d, fill: "none", stroke: hue("value"), "stroke-opacity": 0.75, "stroke-width": 18 * view.weights.values[k] });
    });
    box.between.replaceChildren(...arcs);
    box.between.append(svg("path", { d: `M${to},84H${to + 34}V58H${to}`, fill: "none", stroke: "currentColor" }));
    operation(box.between, { x: to + 34, y: 60, width: 40, height: 20, words: view.operation });
    for (const y of [146, 58]) plus(box.between, to, y);
  }
  marks.describe = (view) => view.words.map((words, k) => `${words} ${dress({}, view.weights.values[k], view.weights)}`).join(", ");
  return marks;
}
