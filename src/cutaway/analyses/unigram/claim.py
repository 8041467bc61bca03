"""Test whether the final bias is all that the model knows of unigram statistics.

The part of the logits that no text changes is W_U b + W_U E[g * n]: the mean residual may carry unigram statistics as
well as the bias. So each is measured by itself, both together, and each on top of the other; and each is taken out or
replaced while the model predicts text that neither was measured on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from cutaway.analyses.logits import at_once
from cutaway.analyses.unigram.contexts import Contexts, match
from cutaway.analyses.unigram.counts import checked_counts, counts_source, divergence, smoothed
from cutaway.analyses.unigram.head import Head
from cutaway.analyses.unigram.outcomes import FOLDS, Outcomes
from cutaway.analyses.unigram.texts import GROUPS, Predicted, read_texts, split
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.model.model import Model
from cutaway.results.bootstrap import draw_weights, interval, remark
from cutaway.results.call import analysis, meta_of
from cutaway.results.result import Result
from cutaway.surveys.state import StatePath, state_of
from cutaway.surveys.survey import survey

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.text.corpus import Source

ENOUGH = 4  # states for each coordinate of a bias that is fitted to them
AS_IT_IS = "as it is"
PARTS = {
    "bias": "bias alone",
    "mean_residual": "mean residual alone",
    "both": "both",
    "bias_on_top": "bias, on top of the mean residual",
    "mean_residual_on_top": "mean residual, on top of the bias",
    "bias_share": "bias, share of the variance of log p",
    "mean_residual_share": "mean residual, share of the variance of log p",
    "remainder_share": "neither, share of the variance of log p",
}


@dataclass(frozen=True)
class Number:
    """An estimate with its 95% interval over documents."""

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        if self.low == self.high:
            return f"{self.value:{form}}"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"


@dataclass(frozen=True)
class Intervention:
    """The model's loss with another constant part of its logits, on documents that the constant was not made from."""

    loss: Number  # nats a token
    change: Number  # from the model as it is, document by document
    kl: float  # KL(p || the mean prediction), nats


@dataclass(frozen=True, eq=False, repr=False)
class Claim(Result):
    """The share of the unigram distribution that bias and mean residual explain, and the model's loss without them."""

    analysis: ClassVar[str] = "unigram.claim"
    title: ClassVar[str] = "Is the final bias all it knows of unigram statistics?"

    against: str  # whose counts p is made of
    documents: int
    predicted: int
    parts: dict[str, Number]  # by the names of PARTS
    interventions: dict[str, Intervention]
    verdict: str

    def table(self) -> pd.DataFrame:
        """Return one row a number: kind (explained, loss, change), name, value, low, high (nats), and kl of a loss."""
        import pandas as pd

        rows = [("explained", name, n.value, n.low, n.high, float("nan")) for name, n in self.parts.items()]
        for name, outcome in self.interventions.items():
            for kind, n, kl in (("loss", outcome.loss, outcome.kl), ("change", outcome.change, float("nan"))):
                rows.append((kind, name, n.value, n.low, n.high, kl))
        return pd.DataFrame(rows, columns=["kind", "name", "value", "low", "high", "kl"])

    def summary(self) -> str:
        lines = [self.verdict, "", f"{'explained of the unigram distribution':<46}"]
        lines += [f"  {PARTS[name]:<46} {number:.1%}" for name, number in self.parts.items()]
        lines += ["", f"{'the constant part of the logits':<48} {'loss, nats a token':<24}  KL of the mean prediction"]
        for name, outcome in self.interventions.items():
            lines.append(f"  {name:<46} {f'{outcome.loss:.3f}':<26} {outcome.kl:.4f}")
        where = f"{self.predicted:,} predictions in {self.documents:,} documents; p from {self.against}"
        return "\n".join([*lines, f"{where}; 95% intervals resample documents{remark(self.documents)}"])

    def facts(self) -> list[tuple[str, str]]:
        return [("by bias and mean residual", f"{self.parts['both'].value:.0%}")]

    def caption(self) -> str:
        return (
            "Left: explained share of the unigram distribution, 1 - KL(p || softmax z) / KL(p || uniform), by the "
            "bias, the mean residual and both; below 0 is worse than the uniform distribution. Right: how the loss "
            "changes, in nats a token, when another constant replaces bias and mean residual; each document is "
            f"predicted with constants made from other documents. Bars: 95% intervals over {self.documents} documents."
        )


@analysis("unigram.claim")
def claim(
    model: Model,
    corpus: Source = None,
    counts: Any = None,
    *,
    states: int = 8192,
    resamples: int = 1000,
    seed: int = 0,
    bos: bool = False,
    state: StatePath = None,
) -> Claim:
    """Test whether the final bias is all that the model knows of unigram statistics.

    Interventions are measured on text that they were not made from: documents are dealt into two halves by turns, and
    each half is predicted with the mean residual, the best bias and the fitted bias of the other half. A bias is fitted
    to the loss only where the half holds at least ENOUGH x d_model predictions.

    Args:
        corpus: whatever cutaway.text.corpus.open_corpus takes; None for the bundled documents.
        counts: the counts [V] that p is made of, such as `unigram.training_counts()`; None: the corpus' next tokens.
        states: the number of predictions of each half that a bias is fitted to; 0: no bias is fitted.
        state: a file that the work saves itself to, and resumes from, as in `cutaway.survey`; the first of its two
            passes has another beside it, with ".counts" before its ending.

    Raises InputError for fewer than two documents with two tokens, and for counts of another vocabulary.
    """
    states, resamples, seed = whole("states", states, 0), whole("resamples", resamples, 1, MOST_DRAWS), seed_of(seed)
    head, V, D = Head.from_model(model), model.config.d_vocab, model.config.d_model
    given = None if counts is None else checked_counts(model, counts).to(head.W.device)
    sink = Predicted(V, D, FOLDS, states, seed)
    source = read_texts(model, corpus, sink, bos, state_of(state, "counts"))
    by_group = sink.counts.sum(1).to(head.W.device)  # G
    kept = by_group > 0
    folds = torch.arange(GROUPS, device=head.W.device) % FOLDS
    if any(not bool(by_group[folds == fold].any()) for fold in range(FOLDS)):
        raise InputError(
            f"corpus {source.name}: one half of its documents is predicted with what the other half says, so at least "
            "two documents of two tokens or more were expected"
        )
    draws = _draws(int(kept.sum()), resamples, seed).to(head.W.device)
    parts = _explained(head, sink, given, kept, draws)
    constants, names = _constants(head, sink, given, folds)
    outcomes = Outcomes(constants - head.u)
    survey(model, source, {"outcomes": outcomes}, bos=bos, state=state)
    p = smoothed(sink.counts.sum(0).to(head.W.device) if given is None else given)
    interventions = _interventions(names, outcomes, p, kept, draws)
    named_counts = None if counts is None else counts_source(counts)
    meta = meta_of(model, corpus, counts=named_counts) | {"input": source.name}
    return Claim(
        meta=meta,
        against=source.name if named_counts is None else str(named_counts),
        documents=len(sink.documents),
        predicted=int(by_group.sum()),
        parts=parts,
        interventions=interventions,
        verdict=verdict(parts, interventions),
    )


def _draws(groups: int, resamples: int, seed: int) -> Tensor:
    """Return how often each group is drawn, [1 + R, groups]: once each for the estimate itself, then by bootstrap."""
    return torch.cat([torch.ones(1, groups, dtype=torch.float64), draw_weights(groups, resamples, seed)])


def _number(values: Tensor) -> Number:
    """Return an estimate with its percentile interval, given the estimate and its resamples [1 + R]."""
    low, high = interval(values[1:])
    return Number(float(values[0]), float(low), float(high))


def _reflected(values: Tensor) -> Number:
    """Return an estimate with its basic bootstrap interval, which suits numbers that resampling shifts.

    Documents drawn with replacement hold fewer different tokens than the documents do. Davison and Hinkley 1997,
    Bootstrap Methods, equation 5.6.
    """
    number = _number(values)
    return Number(number.value, 2 * number.value - number.high, 2 * number.value - number.low)


def _explained(head: Head, sink: Predicted, given: Tensor | None, kept: Tensor, draws: Tensor) -> dict[str, Number]:
    """Return every number of PARTS, with its interval from the resamples in `draws`."""
    device = head.W.device
    counts = sink.counts.to(device)[kept].double()  # G V
    sums = sink.sums.to(device)[kept]  # G D
    seen = (counts.sum(0) if given is None else given) > 0
    names: dict[str, list[Tensor]] = {name: [] for name in PARTS}
    step = at_once(4 * len(head.W))
    for start in range(0, len(draws), step):
        weights = draws[start : start + step]  # R G
        mean = weights @ sums / (weights @ counts.sum(1))[:, None] - head.b  # R D
        p = smoothed(weights @ counts) if given is None else smoothed(given).expand(len(weights), -1)
        v = mean @ head.W.T  # R V
        even = divergence(p, torch.zeros_like(p))
        bias, residual, both = (1 - divergence(p, z) / even for z in (head.u.expand_as(v), v, head.u + v))
        for name, value in zip(PARTS, (bias, residual, both, both - residual, both - bias), strict=False):
            names[name].append(value)
        log_p = _centred(p.log()[:, seen])
        variance = (log_p**2).sum(1)
        shares = [(_centred(z[:, seen]) * log_p).sum(1) / variance for z in (head.u.expand_as(v), v)]
        for name, value in zip(list(PARTS)[5:], (*shares, 1 - shares[0] - shares[1]), strict=True):
            names[name].append(value)
    return {name: _reflected(torch.cat(values)) for name, values in names.items()}


def _centred(x: Tensor) -> Tensor:
    """Subtract each row's mean."""
    return x - x.mean(1, keepdim=True)


def _constants(head: Head, sink: Predicted, given: Tensor | None, folds: Tensor) -> tuple[Tensor, list[str]]:
    """Return the constants that replace u in each fold's logits, made from the other fold, [fold, K, V]; and names."""
    device, D = head.W.device, head.W.shape[1]
    fits = bool(sink.samples) and all(len(split(sample)[0]) >= ENOUGH * D for sample in sink.samples)
    names = [
        AS_IT_IS,
        "without the bias",
        "without the mean residual",
        "without both",
        "best bias beside the mean residual",
        "best bias, mean residual counted twice",
        *(["bias fitted to the loss"] if fits else []),
    ]
    constants = []
    for fold in range(FOLDS):
        others = folds != fold
        counts = sink.counts.to(device)[others]
        mean = sink.sums.to(device)[others].sum(0) / counts.sum() - head.b
        v, p = head.W @ mean, smoothed(counts.sum(0) if given is None else given)
        best = head.W @ match(Contexts(head.W, torch.zeros_like(mean)[None]), head.W.T @ p).beta
        zero = torch.zeros_like(v)
        rows = [head.u, zero, head.u - v, -v, best - v, best]
        if fits:
            h, next_ids = split(sink.samples[1 - fold])
            # Start from the model's own bias, and go no closer than a sample is worth.
            fitted = match(Contexts(head.W, h - head.b), head.W[next_ids].mean(0), start=head.b, within=1e-6)
            rows.append(head.W @ fitted.beta)
        constants.append(torch.stack(rows))
    return torch.stack(constants), names


def _interventions(
    names: Sequence[str], outcomes: Outcomes, p: Tensor, kept: Tensor, draws: Tensor
) -> dict[str, Intervention]:
    """Return each constant's loss, its change and the divergence of p from the mean prediction."""
    losses = draws @ outcomes.losses[kept] / (draws @ outcomes.count[kept])[:, None]  # 1+R K
    mean = outcomes.predictions / outcomes.count.sum()  # K V
    kl = (p * (p.log() - mean.log())).sum(1).tolist()
    return {
        name: Intervention(_number(losses[:, i]), _number(losses[:, i] - losses[:, 0]), kl[i])
        for i, name in enumerate(names)
    }


def verdict(parts: dict[str, Number], interventions: dict[str, Intervention]) -> str:
    """Return the answer in words, as far as the intervals allow one."""
    bias, rest, both = parts["bias"], parts["mean_residual_on_top"], parts["both"]
    if both.high < 0.05:
        answer = "Neither the bias nor the mean residual holds unigram statistics"
    elif rest.low > 0.02 and bias.high < 0.05:
        answer = "No: the mean residual holds unigram statistics, and the bias next to nothing of them"
    elif rest.low > 0.02:
        answer = "No: the mean residual adds to what the bias holds"
    elif bias.low > 0.05 and rest.high < 0.02:
        answer = "For the part of the logits that no text changes, yes: the mean residual adds nothing to the bias"
    else:
        answer = "These documents do not tell whether the mean residual adds to what the bias holds"
    without, best = interventions["without the bias"].change, interventions["best bias beside the mean residual"].change
    return (
        f"{answer}. The bias alone explains {bias:.0%} of the unigram distribution, the mean residual alone "
        f"{parts['mean_residual']:.0%}, both together {both:.0%}. Without the bias the loss on other text "
        f"{_moves(without)}; with the unigram distribution itself as the constant part it {_moves(best)}."
    )


def _moves(change: Number) -> str:
    """Return the words for a change of the loss."""

    if change.low <= 0 <= change.high:
        return f"does not clearly change ({change.low:+.3f} to {change.high:+.3f} nats)"
    word = "rises" if change.value > 0 else "falls"
    low, high = sorted((abs(change.low), abs(change.high)))
    return f"{word} by {abs(change.value):.3f} nats a token ({low:.3f} to {high:.3f})"
