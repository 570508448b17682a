// On a wide screen a drawing above the window stays beside the sentences that move it,
// in the margin, where the page's contents are otherwise. Its place is kept; Escape or
// a button puts it back.
(() => {
  const wide = matchMedia("screen and (min-width:1280px)");
  const BEYOND = 400; // pixels that a drawing stays after its last sentence is gone
  let docked = null;

  const rail = () => document.querySelector(".bd-sidebar-secondary");
  const home = () => dock(null);
  const shut = () => {
    docked.shut = true;
    home();
  };

  function dock(explorer) {
    if (explorer === docked) return;
    const moved = [docked, explorer].filter(Boolean);
    const focused = document.activeElement;
    if (docked) {
      docked.slot.parentNode.style.gridTemplateColumns = "";
      docked.slot.replaceWith(docked.stage);
      docked.slot = null;
      document.querySelector(".fg-dock").remove();
    }
    docked = explorer;
    if (explorer) {
      const { spec, stage } = explorer;
      const body = stage.parentNode;
      const slot = (explorer.slot = document.createElement("div"));
      slot.style.height = `${stage.getBoundingClientRect().height}px`;
      body.style.gridTemplateColumns = getComputedStyle(body).gridTemplateColumns;
      stage.replaceWith(slot);
      const aside = document.createElement("aside");
      aside.className = "fg fg-dock";
      aside.dataset.fgReady = "";
      aside.ariaLabel = spec.title;
      const title = document.createElement("strong");
      title.textContent = spec.title;
      const head = document.createElement("figcaption");
      head.append(title, explorer.button("undock", "Put back", shut));
      aside.append(head, stage);
      rail().append(aside);
    }
    for (const each of moved) {
      each.repaint();
      if (each.stage.contains(focused)) focused.focus({ preventScroll: true });
    }
  }

  // Which figure is to stay: the one whose link was pressed, or one with a link in the
  // window; a little longer, the one that is there.
  function stay(asked = docked) {
    if (!wide.matches || !rail() || !self.fieldguide) return;
    const links = [...document.querySelectorAll("a[href^='#fg=']")].map((link) => [
      link.hash,
      link.getBoundingClientRect().top,
    ]);
    const near = (explorer, more = 0) =>
      explorer &&
      !explorer.shut &&
      (explorer.slot ?? explorer.stage).getBoundingClientRect().bottom < 0 &&
      links.some(
        ([hash, top]) =>
          hash.startsWith(`#fg=${explorer.element.id}&`) && top > -more && top < innerHeight + more,
      );
    const next = near(asked) ? asked : fieldguide.figures.findLast((e) => near(e));
    if (next && !next.draws) next.update();
    else dock(next ?? (near(docked, BEYOND) ? docked : null));
  }

  let due = 0;
  const later = () => (due ||= requestAnimationFrame(() => ((due = 0), stay())));
  addEventListener("scroll", later, { passive: true });
  addEventListener("resize", home);
  addEventListener("beforeprint", home);
  wide.addEventListener("change", home);
  addEventListener("keydown", ({ key }) => key === "Escape" && docked && shut());
  if (self.fieldguide)
    fieldguide.pressed = (explorer) => {
      explorer.shut = false;
      stay(explorer);
    };
})();
