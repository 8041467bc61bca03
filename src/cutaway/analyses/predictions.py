"""What the model says comes next.

    next_tokens(model, ["The people of the United"], top=5)    the most likely next tokens of each prompt
    along(model, text)                                         the same at every prefix of a text, beside what came
    losses(model, corpus)                                      how well whole documents are predicted

Probabilities are over the whole vocabulary. The loss of a token is -log p(token | what precedes it), in nats. Its
rank is 1 + the number of tokens with a larger logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses import vocabulary
from cutaway.analyses.result import Result, describe
from cutaway.arguments import whole
from cutaway.batches import of_model
from cutaway.corpus import Source, open_corpus, refuse_path
from cutaway.errors import InputError
from cutaway.model.modes import plainly
from cutaway.progress import meter, stop_point
from cutaway.tokens import Tokens, visible

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.model import Model
    from cutaway.model.run import Run

BATCH_TOKENS = 4096  # width x rows of a batch of prompts or windows


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
        """One row a prompt and candidate: prompt, rank, token_id, token, probability."""
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

    Position i is what the model says after tokens 0..i. `next_*` describe the token that really came, for all
    positions but the last. Tensors are float64 or int64 on the CPU.
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
        return (-self.next_loss).exp()

    def candidates(self) -> pd.DataFrame:
        """One row a position and candidate: position, rank, token_id, token, probability."""
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
        """One row a position and candidate, with the token that came and its probability, rank and loss, and the
        entropy of the prediction (both in nats)."""
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
    """How well each document is predicted, read in windows of the model's context."""

    analysis: ClassVar[str] = "predictions.losses"
    title: ClassVar[str] = "How well does it predict?"

    documents: list[str]
    predicted: list[int]  # tokens with a prediction
    loss: list[float]  # nats a token
    first_choice: list[float]  # fraction of tokens that were the first choice

    @property
    def mean(self) -> float:
        """Mean loss over all predicted tokens, nats."""
        total = sum(n * value for n, value in zip(self.predicted, self.loss, strict=True))
        return total / sum(self.predicted)

    def table(self) -> pd.DataFrame:
        """One row a document: document, predicted (tokens), loss (nats a token), perplexity, first_choice."""
        import numpy as np
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


@plainly
def next_tokens(model: Model, prompts: str | Sequence[str] | Tokens, top: int = 10, *, bos: bool = False) -> NextTokens:
    """The most likely next tokens after each prompt.

    Prompts of mixed lengths are batched; each gets what it would get alone.

    Raises:
        InputError: an empty or too long prompt (the message says which), or `top` outside the vocabulary.
        TokenizerError: the checkpoint has no tokenizer.
    """
    top = checked_top(model, top)
    tokens = model.tokens(prompts, bos=bos)
    ids: list[list[int]] = []
    probabilities: list[list[float]] = []
    for rows in batches_of(tokens.lengths.tolist()):
        width = int(tokens.lengths[rows].max())
        part = Tokens(tokens.ids[rows, :width], tokens.mask[rows, :width], tokens.tokenizer)
        found = model.run(part, logits="last").logits[:, 0].double().log_softmax(-1).exp().topk(top)
        ids += found.indices.tolist()
        probabilities += found.values.tolist()
    read = None if isinstance(prompts, Tokens) else tokens.texts  # Tokens may be less than the whole of their texts
    texts = list(read) if read else [model.tokenizer.decode(row) for row in tokens.rows()]
    strings = [[model.tokenizer.string(i) for i in row] for row in ids]
    display = [[model.tokenizer.display(i) for i in row] for row in ids]
    subject = prompts if isinstance(prompts, str) else texts
    meta = describe(model, "predictions.next_tokens", subject, top=top, bos=bos)
    return NextTokens(meta, texts, ids, strings, display, probabilities)


@plainly
def along(model: Model, text: str | Tokens, top: int = 10, *, bos: bool = False, run: Run | None = None) -> Along:
    """Predictions at every prefix of a text, with the probability, rank and loss (nats) of the token that came.

    `run` is a pass over this very text that kept its logits, where there is one already.

    Raises:
        InputError: more than one text, an empty or too long one, a `run` over another, or `top` outside the vocabulary.
        TokenizerError: the checkpoint has no tokenizer.
    """
    top = checked_top(model, top)
    refuse_path(text)
    tokens = model.tokens(text, bos=bos)
    if len(tokens) != 1:
        raise InputError(f"{len(tokens)} texts were given: predictions.along reads one; losses(...) reads several")
    [ids], tokenizer = tokens.rows(), model.tokenizer
    run = model.run(tokens) if run is None else checked_run(model, run, tokens, needs_logits=True)
    found = read_logits(run.logits[0], torch.tensor(ids[1:], device=model.device), top, entropy=True)
    top_ids = found["top_ids"].cpu()
    source = text if isinstance(text, str) else tokenizer.decode(ids)
    return Along(
        meta=describe(model, "predictions.along", source, top=top, bos=bos),
        ids=ids,
        tokens=tokens.strings[0],
        display=tokens.display[0],
        top_ids=top_ids,
        top_tokens=[[tokenizer.string(i) for i in row] for row in top_ids.tolist()],
        top_display=[[tokenizer.display(i) for i in row] for row in top_ids.tolist()],
        top_probabilities=found["top_probabilities"].cpu(),
        next_loss=found["loss"].cpu(),
        next_rank=found["rank"].cpu(),
        entropy=found["entropy"].cpu(),
    )


@plainly
def losses(model: Model, corpus: Source = None, *, bos: bool = False) -> Losses:
    """Loss of each document in nats a token, read in windows of the model's context that do not overlap.

    `corpus` is whatever cutaway.corpus.open_corpus takes: texts, a mapping from names to texts, files; None for the
    bundled documents. The first token of a window has no prediction unless `bos` puts the end-of-text token in front
    of each window.

    Raises InputError for an empty corpus, or one without two tokens in any document.
    """
    source = open_corpus(corpus)
    names: dict[int, str] = {}  # of the documents, by their number
    sums: dict[int, Tensor] = {}  # tokens, loss, first choices
    with meter("reading documents", "tokens") as advance:
        for batch in of_model(model, source, BATCH_TOKENS, bos):
            logits = model.run(batch.tokens).logits
            for row, scores in zip(batch.rows, logits, strict=True):
                n = len(row.ids) - 1
                names[row.number] = row.document
                if not n:
                    continue
                found = read_logits(scores[:n], torch.tensor(row.ids[1:], device=scores.device), 1)
                values = torch.tensor([n, found["loss"].sum(), (found["rank"] == 1).sum()], dtype=torch.float64)
                sums[row.number] = sums.get(row.number, torch.zeros(3, dtype=torch.float64)) + values
            advance(batch.size, None)
    for number in sorted(names.keys() - sums):
        source.leave_out("too few tokens to predict one", names[number])
    if not sums:
        raise InputError(f"corpus {source.name}: no document has two tokens, there is nothing to predict")
    totals = torch.stack([sums[number] for number in sorted(sums)])
    means = totals[:, 1:] / totals[:, :1]
    ordered = [names[number] for number in sorted(sums)]
    # The names alone are the input in meta: the documents would make every result as long as its corpus.
    meta = describe(model, "predictions.losses", corpus, bos=bos) | {"input": ordered}
    return Losses(meta, ordered, totals[:, 0].long().tolist(), means[:, 0].tolist(), means[:, 1].tolist())


def read_logits(logits: Tensor, targets: Tensor, top: int, *, entropy: bool = False) -> dict[str, Tensor]:
    """Logits [pos, V] and the tokens that came next [pos or pos-1] -> top-k, loss and rank, in float64; and entropy
    where it is asked for.

    Works in chunks of positions, so that the whole of the log-probabilities never exists. Sums over the vocabulary
    run in the logits' own precision (float32 at least).
    """
    parts: dict[str, list[Tensor]] = {"top_ids": [], "top_probabilities": [], "loss": [], "rank": []}
    step = vocabulary.chunk(logits.shape[1])
    for start in range(0, len(logits), step):
        stop_point()
        chunk = vocabulary.wide(logits[start : start + step]).T  # V n
        total = chunk.logsumexp(0).double()  # n
        if entropy:
            p = (chunk - total.to(chunk)).exp_()
            parts.setdefault("entropy", []).append(torch.special.entr(p).sum(0).double())
        best, ids = vocabulary.top(chunk, top)  # k n
        parts["top_ids"].append(ids.T)
        parts["top_probabilities"].append((best.double() - total).exp().T)
        came = targets[start : start + step]
        chunk = chunk[:, : len(came)]
        scores = chunk.gather(0, came[None])[0]  # n
        parts["loss"].append(total[: len(came)] - scores.double())
        parts["rank"].append(vocabulary.rank(chunk, scores))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _percent(p: float) -> str:
    return f"{p:6.1%}" if p >= 0.0005 else " <0.1%"


def checked_top(model: Model, top: int) -> int:
    return min(whole("top", top, 1), model.config.d_vocab)


def checked_run(model: Model, run: Run, tokens: Tokens, needs_logits: bool = False) -> Run:
    """Return a given pass. Raises InputError where it is over other tokens, or was made under other edits."""
    if run.tokens.rows() != tokens.rows():
        raise InputError("run= is a pass over other tokens: one over this very text was expected")
    if run.edits != model.active_edits:
        hint = "make it and read it inside the same `with model.edited(...)`"
        raise InputError(f"run= was made under other edits than are in force here: {hint}")
    if needs_logits and run.logits.shape[1] != tokens.ids.shape[1]:
        raise InputError("run= kept the last logits alone: a run with logits='all' was expected")
    return run


def batches_of(lengths: list[int]) -> list[list[int]]:
    """Row numbers in order, grouped so that width x rows stays within BATCH_TOKENS."""
    batches: list[list[int]] = []
    width = 0
    for i, length in enumerate(lengths):
        width = max(width, length)
        if batches and width * (len(batches[-1]) + 1) <= BATCH_TOKENS:
            batches[-1].append(i)
        else:
            batches.append([i])
            width = length
    return batches
