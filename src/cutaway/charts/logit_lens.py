"""Draw the logit lens: what the model would say at each layer and position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from cutaway.charts.marks import Layers, labels, named, values
from cutaway.charts.theme import MONO, PALETTE

if TYPE_CHECKING:
    from cutaway.analyses.logit_lens.result import Lens, LensMeans

LABELS = {
    "kl": "KL from the output (nats)",
    "entropy": "Entropy (nats)",
    "loss": "Loss of the next token (nats)",
    "rank": "Rank of the next token (log10)",
    "js": "Jensen-Shannon from the output (nats)",
    "tv": "Total variation from the output",
}
WINDOW = 16  # positions shown large
CELL, ROW = 50, 22  # pixels
OVERVIEW = 128  # columns of the overview
HOVER = 5  # candidates in a tooltip


def read(result: Lens) -> alt.TopLevelMixin:
    """Draw layers x positions: an overview of a long text, a window of large cells, and means by layer."""
    metric = alt.param(
        name="metric",
        value="kl",
        bind=alt.binding_select(options=list(LABELS), labels=list(LABELS.values()), name="Colour "),
    )
    cells, n = _cells(result), len(result.ids)
    charts: list[Any] = []
    params = [metric]
    if n > WINDOW:
        furthest = n - WINDOW
        slider = alt.binding_range(min=0, max=furthest, step=1, name="First position ")
        params.append(alt.param(name="first", value=0, bind=slider))
        charts.append(_overview(cells, result, n))
    charts += [_window(cells, result, n), _by_layer(result)]
    joined: alt.VConcatChart = alt.vconcat(*charts, spacing=24).add_params(*params).resolve_scale(color="independent")
    return joined


def average(result: LensMeans) -> alt.TopLevelMixin:
    """Draw a small chart for each metric: its mean by layer, with a band."""
    titles = {**LABELS, "right": "First choice is the next token", "agrees": "First choice is the model's"}
    titles = {name: title.replace(" from the output", "") for name, title in titles.items()}
    table = result.table()
    charts = []
    for name in result.names:
        data = alt.Chart(values(table[table["metric"] == name].to_dict("records")))
        x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
        y = alt.Y("mean:Q", title=None, scale=alt.Scale(zero=name != "loss"), axis=alt.Axis(tickCount=5))
        tooltip = [
            alt.Tooltip("site:N", title="Site"),
            alt.Tooltip("mean:Q", title="Mean", format=".3f"),
            alt.Tooltip("low:Q", title="From", format=".3f"),
            alt.Tooltip("high:Q", title="To", format=".3f"),
        ]
        bands = []
        if not result.low.isnan().all():  # one document has none
            bands.append(data.mark_area(opacity=0.22).encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q"))
        line = data.mark_line(point=True).encode(x=x, y=y, tooltip=tooltip)
        charts.append(alt.layer(*bands, line).properties(width=240, height=150, title=titles[name]))
    return alt.concat(*charts, columns=3, spacing={"row": 26, "column": 34})


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.4g}")


def _cells(result: Lens) -> pd.DataFrame:
    """Return a row for each cell, short enough to send 48 x 1,024 of them to a page."""
    rows, n = len(result.sites), len(result.ids)
    columns: dict[str, list[Any]] = {
        "l": [layer for layer in result.layers for _ in range(n)],
        "i": list(range(n)) * rows,
        "token": [row[0] for tokens in result.top_display for row in tokens],
    }
    for name in ("kl", "entropy", "loss", "js", "tv"):
        columns[name] = [_rounded(v) for v in getattr(result, name).flatten().tolist()]
    columns["rank"] = [_rounded(math.log10(v)) if v else None for v in result.rank.flatten().tolist()]
    probabilities = result.top_probabilities.flatten(0, 1)[:, :HOVER].tolist()
    columns["top"] = [
        ", ".join(f"{token} {p:.0%}" for token, p in zip(tokens[:HOVER], ps, strict=True))
        for tokens, ps in zip((t for row in result.top_display for t in row), probabilities, strict=True)
    ]
    return pd.DataFrame(columns)


def _colour(cells: pd.DataFrame, legend: bool = True) -> alt.Color:
    """Return viridis over the range of the metric that is chosen."""
    largest = {name: float(cells[name].max()) if cells[name].notna().any() else 1.0 for name in LABELS}
    return alt.Color(
        "value:Q",
        title=None,
        scale=alt.Scale(scheme="viridis", domainMin=0, domainMax=alt.expr(f"({largest})[metric]")),
        legend=alt.Legend(orient="right", gradientLength=120, format=".3~g") if legend else None,
    )


def _layers(result: Lens) -> alt.Y:
    order = sorted(set(result.layers), reverse=True)
    return alt.Y("l:O", sort=order, title="Layer", axis=alt.Axis(ticks=False, domain=False, labelOverlap=True))


def _overview(cells: pd.DataFrame, result: Lens, n: int) -> alt.Chart:
    """Draw every position, in at most OVERVIEW columns that each average a few; a click moves the window."""
    width = math.ceil(n / OVERVIEW)
    binned = cells.assign(b=cells["i"] // width).groupby(["l", "b"])[list(LABELS)].mean().reset_index()
    binned["first"] = (binned["b"] * width).clip(upper=n - WINDOW)
    data = alt.Chart(values(binned.to_dict("records"))).transform_calculate(value="datum[metric]")
    inside = alt.condition(
        f"datum.first >= first - {width - 1} && datum.first < first + {WINDOW}", alt.value(1), alt.value(0.55)
    )
    columns = math.ceil(n / width)
    height = max(4, min(14, 340 // len(result.sites)))
    title = f"All {n:,} positions; click one to look closer"
    chart: alt.Chart = (
        data.mark_rect(cursor="pointer")
        .encode(
            x=alt.X("b:O", axis=None),
            y=_layers(result),
            color=_colour(cells, legend=False),
            opacity=inside,
            tooltip=[alt.Tooltip("l:O", title="Layer"), alt.Tooltip("value:Q", title="Mean", format=".3f")],
        )
        .properties(width=max(1, (WINDOW * CELL) // columns) * columns, height=height * len(result.sites), title=title)
    )
    return chart


def _window(cells: pd.DataFrame, result: Lens, n: int) -> Layers:
    """Draw cells large enough to hold their first choice."""
    largest = {name: float(cells[name].max()) if cells[name].notna().any() else 1.0 for name in LABELS}
    data = alt.Chart(values(cells.to_dict("records"))).transform_calculate(
        value="datum[metric]", column="datum.i - first" if n > WINDOW else "datum.i"
    )
    shown = min(n, WINDOW)
    if n > WINDOW:
        data = data.transform_filter(f"datum.column >= 0 && datum.column < {WINDOW}")
    x = alt.X("column:O", axis=None, scale=alt.Scale(domain=list(range(shown))))
    tooltip = [
        alt.Tooltip("l:O", title="Layer"),
        alt.Tooltip("i:O", title="Position"),
        alt.Tooltip("top:N", title="First choices"),
        *(alt.Tooltip(f"{name}:Q", title=title, format=".3f") for name, title in LABELS.items()),
    ]
    cell = data.mark_rect().encode(x=x, y=_layers(result), color=_colour(cells), tooltip=tooltip)
    # Viridis is dark at its low end: white text there, black at the bright end.
    dark = alt.condition(
        f"datum.value == null || datum.value < 0.6 * ({largest})[metric]", alt.value("white"), alt.value("black")
    )
    word = data.mark_text(font=MONO, fontSize=10, limit=CELL - 4).encode(
        x=x, y=_layers(result), text="token:N", color=dark, tooltip=tooltip
    )
    read = [{"i": i, "read": token, "text": f"position {i}: {token}"} for i, token in enumerate(result.display)]
    below = alt.Chart(values(read)).transform_calculate(column="datum.i - first" if n > WINDOW else "datum.i")
    if n > WINDOW:
        below = below.transform_filter(f"datum.column >= 0 && datum.column < {WINDOW}")
    height = ROW * len(result.sites)
    below = below.mark_text(font=MONO, fontSize=10, limit=CELL - 2, baseline="top", fontWeight="bold").encode(
        x=x, y=alt.value(height + 7), text="read:N", tooltip=alt.Tooltip("text:N", title="Read")
    )
    return alt.layer(cell, word, below).properties(width=CELL * shown, height=height, title=named(LABELS, "metric"))


def _as_many_colours(n: int) -> Any:
    """Return a scale that gives up to twenty things a colour each."""
    return alt.Undefined if n <= len(PALETTE) else alt.Scale(scheme="tableau10" if n <= 10 else "tableau20")


def _by_layer(result: Lens) -> alt.TopLevelMixin:
    """Draw mean entropy, KL and loss by layer, and the targets' rank and probability where there are any."""
    means = result.by_layer().melt("layer", ["entropy", "kl", "loss"], "metric", "nats").dropna()
    names = {"entropy": "entropy", "kl": "KL from the output", "loss": "loss"}
    means["metric"] = means["metric"].map(names)
    x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    colour = alt.Color("metric:N", title=None, sort=list(names.values()), legend=alt.Legend(orient="top"))
    data = alt.Chart(values(means.to_dict("records")))
    tooltip = [alt.Tooltip("metric:N", title="Mean"), alt.Tooltip("nats:Q", title="Nats", format=".3f")]
    line = data.mark_line(point=True).encode(
        x=x, y=alt.Y("nats:Q", title="Nats, mean over tokens"), color=colour, tooltip=tooltip
    )
    charts: list[Any] = [line.properties(width=220, height=170)]
    if result.targets:
        last = len(result.ids) - 1
        rows = [
            {
                "layer": layer,
                "target": t,
                "token": result.display_targets[t],
                "probability": result.target_probability[r, last, t].item(),
                "rank": result.target_rank[r, last, t].item(),
            }
            for r, layer in enumerate(result.layers)
            for t in range(len(result.targets))
        ]
        data = alt.Chart(values(rows))
        colour = alt.Color(
            "target:N",
            title=None,
            sort=list(range(len(result.targets))),
            scale=_as_many_colours(len(result.targets)),
            legend=alt.Legend(orient="right", symbolLimit=20, labelExpr=labels(result.display_targets)),
        )
        rank = alt.Y(
            "rank:Q",
            title="Rank at the last position",
            scale=alt.Scale(type="log", reverse=True),
            axis=alt.Axis(tickCount=4, format=","),
        )
        probability = alt.Y("probability:Q", title="Probability at the last position", axis=alt.Axis(format="%"))
        tooltip = [
            alt.Tooltip("token:N", title="Token"),
            alt.Tooltip("layer:O", title="Layer"),
            alt.Tooltip("probability:Q", title="Probability", format=".2%"),
            alt.Tooltip("rank:Q", title="Rank", format=","),
        ]
        line = data.mark_line(point=True).encode(x=x, color=colour, tooltip=tooltip)
        line = line.properties(width=190, height=170)
        charts.append(alt.hconcat(*(line.encode(y=y) for y in (probability, rank)), spacing=28))
    joined: alt.HConcatChart = alt.hconcat(*charts, spacing=28).resolve_scale(color="independent")
    return joined
