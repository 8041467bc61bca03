"""TODO."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from cutaway.analyses.patching.cells import Cell, choose, indices, of_neurons
from cutaway.analyses.patching.engine import Engine
from cutaway.analyses.patching.gradients import estimate, top_neurons
from cutaway.analyses.patching.pair import Measure, Metric, Pair, check_direction, read_pair, settled
from cutaway.analyses.patching.result import Attribution, Direction, Patched
from cutaway.arguments import is_whole, whole
from cutaway.errors import InputError, Interrupted
from cutaway.model.modes import plainly
from cutaway.model.trunk import BUDGET
from cutaway.progress import meter
from cutaway.results.call import describe

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model


Neurons: TypeAlias = int | Sequence[tuple[int, int]] | None
NEURONS = "B P M"  # the shape of sites of neurons


@plainly
def run(
    model: Model,
    clean: Inputs,
    corrupted: Inputs,
    sites: str | Sequence[str] = "resid_pre",
    metric: Metric = "logit difference",
    direction: Direction = "restore",
    answer: str | int | None = None,
    versus: str | int | None = None,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    together: bool | None = None,
    neurons: Neurons = None,
    bos: bool = False,
    budget: int = BUDGET,
    each: Callable[[Patched], object] | None = None,
) -> Patched:
    """The metric with each cell patched: one value of the other run in its place.

    Args:
        clean, corrupted: one text each, of equally many tokens; or Tokens, or ids [1, pos].
        sites: patterns of sites inside the blocks. Sites with heads (q, k, v, z, pattern, ...) are patched head by
            head, a pattern by its queries' rows, others whole.
        metric: "logit difference" (of answer and versus), "probability" or "log-probability" (of answer), "kl" (of
            the clean run's distribution from the patched run's), or a function from the last position's logits
            [rows, d_vocab] to [rows].
        direction: "restore" runs the corrupted text with clean values put in, "corrupt" the reverse.
        answer, versus: single tokens such as " States", or ids; None for the model's first choice after the clean
            text, and after the corrupted one.
        layers, positions: only these; negative ones count from the end.
        together: all the positions in one cell, or one cell each. None: together where a site has heads or neurons.
        neurons: of mlp.post or mlp.pre: (layer, neuron) pairs, or how many of those with the largest estimates by
            gradients; None patches the site whole.
        budget: bytes that one batch of cells may take.
        each: called with what is done after each batch.

    Raises:
        InputError: texts that differ in length, or not at all, or other arguments that cannot be; the message says
            what to do. SiteError, TokenizerError: no such site; an answer that is not one token.
        Interrupted: Ctrl-C; `.result` has what was done.
    """
    pair = read_pair(model, clean, corrupted, metric, answer, versus, bos)
    row, _ = check_direction(direction)
    layers, positions = indices(layers, "layers"), indices(positions, "positions")
    cells = _cells(model, pair, row, sites, layers, positions, together, neurons)
    engine = Engine(
        model, pair.tokens, list({cell.site: None for cell in cells}), pair.first, whole("budget", budget, 1)
    )
    measure = pair.measure(engine.logits)
    parameters = {
        **pair.call(), "sites": sites, "direction": direction, "answer": answer, "versus": versus, "layers": layers,
        "positions": positions, "together": together, "neurons": neurons, "bos": bos,
    }  # fmt: skip
    result = Patched(
        meta=describe(model, "patching.run", pair.subject, **parameters),
        **pair.words(model),
        **settled(model, measure),
        direction=direction,
        cells=cells,
        values=torch.full((len(cells),), math.nan, dtype=torch.float64),
        token_layers=engine.token_layers,
        plain_token_layers=engine.plain(len(cells)),
    )

    def now() -> Patched:
        return replace(result, values=result.values.clone(), token_layers=engine.token_layers)

    try:
        for _ in _fill(engine, measure, cells, row, result.values):
            if each is not None:
                each(now())
    except KeyboardInterrupt:
        raise Interrupted(now(), f"interrupted: {now().done:,} of {len(cells):,} cells are done") from None
    return now()


@plainly
def attribution(
    model: Model,
    clean: Inputs,
    corrupted: Inputs,
    sites: str | Sequence[str] = "resid_pre",
    metric: Metric = "logit difference",
    direction: Direction = "restore",
    answer: str | int | None = None,
    versus: str | int | None = None,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    together: bool | None = None,
    neurons: Neurons = None,
    exact: bool = False,
    bos: bool = False,
    budget: int = BUDGET,
) -> Attribution:
    """Attribution patching: the same cells by two forward passes and one backward.

    estimate = metric of the unpatched run + gradient at the cell . (other run's value - own)

    `exact` also patches every cell, for their agreement. A metric that is a function must be one that torch can
    differentiate. The other arguments are those of `run`.
    """
    pair = read_pair(model, clean, corrupted, metric, answer, versus, bos)
    row, _ = check_direction(direction)
    layers, positions = indices(layers, "layers"), indices(positions, "positions")
    cells = _cells(model, pair, row, sites, layers, positions, together, neurons)
    measure, values = estimate(model, pair, row, cells)
    parameters = {
        **pair.call(), "sites": sites, "direction": direction, "answer": answer, "versus": versus, "layers": layers,
        "positions": positions, "together": together, "neurons": neurons, "exact": exact, "bos": bos,
    }  # fmt: skip
    result = Attribution(
        meta=describe(model, "patching.attribution", pair.subject, **parameters),
        **pair.words(model),
        **settled(model, measure),
        direction=direction,
        cells=cells,
        values=values,
        exact=torch.full_like(values, math.nan) if exact else None,
    )
    if result.exact is not None:
        engine = Engine(
            model, pair.tokens, list({cell.site: None for cell in cells}), pair.first, whole("budget", budget, 1)
        )
        try:
            for _ in _fill(engine, measure, cells, row, result.exact):
                pass
        except KeyboardInterrupt:
            done = int(result.exact.isfinite().sum())
            raise Interrupted(result, f"interrupted: {done:,} of {len(cells):,} exact numbers are done") from None
    return result


def _fill(engine: Engine, measure: Measure, cells: list[Cell], row: int, values: Tensor) -> Iterator[None]:
    """Patch every cell and put its number in its place, a batch at a time."""
    with meter("patching", "cells", len(cells)) as advance:
        for numbers, logits in engine.run(cells, row):
            values[numbers] = measure(logits).cpu()
            advance(len(numbers), len(cells))
            yield


def _cells(
    model: Model,
    pair: Pair,
    row: int,
    sites: str | Sequence[str],
    layers: Sequence[int] | None,
    positions: Sequence[int] | None,
    together: bool | None,
    neurons: Neurons,
) -> list[Cell]:
    cells = choose(model, pair.length, sites, layers, positions, together)
    if neurons is None:
        return cells
    if other := [cell.site.kind for cell in cells if cell.site.shape != NEURONS]:
        raise InputError(f"neurons={neurons!r} is for mlp.post and mlp.pre: {other[0]} was among the sites")
    if len({cell.site.kind for cell in cells}) > 1:
        raise InputError("neurons are of one kind of site: mlp.post or mlp.pre was expected, both were given")
    chosen: Any = neurons
    if is_whole(chosen) or not isinstance(chosen, Iterable) or getattr(chosen, "ndim", 1) == 0:
        if not is_whole(chosen) or chosen < 1:
            raise InputError(f"neurons={neurons!r}: at least 1 was expected, or (layer, neuron) pairs")
        chosen = top_neurons(model, pair, row, cells, int(chosen))
    return of_neurons(cells, model, chosen, together)
