"""Measure the loss of whole documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.predictions.metrics import next_token_metrics
from cutaway.analyses.predictions.result import Losses
from cutaway.errors import InputError
from cutaway.progress import meter
from cutaway.results.call import analysis, describe
from cutaway.surveys.reading import BATCH_TOKENS
from cutaway.text.batches import model_batches
from cutaway.text.corpus import Source, open_corpus

if TYPE_CHECKING:
    from cutaway.model.model import Model


@analysis("predictions.losses")
def losses(model: Model, corpus: Source = None, *, bos: bool = False) -> Losses:
    """Return the loss of each document in nats a token, read in windows of the model's context that do not overlap.

    `corpus` is whatever cutaway.text.corpus.open_corpus takes: texts, a mapping from names to texts, files; None for
    the bundled documents. The first token of a window has no prediction unless `bos` puts the end-of-text token in
    front of each window.

    Raises InputError for an empty corpus, or one without two tokens in any document.
    """
    source = open_corpus(corpus)
    names: dict[int, str] = {}  # of the documents, by their number
    sums: dict[int, Tensor] = {}  # tokens, loss, first choices
    with meter("reading documents", "tokens") as advance:
        for batch in model_batches(model, source, BATCH_TOKENS, bos):
            logits = model.run(batch.tokens).logits
            for row, scores in zip(batch.rows, logits, strict=True):
                n = len(row.ids) - 1
                names[row.number] = row.document
                if not n:
                    continue
                metrics = next_token_metrics(scores[:n], torch.tensor(row.ids[1:], device=scores.device), 1)
                values = torch.tensor([n, metrics["loss"].sum(), (metrics["rank"] == 1).sum()], dtype=torch.float64)
                sums[row.number] = sums.get(row.number, torch.zeros(3, dtype=torch.float64)) + values
            advance(batch.size, None)
    for number in sorted(names.keys() - sums):
        source.leave_out("too few tokens to predict one", names[number])
    if not sums:
        raise InputError(f"corpus {source.name}: no document has two tokens, there is nothing to predict")
    totals = torch.stack([sums[number] for number in sorted(sums)])
    means = totals[:, 1:] / totals[:, :1]
    ordered = [names[number] for number in sorted(sums)]
    # The input in meta is the names only: with the documents every result would be as long as its corpus.
    meta = describe(model, "predictions.losses", corpus, bos=bos) | {"input": ordered}
    return Losses(meta, ordered, totals[:, 0].long().tolist(), means[:, 0].tolist(), means[:, 1].tolist())
