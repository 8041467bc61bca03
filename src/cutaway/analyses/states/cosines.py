"""Cosines between pairs of states, the Gaussians they are compared with, and what chance alone would do.

A sample of n states has two halves, in random order; every state of one is paired with every state of the other.
Their cosines go into fine bins of [-1, 1], from which the distance to a null is

    W1    the mean of |F - G| over [-1, 1], times 2: Wasserstein-1           KS    max |F - G|: Kolmogorov-Smirnov

F and G the distribution functions of the cosines and of the null. Pairs share states, so nothing here treats pairs as
independent: tests redraw whole samples of states (`monte_carlo`), intervals resample documents (`Blocks`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 199  # of a drawn histogram: 200 edges over [-1, 1]
SPLIT = 20  # fine bins in each
FINE = BINS * SPLIT
SORTED = 40_000  # bins in which pairs are looked for by rank
KNOTS = 128  # where distribution functions are compared in a resample
ROWS, PARTS = 2048, 32  # Gaussian states drawn at once, and how often, for the curve that is shown
MOST_GROUPS = 250  # documents beyond this many are resampled in groups


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


def isotropic(dimensions: float) -> Tensor:
    """The same for an isotropic Gaussian; `dimensions` (at least 1) need not be whole.

    The squared cosine of two independent directions in d dimensions is Beta(1/2, (d - 1) / 2): Muirhead 1982, Aspects
    of Multivariate Statistical Theory, theorem 1.5.7.
    """
    from scipy.special import betainc

    c = np.linspace(-1, 1, FINE + 1)[1:]
    within = betainc(0.5, max(dimensions - 1, 1e-9) / 2, c * c)
    return torch.from_numpy(np.where(c < 0, 1 - within, 1 + within) / 2)


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


def p_value(observed: float, drawn: list[float]) -> float:
    """(1 + how many draws reach what was observed) / (1 + draws): valid however few the draws are."""
    return (1 + sum(value >= observed for value in drawn)) / (1 + len(drawn))


class Chance:
    """Random numbers from one seed, on one device."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.torch = torch.Generator(self.device).manual_seed(seed)
        self.numpy = np.random.default_rng(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.torch, device=self.device, dtype=torch.float32)


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian to draw states from: mean + factor @ noise, float32. A factor [D] stands for a diagonal one."""

    mean: Tensor  # D
    factor: Tensor  # D, or D D

    @classmethod
    def fit(cls, mean: Tensor, covariance: Tensor) -> Gaussian:
        """In the axes of the covariance: cosines do not depend on the axes."""
        variances, axes = torch.linalg.eigh(covariance.double())
        return cls((axes.T @ mean.double()).float(), variances.clamp(min=0).sqrt().float())

    def draw(self, n: int, chance: Chance, centred: bool = False) -> Tensor:
        """n D; with `centred` as differences from the mean."""
        noise = chance.normal(n, len(self.mean))
        states = noise.mul_(self.factor) if self.factor.dim() == 1 else noise @ self.factor.T
        return states if centred else states.add_(self.mean)

    def refitted(self, count: int, chance: Chance) -> Gaussian:
        """The Gaussian with the moments of `count` draws from this one, which has a diagonal factor.

        Those moments are drawn themselves, and not the states: the mean is Gaussian and the covariance Wishart, by its
        Bartlett decomposition (Muirhead 1982, theorem 3.2.14).
        """
        D, freedom = len(self.mean), count - 1
        chi = torch.from_numpy(np.sqrt(chance.numpy.chisquare(freedom - np.arange(D)))).to(self.mean)
        lower = chance.normal(D, D).tril_(-1) + chi.diag()
        mean = self.mean + self.factor * chance.normal(D) / math.sqrt(count)
        return Gaussian(mean, self.factor[:, None] * lower / math.sqrt(freedom))


def gaussian_cdf(null: Gaussian, centred: bool, chance: Chance) -> Tensor:
    """Of so many states that it has next to no noise of its own."""
    parts = [cdf(halves(null.draw(ROWS, chance, centred))) for _ in range(PARTS)]
    return torch.stack(parts).mean(0)


def gaussian_draws(
    null: Gaussian, count: int, n: int, centred: bool, replicates: int, chance: Chance
) -> tuple[list[float], list[float]]:
    """W1 and KS of samples of n that are Gaussian, each from a Gaussian refitted to `count` draws of its own.

    Without the refitting the null's own error would count as the sample's: true Gaussians would be rejected.
    """
    found = []
    for _ in range(replicates):
        sample, again = null.draw(n, chance), null.refitted(count, chance)
        f = cdf(halves(sample - again.mean if centred else sample))
        g = cdf(halves(again.draw(n, chance, centred)))
        found.append((w1(f, g), ks(f, g)))
    return [a for a, _ in found], [b for _, b in found]


def isotropic_draws(
    dimensions: int, n: int, replicates: int, chance: Chance, refit: bool
) -> tuple[list[float], list[float]]:
    """W1 and KS of samples of n from an isotropic Gaussian; with `refit`, from one of their effective dimension."""
    known = isotropic(dimensions)
    found = []
    for _ in range(replicates):
        drawn = halves(chance.normal(n, dimensions))
        f = cdf(drawn)
        g = isotropic(effective_dimension(drawn)) if refit else known
        found.append((w1(f, g), ks(f, g)))
    return [a for a, _ in found], [b for _, b in found]


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


class Blocks:
    """Sums over the pairs of documents, from which a resample of documents is a few small products.

    A document that is drawn w times counts w times against every other, and w times within itself: it is not paired
    with its own copies, which no fresh document would be so like.
    """

    def __init__(self, first: NDArray[np.int64], second: NDArray[np.int64], groups: int) -> None:
        self.groups = groups
        self.flat = torch.from_numpy(first[:, None] * groups + second[None, :]).flatten()
        self.pairs = self.sums(torch.ones(len(self.flat)))

    def sums(self, values: Tensor) -> Tensor:
        """Values of all pairs, n m or flat -> [groups, groups], float64."""
        flat = values.flatten().double().cpu()
        total = torch.bincount(self.flat, flat, minlength=self.groups**2)
        return total.view(self.groups, self.groups)

    def below(self, found: Tensor, knots: Tensor) -> Tensor:
        """How many pairs have a cosine up to each knot: [groups, groups, knots]."""
        bins = torch.bucketize(found.flatten().cpu().double(), knots)
        flat = self.flat * (len(knots) + 1) + bins
        counts = torch.bincount(flat, minlength=self.groups**2 * (len(knots) + 1)).double()
        return counts.view(self.groups, self.groups, -1)[..., :-1].cumsum(-1)

    def total(self, sums: Tensor, weights: Tensor) -> Tensor:
        """[groups, groups, *] under weights [resample, groups] -> [resample, *]."""
        wide = sums.reshape(self.groups, self.groups, -1)  # a b k
        own = wide.diagonal(dim1=0, dim2=1).T  # a k
        parts = []
        for start in range(0, len(weights), 128):
            w = weights[start : start + 128]
            crossed = torch.einsum("ra,rak->rk", w, torch.einsum("rb,abk->rak", w, wide))
            parts.append(crossed + (w - w.square()) @ own)
        return torch.cat(parts).view(len(weights), *sums.shape[2:])


def grouped(documents: NDArray[np.str_]) -> tuple[NDArray[np.int64], int, int]:
    """A number for each state's document, how many groups of them there are, and how many documents.

    Documents are groups of their own; of more than MOST_GROUPS several are resampled together.
    """
    names, codes = np.unique(documents, return_inverse=True)
    return codes % MOST_GROUPS, min(len(names), MOST_GROUPS), len(names)
