"""Text to the ids that a model expects, and back."""

from collections.abc import Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from fieldguide.check import require
from fieldguide.data.gguf import Gguf


class Tokenizer:
    """Text to token ids and back, from the vocabulary and merges in a GGUF file.

    Byte-pair encoding over UTF-8 bytes, each digit apart: what llama.cpp does for
    the kind "smollm". Raises DataError for a vocabulary of another kind.
    """

    def __init__(self, gguf: Gguf):
        keys = ["model", "pre", "tokens", "token_type", "merges"]
        found = [gguf.metadata.get(f"tokenizer.ggml.{key}") for key in keys]
        model, pre, tokens, types, merges = found
        if (model, pre) != ("gpt2", "smollm") or not (tokens and types and merges):
            problem = f"has a tokenizer of kind {model!r}, {pre!r}"
            raise gguf.error(f"{problem}; what is read: 'gpt2', 'smollm'")
        vocab = {token: number for number, token in enumerate(tokens)}
        pairs = [tuple(merge.split(" ")) for merge in merges]
        self._bpe = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs))
        digits = pre_tokenizers.Digits(individual_digits=True)
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, to_bytes])
        self._bpe.decoder = decoders.ByteLevel()
        for token, kind in zip(tokens, types, strict=True):
            if kind == 3:  # a control token: never split, never merged
                special = tokenizers.AddedToken(token, normalized=False)
                self._bpe.add_special_tokens([special])

    def __len__(self) -> int:
        return self._bpe.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; `decode` gives `text` back.

        A special token written out, "<|im_start|>", becomes its one id. Raises
        ValueError for what no token spells: lone surrogates, a few control
        characters.
        """
        ok = isinstance(text, str) and text.encode(errors="ignore").decode() == text
        ids = self._bpe.encode(text).ids if ok else []
        ok = ok and self.decode(ids) == text
        require(ok, "text", text, "a string whose every byte has a token")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included; half a character shows as �."""
        array = np.asarray(ids)
        whole = array.size == 0 or array.dtype.kind in "iu"
        ok = array.ndim == 1 and whole and all((array >= 0) & (array < len(self)))
        require(ok, "ids", ids, f"whole numbers from 0 to {len(self) - 1}")
        return self._bpe.decode(array.tolist(), skip_special_tokens=False)

    def pieces(self, text: str) -> list[str]:
        """The tokens of `text`, to be read: spaces as "␣", lone bytes as "<F0 9F>"."""
        return [self._piece(number) for number in self.encode(text)]

    def _piece(self, number: int) -> str:
        token = self._bpe.id_to_token(number)
        if not all(char in BYTE_OF for char in token):
            return token
        piece = bytes(BYTE_OF[char] for char in token)
        try:
            text = piece.decode()
        except UnicodeDecodeError:
            return f"<{piece.hex(' ').upper()}>"
        return text.replace(" ", "␣").replace("\n", "\\n").replace("\t", "\\t")


# Each byte has a visible stand-in in the vocabulary: itself if it prints, else one
# of the letters from Ā on, in order (GPT-2, encoder.py).
PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PLAIN]
BYTE_OF = {chr(byte): byte for byte in PLAIN}
BYTE_OF |= {chr(256 + place): byte for place, byte in enumerate(OTHERS)}
