"""A new final bias on GPT-2 small's shape, beside the least squares that the notebook solves each time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import cutaway
from benchmarks import models
from benchmarks.timing import Row, faster, interleaved
from cutaway.analyses.unigram.contexts import Contexts, draw_contexts, match
from cutaway.analyses.unigram.counts import smoothed
from cutaway.analyses.unigram.edit import change_of_bias, with_bias

TOKEN = 262  # " the"
FREQUENT = 200.0  # Zipf's constant: token i occurs about N / (i + FREQUENT) times


def rows(rounds: int) -> Iterator[Row]:
    """The factorizations are made in the run that is not counted, as they are for the first edit of a model."""
    with TemporaryDirectory() as temporary, torch.no_grad():
        model = cutaway.load(models.write(Path(temporary)))
        contexts = draw_contexts(model, False, 1, 0, False)
        one = torch.ones(1, dtype=torch.float64)

        def note() -> Tensor:
            w = model.weights
            unigrams = w.W_U @ (torch.zeros(768) if w.ln_final.b is None else w.ln_final.b)
            unigrams[TOKEN] += 1
            return torch.linalg.lstsq(w.W_U, unigrams[:, None]).solution[:, 0]

        def ours(method: str) -> Tensor:
            delta = change_of_bias(model, [TOKEN], one, contexts, method)
            return with_bias(model, delta, "...")[0].weights.ln_final.b  # type: ignore[return-value]

        models.check("a new bias", {"cutaway": ours("least-squares"), "torch.linalg.lstsq": note()})
        jobs = {"ours": lambda: ours("least-squares"), "fisher": lambda: ours("fisher"), "torch.linalg.lstsq": note}
        times = interleaved(jobs, rounds)
        yield faster("a new bias after the first, least squares", times, "ours", "torch.linalg.lstsq", goal=100.0)
        yield faster("a new bias after the first, Fisher's metric", times, "fisher", "torch.linalg.lstsq", goal=100.0)
        print(f"the best bias took {_evaluations(contexts.W)} evaluations of objective and Hessian (at most 60)")


def _evaluations(W: Tensor) -> int:
    """Of the best bias for a Zipf distribution. Stops where the gradient's max-norm is above 1e-8."""
    p = smoothed(1e9 / (torch.arange(len(W)) + FREQUENT))
    found = match(Contexts(W, W.new_zeros(1, W.shape[1])), W.T @ p)
    if found.gradient > 1e-8:
        raise SystemExit(f"the best bias has a gradient of {found.gradient:.1e}: at most 1e-8 was expected")
    return found.evaluations
