"""Count whole numbers (token ids), and values between fixed edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.stats.base import Keys, State, Statistic, from_numpy, to_numpy


@dataclass(eq=True)
class Counts(Statistic):
    """Counts of how often each of 0..size-1 occurs. result() is int64 [size]."""

    kind: ClassVar[str] = "counts"

    size: int
    _counts: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._counts = torch.zeros(self.size, dtype=torch.int64)

    def settings(self) -> dict[str, int]:
        return {"size": self.size}

    def _add(self, rows: Tensor, keys: Keys) -> None:
        del keys
        flat = rows.reshape(-1)
        if flat.is_floating_point() or (flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < self.size):
            raise InputError(f"counts are of whole numbers from 0 to {self.size - 1}")
        self._counts = self._counts.to(flat.device) + torch.bincount(flat, minlength=self.size)

    def _merge(self, other: Counts) -> None:
        self._counts = self._counts + other._counts.to(self._counts.device)

    def result(self) -> Tensor:
        return self._counts

    def state(self) -> State:
        return {"counts": to_numpy(self._counts)}

    def load_state(self, state: State) -> None:
        self._counts = from_numpy(state["counts"])


@dataclass(frozen=True)
class HistogramResult:
    """Counts between edges, and of the entries that lie between none."""

    edges: Tensor  # bins + 1
    counts: Tensor  # bins, int64
    below: int
    above: int
    nan: int

    @property
    def density(self) -> Tensor:
        """Return the density per unit of the values, over the entries inside the edges."""
        return self.counts / self.counts.sum() / self.edges.diff()


@dataclass(eq=True)
class Histogram(Statistic):
    """Counts of all entries between fixed edges; as in numpy.histogram, the last bin includes its right edge."""

    kind: ClassVar[str] = "histogram"

    edges: Sequence[float]
    _counts: Tensor = field(init=False, repr=False, compare=False)  # below, bins, above, NaN

    def __post_init__(self) -> None:
        self.edges = [float(edge) for edge in self.edges]
        if len(self.edges) < 2 or not all(a < b for a, b in pairwise(self.edges)):
            raise InputError("a histogram needs at least two edges, ascending")
        self._counts = torch.zeros(len(self.edges) + 2, dtype=torch.int64)

    def settings(self) -> dict[str, Any]:
        return {"edges": list(self.edges)}

    def _add(self, rows: Tensor, keys: Keys) -> None:
        del keys
        flat = rows.reshape(-1).double()
        edges = torch.tensor(self.edges, dtype=torch.float64, device=flat.device)
        bins = torch.bucketize(flat, edges, right=True)  # 0 below, 1..bins, bins + 1 from the last edge on
        bins[flat == edges[-1]] = len(edges) - 1
        bins[flat.isnan()] = len(edges) + 1
        self._counts = self._counts.to(flat.device) + torch.bincount(bins, minlength=len(edges) + 2)

    def _merge(self, other: Histogram) -> None:
        self._counts = self._counts + other._counts.to(self._counts.device)

    def result(self) -> HistogramResult:
        below, above, nan = (int(self._counts[i]) for i in (0, -2, -1))
        return HistogramResult(torch.tensor(self.edges, dtype=torch.float64), self._counts[1:-2], below, above, nan)

    def state(self) -> State:
        return {"counts": to_numpy(self._counts)}

    def load_state(self, state: State) -> None:
        self._counts = from_numpy(state["counts"])
