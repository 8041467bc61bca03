"""Draw the metric with each cell patched, and gradients' estimates of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import (
    SITE_NAMES,
    Layers,
    diverging_scale,
    ends_of_axis,
    labels,
    layer_rows,
    numbers_beside_bars,
    rounded,
    signed,
    values,
)
from cutaway.charts.theme import MONO, PALETTE

if TYPE_CHECKING:
    from cutaway.analyses.patching.cells import Cell
    from cutaway.analyses.patching.result import Attribution, Cells, Patched

WINDOW = 60  # positions that are shown at most: those with the largest effects
WIDE = 860  # pixels that panels share
TALL = 640
NARROW = 5  # pixels of a layer, at least
BARS = 40  # neurons shown at most
FILL = "d9"  # numbers must read on it


def run(result: Patched) -> alt.TopLevelMixin:
    """Draw a panel for each sort of cells: positions x layers, layers x heads, or bars for neurons."""
    return _joined(_panels(result, result.values.tolist()), alt.vconcat)


def attribution(result: Attribution) -> alt.TopLevelMixin:
    """Draw the estimates as run() does, and each cell's exact number against its estimate."""
    panels = _panels(result, result.values.tolist())
    if result.exact is None:
        return _joined(panels, alt.vconcat)
    beside = len(panels) == 1 and _width(panels[0]) <= 480
    return _joined([*panels, _scatter(result)], alt.hconcat if beside else alt.vconcat)


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
    for kind in kinds:
        cells = [cell for cell in result.cells if cell.site.kind == kind]
        one = all(len(cell.positions) == 1 for cell in cells) and len({cell.positions for cell in cells}) > 1
        if cells[0].by_head:
            sorts["heads at positions" if one else "heads"].append(kind)
        else:
            sorts["stream" if cells[0].index is None else "neurons"].append(kind)
    draw: dict[str, Callable[[Cells, list[dict[str, Any]], list[str]], Any]] = {
        "stream": _stream,
        "heads": heads,
        "heads at positions": _heads_at,
        "neurons": _neurons,
    }
    colour = _half(result, found)
    return [
        draw[sort](result, [r | {"half": colour} for r in records if r["kind"] in some], some)
        for sort, some in sorts.items()
        if some
    ]


def rows(result: Cells, cells: Iterable[Cell], found: Sequence[float]) -> list[dict[str, Any]]:
    """Return a record for each cell, for marks and tooltips."""
    scale = result.clean_value - result.corrupted_value
    return [
        {
            "kind": cell.site.kind,
            "layer": cell.layer,
            "head": "MLP" if cell.index is None else str(cell.index),
            "position": cell.positions[0],
            "token": result.shown(cell.positions[0]) if len(cell.positions) == 1 else None,  # None: several at once
            "name": result.name(cell),
            "value": rounded(value),
            "normalized": rounded((value - result.corrupted_value) / scale),
        }
        for cell, value in zip(cells, found, strict=True)
    ]


def _half(result: Cells, found: Iterable[float]) -> float:
    """Return how far the colours reach to either side of an unpatched run."""
    scale = result.clean_value - result.corrupted_value
    normalized = [(value - result.corrupted_value) / scale for value in found if not math.isnan(value)]
    return max((abs(value - result.base) for value in normalized), default=1.0) or 1.0


def _colour(result: Cells, half: float) -> alt.Color:
    """Return a colour: blue towards less, orange towards more, transparent where a patch changes nothing."""
    scale = diverging_scale(half, result.base, FILL)
    legend = alt.Legend(
        orient="bottom", gradientLength=200, gradientThickness=10, format=".2~f", tickCount=4, titleLimit=400
    )
    return alt.Color("normalized:Q", title="0: as corrupted, 1: as clean", scale=scale, legend=legend)


def _tooltip(result: Cells, *fields: tuple[str, str]) -> list[alt.Tooltip]:
    return [
        *(alt.Tooltip(f"{field}:N", title=title) for field, title in fields),
        alt.Tooltip("normalized:Q", title="0 corrupted, 1 clean", format=".4f"),
        alt.Tooltip("value:Q", title=result.unit, format=".4f"),
    ]


def _across(title: str = "Layer") -> alt.X:
    axis = alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False)
    return alt.X("layer:O", title=title, axis=axis)


def _title(kind: str) -> str:
    return SITE_NAMES.get(kind, kind)


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
        tooltip = _tooltip(result, ("layer", "Layer"), ("position", "Position"), ("token", "Token"))
        colour = _colour(result, records[0]["half"])
        marks = data.mark_rect(stroke="#8884", strokeWidth=0.5).encode(x=_across(), y=y, color=colour, tooltip=tooltip)
        parts = [marks]
        if width / layers >= 36 and cell >= 16:
            parts.append(
                data.mark_text(fontSize=10).encode(
                    x=_across(), y=y, text=alt.Text("normalized:Q", format=".2f"), tooltip=tooltip
                )
            )
        size = {"width": width, "height": cell * len(positions)}
        title = alt.TitleParams(text=_title(kind), limit=max(150, width + 60) if len(kinds) > 1 else 0)
        panels.append(alt.layer(*parts).properties(**size, title=title))
    return _lines(panels, fit, 18)


def _lines(panels: Sequence[Any], fit: int, spacing: int) -> Any:
    """Return panels in lines of `fit` panels."""
    lines = [panels[i : i + fit] for i in range(0, len(panels), fit)]
    joined = [line[0] if len(line) == 1 else alt.hconcat(*line, spacing=spacing) for line in lines]
    return joined[0] if len(joined) == 1 else alt.vconcat(*joined, spacing=24)


def _together(result: Cells, records: list[dict[str, Any]], kinds: list[str]) -> Any:
    """Draw kinds down and layers across, where all positions are patched at once."""
    layers = len({r["layer"] for r in records})
    words = f"({json.dumps(SITE_NAMES)})[datum.value] || datum.value"
    axis = alt.Axis(ticks=False, domain=False, labelLimit=260, labelExpr=words)
    width = max(240, min(48 * layers, 640))
    y = alt.Y("kind:N", sort=kinds, title=None, axis=axis)
    data, tooltip = alt.Chart(values(records)), _tooltip(result, ("name", "Patched"))
    colour = _colour(result, records[0]["half"])
    marks = data.mark_rect(stroke="#8884", strokeWidth=0.5).encode(x=_across(), y=y, color=colour, tooltip=tooltip)
    text = alt.Text("normalized:Q", format=".2f")
    numbers = data.mark_text(fontSize=10).encode(x=_across(), y=y, text=text, tooltip=tooltip)
    return alt.layer(*([marks, numbers] if width / layers >= 36 else [marks])).properties(
        width=width, height=30 * len(kinds), title="All the chosen positions at once"
    )


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
        ).properties(width=width * len(columns), height=height * layers, title=_title(some[0]))
        for some in ([kinds] if "MLP" in columns else [[kind] for kind in kinds])
    ]
    return _lines(panels, fit, 24)


def _grid(result: Cells, data: alt.Chart, half: float, columns: list[str], width: int) -> Layers:
    axis = alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False)
    x = alt.X("head:N", sort=columns, title=None if columns == ["MLP"] else "Head", axis=axis)
    tooltip = _tooltip(result, ("name", "Patched"))
    marks = data.mark_rect(stroke="#8884", strokeWidth=0.5).encode(
        x=x, y=layer_rows(), color=_colour(result, half), tooltip=tooltip
    )
    parts: list[Any] = [marks]
    if width >= 36:
        text = alt.Text("normalized:Q", format=".2f")
        parts.append(data.mark_text(fontSize=10).encode(x=x, y=layer_rows(), text=text, tooltip=tooltip))
    return alt.layer(*parts)


def _heads_at(result: Cells, records: list[dict[str, Any]], kinds: list[str]) -> Any:
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
        title = alt.TitleParams(text=alt.expr(f"'{_title(kind)} at ' + position + '  ' + ({words})[position]"))
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


def _neurons(result: Cells, records: list[dict[str, Any]], kinds: list[str]) -> Any:  # noqa: ARG001 - one signature for all panels
    """Draw bars with their names, the largest first."""
    ordered = sorted(records, key=lambda r: -abs(r["normalized"] - result.base))
    shown = [
        r | {"k": k, "effect": r["normalized"] - result.base, "label": _neuron(r)} for k, r in enumerate(ordered[:BARS])
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
    tooltip = _tooltip(result, ("name", "Patched"))
    bars = data.mark_bar(height=12).encode(x=x, y=y, color=signed("effect"), tooltip=tooltip)
    number = alt.Text("effect:Q", format="+.3f")
    texts = [side.encode(x=x, y=y, text=number, tooltip=tooltip) for side in numbers_beside_bars(data, "effect", 4)]
    return alt.layer(bars, *texts).properties(width=560, height=20 * len(shown), title=f"Single neurons{some}")


def _neuron(record: dict[str, Any]) -> str:
    where = "" if record["token"] is None else f" at {record['position']} {record['token']}"
    return f"layer {record['layer']}, neuron {record['head']}{where}"


def _scatter(result: Attribution) -> Layers:
    """Draw exact numbers against estimates, with the line on which they are equal."""
    assert result.exact_normalized is not None
    exact = result.exact_normalized.tolist()
    records = [
        {"kind": _title(r["kind"]), "name": r["name"], "estimate": r["normalized"], "exact": rounded(number)}
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
