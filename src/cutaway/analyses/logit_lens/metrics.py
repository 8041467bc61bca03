"""Compute the metrics of a lens at each state, reducing distributions over the vocabulary a few positions at a time.

The package's docstring defines each metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.logits import chunk_size, ranks, top_k, widen
from cutaway.analyses.predictions.metrics import group_by_width
from cutaway.errors import InputError
from cutaway.stopping import stop_point
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run
    from cutaway.model.taps.sites import Site

METRICS = ("entropy", "kl", "js", "tv", "loss", "rank")


def lens_sites(model: Model, at: str) -> list[Site]:
    """Return the sites that a pattern names. Raises InputError for a site that is not of width d_model."""
    sites = model.sites().match(at)
    if wrong := [site for site in sites if site.shape != "B P D"]:
        raise InputError(f"the lens reads states of width d_model, and {wrong[0].name!r} is {wrong[0].shape}")
    return sites


def lens_runs(model: Model, tokens: Tokens, sites: list[Site]) -> Iterator[Run]:
    """Run a few texts at a time, and yield runs with the states that the lens reads."""
    wanted = [final_site(model), *(site.name for site in sites)]
    for rows in group_by_width(tokens.lengths.tolist()):
        width = int(tokens.lengths[rows].max())
        batch = Tokens(tokens.ids[rows, :width], tokens.mask[rows, :width])
        yield model.run(batch, capture=wanted, logits=None)


def final_site(model: Model) -> str:
    """Return the site after the last block."""
    return f"blocks.{model.config.n_layers - 1}.resid_post"


def lens_metrics(
    model: Model, run: Run, sites: Sequence[str], top: int, targets: Tensor, metrics: Sequence[str] = METRICS
) -> Iterator[dict[str, Tensor]]:
    """Yield the lens' metrics for a few positions at a time, [row, token, ...], in the order of the tokens."""
    batch = run.tokens
    attended = batch.mask.bool()
    final = final_site(model)
    own = run[final][attended]  # n D
    states = [own if site == final else run[site][attended] for site in sites]  # row of n D
    next_ids = torch.cat([batch.ids[:, 1:], torch.full_like(batch.ids[:, :1], -1)], 1)
    ends = torch.arange(batch.ids.shape[1], device=attended.device) == batch.lengths[:, None] - 1
    next_ids = next_ids.masked_fill(ends, -1)[attended]  # n; -1 where there is none
    step = chunk_size(model.config.d_vocab)
    for start in range(0, len(own), step):
        part = slice(start, start + step)
        own_part = own[part]
        rows = [own_part if state is own else state[part] for state in states]
        yield _metrics(model, rows, own_part, next_ids[part], top, targets, metrics)


def _metrics(
    model: Model,
    states: list[Tensor],
    own: Tensor,
    next_ids: Tensor,
    top: int,
    targets: Tensor,
    metrics: Sequence[str],
) -> dict[str, Tensor]:
    """Return the metrics of a few positions, given states [n D] a row, own final states [n D] and next tokens [n].

    Everything over the vocabulary is [V, n]: logits of one row at a time, and three buffers that the rows share.
    """
    n = len(own)
    own_logits = unembedded(model, own)
    p, q, scratch = (torch.empty_like(own_logits) for _ in range(3))
    own_top = own_logits.argmax(0)  # n
    entropy_q = torch.empty(0)
    if not {"kl", "js", "tv"}.isdisjoint(metrics):  # metrics that compare with the model's own output
        log_q = torch.sub(own_logits, own_logits.logsumexp(0), out=scratch)  # V n
        torch.exp(log_q, out=q)
        entropy_q = -(log_q.mul_(q)).sum(0)  # n
    rows = []
    for state in states:
        stop_point()
        logits = own_logits if state is own else unembedded(model, state)
        best, best_ids = top_k(logits, top)  # k n
        # One exponential serves the sum, the probabilities and all metrics made of them.
        torch.exp(torch.sub(logits, best[0], out=p), out=p)
        sums = p.sum(0)  # n
        total = best[0] + sums.log()
        scores = logits.gather(0, next_ids.clamp(min=0)[None])[0]  # n
        target_logits = logits[targets]  # target n
        nothing = torch.full_like(total, torch.nan)
        row = dict.fromkeys(METRICS, nothing) | {
            "rank": ranks(logits, scores, scratch).masked_fill(next_ids < 0, 0),
            "loss": (total - scores).masked_fill(next_ids < 0, torch.nan),
            "top_ids": best_ids.T,
            "top_probabilities": (best - total).exp().T,
            "target_probability": (target_logits - total).exp().T,
            "target_rank": torch.stack([ranks(logits, t, scratch) for t in target_logits], -1)
            if len(targets)
            else targets.new_zeros(n, 0),
        }
        rows.append(row)
        if not {"entropy", "js", "tv"}.isdisjoint(metrics):
            p.div_(sums)
            row["entropy"] = total - torch.mul(p, logits, out=scratch).sum(0)
        if "kl" in metrics:
            row["kl"] = (total - entropy_q - torch.mul(q, logits, out=scratch).sum(0)).clamp(min=0)
        if "tv" in metrics:
            row["tv"] = torch.sub(p, q, out=scratch).abs_().sum(0) / 2
        if "js" in metrics:
            middle = torch.add(p, q, out=scratch).mul_(0.5).clamp_(min=torch.finfo(p.dtype).tiny)
            entropy_m = -torch.log(middle, out=p).mul_(middle).sum(0)
            row["js"] = (entropy_m - (row["entropy"] + entropy_q) / 2).clamp(min=0)
    stacked = {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}
    doubles = {name: t.double() if t.is_floating_point() else t for name, t in stacked.items()}
    return doubles | {"own_top": own_top.cpu()[None].expand(len(states), -1)}


def unembedded(model: Model, state: Tensor) -> Tensor:
    """Return logits V n of states n D, in float32 at least: the final LayerNorm, then the unembedding."""
    return widen(model.unembed(state)).T
