"""Files as the streams of bytes in them: packed or not, by their ending or by what they begin with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

HEAD = 512  # bytes that tell what a file is
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
ZIP = b"PK\x03\x04"


def endings(name: str) -> tuple[str, str]:
    """Return a file's ending, and that of its compression: (".jsonl", ".gz")."""
    path = Path(name)
    ending = path.suffix.lower()
    if ending in PACKED:
        return Path(path.stem).suffix.lower(), ending
    return ending, ""


def packing_of(head: bytes) -> str:
    """Return what packed a file that begins like this, "" for nothing known."""
    return next((packing for magic, packing in MAGIC.items() if head.startswith(magic)), "")


def unpacked(stream: io.BufferedReader, packing: str) -> io.BufferedReader:
    import bz2
    import lzma

    import pyarrow as pa

    opened: Any
    if packing == "bz2":
        opened = bz2.BZ2File(stream)
    elif packing == "xz":
        opened = lzma.LZMAFile(stream)  # noqa: SIM115 - closed with what is returned
    else:
        opened = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), packing)
    return io.BufferedReader(opened)
