"""Sinks that keep the norms of vectors, a float64 for each, by document and window; the vectors themselves never stay.

sinks = sinks_of(model, "attn_out")        one a layer, for cutaway.survey
collected(sinks.values())                  -> documents, and the norms of every window in the documents' order
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.norms.design import Floats
from cutaway.errors import InputError
from cutaway.stats.base import State
from cutaway.surveys.sinks import Seen, SiteStatistics

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.sites import Site

UPDATE = "resid_update"  # what a whole block adds to the stream: no site, but the difference of two


class Window(NamedTuple):
    number: int  # of the document in its corpus
    offset: int  # of its first token in the document
    document: str


@dataclass
class Kept:
    """Norms by window: [P], or [P H] where vectors are of heads."""

    windows: dict[Window, Floats] = field(default_factory=dict)

    def take(self, vectors: Tensor, seen: Seen) -> None:
        """Keep the norms of one batch's vectors, B P ... D."""
        norms = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64).cpu().numpy()
        for row, found in zip(seen.batch.rows, norms, strict=True):
            self.windows[Window(row.number, row.offset, row.document)] = found[: len(row.ids)].copy()

    def state(self) -> State:
        keys, arrays = list(self.windows), list(self.windows.values())
        return {
            "documents": np.array([key.document for key in keys], dtype=np.str_),
            "places": np.array([(key.number, key.offset, len(a)) for key, a in self.windows.items()], dtype=np.int64),
            "norms": np.concatenate(arrays) if arrays else np.empty(0),
        }

    def load_state(self, state: State) -> None:
        places = state["places"].reshape(-1, 3)
        parts = np.split(state["norms"], places[:, 2].cumsum()[:-1])
        keys = [Window(int(n), int(o), str(d)) for d, (n, o, _) in zip(state["documents"], places, strict=True)]
        self.windows = dict(zip(keys, parts, strict=False))  # an empty state splits into one empty part


class Lengths(SiteStatistics):
    """The norms at one site, taken as its values arise."""

    def __init__(self, site: str) -> None:
        super().__init__(site, [])
        self.kept = Kept()

    def take(self, values: Tensor, seen: Seen) -> None:
        self.kept.take(values, seen)

    def merge(self, other: SiteStatistics) -> None:
        _merge(self, other)

    def empty(self) -> Lengths:
        return Lengths(self.site)

    def state(self) -> State:
        return self.kept.state()

    def load_state(self, state: State) -> None:
        self.kept.load_state(state)

    def __repr__(self) -> str:
        return f"Lengths({self.site!r})"


class Updates:
    """The norms of what one block adds to the stream: resid_post - resid_pre."""

    def __init__(self, layer: int) -> None:
        self.layer, self.kept = layer, Kept()

    @property
    def sites(self) -> Sequence[str]:
        return [f"blocks.{self.layer}.resid_pre", f"blocks.{self.layer}.resid_post"]

    def add(self, seen: Seen) -> None:
        if seen.run is not None:
            before, after = (seen.run[site] for site in self.sites)
            self.kept.take(after - before, seen)

    def merge(self, other: Updates) -> None:
        _merge(self, other)

    def empty(self) -> Updates:
        return Updates(self.layer)

    def state(self) -> State:
        return self.kept.state()

    def load_state(self, state: State) -> None:
        self.kept.load_state(state)

    def __repr__(self) -> str:
        return f"Updates({self.layer})"


def _merge(mine: Lengths | Updates, other: SiteStatistics | Updates) -> None:
    if repr(mine) != repr(other) or not isinstance(other, (Lengths, Updates)):
        raise InputError(f"{mine} cannot merge with {other}: the place must be the same")
    mine.kept.windows |= other.kept.windows


def sinks_of(model: Model, of: str) -> dict[str, Lengths | Updates]:
    """One sink a layer for the vectors that a pattern names. Raises SiteError, or InputError for what are no vectors
    of layers."""
    if of.rpartition(".")[2] == UPDATE:
        layers = [site.layer or 0 for site in model.sites().match(of.replace(UPDATE, "resid_post"))]
        return {f"blocks.{layer}.{UPDATE}": Updates(layer) for layer in layers}
    sites = model.sites().match(of)
    kinds = list(dict.fromkeys(site.kind for site in sites))
    if len(kinds) > 1:
        raise InputError(f"{of!r} names {len(kinds)} kinds of sites ({kinds[0]}, {kinds[1]}, ...): name one")
    if not _has_vectors(sites[0]):
        raise InputError(
            f"{kinds[0]!r} is {sites[0].shape}: norms are of a vector at each position of each layer, such as "
            f"'attn_out', 'mlp_out', 'attn.result' or '{UPDATE}'"
        )
    return {site.name: Lengths(site.name) for site in sites}


def _has_vectors(site: Site) -> bool:
    letters = site.shape.split()
    return site.layer is not None and letters[:2] == ["B", "P"] and letters[-1] not in ("1", "P")


def collected(sinks: Iterable[Lengths | Updates]) -> tuple[list[Window], list[Floats]]:
    """All windows in the order of the documents, and for each the norms [layer, head, P], or [layer, P]."""
    kept = [sink.kept.windows for sink in sinks]
    windows = sorted(kept[0])
    return windows, [np.stack([part[window].T for part in kept]) for window in windows]
