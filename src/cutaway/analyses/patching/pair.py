"""Read two texts of equal length, one of which is patched with values of the other.

pair = read_pair(model, clean, corrupted, "logit difference", "restore", None, None, False)
pair.tokens                       a batch of two rows: clean, corrupted
pair.first                        the first position where they differ
pair.row, pair.other              the row that runs, and the row whose values are put in
pair.measure(logits)              the last logits of the two -> a Measure, a function of any last logits
Patched(**pair.fields(model, measure), ...)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from cutaway.analyses.patching.metrics import METRICS, Measure, Metric
from cutaway.errors import InputError
from cutaway.results.call import Code, call_input, meta_of
from cutaway.results.labels import token_id, token_labels, token_strings
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

Direction: TypeAlias = Literal["restore", "corrupt"]
TokenLike: TypeAlias = str | int | None
CLEAN, CORRUPTED = 0, 1  # rows of the batch


@dataclass(frozen=True, eq=False)
class Pair:
    """Two texts of equal length, which of them runs, and the metric of its last position's logits."""

    tokens: Tokens  # clean, corrupted
    first: int  # the first position where they differ
    inputs: tuple[Any, Any]  # clean and corrupted, as a result's call shows them
    metric: Metric
    direction: str
    answer: int | None  # token ids; None for the first choice after clean
    versus: int | None  # None for the first choice after corrupted

    @property
    def length(self) -> int:
        """Return the number of tokens of either text."""
        return int(self.tokens.ids.shape[1])

    @property
    def row(self) -> int:
        """Return the row that runs."""
        return CORRUPTED if self.direction == "restore" else CLEAN

    @property
    def other(self) -> int:
        """Return the row whose values are put in."""
        return 1 - self.row

    @property
    def metric_name(self) -> str:
        """Return the metric's name, or that of the function where it has one."""
        if isinstance(self.metric, str):
            return self.metric
        name = getattr(self.metric, "__name__", "")
        return name if name.isidentifier() else "metric"

    def measure(self, logits: Tensor) -> Measure:
        """Return the metric with its tokens and its values on the two runs, from their last logits [2, V].

        Raises InputError where the metric does not tell the two runs apart.
        """
        answer, versus = self.answer, self.versus
        if isinstance(self.metric, str) and self.metric != "kl":
            choice = logits.detach().argmax(-1).tolist()
            answer = choice[CLEAN] if answer is None else answer
            if self.metric == "logit difference":
                versus = choice[CORRUPTED] if versus is None else versus
                self._check_choices(answer, versus)
        measure = Measure(self.metric, answer, versus, logits[CLEAN].detach())
        ends = measure(logits.detach()).tolist()
        return measure.with_ends(ends[CLEAN], ends[CORRUPTED])

    def _check_choices(self, answer: int, versus: int) -> None:
        """Raise InputError where both are the same token."""
        if answer == versus:
            tokenizer = self.tokens.tokenizer
            shown = tokenizer.display(answer) if tokenizer else f"token {answer}"
            raise InputError(
                f"the logit difference would be of {shown} from itself (without answer and versus they are the first "
                "choices after clean and after corrupted): give answer=... and versus=..., or another metric"
            )

    def fields(self, model: Model, measure: Measure) -> dict[str, Any]:
        """Return the fields that every result of patching has, but for its cells and numbers."""
        clean, corrupted = self.tokens.ids.tolist()
        answer, versus = measure.answer, measure.versus
        return {
            "tokens": token_strings(model, clean),
            "display": token_labels(model, clean),
            "corrupted_tokens": token_strings(model, corrupted),
            "corrupted_display": token_labels(model, corrupted),
            "metric": self.metric_name,
            "answer": None if answer is None else token_strings(model, [answer])[0],
            "versus": None if versus is None else token_strings(model, [versus])[0],
            "display_answer": None if answer is None else token_labels(model, [answer])[0],
            "display_versus": None if versus is None else token_labels(model, [versus])[0],
            "clean_value": measure.clean,
            "corrupted_value": measure.corrupted,
            "direction": self.direction,
        }

    def meta(self, model: Model, **options: Any) -> dict[str, Any]:
        """Return the meta of the analysis that is running; `options` are arguments in the form that was used."""
        metric = self.metric if isinstance(self.metric, str) else Code(self.metric_name)
        return meta_of(model, self.inputs[CLEAN], corrupted=self.inputs[CORRUPTED], metric=metric, **options)


def read_pair(
    model: Model,
    clean: Inputs,
    corrupted: Inputs,
    metric: Metric,
    direction: str,
    answer: TokenLike,
    versus: TokenLike,
    bos: bool,
) -> Pair:
    """Return two texts as a pair, checked. Raises InputError and TokenizerError as patching.run does."""
    if not callable(metric) and metric not in METRICS:
        raise InputError(f"metric={metric!r} is unknown: {', '.join(map(repr, METRICS))} or a function was expected")
    _check_answers(metric, answer, versus)
    rows = [_row(model, text, name, bos) for name, text in (("clean", clean), ("corrupted", corrupted))]
    if len(rows[0]) != len(rows[1]):
        raise InputError(_unequal(model, *rows))
    differ = [i for i, (a, b) in enumerate(zip(*rows, strict=True)) if a != b]
    if not differ:
        raise InputError(
            f"clean and corrupted are the same {len(rows[0])} tokens: a text that differs from it in a word or two was "
            "expected"
        )
    answer_id, versus_id = (None if token is None else token_id(model, token) for token in (answer, versus))
    if answer_id is not None and answer_id == versus_id:
        raise InputError(f"answer and versus are both {token_labels(model, [answer_id])[0]}: two tokens were expected")
    if direction not in ("restore", "corrupt"):
        raise InputError(f"direction={direction!r} is unknown: 'restore' or 'corrupt' was expected")
    batch = Tokens.from_lists(rows, tokenizer=model.tokenizer if model.has_tokenizer else None)
    inputs = call_input(model, clean, [rows[0]]), call_input(model, corrupted, [rows[1]])
    return Pair(
        tokens=Tokens(batch.ids.to(model.device), batch.mask.to(model.device), batch.tokenizer),
        first=differ[0],
        inputs=inputs,
        metric=metric,
        direction=direction,
        answer=answer_id,
        versus=versus_id,
    )


def _check_answers(metric: Metric, answer: TokenLike, versus: TokenLike) -> None:
    """Raise InputError for an answer or a versus that the metric does not use."""
    named = metric if isinstance(metric, str) else "a function"
    if versus is not None and metric != "logit difference":
        raise InputError(f"versus={versus!r} is for the logit difference: the metric is {named}")
    if answer is not None and (metric == "kl" or not isinstance(metric, str)):
        raise InputError(f"answer={answer!r} is for the logit difference and the probabilities: the metric is {named}")


def _row(model: Model, text: Inputs, name: str, bos: bool) -> list[int]:
    """Return the ids of one text. Raises InputError for several."""
    tokens = model.tokens(text, bos=bos)
    if len(tokens) != 1:
        raise InputError(f"{len(tokens)} {name} texts were given: patching compares one with one")
    return tokens.rows()[0]


def _unequal(model: Model, clean: list[int], corrupted: list[int]) -> str:
    """Return the message for two texts of different lengths: where they part, and what to do."""
    both = min(len(clean), len(corrupted))
    part = next((i for i in range(both) if clean[i] != corrupted[i]), both)
    shown = ["".join(token_labels(model, row[part : part + 3])) or "nothing" for row in (clean, corrupted)]
    return (
        f"clean has {len(clean)} tokens and corrupted {len(corrupted)}; they part at position {part} ({shown[0]} and "
        f"{shown[1]}): the same number of tokens was expected; choose words of as many tokens "
        "(model.tokens(text).display shows them)"
    )
