// Stacked bars to one scale, the longest as wide as there is room; below, what each
// colour stands for.
({ html, svg, put, hue, place, dress }) => {
  const ROW = 44;
  const rowOf = ({ values: { shape, values } }, k) => Array.from(values.slice(k * shape[1], (k + 1) * shape[1]));
  const sum = (row) => row.reduce((a, b) => a + b, 0);

  function amounts(box, view, explorer) {
    const rows = view.labels.map((_, k) => rowOf(view, k));
    const wide = (box.room - 78) / (Math.max(...rows.map(sum)) || 1);
    const node = svg("svg", { width: box.room, height: ROW * rows.length + 4, viewBox: `0 0 ${box.room} ${ROW * rows.length + 4}`, role: "img", "aria-label": explorer.describe(view) });
    rows.forEach((row, k) => {
      const y = k * ROW;
      const line = svg("g", place(view, k));
      line.append(svg("text", { x: 0, y: y + 12, style: "font-size:13px" }, view.labels[k]));
      let x = 0;
      row.forEach((amount, part) => {
        if (!amount) return;
        const width = Math.max(1, amount * wide);
        line.append(svg("rect", { x, y: y + 18, width, height: 20, fill: hue(view.hues[part]) }, svg("title", {}, `${view.parts[part]}: ${dress(view, amount)}`)));
        if (x) line.append(svg("path", { d: `M${x},${y + 18}v20`, stroke: "var(--fg-sheet)", "stroke-width": 1.5 }));
        x += width;
      });
      line.append(svg("text", { x: x + 6, y: y + 33, style: "font-size:13px;font-weight:700" }, dress(view, sum(row))));
      node.append(line);
    });
    const sample = (part, k) => {
      const square = svg("svg", { width: 12, height: 12, "aria-hidden": true }, svg("rect", { width: 12, height: 12, fill: hue(view.hues[k]) }));
      return html("span", {}, square, part);
    };
    box.replaceChildren(node, html("p", { class: "fg-legend" }, ...view.parts.map(sample)));
  }
  amounts.describe = (view) =>
    view.labels.map((name, k) => `${name} ${dress(view, sum(rowOf(view, k)))}`).join(", ");
  return amounts;
}
