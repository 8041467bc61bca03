"""Draw one prompt's causal trace: tokens down, layers across."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal

import altair as alt

from cutaway.analyses.causal_trace.result import percent
from cutaway.charts.marks import TRACED_NAMES, Layers, diverging_scale, values
from cutaway.charts.theme import MONO

if TYPE_CHECKING:
    from cutaway.analyses.causal_trace.result import Trace

WIDE, LABELS = 765, 120  # pixels of all heatmaps side by side, and of the longest token beside them
SCALE, STEPS = 300, 60  # pixels of the colour scale, and of how many colours it is made
ROW = {20: 22, 40: 16, 80: 10}  # positions up to: pixels of a row
SIZES = {"probability": "Probability", "log_probability": "Log-probability, nats,"}


def trace(result: Trace) -> alt.TopLevelMixin:
    """Draw a heatmap for each kind, positions down and layers across, and the colour scale with both levels on it."""
    kinds, n, layers, _ = result.log_probabilities.shape
    width = max(2 * layers, min(56 * layers, WIDE // kinds))
    row = next((pixels for most, pixels in ROW.items() if n <= most), max(2, 800 // n))
    levels = _levels(result)
    rows = _rows(result, levels)
    maps: list[Any] = [_heatmap(result, rows[k], k, width, row * n, row) for k in range(kinds)]
    size = alt.param(
        name="size",
        value="probability",
        bind=alt.binding_select(
            options=list(SIZES), labels=[name.strip(",") for name in SIZES.values()], name="Score "
        ),
    )
    joined: alt.VConcatChart = (
        alt.vconcat(alt.hconcat(*maps, spacing=20), _scale(result, levels), spacing=26)
        .add_params(size)
        .resolve_scale(color="independent")
    )
    return joined


def _levels(result: Trace) -> dict[str, dict[str, float]]:
    """Return, for each way of scoring, the corrupted and the clean level, and how far the colours reach."""
    hidden = result.corrupted_log_probabilities
    of = {
        "probability": (result.corrupted, result.clean, result.probability),
        "log_probability": (float(hidden.mean()), result.clean_log_probability, result.log_probability),
    }
    found = {}
    for name, (corrupted, clean, scores) in of.items():
        known = [*scores[~scores.isnan()].tolist(), clean, corrupted]
        known = [value for value in known if math.isfinite(value)] or [0.0]
        reach = max((abs(value - corrupted) for value in known), default=0.0) or 1e-9
        found[name] = {"corrupted": corrupted, "clean": clean, "reach": reach, "low": min(known), "high": max(known)}
    return found


def _shade(value: float, level: dict[str, float]) -> float | None:
    """Return a value's distance from the corrupted level as a share of the largest one, from -1 to 1."""
    shade = (value - level["corrupted"]) / level["reach"]
    return round(shade, 4) if math.isfinite(shade) else None


def _colour() -> alt.Color:
    """Return a colour that is transparent where nothing changes, so that it reads on any background."""
    return alt.Color(
        "shade:Q",
        scale=diverging_scale(1),
        legend=None,
    )


def _rows(result: Trace, levels: dict[str, dict[str, float]]) -> list[list[dict[str, Any]]]:
    """Return a record for each cell, by kind, short enough for 3 x 48 x 80 of them."""
    p, p_sd = result.probability.tolist(), result.probability_sd.tolist()
    log, log_sd = result.log_probability.tolist(), result.log_probability_sd.tolist()
    found = []
    for k, kind in enumerate(result.kinds):
        rows = []
        for i, token in enumerate(result.display):
            for layer in range(result.log_probabilities.shape[2]):
                first, last = result.layers_of(kind, layer)
                score, nats = p[k][i][layer], log[k][i][layer]
                rows.append(
                    {
                        "i": i,
                        "layer": layer,
                        "token": token,
                        "restored": f"layer {first}" if first == last else f"layers {first} to {last}",
                        "p": _spread(score, p_sd[k][i][layer], ".2%"),
                        "log_p": _spread(nats, log_sd[k][i][layer], ".3f"),
                        "probability": _shade(score, levels["probability"]),
                        "log_probability": _shade(nats, levels["log_probability"]),
                    }
                )
        found.append(rows)
    return found


def _spread(value: float, sd: float, form: str) -> str:
    if math.isnan(value):
        return "not done"
    return format(value, form) + ("" if math.isnan(sd) else f" ± {format(sd, form)}")


def _heatmap(result: Trace, rows: list[dict[str, Any]], k: int, width: int, height: int, row: int) -> Layers:
    kind, window, n = result.kinds[k], result.windows[k], len(result.ids)
    names = json.dumps([f"{token}{' *' if i in result.subject else ''}" for i, token in enumerate(result.display)])
    starred = f"{json.dumps([i in result.subject for i in range(n)])}[datum.value]"
    labels = alt.Axis(
        labelExpr=f"({names})[datum.value]",
        labelFont=MONO,
        labelFontSize=max(7, min(12, row - 4)),
        labelLimit=LABELS,
        labelOverlap=row < 8,
        labelFontWeight=alt.condition(starred, alt.value("bold"), alt.value("normal")),
        ticks=False,
        domain=False,
    )
    y = alt.Y("i:O", title=None, scale=alt.Scale(domain=list(range(n))), axis=labels if k == 0 else None)
    layers = result.log_probabilities.shape[2]
    every = max(1, math.ceil(20 * layers / width))
    axis = alt.Axis(labelAngle=0, ticks=False, domain=False, values=list(range(0, layers, every)))
    x = alt.X("layer:O", title="Layer" if window == 1 else f"Middle of {window} layers", axis=axis)
    data = alt.Chart(values(rows)).transform_calculate(shade="datum[size]")
    tooltip = [
        alt.Tooltip("token:N", title="Token"),
        alt.Tooltip("i:O", title="Position"),
        alt.Tooltip("restored:N", title="Restored"),
        alt.Tooltip("p:N", title="Probability"),
        alt.Tooltip("log_p:N", title="Log-probability"),
    ]
    stroke: dict[str, Any] = {"stroke": "#8882", "strokeWidth": 0.5 if width / layers >= 8 else 0}
    cells = data.mark_rect(**stroke).encode(x=x, y=y, color=_colour(), tooltip=tooltip)
    missing = data.transform_filter("!isValid(datum.shade)").mark_rect(color="#88888850", **stroke)
    undone = result.done < n
    chart: Layers = alt.layer(cells, *([missing.encode(x=x, y=y, tooltip=tooltip)] if undone else [])).properties(
        width=width,
        height=height,
        title=alt.TitleParams(text=TRACED_NAMES[kind], frame="group"),
        view=alt.ViewConfig(stroke="#8886"),
    )
    return chart


def _scale(result: Trace, levels: dict[str, dict[str, float]]) -> Layers:
    """Draw the colours of all values, with the clean and the corrupted level on them."""
    strip, marks = [], []
    for size, level in levels.items():
        low, high = level["low"], level["high"]
        width = (high - low) or 1e-9
        for i in range(STEPS):
            ends = [low + width * j / STEPS for j in (i, i + 1)]
            shade = _shade(sum(ends) / 2, level)
            strip.append({"of": size, "start": i / STEPS, "end": (i + 1) / STEPS, "shade": shade})
        for name in ("corrupted", "clean"):
            value = level[name]
            number = percent(value) if size == "probability" else f"{value:.2f}"
            place = (value - low) / width if math.isfinite(value) else 0.0
            side = "right" if place > 0.85 else "left" if place < 0.15 else "center"
            marks.append({"of": size, "at": place, "mark": f"{name} {number}", "level": name, "side": side})
    x = alt.X("start:Q", scale=alt.Scale(domain=[0, 1]), axis=None)
    chosen = "datum.of == size"
    bar = (
        alt.Chart(values(strip))
        .transform_filter(chosen)
        .mark_rect(height=14, y=26)
        .encode(x=x, x2="end:Q", color=_colour())
    )
    named = alt.Chart(values(marks)).transform_filter(chosen)
    at = alt.X("at:Q", axis=None)
    parts: list[Any] = [bar, named.mark_rule(y=16, y2=36).encode(x=at)]
    places: list[tuple[str, int, Literal["top", "bottom"]]] = [("corrupted", 40, "top"), ("clean", 12, "bottom")]
    sides: list[Literal["left", "center", "right"]] = ["left", "center", "right"]
    for name, y, baseline in places:
        for side in sides:
            some = named.transform_filter(f"datum.level == '{name}' && datum.side == '{side}'")
            parts.append(some.mark_text(align=side, baseline=baseline, y=y, fontSize=11).encode(x=at, text="mark:N"))
    words = json.dumps({size: f"{name} of {result.display_answer}" for size, name in SIZES.items()})
    chart: Layers = alt.layer(*parts).properties(
        width=SCALE,
        height=54,
        title=alt.TitleParams(text=alt.expr(f"({words})[size]"), fontSize=12),
        view=alt.ViewConfig(stroke=None),
    )
    return chart
