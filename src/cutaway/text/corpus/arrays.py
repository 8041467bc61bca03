"""Read token ids from arrays: nanoGPT's and llm.c's .bin files and NumPy's .npy, mapped into memory.

nanoGPT's data/*/prepare.py writes uint16 ids and nothing else; llm.c (dev/data/data_common.py) puts 256 numbers of 32
bits in front, and the first of them tells the width of the ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.text.corpus.documents import Corpus, Document

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER = 1024  # bytes of llm.c's header
LLM_C = {20240520: "<u2", 20240801: "<u4"}  # its first number -> the type of the ids
NOT_BIN = "not token ids: a .bin file holds uint16 numbers, as nanoGPT writes them"
NOT_NPY = "not token ids: a .npy file holds integers, a row [pos] or rows [batch, pos]"
PICKLE = b"\x80"  # the first byte of an old PyTorch file


def read_array(corpus: Corpus, path: Path, name: str) -> Iterator[Document]:
    """Yield one stream of ids, or a document for each row of ids."""
    if path.suffix.lower() == ".npy":
        yield from _npy(corpus, path, name)
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER)
    first = int.from_bytes(head[:4], "little")
    kind, start = (LLM_C[first], HEADER) if first in LLM_C and size >= HEADER else ("<u2", 0)
    if (size - start) % np.dtype(kind).itemsize or (head[:1] == PICKLE and head[1:2] in b"\x02\x03\x04\x05"):
        corpus.leave_out(NOT_BIN, name)
        return
    ids: NDArray[Any] = np.empty(0, dtype=kind)
    if size > start:
        ids = np.memmap(path, dtype=kind, mode="r", offset=start)
    yield Document(name, ids=ids, stream=True)


def _npy(corpus: Corpus, path: Path, name: str) -> Iterator[Document]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        corpus.leave_out(NOT_NPY, name)
        return
    if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2):
        corpus.leave_out(NOT_NPY, name)
    elif ids.ndim == 1:
        yield Document(name, ids=ids, stream=True)
    else:
        for i, row in enumerate(ids):
            yield Document(f"{name}:{i}", ids=row)
