// The article's assertions by verdict and by word. Without this script all are shown.
addEventListener("DOMContentLoaded", () => {
  const rows = [...document.querySelectorAll("tr[class*='fg-verdict-']")];
  if (!rows.length) return;
  const verdict = (row) => row.querySelector("strong").textContent;
  const counts = new Map();
  for (const row of rows) counts.set(verdict(row), (counts.get(verdict(row)) ?? 0) + 1);

  const make = (tag, facts, ...parts) => {
    const node = Object.assign(document.createElement(tag), facts);
    node.append(...parts);
    return node;
  };
  const choose = make("select", { id: "fg-verdict" }, make("option", { value: "" }, `every verdict (${rows.length})`));
  for (const [name, count] of counts) choose.append(make("option", { value: name }, `${name} (${count})`));
  const words = make("input", { id: "fg-words", type: "search" });
  const found = make("p", { className: "fg-found" });
  found.setAttribute("role", "status");
  const filter = make("form", { className: "fg-filter" });
  filter.append(make("label", { htmlFor: choose.id }, "Verdict"), choose);
  filter.append(make("label", { htmlFor: words.id }, "Words"), words, found);
  const sections = [...new Set(rows.map((row) => row.closest("section")))];
  sections[0].before(filter);

  const show = () => {
    const sought = words.value.trim().toLowerCase();
    for (const row of rows) {
      const fits = !choose.value || verdict(row) === choose.value;
      row.hidden = !fits || !row.textContent.toLowerCase().includes(sought);
    }
    for (const part of sections) part.hidden = !part.querySelector("tbody tr:not([hidden])");
    found.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} assertions`;
  };
  filter.addEventListener("input", show);
  filter.addEventListener("submit", (event) => event.preventDefault());
  show();
});

// A link to a claim opens its notebook's fold, also where the browser does not.
const unfold = () => {
  const fold = document.getElementById(location.hash.slice(1))?.closest(".fg-ledger");
  if (fold && !fold.open) {
    fold.open = true;
    document.getElementById(location.hash.slice(1)).scrollIntoView();
  }
};
addEventListener("load", unfold);
addEventListener("hashchange", unfold);
