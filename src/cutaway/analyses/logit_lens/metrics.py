"""What a lens measures at each state: distributions over the vocabulary, reduced a few positions at a time.

analyses/logit_lens.py says what each is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cutaway.analyses.logits import chunk_size, ranks, top_k, widen
from cutaway.analyses.predictions.metrics import batches_of
from cutaway.errors import InputError
from cutaway.stopping import stop_point
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run
    from cutaway.model.taps.sites import Site

METRICS = ("entropy", "kl", "js", "tv", "loss", "rank")


def sites_at(model: Model, at: str) -> list[Site]:
    found = model.sites().match(at)
    if wrong := [site for site in found if site.shape != "B P D"]:
        raise InputError(f"the lens reads states of width d_model, and {wrong[0].name!r} is {wrong[0].shape}")
    return found


def passes(model: Model, tokens: Tokens, sites: list[Site]) -> Iterator[Run]:
    """Passes over a few texts at a time, with the states that the lens reads."""
    wanted = [final_site(model), *(site.name for site in sites)]
    for rows in batches_of(tokens.lengths.tolist()):
        width = int(tokens.lengths[rows].max())
        batch = Tokens(tokens.ids[rows, :width], tokens.mask[rows, :width])
        yield model.run(batch, capture=wanted, logits=None)


def final_site(model: Model) -> str:
    return f"blocks.{model.config.n_layers - 1}.resid_post"


def parts(
    model: Model, run: Run, sites: list[Site], top: int, targets: Tensor, metrics: Sequence[str] = METRICS
) -> Iterator[dict[str, Tensor]]:
    """The lens' numbers for a few positions at a time, [row, token, ...], in the order of the tokens."""
    batch = run.tokens
    attended = batch.mask.bool()
    final = final_site(model)
    own = run[final][attended]  # n D
    states = [own if site.name == final else run[site.name][attended] for site in sites]  # row of n D
    came = torch.cat([batch.ids[:, 1:], torch.full_like(batch.ids[:, :1], -1)], 1)
    ends = torch.arange(batch.ids.shape[1], device=attended.device) == batch.lengths[:, None] - 1
    came = came.masked_fill(ends, -1)[attended]  # n; -1 where nothing came
    step = chunk_size(model.config.d_vocab)
    for start in range(0, len(own), step):
        part = slice(start, start + step)
        mine = own[part]
        rows = [mine if state is own else state[part] for state in states]
        yield _numbers(model, rows, mine, came[part], top, targets, metrics)


def _numbers(
    model: Model,
    states: list[Tensor],
    own: Tensor,
    came: Tensor,
    top: int,
    targets: Tensor,
    metrics: Sequence[str],
) -> dict[str, Tensor]:
    """The metrics of a few positions: states [n D] a row, the model's own final state [n D], next tokens [n].

    Everything over the vocabulary is [V, n]: logits of one row at a time, and three buffers that the rows share.
    """
    n = len(own)
    own_logits = unembedded(model, own)
    p, q, scratch = (torch.empty_like(own_logits) for _ in range(3))
    own_top = own_logits.argmax(0)  # n
    entropy_q = torch.empty(0)
    beside = not {"kl", "js", "tv"}.isdisjoint(metrics)  # metrics that compare with the model's own output
    if beside:
        log_q = torch.sub(own_logits, own_logits.logsumexp(0), out=scratch)  # V n
        torch.exp(log_q, out=q)
        entropy_q = -(log_q.mul_(q)).sum(0)  # n
    rows = []
    for state in states:
        stop_point()
        logits = own_logits if state is own else unembedded(model, state)
        best, best_ids = top_k(logits, top)  # k n
        # One exponential serves the sum, the probabilities and what is made of them.
        torch.exp(torch.sub(logits, best[0], out=p), out=p)
        sums = p.sum(0)  # n
        total = best[0] + sums.log()
        scores = logits.gather(0, came.clamp(min=0)[None])[0]  # n
        target_logits = logits[targets]  # target n
        nothing = torch.full_like(total, torch.nan)
        row = dict.fromkeys(METRICS, nothing) | {
            "rank": ranks(logits, scores, scratch).masked_fill(came < 0, 0),
            "loss": (total - scores).masked_fill(came < 0, torch.nan),
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
    found = {name: t.double() if t.is_floating_point() else t for name, t in stacked.items()}
    return found | {"own_top": own_top.cpu()[None].expand(len(states), -1)}


def unembedded(model: Model, state: Tensor) -> Tensor:
    """n D -> logits V n, in float32 at least: the final LayerNorm, then the unembedding."""
    return widen(model.unembed(state)).T
