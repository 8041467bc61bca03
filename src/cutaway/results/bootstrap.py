"""Compute bootstrap intervals over documents.

Tokens of one document are not independent, so whole documents are drawn.

    means, low, high = means_over_documents(sums, counts, resamples=1000, seed=0)

    weights = draw_weights(documents, resamples=1000, seed=0)       [resample, document]
    low, high = interval(weights @ sums / (weights @ counts))

Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 6.2 and 13.3 (percentile intervals).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = (0.025, 0.975)
FEW_DOCUMENTS = 30  # with fewer than this, intervals and errors over documents are rough


def means_over_documents(sums: Tensor, counts: Tensor, resamples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return means over the tokens of all documents, and the ends of their 95% bootstrap intervals, each [*].

    `sums` are each document's, [document, *], over as many tokens as `counts` says, which broadcasts to `sums`.
    """
    weights = draw_weights(len(sums), resamples, seed)
    drawn, tokens = (torch.einsum("rd,d...->r...", weights, values) for values in (sums, counts))
    low, high = interval(drawn / tokens)
    return sums.sum(0) / counts.sum(0), low, high


def draw_weights(documents: int, resamples: int, seed: int) -> Tensor:
    """Return how often each resample draws each document: [resample, document], float64.

    A resample draws as many documents as there are, with replacement. The weights of a single document are NaN, and so
    are its intervals: one document cannot tell how documents differ.
    """
    if documents == 1:
        return torch.full((resamples, 1), torch.nan, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(documents, (resamples, documents), generator=generator)
    weights = torch.zeros(resamples, documents, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(weights))


def remark(documents: int) -> str:
    """Return a warning about intervals over few documents, to end a line with; empty where there are enough."""
    if documents == 1:
        return "; one document has no interval"
    return f"; under {FEW_DOCUMENTS} documents the intervals are rough" if documents < FEW_DOCUMENTS else ""


def interval(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of the 95% percentile interval of resamples [resample, *], [*] each; NaN where any is NaN."""

    low, high = drawn.quantile(drawn.new_tensor(LEVELS), 0)
    return low, high
