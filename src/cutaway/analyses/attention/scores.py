"""Scores that say what kind of head an attention head is, of one pattern or streamed over documents.

analyses/attention.py says what each is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.surveys.sinks import Seen

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.stats.base import State
    from cutaway.text.batches import Batch

SITE = "attn.pattern"
SCORES = ("previous", "first", "duplicate", "induction", "entropy", "distance")
PERIOD = 50  # random tokens before they are repeated
BLOCK = 64  # queries whose entropy is taken at once


@dataclass(frozen=True, slots=True)
class Repeats:
    """Where a row's tokens came before: the pairs (query, key) of the same token, key before query."""

    query: Tensor  # m
    key: Tensor  # m
    queries: int  # that have such a key

    @classmethod
    def of(cls, ids: Tensor) -> Repeats:
        query, key = (ids[:, None] == ids[None, :]).tril(-1).nonzero().unbind(1)
        return cls(query, key, int((query.diff() > 0).sum()) + bool(len(query)))


def sums(pattern: Tensor, ids: Tensor, repeats: Repeats | None = None) -> tuple[Tensor, Tensor]:
    """One row's pattern [head, query, key] and ids [pos] -> sums [head, score] and queries counted [score], float64.

    Over keys in the pattern's own precision, over queries in double.
    """
    A, P = pattern.float() if pattern.dtype in (torch.float16, torch.bfloat16) else pattern, len(ids)
    found = repeats or Repeats.of(ids)
    query, key = found.query.to(A.device), found.key.to(A.device)
    position = torch.arange(P).to(A)
    looked = (A @ torch.stack([torch.ones_like(position), position], 1)).double()  # head query (attention, place)
    columns = [
        A.diagonal(-1, 1, 2).double().sum(1),
        A[:, 1:, 0].double().sum(1),
        A[:, query, key].double().sum(1),
        A[:, query, key + 1].double().sum(1),
        _entropy(A),
        (looked[..., 0] * position - looked[..., 1]).sum(1),
    ]
    counts = [P - 1, P - 1, found.queries, found.queries, P - 1, P - 1]
    return torch.stack(columns, -1).cpu(), torch.tensor(counts, dtype=torch.float64)


def _entropy(A: Tensor) -> Tensor:
    """Sums over queries: [head, query, key] -> [head]. A block of queries at a time, with the keys that they may see:
    it stays in the processor's cache."""
    total = A.new_zeros(len(A), dtype=torch.float64)
    for start in range(0, A.shape[1], BLOCK):
        end = start + BLOCK
        block = A[:, start:end, :end]
        total -= block.clamp(min=torch.finfo(A.dtype).tiny).log_().mul_(block).sum(2).double().sum(1)
    return total


def repeated(model: Model, rows: int, seed: int = 0, bos: bool = False) -> Tensor:
    """Different random tokens, twice over: ids [rows, 2 x period], one more in front with `bos`."""
    tokenizer = model.tokenizer if model.has_tokenizer else None
    size = min(model.config.d_vocab, len(tokenizer)) if tokenizer else model.config.d_vocab
    special = {*model.ends, *(tokenizer.boundary_ids if tokenizer else ())}
    plain = torch.tensor([i for i in range(size) if i not in special], dtype=torch.long)
    front = torch.tensor(tokenizer.bos() if bos and tokenizer else [], dtype=torch.long)
    period = min(PERIOD, (model.config.n_ctx - len(front)) // 2, len(plain))
    generator = torch.Generator().manual_seed(seed)
    drawn = [plain[torch.randperm(len(plain), generator=generator)[:period]] for _ in range(rows)]
    return torch.stack([torch.cat([front, one, one]) for one in drawn]) if period > 1 else torch.empty(rows, 0)


def on_random(model: Model, ids: Tensor) -> Tensor:
    """Scores on rows of ids: [layer, head, score]; NaN where there are none."""
    layers, heads = model.config.n_layers, model.config.n_heads
    if not ids.numel():
        return torch.full((layers, heads, len(SCORES)), torch.nan, dtype=torch.float64)
    total, count = torch.zeros(layers, heads, len(SCORES), dtype=torch.float64), torch.zeros(len(SCORES))

    def watch(value: Tensor, context: Any) -> None:
        for pattern, row in zip(value, ids, strict=True):
            found, queries = sums(pattern, row)
            total[context.layer] += found
            if context.layer == 0:
                count.add_(queries)

    model.run(ids, watch={SITE: watch}, logits=None)
    return total / count


class RepeatsOf:
    """The repetitions in a batch's rows: found once, for all the layers that look at them."""

    def __init__(self) -> None:
        self._found: tuple[Batch, list[Repeats]] | None = None

    def __call__(self, batch: Batch) -> list[Repeats]:
        if self._found is None or self._found[0] is not batch:
            rows = zip(batch.tokens.ids, batch.rows, strict=True)
            self._found = batch, [Repeats.of(ids[: len(row.ids)]) for ids, row in rows]
        return self._found[1]


class HeadScores:
    """A sink: sums of the scores at one layer's patterns, document by document."""

    def __init__(self, site: str, repeats_of: RepeatsOf | None = None) -> None:
        self.site, self._repeats_of = site, repeats_of or RepeatsOf()
        self._sums: dict[int, Tensor] = {}  # number of the document: [1 + heads, score], the queries first

    @property
    def sites(self) -> Sequence[str]:
        return (self.site,)

    def add(self, seen: Seen) -> None:
        if seen.run is not None:
            self.take(seen.run[self.site], seen)

    def take(self, values: Tensor, seen: Seen) -> None:
        for i, (row, repeats) in enumerate(zip(seen.batch.rows, self._repeats_of(seen.batch), strict=True)):
            n = len(row.ids)
            found, counts = sums(values[i, :, :n, :n], seen.batch.tokens.ids[i, :n], repeats)
            self._put(row.number, torch.cat([counts[None], found]))

    def _put(self, number: int, found: Tensor) -> None:
        self._sums[number] = self._sums[number] + found if number in self._sums else found

    def totals(self) -> tuple[Tensor, Tensor]:
        """Sums [document, head, score] and queries [document, score], documents in their order."""
        found = torch.stack([self._sums[number] for number in sorted(self._sums)])
        return found[:, 1:], found[:, 0]

    def merge(self, other: HeadScores) -> None:
        if other.site != self.site:
            raise InputError(f"{self} cannot take in {other}: the site must be the same")
        for number, found in other._sums.items():
            self._put(number, found)

    def empty(self) -> HeadScores:
        return HeadScores(self.site, self._repeats_of)

    def state(self) -> State:
        numbers = sorted(self._sums)
        kept = [self._sums[number].numpy() for number in numbers]
        return {"documents": np.array(numbers, dtype=np.int64), "sums": np.array(kept, dtype=np.float64)}

    def load_state(self, state: State) -> None:
        pairs = zip(state["documents"], state["sums"], strict=True)
        self._sums = {int(number): torch.tensor(found) for number, found in pairs}

    def __repr__(self) -> str:
        return f"HeadScores({self.site!r})"
