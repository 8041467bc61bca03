"""Text to tokens and back.

    tokenizer = Tokenizer.from_folder(folder)      tokenizer.json, or vocab.json + merges.txt
    tokens = tokenizer.tokens(["one text", "another"])     Tokens: .ids and .mask, right-padded
    tokens.strings, tokens.offsets, tokens.display         lists, one a text
    tokenizer.single(" Paris")                     the id of a text that is exactly one token
    tokenizer.decode(ids)                          text

Strings are data: they decode exactly as the model sees them. Display strings are for eyes only (a space is `·`, a
newline `↵`, a tab `⇥`, bytes that are no whole character `\\xe2`) and never go back into a model.

Byte-level BPE: Radford et al. 2019, section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import InputError, TokenizerError

if TYPE_CHECKING:
    import numpy as np
    import tokenizers
    from numpy.typing import NDArray
    from torch import Tensor

END_OF_TEXT = "<|endoftext|>"
AT_ONCE = 1 << 17  # characters whose tokens the tokenizers library holds at once, at some hundred bytes each


def _byte_of_character() -> dict[str, int]:
    """The 256 characters that stand for bytes in GPT-2's vocabulary: printable ones for themselves, the rest moved."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(moved)}


BYTE_OF = _byte_of_character()


def show(text: str | bytes) -> str:
    """Text for eyes only: white space, control characters and partial UTF-8 made visible."""
    text = text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")
    glyphs = {" ": "·", "\n": "↵", "\t": "⇥"}
    hidden = {c: c.encode("unicode_escape").decode() for c in set(text) if not c.isprintable()}
    return "".join(glyphs.get(c) or hidden.get(c, c) for c in text)


@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch of token ids, right-padded, and where they come from.

    `ids` and `mask` are integer tensors [batch, pos]; `mask` is 1 where a token is and 0 where padding is.
    """

    ids: Tensor
    mask: Tensor
    tokenizer: Tokenizer | None = field(default=None, repr=False)
    texts: tuple[str, ...] | None = field(default=None, repr=False)
    offsets: list[list[tuple[int, int]]] | None = field(default=None, repr=False)

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]], **about: Any) -> Tokens:
        """Rows of ids of any lengths -> one right-padded batch."""
        import torch

        width = max(map(len, rows), default=0)
        ids = torch.zeros(len(rows), width, dtype=torch.long, device="cpu")
        mask = torch.zeros(len(rows), width, dtype=torch.long, device="cpu")
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long, device="cpu")
            mask[i, : len(row)] = 1
        return cls(ids, mask, **about)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Tensor:
        """How many tokens each row has: [batch]."""
        return self.mask.sum(1)

    @property
    def positions(self) -> Tensor:
        """0, 1, 2, ... along each row, 0 at padding: [batch, pos]."""
        return (self.mask.cumsum(1) - 1).clamp(min=0) * self.mask

    def rows(self) -> list[list[int]]:
        """The ids as lists without padding."""
        return [row[:n] for row, n in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises TokenizerError where there is none."""
        if self.tokenizer is None:
            raise TokenizerError("these tokens are bare ids: the checkpoint they belong to has no tokenizer")
        return self.tokenizer

    @cached_property
    def strings(self) -> list[list[str]]:
        """Each token as text, leading spaces kept; bytes that are no whole character read as U+FFFD."""
        tokenizer = self.need_tokenizer()
        return [[tokenizer.string(i) for i in row] for row in self.rows()]

    @cached_property
    def display(self) -> list[list[str]]:
        """Each token as it is best shown to a person; not data."""
        tokenizer = self.need_tokenizer()
        return [[tokenizer.display(i) for i in row] for row in self.rows()]

    def first(self, n: int) -> Tokens:
        """At most the first n tokens of each row."""
        offsets = None if self.offsets is None else [row[:n] for row in self.offsets]
        return Tokens(self.ids[:, :n], self.mask[:, :n], self.tokenizer, self.texts, offsets)


class Tokenizer:
    """GPT-2's byte-level BPE, run by the tokenizers library."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        from tokenizers import processors

        # Offsets that keep a token's leading space, and no special tokens but those the caller asks for.
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._strings: dict[int, str] = {}  # as they are asked for: a lens asks for the same ones over and over
        self._displays: dict[int, str] = {}

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer | None:
        """The tokenizer in a checkpoint's folder, or None where it has none.

        Raises TokenizerError for files that are there but cannot be read.
        """
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        folder = Path(folder)
        whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        try:
            if whole.is_file():
                return cls(tokenizers.Tokenizer.from_file(str(whole)))
            if not (vocab.is_file() and merges.is_file()):
                return None
            backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            if backend.token_to_id(END_OF_TEXT) is not None:
                backend.add_special_tokens([END_OF_TEXT])
            return cls(backend)
        except Exception as error:  # the library raises bare Exception
            reason = str(error).splitlines()[0]
            raise TokenizerError(f"the tokenizer files in {folder} cannot be read: {reason}") from None

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __repr__(self) -> str:
        return f"Tokenizer({len(self):,} entries, end of text {self.end_of_text})"

    @cached_property
    def vocabulary(self) -> list[str]:
        """The entries as the file spells them (`Ġ` for a leading space), by id."""
        known = self._backend.get_vocab(with_added_tokens=True)
        entries = [""] * (max(known.values(), default=-1) + 1)
        for entry, index in known.items():
            entries[index] = entry
        return entries

    @cached_property
    def _added(self) -> frozenset[int]:
        """The ids outside the byte alphabet, such as `<|endoftext|>`: spelled as plain text."""
        return frozenset(self._backend.get_added_tokens_decoder())

    @property
    def end_of_text(self) -> int | None:
        """The id of `<|endoftext|>`, GPT-2's only special token; `bos=True` puts it in front."""
        index: int | None = self._backend.token_to_id(END_OF_TEXT)
        return index

    def bos(self) -> list[int]:
        """What bos=True puts in front of a text. Raises TokenizerError for a vocabulary without end-of-text."""
        if self.end_of_text is None:
            raise TokenizerError(f"bos=True needs {END_OF_TEXT} in the vocabulary, and this tokenizer has none")
        return [self.end_of_text]

    def encode(self, texts: Sequence[str], bos: bool = False) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """Ids and character offsets (start, end) of each text.

        A token that is part of a multi-byte character has that whole character's offsets; BOS has (0, 0).
        Raises TokenizerError for text that is no Unicode, or where BOS is asked for and the vocabulary has none.
        """
        for text in texts:
            _check_unicode(text)
        front = self.bos() if bos else []
        encodings = self._backend.encode_batch(list(texts))
        ids = [front + e.ids for e in encodings]
        offsets = [[(0, 0)] * len(front) + e.offsets for e in encodings]
        return ids, offsets

    def ids(self, texts: Iterable[str]) -> Iterator[NDArray[np.int32]]:
        """Ids alone, of any number of texts: a few at a time are in the memory of the tokenizers library.

        Raises TokenizerError for text that is no Unicode.
        """
        waiting, size = [], 0
        for text in texts:
            _check_unicode(text)
            waiting.append(text)
            size += len(text)
            if size >= AT_ONCE:
                yield from self._ids(waiting)
                waiting, size = [], 0
        yield from self._ids(waiting)

    def _ids(self, texts: list[str]) -> list[NDArray[np.int32]]:
        import numpy as np

        encode = getattr(self._backend, "encode_batch_fast", self._backend.encode_batch)  # fast: without offsets
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encode(texts)]

    def tokens(self, texts: str | Sequence[str], bos: bool = False) -> Tokens:
        """One text or several -> a right-padded batch."""
        texts = as_texts(texts)
        ids, offsets = self.encode(texts, bos)
        return Tokens.from_lists(ids, tokenizer=self, texts=tuple(texts), offsets=offsets)

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of a row of ids, special tokens included; bytes that are no text read as U+FFFD."""
        return b"".join(map(self.bytes, ids)).decode("utf-8", "replace")

    def bytes(self, index: int) -> bytes:
        """The bytes of one token. Raises TokenizerError for an id outside the vocabulary."""
        index = int(index)
        if not 0 <= index < len(self.vocabulary):
            raise TokenizerError(f"no token has id {index}: ids go from 0 to {len(self.vocabulary) - 1}")
        entry = self.vocabulary[index]
        if index in self._added or not all(c in BYTE_OF for c in entry):
            return entry.encode()
        return bytes(BYTE_OF[c] for c in entry)

    def string(self, index: int) -> str:
        """One token as text, its leading space kept; an id beyond the last entry (a padded vocabulary) is no text."""
        if (known := self._strings.get(index)) is not None:
            return known
        found = "" if index >= len(self.vocabulary) else self.bytes(index).decode("utf-8", "replace")
        return self._strings.setdefault(index, found)

    def display(self, index: int) -> str:
        """One token as it is best shown to a person; not data. An id beyond the last entry shows as `[id]`."""
        if (known := self._displays.get(index)) is not None:
            return known
        found = f"[{index}]" if index >= len(self.vocabulary) else show(self.bytes(index))
        return self._displays.setdefault(index, found)

    def single(self, text: str) -> int:
        """The id of a text that is exactly one token, such as `" Paris"` (mind the leading space).

        Raises TokenizerError, naming the pieces, where it is none or several.
        """
        [ids], _ = self.encode([text])
        if len(ids) != 1:
            pieces = " | ".join(map(self.display, ids)) or "nothing"
            spaced = " " + text
            hint = f"; did you mean {spaced!r}?" if text.strip() == text != "" and self._is_one(spaced) else ""
            raise TokenizerError(f"{text!r} is {len(ids)} tokens ({pieces}): exactly one was expected{hint}")
        return ids[0]

    def _is_one(self, text: str) -> bool:
        return len(self.encode([text])[0][0]) == 1


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"has half of a surrogate pair at character {error.start}"
        raise TokenizerError(f"a text {problem}: it is not Unicode text, decode its source again") from None


def as_texts(inputs: str | Sequence[str]) -> list[str]:
    """A string or strings -> a list. Raises InputError for anything else."""
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs, (Mapping, Set)) or hasattr(inputs, "columns"):  # of which iterating gives keys or no order
        kind, hint = type(inputs).__name__, "list(texts.values())" if isinstance(inputs, Mapping) else "list(...)"
        hint = "one of its columns, such as frame['text']" if hasattr(inputs, "columns") else hint
        raise InputError(f"a {kind} was given: a text or a list of texts was expected, such as {hint}")
    texts = list(inputs) if isinstance(inputs, Iterable) and not isinstance(inputs, bytes) else [inputs]
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"a text is a string, got {type(text).__name__}: give a string or a list of them")
    return texts
