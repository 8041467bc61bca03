"""Patching: which states make one text's answer out of another's.

    run(model, clean, corrupted)                           every layer and position of the residual stream
    run(model, clean, corrupted, sites="attn.z")           every head
    run(model, clean, corrupted, sites="mlp.post", neurons=20)         the 20 neurons that gradients point to
    attribution(model, clean, corrupted, sites="attn.z", exact=True)   gradients' estimate, beside the exact numbers
    path(model, clean, corrupted, "heads", "head 3.1 q")   what each head tells the queries of head 3.1, directly

Two texts of as many tokens are run. Then one of them is run again with one value of the other's in its place: "restore"
puts clean values into the corrupted run and asks what brings the answer back, "corrupt" the reverse. A metric of the
last position's logits says how far that moves it; normalized, 0 is the corrupted run and 1 the clean one.

Vig et al. 2020, Causal Mediation Analysis for Interpreting Neural NLP. Meng et al. 2022, Locating and Editing Factual
Associations in GPT. Wang et al. 2022, Interpretability in the Wild. Heimersheim and Nanda 2024, How to Use and
Interpret Activation Patching. Nanda 2023, Attribution Patching. Syed et al. 2023, Attribution Patching Outperforms
Automated Circuit Discovery, equation 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from cutaway.analyses.patching_cells import Cell, Engine, choose, indices, of_neurons
from cutaway.analyses.patching_gradients import agreement, estimate, top_neurons
from cutaway.analyses.patching_pair import METRICS, Measure, Metric, Pair, check_direction, read_pair, settled
from cutaway.analyses.patching_path import Path, path
from cutaway.analyses.patching_result import Cells, Direction
from cutaway.analyses.result import describe
from cutaway.arguments import is_whole, whole
from cutaway.errors import InputError, Interrupted
from cutaway.model.modes import plainly
from cutaway.model.trunk import BUDGET
from cutaway.progress import meter

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

__all__ = ["METRICS", "Attribution", "Cell", "Patched", "Path", "attribution", "path", "run"]

Neurons: TypeAlias = int | Sequence[tuple[int, int]] | None
NEURONS = "B P M"  # the shape of sites of neurons


@dataclass(frozen=True, eq=False, repr=False)
class Patched(Cells):
    """The metric with each cell patched."""

    analysis: ClassVar[str] = "patching.run"
    title: ClassVar[str] = "Which states carry the answer?"

    token_layers: int  # computed: blocks times positions
    plain_token_layers: int  # that two whole runs and one for each cell would compute

    @property
    def done(self) -> int:
        """How many cells were computed: all of them, unless it was interrupted."""
        return int(self.values.isfinite().sum())

    def summary(self) -> str:
        what = {
            "restore": "the corrupted text with one clean value put in",
            "corrupt": "the clean text with one corrupted value put in",
        }[self.direction]
        whole = self.done == len(self.cells)
        missing = "" if whole else f" (of {len(self.cells):,}: interrupted)"
        cells = f"{self.done:,} cell{'s' * (self.done != 1)}{missing}"
        lines = [self._levels(), f"{what}; {cells}, the largest (0 corrupted, 1 clean):", *self._best()]
        if whole:
            fewer = f"{self.plain_token_layers / self.token_layers:.1f} x fewer"
            lines.append(f"{self.token_layers:,} token-layers computed, {self.plain_token_layers:,} plainly: {fewer}")
        return "\n".join(lines)

    def caption(self) -> str:
        what = {
            "restore": "The corrupted text runs with one value of the clean run put in its place: orange where that "
            "brings the answer back",
            "corrupt": "The clean text runs with one value of the corrupted run put in its place: blue where that "
            "destroys the answer",
        }[self.direction]
        tokens = any(len(cell.positions) == 1 for cell in self.cells)
        both = " Where the texts differ both tokens are shown, clean first." if tokens else ""
        return (
            f"{what}. The scale is the {self.measured}: 0 as after the corrupted text ({self.corrupted_value:+.3g}), "
            f"1 as after the clean one ({self.clean_value:+.3g}).{both}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Cells):
    """Gradients' estimate of the metric with each cell patched, and the exact numbers where they were asked for."""

    analysis: ClassVar[str] = "patching.attribution"
    title: ClassVar[str] = "Which states carry the answer, by gradients?"

    exact: Tensor | None  # float64: of each cell

    @property
    def exact_normalized(self) -> Tensor | None:
        if self.exact is None:
            return None
        return (self.exact - self.corrupted_value) / (self.clean_value - self.corrupted_value)

    def agreement(self) -> tuple[float, float]:
        """Pearson's and Spearman's correlation of the estimates with the exact numbers, over cells.

        NaN without exact numbers, or with fewer than two different ones.
        """
        return (math.nan, math.nan) if self.exact is None else agreement(self.values, self.exact)

    def table(self) -> pd.DataFrame:
        """As Patched's: value and normalized are the estimates; with exact numbers, exact and exact_normalized."""
        table = super().table()
        if self.exact is None or self.exact_normalized is None:
            return table
        return table.assign(exact=self.exact.numpy(), exact_normalized=self.exact_normalized.numpy())

    def summary(self) -> str:
        lines = [
            self._levels(),
            f"{self.direction}, estimated by gradients (two forward passes, one backward); {len(self.cells):,} cells, "
            "the largest (0 corrupted, 1 clean):",
            *self._best(),
        ]
        if self.exact is not None:
            lines.append(self._agreement())
        return "\n".join(lines)

    def _agreement(self) -> str:
        pearson, spearman = self.agreement()
        return f"agreement with the exact numbers over cells: Pearson {pearson:.3f}, Spearman {spearman:.3f}"

    def facts(self) -> list[tuple[str, str]]:
        if self.exact is None:
            return []
        return [("attribution patching's agreement", f"Pearson {self.agreement()[0]:.2f}")]

    def caption(self) -> str:
        text = (
            "To first order, what putting the other run's value in would do: the gradient at the "
            f"{'corrupted' if self.direction == 'restore' else 'clean'} run times the difference of the two runs. The "
            f"scale is the {self.measured}: 0 as after the corrupted text, 1 as after the clean one."
        )
        if self.exact is None:
            return text
        return f"{text} Beside it each cell's exact number; on the dashed line the two are equal."


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
