"""Unigram statistics in the final bias: what the model says with its last bias alone, and what else it knows of them.

    read(model, also=[" war"])               softmax(W_U b): the tokens it favours, whatever the text
    compare(model, corpus or counts)         how close that is to the unigram distribution, beside yardsticks
    claim(model, corpus)                     is it all the model knows? by the bias, by the mean residual, by both
    edit(model, {" the": 1.0})               a model with another bias that makes a token likelier, by so many nats
    edit_effects(model, " the")              what ways of doing so cost, and what texts they lead to

logits = W_U (g * n(x) + b), with n the normalized residual, g and b the final LayerNorm's weight and bias, so
u = W_U b is the same for all texts; in a folded model the bias has moved to the unembedding, and is u itself. The
unigram distribution is p = (counts + 1/2) / (N + V/2), counts those of the next tokens at predicted positions: all with
a next token in their window, the first one included. nats throughout.

After "GPT-2's final LayerNorm bias encodes unigram statistics", a notebook that reads the bias out and edits it by
least squares. The metric of an edit is Fisher's: Amari 1998, Natural Gradient Works Efficiently in Learning.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.predictions import checked_top
from cutaway.analyses.result import Result, describe
from cutaway.analyses.unigram_algebra import Contexts, Head, closest, divergence, head, match, smoothed
from cutaway.analyses.unigram_claim import Claim, claim
from cutaway.analyses.unigram_edit import Edit, Effects, edit, edit_effects
from cutaway.analyses.unigram_texts import (
    Predicted,
    checked_counts,
    corpus_spelled,
    counts_spelled,
    read_texts,
    training_counts,
)
from cutaway.analyses.words import displays, strings, token_id
from cutaway.arguments import is_whole
from cutaway.errors import InputError
from cutaway.model.model import Model
from cutaway.model.modes import plainly

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Claim",
    "Comparison",
    "Edit",
    "Effects",
    "ReadOut",
    "claim",
    "compare",
    "edit",
    "edit_effects",
    "read",
    "training_counts",
]


@dataclass(frozen=True, eq=False, repr=False)
class ReadOut(Result):
    """softmax(u) of the likeliest tokens, likeliest first, and then of those asked for."""

    analysis: ClassVar[str] = "unigram.read"
    title: ClassVar[str] = "What does the final bias say?"

    ids: list[int]
    tokens: list[str]
    display: list[str]
    probabilities: list[float]
    ranks: list[int]  # 1 is the likeliest
    asked: list[bool]  # whether it was asked for
    d_vocab: int
    perplexity: float  # exp of the entropy of softmax(u): d_vocab for a bias that says nothing

    def table(self) -> pd.DataFrame:
        """One row a token: token_id, token, probability, rank, asked."""
        import pandas as pd

        return pd.DataFrame(
            {
                "token_id": self.ids,
                "token": self.tokens,
                "probability": self.probabilities,
                "rank": self.ranks,
                "asked": self.asked,
            }
        )

    def summary(self) -> str:
        lines = [
            f"{p:9.2g}  {f'rank {rank:,}':>11}  {token}" if asked else f"{p:9.2g}  {'':>11}  {token}"
            for p, rank, token, asked in zip(self.probabilities, self.ranks, self.display, self.asked, strict=True)
        ]
        even = f"{1 / self.d_vocab:.2g} each if it said nothing"
        return "\n".join([*lines, f"as even as {self.perplexity:,.0f} of {self.d_vocab:,} tokens; {even}"])

    def caption(self) -> str:
        asked = "; in orange the tokens asked for" if any(self.asked) else ""
        return (
            "Probabilities under the softmax of the unembedded final bias, which no text changes, over the whole "
            f"vocabulary{asked}. The rule is 1 / {self.d_vocab:,}: all tokens alike. A dot (·) stands for a space."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """The read-out beside a unigram distribution. Tensors are float64 on the CPU, [V]."""

    analysis: ClassVar[str] = "unigram.compare"
    title: ClassVar[str] = "Does the final bias hold unigram statistics?"

    against: str  # whose counts
    counts: Tensor
    p: Tensor  # smoothed
    u: Tensor
    tokens: list[str]
    display: list[str]
    kl: dict[str, float]  # KL(p || softmax z) of the read-out and its yardsticks
    r: float  # correlation of u and log p over the tokens that occur
    slope: float  # of log p on u, over the same
    scale: float  # by which u comes closest to log p in KL
    evaluations: int  # that the best bias took

    @property
    def explained(self) -> dict[str, float]:
        """1 - KL(p || softmax z) / KL(p || uniform): 1 is all, 0 no better than uniform; it may be negative."""
        return {name: 1 - kl / self.kl["uniform"] if self.kl["uniform"] else 0.0 for name, kl in self.kl.items()}

    def yardsticks(self) -> pd.DataFrame:
        """One row a distribution: name, kl (nats), explained."""
        import pandas as pd

        return pd.DataFrame({"name": list(self.kl), "kl": list(self.kl.values()), "explained": self.explained.values()})

    def table(self) -> pd.DataFrame:
        """One row a token: token_id, token, count, p, u, probability (softmax(u))."""
        import pandas as pd

        return pd.DataFrame(
            {
                "token_id": range(len(self.p)),
                "token": self.tokens,
                "count": self.counts.numpy(),
                "p": self.p.numpy(),
                "u": self.u.numpy(),
                "probability": self.u.softmax(0).numpy(),
            }
        )

    def summary(self) -> str:
        lines = [f"{'':<34} {'KL from p':>10}  explained"]
        for name, kl in self.kl.items():
            lines.append(f"{name:<34} {kl:7.4f} nats {self.explained[name]:8.1%}")
        total, seen = self.counts.sum().item(), int((self.counts > 0).sum())
        lines.append(f"correlation of u and log p over the tokens that occur: {self.r:.2f}, slope {self.slope:.2f}")
        return "\n".join([*lines, f"p from {self.against}: {total:,.0f} tokens, {seen:,} of {len(self.p):,} occur"])

    def facts(self) -> list[tuple[str, str]]:
        return [("unigrams explained by the bias", f"{self.explained['final bias']:.0%}")]

    def caption(self) -> str:
        return (
            "Each dot is a token: how frequent it is (natural logarithm of p), and what the final bias adds to its "
            "logit wherever it may come. On the dashed line the softmax of the bias would be the unigram distribution "
            "itself. Write part of a token into the box to find it (a space for a token that begins with one). "
            "Right: KL divergence of p from the bias and from what it is measured by, in nats."
        )


@plainly
def read(model: Model, top: int = 10, also: Sequence[str | int] | None = None) -> ReadOut:
    """The likeliest tokens under the softmax of the unembedded final bias, and tokens asked for.

    Args:
        also: tokens by their text, such as " war" (mind the space), or by id.

    Raises:
        InputError: a model without a final bias, or one whose bias says the same of all tokens; an id outside the
            vocabulary.
        TokenizerError: a text that is not exactly one token; the message names its pieces.
    """
    top = checked_top(model, top)
    several: Any = () if also is None else also
    also = [several] if isinstance(several, str) or is_whole(several) else list(several)
    wanted = [token_id(model, token) for token in also]
    u = _bias(model).u.cpu()
    ids = [*u.topk(top).indices.tolist(), *wanted]
    log_p = u.log_softmax(0)
    p = log_p.exp()
    return ReadOut(
        meta=describe(model, "unigram.read", None, top=top, also=also or None),
        ids=ids,
        tokens=strings(model, ids),
        display=displays(model, ids),
        probabilities=p[ids].tolist(),
        ranks=[1 + int((u > u[i]).sum()) for i in ids],
        asked=[False] * top + [True] * len(wanted),
        d_vocab=len(u),
        perplexity=float((-(p * log_p).sum()).exp()),
    )


@plainly
def compare(model: Model, against: Any = None, *, bos: bool = False) -> Comparison:
    """KL and correlation of the read-out with a unigram distribution, beside yardsticks of what a bias can do.

    Yardsticks: the uniform distribution; u times the number that serves best (its direction, whatever its size); the
    best bias, which minimises KL(p || softmax(W_U b)); least squares, which fits W_U b + c to log p over the tokens
    that occur (c, which the softmax does not see, is dropped).

    Args:
        against: a corpus (whatever cutaway.corpus.open_corpus takes; None for the bundled documents), whose next tokens
            are counted; or counts, an array or tensor [V], or the path of a .npy file that holds one.
            `unigram.training_counts()` are those of the bundled model's whole training text.

    Raises InputError for a model without a final bias, counts of another vocabulary, a corpus with nothing to predict.
    """
    top = _bias(model)
    counts, name, parameter = _counts(model, against, bos)
    counts = counts.to(top.W.device)
    p = smoothed(counts)
    seen = counts > 0
    one = Contexts(top.W, torch.zeros_like(top.b)[None])
    best = match(one, top.W.T @ p)
    line = Contexts(top.u[:, None], top.u.new_zeros(1, 1))
    scaled = match(line, (top.u @ p)[None])
    fitted = _least_squares(top.W[seen], p[seen].log())
    kl = {
        "final bias": top.u,
        "uniform": torch.zeros_like(top.u),
        "final bias, rescaled": top.u * scaled.beta,
        "best bias of this width": top.W @ best.beta,
        "least squares on log p": top.W @ fitted,
    }
    x, y = top.u[seen] - top.u[seen].mean(), p[seen].log() - p[seen].log().mean()
    V = model.config.d_vocab
    return Comparison(
        meta=describe(model, "unigram.compare", None, against=parameter, bos=bos) | {"input": name},
        against=name,
        counts=counts.cpu(),
        p=p.cpu(),
        u=top.u.cpu(),
        tokens=strings(model, range(V)),
        display=displays(model, range(V)),
        kl={name: max(0.0, float(divergence(p, z))) for name, z in kl.items()},
        r=float(x @ y / (x.norm() * y.norm())),
        slope=float(x @ y / (x @ x)),
        scale=float(scaled.beta),
        evaluations=best.evaluations,
    )


def _bias(model: Model) -> Head:
    """The head. Raises InputError where the final bias says nothing."""
    top = head(model)
    if top.silent:
        raise InputError(
            f"{model.name} has no final bias: the final LayerNorm's is absent or all zeros, and softmax(W_U b) uniform"
        )
    return top


def _counts(model: Model, against: Any, bos: bool) -> tuple[Tensor, str, Any]:
    """Counts, whose they are, and how they are spelled in meta."""
    if isinstance(against, (str, Path)) and Path(against).suffix == ".npy":
        return checked_counts(model, counts_from(str(against))), str(against), str(against)
    if isinstance(against, (np.ndarray, Tensor)):
        given = against.cpu() if isinstance(against, Tensor) else against
        literal = counts_spelled(given)
        return checked_counts(model, given), str(literal), literal
    sink = Predicted(model.config.d_vocab)
    source = read_texts(model, against, sink, bos)
    return sink.counts.sum(0), source.name, corpus_spelled(against)


def counts_from(source: str) -> Any:
    """Counts from a .npy file; "training": the bundled model's. Raises InputError for a file that holds none."""
    if source == "training":
        return training_counts()
    try:
        return np.load(os.path.expanduser(source), allow_pickle=False)  # noqa: PTH111 - as everywhere for paths
    except (OSError, ValueError, EOFError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise InputError(f"{source} cannot be read as counts (a .npy file, or 'training'): {reason}") from None


def _least_squares(W: Tensor, log_p: Tensor) -> Tensor:
    """Return the b of the best W b + c, by what is centred, which leaves c out."""
    return closest(W - W.mean(0), log_p - log_p.mean())
