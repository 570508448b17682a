// Search: one entry a page, by title first, then by headings, summary and text. It
// reads Sphinx's index, `stopwords` and `Stemmer`, and fetches nothing.
const ASKING =
  "about an can did do does from get had has have how i it's its me my our should so than us we what when where which who why would you your";

const Search = {
  setIndex({ docnames, titles, alltitles, indexentries, terms, titleterms }) {
    const asked = new URLSearchParams(location.search).get("q") ?? "";
    for (const field of document.querySelectorAll("input[name=q]")) field.value = asked;
    if (!asked.trim()) return;
    // {page: [name, summary]}, in the order of the book.
    const pages = JSON.parse(document.getElementById("fg-pages").textContent);
    const stemmer = new Stemmer();
    const stem = (word) => stemmer.stemWord(word.toLowerCase());
    const split = (text) => text.match(/[\p{L}\p{N}_]+/gu) ?? [];
    const idle = new Set([...stopwords, ...ASKING.split(" ")]);
    const all = split(asked.replaceAll("’", "'").replace(/n't\b|'\w+/g, ""));
    const telling = all.filter((word) => !idle.has(word.toLowerCase()));
    const stems = [...new Set((telling.length ? telling : all).map(stem))];
    const known = [...new Set([...Object.keys(terms), ...Object.keys(titleterms)])];
    const listed = (index, term) => (Object.hasOwn(index, term) ? [index[term]].flat() : []);
    // The words of the index that a word stands for: itself, or what it begins.
    const meant = stems.map((word) => {
      const same = known.filter((term) => term === word);
      return new Set(same.length ? same : known.filter((term) => term.startsWith(word)));
    });
    const hits = (text) => {
      const there = split(text).map(stem);
      return meant.map((set) => there.some((term) => set.has(term)));
    };

    const found = docnames.map(() => meant.map(() => 0)); // what a word is worth on a page
    const raise = (doc, w, worth) => (found[doc][w] = Math.max(found[doc][w], worth));
    const credit = (doc, hit, worth) => {
      const all = hit.length > 1 && hit.every(Boolean) ? 3 : 1; // they stand together
      hit.forEach((yes, w) => yes && raise(doc, w, worth * all));
    };
    const parts = docnames.map(() => null); // the heading or term that says most
    meant.forEach((set, w) => {
      for (const term of set)
        for (const doc of [...listed(terms, term), ...listed(titleterms, term)]) raise(doc, w, 1);
    });
    docnames.forEach((page, doc) => {
      const [name, summary] = pages[page] ?? ["", ""];
      credit(doc, hits(summary), 4);
      credit(doc, hits(`${name} ${titles[doc]}`), 20);
    });
    for (const [heading, places] of [...Object.entries(alltitles), ...Object.entries(indexentries)]) {
      const hit = hits(heading);
      const share = hit.filter(Boolean).length / split(heading).length;
      if (!share) continue;
      for (const [doc, anchor] of places) {
        credit(doc, hit, 6);
        const worth = hit.filter(Boolean).length + share;
        if (anchor && !(parts[doc]?.worth >= worth)) parts[doc] = { worth, anchor, heading };
      }
    }
    // A rare word tells more than one of every page.
    const rare = meant.map((_, w) => Math.log(1 + docnames.length / (1 + found.filter((of) => of[w]).length)));
    const order = Object.keys(pages);
    const entries = docnames.map((page, doc) => ({
      page,
      doc,
      words: found[doc].filter(Boolean).length,
      score: found[doc].reduce((sum, worth, w) => sum + worth * rare[w], 0),
    }));
    const most = Math.max(1, ...entries.map(({ words }) => words));
    const shown = entries.filter(({ words }) => words === most);
    shown.sort((a, b) => b.score - a.score || order.indexOf(a.page) - order.indexOf(b.page));

    const make = (tag, facts, ...children) => {
      const node = Object.assign(document.createElement(tag), facts);
      node.append(...children);
      return node;
    };
    const marked = (text) =>
      text.split(/([\p{L}\p{N}_]+)/u).map((piece, k) =>
        k % 2 && meant.some((set) => set.has(stem(piece))) ? make("mark", {}, piece) : piece);
    const plain = (markup) => make("div", { innerHTML: markup }).textContent.trim();
    const entry = ({ page, doc }) => {
      const [name, summary] = pages[page] ?? ["", ""];
      const title = plain(titles[doc]);
      const full = title.includes(name) ? title : `${name}: ${title}`;
      const href = page + DOCUMENTATION_OPTIONS.LINK_SUFFIX;
      const node = make("li", {}, make("a", { href }, full), make("p", {}, ...marked(summary)));
      const part = parts[doc];
      if (part) {
        const words = plain(part.heading).replace(/^\((.*)\)$/, "$1");
        node.append(make("p", {}, "In it: ", make("a", { href: `${href}#${part.anchor}` }, words)));
      }
      return node;
    };
    const count = shown.length === 1 ? "1 page" : `${shown.length} pages`;
    const said = shown.length ? `${count} for “${asked}”` : `Nothing found for “${asked}”. Another word?`;
    const results = document.getElementById("search-results");
    results.replaceChildren(make("p", { role: "status" }, said), make("ul", { className: "fg-found-pages" }, ...shown.map(entry)));
  },
};
