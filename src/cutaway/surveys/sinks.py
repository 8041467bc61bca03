"""Define sinks: what a survey feeds, batch by batch.

A sink holds no model: it is given the model with each batch, so that it can be saved, or sent to another process. It
describes its settings, by which a saved state is told from that of another survey.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutaway.errors import InputError
from cutaway.stats.base import Keys, State, Statistic, from_numpy, to_numpy
from cutaway.text.batches import Batch, Row

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run

IDS = "ids"  # the token ids themselves, as if they were a site


@dataclass(frozen=True)
class Seen:
    """One batch as a sink is given it: the model, its run, and which tokens count."""

    model: Model
    batch: Batch
    run: Run | None  # None where no sink wants a site
    mask: Tensor  # batch pos; 1 at tokens, 0 at padding
    keys: Keys  # of the tokens that count, in row-major order
    later: Tensor  # batch pos; as mask, without position 0 of every window
    later_keys: Keys
    # A sink that works long on a batch calls this with the share of the batch that it has done since the last call.
    advance: Callable[[float], object] = field(default=lambda _: None, repr=False)

    @classmethod
    def from_batch(cls, model: Model, batch: Batch) -> Seen:
        """Return a batch that has not been run, with its masks and keys."""
        mask = batch.tokens.mask.to(model.device)
        keys = keys_of(batch)
        later = mask.clone()
        later[:, 0] = 0
        starts = np.cumsum([0, *(len(row.ids) for row in batch.rows[:-1])])
        later_keys = keys[np.setdiff1d(np.arange(len(keys)), starts, assume_unique=True)]
        return cls(model, batch, None, mask, keys, later, later_keys)


class Sink(Protocol):
    """Anything that a survey can feed.

    A sink of a single site that has a method `take(values, seen)` is streamed: it is given the site's values
    [batch, pos, ...] as they arise, in place of a run that keeps them, and its `add` is not called.
    """

    @property
    def sites(self) -> Sequence[str]:
        """Return patterns of the sites to capture; there may be none."""

    def settings(self) -> dict[str, Any]:
        """Return what it counts by, as plain values that JSON holds; needed only where a state is saved."""

    def add(self, seen: Seen) -> None:
        """Count one batch."""

    def merge(self, other: Any) -> None:
        """Add what another sink of the same kind and settings has counted."""

    def empty(self) -> Any:
        """Return a new sink with the same settings that has seen nothing."""

    def state(self) -> State:
        """Return everything counted, as plain arrays."""

    def load_state(self, state: State) -> None:
        """Replace what was counted by a state that state() returned."""


class SiteStatistics:
    """A sink with statistics of the values at one site (or of the token ids, at "ids").

    `of` is a function that makes what is counted from the values [batch, pos, ...]. `first=False` leaves out position 0
    of every window, whose states are unlike all others.
    """

    def __init__(
        self,
        site: str,
        statistics: Sequence[Statistic],
        of: Callable[[Tensor], Tensor] | None = None,
        first: bool = True,
    ) -> None:
        self.site, self.of, self.first = site, of, first
        self.statistics: dict[str, Statistic] = {}
        for statistic in statistics:
            name, n = statistic.kind, 2
            while name in self.statistics:
                name, n = f"{statistic.kind} {n}", n + 1
            self.statistics[name] = statistic.empty()

    @property
    def sites(self) -> Sequence[str]:
        """Return the site to capture, or none for the token ids."""
        return () if self.site == IDS else (self.site,)

    def settings(self) -> dict[str, Any]:
        """Return the site, the statistics with their settings, the function and `first`."""
        statistics = [[statistic.kind, statistic.settings()] for statistic in self.statistics.values()]
        return {"site": self.site, "statistics": statistics, "of": function_name(self.of), "first": self.first}

    def __getitem__(self, kind: str) -> Statistic:
        return self.statistics[kind]

    def add(self, seen: Seen) -> None:
        """Count one batch's values."""
        if self.site == IDS or seen.run is None:
            self.take(seen.batch.tokens.ids.to(seen.mask.device), seen)
        else:
            self.take(seen.run[self.site], seen)

    def take(self, values: Tensor, seen: Seen) -> None:
        """Count one batch's values as they arise."""
        values = values if self.of is None else self.of(values)
        mask, keys = (seen.mask, seen.keys) if self.first else (seen.later, seen.later_keys)
        if self.site == IDS:
            values = values.unsqueeze(-1)
        for statistic in self.statistics.values():
            statistic.add(values, mask, keys)

    def merge(self, other: SiteStatistics) -> None:
        """Add what another sink has counted. Raises InputError for one with another site or other statistics."""
        check_alike(self, other, "site and statistics")
        for name, statistic in self.statistics.items():
            statistic.merge(other.statistics[name])

    def empty(self) -> SiteStatistics:
        """Return a new sink with the same settings that has seen nothing."""
        return SiteStatistics(self.site, list(self.statistics.values()), self.of, self.first)

    def state(self) -> State:
        """Return everything counted, as plain arrays."""
        return {f"{n}/{key}": a for n, s in self.statistics.items() for key, a in s.state().items()}

    def load_state(self, state: State) -> None:
        """Replace what was counted by a state that state() returned."""
        for name, statistic in self.statistics.items():
            mine = {k.removeprefix(f"{name}/"): a for k, a in state.items() if k.startswith(f"{name}/")}
            statistic.load_state(mine)

    def __repr__(self) -> str:
        of = "" if self.of is None else f", of={getattr(self.of, '__qualname__', self.of)}"
        return f"SiteStatistics({self.site!r}, {list(self.statistics.values())}{of}, first={self.first})"


class PerDocument(ABC):
    """A sink of sums by document. A subclass says which sites it wants, and what a batch adds to which document."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}  # of all documents that were seen, by their numbers
        self._sums: dict[int, Tensor] = {}  # float64, on the CPU

    @property
    @abstractmethod
    def sites(self) -> Sequence[str]:
        """Return patterns of the sites to capture."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings, which the class takes as arguments."""

    @abstractmethod
    def parts(self, seen: Seen) -> Iterable[tuple[int, Tensor]]:
        """Return what one batch adds: numbers of documents, each with values of one shape, float64 on the CPU."""

    def add(self, seen: Seen) -> None:
        """Add one batch to its documents."""
        self.put(seen.batch, self.parts(seen))

    def put(self, batch: Batch, parts: Iterable[tuple[int, Tensor]]) -> None:
        """Add values to the sums of their documents."""
        self.names.update({row.number: row.document for row in batch.rows})
        for number, values in parts:
            self._put(number, values)

    def _put(self, number: int, values: Tensor) -> None:
        """Add values to the sums of one document."""
        self._sums[number] = self._sums[number] + values if number in self._sums else values

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of the documents that have sums, in order."""
        return sorted(self._sums)

    def sums(self) -> Tensor:
        """Return the sums of the documents in the order of `numbers`, [document, ...]; there must be one."""
        return torch.stack([self._sums[number] for number in self.numbers])

    def merge(self, other: PerDocument) -> None:
        """Add what another sink has counted. Raises InputError for one with other settings."""
        check_alike(self, other, "settings")
        self.names |= other.names
        for number, values in other._sums.items():
            self._put(number, values)

    def empty(self) -> Self:
        """Return a new sink with the same settings that has seen nothing."""
        return type(self)(**self.settings())

    def state(self) -> State:
        """Return names and sums, as plain arrays."""
        seen = sorted(self.names)
        return {
            "seen": np.array(seen, dtype=np.int64),
            "names": np.array([self.names[number] for number in seen], dtype=np.str_),
            "documents": np.array(self.numbers, dtype=np.int64),
            "sums": to_numpy(self.sums()) if self._sums else np.empty(0),
        }

    def load_state(self, state: State) -> None:
        """Replace what was counted by a state that state() returned."""
        self.names = dict(zip(state["seen"].tolist(), state["names"].tolist(), strict=True))
        self._sums = dict(zip(state["documents"].tolist(), from_numpy(state["sums"]), strict=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"


def check_alike(sink: Any, other: Any, what: str) -> None:
    """Raise InputError for a sink to merge with that has other settings, whose names are `what`."""
    if type(sink) is not type(other) or sink.settings() != other.settings():
        raise InputError(f"{sink} cannot merge with {other}: {what} must be the same")


def digest(*tensors: Tensor) -> str:
    """Return a hash of tensors, for settings that are too large to be written out."""
    arrays = [to_numpy(tensor.detach().cpu()) for tensor in tensors]
    parts = [f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes() for array in arrays]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def function_name(function: Callable[..., Any] | None) -> str | None:
    """Return the name of a function, or the repr of an object that says what it computes."""
    if function is None:
        return None
    name = getattr(function, "__qualname__", None)
    return repr(function) if name is None else f"{function.__module__}.{name}"


def keys_of(batch: Batch) -> Keys:
    """Return the document and token offset of every token of a batch, in row-major order.

    A BOS, which is not a token of the document, has a negative offset of its own: -1 minus the offset of the token
    after it.
    """

    def offsets(row: Row) -> NDArray[np.int64]:
        numbers = np.arange(row.offset, row.offset + len(row.ids))
        numbers[: row.front] = -2 - numbers[: row.front]
        return numbers

    lengths = [len(row.ids) for row in batch.rows]
    documents = np.repeat(np.array([row.document for row in batch.rows]), lengths)
    return Keys(documents, np.concatenate([offsets(row) for row in batch.rows]))
