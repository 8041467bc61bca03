"""What a file that holds no text is, by its ending or by what it begins with. docs/corpora.md gives the reasons."""

from __future__ import annotations

from collections.abc import Iterable

HTML = "HTML, whose tags would be read as text: convert it to text"
ENDINGS = {
    ".html": HTML,
    ".htm": HTML,
    ".ipynb": "a notebook, whose cells are JSON: convert it, jupyter nbconvert --to markdown",
    ".xlsx": "an Excel file: save it as CSV",
    ".xls": "an Excel file: save it as CSV",
    ".pkl": "a pickle, which may run code: save it as Parquet or JSON lines",
    ".pickle": "a pickle, which may run code: save it as Parquet or JSON lines",
}
BEGINNINGS = {
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
ZIPPED = {  # a file in a .zip archive -> what such an archive is
    "[Content_Types].xml": "an Office document (.docx, .xlsx): save it as text or CSV",
    "META-INF/container.xml": "an e-book (.epub): convert it to text",
    "data.pkl": "a PyTorch file, not text",
    "mimetype": "an OpenDocument or e-book: save it as text or CSV",
}
TABLE = "tables and arrays are read unpacked: unpack it first"
TAR = "a tar archive: unpack it"
BINARY = "binary, not text (or UTF-16 without a byte order mark)"
NOT_UTF8 = "no UTF-8 text, perhaps Latin-1: convert it, iconv -f LATIN1 -t UTF-8"
ENCRYPTED = "encrypted: unpack it"
NESTED = "an archive in an archive: unpack it"


def refusal(head: bytes, ending: str) -> str | None:
    """Return what a file is, where it is known to hold no text."""
    for beginning, what in BEGINNINGS.items():
        if head.startswith(beginning):
            return what
    return TAR if head[257:262] == b"ustar" else ENDINGS.get(ending)


def zipped_refusal(members: Iterable[str]) -> str | None:
    """Return what an archive is, where it is another program's document."""
    found = set(members)
    return next((what for sign, what in ZIPPED.items() if sign in found or _in_folder(sign, found)), None)


def _in_folder(name: str, members: Iterable[str]) -> bool:
    return any(member.partition("/")[2] == name for member in members)


def undecoded(error: UnicodeDecodeError) -> str:
    """Return what bytes are that cannot be decoded."""
    if b"\0" in error.object[: error.start + 1024]:
        return BINARY
    return NOT_UTF8
