"""Predict at every prefix of a text, and compare with the token that came next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cutaway.analyses.predictions.metrics import checked_run, checked_top, next_token_metrics
from cutaway.analyses.predictions.result import Along
from cutaway.errors import InputError
from cutaway.results.call import analysis, meta_of
from cutaway.text.corpus import refuse_path
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.model.taps.captures import Run


@analysis("predictions.along")
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
        meta=meta_of(model, source, top=top),
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
