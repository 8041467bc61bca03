"""Editing unigram statistics through the final bias. Public as unigram.edit and unigram.edit_effects.

A change of bias that makes a token likelier moves others too. Least squares (the notebook's way) keeps logits, not
probabilities; Fisher's metric, averaged over the model's own predictions in texts, is what a small change costs there;
the exact edit minimises that cost, E KL(q || q'), itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from cutaway.analyses.result import Result, describe
from cutaway.analyses.unigram_algebra import (
    Contexts,
    exact,
    exact_path,
    fisher,
    least_squares,
    leverage,
    reach,
)
from cutaway.analyses.unigram_texts import Texts, contexts_of, corpus_spelled
from cutaway.analyses.words import displays, strings, token_id
from cutaway.arguments import MOST_DRAWS, seed_of, shown, whole
from cutaway.errors import InputError
from cutaway.model.gpt2 import LayerNorm
from cutaway.model.model import Model
from cutaway.model.modes import plainly
from cutaway.progress import track

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("least-squares", "fisher", "exact")
MOVED = 10  # other tokens that a report names
PROMPTS = ("The", "In", "It is", "We have", "There are", "For", "When the", "I")
GRID = 12  # points of a curve
NGRAM = 4  # tokens of what counts as repeated
UNEDITED = "unedited"


@dataclass(frozen=True, eq=False, repr=False)
class Edit(Result):
    """A model with another final bias, and what that did: means over contexts, nats, of the bias as it is stored."""

    analysis: ClassVar[str] = "unigram.edit"
    title: ClassVar[str] = "What does changing a token's weight do?"

    method: str
    contexts: int  # predictions that the means are over
    ids: list[int]  # the tokens asked to change, then those that moved most
    tokens: list[str]
    display: list[str]
    asked: list[float]  # NaN for those that were not asked
    achieved: list[float]  # change of log-probability
    before: list[float]  # mean probability
    after: list[float]
    leverage: list[float]  # of those asked: by what share of it least squares lifts their logit
    collateral: float  # E KL(q || q')
    model: Model = field(repr=False)  # shares every other weight

    def table(self) -> pd.DataFrame:
        """One row a token: token_id, token, asked (NaN where it was not), achieved (nats), before, after (mean
        probability)."""
        import pandas as pd

        names = ("tokens", "asked", "achieved", "before", "after")
        columns = {name.removesuffix("s"): getattr(self, name) for name in names}
        return pd.DataFrame({"token_id": self.ids, **columns})

    def summary(self) -> str:
        lines = [f"{'':<18} {'asked':>8} {'achieved':>9}   mean probability"]
        for i, name in enumerate(self.display):
            wanted = "" if math.isnan(self.asked[i]) else f"{self.asked[i]:+.3f}"
            lines.append(
                f"{name:<18} {wanted:>8} {self.achieved[i]:>+9.3f}   {self.before[i]:.2e} to {self.after[i]:.2e}"
            )
        where = f"over {self.contexts:,}" if self.contexts > 1 else "where it sees no text"
        lines.append(f"collateral: {self.collateral:.3g} nats a prediction, {where}; by {self.method}")
        if self.method == "least-squares":
            shares = ", ".join(f"{h:.1%}" for h in self.leverage)
            lines.append(f"least squares lifts a logit by its leverage alone, here {shares} of what was asked")
        return "\n".join(lines)

    def caption(self) -> str:
        return (
            "Change of each token's log-probability in nats, mean over contexts: in orange the tokens asked for, with "
            "a tick at what was asked; in blue the other tokens that moved most. The collateral is the mean KL "
            "divergence of the edited predictions from the model's own."
        )


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
def edit(
    model: Model,
    changes: Mapping[Any, float],
    corpus: Texts = None,
    method: str = "fisher",
    *,
    contexts: int = 1024,
    seed: int = 0,
    bos: bool = False,
) -> Edit:
    """A new model whose final bias makes tokens likelier or less likely; it shares every other weight.

    With metric S and mean m of the embeddings that the model expects, averaged over contexts, "fisher" is the change
    of bias S^-1 G (G' S^-1 G)^-1 d, G = w_t - m: right to first order. "exact" changes mean log-probabilities by d
    itself, with the least mean KL divergence. "least-squares" is b + (W' W)^-1 w_t d, which lifts a logit only by a
    token's leverage, a few percent of d. In a folded model the unembedding's bias changes, within D dimensions.

    Args:
        changes: by token (text or id) the wanted change of its mean log-probability, nats.
        corpus: where contexts are drawn from and what the report is about: whatever cutaway.corpus.open_corpus takes;
            None for the bundled documents; False for no text, where softmax(u) stands for all predictions (cruder).
        contexts: how many predictions are drawn.

    Raises:
        InputError: no tokens, one given twice, a change that is no finite number, one that cannot be reached.
        TokenizerError: a text that is not exactly one token; the message names its pieces.
    """
    contexts, seed = whole("contexts", contexts, 1), seed_of(seed)
    ids, nats = _wanted(model, changes)
    _check_method(method)
    places = contexts_of(model, corpus, contexts, seed, bos)
    delta = change_of_bias(model, ids, nats, places, method)
    parameters = {"changes": dict(changes), "corpus": corpus_spelled(corpus), "method": method}
    parameters |= {"contexts": contexts, "seed": seed, "bos": bos}
    given = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    made, stored = with_bias(model, delta, f"cutaway.unigram.edit({model.origin}, {given}).model")
    change = places.change(stored)
    listed = [*ids, *_moved(change.log_probability, ids)]
    return Edit(
        meta=describe(model, "unigram.edit", None, **parameters),
        method=method,
        contexts=len(places),
        ids=listed,
        tokens=strings(model, listed),
        display=displays(model, listed),
        asked=[*nats.tolist(), *[float("nan")] * (len(listed) - len(ids))],
        achieved=change.log_probability[listed].tolist(),
        before=places.here.q[listed].tolist(),
        after=change.q[listed].tolist(),
        leverage=leverage(model, ids).tolist(),
        collateral=max(0.0, change.collateral),
        model=made,
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
        "corpus": corpus_spelled(corpus),
        "methods": tuple(methods),
    }
    parameters |= {"prompts": tuple(prompts), "samples": samples, "max_new_tokens": max_new_tokens}
    parameters |= {"contexts": contexts, "seed": seed, "bos": bos}
    return Effects(
        meta=describe(model, "unigram.edit_effects", None, **parameters),
        token=strings(model, [index])[0],
        display=displays(model, [index])[0],
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


def change_of_bias(model: Model, ids: Sequence[int], nats: Tensor, places: Contexts, method: str) -> Tensor:
    """The change of the final bias, [D] in float64. After the first, a matter of the factors that are kept."""
    if method == "least-squares":
        return least_squares(model, ids, nats)
    return fisher(places, ids, nats) if method == "fisher" else exact(places, ids, nats)


def with_bias(model: Model, delta: Tensor, origin: str) -> tuple[Model, Tensor]:
    """A model whose final bias is changed, all other weights shared; and the change as its dtype stores it, [D], or
    [V] where the bias is folded."""
    w = model.weights
    old = w.ln_final.b
    name = f"{model.name} (bias edited)"
    if w.b_U is not None and old is None:
        b_U = (w.b_U.double() + w.W_U.double() @ delta).to(w.b_U.dtype)
        # What is stored differs from W delta by rounding alone, which no change of D numbers could spell.
        return Model(model.config, replace(w, b_U=b_U), model._tokenizer, name=name, origin=origin), delta
    start = torch.zeros_like(delta) if old is None else old.double()
    stored = (start + delta).to(model.dtype)
    weights = replace(w, ln_final=LayerNorm(w.ln_final.w, stored))
    return Model(model.config, weights, model._tokenizer, name=name, origin=origin), stored.double() - start


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


def _wanted(model: Model, changes: Mapping[Any, float]) -> tuple[list[int], Tensor]:
    if not isinstance(changes, Mapping) or not changes:
        raise InputError(
            "changes name tokens with the nats to move them by, such as {' the': 1.0}: at least one was expected"
        )
    ids = [token_id(model, token) for token in changes]
    for token, index in zip(changes, ids, strict=True):
        if ids.count(index) > 1:
            raise InputError(f"{token!r} is named twice: each token once was expected")
    for token, nats in changes.items():
        _check_number(f"the change of {token!r}", nats)
    return ids, torch.tensor([float(nats) for nats in changes.values()], dtype=torch.float64, device=model.device)


def _check_number(what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{what} is {shown(value)}: a finite number of nats was expected")


def _check_strengths(strengths: Sequence[float]) -> int:
    """Their common sign."""
    for value in strengths:
        _check_number("a strength", value)
    signs = {(value > 0) - (value < 0) for value in strengths}
    if len(signs) != 1 or 0 in signs:
        raise InputError(f"strengths={tuple(strengths)}: numbers of nats above 0, or all below it, were expected")
    return signs.pop()


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown: {', '.join(METHODS)} are known")


def _moved(change: Tensor, asked: Sequence[int]) -> list[int]:
    """The other tokens whose log-probability moved most."""
    size = change.abs()
    size[list(asked)] = -1
    return size.topk(min(MOVED, len(size) - len(asked))).indices.tolist()


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
