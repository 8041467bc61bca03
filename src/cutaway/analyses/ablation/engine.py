"""The runs behind an ablation: for each component, only what comes after it is computed again.

    scan = Scan(model, cells, replacement, metrics, budget)
    for batch in batches: scan.add(batch)
    scan.totals()

A batch runs once whole. A head is then taken out of the stream between attention and MLP: what stands in for its z,
less its own, through its part of W_O. An MLP or a whole block is taken out of what leaves the block. From there on the
blocks run again, with as many cells side by side as the budget holds. Other sites, and every site of a model with edits
in force, run again from the beginning of the site's block, with the replacement as the last edit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.ablation.metrics import Losses, Metrics
from cutaway.analyses.ablation.replacements import Replacement, Values
from cutaway.model.architectures import gpt2
from cutaway.model.modes import plainly
from cutaway.model.taps.tap import Context, EditFunction, Tap
from cutaway.model.trunk import Trunk
from cutaway.stopping import undisturbed
from cutaway.surveys.reading import BATCH_TOKENS
from cutaway.text.batches import Batch
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model

FINAL = "ln_final.out"


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing that is ablated alone."""

    kind: str  # "head", "mlp", "layer" or "site"
    layer: int | None
    head: int | None
    sites: tuple[str, ...]  # what is replaced, canonical names

    @property
    def name(self) -> str:
        if self.kind == "site":
            return self.sites[0]
        return f"{self.kind} {self.layer}" + ("" if self.head is None else f".{self.head}")

    def first(self, layers: int) -> int:
        """The first block that a run with this cell ablated computes; as many as there are for none of them."""
        if self.layer is None:
            return 0 if self.sites[0] in ("embed", "pos_embed") else layers
        return self.layer


@dataclass(frozen=True)
class Totals:
    """Sums by document; row 0 is the whole model, the others the cells that were reached, in their order."""

    documents: list[str]
    counts: Tensor  # document metric
    sums: Tensor  # document 1+cell metric, float64
    tokens: int
    token_layers: int  # blocks that were run, each times its tokens
    plain: int  # as one whole run for each cell would have it
    at_once: int  # cells side by side, at most


class Scan:
    """Ablates every cell in each batch that it is given."""

    def __init__(
        self, model: Model, cells: Sequence[Cell], replacement: Replacement, metrics: Metrics, budget: int
    ) -> None:
        self._model, self._replacement, self._metrics, self._budget = model, replacement, metrics, budget
        self._capture = list(dict.fromkeys(itertools.chain([FINAL], *map(self._needs, cells))))
        self._groups = [list(of) for _, of in itertools.groupby(cells, lambda cell: cell.sites)]
        self._found: dict[int, tuple[str, Tensor, Tensor]] = {}  # by number of the document: name, counts, sums
        self._batch: tuple[Batch, Losses] | None = None  # under way
        self._sums: list[Tensor] = []  # of it: cell metric document
        self._tokens = self._layers = self._plain = self._at_once = 0

    def _is_short(self, cell: Cell) -> bool:
        """Whether the cell can be taken out of the stream, with no edit."""
        return cell.kind != "site" and not self._model.active_edits

    def _needs(self, cell: Cell) -> list[str]:
        """What of the whole run a short cut starts from, beside what enters the block."""
        if not self._is_short(cell) or cell.kind == "layer":
            return []
        return [f"blocks.{cell.layer}.resid_mid", *(cell.sites if cell.kind == "head" else [])]

    def batch_tokens(self, passes: int) -> int:
        """Width x rows of batches whose own states fit the budget, and one cell's; a window is taken whole, though."""
        c = self._model.config
        kept = c.d_model * (c.n_layers + 1 + len(self._capture) * (1 + passes))
        block = 7 * c.d_model + max(4 * c.d_model, 2 * c.d_mlp)
        return max(1, min(BATCH_TOKENS, self._budget // (self._model.weights.W_E.element_size() * max(kept, block))))

    @plainly
    def add(self, batch: Batch, advance: Callable[[int], object] = lambda _: None) -> None:
        """Run one batch whole, then with each cell ablated; `advance` is told of cells as they are done."""
        layers = self._model.config.n_layers
        trunk = Trunk(self._model, batch.tokens, capture=self._capture, keys=False)
        values = self._replacement.of(batch)
        losses = Losses(self._model, batch, self._metrics, self._budget, trunk.run[FINAL])
        self._batch, self._sums = (batch, losses), [losses.whole[None]]
        self._layers += batch.size * layers * (1 + self._replacement.passes)
        self._plain += batch.size * layers * (1 + self._replacement.passes)
        for cells in self._side_by_side(trunk):
            short = self._is_short(cells[0])
            final = self._taken_out(trunk, cells, values) if short else self._edited(trunk, cells, values)
            self._sums.append(losses.of(final.view(len(cells), *batch.tokens.ids.shape, -1)))
            first = cells[0].first(layers) + (short and cells[0].kind != "head")
            self._layers += batch.size * len(cells) * (layers - first)
            self._plain += batch.size * len(cells) * layers
            self._at_once = max(self._at_once, len(cells))
            advance(len(cells))
        with undisturbed():
            self._keep()

    def _side_by_side(self, trunk: Trunk) -> Iterator[list[Cell]]:
        """Cells of one layer and kind, as many as fit."""
        for group in self._groups:
            most = max(1, trunk.fitting(self._budget, outputs=0) // len(trunk.tokens))
            yield from (group[i : i + most] for i in range(0, len(group), most))

    def _taken_out(self, trunk: Trunk, cells: list[Cell], values: Values) -> Tensor:
        """Final states [cell x batch, pos, d_model], from the stream where the cells are taken out of it."""
        config, i = self._model.config, cells[0].layer or 0
        block, at = self._model.weights.blocks[i], f"blocks.{i}"
        if cells[0].kind == "head":
            heads = [cell.head for cell in cells]
            W_O = block.W_O.view(config.n_heads, 1, config.d_head, config.d_model)[heads]  # cell 1 K D
            change = (values(f"{at}.attn.z") - trunk.run[f"{at}.attn.z"])[:, :, heads]  # B P cell K
            mid = trunk.run[f"{at}.resid_mid"] + change.permute(2, 0, 1, 3) @ W_O  # cell B P D
            x = gpt2.run_mlp(block, config, i, mid.flatten(0, 1), _untapped(trunk))
        elif cells[0].kind == "mlp":
            x = trunk.run[f"{at}.resid_mid"] + values(f"{at}.mlp_out")
        else:
            x = trunk.resid[i] + values(f"{at}.attn_out") + values(f"{at}.mlp_out")
        rows = torch.arange(len(trunk.tokens)).repeat(len(cells))
        return trunk.branch(i + 1, rows=rows, x=x, capture=[FINAL], logits=None)[FINAL]

    def _edited(self, trunk: Trunk, cells: list[Cell], values: Values) -> Tensor:
        """The same by edits, from the beginning of the block."""
        edits = {site: _edit(cells, values) for site in cells[0].sites}
        rows = torch.arange(len(trunk.tokens)).repeat(len(cells))
        if cells[0].sites[0] in ("embed", "pos_embed"):
            tokens = Tokens(trunk.tokens.ids[rows], trunk.tokens.mask[rows])
            return self._model.run(tokens, edits=edits, capture=FINAL, logits=None)[FINAL]
        first = cells[0].first(self._model.config.n_layers)
        return trunk.branch(first, rows=rows, edits=edits, capture=[FINAL], logits=None)[FINAL]

    def _keep(self) -> None:
        """Add what was found in a batch to the documents'."""
        if self._batch is None:
            return
        (batch, losses), self._batch = self._batch, None
        sums = torch.cat(self._sums)  # 1+cell metric document
        self._tokens += batch.size
        names = {row.number: row.document for row in batch.rows}
        for k, number in enumerate(losses.numbers.tolist()):
            name, counts, before = self._found.get(number, (names[number], 0, 0))
            self._found[number] = (name, counts + losses.counts[:, k], before + sums[..., k])

    def totals(self) -> Totals | None:
        """What was found so far: of all cells in the batches that were finished, or of those that were done in the
        first; None where not one was."""
        if not self._found and len(self._sums) > 1:
            self._keep()
        if not self._found:
            return None
        names, counts, sums = zip(*(self._found[number] for number in sorted(self._found)), strict=True)
        return Totals(
            list(names), torch.stack(counts), torch.stack(sums), self._tokens, self._layers, self._plain, self._at_once
        )


def _edit(cells: list[Cell], values: Values) -> EditFunction:
    """An edit that replaces, in each cell's rows, that cell's part of a site."""

    def edit(value: Tensor, context: Context) -> Tensor:
        rows = value.view(len(cells), -1, *value.shape[1:])  # cell B P ...
        stand_in = values(context.site).expand_as(rows[0])
        for row, cell in zip(rows, cells, strict=True):
            if cell.head is None:
                row.copy_(stand_in)
            else:
                row[:, :, cell.head] = stand_in[:, :, cell.head]
        return value

    return edit


def _untapped(trunk: Trunk) -> Tap:
    """A tap that nobody listens at."""
    tokens = trunk.tokens
    return Tap(tokens=tokens.ids, mask=tokens.mask, positions=tokens.positions)
