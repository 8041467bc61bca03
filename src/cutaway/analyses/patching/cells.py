"""Cells, and the runs in which they are patched: only what a patch can reach is computed.

A cell is one place: a site, its positions (one, or several at once), and a head or a neuron where the site has them. In
the run of one text it is given the value that it has in the run of the other.

    engine = Engine(model, pair.tokens, sites, first=pair.first)
    for chunk, logits in engine.run(cells, row=1): ...            # row 1 runs, row 0 gives the values

What need not be computed:

    a value that is equal in both runs (all of those before the first different token) changes nothing;
    a stream that equals the other run's wherever the two differ goes on as the other run does;
    blocks below the patched one, and positions before it: a patched stream enters the next block, from there on;
    of the patched block itself, for sites that reach no other position before the next block, that position alone;
    in the last block, anything but the final position.

Patched streams of all layers go up together: those of layer 3 join those of layer 2 on their way, so that a block's
weights are read once for all of them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.arguments import is_whole, shown
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.sites import Site


@dataclass(frozen=True, slots=True)
class Cell:
    """One place to patch."""

    site: Site
    positions: tuple[int, ...]  # ascending
    index: int | None = None  # head or neuron

    @property
    def layer(self) -> int:
        assert self.site.layer is not None
        return self.site.layer

    @property
    def by_head(self) -> bool:
        return "H" in self.site.shape.split()

    def at(self, value: Tensor, start: int = 0) -> tuple[Any, ...]:
        """Where this cell lies in one row of its site's value, whose positions begin at `start`."""
        where = torch.tensor(self.positions, device=value.device) - start
        if self.site.shape == "B H P P":
            return (self.index, where)
        return (where,) if self.index is None else (where, self.index)


# --- which cells ---


def choose(
    model: Model,
    length: int,
    sites: str | Sequence[str],
    layers: Sequence[int] | None,
    positions: Sequence[int] | None,
    together: bool | None,
) -> list[Cell]:
    """A cell for each site, position and head; `together`: for each site and head, all the positions at once (None:
    so for sites with heads).

    Raises SiteError for a pattern that matches nothing, InputError for sites outside the blocks, layers or positions
    that are not there.
    """
    found = _sites(model, sites, layers)
    chosen = within(positions, length, "positions", "both texts have {} tokens")
    cells = []
    for site in found:
        heads = range(model.config.n_heads) if "H" in site.shape.split() else [None]
        joint = "H" in site.shape.split() if together is None else together
        parts = [tuple(chosen)] if joint else [(p,) for p in chosen]
        cells += [Cell(site, part, head) for part in parts for head in heads]
    return cells


def of_neurons(
    cells: Sequence[Cell], model: Model, neurons: Sequence[tuple[int, int]], together: bool | None
) -> list[Cell]:
    """Cells of whole sites of neurons, one site a layer -> those of single (layer, neuron)."""
    if not neurons:
        raise InputError("neurons=[] leaves nothing to patch: give (layer, neuron) pairs, or how many")
    by_layer: dict[int, list[Cell]] = {}
    for cell in cells:
        by_layer.setdefault(cell.layer, []).append(cell)
    found = []
    for pair in neurons:
        try:
            layer, neuron = (operator.index(number) for number in pair)
        except (TypeError, ValueError):
            raise InputError(f"neurons holds {pair!r}: (layer, neuron) pairs were expected, or how many") from None
        i = layer + model.config.n_layers if layer < 0 else layer
        if i not in by_layer or not 0 <= neuron < model.config.d_mlp:
            has = f"layers {', '.join(map(str, by_layer))} with neurons 0 to {model.config.d_mlp - 1}"
            raise InputError(f"neuron ({layer}, {neuron}) is not among the sites: {has} were expected")
        here = by_layer[i]
        if together is None or together:
            positions = tuple(sorted({p for cell in here for p in cell.positions}))
            found.append(Cell(here[0].site, positions, neuron))
        else:
            found += [Cell(cell.site, cell.positions, neuron) for cell in here]
    return found


def _sites(model: Model, patterns: str | Sequence[str], layers: Sequence[int] | None) -> list[Site]:
    found = model.sites().match(patterns)
    if not found:
        raise InputError("sites=[] leaves nothing to patch: give at least one, such as 'resid_pre'")
    if outside := [site.name for site in found if site.layer is None]:
        raise InputError(f"{outside[0]!r} lies outside the blocks: sites inside were expected, such as 'resid_pre'")
    kept = set(within(layers, model.config.n_layers, "layers", "the model has {} layers"))
    sites = [site for site in found if site.layer in kept]
    if not sites:
        raise InputError(f"layers={list(layers or [])}: none of the sites is in one of them")
    return sites


def indices(chosen: Iterable[int] | None, name: str) -> list[int] | None:
    """Layers or positions as they were given, as plain numbers; InputError for what is none."""
    if chosen is None:
        return None
    given: list[int] | None
    try:
        given = list(chosen)
    except TypeError:  # no list at all
        given = None
    if given is None or not all(map(is_whole, given)):
        raise InputError(f"{name}={shown(chosen)}: whole numbers were expected, such as [0, -1], or None for all")
    return [operator.index(i) for i in given]


def within(chosen: Sequence[int] | None, n: int, name: str, have: str) -> list[int]:
    """Indices from 0, ascending, each once; negative ones counted from the end."""
    if chosen is None:
        return list(range(n))
    for i in chosen:
        if not -n <= i < n:
            raise InputError(f"{name}={list(chosen)}: {i!r} is not there; {have.format(n)}, 0 to {n - 1}")
    if not chosen:
        raise InputError(f"{name}=[] leaves nothing to patch: give at least one, or None for all")
    return sorted({i % n for i in chosen})
