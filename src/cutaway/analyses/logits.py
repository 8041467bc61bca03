"""Reduce logits [V, n] over the vocabulary, one column a position: `run.logits[i].T`, with no copy."""

from __future__ import annotations

import torch
from torch import Tensor

ELEMENTS = 2**23  # logits that a reduction works on at once: 32 MB in float32
BLOCK = 64  # tokens that compete together in `top`


def chunk_size(d_vocab: int) -> int:
    """Return the number of positions to reduce at once."""
    return max(16, ELEMENTS // d_vocab // 16 * 16)


def at_once(numbers: int) -> int:
    """Return how many rows of `numbers` numbers each to work on at once."""
    return max(1, ELEMENTS // numbers)


def widen(logits: Tensor) -> Tensor:
    """Return logits in float32 at least: half precision is too coarse to sum over a vocabulary."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each column and their token ids, largest first: [V, n] -> [k, n] twice.

    It is exact: the k largest lie in the k blocks with the largest maxima, so only those blocks are searched.
    """
    V, n = logits.shape
    blocks = V // BLOCK
    if blocks <= 2 * k:
        best = logits.topk(k, 0)
        return best.values, best.indices
    whole = logits[: blocks * BLOCK].view(blocks, BLOCK, n)  # blocks BLOCK n
    chosen = whole.amax(1).topk(k, 0).indices  # k n
    inside = torch.arange(BLOCK, device=logits.device)[None, :, None]
    candidates = (chosen[:, None] * BLOCK + inside).flatten(0, 1)  # kBLOCK n
    rest = torch.arange(blocks * BLOCK, V, device=logits.device)[:, None].expand(-1, n)
    candidates = torch.cat([candidates, rest])
    best = logits.gather(0, candidates).topk(k, 0)
    return best.values, candidates.gather(0, best.indices)


def ranks(logits: Tensor, scores: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Return 1 + the number of larger logits in each column: [V, n], scores [n] -> int64 [n]."""
    larger = torch.gt(logits, scores, out=torch.empty_like(logits) if scratch is None else scratch)
    # float32 counts exactly to 2^24, far above any vocabulary; summing floats is 20 x faster than summing booleans.
    return 1 + larger.sum(0).long()
