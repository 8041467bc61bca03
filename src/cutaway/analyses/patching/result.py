"""Hold what patching found: a number for each cell, on a scale from the corrupted run to the clean one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from cutaway.analyses.patching.cells import Cell
from cutaway.analyses.patching.metrics import UNITS
from cutaway.errors import Interrupted
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 8  # cells that a summary names


@dataclass(frozen=True, eq=False, repr=False)
class Cells(Result):
    """The base of all results of patching: the metric with each cell patched, NaN where it was not computed."""

    tokens: list[str]  # of the clean text
    display: list[str]
    corrupted_tokens: list[str]
    corrupted_display: list[str]
    metric: str
    answer: str | None
    versus: str | None
    display_answer: str | None
    display_versus: str | None
    clean_value: float  # the metric after the clean text
    corrupted_value: float
    direction: str
    cells: list[Cell]
    values: Tensor  # float64, on the CPU: the metric of each cell

    @property
    def base(self) -> float:
        """Return the unpatched run's place on the normalized scale: 0 when restoring, 1 when corrupting."""
        return 0.0 if self.direction == "restore" else 1.0

    @property
    def normalized(self) -> Tensor:
        """Return the values on the scale where 0 is the corrupted run and 1 the clean one."""
        return self._normalize(self.values)

    def _normalize(self, values: Tensor) -> Tensor:
        """Return values of the metric on the normalized scale."""
        return (values - self.corrupted_value) / (self.clean_value - self.corrupted_value)

    @property
    def measured(self) -> str:
        """Return the metric with its tokens, such as "logit difference ·world - ·people"."""
        if self.display_versus is not None:
            return f"{self.metric} {self.display_answer} - {self.display_versus}"
        return self.metric if self.display_answer is None else f"{self.metric} of {self.display_answer}"

    @property
    def unit(self) -> str:
        """Return the metric with its unit."""
        return UNITS.get(self.metric, self.metric)

    @property
    def done(self) -> int:
        """Return how many cells were computed: all of them, unless it was interrupted."""
        return int(self.values.isfinite().sum())

    def largest(self, k: int = LARGEST) -> list[tuple[Cell, float]]:
        """Return the k cells that move the metric most, up or down, with their normalized values."""
        normalized = self.normalized
        effects = (normalized - self.base).abs().nan_to_num(-1)
        best = effects.topk(min(k, len(effects))).indices.tolist()
        return [(self.cells[i], normalized[i].item()) for i in best if effects[i] >= 0]

    def name(self, cell: Cell) -> str:
        """Return a cell in a few words."""
        where = ""
        if len(cell.positions) == 1:
            [i] = cell.positions
            where = f" at {i} {self.shown(i)}"
        elif len(cell.positions) < len(self.tokens):
            where = f" at {len(cell.positions)} positions"
        return f"{cell.name}{where}"

    def shown(self, position: int) -> str:
        """Return the token at a position, or both tokens where the texts differ."""
        clean, corrupted = self.display[position], self.corrupted_display[position]
        return clean if self.tokens[position] == self.corrupted_tokens[position] else f"{clean}/{corrupted}"

    def table(self) -> pd.DataFrame:
        """Return one row a cell: site, kind, layer, position (missing where the cell has several), token, head,
        neuron, value, normalized, component (the cell's address, or its site)."""
        import pandas as pd

        rows = []
        for cell in self.cells:
            one = cell.positions[0] if len(cell.positions) == 1 else None
            head = cell.index if cell.by_head else None
            neuron = None if cell.by_head else cell.index
            token = None if one is None else self.tokens[one]
            rows.append((cell.site.name, cell.site.kind, cell.layer, one, token, head, neuron))
        frame = pd.DataFrame(rows, columns=["site", "kind", "layer", "position", "token", "head", "neuron"])
        frame = frame.astype(dict.fromkeys(["layer", "position", "head", "neuron"], "Int64"))
        numbers = {"value": self.values.numpy(), "normalized": self.normalized.numpy()}
        return frame.assign(**numbers, component=[cell.name for cell in self.cells])

    def _levels(self) -> str:
        """Return the metric's values on the two runs, in words."""
        return f"{self.measured}: {self.clean_value:+.4g} clean, {self.corrupted_value:+.4g} corrupted"

    def _best(self) -> list[str]:
        """Return a line for each of the largest cells."""
        largest = [(self.name(cell), value) for cell, value in self.largest()]
        width = max((len(name) for name, _ in largest), default=0)
        return [f"  {name:<{width}}  {value:7.3f}" for name, value in largest]

    def _count(self, unit: str) -> str:
        """Return how many cells are done, in words."""
        missing = "" if self.done == len(self.cells) else f" (of {len(self.cells):,}: interrupted)"
        return f"{self.done:,} {unit}{'s' * (self.done != 1)}{missing}"


@dataclass(frozen=True, eq=False, repr=False)
class Patched(Cells):
    """Activation patching: the metric with each cell patched."""

    analysis: ClassVar[str] = "patching.run"
    title: ClassVar[str] = "Which states carry the answer?"

    token_layers: int  # computed: blocks times positions
    plain_token_layers: int  # of two whole runs and one for each cell

    def summary(self) -> str:
        """Return the metric's levels, the largest cells, and the token-layers computed."""
        what = {
            "restore": "the corrupted text with one clean value put in",
            "corrupt": "the clean text with one corrupted value put in",
        }[self.direction]
        lines = [self._levels(), f"{what}; {self._count('cell')}, the largest (0 corrupted, 1 clean):", *self._best()]
        if self.done == len(self.cells):
            fewer = f"{self.plain_token_layers / self.token_layers:.1f} x fewer"
            lines.append(f"{self.token_layers:,} token-layers computed, {self.plain_token_layers:,} plainly: {fewer}")
        return "\n".join(lines)

    def caption(self) -> str:
        """Return what the chart shows."""
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
    """Attribution patching: estimates of the metric with each cell patched, and the exact numbers if asked for."""

    analysis: ClassVar[str] = "patching.attribution"
    title: ClassVar[str] = "Which states carry the answer, by gradients?"

    exact: Tensor | None  # float64, the exact number of each cell

    @property
    def done(self) -> int:
        """Return how many cells were computed: exact numbers where they were asked for, otherwise estimates."""
        return int((self.values if self.exact is None else self.exact).isfinite().sum())

    @property
    def exact_normalized(self) -> Tensor | None:
        """Return the exact numbers on the normalized scale; None without exact numbers."""
        if self.exact is None:
            return None
        return self._normalize(self.exact)

    def agreement(self) -> tuple[float, float]:
        """Return Pearson's and Spearman's correlation of the estimates with the exact numbers, over cells.

        NaN without exact numbers, or where either side has fewer than two different ones.
        """
        from scipy import stats

        if self.exact is None:
            return math.nan, math.nan
        known = self.exact.isfinite()
        a, b = self.values[known].numpy(), self.exact[known].numpy()
        if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
            return math.nan, math.nan
        return float(stats.pearsonr(a, b).statistic), float(stats.spearmanr(a, b).statistic)

    def table(self) -> pd.DataFrame:
        """Return Patched's table of the estimates; exact numbers add exact and exact_normalized."""
        table = super().table()
        if self.exact is None or self.exact_normalized is None:
            return table
        return table.assign(exact=self.exact.numpy(), exact_normalized=self.exact_normalized.numpy())

    def summary(self) -> str:
        """Return the metric's levels, the largest estimates, and their agreement with the exact numbers."""
        lines = [
            self._levels(),
            f"{self.direction}, estimated by gradients (two forward passes, one backward); {len(self.cells):,} cells, "
            "the largest (0 corrupted, 1 clean):",
            *self._best(),
        ]
        if self.exact is not None:
            pearson, spearman = self.agreement()
            lines.append(f"agreement with the exact numbers over cells: Pearson {pearson:.3f}, Spearman {spearman:.3f}")
        return "\n".join(lines)

    def facts(self) -> list[tuple[str, str]]:
        """Return the estimates' correlation with the exact numbers."""
        if self.exact is None:
            return []
        return [("attribution patching's agreement", f"Pearson {self.agreement()[0]:.2f}")]

    def caption(self) -> str:
        """Return what the chart shows."""
        text = (
            "To first order, the effect of putting the other run's value in: the gradient at the "
            f"{'corrupted' if self.direction == 'restore' else 'clean'} run times the difference of the two runs. The "
            f"scale is the {self.measured}: 0 as after the corrupted text, 1 as after the clean one."
        )
        if self.exact is None:
            return text
        return f"{text} Beside it each cell's exact number; on the dashed line the two are equal."


@dataclass(frozen=True, eq=False, repr=False)
class Path(Cells):
    """Path patching: the metric with each sender's message to one receiver patched. A cell is a sender."""

    analysis: ClassVar[str] = "patching.path"
    title: ClassVar[str] = "Who tells it, directly?"

    receiver: str
    through_mlps: bool

    def name(self, cell: Cell) -> str:
        """Return a sender's address."""
        return cell.name

    def summary(self) -> str:
        """Return the metric's levels and the largest senders."""
        frozen = "attention frozen, MLPs recomputed" if self.through_mlps else "all else frozen"
        senders = self._count("sender")
        return "\n".join(
            [
                self._levels(),
                f"{self.direction}, from {senders} to {self.receiver}, {frozen}; the largest (0 corrupted, 1 clean):",
                *self._best(),
            ]
        )

    def facts(self) -> list[tuple[str, str]]:
        """Return the sender with the largest effect."""
        return [
            (f"largest direct effect on {self.receiver}", f"{self.name(cell)} ({value:.2f})")
            for cell, value in self.largest(1)
        ]

    def caption(self) -> str:
        """Return what the chart shows."""
        text, other = ("corrupted", "clean") if self.direction == "restore" else ("clean", "corrupted")
        way = "through the residual stream and MLPs" if self.through_mlps else "straight through the residual stream"
        reads = "the logits read" if self.receiver == "logits" else f"{self.receiver} reads"
        return (
            f"The {text} text runs with one change in what {reads}: one sender's part is that of the {other} run, "
            f"carried {way}. The scale is the {self.measured}: 0 as after the corrupted text "
            f"({self.corrupted_value:+.3g}), 1 as after the clean one ({self.clean_value:+.3g})."
        )


@contextmanager
def keep_when_interrupted(partial: Callable[[], Cells], unit: str) -> Iterator[None]:
    """Turn Ctrl-C inside the block into Interrupted, whose result is what is done by then."""
    try:
        yield
    except KeyboardInterrupt:
        result = partial()
        done = f"{result.done:,} of {len(result.cells):,} {unit} are done"
        raise Interrupted(result, f"interrupted: {done}") from None
