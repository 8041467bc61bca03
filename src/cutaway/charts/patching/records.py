"""Return what every patching chart draws from: records of cells, their colour, tooltip and titles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from cutaway.charts.marks import SITE_NAMES, diverging_scale, rounded

if TYPE_CHECKING:
    from cutaway.analyses.patching.cells import Cell
    from cutaway.analyses.patching.result import Cells

FILL = "d9"  # numbers must read on it


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


def reach_of(result: Cells, found: Iterable[float]) -> float:
    """Return how far the colours reach to either side of an unpatched run."""
    scale = result.clean_value - result.corrupted_value
    normalized = [(value - result.corrupted_value) / scale for value in found if not math.isnan(value)]
    return max((abs(value - result.base) for value in normalized), default=1.0) or 1.0


def colour_of(result: Cells, half: float) -> alt.Color:
    """Return a colour: blue towards less, orange towards more, transparent where a patch changes nothing."""
    scale = diverging_scale(half, result.base, FILL)
    legend = alt.Legend(
        orient="bottom", gradientLength=200, gradientThickness=10, format=".2~f", tickCount=4, titleLimit=400
    )
    return alt.Color("normalized:Q", title="0: as corrupted, 1: as clean", scale=scale, legend=legend)


def tooltip_of(result: Cells, *fields: tuple[str, str]) -> list[alt.Tooltip]:
    return [
        *(alt.Tooltip(f"{field}:N", title=title) for field, title in fields),
        alt.Tooltip("normalized:Q", title="0 corrupted, 1 clean", format=".4f"),
        alt.Tooltip("value:Q", title=result.unit, format=".4f"),
    ]


def title_of(kind: str) -> str:
    return SITE_NAMES.get(kind, kind)
