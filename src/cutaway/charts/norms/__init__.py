"""Draw norms by layer, and the regression of each layer's norms on those of the layers before."""

from __future__ import annotations

from cutaway.charts.norms.regression import regress
from cutaway.charts.norms.series import measure

__all__ = ["measure", "regress"]
