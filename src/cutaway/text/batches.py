"""Cut documents into windows and pack them into batches: the plan that every pass over a corpus follows.

    for batch in batches(open_corpus("notes/*.txt"), tokenizer, budget=4096, context=1024): ...
    for batch in model_batches(model, corpus, budget=4096): ...
    rows = windows([("a", ids)], context=1024)          ids of documents -> windows
    pack(rows, budget=4096)                             windows of similar length, together

At most one group of documents is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.errors import InputError, TokenizerError
from cutaway.text.corpus import Corpus
from cutaway.text.tokens import Tokenizer, Tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutaway.model.model import Model

GROUP = 4096  # documents that are sorted and packed together
AT_ONCE = 1 << 20  # ids of a stream that are searched at once for the ends of its documents
GPT2_END = 50256  # GPT-2's end-of-text token


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A window of a document: its ids, and the offset in tokens of the first one."""

    document: str
    offset: int
    ids: NDArray[np.int32]
    number: int  # the number of the document in its corpus, from 0
    front: int = 0  # ids in front that are not part of the document: 1 with a BOS


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of similar length, right-padded and masked, with the document that each comes from."""

    rows: list[Row]
    tokens: Tokens
    size: int  # tokens, without padding
    left: int  # tokens in the later batches of its group


@dataclass(frozen=True, slots=True)
class _Piece:
    """A document, or a part of one that is too long to be read at once."""

    document: str
    number: int
    content: str | NDArray[Any] | None  # a text, or ids; None once it is encoded
    offset: int = 0


def model_batches(model: Model, corpus: Corpus, budget: int, bos: bool = False) -> Iterator[Batch]:
    """Return the batches of a corpus for a model, with its tokenizer, context and vocabulary."""
    tokenizer = model.tokenizer if model.has_tokenizer else None
    return batches(corpus, tokenizer, budget, model.config.n_ctx, bos=bos, d_vocab=model.config.d_vocab)


def batches(
    corpus: Corpus,
    tokenizer: Tokenizer | None,
    budget: int,
    context: int,
    group: int = GROUP,
    bos: bool = False,
    *,
    d_vocab: int | None = None,
) -> Iterator[Batch]:
    """Yield a corpus as batches of at most `budget` entries, padding included (but one row always fits).

    Documents are read in order, a `group` at a time. A document longer than `context` becomes windows; the windows of
    a group are sorted, longest first, ties by document and offset, and packed greedily. With `bos` every window starts
    with the end-of-text token, and its offset is one less. A stream of ids is split into documents at its end-of-text
    tokens, which belong to no document; without such tokens it is one document.

    Raises:
        InputError: a document has ids outside a vocabulary of `d_vocab`.
        TokenizerError: there is no tokenizer, but there is a text, or `bos`.
    """
    if budget < 1 or context < (2 if bos else 1):
        raise InputError(f"batches of {budget} tokens in windows of {context}: at least 1 of each was expected")
    if bos and tokenizer is None:
        raise TokenizerError("bos=True needs the end-of-text token, and the checkpoint has no tokenizer")
    front = tokenizer.bos() if bos and tokenizer else []
    pieces = _pieces(corpus, tokenizer, d_vocab, context - len(front))
    while encoded := _encoded(islice(pieces, group), tokenizer, d_vocab):
        yield from _pack(_rows(encoded, context, front), tokenizer, budget)


def _separator(tokenizer: Tokenizer | None, d_vocab: int | None) -> int | None:
    """Return the token between the documents of a stream: the tokenizer's end of text, or GPT-2's without one."""
    if tokenizer is None:
        return GPT2_END if d_vocab and d_vocab > GPT2_END else None
    return tokenizer.end_of_text


def _pieces(corpus: Corpus, tokenizer: Tokenizer | None, d_vocab: int | None, room: int) -> Iterator[_Piece]:
    """Yield documents in order; split a stream, which may be larger than memory, into pieces of at most `room` ids."""
    number = 0
    for document in corpus:
        if not document.stream or document.ids is None:
            yield _Piece(document.id, number, document.text if document.ids is None else document.ids)
            number += 1
            continue
        end = _separator(tokenizer, d_vocab)
        for i, (start, stop) in enumerate(_spans(document.ids, end)):
            name = document.id if end is None else f"{document.id}:{i}"
            for at in range(start, stop, room):
                yield _Piece(name, number, document.ids[at : min(at + room, stop)], at - start)
            number += stop > start


def _spans(ids: NDArray[Any], end: int | None) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each document in a stream."""
    start = 0
    for chunk in range(0, len(ids) if end is not None else 0, AT_ONCE):
        for stop in (np.flatnonzero(ids[chunk : chunk + AT_ONCE] == end) + chunk).tolist():
            yield start, stop
            start = stop + 1
    yield start, len(ids)


def _encoded(
    pieces: Iterable[_Piece], tokenizer: Tokenizer | None, d_vocab: int | None
) -> list[tuple[_Piece, NDArray[Any]]]:
    """Return pieces with their ids. Texts are encoded as they are read, and not kept."""
    read: list[_Piece] = []

    def texts() -> Iterator[str]:
        for piece in pieces:
            if isinstance(piece.content, str):
                read.append(replace(piece, content=None))
                yield piece.content
            else:
                read.append(piece)

    if tokenizer is None:
        for _ in texts():
            raise TokenizerError(
                "the checkpoint has no tokenizer: give a corpus of token ids (a field input_ids, a .bin file) instead "
                "of text, or put tokenizer.json (or vocab.json and merges.txt) into its folder"
            )
    encoded = iter([] if tokenizer is None else list(tokenizer.ids(texts())))
    return [(piece, _checked(piece, d_vocab) if piece.content is not None else next(encoded)) for piece in read]


def _checked(piece: _Piece, d_vocab: int | None) -> NDArray[Any]:
    """Return the ids of a piece. Raises InputError for one outside the vocabulary."""
    ids = np.asarray(piece.content)
    if d_vocab is not None and len(ids):
        wrong = next((int(i) for i in (ids.min(), ids.max()) if not 0 <= i < d_vocab), None)
        if wrong is not None:
            raise InputError(
                f"{piece.document} has token id {wrong}, outside the vocabulary (0 to {d_vocab - 1}): are these "
                "another tokenizer's ids?"
            )
    return ids


def _pack(rows: list[Row], tokenizer: Tokenizer | None, budget: int) -> Iterator[Batch]:
    """Yield the batches of a group's rows."""
    left = sum(len(row.ids) for row in rows)
    for packed in pack(rows, budget):
        size = sum(len(row.ids) for row in packed)
        left -= size
        yield Batch(packed, Tokens.from_lists([row.ids.tolist() for row in packed], tokenizer=tokenizer), size, left)


def windows(
    documents: Iterable[tuple[str, Sequence[int] | NDArray[Any]]],
    context: int,
    front: Sequence[int] = (),
    first: int = 0,
) -> list[Row]:
    """Cut the ids of documents into windows of at most `context` tokens that do not overlap.

    Empty documents have no windows. `front` are ids that are put in front of each window, `first` is the number of the
    first document.
    """
    pieces = [
        (_Piece(document, number, None), np.asarray(ids)) for number, (document, ids) in enumerate(documents, first)
    ]
    return _rows(pieces, context, front)


def _rows(pieces: Iterable[tuple[_Piece, NDArray[Any]]], context: int, front: Sequence[int]) -> list[Row]:
    """Cut pieces into rows of at most `context` ids, each with `front` at its beginning."""
    room, n = context - len(front), len(front)
    return [
        Row(piece.document, piece.offset + at - n, _joined(front, ids[at : at + room]), piece.number, n)
        for piece, ids in pieces
        for at in range(0, len(ids), room)
    ]


def _joined(front: Sequence[int], ids: NDArray[Any]) -> NDArray[np.int32]:
    own = np.asarray(ids, dtype=np.int32)
    return np.concatenate([np.array(front, dtype=np.int32), own]) if front else own


def pack(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """Sort rows, longest first, and group them so that width x rows stays within the budget."""
    packed: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: (-len(row.ids), row.document, row.offset)):
        if packed and len(packed[-1][0].ids) * (len(packed[-1]) + 1) <= budget:
            packed[-1].append(row)
        else:
            packed.append([row])
    return packed
