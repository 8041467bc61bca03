"""What every patching result holds: a number for each cell, on a scale from the corrupted run to the clean one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import Tensor

from cutaway.analyses.patching_cells import Cell
from cutaway.analyses.patching_pair import UNITS
from cutaway.analyses.result import Result

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
