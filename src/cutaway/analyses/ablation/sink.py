"""Add up by document what ablations of a corpus change: the sink of ablation.run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.ablation.components import Ablated
from cutaway.analyses.ablation.engine import Part, Scan
from cutaway.analyses.ablation.metrics import Metrics
from cutaway.analyses.ablation.replacements import Replacement
from cutaway.stats.base import State
from cutaway.stopping import undisturbed
from cutaway.surveys.sinks import PerDocument, Seen, function_name
from cutaway.text.batches import Batch


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


class Ablations(PerDocument):
    """A sink that ablates every component in each batch: [2 + component, metric] by document, the counts first."""

    sites: Sequence[str] = ()

    def __init__(self, components: Sequence[Ablated], replacement: Replacement, metrics: Metrics, budget: int) -> None:
        super().__init__()
        self._components, self._replacement, self._metrics, self._budget = components, replacement, metrics, budget
        self._tokens = self._layers = self._plain = self._at_once = 0
        self._under_way: tuple[Batch, list[Part]] | None = None  # a batch that is not finished

    def settings(self) -> dict[str, Any]:
        """Return the components, the replacement, the metrics and the budget."""
        return {
            "components": [component.name for component in self._components],
            "replacement": [type(self._replacement).__name__, self._replacement.settings()],
            "metrics": {name: function_name(function) for name, function in self._metrics.items()},
            "budget": self._budget,
        }

    def parts(self, seen: Seen) -> Iterable[tuple[int, Tensor]]:
        """Return what one batch adds, once every component was ablated in it."""
        self._under_way = seen.batch, []
        scan = Scan(seen.model, self._components, self._replacement, self._metrics, self._budget)
        for part in scan.run(seen.batch):
            if self._under_way[1]:  # the first part is of the whole model
                seen.advance(len(part.sums) / len(self._components))
            self._under_way[1].append(part)
        return _by_document(self._under_way[1])

    def put(self, batch: Batch, parts: Iterable[tuple[int, Tensor]]) -> None:
        """Add values to the sums of their documents, all of a batch's or none."""
        with undisturbed():
            super().put(batch, parts)
            done = self._under_way[1] if self._under_way else []
            self._under_way = None
            self._tokens += batch.size
            self._layers += sum(part.blocks for part in done)
            self._plain += sum(part.plain for part in done)
            self._at_once = max([self._at_once, *(len(part.sums) for part in done[1:])])

    def totals(self) -> Totals | None:
        """Return the sums over the batches that are finished; None where there are none.

        Until the first batch is finished these are the sums of the components that are done in it, if any.
        """
        if not self.numbers and self._under_way and len(self._under_way[1]) > 1:
            self.put(self._under_way[0], _by_document(self._under_way[1]))
        if not self.numbers:
            return None
        sums = self.sums()
        names = [self.names[number] for number in self.numbers]
        return Totals(names, sums[:, 0], sums[:, 1:], self._tokens, self._layers, self._plain, self._at_once)

    def merge(self, other: PerDocument) -> None:
        """Add what another sink has counted. Raises InputError for one with other settings."""
        super().merge(other)
        if isinstance(other, Ablations):
            self._tokens, self._layers = self._tokens + other._tokens, self._layers + other._layers
            self._plain, self._at_once = self._plain + other._plain, max(self._at_once, other._at_once)

    def empty(self) -> Ablations:
        """Return a new sink with the same settings that has seen nothing."""
        return Ablations(self._components, self._replacement, self._metrics, self._budget)

    def state(self) -> State:
        """Return names, sums and what was run, as plain arrays."""
        return super().state() | {"run": np.array([self._tokens, self._layers, self._plain, self._at_once])}

    def load_state(self, state: State) -> None:
        """Replace what was counted by a state that state() returned."""
        super().load_state(state)
        self._tokens, self._layers, self._plain, self._at_once = state["run"].tolist()

    def __repr__(self) -> str:
        return f"Ablations of {len(self._components)} components, {type(self._replacement).__name__}"


def _by_document(parts: Sequence[Part]) -> list[tuple[int, Tensor]]:
    """Return the counts and the sums of a batch's parts, [2 + component, metric] for each document's number."""
    sums = torch.cat([parts[0].counts[None], *(part.sums for part in parts)])
    return [(number, sums[..., i]) for i, number in enumerate(parts[0].numbers)]
