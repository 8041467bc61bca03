"""What a model was given to read, and its tokens, in words: of a checkpoint without a tokenizer, ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cutaway.analyses.result import Code
from cutaway.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.model import Model


def words(model: Model, ids: Sequence[int]) -> tuple[list[str], list[str]]:
    """Tokens as text, and as they are best shown; their ids where there is no tokenizer."""
    if not model.has_tokenizer:
        return ([str(i) for i in ids],) * 2
    return [model.tokenizer.string(i) for i in ids], [model.tokenizer.display(i) for i in ids]


def spelled(model: Model, given: Any, rows: Sequence[Sequence[int]]) -> Any:
    """What a call says of an input, of which these rows of ids were read: a text, texts, or ids.

    Ids are texts where these, read again, give the very same ids.
    """
    if not isinstance(given, (Tensor, Tokens)):
        return given if isinstance(given, str) else list(given)
    rows = [list(row) for row in rows]
    if model.has_tokenizer:
        texts = [model.tokenizer.decode(row) for row in rows]
        if model.tokenizer.encode(texts)[0] == rows:
            return texts if len(texts) > 1 else texts[0]
    return ids_spelled(rows)


def ids_spelled(rows: Sequence[Sequence[int]]) -> Code:
    """Rows of ids as a call says them."""
    if len({len(row) for row in rows}) == 1:
        return Code(f"torch.tensor({rows})")
    return Code(f"Tokens.from_lists({rows})")
