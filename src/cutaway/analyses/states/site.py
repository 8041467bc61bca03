"""Measure one site: its row of numbers, its curves and its pairs, from the states that the sinks have kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutaway.analyses.states import cosines, nulls
from cutaway.analyses.states.blocks import Blocks, grouped
from cutaway.analyses.states.nulls import Chance, Gaussian, isotropic
from cutaway.results.bootstrap import draw_weights, interval
from cutaway.stats.base import Keys
from cutaway.surveys.survey import Survey

QUANTILES = 201  # pairs that are kept for each site
PER_DIMENSION = 20  # states outside the sample that the null's moments need, for each dimension
NULLS = ("gaussian", "effective", "isotropic")


class SiteSettings:
    """The settings that all sites share, and the isotropic null, which depends on nothing else."""

    def __init__(
        self, width: int, sample: int, replicates: int, resamples: int, seed: int, device: torch.device
    ) -> None:
        self.width, self.sample, self.replicates, self.resamples = width, sample, replicates, resamples
        self.seed, self.device = seed, device
        self.isotropic = isotropic(width)
        self.isotropic_draws = nulls.isotropic_draws(width, sample, replicates, self.chance("isotropic"), False)

    def chance(self, name: str) -> Chance:
        """Return random numbers for one purpose, so that a site's numbers do not depend on the other sites measured."""
        return Chance((self.seed + int.from_bytes(name.encode()[-6:], "little")) % 2**64, self.device)


@dataclass(frozen=True)
class SiteMeasurement:
    """The measurements at one site: fields as in `States`, without the dimension of sites."""

    numbers: dict[str, float]
    density: NDArray[np.float64]
    quantile_cosines: NDArray[np.float64]
    quantile_pairs: NDArray[np.int64]


def measure_site(seen: Survey, site: str, settings: SiteSettings, centered: bool, keys: Keys) -> SiteMeasurement:
    """Measure one site, given a survey with the sinks of `state_sinks` and the keys of the sampled states."""
    sink = seen[f"{site} states"]
    states = sink["sample"].result().values.float()
    whole, moments = sink["covariance"].result(), sink["moments"].result()
    outside = _outside(whole, states)
    centre = (whole.mean if outside is None else outside[0]).float()
    half = len(states) // 2

    centred = cosines.halves(states - centre)
    pairs = centred if centered else cosines.halves(states)
    f = cosines.cdf(pairs)
    size = cosines.effective_dimension(centred)
    variances = whole.covariance.diagonal().sort(descending=True).values
    projected = seen[f"{site} projected"]["moments"].result()
    numbers = {
        **_document_means(keys, pairs, centred, half, settings),
        "participation_ratio": cosines.participation_ratio(whole.covariance, whole.count),
        **{f"top_{k}_share": float(variances[:k].sum() / variances.sum()) for k in (1, 3, 10)},
        "kurtosis": float(moments.kurtosis.nanmedian()),
        "kurtosis_largest": float(moments.kurtosis.nan_to_num(-math.inf).max()),
        "kurtosis_projected": float(projected.kurtosis.nanmedian()),
    }
    curves = {"effective": isotropic(size), "isotropic": settings.isotropic}
    chance = settings.chance(site)
    dimensions = max(2, round(size))
    draws = {
        "effective": nulls.isotropic_draws(dimensions, settings.sample, settings.replicates, chance, True),
        "isotropic": settings.isotropic_draws,
    }
    like = None
    if outside is not None:
        mean, covariance, count = outside
        null = Gaussian.fit(mean, covariance)
        curves["gaussian"] = nulls.gaussian_cdf(null, centered, chance)
        draws["gaussian"] = nulls.gaussian_draws(null, count, settings.sample, centered, settings.replicates, chance)
        # Estimated from as few samples as each replicate's null.
        like = cosines.cdf(cosines.halves(null.draw(settings.sample, chance, centered)))
    for name in NULLS:
        numbers |= _distances(f, name, curves.get(name), draws.get(name), like if name == "gaussian" else None)
    numbers |= _distance_interval(keys, pairs, f, curves.get("gaussian"), half, settings)
    empty = np.full(cosines.BINS, np.nan)
    density = [f, *(curves.get(name) for name in NULLS)]
    values, rows, columns = cosines.quantile_pairs(pairs, QUANTILES)
    return SiteMeasurement(
        numbers,
        np.stack([empty if curve is None else cosines.histogram(curve) for curve in density]),
        values,
        np.stack([rows, columns + half], -1),
    )


def _outside(whole: Any, states: Tensor) -> tuple[Tensor, Tensor, int] | None:
    """Return mean, covariance and number of the states outside the sample, or None where there are too few.

    They are the moments of all states with those of the sample taken out.
    """
    n, D = states.shape
    count = whole.count - n
    if count < PER_DIMENSION * D:
        return None
    states = states.double()
    mean = states.mean(0)
    centred = states - mean
    rest = whole.mean + (whole.mean - mean) * (n / count)
    delta = mean - rest
    products = whole.covariance * whole.count - centred.T @ centred
    products -= torch.outer(delta, delta) * (count * n / whole.count)
    return rest, products / count, count


def _distances(
    f: Tensor, name: str, g: Tensor | None, draws: tuple[list[float], list[float]] | None, like: Tensor | None
) -> dict[str, float]:
    """Return W1 and KS distances of F from the null G, with Monte-Carlo p-values.

    The test statistic uses `like`, a null estimated from as few samples as each replicate's, when it is given.
    """
    if g is None or draws is None:
        return {f"{key}_{name}": math.nan for key in ("w1", "ks", "p", "p_ks")}
    w1, ks = cosines.w1(f, g), cosines.ks(f, g)
    tested = (w1, ks) if like is None else (cosines.w1(f, like), cosines.ks(f, like))
    p = [nulls.p_value(observed, drawn) for observed, drawn in zip(tested, draws, strict=True)]
    return {f"w1_{name}": w1, f"ks_{name}": ks, f"p_{name}": p[0], f"p_ks_{name}": p[1]}


def _document_means(keys: Keys, pairs: Tensor, centred: Tensor, half: int, settings: SiteSettings) -> dict[str, float]:
    """Return the mean cosine of all, same- and cross-document pairs, and the effective dimension, with intervals."""
    codes, groups, _ = grouped(keys.documents)
    blocks = Blocks(codes[:half], codes[half : 2 * half], groups)
    weights = draw_weights(groups, settings.resamples, settings.seed)
    names = np.unique(keys.documents, return_inverse=True)[1]
    same = torch.from_numpy(names[:half, None] == names[None, half : 2 * half])
    cosine, ones = pairs.double().cpu(), torch.ones(pairs.shape, dtype=torch.float64)
    ratios = {
        "mean_cosine": (cosine, ones),
        "same_document": (cosine * same, same),
        "cross_document": (cosine * ~same, ~same),
        "effective_dimension": (ones, centred.double().cpu().square()),
    }
    numbers: dict[str, float] = {}
    for name, (above, below) in ratios.items():
        a, b = blocks.sums(above), blocks.sums(below)
        drawn = blocks.total(a, weights) / blocks.total(b, weights)
        ends = interval(drawn[drawn.isfinite()]) if drawn.isfinite().any() else (math.nan, math.nan)
        numbers |= {name: float(a.sum() / b.sum()), f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
    return numbers


def _distance_interval(
    keys: Keys, pairs: Tensor, f: Tensor, g: Tensor | None, half: int, settings: SiteSettings
) -> dict[str, float]:
    """Return W1 from the Gaussian in standard deviations of its cosines, with 1.96 bootstrap standard errors around it.

    Percentiles would not do: a distance cannot be negative, so noise pushes every resample's distance up.
    """
    if g is None:
        return {"distance": math.nan, "distance_low": math.nan, "distance_high": math.nan}
    edges = torch.linspace(-1, 1, cosines.FINE + 1, dtype=torch.float64)[1:]
    mass = torch.diff(g, prepend=torch.zeros(1, dtype=g.dtype))
    middle = float((mass * edges).sum())
    std = math.sqrt(float((mass * (edges - middle).square()).sum()))
    mixed = (f + g) / 2
    chosen = torch.searchsorted(mixed, torch.linspace(0, 1, cosines.KNOTS, dtype=torch.float64)).clamp(max=len(g) - 1)
    chosen = torch.unique(chosen)
    codes, groups, _ = grouped(keys.documents)
    blocks = Blocks(codes[:half], codes[half : 2 * half], groups)
    weights = draw_weights(groups, settings.resamples, settings.seed)
    counts = blocks.total(blocks.below(pairs, edges[chosen]), weights)
    functions = counts / blocks.total(blocks.pairs, weights)[:, None]
    gaps = (functions - g[chosen]).abs()
    steps = torch.diff(edges[chosen])
    drawn = ((gaps[:, 1:] + gaps[:, :-1]) / 2) @ steps
    distance, error = cosines.w1(f, g) / std, float((drawn / std).std())
    return {
        "distance": distance,
        "distance_low": max(0.0, distance - 1.96 * error),
        "distance_high": distance + 1.96 * error,
    }
