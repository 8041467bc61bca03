"""Hold how Gaussian the states are: a row of numbers a site, curves, pairs, and a verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from cutaway.analyses.states.site import QUANTILES
from cutaway.errors import InputError
from cutaway.results.bootstrap import remark
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("resid_post", "attn_out", "mlp_out")
WORDS = {"resid_post": "hidden states", "attn_out": "attention outputs", "mlp_out": "MLP outputs"}
CLOSE, FAR = 0.1, 0.5  # W1 in standard deviations of the Gaussian's cosines: below, close; above, far


@dataclass(frozen=True, eq=False, repr=False)
class States(Result):
    """Cosines between pairs of sampled tokens' states, site by site, and their distances from Gaussians."""

    analysis: ClassVar[str] = "states.measure"
    title: ClassVar[str] = "How Gaussian are the states?"

    sites: list[str]
    kinds: list[str]
    layers: list[int]
    width: int
    numbers: list[dict[str, float]]  # one for each site; table() names them
    density: NDArray[np.float64]  # site 4 bin: of the cosines, then of the nulls in the order of NULLS
    quantile_cosines: NDArray[np.float64]  # site 201: from the smallest to the largest
    quantile_pairs: NDArray[np.int64]  # site 201 2: indices of both tokens in the sample
    contexts: list[str]  # of each sampled token, and the token after it in brackets
    places: list[tuple[str, int]]  # document and token offset of each sampled token
    documents: int
    tokens: int  # that count: position 0 of each window left out

    def table(self) -> pd.DataFrame:
        """Return one row a site.

        Columns: mean cosine (of all, same- and cross-document pairs), effective dimension, participation ratio, shares
        of variance, excess kurtosis, distances to the three nulls with their p-values; `_low` and `_high` are 95%
        intervals that resample documents.
        """
        import pandas as pd

        heads = [
            {"site": site, "kind": kind, "layer": layer}
            for site, kind, layer in zip(self.sites, self.kinds, self.layers, strict=True)
        ]
        rows = [head | row for head, row in zip(heads, self.numbers, strict=True)]
        return pd.DataFrame(rows).assign(verdict=[verdict_of(row) for row in self.numbers])

    def pair(self, site: str, quantile: float) -> tuple[float, str, str]:
        """Return the pair of tokens at a quantile of the cosines (one of the 201 kept): cosine and both contexts.

        Raises InputError for a site that was not measured, or a quantile outside 0 to 1.
        """
        if site not in self.sites:
            raise InputError(f"{site!r} was not measured: {', '.join(self.sites)} were")
        if not 0 <= quantile <= 1:
            raise InputError(f"quantile {quantile}: 0 to 1 was expected")
        i, q = self.sites.index(site), round(quantile * (QUANTILES - 1))
        a, b = self.quantile_pairs[i, q]
        return float(self.quantile_cosines[i, q]), self.contexts[a], self.contexts[b]

    def verdict(self) -> list[str]:
        """Return one sentence for each conclusion that the original notebook drew by eye, tested by the numbers."""
        table = self.table()
        by_kind = dict(list(table.groupby("kind", sort=False)))
        lines = []
        for kind, rows in by_kind.items():
            name = WORDS.get(str(kind), str(kind))
            name = name[0].upper() + name[1:]
            if rows["distance"].isna().all():
                lines.append(f"{name}: not tested; too few tokens outside the sample for the Gaussian's moments.")
                continue
            rejected = int((rows["p_gaussian"] <= 0.05).sum())
            middle = rows["distance"].median()
            word = "close to" if middle < CLOSE else "far from" if middle >= FAR else "some way from"
            within = int((rows["distance_low"] <= 0).sum())
            noise = f"; in {within} no further than documents are from each other" if within else ""
            lines.append(
                f"{name}: {word} a Gaussian of their own mean and covariance (W1 a median {middle:.2f} of its "
                f"standard deviation, {rows['distance'].min():.2f} to {rows['distance'].max():.2f}); independent "
                f"Gaussian tokens are rejected at 5% in {rejected} of {len(rows)} layers{noise}."
            )
        others = [by_kind[kind]["distance"].median() for kind in ("resid_post", "attn_out") if kind in by_kind]
        if "mlp_out" in by_kind and others and not math.isnan(mine := by_kind["mlp_out"]["distance"].median()):
            closest = mine < min(others)
            lines.append(
                f"MLP outputs are {'' if closest else 'not '}the closest to Gaussian: {mine:.2f} against "
                f"{' and '.join(f'{other:.2f}' for other in others)}."
            )
        below = int((table["effective_dimension_high"] < self.width).sum())
        low, high = table["effective_dimension"].min(), table["effective_dimension"].max()
        lines.append(
            f"Of lower dimension than their {self.width:,} coordinates: {below} of {len(table)} sites, whose centred "
            f"states spread as {low:.0f} to {high:.0f} dimensions would."
        )
        return lines

    def summary(self) -> str:
        lines = [f"{'':>18} {'mean cosine':>22}  {'effective dim.':>20}  {'W1/sd':>6} {'p':>5}  verdict"]
        for site, row in zip(self.sites, self.numbers, strict=True):
            mean = f"{row['mean_cosine']:.3f} {_span(row, 'mean_cosine', '.2f')}"
            size = f"{row['effective_dimension']:.0f} {_span(row, 'effective_dimension', '.0f')}"
            distance = f"{row['distance']:6.2f} {row['p_gaussian']:5.2f}" if not math.isnan(row["distance"]) else ""
            lines.append(
                f"{site.removeprefix('blocks.'):>18} {mean:>22}  {size:>20}  {distance:>12}  {verdict_of(row)}"
            )
        lines += ["", *self.verdict()]
        counts = f"{len(self.contexts):,} sampled of {self.tokens:,} tokens in {self.documents:,} documents"
        return "\n".join([*lines, counts + remark(self.documents)])

    def caption(self) -> str:
        half = len(self.contexts) // 2
        by_layer = (
            "Above, by layer, with 95% bands from resampling documents: their mean, the effective dimension of the "
            "centred states, and the distance from the Gaussian of the same mean and covariance (Wasserstein-1, in "
            "standard deviations of that Gaussian's cosines). Below: the cosines of one layer with the three nulls "
            "over them; the "
        )
        where = by_layer if len(set(self.layers)) > 1 else "The lines are the three nulls; the "
        return (
            f"Cosines between the states of {half:,} x {half:,} pairs of sampled tokens. {where}slider walks through "
            "the pairs from the least to the most alike and shows both contexts, each token's next in brackets."
        )

    def facts(self) -> list[tuple[str, str]]:
        last = max(self.layers)
        where = [i for i, (k, n) in enumerate(zip(self.kinds, self.layers, strict=True)) if (k, n) == (KINDS[0], last)]
        return [
            ("effective dimension, last layer", f"{self.numbers[i]['effective_dimension']:.0f} of {self.width:,}")
            for i in where
        ]


def _span(row: dict[str, float], name: str, form: str) -> str:
    """Return a number's interval in brackets; empty where it has none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if math.isnan(low) else f"({low:{form}}..{high:{form}})"


def verdict_of(row: dict[str, float]) -> str:
    """Return one site's verdict in words."""
    if math.isnan(row["distance"]):
        return "too few tokens to test"
    if row["p_gaussian"] > 0.05:
        return "no departure from Gaussian seen"
    if row["distance_low"] <= 0:
        return "no further from Gaussian than documents from each other"
    if row["distance"] < CLOSE:
        return "close to Gaussian, not quite"
    return "far from Gaussian" if row["distance"] >= FAR else "not Gaussian"
