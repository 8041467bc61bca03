"""Read what commands are given: the model, texts and corpora."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.errors import InputError
from cutaway.stopping import work_begins
from cutaway.text.display import visible

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.text.corpus import Corpus, Document


def load(source: str | None, device: str, dtype: str | None) -> Model:
    """Load the model of --model, --device and --dtype."""
    from cutaway.model import load as load_model

    work_begins()
    return load_model(source, device=device, dtype=dtype)


def read_text(argument: str) -> str:
    """Return the text of an argument; for "-" read standard input.

    Raises InputError for the path of a file, and for standard input that is not UTF-8.
    """
    if argument != "-":
        from cutaway.text.corpus import names_files

        if what := names_files(argument):
            raise InputError(f"{argument!r} names {what}: --corpus reads files, and - reads a text, - < {argument}")
        return argument
    try:
        return sys.stdin.read().removesuffix("\n")  # the line break that echo and editors put at the end
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 text (byte {error.start}): convert it first") from None


def exactly_one(command: str, text: str | None, corpus: list[str] | None) -> None:
    """Raise InputError unless either a text or a corpus was given."""
    if (text is None) == (corpus is None):
        raise InputError(f"{command} reads a text or a --corpus: give one of the two")


def check_state(state: Path | None, corpus: list[str] | None) -> None:
    """Raise InputError where a state was given without a corpus."""
    if state and not corpus:
        raise InputError("--state saves a pass over a corpus: give a --corpus with it")


def at_most_one(text: str | None, corpus: list[str] | None) -> None:
    """Raise InputError where both a text and a corpus were given."""
    if text is not None and corpus:
        raise InputError("--text and --corpus were both given: one of them was expected")


class _StandardError(logging.Handler):
    """A log handler that prints on whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        print(visible(record.getMessage()), file=sys.stderr)


def read_corpus(sources: list[str] | None, field: str | None) -> Corpus | None:
    """Return the corpus of --corpus and --field, or None; what it leaves out is named on standard error.

    Raises InputError for --field without --corpus.
    """
    from cutaway.text.corpus import files

    if not sources:
        if field is not None:
            raise InputError("--field names a field of the files of --corpus: give --corpus, too")
        return None
    work_begins()
    logger = logging.getLogger("cutaway.text.corpus")
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())
    return files(sources, field)


def read_documents(corpus: Corpus) -> list[Document]:
    """Return the texts of a corpus. Raises InputError for token ids."""
    documents = []
    for document in corpus:
        if document.ids is not None:
            raise InputError(
                f"{document.id} holds token ids, and report reads texts: lens, attention, ablate, states, norms and "
                "unigram read ids"
            )
        documents.append(document)
    return documents
