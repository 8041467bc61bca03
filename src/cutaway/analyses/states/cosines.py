"""Compute cosines between pairs of states, and their distribution.

A sample of n states has two halves, in random order; every state of one half is paired with every state of the other.
Their cosines go into fine bins of [-1, 1], from which the distance to a null is

    W1    the mean of |F - G| over [-1, 1], times 2: Wasserstein-1           KS    max |F - G|: Kolmogorov-Smirnov

F and G the distribution functions of the cosines and of the null. Pairs share states, so nothing treats pairs as
independent: tests redraw whole samples of states (nulls.py), intervals resample documents (blocks.py).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 199  # bins of a histogram in a chart: 200 edges over [-1, 1]
SPLIT = 20  # fine bins in each bin
FINE = BINS * SPLIT
SORTED = 40_000  # bins in which pairs are looked up by rank
KNOTS = 128  # cosines at which distribution functions are compared in a resample


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosines of all pairs of rows: n D, m D -> n m. They are 0 for a state that is all zeros."""
    a, b = (torch.nn.functional.normalize(x, dim=-1) for x in (a, b))
    return (a @ b.T).clamp_(-1, 1)


def halves(values: Tensor) -> Tensor:
    """Return the cosines between the first half of states n D and the second half."""
    half = len(values) // 2
    return cosines(values[:half], values[half : 2 * half])


def cdf(pairs: Tensor) -> Tensor:
    """Return the distribution function at the right edges of the fine bins, float64 [FINE]."""
    counts = torch.histc(pairs.float(), FINE, -1, 1).double()
    return (counts.cumsum(0) / counts.sum()).cpu()


def w1(f: Tensor, g: Tensor) -> float:
    """Return the Wasserstein-1 distance of two distribution functions."""
    return float((f - g).abs().mean() * 2)


def ks(f: Tensor, g: Tensor) -> float:
    """Return the Kolmogorov-Smirnov distance of two distribution functions."""
    return float((f - g).abs().max())


def histogram(f: Tensor) -> NDArray[np.float64]:
    """Return the density in BINS bins of [-1, 1], given a distribution function."""
    edges = np.concatenate([[0.0], f.numpy()[SPLIT - 1 :: SPLIT]])
    return np.diff(edges) * BINS / 2


def quantile_pairs(pairs: Tensor, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs at `count` evenly spaced ranks, smallest cosine first: their cosines, rows and columns."""
    flat = pairs.flatten().cpu().numpy()
    ranks = np.round(np.linspace(0, len(flat) - 1, count)).astype(np.int64)
    # Only bins that hold a wanted rank are sorted.
    bins = ((flat + 1) * (SORTED / 2)).astype(np.int32)
    ends = np.bincount(bins, minlength=SORTED + 1).cumsum()
    at = np.searchsorted(ends, ranks, side="right")
    needed = np.zeros(SORTED + 1, dtype=bool)
    needed[at] = True
    members = np.flatnonzero(needed[bins])
    members = members[np.argsort(flat[members], kind="stable")]
    counts = np.diff(ends, prepend=0)
    skipped = np.cumsum(np.where(needed, 0, counts))  # pairs in the bins up to each one that are not sorted
    chosen = members[ranks - skipped[at]]
    rows, columns = np.divmod(chosen, pairs.shape[1])
    return flat[chosen].astype(np.float64), rows, columns


def effective_dimension(centred: Tensor) -> float:
    """Return 1 / E[c^2] of the cosines of centred states: d for an isotropic Gaussian in d dimensions."""
    return 1 / float(centred.double().square().mean())


def participation_ratio(covariance: Tensor, count: int) -> float:
    """Return (tr S)^2 / tr(S^2), with the bias under a Gaussian taken out of both numerator and denominator.

    Srivastava 2005, Some Tests Concerning the Covariance Matrix in High Dimensional Data, section 2. `covariance`
    divides by `count`.
    """
    m = count - 1
    S = covariance.double() * (count / m)
    trace, square = float(S.trace()), float(S.square().sum())
    of_square = m * m / ((m - 1) * (m + 2)) * (square - trace * trace / m)
    return (trace * trace - 2 * of_square / m) / of_square
