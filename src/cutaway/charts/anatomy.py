"""Draw what a model is made of, and the tokens of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from cutaway.charts.marks import lay_out, values
from cutaway.charts.predictions import CHARACTER, LINE
from cutaway.charts.theme import BLUE, MONO

if TYPE_CHECKING:
    from cutaway.analyses.anatomy import Anatomy, TextTokens

COLUMNS = 100


def read(result: Anatomy) -> alt.TopLevelMixin:
    """Draw the parameters by part, in forward order."""
    rows = result.table().to_dict("records")
    data = alt.Chart(values(rows))
    y = alt.Y(
        "part:N", sort=None, title=None, axis=alt.Axis(labelFontSize=12, labelPadding=8, ticks=False, domain=False)
    )
    x = alt.X(
        "parameters:Q",
        title="Parameters",
        axis=alt.Axis(format="~s", tickCount=6, labelExpr="datum.value ? datum.label : '0'"),
    )
    tooltip = [alt.Tooltip("of:N", title="Tensors"), alt.Tooltip("parameters:Q", title="Parameters", format=",")]
    bars = data.mark_bar(height=16, cornerRadiusEnd=2).encode(x=x, y=y, tooltip=tooltip)
    label = data.mark_text(align="left", dx=5, fontSize=11).encode(x=x, y=y, text="label:N")
    label = label.transform_calculate(label="format(datum.parameters, ',') + '  (' + format(datum.share, '.1%') + ')'")
    return alt.layer(bars, label).properties(width=640, height=30 * len(rows))


def tokens(result: TextTokens) -> alt.TopLevelMixin:
    """Draw the text in lines, with a frame around each token."""
    places = lay_out(result.display, COLUMNS)
    table = result.table()[["position", "token_id", "display", "start", "end"]].to_dict("records")
    rows = [
        {
            **row,
            "x": x * CHARACTER + 1,
            "x2": (x + w) * CHARACTER - 1,
            "y": line * LINE,
            "y2": (line + 1) * LINE - 3,
            "odd": i % 2,
        }
        for i, (row, (x, line, w)) in enumerate(zip(table, places, strict=True))
    ]
    for row in rows:
        row["middle"] = (row["y"] + row["y2"]) / 2
    room = COLUMNS * CHARACTER
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, room], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[rows[-1]["y2"], 0], nice=False))
    tooltip = [
        alt.Tooltip(f"{field}:N", title=title)
        for field, title in [
            ("display", "Token"),
            ("token_id", "Id"),
            ("position", "Position"),
            ("start", "From character"),
            ("end", "To character"),
        ]
    ]
    data = alt.Chart(values(rows))
    shade = alt.condition("datum.odd == 1", alt.value(0.32), alt.value(0.14))
    boxes = data.mark_rect(cornerRadius=3, color=BLUE).encode(
        x=x, x2="x2:Q", y=y, y2="y2:Q", opacity=shade, tooltip=tooltip
    )
    words = data.mark_text(align="left", baseline="middle", font=MONO, fontSize=13, dx=-1, limit=room)
    words = words.encode(x=x, y=alt.Y("middle:Q", axis=None), text="display:N", tooltip=tooltip)
    return alt.layer(boxes, words).properties(width=room, height=rows[-1]["y2"])
