"""Draw the mean effect of restoring states, over prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import TRACED_NAMES, values
from cutaway.charts.theme import BLUE, GREEN, ORANGE

if TYPE_CHECKING:
    from cutaway.analyses.causal_trace.result import TraceMeans

COLOURS = {"resid_post": BLUE, "mlp_out": GREEN, "attn_out": ORANGE}
WIDTH, HEIGHT = 225, 150


def average(result: TraceMeans) -> alt.TopLevelMixin:
    """Draw a small chart for each role: the mean effect of each kind by layer with its band, all on one scale."""
    table = result.table()
    table = table[(table["quantity"] == "effect") & table["mean"].notna()]
    table = table.assign(name=table["kind"].map(TRACED_NAMES))
    bounds = table[["mean", "low", "high"]]
    least, most = min(float(bounds.min().min()), 0.0), max(float(bounds.max().max()), 0.0)
    scale = alt.Scale(domain=[least, most], nice=True)
    colour = alt.Color(
        "name:N",
        title=None,
        scale=alt.Scale(domain=[TRACED_NAMES[k] for k in result.kinds], range=[COLOURS[k] for k in result.kinds]),
        legend=alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1),
    )
    charts: list[Any] = []
    for role, prompts in zip(result.roles, result.prompts, strict=True):
        if not prompts:
            continue
        rows = table[table["role"] == role]
        data = alt.Chart(values(rows.to_dict("records")))
        x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False))
        title = "Mean effect" if len(charts) % 3 == 0 else None
        axis = alt.Axis(tickCount=5, format="+.0%")
        tooltip = [
            alt.Tooltip("name:N", title="Restored"),
            alt.Tooltip("layer:O", title="Layer"),
            alt.Tooltip("mean:Q", title="Effect", format="+.2%"),
            alt.Tooltip("low:Q", title="From", format="+.2%"),
            alt.Tooltip("high:Q", title="To", format="+.2%"),
            alt.Tooltip("prompts:Q", title="Prompts"),
        ]
        low = alt.Y("low:Q", scale=scale, title=title, axis=axis)
        band = data.mark_area(opacity=0.18).encode(x=x, y=low, y2="high:Q", color=colour)
        point = len(set(table["layer"])) <= 16
        line = data.mark_line(point=point).encode(
            x=x, y=alt.Y("mean:Q", scale=scale, title=title, axis=axis), color=colour, tooltip=tooltip
        )
        some = "" if prompts == result.count else f" ({prompts} of {result.count})"
        heading = role[0].upper() + role[1:] + some
        charts.append(
            alt.layer(*([band] if rows["low"].notna().any() else []), line).properties(
                width=WIDTH, height=HEIGHT, title=alt.TitleParams(text=heading, frame="group")
            )
        )
    chart: alt.ConcatChart = alt.concat(*charts, columns=3, spacing={"row": 24, "column": 18})
    return chart
