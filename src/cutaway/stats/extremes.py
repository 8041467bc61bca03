"""Keep the largest and smallest values, with the document and offset where they occur."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutaway.errors import InputError
from cutaway.stats.base import Keys, State, Statistic, from_numpy, to_numpy


@dataclass(frozen=True)
class ExtremesResult:
    """The k largest and smallest values of each coordinate, most extreme first; equal values in their keys' order.


    A coordinate with fewer than k numbers has NaN in the remaining places, with document "" and offset -1.
    """

    largest: Tensor  # k D, float64
    largest_documents: NDArray[np.str_]  # k D
    largest_offsets: NDArray[np.int64]  # k D
    smallest: Tensor  # k D
    smallest_documents: NDArray[np.str_]
    smallest_offsets: NDArray[np.int64]


@dataclass(eq=True)
class Extremes(Statistic):
    """The k largest and k smallest values of each coordinate with their keys. NaN never counts."""

    kind: ClassVar[str] = "extremes"
    needs_keys: ClassVar[bool] = True

    k: int = 10
    _kept: dict[str, tuple[Tensor, Keys]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"the {self.k} most extreme values: at least 1 was expected")

    def settings(self) -> dict[str, int]:
        return {"k": self.k}

    def _add(self, rows: Tensor, keys: Keys) -> None:
        if not len(rows):
            return
        order = np.lexsort((keys.offsets, keys.documents))  # equal values: the earlier key stays in front
        rows = rows[torch.from_numpy(order).to(rows.device)].double()
        columns, keys = rows.reshape(len(rows), -1).T.contiguous(), keys[order]
        for end, sign in (("largest", 1), ("smallest", -1)):
            chosen = _largest(sign * columns, min(self.k, len(rows)))
            self._take(end, sign * columns.gather(1, chosen).T.cpu(), keys[chosen.T.cpu().numpy()])

    def _merge(self, other: Extremes) -> None:
        for end, (values, keys) in other._kept.items():
            self._take(end, values, keys)

    def _take(self, end: str, values: Tensor, keys: Keys) -> None:
        """Keep the k largest of what is kept and of new candidates [m, D], signed so that larger is more extreme."""
        if end in self._kept:
            mine, my_keys = self._kept[end]
            if mine.shape[1] != values.shape[1]:
                raise InputError(f"extremes of {mine.shape[1]} coordinates got {values.shape[1]}")
            values, keys = torch.cat([mine, values]), my_keys.join(keys)
        signed = values.numpy()
        order = np.lexsort((keys.offsets, keys.documents, -signed), axis=0)[: self.k]
        chosen = Keys(np.take_along_axis(keys.documents, order, 0), np.take_along_axis(keys.offsets, order, 0))
        self._kept[end] = (torch.from_numpy(np.take_along_axis(signed, order, 0)), chosen)

    def result(self) -> ExtremesResult:
        if not self._kept:
            raise self._nothing()
        (high, high_keys), (low, low_keys) = (_blank(*self._kept[end]) for end in ("largest", "smallest"))
        return ExtremesResult(high, high_keys.documents, high_keys.offsets, -low, low_keys.documents, low_keys.offsets)

    def state(self) -> State:
        arrays: State = {}
        for end, (values, keys) in self._kept.items():
            arrays |= {
                f"{end}.values": to_numpy(values), f"{end}.documents": keys.documents, f"{end}.offsets": keys.offsets
            }  # fmt: skip
        return arrays

    def load_state(self, state: State) -> None:
        self._kept = {}
        for end in ("largest", "smallest"):
            if f"{end}.values" in state:
                keys = Keys(state[f"{end}.documents"], state[f"{end}.offsets"])
                self._kept[end] = (from_numpy(state[f"{end}.values"]), keys)


def _largest(columns: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest values of each row, D n -> D k, in ascending order.

    Of equal values it takes the first; NaN only where there are fewer than k numbers.
    """
    nan = columns.isnan()
    numbers = columns.masked_fill(nan, -torch.inf)
    best = numbers.topk(k, 1)  # of equal values any
    indices, last = best.indices.sort(1).values, best.values[:, -1:]
    tied = (numbers == last).sum(1) > (best.values == last).sum(1)
    few = tied & (last[:, 0] == -torch.inf) & nan.any(1)  # infinity comes before NaN
    tied &= ~few
    if bool(tied.any()):
        some, least = numbers[tied], last[tied]
        above, same = some > least, some == least
        first = same.cumsum(1) <= k - above.sum(1, keepdim=True)
        indices[tied] = (above | (same & first)).nonzero()[:, 1].view(-1, k)
    if bool(few.any()):
        stable = (-columns[few]).sort(dim=1, stable=True)  # ascending, NaN last
        indices[few] = stable.indices[:, :k].sort(1).values
    return indices


def _blank(values: Tensor, keys: Keys) -> tuple[Tensor, Keys]:
    """Clear the document and offset of entries that are NaN."""

    nan = values.isnan().numpy()
    return values, Keys(np.where(nan, "", keys.documents), np.where(nan, -1, keys.offsets))
