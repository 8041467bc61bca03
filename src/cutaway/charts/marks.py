"""Share what several charts draw: layers as rows, heads as columns, signed colours, numbers at the ends of bars.

    alt.Chart(values(rows)).mark_rect().encode(x=head_columns(), y=layer_rows(), color=diverging("value", 2.5))

theme.py has the colours and the look; this file has the parts of which a chart is put together.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import altair as alt

from cutaway.charts.theme import BLUE, ORANGE
from cutaway.text.display import visible

Layers: TypeAlias = alt.LayerChart | alt.FacetChart  # what altair says alt.layer(...).properties() returns

SITE_NAMES = {  # kinds of sites, as a title says them
    "resid_pre": "Residual stream before the layer",
    "resid_mid": "Residual stream after attention",
    "resid_post": "Residual stream after the layer",
    "attn_out": "Attention output",
    "mlp_out": "MLP output",
    "mlp.post": "Neurons after the activation",
    "mlp.pre": "Neurons before the activation",
    "attn.q": "Queries",
    "attn.k": "Keys",
    "attn.v": "Values",
    "attn.z": "Head outputs z",
    "attn.pattern": "Attention patterns",
}
TRACED_NAMES = SITE_NAMES | {"resid_post": "Residual stream"}  # where resid_post is the only stream


# --- data ---


class Rows(alt.InlineData):
    """Records as a chart's data, not copied or checked: altair would do both at every step."""

    _class_is_valid_at_instantiation = False

    def to_dict(self, *_: object, **__: object) -> dict[str, Any]:
        return {"values": self.values}

    def __deepcopy__(self, memo: object = None) -> Rows:
        return self


def values(rows: Iterable[Mapping[Any, Any]]) -> Rows:
    """Return records as a chart's data: no limit on rows, no types guessed; NaN and infinities as null.

    Control characters are made visible: a picture cannot hold them.
    """

    def shown(value: Any) -> Any:
        if isinstance(value, str):
            return visible(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return Rows(values=[{name: shown(value) for name, value in row.items()} for row in rows])


def rounded(value: float) -> float:
    """Return a number with five digits, all that a picture or a tooltip shows."""
    return float(f"{value:.5g}")


# --- axes and titles ---


def layer_rows(title: str | None = "Layer") -> alt.Y:
    """Return layers as rows, the last on top, so that every chart shows the stream flow up.

    Without a title there are no labels either, for a chart that stands beside one that has them.
    """
    axis = alt.Axis(labelOverlap=True, ticks=False, domain=False) if title else None
    return alt.Y("layer:O", title=title, sort="descending", axis=axis)


def head_columns() -> alt.X:
    """Return heads as columns."""
    return alt.X("head:O", title="Head", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False))


def labels(texts: Iterable[str]) -> str:
    """Return the expression that labels the values 0, 1, ... with texts.

    Rows are told apart by number, not by text: two texts can be equal, and one can be a word that a chart itself uses.
    """
    return f"({json.dumps(list(texts))})[datum.value]"


def named(names: Mapping[str, str], choice: str, before: str = "") -> alt.TitleParams:
    """Return a title that names what is chosen, so that a picture without its menu says what it shows."""
    return alt.TitleParams(text=alt.expr(f"{json.dumps(before)} + ({json.dumps(names)})[{choice}]"))


def lay_out(tokens: list[str], columns: int) -> list[tuple[int, int, int]]:
    """Return each token's place in lines of that many characters: (column, line, width).

    A newline token ends its line; a token wider than a line fills one.
    """
    places = []
    column = line = 0
    for token in tokens:
        width = min(columns, sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in token) or 1)
        if column and column + width > columns:
            column, line = 0, line + 1
        places.append((column, line, width))
        column += width
        if token.endswith("↵"):
            column, line = 0, line + 1
    return places


# --- colours and numbers ---


def signed(field: str = "value") -> Any:
    """Return orange for numbers above zero and blue for the others."""
    return alt.condition(f"datum.{field} > 0", alt.value(ORANGE), alt.value(BLUE))


def diverging_scale(reach: float, middle: float = 0.0, opacity: str = "") -> alt.Scale:
    """Return a scale from blue to orange, `reach` to either side of the middle, where it is transparent.

    Nothing is drawn at the middle, so that it reads on any background. `opacity` is two hexadecimal digits: where
    numbers stand on the colours, these must not be full.
    """
    tiny = reach * 1e-6
    return alt.Scale(
        domain=[middle - reach, middle - tiny, middle + tiny, middle + reach],
        range=[BLUE + opacity, f"{BLUE}00", f"{ORANGE}00", ORANGE + opacity],
        clamp=True,
    )


def diverging(
    field: str, most: float, title: str | None = None, length: int = 120, orient: Any = "right", full: str = ""
) -> alt.Color:
    """Return a colour that is blue below zero, orange above and transparent at zero."""
    scale = diverging_scale(most or 1.0, opacity=full)
    side: dict[str, Any] = {"gradientLength": length, "gradientThickness": 10, "format": "+.2~f", "tickCount": 3}
    if orient == "top":
        side["titleOrient"] = "left"
    return alt.Color(f"{field}:Q", title=title, scale=scale, legend=alt.Legend(orient=orient, **side))


def ends_of_axis(numbers: Iterable[float]) -> tuple[float, float]:
    """Return the least and the largest of some numbers and zero."""
    listed = [0.0, *numbers]
    return min(listed), max(listed)


def numbers_beside_bars(data: alt.Chart, field: str, gap: int) -> tuple[alt.Chart, alt.Chart]:
    """Return the text marks for numbers at the ends of horizontal bars: right of positive ones, left of negative."""
    above = data.transform_filter(f"datum.{field} >= 0").mark_text(align="left", dx=gap, fontSize=11)
    below = data.transform_filter(f"datum.{field} < 0").mark_text(align="right", dx=-gap, fontSize=11)
    return above, below
