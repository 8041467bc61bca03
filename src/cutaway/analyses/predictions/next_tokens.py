"""List the most likely next tokens after each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutaway.analyses.predictions.metrics import checked_top, group_by_width
from cutaway.analyses.predictions.result import NextTokens
from cutaway.results.call import analysis, meta_of
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model


@analysis("predictions.next_tokens")
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
    meta = meta_of(model, subject, top=top)
    return NextTokens(meta, texts, ids, strings, display, probabilities)
