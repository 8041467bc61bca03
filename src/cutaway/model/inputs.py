"""Turn everything that a model can read into Tokens, and refuse everything else by name.

as_tokens("some text", False, model)                      a text, or a list of texts
as_tokens(tokenizer(text, return_tensors="pt"), ...)      ids and mask, as transformers' tokenizers give them
as_tokens(ids, ...)                                       integer ids [batch, pos], or lists of ids
as_tokens(Tokens(ids, mask), ...)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.architectures.sizes import Sizes
from cutaway.text.tokens import Tokens, as_texts

if TYPE_CHECKING:
    from cutaway.model.model import Model
    from cutaway.text.tokens import Tokenizer

Inputs: TypeAlias = str | Sequence[str] | Sequence[Sequence[int]] | Mapping[str, Any] | Tokens | Tensor

# Entries that a tokenizer of transformers may add to ids and mask, and that no model here computes with.
ASIDE = {
    "special_tokens_mask",
    "offset_mapping",
    "length",
    "overflow_to_sample_mapping",
    "labels",
    "num_truncated_tokens",
}


def as_tokens(inputs: Inputs, bos: bool, model: Model) -> Tokens:
    """Return text or ids as Tokens, not yet checked. Raises InputError and TokenizerError."""
    if not is_ids(inputs):
        return model.tokenizer.tokens(as_texts(inputs), bos)  # type: ignore[arg-type]
    if bos:
        raise InputError("bos=True adds a token to text: give ids or Tokens with it already in front")
    tokenizer = model.tokenizer if model.has_tokenizer else None
    if isinstance(inputs, Mapping):
        return _from_encoding(inputs, tokenizer)
    if not isinstance(inputs, Tokens):
        return _from_ids(inputs, tokenizer)
    _check_ids(inputs.ids)
    if inputs.mask.shape != inputs.ids.shape:
        shapes = f"{list(inputs.mask.shape)} was given for ids of shape {list(inputs.ids.shape)}"
        raise InputError(f"a mask of shape {shapes}: the same shape was expected")
    own = tokenizer if inputs.tokenizer is None else inputs.tokenizer
    if own is not None and tokenizer is not None and own is not tokenizer and own.vocabulary != tokenizer.vocabulary:
        raise InputError(
            f"Tokens of a tokenizer other than that of {model.name} were given: make them with model.tokens"
        )
    return Tokens(inputs.ids, inputs.mask.long(), own, inputs.texts, inputs.offsets)


def is_ids(inputs: Any) -> bool:
    """Return whether an input is token ids of some kind, not text."""
    if isinstance(inputs, (Tensor, Tokens)):
        return True
    if isinstance(inputs, Mapping):
        return "input_ids" in inputs
    if isinstance(inputs, np.ndarray):
        return inputs.dtype.kind in "iuf" or inputs.dtype == bool
    return isinstance(inputs, (list, tuple)) and len(inputs) > 0 and all(map(_is_row, inputs))


def _is_row(row: Any) -> bool:
    """Return whether this is one row of ids."""
    if isinstance(row, (Tensor, np.ndarray)):
        return row.ndim == 1
    return isinstance(row, (list, tuple)) and all(isinstance(i, (int, np.integer)) for i in row)


def _from_ids(ids: Any, tokenizer: Tokenizer | None) -> Tokens:
    """Turn ids [batch, pos], or lists of ids of any lengths, into Tokens."""
    if isinstance(ids, (list, tuple)):
        rows = [row.tolist() if isinstance(row, (Tensor, np.ndarray)) else list(row) for row in ids]
        rows = [[i.item() if isinstance(i, np.integer) else i for i in row] for row in rows]
        if not all(isinstance(i, int) and not isinstance(i, bool) for row in rows for i in row):
            raise InputError("a list holds something that is not a whole number: integer token ids were expected")
        return Tokens.from_lists(rows, tokenizer=tokenizer)
    ids = torch.as_tensor(ids)
    _check_ids(ids)
    return Tokens(ids.long(), torch.ones_like(ids, dtype=torch.long), tokenizer)


def _check_ids(ids: Tensor) -> None:
    """Raise InputError for a tensor that is not integer ids [batch, pos]."""
    if ids.dim() != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        got = f"{str(ids.dtype).removeprefix('torch.')} {list(ids.shape)}"
        hint = "; ids[None] is a batch of one" if ids.dim() == 1 and not ids.is_floating_point() else ""
        raise InputError(f"a tensor of {got} was given: integer token ids [batch, pos] were expected{hint}")


def _from_encoding(given: Mapping[str, Any], tokenizer: Tokenizer | None) -> Tokens:
    """Turn the output of a tokenizer of transformers, {"input_ids", "attention_mask"}, into Tokens."""
    if "token_type_ids" in given:
        hint = "leave them out (return_token_type_ids=False)"
        raise InputError(f"token_type_ids were given, for each of which transformers adds an embedding: {hint}")
    if unknown := [str(name) for name in given if name not in ASIDE | {"input_ids", "attention_mask", "position_ids"}]:
        raise InputError(f"{unknown[0]!r} was given beside input_ids: only input_ids and attention_mask were expected")
    found = _from_ids(_batch(given["input_ids"]), tokenizer)
    if given.get("attention_mask") is not None:
        mask = _from_ids(_ones(_batch(given["attention_mask"])), None)
        if mask.ids.shape != found.ids.shape or not torch.equal(mask.mask, found.mask):
            shapes = f"{list(mask.ids.shape)} was given for input_ids of shape {list(found.ids.shape)}"
            raise InputError(f"an attention_mask of shape {shapes}: the same shape was expected")
        found = Tokens(found.ids, mask.ids, tokenizer)
    if given.get("position_ids") is not None:
        positions = _from_ids(_batch(given["position_ids"]), None).ids.to(found.ids.device)
        if positions.shape != found.ids.shape or not torch.equal(positions * found.mask, found.positions):
            raise InputError("position_ids that do not count 0, 1, 2, ... along each row were given: leave them out")
    return found


def _batch(values: Any) -> Any:
    """Return ids as a batch, a single row as a batch of one."""
    if isinstance(values, (list, tuple)):
        return values if values and all(map(_is_row, values)) else [values]
    values = torch.as_tensor(values)
    values = values.long() if values.dtype == torch.bool else values
    return values[None] if values.dim() == 1 else values


def _ones(mask: Any) -> Any:
    """Return a mask's lists with 1 and 0 for True and False."""
    return [[int(i) for i in row] for row in mask] if isinstance(mask, (list, tuple)) else mask


def check(tokens: Tokens, bos: bool, config: Sizes) -> None:
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
        hint = "each row must be ones, then zeros (a transformers tokenizer pads so with padding_side='right')"
        raise InputError(f"the mask is not right padding: {hint}")
    low, high = int(tokens.ids.min()), int(tokens.ids.max())
    if low < 0 or high >= config.d_vocab:
        wrong = low if low < 0 else high
        raise InputError(f"token id {wrong} is outside the vocabulary: 0 to {config.d_vocab - 1} were expected")
