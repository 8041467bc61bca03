"""Hold keys and values of earlier positions, for attention to read.

A pass over part of a text computes queries, keys and values of that part only. A `Past` puts the keys and values of
the positions before it in front, and says which of them each query may see.

    KeyValueCache       a batch that is read on and on: generation
    Prefix              the positions before a branch, from the run that it leaves: Trunk
    Queried             some positions' queries only, all keys and values: the last block, when few logits are wanted
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cutaway.model.architectures.sizes import Sizes


class Past(Protocol):
    """Keys and values of earlier positions, for attention to read."""

    def join(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return what block i's attention computes with, from the new queries, keys and values, each B P H K.

        Returns the queries; the keys and values of all T positions; and which keys each query may see, P T or
        B 1 P T (P may be 1), or None for its own position and all before it.
        """


class KeyValueCache:
    """Keys and values of what a batch has read, so that the next position can be computed without the others.

    The first pass reads the right-padded prompts, each later one a single position of every row; call `advance`
    after each.
    """

    def __init__(self, config: Sizes, batch: int, width: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (batch, width, config.n_heads, config.d_head)
        self._kept = [torch.zeros(2, *shape, device=device, dtype=dtype) for _ in range(config.n_layers)]
        self.lengths: Tensor | None = None  # B; None before the first pass

    def join(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Keep block i's new keys and values, and return them with all that were kept before."""
        kept = self._kept[i]
        if self.lengths is None:
            kept[0, :, : k.shape[1]], kept[1, :, : v.shape[1]] = k, v
            return q, k, v, None
        rows, T = torch.arange(len(k), device=k.device), int(self.lengths.max()) + 1
        kept[0, rows, self.lengths], kept[1, rows, self.lengths] = k[:, 0], v[:, 0]
        visible = torch.arange(T, device=k.device) <= self.lengths[:, None]  # B T
        return q, kept[0, :, :T], kept[1, :, :T], visible[:, None, None]

    def advance(self, prompt_lengths: Tensor) -> None:
        """Count the positions that a pass has read: the prompts', or one more of every row."""
        self.lengths = prompt_lengths.clone() if self.lengths is None else self.lengths + 1


class Prefix:
    """Keys and values of the positions before `start`, taken from a finished run's rows."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], rows: Tensor, start: int) -> None:
        self._keys, self._values, self._rows, self._start = keys, values, rows, start

    def join(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Put block i's keys and values of the positions before `start` in front of those from `start` on."""
        before = (self._keys[i][self._rows, : self._start], self._values[i][self._rows, : self._start])
        k, v = (torch.cat([kept, new], 1) for kept, new in zip(before, (k, v), strict=True))
        seen = torch.ones(k.shape[1] - self._start, k.shape[1], dtype=torch.bool, device=k.device)
        return q, k, v, seen.tril(self._start)


class Queried:
    """All keys and values, but queries at the positions `last` only: [B] for one in each row, [B, A] for A."""

    def __init__(self, last: Tensor, past: Past | None = None) -> None:
        self._last, self._past = last, past

    def join(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the queries at `last`, all keys and values, and which of them each query may see, B 1 A T."""
        visible = None
        if self._past is not None:
            q, k, v, visible = self._past.join(i, q, k, v)
        last = self._last.view(len(q), -1)  # B A
        seen = torch.arange(k.shape[1], device=last.device) <= last[..., None] if visible is None else visible[last]
        return take(q, self._last), k, v, seen[:, None]


def take(x: Tensor, last: Tensor) -> Tensor:
    """Return x [B, P, ...] at the positions `last` of each row: [B, 1, ...] for [B], [B, A, ...] for [B, A]."""
    return x[torch.arange(len(x), device=x.device)[:, None], last.view(len(x), -1)]
