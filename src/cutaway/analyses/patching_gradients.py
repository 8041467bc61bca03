"""Attribution patching's estimates, and how far they agree with the exact numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.patching_pair import Measure, Pair
from cutaway.errors import InputError
from cutaway.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.analyses.patching_cells import Cell
    from cutaway.model.model import Model


def estimate(model: Model, pair: Pair, row: int, cells: Sequence[Cell]) -> tuple[Measure, Tensor]:
    """The metric's estimate with each cell patched into the run of one row of the pair: float64 [cells], on the CPU.

    Two forward passes and one backward. Nanda 2023, Attribution Patching.
    """
    names = list({cell.site.name: None for cell in cells})
    other = model.run(_one(pair.tokens, 1 - row), capture=names, logits="last")
    own = model.run(_one(pair.tokens, row), capture=names, logits="last", grad=True)
    last = own.logits[:, 0]
    ends = [other.logits[:, 0], last.detach()] if row else [last.detach(), other.logits[:, 0]]
    measure = pair.measure(torch.cat(ends))
    value = measure(last)
    slopes: Sequence[Tensor | None] = [None] * len(names)
    if last.requires_grad:  # an edit may have cut the logits off
        if not value.requires_grad:
            raise InputError("the metric has no gradient: a function of torch's own operations was expected")
        slopes = torch.autograd.grad(value.sum(), [own[name] for name in names], allow_unused=True)
    by_site = {}
    for name, slope in zip(names, slopes, strict=True):
        here, there = own[name].detach()[0], other[name][0]
        product = torch.zeros_like(here) if slope is None else slope[0] * (there - here)
        product = product.masked_fill(there == here, 0.0).double()  # masked scores are -inf in both
        by_site[name] = product
    sums: dict[tuple[str, bool], Tensor] = {}
    found = []
    for cell in cells:
        key = (cell.site.name, cell.index is None)
        if key not in sums:  # what is summed whole is summed once
            whole = by_site[cell.site.name]
            axis = whole.dim() - 1 if cell.by_head or cell.index is None else None
            sums[key] = (whole if axis is None else whole.sum(axis)).cpu()
        found.append(sums[key][cell.at(sums[key])].sum())
    return measure, value.detach().cpu() + torch.stack(found)


def agreement(estimates: Tensor, exact: Tensor) -> tuple[float, float]:
    """Pearson's and Spearman's correlation; NaN where there are fewer than two different numbers."""
    from scipy import stats

    a, b = estimates.numpy(), exact.numpy()
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return math.nan, math.nan
    return float(stats.pearsonr(a, b).statistic), float(stats.spearmanr(a, b).statistic)


def _one(tokens: Tokens, row: int) -> Tokens:
    return Tokens(tokens.ids[row : row + 1], tokens.mask[row : row + 1], tokens.tokenizer)
