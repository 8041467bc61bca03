"""Compute metrics of next-token predictions from logits, and check arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.logits import chunk_size, ranks, top_k, widen
from cutaway.arguments import whole
from cutaway.errors import InputError
from cutaway.stopping import stop_point
from cutaway.surveys.reading import BATCH_TOKENS
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run


def next_token_metrics(logits: Tensor, targets: Tensor, top: int, *, entropy: bool = False) -> dict[str, Tensor]:
    """Return the top-k, and the loss and rank of the tokens that came next; with `entropy`, also the entropy.

    Args:
        logits: [pos, V].
        targets: the tokens that came next, [pos], or [pos - 1] where the last position has none.
        top: k.

    Returns tensors by name: "top_ids" and "top_probabilities" [pos, k], "loss" and "rank" like `targets`, and "entropy"
    [pos]; losses, probabilities and entropies in float64. Positions are taken in chunks, so that all log-probabilities
    never exist at once. Sums over the vocabulary run in the logits' own precision (float32 at least).
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
        next_ids = targets[start : start + step]
        chunk = chunk[:, : len(next_ids)]
        scores = chunk.gather(0, next_ids[None])[0]  # n
        parts["loss"].append(total[: len(next_ids)] - scores.double())
        parts["rank"].append(ranks(chunk, scores))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def checked_top(model: Model, top: int) -> int:
    """Return `top`, at most the size of the vocabulary. Raises InputError unless it is a whole number above 0."""
    return min(whole("top", top, 1), model.config.d_vocab)


def checked_run(model: Model, run: Run, tokens: Tokens, needs_logits: bool = False) -> Run:
    """Return the run that a caller gave.

    Raises InputError for a run over other tokens or under other edits; with `needs_logits`, also for one that kept only
    the last logits.
    """
    if run.tokens.rows() != tokens.rows():
        raise InputError("run= is a run over other tokens: a run over exactly this text was expected")
    if run.edits != model.active_edits:
        hint = "make it and read it inside the same `with model.edited(...)`"
        raise InputError(f"run= was made under other edits than are in force now: {hint}")
    if needs_logits and run.logits.shape[1] != tokens.ids.shape[1]:
        raise InputError("run= kept only the last logits: a run with logits='all' was expected")
    return run


def group_by_width(lengths: list[int]) -> list[list[int]]:
    """Group row numbers, in order, so that width x rows of each group stays within BATCH_TOKENS."""
    groups: list[list[int]] = []
    width = 0
    for i, length in enumerate(lengths):
        width = max(width, length)
        if groups and width * (len(groups[-1]) + 1) <= BATCH_TOKENS:
            groups[-1].append(i)
        else:
            groups.append([i])
            width = length
    return groups
