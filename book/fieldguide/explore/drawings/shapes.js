// A frozen square and two trained strips beside it, to one scale. The corner of the
// square and the edges of the strips are knobs; a wider square is drawn larger, but not
// in proportion, so that the smallest one stands in it to its scale.
({ svg, put, hue, plus, vector, grip, wrapped, format, clamp }) => {
  const GAP = 7;
  const LEAST = 0.7; // how large the smallest square is beside the largest
  const counts = ({ values: { values } }) => {
    const [D, r] = Array.from(values, Math.round);
    const [whole, thin] = [D * D, 2 * r * D];
    const times = whole / thin;
    const fewer = times > 1 ? `${format(times, 3)}× fewer than in` : "no fewer than in";
    return { D, r, whole, thin, fewer: thin > whole ? "more than in" : fewer };
  };
  const controlOf = (explorer, view, part) => explorer.spec.controls.find((c) => c.name === view.sets?.[part]);

  function shapes(box, view, explorer) {
    const [D, r] = view.values.values;
    const { whole, thin, fewer } = counts(view);
    const [W, A, B] = [...view.square, ...view.strips];
    const small = box.room < 560;
    const [wide, ranks] = ["width", "rank"].map((part) => controlOf(explorer, view, part));
    const [widths, all] = [wide?.keys ?? [D], ranks?.keys ?? [r]];
    const most = all.at(-1) / widths[0];
    const full = Math.min((box.room - 56) / (1 + most * LEAST), small ? 260 : 300);
    const out = (k, scale) => GAP + Math.max(6 * k, all[k] * scale, 1) + 14;
    const edge = GAP + Math.max(6 * (all.length - 1), most * full * LEAST) + 26;
    const sideAt = (at) => (widths.length > 1 ? full * (LEAST + ((1 - LEAST) * at) / (widths.length - 1)) : full);
    const last = Math.max(0, widths.findLastIndex((key) => key <= D * 1.0001));
    const part = widths[last + 1] ? Math.log(D / widths[last]) / Math.log(widths[last + 1] / widths[last]) : 0;
    const side = sideAt(clamp(last + part, 0, widths.length - 1));
    const scale = side / D;
    const thick = Math.max(1, r * scale);
    const [x, y] = [edge, edge];
    const height = edge + full + 30;
    const node = box.querySelector(":scope > svg") ?? box.appendChild(svg("svg", {}));
    put(node, { viewBox: `0 0 ${box.room} ${height}`, width: box.room, height, role: "img", "aria-label": explorer.describe(view) });
    const words = (text, at, size = 13, weight = 400) => svg("text", { ...at, style: `font-size:${size}px;font-weight:${weight}` }, text);
    const rect = (name, at, more) => svg("rect", { ...at, fill: hue(name), stroke: hue(name), ...more });
    node.replaceChildren(
      rect("frozen", { x, y, width: side, height: side }, { "fill-opacity": 0.3 }),
      rect("query", { x, y: y - GAP - thick, width: side, height: thick }, { stroke: "none", "shape-rendering": "crispEdges" }),
      rect("query", { x: x - GAP - thick, y, width: thick, height: side }, { stroke: "none", "shape-rendering": "crispEdges" }),
    );
    // The smallest of the layers, to this one's scale.
    const inner = widths[0] * scale;
    if (inner < side * 0.3)
      node.append(
        svg("rect", { class: "fg-leader", "stroke-dasharray": "3 3", x, y, width: inner, height: inner }),
        words(`${wide.labels[0]}, to this scale`, { x: x + inner + 5, y: y + 13 }, 11),
      );
    const middle = { x: x + side / 2, "text-anchor": "middle" };
    const inside = [`${W}: ${format(Math.round(D))} × ${format(Math.round(D))}`, format(whole), "numbers, frozen"];
    inside.forEach((text, n) => node.append(words(text, { ...middle, y: y + side * 0.56 + 19 * (n - 1) }, side < 130 ? 11 : 14, n === 1 ? 700 : 400)));
    const size = (rows, columns) => `${format(Math.round(rows))} × ${format(Math.round(columns))}`;
    node.append(
      words(`${A}: ${size(r, D)}`, { x: x + side, y: y - GAP - thick - 6, "text-anchor": "end" }),
      words(B, { x: x - GAP, y: y - GAP - thick - 20, "text-anchor": "end" }),
      words(size(D, r), { x: x - GAP, y: y - GAP - thick - 6, "text-anchor": "end" }, small ? 11 : 13),
    );
    const remarks = [`${format(thin)} numbers in ${A} and ${B}, all trained: ${fewer} ${W}.`];
    if (r * scale < 1) remarks.push(`To scale, a strip would be ${format(r * scale, 1)} px thick. It is drawn as 1.`);
    remark(box, node, remarks, small ? null : [x + side + 3, y - GAP - thick / 2, x + full + 40, y - 58], box.room);
    if (!small) waist(node, view, x + full + 28, y + 64, [D, r], [W, A, B]);
    if (!view.sets) return;
    node.append(words(wide?.labels[explorer.chosen(view, "width")] ?? "", { x: x + side - 16, y: y + side + 18, "text-anchor": "end" }));
    const both = { ...view, sets: { width: view.sets.width, [A]: view.sets.rank, [B]: view.sets.rank } };
    if (wide) grip(box, both, "width", explorer, widths.map((_, k) => [x + sideAt(k), y + sideAt(k)]));
    if (!ranks) return;
    const at = Math.max(0, explorer.chosen(view, "rank"));
    const pulls = `M${x + side * 0.3},${y - GAP - thick}V${y - out(at, scale)}M${x - GAP - thick},${y + side * 0.6}H${x - out(at, scale)}`;
    node.append(svg("path", { class: "fg-leader", "stroke-dasharray": "2 3", d: pulls }));
    grip(box, both, A, explorer, all.map((_, k) => [x + side * 0.3, y - out(k, scale)]));
    grip(box, both, B, explorer, all.map((_, k) => [x - out(k, scale), y + side * 0.6]));
  }

  // Words beside the strips, or below the drawing where there is no room.
  function remark(box, node, all, at, room) {
    box.querySelector(":scope > .fg-notes")?.remove();
    if (!at) {
      const list = document.createElement("ul");
      put(list, { class: "fg-notes" });
      list.append(...all.map((words) => Object.assign(document.createElement("li"), { textContent: words })));
      return node.after(list);
    }
    const [fromX, fromY, x, y] = at;
    const lines = all.flatMap((words) => wrapped(words, Math.floor((room - x) / 6.5)));
    node.append(
      svg("path", { class: "fg-leader", d: `M${fromX},${fromY}L${x - 5},${y - 4}` }),
      svg("text", { class: "fg-remark" }, ...lines.map((line, n) => svg("tspan", { x, y: y + 17 * n }, line))),
    );
  }

  // A vector's two ways up: all of it through the square, and through a waist of r.
  function waist(node, view, x, y, [D, r], [W, A, B]) {
    const [wide, one, two] = [70, x + 35, x + 122];
    const thin = Math.max(1, (wide * r) / D);
    const [mid, foot] = [y + 90, y + 168];
    const wire = (d) => svg("path", { d, fill: "none", stroke: "currentColor" });
    const half = (from, to, y0, y1) => svg("path", { fill: hue("query"), d: `M${two - from / 2},${y0}h${from}L${two + to / 2},${y1}h${-to}Z` });
    const words = (text, at, fill = "currentColor") => svg("text", { ...at, style: `font-size:13px;font-weight:700;fill:${fill}` }, text);
    const middle = { "text-anchor": "middle" };
    const group = svg("g", { "aria-hidden": true },
      wire(`M${one},${foot}V${y + 10}M${one},${foot - 6}C${one},${foot - 18} ${two},${foot - 6} ${two},${foot - 34}`),
      wire(`M${two},${y + 56}C${two},${y + 24} ${two - 20},${y + 26} ${one + 9},${y + 26}`),
      svg("rect", { class: "fg-paper", x: one - 35, y: mid - 36, width: wide, height: 72 }),
      svg("rect", { x: one - 35, y: mid - 36, width: wide, height: 72, fill: hue("frozen"), "fill-opacity": 0.3, stroke: hue("frozen") }),
      half(thin, wide, mid, mid - 36), half(wide, thin, mid + 36, mid), svg("rect", { x: two - thin / 2, y: mid - 2, width: thin, height: 4, fill: hue("query") }),
      words(W, { x: one, y: mid + 5, ...middle }), words(B, { x: two, y: mid - 22, ...middle }, "var(--fg-sheet)"), words(A, { x: two, y: mid + 32, ...middle }, "var(--fg-sheet)"),
      svg("text", { x: one + 43, y: foot + 10 }, `${format(Math.round(D))} numbers`),
      svg("text", { x: two + thin / 2 + 8, y: mid + 4 }, `waist ${format(Math.round(r))}`),
    );
    node.append(group);
    plus(group, one, y + 26);
    const wave = Array.from({ length: 14 }, (_, k) => Math.sin(k * 1.7) + 0.4 * Math.cos(k * 3.1));
    vector(group, { x: one - 35, y: foot, width: wide, height: 11, values: wave, scale: 1.3 });
    vector(group, { x: one - 35, y: y - 2, width: wide, height: 11, values: wave.map((v, k) => 0.6 * v + Math.cos(k)), scale: 1.3 });
  }

  shapes.describe = (view) => {
    const { D, r, whole, thin, fewer } = counts(view);
    const [W, A, B] = [...view.square, ...view.strips];
    return `${W}, ${format(D)} by ${format(D)}, has ${format(whole)} numbers, frozen; ${A}, ${r} by ${format(D)}, and ${B}, ${format(D)} by ${r}, have ${format(thin)}, trained: ${fewer} ${W}`;
  };
  return shapes;
}
