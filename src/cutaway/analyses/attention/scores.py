"""Score what kind of head an attention head is, from one pattern or over the documents of a survey.

The docstring of cutaway.attention defines the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.surveys.sinks import PerDocument, Seen

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.text.batches import Batch

SITE = "attn.pattern"
SCORES = ("previous", "first", "duplicate", "induction", "entropy", "distance")
PERIOD = 50  # random tokens before they are repeated
BLOCK = 64  # queries whose entropy is computed at once


@dataclass(frozen=True, slots=True)
class Repeats:
    """The pairs (query, key) of equal tokens in one row, key before query."""

    query: Tensor  # m
    key: Tensor  # m
    queries: int  # that are in at least one pair

    @classmethod
    def find(cls, ids: Tensor) -> Repeats:
        """Return the pairs of equal tokens in ids [pos]."""
        query, key = (ids[:, None] == ids[None, :]).tril(-1).nonzero().unbind(1)
        return cls(query, key, int((query.diff() > 0).sum()) + bool(len(query)))


def score_sums(pattern: Tensor, ids: Tensor, repeats: Repeats | None = None) -> tuple[Tensor, Tensor]:
    """Return sums of the scores over queries, [head, score], and the queries counted, [score]; float64.

    `pattern` is [head, query, key], `ids` [pos]. Sums over keys are in the pattern's own precision (float32 for half
    precision), sums over queries in double.
    """
    A, P = pattern.float() if pattern.dtype in (torch.float16, torch.bfloat16) else pattern, len(ids)
    repeats = repeats or Repeats.find(ids)
    query, key = repeats.query.to(A.device), repeats.key.to(A.device)
    position = torch.arange(P).to(A)
    looked = (A @ torch.stack([torch.ones_like(position), position], 1)).double()  # head query (attention, position)
    columns = [
        A.diagonal(-1, 1, 2).double().sum(1),
        A[:, 1:, 0].double().sum(1),
        A[:, query, key].double().sum(1),
        A[:, query, key + 1].double().sum(1),
        _entropy(A),
        (looked[..., 0] * position - looked[..., 1]).sum(1),
    ]
    counts = [P - 1, P - 1, repeats.queries, repeats.queries, P - 1, P - 1]
    return torch.stack(columns, -1).cpu(), torch.tensor(counts, dtype=torch.float64)


def _entropy(A: Tensor) -> Tensor:
    """Return each head's entropy summed over queries: [head, query, key] -> [head].

    It takes a block of queries at a time, with the keys that they can see, so that each block stays in the processor's
    cache.
    """
    total = A.new_zeros(len(A), dtype=torch.float64)
    for start in range(0, A.shape[1], BLOCK):
        end = start + BLOCK
        block = A[:, start:end, :end]
        total -= block.clamp(min=torch.finfo(A.dtype).tiny).log_().mul_(block).sum(2).double().sum(1)
    return total


def random_repeated(model: Model, rows: int, seed: int = 0, bos: bool = False) -> Tensor:
    """Return rows of different random tokens, twice over: ids [rows, 2 x period], one more in front with `bos`.

    The rows are empty where the context or the vocabulary is too small for two tokens.
    """
    tokenizer = model.tokenizer if model.has_tokenizer else None
    size = min(model.config.d_vocab, len(tokenizer)) if tokenizer else model.config.d_vocab
    special = {*model.ends, *(tokenizer.boundary_ids if tokenizer else ())}
    plain = torch.tensor([i for i in range(size) if i not in special], dtype=torch.long)
    front = torch.tensor(tokenizer.bos() if bos and tokenizer else [], dtype=torch.long)
    period = min(PERIOD, (model.config.n_ctx - len(front)) // 2, len(plain))
    generator = torch.Generator().manual_seed(seed)
    drawn = [plain[torch.randperm(len(plain), generator=generator)[:period]] for _ in range(rows)]
    return torch.stack([torch.cat([front, one, one]) for one in drawn]) if period > 1 else torch.empty(rows, 0)


def scores_of_rows(model: Model, ids: Tensor) -> Tensor:
    """Return every head's scores on ids [row, pos]: [layer, head, score], float64; NaN for empty rows."""
    layers, heads = model.config.n_layers, model.config.n_heads
    if not ids.numel():
        return torch.full((layers, heads, len(SCORES)), torch.nan, dtype=torch.float64)
    total, count = torch.zeros(layers, heads, len(SCORES), dtype=torch.float64), torch.zeros(len(SCORES))

    def watch(value: Tensor, context: Any) -> None:
        for pattern, row in zip(value, ids, strict=True):
            sums, queries = score_sums(pattern, row)
            total[context.layer] += sums
            if context.layer == 0:
                count.add_(queries)

    model.run(ids, watch={SITE: watch}, logits=None)
    return total / count


class SharedRepeats:
    """The repeats in the rows of the newest batch: found once, for the sinks of all layers."""

    def __init__(self) -> None:
        self._newest: tuple[Batch, list[Repeats]] | None = None

    def __call__(self, batch: Batch) -> list[Repeats]:
        """Return the repeats of each row of a batch."""
        if self._newest is None or self._newest[0] is not batch:
            rows = zip(batch.tokens.ids, batch.rows, strict=True)
            self._newest = batch, [Repeats.find(ids[: len(row.ids)]) for ids, row in rows]
        return self._newest[1]

    def __reduce__(self) -> tuple[type[SharedRepeats], tuple[()]]:
        return SharedRepeats, ()  # another process finds those of its own batches


class HeadScores(PerDocument):
    """A sink: sums of the scores of one layer's heads, document by document: [1 + heads, score], the queries first."""

    def __init__(self, site: str, repeats: SharedRepeats | None = None) -> None:
        super().__init__()
        self.site, self._repeats = site, repeats or SharedRepeats()

    @property
    def sites(self) -> Sequence[str]:
        """Return the one site."""
        return (self.site,)

    def settings(self) -> dict[str, Any]:
        """Return the site."""
        return {"site": self.site}

    def parts(self, seen: Seen) -> Iterator[tuple[int, Tensor]]:
        """Yield what one batch's patterns add, from its run."""
        return iter(()) if seen.run is None else self._parts(seen.run[self.site], seen)

    def take(self, values: Tensor, seen: Seen) -> None:
        """Add one batch's patterns [batch, head, query, key] as they arise."""
        self.put(seen.batch, self._parts(values, seen))

    def _parts(self, values: Tensor, seen: Seen) -> Iterator[tuple[int, Tensor]]:
        """Yield what patterns add to each document."""
        for i, (row, repeats) in enumerate(zip(seen.batch.rows, self._repeats(seen.batch), strict=True)):
            n = len(row.ids)
            sums, counts = score_sums(values[i, :, :n, :n], seen.batch.tokens.ids[i, :n], repeats)
            yield row.number, torch.cat([counts[None], sums])

    def totals(self) -> tuple[Tensor, Tensor]:
        """Return sums [document, head, score] and queries [document, score], documents by their numbers."""
        sums = self.sums()
        return sums[:, 1:], sums[:, 0]

    def empty(self) -> HeadScores:
        """Return a sink of the same site that has seen nothing."""
        return HeadScores(self.site, self._repeats)
