"""Turn objects in memory into corpora: texts, records, mappings, tables, datasets and token ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain, islice
from typing import Any

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.paths import expand_paths, files, names_files, read_files
from cutaway.text.corpus.records import (
    DEFAULTS,
    LOOKED_AT,
    as_array,
    choose_field,
    from_mapping,
    from_records,
    is_missing,
    mask_field,
    no_field,
)
from cutaway.text.corpus.tables_and_arrays import python_value, read_stream
from cutaway.text.tokens import Tokens

EXPECTED = "paths, texts, records or token ids were expected; docs/corpora.md lists what a corpus may be"
REFUSED: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda s: isinstance(s, (bytes, bytearray, memoryview)), "decode them, and give a list of texts"),
    (lambda s: isinstance(s, (set, frozenset)), "a set has no order, and ids and samples follow it: sorted(texts)"),
    (lambda s: hasattr(s, "readline"), "an open file would be read line by line: give its path"),
    (lambda s: hasattr(s, "collect") and not isinstance(s, Iterable), "collect() it first"),
    (lambda s: _kind(s) in ("f", "c", "b"), "numbers, but not token ids: integers were expected"),
    (lambda s: _is_row_of_ids(s), "a row of ids goes in a list of rows, [ids]"),
)


def from_object(source: Any, field: str | None, strict: bool) -> Corpus:
    """Return the corpus that an object in memory is. Raises InputError, naming its type, for one that is not."""
    what = f"a {type(source).__name__}"
    for is_refused, hint in REFUSED:
        if is_refused(source):
            raise InputError(f"{type(source).__name__} was given as a corpus: {hint}")
    total = len(source) if isinstance(source, Sized) else None
    if isinstance(source, Tokens):
        rows = source.rows()
        return Corpus(f"{len(rows)} texts", lambda c: from_records(c, what, _numbered(rows), None), strict, total)
    if _is_dataset(source):
        return _dataset(source, field, strict)
    if isinstance(source, Mapping):
        pairs = dict(source)
        texts = all(isinstance(value, str) for value in pairs.values())
        return Corpus(f"{len(pairs)} texts" if texts else what, lambda c: from_mapping(c, what, pairs, field), strict)
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        name = f"a DataFrame of {len(source):,} rows"
        return Corpus(name, lambda c: _frame(c, name, source, field), strict, len(source))
    if hasattr(source, "__arrow_c_stream__") and any(hasattr(source, name) for name in ("schema", "columns")):
        again = _again(source)
        return Corpus(what, lambda c: read_stream(c, what, again(), field), strict, total)
    if not isinstance(source, Iterable):
        raise InputError(f"{type(source).__name__} was given as a corpus: {EXPECTED}")
    if isinstance(source, Sequence) and source and all(isinstance(item, os.PathLike) for item in source):
        return files([os.fspath(item) for item in source], field, strict)
    name = "an iterable" if total is None else f"{total} texts"
    return Corpus(name, _items(source, name, field), strict, total)


def _kind(source: Any) -> str:
    """Return NumPy's letter for the kind of an array's or tensor's numbers; "" for other objects."""
    array = as_array(source)
    return "" if array is None else array.dtype.kind


def _is_row_of_ids(source: Any) -> bool:
    """Return whether an object is a single row of token ids: a list of ints, or an array [n] of integers."""
    array = as_array(source)
    if array is not None:
        return array.dtype.kind in "iu" and array.ndim < 2
    return isinstance(source, (list, tuple)) and bool(source) and all(type(item) is int for item in source)


# --- texts, records, paths ---


def _items(source: Iterable[Any], name: str, field: str | None) -> Callable[[Corpus], Iterator[Document]]:
    """Return the function that reads an iterable of texts, records, token ids or paths."""
    again = _again(source)

    def read(corpus: Corpus) -> Iterator[Document]:
        array = as_array(again())
        items = iter(source if array is None else array)
        head = list(islice(items, 1))
        if head and isinstance(head[0], os.PathLike):
            paths = [_path(item) for item in chain(head, items)]
            yield from read_files(corpus, expand_paths(paths), field)
            return
        if head and isinstance(head[0], str) and names_files(head[0]):
            raise InputError(
                f"a list of strings is a list of texts, and {head[0]!r} names an existing file: give pathlib's paths, "
                "[Path(name) for name in names]"
            )
        yield from from_records(corpus, name, _numbered(chain(head, items)), field)

    return read


def _again(source: Any) -> Callable[[], Any]:
    """Return a function that gives the source at each pass; for an iterator it raises InputError at the second."""
    passes = 0

    def again() -> Any:
        nonlocal passes
        passes += 1
        if passes > 1 and (isinstance(source, Iterator) or hasattr(source, "read_next_batch")):
            raise InputError(f"an iterator ({type(source).__name__}) is read once, and it has been: give a list")
        return source

    return again


def _path(item: Any) -> str:
    if not isinstance(item, os.PathLike):
        raise InputError(f"{type(item).__name__} among paths: only paths, or only texts, were expected")
    return str(os.fspath(item))


def _numbered(items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield items with their names, "text 1" and so on. Raises InputError for a path among them."""
    for i, item in enumerate(items, 1):
        if isinstance(item, os.PathLike):
            raise InputError(f"{type(item).__name__} among texts: only paths, or only texts, were expected")
        yield f"text {i}", python_value(item) if hasattr(item, "as_py") else item


def _frame(corpus: Corpus, name: str, frame: Any, field: str | None) -> Iterator[Document]:
    """Yield a document for each row of a pandas DataFrame."""
    names = [str(column) for column in frame.columns]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"{name} has two columns named {twice!r}: rename one")
    if field is None:
        texts = [n for n, column in zip(names, frame.columns, strict=True) if _holds_texts(frame[column])]
        field = choose_field(corpus, name, names, texts)
    wanted = (field, mask_field(field), field.partition(".")[0])
    kept = [column for name, column in zip(names, frame.columns, strict=True) if name in wanted]
    if not kept:
        raise no_field(name, field, names)
    rows = zip(*(frame[column] for column in kept), strict=True)
    records = ((f"row {i}", dict(zip(map(str, kept), row, strict=True))) for i, row in enumerate(rows))
    yield from from_records(corpus, name, records, field)


def _holds_texts(column: Any) -> bool:
    some = [value for value in column.head(LOOKED_AT) if not is_missing(value)]
    return bool(some) and all(isinstance(value, str) for value in some)


# --- datasets ---


def _is_dataset(source: Any) -> bool:
    """Return whether an object is a Hugging Face dataset, or a dictionary of its splits."""
    is_theirs = any(kind.__module__.partition(".")[0] == "datasets" for kind in type(source).__mro__)
    return is_theirs and hasattr(source, "column_names")


def _dataset(source: Any, field: str | None, strict: bool) -> Corpus:
    """Return the corpus of a Hugging Face dataset, or of all its splits in their order."""
    what = f"a {type(source).__name__}"
    splits = source if isinstance(source, Mapping) else {"": source}
    sizes = [len(split) if isinstance(split, Sized) else None for split in splits.values()]

    def read(corpus: Corpus) -> Iterator[Document]:
        for key, split in splits.items():
            name, lead = (f"{key!r} of {what}", f"{key}:") if key else (what, "row ")
            yield from from_records(corpus, name, _split(split, field, lead), field)

    total = None if None in sizes else sum(size for size in sizes if size is not None)
    return Corpus(what if total is None else f"{what} of {total:,} rows", read, strict, total)


def _split(split: Any, field: str | None, lead: str) -> Iterator[tuple[str, Any]]:
    """Yield the records of a split, only the columns that are read, as plain Python unless it has a transform."""
    names = split.column_names
    if not callable(getattr(split, "format", {}).get("format_kwargs", {}).get("transform")):
        split = split.with_format(None)
    if names:
        wanted = field or next((name for name in DEFAULTS if name in names), None)
        kept = [n for n in names if wanted and n in (wanted, mask_field(wanted), wanted.partition(".")[0])]
        split = split.select_columns(kept) if kept else split
    for i, record in enumerate(split):
        yield f"{lead}{i}", record
