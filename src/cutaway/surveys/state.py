"""TODO."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from cutaway.errors import InputError
from cutaway.stats.base import load_arrays, save_arrays
from cutaway.text import batches as packing
from cutaway.text.batches import Batch
from cutaway.text.corpus import Corpus

if TYPE_CHECKING:
    from cutaway.model.model import Model


@dataclass
class _Progress:
    batches: int = 0
    documents: int = 0
    tokens: int = 0
    read: str = ""  # a hash of the batches seen

    def count(self, batch: Batch) -> None:
        self.batches += 1
        self.read = _digest(self.read, batch)
        self.tokens += batch.size
        self.documents += sum(row.offset + row.front == 0 for row in batch.rows)  # every document has one first window


def _digest(before: str, batch: Batch) -> str:
    keys = json.dumps([(row.document, row.offset, len(row.ids)) for row in batch.rows])
    ids = batch.tokens.ids.numpy().tobytes()
    return hashlib.blake2b(before.encode() + keys.encode() + ids, digest_size=8).hexdigest()


def _new(batches: Iterator[Batch], done: _Progress, state: Any) -> Iterator[Batch]:
    """The batches that a saved state has not seen. Raises InputError for a corpus that does not begin with the rest."""
    read = ""
    for batch in islice(batches, done.batches):
        read = _digest(read, batch)
    if read != done.read:
        raise _another(state, "corpus")
    yield from batches


def _another(path: Any, differs: str) -> InputError:
    return InputError(f"{path} is the state of another survey (another {differs}): give another file, or remove it")


def _about(model: Model, corpus: Corpus, sinks: Mapping[str, Any], batch_tokens: int, bos: bool) -> dict[str, Any]:
    # Without the address that Python's own repr gives: it is another in every process.
    described = {name: re.sub(" at 0x[0-9a-f]+", "", repr(sink)) for name, sink in sinks.items()}
    return {
        "what": "survey",
        "model": model.fresh_fingerprint(),
        "edits": model.active_edits,
        "corpus": corpus.name,
        "batch_tokens": batch_tokens,
        "bos": bos,
        "group": packing.GROUP,
        "sinks": hashlib.sha256(repr(sorted(described.items())).encode()).hexdigest()[:16],
    }


def _save(path: Any, about: dict[str, Any], sinks: Mapping[str, Any], progress: _Progress) -> None:
    arrays = {f"{name}|{key}": array for name, sink in sinks.items() for key, array in sink.state().items()}
    save_arrays(path, arrays, {**about, "progress": vars(progress)})


def _resume(path: Any, about: dict[str, Any], sinks: Mapping[str, Any], progress: _Progress) -> None:
    arrays, found = load_arrays(path)
    done = found.pop("progress", None)
    if found != about or done is None:
        raise _another(path, ", ".join(key for key in about if found.get(key) != about[key]) or "progress")
    for name, sink in sinks.items():
        sink.load_state({k.removeprefix(f"{name}|"): a for k, a in arrays.items() if k.startswith(f"{name}|")})
    for key, value in done.items():
        setattr(progress, key, value)
