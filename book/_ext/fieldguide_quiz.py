"""A concept test in the page, from a list of questions.

    ```{quiz} FILE     beside the page, in YAML: a list of questions, each with
                       page, asks, options, right (counted from 1) and why

Without a script the options stand there with their answers folded. `quiz.js` adds
marks, a score, and the memory of the first score, which stays in the browser.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FIELDS = {"page", "asks", "options", "right", "why"}


def read_quiz(path: Path) -> tuple[list[dict], list[str]]:
    """The questions, and a sentence for each fault in them."""
    questions, faults = yaml.safe_load(path.read_text("utf8")), []
    for number, question in enumerate(questions, 1):
        if question.keys() != FIELDS:
            faults.append(f"question {number} needs {sorted(FIELDS)}")
        elif question["right"] not in range(1, len(question["options"]) + 1):
            count = len(question["options"])
            faults.append(f"question {number}: right is one of 1 to {count}")
    return questions, faults


class Quiz(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.doc2path(self.env.docname)).with_name(self.arguments[0])
        self.env.note_dependency(str(path))
        questions, faults = read_quiz(path)
        if faults:
            raise self.error(f"{path.name}: {'; '.join(faults)}")
        made: list[nodes.Node] = [html('<form class="fg-concepts">')]
        for number, question in enumerate(questions, 1):
            made += self.question(number, question)
        return [*made, html("</form>")]

    def question(self, number: int, question: dict) -> list[nodes.Node]:
        right, page = question["right"], question["page"]
        start = f'<fieldset data-right="{right}"><legend>{number}. '
        made = [html(start), self.inline(question["asks"]), html("</legend>")]
        for place, option in enumerate(question["options"], 1):
            box = f'<input type="radio" name="question-{number}" value="{place}">'
            made += [html(f"<label>{box} "), self.inline(option), html("</label>")]
        text = f"**{question['options'][right - 1]}** {question['why']} "
        text += f"[Read it again]({page}.ipynb)."
        made += [html("<details><summary>Answer</summary>"), self.inline(text)]
        return [*made, html("</details></fieldset>")]

    def inline(self, markdown: str) -> nodes.inline:
        found, _ = self.state.inline_text(str(markdown), self.lineno)
        return nodes.inline("", "", *found)


def html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def setup(app: Sphinx) -> dict:
    app.add_directive("quiz", Quiz)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
