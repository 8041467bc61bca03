"""Draw the metric with each cell patched, and gradients' estimates of it: a panel for each sort of cells."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import SITE_NAMES, values
from cutaway.charts.patching.agreement import agreement
from cutaway.charts.patching.heads import TALL, WIDE, WINDOW, heads, heads_at_positions, in_lines
from cutaway.charts.patching.neurons import neurons
from cutaway.charts.patching.records import colour_of, reach_of, rows, title_of, tooltip_of
from cutaway.charts.theme import MONO

if TYPE_CHECKING:
    from cutaway.analyses.patching.result import Attribution, Cells, Patched

NARROW = 5  # pixels of a layer, at least


def run(result: Patched) -> alt.TopLevelMixin:
    """Draw a panel for each sort of cells: positions x layers, layers x heads, or bars for neurons."""
    return _joined(_panels(result, result.values.tolist()), alt.vconcat)


def attribution(result: Attribution) -> alt.TopLevelMixin:
    """Draw the estimates as run() does, and each cell's exact number against its estimate."""
    panels = _panels(result, result.values.tolist())
    if result.exact is None:
        return _joined(panels, alt.vconcat)
    beside = len(panels) == 1 and _width(panels[0]) <= 480
    return _joined([*panels, agreement(result)], alt.hconcat if beside else alt.vconcat)


def _joined(panels: Sequence[Any], join: Callable[..., Any]) -> alt.TopLevelMixin:
    if len(panels) == 1:
        chart: alt.TopLevelMixin = panels[0]
        return chart
    joined: alt.TopLevelMixin = join(*panels, spacing=36).resolve_scale(color="independent")
    return joined


def _width(panel: Any) -> float:
    return float(panel.width) if isinstance(getattr(panel, "width", None), (int, float)) else WIDE


def _panels(result: Cells, found: Sequence[float]) -> list[Any]:
    """Return a panel for each sort of cells, in the order in which they came."""
    records = rows(result, result.cells, found)
    kinds = list(dict.fromkeys(cell.site.kind for cell in result.cells))
    sorts: dict[str, list[str]] = {"stream": [], "heads": [], "heads at positions": [], "neurons": []}
    for kind, single in itertools.product(kinds, (False, True)):  # a site may be patched whole, and neurons of it
        cells = [cell for cell in result.cells if cell.site.kind == kind and (cell.index is not None) == single]
        if not cells:
            continue
        one = all(len(cell.positions) == 1 for cell in cells) and len({cell.positions for cell in cells}) > 1
        if cells[0].by_head:
            sorts["heads at positions" if one else "heads"].append(kind)
        else:
            sorts["stream" if cells[0].index is None else "neurons"].append(kind)
    draw: dict[str, Callable[[Cells, list[dict[str, Any]], list[str]], Any]] = {
        "stream": _stream,
        "heads": heads,
        "heads at positions": heads_at_positions,
        "neurons": neurons,
    }
    colour = reach_of(result, found)
    panels = []
    for sort, some in sorts.items():
        of_sort = [r for r in records if r["kind"] in some and (r["head"] == "MLP") == (sort == "stream")]
        if some:
            panels.append(draw[sort](result, [r | {"half": colour} for r in of_sort], some))
    return panels


def _across(title: str = "Layer") -> alt.X:
    axis = alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False)
    return alt.X("layer:O", title=title, axis=axis)


def _positions(records: list[dict[str, Any]], base: float) -> list[int]:
    """Return the positions that are shown: where there are many, those with the largest effects."""
    most: dict[int, float] = {}
    for r in records:
        effect = abs(r["normalized"] - base)
        most[r["position"]] = max(most.get(r["position"], 0.0), 0.0 if math.isnan(effect) else effect)
    return sorted(sorted(most, key=lambda p: -most[p])[:WINDOW])


def _stream(result: Cells, records: list[dict[str, Any]], kinds: list[str]) -> Any:
    """Draw positions down and layers across, a panel for each kind of site."""
    if any(r["token"] is None for r in records):
        return _together(result, records, kinds)
    positions = _positions(records, result.base)
    n = len({r["position"] for r in records})
    some = f" ({len(positions)} of {n})" if len(positions) < n else ""
    records = [r for r in records if r["position"] in set(positions)]
    layers = len({r["layer"] for r in records})
    label = 7 * min(24, max(len(result.shown(p)) for p in positions)) + 40
    fit = max(1, min(len(kinds), (950 - label) // (NARROW * layers + 18)))
    width = min(48 * layers, max(NARROW * layers, (WIDE - label) // fit - 20))
    cell = max(11, min(24, TALL // len(positions)))
    words = json.dumps({p: f"{result.shown(p)}  {p}" for p in positions}, ensure_ascii=False)
    panels = []
    for i, kind in enumerate(kinds):
        axis = alt.Axis(
            labelExpr=f"({words})[datum.value]", labelFont=MONO, labelLimit=220, labelOverlap=False,
            ticks=False, domain=False,
        )  # fmt: skip
        left = i % fit == 0
        y = alt.Y("position:O", title=f"Position{some}" if left else None, sort=positions, axis=axis if left else None)
        data = alt.Chart(values([r for r in records if r["kind"] == kind]))
        tooltip = tooltip_of(result, ("layer", "Layer"), ("position", "Position"), ("token", "Token"))
        colour = colour_of(result, records[0]["half"])
        marks = data.mark_rect(stroke="#8884", strokeWidth=0.5).encode(x=_across(), y=y, color=colour, tooltip=tooltip)
        parts = [marks]
        if width / layers >= 36 and cell >= 16:
            parts.append(
                data.mark_text(fontSize=10).encode(
                    x=_across(), y=y, text=alt.Text("normalized:Q", format=".2f"), tooltip=tooltip
                )
            )
        size = {"width": width, "height": cell * len(positions)}
        title = alt.TitleParams(text=title_of(kind), limit=max(150, width + 60) if len(kinds) > 1 else 0)
        panels.append(alt.layer(*parts).properties(**size, title=title))
    return in_lines(panels, fit, 18)


def _together(result: Cells, records: list[dict[str, Any]], kinds: list[str]) -> Any:
    """Draw kinds down and layers across, where all positions are patched at once."""
    layers = len({r["layer"] for r in records})
    words = f"({json.dumps(SITE_NAMES)})[datum.value] || datum.value"
    axis = alt.Axis(ticks=False, domain=False, labelLimit=260, labelExpr=words)
    width = max(240, min(48 * layers, 640))
    y = alt.Y("kind:N", sort=kinds, title=None, axis=axis)
    data, tooltip = alt.Chart(values(records)), tooltip_of(result, ("name", "Patched"))
    colour = colour_of(result, records[0]["half"])
    marks = data.mark_rect(stroke="#8884", strokeWidth=0.5).encode(x=_across(), y=y, color=colour, tooltip=tooltip)
    text = alt.Text("normalized:Q", format=".2f")
    numbers = data.mark_text(fontSize=10).encode(x=_across(), y=y, text=text, tooltip=tooltip)
    return alt.layer(*([marks, numbers] if width / layers >= 36 else [marks])).properties(
        width=width, height=30 * len(kinds), title="All the chosen positions at once"
    )
