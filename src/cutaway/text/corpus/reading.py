"""Read one file into documents, by what its ending and its first bytes say that it is."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.file_types import (
    ARRAYS,
    BINARY,
    COMPRESSED,
    CSV,
    ENCRYPTED,
    HEAD,
    NESTED,
    RECORDS,
    TABLE,
    TABLE_MAGIC,
    TABLES,
    ZIP,
    archive_refusal,
    compression_of,
    decoding_refusal,
    decompressed,
    endings,
    refusal,
)
from cutaway.text.corpus.json_and_csv import encoding_of, read_csv, read_json
from cutaway.text.corpus.tables_and_arrays import read_array, read_table


def read_file(corpus: Corpus, path: Path, name: str, field: str | None) -> Iterator[Document]:
    """Yield the documents of a file; one that holds no text is left out and named.

    Raises InputError for a file that cannot be opened.
    """
    ending, compression = endings(path.name)
    try:
        if compression and ending in (*TABLES, *ARRAYS):
            raise InputError(f"{name}: {TABLE}")
        with path.open("rb") as stream:
            head = stream.peek(HEAD)[:HEAD]
            is_table = ending in TABLES or head.startswith(TABLE_MAGIC)
            if not is_table and (ending not in ARRAYS or head.startswith(ZIP)):
                yield from _read_stream(corpus, name, ending, stream, compression, field)
                return
        if is_table:
            is_parquet = head.startswith(b"PAR1") or (ending == ".parquet" and not head.startswith(b"ARROW1"))
            yield from read_table(corpus, path, name, is_parquet, field)
        else:
            yield from read_array(corpus, path, name)
    except UnicodeDecodeError as error:
        corpus.leave_out(decoding_refusal(error), f"{name} (byte {error.start})")
    except (OSError, EOFError, zipfile.BadZipFile, lzma.LZMAError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise InputError(f"{name} cannot be read: {reason}") from None


def _read_stream(
    corpus: Corpus,
    name: str,
    ending: str,
    stream: io.BufferedReader,
    compression: str,
    field: str | None,
    depth: int = 0,
) -> Iterator[Document]:
    """Yield the documents of a stream of bytes, which may be compressed or an archive."""
    head = stream.peek(HEAD)[:HEAD]
    if kind := COMPRESSED.get(compression) or compression_of(head):
        if depth > 1:
            corpus.leave_out(NESTED, name)
            return
        with decompressed(stream, kind) as inner:
            yield from _read_stream(corpus, name, ending, inner, "", field, depth + 1)
    elif head.startswith(ZIP):
        yield from _read_archive(corpus, name, stream, field, depth)
    elif refused := refusal(head, ending):
        corpus.leave_out(refused, name)
    elif head.startswith(TABLE_MAGIC) or ending in (*TABLES, *ARRAYS):
        corpus.leave_out(TABLE, name)
    elif encoding_of(head) == "utf-8" and b"\0" in head:
        corpus.leave_out(BINARY, name)
    elif ending in CSV:
        yield from read_csv(corpus, name, stream, field, CSV[ending])
    elif ending in (".json", *RECORDS):
        yield from read_json(corpus, name, stream, field, ending in RECORDS)
    else:
        raw, encoding = stream.read(), encoding_of(head)
        if encoding.startswith("utf-8") and b"\0" in raw:
            corpus.leave_out(BINARY, name)
        else:
            yield Document(name, raw.removeprefix(BOM_UTF8).decode(encoding.removesuffix("-sig")))


def _read_archive(
    corpus: Corpus, name: str, stream: io.BufferedReader, field: str | None, depth: int
) -> Iterator[Document]:
    """Yield the documents of every file in a .zip archive, in its order."""
    if depth:
        corpus.leave_out(NESTED, name)
        return
    with zipfile.ZipFile(stream) as archive:
        if refused := archive_refusal(archive.namelist()):
            corpus.leave_out(refused, name)
            return
        for member in archive.namelist():
            if member.endswith("/") or member.startswith("__MACOSX/"):
                continue
            where, (ending, compression) = f"{name}:{member}", endings(member)
            if archive.getinfo(member).flag_bits & 1:
                corpus.leave_out(ENCRYPTED, where)
                continue
            with archive.open(member) as opened:
                inner: Any = io.BufferedReader(cast("io.RawIOBase", opened))
                try:
                    yield from _read_stream(corpus, where, ending, inner, compression, field, depth + 1)
                except UnicodeDecodeError as error:
                    corpus.leave_out(decoding_refusal(error), f"{where} (byte {error.start})")
