"""Tables: Parquet and Arrow files, Arrow tables in memory and whatever hands itself over as one (polars, DuckDB)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document
from cutaway.text.corpus.fields import choose, documents, mask_of, no_field
from cutaway.text.corpus.refusals import undecoded

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 4096  # of a Parquet file, read at a time


def read_table(corpus: Corpus, path: Path, name: str, parquet: bool, field: str | None) -> Iterator[Document]:
    """Yield rows of a Parquet or Arrow file, a part at a time."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        if parquet:
            file = ParquetFile(path)
            field = chosen(corpus, name, file.schema_arrow, field)
            columns = [column for column in (field, mask_of(field)) if column in fields_of(file.schema_arrow)]
            parts: Iterable[pa.RecordBatch] = file.iter_batches(batch_size=ROWS, columns=columns)
        else:
            schema, parts = _arrow(path)
            field = chosen(corpus, name, schema, field)
        yield from _rows(corpus, f"{name}:", parts, field)
    except pa.ArrowException as error:
        what, reason = "parquet" if parquet else "arrow", str(error).splitlines()[0]
        raise InputError(f"{name} cannot be read as {what}: {reason}") from None


def read_stream(corpus: Corpus, name: str, source: Any, field: str | None) -> Iterator[Document]:
    """Yield rows of an object with Arrow's stream interface (`__arrow_c_stream__`)."""
    import pyarrow as pa

    with pa.RecordBatchReader.from_stream(source) as reader:
        yield from _rows(corpus, "row ", reader, chosen(corpus, name, reader.schema, field))


def _arrow(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return an Arrow file (Feather too), or a stream as Hugging Face datasets keep them."""
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        file = pa.ipc.open_file(source)
        return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)


def chosen(corpus: Corpus, name: str, schema: pa.Schema, field: str | None) -> str:
    """Return the column to read. Raises InputError, naming the columns, where it is missing or not clear."""
    columns = fields_of(schema)
    if field is None:
        return choose(corpus, name, list(columns), [column for column, kind in columns.items() if _is_text(kind)])
    if field not in columns:
        raise no_field(name, field, columns)
    return field


def fields_of(schema: Iterable[pa.Field], lead: str = "") -> dict[str, pa.DataType]:
    """Return columns by name, those of structs by their path."""
    import pyarrow as pa

    found: dict[str, pa.DataType] = {}
    for column in schema:
        if pa.types.is_struct(column.type):
            found |= fields_of(column.type, f"{lead}{column.name}.")
        else:
            found[f"{lead}{column.name}"] = column.type
    return found


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind in (pa.string_view(),))


def _rows(corpus: Corpus, lead: str, parts: Iterable[pa.RecordBatch], field: str) -> Iterator[Document]:
    row = 0
    for part in parts:
        values, masks = _column(part, field), _column(part, mask_of(field))
        for i in range(len(part)):
            where = f"{lead}{row}"
            try:
                mask = (value_of(masks[i]),) if masks is not None else ()
                yield from documents(corpus, where, value_of(values[i]), *mask)
            except UnicodeDecodeError as error:
                corpus.leave_out(undecoded(error), where)
            row += 1


def _column(part: pa.RecordBatch, field: str) -> Any:
    """Return a column by name, or that in a struct by its path; None where there is none."""
    from pyarrow import compute

    names = part.schema.names
    if field in names:
        return part.column(names.index(field))
    first, _, rest = field.partition(".")
    if not rest or first not in names or field not in fields_of(part.schema):
        return None
    return compute.struct_field(part.column(names.index(first)), rest.split("."))


def value_of(scalar: Any) -> Any:
    """Return an Arrow scalar as Python's own; integers in a list as an array, without an object for each."""
    import pyarrow as pa

    kind = scalar.type
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type):
        values = scalar.values
        if values is not None and not values.null_count:
            return values.to_numpy(zero_copy_only=False)
    return scalar.as_py()
