"""Draw attention: every head small, what kind of head it is, and one head large."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
from PIL import Image
from torch import Tensor

from cutaway.analyses.attention.scores import SCORES
from cutaway.charts.marks import Layers, head_columns, layer_rows, named, values
from cutaway.charts.theme import BLUE, MONO, ORANGE

if TYPE_CHECKING:
    from cutaway.analyses.attention.result import Attention, AttentionMeans

LABELS = {
    "previous": "Previous token",
    "first": "First token",
    "duplicate": "Duplicate token",
    "induction": "Induction",
    "entropy": "Entropy (nats)",
    "distance": "Mean distance (tokens)",
}
WINDOW = 48  # tokens of a long text that are shown
WEIGHTS = 400_000  # attention weights that a page carries at most
SMALL = 150  # heads that are shown small at most
LARGE = 624  # pixels of the large head
GRID, PICTURE, WIDE = 450, 300, 800  # widest small patterns, scores beside them, scores alone


def read(result: Attention) -> alt.TopLevelMixin:
    """Draw all heads small, their scores, and one head large."""
    layers, heads, n, _ = result.patterns.shape
    shown = min(n, WINDOW, max(4, int(math.sqrt(2 * WEIGHTS / (layers * heads)))))
    first = "induction" if result.has_induction() else "previous"
    layer, head = result.strongest(first) or (0, 0)
    patterns = result.patterns[:, :, :shown, :shown].double().nan_to_num().clamp(0, 1)
    small = layers * heads <= SMALL
    scores = _scores(result.table().to_dict("records"), result.scores, PICTURE if small else WIDE, _tooltip())
    top: Any = scores
    if small:
        top = alt.hconcat(_small(patterns.numpy(), GRID), scores, spacing=30).resolve_scale(color="independent")
    params = [
        _score(first),
        alt.param(name="layer", value=layer, bind=alt.binding_range(min=0, max=layers - 1, step=1, name="Layer ")),
        alt.param(name="head", value=head, bind=alt.binding_range(min=0, max=heads - 1, step=1, name="Head ")),
    ]
    joined: alt.VConcatChart = (
        alt.vconcat(top, _large(patterns, result.display, n), spacing=24)
        .add_params(*params)
        .resolve_scale(color="independent")
    )
    return joined


def average(result: AttentionMeans) -> alt.TopLevelMixin:
    """Draw the chosen score as layers x heads, with its interval in the tooltip."""
    layers, heads, _ = result.scores.shape
    rows: list[dict[str, Any]] = []
    for i in range(layers * heads):
        layer, head = divmod(i, heads)
        row: dict[str, Any] = {"layer": layer, "head": head}
        for k, name in enumerate(SCORES):
            mean, low, high = (float(t[layer, head, k]) for t in (result.scores, result.low, result.high))
            ends = "" if math.isnan(low) else f" ({low:.3f} to {high:.3f})"
            row |= {name: mean, f"{name}_text": f"{mean:.3f}{ends}"}
        rows.append(row)
    tooltip = [alt.Tooltip(f"{name}_text:N", title=title) for name, title in LABELS.items()]
    chart: Layers = _scores(rows, result.scores, WIDE, tooltip, chosen=False).add_params(_score("previous"))
    return chart


def _score(first: str) -> alt.Parameter:
    select = alt.binding_select(options=list(LABELS), labels=list(LABELS.values()), name="Score ")
    return alt.param(name="score", value=first, bind=select)


def _tooltip() -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:Q", title=title, format=".3f") for name, title in LABELS.items()]


def _small(patterns: np.ndarray[Any, Any], width: int) -> Layers:
    """Draw every head's pattern as a little picture, in layers x heads."""
    layers, heads = patterns.shape[:2]
    cell = max(12, min(64, width // heads))
    rows = [
        {"layer": layer, "head": head, "url": _png(patterns[layer, head])}
        for layer in range(layers)
        for head in range(heads)
    ]
    data = alt.Chart(values(rows))
    tooltip = [alt.Tooltip("layer:O", title="Layer"), alt.Tooltip("head:O", title="Head")]
    chosen = "datum.layer == layer && datum.head == head"
    frame = data.mark_rect(fill=BLUE, cursor="pointer").encode(
        x=head_columns(),
        y=layer_rows(),
        fillOpacity=alt.value(0.06),
        stroke=alt.condition(chosen, alt.value(ORANGE), alt.value("#8884")),
        strokeWidth=alt.condition(chosen, alt.value(2), alt.value(0.5)),
        tooltip=tooltip,
    )
    picture = data.mark_image(width=cell - 4, height=cell - 4, cursor="pointer").encode(
        x=head_columns(), y=layer_rows(), url="url:N", tooltip=tooltip
    )
    return alt.layer(frame, picture).properties(
        width=cell * heads, height=cell * layers, title="Every head; click one to look closer"
    )


def _scores(
    rows: list[dict[Any, Any]], scores: Tensor, width: int, tooltip: list[alt.Tooltip], chosen: bool = True
) -> Layers:
    """Draw the chosen score as the colour of layers x heads, and as a number where there is room."""
    layers, heads, _ = scores.shape
    cell = max(6, min(44, width // heads))
    height = max(10, min(30, 620 // layers))
    largest = {name: float(np.nan_to_num(scores[..., i].numpy()).max()) or 1.0 for i, name in enumerate(SCORES)}
    top = f"({json.dumps(largest)})[score]"
    data = alt.Chart(values(rows)).transform_calculate(value="datum[score]")
    about = [alt.Tooltip("layer:O", title="Layer"), alt.Tooltip("head:O", title="Head"), *tooltip]
    cells = data.mark_rect(cursor="pointer" if chosen else "default").encode(
        x=head_columns(),
        y=layer_rows(),
        color=alt.Color(
            "value:Q",
            title=None,
            scale=alt.Scale(scheme="viridis", domainMin=0, domainMax=alt.expr(top)),
            legend=alt.Legend(orient="bottom", gradientLength=160, format=".3~g"),
        ),
        tooltip=about,
    )
    parts = [cells]
    if cell >= 30 and layers <= 24:
        dark = alt.condition(
            f"datum.value == null || datum.value < 0.6 * {top}", alt.value("white"), alt.value("black")
        )
        number = alt.Text("value:Q", format=".2r")
        parts.append(
            data.mark_text(font=MONO, fontSize=10).encode(
                x=head_columns(), y=layer_rows(), text=number, color=dark, tooltip=about
            )
        )
    if chosen:
        ring = data.transform_filter("datum.layer == layer && datum.head == head")
        parts.append(
            ring.mark_rect(filled=False, stroke=ORANGE, strokeWidth=2).encode(x=head_columns(), y=layer_rows())
        )
    return alt.layer(*parts).properties(width=cell * heads, height=height * layers, title=named(LABELS, "score"))


def _large(patterns: Tensor, display: list[str], n: int) -> alt.Chart:
    """Draw one head with its tokens on both axes. Each row of data is a query with all its weights."""
    shown = patterns.shape[2]
    rows = [
        {"layer": layer, "head": head, "query": i, "weight": [round(w, 3) for w in weights[: i + 1]]}
        for layer, of_layer in enumerate(patterns.tolist())
        for head, of_head in enumerate(of_layer)
        for i, weights in enumerate(of_head)
    ]
    cell = max(8, min(28, LARGE // shown))
    words = json.dumps(display[:shown])

    def axis(angle: int) -> alt.Axis:
        return alt.Axis(
            labelExpr=f"({words})[datum.value]",
            labelAngle=angle,
            labelFont=MONO,
            labelFontSize=max(6, min(11, cell - 3)),
            labelLimit=90,
            labelOverlap=False,
            ticks=False,
        )

    domain = alt.Scale(domain=list(range(shown)))
    some = f" (the first {shown} of {n:,} tokens)" if shown < n else ""
    data = (
        alt.Chart(values(rows))
        .transform_filter("datum.layer == layer && datum.head == head")
        .transform_calculate(key="sequence(length(datum.weight))")
        .transform_flatten(["weight", "key"])
        .transform_calculate(from_=f"({words})[datum.query]", to=f"({words})[datum.key]")
    )
    chart: alt.Chart = (
        data.mark_rect(stroke="#8883", strokeWidth=0.5)
        .encode(
            x=alt.X("key:O", title="Key: the token looked at", scale=domain, axis=axis(-90)),
            y=alt.Y("query:O", title="Query: the token that looks", scale=domain, axis=axis(0)),
            color=alt.Color(
                "weight:Q",
                title="Weight",
                scale=alt.Scale(type="sqrt", domain=[0, 1], range=[f"{BLUE}00", BLUE]),
                legend=alt.Legend(format=".0%", values=[0, 0.1, 0.25, 0.5, 1], gradientLength=160),
            ),
            tooltip=[
                alt.Tooltip("from_:N", title="Query"),
                alt.Tooltip("to:N", title="Key"),
                alt.Tooltip("weight:Q", title="Weight", format=".1%"),
            ],
        )
        .properties(
            width=cell * shown,
            height=cell * shown,
            title=alt.TitleParams(text=alt.expr(f"'Layer ' + layer + ', head ' + head + {json.dumps(some)}")),
        )
    )
    return chart


def _png(pattern: np.ndarray[Any, Any]) -> str:
    """Return a pattern as a picture for a page, a data URL.

    It is blue, and the square root of the weight is its opacity, so that it reads on any background. Each weight is
    repeated over several pixels until they make up a small chart.
    """
    alpha = np.rint(255 * np.sqrt(pattern)).astype(np.uint8)
    times = math.ceil(120 / len(alpha))
    alpha = alpha.repeat(times, 0).repeat(times, 1)
    pixels = np.empty((*alpha.shape, 4), np.uint8)
    pixels[..., :3] = [int(BLUE[i : i + 2], 16) for i in (1, 3, 5)]
    pixels[..., 3] = alpha
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
