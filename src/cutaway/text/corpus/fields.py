"""From records to documents: which field is the text, or the token ids, and what its values may be.

A field is named by its key, or by a path of keys with dots ("data.text"). Where none is named it is "text", else
"input_ids", else the only one that holds strings, which is then said; with several the error names them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.errors import InputError
from cutaway.text.corpus.documents import Corpus, Document

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULTS = ("text", "input_ids")
IDS, MASK = "input_ids", "attention_mask"
LOOKED_AT = 100  # records, before a field is chosen
SHOWN = 30  # fields that an error names
MISSING = object()


def from_records(
    corpus: Corpus,
    name: str,
    records: Iterable[tuple[str, Any]],
    field: str | None,
    is_text: Callable[[Any], bool] = lambda value: isinstance(value, str),
) -> Iterator[Document]:
    """Yield documents of (where, record) pairs. A record is a mapping, a text, token ids or a Document.

    `is_text` tells which values may be texts, where a field has to be chosen.

    Raises InputError where no field can be chosen, and where not one record has the field that was named.
    """
    waiting: list[tuple[str, Any]] = []
    names: dict[str, None] = {}  # of the fields of records without the wanted one
    found = 0

    def read(where: str, record: Any) -> Iterator[Document]:
        nonlocal found
        if isinstance(record, Document):
            yield record
        elif not isinstance(record, Mapping):
            yield from documents(corpus, where, record)
        elif (value := dig(record, field or "")) is MISSING:
            names.update(dict.fromkeys(names_of(record)[: 2 * SHOWN] if len(names) < 2 * SHOWN else ()))
            corpus.leave_out(f"no field {field!r}", where)
        else:
            found += 1
            mask = mask_of(field or "")
            if mask and isinstance(value, str) and (value := _spelled(value)) is None:
                corpus.leave_out("no list of token ids", where)
                return
            yield from documents(corpus, where, value, dig(record, mask) if mask else MISSING)

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
    if names and not found:
        raise no_field(name, field or "", names)


def _choose_among(corpus: Corpus, name: str, records: Sequence[tuple[str, Any]], is_text: Callable[[Any], bool]) -> str:
    fields: dict[str, list[bool]] = {}  # name -> whether each of its values is a text
    for _, record in records:
        if isinstance(record, Mapping):
            for key in names_of(record):
                value = dig(record, key)
                known = [] if is_missing(value) or value == "" else [is_text(value)]
                fields.setdefault(key, []).extend(known)
    return choose(corpus, name, list(fields), [key for key, known in fields.items() if known and all(known)])


def choose(corpus: Corpus, name: str, names: Sequence[str], texts: Sequence[str]) -> str:
    """Return the field to read where none was named. Raises InputError, naming the fields, where that is not clear."""
    for wanted in DEFAULTS:
        if wanted in names:
            return wanted
    if len(texts) != 1:
        raise no_field(name, "text", names)
    corpus.say(f"{name} has no field 'text': its only field of texts, {texts[0]!r}, is read")
    return texts[0]


def no_field(name: str, field: str, names: Iterable[str]) -> InputError:
    known = list(names)
    more = f" and {len(known) - SHOWN:,} more" if len(known) > SHOWN else ""
    shown = ", ".join(known[:SHOWN]) or "none"
    return InputError(f"{name} has no field {field!r}: it has {shown}{more}; name one with field=")


def names_of(record: Mapping[Any, Any], lead: str = "") -> list[str]:
    """Return the fields of a record, those of records in it by their path."""
    found = []
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            found += names_of(value, f"{lead}{key}.")
        else:
            found.append(f"{lead}{key}")
    return found


def dig(record: Mapping[Any, Any], field: str) -> Any:
    """Return the value at a field, by its key or its path of keys; MISSING where there is none."""
    if field in record:
        return record[field]
    value: Any = record
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def _spelled(value: str) -> Any:
    """Return token ids that a CSV file holds as text, "[464, 1175]"; None for another text."""
    try:
        found = json.loads(value)
    except ValueError:
        return None
    return found if isinstance(found, list) else None


def mask_of(field: str) -> str:
    """Return where the mask of padded token ids stands, beside them."""
    before, dot, last = field.rpartition(".")
    return f"{before}{dot}{MASK}" if last == IDS else ""


def documents(corpus: Corpus, where: str, value: Any, mask: Any = MISSING) -> Iterator[Document]:
    """Yield the document that a value is, or none: what it is instead is counted."""
    if is_missing(value):
        corpus.leave_out("null where text was expected", where)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            corpus.leave_out("no Unicode text (half of a surrogate pair)", where)
        else:
            yield Document(where, str(value))
    elif (ids := ids_of(value)) is not None:
        kept = None if is_missing(mask) else ids_of(mask)
        if kept is not None and len(kept) != len(ids):
            corpus.leave_out(f"{MASK} of another length than {IDS}", where)
            return
        yield Document(where, ids=ids if kept is None else ids[kept != 0])
    else:
        corpus.leave_out(f"{type(value).__name__} where text was expected", where)


def is_missing(value: Any) -> bool:
    """Return whether a value is one of the many that say there is none: None, NaN, pandas' NA."""
    if value is None or value is MISSING:
        return True
    return (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")


def ids_of(value: Any) -> NDArray[Any] | None:
    """Return the token ids [n] of a list, array or tensor of integers, also of shape [1, n]; None for other values."""
    if isinstance(value, (list, tuple)):
        if value and not all(isinstance(item, (int, np.integer)) for item in value):
            return ids_of(value[0]) if len(value) == 1 and not isinstance(value[0], str) else None
        found = np.array(value) if value else np.empty(0, dtype=np.int64)
    else:
        array = as_array(value)
        if array is None:
            return None
        found = array[0] if array.ndim == 2 and len(array) == 1 else array
    return found if found.ndim == 1 and found.dtype.kind in "iu" else None


def as_array(value: Any) -> NDArray[Any] | None:
    """Return a NumPy array or torch tensor as the first; None for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        array: NDArray[Any] = value.detach().cpu().numpy()
        return array
    return None
