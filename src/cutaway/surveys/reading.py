"""Read what an analysis is given, a text, a corpus or ids, as a corpus: the documents that a survey reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from cutaway.errors import InputError
from cutaway.text.corpus import Corpus, Source, open_corpus, refuse_path
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model

Text: TypeAlias = "Source | Tokens | Tensor"
BATCH_TOKENS = 4096  # width x rows of a batch, padding included


def open_text(model: Model, text: Text, bos: bool = False) -> Corpus:
    """Open a string as a corpus of that one text, and anything else as `open_corpus` does.

    Raises InputError for an empty text, or one that names files; and for Tokens or ids [batch, pos], a document a row,
    that the model cannot read as they are: a row longer than its context, or `bos`, which belongs in the ids.
    """
    if isinstance(text, (Tokens, Tensor)):
        return open_corpus(model.tokens(text, bos=bos))
    if not isinstance(text, str):
        return open_corpus(text)
    if not text.strip():
        raise InputError("the text is empty: at least one word was expected")
    refuse_path(text, corpus=True)
    return open_corpus({"text": text})
