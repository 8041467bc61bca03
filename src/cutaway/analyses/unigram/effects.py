"""TODO."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from cutaway.analyses.unigram.algebra import Contexts, exact_path, reach
from cutaway.analyses.unigram.edit import (
    METHODS,
    UNEDITED,
    _check_method,
    _check_number,
    _wanted,
    change_of_bias,
    with_bias,
)
from cutaway.analyses.unigram.texts import Texts, contexts_of, corpus_source
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.model.model import Model
from cutaway.model.modes import plainly
from cutaway.progress import track
from cutaway.results.call import describe
from cutaway.results.labels import token_labels, token_strings
from cutaway.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

PROMPTS = ("The", "In", "It is", "We have", "There are", "For", "When the", "I")
GRID = 12  # points of a curve
NGRAM = 4  # tokens of what counts as repeated


@dataclass(frozen=True, eq=False, repr=False)
class Effects(Result):
    """What each way of editing costs, and what texts it leads to, at equal achieved change."""

    analysis: ClassVar[str] = "unigram.edit_effects"
    title: ClassVar[str] = "What does an edit cost, and what does it do to texts?"

    token: str
    display: str
    contexts: int
    curves: list[tuple[str, float, float]]  # method, achieved change (nats), collateral (nats)
    wrong: list[str]  # methods that move the token the wrong way, or never so far
    methods: list[str]  # of each set of texts; the first is the unedited model's
    achieved: list[float]
    collateral: list[float]
    repetition: list[float]  # share of 4-grams that stood in the same text before
    distinct: list[float]  # different 2-grams over all 2-grams
    perplexity: list[float]  # under the unedited model
    share: list[float]  # of the token among those generated
    texts: list[list[str]]

    def table(self) -> pd.DataFrame:
        """One row a method and strength: method, achieved, collateral, repetition, distinct, perplexity, share, text
        (the first)."""
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
        lines += [f"{method} moves {self.display} the wrong way, or never so far" for method in self.wrong]
        n = len(self.texts[0])
        return "\n".join([*lines, f"over {self.contexts:,} contexts, and {n} texts a row"])

    def caption(self) -> str:
        return (
            "Above: collateral, the mean KL divergence of edited predictions from the model's own, against the change "
            f"of log-probability of {self.display} that it buys. Below: {len(self.texts[0])} texts from each model: "
            "4-grams that stood in the text before, different 2-grams, and perplexity under the unedited model; all "
            "methods at the same achieved change."
        )


@plainly
def edit_effects(
    model: Model,
    token: str | int,
    strengths: Sequence[float] = (0.5, 1.0, 2.0),
    corpus: Texts = None,
    methods: Sequence[str] = METHODS,
    *,
    prompts: Sequence[str] = PROMPTS,
    samples: int = 4,
    max_new_tokens: int = 60,
    contexts: int = 1024,
    seed: int = 0,
    bos: bool = False,
) -> Effects:
    """What each way of editing costs and does to generated texts, at equal achieved change.

    Least squares and Fisher's direction are scaled until they achieve each strength, so that ways are compared by what
    they cost and not by how far they go. Texts are sampled at temperature 1 from the same seed.

    Args:
        strengths: achieved changes of the token's mean log-probability, nats, all of one sign.
        prompts: what texts begin with; each `samples` times.

    Raises InputError and TokenizerError as `edit` does.
    """
    sign = _check_strengths(strengths)
    for method in methods:
        _check_method(method)
    samples, contexts, seed = whole("samples", samples, 1, MOST_DRAWS), whole("contexts", contexts, 1), seed_of(seed)
    max_new_tokens = whole("max_new_tokens", max_new_tokens, 1)
    [index], _ = _wanted(model, {token: 1.0})
    places = contexts_of(model, corpus, contexts, seed, bos)
    strengths, furthest = sorted(strengths, key=abs), max(map(abs, strengths))
    grid = sorted({*(furthest * i / GRID for i in range(1, GRID + 1)), *map(abs, strengths)})
    curves: list[tuple[str, float, float]] = []
    wrong: list[str] = []
    runs: list[tuple[str, float, float, Model]] = [(UNEDITED, 0.0, 0.0, model)]
    for method in methods:
        curves.append((method, 0.0, 0.0))
        path = _path(model, index, [sign * value for value in grid], places, method)
        for value, delta in zip(grid, path, strict=False):  # it ends where the method does
            if delta is None:
                wrong.append(method)
                break
            change = places.change(delta)
            got, cost = float(change.log_probability[index]), max(0.0, change.collateral)
            curves.append((method, got, cost))
            if sign * value in strengths:
                runs.append((method, got, cost, with_bias(model, delta, "...")[0]))
    measured = [
        _texts(model, edited, list(prompts) * samples, index, max_new_tokens, seed, bos)
        for *_, edited in track(runs, "generating texts", len(runs))
    ]
    parameters = {
        "token": token,
        "strengths": tuple(strengths),
        "corpus": corpus_source(corpus),
        "methods": tuple(methods),
    }
    parameters |= {"prompts": tuple(prompts), "samples": samples, "max_new_tokens": max_new_tokens}
    parameters |= {"contexts": contexts, "seed": seed, "bos": bos}
    return Effects(
        meta=describe(model, "unigram.edit_effects", None, **parameters),
        token=token_strings(model, [index])[0],
        display=token_labels(model, [index])[0],
        contexts=len(places),
        curves=curves,
        wrong=wrong,
        methods=[method for method, *_ in runs],
        achieved=[got for _, got, _, _ in runs],
        collateral=[cost for _, _, cost, _ in runs],
        repetition=[m[0] for m in measured],
        distinct=[m[1] for m in measured],
        perplexity=[m[2] for m in measured],
        share=[m[3] for m in measured],
        texts=[m[4] for m in measured],
    )


def _path(model: Model, token: int, targets: Sequence[float], places: Contexts, method: str) -> Iterator[Tensor | None]:
    """Changes of bias that achieve each target; None for one that the method does not reach."""
    if method == "exact":
        last = targets[-1]
        wanted = torch.tensor([last], dtype=torch.float64, device=places.W.device)
        try:
            yield from exact_path(places, [token], wanted, [value / last for value in targets])
        except InputError:
            yield None
        return
    one = torch.tensor([math.copysign(1.0, targets[0])], dtype=torch.float64, device=places.W.device)
    direction = change_of_bias(model, [token], one, places, method)
    yield from reach(places, direction, token, targets)


def _check_strengths(strengths: Sequence[float]) -> int:
    """Their common sign."""
    for value in strengths:
        _check_number("a strength", value)
    signs = {(value > 0) - (value < 0) for value in strengths}
    if len(signs) != 1 or 0 in signs:
        raise InputError(f"strengths={tuple(strengths)}: numbers of nats above 0, or all below it, were expected")
    return signs.pop()


def _texts(
    original: Model, edited: Model, prompts: list[str], token: int, n: int, seed: int, bos: bool
) -> tuple[float, float, float, float, list[str]]:
    """Texts of a model: repetition, distinct 2-grams, perplexity under the original, share of a token; the texts."""
    made = edited.generate(prompts, n, seed=seed, stop=False, bos=bos)
    rows = [row[length:] for row, length in zip(made.tokens.rows(), made.prompt_lengths, strict=True)]
    run = original.run(made.tokens)
    losses = []
    for scores, row, length in zip(run.logits, made.tokens.rows(), made.prompt_lengths, strict=True):
        came = torch.tensor(row[length:], device=scores.device)
        log_p = scores[length - 1 : len(row) - 1].double().log_softmax(-1)
        losses.append(-log_p.gather(1, came[:, None]))
    everything = [index for row in rows for index in row]
    return (
        repetition(rows),
        distinct(rows),
        float(torch.cat(losses).mean().exp()),
        everything.count(token) / len(everything),
        made.texts,
    )


def _ngrams(row: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def repetition(rows: Sequence[Sequence[int]]) -> float:
    """The share of NGRAM-grams that stood in the same text before."""
    found = [_ngrams(row, NGRAM) for row in rows]
    total = sum(map(len, found))
    return 1 - sum(len(set(grams)) for grams in found) / total if total else 0.0


def distinct(rows: Sequence[Sequence[int]]) -> float:
    """Different 2-grams over all 2-grams of all texts."""
    found = [gram for row in rows for gram in _ngrams(row, 2)]
    return len(set(found)) / len(found) if found else 1.0
