"""Define a corpus: documents, read anew at each pass, and what a pass left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutaway.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMED = 20  # problems that are named; the others are only counted


@dataclass(frozen=True, slots=True)
class Document:
    """A text, or the token ids of a text.

    A `stream` holds the ids of many texts, one after another, with the end-of-text token between them;
    cutaway.text.batches, which knows the tokenizer, splits it.
    """

    id: str  # stable: the name of the file, with the record's number where it holds several
    text: str = ""
    ids: NDArray[Any] | None = field(default=None, compare=False)  # integers [n]; None for a text
    stream: bool = False


@dataclass
class Problems:
    """The records that a pass over a corpus left out: how many of each kind, and the first few by name."""

    counts: dict[str, int] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str) -> None:
        """Count one record that was left out."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(self.named) < NAMED:
            self.named.append(f"{where}: {kind}")

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        if not self:
            return "no problems"
        if sum(self.counts.values()) == 1:
            return f"left out: {self.named[0]}"
        counts = ", ".join(f"{n:,} {kind}" for kind, n in self.counts.items())
        return f"left out: {counts} (first: {'; '.join(self.named[:3])})"


class Corpus:
    """Documents that are read again at each pass.

    `name` says what was given, `problems` what the last pass left out. The choices of a reader (which column is the
    text, which files of a folder are not read) and the problems of the first whole pass are logged as warnings, once.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Corpus], Iterator[Document]],
        strict: bool = False,
        total: int | None = None,
        origin: str = "...",
    ) -> None:
        self.name = name
        self.strict = strict
        self.total = total  # the number of documents, where it is known before reading
        self.origin = origin  # the Python that opens it
        self.read = 0  # documents so far, in the current pass
        self.problems = Problems()
        self._read = read
        self._logged: set[str] = set()

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents of one pass. Raises InputError for a corpus without a single document."""
        self.problems, self.read = Problems(), 0
        for document in self._read(self):
            if not (document.text.strip() if document.ids is None else len(document.ids)):
                self.leave_out("empty document", document.id)
                continue
            self.read += 1
            yield document
        if not self.read:
            raise InputError(f"corpus {self.name} holds no text ({self.problems})")
        if self.problems:
            self.log_once(f"corpus {self.name}: {self.problems}")

    def leave_out(self, kind: str, where: str) -> None:
        """Count a record that is not a document; raise InputError where the corpus is strict."""
        if self.strict:
            raise InputError(f"{where}: {kind}")
        self.problems.add(kind, where)

    def log_once(self, message: str) -> None:
        """Log a message, unless this corpus has logged it before."""
        if message not in self._logged:
            self._logged.add(message)
            logging.getLogger("cutaway.text.corpus").warning(message)

    def __repr__(self) -> str:
        return f"Corpus({self.name})"
