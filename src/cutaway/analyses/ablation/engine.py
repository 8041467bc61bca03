"""Run a model with each component ablated, computing only what comes after the component.

    scan = Scan(model, components, replacement, metrics, budget)
    for part in scan.run(batch): ...        sums of the whole model first, then of a few components at a time

A batch runs once whole. A head is then taken out of the stream between attention and MLP: its replacement less its own
z, times its part of W_O, is added there. An MLP or a whole block is taken out of what leaves the block. From there on
the blocks run again, with as many components side by side as the budget holds. Neurons, other sites, and everything in
a model with edits in force run again from the beginning of the site's block, with the replacement as the last edit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.ablation.components import EMBEDDINGS, Ablated
from cutaway.analyses.ablation.metrics import BatchMetrics, Metrics
from cutaway.analyses.ablation.replacements import Replacement, SiteValues
from cutaway.model.taps.tap import Context, EditFunction, Tap
from cutaway.model.trunk import Trunk
from cutaway.surveys.reading import BATCH_TOKENS
from cutaway.text.batches import Batch
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model

FINAL = "ln_final.out"


@dataclass(frozen=True)
class Part:
    """Sums of the metrics by document of runs over one batch, of the whole model or of components side by side."""

    numbers: list[int]  # of the documents
    counts: Tensor  # metric document; the same in all parts of a batch
    sums: Tensor  # run metric document, float64
    blocks: int  # blocks that were run, each times its tokens
    plain: int  # the same if every run were whole


class Scan:
    """Runs one model with each component ablated."""

    def __init__(
        self, model: Model, components: Sequence[Ablated], replacement: Replacement, metrics: Metrics, budget: int
    ) -> None:
        self._model, self._replacement, self._metrics, self._budget = model, replacement, metrics, budget
        self._capture = list(dict.fromkeys(itertools.chain([FINAL], *map(self._needs, components))))
        self._groups = [list(group) for _, group in itertools.groupby(components, lambda each: each.sites)]

    def _is_short(self, component: Ablated) -> bool:
        """Return whether the component can be taken out of the stream, without an edit."""
        return component.kind not in ("site", "neuron") and not self._model.active_edits

    def _needs(self, component: Ablated) -> list[str]:
        """Return the sites to capture in the whole run so that this component is ablated without its own block."""
        if not self._is_short(component) or component.kind == "layer":
            return []
        return [f"blocks.{component.layer}.resid_mid", *(component.sites if component.kind == "head" else [])]

    def batch_tokens(self) -> int:
        """Return the width x rows of batches whose states, and those of one component, fit the budget.

        A window is never split: one that is larger than the budget still runs, by itself.
        """
        c = self._model.config
        kept = c.d_model * (c.n_layers + 1 + len(self._capture) * (1 + self._replacement.passes))
        block = 7 * c.d_model + max(4 * c.d_model, 2 * c.d_mlp)
        return max(1, min(BATCH_TOKENS, self._budget // (self._model.weights.W_E.element_size() * max(kept, block))))

    def run(self, batch: Batch) -> Iterator[Part]:
        """Run one batch whole, then with each component ablated, and yield the sums of as many as run side by side."""
        layers, size = self._model.config.n_layers, batch.size
        trunk = Trunk(self._model, batch.tokens, capture=self._capture, keys=False)
        values = self._replacement.values(self._model, batch)
        metrics = BatchMetrics(self._model, batch, self._metrics, self._budget, trunk.run[FINAL])
        numbers, counts = metrics.numbers.tolist(), metrics.counts
        blocks = size * layers * (1 + self._replacement.passes)
        yield Part(numbers, counts, metrics.whole[None], blocks, blocks)
        for components in self._side_by_side(trunk):
            short = self._is_short(components[0])
            final = self._taken_out(trunk, components, values) if short else self._edited(trunk, components, values)
            sums = metrics.sums(final.view(len(components), *batch.tokens.ids.shape, -1))
            first = components[0].first_block(layers) + (short and components[0].kind != "head")
            blocks, plain = size * len(components) * (layers - first), size * len(components) * layers
            yield Part(numbers, counts, sums, blocks, plain)

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
