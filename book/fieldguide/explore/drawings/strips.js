// Rows of cells, each a vector with its sign, its name before it and words behind it.
({ html, svg, put, write, vector, hue, keep, place, clamp, format }) => {
  const ROW = 30;
  function strips(box, view, explorer) {
    const [rows, cells] = view.values.shape;
    const room = box.room;
    const measure = (words, each) => Math.max(0, ...words.map((word) => word.length)) * each;
    const left = Math.min(measure(view.rows, 7.4) + (view.signs.some(Boolean) ? 26 : 8), room * 0.42);
    const right = measure(view.notes, 6.6) + 10;
    const wide = Math.min(room - left - right, 640);
    const build = () => {
      const node = svg("svg", { width: room, height: rows * ROW, viewBox: `0 0 ${room} ${rows * ROW}`, "aria-label": view.title });
      box.strips = view.rows.map((name, k) => {
        const y = k * ROW;
        const row = svg("g", view.sets ? { ...place(view, k, view.rows), role: "button", class: "fg-row" } : place(view, k, view.rows));
        if (view.sets) row.append(svg("rect", { class: "fg-hit", x: 0, y, width: room, height: ROW, rx: 5 }));
        row.append(svg("text", { x: 2, y: y + 20, "font-weight": 600 }, view.signs[k]), svg("text", { x: left - 8, y: y + 20, "text-anchor": "end" }, name));
        const strip = vector(row, { x: left, y: y + 5, width: wide, height: 20, values: Array(cells).fill(0), hue: view.hues[k] });
        const note = row.appendChild(svg("text", { x: left + wide + 8, y: y + 20 }));
        node.append(row);
        return { ...strip, note };
      });
      return node;
    };
    keep(box, view, explorer, "row", [view.rows, view.hues, view.signs, room, cells], build);
    const high = view.high ?? Math.max(Math.abs(view.values.low), Math.abs(view.values.high));
    box.strips.forEach(({ set, note }, k) => {
      set(view.values.values.slice(k * cells, (k + 1) * cells), high);
      write(note, view.notes[k]);
    });
  }
  strips.describe = (view) => view.rows.map((name, k) => `${view.signs[k]} ${name} ${view.notes[k]}`.trim()).join(", ");
  return strips;
}
