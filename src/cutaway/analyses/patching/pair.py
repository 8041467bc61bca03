"""Two texts of equal length, and the number that a patch moves between them.

    pair = read_pair(model, clean, corrupted, "logit difference", None, None, False)
    pair.tokens                       a batch of two rows: clean, corrupted
    pair.first                        the first position where they differ
    pair.measure(logits)              the last logits of the two -> a Measure, a function of any last logits

A measure is a float64 number for each row of logits: 0 and 1 of its normalized scale are the corrupted and the clean
run's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from cutaway.errors import InputError
from cutaway.results.call import Code, call_input
from cutaway.results.labels import token_id, token_labels, token_strings
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

Metric: TypeAlias = str | Callable[[Tensor], Tensor]
METRICS = ("logit difference", "probability", "log-probability", "kl")
UNITS = {
    "logit difference": "logit difference",
    "probability": "probability",
    "log-probability": "log-probability (nats)",
    "kl": "KL from the clean run (nats)",
}
CLEAN, CORRUPTED = 0, 1  # rows of the batch


@dataclass(frozen=True, eq=False)
class Pair:
    """Two texts with as many tokens each, and what is asked of the last position's logits."""

    tokens: Tokens  # clean, corrupted
    first: int  # position where they first differ
    subject: Any  # the clean text as a call spells it
    other: Any
    metric: Metric
    answer: int | None
    versus: int | None

    @property
    def length(self) -> int:
        return int(self.tokens.ids.shape[1])

    @property
    def metric_name(self) -> str:
        """A metric's name; a function's own, where it has one."""
        if isinstance(self.metric, str):
            return self.metric
        name = getattr(self.metric, "__name__", "")
        return name if name.isidentifier() else "metric"

    def words(self, model: Model) -> dict[str, Any]:
        """The fields that every result has."""
        clean, corrupted = self.tokens.ids.tolist()
        return {
            "tokens": token_strings(model, clean),
            "display": token_labels(model, clean),
            "corrupted_tokens": token_strings(model, corrupted),
            "corrupted_display": token_labels(model, corrupted),
            "metric": self.metric_name,
        }

    def call(self) -> dict[str, Any]:
        """The parameters that name the pair in a result's call."""
        metric = self.metric if isinstance(self.metric, str) else Code(self.metric_name)
        return {"corrupted": self.other, "metric": metric}

    def measure(self, logits: Tensor) -> Measure:
        """From the two runs' last logits [2, V]: the metric, with its tokens settled. Raises InputError where the two
        runs cannot be told apart by it."""
        answer, versus = self.answer, self.versus
        if isinstance(self.metric, str) and self.metric != "kl":
            choice = logits.detach().argmax(-1).tolist()
            answer = choice[CLEAN] if answer is None else answer
            if self.metric == "logit difference":
                versus = choice[CORRUPTED] if versus is None else versus
                self._check_choices(answer, versus)
        measure = Measure(self.metric, answer, versus, logits[CLEAN].detach())
        ends = measure(logits.detach()).tolist()
        return measure.between(ends[CLEAN], ends[CORRUPTED])

    def _check_choices(self, answer: int, versus: int) -> None:
        if answer == versus:
            tokenizer = self.tokens.tokenizer
            shown = tokenizer.display(answer) if tokenizer else f"token {answer}"
            raise InputError(
                f"the logit difference would be of {shown} from itself (without answer and versus they are the first "
                "choices after clean and after corrupted): give answer=... and versus=..., or another metric"
            )


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric with its tokens, and its values on the two runs."""

    metric: Metric
    answer: int | None
    versus: int | None
    reference: Tensor  # V: the clean run's last logits
    clean: float = 0.0
    corrupted: float = 0.0

    def between(self, clean: float, corrupted: float) -> Measure:
        """The same, with its values on the two runs."""
        if not (math.isfinite(clean) and math.isfinite(corrupted)):
            raise InputError(
                f"the metric is {clean} on the clean run and {corrupted} on the corrupted one: finite numbers were "
                "expected"
            )
        if clean == corrupted:
            name = self.metric if isinstance(self.metric, str) else "metric"
            raise InputError(
                f"the {name} is {clean:.4g} after both texts: a patch would have nothing to move; choose another "
                "answer, versus or metric"
            )
        return Measure(self.metric, self.answer, self.versus, self.reference, clean, corrupted)

    def normalized(self, values: Tensor) -> Tensor:
        """0 at the corrupted run's value, 1 at the clean run's."""
        return (values - self.corrupted) / (self.clean - self.corrupted)

    def __call__(self, logits: Tensor) -> Tensor:
        """Last logits [n, V] -> float64 [n]; part of the autograd graph where the logits are."""
        if not isinstance(self.metric, str):
            return _own(self.metric, logits)
        if self.metric == "kl":
            ours, theirs = logits.double().log_softmax(-1), self.reference.double().log_softmax(-1)
            return (theirs.exp() * (theirs - ours)).sum(-1)
        if self.metric == "logit difference":
            return logits[:, self.answer].double() - logits[:, self.versus].double()
        found = logits.double().log_softmax(-1)[:, self.answer]
        return found if self.metric == "log-probability" else found.exp()


def _own(metric: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """A caller's metric, checked."""
    found = metric(logits.clone())  # which it may write into
    if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
        got = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"the metric returned {got} for logits {list(logits.shape)} [rows, d_vocab]: a tensor [rows] was expected"
        )
    return found.double()


def read_pair(
    model: Model,
    clean: Inputs,
    corrupted: Inputs,
    metric: Metric,
    answer: str | int | None,
    versus: str | int | None,
    bos: bool,
) -> Pair:
    """Raises InputError and TokenizerError: see patching.run."""
    if not callable(metric) and metric not in METRICS:
        raise InputError(f"metric={metric!r} is unknown: {', '.join(map(repr, METRICS))} or a function was expected")
    _check_words(metric, answer, versus)
    rows = [_row(model, text, name, bos) for name, text in (("clean", clean), ("corrupted", corrupted))]
    if len(rows[0]) != len(rows[1]):
        raise InputError(_unequal(model, *rows))
    differ = [i for i, (a, b) in enumerate(zip(*rows, strict=True)) if a != b]
    if not differ:
        raise InputError(
            f"clean and corrupted are the same {len(rows[0])} tokens: a text that differs from it in a word or two was "
            "expected"
        )
    tokenizer = model.tokenizer if model.has_tokenizer else None
    ids = [None if token is None else token_id(model, token) for token in (answer, versus)]
    if ids[0] is not None and ids[0] == ids[1]:
        raise InputError(f"answer and versus are both {token_labels(model, ids[:1])[0]}: two tokens were expected")  # type: ignore[arg-type]
    batch = Tokens.from_lists(rows, tokenizer=tokenizer)
    batch = Tokens(batch.ids.to(model.device), batch.mask.to(model.device), tokenizer)
    texts = [call_input(model, text, [row]) for text, row in zip((clean, corrupted), rows, strict=True)]
    return Pair(batch, differ[0], texts[0], texts[1], metric, ids[0], ids[1])


def _check_words(metric: Metric, answer: object, versus: object) -> None:
    named = metric if isinstance(metric, str) else "a function"
    if versus is not None and metric != "logit difference":
        raise InputError(f"versus={versus!r} is for the logit difference: the metric is {named}")
    if answer is not None and (metric == "kl" or not isinstance(metric, str)):
        raise InputError(f"answer={answer!r} is for the logit difference and the probabilities: the metric is {named}")


def _row(model: Model, text: Inputs, name: str, bos: bool) -> list[int]:
    tokens = model.tokens(text, bos=bos)
    if len(tokens) != 1:
        raise InputError(f"{len(tokens)} {name} texts were given: patching compares one with one")
    return tokens.rows()[0]


def _unequal(model: Model, clean: list[int], corrupted: list[int]) -> str:
    """What to do about two texts whose positions do not correspond."""
    both = min(len(clean), len(corrupted))
    part = next((i for i in range(both) if clean[i] != corrupted[i]), both)
    shown = ["".join(token_labels(model, row[part : part + 3])) or "nothing" for row in (clean, corrupted)]
    return (
        f"clean has {len(clean)} tokens and corrupted {len(corrupted)}; they part at position {part} ({shown[0]} and "
        f"{shown[1]}): as many tokens in both were expected; choose words of as many tokens "
        "(model.tokens(text).display shows them)"
    )


def settled(model: Model, measure: Measure) -> dict[str, Any]:
    """A measure's tokens as a result shows them."""
    answer, versus = measure.answer, measure.versus
    return {
        "answer": None if answer is None else token_strings(model, [answer])[0],
        "versus": None if versus is None else token_strings(model, [versus])[0],
        "display_answer": None if answer is None else token_labels(model, [answer])[0],
        "display_versus": None if versus is None else token_labels(model, [versus])[0],
        "clean_value": measure.clean,
        "corrupted_value": measure.corrupted,
    }


def check_direction(direction: str) -> tuple[int, int]:
    """The row that runs and the row that gives its values."""
    if direction not in ("restore", "corrupt"):
        raise InputError(f"direction={direction!r} is unknown: 'restore' or 'corrupt' was expected")
    return (CORRUPTED, CLEAN) if direction == "restore" else (CLEAN, CORRUPTED)
