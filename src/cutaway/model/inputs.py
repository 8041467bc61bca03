"""What a model can be given to read, and the errors for what it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.config import Config
from cutaway.tokens import Tokens, as_texts

if TYPE_CHECKING:
    from cutaway.model.model import Model

Inputs: TypeAlias = str | Sequence[str] | Tokens | Tensor


def as_tokens(inputs: Inputs, bos: bool, model: Model) -> Tokens:
    """Text, Tokens or ids -> Tokens, not yet checked. Raises InputError and TokenizerError."""
    if not isinstance(inputs, (Tensor, Tokens)):
        return model.tokenizer.tokens(as_texts(inputs), bos)
    if bos:
        raise InputError("bos=True adds a token to text: give ids or Tokens with it already in front")
    ids = inputs if isinstance(inputs, Tensor) else inputs.ids
    if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        got = f"{str(ids.dtype).removeprefix('torch.')} {list(ids.shape)}"
        raise InputError(f"a tensor of {got} was given: integer token ids [batch, pos] were expected")
    if isinstance(inputs, Tensor):
        tokenizer = model.tokenizer if model.has_tokenizer else None
        return Tokens(ids.long(), torch.ones_like(ids, dtype=torch.long), tokenizer)
    if inputs.mask.shape != ids.shape:
        shapes = f"{list(inputs.mask.shape)} was given for ids of shape {list(ids.shape)}"
        raise InputError(f"a mask of shape {shapes}: the same shape was expected")
    return inputs


def check(tokens: Tokens, bos: bool, config: Config) -> None:
    """Raise InputError for a batch that the model cannot read."""
    if not len(tokens):
        raise InputError("no text was given: at least one was expected")
    lengths, width, context = tokens.lengths.tolist(), tokens.ids.shape[1], config.n_ctx

    def of(i: int) -> str:
        return f"text {i + 1} of {len(lengths)}" if len(lengths) > 1 else "the text"

    if not all(lengths):
        hint = "" if bos else "; bos=True would start from the end-of-text token alone"
        raise InputError(f"{of(lengths.index(0))} is empty: at least one token was expected{hint}")
    if (longest := max(lengths)) > context:
        i = lengths.index(longest)
        hint = f"cut it, for example model.run(model.tokenizer.tokens(text).first({context}))"
        raise InputError(f"{of(i)} has {longest:,} tokens and the model's context is {context:,}: {hint}")
    if not torch.equal(tokens.mask, (torch.arange(width, device=tokens.mask.device) < tokens.lengths[:, None]).long()):
        raise InputError("the mask is not right padding: each row must be ones, then zeros")
    low, high = int(tokens.ids.min()), int(tokens.ids.max())
    if low < 0 or high >= config.d_vocab:
        wrong = low if low < 0 else high
        raise InputError(f"token id {wrong} is outside the vocabulary: 0 to {config.d_vocab - 1} were expected")
