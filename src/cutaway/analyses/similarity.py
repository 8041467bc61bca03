"""How Gaussian are the hidden states?

    found = measure(model, corpus)             every layer; hidden states, attention outputs, MLP outputs
    found.chart(); found.verdict(); found.pair("blocks.2.mlp_out", 0.99)
    gaussian(1600)                             the baseline: Gaussians of fewer and fewer live dimensions

The cosines between pairs of tokens' states are set beside three nulls: an isotropic Gaussian of the states' width, one
of their effective dimension, and the Gaussian with their own mean and covariance. The last one is what "Gaussian"
means; the other two ask whether all directions are alike. Position 0 of every window, whose states are unlike all
others, is left out.

Ethayarajh 2019, How Contextual are Contextualized Word Representations? (anisotropy as a mean cosine). Timkey and van
Schijndel 2021, All Bark and No Bite (rogue dimensions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cutaway.analyses import cosines
from cutaway.analyses.cosines import Chance
from cutaway.analyses.result import Result, describe
from cutaway.analyses.state_pairs import QUANTILES, Setting, context, look_at, sinks_for
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.corpus import Source, open_corpus
from cutaway.errors import InputError
from cutaway.model.modes import plainly
from cutaway.progress import track
from cutaway.survey import survey

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.model import Model
    from cutaway.model.sites import Site

KINDS = ("resid_post", "attn_out", "mlp_out")
WORDS = {"resid_post": "hidden states", "attn_out": "attention outputs", "mlp_out": "MLP outputs"}
FEW_DOCUMENTS = 30
CLOSE, FAR = 0.1, 0.5  # W1 in standard deviations of the Gaussian's cosines: below, close; above, far


@dataclass(frozen=True, eq=False, repr=False)
class Similarity(Result):
    """Cosines between pairs of sampled tokens' states, site by site, and how far they are from Gaussians."""

    analysis: ClassVar[str] = "similarity.measure"
    title: ClassVar[str] = "How Gaussian are the states?"

    sites: list[str]
    kinds: list[str]
    layers: list[int]
    width: int
    numbers: list[dict[str, float]]  # one for each site; table() names them
    density: NDArray[np.float64]  # site 4 bin: of the cosines, then of the nulls in the order of NULLS
    quantile_cosines: NDArray[np.float64]  # site 201: from the smallest to the largest
    quantile_pairs: NDArray[np.int64]  # site 201 2: which two of the sample
    contexts: list[str]  # of each sampled token, and the token after it in brackets
    places: list[tuple[str, int]]  # document and token offset of each sampled token
    documents: int
    tokens: int  # that count: position 0 of each window left out

    def table(self) -> pd.DataFrame:
        """One row a site: mean cosine (of all, same- and cross-document pairs), effective dimension, participation
        ratio, shares of variance, excess kurtosis, distances to the three nulls with their p-values; `_low` and `_high`
        are 95% intervals that resample documents."""
        import pandas as pd

        heads = [
            {"site": site, "kind": kind, "layer": layer}
            for site, kind, layer in zip(self.sites, self.kinds, self.layers, strict=True)
        ]
        rows = [head | row for head, row in zip(heads, self.numbers, strict=True)]
        return pd.DataFrame(rows).assign(verdict=[verdict_of(row) for row in self.numbers])

    def pair(self, site: str, quantile: float) -> tuple[float, str, str]:
        """The pair of tokens at a quantile of the cosines (one of 201 that are kept): cosine and both contexts.

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
        """What the notebook that began this concluded by eye, held against the numbers: one sentence each."""
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
            distance = f"{row['distance']:6.2f} {row['p_gaussian']:5.2f}" if row["distance"] == row["distance"] else ""
            lines.append(
                f"{site.removeprefix('blocks.'):>18} {mean:>22}  {size:>20}  {distance:>12}  {verdict_of(row)}"
            )
        few = f"; under {FEW_DOCUMENTS} documents the intervals are rough" if self.documents < FEW_DOCUMENTS else ""
        lines += ["", *self.verdict()]
        n = len(self.contexts)
        return "\n".join([*lines, f"{n:,} sampled of {self.tokens:,} tokens in {self.documents:,} documents{few}"])

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
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if math.isnan(low) else f"({low:{form}}..{high:{form}})"


def verdict_of(row: dict[str, float]) -> str:
    """One site's numbers in words."""
    if math.isnan(row["distance"]):
        return "too few tokens to test"
    if row["p_gaussian"] > 0.05:
        return "no departure from Gaussian seen"
    if row["distance_low"] <= 0:
        return "no further from Gaussian than documents from each other"
    if row["distance"] < CLOSE:
        return "close to Gaussian, not quite"
    return "far from Gaussian" if row["distance"] >= FAR else "not Gaussian"


@plainly
def measure(
    model: Model,
    corpus: Source = None,
    kinds: Sequence[str] = KINDS,
    layers: Sequence[int] | None = None,
    sample: int = 2000,
    centered: bool = False,
    seed: int = 0,
    *,
    replicates: int = 99,
    resamples: int = 1000,
    bos: bool = False,
) -> Similarity:
    """The distribution of cosines between tokens' states, against Gaussian nulls, over a corpus.

    Args:
        corpus: whatever cutaway.corpus.open_corpus takes; None for the bundled documents.
        kinds: of sites of width d_model in a block.
        layers: None for all; negative ones count from the end.
        sample: tokens whose states are paired, half with half; the same tokens at every site, whatever the batching.
        centered: cosines of differences from the mean over tokens. (The effective dimension is of those always.)
        replicates: Monte-Carlo samples for each p-value, which is at least 1 / (replicates + 1); 19 or more.
        resamples: of documents, for the intervals.

    Raises:
        SiteError, InputError: sites of another width, a sample that the corpus is too small for.
    """
    sites = _sites(model, kinds, layers)
    sample, seed = whole("sample", sample, 4), seed_of(seed)
    replicates = whole("replicates", replicates, 19, MOST_DRAWS)  # of fewer no p-value could be 0.05
    resamples = whole("resamples", resamples, 2, MOST_DRAWS)
    source = open_corpus(corpus)
    seen = survey(model, source, sinks_for(model, sites, sample, seed), bos=bos)
    tokens = seen["contexts"].count
    if tokens < sample:
        raise InputError(
            f"corpus {source.name} has {tokens:,} tokens (position 0 of each window left out) and a sample of "
            f"{sample:,} was asked for: give more text, or sample={tokens // 2}"
        )
    drawn = seen["contexts"].sample.result()
    setting = Setting(model.config.d_model, sample, replicates, resamples, seed, model.device)
    looks = [
        look_at(seen, site.name, setting, centered, drawn.keys) for site in track(sites, "comparing states", len(sites))
    ]
    parameters = {
        "kinds": tuple(kinds),
        "layers": layers,
        "sample": sample,
        "centered": centered,
        "seed": seed,
        "replicates": replicates,
        "resamples": resamples,
        "bos": bos,
    }
    meta = describe(model, "similarity.measure", corpus, **parameters) | {"input": source.name}
    return Similarity(
        meta,
        [site.name for site in sites],
        [site.kind for site in sites],
        [site.layer or 0 for site in sites],
        model.config.d_model,
        [look.numbers for look in looks],
        np.stack([look.density for look in looks]),
        np.stack([look.quantile_cosines for look in looks]),
        np.stack([look.quantile_pairs for look in looks]),
        [context(model, row) for row in drawn.values.tolist()],
        list(zip(drawn.keys.documents.tolist(), drawn.keys.offsets.tolist(), strict=True)),
        seen.documents,
        tokens,
    )


def _sites(model: Model, kinds: Sequence[str], layers: Sequence[int] | None) -> list[Site]:
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    wanted = None if layers is None else [f"blocks.{layer}.{kind}" for kind in kinds for layer in layers]
    found = [site for pattern in (wanted or kinds) for site in model.sites().match(pattern)]
    for site in found:
        if site.shape != "B P D" or site.layer is None:
            raise InputError(f"{site.name!r} is {site.shape}: states of width d_model in a block were expected")
    if not found:
        raise InputError("no site was named: kinds such as 'resid_post' and layers such as [0, -1] were expected")
    return list(dict.fromkeys(found))


# --- the baseline ---


@dataclass(frozen=True, eq=False, repr=False)
class Baseline(Result):
    """Cosines between Gaussian rows of which only some dimensions are alive."""

    analysis: ClassVar[str] = "similarity.gaussian"
    title: ClassVar[str] = "What would a Gaussian look like?"

    width: int
    dimensions: list[int]
    samples: int
    density: NDArray[np.float64]  # dimensions bin
    exact: NDArray[np.float64]  # the same in the limit of many samples
    mean_square: list[float]  # of the cosines: about 1 / dimensions

    def table(self) -> pd.DataFrame:
        """One row a number of live dimensions and bin: dimensions, cosine (the bin's middle), density, exact."""
        import pandas as pd

        middles = bin_middles()
        rows = [
            (d, c, x, e)
            for d, found, exact in zip(self.dimensions, self.density, self.exact, strict=True)
            for c, x, e in zip(middles, found.tolist(), exact.tolist(), strict=True)
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


@plainly
def gaussian(width: int, dimensions: int | Sequence[int] | None = None, samples: int = 2048, seed: int = 0) -> Baseline:
    """What cosines of exactly Gaussian states look like, for any number of live dimensions.

    Args:
        width: of the rows.
        dimensions: how many are not zero, at least 2; None for a range from 2 to all.
        samples: rows, paired half with half.

    Raises InputError for dimensions outside 2 to `width`.
    """
    width, samples, seed = whole("width", width, 2), whole("samples", samples, 4, MOST_DRAWS), seed_of(seed)
    if dimensions is None:
        steps = np.geomspace(2, width, 60).round().astype(int).tolist()
        alive = sorted({*steps, width})
    else:
        several: Any = (
            dimensions if isinstance(dimensions, Sequence) or getattr(dimensions, "ndim", None) else [dimensions]
        )
        alive = [whole("dimensions", d) for d in several]
    if wrong := [d for d in alive if not 2 <= d <= width] or ([] if alive else [0]):
        raise InputError(f"{wrong[0]} live dimensions: 2 to {width:,} were expected")
    rows = Chance(seed).normal(samples, width)
    found = [cosines.halves(rows[:, :d]) for d in alive]
    return Baseline(
        describe(None, "similarity.gaussian", width, dimensions=dimensions, samples=samples, seed=seed),
        width,
        alive,
        samples,
        np.stack([cosines.histogram(cosines.cdf(c)) for c in found]),
        np.stack([cosines.histogram(cosines.isotropic(d)) for d in alive]),
        [float(c.double().square().mean()) for c in found],
    )


def bin_middles() -> list[float]:
    edges = np.linspace(-1, 1, cosines.BINS + 1)
    return ((edges[1:] + edges[:-1]) / 2).tolist()  # type: ignore[no-any-return]
