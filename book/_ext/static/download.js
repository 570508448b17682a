// A source is downloaded. In a page from a file a browser would show it instead, and
// no page may read a file beside it: there a script hands it over.
self.fgSave = (name, text) => {
  const href = URL.createObjectURL(new Blob([text]));
  Object.assign(document.createElement("a"), { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
};
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href*='_sources/']");
  if (!link || location.protocol !== "file:") return;
  event.preventDefault();
  const script = Object.assign(document.createElement("script"), { src: `${link.href}.js` });
  script.onerror = () => location.assign(link.href);
  document.head.append(script);
});
