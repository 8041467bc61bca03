"""List the most likely next tokens after each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cutaway.analyses.predictions.metrics import checked_top, group_by_width
from cutaway.model.modes import plainly
from cutaway.results.call import describe
from cutaway.results.result import Result
from cutaway.text.tokens import Tokens, visible

if TYPE_CHECKING:
    import pandas as pd

    from cutaway.model.model import Model


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


@plainly
def next_tokens(model: Model, prompts: str | Sequence[str] | Tokens, top: int = 10, *, bos: bool = False) -> NextTokens:
    """Return the most likely next tokens after each prompt.

    Prompts of mixed lengths are batched; each gets the predictions that it would get by itself.

    Raises:
        InputError: an empty or too long prompt (which the message names), or `top` outside the vocabulary.
        TokenizerError: the checkpoint has no tokenizer.
    """
    top = checked_top(model, top)
    tokens = model.tokens(prompts, bos=bos)
    ids: list[list[int]] = []
    probabilities: list[list[float]] = []
    for rows in group_by_width(tokens.lengths.tolist()):
        width = int(tokens.lengths[rows].max())
        part = Tokens(tokens.ids[rows, :width], tokens.mask[rows, :width], tokens.tokenizer)
        best = model.run(part, logits="last").logits[:, 0].double().log_softmax(-1).exp().topk(top)
        ids += best.indices.tolist()
        probabilities += best.values.tolist()
    read = None if isinstance(prompts, Tokens) else tokens.texts  # Tokens may be less than the whole of their texts
    texts = list(read) if read else [model.tokenizer.decode(row) for row in tokens.rows()]
    strings = [[model.tokenizer.string(i) for i in row] for row in ids]
    display = [[model.tokenizer.display(i) for i in row] for row in ids]
    subject = prompts if isinstance(prompts, str) else texts
    meta = describe(model, "predictions.next_tokens", subject, top=top, bos=bos)
    return NextTokens(meta, texts, ids, strings, display, probabilities)


def _percent(p: float) -> str:
    """Return a probability in percent."""
    return f"{p:6.1%}" if p >= 0.0005 else " <0.1%"
