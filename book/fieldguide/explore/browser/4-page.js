// Where explorers live: stored in a page, or over a model in JupyterLab.

const owner = (element) => fg.figures.find((explorer) => explorer.element === element);

// Redraw when the width or the theme changes, and for paper, which is never dark.
const widths = new WeakMap();
const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const known = widths.get(target);
    widths.set(target, contentRect.width);
    if (known !== undefined && known !== contentRect.width) owner(target)?.repaint();
  }
});
const redraw = () => fg.figures.forEach((explorer) => explorer.repaint());
matchMedia("print").addEventListener("change", redraw);
addEventListener("beforeprint", () => fg.figures.forEach((e) => e.draws || e.update()));
const themed = new MutationObserver(redraw);
const THEMES = { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light"] };
themed.observe(document.documentElement, THEMES);
if (document.body) themed.observe(document.body, THEMES);

// A stored figure is built at once, so that the page does not jump, and drawn when it
// comes near the view. A picture of the whole page shows the still of one that is not
// drawn yet. Paper waits for nothing, so that its start is unpacked for paper as soon
// as there is time.
const AHEAD = 300; // pixels below the view
const idle = self.requestIdleCallback ?? setTimeout;
const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      owner(target)?.update();
    }
  },
  { rootMargin: `${AHEAD}px` },
);

function wake(element) {
  if (owner(element)) return;
  if (element === document.querySelector("[data-fg-explore]")) element.classList.add("fg-hero");
  const same = document.querySelectorAll(`[id="${element.id}"]`);
  if (same.length > 1) element.id += `-${[...same].indexOf(element) + 1}`;
  const spec = JSON.parse(element.querySelector(".fg-spec").textContent);
  const chunks = element.querySelectorAll("[data-fg-chunk]");
  const own = [...element.querySelectorAll("[data-fg-drawing]")];
  const drawings = Object.fromEntries(own.map((node) => [node.dataset.fgDrawing, node.textContent]));
  const explorer = new Explorer(element, spec, (number) => base64(chunks[number].textContent), drawings);
  if (explorer.restore()) addEventListener("load", () => element.scrollIntoView());
  // The observer answers a frame late, so the first figures do not ask it.
  if (element.getBoundingClientRect().top < innerHeight + AHEAD) explorer.update();
  else {
    near.observe(element);
    addEventListener("load", () => idle(() => explorer.fields.load(explorer.params)));
  }
  resized.observe(element);
}

// Links in the text move figures. On the site each has the whole address, [control,
// key] by [control, key]; in JupyterLab it is read as it was written, by the rules of
// book/_ext/fieldguide_prose.py.
const settings = (link) =>
  [...new URLSearchParams(link.hash.slice(1))].slice(1).map(([name, key]) => [name, JSON.parse(key)]);

function whole(link, page) {
  const [, name, said] = link.hash.match(/^#fig:(?:(\w+)\?)?(.*)/) ?? [];
  if (!said) return link.hash;
  const wanted = [...new URLSearchParams(said)];
  const control = ({ spec }, name) => spec.controls.find((c) => c.name === name);
  const before = (a, b) => b.compareDocumentPosition(a) & Node.DOCUMENT_POSITION_PRECEDING;
  const fit = fg.figures
    .filter((e) => page.contains(e.element) && (!name || e.spec.id === `fg-${name}`) && wanted.every(([c]) => control(e, c)))
    .sort((a, b) => (before(a.element, b.element) ? -1 : 1));
  const explorer = fit.findLast((e) => before(e.element, link)) ?? fit[0];
  if (!explorer) return "";
  const state = wanted.map(([c, said]) => {
    const { keys, labels } = control(explorer, c);
    const key = keys.find((key, i) => [labels[i], String(key)].includes(said) || Number(said) === key);
    return [c, JSON.stringify(key ?? said)];
  });
  return `#${new URLSearchParams([["fg", explorer.element.id], ...state])}`;
}

// How much of an element's height the window shows.
const inSight = (element) => {
  const { top, bottom, height } = element.getBoundingClientRect();
  return (Math.min(bottom, innerHeight) - Math.max(top, 0)) / Math.min(height, innerHeight);
};

function goTo(hash, link, page = document) {
  const explorer = fg.figures.find((e) => page.contains(e.element) && e.restore(hash));
  if (!explorer) return false;
  const names = new URLSearchParams(hash.slice(1));
  explorer.move(explorer.params).then(() => {
    const named = explorer.spec.controls.filter((c) => names.has(c.name));
    explorer.sayViews(named.map((c) => `${c.label}: ${c.labels[c.keys.indexOf(explorer.params[c.name])]}`));
    if (link) fg.pressed?.(explorer); // the site may keep its drawing beside the text
    if (inSight(explorer.stage) > 0.6) return;
    explorer.element.scrollIntoView();
    explorer.back?.remove();
    if (!link) return;
    explorer.back = explorer.button("back", "Back to the text", () => {
      explorer.back.remove();
      link.scrollIntoView({ block: "center" });
      link.focus({ preventScroll: true });
    });
    explorer.element.querySelector(".fg-buttons").append(explorer.back);
  });
  return true;
}
addEventListener("hashchange", () => goTo(location.hash));

// JupyterLab takes a link for one to a file, and has every open notebook in one page.
addEventListener(
  "click",
  (event) => {
    const link = event.target.closest?.("a[href^='#fg='],.jp-NotebookPanel a[href*='#fig:']:not([href*='ipynb#'])");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const lab = link.closest(".jp-NotebookPanel");
    const hash = whole(link, lab);
    if (!hash || !goTo(hash, link, lab ?? document)) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // also to this script in another notebook
    if (!lab) history.pushState(null, "", hash);
  },
  true,
);

addEventListener("load", () => fg.figures.forEach((explorer) => explorer.showParams()));

// Figures that came before this script wait in a queue; later ones wake at once.
const queue = self.fgQueue ?? [];
self.fgQueue = { push: wake };
if (Array.isArray(queue)) queue.forEach(wake);

fg.anywidget = {
  render({ model, el }) {
    const spec = model.get("spec");
    const names = spec.controls.map((control) => control.name);
    const caption = html("figcaption", {}, html("strong", {}, spec.title), html("span", {}, spec.look));
    const figure = html("figure", { class: "fg", id: spec.id }, caption);
    el.append(figure);
    const bytes = (number) => {
      const { buffer, byteOffset, byteLength } = model.get("chunks")[number];
      return new Uint8Array(buffer, byteOffset, byteLength);
    };
    const kernel = {
      set(params) {
        model.set(params);
        model.save_changes();
      },
    };
    const explorer = new Explorer(figure, spec, bytes, model.get("drawings"), kernel);
    const follow = () => {
      for (const name of names) explorer.params[name] = model.get(name);
      explorer.update();
    };
    const answer = ({ params, views, error }) => {
      if (!names.every((name) => params[name] === explorer.params[name])) return; // an older one
      if (views) {
        for (const [title, view] of Object.entries(views)) view.title = title;
        explorer.paint(views);
      } else {
        figure.removeAttribute("aria-busy");
        explorer.say(error);
      }
    };
    for (const name of names) model.on(`change:${name}`, follow);
    model.on("msg:custom", answer);
    follow();
    resized.observe(figure);
    return () => {
      for (const name of names) model.off(`change:${name}`, follow);
      model.off("msg:custom", answer);
      fg.figures.splice(fg.figures.indexOf(explorer), 1);
    };
  },
};
