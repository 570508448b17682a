// The browser's side of `explore`. The files of this folder, in order, make one
// classic script, once a page: no imports, no network.
//
// A stored explorer is <figure data-fg-explore="2"> with a still picture, a
// caption, a spec (JSON), the drawings that are not in this script, and chunks (base64
// of zlib). The spec has
//   controls [{name, label, kind: range | choice | check | text, keys, labels,
//             start, numeric, free, play}]    keys: its values on the grid; free:
//            the twin answers any number, or for "text" any text; play: has a button
//   views    [{title, kind, wide, arrays: {name: field}}], or with a
//            twin [{title, kind, wide, props}]; wide: it has a row of its own
//   fields   {field: {by, type, shape, low, high, scales, log, chunk, per}}
//            one item for each setting of the controls in `by`, row-major;
//            `per` items a chunk, from chunk number `chunk` on;
//            u8 and u16 are steps: `scales` has [least value, step] for the
//            whole item, or for each of its rows (each curve of `lines`);
//            low and high are the ends over every setting; json is a list;
//            log: floats, for a logarithmic axis
//   twin     source of (params, data, readable) => {title: changes to the view}, or null
//            (a RangeError that it throws is said to the reader)
//   by       with a twin: the controls that select its data
//   quiz     [question, answer, what to guess among], or nothing
// `index.props` is the field of a view's labels, axis names and units. Among them
// `sets`, {part: control}: what a click on a view chooses; place k of a part (row k)
// is the control's k-th key.
// Bytes arrive from the page or from a kernel; the rest is the same.

const fg = (self.fieldguide ??= { figures: [] });

const element = (create) => (tag, attributes, ...children) => {
  const node = create(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const html = element((tag) => document.createElement(tag));
const svg = element((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const product = (sizes) => sizes.reduce((a, b) => a * b, 1);

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// The place of the smallest of `distance(0 .. count - 1)`.
function nearest(count, distance) {
  let best = 0;
  for (let k = 1; k < count; k++) if (distance(k) < distance(best)) best = k;
  return best;
}

// What places called by these labels have in common over all views: the n-th of
// equal words is the n-th everywhere.
function keysOf(labels) {
  const seen = new Map();
  return labels?.map((label) => {
    seen.set(label, (seen.get(label) ?? 0) + 1);
    return `${label} ${seen.get(label)}`;
  });
}

// A number in few digits; as Python's format_cell, integers in full.
function format(value, digits = 4) {
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15)
    return String(value).replace(/\B(?=(\d{3})+$)/g, ","); // no Intl: loading it takes 20 ms
  const power = Math.floor(Math.log10(Math.abs(value)));
  if (power < -4 || power >= Math.max(digits, 6))
    return value.toExponential(digits - 1).replace(/\.?0+e/, "e");
  const plain = value.toPrecision(digits);
  if (plain.includes("e")) return String(Number(plain));
  return plain.includes(".") ? plain.replace(/\.?0+$/, "") : plain;
}

// The bytes of a token to look at; as Python's `readable` in transformers/tokens.
function readable(bytes) {
  const piece = Uint8Array.from(bytes);
  let plain = "\0";
  try {
    plain = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(piece);
  } catch {} // no text
  for (const [blank, shown] of [[" ", "␣"], ["\n", "\\n"], ["\t", "\\t"]]) // prettier-ignore
    plain = plain.replaceAll(blank, shown);
  const hex = Array.from(piece, (byte) => byte.toString(16).padStart(2, "0").toUpperCase());
  return /\p{Cc}/u.test(plain) ? `<${hex.join(" ")}>` : plain;
}

function base64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text); // a browser from before 2025
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const { readable, writable } = new DecompressionStream("deflate");
  const writer = writable.getWriter();
  writer.write(bytes).catch(() => {}); // the reader below meets the same error
  writer.close().catch(() => {});
  return new Response(readable).arrayBuffer();
}

const ARRAYS = { u8: Uint8Array, u16: Uint16Array, f32: Float32Array, f64: Float64Array };

// The stored values: finds, unpacks and scales those of one setting.
class Fields {
  constructor(spec, bytes) {
    this.spec = spec;
    this.bytes = bytes; // chunk number -> compressed bytes
    this.chunks = new Map(); // chunk number -> decoded, or a promise of it
    this.last = {}; // field -> what `get` gave last: what stays is the same object
    this.places = {}; // control -> Map from key to its place on the grid
    for (const { name, keys } of spec.controls)
      this.places[name] = new Map(keys.map((key, i) => [key, i]));
  }

  // Where a field's item for these params lies: [chunk number, place in it].
  find(field, params) {
    let at = 0;
    for (const name of field.by)
      at = at * this.places[name].size + this.places[name].get(params[name]);
    return [field.chunk + Math.floor(at / field.per), at % field.per];
  }

  // A promise while chunks are on their way; null when all are here.
  load(params) {
    const waiting = [];
    for (const field of Object.values(this.spec.fields)) {
      const [number] = this.find(field, params);
      if (!this.chunks.has(number)) this.chunks.set(number, this.decode(number, field));
      const chunk = this.chunks.get(number);
      if (chunk instanceof Promise) waiting.push(chunk);
    }
    return waiting.length ? Promise.all(waiting) : null;
  }

  async decode(number, field) {
    const buffer = await inflate(this.bytes(number));
    const json = field.type === "json";
    const chunk = json ? JSON.parse(new TextDecoder().decode(buffer)) : new ARRAYS[field.type](buffer);
    this.chunks.set(number, chunk);
    return chunk;
  }

  // One item: a JSON value, or {shape, values, low, high, decimals}: the ends
  // of the whole field, and how many decimals each row's steps can tell apart.
  get(key, params) {
    const field = this.spec.fields[key];
    const [number, at] = this.find(field, params);
    const chunk = this.chunks.get(number);
    if (field.type === "json") return chunk[at];
    const { shape, low, high, scales } = field;
    const size = product(shape);
    const last = this.last[key];
    if (last?.number === number && last.at === at) return last.item;
    const values = chunk.subarray(at * size, (at + 1) * size);
    const keep = (item) => (this.last[key] = { number, at, item }).item;
    if (!scales) return keep({ shape, values, low, high });
    const scaled = new Float64Array(size); // not Float64Array.from: five times as slow
    const row = size / scales.length;
    scales.forEach(([least, step], r) => {
      for (let k = r * row; k < (r + 1) * row; k++) scaled[k] = least + step * values[k];
    });
    const decimals = scales.map(([, step]) => clamp(Math.floor(0.31 - Math.log10(step)), 0, 100));
    return keep({ shape, values: scaled, low, high, decimals });
  }
}
