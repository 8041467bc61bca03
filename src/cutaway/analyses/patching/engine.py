"""Run one text with cells of the other's run patched in, computing only what a patch can reach.

    engine = Engine(model, pair.tokens, sites, first=pair.first)
    for numbers, logits in engine.run(cells, row=1): ...          # row 1 runs, row 0 gives the values

What need not be computed:

    a value that is equal in both runs (so is every value before the first different token) changes nothing;
    a stream that equals the other run's wherever the two differ goes on as the other run does;
    blocks below the patched one, and positions before it: a patched stream enters the next block, from there on;
    in the patched block, positions other than the patched one, where attention does not read the site;
    in the last block, anything but the final position.

Patched streams of all layers go up together: streams patched in layer 3 join those of layer 2 on their way, so that a
block's weights are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.analyses.patching.cells import Cell
from cutaway.arguments import whole
from cutaway.model.trunk import BUDGET, Trunk
from cutaway.progress import meter

if TYPE_CHECKING:
    from cutaway.analyses.patching.metrics import Measure
    from cutaway.analyses.patching.pair import Pair
    from cutaway.model.model import Model
    from cutaway.model.taps.sites import Site
    from cutaway.text.tokens import Tokens

# Sites that attention reads: a change at a position reaches later ones inside the same block.
READ = {"resid_pre", "attn_in", "k_input", "v_input", "ln1.scale", "ln1.normalized", "ln1.out", "attn.k", "attn.v"}
STREAMS = {"resid_pre", "resid_mid", "resid_post"}  # what all later computation follows from
WRITTEN = {"attn.scores", "attn.pattern"}  # whose capture makes attention write its matrices out
SPREAD = {"attn_in", "q_input", "k_input", "v_input", "attn.result"}  # one stream a head: heads times as large
WORTH = 32  # tokens: reading a block's weights takes about as long as computing this many


@dataclass(frozen=True, slots=True)
class _Patch:
    """A patch to run: its number, the first position to recompute, and the first block whose input it changes."""

    number: int
    cell: Cell
    start: int
    entry: int


class Engine:
    """Both runs of a pair, and the patched runs that branch off one of them.

    Attributes:
        logits: the last logits of the two runs, [2, V].
        token_layers: blocks run so far, each times its positions.
    """

    def __init__(
        self, model: Model, tokens: Tokens, sites: Sequence[Site], first: int = 0, budget: int = BUDGET
    ) -> None:
        self.model, self.first, self.budget = model, first, budget
        self.edited = bool(model.active_edits)  # they may carry anything to any position
        kinds = {site.kind for site in sites}
        capture = {site.name for site in sites}
        capture |= {f"blocks.{site.layer}.resid_mid" for site in sites if site.kind == "mlp_out"}
        self.trunk = Trunk(model, tokens, capture=sorted(capture), logits="last")
        self.length, self.layers = int(tokens.ids.shape[1]), model.config.n_layers
        self.logits = self.trunk.run.logits[:, 0]  # 2 V
        self._written, self._spread = bool(kinds & WRITTEN), bool(kinds & SPREAD)
        self.token_layers = len(tokens) * self.length * self.layers

    @classmethod
    def for_pair(cls, model: Model, pair: Pair, cells: Sequence[Cell], budget: int) -> Engine:
        """Return an engine for some cells of a pair. Raises InputError for a budget below 1."""
        sites = list({cell.site: None for cell in cells})
        return cls(model, pair.tokens, sites, pair.first, whole("budget", budget, 1))

    def plain(self, cells: int) -> int:
        """Return the token-layers of two whole runs and one for each cell."""
        return (2 + cells) * self.length * self.layers

    def run(self, cells: Sequence[Cell], row: int, known: bool = True) -> Iterator[tuple[list[int], Tensor]]:
        """Yield numbers of cells and their last logits [n, V], each cell once; `row` is the row that runs.

        Cells whose logits are known without a run come first; with `known` False every cell is run.
        """
        patches: list[_Patch] = []
        same: dict[int, list[int]] = {row: [], 1 - row: []}
        for number, cell in enumerate(cells):
            end = self._known_row(cell, row) if known else None
            if end is None:
                patches.append(self._patch(number, cell))
            else:
                same[end].append(number)
        for end, numbers in same.items():
            for i in range(0, len(numbers), 1024):
                part = numbers[i : i + 1024]
                yield part, self.logits[end].expand(len(part), -1)
        for chunk in self._chunks(patches):
            yield [patch.number for patch in chunk], (self._whole if self.edited else self._sweep)(chunk, row)

    def _known_row(self, cell: Cell, row: int) -> int | None:
        """Return the row (clean or corrupted) whose logits this patch must reproduce exactly, or None if the patched
        run has to be computed."""
        value = self.trunk.run[cell.site.name]
        patched = cell.at(value)
        if torch.equal(value[0][patched], value[1][patched]):
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

    def _patch(self, number: int, cell: Cell) -> _Patch:
        """Return the patch to run for a cell, without the positions that do not matter."""
        entry = cell.layer + (cell.site.kind != "resid_pre")
        if self.edited:
            return _Patch(number, cell, 0, entry)
        positions = tuple(p for p in cell.positions if p >= self.first) or cell.positions
        # After the last block only the final position is read.
        if entry == self.layers and cell.site.kind not in READ and self.length - 1 in positions:
            positions = (self.length - 1,)
        return _Patch(number, Cell(cell.site, positions, cell.index), positions[0], entry)

    # --- plans ---

    def fitting(self, start: int) -> int:
        """Return how many rows from `start` on fit the budget."""
        heads = self.model.config.n_heads if self._spread else 1
        return max(1, self.trunk.fitting(self.budget // heads, self.trunk.start(start), patterns=self._written))

    def _chunks(self, patches: list[_Patch]) -> Iterator[list[_Patch]]:
        """Yield patches that run together within the budget: by first position, or by layer under edits in force."""
        groups: list[list[_Patch]]
        if self.edited:
            layers = sorted({patch.cell.layer for patch in patches})
            groups = [[patch for patch in patches if patch.cell.layer == layer] for layer in layers]
        else:
            groups = [*self._by_start([t for t in patches if t.entry < self.layers])]
            groups += self._by_start([t for t in patches if t.entry == self.layers])
        for group in groups:
            rows = self.fitting(min(patch.start for patch in group))
            group = sorted(group, key=lambda patch: (patch.entry, patch.start, patch.number))
            for i in range(0, len(group), rows):
                yield group[i : i + rows]

    def _by_start(self, patches: list[_Patch]) -> Iterator[list[_Patch]]:
        """Yield patches grouped by first position.

        Neighbouring positions go together as long as that costs less than reading the weights again.
        """
        group: list[_Patch] = []
        extra = 0.0
        for start in sorted({patch.start for patch in patches}):
            same = [patch for patch in patches if patch.start == start]
            # A patch crosses (layers - entry) of `layers` blocks, so on average that share is active in a block.
            way = sum(self.layers - patch.entry for patch in same) / self.layers
            extra += way * (start - group[0].start) if group else 0.0
            if group and extra > WORTH:
                yield group
                group, extra = [], 0.0
            group += same
        if group:
            yield group

    # --- runs ---

    def _whole(self, patches: list[_Patch], row: int) -> Tensor:
        """Return last logits of patches in one layer, from runs over all positions, where edits in force may look."""
        layer = patches[0].cell.layer
        self.token_layers += len(patches) * self.length * (self.layers - layer)
        edits = self._edits(patches, 1 - row, 0, self.length)
        return self.trunk.branch(layer, rows=[row] * len(patches), edits=edits, logits="last").logits[:, 0]

    def _sweep(self, patches: list[_Patch], row: int) -> Tensor:
        """Return last logits of patches sorted by entry. Each is a row that joins the batch at its entry."""
        start = min(patch.start for patch in patches)
        if patches[0].entry == self.layers:
            x = self._enter(patches, row, start)[:, -1:]
            start = self.length - 1
            return self.trunk.branch(self.layers, rows=[row] * len(x), start=start, x=x, logits="last").logits[:, 0]
        streams: list[Tensor] = []
        for layer in range(patches[0].entry, self.layers):
            if new := [patch for patch in patches if patch.entry == layer]:
                streams.append(self._enter(new, row, start))
            x = streams[0] if len(streams) == 1 else torch.cat(streams)
            self.token_layers += x.shape[0] * x.shape[1]
            rows, site = [row] * len(x), f"blocks.{layer}.resid_post"
            if layer == self.layers - 1:
                return self.trunk.branch(layer, rows=rows, start=start, x=x, logits="last").logits[:, 0]
            streams = [self.trunk.branch(layer, rows=rows, start=start, x=x, capture=[site], logits=None)[site]]
        raise AssertionError("a sweep ends in the last block")

    def _enter(self, patches: list[_Patch], row: int, start: int) -> Tensor:
        """Return the patched streams of patches of one entry, as they enter that block: [n, length - start, D]."""
        entry = patches[0].entry
        x = self.trunk.resid[entry][row, start:].repeat(len(patches), 1, 1)
        computed: list[tuple[int, _Patch]] = []
        for i, patch in enumerate(patches):
            cell, run = patch.cell, self.trunk.run
            new = run[cell.site.name][1 - row]
            if cell.site.kind in ("resid_pre", "resid_post"):
                x[i][cell.at(x[i], start)] = new[cell.at(new)]
            elif cell.site.kind == "mlp_out":
                out = run[f"blocks.{cell.layer}.resid_mid"][row] + new
                x[i][cell.at(x[i], start)] = out[cell.at(out)]
            else:
                computed.append((i, patch))
        for local in (True, False):
            if some := [(i, patch) for i, patch in computed if (patch.cell.site.kind not in READ) == local]:
                self._compute(x, some, row, start, local)
        return x

    def _compute(self, x: Tensor, some: list[tuple[int, _Patch]], row: int, start: int, local: bool) -> None:
        """Run the patched block at the positions that change, and write what leaves it into the streams `x`."""
        patches = [patch for _, patch in some]
        low = min(patch.start for patch in patches)
        high = max(patch.cell.positions[-1] for patch in patches) + 1 if local else self.length
        layer = patches[0].cell.layer
        site = f"blocks.{layer}.resid_post"
        edits = self._edits(patches, 1 - row, low, high)
        self.token_layers += len(patches) * (high - low)
        run = self.trunk.branch(
            layer, rows=[row] * len(patches), start=low, end=high, edits=edits, capture=[site], logits=None
        )
        x[[i for i, _ in some], low - start : high - start] = run[site]

    def _edits(self, patches: list[_Patch], other: int, low: int, high: int) -> dict[str, Any]:
        """Return an edit for each site that puts the values of row `other` into the rows of the patches.

        The rows hold positions from `low` on; attention sees keys below `high`.
        """
        by_site: dict[str, list[tuple[int, Cell]]] = {}
        for i, patch in enumerate(patches):
            by_site.setdefault(patch.cell.site.name, []).append((i, patch.cell))

        def edit(value: Tensor, ctx: Any) -> Tensor:
            new = self.trunk.run[ctx.site][other]
            if ctx.site.endswith((".pattern", ".scores")):
                new = new[..., :high]
            for i, cell in by_site[ctx.site]:
                value[i][cell.at(value[i], low)] = new[cell.at(new)]
            return value

        return dict.fromkeys(by_site, edit)


def patch_all(engine: Engine, measure: Measure, cells: Sequence[Cell], row: int, values: Tensor) -> Iterator[None]:
    """Patch every cell and write its number into `values`, yielding after each batch."""
    with meter("patching", "cells", len(cells)) as advance:
        for numbers, logits in engine.run(cells, row):
            values[numbers] = measure(logits).cpu()
            advance(len(numbers), len(cells))
            yield
