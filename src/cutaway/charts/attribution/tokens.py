"""Draw which tokens of the text a logit comes from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import Layers, diverging, lay_out, rounded, signed, values
from cutaway.charts.theme import MONO

if TYPE_CHECKING:
    from cutaway.analyses.attribution.result import ByPosition, Gradient, Integrated

COLUMNS = 104  # characters a line of the text
CHARACTER, LINE = 7.8, 24  # pixels
WIDTH = 820


def gradient(result: Gradient) -> alt.TopLevelMixin:
    """Draw the tokens coloured at one site, bars of the same numbers, and all sites as rows where there are several."""
    site = alt.param(
        name="site",
        value=result.sites[0],
        bind=alt.binding_select(options=result.sites, name="Site "),
    )
    data = _data(result)
    parts: list[Any] = [_words(result, data), _bars(result, data)]
    if len(result.sites) > 1:
        parts.append(_sites(result, data))
    joined: alt.VConcatChart = alt.vconcat(*parts, spacing=22).add_params(site).resolve_scale(color="independent")
    return joined


def integrated(result: Integrated) -> alt.TopLevelMixin:
    """Draw the tokens coloured, and bars of the same numbers."""
    site = alt.param(name="site", value=result.sites[0])
    data = _data(result)
    parts: list[Any] = [_words(result, data), _bars(result, data)]
    joined: alt.VConcatChart = alt.vconcat(*parts, spacing=22).add_params(site).resolve_scale(color="independent")
    return joined


def _data(result: ByPosition) -> alt.Chart:
    """Return a record for each site and token, with the token's place in the text; a click sets `site`."""
    places = lay_out(result.display, _columns(result))
    rows = []
    for site, attributions in zip(result.sites, result.values.tolist(), strict=True):
        for i, (token, value) in enumerate(zip(result.display, attributions, strict=True)):
            column, line, width = places[i]
            place = {"x": column * CHARACTER, "x2": (column + width) * CHARACTER, "line": line}
            rows.append({"site": site, "i": i, "token": token, "value": rounded(value), **place})
    return alt.Chart(values(rows))


def _columns(result: ByPosition) -> int:
    """Return how many characters a line of the text has."""
    return min(COLUMNS, max(40, sum(map(len, result.display)) + 1))


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("site:N", title="Site"),
        alt.Tooltip("i:Q", title="Position"),
        alt.Tooltip("token:N", title="Token"),
        alt.Tooltip("value:Q", title="Attribution", format="+.4f"),
    ]


def _words(result: ByPosition, data: alt.Chart) -> Layers:
    """Draw the text, each token on its colour."""
    columns = _columns(result)
    height, room = (lay_out(result.display, columns)[-1][1] + 1) * LINE, columns * CHARACTER
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, room], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[height, 0], nice=False))
    here = data.transform_filter("datum.site == site").transform_calculate(
        y=f"datum.line * {LINE}", y2=f"datum.line * {LINE} + {LINE - 2}", middle=f"(datum.line + 0.5) * {LINE} - 1"
    )
    colour = diverging("value", _most(result), "Attribution", 200, "top", "b3")  # text must read on it
    back = here.mark_rect(cornerRadius=2).encode(x=x, x2="x2:Q", y=y, y2="y2:Q", color=colour, tooltip=_tooltip())
    text = here.mark_text(align="left", baseline="middle", font=MONO, fontSize=13, limit=room)
    text = text.encode(x=x, y=alt.Y("middle:Q", axis=None), text="token:N", tooltip=_tooltip())
    title = f"{result.display_target}: {result.logit:+.2f}"
    return alt.layer(back, text).properties(width=room, height=height, title=title)


def _bars(result: ByPosition, data: alt.Chart) -> alt.Chart:
    n = len(result.display)
    few = n <= 40
    words = json.dumps(result.display, ensure_ascii=False)  # an array in Vega's language, too
    axis = alt.Axis(
        labelExpr=f"{words}[datum.value]" if few else "datum.label",
        labelAngle=-50 if few else 0,
        labelFont=MONO if few else alt.Undefined,
        labelLimit=90,
        values=alt.Undefined if few else _marked(n),
        ticks=False,
        domain=False,
    )
    chart: alt.Chart = (
        data.transform_filter("datum.site == site")
        .mark_bar()
        .encode(
            x=alt.X("i:O", title="Token" if few else "Position", axis=axis),
            y=alt.Y("value:Q", title="Attribution (logit)", axis=alt.Axis(tickCount=5)),
            color=signed(),
            tooltip=_tooltip(),
        )
        .properties(width=min(WIDTH, max(320, 30 * n)), height=150)
    )
    return chart


def _marked(n: int) -> list[int]:
    """Return the positions that are written below an axis of n: about 16, none so near the end that it is cut off."""
    return list(range(0, n if n <= 16 else int(0.97 * n), max(1, n // 16)))


def _most(result: ByPosition) -> float:
    finite = result.values[result.values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 1.0


def _sites(result: ByPosition, data: alt.Chart) -> Layers:
    """Draw sites x positions; a click chooses the site that is drawn above."""
    axis = alt.Axis(labelAngle=0, values=_marked(len(result.display)), ticks=False, domain=False)
    x = alt.X("i:O", title="Position", axis=axis)
    y = alt.Y("site:N", sort=result.sites, title=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=190))
    cells = data.mark_rect(cursor="pointer").encode(
        x=x, y=y, color=diverging("value", _most(result)), tooltip=_tooltip()
    )
    width = min(640, max(320, 30 * len(result.display)))
    frame = data.transform_filter("datum.site == site && datum.i == 0").mark_rect(fill=None, style="frame")
    frame = frame.encode(x=alt.value(0), x2=alt.value(width), y=y)
    height = max(8, min(22, 420 // len(result.sites))) * len(result.sites)
    return alt.layer(cells, frame).properties(width=width, height=height)
