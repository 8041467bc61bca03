"""Stream Hugging Face datasets by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.records import from_records


def read_dataset(corpus: Corpus, name: str, field: str | None) -> Iterator[Document]:
    """Yield the documents of `hf:NAME[/CONFIG][:SPLIT]` or `hf:OWNER/NAME[/CONFIG][:SPLIT]`; NAME may be a folder.

    Raises InputError for a dataset that cannot be opened or read, or where the datasets library is missing.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(f"corpus {name!r} needs the datasets library: pip install 'cutaway[corpora]'") from None
    where, _, split = name.removeprefix("hf:").partition(":")
    for repository, config in _datasets_of(where):
        try:
            records = datasets.load_dataset(repository, config, split=split or "train", streaming=True)
            break
        except Exception as error:  # the library raises many kinds
            reason = _first_line(error)
    else:
        raise InputError(f"corpus {name!r} cannot be opened: {reason}")
    numbered = ((f"{name}:{i}", record) for i, record in enumerate(_readable(name, records)))
    yield from from_records(corpus, f"corpus {name!r}", numbered, field)


def _readable(name: str, records: Iterable[Any]) -> Iterator[Any]:
    """Yield records; raise the library's errors as an InputError."""
    try:
        yield from records
    except Exception as error:
        raise InputError(f"corpus {name!r} cannot be read on: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _datasets_of(where: str) -> list[tuple[str, str | None]]:
    """Return the repositories and configurations that `where` may name, the likeliest first."""
    if "//" in where:  # separates a folder from its configuration
        repository, _, config = where.partition("//")
        return [(repository, config or None)]
    parts = where.split("/")
    if len(parts) == 2 and not Path(where).is_dir():
        return [(parts[0], parts[1]), (where, None)]
    if len(parts) == 3 and not Path(where).is_dir():
        return [(f"{parts[0]}/{parts[1]}", parts[2])]
    return [(where, None)]
