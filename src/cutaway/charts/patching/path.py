"""Draw what each sender tells a receiver directly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import altair as alt

from cutaway.charts.patching.heads import heads
from cutaway.charts.patching.records import rows

if TYPE_CHECKING:
    from cutaway.analyses.patching.result import Path


def path(result: Path) -> alt.TopLevelMixin:
    """Draw senders as layers x heads, with the MLPs as one more column."""
    found = result.values.tolist()
    scale = result.clean_value - result.corrupted_value
    effects = [abs((value - result.corrupted_value) / scale - result.base) for value in found if not math.isnan(value)]
    half = max(effects, default=1.0) or 1.0
    records = [r | {"half": half} for r in rows(result, result.cells, found)]
    kinds = list(dict.fromkeys(r["kind"] for r in records))
    chart: alt.TopLevelMixin = heads(result, records, kinds).properties(title=f"Directly to {result.receiver}")
    return chart
