"""Draw what of the unigram distribution the bias and the mean residual explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import Layers, numbers_beside_bars, values
from cutaway.charts.theme import BLUE, ORANGE

if TYPE_CHECKING:
    from cutaway.analyses.unigram.claim import Claim

SHOWN = ("bias", "mean_residual", "both", "bias_on_top", "mean_residual_on_top")


def claim(result: Claim) -> alt.TopLevelMixin:
    """Draw the explained shares, and the change of the loss without each."""
    from cutaway.analyses.unigram.claim import AS_IT_IS, PARTS

    shares = [
        {"name": PARTS[name], "value": n.value, "low": n.low, "high": n.high, "note": f"{n.value:.1%}"}
        for name, n in result.parts.items()
        if name in SHOWN
    ]
    losses = [
        {
            "name": name,
            "value": found.change.value,
            "low": found.change.low,
            "high": found.change.high,
            "loss": found.loss.value,
            "kl": found.kl,
            "note": f"{found.change.value:+.3f}",
        }
        for name, found in result.interventions.items()
        if name != AS_IT_IS
    ]
    base = result.interventions[AS_IT_IS].loss.value
    left = _bars(shares, "Explained of the unigram distribution", 200, "%", BLUE, [])
    more = [
        alt.Tooltip("loss:Q", title="Loss (nats a token)", format=".3f"),
        alt.Tooltip("kl:Q", title="KL of the mean prediction (nats)", format=".4f"),
    ]
    right = _bars(losses, f"Change of loss from {base:.3f} (nats a token)", 200, ".1~f", ORANGE, more)
    return alt.hconcat(left, right, spacing=30)


def _bars(
    rows: list[dict[str, Any]], title: str, width: int, form: str, colour: str, more: list[alt.Tooltip]
) -> Layers:
    """Draw bars with their intervals in the order given, with numbers beyond them."""
    low = min(0.0, *(row["low"] for row in rows))
    high = max(0.0, *(row["high"] for row in rows))
    room = (high - low) or 1.0
    domain = [low - (0.32 * room if low < 0 else 0), high + 0.32 * room]
    data = alt.Chart(values(rows))
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=230, ticks=False, domain=False, labelPadding=8))
    x = alt.X(
        "value:Q",
        title=title,
        scale=alt.Scale(domain=domain, nice=False),
        axis=alt.Axis(tickCount=3, format=form, titleAnchor="start"),
    )
    tooltip = [
        alt.Tooltip("name:N", title="Part"),
        alt.Tooltip("value:Q", title="Estimate", format=".4f"),
        alt.Tooltip("low:Q", title="From", format=".4f"),
        alt.Tooltip("high:Q", title="To", format=".4f"),
        *more,
    ]
    bars = data.mark_bar(height=14, color=colour, opacity=0.75).encode(x=x, x2=alt.datum(0), y=y, tooltip=tooltip)
    ends = data.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y)
    parts: list[Any] = [bars, ends]
    for end, side in zip(("high", "low"), numbers_beside_bars(data, "value", 6), strict=True):
        parts.append(side.encode(x=alt.X(f"{end}:Q", title=title), y=y, text="note:N"))
    return alt.layer(*parts).properties(width=width, height=30 * len(rows))
