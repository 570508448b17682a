// Letters at the foot; above each rises its stream, to which the parts of a block add.
// Arcs lead sideways, as wide as their weights. In play, time is the chosen level: at
// 2.4 the strips are inside block 3.
({ svg, put, vector, chip, operation, plus, grip, hue, clamp, keysOf, pins, listed, wrapped }) => {
  const smooth = (f) => f * f * (3 - 2 * f);
  const part = (t, from, to) => clamp((t - from) / (to - from), 0, 1);
  const percent = (p) => p.toFixed(2);
  const named = (letter) => ({ "␣": "a space", "⏎": "a new line" })[letter] ?? letter;
  const said = (view, l, c) => `${named(view.guesses[l][c])}, ${percent(view.probabilities.values[l * view.letters.length + c])}`;
  const words = (view, [l, c]) =>
    l < 0 ? view.letters[c] : c < 0 ? view.levels[l] : `${view.letters[c]}, ${view.levels[l]}: next would be ${said(view, l, c)}`;

  // Where everything stands.
  function plan(box, view) {
    const [C, L, N] = [view.letters.length, view.levels.length - 1, view.stream.shape[2]];
    const width = Math.min(box.room, 900);
    const small = width < 560;
    const [gutter, past, margin] = [small ? 0 : 86, small ? 40 : 46, width < 640 ? 4 : width < 760 ? 150 : 190];
    const wide = (width - gutter - past - margin) / C;
    const [strip, lane, mlp] = small ? [18, 42, 32] : [15, 46, 34];
    const pitch = strip + lane + mlp + 32;
    const height = L * pitch + strip + 92;
    const x = (c) => gutter + past + wide * (c + 0.5);
    const yStrip = (l) => height - 68 - strip - l * pitch;
    const yFoot = (b) => yStrip(b) - 26;
    const yAttention = (b) => yFoot(b) - lane + 8;
    const yMlp = (b) => yFoot(b) - lane - mlp + 10;
    const across = Math.min(wide - (small ? 5 : 9), 110);
    return { C, L, N, width, small, gutter, past, margin, wide, strip, lane, mlp, height, x, across, yStrip, yFoot, yAttention, yMlp, yHead: (b) => yFoot(b) - lane - mlp, foot: height - 54 };
  }

  function build(box, view, explorer) {
    const p = plan(box, view);
    const { C, L, N, small, gutter, past, wide, strip, x, across, yStrip, yFoot, yAttention, yMlp, yHead, foot, height } = p;
    const node = svg("svg", { width: p.width, height, viewBox: `0 0 ${p.width} ${height}`, "aria-label": view.title, class: "fg-sets" });
    const xPast = gutter + past / 2;
    const right = gutter + past + wide * C;
    const line = (attributes) => node.appendChild(svg("path", { fill: "none", ...attributes }));
    const label = (x, y, words, more) => node.appendChild(svg("text", { x, y, ...more }, words));
    const all = (count, each) => Array.from({ length: count }, (_, k) => each(k));
    const values = (k, c) => view.stream.values.slice((k * C + c) * N, (k * C + c + 1) * N);
    const beam = svg("rect", { y: 0, width: wide, height: foot + 38, rx: 8, fill: hue("stream"), "fill-opacity": 0.1 });
    node.append(beam);
    for (let b = 0; b < L; b++) {
      node.append(svg("rect", { x: gutter, y: yHead(b), width: right - gutter, height: p.lane + p.mlp, rx: 9, fill: "currentColor", "fill-opacity": 0.05 }));
      if (small) ["block", b + 1].forEach((word, n) => label(5, yHead(b) + 14 + 12 * n, word));
      else {
        label(gutter - 8, yMlp(b) + 12, "MLP", { "text-anchor": "end" });
        label(gutter - 8, yAttention(b) + 14, "attention", { "text-anchor": "end" });
        label(gutter + 8, yHead(b) + 15, `block ${b + 1}`);
      }
    }
    const level = svg("rect", { x: small ? 0 : 2, width: right - (small ? 0 : 2), height: strip + 26, rx: 6, fill: "none", stroke: "currentColor", "stroke-dasharray": "3 3" });
    node.append(level);
    // Sideways: stacked where they arrive, so that all of a column are as wide as 1.
    const thick = small ? 14 : 17;
    const bundles = all(C, () => svg("g", { fill: "none", stroke: hue("value") }));
    const [faint, strong] = [svg("g", {}, ...bundles), svg("g", {})];
    const arcs = [];
    node.append(faint);
    for (let b = 0; b < L; b++)
      for (let c = 0; c < C; c++) {
        let y = yAttention(b) - thick / 2;
        for (let s = 0; s < c + 2; s++) {
          const width = view.arcs.values[(b * C + c) * (C + 1) + s] * thick;
          const [from, to, own] = [s ? x(s - 1) : xPast, x(c), s === c + 1];
          const mid = y + width / 2;
          const bend = Math.min(from + (to - from) * 0.42, from + 46);
          const d = own ? `M${to},${yFoot(b)}V${yAttention(b) + 8}` : `M${from},${yFoot(b)}C${from},${mid + 6} ${bend},${mid} ${to - 8},${mid}`;
          if (!own) y += width;
          if (width < 0.06) continue;
          const arc = svg("path", { d, "stroke-width": Math.max(0.5, width).toFixed(2), pathLength: 1 });
          bundles[c].append(arc);
          arcs.push({ b, own, arc });
        }
      }
    // Upwards: the streams, and what adds to them.
    const top = yStrip(L) + strip;
    line({ d: `M${xPast},${foot}V${top}`, stroke: hue("frozen"), "stroke-dasharray": "2 4" });
    for (let c = 0; c < C; c++) line({ d: `M${x(c)},${foot}V${top}`, stroke: hue("stream"), "stroke-width": 2 });
    node.append(strong);
    const pluses = [];
    const [reach, tall] = small ? [13, 13] : [Math.min(23, wide / 2 - 13), 15];
    for (let b = 0; b < L; b++)
      for (let c = 0; c < C; c++) {
        const [out, back, far, low] = [yHead(b) + p.mlp - 1, yMlp(b), x(c) + reach, yMlp(b) + 6];
        line({ d: `M${x(c)},${out}C${x(c) + reach},${out} ${far},${out} ${far},${low + tall}`, stroke: "currentColor", "stroke-opacity": 0.5 });
        line({ d: `M${far},${low}C${far},${back - 2} ${far - 6},${back} ${x(c) + 8},${back}`, stroke: "currentColor", "stroke-opacity": 0.5 });
        const box = operation(node, { x: far, y: low, width: small ? 20 : 25, height: tall, words: "MLP" });
        box.lastChild.style.fontSize = small ? "8px" : "9px";
        for (const [n, y] of [yAttention(b), back].entries()) pluses.push({ b, n, node: plus(node, x(c), y, small ? 6 : 7.5) });
      }
    // The strips, and over each what it would say next: filled where it is right.
    const places = [];
    for (let l = 0; l <= L; l++)
      for (let c = 0; c < C; c++) {
        const [x0, y] = [x(c) - across / 2, yStrip(l)];
        const group = node.appendChild(svg("g", {}));
        group.append(svg("rect", { class: "fg-paper", x: x0 - 1, y: y - 18, width: across + 2, height: 16 }));
        vector(group, { x: x0, y, width: across, height: strip, values: values(2 * l, c), rows: small ? 2 : 1 });
        const [letter, sure] = [view.guesses[l][c], view.probabilities.values[l * C + c]];
        const good = letter === view.letters[c + 1];
        const full = across - 17;
        const style = `font-weight:600;font-size:12px;fill:${good ? "var(--fg-sheet)" : hue("prob")}`;
        group.append(
          svg("rect", { x: x0, y: y - 17, width: 14, height: 14, rx: 3, fill: good ? hue("prob") : "var(--fg-sheet)", stroke: hue("prob") }),
          svg("text", { x: x0 + 7, y: y - 6, "text-anchor": "middle", style }, letter),
          svg("text", { x: x0 + 17, y: y - 8, style: "font-size:10px" }, small ? percent(sure).replace(/^0|\.00$/g, "") : percent(sure)),
          svg("rect", { x: x0 + 17, y: y - 6, width: full, height: 3, fill: hue("prob"), "fill-opacity": 0.2 }),
          svg("rect", { x: x0 + 17, y: y - 6, width: (full * sure).toFixed(1), height: 3, fill: hue("prob") }),
        );
        places.push({ l, node: group });
      }
    if (!small)
      view.levels.forEach((name, l) => {
        label(gutter - 8, yStrip(l) + strip - 3, name, { "text-anchor": "end" });
        if (view.sizes) label(gutter - 8, yStrip(l) - 7, `size ${view.sizes[l]}`, { "text-anchor": "end" });
      });
    const chips = all(C, (c) => chip(node, { x: x(c), y: foot, width: Math.min(42, wide - 6), height: 28, words: view.letters[c], hue: "stream" }));
    chips.forEach((each, c) => put(each, { "data-fg-key": keysOf(view.letters)[c] }));
    const source = small ? "…" : view.before;
    const lines = wrapped(source, 16);
    node.append(svg("rect", { class: "fg-paper", x: small ? 4 : 2, y: foot, width: gutter + past - 8, height: 28, rx: 8, stroke: hue("frozen"), "stroke-dasharray": "2 3" }));
    lines.forEach((words, n) => label((gutter + past) / 2, foot + 18 + 13 * (n - (lines.length - 1) / 2), words, { "text-anchor": "middle" }));
    const cell = svg("rect", { width: wide - 2, height: strip + 24, rx: 5, fill: "none", stroke: "currentColor", "stroke-width": 2 });
    node.append(cell);
    const movers = all(C, (c) => {
      const group = svg("g", { visibility: "hidden" });
      const { set } = vector(group, { x: -across / 2, y: -strip / 2, width: across, height: strip, values: values(0, c), rows: small ? 2 : 1 });
      node.append(group);
      return { group, set };
    });
    box.replaceChildren(node);
    const noted = remarks(box, view, node, p);
    box.tower = { ...p, node, values, beam, level, cell, arcs, bundles, faint, strong, pluses, places, chips, movers, noted };
    explorer.point(node, {
      find: (px, py) => {
        const c = Math.floor((px - gutter - past) / wide);
        const l = all(L + 1, (l) => l).findIndex((l) => py > (l < L ? yHead(l) + p.mlp : -1));
        const place = [py > foot - 6 ? -1 : l, c >= 0 && c < C ? c : -1];
        return Math.max(...place) < 0 ? null : place;
      },
      words: (place) => words(box.view, place),
      keys: ([, c]) => [keysOf(view.letters)[c]],
      choose: ([l, c]) => {
        explorer.choose(box.view, { level: l, column: c });
        box.grips?.level?.focus({ preventScroll: true }); // arrows go on from here
      },
    });
    if (box.keyed) return;
    box.keyed = true; // each grip answers to its own two arrows, this to the others
    box.addEventListener("keydown", (event) => {
      const [other, step] = { ArrowLeft: ["column", -1], ArrowRight: ["column", 1], ArrowUp: ["level", 1], ArrowDown: ["level", -1] }[event.key] ?? [];
      const knob = box.grips?.[other];
      if (!knob || event.target === knob) return;
      event.preventDefault();
      explorer.choose(box.view, { [other]: explorer.chosen(box.view, other) + step });
    });
  }

  // Words at the right edge, each as high as what it is about, where there is room.
  function remarks(box, view, node, { C, small, margin, wide, x, across, strip, height, yStrip, yAttention, yMlp }) {
    const spot = ([where, n]) => {
      if (where === "attention") return margin > 9 ? [x(C - 1) - wide * 0.32, yAttention(n - 1) - 3] : [x(1) + wide / 2, yAttention(n - 1) - 6];
      if (where === "MLP") return [x(C - 1) + (margin > 9 ? wide / 2 + 1 : small ? 13 : 22), yMlp(n - 1) + 13];
      return [margin > 9 ? x(C - 1) + across / 2 : x(0) - wide / 2 - 9, yStrip(n) + (where === "guess" ? -10 : strip / 2)];
    };
    const at = view.annotations.map(spot);
    if (margin < 9) return pins(box, node, view.annotations, at) ?? [];
    const left = x(C - 1) + wide / 2 + 14;
    const notes = view.annotations.map((note, k) => ({ k, at: at[k], lines: wrapped(note.at(-1), Math.floor((margin - 14) / 6.1)) }));
    notes.sort((a, b) => a.at[1] - b.at[1]);
    let edge = 0;
    for (const note of notes) {
      note.top = Math.max(edge, note.at[1] - 8.5 * note.lines.length);
      edge = note.top + 17 * note.lines.length + 9;
    }
    edge = height;
    for (const note of notes.toReversed()) {
      note.top = Math.min(note.top, edge - 17 * note.lines.length - 4);
      edge = note.top - 5;
    }
    return notes.map(({ k, at: [px, py], lines, top }) => {
      const y = clamp(py, top + 6, top + 17 * lines.length - 6);
      const text = svg("text", { class: "fg-remark" }, ...lines.map((words, n) => svg("tspan", { x: left, y: top + 17 * n + 13 }, words)));
      const group = svg("g", {}, svg("path", { class: "fg-leader", d: `M${px + 3},${py}L${left - 4},${y}` }), svg("circle", { class: "fg-leader", cx: px, cy: py, r: 3 }), text);
      node.append(group);
      const [where, n] = view.annotations[k];
      return { group, from: n - ({ attention: 0.9, MLP: 0.4 }[where] ?? 0) };
    });
  }

  function tower(box, view, explorer) {
    const { arcs: weights, probabilities, stream } = view;
    const sign = JSON.stringify([box.room, view.letters, view.guesses, view.sizes, view.before, view.annotations]);
    const known = [sign, weights.values, probabilities.values, stream.values];
    if (!box.known?.every((each, k) => each === known[k])) build(box, view, explorer);
    Object.assign(box, { known, view });
    const { C, L, wide, x, strip, yStrip, foot, faint, strong } = box.tower;
    const rises = explorer.playing && explorer.playing.name === view.sets?.level;
    const goal = explorer.shown[view.title].chosen.values[1];
    const column = view.chosen.values[0];
    const chosen = rises ? Math.min(goal, view.chosen.values[1]) : view.chosen.values[1];
    put(box.tower.beam, { x: x(column) - wide / 2 });
    put(box.tower.level, { y: yStrip(chosen) - 22 });
    put(box.tower.cell, { x: x(column) - wide / 2 + 1, y: yStrip(chosen) - 21 });
    const nearest = Math.round(column);
    if (box.tower.column !== nearest)
      box.tower.bundles.forEach((bundle, c) => {
        if (c === nearest || bundle.parentNode === strong) (c === nearest ? strong : faint).append(bundle);
        put(bundle, { "stroke-opacity": c === nearest ? 0.85 : 0.16 });
      });
    box.tower.column = nearest;
    frame(box.tower, rises ? chosen : L);
    const all = (count, spot) => Array.from({ length: count }, (_, k) => spot(k));
    if (view.sets?.level) grip(box, view, "level", explorer, all(L + 1, (l) => [box.tower.gutter + 8, yStrip(l) + strip / 2]));
    if (view.sets?.column) grip(box, view, "column", explorer, all(C, (c) => [x(c), foot + 38]));
  }

  // All that moves at the time t; at the top everything stands.
  function frame(tower, t) {
    if (tower.t === t) return;
    tower.t = t;
    const { C, L, x, strip, yStrip, yAttention, yMlp, values } = tower;
    for (const { l, node } of tower.places) put(node, { opacity: t >= l ? 1 : 0 });
    for (const { group, from } of tower.noted) put(group, { opacity: t >= from ? 1 : 0 });
    for (const { b, own, arc } of tower.arcs) {
      const p = smooth(part(t - b, 0.02, own ? 0.42 : 0.4));
      put(arc, { "stroke-dasharray": p < 1 ? `${p.toFixed(3)} 3` : "none", visibility: p > 0 ? "visible" : "hidden" });
    }
    const b = Math.min(Math.floor(t), L - 1);
    const f = t - b;
    for (const plus of tower.pluses) {
      const [from, to] = plus.n ? [0.72, 0.88] : [0.4, 0.56];
      plus.node.classList.toggle("fg-lit", plus.b === b && f > from && f < to);
    }
    const moves = f > 0 && f < 1;
    const stops = [[0, yStrip(b) + strip / 2], [0.3, yAttention(b) + 24], [0.42, yAttention(b)], [0.54, yAttention(b)], [0.74, yMlp(b)], [0.86, yMlp(b)], [1, yStrip(b + 1) + strip / 2]]; // prettier-ignore
    const n = Math.max(1, stops.findIndex(([when]) => when >= f));
    const [[f0, y0], [f1, y1]] = [stops[n - 1], stops[n]];
    const y = y0 + (y1 - y0) * smooth(part(f, f0, f1));
    const done = smooth(part(f, 0.42, 0.54)) + smooth(part(f, 0.74, 0.86)); // 0 to 2 parts
    const k = 2 * b + Math.min(1, Math.floor(done));
    for (let c = 0; c < C; c++) {
      const { group, set } = tower.movers[c];
      put(group, { visibility: moves ? "visible" : "hidden" });
      if (!moves) continue;
      put(group, { transform: `translate(${x(c)},${y.toFixed(1)})` });
      const [from, to] = [values(k, c), values(k + 1, c)];
      set(from.map((value, i) => value + (to[i] - value) * (done - (k - 2 * b))), 1);
    }
  }

  tower.pace = 2200; // milliseconds a level
  tower.describe = (view) => {
    const [c, l] = Array.from(view.chosen.values, Math.round);
    return words(view, [l, c]);
  };
  return tower;
}
