"""Draw causal traces: one prompt's as a grid of states, an average over prompts by role and layer."""

from __future__ import annotations

from cutaway.charts.causal_trace.average import average
from cutaway.charts.causal_trace.grid import trace

__all__ = ["average", "trace"]
