"""Turn token ids into text, one token at a time or a row together.

An entry of GPT-2's vocabulary stands for bytes, a character for each, so every token has a text of its own. Other
tokenizers (WordPiece's `##ing`, SentencePiece's `▁word`, `<0xE4>` for a byte, whole words) leave spaces to their
decoder, which may drop the first one: a token's text is the text that it has after another token, and the first token
of a row has the text that it has by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cutaway.errors import TokenizerError
from cutaway.text.display import show

if TYPE_CHECKING:
    import tokenizers

NEIGHBOUR = "a"  # an entry that every decoder leaves as it is
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def _byte_of_character() -> dict[str, int]:
    """Return the byte of each character in GPT-2's vocabulary: printable bytes are themselves, the others are moved."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(moved)}


BYTE_OF = _byte_of_character()


class Decoder:
    """The decoder of one tokenizer, with the texts of single tokens kept for later calls."""

    def __init__(self, backend: tokenizers.Tokenizer, vocabulary: Sequence[str]) -> None:
        """Take the decoder of a tokenizer and its entries by id; an id without one has ""."""
        self._vocabulary = vocabulary
        self._decoder = backend.decoder
        # Added tokens, such as `<|endoftext|>`, are plain text: outside the byte alphabet.
        self._added = frozenset(backend.get_added_tokens_decoder())
        steps = _step_names(self._decoder)
        self._is_bytes = steps == ["ByteLevel"] or (not steps and "ByteLevel" in _step_names(backend.pre_tokenizer))
        self._falls_back = "ByteFallback" in steps
        self._edge = -1 if "BPEDecoder" in steps else 0  # the token of a row whose space is dropped: the last or first
        self._strings: dict[int, str] = {}
        self._displays: dict[int, str] = {}

    def text(self, row: Sequence[int]) -> str:
        """Return the text of a row of ids; bytes that are not text become U+FFFD, an id without an entry `[id]`."""
        parts = []
        for known, run in groupby(row, self._has):
            ids = list(run)
            parts.append(self._known_text(ids) if known else "".join(map(self.string, ids)))
        return "".join(parts)

    def bytes(self, index: int) -> bytes:
        """Return the bytes of one token. Raises TokenizerError for an id without an entry."""
        if not self._has(index):
            raise TokenizerError(f"no token has id {index}: ids go from 0 to {len(self._vocabulary) - 1}")
        entry = self._vocabulary[index]
        if not self._is_bytes:
            return bytes([int(entry[3:5], 16)]) if self._is_byte(entry) else self._after_another(entry).encode()
        if index in self._added or not all(c in BYTE_OF for c in entry):
            return entry.encode()
        return bytes(BYTE_OF[c] for c in entry)

    def string(self, index: int) -> str:
        """Return one token as text, as it reads after another token; an id without an entry as `[id]`."""
        if (kept := self._strings.get(index)) is not None:
            return kept
        if not self._has(index):
            text = f"[{index}]"
        elif self._is_bytes:
            text = self.bytes(index).decode("utf-8", "replace")
        else:
            text = self._after_another(self._vocabulary[index])
        return self._strings.setdefault(index, text)

    def display(self, index: int) -> str:
        """Return one token as it is shown to a person; an id without an entry as `[id]`."""
        if (kept := self._displays.get(index)) is not None:
            return kept
        return self._displays.setdefault(index, show(self.bytes(index)) if self._has(index) else f"[{index}]")

    def strings(self, row: Sequence[int]) -> list[str]:
        """Return each token of a row as text."""
        return self._with_edge([self.string(i) for i in row], row, str)

    def labels(self, row: Sequence[int]) -> list[str]:
        """Return each token of a row as it is shown to a person."""
        return self._with_edge([self.display(i) for i in row], row, show)

    def _with_edge(self, texts: list[str], row: Sequence[int], written: Callable[[str], str]) -> list[str]:
        """Replace the text of the token at a row's edge, where the tokenizer's decoder drops its space."""
        edge = self._edge
        if row and not self._is_bytes and self._has(row[edge]) and not self._is_byte(self._vocabulary[row[edge]]):
            texts[edge] = written(self._decode([self._vocabulary[row[edge]]]))
        return texts

    def _known_text(self, row: Sequence[int]) -> str:
        if self._is_bytes:
            return b"".join(map(self.bytes, row)).decode("utf-8", "replace")
        return self._decode([self._vocabulary[i] for i in row])

    def _after_another(self, entry: str) -> str:
        """Return an entry as text beside another entry, whose text is then taken away."""
        if self._edge:
            return self._decode([entry, NEIGHBOUR]).removesuffix(NEIGHBOUR)
        return self._decode([NEIGHBOUR, entry]).removeprefix(NEIGHBOUR)

    def _has(self, index: int) -> bool:
        """Return whether an id has an entry. Raises TokenizerError for a negative one."""
        if index < 0:
            raise TokenizerError(f"no token has id {index}: ids go from 0 to {len(self._vocabulary) - 1}")
        return index < len(self._vocabulary) and self._vocabulary[index] != ""

    def _is_byte(self, entry: str) -> bool:
        """Return whether an entry is one byte of a character that the vocabulary lacks, such as `<0xE4>`."""
        return self._falls_back and BYTE.fullmatch(entry) is not None

    def _decode(self, entries: Sequence[str]) -> str:
        """Decode entries as the tokenizers library does; without a decoder, join them by spaces."""
        return " ".join(entries) if self._decoder is None else str(self._decoder.decode(list(entries)))


def _step_names(part: Any) -> list[str]:
    """Return the names of the steps of a decoder or pre-tokenizer, in order; an empty list for None."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    steps = state.get("decoders") or state.get("pretokenizers") or [state]
    return [step["type"] for step in steps]
