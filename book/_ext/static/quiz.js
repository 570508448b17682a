// A concept test: marks, a score, and the first score for a later comparison.
// Nothing leaves the browser.
addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector(".fg-concepts");
  if (!form) return;
  const questions = [...form.querySelectorAll("fieldset")];
  const chosen = (question) => question.querySelector("input:checked")?.value;
  const right = (question) => chosen(question) === question.dataset.right;
  const stored = () => {
    try {
      return JSON.parse(localStorage.getItem("fg-concepts"));
    } catch {
      return null; // a browser may forbid it
    }
  };
  const keep = (value) => {
    try {
      if (value) localStorage.setItem("fg-concepts", JSON.stringify(value));
      else localStorage.removeItem("fg-concepts");
    } catch {
      // the score is shown, not kept
    }
  };
  const button = (text, type) => {
    const made = document.createElement("button");
    Object.assign(made, { type, textContent: text, className: "fg-button" });
    return made;
  };
  const score = document.createElement("p");
  score.setAttribute("role", "status");
  const again = button("Clear my answers", "reset");
  form.append(button("Check my answers", "submit"), again, score);
  const before = () => {
    const first = stored();
    return first ? `Your first score was ${first.right} of ${questions.length} (${first.date}).` : "";
  };
  score.textContent = before();

  const mark = (question, checked) => {
    const state = !checked ? "" : !chosen(question) ? "open" : right(question) ? "right" : "wrong";
    question.dataset.state = state;
    question.querySelector("details").open = state === "right" || state === "wrong";
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    for (const question of questions) mark(question, true);
    const open = questions.filter((question) => !chosen(question)).length;
    const count = questions.filter(right).length;
    const left = open ? ` ${open} not answered yet.` : "";
    score.textContent = `${count} of ${questions.length} are right.${left} ${before()}`;
    if (!open && !stored()) keep({ right: count, date: new Date().toLocaleDateString() });
  });
  form.addEventListener("reset", () => {
    for (const question of questions) mark(question, false);
    score.textContent = before();
  });
});
