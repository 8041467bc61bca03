"""What a model was given to read, and its tokens, in words: of a checkpoint without a tokenizer, `[id]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cutaway.arguments import is_whole, shown
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.model.model import Model


def token_strings(model: Model, ids: Sequence[int]) -> list[str]:
    """Tokens as text."""
    return [model.tokenizer.string(i) for i in ids] if model.has_tokenizer else [f"[{i}]" for i in ids]


def token_labels(model: Model, ids: Sequence[int]) -> list[str]:
    """Tokens as they are best shown to a person; not data."""
    return [model.tokenizer.display(i) for i in ids] if model.has_tokenizer else [f"[{i}]" for i in ids]


def token_id(model: Model, token: Any) -> int:
    """Return a token's id from its text, which must be one token, or from an id (an int, or what `argmax()` gives).

    Raises TokenizerError, naming the pieces, for a text that is none or several; InputError for an id that is outside
    the vocabulary.
    """
    if isinstance(token, str):
        return model.tokenizer.single(token)
    if not is_whole(token) or not 0 <= int(token) < model.config.d_vocab:
        last = model.config.d_vocab - 1
        raise InputError(f"token {shown(token)}: a text or an id from 0 to {last} was expected")
    return int(token)
