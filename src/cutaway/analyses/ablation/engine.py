"""Run a model with each component ablated, computing only what comes after the component.

    scan = Scan(model, components, replacement, metrics, budget)
    for batch in batches: scan.add(batch)
    scan.totals()

A batch runs once whole. A head is then taken out of the stream between attention and MLP: its replacement less its own
z, times its part of W_O, is added there. An MLP or a whole block is taken out of what leaves the block. From there on
the blocks run again, with as many components side by side as the budget holds. Neurons, other sites, and everything in
a model with edits in force run again from the beginning of the site's block, with the replacement as the last edit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.ablation.components import EMBEDDINGS, Ablated
from cutaway.analyses.ablation.metrics import BatchMetrics, Metrics
from cutaway.analyses.ablation.replacements import Replacement, SiteValues
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


@dataclass(frozen=True)
class Totals:
    """Sums of the metrics by document: row 0 is the whole model, the others are the components that were ablated."""

    documents: list[str]
    counts: Tensor  # document metric
    sums: Tensor  # document 1+component metric, float64
    tokens: int
    token_layers: int  # blocks that were run, each times its tokens
    plain: int  # token_layers of one whole run for each component
    at_once: int  # components side by side, at most


class Scan:
    """Ablates every component in each batch that it is given."""

    def __init__(
        self, model: Model, components: Sequence[Ablated], replacement: Replacement, metrics: Metrics, budget: int
    ) -> None:
        self._model, self._replacement, self._metrics, self._budget = model, replacement, metrics, budget
        self._capture = list(dict.fromkeys(itertools.chain([FINAL], *map(self._needs, components))))
        self._groups = [list(group) for _, group in itertools.groupby(components, lambda each: each.sites)]
        self._documents: dict[int, tuple[str, Tensor, Tensor]] = {}  # by the document's number: name, counts, sums
        self._batch: tuple[Batch, BatchMetrics] | None = None  # under way
        self._sums: list[Tensor] = []  # of the batch under way: component metric document
        self._tokens = self._layers = self._plain = self._at_once = 0

    def _is_short(self, component: Ablated) -> bool:
        """Return whether the component can be taken out of the stream, without an edit."""
        return component.kind not in ("site", "neuron") and not self._model.active_edits

    def _needs(self, component: Ablated) -> list[str]:
        """Return the sites to capture in the whole run so that this component is ablated without its own block."""
        if not self._is_short(component) or component.kind == "layer":
            return []
        return [f"blocks.{component.layer}.resid_mid", *(component.sites if component.kind == "head" else [])]

    def batch_tokens(self, passes: int) -> int:
        """Return the width x rows of batches whose states, and those of one component, fit the budget.

        A window is never split: one that is larger than the budget still runs, by itself.
        """
        c = self._model.config
        kept = c.d_model * (c.n_layers + 1 + len(self._capture) * (1 + passes))
        block = 7 * c.d_model + max(4 * c.d_model, 2 * c.d_mlp)
        return max(1, min(BATCH_TOKENS, self._budget // (self._model.weights.W_E.element_size() * max(kept, block))))

    @plainly
    def add(self, batch: Batch, advance: Callable[[int], object] = lambda _: None) -> None:
        """Run one batch whole, then with each component ablated; call `advance(n)` when n components are done."""
        layers = self._model.config.n_layers
        trunk = Trunk(self._model, batch.tokens, capture=self._capture, keys=False)
        values = self._replacement.values(batch)
        metrics = BatchMetrics(self._model, batch, self._metrics, self._budget, trunk.run[FINAL])
        self._batch, self._sums = (batch, metrics), [metrics.whole[None]]
        self._layers += batch.size * layers * (1 + self._replacement.passes)
        self._plain += batch.size * layers * (1 + self._replacement.passes)
        for components in self._side_by_side(trunk):
            short = self._is_short(components[0])
            final = self._taken_out(trunk, components, values) if short else self._edited(trunk, components, values)
            self._sums.append(metrics.sums(final.view(len(components), *batch.tokens.ids.shape, -1)))
            first = components[0].first_block(layers) + (short and components[0].kind != "head")
            self._layers += batch.size * len(components) * (layers - first)
            self._plain += batch.size * len(components) * layers
            self._at_once = max(self._at_once, len(components))
            advance(len(components))
        with undisturbed():
            self._keep()

    def _side_by_side(self, trunk: Trunk) -> Iterator[list[Ablated]]:
        """Yield components of one layer and kind, as many at a time as fit the budget."""
        for group in self._groups:
            most = max(1, trunk.fitting(self._budget, outputs=0) // len(trunk.tokens))
            yield from (group[i : i + most] for i in range(0, len(group), most))

    def _taken_out(self, trunk: Trunk, components: list[Ablated], values: SiteValues) -> Tensor:
        """Return final states [component x batch, pos, d_model] of runs that begin where the components are taken out
        of the stream."""
        config, i = self._model.config, components[0].layer or 0
        block, at = self._model.weights.blocks[i], f"blocks.{i}"
        if components[0].kind == "head":
            heads = [each.head for each in components]
            W_O = block.W_O.view(config.n_heads, 1, config.d_head, config.d_model)[heads]  # head 1 K D
            change = (values(f"{at}.attn.z") - trunk.run[f"{at}.attn.z"])[:, :, heads]  # B P head K
            change = change.permute(2, 0, 1, 3) @ W_O  # head B P D
            mid, tap = trunk.run[f"{at}.resid_mid"], Tap.silent(trunk.tokens)
            x = self._model.architecture.after_attention(block, config, i, mid, change, tap).flatten(0, 1)
        elif components[0].kind == "mlp":
            x = trunk.run[f"{at}.resid_mid"] + values(f"{at}.mlp_out")
        else:
            x = trunk.resid[i] + values(f"{at}.attn_out") + values(f"{at}.mlp_out")
        rows = torch.arange(len(trunk.tokens)).repeat(len(components))
        return trunk.branch(i + 1, rows=rows, x=x, capture=[FINAL], logits=None)[FINAL]

    def _edited(self, trunk: Trunk, components: list[Ablated], values: SiteValues) -> Tensor:
        """Return the same final states from runs with edits, which begin with the components' own block."""
        edits = {site: _edit(components, values) for site in components[0].sites}
        rows = torch.arange(len(trunk.tokens)).repeat(len(components))
        if components[0].sites[0] in EMBEDDINGS:
            tokens = Tokens(trunk.tokens.ids[rows], trunk.tokens.mask[rows])
            return self._model.run(tokens, edits=edits, capture=FINAL, logits=None)[FINAL]
        first = components[0].first_block(self._model.config.n_layers)
        return trunk.branch(first, rows=rows, edits=edits, capture=[FINAL], logits=None)[FINAL]

    def _keep(self) -> None:
        """Add the sums of the batch under way to those of its documents."""
        if self._batch is None:
            return
        (batch, metrics), self._batch = self._batch, None
        sums = torch.cat(self._sums)  # 1+component metric document
        self._tokens += batch.size
        names = {row.number: row.document for row in batch.rows}
        for k, number in enumerate(metrics.numbers.tolist()):
            name, counts, before = self._documents.get(number, (names[number], 0, 0))
            self._documents[number] = (name, counts + metrics.counts[:, k], before + sums[..., k])

    def totals(self) -> Totals | None:
        """Return the sums over the batches that are finished; None where there are none.

        Until the first batch is finished these are the sums of the components that are done in it, if any.
        """
        if not self._documents and len(self._sums) > 1:
            self._keep()
        if not self._documents:
            return None
        ordered = (self._documents[number] for number in sorted(self._documents))
        names, counts, sums = zip(*ordered, strict=True)
        return Totals(
            list(names), torch.stack(counts), torch.stack(sums), self._tokens, self._layers, self._plain, self._at_once
        )


def _edit(components: list[Ablated], values: SiteValues) -> EditFunction:
    """Return an edit that replaces a site, or a head's or neuron's part of it, in the rows of each component."""

    def edit(value: Tensor, context: Context) -> Tensor:
        rows = value.view(len(components), -1, *value.shape[1:])  # component B P ...
        replacement = values(context.site).expand_as(rows[0])
        for row, component in zip(rows, components, strict=True):
            if component.index is None:
                row.copy_(replacement)
            else:
                row[:, :, component.index] = replacement[:, :, component.index]
        return value

    return edit
