"""What commands read: the model, texts and corpora."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cutaway.errors import InputError
from cutaway.interrupts import work_begins

if TYPE_CHECKING:
    from cutaway.corpus import Document
    from cutaway.model.model import Model


def load(source: str | None, device: str, dtype: str | None) -> Model:
    from cutaway.model import loading

    work_begins()
    return loading.load(source, device=device, dtype=dtype)


def text_of(argument: str) -> str:
    if argument != "-":
        return argument
    try:
        return sys.stdin.read().removesuffix("\n")  # the one that echo and editors put at the end
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is no UTF-8 text (byte {error.start}): convert it first") from None


def exactly_one(command: str, text: str | None, corpus: list[str] | None) -> None:
    """Raise InputError unless either a text or a corpus was given."""
    if (text is None) == (corpus is None):
        raise InputError(f"{command} reads a text or a --corpus: give one of the two")


def at_most_one(text: str | None, corpus: list[str] | None) -> None:
    """Raise InputError where both a text and a corpus were given."""
    if text is not None and corpus:
        raise InputError("--text and --corpus were both given: one of them was expected")


def documents_of(sources: list[str]) -> list[Document]:
    """What was given with --corpus; what had to be left out is named on standard error."""
    from cutaway.corpus import files

    work_begins()
    corpus = files(sources)
    found = list(corpus)
    if corpus.problems:
        print(corpus.problems, file=sys.stderr)
    return found


def texts_of(sources: list[str]) -> dict[str, str]:
    return {document.id: document.text for document in documents_of(sources)}
