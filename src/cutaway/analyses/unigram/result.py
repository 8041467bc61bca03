"""TODO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd


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
