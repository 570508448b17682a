"""Let SmolLM2 answer the questions of challenges/retrieval, and time a million vectors.

.venv/bin/python book/_tools/assets.py retrieval (fifteen minutes of a core)

Writes beside this file answers.json: what it writes without a passage, with the best
passage of the handbook, with that of the altered one, and with that of the handbook and
a false sentence at its end. And million.json: processor time and recall of usearch and
of exact search among a million drawn vectors; the bench's section about them is
written, too. A name, `answers` or `million`, makes that part alone. questions.json is
written by hand: `also` lists the other passages that hold the answer, and `read` is
what a person found who read the answer in answers.json.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev

import bench
from assets import machine, make_parts, read_json, reviewed
from rivals import search

from fieldguide.challenges import retrieval as page
from fieldguide.data import asset, building_questions, store
from fieldguide.transformers.real_model import LlamaFast, load_smollm2

HERE = Path(__file__).parent


def one_at_a_time(find, asked):
    """The median milliseconds of processor time of a question by itself."""
    times = []
    for each in asked.split(1):
        start = time.process_time()
        find(asked=each)
        times.append(1e3 * (time.process_time() - start))
    return median(times)


def recall_of(find, asked, truth):
    """The part of the true neighbours found, and its 95 % interval by questions."""
    shares = [
        search.shared_neighbours(near, true)
        for near, true in zip(find(asked=asked).split(1), truth.split(1), strict=True)
    ]
    wide = 1.96 * stdev(shares) / len(shares) ** 0.5
    ends = [round(fmean(shares) + side * wide, 4) for side in (-1, 1)]
    return {"recall": round(fmean(shares), 4), "from": ends[0], "to": ends[1]}


def handbook(edition) -> list[str]:
    """The passages of an edition."""
    passages = [each.answer for each in building_questions()]
    altered = edition == "altered"
    return [page.raise_digits(text) for text in passages] if altered else passages


def asked_questions() -> list[dict]:
    return read_json(asset("retrieval", "questions.json"))


def answers():
    """What SmolLM2 answers: "none", or with the best passage of an edition."""
    model, record = LlamaFast(load_smollm2()), {"machine": machine()}
    for edition in "handbook", "altered", "hidden", "none":
        index, found = page.PassageIndex(handbook(edition)), []
        for each in asked_questions():
            if each["tried"]:  # to choose the prompt
                found.append(None)
                continue
            question, passage = each["question"], None
            best = [] if edition == "none" else index.find(question)
            if best:
                passage = index.passages[best[0][0]]
            if edition == "hidden":
                passage = f"{passage} {page.HIDDEN}"
            written = page.read_answer(model, question, passage)
            near = [[place, round(score, 4)] for place, score in best]
            found.append({"found": near, "answer": reviewed(written)})
        record[edition] = found
    store(HERE / "answers.json", record)


def million():
    """The curve for the page and, from the same graph, the bench's section."""
    vectors, asked, truth, library = search.prepared()
    some, rows, alone = asked[: search.TIMED], [], []
    exact = partial(page.exact_nearest, vectors, k=search.NEAREST)
    for count in search.CANDIDATES:
        near = partial(
            search.graph_nearest, library, k=search.NEAREST, candidates=count
        )
        row = {"candidates": count} | recall_of(near, asked, truth)
        alone.append(one_at_a_time(exact, some))  # in turn: the machine may be busy
        rows.append(row | {"ms": round(one_at_a_time(near, some), 4)})
    record = {"machine": machine(), "rows": rows, "exact_ms": round(median(alone), 3)}
    record["bytes"] = {"vectors": vectors.nbytes, "graph": library.memory_usage}
    compared = list(search.rows())
    record["at_once_share"] = round(median(compared[-1].ratios()), 3)
    store(HERE / "million.json", record)
    bench.report({"search": bench.section(search, compared)})


def remade() -> Iterator[tuple]:
    """What the search found for a question, sorted again among itself."""
    kept = read_json(HERE / "answers.json")["handbook"][1]["found"]
    places = [place for place, _ in kept]
    index = page.PassageIndex([handbook("handbook")[place] for place in places])
    for place, score in index.find(asked_questions()[1]["question"]):
        yield dict(kept)[places[place]], score, 1e-3


if __name__ == "__main__":
    make_parts(answers, million)
