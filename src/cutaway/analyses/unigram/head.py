"""Hold the unembedding with the final bias in float64, and factor its matrices.

    head = Head.from_model(model)       W, b, c and u = W b + c
    gram(model).solve(right)            (W' W)^-1 right, factored once a model
    closest(X, y)                       the least-squares solution

Letters: V d_vocab, D d_model, n rows, k columns, r the rank of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cutaway.analyses.logits import at_once
from cutaway.errors import InputError
from cutaway.model.model import Model

RANK = 1e-12  # eigenvalues below this share of the largest count as zero


@dataclass(frozen=True, eq=False)
class Head:
    """The unembedding and the final bias, in float64 on the model's device: logits = W (s + b) + c."""

    W: Tensor  # V D
    b: Tensor  # D; zeros where it is folded into c
    c: Tensor | None  # V
    u: Tensor  # V; W b + c

    @classmethod
    def from_model(cls, model: Model) -> Head:
        """Return a model's head. Raises InputError for a bias that is not finite."""
        w = model.weights
        W = w.W_U.double()
        b = W.new_zeros(W.shape[1]) if w.ln_final.b is None else w.ln_final.b.double()
        c = None if w.b_U is None else w.b_U.double()
        u = W @ b if c is None else W @ b + c
        if not u.isfinite().all():
            raise InputError(f"the final bias of {model.name} is not finite: sound weights were expected")
        return cls(W, b, c, u)

    @property
    def silent(self) -> bool:
        """Return whether the bias says the same of all tokens: it is absent, or all zeros."""
        return float(self.u.max() - self.u.min()) == 0


class Factor:
    """A symmetric positive semidefinite matrix, factored once; it solves equations within the matrix's range."""

    def __init__(self, matrix: Tensor) -> None:
        values, vectors = torch.linalg.eigh(matrix)
        self._set_root(values, vectors)

    @classmethod
    def of_products(cls, blocks: Iterable[Tensor]) -> Factor:
        """Factor X' X, given the rows of X [., D] in blocks.

        It uses the QR decomposition of X, since forming X' X would square the condition.
        """
        values, vectors = torch.linalg.svd(triangle(blocks), full_matrices=False)[1:]
        factor = cls.__new__(cls)
        factor._set_root(values.flip(0) ** 2, vectors.T.flip(1))
        return factor

    def _set_root(self, values: Tensor, vectors: Tensor) -> None:
        """Set the root of the inverse from eigenvalues in ascending order and their eigenvectors."""
        kept = values > RANK * values[-1].clamp(min=0)
        self._root = vectors[:, kept] / values[kept].sqrt()  # D r; its product with its transpose is the inverse

    def solve(self, right: Tensor) -> Tensor:
        """Return M^-1 times a right-hand side, D or D k, in the same shape."""
        solution: Tensor = self._root @ (self._root.T @ right)
        return solution

    def lengths(self, rows: Tensor) -> Tensor:
        """Return x' M^-1 x of each row: n D -> n."""
        return (rows @ self._root).square().sum(1)


def triangle(blocks: Iterable[Tensor]) -> Tensor:
    """Return R [., D] of the QR decomposition of rows that come in blocks.

    Demmel et al. 2012, Communication-optimal Parallel and Sequential QR and LU Factorizations, section 4: the
    sequential TSQR.
    """
    R: Tensor | None = None
    for block in blocks:
        R = torch.linalg.qr(block if R is None else torch.cat([R, block]), mode="r").R
    if R is None:
        raise ValueError("no rows were given")
    return R


def closest(X: Tensor, y: Tensor) -> Tensor:
    """Return the b with the least |X b - y|, the shortest one where there are several: n D, n -> D."""
    both = triangle([torch.cat([X, y[:, None]], 1)])  # of the same lengths and angles as X and y
    left, values, right = torch.linalg.svd(both[:, :-1], full_matrices=False)
    kept = values > RANK**0.5 * values[0]
    solution: Tensor = right[kept].T @ ((left[:, kept].T @ both[:, -1]) / values[kept])
    return solution


_GRAMS: WeakKeyDictionary[Model, Factor] = WeakKeyDictionary()


def gram(model: Model) -> Factor:
    """Return W' W, factored; it is kept as long as the model."""
    if model not in _GRAMS:
        W, step = model.weights.W_U, at_once(model.config.d_model)
        _GRAMS[model] = Factor.of_products(rows.double() for rows in torch.split(W, step))
    return _GRAMS[model]
