"""Replace ablated values: by zeros, by means, or by what another text has in their place.

    values = replacement.values(model, batch)     once a batch
    values("blocks.3.attn.z")              that site's replacement, broadcasts to [batch, pos, ...]

Position 0 of a window is unlike all others, so the two are never mixed: position 0 is replaced by the mean over
positions 0, or by another text's position 0, and later tokens by the mean over later tokens, or by later tokens.

Wang et al. 2022, Interpretability in the Wild, section 2.2 (mean ablation). Chan et al. 2022, Causal Scrubbing (values
of another input in place of a constant: resampling ablation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.stats import Moments
from cutaway.stats.base import Keys, State
from cutaway.stats.sample import hashes
from cutaway.surveys.sinks import Seen, check_alike, digest
from cutaway.text.batches import Batch, Row
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model

POOL = 512  # windows that donors are drawn from

SiteValues: TypeAlias = Callable[[str], Tensor]  # a site's name -> its replacement


class Replacement(Protocol):
    """A way to replace ablated values. `passes` is how many runs of the model each batch costs."""

    passes: int

    def settings(self) -> dict[str, Any]:
        """Return what the values follow from, as plain values."""

    def values(self, model: Model, batch: Batch) -> SiteValues:
        """Return the replacements in one batch."""


class Zeros:
    """Zero in place of every value."""

    passes = 0

    def settings(self) -> dict[str, Any]:
        """Return nothing: all zeros are alike."""
        return {}

    def values(self, model: Model, batch: Batch) -> SiteValues:
        """Return zero at every site."""
        del batch
        zero = torch.zeros((), dtype=model.dtype, device=model.device)
        return lambda _: zero


class Means:
    """Each site's mean at position 0 in place of position 0, and its mean over later tokens in place of these."""

    passes = 0

    def __init__(self, means: Iterable[SiteMean]) -> None:
        self._means = {mean.site: mean.result() for mean in means}

    def settings(self) -> dict[str, Any]:
        """Return a hash of each site's means."""
        return {site: digest(mean) for site, mean in self._means.items()}

    def values(self, model: Model, batch: Batch) -> SiteValues:
        """Return the means, [pos, ...] at each site."""
        later = (torch.arange(batch.tokens.ids.shape[1]) > 0).long().to(model.device)  # P
        return lambda site: self._means[site].to(model.device, model.dtype)[later]  # P ...


class SiteMean:
    """A sink: means at one site, at position 0 of every window and over the tokens after it."""

    def __init__(self, site: str) -> None:
        self.site = site
        self._first, self._later = Moments(), Moments()

    @property
    def sites(self) -> Sequence[str]:
        """Return the one site."""
        return (self.site,)

    def settings(self) -> dict[str, Any]:
        """Return the site."""
        return {"site": self.site}

    def take(self, values: Tensor, seen: Seen) -> None:
        """Add one batch's values [batch, pos, ...]."""
        self._first.add(values[:, 0], seen.mask[:, 0])
        self._later.add(values, seen.later)

    def add(self, seen: Seen) -> None:
        """Add one batch's values from its run."""
        if seen.run is not None:
            self.take(seen.run[self.site], seen)

    def result(self) -> Tensor:
        """Return [2, ...], float64: the mean at position 0, and over later tokens.

        Without any later token the second is the first.
        """
        first = self._first.result().mean
        later = self._later.result().mean if self._later.state() else first
        return torch.stack([first, later])

    def merge(self, other: SiteMean) -> None:
        """Add what another sink has seen. Raises InputError for another site's."""
        check_alike(self, other, "the site")
        self._first.merge(other._first)
        self._later.merge(other._later)

    def empty(self) -> SiteMean:
        """Return a sink of the same site that has seen nothing."""
        return SiteMean(self.site)

    def state(self) -> State:
        """Return the sums as arrays."""
        parts = {"first": self._first, "later": self._later}
        return {f"{name}/{key}": array for name, part in parts.items() for key, array in part.state().items()}

    def load_state(self, state: State) -> None:
        """Go on from the arrays that state() returned."""
        for name, part in {"first": self._first, "later": self._later}.items():
            part.load_state({k.removeprefix(f"{name}/"): a for k, a in state.items() if k.startswith(f"{name}/")})

    def __repr__(self) -> str:
        return f"SiteMean({self.site!r})"


@dataclass(frozen=True)
class Donor:
    """A window whose values replace another window's: `positions` says which of its positions replaces each."""

    ids: list[int]
    positions: list[int]


class Pool:
    """Windows of a corpus whose values replace those of other windows, of the same corpus or of another.

    Which window is whose donor follows from the seed and from where both are in their documents, not from batches.
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

    def settings(self) -> dict[str, Any]:
        """Return the seed, and a hash of the windows."""
        ids = [torch.from_numpy(row.ids) for row in self._rows]
        return {"seed": self._seed, "windows": [[row.document, row.offset] for row in self._rows], "ids": digest(*ids)}

    def _hash(self, row: Row) -> int:
        """Return a hash of the seed and of where a window is in its document."""
        return int(hashes(Keys(np.array([row.document]), np.array([row.offset])), self._seed)[0])

    def donor(self, row: Row) -> Donor:
        """Return a window's donor: from another document, and at least as long, if the pool has such windows.

        Position p is replaced by the donor's position p. Where the donor is shorter, its tokens are used again from
        position 1 on. Raises InputError where the pool has no other window.
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
    """Return whether two windows have the same ids, as far as the shorter one goes."""
    n = min(len(row.ids), len(other.ids))
    return np.array_equal(row.ids[:n], other.ids[:n])


class Resampled:
    """The values of the windows' donors in place of their own."""

    passes = 1

    def __init__(self, sites: Sequence[str], pool: Pool) -> None:
        self._sites, self._pool = sites, pool

    def settings(self) -> dict[str, Any]:
        """Return the sites, and what donors follow from."""
        return {"sites": list(self._sites), **self._pool.settings()}

    def values(self, model: Model, batch: Batch) -> SiteValues:
        """Run the donors of a batch's windows, and return their values at each site: [batch, pos, ...]."""
        donors = [self._pool.donor(row) for row in batch.rows]
        run = model.run(Tokens.from_lists([d.ids for d in donors]), capture=self._sites, logits=None)
        width = batch.tokens.ids.shape[1]
        padded = [d.positions + [0] * (width - len(d.positions)) for d in donors]
        positions = torch.tensor(padded, device=model.device)  # B P
        rows = torch.arange(len(donors), device=model.device)[:, None]
        return lambda site: run[site][rows, positions]
