// Between two settings: what both show moves from its old place to its new one.

const MOST = 20000; // numbers of a view that move; more are drawn at once
const STAND = ["number", "pictures", "table", "text", "figure"]; // kinds that change at once
// What says that two settings show the same things.
const NAMES = ["kind", "names", "labels", "pieces", "left", "right", "rows", "columns"];
NAMES.push("titles", "groups", "band", "kinds", "x_log", "y_log");

const arraysOf = (view) => Object.keys(view).filter((key) => view[key]?.shape);

function same(a, b) {
  if (STAND.includes(b.kind) || b.kinds) return false;
  const sizes = (view) => arraysOf(view).map((key) => view[key].shape);
  const sign = (view) => JSON.stringify([NAMES.map((name) => view[name]), sizes(view)]);
  return arraysOf(b).reduce((sum, key) => sum + product(b[key].shape), 0) <= MOST && sign(a) === sign(b);
}

// Views a share of the way from one setting to the next; in logarithms on such an axis.
function between(from, to, share) {
  const mixed = Object.entries(to).map(([title, b]) => {
    const a = from[title];
    if (!a || !same(a, b)) return [title, b];
    const view = { ...b };
    for (const key of arraysOf(b)) {
      if (a[key].values === b[key].values) continue; // it stays, and is known to stay
      const [there, back] = b[`${key}_log`] ? [Math.log, Math.exp] : [Number, Number];
      const mix = (value, k) => back(there(a[key].values[k]) * (1 - share) + there(value) * share);
      view[key] = { ...b[key], values: Float64Array.from(b[key].values, mix) };
    }
    return [title, view];
  });
  return Object.fromEntries(mixed);
}
