"""Statistics that accumulate and merge; they know nothing of models.

moments = Moments()
moments.add(values)            any leading shape; mask says which of its entries count
moments.merge(other)           as if everything had been added to one
moments.result()
moments.save("m.npz"); load("m.npz")
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
