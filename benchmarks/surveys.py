"""A survey that keeps a sample, means and variances at three sites a layer, beside the bare forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import cutaway
from benchmarks import models
from benchmarks.timing import Row, cost, interleaved
from cutaway.stats import Moments, Sample
from cutaway.text import corpus
from cutaway.text.batches import batches

KINDS = ("resid_post", "attn_out", "mlp_out")
TOKENS = 8192


def rows(rounds: int) -> Iterator[Row]:
    with TemporaryDirectory() as temporary, torch.no_grad():
        model = cutaway.load(models.write(Path(temporary)))
        text = " ".join(document.text for document in corpus.bundled())
        row = model.tokenizer.tokens(text[: 6 * TOKENS]).rows()[0][:TOKENS]
        texts = [model.tokenizer.decode(row[i : i + 1024]) for i in range(0, len(row), 1024)]

        def bare() -> None:
            for batch in batches(corpus.open_corpus(texts), model.tokenizer, 4096, model.config.n_ctx):
                model.run(batch.tokens, capture="blocks.-1.resid_post", logits=None)

        def survey() -> None:
            cutaway.survey(model, texts, {kind: [Moments(), Sample(2000)] for kind in KINDS}, batch_tokens=4096)

        times = interleaved({"ours": survey, "bare forward": bare}, rounds)
        what = "survey: sample, means, variances at 36 sites"
        yield cost(what, times, "ours", "bare forward", goal=round(1 / 0.85, 3))
