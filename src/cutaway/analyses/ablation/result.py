"""Hold what an ablation found: the change of the loss, and of other metrics, for each component."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from torch import Tensor

from cutaway.analyses.ablation.components import Ablated
from cutaway.analyses.ablation.metrics import LOSS
from cutaway.errors import InputError
from cutaway.results.bootstrap import remark
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

HOW = {"zero": "zero", "mean": "its mean", "resample": "its value in another text"}
How: TypeAlias = Literal["zero", "mean", "resample"]


@dataclass(frozen=True, eq=False, repr=False)
class Ablation(Result):
    """The change of the loss, and of other metrics, with each component ablated by itself.

    Tensors are float64 on the CPU. A cell is one component.
    """

    analysis: ClassVar[str] = "ablation.run"
    title: ClassVar[str] = "What breaks without it?"

    how: How
    cells: list[Ablated]
    metrics: list[str]  # the loss is the first
    whole: Tensor  # metric; the whole model's means, each over the positions that the metric counts
    change: Tensor  # cell metric; with the cell ablated, less `whole`
    low: Tensor  # cell metric; 95% percentile bootstrap over documents, NaN for a single one
    high: Tensor
    documents: int
    predicted: int  # tokens
    layers: int
    heads: int
    budget: int  # bytes for the states of the cells that run side by side
    at_once: int  # cells side by side, at most
    token_layers: int  # blocks that were run, each times its tokens
    plain_token_layers: int  # token_layers of one whole run for each cell

    def _metric(self, name: str) -> int:
        """Return a metric's place among `metrics`. Raises InputError for one that was not measured."""
        if name not in self.metrics:
            raise InputError(f"{name!r} was not measured: there are {', '.join(self.metrics)}")
        return self.metrics.index(name)

    def of(self, kind: str, metric: str = LOSS) -> Tensor:
        """Return the changes of one kind of component: heads [layer, head], mlps and layers [layer], sites [site].

        Where only some heads were ablated they are [head], like neurons: in the order of `cells`.

        Raises InputError for a kind that was not ablated or a metric that was not measured.
        """
        singular = kind.removesuffix("s")
        cells = [i for i, cell in enumerate(self.cells) if cell.kind == singular]
        if not cells:
            kinds = ", ".join(dict.fromkeys(f"{cell.kind}s" for cell in self.cells))
            raise InputError(f"no {kind!r} were ablated: there are {kinds}")
        every_head = singular == "head" and len(cells) == self.layers * self.heads
        if every_head:
            cells.sort(key=lambda i: (self.cells[i].layer, self.cells[i].head))
        values = self.change[cells, self._metric(metric)]
        return values.view(self.layers, self.heads) if every_head else values

    def largest(self, k: int = 8, metric: str = LOSS) -> list[tuple[Ablated, float]]:
        """Return the k cells whose ablation changes a metric most, up or down, each with its change."""
        changes = self.change[:, self._metric(metric)].nan_to_num().tolist()
        return sorted(zip(self.cells, changes, strict=True), key=lambda pair: -abs(pair[1]))[:k]

    def table(self) -> pd.DataFrame:
        """Return one row a component: component (its address), kind, layer, head, loss_change (nats), low, high.

        Each other metric m adds m_change, m_low and m_high.
        """
        import pandas as pd

        columns: dict[str, Any] = {
            "component": [cell.name for cell in self.cells],
            "kind": [cell.kind for cell in self.cells],
            "layer": pd.array([cell.layer for cell in self.cells], dtype="Int64"),
            "head": pd.array([cell.head for cell in self.cells], dtype="Int64"),
        }
        for i, name in enumerate(self.metrics):
            before = "" if i == 0 else f"{name}_"
            columns[f"{name}_change"] = self.change[:, i].numpy()
            columns[f"{before}low"] = self.low[:, i].numpy()
            columns[f"{before}high"] = self.high[:, i].numpy()
        return pd.DataFrame(columns)

    def by_layer(self) -> pd.DataFrame:
        """Return one row a layer and kind: layer, kind, cells, loss_change (nats, mean over its cells), largest (the
        component whose ablation raises the loss most) and largest_change."""
        table = self.table().dropna(subset="layer")
        rows = table.groupby(["layer", "kind"], sort=False, as_index=False)
        means = rows.agg(cells=("component", "size"), loss_change=("loss_change", "mean"))
        worst = table.loc[rows["loss_change"].idxmax()["loss_change"].dropna()]
        worst = worst.rename(columns={"component": "largest", "loss_change": "largest_change"})
        return means.merge(worst[["layer", "kind", "largest", "largest_change"]], on=["layer", "kind"], how="left")

    def _span(self, i: int, metric: int = 0) -> str:
        """Return the interval of a cell's change, in brackets; nothing where there is none."""
        low, high = self.low[i, metric].item(), self.high[i, metric].item()
        return "" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f})"

    def summary(self) -> str:
        """Return the five largest changes of each kind of component, with their intervals."""
        lines = [
            f"loss of the whole model: {self.whole[0]:.3f} nats a token; "
            f"change with one component replaced by {HOW[self.how]}:",
        ]
        place = {id(cell): i for i, cell in enumerate(self.cells)}
        for kind in dict.fromkeys(cell.kind for cell in self.cells):
            largest = [pair for pair in self.largest(len(self.cells)) if pair[0].kind == kind][:5]
            width = max(len(cell.name) for cell, _ in largest)
            for cell, change in largest:
                i, more = place[id(cell)], ""
                for m, name in enumerate(self.metrics[1:], 1):
                    more += f"  {name} {self.change[i, m]:+.4g}{self._span(i, m)}"
                lines.append(f"  {cell.name:<{width}}  {change:+.4f}{self._span(i)}{more}")
        where = f"means over {self.predicted:,} tokens of {self.documents} document{'s' * (self.documents > 1)}"
        return "\n".join([*lines, where + remark(self.documents)])

    def facts(self) -> list[tuple[str, str]]:
        """Return the component that the model misses most."""
        [(cell, change)] = self.largest(1)
        return [("missed most when ablated", f"{cell.name} ({change:+.2f} nats)")]

    def caption(self) -> str:
        """Return what the chart shows."""
        more = {"zero": "", "mean": " (at position 0 the mean there)", "resample": ", at the same position"}[self.how]
        spans = "No intervals: one text." if self.documents == 1 else "Intervals are 95%, from resampling documents."
        return (
            f"Change of the mean loss (nats a token; {self.whole[0]:.3f} for the whole model) when one component is "
            f"replaced by {HOW[self.how]}{more}, over {self.predicted:,} tokens; orange: higher without it. The "
            f"shade of a head is the square root of its change. {spans}"
        )
