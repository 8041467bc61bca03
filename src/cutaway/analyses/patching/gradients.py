"""Attribution patching's estimates, and how far they agree with the exact numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.patching.pair import Measure, Pair
from cutaway.errors import InputError
from cutaway.model.modes import gradients
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.analyses.patching.cells import Cell
    from cutaway.model.model import Model


def estimate(model: Model, pair: Pair, row: int, cells: Sequence[Cell]) -> tuple[Measure, Tensor]:
    """The metric's estimate with each cell patched into the run of one row of the pair: float64 [cells], on the CPU."""
    measure, value, by_site = products(model, pair, row, list({cell.site.name: None for cell in cells}))
    sums: dict[tuple[str, bool], Tensor] = {}
    found = []
    for cell in cells:
        key = (cell.site.name, cell.index is None or cell.by_head)
        if key not in sums:  # what is patched whole is summed once
            whole = by_site[cell.site.name]
            sums[key] = (whole.sum(-1) if key[1] else whole).cpu()
        found.append(sums[key][cell.at(sums[key])].sum())
    return measure, value + torch.stack(found)


def top_neurons(model: Model, pair: Pair, row: int, cells: Sequence[Cell], k: int) -> list[tuple[int, int]]:
    """The (layer, neuron) pairs of these sites with the largest estimates, summed over the cells' positions."""
    layers = {cell.site.name: cell.layer for cell in cells}
    positions = sorted({p for cell in cells for p in cell.positions})
    _, _, by_site = products(model, pair, row, list(layers))
    effects = torch.stack([by_site[name][positions].sum(0).abs() for name in layers])  # site M
    best = effects.flatten().topk(min(k, effects.numel())).indices.tolist()
    places = [divmod(i, effects.shape[1]) for i in best]
    return [(list(layers.values())[site], neuron) for site, neuron in places]


def products(model: Model, pair: Pair, row: int, names: Sequence[str]) -> tuple[Measure, Tensor, dict[str, Tensor]]:
    """The metric, its value in the run of a row, and at each site the gradient times the difference of the two runs,
    float64, without the batch's axis. Two forward passes and one backward; Nanda 2023, Attribution Patching."""
    other = model.run(_one(pair.tokens, 1 - row), capture=names, logits="last")
    with gradients(True):
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
        by_site[name] = product.masked_fill(there == here, 0.0).double()  # masked scores are -inf in both
    return measure, value.detach().cpu(), by_site


def agreement(estimates: Tensor, exact: Tensor) -> tuple[float, float]:
    """Pearson's and Spearman's correlation; NaN where there are fewer than two different numbers."""
    from scipy import stats

    done = exact.isfinite()
    a, b = estimates[done].numpy(), exact[done].numpy()
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return math.nan, math.nan
    return float(stats.pearsonr(a, b).statistic), float(stats.spearmanr(a, b).statistic)


def _one(tokens: Tokens, row: int) -> Tokens:
    return Tokens(tokens.ids[row : row + 1], tokens.mask[row : row + 1], tokens.tokenizer)
