// Exercises in the page: what fieldguide_try.py left there becomes what can be clicked.
// Each kind shows an answer, which it says to start with, and judges it: an empty text
// if it is right, else what is wrong. `act(answer, judged, note)` is the reader's move.
{
  const element = (tag, props = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), props);
    made.append(...children);
    return made;
  };
  const plain = (markup) => markup.replace(/<[^>]*>/g, "");
  const linesOf = (box) => box.querySelector("pre").innerHTML.trimEnd().split("\n");

  // One of several is clicked: an option or a line.
  const pick = (choices, right, act, why) => {
    for (const [k, choice] of choices.entries()) choice.onclick = () => act(k, true);
    return {
      start: -1,
      show: (answer) => choices.forEach((c, k) => (c.ariaPressed = k === answer)),
      judge: (answer) => (answer === right ? "" : why(answer)),
    };
  };

  const kinds = {
    choose(box, right, act) {
      const reasons = box.querySelectorAll("details ol > li");
      const choices = [...box.querySelector("ol").children].map((option) => {
        const words = option.querySelector("p") ?? option;
        const choice = element("button", { type: "button", innerHTML: words.innerHTML });
        option.replaceChildren(choice);
        return choice;
      });
      return pick(choices, right, act, (k) => (reasons[k].querySelector("p") ?? reasons[k]).innerHTML);
    },

    bug(box, right, act) {
      const choices = linesOf(box).map((line) => {
        return element("button", { type: "button", innerHTML: line });
      });
      box.querySelector("pre").replaceChildren(...choices);
      return pick(choices, right, act, () => "This line is as on the page.");
    },

    order(box, needs, act) {
      const parts = [];
      for (const line of linesOf(box)) {
        if (/^\s/.test(plain(line))) parts.push(`${parts.pop()}\n${line}`);
        else parts.push(line);
      }
      let order = [];
      const move = (k, by) => {
        const at = order.indexOf(k);
        const to = Math.min(Math.max(at + by, 0), parts.length - 1);
        const next = order.filter((other) => other !== k);
        next.splice(to, 0, k);
        act(next, false, `It is number ${to + 1} of ${parts.length} now.`);
      };
      const items = parts.map((markup, k) => {
        const code = element("pre", { innerHTML: markup });
        const buttons = [[-1, "↑", "Up: "], [1, "↓", "Down: "]].map(([by, sign, way]) => {
          const ariaLabel = way + code.textContent;
          const onclick = () => move(k, by);
          return element("button", { type: "button", textContent: sign, ariaLabel, onclick });
        });
        const item = element("li", {}, element("div", {}, ...buttons), code);
        item.onkeydown = (event) => {
          const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
          if (!by) return;
          event.preventDefault();
          move(k, by);
        };
        return item;
      });
      const list = element("ol");
      box.querySelector("pre").replaceWith(list);
      return {
        start: [...parts.keys()],
        show(answer) {
          const { activeElement } = document;
          order = answer;
          list.append(...answer.map((k) => items[k]));
          if (list.contains(activeElement)) activeElement.focus();
        },
        judge(answer) {
          for (const [place, k] of answer.entries()) {
            const [at, why] = needs[k].find(([j]) => answer.indexOf(j) > place) ?? [];
            if (!why) continue;
            const first = `number ${answer.indexOf(at) + 1}`;
            return `Number ${place + 1} comes too early: ${why.replace("{}", first)}.`;
          }
          return "";
        },
      };
    },

    mask(box, _, act) {
      const table = box.querySelector("details table").cloneNode(true);
      table.className = "";
      const rows = [...table.querySelectorAll("tbody tr")];
      const columns = [...table.querySelectorAll("thead th")].slice(1).map((c) => c.textContent);
      const want = [], squares = [], names = [];
      for (const row of rows) {
        const [name, ...cells] = row.children;
        names.push(name.textContent);
        name.replaceWith(element("th", { scope: "row", innerHTML: name.innerHTML }));
        for (const [j, cell] of cells.entries()) {
          want.push(cell.textContent.trim() ? 1 : 0);
          const ariaLabel = `row ${name.textContent}, column ${columns[j]}`;
          squares.push(element("button", { type: "button", ariaLabel }));
          cell.replaceChildren(squares.at(-1));
        }
      }
      const wide = columns.length;
      let now = [], paint;
      const set = (k, value) => {
        if (k >= 0 && now[k] !== value) act(now.with(k, value), false);
      };
      const stop = (k) => squares.forEach((square, j) => (square.tabIndex = j === k ? 0 : -1));
      stop(0);
      table.onpointerdown = (event) => {
        const k = squares.indexOf(event.target);
        if (k < 0) return;
        event.target.releasePointerCapture(event.pointerId); // a finger goes on to others
        set(k, (paint = 1 - now[k]));
      };
      table.onpointerover = (event) => {
        if (paint !== undefined) set(squares.indexOf(event.target), paint);
      };
      for (const end of ["pointerup", "pointercancel"]) {
        addEventListener(end, () => (paint = undefined));
      }
      table.onclick = (event) => {
        const k = squares.indexOf(event.target); // by key: a pointer has painted already
        if (!event.detail && k >= 0) set(k, 1 - now[k]);
      };
      table.addEventListener("focusin", (event) => stop(squares.indexOf(event.target)));
      table.onkeydown = (event) => {
        const k = squares.indexOf(event.target);
        const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
        if (!by[event.key]) return;
        event.preventDefault();
        const [down, right] = by[event.key];
        const [y, x] = [Math.floor(k / wide) + down, (k % wide) + right];
        if (y >= 0 && x >= 0 && x < wide) squares[y * wide + x]?.focus();
      };
      box.querySelector("details").before(table);
      return {
        start: want.map(() => 0),
        show(answer) {
          now = answer;
          for (const [k, square] of squares.entries()) {
            square.ariaPressed = answer[k] === 1;
            square.textContent = answer[k] ? "●" : "";
          }
        },
        judge(answer) {
          const wrong = want.flatMap((value, k) => (value === answer[k] ? [] : [k]));
          if (!wrong.length) return "";
          const turned = want.map((_, k) => want[(k % wide) * wide + Math.floor(k / wide)]);
          if (turned.every((value, k) => value === answer[k])) {
            return "You have swapped rows and columns.";
          }
          const row = names[Math.floor(wrong[0] / wide)];
          const count = wrong.length > 1 ? `${wrong.length} squares are` : "One square is";
          return `${count} not right; the first such row is “${row}”.`;
        },
      };
    },
  };

  for (const box of document.querySelectorAll(".fg-try")) {
    const { id, dataset, textContent } = box;
    const details = box.querySelector("details");
    const status = element("p", { role: "status" });
    const kept = () => fgKept("fg-try") ?? {};
    const keep = (mine) => fgKeep("fg-try", { ...kept(), [id]: mine });

    const draw = (answer, judged, note = "") => {
      kind.show(answer);
      const wrong = judged && kind.judge(answer);
      box.dataset.state = !judged ? "" : wrong ? "wrong" : "right";
      const told = wrong ? `<strong>✗ ${no}</strong> ${wrong}` : "<strong>✓ Right.</strong>";
      status.innerHTML = judged ? told : note;
      if (judged && !wrong) details.open = true;
    };
    const act = (answer, judged, note) => {
      draw(answer, judged, note);
      keep({ answer, judged, of: textContent.length }); // another text has other answers
      again.hidden = false;
    };
    const kind = kinds[dataset.try](box, JSON.parse(dataset.knows), act);
    const check = fgButton("Check");
    const again = fgButton("Start again");
    check.onclick = () => act(answerNow(), true);
    again.onclick = () => {
      draw(kind.start, false);
      keep();
      details.open = false;
    };
    const answerNow = () => kept()[id]?.answer ?? kind.start;
    const built = Array.isArray(kind.start); // step by step; what is picked is judged at once
    const no = built ? "Not yet." : "No.";
    const before = kept()[id];
    again.hidden = before?.of !== textContent.length;
    if (again.hidden) draw(kind.start, false);
    else draw(before.answer, before.judged);
    if (built) details.before(check);
    details.before(again, status);
  }
}
