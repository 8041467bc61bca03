"""Find the change of the final bias that moves given tokens by given amounts, in three ways.

    least_squares(model, tokens, nats)      keeps the other logits, and lifts a logit only by the token's leverage
    fisher(contexts, tokens, nats)          the least collateral to second order
    exact(contexts, tokens, nats)           the least collateral, by Newton's method
    reach(contexts, direction, ...)         the multiples of a direction that achieve given changes

contexts.py has the function A(beta) behind them. Letters: V d_vocab, D d_model, k tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cutaway.analyses.unigram.contexts import EVALUATIONS, Contexts, LogPartition
from cutaway.analyses.unigram.head import Factor, gram
from cutaway.errors import InputError
from cutaway.model.model import Model

STEP = 0.5  # nats that the exact edit goes at a time


def least_squares(model: Model, tokens: Sequence[int], nats: Tensor) -> Tensor:
    """Return (W' W)^-1 sum_t d_t w_t, the change of bias whose logits are closest to d_t at tokens t, 0 elsewhere."""

    return gram(model).solve(model.weights.W_U[list(tokens)].double().T @ nats)


def leverage(model: Model, tokens: Sequence[int]) -> Tensor:
    """Return h_t = w_t' (W' W)^-1 w_t: the share of the wanted change by which least squares lifts a token's logit."""
    return gram(model).lengths(model.weights.W_U[list(tokens)].double())


def fisher(contexts: Contexts, tokens: Sequence[int], nats: Tensor) -> Tensor:
    """Return the d with the least d' S d / 2 and (w_t - m).d = d_t for each token: S^-1 G (G' S^-1 G)^-1 d, G = w - m.

    Raises InputError for tokens that no change of bias tells apart.
    """
    G = contexts.W[list(tokens)].T - contexts.unedited.mean[:, None]  # D k
    lifted = contexts.factor.solve(G)
    return lifted @ _solve(G.T @ lifted, nats)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve a small system. Raises InputError where it has no solution: no change of bias tells the tokens apart."""
    solution = Factor((matrix + matrix.T) / 2).solve(right)
    if not torch.allclose(matrix @ solution, right, rtol=1e-6, atol=1e-9):
        raise InputError("these tokens cannot be moved by these amounts together: their embeddings tie them to others")
    return solution


def reach(contexts: Contexts, direction: Tensor, token: int, targets: Sequence[float]) -> Iterator[Tensor | None]:
    """Yield the multiples of a direction that change a token's mean log-probability by each target.

    Targets are nats of one sign, in ascending order of size. Yields None and stops at the first target that no multiple
    reaches (the direction moves the token the wrong way, or its effect peaks earlier). Along a line the change is
    concave, so Newton's method comes from below, or goes past the peak.
    """
    w, length = contexts.W[token], 0.0
    current, achieved = contexts.unedited, 0.0
    for nats in targets:
        for _ in range(EVALUATIONS):
            if abs(achieved - nats) <= 1e-9:
                break
            slope = float((w - current.mean) @ direction)
            if slope * nats <= 0:
                yield None
                return
            length += (nats - achieved) / slope
            current = contexts.log_partition(length * direction)
            achieved = length * float(w @ direction) - (current.value - contexts.unedited.value)
        yield length * direction if abs(achieved - nats) <= 1e-9 else None


@dataclass(frozen=True, eq=False)
class _Iterate:
    """One iterate of the exact edit's Newton's method: where it is, and what it misses."""

    delta: Tensor
    alpha: Tensor  # k
    current: LogPartition
    off: Tensor  # k; achieved - wanted
    rest: Tensor  # D; of the gradient
    size: float


def exact(contexts: Contexts, tokens: Sequence[int], nats: Tensor) -> Tensor:
    """Return the change of bias with the least E KL(q || q') that changes mean log-probabilities by exactly `nats`.

    Raises InputError for a target that cannot be reached.
    """
    return list(exact_path(contexts, tokens, nats, [1.0]))[-1]


def exact_path(contexts: Contexts, tokens: Sequence[int], nats: Tensor, shares: Sequence[float]) -> Iterator[Tensor]:
    """Yield the exact changes of bias for ascending shares of a target.

    Where collateral is least, the mean embedding that the model predicts has moved towards the tokens': M = m + sum a_t
    (w_t - m), sum a < 1 (the Lagrange multipliers are a / (1 - sum a)). Newton's method finds delta and a together, in
    steps of at most STEP nats. For one token the change grows with a, so there is one such point; where tokens are to
    be raised the problem is convex, and that point is its minimum.

    Raises InputError for a target that cannot be reached.
    """
    room = -contexts.log_probability(tokens)
    if bool((nats >= room).any()):
        most = ", ".join(f"{value:.3g}" for value in room.tolist())
        raise InputError(f"a probability cannot pass 1: these tokens can be raised by less than {most} nats")
    W_t, unedited = contexts.W[list(tokens)], contexts.unedited
    G = W_t.T - unedited.mean[:, None]  # D k

    def iterate(delta: Tensor, alpha: Tensor, wanted: Tensor) -> _Iterate:
        current = contexts.log_partition(delta, metric=True)
        off = W_t @ delta - (current.value - unedited.value) - wanted
        rest = current.mean - unedited.mean - G @ alpha
        size = float(off @ off + rest @ contexts.factor.solve(rest))
        return _Iterate(delta, alpha, current, off, rest, max(size, 0.0) ** 0.5)

    at = iterate(torch.zeros_like(unedited.mean), torch.zeros_like(nats), torch.zeros_like(nats))
    done = 0.0
    for share in shares:
        pieces = max(1, int(((share - done) * nats.abs().max() / STEP).ceil()))
        for piece in range(1, pieces + 1):
            wanted = nats * (done + (share - done) * piece / pieces)
            start = replace(at, off=W_t @ at.delta - (at.current.value - unedited.value) - wanted)
            start = replace(start, size=float(start.off @ start.off + at.size**2) ** 0.5)
            at = _newton(partial(iterate, wanted=wanted), start, W_t, G)
            if at.size > 1e-7:
                raise _unreachable(W_t @ at.delta - (at.current.value - unedited.value))
        done = share
        yield at.delta


def _newton(iterate: Callable[[Tensor, Tensor], _Iterate], at: _Iterate, W_t: Tensor, G: Tensor) -> _Iterate:
    """Return the iterate that misses nothing, or the last one from which no step misses less."""
    for _ in range(EVALUATIONS):
        if at.size <= 1e-10:
            return at
        factor = at.current.factor()
        towards, back = factor.solve(G), factor.solve(at.rest)  # D k, D
        J = W_t.T - at.current.mean[:, None]  # D k
        turn = torch.linalg.lstsq(J.T @ towards, (J.T @ back - at.off)[:, None]).solution[:, 0]
        step, next_at = 1.0, None
        while step > 1e-6:
            alpha = at.alpha + step * turn
            if float(alpha.sum()) < 1:
                candidate = iterate(at.delta + step * (towards @ turn - back), alpha)
                if candidate.size < (1 - 1e-4 * step) * at.size:
                    next_at = candidate
                    break
            step /= 2
        if next_at is None:
            return at
        at = next_at
    return at


def _unreachable(achieved: Tensor) -> InputError:
    """Return the error for a target that cannot be reached."""
    amounts = ", ".join(f"{value:+.3g}" for value in achieved.tolist())
    return InputError(
        f"no change of the final bias moves these tokens so far: {amounts} nats were reached; ask for less"
    )
