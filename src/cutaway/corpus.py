"""Corpora: where documents come from.

    corpus = open_corpus("notes/*.txt")                    files, folders, globs; .jsonl .parquet .arrow; .gz .zst
    corpus = open_corpus("wiki.parquet", field="body")     the field that holds the text
    corpus = open_corpus(["one text", "another"])          any iterable of texts, or a mapping from ids to texts
    corpus = open_corpus([Path("a.txt"), Path("b.md")])    several paths
    corpus = open_corpus("hf:wikitext/wikitext-103-raw-v1:train")    a Hugging Face dataset (extra: corpora)
    corpus = open_corpus()                                 the ten documents that ship with the package

Reading streams: documents come one at a time. Records that hold no text are left out, counted and named in
`corpus.problems` (with `strict=True` the first one is an error).
"""

from __future__ import annotations

import glob
import importlib.resources
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cutaway.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 4096  # of a Parquet file, read at a time
NAMED = 20  # problems that are named; the rest are counted
TABLES = (".parquet", ".arrow", ".feather", ".ipc")
RECORDS = (".jsonl", ".ndjson")
PACKED = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class Document:
    id: str  # stable: the file, with the record's number where it holds several
    text: str


@dataclass
class Problems:
    """What a pass over a corpus left out: how many of each kind, and the first few by name."""

    counts: dict[str, int] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(self.named) < NAMED:
            self.named.append(f"{where}: {kind}")

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        if not self:
            return "no problems"
        counts = ", ".join(f"{n:,} {kind}" for kind, n in self.counts.items())
        return f"left out: {counts} (first: {'; '.join(self.named[:3])})"


Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, str] | Iterable[str | Document] | Corpus | None"


class Corpus:
    """Documents, read anew at each pass. `problems` tells what the last pass left out; `name` what was given."""

    def __init__(
        self,
        name: str,
        read: Callable[[Corpus], Iterator[Document]],
        strict: bool = False,
        total: int | None = None,
    ) -> None:
        self.name = name
        self.strict = strict
        self.total = total  # documents, where that is known before reading
        self.read = 0  # documents of the pass under way
        self.problems = Problems()
        self._read = read

    def __iter__(self) -> Iterator[Document]:
        """Raises InputError for a corpus without a single document."""
        self.problems, self.read = Problems(), 0
        for document in self._read(self):
            if not document.text.strip():
                self.leave_out("empty document", document.id)
                continue
            self.read += 1
            yield document
        if not self.read:
            raise InputError(f"corpus {self.name} holds no text ({self.problems})")

    def leave_out(self, kind: str, where: str) -> None:
        """Count a record that is no document; with `strict` raise InputError."""
        if self.strict:
            raise InputError(f"{where}: {kind}")
        self.problems.add(kind, where)

    def __repr__(self) -> str:
        return f"Corpus({self.name})"


def open_corpus(source: Source | Sequence[str] = None, field: str | None = None, strict: bool = False) -> Corpus:
    """A corpus from files, texts or a Hugging Face dataset.

    Args:
        source: a path, folder or glob, or a list of pathlib's paths (strings in a list are texts);
            "hf:NAME[/CONFIG][:SPLIT]"; texts or Documents; a mapping from ids to texts; a Corpus; None for the bundled
            documents.
        field: of a JSON line, Parquet or Arrow record: where its text is ("text" by default).
        strict: the first record that holds no text is an error.

    Raises InputError for a source that matches nothing. Files are opened when they are read.
    """
    if isinstance(source, Corpus):
        return source
    if source is None:
        return Corpus("bundled", lambda _: iter(bundled()), strict, total=10)
    if isinstance(source, (str, os.PathLike)):
        return files([os.fspath(source)], field, strict)
    if isinstance(source, Mapping):
        pairs = dict(source)
        return Corpus(f"{len(pairs)} texts", lambda c: _texts(c, pairs.items()), strict, len(pairs))
    if isinstance(source, Sequence) and source and all(isinstance(item, os.PathLike) for item in source):
        return files([os.fspath(item) for item in source], field, strict)
    items = source

    def numbered(corpus: Corpus) -> Iterator[Document]:
        pairs = ((d.id, d.text) if isinstance(d, Document) else (f"text {i}", d) for i, d in enumerate(items, 1))
        return _texts(corpus, pairs)

    total = len(items) if isinstance(items, Sequence) else None
    return Corpus("an iterable" if total is None else f"{total} texts", numbered, strict, total)


def files(sources: Sequence[str], field: str | None = None, strict: bool = False) -> Corpus:
    """Text files, folders, globs, record files and "hf:" datasets, each file once, in the order given.

    Raises InputError for a source that matches nothing.
    """
    parts: list[tuple[str, Path | None]] = []
    seen = set()
    for source in sources:
        if source.startswith("hf:"):
            parts.append((source, None))
            continue
        for path in _expand(source):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                parts.append((_name(path), path))

    def read(corpus: Corpus) -> Iterator[Document]:
        for name, path in parts:
            yield from _read_dataset(corpus, name, field) if path is None else _read_file(corpus, path, field)

    single = all(path and _endings(path)[0] not in (*RECORDS, *TABLES) for _, path in parts)
    return Corpus(", ".join(sources), read, strict, len(parts) if single else None)


def bundled() -> list[Document]:
    """The ten documents that the bundled model never saw, in the order of their names."""
    folder = Path(str(importlib.resources.files("cutaway"))) / "bundled" / "documents"
    return [Document(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))]


def _texts(corpus: Corpus, pairs: Iterable[tuple[str, Any]]) -> Iterator[Document]:
    for key, text in pairs:
        if text is None:
            corpus.leave_out("null where text was expected", str(key))
        elif not isinstance(text, str):
            corpus.leave_out(f"{type(text).__name__} where text was expected", str(key))
        elif not _is_unicode(text):
            corpus.leave_out("no Unicode text (half of a surrogate pair)", str(key))
        else:
            yield Document(str(key), text)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expand(source: str) -> list[Path]:
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            found = [p for p in path.rglob("*") if _endings(p)[0] in (".txt", ".md", *RECORDS, *TABLES)]
        else:
            # Path.glob takes no absolute patterns.
            found = [Path(p) for p in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        found = sorted(p for p in found if p.is_file())
    except OSError as error:
        raise InputError(f"corpus {source!r} cannot be read: {error.strerror}") from None
    if not found:
        what = "no text or record files" if path.is_dir() else "no file there"
        raise InputError(f"corpus {source!r}: {what}; a file, a folder or a glob was expected")
    return found


def _name(path: Path) -> str:
    """The path as text, also where its bytes are none."""
    return os.fsencode(path).decode("utf-8", "replace")


def _endings(path: Path) -> tuple[str, str]:
    """A file's ending, and that of its compression: (".jsonl", ".gz")."""
    ending = path.suffix.lower()
    if ending in PACKED:
        return Path(path.stem).suffix.lower(), ending
    return ending, ""


def _read_file(corpus: Corpus, path: Path, field: str | None) -> Iterator[Document]:
    """Raises InputError for a file that cannot be opened; a bad record in it is left out and named."""
    ending, packing = _endings(path)
    try:
        if ending in TABLES:
            if packing:
                raise InputError(f"{_name(path)}: tables are read unpacked; unpack it first")
            yield from _read_table(corpus, path, field or "text")
            return
        with _open(path, packing) as stream:
            if ending in RECORDS:
                yield from _read_lines(corpus, _name(path), stream, field or "text")
            else:
                raw = stream.read().removeprefix(b"\xef\xbb\xbf")
                yield Document(_name(path), raw.decode())
    except UnicodeDecodeError as error:
        corpus.leave_out(f"no UTF-8 text (byte {error.start})", _name(path))
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise InputError(f"{_name(path)} cannot be read: {reason}") from None


def _open(path: Path, packing: str) -> Any:
    if not packing:
        return path.open("rb")
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), PACKED[packing]))


def _read_lines(corpus: Corpus, name: str, stream: Iterable[bytes], field: str) -> Iterator[Document]:
    for number, line in enumerate(stream, 1):
        where = f"{name}:{number}"
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError as error:
            corpus.leave_out(f"no UTF-8 text (byte {error.start})", where)
            continue
        except (ValueError, RecursionError):
            corpus.leave_out("no JSON", where)
            continue
        if not isinstance(record, dict) or field not in record:
            corpus.leave_out(f"no field {field!r}", where)
        else:
            yield from _texts(corpus, [(where, record[field])])


def _read_table(corpus: Corpus, path: Path, field: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        if path.suffix.lower() == ".parquet":
            file = parquet.ParquetFile(path)
            schema, parts = file.schema_arrow, file.iter_batches(batch_size=ROWS, columns=[field])
        else:
            schema, parts = _arrow(path)
        if field not in schema.names:
            raise InputError(f"{_name(path)} has no field {field!r}: it has {', '.join(schema.names)}; name one")
        row = 0
        for part in parts:
            column = part.column(part.schema.get_field_index(field))
            for value in column:
                where = f"{_name(path)}:{row}"
                try:
                    yield from _texts(corpus, [(where, value.as_py())])
                except UnicodeDecodeError as error:
                    corpus.leave_out(f"no UTF-8 text (byte {error.start})", where)
                row += 1
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{_name(path)} cannot be read as {path.suffix.lstrip('.')}: {reason}") from None


def _arrow(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """An Arrow file (Feather too), or a stream as Hugging Face datasets keep them."""
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        file = pa.ipc.open_file(source)
        return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)


def _read_dataset(corpus: Corpus, name: str, field: str | None) -> Iterator[Document]:
    """`hf:NAME[/CONFIG][:SPLIT]` or `hf:OWNER/NAME[/CONFIG][:SPLIT]`, streamed; NAME may be a folder on disk."""
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
        raise InputError(f"corpus {name!r} is not to be had: {reason}")
    wanted = field or "text"
    for i, record in enumerate(_until_it_breaks(name, records)):
        if wanted not in record:
            raise InputError(f"corpus {name!r} has no field {wanted!r}: it has {', '.join(record)}; name one")
        yield from _texts(corpus, [(f"{name}:{i}", record[wanted])])


def _until_it_breaks(name: str, records: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from records
    except Exception as error:
        raise InputError(f"corpus {name!r} cannot be read on: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _datasets_of(where: str) -> list[tuple[str, str | None]]:
    """What `where` may mean, (repository, configuration), the likeliest first."""
    if "//" in where:  # for folders, whose configuration could be one more of their parts
        repository, _, config = where.partition("//")
        return [(repository, config or None)]
    parts = where.split("/")
    if len(parts) == 2 and not Path(where).is_dir():
        return [(parts[0], parts[1]), (where, None)]
    if len(parts) == 3 and not Path(where).is_dir():
        return [(f"{parts[0]}/{parts[1]}", parts[2])]
    return [(where, None)]
