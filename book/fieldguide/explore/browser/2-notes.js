// Words on a drawing: each note stands where it covers least, with a line to its place.
// Where there is little room a number stands there, and the words below the drawing.

const NARROW = 560; // pixels
const LINE = 17;

function wrapped(words, most = 26) {
  const lines = [""];
  for (const word of words.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (lines.at(-1) && longer.length > most) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

// The best of 64 places around a point for so large a text: [left, top].
function quietest([x, y], [wide, tall], { left, right, top, bottom }, spots, taken) {
  const tried = Array.from({ length: 64 }, (_, k) => {
    const [angle, far] = [(Math.PI * k) / 8, 22 + 26 * (k >> 4)];
    const [across, down] = [Math.cos(angle), Math.sin(angle)];
    return [x + far * across - (wide * (1 - across)) / 2, y + far * down - (tall * (1 - down)) / 2, far];
  });
  const cost = (k) => {
    const [a, b, far] = tried[k];
    const covers = ([px, py]) => px > a - 6 && px < a + wide + 6 && py > b - 4 && py < b + tall + 4;
    const meets = ([c, d, w, h]) => a < c + w + 8 && c < a + wide + 8 && b < d + h + 4 && d < b + tall + 4;
    const out = a < left || a + wide > right + 6 || b < top - 8 || b + tall > bottom - 2;
    return far + 40 * spots.filter(covers).length + 900 * taken.filter(meets).length + (out ? 5000 : 0);
  };
  return tried[nearest(tried.length, cost)].slice(0, 2);
}

// Notes on a plot, whose curves or points are `spots()`: asked for when they are placed.
function note(box, frame, view, spots) {
  const all = view.annotations;
  if (!all) return;
  const at = all.map(([x, y]) => [frame.x(x), frame.y(y)]);
  if (box.room < NARROW) return pins(box, frame.node, all, at);
  const lines = all.map(([, , words]) => wrapped(words));
  const sign = JSON.stringify([all, box.room]);
  if (box.noted?.sign !== sign) {
    const [taken, drawn] = [[], spots()];
    lines.forEach((words, k) => {
      const size = [6.7 * Math.max(...words.map((line) => line.length)), LINE * words.length];
      taken.push([...quietest(at[k], size, frame, drawn, taken), ...size]);
    });
    box.noted = { sign, taken }; // it stays there while the curves move
  }
  box.noted.taken.forEach(([left, top, wide, tall], k) => {
    const [x, y] = at[k];
    const [ex, ey] = [clamp(x, left - 3, left + wide + 3), clamp(y, top - 2, top + tall + 2)];
    const long = Math.hypot(ex - x, ey - y) || 1;
    const edge = `${x + (5 * (ex - x)) / long},${y + (5 * (ey - y)) / long}`;
    const start = x > left + wide ? "end" : x < left ? "start" : "middle";
    const tx = { start: left, middle: left + wide / 2, end: left + wide }[start];
    const words = lines[k].map((line, n) => svg("tspan", { x: tx, y: top + LINE * n + 13 }, line));
    frame.node.append(
      svg("path", { class: "fg-leader", d: `M${edge}L${ex},${ey}` }),
      svg("circle", { class: "fg-leader", cx: x, cy: y, r: 5 }),
      svg("text", { class: "fg-remark", "text-anchor": start }, ...words),
    );
  });
}

function pins(box, node, all, at) {
  at.forEach(([x, y], k) =>
    node.append(svg("circle", { class: "fg-pin", cx: x, cy: y, r: 8 }), svg("text", { class: "fg-pin", x, y: y + 4 }, k + 1)),
  );
  listed(box, all);
}

function listed(box, all) {
  box.querySelector(":scope > .fg-notes")?.remove();
  if (all.length) box.append(html("ol", { class: "fg-notes" }, ...all.map((each) => html("li", {}, each.at(-1)))));
}

// Points along a curve, so close that no words fit between them.
function along(points) {
  return points.flatMap(([x, y], k) => {
    const [u, v] = points[k + 1] ?? [x, y];
    const count = Math.max(1, Math.ceil(Math.hypot(u - x, v - y) / 8));
    return Array.from({ length: count }, (_, n) => [x + ((u - x) * n) / count, y + ((v - y) * n) / count]);
  });
}
