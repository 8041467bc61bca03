"""Read tables and arrays: Parquet and Arrow, objects with Arrow's stream interface, and token ids in .bin and .npy.

Arrays of token ids are mapped into memory. nanoGPT's data/*/prepare.py writes uint16 ids and nothing else; llm.c
(dev/data/data_common.py) puts 256 numbers of 32 bits in front, and the first of them tells the width of the ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.file_types import decoding_refusal
from cutaway.text.corpus.records import choose_field, from_value, mask_field, no_field

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

ROWS = 4096  # of a Parquet file that are read at a time
HEADER = 1024  # bytes of llm.c's header
LLM_C = {20240520: "<u2", 20240801: "<u4"}  # its first number -> the type of the ids
NOT_BIN = "not token ids: a .bin file holds uint16 numbers, as nanoGPT writes them"
NOT_NPY = "not token ids: a .npy file holds integers, a row [pos] or rows [batch, pos]"
PICKLE = b"\x80"  # the first byte of an old PyTorch file


# --- tables ---


def read_table(corpus: Corpus, path: Path, name: str, parquet: bool, field: str | None) -> Iterator[Document]:
    """Yield a document for each row of a Parquet or Arrow file, reading a part at a time."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        if parquet:
            file = ParquetFile(path)
            field = column_to_read(corpus, name, file.schema_arrow, field)
            columns = [column for column in (field, mask_field(field)) if column in column_types(file.schema_arrow)]
            parts: Iterable[pa.RecordBatch] = file.iter_batches(batch_size=ROWS, columns=columns)
        else:
            schema, parts = _arrow(path)
            field = column_to_read(corpus, name, schema, field)
        yield from _rows(corpus, f"{name}:", parts, field)
    except pa.ArrowException as error:
        kind, reason = "parquet" if parquet else "arrow", str(error).splitlines()[0]
        raise InputError(f"{name} cannot be read as {kind}: {reason}") from None


def read_stream(corpus: Corpus, name: str, source: Any, field: str | None) -> Iterator[Document]:
    """Yield a document for each row of an object with Arrow's stream interface (`__arrow_c_stream__`)."""
    import pyarrow as pa

    with pa.RecordBatchReader.from_stream(source) as reader:
        yield from _rows(corpus, "row ", reader, column_to_read(corpus, name, reader.schema, field))


def _arrow(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema and the parts of an Arrow file (also Feather), or of a stream, as datasets are kept in."""
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        file = pa.ipc.open_file(source)
        return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)


def column_to_read(corpus: Corpus, name: str, schema: pa.Schema, field: str | None) -> str:
    """Return the column to read. Raises InputError, naming the columns, where it is missing or ambiguous."""
    columns = column_types(schema)
    if field is None:
        return choose_field(corpus, name, list(columns), [column for column, kind in columns.items() if _is_text(kind)])
    if field not in columns:
        raise no_field(name, field, columns)
    return field


def column_types(schema: Iterable[pa.Field], lead: str = "") -> dict[str, pa.DataType]:
    """Return the types of columns by name; columns inside structs by their path."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {}
    for column in schema:
        if pa.types.is_struct(column.type):
            types |= column_types(column.type, f"{lead}{column.name}.")
        else:
            types[f"{lead}{column.name}"] = column.type
    return types


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind in (pa.string_view(),))


def _rows(corpus: Corpus, lead: str, parts: Iterable[pa.RecordBatch], field: str) -> Iterator[Document]:
    row = 0
    for part in parts:
        values, masks = _column(part, field), _column(part, mask_field(field))
        for i in range(len(part)):
            where = f"{lead}{row}"
            try:
                mask = (python_value(masks[i]),) if masks is not None else ()
                yield from from_value(corpus, where, python_value(values[i]), *mask)
            except UnicodeDecodeError as error:
                corpus.leave_out(decoding_refusal(error), where)
            row += 1


def _column(part: pa.RecordBatch, field: str) -> Any:
    """Return a column by name, or one inside a struct by its path; None where there is none."""
    from pyarrow import compute

    names = part.schema.names
    if field in names:
        return part.column(names.index(field))
    first, _, rest = field.partition(".")
    if not rest or first not in names or field not in column_types(part.schema):
        return None
    return compute.struct_field(part.column(names.index(first)), rest.split("."))


def python_value(scalar: Any) -> Any:
    """Return an Arrow scalar as a Python object, and a list of integers as an array, which is faster."""
    import pyarrow as pa

    kind = scalar.type
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type):
        values = scalar.values
        if values is not None and not values.null_count:
            return values.to_numpy(zero_copy_only=False)
    return scalar.as_py()


# --- arrays of token ids ---


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
