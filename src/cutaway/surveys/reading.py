"""What an analysis is given to read, as batches: a text, documents, or ids as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from torch import Tensor

from cutaway.errors import InputError
from cutaway.text.batches import Batch, Row, model_batches, pack
from cutaway.text.corpus import Corpus, Source, open_corpus, refuse_path
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model

Text: TypeAlias = "Source | Tokens | Tensor"


class Documents:
    """Batches of a text, any number of times.

    A string is the text itself; what cutaway.text.corpus.open_corpus takes else is documents, in windows of the model's
    context; Tokens and ids [batch, pos] are taken as they are, a row a document. The first two have a `corpus`, the
    last `rows`; the other is None.
    """

    def __init__(self, model: Model, text: Text, bos: bool) -> None:
        self._model, self._bos, self._read = model, bos, 0
        self.rows: list[list[int]] | None = None
        self.corpus: Corpus | None = None
        if isinstance(text, (Tokens, Tensor)):
            self.rows = model.tokens(text, bos=bos).rows()
        else:
            self.corpus = open_text(text)

    def batches(self, budget: int) -> Iterator[Batch]:
        """Of at most `budget` entries, padding included; but one window always fits."""
        if self.corpus is not None:
            yield from model_batches(self._model, self.corpus, budget, self._bos)
            return
        rows = [Row(name_of(i), 0, np.array(ids, dtype=np.int32), i) for i, ids in enumerate(self.rows or [])]
        for packed in pack(rows, budget):
            ids = Tokens.from_lists([row.ids.tolist() for row in packed])
            yield Batch(packed, ids, sum(len(row.ids) for row in packed), 0)

    def expected(self, batch: Batch) -> float | None:
        """Tokens in all, judged by the documents read when this batch is the newest; None where nothing tells."""
        self._read += batch.size
        if self.rows is not None:
            return float(sum(map(len, self.rows)))
        if self.corpus is None or not self.corpus.total or not self.corpus.read:
            return None
        return (self._read + batch.left) * self.corpus.total / self.corpus.read


def open_text(text: Source) -> Corpus:
    """Return a string as a corpus of one text, and else a corpus.

    Raises InputError for an empty text, or one that names files.
    """
    if not isinstance(text, str):
        return open_corpus(text)
    if not text.strip():
        raise InputError("the text is empty: at least one word was expected")
    refuse_path(text, corpus=True)
    return open_corpus({"text": text})


def name_of(i: int) -> str:
    """What a row of ids is called."""
    return f"text {i + 1}"
