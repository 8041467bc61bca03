"""Turn records and mappings into documents: find the field with the text, or the token ids, and check its values.

A field is named by its key, or by a path of keys with dots ("data.text"). Without a name it is "text", else
"input_ids", else the only field that holds strings, and a log message says which; where several hold strings, the
error names them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULTS = ("text", "input_ids")
IDS, MASK = "input_ids", "attention_mask"
LOOKED_AT = 100  # records that are looked at before a field is chosen
SHOWN = 30  # fields that an error names
MISSING = object()


def from_records(
    corpus: Corpus,
    name: str,
    records: Iterable[tuple[str, Any]],
    field: str | None,
    is_text: Callable[[Any], bool] = lambda value: isinstance(value, str),
) -> Iterator[Document]:
    """Yield the documents of (where, record) pairs. A record is a mapping, a text, token ids or a Document.

    `is_text` says which values can be texts, where a field has to be chosen.

    Raises InputError where no field can be chosen, and where not a single record has the named field.
    """
    waiting: list[tuple[str, Any]] = []
    names: dict[str, None] = {}  # the fields of the records that lack the named one, in order
    with_field = 0  # records that have the named field

    def read(where: str, record: Any) -> Iterator[Document]:
        nonlocal with_field
        if isinstance(record, Document):
            yield record
        elif not isinstance(record, Mapping):
            yield from from_value(corpus, where, record)
        elif (value := value_at(record, field or "")) is MISSING:
            names.update(dict.fromkeys(field_names(record)[: 2 * SHOWN] if len(names) < 2 * SHOWN else ()))
            corpus.leave_out(f"no field {field!r}", where)
        else:
            with_field += 1
            mask = mask_field(field or "")
            if mask and isinstance(value, str) and (value := _list_in(value)) is None:
                corpus.leave_out("not a list of token ids", where)
                return
            yield from from_value(corpus, where, value, value_at(record, mask) if mask else MISSING)

    for where, record in records:
        if field is None and (waiting or isinstance(record, Mapping)):
            waiting.append((where, record))
            obvious = next((name for name in DEFAULTS if isinstance(record, Mapping) and name in record), None)
            if not obvious and len(waiting) < LOOKED_AT:
                continue
            field = obvious or _choose_among(corpus, name, waiting, is_text)
            for pair in waiting:
                yield from read(*pair)
            waiting = []
        else:
            yield from read(where, record)
    if waiting:
        field = _choose_among(corpus, name, waiting, is_text)
        for pair in waiting:
            yield from read(*pair)
    if names and not with_field:
        raise no_field(name, field or "", names)


def from_mapping(
    corpus: Corpus, name: str, source: Mapping[Any, Any], field: str | None, lead: str = ""
) -> Iterator[Document]:
    """Yield the documents of a mapping, by the kind of its values.

    - strings: texts by id;
    - a string at the field, and others: one record;
    - lists or arrays of one length, one of them texts or token ids (`{"text": [...], "label": [...]}`, and what a
      tokenizer returns): columns;
    - lists of integers: token ids by id;
    - mappings: records by id, or columns of values by row where the field is a key (as pandas' to_json writes).

    Raises InputError, naming a key, for any other mapping.
    """
    values = {key: value for key, value in source.items() if not is_missing(value)}
    if IDS in source:
        yield from from_records(corpus, name, _rows(name, _tokenizer_columns(source), lead or "row "), field or IDS)
    elif all(isinstance(value, (str, Document)) for value in values.values()):
        if "text" in source and len(source) > 1:
            raise InputError(
                f"{name} has a key 'text' and others: one record goes in a list, [record]; texts by id need other ids"
            )
        yield from from_records(corpus, name, ((f"{lead}{key}", value) for key, value in source.items()), field)
    elif isinstance(values.get(field or "text"), str):
        yield from from_records(corpus, name, [(f"{lead or 'row '}0", source)], field)
    elif all(isinstance(value, Mapping) for value in values.values()):
        if (field or "text") in source:
            source = source[field or "text"]
        yield from from_records(corpus, name, ((f"{lead}{key}", value) for key, value in source.items()), field)
    elif all(ids_in(value) is not None for value in values.values()):
        yield from from_records(corpus, name, ((f"{lead}{key}", value) for key, value in source.items()), field)
    elif all(_is_column(value) for value in source.values()):
        yield from from_records(corpus, name, _rows(name, source, lead or "row "), field)
    else:
        key, value = next((k, v) for k, v in values.items() if not isinstance(v, str))
        raise InputError(f"{name}: texts by id were expected, and {str(key)[:60]!r} holds {type(value).__name__}")


def from_value(corpus: Corpus, where: str, value: Any, mask: Any = MISSING) -> Iterator[Document]:
    """Yield the document that a value is; leave out and count any other value."""
    if is_missing(value):
        corpus.leave_out("null where text was expected", where)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            corpus.leave_out("not Unicode text (half of a surrogate pair)", where)
        else:
            yield Document(where, str(value))
    elif (ids := ids_in(value)) is not None:
        kept = None if is_missing(mask) else ids_in(mask)
        if kept is not None and len(kept) != len(ids):
            corpus.leave_out(f"{MASK} of another length than {IDS}", where)
            return
        yield Document(where, ids=ids if kept is None else ids[kept != 0])
    else:
        corpus.leave_out(f"{type(value).__name__} where text was expected", where)


# --- fields ---


def _choose_among(corpus: Corpus, name: str, records: Sequence[tuple[str, Any]], is_text: Callable[[Any], bool]) -> str:
    """Choose the field to read by the values in some records."""
    fields: dict[str, list[bool]] = {}  # name -> for each of its values, whether it is a text
    for _, record in records:
        if isinstance(record, Mapping):
            for key in field_names(record):
                value = value_at(record, key)
                known = [] if is_missing(value) or value == "" else [is_text(value)]
                fields.setdefault(key, []).extend(known)
    return choose_field(corpus, name, list(fields), [key for key, known in fields.items() if known and all(known)])


def choose_field(corpus: Corpus, name: str, names: Sequence[str], texts: Sequence[str]) -> str:
    """Return the field to read where none was named, of all `names` and those that hold `texts`.

    Raises InputError, naming the fields, where that is ambiguous.
    """
    for wanted in DEFAULTS:
        if wanted in names:
            return wanted
    if len(texts) != 1:
        raise no_field(name, "text", names)
    corpus.log_once(f"{name} has no field 'text': its only field of texts, {texts[0]!r}, is read")
    return texts[0]


def no_field(name: str, field: str, names: Iterable[str]) -> InputError:
    """Return the error for a field that is missing, naming those that there are."""
    known = list(names)
    more = f" and {len(known) - SHOWN:,} more" if len(known) > SHOWN else ""
    shown = ", ".join(known[:SHOWN]) or "none"
    return InputError(f"{name} has no field {field!r}: it has {shown}{more}; name one with field=")


def field_names(record: Mapping[Any, Any], lead: str = "") -> list[str]:
    """Return the fields of a record; fields of records inside it by their path."""
    names = []
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            names += field_names(value, f"{lead}{key}.")
        else:
            names.append(f"{lead}{key}")
    return names


def value_at(record: Mapping[Any, Any], field: str) -> Any:
    """Return the value of a field, by its key or its path of keys; MISSING where there is none."""
    if field in record:
        return record[field]
    value: Any = record
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def mask_field(field: str) -> str:
    """Return the field with the mask of padded token ids, beside their own field; "" for other fields."""
    before, dot, last = field.rpartition(".")
    return f"{before}{dot}{MASK}" if last == IDS else ""


# --- columns ---


def _tokenizer_columns(source: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the ids and the mask that a tokenizer returned, for one text or several, with a row for each text."""
    columns: dict[str, Any] = {}
    for key in (IDS, MASK):
        if key in source and not is_missing(source[key]):
            array = as_array(source[key])
            value = source[key] if array is None else array
            is_row = isinstance(value, np.ndarray) and value.dtype != object and value.ndim == 1
            columns[key] = [value] if is_row or _is_row_of_ids(value) else value
    return columns


def _is_row_of_ids(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], (int, np.integer))


def _is_column(value: Any) -> bool:
    return isinstance(value, Sized) and hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, Mapping))


def _rows(name: str, columns: Mapping[Any, Any], lead: str) -> Iterator[tuple[str, Any]]:
    """Yield a record for each row of columns. Raises InputError for columns of different lengths."""
    lengths = {str(key): len(value) for key, value in columns.items()}
    if len(set(lengths.values())) > 1:
        some = ", ".join(f"{key} {n:,}" for key, n in list(lengths.items())[:5])
        raise InputError(f"{name}: columns of one length were expected, and they have {some}")
    for i, row in enumerate(zip(*columns.values(), strict=True)):
        yield f"{lead}{i}", dict(zip(map(str, columns), row, strict=True))


# --- values ---


def _list_in(value: str) -> Any:
    """Return the list of token ids in a CSV file's text, such as "[464, 1175]"; None for another text."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return None
    return parsed if isinstance(parsed, list) else None


def is_missing(value: Any) -> bool:
    """Return whether a value stands for none: None, NaN, pandas' NA."""
    if value is None or value is MISSING:
        return True
    return (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def ids_in(value: Any) -> NDArray[Any] | None:
    """Return the token ids [n] of a list, array or tensor of integers, also of shape [1, n]; None for other values."""
    if isinstance(value, (list, tuple)):
        if value and not all(isinstance(item, (int, np.integer)) for item in value):
            return ids_in(value[0]) if len(value) == 1 and not isinstance(value[0], str) else None
        ids = np.array(value) if value else np.empty(0, dtype=np.int64)
    else:
        array = as_array(value)
        if array is None:
            return None
        ids = array[0] if array.ndim == 2 and len(array) == 1 else array
    return ids if ids.ndim == 1 and ids.dtype.kind in "iu" else None


def as_array(value: Any) -> NDArray[Any] | None:
    """Return a NumPy array as it is, or a torch tensor as an array; None for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        array: NDArray[Any] = value.detach().cpu().numpy()
        return array
    return None
