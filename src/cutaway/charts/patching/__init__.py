"""Draw patching: states as positions x layers, heads as layers x heads, neurons as bars, paths as a grid."""

from __future__ import annotations

from cutaway.charts.patching.grid import attribution, run
from cutaway.charts.patching.path import path

__all__ = ["attribution", "path", "run"]
