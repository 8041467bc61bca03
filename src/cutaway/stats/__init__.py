"""Statistics that accumulate and merge; they know nothing of models.

    moments = Moments()
    moments.add(values)            any leading shape; a mask says which entries count
    moments.merge(other)           as if everything had been added to one statistic
    moments.result()
    moments.save("m.npz"); load("m.npz")

Moments, Covariance     mean, variance, skewness and kurtosis; the covariance matrix (Pebay 2008)
Counts, Histogram       of whole numbers; between fixed edges
Quantiles               approximate, by a KLL sketch (Karnin, Lang and Liberty 2016)
Sample                  a random sample that depends only on its seed and the corpus (Beyer et al. 2007)
Extremes                the largest and smallest values, and where they occur
"""

from __future__ import annotations

from cutaway.stats.base import Keys, Statistic, load
from cutaway.stats.counts import Counts, Histogram
from cutaway.stats.extremes import Extremes
from cutaway.stats.moments import Covariance, Moments
from cutaway.stats.quantiles import Quantiles
from cutaway.stats.sample import Sample

__all__ = [
    "Counts",
    "Covariance",
    "Extremes",
    "Histogram",
    "Keys",
    "Moments",
    "Quantiles",
    "Sample",
    "Statistic",
    "load",
]
