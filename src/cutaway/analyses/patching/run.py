"""Activation patching: run one text with each cell's value of the other run put in. Public as patching.run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from cutaway.analyses.patching.choice import Neurons, find_cells, indices
from cutaway.analyses.patching.engine import Engine, patch_all
from cutaway.analyses.patching.metrics import Metric
from cutaway.analyses.patching.pair import Direction, read_pair
from cutaway.analyses.patching.result import Patched, keep_when_interrupted
from cutaway.model.trunk import BUDGET
from cutaway.results.call import analysis

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model


@analysis("patching.run")
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
    """Return the metric with each cell patched: with one value of the other run in its place.

    Args:
        clean, corrupted: one text each, with the same number of tokens; or Tokens, or ids [1, pos].
        sites: patterns of sites inside the blocks. Sites with heads (q, k, v, z, pattern, ...) are patched head by
            head, a pattern by its queries' rows, other sites whole. Or single components: "head 3.1" (at attn.z),
            "head 3.1 q" (or k, or v), "mlp 2", "neuron 3.712" (at mlp.post).
        metric: "logit difference" (of answer and versus), "probability" or "log-probability" (of answer), "kl" (from
            the clean run's distribution to the patched run's), or a function of the last position's logits
            [rows, d_vocab] that returns [rows].
        direction: "restore" runs the corrupted text with clean values put in, "corrupt" the reverse.
        answer, versus: single tokens such as " States", or ids; None for the model's first choice after the clean
            text, and after the corrupted one.
        layers, positions: patch only these; negative ones count from the end; None for all.
        together: True for all the positions in one cell, False for a cell each; None: together where a site has heads
            or neurons.
        neurons: of mlp.post or mlp.pre: (layer, neuron) pairs, or how many neurons, chosen by gradient estimates; None
            patches the site whole.
        bos: put the end-of-text token in front of both texts.
        budget: bytes that one batch of cells may take.
        each: called with the partial result after each batch.

    Raises:
        InputError: texts of different lengths, or equal ones, or another argument that cannot be used.
        SiteError: a pattern or address that matches nothing.
        TokenizerError: an answer that is not one token.
        Interrupted: Ctrl-C; its `result` is what was done.
    """
    pair = read_pair(model, clean, corrupted, metric, direction, answer, versus, bos)
    options: dict[str, Any] = {
        "layers": indices(layers, "layers"),
        "positions": indices(positions, "positions"),
        "together": together,
        "neurons": neurons,
    }
    cells = find_cells(model, pair, sites, **options)
    engine = Engine.for_pair(model, pair, cells, budget)
    measure = pair.measure(engine.logits)
    result = Patched(
        meta=pair.meta(model, **options),
        **pair.fields(model, measure),
        cells=cells,
        values=torch.full((len(cells),), math.nan, dtype=torch.float64),
        token_layers=engine.token_layers,
        plain_token_layers=engine.plain(len(cells)),
    )

    def now() -> Patched:
        return replace(result, values=result.values.clone(), token_layers=engine.token_layers)

    with keep_when_interrupted(now, "cells"):
        for _ in patch_all(engine, measure, cells, pair.row, result.values):
            if each is not None:
                each(now())
    return now()
