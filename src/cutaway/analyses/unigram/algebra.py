"""The linear algebra behind unigram.py, in float64.

logits = W (s + b) + c, with s = g * n(x) what the text adds, b the final LayerNorm's bias and c the unembedding's bias,
which only folding makes. u = W b + c does not depend on the text. Everything here is about one function of a vector
beta that is added to the states h of some contexts x, each with the model's prediction q_x = softmax(W h_x + c):

    A(beta) = mean over x of log sum_v exp(W (h_x + beta) + c)_v

It is convex. Its gradient is the mean embedding that the changed model predicts, M = E_x E_q[w]; its Hessian
H = E_x Cov_q(w) = W' diag(E q) W - E[m_x m_x'] is the metric of small changes: KL(q || q') is d' H d / 2.

    the best bias for p                 argmin A(beta) - beta.(W' p), with one context h = 0
    the bias with the lowest loss       argmin A(beta) - beta.E[w of the next token], with contexts s_x
    collateral of a change of bias      E_x KL(q_x || q'_x) = A(d) - A(0) - d.m
    change of a token's log-probability     w_t.d - A(d) + A(0), mean over x

so one Newton's method serves them all. Letters: V d_vocab, D d_model, n contexts, k tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cutaway.analyses.logits import at_once, chunk_size
from cutaway.errors import InputError
from cutaway.model.model import Model

CONVERGED = 1e-9  # max-norm of a gradient
EVALUATIONS = 60  # of objective and Hessian, at most
STEP = 0.5  # nats that the exact edit goes at a time
RANK = 1e-12  # eigenvalues below this share of the largest are zero


@dataclass(frozen=True, eq=False)
class Head:
    """What turns a state into logits, in float64 on the model's device."""

    W: Tensor  # V D
    b: Tensor  # D; zeros where it is folded into c
    c: Tensor | None  # V
    u: Tensor  # V; W b + c

    @property
    def silent(self) -> bool:
        """Whether the bias says the same of all tokens: it is absent, or all zeros."""
        return float(self.u.max() - self.u.min()) == 0


def head(model: Model) -> Head:
    """Raises InputError for a bias that is not finite."""
    w = model.weights
    W = w.W_U.double()
    b = W.new_zeros(W.shape[1]) if w.ln_final.b is None else w.ln_final.b.double()
    c = None if w.b_U is None else w.b_U.double()
    u = W @ b if c is None else W @ b + c
    if not u.isfinite().all():
        raise InputError(f"the final bias of {model.name} is not finite: sound weights were expected")
    return Head(W, b, c, u)


class Factor:
    """A symmetric positive semidefinite matrix, factored once; solves in its own range."""

    def __init__(self, matrix: Tensor) -> None:
        values, vectors = torch.linalg.eigh(matrix)
        self._take(values, vectors)

    @classmethod
    def of_products(cls, blocks: Iterable[Tensor]) -> Factor:
        """X' X, from the rows of X [., D] in blocks: by QR, for X' X itself has the square of its condition."""
        values, vectors = torch.linalg.svd(triangle(blocks), full_matrices=False)[1:]
        found = cls.__new__(cls)
        found._take(values.flip(0) ** 2, vectors.T.flip(1))
        return found

    def _take(self, values: Tensor, vectors: Tensor) -> None:
        """Return eigenvalues, ascending, and eigenvectors."""
        kept = values > RANK * values[-1].clamp(min=0)
        self._root = vectors[:, kept] / values[kept].sqrt()  # D r; its product with its transpose is the inverse

    def solve(self, right: Tensor) -> Tensor:
        """D or D k -> the same."""
        found: Tensor = self._root @ (self._root.T @ right)
        return found

    def lengths(self, rows: Tensor) -> Tensor:
        """x' M^-1 x of each row: n D -> n."""
        return (rows @ self._root).square().sum(1)


def triangle(blocks: Iterable[Tensor]) -> Tensor:
    """R [., D] of the QR of rows that come in blocks (Demmel et al. 2012, Communication-optimal Parallel and
    Sequential QR and LU Factorizations, section 4: the sequential TSQR)."""
    found: Tensor | None = None
    for block in blocks:
        found = torch.linalg.qr(block if found is None else torch.cat([found, block]), mode="r").R
    if found is None:
        raise ValueError("no rows were given")
    return found


def closest(X: Tensor, y: Tensor) -> Tensor:
    """Return the b with the least |X b - y|, the shortest where there are several: n D, n -> D."""
    both = triangle([torch.cat([X, y[:, None]], 1)])  # of the same lengths and angles as X and y
    left, values, right = torch.linalg.svd(both[:, :-1], full_matrices=False)
    kept = values > RANK**0.5 * values[0]
    found: Tensor = right[kept].T @ ((left[:, kept].T @ both[:, -1]) / values[kept])
    return found


_GRAMS: WeakKeyDictionary[Model, Factor] = WeakKeyDictionary()


def gram(model: Model) -> Factor:
    """W' W, factored; kept as long as the model."""
    if model not in _GRAMS:
        W, step = model.weights.W_U, at_once(model.config.d_model)
        _GRAMS[model] = Factor.of_products(rows.double() for rows in torch.split(W, step))
    return _GRAMS[model]


@dataclass(frozen=True, eq=False)
class At:
    """A(beta) and its derivatives."""

    value: float
    mean: Tensor  # D; E_x m_x, the gradient
    metric: Tensor | None  # D D; E_x Cov_q(w), the Hessian
    q: Tensor  # V; E_x q_x

    def factor(self) -> Factor:
        if self.metric is None:
            raise ValueError("the second derivative was not asked for")
        return Factor((self.metric + self.metric.T) / 2)


class Contexts:
    """Places in texts where the model predicts: their states, and what is known of its predictions there."""

    def __init__(self, W: Tensor, states: Tensor, c: Tensor | None = None) -> None:
        self.W, self.states, self.c = W, states, c  # V D, n D, V
        self.here = self.at(W.new_zeros(W.shape[1]), metric=True)
        self._factor: Factor | None = None

    def __len__(self) -> int:
        return len(self.states)

    @property
    def factor(self) -> Factor:
        """The metric here, factored once."""
        if self._factor is None:
            self._factor = self.here.factor()
        return self._factor

    def log_probability(self, tokens: Sequence[int]) -> Tensor:
        """Mean log-probabilities of tokens here, [k]."""
        index = list(tokens)
        logits = self.W[index] @ self.states.mean(0)
        return (logits if self.c is None else logits + self.c[index]) - self.here.value

    def at(self, beta: Tensor, metric: bool = False) -> At:
        """A and its derivatives, the second only with `metric`; chunks of contexts, so that [n, V] never exists."""
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
        return At(value / n, self.W.T @ q, second, q)

    def change(self, delta: Tensor) -> Change:
        """What adding delta to every state does."""
        there = self.at(delta)
        moved = there.value - self.here.value
        return Change(self.W @ delta - moved, moved - float(self.here.mean @ delta), there.q)


@dataclass(frozen=True, eq=False)
class Change:
    """Means over contexts."""

    log_probability: Tensor  # V; change, nats
    collateral: float  # KL(q || q'), nats
    q: Tensor  # V; the mean prediction after it


@dataclass(frozen=True, eq=False)
class Match:
    """The minimum of A(beta) - beta.target."""

    beta: Tensor  # D
    evaluations: int
    gradient: float  # max-norm

    @property
    def converged(self) -> bool:
        return self.gradient <= 10 * CONVERGED


def match(contexts: Contexts, target: Tensor, start: Tensor | None = None, within: float = CONVERGED) -> Match:
    """Newton's method with halved steps on the convex A(beta) - beta.target, from 0 or a start.

    Boyd and Vandenberghe 2004, Convex Optimization, algorithm 9.5.
    """
    beta, found, evaluations = torch.zeros_like(target), contexts.here, 1
    if start is not None:
        beta, found, evaluations = start, contexts.at(start, metric=True), 2
    while True:
        gradient = found.mean - target
        size = float(gradient.abs().max())
        if size <= within or evaluations >= EVALUATIONS:
            return Match(beta, evaluations, size)
        direction = -found.factor().solve(gradient)
        slope, objective, step = float(gradient @ direction), found.value - float(beta @ target), 1.0
        noise = 1e-13 * max(1.0, abs(found.value))  # what rounding makes of an objective
        while evaluations < EVALUATIONS:
            tried = beta + step * direction
            there = contexts.at(tried, metric=True)
            evaluations += 1
            if there.value - float(tried @ target) <= objective + 1e-4 * step * slope + noise:
                break
            step /= 2
        else:
            return Match(beta, evaluations, size)
        stuck = -slope <= noise and float((there.mean - target).abs().max()) >= size
        if stuck:  # as low as float64 goes
            return Match(beta, evaluations, size)
        beta, found = tried, there


# --- directions of an edit ---


def least_squares(model: Model, tokens: Sequence[int], nats: Tensor) -> Tensor:
    """(W' W)^-1 sum_t d_t w_t: the change of bias whose logits are closest to d_t at each token t and 0 elsewhere."""
    return gram(model).solve(model.weights.W_U[list(tokens)].double().T @ nats)


def leverage(model: Model, tokens: Sequence[int]) -> Tensor:
    """h_t = w_t' (W' W)^-1 w_t: the share of what it was asked by which least squares lifts a token's logit."""
    return gram(model).lengths(model.weights.W_U[list(tokens)].double())


def fisher(contexts: Contexts, tokens: Sequence[int], nats: Tensor) -> Tensor:
    """The least d' S d / 2 with (w_t - m).d = d_t for each token: S^-1 G (G' S^-1 G)^-1 d, G = w - m."""
    G = contexts.W[list(tokens)].T - contexts.here.mean[:, None]  # D k
    lifted = contexts.factor.solve(G)
    return lifted @ _solved(G.T @ lifted, nats)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """A small system. Raises InputError where it has no solution: tokens that no change of bias tells apart."""
    found = Factor((matrix + matrix.T) / 2).solve(right)
    if not torch.allclose(matrix @ found, right, rtol=1e-6, atol=1e-9):
        raise InputError("these tokens cannot be moved by these amounts together: their embeddings tie them to others")
    return found


def reach(contexts: Contexts, direction: Tensor, token: int, targets: Sequence[float]) -> Iterator[Tensor | None]:
    """The multiples of a direction that change a token's mean log-probability by each of ascending amounts of a sign.

    None for one, and then no more, where none does: the direction moves the token the other way, or turns back before.
    Along a line the change is concave, so Newton's method comes from below, or goes past the top.
    """
    w, length = contexts.W[token], 0.0
    there, got = contexts.here, 0.0
    for nats in targets:
        for _ in range(EVALUATIONS):
            if abs(got - nats) <= 1e-9:
                break
            slope = float((w - there.mean) @ direction)
            if slope * nats <= 0:
                yield None
                return
            length += (nats - got) / slope
            there = contexts.at(length * direction)
            got = length * float(w @ direction) - (there.value - contexts.here.value)
        yield length * direction if abs(got - nats) <= 1e-9 else None


@dataclass(frozen=True, eq=False)
class _Point:
    delta: Tensor
    alpha: Tensor  # k
    there: At
    off: Tensor  # k; achieved - wanted
    rest: Tensor  # D; of the gradient
    size: float


def exact(contexts: Contexts, tokens: Sequence[int], nats: Tensor) -> Tensor:
    """The change of bias with the least E KL(q || q') among those that change mean log-probabilities by just so much.

    Raises InputError for a target that cannot be reached.
    """
    return list(exact_path(contexts, tokens, nats, [1.0]))[-1]


def exact_path(contexts: Contexts, tokens: Sequence[int], nats: Tensor, shares: Sequence[float]) -> Iterator[Tensor]:
    """The exact changes of bias for ascending shares of a target.

    Where collateral is least, the mean embedding that the model predicts has moved towards the tokens': M = m + sum a_t
    (w_t - m), sum a < 1 (the Lagrange multipliers are a / (1 - sum a)). Newton's method finds delta and a together, in
    steps of at most STEP nats. For one token the change grows with a, so there is one such point; where tokens are to
    be raised the problem is convex, and that point the least.
    """
    room = -contexts.log_probability(tokens)
    if bool((nats >= room).any()):
        most = ", ".join(f"{value:.3g}" for value in room.tolist())
        raise InputError(f"a probability cannot pass 1: these tokens can be raised by less than {most} nats")
    W_t, here = contexts.W[list(tokens)], contexts.here
    G = W_t.T - here.mean[:, None]  # D k

    def point(delta: Tensor, alpha: Tensor, wanted: Tensor) -> _Point:
        there = contexts.at(delta, metric=True)
        off = W_t @ delta - (there.value - here.value) - wanted
        rest = there.mean - here.mean - G @ alpha
        size = float(off @ off + rest @ contexts.factor.solve(rest))
        return _Point(delta, alpha, there, off, rest, max(size, 0.0) ** 0.5)

    at, done = point(torch.zeros_like(here.mean), torch.zeros_like(nats), torch.zeros_like(nats)), 0.0
    for share in shares:
        pieces = max(1, int(((share - done) * nats.abs().max() / STEP).ceil()))
        for piece in range(1, pieces + 1):
            wanted = nats * (done + (share - done) * piece / pieces)
            start = replace(at, off=W_t @ at.delta - (at.there.value - here.value) - wanted)
            start = replace(start, size=float(start.off @ start.off + at.size**2) ** 0.5)
            at = _newton(partial(point, wanted=wanted), start, W_t, G)
            if at.size > 1e-7:
                raise _unreachable(W_t @ at.delta - (at.there.value - here.value))
        done = share
        yield at.delta


def _newton(point: Callable[[Tensor, Tensor], _Point], at: _Point, W_t: Tensor, G: Tensor) -> _Point:
    for _ in range(EVALUATIONS):
        if at.size <= 1e-10:
            return at
        factor = at.there.factor()
        towards, back = factor.solve(G), factor.solve(at.rest)  # D k, D
        J = W_t.T - at.there.mean[:, None]  # D k
        turn = torch.linalg.lstsq(J.T @ towards, (J.T @ back - at.off)[:, None]).solution[:, 0]
        step, next_at = 1.0, None
        while step > 1e-6:
            alpha = at.alpha + step * turn
            if float(alpha.sum()) < 1:
                tried = point(at.delta + step * (towards @ turn - back), alpha)
                if tried.size < (1 - 1e-4 * step) * at.size:
                    next_at = tried
                    break
            step /= 2
        if next_at is None:
            return at
        at = next_at
    return at


def _unreachable(got: Tensor) -> InputError:
    amounts = ", ".join(f"{value:+.3g}" for value in got.tolist())
    return InputError(
        f"no change of the final bias moves these tokens so far: {amounts} nats were reached; ask for less"
    )


# --- distributions ---


def smoothed(counts: Tensor) -> Tensor:
    """Counts [..., V] -> p = (counts + 1/2) / (N + V/2)."""
    counts = counts.double() + 0.5
    return counts / counts.sum(-1, keepdim=True)


def divergence(p: Tensor, z: Tensor) -> Tensor:
    """KL(p || softmax z), nats: [..., V] twice -> [...]."""
    return (p * p.log()).sum(-1) - (p * z).sum(-1) + z.logsumexp(-1)
