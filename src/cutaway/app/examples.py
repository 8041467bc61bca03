"""Choose the texts that the workbench offers to begin with."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cutaway.errors import CutawayError

if TYPE_CHECKING:
    from cutaway.model.model import Model

ADDRESS = (
    "Mr. Speaker, Mr. Vice President, members of Congress, my fellow Americans: Tonight marks the eighth year that "
    "I've come here to report on the State of the Union. And for this final one, I'm going to try to make it a little "
    "shorter. The people of the United States"
)
STORY = (
    "When Mary and John went to the store, John gave a drink to Mary. When Mary and John went to the park, John gave "
    "a flower to"
)
REPEATED = (
    "The Secretary of the Treasury reported a surplus. The Secretary of the Navy reported a deficit. The Secretary of "
    "the Treasury"
)
CODE = "def add(first, second):\n    return first + second\n\n\ndef multiply(first, second):\n    return"
ODD = 'Tabs\tand  spaces,\nlines,\n\ncafé, 你好, 🙂 and <b>marks</b> such as </script> & "quotes" are text.'


def for_model(model: Model, most: int) -> list[dict[str, str]]:
    """Return the name and the text of each example that the model can read, cut to `most` tokens.

    A page opens with the first one.
    """
    own = [("An address", ADDRESS), ("A phrase that comes back", REPEATED)]
    other = [("Two names", STORY), ("A phrase that comes back", REPEATED), ("A little code", CODE)]
    chosen = own if model.bundled else other
    examples: list[dict[str, str]] = []
    for name, text in [*chosen, ("Unusual characters", ODD)]:
        with contextlib.suppress(CutawayError):  # words that the tokenizer does not know
            shown = _cut(model, text, most)
            if shown and shown not in (known["text"] for known in examples):
                examples.append({"name": name, "text": shown})
    return examples or [{"name": "A token", "text": _token_text(model)}]


def _cut(model: Model, text: str, most: int) -> str:
    """Return a text of fewer than `most` tokens whole, else a beginning that leaves a quarter of them free."""
    tokens = model.tokenizer.tokens(text)
    [offsets] = tokens.offsets or [[]]
    if len(offsets) < most:
        return text
    for n in range(max(1, 3 * most // 4), 0, -1):
        start = text[: offsets[n - 1][1]]
        if len(model.tokenizer.encode([start])[0][0]) <= max(1, 3 * most // 4):  # a cut word can have more tokens
            return start
    return ""


def _token_text(model: Model) -> str:
    """Return the text of the first token that is tokenized as itself."""
    for i in range(model.config.d_vocab):
        with contextlib.suppress(CutawayError):
            text = model.tokenizer.string(i).strip()
            if text and model.tokenizer.encode([text])[0][0] == [i]:
                return text
    return "a"
