"""Texts that the workbench offers to begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def of(model: Model) -> list[dict[str, str]]:
    """Name and text of each example; the first is what a page opens with."""
    own = [("An address", ADDRESS), ("A phrase that comes back", REPEATED)]
    other = [("Two names", STORY), ("A phrase that comes back", REPEATED), ("A little code", CODE)]
    chosen = own if model.bundled else other
    return [{"name": name, "text": text} for name, text in [*chosen, ("Unusual characters", ODD)]]
