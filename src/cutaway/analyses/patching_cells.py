"""Cells, and the runs in which they are patched: only what a patch can reach is computed.

A cell is one place: a site, its positions (one, or several at once), and a head or a neuron where the site has them. In
the run of one text it is given the value that it has in the run of the other.

    engine = Engine(model, pair.tokens, sites, first=pair.first)
    for chunk, logits in engine.run(cells, row=1): ...            # row 1 runs, row 0 gives the values

What need not be computed:

    a value that is equal in both runs (all of those before the first different token) changes nothing;
    a stream that equals the other run's wherever the two differ goes on as the other run does;
    blocks below the patched one, and positions before it: a patched stream enters the next block, from there on;
    of the patched block itself, for sites that reach no other position before the next block, that position alone;
    in the last block, anything but the final position.

Patched streams of all layers go up together: those of layer 3 join those of layer 2 on their way, so that a block's
weights are read once for all of them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.arguments import is_whole, shown
from cutaway.errors import InputError
from cutaway.model.trunk import BUDGET, Trunk

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.sites import Site
    from cutaway.tokens import Tokens

# Sites that attention reads: a change at a position reaches later ones inside the same block.
READ = {"resid_pre", "attn_in", "k_input", "v_input", "ln1.scale", "ln1.normalized", "ln1.out", "attn.k", "attn.v"}
STREAMS = {"resid_pre", "resid_mid", "resid_post"}  # what all later computation follows from
WRITTEN = {"attn.scores", "attn.pattern"}  # whose capture makes attention write its matrices out
SPREAD = {"attn_in", "q_input", "k_input", "v_input", "attn.result"}  # one stream a head: heads times as large
WORTH = 32  # tokens: reading a block's weights takes about as long as computing so many


@dataclass(frozen=True, slots=True)
class Cell:
    """One place to patch."""

    site: Site
    positions: tuple[int, ...]  # ascending
    index: int | None = None  # head or neuron

    @property
    def layer(self) -> int:
        assert self.site.layer is not None
        return self.site.layer

    @property
    def by_head(self) -> bool:
        return "H" in self.site.shape.split()

    def at(self, value: Tensor, start: int = 0) -> tuple[Any, ...]:
        """Where this cell lies in one row of its site's value, whose positions begin at `start`."""
        where = torch.tensor(self.positions, device=value.device) - start
        if self.site.shape == "B H P P":
            return (self.index, where)
        return (where,) if self.index is None else (where, self.index)


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
        kinds = {site.kind for site in sites}
        capture = {site.name for site in sites}
        capture |= {f"blocks.{site.layer}.resid_mid" for site in sites if site.kind == "mlp_out"}
        self.trunk = Trunk(model, tokens, capture=sorted(capture), logits="last")
        self.length, self.layers = int(tokens.ids.shape[1]), model.config.n_layers
        self.logits = self.trunk.run.logits[:, 0]  # 2 V
        self._written, self._spread = bool(kinds & WRITTEN), bool(kinds & SPREAD)
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
        last, local = self.length - 1, cell.site.kind not in READ
        if local and cell.layer == self.layers - 1 and last not in cell.positions:
            return row
        if cell.site.kind in STREAMS:
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
            if cell.site.kind not in READ and self.length - 1 in positions:
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
            if some := [(i, task) for i, task in computed if (task.cell.site.kind not in READ) == local]:
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


# --- which cells ---


def choose(
    model: Model,
    length: int,
    sites: str | Sequence[str],
    layers: Sequence[int] | None,
    positions: Sequence[int] | None,
    together: bool | None,
) -> list[Cell]:
    """A cell for each site, position and head; `together`: for each site and head, all the positions at once (None:
    so for sites with heads).

    Raises SiteError for a pattern that matches nothing, InputError for sites outside the blocks, layers or positions
    that are not there.
    """
    found = _sites(model, sites, layers)
    chosen = within(positions, length, "positions", "both texts have {} tokens")
    cells = []
    for site in found:
        heads = range(model.config.n_heads) if "H" in site.shape.split() else [None]
        joint = "H" in site.shape.split() if together is None else together
        parts = [tuple(chosen)] if joint else [(p,) for p in chosen]
        cells += [Cell(site, part, head) for part in parts for head in heads]
    return cells


def of_neurons(
    cells: Sequence[Cell], model: Model, neurons: Sequence[tuple[int, int]], together: bool | None
) -> list[Cell]:
    """Cells of whole sites of neurons, one site a layer -> those of single (layer, neuron)."""
    if not neurons:
        raise InputError("neurons=[] leaves nothing to patch: give (layer, neuron) pairs, or how many")
    by_layer: dict[int, list[Cell]] = {}
    for cell in cells:
        by_layer.setdefault(cell.layer, []).append(cell)
    found = []
    for pair in neurons:
        try:
            layer, neuron = (operator.index(number) for number in pair)
        except (TypeError, ValueError):
            raise InputError(f"neurons holds {pair!r}: (layer, neuron) pairs were expected, or how many") from None
        i = layer + model.config.n_layers if layer < 0 else layer
        if i not in by_layer or not 0 <= neuron < model.config.d_mlp:
            has = f"layers {', '.join(map(str, by_layer))} with neurons 0 to {model.config.d_mlp - 1}"
            raise InputError(f"neuron ({layer}, {neuron}) is not among the sites: {has} were expected")
        here = by_layer[i]
        if together is None or together:
            positions = tuple(sorted({p for cell in here for p in cell.positions}))
            found.append(Cell(here[0].site, positions, neuron))
        else:
            found += [Cell(cell.site, cell.positions, neuron) for cell in here]
    return found


def _sites(model: Model, patterns: str | Sequence[str], layers: Sequence[int] | None) -> list[Site]:
    found = model.sites().match(patterns)
    if not found:
        raise InputError("sites=[] leaves nothing to patch: give at least one, such as 'resid_pre'")
    if outside := [site.name for site in found if site.layer is None]:
        raise InputError(f"{outside[0]!r} lies outside the blocks: sites inside were expected, such as 'resid_pre'")
    kept = set(within(layers, model.config.n_layers, "layers", "the model has {} layers"))
    sites = [site for site in found if site.layer in kept]
    if not sites:
        raise InputError(f"layers={list(layers or [])}: none of the sites is in one of them")
    return sites


def indices(chosen: Iterable[int] | None, name: str) -> list[int] | None:
    """Layers or positions as they were given, as plain numbers; InputError for what is none."""
    if chosen is None:
        return None
    given: list[int] | None
    try:
        given = list(chosen)
    except TypeError:  # no list at all
        given = None
    if given is None or not all(map(is_whole, given)):
        raise InputError(f"{name}={shown(chosen)}: whole numbers were expected, such as [0, -1], or None for all")
    return [operator.index(i) for i in given]


def within(chosen: Sequence[int] | None, n: int, name: str, have: str) -> list[int]:
    """Indices from 0, ascending, each once; negative ones counted from the end."""
    if chosen is None:
        return list(range(n))
    for i in chosen:
        if not -n <= i < n:
            raise InputError(f"{name}={list(chosen)}: {i!r} is not there; {have.format(n)}, 0 to {n - 1}")
    if not chosen:
        raise InputError(f"{name}=[] leaves nothing to patch: give at least one, or None for all")
    return sorted({i % n for i in chosen})
