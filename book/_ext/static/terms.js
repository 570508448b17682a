// A term's definition, beside the word: under the mouse, with the keyboard's focus, at
// the first tap. A click, a second tap or Enter goes on to the glossary.
addEventListener("DOMContentLoaded", () => {
  const hints = [...document.querySelectorAll(".fg-hint")];
  document.body.append(...hints); // where nothing cuts them off
  const term = (event) => event.target.closest?.("a.fg-term");
  const hintOf = (link) => document.getElementById(link.getAttribute("aria-describedby"));
  let shown, timer, tapped;

  const hide = () => {
    clearTimeout(timer);
    if (shown) shown.hidden = true;
    shown = undefined;
  };
  const show = (link, x) => {
    hide();
    shown = hintOf(link);
    shown.hidden = false;
    // A word may be broken over two lines: beside the part that is pointed at.
    const parts = [...link.getClientRects()];
    const part = parts.find((p) => x >= p.left && x <= p.right) ?? parts[0];
    const { clientWidth: wide, clientHeight: tall } = document.documentElement;
    const { width, height } = shown.getBoundingClientRect();
    const left = Math.max(8, Math.min(part.left, wide - width - 8));
    const above = part.bottom + height > tall && part.top > height;
    const top = above ? part.top - height - 2 : part.bottom + 2;
    shown.style.left = `${left + scrollX}px`;
    shown.style.top = `${top + scrollY}px`;
  };

  const leave = () => {
    const focused = document.querySelector("a.fg-term:focus-visible");
    if (!focused || hintOf(focused) !== shown) hide();
  };

  addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const link = term(event);
    clearTimeout(timer);
    if (link && hintOf(link) !== shown) timer = setTimeout(show, 100, link, event.clientX);
    else if (!link && shown && !shown.contains(event.target)) timer = setTimeout(leave, 200);
  });
  addEventListener("pointerdown", (event) => {
    const link = term(event);
    tapped = event.pointerType !== "mouse" && link && hintOf(link) !== shown && link;
    if (!link && !shown?.contains(event.target)) hide();
  });
  addEventListener("click", (event) => {
    if (!tapped || term(event) !== tapped) return;
    event.preventDefault();
    show(tapped, event.clientX);
    tapped = undefined;
  });
  addEventListener("focusin", (event) => {
    const link = term(event);
    if (link?.matches(":focus-visible")) show(link);
  });
  addEventListener("focusout", (event) => term(event) && hide());
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
});
