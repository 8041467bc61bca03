"""Convert text to tokens and back.

    tokenizer = Tokenizer.from_folder(folder)      tokenizer.json, vocab.json + merges.txt, spiece.model or vocab.txt
    tokens = tokenizer.tokens(["one text", "another"])     Tokens: .ids and .mask, right-padded
    tokens.strings, tokens.offsets, tokens.display         lists, one for each text
    tokenizer.single(" Paris")                     the id of a text that is exactly one token
    tokenizer.decode(ids)                          text

Strings are data: they decode exactly as the model sees them. Display strings are for people (a space is `·`, a
newline `↵`, a tab `⇥`, a byte that is not a whole character `\\xe2`) and never go back into a model.

Byte-level BPE: Radford et al. 2019, section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import InputError, TokenizerError
from cutaway.text import tokenizer_files
from cutaway.text.decoding import Decoder
from cutaway.text.tokenizer_files import END_OF_TEXT

if TYPE_CHECKING:
    import numpy as np
    import tokenizers
    from numpy.typing import NDArray
    from torch import Tensor

CHARACTERS_AT_ONCE = 1 << 17  # their tokens take about a hundred bytes each in the tokenizers library


@dataclass(frozen=True, eq=False)
class Tokens:
    """A right-padded batch of token ids, with the texts that they come from.

    `ids` and `mask` are integer tensors [batch, pos]; `mask` is 1 at tokens and 0 at padding.
    """

    ids: Tensor
    mask: Tensor
    tokenizer: Tokenizer | None = field(default=None, repr=False)
    texts: tuple[str, ...] | None = field(default=None, repr=False)
    offsets: list[list[tuple[int, int]]] | None = field(default=None, repr=False)

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]], **about: Any) -> Tokens:
        """Put rows of ids of any lengths into one right-padded batch."""
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
        """Return the number of tokens in each row: [batch]."""
        return self.mask.sum(1)

    @property
    def positions(self) -> Tensor:
        """Return 0, 1, 2, ... along each row, 0 at padding: [batch, pos]."""
        return (self.mask.cumsum(1) - 1).clamp(min=0) * self.mask

    def rows(self) -> list[list[int]]:
        """Return the ids as lists without padding."""
        return [row[:n] for row, n in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def need_tokenizer(self) -> Tokenizer:
        """Return the tokenizer. Raises TokenizerError where there is none."""
        if self.tokenizer is None:
            raise TokenizerError("these tokens are bare ids: the checkpoint they belong to has no tokenizer")
        return self.tokenizer

    @property
    def strings(self) -> list[list[str]]:
        """Return each token as text, leading spaces kept; bytes that are not a whole character become U+FFFD."""
        tokenizer = self.need_tokenizer()
        return [tokenizer.strings(row) for row in self.rows()]

    @property
    def display(self) -> list[list[str]]:
        """Return each token as it is shown to a person."""
        tokenizer = self.need_tokenizer()
        return [tokenizer.labels(row) for row in self.rows()]

    def first(self, n: int) -> Tokens:
        """Return at most the first n tokens of each row."""
        offsets = None if self.offsets is None else [row[:n] for row in self.offsets]
        return Tokens(self.ids[:, :n], self.mask[:, :n], self.tokenizer, self.texts, offsets)


class Tokenizer:
    """The tokenizer of a checkpoint, run by the tokenizers library: GPT-2's byte-level BPE, or another kind."""

    def __init__(self, backend: tokenizers.Tokenizer, *, bos: int | None = None, eos: int | None = None) -> None:
        """Wrap a tokenizer of the tokenizers library, and change it; `bos` and `eos` None stand for `<|endoftext|>`."""
        from tokenizers import processors

        # Keep a token's leading space in its offsets, and add no special tokens but those that the caller asks for.
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._bos, self._eos = bos, eos

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer | None:
        """Read the tokenizer in a checkpoint's folder; return None where it has none.

        Raises TokenizerError for tokenizer files that cannot be read.
        """
        backend = tokenizer_files.read(Path(folder))
        return None if backend is None else cls(backend.tokenizer, bos=backend.bos, eos=backend.eos)

    @classmethod
    def of(cls, given: Any) -> Tokenizer:
        """Make a tokenizer from a folder, a file, a tokenizers.Tokenizer or a transformers tokenizer.

        Raises TokenizerError for files that hold no tokenizer, InputError for anything else.
        """
        if isinstance(given, Tokenizer):
            return given
        backend = tokenizer_files.convert(given)
        return cls(backend.tokenizer, bos=backend.bos, eos=backend.eos)

    def __getstate__(self) -> dict[str, Any]:
        kept = {"_backend": self._backend, "_bos": self._bos, "_eos": self._eos}
        return kept | {"split": self._backend.encode_special_tokens}  # which the library's own pickle loses

    def __setstate__(self, state: dict[str, Any]) -> None:
        split = state.pop("split")
        self.__dict__.update(state)
        self._backend.encode_special_tokens = split

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __repr__(self) -> str:
        return f"Tokenizer({len(self):,} entries, end of text {self.end_of_text})"

    @cached_property
    def vocabulary(self) -> list[str]:
        """Return the entries as the file has them (`Ġ` for a leading space), by id; "" for an id without an entry."""
        known = self._backend.get_vocab(with_added_tokens=True)
        entries = [""] * (max(known.values(), default=-1) + 1)
        for entry, index in known.items():
            entries[index] = entry
        return entries

    @property
    def added(self) -> list[str]:
        """Return the tokens added to the vocabulary, such as `<|endoftext|>`, in the order of their ids."""
        return [token.content for _, token in sorted(self._backend.get_added_tokens_decoder().items())]

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self._backend, self.vocabulary)

    @property
    def end_of_text(self) -> int | None:
        """Return the id that ends a text: the eos_token that the tokenizer's files name, else `<|endoftext|>`."""
        index: int | None = self._backend.token_to_id(END_OF_TEXT) if self._eos is None else self._eos
        return index

    @property
    def boundary_ids(self) -> frozenset[int]:
        """Return the ids that stand before and after a text and are not part of it."""
        return frozenset(i for i in (self._bos_id, self.end_of_text) if i is not None)

    @property
    def _bos_id(self) -> int | None:
        index: int | None = self._backend.token_to_id(END_OF_TEXT) if self._bos is None else self._bos
        return index

    def bos(self) -> list[int]:
        """Return the ids that bos=True puts in front of a text: the checkpoint's own BOS, else `<|endoftext|>`.

        Raises TokenizerError for a vocabulary without either.
        """
        if self._bos_id is None:
            raise TokenizerError(
                f"bos=True needs {END_OF_TEXT} in the vocabulary, and this tokenizer has neither it nor a bos_token"
            )
        return [self._bos_id]

    def encode(self, texts: Sequence[str], bos: bool = False) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """Return the ids of each text, and the character offsets (start, end) of each token.

        A token that is part of a multi-byte character has the whole character's offsets; BOS has (0, 0).
        Raises TokenizerError for text that is not Unicode or that the vocabulary has no ids for, and for `bos` where
        the vocabulary has no BOS.
        """
        front = self.bos() if bos else []
        encodings = self._encodings(list(texts), self._backend.encode_batch)
        ids = [front + e.ids for e in encodings]
        offsets = [[(0, 0)] * len(front) + e.offsets for e in encodings]
        return ids, offsets

    def ids(self, texts: Iterable[str]) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of any number of texts, encoding a few texts at a time to bound the memory.

        Raises TokenizerError as `encode` does.
        """
        waiting, size = [], 0
        for text in texts:
            waiting.append(text)
            size += len(text)
            if size >= CHARACTERS_AT_ONCE:
                yield from self._ids(waiting)
                waiting, size = [], 0
        yield from self._ids(waiting)

    def _ids(self, texts: list[str]) -> list[NDArray[np.int32]]:
        import numpy as np

        encode = getattr(self._backend, "encode_batch_fast", self._backend.encode_batch)  # the fast one: no offsets
        return [np.array(encoding.ids, dtype=np.int32) for encoding in self._encodings(texts, encode)]

    def _encodings(self, texts: list[str], encode: Callable[..., list[Any]]) -> list[Any]:
        for text in texts:
            _check_unicode(text)
        try:
            with tokenizer_files.library_errors("the tokenizer has no ids for a text"):
                return encode(texts, add_special_tokens=False)
        except TokenizerError:
            for i, text in enumerate(texts):  # find the one that failed, and name it
                beginning = repr(text if len(text) <= 40 else text[:40]) + ("" if len(text) <= 40 else "…")
                number = f" (text {i + 1} of {len(texts)})" if len(texts) > 1 else ""
                with tokenizer_files.library_errors(f"the tokenizer has no ids for {beginning}{number}"):
                    self._backend.encode(text, add_special_tokens=False)
            raise

    def tokens(self, texts: str | Sequence[str], bos: bool = False) -> Tokens:
        """Return one text or several as a right-padded batch."""
        texts = as_texts(texts)
        ids, offsets = self.encode(texts, bos)
        return Tokens.from_lists(ids, tokenizer=self, texts=tuple(texts), offsets=offsets)

    def decode(self, ids: Iterable[int] | Tensor | int) -> str:
        """Return the text of a row of ids, or of one id, special tokens included.

        Bytes that are not text become U+FFFD; an id beyond the last entry, which a padded vocabulary has, becomes
        `[id]`. Raises InputError for anything but whole numbers in one row, TokenizerError for a negative one.
        """
        return self._decoder.text(as_row(ids))

    def bytes(self, index: int) -> bytes:
        """Return the bytes of one token. Raises TokenizerError for an id outside the vocabulary."""
        [index] = as_row(index)
        return self._decoder.bytes(index)

    def string(self, index: int) -> str:
        """Return one token as text, as it reads after others: its leading space is kept.

        An id beyond the last entry (a padded vocabulary) becomes `[id]`.
        """
        return self._decoder.string(index)

    def display(self, index: int) -> str:
        """Return one token as it is shown to a person; an id beyond the last entry as `[id]`."""
        return self._decoder.display(index)

    def strings(self, row: Sequence[int]) -> list[str]:
        """Return each token of a row as text.

        Joined, they are what `decode` gives, except for characters whose bytes are in several tokens.
        """
        return self._decoder.strings(row)

    def labels(self, row: Sequence[int]) -> list[str]:
        """Return each token of a row as it is shown to a person."""
        return self._decoder.labels(row)

    def single(self, text: str) -> int:
        """Return the id of a text that is exactly one token, such as `" Paris"` (mind the leading space).

        Raises TokenizerError, naming the pieces, for any other number of tokens; InputError for anything but a string.
        """
        if not isinstance(text, str):
            raise InputError(f"one token's text is a string such as ' Paris', got {type(text).__name__}")
        [ids], _ = self.encode([text])
        if len(ids) != 1:
            pieces = " | ".join(map(self.display, ids)) or "nothing"
            spaced = " " + text
            hint = f"; did you mean {spaced!r}?" if text.strip() == text != "" and self._is_one(spaced) else ""
            raise TokenizerError(f"{text!r} is {len(ids)} tokens ({pieces}): exactly one was expected{hint}")
        return ids[0]

    def _is_one(self, text: str) -> bool:
        return len(self.encode([text])[0][0]) == 1


def as_row(ids: Any) -> list[int]:
    """Return one id or a row of them as a list. Raises InputError for anything else."""
    expected = "one id or a row of them was expected"
    if isinstance(ids, Tokens):
        raise InputError(f"Tokens were given: {expected}, such as tokens.rows()[0]")
    if hasattr(ids, "tolist") and hasattr(ids, "ndim"):
        if ids.ndim > 1:
            raise InputError(f"ids of shape {list(ids.shape)} were given: {expected}, such as ids[0]")
        ids = ids.tolist()
    row = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, (str, bytes)) else [ids]
    if all(type(i) is int for i in row):
        return row
    row = [i.item() if getattr(i, "ndim", None) == 0 and hasattr(i, "item") else i for i in row]
    for i in row:
        if not isinstance(i, Integral) or isinstance(i, bool):
            raise InputError(f"an id is a whole number, got {type(i).__name__}: {expected}")
    return [int(i) for i in row]


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"a text has half of a surrogate pair at character {error.start}: it is not Unicode text, decode its "
            "source again"
        ) from None


def as_texts(inputs: str | Sequence[str]) -> list[str]:
    """Return one text or several as a list. Raises InputError for anything else."""
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs, (Mapping, Set)) or hasattr(inputs, "columns"):  # iterating over these gives keys, or no order
        kind, hint = type(inputs).__name__, "list(texts.values())" if isinstance(inputs, Mapping) else "list(...)"
        hint = "one of its columns, such as frame['text']" if hasattr(inputs, "columns") else hint
        raise InputError(f"a {kind} was given: a text or a list of texts was expected, such as {hint}")
    texts = list(inputs) if isinstance(inputs, Iterable) and not isinstance(inputs, bytes) else [inputs]
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"a text is a string, got {type(text).__name__}: give a string or a list of them")
    return texts
