"""Draw what the final bias knows of unigram statistics, and what changing it does."""

from __future__ import annotations

from cutaway.charts.unigram.claim import claim
from cutaway.charts.unigram.edit import edit, edit_effects
from cutaway.charts.unigram.readout import compare, read

__all__ = ["claim", "compare", "edit", "edit_effects", "read"]
