// The page on other media.

// Paper is never dark.
const paper = matchMedia("print");
let theme;
paper.addEventListener("change", () => {
  const { dataset } = document.documentElement;
  if (paper.matches) theme = dataset.theme;
  dataset.theme = paper.matches ? "light" : theme;
});

// On a phone, a wrapped line of code goes on below its indentation.
addEventListener("DOMContentLoaded", () => {
  const phone = matchMedia("(max-width: 600px)");
  const dress = () => {
    for (const code of document.querySelectorAll(".cell_input pre")) {
      code.innerHTML = code.innerHTML.replace(/.*\n/g, (line) => {
        const indent = Math.max(line.replace(/<[^>]*>/g, "").search(/\S/), 0);
        return `<span class="fg-line" style="--indent:${indent + 2}ch">${line}</span>`;
      });
    }
  };
  if (phone.matches) dress();
  else phone.addEventListener("change", dress, { once: true });
});
