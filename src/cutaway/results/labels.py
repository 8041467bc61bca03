"""Show token ids as strings for people. Without a tokenizer, an id is shown as `[id]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cutaway.arguments import is_whole, shown
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.model.model import Model


def token_strings(model: Model, ids: Sequence[int]) -> list[str]:
    """Return the text of each token."""
    return [model.tokenizer.string(i) for i in ids] if model.has_tokenizer else [f"[{i}]" for i in ids]


def token_labels(model: Model, ids: Sequence[int]) -> list[str]:
    """Return each token as a label for charts and summaries, with spaces and newlines made visible; not data."""
    return [model.tokenizer.display(i) for i in ids] if model.has_tokenizer else [f"[{i}]" for i in ids]


def token_id(model: Model, token: Any) -> int:
    """Return the id of a token given as text, which must be exactly one token, or as an id (an int or integer tensor).

    Raises TokenizerError, naming the pieces, for a text that is not exactly one token; InputError for an id outside the
    vocabulary.
    """

    if isinstance(token, str):
        return model.tokenizer.single(token)
    if not is_whole(token) or not 0 <= int(token) < model.config.d_vocab:
        last = model.config.d_vocab - 1
        raise InputError(f"token {shown(token)}: a text or an id from 0 to {last} was expected")
    return int(token)
