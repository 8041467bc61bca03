"""Draw norms by layer, and how they are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from cutaway.charts.marks import Layers, rounded, values
from cutaway.charts.theme import BLUE, ORANGE, PINK

if TYPE_CHECKING:
    from cutaway.analyses.norms.result import Norms

RAMP = [BLUE, PINK, ORANGE]  # first to last layer
POINTS = 6000  # shown at most; of more, an equal sample of each layer
BINS = 200  # of a layer at most
HEIGHT = 300


def measure(result: Norms) -> alt.TopLevelMixin:
    """Draw norms by layer (with heads, the means by layer and head), and how they are distributed."""
    # A layer under the pointer, in either picture, stands out in both.
    over = [
        alt.selection_point(name=name, on="pointerover", clear="pointerout", fields=["layer"])
        for name in ("over_left", "over_right")
    ]
    left = _heads(result, over) if result.heads else _points(result, over)
    right = _distributions(result, over)
    joined: alt.HConcatChart = alt.hconcat(left, right, spacing=30).resolve_scale(color="independent")
    return joined


def heat_map(
    rows: Sequence[Mapping[Any, Any]], numbers: Sequence[int], heads: int, colour: alt.Color | None, tooltip: list[Any]
) -> alt.Chart:
    """Draw layers x heads as cells, the last layer on top.

    `numbers` are those of all layers, also of layers that are not in `rows`.
    """
    order = sorted(set(numbers), reverse=True)
    layers = len(order)
    wide, high = max(9, min(28, 360 // heads)), max(9, min(24, 660 // layers))
    axis = alt.Axis(labelAngle=0, labelOverlap="greedy", labelSeparation=5, ticks=False, domain=False)
    x = alt.X("head:O", title="Head", axis=axis)
    y = alt.Y(
        "layer:O",
        title="Layer",
        sort=order,
        scale=alt.Scale(domain=order),
        axis=alt.Axis(labelOverlap=True, ticks=False, domain=False),
    )
    chart: alt.Chart = (
        alt.Chart(values(rows))
        .mark_rect()
        .encode(x=x, y=y, tooltip=tooltip, **({} if colour is None else {"color": colour}))
        .properties(width=wide * heads, height=high * layers)
    )
    return chart


def _points(result: Norms, over: list[alt.Parameter]) -> Layers:
    """Draw a point for each token, spread sideways, and a tick at each layer's median."""
    found = result.values[:, result.position > 0]
    layers = len(result.layers)
    most = POINTS // layers
    generator = np.random.default_rng(0)
    rows, medians = [], []
    for layer, all_of_it in zip(result.layers, found, strict=True):
        good = all_of_it[np.isfinite(all_of_it)]
        if not len(good):
            continue
        medians.append({"layer": layer, "median": float(np.median(good))})
        shown = good if len(good) <= most else generator.choice(good, most, replace=False)
        aside = generator.normal(0.5, 0.14, len(shown)).clip(0.02, 0.98)
        rows += [
            {"layer": layer, "value": rounded(value), "aside": float(f"{place:.3f}")}
            for value, place in zip(shown, aside, strict=True)
        ]
    x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("value:Q", title=_sentence(result.unit), scale=alt.Scale(zero=False))
    tooltip = [alt.Tooltip("layer:O", title="Layer"), alt.Tooltip("value:Q", title=_sentence(result.unit))]
    points = (
        alt.Chart(values(rows))
        .mark_circle(size=18 if len(rows) > 2000 else 34)
        .encode(
            x=x,
            xOffset=alt.XOffset("aside:Q", scale=alt.Scale(domain=[0, 1])),
            y=y,
            color=_colour(result, legend=False),
            opacity=alt.condition(over[0] & over[1], alt.value(0.5), alt.value(0.08)),
            tooltip=tooltip,
        )
        .add_params(over[0])
    )
    width = max(8, min(40, 470 // layers))
    middle = (
        alt.Chart(values(medians))
        .mark_tick(thickness=2, size=width * 0.8, orient="horizontal")
        .encode(x=x, y=alt.Y("median:Q"), tooltip=[alt.Tooltip("median:Q", title="Median", format=".3f")])
    )
    sampled = any(len(row[np.isfinite(row)]) > most for row in found)
    title = f"A sample of {most:,} tokens of each layer" if sampled else "Each token"
    return alt.layer(points, middle).properties(width=width * layers if layers > 8 else 360, height=HEIGHT, title=title)


def _heads(result: Norms, over: list[alt.Parameter]) -> alt.Chart:
    """Draw the mean of every head."""
    table = result.by_layer()
    rows = [{**row, "value": row["mean"]} for row in table.to_dict("records")]
    colour = alt.Color(
        "value:Q", title="Mean", scale=alt.Scale(scheme="viridis"), legend=alt.Legend(gradientLength=120)
    )
    tooltip = [
        alt.Tooltip("layer:O", title="Layer"),
        alt.Tooltip("head:O", title="Head"),
        alt.Tooltip("mean:Q", title=f"Mean {result.unit}", format=".3f"),
        alt.Tooltip("sd:Q", title="Standard deviation", format=".3f"),
        alt.Tooltip("not_finite:Q", title="Not finite"),
    ]
    chart = heat_map(rows, result.layers, max(result.heads or [0]) + 1, colour, tooltip)
    titled: alt.Chart = chart.properties(title=f"Mean {result.unit}").add_params(over[0])
    return titled


def _distributions(result: Norms, over: list[alt.Parameter]) -> alt.Chart:
    """Draw counts in bins of Freedman and Diaconis's width, a line for each layer."""
    rows = []
    numbers = np.array(result.layers)
    for layer in sorted(set(result.layers)):
        found = result.values[numbers == layer][:, result.position > 0]
        good = found[np.isfinite(found)]
        if not len(good):
            continue
        counts, edges = np.histogram(good, bins=_edges(good))
        rows += [
            {"layer": layer, "middle": float((a + b) / 2), "from": float(a), "to": float(b), "count": int(n)}
            for a, b, n in zip(edges, edges[1:], counts, strict=False)
        ]
    what = "Heads and tokens in bin" if result.heads else "Tokens in bin"
    many = len(rows) > 300
    chart: alt.Chart = (
        alt.Chart(values(rows))
        .mark_line(point=alt.OverlayMarkDef(size=3 if many else 16), strokeWidth=1.1 if many else 1.4)
        .encode(
            x=alt.X("middle:Q", title=_sentence(result.unit), scale=alt.Scale(zero=False)),
            y=alt.Y("count:Q", title=what),
            color=_colour(result, legend=True),
            detail="layer:O",
            opacity=alt.condition(over[0] & over[1], alt.value(0.9), alt.value(0.08)),
            tooltip=[
                alt.Tooltip("layer:O", title="Layer"),
                alt.Tooltip("from:Q", title="From", format=".3f"),
                alt.Tooltip("to:Q", title="To", format=".3f"),
                alt.Tooltip("count:Q", title=what, format=","),
            ],
        )
        .add_params(over[1])
        .properties(width=270, height=HEIGHT, title="Distributions")
    )
    return chart


def _edges(good: Any) -> Any:
    """Return bin edges by Freedman and Diaconis's rule: at most BINS, and one bin where the quartiles are equal."""
    quarter, three = np.percentile(good, [25, 75])
    width, span = 2 * (three - quarter) / np.cbrt(len(good)), np.ptp(good)
    many = int(np.ceil(min(span / width, BINS))) if width > 0 else 1
    return np.histogram_bin_edges(good, bins=max(1, many))


def _colour(result: Norms, legend: bool) -> alt.Color:
    first, last = min(result.layers), max(result.layers)
    shown = None
    if legend and len(set(result.layers)) <= 8:
        shown = alt.Legend(format="d", values=sorted(set(result.layers)))
    elif legend:
        shown = alt.Legend(format="d", values=sorted({round(first + (last - first) * i / 4) for i in range(5)}))
    scale = alt.Scale(domain=[first, max(last, first + 1)], range=RAMP)
    return alt.Color("layer:Q", title="Layer", scale=scale, legend=shown)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
