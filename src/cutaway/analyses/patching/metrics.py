"""Measure what a patch does: a metric of the last logits, on a scale from the corrupted run to the clean one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import Tensor

from cutaway.errors import InputError

Metric: TypeAlias = str | Callable[[Tensor], Tensor]
METRICS = ("logit difference", "probability", "log-probability", "kl")
UNITS = {
    "logit difference": "logit difference",
    "probability": "probability",
    "log-probability": "log-probability (nats)",
    "kl": "KL from the clean run (nats)",
}


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric with its tokens, and its values on the clean and the corrupted run."""

    metric: Metric
    answer: int | None
    versus: int | None
    reference: Tensor  # V: the clean run's last logits
    clean: float = 0.0
    corrupted: float = 0.0

    def with_ends(self, clean: float, corrupted: float) -> Measure:
        """Return the measure with its values on the two runs. Raises InputError where they are equal or not finite."""
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
        return replace(self, clean=clean, corrupted=corrupted)

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the metric of last logits: [n, V] -> [n], float64, with a gradient where the logits have one."""
        if not isinstance(self.metric, str):
            return _custom(self.metric, logits)
        if self.metric == "kl":
            ours, theirs = logits.double().log_softmax(-1), self.reference.double().log_softmax(-1)
            return (theirs.exp() * (theirs - ours)).sum(-1)
        if self.metric == "logit difference":
            return logits[:, self.answer].double() - logits[:, self.versus].double()
        log_p = logits.double().log_softmax(-1)[:, self.answer]
        return log_p if self.metric == "log-probability" else log_p.exp()


def _custom(metric: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return a caller's metric. Raises InputError where the function returns anything but a number for each row."""
    values = metric(logits.clone())  # a copy, as the function may write into it
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        got = f"a tensor {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"the metric returned {got} for logits {list(logits.shape)} [rows, d_vocab]: a tensor [rows] was expected"
        )
    return values.double()
