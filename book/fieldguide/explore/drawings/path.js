// Ways over a plane: each a line through its places, with a knob at the one that is now.
({ svg, put, dress, nearest, extent, hue, plot, grip, note, pins, along, quietest }) => {
  const HUES = ["stream", "prob"];
  const PARTS = ["first", "second"];
  const labels = (view) => [view.firsts, view.seconds].slice(0, view.names.length);
  // The numbers of a way's places among all, and the way of place k.
  const range = (view, w) => labels(view)[w].map((_, k) => k + (w ? view.firsts.length : 0));
  const wayOf = (view, k) => (k < view.firsts.length ? 0 : 1);
  const told = (view, w, k) => {
    const [at, n] = [range(view, w)[k], { digits: 3 }];
    return `${view.names[w]}, at ${labels(view)[w][k]}: ${view.x_axis} ${dress(n, view.x.values[at], view.x)}, ${view.y_axis} ${dress({ digits: 4 }, view.y.values[at], view.y)}`;
  };

  function path(box, view, explorer) {
    const ys = [view.low ?? extent(view.y.values)[0], view.high ?? extent(view.y.values)[1]];
    const frame = plot(box, explorer.describe(view), view.ends, ys, view);
    const { node, top, bottom, left } = frame;
    const spot = (k) => [frame.x(view.x.values[k]), frame.y(view.y.values[k])];
    const ways = view.names.map((_, w) => range(view, w).map(spot));
    const words = (text, x, y, name) => svg("text", { class: "fg-way", x, y, style: `fill:var(--fg-${name}-words,${hue(name)})` }, text);
    if (view.limit) {
      const x = frame.x(view.limit[0]);
      node.append(svg("rect", { x: left, y: top, width: x - left, height: bottom - top, fill: hue("prob"), "fill-opacity": 0.07 }));
      node.append(svg("path", { d: `M${x},${top}V${bottom}`, stroke: hue("prob"), "stroke-dasharray": "5 4" }));
      node.append(words(view.limit[1], x + 6, bottom - 6, "prob"));
    }
    // Each way's name has a place of its own, which remarks leave free.
    const curves = ways.flatMap(along);
    if (box.named?.room !== box.room) {
      const taken = view.limit ? [[frame.x(view.limit[0]), bottom - 20, 6.2 * view.limit[1].length, 16]] : [];
      ways.forEach((spots, w) => {
        const size = [6.4 * view.names[w].length, 16];
        const near = spots[nearest(spots.length, (k) => Math.abs(spots[k][0] - left - 0.8 * (frame.right - left)))];
        taken.push([...quietest(near, size, frame, curves, taken), ...size]);
      });
      box.named = { room: box.room, taken, names: taken.slice(-ways.length) };
    }
    ways.forEach((spots, w) => {
      const at = view.at.values[w];
      const [k, share] = [Math.floor(at), at % 1];
      const tip = spots[k].map((from, axis) => from + share * ((spots[k + 1] ?? spots[k])[axis] - from));
      const line = (through, faint) =>
        svg("path", { d: `M${through.join("L")}`, fill: "none", stroke: hue(HUES[w]), "stroke-width": 2.4, "stroke-linejoin": "round", "stroke-opacity": faint });
      node.append(line([tip, ...spots.slice(k + 1)], w ? 1 : 0.3), line([...spots.slice(0, k + 1), tip], 1));
      if (!w) for (const [n, [cx, cy]] of spots.entries()) node.append(svg("circle", { cx, cy, r: 2.8, fill: hue(HUES[w]), "fill-opacity": n <= at ? 1 : 0.3 }));
      const [x, y, , tall] = box.named.names[w];
      node.append(words(view.names[w], x, y + tall - 4, HUES[w]));
      if (view.sets) Object.assign(grip(box, view, PARTS[w], explorer, spots).style, { left: `${tip[0]}px`, top: `${tip[1]}px` });
      else node.append(svg("circle", { cx: tip[0], cy: tip[1], r: 6, fill: hue(HUES[w]) }));
    });
    const filled = box.named.taken.flatMap(([x, y, wide]) => along([[x, y + 8], [x + wide, y + 8]]));
    // A number beside its place, where the knob would cover it.
    if (box.room < 560) pins(box, node, view.annotations ?? [], (view.annotations ?? []).map(([x, y]) => [frame.x(x), frame.y(y) - 19]));
    else note(box, frame, view, () => [...curves, ...filled]);
    const all = ways.flat();
    const find = (px, py) => {
      const k = nearest(all.length, (n) => Math.hypot(all[n][0] - px, all[n][1] - py));
      return [wayOf(view, k), k - range(view, wayOf(view, k))[0]];
    };
    const held = ([w, k]) => [w, Math.min(k, ways[w].length - 1)];
    const size = () => [ways.length, Math.max(...ways.map((spots) => spots.length))];
    const choose = ([w, k]) => explorer.choose(view, { [PARTS[w]]: held([w, k])[1] });
    explorer.point(node, { find, words: (place) => told(view, ...held(place)), size, choose }, view.sets);
  }
  path.describe = (view) => view.names.map((_, w) => told(view, w, Math.round(view.at.values[w]))).join("; ");
  return path;
}
