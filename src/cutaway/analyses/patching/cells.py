"""Name one place to patch: a site, its positions, and a head or a neuron where the site has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.model.taps.components import SITES, Address

if TYPE_CHECKING:
    from cutaway.model.taps.sites import Site

KINDS: dict[str, tuple[str | None, str | None]] = {  # a site's kind -> those of the address of its components
    **{site: (kind, None) for kind, site in SITES.items()},
    **{f"attn.{part}": ("head", part) for part in "qkv"},
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One place to patch: in the run of one text it is given the value that it has in the run of the other."""

    site: Site
    positions: tuple[int, ...]  # ascending
    index: int | None = None  # head or neuron

    @property
    def layer(self) -> int:
        """Return the layer of the site."""
        assert self.site.layer is not None
        return self.site.layer

    @property
    def by_head(self) -> bool:
        """Return whether the site has heads, so that `index` is one of them."""
        return "H" in self.site.shape.split()

    @property
    def name(self) -> str:
        """Return the address of a head, of its q, k or v, of an MLP or a neuron; otherwise the site's name, and which
        head or neuron of it."""
        kind, part = KINDS.get(self.site.kind, (None, None))
        if kind is not None and (self.index is None) == (kind == "mlp"):
            return str(Address(kind, self.layer, self.index, part))
        index = "" if self.index is None else f" {'head' if self.by_head else 'neuron'} {self.index}"
        return f"{self.site.name}{index}"

    def at(self, value: Tensor, start: int = 0) -> tuple[Any, ...]:
        """Return the index of this cell in one row of its site's value, whose positions begin at `start`."""
        where = torch.tensor(self.positions, device=value.device) - start
        if self.site.shape == "B H P P":
            return (self.index, where)
        return (where,) if self.index is None else (where, self.index)
