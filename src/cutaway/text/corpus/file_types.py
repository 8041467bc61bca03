"""Tell what a file is by its ending and its first bytes: compressed, a table, or one that holds no text.

docs/corpora.md lists the kinds of file that are refused, with the reasons.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = 512  # bytes that tell what a file is

TABLES = (".parquet", ".arrow", ".feather", ".ipc")
TABLE_MAGIC = (b"PAR1", b"ARROW1")
RECORDS = (".jsonl", ".ndjson")
CSV = {".csv": None, ".tsv": "\t"}  # ending -> delimiter, where the ending tells it
ARRAYS = (".bin", ".npy")

COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
ZIP = b"PK\x03\x04"

# --- what is refused, as users read it ---

HTML = "HTML, whose tags would be read as text: convert it to text"
REFUSED_ENDINGS = {
    ".html": HTML,
    ".htm": HTML,
    ".ipynb": "a notebook, whose cells are JSON: convert it, jupyter nbconvert --to markdown",
    ".xlsx": "an Excel file: save it as CSV",
    ".xls": "an Excel file: save it as CSV",
    ".pkl": "a pickle, which may run code: save it as Parquet or JSON lines",
    ".pickle": "a pickle, which may run code: save it as Parquet or JSON lines",
}
REFUSED_BEGINNINGS = {
    b"%PDF": "a PDF: convert it, pdftotext",
    b"\x89PNG": "a picture (PNG), not text",
    b"\xff\xd8\xff": "a picture (JPEG), not text",
    b"GIF8": "a picture (GIF), not text",
    b"\x7fELF": "a program, not text",
    b"SQLite format 3\x00": "an SQLite database: export the column as CSV",
    b"{\\rtf": "RTF, whose markup would be read as text: convert it to text",
    b"\xd0\xcf\x11\xe0": "an old Office document (.doc, .xls): save it as text or CSV",
    b"\x89HDF": "an HDF5 file: save it as Parquet or JSON lines",
    b"\x93NUMPY": "a NumPy array: name it .npy, and it is token ids",
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer, not the file itself: git lfs pull",
}
REFUSED_ARCHIVES = {  # a file in a .zip archive -> the kind of document that such an archive is
    "[Content_Types].xml": "an Office document (.docx, .xlsx): save it as text or CSV",
    "META-INF/container.xml": "an e-book (.epub): convert it to text",
    "data.pkl": "a PyTorch file, not text",
    "mimetype": "an OpenDocument or e-book: save it as text or CSV",
}
TABLE = "tables and arrays are read unpacked: unpack it first"
TAR = "a tar archive: unpack it"
BINARY = "binary, not text (or UTF-16 without a byte order mark)"
NOT_UTF8 = "not UTF-8 text, perhaps Latin-1: convert it, iconv -f LATIN1 -t UTF-8"
ENCRYPTED = "encrypted: unpack it"
NESTED = "an archive in an archive: unpack it"


def refusal(head: bytes, ending: str) -> str | None:
    """Say what a file is, where its beginning or its ending shows that it holds no text; None for others."""
    for beginning, kind in REFUSED_BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    return TAR if head[257:262] == b"ustar" else REFUSED_ENDINGS.get(ending)


def archive_refusal(members: Iterable[str]) -> str | None:
    """Say what a .zip archive is, where its members show that it is another program's document; None for others."""
    names = set(members)
    names |= {name.partition("/")[2] for name in names}  # also inside the folder of an archive that has one
    return next((kind for sign, kind in REFUSED_ARCHIVES.items() if sign in names), None)


def decoding_refusal(error: UnicodeDecodeError) -> str:
    """Say what bytes are that cannot be decoded: binary data, or text in another encoding."""
    if b"\0" in error.object[: error.start + 1024]:
        return BINARY
    return NOT_UTF8


# --- compression ---


def endings(name: str) -> tuple[str, str]:
    """Return a file's ending and that of its compression: (".jsonl", ".gz"), or (".jsonl", "")."""
    path = Path(name)
    ending = path.suffix.lower()
    if ending in COMPRESSED:
        return Path(path.stem).suffix.lower(), ending
    return ending, ""


def compression_of(head: bytes) -> str:
    """Return the compression of a file that begins like this, or "" for none that is known."""
    return next((compression for magic, compression in MAGIC.items() if head.startswith(magic)), "")


def decompressed(stream: io.BufferedReader, compression: str) -> io.BufferedReader:
    """Return the stream of bytes that a compressed one holds."""
    import bz2
    import lzma

    import pyarrow as pa

    opened: Any
    if compression == "bz2":
        opened = bz2.BZ2File(stream)
    elif compression == "xz":
        opened = lzma.LZMAFile(stream)  # noqa: SIM115 - closed together with the returned stream
    else:
        opened = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), compression)
    return io.BufferedReader(opened)
