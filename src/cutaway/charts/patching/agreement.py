"""Draw gradients' estimates beside the exact numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import altair as alt

from cutaway.charts.marks import Layers, rounded, values
from cutaway.charts.patching.records import rows, title_of
from cutaway.charts.theme import PALETTE

if TYPE_CHECKING:
    from cutaway.analyses.patching.result import Attribution


def agreement(result: Attribution) -> Layers:
    """Draw exact numbers against estimates, with the line on which they are equal."""
    assert result.exact_normalized is not None
    exact = result.exact_normalized.tolist()
    records = [
        {"kind": title_of(r["kind"]), "name": r["name"], "estimate": r["normalized"], "exact": rounded(number)}
        for r, number in zip(rows(result, result.cells, result.values.tolist()), exact, strict=True)
    ]
    both = [r[field] for r in records for field in ("estimate", "exact") if not math.isnan(r[field])]
    low, high = min(both), max(both)
    room = 0.05 * (high - low) or 0.5
    scale = alt.Scale(domain=[low - room, high + room], nice=False)
    kinds = list(dict.fromkeys(r["kind"] for r in records))
    pearson, spearman = result.agreement()
    points = (
        alt.Chart(values(records))
        .mark_circle(size=34, opacity=0.7)
        .encode(
            x=alt.X("estimate:Q", title="Estimate by gradients", scale=scale, axis=alt.Axis(tickCount=5)),
            y=alt.Y("exact:Q", title="Patched", scale=scale, axis=alt.Axis(tickCount=5)),
            color=alt.Color(
                "kind:N", title=None, sort=kinds, scale=alt.Scale(range=PALETTE),
                legend=alt.Legend(orient="bottom", columns=2) if len(kinds) > 1 else None,
            ),
            tooltip=[
                alt.Tooltip("name:N", title="Cell"),
                alt.Tooltip("estimate:Q", title="Estimate", format=".4f"),
                alt.Tooltip("exact:Q", title="Patched", format=".4f"),
            ],
        )
    )  # fmt: skip
    ends = [{"a": low - room, "b": low - room}, {"a": high + room, "b": high + room}]
    line = alt.Chart(values(ends)).mark_line(strokeDash=[4, 4], strokeWidth=1, color="#888").encode(x="a:Q", y="b:Q")
    title = alt.TitleParams(text="Agreement over cells", subtitle=f"Pearson {pearson:.3f}, Spearman {spearman:.3f}")
    return alt.layer(line, points).properties(width=300, height=300, title=title)
