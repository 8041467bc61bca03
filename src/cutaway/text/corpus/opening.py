"""Open whatever a corpus may be: paths, objects in memory, or the bundled documents."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.objects import from_object
from cutaway.text.corpus.paths import files

if TYPE_CHECKING:
    from cutaway.text.tokens import Tokens

Source: TypeAlias = "str | os.PathLike[str] | Mapping[Any, Any] | Iterable[Any] | Tokens | Corpus | None"


def open_corpus(source: Source = None, field: str | None = None, strict: bool = False) -> Corpus:
    """Open files, objects or a Hugging Face dataset as documents.

    Args:
        source: a path, folder or glob, or a list of pathlib's paths (strings in a list are texts);
            "hf:NAME[/CONFIG][:SPLIT]"; texts, records, token ids or Documents; a mapping from ids to texts; a pandas
            DataFrame, an Arrow table, a dataset; a Corpus; None for the bundled documents.
        field: the field of a record that holds its text or its token ids, also by a path ("data.text"). By default
            "text", else "input_ids", else the only field of texts.
        strict: raise InputError at the first record that holds no text.

    Files are opened when they are read. Raises InputError for a source that matches nothing, or that cannot be a
    corpus.
    """
    if field is not None and not isinstance(field, str):
        raise InputError(f"field={field!r}: the name of a field, or its path with dots, was expected")
    if isinstance(source, Corpus):
        if field is not None:
            raise InputError(f"field={field!r} and a Corpus were given: give field= where the corpus is opened")
        return source
    if source is None:
        return Corpus("bundled", lambda _: iter(bundled()), strict, total=10)
    if isinstance(source, (str, os.PathLike)):
        return files([os.fspath(source)], field, strict)
    return from_object(source, field, strict)


def bundled() -> list[Document]:
    """Return the ten bundled documents, which the bundled model was not trained on, in the order of their names."""
    folder = Path(str(importlib.resources.files("cutaway"))) / "bundled" / "documents"
    return [Document(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))]
