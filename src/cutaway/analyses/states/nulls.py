"""Draw from Gaussian nulls: the cosines of Gaussian states, and p-values of distances from them.

isotropic(dimensions)                       the exact distribution of an isotropic Gaussian's cosines
gaussian_cdf(Gaussian.fit(mean, cov), ...)  the distribution of any Gaussian's cosines, by drawing
gaussian_draws(...), isotropic_draws(...)   distances by chance, for p_value
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.states.cosines import FINE, cdf, effective_dimension, halves, ks, w1

ROWS, PARTS = 2048, 32  # Gaussian states drawn at once, and the number of draws, for the curve that charts show


def isotropic(dimensions: float) -> Tensor:
    """Return the distribution function of the cosines of an isotropic Gaussian, float64 [FINE].

    `dimensions` (at least 1) need not be whole.

    The squared cosine of two independent directions in d dimensions is Beta(1/2, (d - 1) / 2): Muirhead 1982, Aspects
    of Multivariate Statistical Theory, theorem 1.5.7.
    """
    from scipy.special import betainc

    c = np.linspace(-1, 1, FINE + 1)[1:]
    within = betainc(0.5, max(dimensions - 1, 1e-9) / 2, c * c)
    return torch.from_numpy(np.where(c < 0, 1 - within, 1 + within) / 2)


def p_value(observed: float, drawn: list[float]) -> float:
    """Return (1 + the number of draws that reach the observed value) / (1 + draws), valid for any number of draws."""
    return (1 + sum(value >= observed for value in drawn)) / (1 + len(drawn))


class Chance:
    """The random numbers of one seed, on one device."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.torch = torch.Generator(self.device).manual_seed(seed)
        self.numpy = np.random.default_rng(seed)

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, float32."""
        return torch.randn(*shape, generator=self.torch, device=self.device, dtype=torch.float32)


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian to draw states from: mean + factor @ noise, float32. A factor [D] stands for a diagonal matrix."""

    mean: Tensor  # D
    factor: Tensor  # D, or D D

    @classmethod
    def fit(cls, mean: Tensor, covariance: Tensor) -> Gaussian:
        """Return the Gaussian with these moments, in the axes of the covariance; cosines do not depend on the axes."""
        variances, axes = torch.linalg.eigh(covariance.double())
        return cls((axes.T @ mean.double()).float(), variances.clamp(min=0).sqrt().float())

    def draw(self, n: int, chance: Chance, centred: bool = False) -> Tensor:
        """Draw states n D; with `centred`, as differences from the mean."""
        noise = chance.normal(n, len(self.mean))
        states = noise.mul_(self.factor) if self.factor.dim() == 1 else noise @ self.factor.T
        return states if centred else states.add_(self.mean)

    def refitted(self, count: int, chance: Chance) -> Gaussian:
        """Return the Gaussian with the moments of `count` draws from this Gaussian, which has a diagonal factor.

        The moments are drawn directly, without drawing states: the mean is Gaussian and the covariance Wishart, by its
        Bartlett decomposition (Muirhead 1982, theorem 3.2.14).
        """
        D, freedom = len(self.mean), count - 1
        chi = torch.from_numpy(np.sqrt(chance.numpy.chisquare(freedom - np.arange(D)))).to(self.mean)
        lower = chance.normal(D, D).tril_(-1) + chi.diag()
        mean = self.mean + self.factor * chance.normal(D) / math.sqrt(count)
        return Gaussian(mean, self.factor[:, None] * lower / math.sqrt(freedom))


def gaussian_cdf(null: Gaussian, centred: bool, chance: Chance) -> Tensor:
    """Return the distribution function of a Gaussian's cosines, float64 [FINE].

    It is averaged over PARTS x ROWS draws, so that its own sampling error is negligible.
    """
    parts = [cdf(halves(null.draw(ROWS, chance, centred))) for _ in range(PARTS)]
    return torch.stack(parts).mean(0)


def gaussian_draws(
    null: Gaussian, count: int, n: int, centred: bool, replicates: int, chance: Chance
) -> tuple[list[float], list[float]]:
    """Return W1 and KS of Gaussian samples of n states, each from a Gaussian refitted to `count` draws of its own.

    Without the refitting the null's own error would count as the sample's: true Gaussians would be rejected.
    """
    distances = []
    for _ in range(replicates):
        sample, again = null.draw(n, chance), null.refitted(count, chance)
        f = cdf(halves(sample - again.mean if centred else sample))
        g = cdf(halves(again.draw(n, chance, centred)))
        distances.append((w1(f, g), ks(f, g)))
    return [a for a, _ in distances], [b for _, b in distances]


def isotropic_draws(
    dimensions: int, n: int, replicates: int, chance: Chance, refit: bool
) -> tuple[list[float], list[float]]:
    """Return W1 and KS of samples of n states from an isotropic Gaussian.

    With `refit`, they are distances from an isotropic Gaussian of each sample's effective dimension.
    """
    known = isotropic(dimensions)
    distances = []
    for _ in range(replicates):
        drawn = halves(chance.normal(n, dimensions))
        f = cdf(drawn)
        g = isotropic(effective_dimension(drawn)) if refit else known
        distances.append((w1(f, g), ks(f, g)))
    return [a for a, _ in distances], [b for _, b in distances]
