"""What an attribution is asked: a text up to a position, and a logit, or the difference of two.

    ask = asking.ask(model, text, " States", None, position=-1, bos=False)
    ask = ask.settled(model, logits)            with the model's first choice where no target was given
    ask.of(logits)                              the number that is explained
    Answer(..., **ask.words(model), logit=...)  the result

Nothing after the position is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from cutaway.arguments import whole
from cutaway.errors import InputError
from cutaway.results.call import call_input
from cutaway.results.labels import token_id, token_labels, token_strings
from cutaway.results.result import Result
from cutaway.text.corpus import refuse_path
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

Target: TypeAlias = str | int | None  # a single token's string, its id, or None


@dataclass(frozen=True)
class Ask:
    """What is asked of a model: one text up to a position, and the tokens whose logits are explained."""

    tokens: Tokens
    subject: Any
    target: int | None
    versus: int | None

    def settled(self, model: Model, logits: Tensor) -> Ask:
        """With a target, if need be the first choice of these logits [V]."""
        target = int(logits.detach().argmax()) if self.target is None else self.target
        if target == self.versus:
            raise InputError(f"target and versus are both {token_labels(model, [target])[0]}: two tokens were expected")
        return Ask(self.tokens, self.subject, target, self.versus)

    def of(self, logits: Tensor) -> Tensor:
        """The number that is explained, from logits [..., V], in float64."""
        assert self.target is not None
        here = logits[..., self.target].double()
        return here if self.versus is None else here - logits[..., self.versus].double()

    def row(self, weight: Tensor) -> Tensor:
        """The target's row of a weight, less that of versus, in float64."""
        return self.of(weight.detach().movedim(0, -1))

    def words(self, model: Model) -> dict[str, Any]:
        """The fields that every Answer has, but for the logit."""
        assert self.target is not None
        [ids] = self.tokens.rows()
        asked = [self.target] if self.versus is None else [self.target, self.versus]
        return {
            "tokens": token_strings(model, ids),
            "display": token_labels(model, ids),
            "target": token_strings(model, asked)[0],
            "versus": None if self.versus is None else token_strings(model, asked)[1],
            "display_target": " - ".join(token_labels(model, asked)),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Answer(Result):
    """What explains a logit, or a difference of two."""

    tokens: list[str]  # read, up to the position
    display: list[str]
    target: str
    versus: str | None
    display_target: str  # "·States", or "·States - ·Kingdom"
    logit: float  # of the target, or its difference from versus

    @property
    def what(self) -> str:
        """What the number is."""
        return "logit" if self.versus is None else "logit difference"

    def heading(self) -> str:
        """The first line of the summary."""
        ending = ("…" if len(self.display) > 8 else "") + "".join(self.display[-8:])
        return f"{self.what} {self.display_target} after {ending}: {self.logit:+.3f}"


def ask(model: Model, text: Inputs, target: Target, versus: Target, position: int, bos: bool) -> Ask:
    """One text cut after the position: no later token reaches it."""
    refuse_path(text)
    tokens = model.tokens(text, bos=bos)
    if len(tokens) != 1:
        raise InputError(f"{len(tokens)} texts were given: attribution explains a logit of one")
    [ids] = tokens.rows()
    position = whole("position", position)
    if not -len(ids) <= position < len(ids):
        raise InputError(f"position={position}: the text has {len(ids)} tokens, 0 to {len(ids) - 1} were expected")
    cut = tokens.first(position % len(ids) + 1)
    wanted, against = (None if token is None else token_id(model, token) for token in (target, versus))
    return Ask(cut, call_input(model, text, [ids]), wanted, against)
