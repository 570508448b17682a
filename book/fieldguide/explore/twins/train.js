// Byte-pair encoding while it is trained on one text, as `training`: count the
// pairs of neighbours, join the most frequent one (the smaller numbers where it is a
// draw) and give it the next number; `merges` times, or until no pair comes twice.
// params: text, merges. data: none.
(params, data, readable) => {
  const text = params.text;
  if (/\p{Cs}/u.test(text)) throw new RangeError("text holds half a character (a lone surrogate)");
  if (!text) throw new RangeError("Nothing to count yet: type something.");
  if ([...text].length > 300) throw new RangeError("text is longer than 300 characters");
  const made = Array.from({ length: 256 }, (_, byte) => [byte]);
  const number = new Map(made.map((bytes, id) => [String(bytes), id]));
  let ids = Array.from(new TextEncoder().encode(text));

  const shown = (id) => readable(made[id]);

  const counted = () => {
    const pairs = new Map();
    for (let i = 0; i + 1 < ids.length; i++) {
      const pair = ids[i] * 65536 + ids[i + 1];
      pairs.set(pair, (pairs.get(pair) ?? 0) + 1);
    }
    const often = [...pairs].sort((p, q) => q[1] - p[1] || p[0] - q[0]);
    return often.map(([pair, count]) => [Math.floor(pair / 65536), pair % 65536, count]);
  };

  const named = (left, right) => `${shown(left)} + ${shown(right)}`;
  const brief = (id) => {
    const signs = [...shown(id)];
    return signs.length < 13 ? shown(id) : `${signs.slice(0, 5).join("")}…${signs.slice(-6).join("")}`;
  };
  let [often, last] = [counted(), ""];
  const high = often[0]?.[2] ?? 1;
  for (let merge = 1; merge <= Math.floor(params.merges) && often[0]?.[2] > 1; merge++) {
    const [left, right] = often[0];
    const bytes = [...made[left], ...made[right]];
    if (!number.has(String(bytes))) number.set(String(bytes), made.push(bytes) - 1);
    const id = number.get(String(bytes));
    const joined = [];
    for (let i = 0; i < ids.length; i++) {
      const found = ids[i] === left && ids[i + 1] === right;
      joined.push(found ? id : ids[i]);
      i += found;
    }
    ids = joined;
    last = `${merge}: ${named(left, right)} → ${shown(id)}`;
    often = counted();
  }

  if (often[0]?.[2] > 1) last ||= "none yet";
  else last = `${last || "none"}. No pair occurs twice: finished.`;
  const five = Array.from({ length: 5 }, (_, k) => often[k] ?? [0, 0, 0]);
  const sizes = ids.map((id) => made[id].length);
  return {
    Pieces: { pieces: ids.map(shown), values: { shape: [ids.length], values: sizes } },
    "Most frequent pairs": {
      labels: five.map(([left, right, count], k) => (count ? `${brief(left)} + ${brief(right)}` : "–".repeat(k + 1))),
      values: { shape: [5], values: five.map(([, , count]) => count) },
      high,
    },
    "Last merge": { text: last },
    Tokens: { value: { shape: [], values: [ids.length] } },
  };
};
