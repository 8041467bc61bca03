"""What commands read: the model, texts and corpora."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from cutaway.errors import InputError
from cutaway.stopping import work_begins
from cutaway.text.tokens import visible

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.text.corpus import Corpus, Document


def load(source: str | None, device: str, dtype: str | None) -> Model:
    from cutaway.model import load as open_model

    work_begins()
    return open_model(source, device=device, dtype=dtype)


def text_of(argument: str) -> str:
    if argument != "-":
        from cutaway.text.corpus import names_files

        if what := names_files(argument):
            raise InputError(f"{argument!r} names {what}: --corpus reads files, and - reads a text, - < {argument}")
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


class _Said(logging.Handler):
    """Print what is logged of a corpus on standard error, as that is then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(visible(record.getMessage()), file=sys.stderr)


def corpus_of(sources: list[str] | None, field: str | None) -> Corpus | None:
    """Return the corpus of --corpus and --field, and name what is left out of it on standard error.

    Raises InputError for --field without files that have one.
    """
    from cutaway.text.corpus import files

    if not sources:
        if field is not None:
            raise InputError("--field names a field of the files of --corpus: give --corpus, too")
        return None
    work_begins()
    logger = logging.getLogger("cutaway.text.corpus")
    if not any(isinstance(handler, _Said) for handler in logger.handlers):
        logger.addHandler(_Said())
    return files(sources, field)


def documents_of(corpus: Corpus) -> list[Document]:
    """Return the texts of a corpus. Raises InputError for token ids."""
    found = []
    for document in corpus:
        if document.ids is not None:
            raise InputError(
                f"{document.id} holds token ids, and report reads texts: lens, attention, ablate, states, norms and "
                "unigram read ids"
            )
        found.append(document)
    return found
