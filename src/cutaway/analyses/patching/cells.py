"""Name one place to patch: a site, its positions, and a head or a neuron where the site has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cutaway.model.taps.sites import Site


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

    def at(self, value: Tensor, start: int = 0) -> tuple[Any, ...]:
        """Return the index of this cell in one row of its site's value, whose positions begin at `start`."""
        where = torch.tensor(self.positions, device=value.device) - start
        if self.site.shape == "B H P P":
            return (self.index, where)
        return (where,) if self.index is None else (where, self.index)
