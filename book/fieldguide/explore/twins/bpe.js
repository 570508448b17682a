// Byte-pair encoding, as `BytePairTokenizer`: cut at special tokens, into words, into
// bytes; then join, again and again, the leftmost pair whose merge came first.
// data: special (what the first numbers stand for), alphabet (bytes: the next ones),
// left and right (numbers; merge i makes the next number after these, in order).
// params: text, and merges (so many of them count; all where it is not a control).
(params, data, readable) => {
  const [text, special] = [params.text, data.special];
  if (/\p{Cs}/u.test(text)) throw new RangeError("text holds half a character (a lone surrogate)");
  if (!text) throw new RangeError("Nothing to read yet: type something.");
  if ([...text].length > 1000) throw new RangeError("text is longer than 1,000 characters");
  const [alphabet, left, right] = [data.alphabet.values, data.left.values, data.right.values];
  const first = special.length + alphabet.length;
  const count = Math.min(left.length, Math.max(0, Math.floor(params.merges ?? left.length)));
  const ranks = new Map();
  for (let i = 0; i < count; i++) ranks.set(left[i] * 65536 + right[i], i);
  const number = new Map(Array.from(alphabet, (byte, i) => [byte, special.length + i]));

  const bytes = (id) =>
    id >= first ? [...bytes(left[id - first]), ...bytes(right[id - first])] : [alphabet[id - special.length]];
  const shown = (id) => (id < special.length ? special[id] : readable(bytes(id)));

  const joined = (word) => {
    const parts = Array.from(new TextEncoder().encode(word), (byte) => {
      if (!number.has(byte)) throw new RangeError(`text has the byte ${byte}, which has no token`);
      return number.get(byte);
    });
    for (;;) {
      let [best, at] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(parts[i] * 65536 + parts[i + 1]);
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts;
      parts.splice(at, 2, first + best);
    }
  };

  const S = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
  const apart = `'(?:[sdmt]|ll|ve|re)|\\p{N}| ?\\p{L}+| ?[^${S}\\p{L}\\p{N}]+`;
  const words = new RegExp(`${apart}|[${S}]+(?![^${S}\\p{N}])|[${S}]+`, "gu");
  const ids = [];
  for (let rest = text; rest; ) {
    const found = special
      .map((name, id) => [rest.indexOf(name), id])
      .filter(([at]) => at >= 0)
      .sort((a, b) => a[0] - b[0] || a[1] - b[1])[0];
    const [at, id] = found ?? [rest.length];
    for (const [word] of rest.slice(0, at).matchAll(words)) ids.push(...joined(word));
    if (found) ids.push(id);
    rest = found ? rest.slice(at + special[id].length) : "";
  }

  const comma = (whole) => String(whole).replace(/\B(?=(\d{3})+$)/g, ",");
  const sizes = ids.map((id) => (id < special.length ? new TextEncoder().encode(special[id]).length : bytes(id).length));
  const names = [left, right].map((side) => count && shown(side[count - 1]));
  return {
    Pieces: { pieces: ids.map(shown), values: { shape: [ids.length], values: sizes } },
    Tokens: { value: { shape: [], values: [ids.length] } },
    "The first twelve, with their numbers": {
      labels: ids.slice(0, 12).map((id) => `${id} ${shown(id)}`),
      values: { shape: [Math.min(12, ids.length)], values: sizes.slice(0, 12) },
    },
    "Token numbers": { text: ids.map((id) => `${id}=${shown(id)}`).join(" ") },
    "Last merge": { text: count ? `${comma(count)}: ${names.join(" + ")} → ${shown(first + count - 1)}` : "none yet" },
  };
};
