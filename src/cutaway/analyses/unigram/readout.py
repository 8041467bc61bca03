"""Read out the final bias, and compare it with a unigram distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.predictions.metrics import checked_top
from cutaway.analyses.unigram.contexts import Contexts, match
from cutaway.analyses.unigram.counts import (
    checked_counts,
    counts_source,
    divergence,
    read_counts,
    smoothed,
)
from cutaway.analyses.unigram.head import Head, closest
from cutaway.analyses.unigram.texts import Predicted, read_texts
from cutaway.arguments import is_whole
from cutaway.errors import InputError
from cutaway.model.model import Model
from cutaway.results.call import analysis, corpus_source, meta_of
from cutaway.results.labels import token_id, token_labels, token_strings
from cutaway.results.result import Result
from cutaway.surveys.state import StatePath

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class ReadOut(Result):
    """The likeliest tokens under softmax(u), likeliest first, and then the tokens in `also`."""

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
        """Return one row a token: token_id, token, probability, rank, asked."""
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
        asked = "; in orange, the tokens asked for" if any(self.asked) else ""
        return (
            "Probabilities under the softmax of the unembedded final bias, which no text changes, over the whole "
            f"vocabulary{asked}. The rule is 1 / {self.d_vocab:,}: all tokens alike. A dot (·) stands for a space."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """The final bias beside a unigram distribution. Tensors are float64 on the CPU, [V]."""

    analysis: ClassVar[str] = "unigram.compare"
    title: ClassVar[str] = "Does the final bias hold unigram statistics?"

    against: str  # whose counts
    counts: Tensor
    p: Tensor  # smoothed
    u: Tensor
    tokens: list[str]
    display: list[str]
    kl: dict[str, float]  # KL(p || softmax z) of the final bias and its yardsticks
    r: float  # correlation of u and log p over the tokens that occur
    slope: float  # of log p on u, over the same
    scale: float  # by which u comes closest to log p in KL
    evaluations: int  # that the best bias took

    @property
    def explained(self) -> dict[str, float]:
        """Return 1 - KL(p || softmax z) / KL(p || uniform): 1 is all, 0 no better than uniform; it may be negative."""
        return {name: 1 - kl / self.kl["uniform"] if self.kl["uniform"] else 0.0 for name, kl in self.kl.items()}

    def yardsticks(self) -> pd.DataFrame:
        """Return one row a distribution: name, kl (nats), explained."""
        import pandas as pd

        return pd.DataFrame({"name": list(self.kl), "kl": list(self.kl.values()), "explained": self.explained.values()})

    def table(self) -> pd.DataFrame:
        """Return one row a token: token_id, token, count, p, u, probability (softmax(u))."""
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
            "logit at every position. On the dashed line the softmax of the bias would be the unigram distribution "
            "itself. Write part of a token into the box to find it (a space for a token that begins with one). "
            "Right: KL divergence of p from the bias and from each yardstick, in nats."
        )


@analysis("unigram.read")
def read(model: Model, top: int = 10, also: Sequence[str | int] | None = None) -> ReadOut:
    """Return the likeliest tokens under the softmax of the unembedded final bias, and the tokens in `also`.

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
    u = _read_head(model).u.cpu()
    ids = [*u.topk(top).indices.tolist(), *wanted]
    log_p = u.log_softmax(0)
    p = log_p.exp()
    return ReadOut(
        meta=meta_of(model, None, also=also or None),
        ids=ids,
        tokens=token_strings(model, ids),
        display=token_labels(model, ids),
        probabilities=p[ids].tolist(),
        ranks=[1 + int((u > u[i]).sum()) for i in ids],
        asked=[False] * top + [True] * len(wanted),
        d_vocab=len(u),
        perplexity=float((-(p * log_p).sum()).exp()),
    )


@analysis("unigram.compare")
def compare(model: Model, against: Any = None, *, bos: bool = False, state: StatePath = None) -> Comparison:
    """Compare the final bias with a unigram distribution, beside yardsticks of what a bias can do.

    Yardsticks: the uniform distribution; u times the number that brings it closest to p (its direction, whatever its
    size); the best bias, which minimises KL(p || softmax(W_U b)); least squares, which fits W_U b + c to log p over the
    tokens that occur (c, which the softmax does not see, is dropped).

    Args:
        against: a corpus (whatever cutaway.text.corpus.open_corpus takes; None for the bundled documents), whose next
            tokens are counted; or counts, an array or tensor [V], or the path of a .npy file that holds one.
            `unigram.training_counts()` returns the counts of the bundled model's whole training text.
        state: a file that the pass over a corpus saves itself to, and resumes from, as in `cutaway.survey`.

    Raises InputError for a model without a final bias, counts of another vocabulary, a corpus with nothing to predict.
    """
    head = _read_head(model)
    counts, name, parameter = _counts(model, against, bos, state)
    counts = counts.to(head.W.device)
    p = smoothed(counts)
    seen = counts > 0
    one = Contexts(head.W, torch.zeros_like(head.b)[None])
    best = match(one, head.W.T @ p)
    line = Contexts(head.u[:, None], head.u.new_zeros(1, 1))
    scaled = match(line, (head.u @ p)[None])
    fitted = _fit_log_p(head.W[seen], p[seen].log())
    kl = {
        "final bias": head.u,
        "uniform": torch.zeros_like(head.u),
        "final bias, rescaled": head.u * scaled.beta,
        "best bias of this width": head.W @ best.beta,
        "least squares on log p": head.W @ fitted,
    }
    x, y = head.u[seen] - head.u[seen].mean(), p[seen].log() - p[seen].log().mean()
    V = model.config.d_vocab
    return Comparison(
        meta=meta_of(model, None, against=parameter) | {"input": name},
        against=name,
        counts=counts.cpu(),
        p=p.cpu(),
        u=head.u.cpu(),
        tokens=token_strings(model, range(V)),
        display=token_labels(model, range(V)),
        kl={name: max(0.0, float(divergence(p, z))) for name, z in kl.items()},
        r=float(x @ y / (x.norm() * y.norm())),
        slope=float(x @ y / (x @ x)),
        scale=float(scaled.beta),
        evaluations=best.evaluations,
    )


def _read_head(model: Model) -> Head:
    """Return the head. Raises InputError where the final bias says nothing."""
    head = Head.from_model(model)
    if head.silent:
        raise InputError(
            f"{model.name} has no final bias: the final LayerNorm's is absent or all zeros, and softmax(W_U b) uniform"
        )
    return head


def _counts(model: Model, against: Any, bos: bool, state: StatePath) -> tuple[Tensor, str, Any]:
    """Return counts, their source's name, and the argument as it appears in `meta`."""
    is_file = isinstance(against, (str, Path)) and Path(against).suffix == ".npy"
    if state is not None and (is_file or isinstance(against, (np.ndarray, Tensor))):
        raise InputError(f"state={str(state)!r} saves a pass over a corpus: counts were given, which need none")
    if is_file:
        return checked_counts(model, read_counts(str(against))), str(against), str(against)
    if isinstance(against, (np.ndarray, Tensor)):
        given = against.cpu() if isinstance(against, Tensor) else against
        literal = counts_source(given)
        return checked_counts(model, given), str(literal), literal
    sink = Predicted(model.config.d_vocab)
    source = read_texts(model, against, sink, bos, state)
    return sink.counts.sum(0), source.name, corpus_source(against)


def _fit_log_p(W: Tensor, log_p: Tensor) -> Tensor:
    """Return the b of the least-squares W b + c; centring both sides takes the number c out."""
    return closest(W - W.mean(0), log_p - log_p.mean())
