"""Sum over pairs of documents, so that intervals can resample documents."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_GROUPS = 250  # with more documents than this, several are resampled together


class Blocks:
    """Sums over the pairs of documents, from which a resample of documents is a few small products.

    A document that is drawn w times counts w times against every other, and w times within itself: it is not paired
    with its own copies, since no other document would be so similar.
    """

    def __init__(self, first: NDArray[np.int64], second: NDArray[np.int64], groups: int) -> None:
        self.groups = groups
        self.flat = torch.from_numpy(first[:, None] * groups + second[None, :]).flatten()
        self.pairs = self.sums(torch.ones(len(self.flat)))

    def sums(self, values: Tensor) -> Tensor:
        """Sum values of all pairs, n m or flat, by pair of groups: [groups, groups], float64."""
        flat = values.flatten().double().cpu()
        total = torch.bincount(self.flat, flat, minlength=self.groups**2)
        return total.view(self.groups, self.groups)

    def below(self, pairs: Tensor, knots: Tensor) -> Tensor:
        """Count the pairs that have a cosine up to each knot: [groups, groups, knots]."""
        bins = torch.bucketize(pairs.flatten().cpu().double(), knots)
        flat = self.flat * (len(knots) + 1) + bins
        counts = torch.bincount(flat, minlength=self.groups**2 * (len(knots) + 1)).double()
        return counts.view(self.groups, self.groups, -1)[..., :-1].cumsum(-1)

    def total(self, sums: Tensor, weights: Tensor) -> Tensor:
        """Return sums [groups, groups, *] over all pairs, under weights [resample, groups]: [resample, *]."""
        wide = sums.reshape(self.groups, self.groups, -1)  # a b k
        own = wide.diagonal(dim1=0, dim2=1).T  # a k
        parts = []
        for start in range(0, len(weights), 128):
            w = weights[start : start + 128]
            crossed = torch.einsum("ra,rak->rk", w, torch.einsum("rb,abk->rak", w, wide))
            parts.append(crossed + (w - w.square()) @ own)
        return torch.cat(parts).view(len(weights), *sums.shape[2:])


def grouped(documents: NDArray[np.str_]) -> tuple[NDArray[np.int64], int, int]:
    """Return the group of each state's document, the number of groups, and the number of documents.

    Each document is a group of its own; more than MOST_GROUPS documents share MOST_GROUPS groups.
    """
    names, codes = np.unique(documents, return_inverse=True)
    return codes % MOST_GROUPS, min(len(names), MOST_GROUPS), len(names)
