"""What every patching result holds: a number for each cell, on a scale from the corrupted run to the clean one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from torch import Tensor

from cutaway.analyses.patching.cells import Cell
from cutaway.analyses.patching.gradients import agreement
from cutaway.analyses.patching.pair import UNITS
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd


if TYPE_CHECKING:
    import pandas as pd

Direction: TypeAlias = Literal["restore", "corrupt"]
LARGEST = 8  # cells that a summary names


@dataclass(frozen=True, eq=False, repr=False)
class Cells(Result):
    """A number for each cell: the metric with that cell patched, NaN where it was not computed."""

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
        """Where an unpatched run stands on the normalized scale: 0 when restoring, 1 when corrupting."""
        return 0.0 if self.direction == "restore" else 1.0

    @property
    def normalized(self) -> Tensor:
        """0 where the metric is as after the corrupted text, 1 where it is as after the clean one."""
        return (self.values - self.corrupted_value) / (self.clean_value - self.corrupted_value)

    @property
    def measured(self) -> str:
        """The metric in words, its tokens named."""
        if self.display_versus is not None:
            return f"{self.metric} {self.display_answer} - {self.display_versus}"
        return self.metric if self.display_answer is None else f"{self.metric} of {self.display_answer}"

    @property
    def unit(self) -> str:
        return UNITS.get(self.metric, self.metric)

    def largest(self, k: int = LARGEST) -> list[tuple[Cell, float]]:
        """The cells that move the metric most, either way, with their normalized values."""
        found = self.normalized
        effects = (found - self.base).abs().nan_to_num(-1)
        best = effects.topk(min(k, len(effects))).indices.tolist()
        return [(self.cells[i], found[i].item()) for i in best if effects[i] >= 0]

    def name(self, cell: Cell) -> str:
        """A cell in a few words."""
        index = "" if cell.index is None else f" {'head' if cell.by_head else 'neuron'} {cell.index}"
        where = ""
        if len(cell.positions) == 1:
            [i] = cell.positions
            where = f" at {i} {self.shown(i)}"
        elif len(cell.positions) < len(self.tokens):
            where = f" at {len(cell.positions)} positions"
        return f"{cell.site.name}{index}{where}"

    def shown(self, position: int) -> str:
        """The token at a position, or both where the texts differ."""
        clean, corrupted = self.display[position], self.corrupted_display[position]
        return clean if self.tokens[position] == self.corrupted_tokens[position] else f"{clean}/{corrupted}"

    def table(self) -> pd.DataFrame:
        """One row a cell: site, kind, layer, position (none: all the chosen ones), token, head, neuron, value,
        normalized."""
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
        return frame.assign(value=self.values.numpy(), normalized=self.normalized.numpy())

    def _levels(self) -> str:
        return f"{self.measured}: {self.clean_value:+.4g} clean, {self.corrupted_value:+.4g} corrupted"

    def _best(self) -> list[str]:
        found = [(self.name(cell), value) for cell, value in self.largest()]
        width = max((len(name) for name, _ in found), default=0)
        return [f"  {name:<{width}}  {value:7.3f}" for name, value in found]


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
