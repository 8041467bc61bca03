"""Compare ways of editing the final bias: what each costs, and what texts the edited models write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from cutaway.analyses.unigram.contexts import Contexts, ContextSource, draw_contexts
from cutaway.analyses.unigram.directions import exact_path, reach
from cutaway.analyses.unigram.edit import (
    METHODS,
    UNEDITED,
    change_of_bias,
    check_method,
    check_nats,
    read_changes,
    with_bias,
)
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.model.model import Model
from cutaway.progress import track
from cutaway.results.call import analysis, corpus_source, meta_of
from cutaway.results.labels import token_labels, token_strings
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

PROMPTS = ("The", "In", "It is", "We have", "There are", "For", "When the", "I")
GRID = 12  # points of a curve
NGRAM = 4  # tokens of a passage that counts as repeated


@dataclass(frozen=True, eq=False, repr=False)
class Effects(Result):
    """The cost of each way of editing and the texts that it leads to, at equal achieved change."""

    analysis: ClassVar[str] = "unigram.edit_effects"
    title: ClassVar[str] = "What does an edit cost, and what does it do to texts?"

    token: str
    display: str
    contexts: int
    curves: list[tuple[str, float, float]]  # method, achieved change (nats), collateral (nats)
    wrong: list[str]  # methods that move the token the wrong way, or not far enough
    methods: list[str]  # of each set of texts; the first is the unedited model's
    achieved: list[float]
    collateral: list[float]
    repetition: list[float]  # share of 4-grams that occurred in the same text before
    distinct: list[float]  # different 2-grams over all 2-grams
    perplexity: list[float]  # under the unedited model
    share: list[float]  # of the token among those generated
    texts: list[list[str]]

    def table(self) -> pd.DataFrame:
        """Return one row a method and strength, with the first text.

        Columns: method, achieved, collateral, repetition, distinct, perplexity, share, text.
        """
        import pandas as pd

        names = ("achieved", "collateral", "repetition", "distinct", "perplexity", "share")
        columns = {name: getattr(self, name) for name in names}
        return pd.DataFrame({"method": self.methods, **columns, "text": [texts[0] for texts in self.texts]})

    def summary(self) -> str:
        head = ("achieved", "collateral", "repetition", "distinct", "perplexity", "share")
        lines = [f"{self.display:<15}" + "".join(f"{name:>12}" for name in head)]
        for i, method in enumerate(self.methods):
            lines.append(
                f"{method:<15}{self.achieved[i]:>+12.3f}{self.collateral[i]:>12.4f}{self.repetition[i]:>12.1%}"
                f"{self.distinct[i]:>12.1%}{self.perplexity[i]:>12,.1f}{self.share[i]:>12.1%}"
            )
        lines += [f"{method} moves {self.display} the wrong way, or not far enough" for method in self.wrong]
        n = len(self.texts[0])
        return "\n".join([*lines, f"over {self.contexts:,} contexts, and {n} texts a row"])

    def caption(self) -> str:
        return (
            "Above: collateral, the mean KL divergence of edited predictions from the model's own, against the change "
            f"of log-probability of {self.display} that it buys. Below: {len(self.texts[0])} texts from each model: "
            "4-grams that occurred in the text before, different 2-grams, and perplexity under the unedited model; all "
            "methods at the same achieved change."
        )


@analysis("unigram.edit_effects")
def edit_effects(
    model: Model,
    token: str | int,
    strengths: Sequence[float] = (0.5, 1.0, 2.0),
    corpus: ContextSource = None,
    methods: Sequence[str] = METHODS,
    *,
    prompts: Sequence[str] = PROMPTS,
    samples: int = 4,
    max_new_tokens: int = 60,
    contexts: int = 1024,
    seed: int = 0,
    bos: bool = False,
) -> Effects:
    """Measure what each way of editing costs and does to generated texts, at equal achieved change.

    Least squares and Fisher's direction are scaled until they achieve each strength, so that methods are compared by
    their cost and not by how far they go. Texts are sampled at temperature 1 from the same seed.

    Args:
        strengths: achieved changes of the token's mean log-probability, nats, all of one sign.
        prompts: the beginnings of the texts; each is continued `samples` times.

    Raises InputError and TokenizerError as `edit` does.
    """
    sign = _check_strengths(strengths)
    for method in methods:
        check_method(method)
    samples, contexts, seed = whole("samples", samples, 1, MOST_DRAWS), whole("contexts", contexts, 1), seed_of(seed)
    max_new_tokens = whole("max_new_tokens", max_new_tokens, 1)
    [index], _ = read_changes(model, {token: 1.0})
    drawn = draw_contexts(model, corpus, contexts, seed, bos)
    strengths = sorted(strengths, key=abs)
    curves: list[tuple[str, float, float]] = []
    wrong: list[str] = []
    edits = [_ScaledEdit(UNEDITED, 0.0, 0.0, model)]
    for method in methods:
        curve, edited, reached = _scaled_edits(model, index, sign, strengths, drawn, method)
        curves += curve
        edits += edited
        wrong += [] if reached else [method]
    measured = [
        _measure_texts(model, edit.model, list(prompts) * samples, index, max_new_tokens, seed, bos)
        for edit in track(edits, "generating texts", len(edits))
    ]
    replaced = {"strengths": tuple(strengths), "corpus": corpus_source(corpus), "prompts": tuple(prompts)}
    return Effects(
        meta=meta_of(model, None, **replaced, methods=tuple(methods)),
        token=token_strings(model, [index])[0],
        display=token_labels(model, [index])[0],
        contexts=len(drawn),
        curves=curves,
        wrong=wrong,
        methods=[edit.method for edit in edits],
        achieved=[edit.achieved for edit in edits],
        collateral=[edit.collateral for edit in edits],
        repetition=[m.repetition for m in measured],
        distinct=[m.distinct for m in measured],
        perplexity=[m.perplexity for m in measured],
        share=[m.share for m in measured],
        texts=[m.texts for m in measured],
    )


class _ScaledEdit(NamedTuple):
    """An edit that achieves one of the strengths."""

    method: str
    achieved: float  # nats
    collateral: float  # nats
    model: Model


def _scaled_edits(
    model: Model, token: int, sign: int, strengths: Sequence[float], contexts: Contexts, method: str
) -> tuple[list[tuple[str, float, float]], list[_ScaledEdit], bool]:
    """Return a method's curve of (method, achieved, collateral), its edits, and whether it reaches every strength."""
    furthest = max(map(abs, strengths))
    grid = sorted({*(furthest * i / GRID for i in range(1, GRID + 1)), *map(abs, strengths)})
    curve = [(method, 0.0, 0.0)]
    edits: list[_ScaledEdit] = []
    path = _path(model, token, [sign * value for value in grid], contexts, method)
    for value, delta in zip(grid, path, strict=False):  # the path ends where the method does
        if delta is None:
            return curve, edits, False
        change = contexts.change(delta)
        achieved, collateral = float(change.log_probability[token]), max(0.0, change.collateral)
        curve.append((method, achieved, collateral))
        if sign * value in strengths:
            edits.append(_ScaledEdit(method, achieved, collateral, with_bias(model, delta, "...")[0]))
    return curve, edits, True


def _path(
    model: Model, token: int, targets: Sequence[float], contexts: Contexts, method: str
) -> Iterator[Tensor | None]:
    """Yield the change of bias that achieves each target, and None for a target that the method does not reach."""
    if method == "exact":
        last = targets[-1]
        wanted = torch.tensor([last], dtype=torch.float64, device=contexts.W.device)
        try:
            yield from exact_path(contexts, [token], wanted, [value / last for value in targets])
        except InputError:
            yield None
        return
    one = torch.tensor([math.copysign(1.0, targets[0])], dtype=torch.float64, device=contexts.W.device)
    direction = change_of_bias(model, [token], one, contexts, method)
    yield from reach(contexts, direction, token, targets)


def _check_strengths(strengths: Sequence[float]) -> int:
    """Return the common sign of the strengths. Raises InputError where there is none."""
    for value in strengths:
        check_nats("a strength", value)
    signs = {(value > 0) - (value < 0) for value in strengths}
    if len(signs) != 1 or 0 in signs:
        raise InputError(f"strengths={tuple(strengths)}: numbers of nats above 0, or all below it, were expected")
    return signs.pop()


class _TextMeasures(NamedTuple):
    """The measurements of a model's texts, and the texts."""

    repetition: float
    distinct: float
    perplexity: float  # under the original model
    share: float  # of a token
    texts: list[str]


def _measure_texts(
    original: Model, edited: Model, prompts: list[str], token: int, n: int, seed: int, bos: bool
) -> _TextMeasures:
    """Generate texts with an edited model and measure them."""
    generation = edited.generate(prompts, n, seed=seed, stop=False, bos=bos)
    rows = [row[length:] for row, length in zip(generation.tokens.rows(), generation.prompt_lengths, strict=True)]
    run = original.run(generation.tokens)
    losses = []
    for logits, row, length in zip(run.logits, generation.tokens.rows(), generation.prompt_lengths, strict=True):
        next_ids = torch.tensor(row[length:], device=logits.device)
        log_p = logits[length - 1 : len(row) - 1].double().log_softmax(-1)
        losses.append(-log_p.gather(1, next_ids[:, None]))
    ids = [index for row in rows for index in row]
    return _TextMeasures(
        repetition(rows),
        distinct(rows),
        float(torch.cat(losses).mean().exp()),
        ids.count(token) / len(ids),
        generation.texts,
    )


def _ngrams(row: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """Return the n-grams of a text."""
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def repetition(rows: Sequence[Sequence[int]]) -> float:
    """Return the share of NGRAM-grams that occurred in the same text before."""
    by_text = [_ngrams(row, NGRAM) for row in rows]
    total = sum(map(len, by_text))
    return 1 - sum(len(set(ngrams)) for ngrams in by_text) / total if total else 0.0


def distinct(rows: Sequence[Sequence[int]]) -> float:
    """Return the number of different 2-grams over that of all 2-grams of all texts."""
    pairs = [pair for row in rows for pair in _ngrams(row, 2)]
    return len(set(pairs)) / len(pairs) if pairs else 1.0
