"""A page takes one sitting, by the formula of `minutes.py`."""

import re

import minutes
import pytest
import sources
from nbformat import v4

BOOK = sources.in_order()
# Pages that are longer: each may only become shorter.
LONGER = {
    "introduction/next-word": 61,
    "transformers/attention": 57,
    "transformers/tokens": 55,
    "transformers/gpt": 62,
    "transformers/training": 57,
    "transformers/real-model": 60,
    "transformers/induction": 57,
    "scaling/laws": 61,
    "scaling/compute-optimal": 55,
    "scaling/data-quality": 56,
    "scaling/grokking": 54,
    "scaling/emergence": 60,
    "multimodal/contrastive": 88,
    "multimodal/clip": 132,
    "multimodal/text-to-image": 94,
    "multimodal/image-to-text": 125,
    "multimodal/sound-video": 100,
    "efficiency/experts": 101,
    "efficiency/quantization": 110,
    "efficiency/lora": 113,
    "efficiency/architectures": 132,
    "deployment/evaluation": 68,
    "deployment/cache": 62,
    "deployment/serving": 61,
    "deployment/speculative": 62,
    "deployment/data-parallel": 52,
    "deployment/parallelism": 65,
    "challenges/hallucination": 55,
    "challenges/retrieval": 67,
    "challenges/preferences": 66,
    "challenges/constitution": 56,
    "challenges/cost": 55,
    "challenges/robustness": 62,
}


@pytest.mark.parametrize("name", BOOK)
def test_a_page_takes_one_sitting(name):
    prose, lines = minutes.size(BOOK[name])
    took, most = minutes.minutes(BOOK[name]), LONGER.get(name, minutes.MOST)
    said = f"{name} takes {took} minutes: {prose} words and {lines} lines in view"
    assert took <= most, f"{said}; at most {most}"
    assert name not in LONGER or took > minutes.MOST, f"{said}: take it off LONGER"


@pytest.mark.parametrize("name", BOOK)
def test_a_page_says_how_long_it_takes(name):
    text = "\n".join(cell.source for cell in BOOK[name].cells)
    said = re.search(r"^\*Takes:\* (\d+) minutes", text, re.M)
    took = minutes.minutes(BOOK[name])
    assert said and int(said[1]) == took, f"{name}: write `*Takes:* {took} minutes`"


def test_a_minute_is_75_words_or_eight_lines():
    lines = "\n".join(f"a{n} = {n}" for n in range(36))
    cells = v4.new_markdown_cell("word " * 520), v4.new_code_cell(lines)
    assert minutes.minutes(v4.new_notebook(cells=list(cells))) == 11
