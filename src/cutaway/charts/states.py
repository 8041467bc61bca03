"""Draw how hidden states, attention and MLP outputs are distributed, beside Gaussian nulls."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd

from cutaway.analyses.states.gaussian import bin_middles
from cutaway.analyses.states.result import WORDS
from cutaway.charts.marks import Layers, values
from cutaway.charts.theme import BLUE, GREEN, MONO, ORANGE, PINK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutaway.analyses.states.gaussian import Baseline
    from cutaway.analyses.states.result import States

CURVES = {  # in the order of the densities: what a reader calls it, colour, dashes
    "cosines": ("pairs of tokens", BLUE, [1, 0]),
    "gaussian": ("Gaussian, same mean and covariance", ORANGE, [1, 0]),
    "effective": ("isotropic, effective dimension", GREEN, [6, 3]),
    "isotropic": ("isotropic, full width", PINK, [2, 2]),
}
PANELS = [
    ("mean_cosine", "Mean cosine", "linear"),
    ("effective_dimension", "Effective dimension", "log"),
    ("distance", "Distance from Gaussian (W1 / sd)", "linear"),
]
WIDTH = 880
LONGEST = 118  # characters of a context that fit
AT = "datum.kind == kind && datum.layer == layer"
RANK = "datum.rank == round(quantile * 200)"


def measure(result: States) -> alt.TopLevelMixin:
    """Draw three panels by layer, one layer's cosines with the nulls, and the pair of tokens at a quantile."""
    kinds = list(dict.fromkeys(result.kinds))
    layers = sorted(set(result.layers))
    kind = alt.param(
        name="kind",
        value=kinds[0],
        bind=alt.binding_select(options=kinds, labels=[WORDS.get(k, k) for k in kinds], name="States "),
    )
    layer = alt.param(
        name="layer", value=layers[len(layers) // 2], bind=alt.binding_select(options=layers, name="Layer ")
    )
    quantile = alt.param(name="quantile", value=0.5, bind=alt.binding_range(min=0, max=1, step=0.005, name="Quantile "))
    pairs = _pairs(result)
    parts: list[Any] = [_histogram(result, pairs), _contexts(result, pairs)]
    if len(layers) > 1:
        parts.insert(0, _by_layer(result))
    # There is nothing to pick among one thing.
    params = [p.param for p, among in ((kind, kinds), (layer, layers)) if len(among) > 1]
    fixed = [alt.VariableParameter(name=n, value=v[0]) for n, v in (("kind", kinds), ("layer", layers)) if len(v) == 1]
    independent = alt.Resolve(scale=alt.ScaleResolveMap(color="independent", strokeDash="independent"))
    # Given here, for each method of a chart copies all that is in it.
    return alt.vconcat(*parts, spacing=22, resolve=independent, params=[*fixed, *params, quantile.param])


def _by_layer(result: States) -> alt.TopLevelMixin:
    """Draw a line with a band for each kind; a click shows that layer below."""
    table = result.table().assign(words=[WORDS.get(kind, kind) for kind in result.kinds])
    panels = []
    for name, title, scale in PANELS:
        columns = ["kind", "words", "layer", name, f"{name}_low", f"{name}_high"]
        rows = table[columns].rename(columns={name: "value", f"{name}_low": "low", f"{name}_high": "high"})
        rows = rows.dropna(subset=["value"])  # one document has values and no intervals
        if rows.empty:  # as the distance is where there are too few tokens for the Gaussian's moments
            continue
        data = alt.Chart(values(rows.to_dict("records")))
        x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
        legend = alt.Legend(orient="top", title=None, symbolOpacity=1, symbolType="stroke")
        colour = alt.Color("words:N", sort=list(WORDS.values()), legend=legend)
        tooltip = [
            alt.Tooltip("words:N", title="States"),
            alt.Tooltip("layer:O", title="Layer"),
            alt.Tooltip("value:Q", title=title, format=".3~g"),
            alt.Tooltip("low:Q", title="From", format=".3~g"),
            alt.Tooltip("high:Q", title="To", format=".3~g"),
        ]
        y = _logarithmic(rows) if scale == "log" else alt.Y("value:Q", title=None, axis=alt.Axis(tickCount=5))
        bands = []
        if rows["low"].notna().any():
            band = data.mark_area(opacity=0.2).encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q", color=colour)
            bands.append(band)
        line = data.mark_line(point=alt.OverlayMarkDef(size=50, cursor="pointer")).encode(
            x=x, y=y, color=colour, tooltip=tooltip
        )
        here = (
            data.transform_filter(AT).mark_point(size=170, filled=False, strokeWidth=2).encode(x=x, y=y, color=colour)
        )
        panels.append(alt.layer(*bands, line, here).properties(width=250, height=160, title=title))
    joined: alt.HConcatChart = alt.hconcat(*panels, spacing=26).resolve_scale(color="shared")
    return joined


def _logarithmic(rows: pd.DataFrame) -> alt.Y:
    """Return an axis with ticks at 1, 2 and 5 times the powers of ten."""
    ends = rows[["value", "low", "high"]].to_numpy(float)
    low, high = float(np.nanmin(ends)) * 0.8, float(np.nanmax(ends)) * 1.25
    ticks = [m * 10**e for e in range(-1, 6) for m in (1, 2, 5) if low <= m * 10**e <= high]
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(values=ticks, format="~g"))


def _bins(result: States) -> list[dict[str, Any]]:
    """Return a record for each site and bin, short enough for a page; a click sets `quantile`, the share below."""
    names, middles = list(CURVES), bin_middles()
    rows = []
    for kind, layer, density in zip(result.kinds, result.layers, result.density, strict=True):
        share = np.cumsum(density[0]) * 2 / len(middles)
        for i, c in enumerate(middles):
            found = {name: float(f"{density[j, i]:.4g}") for j, name in enumerate(names)}
            q = round(float(np.clip(share[i] - density[0, i] / len(middles), 0, 1)) * 200) / 200
            rows.append({"kind": kind, "layer": layer, "cosine": round(c, 4), "quantile": q, **found})
    return rows


def _histogram(result: States, pairs: alt.Chart) -> Layers:
    shown = alt.Chart(values(_bins(result))).transform_filter(AT)
    x = _cosine("cosine")
    step = 2 / len(bin_middles())
    bars = (
        shown.transform_calculate(left=f"datum.cosine - {step / 2}", right=f"datum.cosine + {step / 2}")
        .mark_bar(opacity=0.45, color=BLUE, cursor="pointer")
        .encode(
            x=_cosine("left"),
            x2="right:Q",
            y=alt.Y("cosines:Q", title="Density"),
            y2=alt.datum(0),
            tooltip=[alt.Tooltip("cosine:Q", format=".3f"), alt.Tooltip("cosines:Q", title="Density", format=".3~g")],
        )
    )
    domain = [words for words, _, _ in CURVES.values()]
    names = {name: words for name, (words, _, _) in CURVES.items()}
    lines = (
        shown.transform_fold(list(CURVES), ["curve", "density"])
        .transform_calculate(words=f"({names})[datum.curve]")
        .transform_filter("datum.density != null")
        .mark_line(strokeWidth=1.8)
        .encode(
            x=x,
            y="density:Q",
            color=alt.Color(
                "words:N",
                scale=alt.Scale(domain=domain, range=[colour for _, colour, _ in CURVES.values()]),
                legend=alt.Legend(orient="top", title=None, labelLimit=300, symbolType="stroke"),
            ),
            strokeDash=alt.StrokeDash(
                "words:N",
                scale=alt.Scale(domain=domain, range=[dashes for _, _, dashes in CURVES.values()]),
                legend=alt.Legend(orient="top", title=None, labelLimit=300, symbolType="stroke"),
            ),
        )
    )
    rule = pairs.mark_rule(strokeWidth=2).encode(x=_cosine("cosine"))
    return alt.layer(bars, lines, rule).properties(width=WIDTH, height=240)


def _cosine(field: str) -> alt.X:
    ticks = [t / 5 for t in range(-5, 6)]
    domain = alt.Scale(domain=[-1, 1], nice=False)
    return alt.X(f"{field}:Q", title="Cosine", scale=domain, axis=alt.Axis(values=ticks, format=".1f"))


def _pairs(result: States) -> alt.Chart:
    """Return the pair at the chosen quantile of the chosen site, with the contexts of both tokens."""
    rows = [
        {"kind": kind, "layer": layer, "rank": rank, "cosine": float(f"{c:.4g}"), "a": int(a), "b": int(b)}
        for kind, layer, found, pairs in zip(
            result.kinds, result.layers, result.quantile_cosines, result.quantile_pairs, strict=True
        )
        for rank, (c, (a, b)) in enumerate(zip(found, pairs, strict=True))
    ]
    chart: alt.Chart = alt.Chart(values(rows)).transform_filter(AT).transform_filter(RANK)
    return chart


def _contexts(result: States, pairs: alt.Chart) -> alt.TopLevelMixin:
    used = sorted({int(i) for pairs in result.quantile_pairs for pair in pairs for i in pair})
    texts = [
        {"i": i, "text": _fit(result.contexts[i]), "where": "{}, token {:,}".format(*result.places[i])} for i in used
    ]
    known = alt.LookupData(data=values(texts), key="i", fields=["text", "where"])
    words: dict[str, Any] = {"align": "left", "baseline": "top"}
    heading = (
        pairs.transform_calculate(line="'Similarity ' + format(datum.cosine, '.3f')")
        .mark_text(fontSize=12, fontWeight=600, **words)
        .encode(text="line:N", x=alt.value(0), y=alt.value(0))
    )
    lines = [heading]
    for n in (0, 1):
        y = 22 + 40 * n
        lines += [
            pairs.mark_text(font=MONO, fontSize=12, limit=WIDTH, **words).encode(
                text=f"text {n}:N", x=alt.value(0), y=alt.value(y), tooltip=alt.Tooltip(f"text {n}:N", title="Context")
            ),
            pairs.mark_text(fontSize=10, opacity=0.65, limit=WIDTH, **words).encode(
                text=f"where {n}:N", x=alt.value(0), y=alt.value(y + 17)
            ),
        ]
    layers: Layers = alt.layer(*lines).properties(width=WIDTH, height=96)
    # Last, for altair copies what is inside a transform at each of its steps.
    layers.transform = [
        alt.LookupTransform(lookup=end, **{"from": known, "as": [f"text {n}", f"where {n}"]})
        for n, end in enumerate(("a", "b"))
    ]
    return layers


def _fit(context: str) -> str:
    """Return the text in one line, cut at its beginning: its end holds the sampled token."""
    line = context.strip(" ").replace("\n", "↵").replace("\r", "↵").replace("\t", "⇥")
    return line if len(line) <= LONGEST else "…" + line[-LONGEST:]


def gaussian(result: Baseline) -> alt.TopLevelMixin:
    """Draw the cosines of the chosen number of live dimensions, with their exact density."""
    alive = result.dimensions
    # The slider knows every number; shown is the nearest that was drawn.
    edges = [0, *((a + b) / 2 for a, b in itertools.pairwise(alive)), result.width + 1]
    rows = [
        {"from": edges[i], "to": edges[i + 1], "alive": d, "cosine": round(c, 4), "density": x, "exact": e}
        for i, (d, found, exact) in enumerate(zip(alive, _short(result.density), _short(result.exact), strict=True))
        for c, x, e in zip(bin_middles(), found, exact, strict=True)
    ]
    data = alt.Chart(values(rows))
    params = []
    if len(alive) > 1:
        bind = alt.binding_range(min=alive[0], max=alive[-1], step=1, name="Live dimensions ")
        params = [alt.param(name="dimensions", value=alive[-1], bind=bind)]
        data = data.transform_filter("datum.from <= dimensions && dimensions < datum.to")
    step = 2 / len(bin_middles())
    bars = (
        data.transform_calculate(left=f"datum.cosine - {step / 2}", right=f"datum.cosine + {step / 2}")
        .mark_bar(opacity=0.5)
        .encode(
            x=_cosine("left"),
            x2="right:Q",
            y=alt.Y("density:Q", title="Density"),
            y2=alt.datum(0),
            tooltip=[alt.Tooltip("cosine:Q", format=".3f"), alt.Tooltip("density:Q", format=".3~g")],
        )
    )
    line = data.mark_line(color=ORANGE, strokeWidth=1.8).encode(x=_cosine("cosine"), y="exact:Q")
    label = (
        data.transform_filter(f"datum.cosine == {round(bin_middles()[0], 4)}")
        .transform_calculate(line=f"format(datum.alive, ',') + ' of {result.width:,} dimensions'")
        .mark_text(align="left", baseline="top", fontSize=13, fontWeight=600)
        .encode(text="line:N", x=alt.value(8), y=alt.value(6))
    )
    chart = alt.layer(bars, line, label).properties(width=WIDTH, height=260)
    return chart.add_params(*params) if params else chart


def _short(densities: NDArray[np.float64]) -> list[list[float]]:
    """Return a number with four digits, which are enough for a page."""
    return [[float(f"{x:.4g}") for x in row] for row in densities.tolist()]
