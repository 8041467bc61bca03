"""Define sinks: what a survey feeds, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cutaway.errors import InputError
from cutaway.stats.base import Keys, State, Statistic
from cutaway.text.batches import Batch, Row

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run

IDS = "ids"  # the token ids themselves, as if they were a site


@dataclass(frozen=True)
class Seen:
    """One batch as a sink is given it: its run, and which tokens count."""

    batch: Batch
    run: Run | None  # None where no sink wants a site
    mask: Tensor  # batch pos; 1 at tokens, 0 at padding
    keys: Keys  # of the tokens that count, in row-major order
    later: Tensor  # batch pos; as mask, without position 0 of every window
    later_keys: Keys

    @classmethod
    def from_batch(cls, model: Model, batch: Batch) -> Seen:
        """Return a batch that has not been run, with its masks and keys."""
        mask = batch.tokens.mask.to(model.device)
        keys = keys_of(batch)
        later = mask.clone()
        later[:, 0] = 0
        starts = np.cumsum([0, *(len(row.ids) for row in batch.rows[:-1])])
        later_keys = keys[np.setdiff1d(np.arange(len(keys)), starts, assume_unique=True)]
        return cls(batch, None, mask, keys, later, later_keys)


class Sink(Protocol):
    """Anything that a survey can feed.

    A sink of a single site that has a method `take(values, seen)` is streamed: it is given the site's values
    [batch, pos, ...] as they arise, in place of a run that keeps them, and its `add` is not called.
    """

    @property
    def sites(self) -> Sequence[str]:
        """Return patterns of the sites to capture; there may be none."""

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
        if repr(self) != repr(other):
            raise InputError(f"{self} cannot merge with {other}: site and statistics must be the same")
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
