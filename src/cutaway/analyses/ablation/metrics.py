"""Measure an ablation: metrics of final states, summed by document, a few logits at a time.

metrics = BatchMetrics(model, batch, chosen, budget, final)     of one batch's whole run: final [batch, pos, d_model]
metrics.whole, metrics.counts                                   the whole run's sums, and the positions they are over
metrics.sums(states)                                            [run, batch, pos, d_model] -> [run, metric, document]
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
from cutaway.model.architectures import gpt2
from cutaway.text.batches import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutaway.model.model import Model

LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Places:
    """The n positions whose predictions a metric is given."""

    document: NDArray[np.str_]  # n, names
    position: Tensor  # n, in the window
    token: Tensor  # n, the id that was read last
    next: Tensor  # n, the id that came; -1 at the end of a window
    last: Tensor  # n, bool: the end of a window

    def __getitem__(self, part: slice) -> Places:
        """Return some of the places."""
        return Places(self.document[part], self.position[part], self.token[part], self.next[part], self.last[part])


MetricFunction: TypeAlias = Callable[[Tensor, Places], Tensor]  # log-probabilities n V, places -> n; NaN: not counted


class PlacedLogits:
    """Logits of a few runs at n places, [run, n, V], and their metrics, each [run, n].

    `whole` is the whole model's log-probabilities there, [n, V]; None where no metric needs them.
    """

    def __init__(self, logits: Tensor, places: Places, whole: Tensor | None) -> None:
        self.logits, self.places, self.whole = logits, places, whole

    @cached_property
    def total(self) -> Tensor:
        """Return the logarithm of the sum of all exponentials: [run, n, 1]."""
        return self.logits.logsumexp(-1, keepdim=True)

    @cached_property
    def next_logit(self) -> Tensor:
        """Return the logit of the token that came: [run, n, 1]."""
        came = self.places.next.clamp(min=0).expand(len(self.logits), -1)
        return self.logits.gather(-1, came[..., None])

    @cached_property
    def log_p(self) -> Tensor:
        """Return log-probabilities: [run, n, V]."""
        return self.logits - self.total

    @cached_property
    def rank(self) -> Tensor:
        """Return the rank of the token that came; 1 is the most likely."""
        return 1 + (self.logits > self.next_logit).sum(-1)

    def loss(self) -> Tensor:
        """Return the loss of the token that came, nats."""
        return (self.total.double() - self.next_logit.double())[..., 0]

    def kl(self) -> Tensor:
        """Return KL(whole model || this run), nats."""
        if self.whole is None:
            return torch.zeros(())
        return ((self.whole - self.log_p) * self.whole.exp()).sum(-1).clamp(min=0)

    def accuracy(self) -> Tensor:
        """Return whether the token that came is the first choice."""
        return self.rank == 1

    def custom(self, name: str, function: MetricFunction) -> Tensor:
        """Return a caller's metric, computed run by run. Raises InputError where the function returns anything else
        than one number a position."""
        n, values_by_run = len(self.places.next), []
        for log_p in self.log_p:
            values = function(log_p.clone(), self.places)  # a copy, as the function may write into it
            if not isinstance(values, Tensor) or values.shape != (n,):
                got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise InputError(f"metric {name!r} returned {got}: a tensor [{n}], one number a position, was expected")
            values_by_run.append(values.double())
        return torch.stack(values_by_run)


BUILT_IN: dict[str, Callable[[PlacedLogits], Tensor]] = {
    LOSS: PlacedLogits.loss,
    "kl": PlacedLogits.kl,
    "accuracy": PlacedLogits.accuracy,
    "rank": lambda logits: logits.rank,
}
Metrics: TypeAlias = "dict[str, MetricFunction | None]"  # by name; None for a built-in one


def choose_metrics(metric: str | MetricFunction | Sequence[str | MetricFunction] | None) -> Metrics:
    """Return the loss and the metrics that a caller asked for beside it, by name.

    Raises InputError for a name that is not built in, and for two functions of one name.
    """
    given = [] if metric is None else [metric] if isinstance(metric, str) or callable(metric) else list(metric)
    chosen: Metrics = {LOSS: None}
    for each in given:
        name = each if isinstance(each, str) else getattr(each, "__name__", type(each).__name__)
        if isinstance(each, str) and each not in BUILT_IN:
            known = ", ".join(BUILT_IN)
            raise InputError(f"no metric is called {each!r}: there are {known}, or give a function (log_p, places)")
        if not isinstance(each, str) and (name in chosen or name in BUILT_IN):
            raise InputError(f"two metrics are called {name!r}: give the function another name")
        chosen[name] = None if isinstance(each, str) else each
    return chosen


class BatchMetrics:
    """The metrics of one batch, computed from the final states of the whole model and of other runs.

    Attributes:
        numbers: the numbers of the batch's documents.
        whole: the whole model's sums, [metric, document], float64.
        counts: the positions that each sum is over, [metric, document], float64.
    """

    def __init__(self, model: Model, batch: Batch, metrics: Metrics, budget: int, final: Tensor) -> None:
        self._model, self._metrics = model, metrics
        self._wants_last = any(metrics.values())
        self._chosen, self._places = self._find(batch, model.device)
        self.numbers, document_of_row = np.unique([row.number for row in batch.rows], return_inverse=True)
        self._document = torch.from_numpy(document_of_row)[self._chosen.cpu().nonzero()[:, 0]]  # n
        row = max(4, model.weights.W_U.element_size()) * model.config.d_vocab  # bytes of one position's logits
        copies = 2 if list(metrics) == [LOSS] else 6  # of the logits, at the widest
        self._rows = max(1, min(chunk_size(model.config.d_vocab), budget // (copies * row)))
        self._final = final[self._chosen]  # n D
        whole = self._values(self._final[None])[0]  # metric n
        predicted = self._places.next.cpu() >= 0
        self._counted = torch.stack(
            [~values.isnan() if f else predicted for values, f in zip(whole, metrics.values(), strict=True)]
        )
        self.counts = self._by_document(self._counted.double())
        self.whole = self._by_document(whole.where(self._counted, 0.0))

    def sums(self, states: Tensor) -> Tensor:
        """Return sums over the positions that count: [run, batch, pos, d_model] -> [run, metric, document], float64."""
        return self._by_document(self._values(states[:, self._chosen]).where(self._counted, 0.0))

    def _find(self, batch: Batch, device: torch.device) -> tuple[Tensor, Places]:
        """Return a mask [batch, pos] of the positions that are measured, and their places."""
        ids, mask = (t.to(device) for t in (batch.tokens.ids, batch.tokens.mask))
        came = torch.cat([ids[:, 1:], ids[:, :1]], 1)
        last = torch.arange(ids.shape[1], device=device) == mask.sum(1, keepdim=True) - 1
        chosen = mask.bool() if self._wants_last else mask.bool() & ~last
        rows, positions = chosen.nonzero().unbind(1)
        names = np.array([row.document for row in batch.rows])[rows.cpu().numpy()]
        return chosen, Places(names, positions, ids[chosen], came.masked_fill(last, -1)[chosen], last[chosen])

    def _by_document(self, values: Tensor) -> Tensor:
        """Return sums by document: [..., n] -> [..., document]."""
        return values.new_zeros(*values.shape[:-1], len(self.numbers)).index_add_(-1, self._document, values)

    def _values(self, states: Tensor) -> Tensor:
        """Return metrics of final states: [run, n, D] -> [run, metric, n], float64 on the CPU."""
        runs, n, _ = states.shape
        metrics = torch.zeros(runs, len(self._metrics), n, dtype=torch.float64)
        for part in _parts(n, self._rows):
            places = self._places[part]
            whole = self._logits(self._final[part]).log_softmax(-1) if "kl" in self._metrics else None
            for some in _parts(runs, max(1, self._rows // len(places.next))):
                logits = PlacedLogits(self._logits(states[some, part]), places, whole)
                for i, (name, function) in enumerate(self._metrics.items()):
                    values = logits.custom(name, function) if function else BUILT_IN[name](logits)
                    metrics[some, i, part] = values.double().cpu()
        return metrics

    def _logits(self, states: Tensor) -> Tensor:
        """Return logits of final states, in float32 at least: [..., D] -> [..., V]."""
        return widen(gpt2.unembed(self._model.weights, states))


def _parts(n: int, most: int) -> Iterator[slice]:
    """Yield 0 .. n - 1 in parts of at most `most`, as even as possible."""
    step = max(1, -(-n // max(1, -(-n // most))))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
