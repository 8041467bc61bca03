"""Draw the regression of each layer's norms on those of the layers before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from cutaway.charts.marks import Layers, rounded, values
from cutaway.charts.norms.series import HEIGHT, RAMP, heat_map
from cutaway.charts.theme import GREEN, ORANGE, PALETTE

if TYPE_CHECKING:
    from cutaway.analyses.norms.regression import Regression

SIGNIFICANT = "datum[against] != null && datum[against] < 0.05"
CROSS = "M-1,-1L1,1M-1,1L1,-1"
NOT = f"datum[against] != null && !({SIGNIFICANT})"


def regress(result: Regression) -> alt.TopLevelMixin:
    """Draw the lags' coefficients by layer beside R², of the fit and held out; with heads, a grid for each lag."""
    against = alt.param(
        name="against",
        value="p_adjusted",
        bind=alt.binding_radio(
            options=["p_adjusted", "p"],
            labels=["corrected (Benjamini-Hochberg)", "raw"],
            name="Filled where p < 0.05: ",
        ),
    )
    rows = _rows(result)
    if result.norms.heads:
        charts = [_cells(result, rows, k) for k in range(1, result.lags + 1)]
        cells: alt.ConcatChart = alt.concat(*charts, columns=2, spacing={"row": 26, "column": 30}).add_params(against)
        return cells
    joined: alt.HConcatChart = (
        alt.hconcat(_coefficients(result, rows), _explained(result), spacing=30)
        .add_params(against)
        .resolve_scale(color="independent")
    )
    return joined


def _rows(result: Regression) -> list[dict[str, Any]]:
    """Return a record for each layer (and head) and lag; numbers are None where there was no regression."""
    table = result.table()
    table = table[table["term"].str.startswith("t-")].copy()
    table["lag"] = table["term"].str.removeprefix("t-").astype(int)
    if result.null is not None:
        low, high = (np.full(result.lag_beta.shape, np.nan) for _ in range(2))
        good = np.isfinite(result.lag_beta[:, 0])
        low[good], high[good] = np.percentile(result.null[good], [2.5, 97.5], axis=1)
        table["null_low"], table["null_high"] = low.ravel(), high.ravel()
    table["aside"] = 0.5 + _step(result.lags) * (table["lag"] - (result.lags + 1) / 2)
    return [
        {str(key): rounded(v) if isinstance(v, float) and math.isfinite(v) else v for key, v in row.items()}
        for row in table.to_dict("records")
    ]


def _where(test: str) -> Any:
    """Return an opacity of 1 where a test holds, else 0. A filter would leave layers without data: Vega complains."""
    return alt.condition(test, alt.value(1), alt.value(0))


def _step(lags: int) -> float:
    """Return the distance between the lags of one layer, as a share of the layer's width."""
    return min(0.2, 0.7 / lags)


def _tooltip(heads: bool) -> list[Any]:
    named = [("beta:Q", "Coefficient", ".3f"), ("se:Q", "Standard error", ".3f"), ("p:Q", "p, raw", ".3g")]
    named += [("p_adjusted:Q", "p, corrected", ".3g"), ("p_shuffled:Q", "p, shuffled", ".3g")]
    named += [
        ("r_squared:Q", "R²", ".3f"),
        ("held_out:Q", "R², held out", ".3f"),
        ("ljung_box:Q", "Ljung-Box p", ".3g"),
    ]
    where = [alt.Tooltip("layer:O", title="Layer"), alt.Tooltip("head:O", title="Head")][: 1 + heads]
    return [
        *where,
        alt.Tooltip("term:N", title="Term"),
        *(alt.Tooltip(field, title=title, format=form) for field, title, form in named),
        alt.Tooltip("fault:N", title="Not regressed"),
    ]


def _coefficients(result: Regression, rows: list[dict[str, Any]]) -> Layers:
    """Draw a line for each lag, with a filled point where it is significant and a cross where it is not."""
    few = result.lags <= len(PALETTE)
    layers = len(result.norms.layers)
    scale = alt.Scale(domain=list(range(1, result.lags + 1)), range=PALETTE[: result.lags]) if few else None
    ramp = alt.Scale(domain=[1, result.lags], range=RAMP)
    label = "'t-' + datum.label"
    legend = alt.Legend(orient="top", format="d", labelExpr=label, symbolType="circle", symbolOpacity=1)
    colour = alt.Color("lag:O" if few else "lag:Q", title="Lag", scale=scale or ramp, legend=legend)
    data = alt.Chart(values(rows))
    x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("beta:Q", title="Coefficient")
    across: dict[str, Any] = {"x": x, "color": colour, "detail": "term:N"}
    if layers <= 24:
        across["xOffset"] = alt.XOffset("aside:Q", scale=alt.Scale(domain=[0, 1]))
    size = 90 if layers <= 16 else 46
    width, step = max(300, min(560, 46 * layers)), _step(result.lags)
    tooltip = _tooltip(False)
    parts = [alt.Chart(values([{"zero": 0}])).mark_rule(opacity=0.7).encode(y=alt.Y("zero:Q"))]
    if result.null is not None:
        parts.append(
            data.mark_bar(opacity=0.2, width=max(3, int(0.75 * width / layers * step))).encode(
                **across, y=alt.Y("null_low:Q"), y2="null_high:Q"
            )
        )
    parts += [
        data.mark_line(strokeWidth=1, opacity=0.7).encode(**across, y=y),
        data.mark_rule(strokeWidth=1.5).encode(**across | {"y": alt.Y("low:Q"), "y2": "high:Q"}),
        data.mark_point(filled=True, size=size).encode(**across, y=y, tooltip=tooltip, opacity=_where(SIGNIFICANT)),
        data.mark_point(shape=CROSS, size=size, strokeWidth=2).encode(
            **across, y=y, tooltip=tooltip, opacity=_where(NOT)
        ),
    ]
    return alt.layer(*parts).properties(width=width, height=HEIGHT)


def _explained(result: Regression) -> alt.Chart:
    """Draw R² on the rows of the fit, and on rows that were held out of another fit."""
    named = {"of the fit": result.r_squared, "held out": result.held_out}
    rows = [
        {"layer": layer, "what": what, "value": float(value), "ljung_box": float(p)}
        for what, column in named.items()
        for layer, value, p in zip(result.norms.layers, column, result.ljung_box, strict=True)
        if math.isfinite(value)
    ]
    layers = len(result.norms.layers)
    scale = alt.Scale(domain=list(named), range=[GREEN, ORANGE if result.lags < 2 else "#8a63d2"])
    chart: alt.Chart = (
        alt.Chart(values(rows))
        .mark_line(point=alt.OverlayMarkDef(size=40 if layers <= 16 else 18))
        .encode(
            x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("value:Q", title="R²", scale=alt.Scale(zero=True)),
            color=alt.Color("what:N", title="R²", scale=scale, legend=alt.Legend(orient="top")),
            tooltip=[
                alt.Tooltip("layer:O", title="Layer"),
                alt.Tooltip("what:N", title="R²"),
                alt.Tooltip("value:Q", title="Value", format=".3f"),
                alt.Tooltip("ljung_box:Q", title="Ljung-Box p", format=".3g"),
            ],
        )
        .properties(width=220, height=HEIGHT)
    )
    return chart


def _cells(result: Regression, rows: list[dict[str, Any]], lag: int) -> Layers:
    """Draw one lag's coefficients, layers x heads: a cross where not significant, a dash where there is none."""
    largest = float(np.nanmax(np.abs(result.lag_beta)))
    colour = alt.Color(
        "beta:Q",
        title="Coefficient",
        scale=alt.Scale(scheme="blueorange", domain=[-largest, largest]),
        legend=alt.Legend(gradientLength=120),
    )
    of_lag = [row for row in rows if row["lag"] == lag]
    numbers, heads = result.norms.layers, max(result.norms.heads or [0]) + 1
    there, gone = ([row for row in of_lag if bool(row["fault"]) == faulty] for faulty in (False, True))
    size = max(9, min(16, 360 // heads, 660 // len(set(numbers))))
    cells = heat_map(there, numbers, heads, colour, _tooltip(True))
    # Dark on cells that are pale in either theme: those not significant are near 0.
    text = cells.mark_text(fontSize=size, text="×", opacity=0.8).encode(color=alt.value("#4b5563"))
    dashes = [heat_map(gone, numbers, heads, None, _tooltip(True)).mark_text(fontSize=size, text="–")] if gone else []
    return alt.layer(cells, text.transform_filter(NOT), *dashes).properties(
        width=cells.width, height=cells.height, title=f"t-{lag}"
    )
