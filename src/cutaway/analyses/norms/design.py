"""Lay out the rows of an autoregression: which entries are regressed on which earlier ones.

    design = lay_out(document, window, position, lags=2, ...)

A lag reaches neither into another window nor to position 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
LOOK_BACK = 10  # orders at which residuals are tested, beyond the lags themselves


@dataclass(frozen=True, eq=False)
class Design:
    """The rows of a regression: each row's entry in the series, its window and document, and its other regressors."""

    lags: int
    now: Ints  # row
    window: Ints  # row; numbered through the documents
    document: Ints  # row; 0.. among the documents that have rows
    own: bool  # each document has an intercept of its own
    position: Floats | None  # row; its logarithm, where it is a regressor
    train: NDArray[np.bool_]  # row; the first of each document, from a fit to which the others are predicted

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self.now)

    @property
    def intercepts(self) -> int:
        """Return the number of intercepts."""
        return int(self.document.max()) + 1 if self.own else 1

    @property
    def coefficients(self) -> int:
        """Return the number of coefficients, intercepts included."""
        return self.intercepts + (self.position is not None) + self.lags

    @property
    def terms(self) -> list[str]:
        """Return the names of the reported coefficients. Per-document intercepts are not reported."""
        lags = [f"t-{k}" for k in range(1, self.lags + 1)]
        return ["intercept"] * (self.intercepts == 1) + ["log position"] * (self.position is not None) + lags

    @cached_property
    def groups(self) -> Ints:
        """Return the number of each row's intercept."""
        return self.document if self.own else np.zeros_like(self.document)

    @cached_property
    def reach(self) -> Ints:
        """Return the entries of a series that any row uses."""
        return np.unique(self.now[:, None] - np.arange(self.lags + 1))

    @cached_property
    def window_of_reach(self) -> Ints:
        """Return the window of each entry in `reach`."""
        first = self.now[np.r_[True, np.diff(self.window) > 0]] - self.lags
        return np.searchsorted(first, self.reach, side="right")

    @cached_property
    def longest(self) -> int:
        """Return the number of rows in the longest window."""
        return int(np.bincount(self.window).max())

    @property
    def residual_lags(self) -> int:
        """Return the order up to which residuals are tested: at least one more than the lags, or 0 for too few rows."""
        most = min(self.lags + LOOK_BACK, self.longest - 1, max(self.lags + 1, self.rows // 5))
        return most if most > self.lags else 0

    @cached_property
    def hac_lags(self) -> int:
        """Return the number of lags in HAC errors, by Newey and West's rule."""
        return min(int(4 * (self.rows / 100) ** (2 / 9)), self.longest - 1)

    @cached_property
    def same_window(self) -> list[NDArray[np.bool_]]:
        """Return for k = 0, 1, ... whether rows i + k and i are of one window, for each i."""
        most = max(self.residual_lags, self.hac_lags)
        return [self.window[k:] == self.window[: self.rows - k] for k in range(most + 1)]

    def regressors(self, series: Floats) -> Floats:
        """Return the regressors, row by column: log position, then the lags."""
        columns = [] if self.position is None else [self.position]
        columns += [series[self.now - k] for k in range(1, self.lags + 1)]
        return np.stack(columns, 1) if columns else np.empty((self.rows, 0))

    def within(self, values: Floats) -> Floats:
        """Centre values [row] or [row column] within each document, or over all rows where they share an intercept."""
        counts = np.bincount(self.groups)
        columns = values.reshape(self.rows, -1)
        if len(counts) == 1:
            means = columns.mean(0)[None]
        else:
            means = np.stack([np.bincount(self.groups, column) for column in columns.T], 1) / counts[:, None]
        centred: Floats = (columns - means[self.groups]).reshape(values.shape)
        return centred


def lay_out(
    document: Ints, window: Ints, position: Ints, lags: int, *, own: bool, log_position: bool, held_out: float
) -> Design:
    """Return the rows that have all their lags in the same window, none of them at position 0.

    Args:
        document, window, position: of each entry of a series.
        own: each document has an intercept of its own.
        log_position: the logarithm of the position is a regressor.
        held_out: the share of each document, its end, that is not fitted.
    """
    index = np.arange(len(position))
    start = np.flatnonzero(np.r_[True, (np.diff(document) != 0) | (np.diff(window) != 0)])
    number = np.zeros(len(position), dtype=np.int64)
    number[start] = 1
    number = number.cumsum() - 1
    earliest = np.maximum(index - lags, 0)
    now = index[(index >= lags) & (number[earliest] == number) & (position[earliest] >= 1)]
    documents, inside = np.unique(document[now], return_inverse=True)
    counts = np.bincount(inside, minlength=len(documents))
    rank = np.arange(len(now)) - np.r_[0, counts.cumsum()[:-1]].astype(np.int64)[inside] if len(now) else now
    return Design(
        lags=lags,
        now=now,
        window=np.unique(number[now], return_inverse=True)[1],
        document=inside,
        own=own and len(documents) > 1,
        position=np.log(position[now]) if log_position else None,
        train=rank < np.ceil((1 - held_out) * counts[inside]),
    )
