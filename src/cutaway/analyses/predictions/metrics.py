"""TODO."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.logits import chunk_size, ranks, top_k, widen
from cutaway.arguments import whole
from cutaway.errors import InputError
from cutaway.stopping import stop_point
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run

BATCH_TOKENS = 4096  # width x rows of a batch of prompts or windows


def read_logits(logits: Tensor, targets: Tensor, top: int, *, entropy: bool = False) -> dict[str, Tensor]:
    """Logits [pos, V] and the tokens that came next [pos or pos-1] -> top-k, loss and rank, in float64; and entropy
    where it is asked for.

    Works in chunks of positions, so that the whole of the log-probabilities never exists. Sums over the vocabulary
    run in the logits' own precision (float32 at least).
    """
    parts: dict[str, list[Tensor]] = {"top_ids": [], "top_probabilities": [], "loss": [], "rank": []}
    step = chunk_size(logits.shape[1])
    for start in range(0, len(logits), step):
        stop_point()
        chunk = widen(logits[start : start + step]).T  # V n
        total = chunk.logsumexp(0).double()  # n
        if entropy:
            p = (chunk - total.to(chunk)).exp_()
            parts.setdefault("entropy", []).append(torch.special.entr(p).sum(0).double())
        best, ids = top_k(chunk, top)  # k n
        parts["top_ids"].append(ids.T)
        parts["top_probabilities"].append((best.double() - total).exp().T)
        came = targets[start : start + step]
        chunk = chunk[:, : len(came)]
        scores = chunk.gather(0, came[None])[0]  # n
        parts["loss"].append(total[: len(came)] - scores.double())
        parts["rank"].append(ranks(chunk, scores))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _percent(p: float) -> str:
    return f"{p:6.1%}" if p >= 0.0005 else " <0.1%"


def checked_top(model: Model, top: int) -> int:
    return min(whole("top", top, 1), model.config.d_vocab)


def checked_run(model: Model, run: Run, tokens: Tokens, needs_logits: bool = False) -> Run:
    """Return a given pass. Raises InputError where it is over other tokens, or was made under other edits."""
    if run.tokens.rows() != tokens.rows():
        raise InputError("run= is a pass over other tokens: one over this very text was expected")
    if run.edits != model.active_edits:
        hint = "make it and read it inside the same `with model.edited(...)`"
        raise InputError(f"run= was made under other edits than are in force here: {hint}")
    if needs_logits and run.logits.shape[1] != tokens.ids.shape[1]:
        raise InputError("run= kept the last logits alone: a run with logits='all' was expected")
    return run


def batches_of(lengths: list[int]) -> list[list[int]]:
    """Row numbers in order, grouped so that width x rows stays within BATCH_TOKENS."""
    batches: list[list[int]] = []
    width = 0
    for i, length in enumerate(lengths):
        width = max(width, length)
        if batches and width * (len(batches[-1]) + 1) <= BATCH_TOKENS:
            batches[-1].append(i)
        else:
            batches.append([i])
            width = length
    return batches
