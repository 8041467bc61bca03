"""Draw the effects of single neurons as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import ends_of_axis, labels, numbers_beside_bars, signed, values
from cutaway.charts.patching.records import tooltip_of

if TYPE_CHECKING:
    from cutaway.analyses.patching.result import Cells

BARS = 40  # neurons shown at most


def neurons(result: Cells, records: list[dict[str, Any]], kinds: list[str]) -> Any:  # noqa: ARG001 - one signature for all panels
    """Draw bars with their names, the largest first."""
    ordered = sorted(records, key=lambda r: -abs(r["normalized"] - result.base))
    shown = [
        r | {"k": k, "effect": r["normalized"] - result.base, "label": neuron_label(r)}
        for k, r in enumerate(ordered[:BARS])
    ]
    some = f" ({BARS} of {len(records)}, the largest)" if len(records) > BARS else ""
    numbers = [r["effect"] for r in shown]
    low, high = ends_of_axis(numbers)
    room = 0.14 * (high - low) or 1.0
    domain = [low - (room if low < 0 else 0), high + (room if high > 0 else 0)]
    data = alt.Chart(values(shown))
    x = alt.X(
        "effect:Q", title="Effect, of the distance from corrupted to clean",
        scale=alt.Scale(domain=domain, nice=False), axis=alt.Axis(tickCount=5),
    )  # fmt: skip
    axis = alt.Axis(labelExpr=labels(r["label"] for r in shown), ticks=False, domain=False, labelLimit=260)
    y = alt.Y("k:O", title=None, axis=axis)
    tooltip = tooltip_of(result, ("name", "Patched"))
    bars = data.mark_bar(height=12).encode(x=x, y=y, color=signed("effect"), tooltip=tooltip)
    number = alt.Text("effect:Q", format="+.3f")
    texts = [side.encode(x=x, y=y, text=number, tooltip=tooltip) for side in numbers_beside_bars(data, "effect", 4)]
    return alt.layer(bars, *texts).properties(width=560, height=20 * len(shown), title=f"Single neurons{some}")


def neuron_label(record: dict[str, Any]) -> str:
    where = "" if record["token"] is None else f" at {record['position']} {record['token']}"
    return f"neuron {record['layer']}.{record['head']}{where}"
