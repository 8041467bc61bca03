"""Draw what an edit of the final bias does: to tokens, and to generated texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import labels, numbers_beside_bars, values
from cutaway.charts.theme import BLUE, MONO, ORANGE, PALETTE

if TYPE_CHECKING:
    from cutaway.analyses.unigram.edit import Edit
    from cutaway.analyses.unigram.effects import Effects

ROW = 21
PANELS = {
    "repetition": ("Repeated 4-grams", "%"),
    "distinct": ("Different 2-grams", "%"),
    "perplexity": ("Perplexity, unedited model", "~f"),
}


def edit(result: Edit) -> alt.TopLevelMixin:
    """Draw bars of change: the tokens that were to change, then those that moved most."""
    rows = [
        {
            "k": k,
            "token": token,
            "change": achieved,
            "wanted": None if math.isnan(asked) else asked,
            "asked": not math.isnan(asked),
            "before": before,
            "after": after,
        }
        for k, (token, asked, achieved, before, after) in enumerate(
            zip(result.display, result.asked, result.achieved, result.before, result.after, strict=True)
        )
    ]
    data = alt.Chart(values(rows))
    every = [0.0, *result.achieved, *(asked for asked in result.asked if not math.isnan(asked))]
    room = max(0.18 * (max(every) - min(every)), 1e-6)
    scale = alt.Scale(domain=[min(every) - room, max(every) + room], nice=False)
    x = alt.X("change:Q", title="Change of log-probability (nats)", scale=scale, axis=alt.Axis(tickCount=7))
    axis = alt.Axis(
        labelExpr=labels(result.display), labelFont=MONO, labelFontSize=12, ticks=False, domain=False, labelPadding=8
    )
    y = alt.Y("k:O", title=None, axis=axis)
    tooltip = [
        alt.Tooltip("token:N", title="Token"),
        alt.Tooltip("change:Q", title="Change (nats)", format="+.4f"),
        alt.Tooltip("before:Q", title="Mean probability before", format=".3~e"),
        alt.Tooltip("after:Q", title="After", format=".3~e"),
    ]
    colour = alt.condition("datum.asked", alt.value(ORANGE), alt.value(BLUE))
    bars = data.mark_bar(height=ROW - 7).encode(x=x, x2=alt.datum(0), y=y, color=colour, tooltip=tooltip)
    wanted = data.transform_filter("datum.asked").mark_tick(thickness=2, size=ROW - 2, style="text")
    parts: list[Any] = [
        bars,
        wanted.encode(x=alt.X("wanted:Q", title="Change of log-probability (nats)"), y=y, color=alt.value("#9ca3af")),
    ]
    number = alt.Text("change:Q", format="+.3f")
    parts += [side.encode(x=x, y=y, text=number) for side in numbers_beside_bars(data, "change", 5)]
    title = f"Collateral {result.collateral:.3g} nats a prediction"
    return alt.layer(*parts).properties(width=600, height=ROW * len(rows), title=title)


def edit_effects(result: Effects) -> alt.TopLevelMixin:
    """Draw collateral against achieved change, and measures of the generated texts."""
    methods = list(dict.fromkeys(method for method, *_ in result.curves))
    colour = alt.Color(
        "method:N",
        title=None,
        scale=alt.Scale(domain=methods, range=PALETTE[: len(methods)]),
        legend=alt.Legend(orient="top"),
    )
    dash = alt.StrokeDash("method:N", title=None, scale=alt.Scale(domain=methods, range=[[6, 3], [1, 0], [2, 2]]))
    buys = f"Achieved change of {result.display} (nats)"
    x = alt.X("achieved:Q", title=buys, axis=alt.Axis(tickCount=5))
    rows = [{"method": method, "achieved": got, "collateral": cost} for method, got, cost in result.curves]
    curve = alt.Chart(values(rows)).mark_line(strokeWidth=2)
    curve = curve.encode(x=x, y=alt.Y("collateral:Q", title="Collateral (nats)"), color=colour, strokeDash=dash)
    first = result.methods.index("unedited")
    texts = []
    for method in methods:
        # Each method's line starts at the unedited model.
        own = [i for i, name in enumerate(result.methods) if name == method]
        for i in [first, *own]:
            row = {name: getattr(result, name)[i] for name in ("achieved", "collateral", *PANELS)}
            texts.append({"method": method, **row, "text": result.texts[i][0][:200]})
    data = alt.Chart(values(texts))
    tooltip = [
        alt.Tooltip("method:N", title="Method"),
        alt.Tooltip("achieved:Q", title="Achieved (nats)", format="+.3f"),
        alt.Tooltip("collateral:Q", title="Collateral (nats)", format=".4f"),
        *(alt.Tooltip(f"{name}:Q", title=title, format=form) for name, (title, form) in PANELS.items()),
        alt.Tooltip("text:N", title="A text"),
    ]
    points = data.mark_circle(size=55, opacity=1).encode(x=x, y="collateral:Q", color=colour, tooltip=tooltip)
    panels = []
    for name, (title, form) in PANELS.items():
        y = alt.Y(f"{name}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4, format=form))
        line = data.mark_line(point=True).encode(
            x=x.title("Achieved (nats)"), y=y, color=colour, strokeDash=dash, tooltip=tooltip
        )
        panels.append(line.properties(width=210, height=140))
    whole = alt.layer(curve, points).properties(width=760, height=230)
    return alt.vconcat(whole, alt.hconcat(*panels, spacing=30), spacing=22)
