"""Keep the norms of vectors, a float64 each, by document and window, and not the vectors.

sinks = norm_sinks(model, "attn_out")       one sink a layer, for cutaway.survey
collect(sinks.values())                     the windows in the documents' order, and the norms of each
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.norms.design import Floats
from cutaway.errors import InputError
from cutaway.stats.base import State
from cutaway.surveys.sinks import Seen, check_alike

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.sites import Site

UPDATE = "resid_update"  # what a whole block adds to the stream: not a site, but the difference of two


class Window(NamedTuple):
    """The place of a window in its corpus."""

    number: int  # of the document in its corpus
    offset: int  # of its first token in the document
    document: str


class NormSink:
    """A sink of norms by window: [P], or [P, H] where vectors are of heads."""

    def __init__(self, sites: Sequence[str]) -> None:
        self.sites = sites
        self.windows: dict[Window, Floats] = {}

    def settings(self) -> dict[str, Any]:
        """Return the sites."""
        return {"sites": list(self.sites)}

    def take(self, values: Tensor, seen: Seen) -> None:
        """Keep the norms of one batch's vectors, B P ... D."""
        norms = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64).cpu().numpy()
        for row, of_row in zip(seen.batch.rows, norms, strict=True):
            self.windows[Window(row.number, row.offset, row.document)] = of_row[: len(row.ids)].copy()

    def merge(self, other: NormSink) -> None:
        """Add the windows of another sink. Raises InputError for a sink of another site."""
        check_alike(self, other, "the site")
        self.windows |= other.windows

    def state(self) -> State:
        """Return the windows and their norms, as plain arrays."""
        keys, arrays = list(self.windows), list(self.windows.values())
        return {
            "documents": np.array([key.document for key in keys], dtype=np.str_),
            "places": np.array([(key.number, key.offset, len(a)) for key, a in self.windows.items()], dtype=np.int64),
            "norms": np.concatenate(arrays) if arrays else np.empty(0),
        }

    def load_state(self, state: State) -> None:
        """Replace the windows by a state that state() returned."""
        places = state["places"].reshape(-1, 3)
        parts = np.split(state["norms"], places[:, 2].cumsum()[:-1])
        keys = [Window(int(n), int(o), str(d)) for d, (n, o, _) in zip(state["documents"], places, strict=True)]
        self.windows = dict(zip(keys, parts, strict=False))  # an empty state splits into one empty part


class SiteNorms(NormSink):
    """A sink of the norms at one site, taken as its values arise."""

    def __init__(self, site: str) -> None:
        super().__init__([site])
        self.site = site

    def add(self, seen: Seen) -> None:
        """Keep the norms of one batch."""
        if seen.run is not None:
            self.take(seen.run[self.site], seen)

    def empty(self) -> SiteNorms:
        """Return a new sink of the same site that has seen nothing."""
        return SiteNorms(self.site)

    def __repr__(self) -> str:
        return f"SiteNorms({self.site!r})"


class UpdateNorms(NormSink):
    """A sink of the norms of what one block adds to the stream: resid_post - resid_pre."""

    def __init__(self, layer: int) -> None:
        super().__init__([f"blocks.{layer}.resid_pre", f"blocks.{layer}.resid_post"])
        self.layer = layer

    def add(self, seen: Seen) -> None:
        """Keep the norms of one batch."""
        if seen.run is not None:
            before, after = (seen.run[site] for site in self.sites)
            self.take(after - before, seen)

    def empty(self) -> UpdateNorms:
        """Return a new sink of the same layer that has seen nothing."""
        return UpdateNorms(self.layer)

    def __repr__(self) -> str:
        return f"UpdateNorms({self.layer})"


def norm_sinks(model: Model, of: str) -> dict[str, SiteNorms | UpdateNorms]:
    """Return one sink a layer for the vectors that a pattern names.

    Raises SiteError for a pattern that matches nothing, InputError for a site without a vector at each position of each
    layer, or several kinds of sites.
    """
    if of.rpartition(".")[2] == UPDATE:
        layers = [site.layer or 0 for site in model.sites().match(of.replace(UPDATE, "resid_post"))]
        return {f"blocks.{layer}.{UPDATE}": UpdateNorms(layer) for layer in layers}
    sites = model.sites().match(of)
    kinds = list(dict.fromkeys(site.kind for site in sites))
    if len(kinds) > 1:
        raise InputError(f"{of!r} names {len(kinds)} kinds of sites ({kinds[0]}, {kinds[1]}, ...): name one")
    if not _has_vectors(sites[0]):
        raise InputError(
            f"{kinds[0]!r} is {sites[0].shape}: norms are of a vector at each position of each layer, such as "
            f"'attn_out', 'mlp_out', 'attn.result' or '{UPDATE}'"
        )
    return {site.name: SiteNorms(site.name) for site in sites}


def _has_vectors(site: Site) -> bool:
    """Return whether a site has a vector at each position of a layer."""
    letters = site.shape.split()
    return site.layer is not None and letters[:2] == ["B", "P"] and letters[-1] not in ("1", "P")


def collect(sinks: Iterable[NormSink]) -> tuple[list[Window], list[Floats]]:
    """Return all windows in the order of the documents, and for each the norms [layer, head, P], or [layer, P]."""
    by_layer = [sink.windows for sink in sinks]
    windows = sorted(by_layer[0])
    return windows, [np.stack([part[window].T for part in by_layer]) for window in windows]
