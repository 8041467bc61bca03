"""Compute how a change of the final bias moves predictions in contexts: positions in texts where the model predicts.


logits = W (s + b) + c, with s = g * n(x) the part that depends on the text, b the final LayerNorm's bias and c the
unembedding's bias, which only folding makes. u = W b + c does not depend on the text. Everything here is about one
function of a vector beta that is added to the states h of some contexts x, each with the model's prediction
q_x = softmax(W h_x + c), the mean log-partition function:

    A(beta) = mean over x of log sum_v exp(W (h_x + beta) + c)_v

It is convex. Its gradient is the mean embedding that the changed model predicts, M = E_x E_q[w]; its Hessian
H = E_x Cov_q(w) = W' diag(E q) W - E[m_x m_x'] is the metric of small changes: KL(q || q') is d' H d / 2.

    the best bias for p                 argmin A(beta) - beta.(W' p), with one context h = 0
    the bias with the lowest loss       argmin A(beta) - beta.E[w of the next token], with contexts s_x
    collateral of a change of bias      E_x KL(q_x || q'_x) = A(d) - A(0) - d.m
    change of a token's log-probability     w_t.d - A(d) + A(0), mean over x

so one Newton's method serves all of them. Letters: V d_vocab, D d_model, n contexts, k tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cutaway.analyses.logits import chunk_size
from cutaway.analyses.unigram.head import Factor, Head
from cutaway.analyses.unigram.texts import Predicted, read_texts, split
from cutaway.model.model import Model
from cutaway.text.corpus import Source

CONVERGED = 1e-9  # max-norm of a gradient
EVALUATIONS = 60  # of objective and Hessian, at most
ContextSource: TypeAlias = Source | Literal[False]  # False: no text


@dataclass(frozen=True, eq=False)
class LogPartition:
    """The log-partition function A(beta) at one beta, with its derivatives."""

    value: float
    mean: Tensor  # D; E_x m_x, the gradient
    metric: Tensor | None  # D D; E_x Cov_q(w), the Hessian
    q: Tensor  # V; E_x q_x

    def factor(self) -> Factor:
        """Return the Hessian, factored."""
        if self.metric is None:
            raise ValueError("the second derivative was not computed")
        return Factor((self.metric + self.metric.T) / 2)


class Contexts:
    """The states of some contexts, and A(beta) over them."""

    def __init__(self, W: Tensor, states: Tensor, c: Tensor | None = None) -> None:
        self.W, self.states, self.c = W, states, c  # V D, n D, V
        self.unedited = self.log_partition(W.new_zeros(W.shape[1]), metric=True)
        self._factor: Factor | None = None

    def __len__(self) -> int:
        return len(self.states)

    @property
    def factor(self) -> Factor:
        """Return the metric of the unedited predictions, factored once."""
        if self._factor is None:
            self._factor = self.unedited.factor()
        return self._factor

    def log_probability(self, tokens: Sequence[int]) -> Tensor:
        """Return the mean unedited log-probabilities of tokens, [k]."""
        index = list(tokens)
        logits = self.W[index] @ self.states.mean(0)
        return (logits if self.c is None else logits + self.c[index]) - self.unedited.value

    def log_partition(self, beta: Tensor, metric: bool = False) -> LogPartition:
        """Return A and its gradient, and with `metric` its Hessian.

        Contexts are taken in chunks, so that logits [n, V] never exist as a whole.
        """
        V, D = self.W.shape
        value, q, products = 0.0, self.W.new_zeros(V), self.W.new_zeros(D, D)
        step = chunk_size(V)
        for start in range(0, len(self.states), step):
            logits = (self.states[start : start + step] + beta) @ self.W.T  # n V
            logits = logits if self.c is None else logits.add_(self.c)
            total = logits.logsumexp(1)
            value += float(total.sum())
            p = logits.sub_(total[:, None]).exp_()
            q += p.sum(0)
            if metric:
                m = p @ self.W  # n D
                products += m.T @ m
        n = len(self.states)
        q /= n
        second = self.W.T @ (q[:, None] * self.W) - products / n if metric else None
        return LogPartition(value / n, self.W.T @ q, second, q)

    def change(self, delta: Tensor) -> Change:
        """Return how predictions change when delta is added to every state."""
        edited = self.log_partition(delta)
        difference = edited.value - self.unedited.value
        return Change(self.W @ delta - difference, difference - float(self.unedited.mean @ delta), edited.q)


@dataclass(frozen=True, eq=False)
class Change:
    """The change of predictions: means over contexts."""

    log_probability: Tensor  # V; change, nats
    collateral: float  # KL(q || q'), nats
    q: Tensor  # V; the mean prediction afterwards


@dataclass(frozen=True, eq=False)
class Match:
    """The minimum of A(beta) - beta.target."""

    beta: Tensor  # D
    evaluations: int
    gradient: float  # max-norm


def match(contexts: Contexts, target: Tensor, start: Tensor | None = None, within: float = CONVERGED) -> Match:
    """Minimise the convex A(beta) - beta.target by Newton's method with halved steps, from 0 or from `start`.

    Boyd and Vandenberghe 2004, Convex Optimization, algorithm 9.5.
    """
    beta, current, evaluations = torch.zeros_like(target), contexts.unedited, 1
    if start is not None:
        beta, current, evaluations = start, contexts.log_partition(start, metric=True), 2
    while True:
        gradient = current.mean - target
        size = float(gradient.abs().max())
        if size <= within or evaluations >= EVALUATIONS:
            return Match(beta, evaluations, size)
        direction = -current.factor().solve(gradient)
        slope, objective, step = float(gradient @ direction), current.value - float(beta @ target), 1.0
        noise = 1e-13 * max(1.0, abs(current.value))  # the rounding error of an objective
        while evaluations < EVALUATIONS:
            candidate = beta + step * direction
            at_candidate = contexts.log_partition(candidate, metric=True)
            evaluations += 1
            if at_candidate.value - float(candidate @ target) <= objective + 1e-4 * step * slope + noise:
                break
            step /= 2
        else:
            return Match(beta, evaluations, size)
        stuck = -slope <= noise and float((at_candidate.mean - target).abs().max()) >= size
        if stuck:  # as low as float64 goes
            return Match(beta, evaluations, size)
        beta, current = candidate, at_candidate


_CONTEXTS: WeakKeyDictionary[Model, dict[Any, Contexts]] = WeakKeyDictionary()


def draw_contexts(model: Model, corpus: ContextSource, size: int, seed: int, bos: bool) -> Contexts:
    """Return a sample of `size` predicted positions of a corpus.

    With corpus=False it is one context where the model sees no text, whose prediction is softmax(u). Contexts of the
    bundled documents and of no text are kept as long as the model.
    """
    key = (model.fresh_fingerprint(), corpus is None, size, seed, bos)
    keep = (corpus is None or corpus is False) and not model.active_edits
    kept = _CONTEXTS.setdefault(model, {})
    if keep and key in kept:
        return kept[key]
    head = Head.from_model(model)
    if corpus is False:
        states = head.b[None]
    else:
        sink = Predicted(model.config.d_vocab, model.config.d_model, 1, size, seed)
        read_texts(model, corpus, sink, bos)
        states = split(sink.samples[0])[0]
    contexts = Contexts(head.W, states, head.c)
    if keep:
        kept[key] = contexts
    return contexts
