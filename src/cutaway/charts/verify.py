"""Draw the checks of a model's forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from cutaway.charts.marks import values
from cutaway.charts.theme import BLUE, ORANGE

if TYPE_CHECKING:
    from cutaway.analyses.verification import Verification

FLOOR = 1e-17  # where an exact zero is drawn


def verify(result: Verification) -> alt.TopLevelMixin:
    """Draw a dot for each check on a logarithmic scale, with a tick at what is allowed."""
    rows = result.table().to_dict("records")
    for row in rows:
        row |= {"at": max(row["measured"], FLOOR), "limit": max(row["allowed"], FLOOR)}
        row["label"] = ("holds: " if row["holds"] else "FAILS: ") + f"{row['measured']:.2g} {row['unit']}"
    data = alt.Chart(values(rows))
    y = alt.Y(
        "claim:N",
        sort=None,
        title=None,
        axis=alt.Axis(labelLimit=360, labelPadding=8, ticks=False, domain=False, grid=True),
    )
    x = alt.X(
        "at:Q",
        title="Largest difference",
        scale=alt.Scale(type="log", domain=[FLOOR / 30, 1e4], nice=False),
        axis=alt.Axis(format=".0e", values=[1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 1, 1e3]),
    )
    colour = alt.condition("datum.holds", alt.value(BLUE), alt.value(ORANGE))
    dots = data.mark_circle(size=110, opacity=1).encode(x=x, y=y, color=colour)
    limits = data.mark_tick(thickness=2, size=16, opacity=0.7).encode(x="limit:Q", y=y)
    labels = data.mark_text(align="left", dx=9, fontSize=11, baseline="bottom", dy=-1).encode(x=x, y=y, text="label:N")
    return alt.layer(limits, dots, labels).properties(width=520, height=34 * len(rows))
