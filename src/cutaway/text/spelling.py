"""How a tokenizer spells: from the entries of its vocabulary to text.

GPT-2's entries spell bytes, each with a character of its own, so every token has a text whatever stands beside it.
Other tokenizers (WordPiece's `##ing`, SentencePiece's `▁word`, `<0xE4>` for a byte, whole words) leave the spaces to
their decoder, which may drop the first: a token is spelled as it reads after another, and the first one on its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

BEFORE = "a"  # an entry that every decoder spells as it is
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def _byte_of_character() -> dict[str, int]:
    """Return the characters that stand for bytes in GPT-2's vocabulary: printable ones themselves, the rest moved."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(moved)}


BYTE_OF = _byte_of_character()


class Spelling:
    """The text of entries, as one tokenizer's decoder has it."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._decoder = backend.decoder
        # Added tokens, such as `<|endoftext|>`, are plain text: outside the byte alphabet.
        self._added = frozenset(backend.get_added_tokens_decoder())
        kinds = _kinds(self._decoder)
        self.is_bytes = kinds == ["ByteLevel"] or (not kinds and "ByteLevel" in _kinds(backend.pre_tokenizer))
        self._falls_back = "ByteFallback" in kinds
        self.edge = -1 if "BPEDecoder" in kinds else 0  # the token of a row that lacks its space: the last, the first
        self.has_edge = not self.is_bytes

    def text(self, entries: Sequence[str], ids: Sequence[int]) -> str:
        """Return the text of a row of entries; bytes that are no text read as U+FFFD."""
        if self.is_bytes:
            return b"".join(map(self.bytes, entries, ids)).decode("utf-8", "replace")
        return self._decode(entries)

    def string(self, entry: str, index: int) -> str:
        """Return an entry as text, as it reads in the middle of others."""
        if self.is_bytes:
            return self.bytes(entry, index).decode("utf-8", "replace")
        beside = self._decode([entry, BEFORE] if self.edge else [BEFORE, entry])
        if self.edge:
            return beside.removesuffix(BEFORE)
        return beside.removeprefix(BEFORE)

    def at_edge(self, entry: str) -> str:
        """Return an entry as text where it is the first or last of its row."""
        return self._decode([entry])

    def is_byte(self, entry: str) -> bool:
        """Return whether an entry is one byte of a character that the vocabulary lacks, such as `<0xE4>`."""
        return self._falls_back and BYTE.fullmatch(entry) is not None

    def bytes(self, entry: str, index: int) -> bytes:
        """Return the bytes that an entry stands for."""
        if not self.is_bytes:
            return bytes([int(entry[3:5], 16)]) if self.is_byte(entry) else self.string(entry, index).encode()
        if index in self._added or not all(c in BYTE_OF for c in entry):
            return entry.encode()
        return bytes(BYTE_OF[c] for c in entry)

    def _decode(self, entries: Sequence[str]) -> str:
        """Decode entries as the tokenizers library does; without a decoder, with spaces between."""
        return " ".join(entries) if self._decoder is None else str(self._decoder.decode(list(entries)))


def _kinds(part: Any) -> list[str]:
    """Return the names of a decoder's or pre-tokenizer's steps, in order; none where there is none."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    steps = state.get("decoders") or state.get("pretokenizers") or [state]
    return [step["type"] for step in steps]
