"""Choose the cells to patch: from sites and addresses, layers, positions, heads and neurons."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from cutaway.analyses.patching.cells import Cell
from cutaway.analyses.patching.estimates import top_neurons
from cutaway.analyses.patching.pair import Pair
from cutaway.arguments import is_whole, shown
from cutaway.errors import InputError
from cutaway.model.taps.components import find

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.sites import Site

Neurons: TypeAlias = int | Sequence[tuple[int, int]] | None
NEURONS = "B P M"  # the shape of sites of neurons


def find_cells(
    model: Model,
    pair: Pair,
    sites: str | Sequence[str],
    layers: Sequence[int] | None,
    positions: Sequence[int] | None,
    together: bool | None,
    neurons: Neurons,
) -> list[Cell]:
    """Return the cells that the arguments of `run` choose. A number of neurons is chosen by gradient estimates.

    Raises SiteError and InputError as choose_cells does, and InputError for neurons of sites without neurons.
    """
    cells = choose_cells(model, pair.length, sites, layers, positions, together)
    if neurons is None:
        return cells
    if named := [cell.name for cell in cells if cell.index is not None and not cell.by_head]:
        raise InputError(f"neurons={neurons!r} and {named[0]!r} both choose neurons: leave one of them out")
    if other := [cell.site.kind for cell in cells if cell.site.shape != NEURONS]:
        raise InputError(f"neurons={neurons!r} is for mlp.post and mlp.pre: {other[0]} was among the sites")
    if len({cell.site.kind for cell in cells}) > 1:
        raise InputError("neurons are of one kind of site: mlp.post or mlp.pre was expected, both were given")
    chosen: Any = neurons
    if is_whole(chosen) or not isinstance(chosen, Iterable) or getattr(chosen, "ndim", 1) == 0:
        if not is_whole(chosen) or chosen < 1:
            raise InputError(f"neurons={neurons!r}: at least 1 was expected, or (layer, neuron) pairs")
        chosen = top_neurons(model, pair, cells, int(chosen))
    return neuron_cells(cells, model, chosen, together)


def choose_cells(
    model: Model,
    length: int,
    sites: str | Sequence[str],
    layers: Sequence[int] | None,
    positions: Sequence[int] | None,
    together: bool | None,
) -> list[Cell]:
    """Return a cell for each site, position and head, or neuron by its address, of texts of `length` tokens.

    With `together`, a cell has all the positions at once; None: only where it is of a head or neuron.

    Raises SiteError for a pattern or address that matches nothing, InputError for sites outside the blocks and for
    layers or positions that the model or the texts do not have.
    """
    matched = _places(model, sites, layers)
    chosen = within(positions, length, "positions", "both texts have {} tokens")
    cells = []
    for site, indices_there in matched.items():
        single = [tuple(chosen)] if together is None or together else [(p,) for p in chosen]
        whole = [tuple(chosen)] if together else [(p,) for p in chosen]
        cells += [Cell(site, part) for part in whole if None in indices_there]
        cells += [Cell(site, part, index) for part in single for index in indices_there if index is not None]
    return cells


def neuron_cells(
    cells: Sequence[Cell], model: Model, neurons: Sequence[tuple[int, int]], together: bool | None
) -> list[Cell]:
    """Return cells of single (layer, neuron) pairs, at the positions of cells of whole sites, one site a layer.

    Raises InputError for pairs that are not (layer, neuron), or that are not at these sites.
    """
    if not neurons:
        raise InputError("neurons=[] leaves nothing to patch: give (layer, neuron) pairs, or how many")
    by_layer: dict[int, list[Cell]] = {}
    for cell in cells:
        by_layer.setdefault(cell.layer, []).append(cell)
    chosen = []
    for pair in neurons:
        try:
            layer, neuron = (operator.index(number) for number in pair)
        except (TypeError, ValueError):
            raise InputError(f"neurons holds {pair!r}: (layer, neuron) pairs were expected, or how many") from None
        i = layer + model.config.n_layers if layer < 0 else layer
        if i not in by_layer or not 0 <= neuron < model.config.d_mlp:
            has = f"layers {', '.join(map(str, by_layer))} with neurons 0 to {model.config.d_mlp - 1}"
            raise InputError(f"neuron ({layer}, {neuron}) is not among the sites: {has} were expected")
        whole = by_layer[i]
        if together is None or together:
            positions = tuple(sorted({p for cell in whole for p in cell.positions}))
            chosen.append(Cell(whole[0].site, positions, neuron))
        else:
            chosen += [Cell(cell.site, cell.positions, neuron) for cell in whole]
    return chosen


def _places(model: Model, patterns: str | Sequence[str], layers: Sequence[int] | None) -> dict[Site, list[int | None]]:
    """Return the sites in the chosen layers that the patterns and addresses name, in forward order, and what is patched
    at each: all its heads, some heads or neurons, or None for the whole site."""
    is_one = isinstance(patterns, (str, Mapping)) or not isinstance(patterns, Iterable)
    several: list[Any] = [patterns] if is_one else list(patterns)
    places: dict[Site, set[int | None]] = {}
    for each in several:
        found = find(each, model.config) if isinstance(each, str) else None
        if found is not None and found[0].index is not None:
            for at in found:
                places.setdefault(model.sites().match(at.site)[0], set()).add(at.index)
        else:
            for site in model.sites().match(each):
                heads = range(model.config.n_heads) if "H" in site.shape.split() else [None]
                places.setdefault(site, set()).update(heads)
    matched = sorted(places, key=lambda site: model.sites().order[site.name])
    if not matched:
        raise InputError("sites=[] leaves nothing to patch: give at least one, such as 'resid_pre'")
    if outside := [site.name for site in matched if site.layer is None]:
        raise InputError(f"{outside[0]!r} lies outside the blocks: sites inside were expected, such as 'resid_pre'")
    kept = set(within(layers, model.config.n_layers, "layers", "the model has {} layers"))
    sites = [site for site in matched if site.layer in kept]
    if not sites:
        raise InputError(f"layers={list(layers or [])}: none of the sites is in one of these layers")
    return {site: sorted(places[site], key=lambda index: -1 if index is None else index) for site in sites}


def indices(chosen: Iterable[int] | None, name: str) -> list[int] | None:
    """Return layers or positions as they were given, as ints. Raises InputError for anything but whole numbers."""
    if chosen is None:
        return None
    given: list[int] | None
    try:
        given = list(chosen)
    except TypeError:  # not a list
        given = None
    if given is None or not all(map(is_whole, given)):
        raise InputError(f"{name}={shown(chosen)}: whole numbers were expected, such as [0, -1], or None for all")
    return [operator.index(i) for i in given]


def within(chosen: Sequence[int] | None, n: int, name: str, have: str) -> list[int]:
    """Return indices from 0 to n - 1, ascending, each once; negative ones count from the end, None is all.

    Raises InputError for an index outside, which says what `have` says of n, and for no indices.
    """
    if chosen is None:
        return list(range(n))
    for i in chosen:
        if not -n <= i < n:
            raise InputError(f"{name}={list(chosen)}: {i!r} is not there; {have.format(n)}, 0 to {n - 1}")
    if not chosen:
        raise InputError(f"{name}=[] leaves nothing to patch: give at least one, or None for all")
    return sorted({i % n for i in chosen})
