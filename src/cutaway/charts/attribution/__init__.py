"""Draw which components, or which tokens, a logit comes from."""

from __future__ import annotations

from cutaway.charts.attribution.components import direct
from cutaway.charts.attribution.tokens import gradient, integrated

__all__ = ["direct", "gradient", "integrated"]
