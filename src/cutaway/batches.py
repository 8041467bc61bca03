"""From documents to batches of windows: the plan that every pass over a corpus follows.

    for batch in batches(open_corpus("notes/*.txt"), tokenizer, budget=4096, context=1024): ...
    rows = windows([("a", ids)], context=1024)          ids of documents -> windows
    pack(rows, budget=4096)                             windows of similar length, together

No more than a group of documents is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from cutaway.corpus import Corpus, Document
from cutaway.errors import InputError
from cutaway.tokens import Tokenizer, Tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUP = 4096  # documents that are sorted and packed together


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A window of a document: its ids, and the offset in tokens of the first."""

    document: str
    offset: int
    ids: NDArray[np.int32]
    number: int  # of the document in its corpus, from 0
    front: int = 0  # ids that are no tokens of the document: 1 with a BOS


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of similar length, right-padded and masked, with where each comes from."""

    rows: list[Row]
    tokens: Tokens
    size: int  # tokens, padding apart
    left: int  # tokens of its group in the batches after it


def batches(
    corpus: Corpus, tokenizer: Tokenizer, budget: int, context: int, group: int = GROUP, bos: bool = False
) -> Iterator[Batch]:
    """Documents -> batches of at most `budget` entries, padding included (but one row always fits).

    Documents are read in order in groups; a document longer than `context` becomes windows; each group is sorted,
    longest first, ties by document and offset, and packed greedily. The plan depends on nothing else. With `bos` every
    window starts with the end-of-text token, whose offset is -1 from the window's.
    """
    if budget < 1 or context < (2 if bos else 1):
        raise InputError(f"batches of {budget} tokens in windows of {context}: at least 1 of each was expected")
    front = tokenizer.bos() if bos else []
    documents, start = iter(corpus), 0
    while encoded := _encoded(islice(documents, group), tokenizer):
        yield from _pack(windows(encoded, context, front, start), tokenizer, budget)
        start += len(encoded)


def _encoded(documents: Iterable[Document], tokenizer: Tokenizer) -> list[tuple[str, NDArray[np.int32]]]:
    """Names and ids; texts are let go as they are read."""
    names: list[str] = []

    def texts() -> Iterator[str]:
        for document in documents:
            names.append(document.id)
            yield document.text

    ids = list(tokenizer.ids(texts()))
    return list(zip(names, ids, strict=True))


def _pack(rows: list[Row], tokenizer: Tokenizer, budget: int) -> Iterator[Batch]:
    left = sum(len(row.ids) for row in rows)
    for packed in pack(rows, budget):
        size = sum(len(row.ids) for row in packed)
        left -= size
        yield Batch(packed, Tokens.from_lists([row.ids.tolist() for row in packed], tokenizer=tokenizer), size, left)


def windows(
    documents: Iterable[tuple[str, Sequence[int] | NDArray[np.int32]]],
    context: int,
    front: Sequence[int] = (),
    first: int = 0,
) -> list[Row]:
    """Ids of documents -> windows of at most `context` tokens that do not overlap; empty documents give none."""
    room = context - len(front)
    return [
        Row(document, start - len(front), _joined(front, ids[start : start + room]), number, len(front))
        for number, (document, ids) in enumerate(documents, first)
        for start in range(0, len(ids), room)
    ]


def _joined(front: Sequence[int], ids: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int32]:
    found = np.asarray(ids, dtype=np.int32)
    return np.concatenate([np.array(front, dtype=np.int32), found]) if front else found


def pack(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """Rows sorted, longest first, and grouped so that width x rows stays within the budget."""
    packed: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: (-len(row.ids), row.document, row.offset)):
        if packed and len(packed[-1][0].ids) * (len(packed[-1]) + 1) <= budget:
            packed[-1].append(row)
        else:
            packed.append([row])
    return packed
