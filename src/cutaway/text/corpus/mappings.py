"""Mappings: texts by id, columns by name, records by id, and what a tokenizer returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.fields import IDS, MASK, as_array, from_records, ids_of, is_missing


def from_mapping(
    corpus: Corpus, name: str, source: Mapping[Any, Any], field: str | None, lead: str = ""
) -> Iterator[Document]:
    """Yield documents of a mapping, by what its values are.

    - strings: texts by id;
    - a string at the field, and others: one record;
    - lists or arrays of one length, one of them texts or token ids (`{"text": [...], "label": [...]}`, and what a
      tokenizer returns): columns;
    - lists of integers: token ids by id;
    - mappings: records by id, or columns of values by row where the field is a key (as pandas' to_json writes).

    Raises InputError, naming a key, for any other.
    """
    values = {key: value for key, value in source.items() if not is_missing(value)}
    if IDS in source:
        yield from from_records(corpus, name, _rows(name, _batch(source), lead or "row "), field or IDS)
    elif all(isinstance(value, (str, Document)) for value in values.values()):
        if "text" in source and len(source) > 1:
            raise InputError(
                f"{name} has a key 'text' and others: one record goes in a list, [record]; texts by id need other ids"
            )
        yield from from_records(corpus, name, ((f"{lead}{key}", value) for key, value in source.items()), field)
    elif isinstance(values.get(field or "text"), str):
        yield from from_records(corpus, name, [(f"{lead or 'row '}0", source)], field)
    elif all(isinstance(value, Mapping) for value in values.values()):
        if (field or "text") in source:
            source = source[field or "text"]
        yield from from_records(corpus, name, ((f"{lead}{key}", value) for key, value in source.items()), field)
    elif all(ids_of(value) is not None for value in values.values()):
        yield from from_records(corpus, name, ((f"{lead}{key}", value) for key, value in source.items()), field)
    elif all(_is_column(value) for value in source.values()):
        yield from from_records(corpus, name, _rows(name, source, lead or "row "), field)
    else:
        key, value = next((k, v) for k, v in values.items() if not isinstance(v, str))
        raise InputError(f"{name}: texts by id were expected, and {str(key)[:60]!r} holds {type(value).__name__}")


def _batch(source: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what a tokenizer returned, for one text or several: its ids and mask, a row each."""
    found: dict[str, Any] = {}
    for key in (IDS, MASK):
        if key in source and not is_missing(source[key]):
            array = as_array(source[key])
            value = source[key] if array is None else array
            flat = value.ndim == 1 if isinstance(value, np.ndarray) and value.dtype != object else _is_flat(value)
            found[key] = [value] if flat else value
    return found


def _is_flat(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], (int, np.integer))


def _is_column(value: Any) -> bool:
    return isinstance(value, Sized) and hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, Mapping))


def _rows(name: str, columns: Mapping[Any, Any], lead: str) -> Iterator[tuple[str, Any]]:
    lengths = {str(key): len(value) for key, value in columns.items()}
    if len(set(lengths.values())) > 1:
        some = ", ".join(f"{key} {n:,}" for key, n in list(lengths.items())[:5])
        raise InputError(f"{name}: columns of one length were expected, and they have {some}")
    for i, row in enumerate(zip(*columns.values(), strict=True)):
        yield f"{lead}{i}", dict(zip(map(str, columns), row, strict=True))
