"""Accumulate moments and covariance.

Pebay 2008, Formulas for Robust, One-Pass Parallel Computation of Covariances and Arbitrary-Order Statistical Moments
(Sandia report SAND2008-6212), equations 2.1 and 3.1: the pairwise updates that both `add` and `merge` use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.stats.base import Keys, State, Statistic, from_numpy, to_numpy

BLOCK = 2**19  # numbers that are in float64 at once: they stay in the processor's cache


@dataclass(frozen=True)
class MomentsResult:
    """Moments of each coordinate, float64. `variance` is that of the population (divides by count)."""

    count: int
    mean: Tensor
    variance: Tensor
    skewness: Tensor | None  # standardized third moment; None with order 2
    kurtosis: Tensor | None  # excess: 0 for a Gaussian

    @property
    def std(self) -> Tensor:
        """Return the standard deviation of each coordinate."""
        return self.variance.sqrt()


@dataclass(eq=True)
class Moments(Statistic):
    """The mean and variance of each coordinate; with order 4 also skewness and excess kurtosis."""

    kind: ClassVar[str] = "moments"

    order: int = 2
    _count: int = field(default=0, init=False, repr=False, compare=False)
    _mean: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _sums: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)  # of powers 2..order

    def __post_init__(self) -> None:
        if self.order not in (2, 4):
            raise InputError(f"moments of order {self.order}: 2 (mean, variance) or 4 was expected")

    def settings(self) -> dict[str, int]:
        return {"order": self.order}

    def _add(self, rows: Tensor, keys: Keys) -> None:
        del keys
        if not len(rows):
            return
        step = max(1, BLOCK // max(1, rows[0].numel()))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            centred = block.double()
            mean = centred.mean(0)
            centred = centred - mean if block.dtype == torch.float64 else centred.sub_(mean)
            power, sums = centred, []
            for order in range(2, self.order + 1):
                power = power.mul_(centred) if order > 2 else centred * centred
                sums.append(power.sum(0))
            self._update(len(block), mean, sums)

    def _merge(self, other: Moments) -> None:
        if other._mean is not None:
            self._update(other._count, other._mean, other._sums)

    def _update(self, n: int, mean: Tensor, sums: list[Tensor]) -> None:
        if self._mean is None:
            self._count, self._mean, self._sums = n, mean.clone(), [s.clone() for s in sums]
            return
        if mean.shape != self._mean.shape:
            raise InputError(f"moments of {list(self._mean.shape)} coordinates got {list(mean.shape)}")
        m, total, delta = float(self._count), float(self._count + n), mean.to(self._mean.device) - self._mean
        theirs = [s.to(self._mean.device) for s in sums]
        if self.order == 4:
            (a2, a3, a4), (b2, b3, b4) = self._sums, theirs
            d = delta / total
            self._sums[2] = (
                a4 + b4 + m * n * (m * m - m * n + n * n) * d * d * d * delta
                + 6 * d * d * (m * m * b2 + n * n * a2) + 4 * d * (m * b3 - n * a3)
            )  # fmt: skip
            self._sums[1] = a3 + b3 + m * n * (m - n) * d * d * delta + 3 * d * (m * b2 - n * a2)
        self._sums[0] = self._sums[0] + theirs[0] + delta * delta * (m * n / total)
        self._mean = self._mean + delta * (n / total)
        self._count += n

    def result(self) -> MomentsResult:
        if self._mean is None:
            raise self._nothing()
        variance = self._sums[0] / self._count
        if self.order == 2:
            return MomentsResult(self._count, self._mean, variance, None, None)
        skewness = self._sums[1] / self._count / variance**1.5
        return MomentsResult(self._count, self._mean, variance, skewness, self._sums[2] / self._count / variance**2 - 3)

    def state(self) -> State:
        if self._mean is None:
            return {}
        return {"count": to_numpy(torch.tensor(self._count)), "rows": to_numpy(torch.stack([self._mean, *self._sums]))}

    def load_state(self, state: State) -> None:
        self._count, self._mean, self._sums = 0, None, []
        if state:
            self._count = int(state["count"])
            self._mean, *self._sums = from_numpy(state["rows"]).unbind(0)


@dataclass(frozen=True)
class CovarianceResult:
    """Mean and covariance matrix of vectors."""

    count: int
    mean: Tensor  # D
    covariance: Tensor  # D D; of the population (divides by count)


@dataclass(eq=True)
class Covariance(Statistic):
    """The mean and covariance matrix of vectors."""

    kind: ClassVar[str] = "covariance"

    _count: int = field(default=0, init=False, repr=False, compare=False)
    _mean: Tensor | None = field(default=None, init=False, repr=False, compare=False)  # D
    _products: Tensor = field(default_factory=lambda: torch.zeros(0), init=False, repr=False, compare=False)  # D D

    def settings(self) -> dict[str, int]:
        return {}

    def _add(self, rows: Tensor, keys: Keys) -> None:
        del keys
        if rows.dim() != 2:
            raise InputError(f"covariance is of vectors: observations {list(rows.shape[1:])} were given")
        if not len(rows):
            return
        mean = rows.sum(0, dtype=torch.float64) / len(rows)
        centred = rows.double() - mean
        self._update(len(rows), mean, centred.T @ centred)

    def _merge(self, other: Covariance) -> None:
        if other._mean is not None:
            self._update(other._count, other._mean, other._products)

    def _update(self, n: int, mean: Tensor, products: Tensor) -> None:
        if self._mean is None:
            self._count, self._mean, self._products = n, mean.clone(), products.clone()
            return
        if mean.shape != self._mean.shape:
            raise InputError(f"covariance of {list(self._mean.shape)} coordinates got {list(mean.shape)}")
        total, delta = self._count + n, mean.to(self._mean.device) - self._mean
        self._products += products.to(self._mean.device)
        self._products += torch.outer(delta, delta) * (self._count * n / total)
        self._mean = self._mean + delta * (n / total)
        self._count = total

    def result(self) -> CovarianceResult:
        if self._mean is None:
            raise self._nothing()
        return CovarianceResult(self._count, self._mean, self._products / self._count)

    def state(self) -> State:
        if self._mean is None:
            return {}
        count = to_numpy(torch.tensor(self._count))
        return {"count": count, "mean": to_numpy(self._mean), "products": to_numpy(self._products).copy()}

    def load_state(self, state: State) -> None:
        self._count, self._mean = 0, None
        if state:
            self._count = int(state["count"])
            self._mean, self._products = from_numpy(state["mean"]), from_numpy(state["products"])
