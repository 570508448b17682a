// Pictures down, captions across: a cell is tinted by the cosine of the two and has a
// bar for the share; beside the table, the angle between those of one cell.
({ svg, put, write, hue, clamp, nearest, keysOf }) => {
  const two = (value) => value.toFixed(2);
  const at = (array, i, j) => array.values[i * array.shape[1] + j];
  const own = (view, i) => at(view.shares, i, i);
  // Is the diagonal's share the largest of those that add up to 1 with it?
  const wins = (view, i) => {
    const { shares } = view;
    const n = view.labels.length;
    const line = (down) => Array.from({ length: n }, (_, k) => (down ? at(shares, k, i) : at(shares, i, k)));
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    const [row, column] = [line(false), line(true)];
    return own(view, i) >= Math.max(...(Math.abs(sum(row) - 1) < Math.abs(sum(column) - 1) ? row : column));
  };
  // The wrong pair that takes the largest share.
  const hardest = ({ shares, labels: { length } }) => {
    const k = nearest(length * length, (k) => (k % (length + 1) ? -shares.values[k] : 1));
    return [Math.floor(k / length), k % length];
  };

  function match(box, view, explorer) {
    const n = view.labels.length;
    const small = box.room < 560;
    const [left, top, right] = small ? [34, 84, 46] : [52, 84, 66];
    const cell = Math.min(46, (box.room - left - right) / n);
    const [x, y] = [(j) => left + j * cell, (i) => top + i * cell];
    const table = top + n * cell;
    const [width, height] = [box.room, small ? table + 160 : table + 8];
    const sign = JSON.stringify([view.labels, view.groups, width]);
    if (box.sign !== sign) Object.assign(box, { sign, parts: build() });
    box.view = view;
    box.at ??= Array(2).fill(nearest(n, (i) => -own(view, i))); // the surest right pair
    const { node, cells, ends } = box.parts;
    for (const { i, j, tint, bar } of cells) {
      const [cosine, share] = [at(view.cosines, i, j), at(view.shares, i, j)];
      const fill = { fill: hue(cosine < 0 ? "minus" : "key"), "fill-opacity": (Math.min(1, Math.abs(cosine) / 0.7) * 0.6).toFixed(3) };
      put(tint, fill);
      const tall = Math.max(0, share * (cell - 9));
      put(bar, { y: (y(i) + cell - 4 - tall).toFixed(1), height: tall.toFixed(1) });
    }
    ends.forEach((end, i) => {
      const won = wins(view, i);
      write(end, `${two(own(view, i))} ${won ? "✓" : "✗"}`);
      put(end, { style: `font-size:${small ? 11 : 13}px;font-weight:${won ? 700 : 400}` });
    });
    put(node, { "aria-label": `${explorer.describe(view)}. Arrow keys read one cell at a time.` });
    choose(box.at);
    const inside = (px, py) => [Math.floor((py - top) / cell), Math.floor((px - left) / cell)];
    const find = (px, py) => {
      const scale = width / (node.clientWidth || width);
      const place = inside(px * scale, py * scale);
      return place.every((k) => k >= 0 && k < n) ? place : undefined;
    };
    const words = (place) => {
      choose(place); // what is read is also drawn
      const [i, j] = place;
      return `picture ${view.labels[i]}, caption ${view.labels[j]}: cosine ${two(at(view.cosines, i, j))}, share ${two(at(view.shares, i, j))}`;
    };
    explorer.point(node, { find, words, size: () => [n, n], keys: ([i, j]) => [keysOf(view.labels)[i], keysOf(view.labels)[j]] });

    function build() {
      const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, style: "touch-action:pan-y" });
      const row = svg("rect", { fill: hue("query"), "fill-opacity": 0.12, x: 0, width: left + cell * n + right - 4, height: cell, rx: 6 });
      const column = svg("rect", { fill: hue("key"), "fill-opacity": 0.14, y: top - 6, width: cell, height: table - top + 6, rx: 6 });
      node.append(row, column);
      const names = view.labels.map((label, j) => {
        const turn = `translate(${x(j) + cell / 2 + 4},${top - 7}) rotate(${small ? -60 : -42})`;
        return node.appendChild(svg("text", { transform: turn, style: `font-size:${small ? 11 : 13}px` }, label));
      });
      const side = small ? 24 : 34;
      view.images.forEach((image, i) => node.append(svg("image", { href: `data:image/png;base64,${image}`, x: left - side - 6, y: y(i) + (cell - side) / 2, width: side, height: side })));
      const cells = Array.from({ length: n * n }, (_, k) => {
        const [i, j] = [Math.floor(k / n), k % n];
        const area = { x: x(j) + 1, y: y(i) + 1, width: cell - 2, height: cell - 2, rx: 3 };
        const tint = svg("rect", area);
        const bar = svg("rect", { x: x(j) + cell * 0.24, width: cell * 0.52, fill: hue("prob") });
        const foot = svg("path", { stroke: hue("prob"), "stroke-opacity": 0.5, d: `M${x(j) + cell * 0.18},${y(i) + cell - 4}h${cell * 0.64}` });
        node.append(svg("rect", { ...area, class: "fg-paper", stroke: "var(--fg-edge)" }), tint, foot, bar);
        if (i === j) node.append(svg("rect", { ...area, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }));
        return { i, j, tint, bar };
      });
      const ends = view.labels.map((_, i) => node.appendChild(svg("text", { x: left + cell * n + 5, y: y(i) + cell / 2 + 5 })));
      view.groups.forEach((group, i) => {
        if (!i || group === view.groups[i - 1]) return;
        node.append(svg("path", { class: "fg-leader", "stroke-dasharray": "3 3", d: `M0,${y(i)}H${left + cell * n + right - 4}` }));
        if (small) return;
        for (const [words, by] of [[`↑ ${view.groups[i - 1]}`, -8], [`↓ ${group}`, 19]])
          node.append(svg("text", { x: left + cell * n + right + 6, y: y(i) + by, class: "fg-remark" }, words));
      });
      const ring = svg("rect", { fill: "none", stroke: "currentColor", "stroke-width": 3, width: cell, height: cell, rx: 4 });
      const inset = svg("g", { "aria-hidden": true });
      node.append(ring, inset);
      box.replaceChildren(node);
      return { node, cells, ends, names, row, column, ring, inset };
    }

    function choose([i, j]) {
      box.at = [i, j];
      const { names, row, column, ring, inset } = box.parts;
      put(row, { y: y(i) });
      put(column, { x: x(j) });
      put(ring, { x: x(j), y: y(i) });
      names.forEach((name, k) => (name.style.fontWeight = k === j ? 700 : 400));
      const [cx, cy] = small ? [width * 0.34, table + 112] : [left + cell * n + right + 30, top + 108];
      angle(inset, [cx, cy], small ? 78 : Math.min(105, width - cx - 38), view, [i, j]);
    }
  }

  // Two directions, and every other caption's as a tick, at its angle to the picture.
  function angle(group, [x, y], radius, view, [i, j]) {
    const cosine = at(view.cosines, i, j);
    const turn = Math.acos(clamp(cosine, -1, 1));
    const tip = (way, far) => `${(x + far * Math.cos(way)).toFixed(1)},${(y - far * Math.sin(way)).toFixed(1)}`;
    const arrow = (way, name) => {
      const wing = (by) => tip(way + by, radius - 12);
      return svg("path", { fill: hue(name), stroke: hue(name), "stroke-width": 2.4, "stroke-linejoin": "round", d: `M${x},${y}L${tip(way, radius - 8)}L${wing(0.06)}L${tip(way, radius)}L${wing(-0.06)}L${tip(way, radius - 8)}` });
    };
    const words = (text, px, py, more = {}) => svg("text", { x: px, y: py, style: "font-size:13px", ...more }, text);
    const ticks = view.labels.map((_, k) => Math.acos(clamp(at(view.cosines, i, k), -1, 1)));
    const [px, py] = tip(turn, radius + 10).split(",").map(Number);
    const size = 26;
    group.replaceChildren(
      svg("path", { class: "fg-grid", fill: "none", d: `M${tip(0, radius)}A${radius},${radius} 0 0 0 ${tip(Math.PI / 2, radius)}` }),
      svg("path", { stroke: hue("key"), "stroke-width": 1.4, d: ticks.map((way) => `M${tip(way, radius - 14)}L${tip(way, radius)}`).join("") }),
      svg("path", { fill: "currentColor", "fill-opacity": 0.12, stroke: "currentColor", d: `M${x},${y}L${tip(0, 36)}A36,36 0 0 0 ${tip(turn, 36)}Z` }),
      arrow(0, "query"),
      arrow(turn, "key"),
      svg("image", { href: `data:image/png;base64,${view.images[i]}`, x: x + radius + 5, y: y - size / 2, width: size, height: size }),
      words(view.labels[j], px, py - 2, { "text-anchor": turn > 1.2 ? "middle" : "start", class: "fg-remark" }),
      words(`${Math.round((turn * 180) / Math.PI)}° apart: cosine ${two(cosine)}`, x - 22, y + 28, { class: "fg-remark" }),
    );
  }

  match.describe = (view) => {
    const right = view.labels.filter((_, i) => wins(view, i));
    const [i, j] = hardest(view);
    return `${right.length} of ${view.labels.length} find their own; ${view.labels[i]} and ${view.labels[j]}, a wrong pair, share ${two(at(view.shares, i, j))}`;
  };
  return match;
}
