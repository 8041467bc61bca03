"""One file -> its documents: what it is, by its ending and by what it begins with."""

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
from cutaway.text.corpus.arrays import read_array
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.packing import HEAD, PACKED, ZIP, endings, packing_of, unpacked
from cutaway.text.corpus.records import encoding_of, read_csv, read_json
from cutaway.text.corpus.refusals import BINARY, ENCRYPTED, NESTED, TABLE, refusal, undecoded, zipped_refusal
from cutaway.text.corpus.tables import read_table

TABLES = (".parquet", ".arrow", ".feather", ".ipc")
TABLE_MAGIC = (b"PAR1", b"ARROW1")
RECORDS = (".jsonl", ".ndjson")
CSV = {".csv": None, ".tsv": "\t"}
ARRAYS = (".bin", ".npy")


def read_file(corpus: Corpus, path: Path, name: str, field: str | None) -> Iterator[Document]:
    """Raises InputError for a file that cannot be opened; what holds no text is left out and named."""
    ending, packing = endings(path.name)
    try:
        if packing and ending in (*TABLES, *ARRAYS):
            raise InputError(f"{name}: {TABLE}")
        with path.open("rb") as stream:
            head = stream.peek(HEAD)[:HEAD]
            table = ending in TABLES or head.startswith(TABLE_MAGIC)
            if not table and (ending not in ARRAYS or head.startswith(ZIP)):
                yield from _read(corpus, name, ending, stream, packing, field)
                return
        if table:
            parquet = head.startswith(b"PAR1") or (ending == ".parquet" and not head.startswith(b"ARROW1"))
            yield from read_table(corpus, path, name, parquet, field)
        else:
            yield from read_array(corpus, path, name)
    except UnicodeDecodeError as error:
        corpus.leave_out(undecoded(error), f"{name} (byte {error.start})")
    except (OSError, EOFError, zipfile.BadZipFile, lzma.LZMAError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise InputError(f"{name} cannot be read: {reason}") from None


def _read(
    corpus: Corpus, name: str, ending: str, stream: io.BufferedReader, packing: str, field: str | None, depth: int = 0
) -> Iterator[Document]:
    """Yield documents of a stream of bytes, which may be packed and may be an archive."""
    head = stream.peek(HEAD)[:HEAD]
    if found := PACKED.get(packing) or packing_of(head):
        if depth > 1:
            corpus.leave_out(NESTED, name)
            return
        with unpacked(stream, found) as inner:
            yield from _read(corpus, name, ending, inner, "", field, depth + 1)
    elif head.startswith(ZIP):
        yield from _archive(corpus, name, stream, field, depth)
    elif what := refusal(head, ending):
        corpus.leave_out(what, name)
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


def _archive(corpus: Corpus, name: str, stream: io.BufferedReader, field: str | None, depth: int) -> Iterator[Document]:
    if depth:
        corpus.leave_out(NESTED, name)
        return
    with zipfile.ZipFile(stream) as archive:
        if what := zipped_refusal(archive.namelist()):
            corpus.leave_out(what, name)
            return
        for member in archive.namelist():
            if member.endswith("/") or member.startswith("__MACOSX/"):
                continue
            where, (ending, packing) = f"{name}:{member}", endings(member)
            if archive.getinfo(member).flag_bits & 1:
                corpus.leave_out(ENCRYPTED, where)
                continue
            with archive.open(member) as opened:
                inner: Any = io.BufferedReader(cast("io.RawIOBase", opened))
                try:
                    yield from _read(corpus, where, ending, inner, packing, field, depth + 1)
                except UnicodeDecodeError as error:
                    corpus.leave_out(undecoded(error), f"{where} (byte {error.start})")
