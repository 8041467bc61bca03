"""Hold patterns and scores of every head: on one text, and averaged over documents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from cutaway.analyses.attention.scores import SCORES
from cutaway.errors import InputError
from cutaway.results.bootstrap import remark
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

REPETITION = ("duplicate", "induction")
CLEAR = 4  # an induction head looks there this many times as much as even attention would
STRONGEST = 3  # heads that a summary names for each score


@dataclass(frozen=True, eq=False, repr=False)
class Attention(Result):
    """Patterns and scores of every head on one text. Tensors are on the CPU."""

    analysis: ClassVar[str] = "attention.read"
    title: ClassVar[str] = "Where does each head look?"

    ids: list[int]
    tokens: list[str]
    display: list[str]
    patterns: Tensor  # layer head query key, in the model's precision
    scores: Tensor  # layer head score, float64, in the order of SCORES; NaN where there was nothing to measure
    front: int  # tokens in front of the random ones: 1 with `bos`, else 0
    period: int  # random tokens that were repeated; 0 where the context or the vocabulary is too small for two

    def table(self) -> pd.DataFrame:
        """Return one row a head: layer, head, and the scores."""
        return _table(self.scores)

    def score(self, name: str) -> Tensor:
        """Return one score of every head: [layer, head]. Raises InputError for a name that is not among SCORES."""
        return self.scores[..., _index(name)]

    def strongest(self, name: str) -> tuple[int, int] | None:
        """Return layer and head of the largest score; None where nothing was measured."""
        strongest = _strongest(self.score(name), 1)
        return strongest[0][:2] if strongest else None

    @property
    def even(self) -> float:
        """Return the duplicate and induction score of a head that looks at all tokens evenly."""
        second = range(self.front + self.period, self.front + 2 * self.period)
        return sum(1 / (i + 1) for i in second) / self.period if self.period else math.nan

    def has_induction(self) -> bool:
        """Return whether the largest induction score is several times that of even attention."""
        strongest = _strongest(self.score("induction"), 1)
        return bool(strongest) and strongest[0][2] > CLEAR * self.even

    def summary(self) -> str:
        """Return the strongest heads of each score."""
        rows = self.meta["parameters"]["repeats"]
        random = (
            f"{rows} x {self.period} random tokens repeated (even attention: {self.even:.3f})"
            if self.period
            else "no room for a repetition"
        )
        n = len(self.ids) - 1
        where = f"means over {n:,} token{'s' * (n != 1)}, without the first; duplicate and induction: {random}"
        return "\n".join([*_lines(self.scores), where])

    def facts(self) -> list[tuple[str, str]]:
        """Return the strongest previous-token head and induction head."""
        facts = []
        kinds = (("previous-token", "previous", True), ("induction", "induction", self.has_induction()))
        for word, name, is_clear in kinds:
            for layer, head, score in _strongest(self.score(name), 1):
                facts.append(
                    (f"strongest {word} head", f"head {layer}.{head} ({score:.2f})" if is_clear else "none found")
                )
        return facts

    def caption(self) -> str:
        """Return what the chart shows."""
        return (
            "Small: every head's pattern, queries from top to bottom, keys from left to right, the shade the square "
            "root of the attention weight. Large: one head, chosen by the sliders or by a click. Scores: the mean "
            "attention paid to the token before and to the first token; on repeated random tokens, to the earlier "
            "copy of the token (duplicate) and to the token after that (induction); entropy in nats; distance in "
            "tokens."
        )


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMeans(Result):
    """Scores of every head over documents, with intervals from resampling documents."""

    analysis: ClassVar[str] = "attention.average"
    title: ClassVar[str] = "What does each head do, on average?"

    scores: Tensor  # layer head score, float64, in the order of SCORES; NaN where no query could be measured
    low: Tensor  # layer head score; 95% percentile bootstrap over documents
    high: Tensor
    queries: list[int]  # how many each score is a mean over
    documents: int

    def table(self) -> pd.DataFrame:
        """Return one row a head and score: layer, head, score, mean, low, high, queries."""
        import pandas as pd

        layers, heads, n = self.scores.shape
        at = [(layer, head, i) for layer in range(layers) for head in range(heads) for i in range(n)]
        columns: dict[str, Any] = {
            "layer": [layer for layer, _, _ in at],
            "head": [head for _, head, _ in at],
            "score": [SCORES[i] for _, _, i in at],
            "mean": self.scores.flatten().numpy(),
            "low": self.low.flatten().numpy(),
            "high": self.high.flatten().numpy(),
            "queries": [self.queries[i] for _, _, i in at],
        }
        return pd.DataFrame(columns)

    def score(self, name: str) -> Tensor:
        """Return one score of every head: [layer, head]. Raises InputError for a name that is not among SCORES."""
        return self.scores[..., _index(name)]

    def summary(self) -> str:
        """Return the strongest heads of each score."""
        where = f"means over {self.queries[0]:,} tokens of {self.documents} documents{remark(self.documents)}"
        return "\n".join([*_lines(self.scores, self.low, self.high), where])

    def caption(self) -> str:
        """Return what the chart shows."""
        return (
            f"Means over {self.queries[0]:,} tokens of {self.documents} documents, without the first of each window; "
            f"duplicate and induction over the {self.queries[3]:,} whose token came before in the window. "
            "Hover for 95% intervals from resampling documents. Entropy in nats, distance in tokens."
        )


def _index(name: str) -> int:
    """Return a score's place among SCORES. Raises InputError for a name that is not there."""
    if name not in SCORES:
        raise InputError(f"no score is called {name!r}: there are {', '.join(SCORES)}")
    return SCORES.index(name)


def _table(scores: Tensor) -> pd.DataFrame:
    """Return scores [layer, head, score] as a table, one row a head."""
    import pandas as pd

    layers, heads, _ = scores.shape
    at = {"layer": [i for i in range(layers) for _ in range(heads)], "head": list(range(heads)) * layers}
    return pd.DataFrame(at | {name: scores[..., i].flatten().numpy() for i, name in enumerate(SCORES)})


def _strongest(scores: Tensor, n: int) -> list[tuple[int, int, float]]:
    """Return layer, head and score of the n heads with the largest scores; NaN is left out."""
    flat = [(score, i) for i, score in enumerate(scores.flatten().tolist()) if not math.isnan(score)]
    best = sorted(flat, key=lambda pair: (-pair[0], pair[1]))[:n]
    return [(i // scores.shape[1], i % scores.shape[1], score) for score, i in best]


def _lines(scores: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> list[str]:
    """Return a line for each score with its strongest heads, and their intervals where there are some."""
    lines = [f"{'score':<11}strongest heads, layer.head"]
    for i, name in enumerate(SCORES):
        cells = []
        for layer, head, score in _strongest(scores[..., i], STRONGEST):
            span = ""
            if low is not None and high is not None and not low[layer, head, i].isnan():
                span = f" ({low[layer, head, i]:.3f} to {high[layer, head, i]:.3f})"
            cells.append(f"{f'{layer}.{head}':>6} {score:.3f}{span}")
        lines.append(f"{name:<11}{'  '.join(cells) or '  nothing to measure'}")
    return lines
