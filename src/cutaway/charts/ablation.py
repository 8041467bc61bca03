"""Draw what breaks without each component: heads as a grid, MLPs, layers, neurons and sites as bars."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import Layers, head_columns, layer_rows, named, rounded, signed, values
from cutaway.charts.theme import BLUE, MONO, ORANGE

if TYPE_CHECKING:
    from cutaway.analyses.ablation.result import Ablation

TITLES = {"head": "Heads", "mlp": "MLPs", "layer": "Whole layers", "neuron": "Neurons", "site": "Sites"}
NAMED = {"loss": "Loss (nats)", "kl": "KL (nats)", "accuracy": "Accuracy", "rank": "Rank"}
GRID, BESIDE, ALONE = 470, 170, 620  # widest heads, bars beside them, bars alone
HEIGHT = 620
LONGEST = 40  # sites or neurons shown
KEY = "m{}"  # the fields of a metric, by its number
SIZE = "abs(datum.value)"
NUMBER = (  # seven characters at most
    f"{SIZE} < 0.0005 ? '0' : format(datum.value, {SIZE} < 10 ? '+.3f' : {SIZE} < 100 ? '+.1f' : '+.2~s')"
)


def run(result: Ablation) -> alt.TopLevelMixin:
    """Draw heads as layers x heads, MLPs and layers as bars beside them, neurons and sites as lists below."""
    kinds = list(dict.fromkeys(cell.kind for cell in result.cells))
    height = min(HEIGHT, max(13 * result.layers, 28 * min(result.layers, 14), 90))
    beside = [kind for kind in ("mlp", "layer") if kind in kinds]
    panels: list[Any] = [_heads(result, height)] if "head" in kinds else []
    width = BESIDE if panels else ALONE // max(1, len(beside))
    panels += [_bars(result, kind, height, width) for kind in beside]
    rows: list[Any] = [alt.hconcat(*panels, spacing=22).resolve_scale(color="independent")] if panels else []
    rows += [_listed(result, kind) for kind in ("neuron", "site") if kind in kinds]
    names = [NAMED.get(name, name) for name in result.metrics]
    select = alt.binding_select(options=_keys(result), labels=names, name="Change of ")
    metric = alt.param(name="metric", value=_keys(result)[0], bind=select if len(names) > 1 else alt.Undefined)
    joined: alt.VConcatChart = alt.vconcat(*rows, spacing=28).add_params(metric).resolve_scale(color="independent")
    return joined


def _keys(result: Ablation) -> list[str]:
    return [KEY.format(m) for m in range(len(result.metrics))]


def _rows(result: Ablation, kind: str) -> list[dict[str, Any]]:
    """Return a record for each cell of one kind: each metric's change, and the same with its interval as text."""
    rows = []
    for i, cell in enumerate(result.cells):
        if cell.kind != kind:
            continue
        row: dict[str, Any] = {"layer": cell.layer, "head": cell.head, "name": cell.name}
        for m in range(len(result.metrics)):
            change, low, high = (float(t[i, m]) for t in (result.change, result.low, result.high))
            span = "" if math.isnan(low) else f" ({low:+.4g} to {high:+.4g})"
            key = KEY.format(m)  # a function's name could be that of another field
            row |= {key: rounded(change), f"{key}_text": f"{change:+.4g}{span}"}
            row |= {f"{key}_low": low, f"{key}_high": high}
        rows.append(row)
    return rows


def _data(rows: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(values(rows)).transform_calculate(value="datum[metric]")


def _most(result: Ablation, rows: list[dict[str, Any]]) -> str:
    """Return an expression for the largest absolute change of the metric chosen."""
    finite = {key: [abs(row[key]) for row in rows if math.isfinite(row[key])] for key in _keys(result)}
    return f"({json.dumps({key: max(found, default=0) or 1.0 for key, found in finite.items()})})[metric]"


def _title(result: Ablation, kind: str, more: str = "") -> str | alt.TitleParams:
    """Return a title that names the kind, and the metric where there are several."""
    if len(result.metrics) == 1:
        return TITLES[kind] + more
    return named(
        {key: NAMED.get(name, name) for key, name in zip(_keys(result), result.metrics, strict=True)},
        "metric",
        f"{TITLES[kind]}{more}: ",
    )


def _tooltip(result: Ablation) -> list[alt.Tooltip]:
    about = [alt.Tooltip("name:N", title="Without")]
    keyed = zip(_keys(result), result.metrics, strict=True)
    return about + [alt.Tooltip(f"{key}_text:N", title=NAMED.get(name, name)) for key, name in keyed]


def _heads(result: Ablation, height: int) -> Layers:
    """Draw layers x heads, with numbers where there is room."""
    rows = _rows(result, "head")
    cell = max(6, min(46, GRID // result.heads))
    most, data = _most(result, rows), _data(rows)
    ends = [-1, -1e-6, 1e-6, 1]  # at zero nothing: whatever lies behind
    scale = alt.Scale(
        type="sqrt",  # a few heads often matter a hundred times as much as most
        domain=[alt.expr(f"{end} * {most}") for end in ends],
        range=[BLUE, f"{BLUE}00", f"{ORANGE}00", ORANGE],
        clamp=True,
    )
    legend = alt.Legend(
        orient="bottom",
        gradientLength=220,
        gradientThickness=10,
        labelExpr="datum.value == 0 ? '0' : format(datum.value, '+.2~g')",
        values=alt.expr(f"[{', '.join(f'{part} * {most}' for part in (-1, 0, 1))}]"),
    )
    cells = data.mark_rect(stroke="#8884", strokeWidth=0.5).encode(
        x=head_columns(),
        y=layer_rows(),
        color=alt.Color("value:Q", title=None, scale=scale, legend=legend),
        tooltip=_tooltip(result),
    )
    parts: list[Any] = [cells]
    if cell >= 34 and result.layers <= 24:
        number = alt.Text("number:N")
        data = data.transform_calculate(number=NUMBER)
        parts.append(
            data.mark_text(font=MONO, fontSize=9).encode(
                x=head_columns(), y=layer_rows(), text=number, tooltip=_tooltip(result)
            )
        )
    return alt.layer(*parts).properties(width=cell * result.heads, height=height, title=_title(result, "head"))


def _bars(result: Ablation, kind: str, height: int, width: int) -> Layers:
    """Draw a bar for each layer, in line with the heads' rows, with its interval."""
    of_heads, of_bars = ({cell.layer for cell in result.cells if cell.kind == k} for k in ("head", kind))
    y = layer_rows(None if of_heads == of_bars else "Layer")  # in line with the heads' rows only if these are the same
    return _with_intervals(result, _rows(result, kind), y, alt.RelativeBandSize(0.6)).properties(
        width=width, height=height, title=_title(result, kind)
    )


def _listed(result: Ablation, kind: str) -> Layers:
    """Draw a bar for each of the sites or neurons that matter most, in the order in which they were given."""
    rows = sorted(_rows(result, kind), key=lambda row: -abs(row[_keys(result)[0]]))
    shown = {row["name"]: row for row in rows[:LONGEST]}
    names = [cell.name for cell in result.cells if cell.name in shown]
    y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=210))
    more = f" (the first {LONGEST} of {len(rows)})" if len(rows) > LONGEST else ""
    return _with_intervals(result, list(shown.values()), y, alt.RelativeBandSize(0.6)).properties(
        width=ALONE, height=20 * len(shown), title=_title(result, kind, more)
    )


def _with_intervals(result: Ablation, rows: list[dict[str, Any]], y: alt.Y, size: alt.RelativeBandSize) -> Layers:
    """Draw horizontal bars, and the interval of each where there is one."""
    data = _data(rows).transform_calculate(low="datum[metric + '_low']", high="datum[metric + '_high']")
    title = f"Change of {NAMED['loss'].lower()}" if len(result.metrics) == 1 else "Change"
    axis = alt.Axis(tickCount=3, labelOverlap="greedy", labelSeparation=8, format="~g")
    x, tooltip = alt.X("value:Q", title=title, axis=axis), _tooltip(result)
    bars = data.mark_bar(height=size).encode(x=x, y=y, color=signed(), tooltip=tooltip)
    if result.documents == 1:
        return alt.layer(bars)
    spans = data.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q"), x2="high:Q", y=y, tooltip=tooltip)
    return alt.layer(bars, spans)
