"""The logit lens on 12 layers x 1,024 positions x 50,257 tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F

import cutaway
from benchmarks import models
from benchmarks.timing import Row, faster, interleaved


def rows(rounds: int) -> Iterator[Row]:
    with TemporaryDirectory() as temporary, torch.no_grad():
        model = cutaway.load(models.write(Path(temporary)))
        ids, w = models.ids(1, 1024), model.weights

        def plain() -> None:
            """Full log-probabilities of every layer, one layer at a time; nothing is made of them."""
            for state in model.run(ids, capture="resid_post", logits=None).values():
                normed = F.layer_norm(state, state.shape[-1:], w.ln_final.w, w.ln_final.b, model.config.eps)
                F.linear(normed, w.W_U).log_softmax(-1)

        jobs = {"ours": lambda: cutaway.logit_lens.read(model, ids), "torch": plain}
        times = interleaved(jobs, rounds)
        yield faster("logit lens, all metrics, 12 x 1 x 1,024", times, "ours", "torch", goal=1.0)
