"""Draw which components wrote to a logit directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import (
    Layers,
    diverging,
    ends_of_axis,
    head_columns,
    layer_rows,
    numbers_beside_bars,
    rounded,
    signed,
    values,
)
from cutaway.charts.theme import BLUE

if TYPE_CHECKING:
    from cutaway.analyses.attribution.result import Component, Direct

SHORT = {  # of GROUPS, to be written beside small bars
    "embed": "token embedding",
    "pos_embed": "position embedding",
    "head": "all heads",
    "b_O": "attention biases",
    "mlp": "all MLPs",
    "b_out": "MLP biases",
    "ln_final.b": "ln_final bias",
    "b_U": "unembedding bias",
    "edits": "edits",
}
BAR = 22
ROW = 20  # height of a bar, pixels
LONGEST = 25  # neurons shown
UNSEEN = 0.01  # of the axis: a pixel or two


def direct(result: Direct) -> alt.TopLevelMixin:
    """Draw heads as layers x heads beside each layer's MLP and biases; below, the sums by layer and by kind."""
    by_layer: dict[str, list[Component]] = {"mlp": [], "b_O": [], "b_out": []}
    for c in result.components:
        if c.kind in by_layer:
            by_layer[c.kind].append(c)
    height = min(640, max(14 * result.layers, BAR * min(result.layers, 12), 110))
    shown = [c.contribution for group in by_layer.values() for c in group]
    domain = _ends(shown)
    panels = [_heads(result, height)]
    for kind, (title, width) in {
        "mlp": ("MLPs", 200),
        "b_O": ("Biases b_O", 80),
        "b_out": ("Biases b_out", 80),
    }.items():
        # Bars too short to be seen are in the sums by kind alone.
        if max(abs(c.contribution) for c in by_layer[kind]) > UNSEEN * max(map(abs, domain)):
            panels.append(_beside(by_layer[kind], title, domain, height, width))
    top: alt.HConcatChart = alt.hconcat(*panels, spacing=16).resolve_scale(color="independent")
    below: list[Any] = [_accumulated(result), _kinds(result)]
    rows: list[Any] = [top, alt.hconcat(*below, spacing=40)]
    if result.neurons:
        rows.append(_neurons(result))
    joined: alt.VConcatChart = alt.vconcat(*rows, spacing=28).resolve_scale(color="independent")
    return joined


def _ends(numbers: list[float]) -> list[float]:
    """Return the ends of an axis for some numbers and zero, with room."""
    low, high = ends_of_axis(numbers)
    room = 0.06 * (high - low) or 1.0
    return [low - room if low < 0 else 0.0, high + room if high > 0 else 0.0]


def _heads(result: Direct, height: int) -> alt.Chart:
    found = [c for c in result.components if c.kind == "head"]
    rows = [{"layer": c.layer, "head": c.index, "name": c.name, "value": rounded(c.contribution)} for c in found]
    most = max((abs(c.contribution) for c in found), default=1.0)
    width = min(380, max(160, 34 * result.heads))
    chart: alt.Chart = (
        alt.Chart(values(rows))
        .mark_rect(stroke="#8884", strokeWidth=0.5)
        .encode(
            x=head_columns(),
            y=layer_rows(),
            color=diverging("value", most),
            tooltip=[
                alt.Tooltip("layer:O", title="Layer"),
                alt.Tooltip("head:O", title="Head"),
                alt.Tooltip("value:Q", title="Contribution", format="+.4f"),
            ],
        )
        .properties(width=width, height=height, title="Heads")
    )
    return chart


def _beside(found: list[Component], title: str, domain: list[float], height: int, width: int) -> alt.Chart:
    """Draw bars by layer, in line with the heads' rows."""
    rows = [{"layer": c.layer, "value": rounded(c.contribution)} for c in found]
    chart: alt.Chart = (
        alt.Chart(values(rows))
        .mark_bar(height=alt.RelativeBandSize(0.6))
        .encode(
            x=alt.X("value:Q", title="Logit", scale=alt.Scale(domain=domain, nice=False), axis=alt.Axis(tickCount=2)),
            y=layer_rows(title=None),
            color=signed(),
            tooltip=[
                alt.Tooltip("layer:O", title="Layer"),
                alt.Tooltip("value:Q", title="Contribution", format="+.4f"),
            ],
        )
        .properties(width=width, height=height, title=title)
    )
    return chart


def _accumulated(result: Direct) -> Layers:
    table = result.by_layer()
    names = ["start", *map(str, range(result.layers))]
    rows = [
        {"after": name, "value": rounded(value), "added": rounded(added)}
        for name, value, added in zip(names, table["accumulated"], table["added"], strict=True)
    ]
    data = alt.Chart(values(rows))
    x = alt.X("after:O", sort=names, title="After layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("value:Q", title="Logit" if result.versus is None else "Logit difference", axis=alt.Axis(tickCount=5))
    tooltip = [
        alt.Tooltip("after:N", title="After layer"),
        alt.Tooltip("value:Q", title="Logit so far", format="+.4f"),
        alt.Tooltip("added:Q", title="Added by it", format="+.4f"),
    ]
    zero = alt.Chart(values([{"zero": 0}])).mark_rule(strokeDash=[3, 3]).encode(y=alt.Y("zero:Q"))
    line = data.mark_line(point=alt.OverlayMarkDef(size=50), color=BLUE).encode(x=x, y=y, tooltip=tooltip)
    return alt.layer(zero, line).properties(width=380, height=190, title=f"Accumulated: {result.display_target}")


def _named_bars(rows: list[dict[str, Any]], title: str, width: int) -> Layers:
    """Draw horizontal bars with their names at the left and their numbers at the end."""
    names = [row["name"] for row in rows]
    low, high = _ends([row["value"] for row in rows])
    room = 0.2 * (high - low)  # for a number at either end
    domain = [low - (room if low < 0 else 0), high + (room if high > 0 else 0)]
    data = alt.Chart(values(rows))
    x = alt.X("value:Q", title=None, scale=alt.Scale(domain=domain, nice=False), axis=alt.Axis(tickCount=4))
    y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=160))
    tooltip = [alt.Tooltip("name:N", title="Part"), alt.Tooltip("value:Q", title="Contribution", format="+.4f")]
    bars = data.mark_bar(height=ROW - 8).encode(x=x, y=y, color=signed(), tooltip=tooltip)
    number = alt.Text("value:Q", format="+.2f")
    sides = numbers_beside_bars(data, "value", 4)
    numbers = [side.encode(x=x, y=y, text=number, tooltip=tooltip) for side in sides]
    return alt.layer(bars, *numbers).properties(width=width, height=ROW * len(rows), title=title)


def _kinds(result: Direct) -> Layers:
    rows = [{"name": SHORT[kind], "value": rounded(value)} for kind, value in result.groups().items()]
    return _named_bars(rows, f"By kind; {result.logit:+.2f} in all", 300)


def _neurons(result: Direct) -> Layers:
    found = result.neurons[:LONGEST]
    rows = [{"name": f"layer {c.layer}, neuron {c.index}", "value": rounded(c.contribution)} for c in found]
    more = f" (the first {LONGEST} of {len(result.neurons)})" if len(result.neurons) > LONGEST else ""
    return _named_bars(rows, f"Single neurons, each a part of its MLP{more}", 560)
