"""Attribution patching: estimate each cell's patch by gradients, beside the exact numbers. Public as
patching.attribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from cutaway.analyses.patching.choice import Neurons, find_cells, indices
from cutaway.analyses.patching.engine import Engine, patch_all
from cutaway.analyses.patching.estimates import estimate
from cutaway.analyses.patching.metrics import Metric
from cutaway.analyses.patching.pair import Direction, read_pair
from cutaway.analyses.patching.result import Attribution, keep_when_interrupted
from cutaway.model.trunk import BUDGET
from cutaway.results.call import analysis

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model


@analysis("patching.attribution")
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
    """Estimate the metric with each cell patched, by two forward passes and one backward for all cells at once.

    estimate = metric of the unpatched run + gradient at the cell . (other run's value - own)

    `exact` also patches every cell, to compare. A metric that is a function must be one that torch can differentiate.
    The other arguments and the errors raised are as in `run`.
    """
    pair = read_pair(model, clean, corrupted, metric, direction, answer, versus, bos)
    options: dict[str, Any] = {
        "layers": indices(layers, "layers"),
        "positions": indices(positions, "positions"),
        "together": together,
        "neurons": neurons,
    }
    cells = find_cells(model, pair, sites, **options)
    measure, values = estimate(model, pair, cells)
    result = Attribution(
        meta=pair.meta(model, **options),
        **pair.fields(model, measure),
        cells=cells,
        values=values,
        exact=torch.full_like(values, math.nan) if exact else None,
    )
    if result.exact is not None:
        engine = Engine.for_pair(model, pair, cells, budget)
        with keep_when_interrupted(lambda: result, "exact numbers"):
            for _ in patch_all(engine, measure, cells, pair.row, result.exact):
                pass
    return result
