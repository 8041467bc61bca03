"""Draw a random sample that depends only on its seed and the corpus.

Every (document, offset) has a hash; the sample is the entries with the smallest hashes. Batching, the order of reading,
the number of machines and interruptions therefore do not change it, and samples of several sites with one seed are of
the same tokens. Beyer et al. 2007, On Synopses for Distinct-Value Estimation Under Multiset Operations, section 2 (k
minimum values).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutaway.errors import InputError
from cutaway.stats.base import Keys, State, Statistic, from_numpy, to_numpy


@lru_cache(maxsize=65536)
def _document_hash(document: str, seed: int) -> int:
    """Return a document's 64-bit BLAKE2b hash."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{document}".encode(), digest_size=8).digest(), "little")


def hashes(keys: Keys, seed: int) -> NDArray[np.uint64]:
    """Return a stable 64-bit hash of each (seed, document, offset): BLAKE2b of the document, mixed with the offset.

    The mixing is SplitMix64's (Steele et al. 2014, Fast Splittable Pseudorandom Number Generators, figure 16).
    """
    if seed in keys.hashes:
        return keys.hashes[seed]
    documents, index = np.unique(keys.documents, return_inverse=True)
    roots = np.array([_document_hash(str(d), seed) for d in documents], dtype=np.uint64)
    z: NDArray[np.uint64] = roots[index] + keys.offsets.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys.hashes[seed] = z ^ (z >> np.uint64(31))
    return keys.hashes[seed]


def _by_hash(keys: Keys, values: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return the order of hash values; ties, which are next to impossible, by document and offset."""
    order = np.argsort(values, kind="stable")
    tied = len(values) > 1 and bool((values[order][1:] == values[order][:-1]).any())
    return np.lexsort((keys.offsets, keys.documents, values)) if tied else order


@dataclass(frozen=True)
class SampleResult:
    """Sampled rows in the order of their hashes, so that halves of the sample are random halves."""

    values: Tensor  # k *features
    keys: Keys
    hashes: NDArray[np.uint64]


@dataclass(eq=True)
class Sample(Statistic):
    """A sample of `size` entries drawn without replacement, with their keys."""

    kind: ClassVar[str] = "sample"
    needs_keys: ClassVar[bool] = True

    size: int = 2000
    seed: int = 0
    # In no order: an entry drawn later overwrites the entry that it displaces. `_order` sorts by hash.
    _values: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _keys: Keys = field(default_factory=Keys.none, init=False, repr=False, compare=False)
    _hashes: NDArray[np.uint64] = field(
        default_factory=lambda: np.empty(0, np.uint64), init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"a sample of {self.size}: at least 1 was expected")

    def settings(self) -> dict[str, int]:
        return {"size": self.size, "seed": self.seed}

    def _add(self, rows: Tensor, keys: Keys) -> None:
        hashed = hashes(keys, self.seed)
        if len(self._hashes) == self.size:  # most entries are rejected by this comparison
            candidates = np.flatnonzero(hashed < self._hashes.max())
        else:
            candidates = np.arange(len(hashed))
        if len(candidates) > self.size:
            candidates = np.sort(candidates[np.argpartition(hashed[candidates], self.size)[: self.size]])
        if len(candidates):
            self._take(rows[torch.from_numpy(candidates).to(rows.device)], keys[candidates], hashed[candidates])

    def _merge(self, other: Sample) -> None:
        if other._values is not None:
            self._take(other._values.clone(), other._keys, other._hashes)

    def _take(self, rows: Tensor, keys: Keys, hashed: NDArray[np.uint64]) -> None:
        """Draw from what is kept and from new rows, no two of the same token; the sample may keep `rows` uncopied."""
        if self._values is None and len(rows) <= self.size:
            self._values, self._keys, self._hashes = rows, keys, hashed
            return
        if self._values is None:
            self._values = rows.new_empty(0, *rows.shape[1:])
        if rows.shape[1:] != self._values.shape[1:]:
            raise InputError(f"a sample of {list(self._values.shape[1:])} got {list(rows.shape[1:])}")
        have, rows = len(self._values), rows.to(self._values.device)
        room = min(self.size - have, len(rows))
        keys, hashed = self._keys.join(keys), np.concatenate([self._hashes, hashed])
        places = np.arange(have + room)  # slot -> index of its entry among the kept and then the new ones
        if room < len(rows):
            chosen = _by_hash(keys, hashed)[: self.size]
            free = np.flatnonzero(~np.isin(places[:have], chosen))
            places = np.concatenate([places[:have], np.full(room, -1)])
            places[np.concatenate([free, np.arange(have, have + room)])] = chosen[chosen >= have]
        new_slots = np.flatnonzero(places >= have)
        if room:
            self._values = torch.cat([self._values, self._values.new_empty(room, *rows.shape[1:])])
        slots, chosen_rows = (torch.from_numpy(i).to(rows.device) for i in (new_slots, places[new_slots] - have))
        self._values[slots] = rows[chosen_rows].to(self._values.dtype)
        self._keys, self._hashes = keys[places], hashed[places]

    @property
    def _order(self) -> NDArray[np.intp]:
        """Return the order of the entries by hash."""
        return _by_hash(self._keys, self._hashes)

    def result(self) -> SampleResult:
        if self._values is None:
            raise self._nothing()
        order = self._order
        values = self._values[torch.from_numpy(order).to(self._values.device)]
        return SampleResult(values, self._keys[order], self._hashes[order])

    def state(self) -> State:
        if self._values is None:
            return {}
        sample = self.result()
        arrays = {"documents": sample.keys.documents, "offsets": sample.keys.offsets, "hashes": sample.hashes}
        if sample.values.dtype == torch.bfloat16:  # NumPy has no such type
            return {"bits": to_numpy(sample.values.view(torch.int16)), **arrays}
        return {"values": to_numpy(sample.values), **arrays}

    def load_state(self, state: State) -> None:
        self._values, self._keys, self._hashes = None, Keys.none(), np.empty(0, np.uint64)
        if state:
            bits = from_numpy(state["bits"]).view(torch.bfloat16) if "bits" in state else None
            self._values = from_numpy(state["values"]) if bits is None else bits
            self._keys, self._hashes = Keys(state["documents"], state["offsets"]), state["hashes"]
