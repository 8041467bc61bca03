"""What an ablation is measured by: metrics of final states, summed by document, a few logits at a time.

losses = Losses(model, batch, metrics, budget, final)      of one batch's whole run: [batch, pos, d_model]
losses.whole, losses.counts                                its own sums, and how many positions they are over
losses.of(states)                                          [cell, batch, pos, d_model] -> [cell, metric, document]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.logits import chunk_size, widen
from cutaway.errors import InputError
from cutaway.text.batches import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutaway.model.model import Model

LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Places:
    """Where n positions are, whose predictions a metric is given."""

    document: NDArray[np.str_]  # n, names
    position: Tensor  # n, in the window
    token: Tensor  # n, the id that was read last
    next: Tensor  # n, the id that came; -1 at the end of a window
    last: Tensor  # n, bool: the end of a window

    def __getitem__(self, part: slice) -> Places:
        return Places(self.document[part], self.position[part], self.token[part], self.next[part], self.last[part])


Function: TypeAlias = Callable[[Tensor, Places], Tensor]  # log-probabilities n V, places -> n; NaN does not count


class Predictions:
    """Logits of a few cells at a few places, [cell, n, V], and what the metrics make of them."""

    def __init__(self, logits: Tensor, places: Places, own: Tensor | None) -> None:
        self.logits, self.places, self.own = logits, places, own

    @cached_property
    def total(self) -> Tensor:  # cell n 1
        return self.logits.logsumexp(-1, keepdim=True)

    @cached_property
    def score(self) -> Tensor:  # cell n 1; of the token that came
        came = self.places.next.clamp(min=0).expand(len(self.logits), -1)
        return self.logits.gather(-1, came[..., None])

    @cached_property
    def log_p(self) -> Tensor:  # cell n V
        return self.logits - self.total

    @cached_property
    def rank(self) -> Tensor:  # cell n; 1 is the most likely
        return 1 + (self.logits > self.score).sum(-1)

    def loss(self) -> Tensor:
        return (self.total.double() - self.score.double())[..., 0]

    def kl(self) -> Tensor:
        """Of these predictions from the whole model's: KL(whole || these)."""
        return torch.zeros(()) if self.own is None else ((self.own - self.log_p) * self.own.exp()).sum(-1).clamp(min=0)

    def accuracy(self) -> Tensor:
        return self.rank == 1

    def of(self, name: str, function: Function) -> Tensor:
        """A metric of the caller's, cell by cell."""
        n, found = len(self.places.next), []
        for each in self.log_p:
            values = function(each.clone(), self.places)  # which it may write into
            if not isinstance(values, Tensor) or values.shape != (n,):
                got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise InputError(f"metric {name!r} returned {got}: a tensor [{n}], one number a position, was expected")
            found.append(values.double())
        return torch.stack(found)


BUILT_IN: dict[str, Callable[[Predictions], Tensor]] = {
    LOSS: Predictions.loss,
    "kl": Predictions.kl,
    "accuracy": Predictions.accuracy,
    "rank": lambda made: made.rank,
}
Metrics: TypeAlias = "dict[str, Function | None]"  # by name; None for what is built in


class Losses:
    """The metrics of one batch: of the whole model's final states, and of others'."""

    def __init__(self, model: Model, batch: Batch, metrics: Metrics, budget: int, final: Tensor) -> None:
        self._model, self._metrics = model, metrics
        self._wants_last = any(metrics.values())
        self._chosen, self._places = self._find(batch, model.device)
        self.numbers, of_row = np.unique([row.number for row in batch.rows], return_inverse=True)
        self._document = torch.from_numpy(of_row)[self._chosen.cpu().nonzero()[:, 0]]  # n
        number = max(4, model.weights.W_U.element_size()) * model.config.d_vocab
        copies = 2 if list(metrics) == [LOSS] else 6  # of the logits, at the widest
        self._rows = max(1, min(chunk_size(model.config.d_vocab), budget // (copies * number)))
        self._own = final[self._chosen]  # n D
        whole = self._values(self._own[None])[0]  # metric n
        predicted = self._places.next.cpu() >= 0
        self._counted = torch.stack(
            [~values.isnan() if f else predicted for values, f in zip(whole, metrics.values(), strict=True)]
        )
        self.counts = self._by_document(self._counted.double())  # metric document
        self.whole = self._by_document(whole.where(self._counted, 0.0))  # metric document

    def of(self, states: Tensor) -> Tensor:
        """Sums over the positions that count: [cell, batch, pos, d_model] -> [cell, metric, document], float64."""
        return self._by_document(self._values(states[:, self._chosen]).where(self._counted, 0.0))

    def _find(self, batch: Batch, device: torch.device) -> tuple[Tensor, Places]:
        """The positions that anything is measured at, B P, and what is known of them."""
        ids, mask = (t.to(device) for t in (batch.tokens.ids, batch.tokens.mask))
        came = torch.cat([ids[:, 1:], ids[:, :1]], 1)
        last = torch.arange(ids.shape[1], device=device) == mask.sum(1, keepdim=True) - 1
        chosen = mask.bool() if self._wants_last else mask.bool() & ~last
        rows, positions = chosen.nonzero().unbind(1)
        names = np.array([row.document for row in batch.rows])[rows.cpu().numpy()]
        return chosen, Places(names, positions, ids[chosen], came.masked_fill(last, -1)[chosen], last[chosen])

    def _by_document(self, found: Tensor) -> Tensor:
        """[..., n] -> [..., document]."""
        return found.new_zeros(*found.shape[:-1], len(self.numbers)).index_add_(-1, self._document, found)

    def _values(self, states: Tensor) -> Tensor:
        """Final states [cell, n, D] -> metrics [cell, metric, n], float64 on the CPU."""
        cells, n, _ = states.shape
        found = torch.zeros(cells, len(self._metrics), n, dtype=torch.float64)
        for part in _parts(n, self._rows):
            places = self._places[part]
            own = self._logits(self._own[part]).log_softmax(-1) if "kl" in self._metrics else None
            for some in _parts(cells, max(1, self._rows // len(places.next))):
                made = Predictions(self._logits(states[some, part]), places, own)
                for i, (name, function) in enumerate(self._metrics.items()):
                    found[some, i, part] = (
                        (made.of(name, function) if function else BUILT_IN[name](made)).double().cpu()
                    )
        return found

    def _logits(self, states: Tensor) -> Tensor:
        return widen(self._model.unembed(states, normed=True))


def _parts(n: int, most: int) -> Iterator[slice]:
    """0..n in parts of at most `most`, as even as can be."""
    step = max(1, -(-n // max(1, -(-n // most))))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def chosen_metrics(metric: str | Function | Sequence[str | Function] | None) -> Metrics:
    """The loss, and what was asked for beside it. Raises InputError for a name that is not built in."""
    asked = [] if metric is None else [metric] if isinstance(metric, str) or callable(metric) else list(metric)
    found: Metrics = {LOSS: None}
    for each in asked:
        name = each if isinstance(each, str) else getattr(each, "__name__", type(each).__name__)
        if isinstance(each, str) and each not in BUILT_IN:
            known = ", ".join(BUILT_IN)
            raise InputError(f"no metric is called {each!r}: there are {known}, or give a function (log_p, places)")
        if not isinstance(each, str) and (name in found or name in BUILT_IN):
            raise InputError(f"two metrics are called {name!r}: give the function another name")
        found[name] = None if isinstance(each, str) else each
    return found
