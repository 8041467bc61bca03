"""Intervals that resample documents: the tokens of one are not independent, so whole documents are drawn.

Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 6.2 and 13.3 (percentile intervals).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = (0.025, 0.975)


def draw_weights(documents: int, resamples: int, seed: int) -> Tensor:
    """How often each document is drawn, of as many draws as there are documents: [resample, document], float64.

    NaN for a single document, which says nothing of how documents differ: its intervals are NaN, too.
    """
    if documents == 1:
        return torch.full((resamples, 1), torch.nan, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(documents, (resamples, documents), generator=generator)
    weights = torch.zeros(resamples, documents, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(weights))


def remark(documents: int) -> str:
    """What is to be said of intervals over so few documents, if anything."""
    if documents == 1:
        return "; one document has no interval"
    return "; under 30 documents the intervals are rough" if documents < 30 else ""


def interval(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The 95% percentile interval of resamples [resample, *]: two of [*]; NaN where any is NaN."""
    low, high = drawn.quantile(drawn.new_tensor(LEVELS), 0)
    return low, high
