"""How charts look: one palette, a light and a dark configuration of Vega-Lite, and data that needs no row limit.

Marks use colours that read on both backgrounds; text, axes and grids take theirs from the configuration, so that a
page can switch between light and dark.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import altair as alt

from cutaway.text.display import visible

# Okabe and Ito's palette, safe for colour-blind readers, without its black and yellow.
BLUE, ORANGE, GREEN, PINK, SKY = "#3b82c4", "#e07b28", "#1a9e77", "#cc79a7", "#56b4e9"
PALETTE = [BLUE, ORANGE, GREEN, PINK, SKY]

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"


def _config(text: str, quiet: str, grid: str, background: str) -> dict[str, Any]:
    return {
        "background": background,
        "font": SANS,
        "view": {"stroke": None},
        "axis": {
            "labelColor": quiet,
            "titleColor": text,
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 12,
            "domainColor": grid,
            "tickColor": grid,
            "gridColor": grid,
            "gridOpacity": 0.6,
            "titlePadding": 8,
        },
        "legend": {"labelColor": text, "titleColor": text, "titleFontWeight": "normal", "titleFontSize": 11},
        "title": {"color": text, "subtitleColor": quiet, "anchor": "start", "fontSize": 13, "fontWeight": 600},
        "header": {"labelColor": text, "titleColor": text},
        "text": {"color": text},
        "rule": {"color": quiet},
        "tick": {"color": text},
        "range": {"category": PALETTE},
        "bar": {"color": BLUE},
        "point": {"color": BLUE},
        "circle": {"color": BLUE},
        "line": {"color": BLUE},
        "style": {"frame": {"stroke": text}},
    }


Layers: TypeAlias = alt.LayerChart | alt.FacetChart  # what altair says alt.layer(...).properties() returns

LIGHT = _config(text="#1f2937", quiet="#6b7280", grid="#d8dce3", background="#ffffff")
DARK = _config(text="#e5e7eb", quiet="#9ca3af", grid="#3b4252", background="#161b22")


def layer_rows(title: str | None = "Layer") -> alt.Y:
    """Layers as rows, the last on top: every chart shows the stream flow up. Without a title it has no labels, either:
    it stands beside one that has them."""
    axis = alt.Axis(labelOverlap=True, ticks=False, domain=False) if title else None
    return alt.Y("layer:O", title=title, sort="descending", axis=axis)


def head_columns() -> alt.X:
    """Heads as columns."""
    return alt.X("head:O", title="Head", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False, domain=False))


def labels(texts: Iterable[str]) -> str:
    """Return the expression that labels the values 0, 1, ... with texts. What is drawn is told apart by its number, for
    two texts can be equal, and one can be a word that a chart uses itself."""
    return f"({json.dumps(list(texts))})[datum.value]"


def named(names: Mapping[str, str], choice: str, before: str = "") -> alt.TitleParams:
    """A title that names what is chosen, so that a picture without its menu says what it shows."""
    return alt.TitleParams(text=alt.expr(f"{json.dumps(before)} + ({json.dumps(names)})[{choice}]"))


class Rows(alt.InlineData):
    """Records as they are. Altair copies and checks a chart's data at every step; these need neither."""

    _class_is_valid_at_instantiation = False

    def to_dict(self, *_: object, **__: object) -> dict[str, Any]:
        return {"values": self.values}

    def __deepcopy__(self, memo: object = None) -> Rows:
        return self


def values(rows: Iterable[Mapping[Any, Any]]) -> Rows:
    """Return records as a chart's data: no limit on rows, no types guessed; NaN and infinities as null.

    Control characters are made visible: a picture cannot hold them.
    """

    def seen(value: Any) -> Any:
        if isinstance(value, str):
            return visible(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return Rows(values=[{name: seen(value) for name, value in row.items()} for row in rows])
