"""Attribute a logit to sites or tokens by its gradient: at one point, or along a path from a baseline.

Public as attribution.gradient and attribution.integrated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from cutaway.analyses.attribution.question import Question, Target, read_question
from cutaway.analyses.attribution.result import Gradient, Integrated
from cutaway.arguments import whole
from cutaway.errors import InputError
from cutaway.model.modes import gradients
from cutaway.results.call import analysis, meta_of
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

BaselineName: TypeAlias = Literal["zero", "mean"]
MOST_STEPS = 1000  # of an integral; the rule's points are eigenvalues of a matrix of that size
PATH_TOKENS = 4096  # tokens x points of a path that run together


@analysis("attribution.gradient")
def gradient(
    model: Model,
    text: Inputs,
    target: Target = None,
    versus: Target = None,
    sites: str = "resid_post",
    *,
    position: int = -1,
    bos: bool = False,
) -> Gradient:
    """Return the gradient of a logit (or of a difference of two) at each site, times the site's value, for each token.

    `sites` is a pattern of any sites. Attention scores and patterns count at the token that is looked at. The other
    arguments are as in `direct`.

    Raises SiteError for a pattern that matches nothing; otherwise as `direct`.
    """
    question = read_question(model, text, target, versus, position, bos)
    with gradients(True):
        run = model.run(question.tokens, capture=sites, logits="last", grad=True)
        question = question.with_target(model, run.logits[0, -1])
        logit = question.logit(run.logits[0, -1])
    names, states = list(run), list(run.values())
    slopes = torch.autograd.grad(logit, states, allow_unused=True) if logit.requires_grad else [None] * len(states)
    values = [_by_token(name, state, slope) for name, state, slope in zip(names, states, slopes, strict=True)]
    return Gradient(
        meta=meta_of(model, question.text),
        sites=names,
        **question.fields(model),
        logit=logit.item(),
        values=torch.stack(values).cpu(),
    )


def _by_token(name: str, state: Tensor, slope: Tensor | None) -> Tensor:
    """Return a site's value times its gradient, summed at each token: [1, ...] -> [pos], float64."""
    # Masked attention scores are -inf with a slope of 0: their product counts as 0.
    product = torch.zeros_like(state) if slope is None else (state * slope).masked_fill(slope == 0, 0.0)
    wide = product.detach()[0].double()
    is_by_key = name.endswith((".scores", ".pattern"))  # [head, query, key]
    return wide.sum((0, 1)) if is_by_key else wide.flatten(1).sum(1)


@analysis("attribution.integrated")
def integrated(
    model: Model,
    text: Inputs,
    target: Target = None,
    versus: Target = None,
    steps: int = 64,
    baseline: BaselineName = "zero",
    *,
    position: int = -1,
    bos: bool = False,
) -> Integrated:
    """Return integrated gradients of a logit (or of a difference of two) over the token embeddings, for each token.

    The path runs straight from the baseline (zero, or the mean of all token embeddings) to the text's own embeddings;
    position embeddings stay as they are. The integral is computed by Gauss-Legendre quadrature with `steps` points;
    `gap` says how far the attributions' sum is from the difference of the logits at the two ends. The other arguments
    are as in `direct`.

    Raises InputError for steps below 1 or an unknown baseline; otherwise as `direct`.
    """
    steps = whole("steps", steps, 1, MOST_STEPS)
    if baseline not in ("zero", "mean"):
        raise InputError(f"baseline={baseline!r} is unknown: 'zero' or 'mean' was expected")
    question = read_question(model, text, target, versus, position, bos)
    run = model.run(question.tokens, capture="embed", logits="last")
    question = question.with_target(model, run.logits[0, -1])
    end = run["embed"].detach()  # 1 P D
    start = torch.zeros_like(end)
    if baseline == "mean":
        start = start + model.weights.W_E.detach().double().mean(0).to(end.dtype)
    low = model.run(question.tokens, edits={"embed": start}, logits="last").logits[0, -1]
    slope = sum(_slopes(model, question, start, end, steps))
    return Integrated(
        meta=meta_of(model, question.text),
        sites=["embed"],
        **question.fields(model),
        logit=question.logit(run.logits[0, -1]).item(),
        values=((end - start)[0].double() * slope).sum(-1)[None].cpu(),
        start=question.logit(low).item(),
        steps=steps,
        baseline=baseline,
    )


def _slopes(model: Model, question: Question, start: Tensor, end: Tensor, steps: int) -> Iterator[Tensor]:
    """Yield weighted sums of the gradient over a few points of the path at a time: [pos, d_model], float64."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(steps)
    at_once = max(1, PATH_TOKENS // end.shape[1])
    for i in range(0, steps, at_once):
        alpha = torch.from_numpy((points[i : i + at_once] + 1) / 2).to(end)[:, None, None]  # n 1 1
        weight = torch.from_numpy(weights[i : i + at_once] / 2).to(end.device)[:, None, None]
        several = Tokens(question.tokens.ids.expand(len(alpha), -1), question.tokens.mask.expand(len(alpha), -1))
        path = start + alpha * (end - start)  # n P D
        with gradients(True):
            run = model.run(several, capture="embed", edits={"embed": path}, logits="last", grad=True)
            logit = question.logit(run.logits[:, 0]).sum()
        if not logit.requires_grad:  # an edit of a later site can cut the logit off from the text
            yield torch.zeros_like(end[0], dtype=torch.float64)
            continue
        [slope] = torch.autograd.grad(logit, [run["embed"]])
        yield (slope.double() * weight).sum(0)
