"""Draw the baseline: cosines between Gaussian rows of which only some dimensions are not zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cutaway.analyses.states.cosines import BINS, cdf, halves, histogram
from cutaway.analyses.states.nulls import Chance, isotropic
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.results.call import analysis, meta_of
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Baseline(Result):
    """Cosines between Gaussian rows of which only some dimensions are not zero (live)."""

    analysis: ClassVar[str] = "states.gaussian"
    title: ClassVar[str] = "What would a Gaussian look like?"

    width: int
    dimensions: list[int]
    samples: int
    density: NDArray[np.float64]  # dimensions bin
    exact: NDArray[np.float64]  # the same in the limit of many samples
    mean_square: list[float]  # of the cosines: about 1 / dimensions

    def table(self) -> pd.DataFrame:
        """Return one row a number of live dimensions and bin: dimensions, cosine (the bin's middle), density, exact."""
        import pandas as pd

        middles = bin_middles()
        rows = [
            (d, c, x, e)
            for d, drawn, exact in zip(self.dimensions, self.density, self.exact, strict=True)
            for c, x, e in zip(middles, drawn.tolist(), exact.tolist(), strict=True)
        ]
        return pd.DataFrame(rows, columns=["dimensions", "cosine", "density", "exact"])

    def summary(self) -> str:
        lines = [f"{'live dimensions':>15}  {'sd of cosines':>13}  {'1/sqrt(d)':>9}"]
        chosen = sorted({*self.dimensions[:: max(1, len(self.dimensions) // 8)], self.dimensions[-1]})
        for d in chosen:
            spread = math.sqrt(self.mean_square[self.dimensions.index(d)])
            lines.append(f"{d:>15,}  {spread:13.4f}  {1 / math.sqrt(d):9.4f}")
        half = self.samples // 2
        return "\n".join([*lines, f"{half:,} x {half:,} pairs of Gaussian rows of width {self.width:,}"])

    def caption(self) -> str:
        half = self.samples // 2
        return (
            f"Cosines between {half:,} x {half:,} pairs of Gaussian rows of width {self.width:,} in which only the "
            "chosen number of dimensions is not zero; the line is their exact density."
        )


@analysis("states.gaussian")
def gaussian(width: int, dimensions: int | Sequence[int] | None = None, samples: int = 2048, seed: int = 0) -> Baseline:
    """Draw Gaussian states and return their cosines, for any number of live dimensions.

    Args:
        width: the width of the rows.
        dimensions: the number that are not zero, at least 2; None for a range from 2 to all.
        samples: the number of rows; each row of the first half is paired with each of the second.

    Raises InputError for dimensions outside 2 to `width`.
    """
    width, samples, seed = whole("width", width, 2), whole("samples", samples, 4, MOST_DRAWS), seed_of(seed)
    if dimensions is None:
        steps = np.geomspace(2, width, 60).round().astype(int).tolist()
        live = sorted({*steps, width})
    else:
        several: Any = (
            dimensions if isinstance(dimensions, Sequence) or getattr(dimensions, "ndim", None) else [dimensions]
        )
        live = [whole("dimensions", d) for d in several]
    if wrong := [d for d in live if not 2 <= d <= width] or ([] if live else [0]):
        raise InputError(f"{wrong[0]} live dimensions: 2 to {width:,} were expected")
    rows = Chance(seed).normal(samples, width)
    pairs = [halves(rows[:, :d]) for d in live]
    return Baseline(
        meta_of(None, width, samples=samples, seed=seed),
        width,
        live,
        samples,
        np.stack([histogram(cdf(c)) for c in pairs]),
        np.stack([histogram(isotropic(d)) for d in live]),
        [float(c.double().square().mean()) for c in pairs],
    )


def bin_middles() -> list[float]:
    """Return the middles of a histogram's bins."""
    edges = np.linspace(-1, 1, BINS + 1)
    return ((edges[1:] + edges[:-1]) / 2).tolist()  # type: ignore[no-any-return]
