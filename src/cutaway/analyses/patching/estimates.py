"""Estimate the effect of patches by gradients: two forward passes and one backward for any number of cells.

Nanda 2023, Attribution Patching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.modes import gradients
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.analyses.patching.cells import Cell
    from cutaway.analyses.patching.metrics import Measure
    from cutaway.analyses.patching.pair import Pair
    from cutaway.model.model import Model


def estimate(model: Model, pair: Pair, cells: Sequence[Cell]) -> tuple[Measure, Tensor]:
    """Return the measure, and its estimate with each cell patched: float64 [cells], on the CPU."""
    measure, value, by_site = products(model, pair, list({cell.site.name: None for cell in cells}))
    sums: dict[tuple[str, bool], Tensor] = {}
    effects = []
    for cell in cells:
        key = (cell.site.name, cell.index is None or cell.by_head)
        if key not in sums:  # the product is summed over what is patched whole, once for all cells
            whole = by_site[cell.site.name]
            sums[key] = (whole.sum(-1) if key[1] else whole).cpu()
        effects.append(sums[key][cell.at(sums[key])].sum())
    return measure, value + torch.stack(effects)


def top_neurons(model: Model, pair: Pair, cells: Sequence[Cell], k: int) -> list[tuple[int, int]]:
    """Return the k (layer, neuron) pairs of the cells' sites with the largest estimates, summed over positions."""
    layers = {cell.site.name: cell.layer for cell in cells}
    positions = sorted({p for cell in cells for p in cell.positions})
    _, _, by_site = products(model, pair, list(layers))
    effects = torch.stack([by_site[name][positions].sum(0).abs() for name in layers])  # site M
    best = effects.flatten().topk(min(k, effects.numel())).indices.tolist()
    places = [divmod(i, effects.shape[1]) for i in best]
    return [(list(layers.values())[site], neuron) for site, neuron in places]


def products(model: Model, pair: Pair, names: Sequence[str]) -> tuple[Measure, Tensor, dict[str, Tensor]]:
    """Return the measure, its value in the unpatched run [1], and each site's products, [pos, ...], float64.

    A product is the gradient in the unpatched run times the difference of the two runs. Raises InputError for a metric
    that torch cannot differentiate.
    """
    other = model.run(_one(pair.tokens, pair.other), capture=names, logits="last")
    with gradients(True):
        own = model.run(_one(pair.tokens, pair.row), capture=names, logits="last", grad=True)
        last = own.logits[:, 0]
        ends = [other.logits[:, 0], last.detach()] if pair.row else [last.detach(), other.logits[:, 0]]
        measure = pair.measure(torch.cat(ends))
        value = measure(last)
        slopes: Sequence[Tensor | None] = [None] * len(names)
        if last.requires_grad:  # an edit can cut the logits off from the sites
            if not value.requires_grad:
                raise InputError("the metric has no gradient: a function of torch's own operations was expected")
            slopes = torch.autograd.grad(value.sum(), [own[name] for name in names], allow_unused=True)
    by_site = {}
    for name, slope in zip(names, slopes, strict=True):
        ours, theirs = own[name].detach()[0], other[name][0]
        product = torch.zeros_like(ours) if slope is None else slope[0] * (theirs - ours)
        by_site[name] = product.masked_fill(theirs == ours, 0.0).double()  # masked scores are -inf in both runs
    return measure, value.detach().cpu(), by_site


def _one(tokens: Tokens, row: int) -> Tokens:
    """Return one row of a batch."""
    return Tokens(tokens.ids[row : row + 1], tokens.mask[row : row + 1], tokens.tokenizer)
