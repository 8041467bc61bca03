"""Hold series by layer, or by layer and head, over the tokens of documents: norms, and what regressions read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cutaway.analyses.norms.design import Floats, Ints
from cutaway.model.taps.components import Address


@dataclass(frozen=True, eq=False, repr=False)
class LayerSeries:
    """One series a layer, or a layer and head: a row each, with an entry a token, in the order of the documents.

    `norms` are the numbers before any log.
    """

    of: str
    log: bool  # whether charts and regressions take the logarithm
    layers: list[int]  # row
    heads: list[int] | None  # row; None where vectors are of whole layers
    documents: list[str]
    document: Ints  # entry; index into `documents`
    window: Ints  # entry
    position: Ints  # entry; in its window, from 0
    norms: Floats  # row entry

    @property
    def values(self) -> Floats:
        """Return norms or their natural logs, as `log` says: row entry. The log of 0 is -inf."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self.norms) if self.log else self.norms

    @property
    def unit(self) -> str:
        """Return the name of `values`, for an axis."""
        return f"{'log norm' if self.log else 'norm'} of {self.of}"

    def rows(self, lags: int) -> int:
        """Return the number of tokens that have all their lags in the same window, after position 0."""
        return int((self.position > lags).sum())

    def labels(self) -> dict[str, list[int]]:
        """Return each row's layer, and its head where there are heads."""
        return {"layer": self.layers} | ({"head": self.heads} if self.heads else {})

    def components(self) -> dict[str, list[str]]:
        """Return each row's component, such as "head 3.1"; nothing where there are no heads."""
        if not self.heads:
            return {}
        return {"component": [str(Address("head", *at)) for at in zip(self.layers, self.heads, strict=True)]}

    def named(self, row: Mapping[Any, Any]) -> str:
        """Return a row's layer and head as summaries print them."""
        return f"{row['layer']:>5}" + (f"  {row['head']:>4}" if self.heads else "")


def entries(numbers: Ints, windows: list[Floats]) -> dict[str, Any]:
    """Join windows [layer, P] or [layer, head, P] into one long row a layer and head.

    Args:
        numbers: each window's document.

    Returns the fields document, window, position and norms of LayerSeries.
    """
    lengths = [part.shape[-1] for part in windows]
    starts = np.flatnonzero(np.r_[True, np.diff(numbers) != 0])
    window = np.arange(len(numbers)) - np.repeat(starts, np.diff(np.r_[starts, len(numbers)]))
    return {
        "document": np.repeat(numbers, lengths),
        "window": np.repeat(window, lengths),
        "position": np.concatenate([np.arange(length) for length in lengths]),
        "norms": np.concatenate([part.reshape(-1, part.shape[-1]) for part in windows], axis=1),
    }
