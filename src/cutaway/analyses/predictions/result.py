"""Hold predictions of the next token: after prompts, along a text, and over documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from cutaway.results.result import Result
from cutaway.text.display import visible

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class NextTokens(Result):
    """The most likely next tokens after each prompt. Arrays are [prompt, k], most likely first."""

    analysis: ClassVar[str] = "predictions.next_tokens"
    title: ClassVar[str] = "What comes next?"

    prompts: list[str]
    ids: list[list[int]]
    tokens: list[list[str]]
    display: list[list[str]]
    probabilities: list[list[float]]

    def table(self) -> pd.DataFrame:
        """Return one row a prompt and candidate: prompt, rank, token_id, token, probability."""
        import pandas as pd

        rows = [
            (prompt, k + 1, self.ids[i][k], self.tokens[i][k], self.probabilities[i][k])
            for i, prompt in enumerate(self.prompts)
            for k in range(len(self.ids[i]))
        ]
        return pd.DataFrame(rows, columns=["prompt", "rank", "token_id", "token", "probability"])

    def summary(self) -> str:
        blocks = []
        for prompt, tokens, probabilities in zip(self.prompts, self.display, self.probabilities, strict=True):
            rows = [f"  {_percent(p)}  {token}" for token, p in zip(tokens, probabilities, strict=True)]
            blocks.append("\n".join([visible(prompt if len(prompt) < 100 else f"... {prompt[-96:]}"), *rows]))
        return "\n\n".join(blocks)

    def caption(self) -> str:
        k = len(self.ids[0])
        return (
            f"The {k} most likely next tokens after each prompt, with their probability over the whole vocabulary. "
            "A dot (·) stands for a space."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Along(Result):
    """Predictions at every prefix of one text.

    Position i is the prediction after tokens 0..i. `next_*` describe the token that came next, for all positions but
    the last. Tensors are float64 or int64 on the CPU.
    """

    analysis: ClassVar[str] = "predictions.along"
    title: ClassVar[str] = "What did it expect, and what came?"

    ids: list[int]
    tokens: list[str]
    display: list[str]
    top_ids: Tensor  # pos k
    top_tokens: list[list[str]]
    top_display: list[list[str]]
    top_probabilities: Tensor  # pos k
    next_loss: Tensor  # pos-1; nats
    next_rank: Tensor  # pos-1; 1 is the most likely
    entropy: Tensor  # pos; of the whole prediction, nats

    @property
    def next_probability(self) -> Tensor:
        """Return the probability of each token that came next: pos-1."""
        return (-self.next_loss).exp()

    def candidates(self) -> pd.DataFrame:
        """Return one row a position and candidate: position, rank, token_id, token, probability."""
        import pandas as pd

        n, k = self.top_ids.shape
        return pd.DataFrame(
            {
                "position": np.arange(n).repeat(k),
                "rank": np.tile(np.arange(1, k + 1), n),
                "token_id": self.top_ids.flatten().numpy(),
                "token": [token for row in self.top_tokens for token in row],
                "probability": self.top_probabilities.flatten().numpy(),
            }
        )

    def table(self) -> pd.DataFrame:
        """Return one row a position and candidate.

        With the token that came and its probability, rank and loss, and the entropy of the prediction (both in nats).
        """
        import pandas as pd

        came = pd.DataFrame(
            {
                "position": range(len(self.ids)),
                "read": self.tokens,
                "next_id": [*self.ids[1:], None],
                "next": [*self.tokens[1:], None],
                "next_probability": [*self.next_probability.tolist(), float("nan")],
                "next_rank": [*self.next_rank.tolist(), None],
                "entropy": self.entropy.numpy(),
                "loss": [*self.next_loss.tolist(), float("nan")],
            }
        ).astype({"next_id": "Int64", "next_rank": "Int64"})
        return came.merge(self.candidates(), on="position")

    def summary(self) -> str:
        n = len(self.next_loss)
        if not n:
            return "one token: nothing to compare a prediction with"
        loss, first, ten = self.next_loss.mean(), (self.next_rank == 1), (self.next_rank <= 10)
        lines = [
            f"{n + 1:,} tokens; mean loss {loss:.3f} nats a token (perplexity {loss.exp():,.1f})",
            f"the token that came was the first choice {first.double().mean().item():.1%} of the time, "
            f"among the first ten {ten.double().mean().item():.1%}",
        ]
        worst = self.next_loss.topk(min(3, n)).indices.tolist()
        surprises = [f"{self.display[i + 1]} ({self.next_loss[i]:.1f} nats, rank {self.next_rank[i]:,})" for i in worst]
        return "\n".join([*lines, f"most surprising: {', '.join(surprises)}"])

    def caption(self) -> str:
        return (
            "Move the slider, or click a token, to choose how much of the text the model has read. Bars: probability "
            "of the most likely next tokens over the whole vocabulary; in orange, the token that came. Shading behind "
            "the text: surprise, -log p of each token given what precedes it, in nats (0.69 nats is one bit)."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Losses(Result):
    """The loss of each document, read in windows of the model's context."""

    analysis: ClassVar[str] = "predictions.losses"
    title: ClassVar[str] = "How well does it predict?"

    documents: list[str]
    predicted: list[int]  # tokens with a prediction
    loss: list[float]  # nats a token
    first_choice: list[float]  # fraction of tokens that were the first choice

    @property
    def mean(self) -> float:
        """Return the mean loss over all predicted tokens, nats."""
        total = sum(n * value for n, value in zip(self.predicted, self.loss, strict=True))
        return total / sum(self.predicted)

    def table(self) -> pd.DataFrame:
        """Return one row a document: document, predicted (tokens), loss (nats a token), perplexity, first_choice."""
        import pandas as pd

        columns = {"document": self.documents, "predicted": self.predicted, "loss": self.loss}
        return pd.DataFrame({**columns, "perplexity": np.exp(self.loss), "first_choice": self.first_choice})

    def summary(self) -> str:
        by_loss = sorted(zip(self.loss, self.documents, strict=True))
        (low, easiest), (high, hardest) = by_loss[0], by_loss[-1]
        return (
            f"{sum(self.predicted):,} tokens in {len(self.documents)} documents: {self.mean:.3f} nats a token\n"
            f"easiest {easiest} ({low:.2f}), hardest {hardest} ({high:.2f})"
        )

    def facts(self) -> list[tuple[str, str]]:
        return [("loss, nats a token", f"{self.mean:.3f}"), ("tokens read", f"{sum(self.predicted):,}")]

    def caption(self) -> str:
        return (
            "Mean loss of each document in nats a token (less is better), read in windows of the model's context; "
            "the rule is the mean over all tokens."
        )


def _percent(p: float) -> str:
    """Return a probability in percent."""
    return f"{p:6.1%}" if p >= 0.0005 else " <0.1%"
