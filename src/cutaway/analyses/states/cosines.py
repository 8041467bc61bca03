"""Cosines between pairs of states, the Gaussians they are compared with, and what chance alone would do.

A sample of n states has two halves, in random order; every state of one is paired with every state of the other.
Their cosines go into fine bins of [-1, 1], from which the distance to a null is

    W1    the mean of |F - G| over [-1, 1], times 2: Wasserstein-1           KS    max |F - G|: Kolmogorov-Smirnov

F and G the distribution functions of the cosines and of the null. Pairs share states, so nothing here treats pairs as
independent: tests redraw whole samples of states (`monte_carlo`), intervals resample documents (`Blocks`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 199  # of a drawn histogram: 200 edges over [-1, 1]
SPLIT = 20  # fine bins in each
FINE = BINS * SPLIT
SORTED = 40_000  # bins in which pairs are looked for by rank
KNOTS = 128  # where distribution functions are compared in a resample


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """n D, m D -> n m. Of a state without direction (all zeros) the cosine is 0."""
    a, b = (torch.nn.functional.normalize(x, dim=-1) for x in (a, b))
    return (a @ b.T).clamp_(-1, 1)


def halves(values: Tensor) -> Tensor:
    """n D -> the cosines between the first half and the second."""
    half = len(values) // 2
    return cosines(values[:half], values[half : 2 * half])


def cdf(found: Tensor) -> Tensor:
    """The distribution function at the right edges of the fine bins, float64 [FINE]."""
    counts = torch.histc(found.float(), FINE, -1, 1).double()
    return (counts.cumsum(0) / counts.sum()).cpu()


def w1(f: Tensor, g: Tensor) -> float:
    return float((f - g).abs().mean() * 2)


def ks(f: Tensor, g: Tensor) -> float:
    return float((f - g).abs().max())


def histogram(f: Tensor) -> NDArray[np.float64]:
    """A distribution function -> density in BINS bins of [-1, 1]."""
    edges = np.concatenate([[0.0], f.numpy()[SPLIT - 1 :: SPLIT]])
    return np.diff(edges) * BINS / 2


def quantile_pairs(found: Tensor, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The pairs at `count` evenly spaced ranks, from the smallest cosine to the largest: cosines, rows, columns."""
    flat = found.flatten().cpu().numpy()
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
    skipped = np.cumsum(np.where(needed, 0, counts))  # of pairs below that are no members
    chosen = members[ranks - skipped[at]]
    rows, columns = np.divmod(chosen, found.shape[1])
    return flat[chosen].astype(np.float64), rows, columns


# --- what chance alone would do ---


def effective_dimension(centred: Tensor) -> float:
    """1 / E[c^2] of the cosines of centred states: d for an isotropic Gaussian in d dimensions."""
    return 1 / float(centred.double().square().mean())


def participation_ratio(covariance: Tensor, count: int) -> float:
    """(tr S)^2 / tr(S^2), with numerator and denominator each freed of its bias under a Gaussian.

    Srivastava 2005, Some Tests Concerning the Covariance Matrix in High Dimensional Data, section 2. `covariance`
    divides by `count`.
    """
    m = count - 1
    S = covariance.double() * (count / m)
    trace, square = float(S.trace()), float(S.square().sum())
    of_square = m * m / ((m - 1) * (m + 2)) * (square - trace * trace / m)
    return (trace * trace - 2 * of_square / m) / of_square


# --- intervals that resample documents ---
