"""TODO."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.analyses.patching.cells import Cell
from cutaway.model.taps.sites import Role
from cutaway.model.trunk import BUDGET, Trunk

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.sites import Site
    from cutaway.text.tokens import Tokens

WORTH = 32  # tokens: reading a block's weights takes about as long as computing so many


@dataclass(frozen=True, slots=True)
class _Task:
    """A cell that must be computed: which, from what position on, and the first block that it enters as a stream."""

    number: int
    cell: Cell
    start: int
    entry: int


class Engine:
    """Both runs, kept, and patched runs that leave them."""

    def __init__(
        self, model: Model, tokens: Tokens, sites: Sequence[Site], first: int = 0, budget: int = BUDGET
    ) -> None:
        self.model, self.first, self.budget = model, first, budget
        self.edited = bool(model.active_edits)  # which may carry anything to any position
        capture = {site.name for site in sites}
        capture |= {f"blocks.{site.layer}.resid_mid" for site in sites if site.kind == "mlp_out"}
        self.trunk = Trunk(model, tokens, capture=sorted(capture), logits="last")
        self.length, self.layers = int(tokens.ids.shape[1]), model.config.n_layers
        self.logits = self.trunk.run.logits[:, 0]  # 2 V
        self._written = any(Role.MATRIX in site.role for site in sites)
        self._spread = any(Role.PER_HEAD in site.role for site in sites)
        self.token_layers = len(tokens) * self.length * self.layers  # computed so far

    def plain(self, cells: int) -> int:
        """Token-layers of two runs and one for each cell, whole."""
        return (2 + cells) * self.length * self.layers

    def run(self, cells: Sequence[Cell], row: int, known: bool = True) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers of cells and their last logits [n, V], as they come; each cell once. `row` is the one that runs.

        What is known without computing comes first, unless `known` is False.
        """
        tasks: list[_Task] = []
        same: dict[int, list[int]] = {row: [], 1 - row: []}
        for number, cell in enumerate(cells):
            follows = self._follows(cell, row) if known else None
            if follows is None:
                tasks.append(self._task(number, cell))
            else:
                same[follows].append(number)
        for of, numbers in same.items():
            for i in range(0, len(numbers), 1024):
                part = numbers[i : i + 1024]
                yield part, self.logits[of].expand(len(part), -1)
        for chunk in self._chunks(tasks):
            yield [task.number for task in chunk], (self._whole if self.edited else self._sweep)(chunk, row)

    def _follows(self, cell: Cell, row: int) -> int | None:
        """The run whose end a cell's run must have; None where that has to be computed."""
        value = self.trunk.run[cell.site.name]
        here = cell.at(value)
        if torch.equal(value[0][here], value[1][here]):
            return row
        if self.edited:
            return None
        if cell.positions[-1] < self.first:
            return row
        last, local = self.length - 1, Role.ATTENDED not in cell.site.role
        if local and cell.layer == self.layers - 1 and last not in cell.positions:
            return row
        if Role.STREAM in cell.site.role:
            if cell.site.kind != "resid_pre" and cell.layer == self.layers - 1:
                return 1 - row
            others = torch.ones(self.length, dtype=torch.bool)
            others[: self.first] = False
            others[list(cell.positions)] = False
            if torch.equal(value[0][others], value[1][others]):
                return 1 - row
        return None

    def _task(self, number: int, cell: Cell) -> _Task:
        entry = cell.layer + (cell.site.kind != "resid_pre")
        if self.edited:
            return _Task(number, cell, 0, entry)
        positions = tuple(p for p in cell.positions if p >= self.first) or cell.positions
        if entry == self.layers:  # of the last block only the final position is read
            if Role.ATTENDED not in cell.site.role and self.length - 1 in positions:
                positions = (self.length - 1,)
            return _Task(number, Cell(cell.site, positions, cell.index), positions[0], entry)
        return _Task(number, Cell(cell.site, positions, cell.index), positions[0], entry)

    # --- plans ---

    def fitting(self, start: int) -> int:
        """Rows that fit the budget."""
        heads = self.model.config.n_heads if self._spread else 1
        return max(1, self.trunk.fitting(self.budget // heads, self.trunk.start(start), patterns=self._written))

    def _chunks(self, tasks: list[_Task]) -> Iterator[list[_Task]]:
        """Tasks that run together, in the budget: by first position (by layer, where edits are in force)."""
        groups: list[list[_Task]]
        if self.edited:
            layers = sorted({task.cell.layer for task in tasks})
            groups = [[task for task in tasks if task.cell.layer == layer] for layer in layers]
        else:
            groups = [*self._by_start([t for t in tasks if t.entry < self.layers])]
            groups += self._by_start([t for t in tasks if t.entry == self.layers])
        for group in groups:
            rows = self.fitting(min(task.start for task in group))
            group = sorted(group, key=lambda task: (task.entry, task.start, task.number))
            for i in range(0, len(group), rows):
                yield group[i : i + rows]

    def _by_start(self, tasks: list[_Task]) -> Iterator[list[_Task]]:
        """Neighbouring first positions go together as long as that costs less than reading the weights again."""
        group: list[_Task] = []
        extra = 0.0
        for start in sorted({task.start for task in tasks}):
            here = [task for task in tasks if task.start == start]
            # of the blocks, how many a task goes through, on average, is how many of them are on the way at a time
            way = sum(self.layers - task.entry for task in here) / self.layers
            extra += way * (start - group[0].start) if group else 0.0
            if group and extra > WORTH:
                yield group
                group, extra = [], 0.0
            group += here
        if group:
            yield group

    # --- runs ---

    def _whole(self, tasks: list[_Task], row: int) -> Tensor:
        """Last logits of cells of one layer, by edits of all positions: edits in force may look anywhere."""
        layer = tasks[0].cell.layer
        self.token_layers += len(tasks) * self.length * (self.layers - layer)
        edits = self._edits(tasks, 1 - row, 0, self.length)
        return self.trunk.branch(layer, rows=[row] * len(tasks), edits=edits, logits="last").logits[:, 0]

    def _sweep(self, tasks: list[_Task], row: int) -> Tensor:
        """Last logits of tasks that are in the order of their entries, each a row that joins at its entry."""
        start = min(task.start for task in tasks)
        if tasks[0].entry == self.layers:
            x = self._enter(tasks, row, start)[:, -1:]
            start = self.length - 1
            return self.trunk.branch(self.layers, rows=[row] * len(x), start=start, x=x, logits="last").logits[:, 0]
        streams: list[Tensor] = []
        for layer in range(tasks[0].entry, self.layers):
            if new := [task for task in tasks if task.entry == layer]:
                streams.append(self._enter(new, row, start))
            x = streams[0] if len(streams) == 1 else torch.cat(streams)
            self.token_layers += x.shape[0] * x.shape[1]
            rows, site = [row] * len(x), f"blocks.{layer}.resid_post"
            if layer == self.layers - 1:
                return self.trunk.branch(layer, rows=rows, start=start, x=x, logits="last").logits[:, 0]
            streams = [self.trunk.branch(layer, rows=rows, start=start, x=x, capture=[site], logits=None)[site]]
        raise AssertionError("a sweep ends in the last block")

    def _enter(self, tasks: list[_Task], row: int, start: int) -> Tensor:
        """The patched streams of tasks of one entry, as they enter that block: [n, length - start, D]."""
        entry = tasks[0].entry
        x = self.trunk.resid[entry][row, start:].repeat(len(tasks), 1, 1)
        computed: list[tuple[int, _Task]] = []
        for i, task in enumerate(tasks):
            cell, run = task.cell, self.trunk.run
            new = run[cell.site.name][1 - row]
            if cell.site.kind in ("resid_pre", "resid_post"):
                x[i][cell.at(x[i], start)] = new[cell.at(new)]
            elif cell.site.kind == "mlp_out":
                whole = run[f"blocks.{cell.layer}.resid_mid"][row] + new
                x[i][cell.at(x[i], start)] = whole[cell.at(whole)]
            else:
                computed.append((i, task))
        for local in (True, False):
            if some := [(i, task) for i, task in computed if (Role.ATTENDED not in task.cell.site.role) == local]:
                self._compute(x, some, row, start, local)
        return x

    def _compute(self, x: Tensor, some: list[tuple[int, _Task]], row: int, start: int, local: bool) -> None:
        """Run the patched block itself, where its change is, and write what leaves it into the streams."""
        tasks = [task for _, task in some]
        low = min(task.start for task in tasks)
        high = max(task.cell.positions[-1] for task in tasks) + 1 if local else self.length
        layer = tasks[0].cell.layer
        site = f"blocks.{layer}.resid_post"
        edits = self._edits(tasks, 1 - row, low, high)
        self.token_layers += len(tasks) * (high - low)
        run = self.trunk.branch(
            layer, rows=[row] * len(tasks), start=low, end=high, edits=edits, capture=[site], logits=None
        )
        x[[i for i, _ in some], low - start : high - start] = run[site]

    def _edits(self, tasks: list[_Task], other: int, low: int, high: int) -> dict[str, Any]:
        """An edit for each site that gives each task's row, whose positions begin at `low`, the other run's values."""
        by_site: dict[str, list[tuple[int, Cell]]] = {}
        for i, task in enumerate(tasks):
            by_site.setdefault(task.cell.site.name, []).append((i, task.cell))

        def edit(value: Tensor, ctx: Any) -> Tensor:
            new = self.trunk.run[ctx.site][other]
            if ctx.site.endswith((".pattern", ".scores")):
                new = new[..., :high]  # later keys are not looked at
            for i, cell in by_site[ctx.site]:
                value[i][cell.at(value[i], low)] = new[cell.at(new)]
            return value

        return dict.fromkeys(by_site, edit)
