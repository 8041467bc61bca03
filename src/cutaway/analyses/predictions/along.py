"""Predict at every prefix of a text, and compare with the token that came next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.predictions.metrics import checked_run, checked_top, next_token_metrics
from cutaway.errors import InputError
from cutaway.model.modes import plainly
from cutaway.results.call import describe
from cutaway.results.result import Result
from cutaway.text.corpus import refuse_path
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run


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


@plainly
def along(model: Model, text: str | Tokens, top: int = 10, *, bos: bool = False, run: Run | None = None) -> Along:
    """Predict at every prefix of a text, with the probability, rank and loss (nats) of the token that came next.

    `run` is a run over exactly this text that kept its logits, where one was made before.

    Raises:
        InputError: more than one text, an empty or too long text, a `run` over another text, or a `top` below 1.
        TokenizerError: the checkpoint has no tokenizer.
    """
    top = checked_top(model, top)
    refuse_path(text)
    tokens = model.tokens(text, bos=bos)
    if len(tokens) != 1:
        raise InputError(f"{len(tokens)} texts were given: predictions.along reads one; losses(...) reads several")
    [ids], tokenizer = tokens.rows(), model.tokenizer
    run = model.run(tokens) if run is None else checked_run(model, run, tokens, needs_logits=True)
    metrics = next_token_metrics(run.logits[0], torch.tensor(ids[1:], device=model.device), top, entropy=True)
    top_ids = metrics["top_ids"].cpu()
    source = text if isinstance(text, str) else tokenizer.decode(ids)
    return Along(
        meta=describe(model, "predictions.along", source, top=top, bos=bos),
        ids=ids,
        tokens=tokens.strings[0],
        display=tokens.display[0],
        top_ids=top_ids,
        top_tokens=[[tokenizer.string(i) for i in row] for row in top_ids.tolist()],
        top_display=[[tokenizer.display(i) for i in row] for row in top_ids.tolist()],
        top_probabilities=metrics["top_probabilities"].cpu(),
        next_loss=metrics["loss"].cpu(),
        next_rank=metrics["rank"].cpu(),
        entropy=metrics["entropy"].cpu(),
    )
