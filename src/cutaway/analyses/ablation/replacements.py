"""What stands in for an ablated value: nothing, a mean, or what another text has there.

    values = replacement.of(batch)         once a batch
    values("blocks.3.attn.z")              that site's stand-in, broadcasts to [batch, pos, ...]

Position 0 of a window is unlike all others, so the two never stand in for each other: a mean is that of position 0
there and that of all later tokens elsewhere, and another text lends its own position 0.

Wang et al. 2022, Interpretability in the Wild, section 2.2 (mean ablation). Chan et al. 2022, Causal Scrubbing (values
of another input in place of a constant: resampling ablation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.stats import Moments
from cutaway.stats.base import Keys, State
from cutaway.stats.sample import hashes
from cutaway.surveys.sinks import Seen
from cutaway.text.batches import Batch, Row
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model

POOL = 512  # windows that stand-ins are drawn from

Values: TypeAlias = Callable[[str], Tensor]  # a site's name -> its stand-in


class Replacement(Protocol):
    passes: int  # runs of the model that each batch costs

    def of(self, batch: Batch) -> Values: ...


class Zeros:
    passes = 0

    def __init__(self, model: Model) -> None:
        self._zero = torch.zeros((), dtype=model.dtype, device=model.device)

    def of(self, batch: Batch) -> Values:
        del batch
        return self._zeros

    def _zeros(self, site: str) -> Tensor:
        del site
        return self._zero


class Means:
    """Each site's mean at position 0, and over all later tokens."""

    passes = 0

    def __init__(self, model: Model, means: Iterable[MeanAt]) -> None:
        self._means = {mean.site: mean.result().to(model.device, model.dtype) for mean in means}

    def of(self, batch: Batch) -> Values:
        later = (torch.arange(batch.tokens.ids.shape[1]) > 0).long()  # P
        return lambda site: self._means[site][later.to(self._means[site].device)]  # P ...


class MeanAt:
    """A sink: means at one site, at position 0 of every window and over the tokens after it."""

    def __init__(self, site: str) -> None:
        self.site = site
        self._first, self._later = Moments(), Moments()

    @property
    def sites(self) -> Sequence[str]:
        return (self.site,)

    def take(self, values: Tensor, seen: Seen) -> None:
        self._first.add(values[:, 0], seen.mask[:, 0])
        self._later.add(values, seen.later)

    def add(self, seen: Seen) -> None:
        if seen.run is not None:
            self.take(seen.run[self.site], seen)

    def result(self) -> Tensor:
        """[2, ...], float64: at position 0, and later. Without a later token the two are one."""
        first = self._first.result().mean
        later = self._later.result().mean if self._later.state() else first
        return torch.stack([first, later])

    def merge(self, other: MeanAt) -> None:
        if self.site != other.site:
            raise InputError(f"{self} cannot take in {other}: the site must be the same")
        self._first.merge(other._first)
        self._later.merge(other._later)

    def empty(self) -> MeanAt:
        return MeanAt(self.site)

    def state(self) -> State:
        parts = {"first": self._first, "later": self._later}
        return {f"{name}/{key}": array for name, part in parts.items() for key, array in part.state().items()}

    def load_state(self, state: State) -> None:
        for name, part in {"first": self._first, "later": self._later}.items():
            part.load_state({k.removeprefix(f"{name}/"): a for k, a in state.items() if k.startswith(f"{name}/")})

    def __repr__(self) -> str:
        return f"MeanAt({self.site!r})"


@dataclass(frozen=True)
class Donor:
    """A window that lends its values, and at which of its positions each is taken."""

    ids: list[int]
    positions: list[int]


class Pool:
    """Windows of a corpus that lend their values to those of another, or of the same.

    Which one lends to which follows from the seed and from where the two stand in their documents, not from batches.
    Only the POOL windows with the smallest hashes are kept.
    """

    def __init__(self, rows: Iterator[Row], seed: int) -> None:
        self._seed = seed
        kept: dict[tuple[int, str, int], Row] = {}
        for row in rows:
            if len(row.ids) > 1:
                kept[self._hash(row), row.document, row.offset] = row
            if len(kept) >= 2 * POOL:
                kept = dict(sorted(kept.items())[:POOL])
        self._rows = [row for _, row in sorted(kept.items())[:POOL]]

    def _hash(self, row: Row) -> int:
        return int(hashes(Keys(np.array([row.document]), np.array([row.offset])), self._seed)[0])

    def donor(self, row: Row) -> Donor:
        """The window that lends to this one: of another document where there is one, and as long where there is one.

        Position p gets what is at position p; behind the donor's end its tokens begin anew, the first one apart.
        Raises InputError where there is no other window.
        """
        others = [other for other in self._rows if not _same_beginning(row, other)]
        others = [other for other in others if other.document != row.document] or others
        if not others:
            raise InputError(
                "resample takes values from other texts, and there is no other: give several documents, or a corpus as "
                "reference="
            )
        enough = min(len(row.ids), max(len(other.ids) for other in others))
        long = [other for other in others if len(other.ids) >= enough]
        ids = long[self._hash(row) % len(long)].ids.tolist()[: len(row.ids)]
        positions = [0, *(1 + i % (len(ids) - 1) for i in range(len(row.ids) - 1))]
        return Donor(ids, positions)


def _same_beginning(row: Row, other: Row) -> bool:
    n = min(len(row.ids), len(other.ids))
    return np.array_equal(row.ids[:n], other.ids[:n])


class Resampled:
    """What the donors of a batch's windows have at each site."""

    passes = 1

    def __init__(self, model: Model, sites: Sequence[str], pool: Pool) -> None:
        self._model, self._sites, self._pool = model, sites, pool

    def of(self, batch: Batch) -> Values:
        donors = [self._pool.donor(row) for row in batch.rows]
        run = self._model.run(Tokens.from_lists([d.ids for d in donors]), capture=self._sites, logits=None)
        width = batch.tokens.ids.shape[1]
        padded = [d.positions + [0] * (width - len(d.positions)) for d in donors]
        positions = torch.tensor(padded, device=self._model.device)  # B P
        rows = torch.arange(len(donors), device=self._model.device)[:, None]
        return lambda site: run[site][rows, positions]
