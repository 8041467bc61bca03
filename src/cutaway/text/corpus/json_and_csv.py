"""Read records from text files: JSON lines, JSON, CSV and TSV.

Lines are streamed; the array of a .json file is read at once.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.file_types import decoding_refusal
from cutaway.text.corpus.records import from_mapping, from_records

DELIMITERS = ",;\t|"
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # after UTF-32's, which begin like these


def encoding_of(head: bytes) -> str:
    """Return the encoding that a byte order mark says; UTF-8 without one."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")


# --- JSON ---


def read_json(
    corpus: Corpus, name: str, stream: io.BufferedReader, field: str | None, lines: bool
) -> Iterator[Document]:
    """Yield the documents of JSON lines, or of a file that is one array or object, whatever its name says.

    A single object is one record where the file's name says `lines`, and a mapping where it does not.
    """
    numbered = ((number, line) for number, line in enumerate(_lines(stream), 1) if line.strip())
    head = list(islice(numbered, 2))
    first = _parsed(head[0][1]) if head else None
    whole = None
    if len(head) == 1 and (_is_array(first) or (isinstance(first, Mapping) and not lines)):
        whole = first
    elif head and first is None and (not lines or head[0][1].lstrip().startswith(b"[")):
        head += numbered
        whole = _parsed(b"".join(line for _, line in head))
    if whole is None:
        yield from from_records(corpus, name, _records(corpus, name, chain(head, numbered)), field)
    elif isinstance(whole, list):
        yield from from_records(corpus, name, ((f"{name}:{i}", record) for i, record in enumerate(whole)), field)
    else:
        yield from from_mapping(corpus, name, whole, field, f"{name}:")


def _is_array(value: Any) -> bool:
    """Return whether the value of a line can be a whole file: an array of records or texts, but not of token ids."""
    return isinstance(value, list) and isinstance(next(iter(value), ""), (dict, str))


def _lines(stream: io.BufferedReader) -> Iterable[bytes]:
    """Return the lines of a stream in UTF-8, without a byte order mark."""
    encoding = encoding_of(stream.peek(4))
    if encoding == "utf-8":
        return stream
    if encoding == "utf-8-sig":
        stream.read(3)
        return stream
    return _recoded(io.TextIOWrapper(stream, encoding, newline="\n"))


def _recoded(text: io.TextIOWrapper) -> Iterator[bytes]:
    try:
        for line in text:
            yield line.encode()
    finally:
        text.detach()


def _parsed(raw: bytes) -> Any:
    """Return the value of JSON; None for bytes that are not JSON."""
    try:
        return json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None


def _records(corpus: Corpus, name: str, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[str, Any]]:
    for number, line in lines:
        where = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            yield where, json.loads(line.decode())
        except UnicodeDecodeError as error:
            corpus.leave_out(decoding_refusal(error), where)
        except (ValueError, RecursionError):
            corpus.leave_out("not JSON", where)


# --- CSV ---


def read_csv(
    corpus: Corpus, name: str, stream: io.BufferedReader, field: str | None, delimiter: str | None
) -> Iterator[Document]:
    """Yield a document for each row; the first row names the columns, and rows count from 0, as in pandas."""
    # The limit holds for the whole process, and a document is easily longer than its 131,072 characters.
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(stream, encoding_of(stream.peek(4)), "surrogateescape", newline="")
    first = next(text, "")
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # as Excel writes it
        delimiter, first = first[4], next(text, "")
    rows = csv.reader(chain([first], text), delimiter=delimiter or _delimiter(first))
    try:
        names = next(rows, [])
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise InputError(f"{name} has two columns named {twice!r}: rename one")
        yield from from_records(corpus, name, _rows(corpus, name, names, rows), field, _is_text)
    except csv.Error as error:
        raise InputError(f"{name} cannot be read as CSV: {error} (line {rows.line_num})") from None
    finally:
        text.detach()


def _delimiter(first: str) -> str:
    """Return the delimiter that splits the first line into the most columns."""
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([first], delimiter=delimiter), [])))


def _rows(corpus: Corpus, name: str, names: list[str], rows: Iterable[list[str]]) -> Iterator[tuple[str, Any]]:
    kept = (row for row in rows if row)
    for i, row in enumerate(kept):
        where = f"{name}:{i}"
        if len(row) > len(names):
            corpus.leave_out("more fields than the first line names", where)
            continue
        try:
            "".join(row).encode()
        except UnicodeEncodeError:
            raw = "".join(row).encode("utf-8", "surrogateescape")
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                corpus.leave_out(decoding_refusal(error), where)
                continue
        yield where, dict(zip(names, row, strict=False))


def _is_text(field: Any) -> bool:
    """Return whether a field of a CSV file, where all are strings, is anything but a number."""
    try:
        float(field)
    except ValueError:
        return True
    return False
