"""Draw layers x heads: of all positions together, or of one position at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import Layers, layer_rows, signed, values
from cutaway.charts.patching.records import colour_of, title_of, tooltip_of
from cutaway.charts.theme import MONO

if TYPE_CHECKING:
    from cutaway.analyses.patching.result import Cells

WINDOW = 60  # positions that are shown at most: those with the largest effects
WIDE = 860  # pixels that panels share
TALL = 640


def in_lines(panels: Sequence[Any], fit: int, spacing: int) -> Any:
    """Return panels in lines of `fit` panels."""
    lines = [panels[i : i + fit] for i in range(0, len(panels), fit)]
    joined = [line[0] if len(line) == 1 else alt.hconcat(*line, spacing=spacing) for line in lines]
    return joined[0] if len(joined) == 1 else alt.vconcat(*joined, spacing=24)


def _sizes(across: int, layers: int, panels: int) -> tuple[int, int]:
    """Return a cell's width and height in layers x heads."""
    width = max(12, min(46, (WIDE // panels - 60) // across))
    return width, max(11, min(28, width + 4, TALL // layers))


def heads(result: Cells, records: list[dict[str, Any]], kinds: list[str]) -> Any:
    """Draw layers as rows and heads across, a panel for each kind of site; "MLP" may be a last column."""
    columns = sorted({r["head"] for r in records}, key=lambda h: (h == "MLP", int(h) if h != "MLP" else 0))
    layers = len({r["layer"] for r in records})
    fit = max(1, min(len(kinds), WIDE // (12 * len(columns) + 60)))
    width, height = _sizes(len(columns), layers, fit)
    panels = [
        _grid(
            result, alt.Chart(values([r for r in records if r["kind"] in some])), records[0]["half"], columns, width
        ).properties(width=width * len(columns), height=height * layers, title=title_of(some[0]))
        for some in ([kinds] if "MLP" in columns else [[kind] for kind in kinds])
    ]
    return in_lines(panels, fit, 24)


def _grid(result: Cells, data: alt.Chart, half: float, columns: list[str], width: int) -> Layers:
    axis = alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False)
    x = alt.X("head:N", sort=columns, title=None if columns == ["MLP"] else "Head", axis=axis)
    tooltip = tooltip_of(result, ("name", "Patched"))
    marks = data.mark_rect(stroke="#8884", strokeWidth=0.5).encode(
        x=x, y=layer_rows(), color=colour_of(result, half), tooltip=tooltip
    )
    parts: list[Any] = [marks]
    if width >= 36:
        text = alt.Text("normalized:Q", format=".2f")
        parts.append(data.mark_text(fontSize=10).encode(x=x, y=layer_rows(), text=text, tooltip=tooltip))
    return alt.layer(*parts)


def heads_at_positions(result: Cells, records: list[dict[str, Any]], kinds: list[str]) -> Any:
    """Draw, for each kind, a bar for each position beside layers x heads at the position that is clicked."""
    positions = sorted({r["position"] for r in records})
    columns = sorted({r["head"] for r in records}, key=int)
    layers = len({r["layer"] for r in records})
    best = max(records, key=lambda r: -1 if math.isnan(r["normalized"]) else abs(r["normalized"] - result.base))
    named = [f"{p}  {result.shown(p)}" for p in positions]
    gapless = positions[-1] - positions[0] == len(positions) - 1
    bind = (
        alt.binding_range(min=positions[0], max=positions[-1], step=1, name="Position ")
        if gapless
        else alt.binding_select(options=positions, labels=named, name="Position ")
    )
    chosen = alt.param(name="position", value=best["position"], bind=bind)
    width, height = _sizes(len(columns), layers, 1)
    width = min(width, (WIDE - 300) // len(columns))
    words = json.dumps({p: result.shown(p) for p in positions}, ensure_ascii=False)
    lines = []
    for kind in kinds:
        some = [r for r in records if r["kind"] == kind]
        data = alt.Chart(values(some)).transform_filter("datum.position == position")
        title = alt.TitleParams(text=alt.expr(f"'{title_of(kind)} at ' + position + '  ' + ({words})[position]"))
        grid = _grid(result, data, records[0]["half"], columns, width).properties(
            width=width * len(columns), height=height * layers, title=title
        )
        lines.append(alt.hconcat(_by_position(result, some, words), grid, spacing=20))
    joined = lines[0] if len(lines) == 1 else alt.vconcat(*lines, spacing=24)
    return joined.add_params(chosen)


def _by_position(result: Cells, records: list[dict[str, Any]], words: str) -> alt.Chart:
    """Draw the largest effect of any head at each position."""
    best: dict[int, dict[str, Any]] = {}
    for r in records:
        effect = r["normalized"] - result.base
        if not math.isnan(effect) and abs(effect) >= abs(best.get(r["position"], {"effect": 0.0})["effect"]):
            best[r["position"]] = {"position": r["position"], "effect": effect, "name": r["name"]}
    shown = sorted(sorted(best, key=lambda p: -abs(best[p]["effect"]))[:WINDOW])
    axis = alt.Axis(
        labelExpr=f"({words})[datum.value] + '  ' + datum.value", labelFont=MONO, labelLimit=170, labelOverlap=False,
        ticks=False, domain=False,
    )  # fmt: skip
    data = alt.Chart(values([best[p] for p in shown]))
    chart = data.mark_bar(cursor="pointer").encode(
        x=alt.X("effect:Q", title="Largest effect of a head", axis=alt.Axis(tickCount=3)),
        y=alt.Y("position:O", title="Position; click one", axis=axis),
        color=signed("effect"),
        opacity=alt.condition("datum.position == position", alt.value(1), alt.value(0.55)),
        tooltip=[alt.Tooltip("name:N", title="Head"), alt.Tooltip("effect:Q", title="Effect", format="+.3f")],
    )
    sized: alt.Chart = chart.properties(width=130, height=max(11, min(24, TALL // max(1, len(shown)))) * len(shown))
    return sized
