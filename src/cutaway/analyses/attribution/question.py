"""Read the question that an attribution answers: which logit (or difference of two), at which position of which text.

    question = read_question(model, text, " States", None, position=-1, bos=False)
    question = question.with_target(model, logits)      the model's first choice where no target was given
    question.logit(logits)                              the number that is explained
    Direct(..., **question.fields(model), logit=...)    a result

Tokens after the position are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from cutaway.arguments import whole
from cutaway.errors import InputError
from cutaway.results.call import call_input
from cutaway.results.labels import token_id, token_labels, token_strings
from cutaway.text.corpus import refuse_path
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

Target: TypeAlias = str | int | None  # a single token's string, its id, or None


@dataclass(frozen=True)
class Question:
    """One text up to a position, and the tokens whose logits are explained there."""

    tokens: Tokens  # one row
    text: Any  # the input, as a result's call shows it
    target: int | None
    versus: int | None

    def with_target(self, model: Model, logits: Tensor) -> Question:
        """Return the question with the first choice of logits [V] as its target, where it has none.

        Raises InputError where target and versus are the same token.
        """
        target = int(logits.detach().argmax()) if self.target is None else self.target
        if target == self.versus:
            raise InputError(f"target and versus are both {token_labels(model, [target])[0]}: two tokens were expected")
        return Question(self.tokens, self.text, target, self.versus)

    def logit(self, logits: Tensor) -> Tensor:
        """Return the number that is explained: logits [..., V] -> [...], float64."""
        assert self.target is not None
        wanted = logits[..., self.target].double()
        return wanted if self.versus is None else wanted - logits[..., self.versus].double()

    def direction(self, weight: Tensor) -> Tensor:
        """Return the target's row of a weight [V, ...] less the row of versus, in float64."""
        return self.logit(weight.detach().movedim(0, -1))

    def fields(self, model: Model) -> dict[str, Any]:
        """Return the fields that every Explanation has, but for the logit."""
        assert self.target is not None
        [ids] = self.tokens.rows()
        both = [self.target] if self.versus is None else [self.target, self.versus]
        return {
            "tokens": token_strings(model, ids),
            "display": token_labels(model, ids),
            "target": token_strings(model, both)[0],
            "versus": None if self.versus is None else token_strings(model, both)[1],
            "display_target": " - ".join(token_labels(model, both)),
        }


def read_question(model: Model, text: Inputs, target: Target, versus: Target, position: int, bos: bool) -> Question:
    """Return the question about one text, cut after the position, as no later token can reach it.

    Raises InputError for several texts, a position that is not in the text, or an id outside the vocabulary;
    TokenizerError for a target that is not one token.
    """
    refuse_path(text)
    tokens = model.tokens(text, bos=bos)
    if len(tokens) != 1:
        raise InputError(f"{len(tokens)} texts were given: attribution explains a logit of one")
    [ids] = tokens.rows()
    position = whole("position", position)
    if not -len(ids) <= position < len(ids):
        raise InputError(f"position={position}: the text has {len(ids)} tokens, 0 to {len(ids) - 1} were expected")
    cut = tokens.first(position % len(ids) + 1)
    target_id, versus_id = (None if token is None else token_id(model, token) for token in (target, versus))
    return Question(cut, call_input(model, text, [ids]), target_id, versus_id)
