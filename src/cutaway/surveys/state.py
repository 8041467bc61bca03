"""Save a survey's state to a file, and resume from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cutaway.errors import InputError
from cutaway.files import expand_user
from cutaway.stats.base import load_arrays, save_arrays
from cutaway.text import batches as packing
from cutaway.text.batches import Batch
from cutaway.text.corpus import Corpus

if TYPE_CHECKING:
    from cutaway.model.model import Model

StatePath: TypeAlias = "str | os.PathLike[str] | None"  # a file to resume from; None for no state


@dataclass
class Progress:
    """The amount of a corpus that a survey has read."""

    batches: int = 0
    documents: int = 0
    tokens: int = 0
    read: str = ""  # a hash of the batches seen

    def count(self, batch: Batch) -> None:
        """Count one batch."""
        self.batches += 1
        self.read = _digest(self.read, batch)
        self.tokens += batch.size
        self.documents += sum(row.offset + row.front == 0 for row in batch.rows)  # every document has one first window


def _digest(before: str, batch: Batch) -> str:
    """Return a hash of the batches so far, given the hash of all but the last."""
    keys = json.dumps([(row.document, row.offset, len(row.ids)) for row in batch.rows])
    ids = batch.tokens.ids.numpy().tobytes()
    return hashlib.blake2b(before.encode() + keys.encode() + ids, digest_size=8).hexdigest()


def unseen(batches: Iterator[Batch], done: Progress, path: Any) -> Iterator[Batch]:
    """Yield the batches that a saved state has not seen.

    Raises InputError for a corpus that does not begin with the batches that the state has seen.
    """
    read = ""
    for batch in islice(batches, done.batches):
        read = _digest(read, batch)
    if read != done.read:
        raise _another_survey(path, "corpus")
    yield from batches


def _another_survey(path: Any, differs: str) -> InputError:
    """Return the error for a state of another survey."""
    return InputError(f"{path} is the state of another survey (another {differs}): give another file, or remove it")


def identity(model: Model, corpus: Corpus, sinks: Mapping[str, Any], batch_tokens: int, bos: bool) -> dict[str, Any]:
    """Return what a saved state must have in common with a survey that resumes from it.

    It hashes the model's weights anew. Raises InputError for a sink that does not describe its settings.
    """
    described = sorted((name, _described(name, sink)) for name, sink in sinks.items())
    return {
        "what": "survey",
        "model": model.fresh_fingerprint(),
        "edits": model.active_edits,
        "corpus": corpus.name,
        "batch_tokens": batch_tokens,
        "bos": bos,
        "group": packing.GROUP,
        "sinks": hashlib.sha256(repr(described).encode()).hexdigest()[:16],
    }


def _described(name: str, sink: Any) -> str:
    """Return the class and the settings of a sink. Raises InputError for one that does not describe its settings."""
    settings = sink.settings() if hasattr(sink, "settings") else None
    try:
        if isinstance(settings, dict):
            return f"{type(sink).__module__}.{type(sink).__qualname__} {json.dumps(settings, sort_keys=True)}"
    except TypeError:  # something that JSON does not hold
        pass
    expected = "a dict of plain values was expected from it, to tell a saved state from those of other sinks"
    if settings is None:
        raise InputError(f"the sink {name!r} ({type(sink).__name__}) has no settings(): {expected}")
    raise InputError(f"the sink {name!r} ({type(sink).__name__}) has settings {str(settings)[:60]}: {expected}")


def state_of(path: StatePath, first_pass: str) -> Path | None:
    """Return the file for the state of the first of two passes: "run.means.npz" beside "run.npz"."""
    if path is None:
        return None
    whole = expand_user(path)
    return whole.with_name(f"{whole.stem}.{first_pass}{whole.suffix}")


def save(path: Any, survey: dict[str, Any], sinks: Mapping[str, Any], progress: Progress) -> None:
    """Write the state of a survey, given its identity. Raises OutputError for a path that cannot be written."""
    arrays = {f"{name}|{key}": array for name, sink in sinks.items() for key, array in sink.state().items()}
    save_arrays(path, arrays, {**survey, "progress": vars(progress)})


def resume(path: Any, survey: dict[str, Any], sinks: Mapping[str, Any], progress: Progress) -> None:
    """Load a saved state into sinks and progress. Raises InputError for the state of a survey of another identity."""
    arrays, saved = load_arrays(path)
    done = saved.pop("progress", None)
    if saved != survey or done is None:
        raise _another_survey(path, ", ".join(key for key in survey if saved.get(key) != survey[key]) or "progress")
    for name, sink in sinks.items():
        sink.load_state({k.removeprefix(f"{name}|"): a for k, a in arrays.items() if k.startswith(f"{name}|")})
    for key, value in done.items():
        setattr(progress, key, value)
