// What a reader answers stays in the reader's own browser.
const fgKept = (name) => {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null; // a browser may forbid it
  }
};
const fgKeep = (name, value) => {
  try {
    if (value) localStorage.setItem(name, JSON.stringify(value));
    else localStorage.removeItem(name);
  } catch {
    // the answer is shown, not kept
  }
};
const fgButton = (text, type = "button") => {
  const made = document.createElement("button");
  return Object.assign(made, { type, textContent: text, className: "fg-button" });
};

// A concept test: marks, a score, and the first score for a later comparison.
addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector(".fg-concepts");
  if (!form) return;
  const questions = [...form.querySelectorAll("fieldset")];
  const chosen = (question) => question.querySelector("input:checked")?.value;
  const right = (question) => chosen(question) === question.dataset.right;
  const stored = () => fgKept("fg-concepts");
  const score = document.createElement("p");
  score.setAttribute("role", "status");
  const again = fgButton("Clear my answers", "reset");
  form.append(fgButton("Check my answers", "submit"), again, score);
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
    if (!open && !stored()) fgKeep("fg-concepts", { right: count, date: new Date().toLocaleDateString() });
  });
  form.addEventListener("reset", () => {
    for (const question of questions) mark(question, false);
    score.textContent = before();
  });
});
