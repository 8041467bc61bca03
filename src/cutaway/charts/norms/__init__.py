"""TODO."""

from __future__ import annotations

from cutaway.charts.norms.regression import regress
from cutaway.charts.norms.series import measure

__all__ = ["measure", "regress"]
