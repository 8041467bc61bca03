"""What one pass keeps of each site's states, and one site's numbers from it: for states.measure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutaway.analyses.states import cosines
from cutaway.analyses.states.blocks import Blocks
from cutaway.analyses.states.nulls import Chance, Gaussian
from cutaway.results.bootstrap import draw_weights, interval
from cutaway.stats.base import Keys
from cutaway.surveys.survey import Survey

if TYPE_CHECKING:
    pass

QUANTILES = 201  # pairs that are kept for each site
PER_DIMENSION = 20  # states outside the sample that the null's moments need, for each dimension
NULLS = ("gaussian", "effective", "isotropic")


# --- from what was kept to numbers ---


class Setting:
    """What does not depend on the site: random numbers, the weights of resampled documents, the isotropic null."""

    def __init__(
        self, width: int, sample: int, replicates: int, resamples: int, seed: int, device: torch.device
    ) -> None:
        self.width, self.sample, self.replicates, self.resamples = width, sample, replicates, resamples
        self.seed, self.device = seed, device
        self.isotropic = cosines.isotropic(width)
        self.isotropic_draws = cosines.isotropic_draws(width, sample, replicates, self.chance("isotropic"), False)

    def chance(self, name: str) -> Chance:
        """Random numbers of each purpose's own, so that a site's do not depend on which others are measured."""
        return Chance((self.seed + int.from_bytes(name.encode()[-6:], "little")) % 2**64, self.device)


@dataclass(frozen=True)
class Look:
    numbers: dict[str, float]
    density: NDArray[np.float64]
    quantile_cosines: NDArray[np.float64]
    quantile_pairs: NDArray[np.int64]


def look_at(seen: Survey, site: str, setting: Setting, centered: bool, keys: Keys) -> Look:
    sink = seen[f"{site} states"]
    states = sink["sample"].result().values.float()
    whole, moments = sink["covariance"].result(), sink["moments"].result()
    outside = _outside(whole, states)
    centre = (whole.mean if outside is None else outside[0]).float()
    half = len(states) // 2

    centred = cosines.halves(states - centre)
    found = centred if centered else cosines.halves(states)
    f = cosines.cdf(found)
    size = cosines.effective_dimension(centred)
    variances = whole.covariance.diagonal().sort(descending=True).values
    projected = seen[f"{site} projected"]["moments"].result()
    numbers = {
        **_document_means(keys, found, centred, half, setting),
        "participation_ratio": cosines.participation_ratio(whole.covariance, whole.count),
        **{f"top_{k}_share": float(variances[:k].sum() / variances.sum()) for k in (1, 3, 10)},
        "kurtosis": float(moments.kurtosis.nanmedian()),
        "kurtosis_largest": float(moments.kurtosis.nan_to_num(-math.inf).max()),
        "kurtosis_projected": float(projected.kurtosis.nanmedian()),
    }
    curves = {"effective": cosines.isotropic(size), "isotropic": setting.isotropic}
    chance = setting.chance(site)
    dimensions = max(2, round(size))
    draws = {
        "effective": cosines.isotropic_draws(dimensions, setting.sample, setting.replicates, chance, True),
        "isotropic": setting.isotropic_draws,
    }
    like = None
    if outside is not None:
        mean, covariance, count = outside
        null = Gaussian.fit(mean, covariance)
        curves["gaussian"] = cosines.gaussian_cdf(null, centered, chance)
        draws["gaussian"] = cosines.gaussian_draws(null, count, setting.sample, centered, setting.replicates, chance)
        like = cosines.cdf(cosines.halves(null.draw(setting.sample, chance, centered)))  # as each replicate's is
    for name in NULLS:
        numbers |= _distances(f, name, curves.get(name), draws.get(name), like if name == "gaussian" else None)
    numbers |= _distance_interval(keys, found, f, curves.get("gaussian"), half, setting)
    empty = np.full(cosines.BINS, np.nan)
    density = [f, *(curves.get(name) for name in NULLS)]
    values, rows, columns = cosines.quantile_pairs(found, QUANTILES)
    return Look(
        numbers,
        np.stack([empty if curve is None else cosines.histogram(curve) for curve in density]),
        values,
        np.stack([rows, columns + half], -1),
    )


def _outside(whole: Any, states: Tensor) -> tuple[Tensor, Tensor, int] | None:
    """Mean, covariance and number of the states outside the sample: the whole less the sample. None for too few."""
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
    """W1 and KS from the null g, and their p-values: of the distances from `like`, where the draws' are of its kind."""
    if g is None or draws is None:
        return {f"{key}_{name}": math.nan for key in ("w1", "ks", "p", "p_ks")}
    w1, ks = cosines.w1(f, g), cosines.ks(f, g)
    tested = (w1, ks) if like is None else (cosines.w1(f, like), cosines.ks(f, like))
    p = [cosines.p_value(observed, drawn) for observed, drawn in zip(tested, draws, strict=True)]
    return {f"w1_{name}": w1, f"ks_{name}": ks, f"p_{name}": p[0], f"p_ks_{name}": p[1]}


def _document_means(keys: Keys, found: Tensor, centred: Tensor, half: int, setting: Setting) -> dict[str, float]:
    """Mean cosine of all, same-document and cross-document pairs, and the effective dimension, with intervals."""
    codes, groups, _ = cosines.grouped(keys.documents)
    blocks = Blocks(codes[:half], codes[half : 2 * half], groups)
    weights = draw_weights(groups, setting.resamples, setting.seed)
    names = np.unique(keys.documents, return_inverse=True)[1]
    same = torch.from_numpy(names[:half, None] == names[None, half : 2 * half])
    cosine, ones = found.double().cpu(), torch.ones(found.shape, dtype=torch.float64)
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
    keys: Keys, found: Tensor, f: Tensor, g: Tensor | None, half: int, setting: Setting
) -> dict[str, float]:
    """W1 from the Gaussian in standard deviations of its cosines, give or take 1.96 bootstrap standard errors.

    Not percentiles: a distance cannot be negative, so noise pushes every resample's up, beyond what was found.
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
    codes, groups, _ = cosines.grouped(keys.documents)
    blocks = Blocks(codes[:half], codes[half : 2 * half], groups)
    weights = draw_weights(groups, setting.resamples, setting.seed)
    counts = blocks.total(blocks.below(found, edges[chosen]), weights)
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
