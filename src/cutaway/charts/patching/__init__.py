"""TODO."""

from __future__ import annotations

from cutaway.charts.patching.grid import attribution, run
from cutaway.charts.patching.path import path

__all__ = ["attribution", "path", "run"]
