"""Let SmolLM2 answer the questions of challenges/retrieval, and time a million vectors.

.venv/bin/python book/_tools/assets.py retrieval (eight minutes of two cores)

Writes beside this file answers.json: what it writes without a passage, with the best
passage of the handbook, with that of the altered one, and with that of the handbook and
a false sentence at its end. And million.json: processor time and recall of usearch and
of exact search among a million drawn vectors, and the recall among the 10,000 that the
page draws again; the bench's section about them is written, too. A name, `answers` or
`million`, makes that part alone. questions.json is written by hand: `also` lists the
other passages that hold the answer, and `read` is what a person found who read the
answer in answers.json.
"""

import json
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, stdev

import bench
import torch
from assets import machine, make_parts, read_json, reviewed
from rivals import search

from fieldguide.challenges import retrieval as page
from fieldguide.data import asset, building_questions, store
from fieldguide.transformers.real_model import LlamaFast, load_smollm2

HERE = Path(__file__).parent

NEAREST, FEW = search.NEAREST, 10_000
EDITIONS = ["handbook", "altered", "hidden", "none"]


def timed(action):
    """What it returns, and its milliseconds of processor time."""
    start = time.process_time()
    found = action()
    return found, 1e3 * (time.process_time() - start)


def one_at_a_time(find, asked):
    """The median milliseconds of processor time of a question by itself."""
    return median(timed(partial(find, asked=each))[1] for each in asked.split(1))


def recall_of(find, asked, truth):
    """The part of the true neighbours found, and its 95 % interval by questions."""
    shares = [
        search.shared_neighbours(near, true)
        for near, true in zip(find(asked=asked).split(1), truth.split(1), strict=True)
    ]
    wide = 1.96 * stdev(shares) / len(shares) ** 0.5
    ends = [round(fmean(shares) + side * wide, 4) for side in (-1, 1)]
    return {"recall": round(fmean(shares), 4), "from": ends[0], "to": ends[1]}


def among_a_few():
    """The same among 10,000 vectors, by the number of candidates."""
    drawn = search.clustered_vectors(
        FEW + search.TIMED, search.WIDTH, torch.Generator().manual_seed(0)
    )
    asked, vectors = drawn[: search.TIMED], drawn[search.TIMED :].contiguous()
    truth, library = (
        page.exact_nearest(vectors, asked, NEAREST),
        search.graph_index(vectors),
    )
    found = {}
    for count in search.CANDIDATES:
        near = search.graph_nearest(library, asked, NEAREST, count)
        found[count] = round(search.shared_neighbours(near, truth), 4)
    return {"count": FEW, "asked": search.TIMED, "recall": found}


def asked_questions():
    path = asset("retrieval", "questions.json")
    return json.loads(path.read_text(encoding="utf-8"))


def answer_with(edition):
    """What SmolLM2 answers: "none", or with the best passage of an edition."""
    torch.set_num_threads(1)
    model, found = LlamaFast(load_smollm2()), []
    passages = [each.answer for each in building_questions()]
    if edition == "altered":
        passages = [page.raise_digits(text) for text in passages]
    index = page.PassageIndex(passages) if edition != "none" else None
    for each in asked_questions():
        question = each["question"]
        if each["tried"]:  # to choose the prompt
            found.append(None)
            continue
        best = page.find_passages(index, question) if index else []
        passage = best[0].passage if best else None
        if edition == "hidden":
            passage = f"{passage} {page.HIDDEN}"
        written = page.read_answer(model, question, passage)
        near = [[each.place, round(each.score, 4)] for each in best]
        found.append({"found": near, "answer": reviewed(written)})
    print(edition, "answered", flush=True)
    return edition, found


def answers():
    with get_context("fork").Pool(2) as pool:
        found = pool.map(answer_with, EDITIONS, chunksize=1)
    record = {"machine": machine()}
    record |= dict(found)
    store(HERE / "answers.json", record)


def million():
    """The curve for the page and, from the same graph, the bench's section."""
    vectors, asked, truth, library, built_s = search.prepared()
    some, rows, alone = asked[: search.TIMED], [], []
    exact = partial(page.exact_nearest, vectors, k=NEAREST)
    for count in search.CANDIDATES:
        near = partial(search.graph_nearest, library, k=NEAREST, candidates=count)
        row = {"candidates": count} | recall_of(near, asked, truth)
        alone.append(one_at_a_time(exact, some))  # in turn: the machine may be busy
        rows.append(row | {"ms": round(one_at_a_time(near, some), 4)})
        print(rows[-1], alone[-1], flush=True)
    record = {"machine": machine()}
    record |= {"count": len(vectors), "width": vectors.size(1)}
    record |= {"asked": len(asked), "neighbours": truth.numel()}
    record |= {"built_s": round(built_s), "rows": rows}
    record |= {"exact_ms": round(median(alone), 3), "few": among_a_few()}
    record["bytes"] = {"vectors": vectors.nbytes, "graph": library.memory_usage}
    compared = list(search.rows())
    record["at_once_share"] = round(median(compared[-1].ratios()), 3)
    store(HERE / "million.json", record)
    bench.report({"search": bench.section(search, compared)})


def remade() -> Iterator[tuple]:
    """The recall among a few vectors, stored and found again."""
    kept = read_json(HERE / "million.json")["few"]
    again = {str(count): share for count, share in among_a_few()["recall"].items()}
    yield kept["recall"], again, 0.01


if __name__ == "__main__":
    make_parts(answers, million)
