"""Read the text, the corpus or the ids that an analysis is given, as batches."""

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
BATCH_TOKENS = 4096  # width x rows of a batch, padding included


class Documents:
    """A text, a corpus or ids, to be read as batches any number of times.

    Accepts a text, a corpus (anything `open_corpus` takes except a string), or ids. A text and a corpus are read in
    windows of the model's context; each row of Tokens or ids [batch, pos] is one document. Exactly one of `corpus` and
    `rows` is set.
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
        """Yield batches of at most `budget` entries, padding included; but one window always fits."""
        if self.corpus is not None:
            yield from model_batches(self._model, self.corpus, budget, self._bos)
            return
        rows = [Row(name_of(i), 0, np.array(ids, dtype=np.int32), i) for i, ids in enumerate(self.rows or [])]
        for packed in pack(rows, budget):
            tokens = Tokens.from_lists([row.ids.tolist() for row in packed])
            yield Batch(packed, tokens, sum(len(row.ids) for row in packed), 0)

    def expected(self, batch: Batch) -> float | None:
        """Estimate the number of tokens in all, after this batch was read; None where the number is not known."""
        self._read += batch.size
        if self.rows is not None:
            return float(sum(map(len, self.rows)))
        if self.corpus is None or not self.corpus.total or not self.corpus.read:
            return None
        return (self._read + batch.left) * self.corpus.total / self.corpus.read


def open_text(text: Source) -> Corpus:
    """Open a string as a corpus of one text, and anything else as `open_corpus` does.

    Raises InputError for an empty text, or one that names files.
    """
    if not isinstance(text, str):
        return open_corpus(text)
    if not text.strip():
        raise InputError("the text is empty: at least one word was expected")
    refuse_path(text, corpus=True)
    return open_corpus({"text": text})


def name_of(i: int) -> str:
    """Return the default document name for row i."""

    return f"text {i + 1}"
