"""Measure the loss of whole documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.analyses.predictions.metrics import next_token_metrics
from cutaway.analyses.predictions.result import Losses
from cutaway.errors import InputError
from cutaway.results.call import analysis, meta_of
from cutaway.surveys.sinks import PerDocument, Seen
from cutaway.surveys.state import StatePath
from cutaway.surveys.survey import survey
from cutaway.text.corpus import Source, open_corpus

if TYPE_CHECKING:
    from cutaway.model.model import Model

LOGITS = "logits"


class LossSums(PerDocument):
    """A sink of sums by document: predicted tokens, their losses, and how many were the first choice."""

    sites: Sequence[str] = (LOGITS,)

    def settings(self) -> dict[str, Any]:
        """Return nothing: there is nothing to choose."""
        return {}

    def parts(self, seen: Seen) -> Iterator[tuple[int, Tensor]]:
        """Return what one batch adds, from its run."""
        return iter(()) if seen.run is None else self._parts(seen.run[LOGITS], seen)

    def take(self, values: Tensor, seen: Seen) -> None:
        """Add one batch's logits [batch, pos, V] as they arise."""
        self.put(seen.batch, self._parts(values, seen))

    def _parts(self, logits: Tensor, seen: Seen) -> Iterator[tuple[int, Tensor]]:
        """Yield what logits add to each document."""
        for row, scores in zip(seen.batch.rows, logits, strict=True):
            n = len(row.ids) - 1
            if n:
                metrics = next_token_metrics(scores[:n], torch.tensor(row.ids[1:], device=scores.device), 1)
                sums = [n, metrics["loss"].sum(), (metrics["rank"] == 1).sum()]
                yield row.number, torch.tensor(sums, dtype=torch.float64)


@analysis("predictions.losses")
def losses(model: Model, corpus: Source = None, *, bos: bool = False, state: StatePath = None) -> Losses:
    """Return the loss of each document in nats a token, read in windows of the model's context that do not overlap.

    `corpus` is whatever cutaway.text.corpus.open_corpus takes: texts, a mapping from names to texts, files; None for
    the bundled documents. The first token of a window has no prediction unless `bos` puts the end-of-text token in
    front of each window. `state` is a file that the pass saves itself to, and resumes from, as in `cutaway.survey`.

    Raises InputError for an empty corpus, or one without two tokens in any document.
    """
    source, sink = open_corpus(corpus), LossSums()
    survey(model, source, {"losses": sink}, bos=bos, state=state)
    for number in sorted(sink.names.keys() - sink.numbers):
        source.leave_out("too few tokens to predict one", sink.names[number])
    if not sink.numbers:
        raise InputError(f"corpus {source.name}: no document has two tokens, there is nothing to predict")
    totals = sink.sums()
    means = totals[:, 1:] / totals[:, :1]
    ordered = [sink.names[number] for number in sink.numbers]
    # The input in meta is the names only: with the documents every result would be as long as its corpus.
    meta = meta_of(model, corpus) | {"input": ordered}
    return Losses(meta, ordered, totals[:, 0].long().tolist(), means[:, 0].tolist(), means[:, 1].tolist())
