"""TODO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from cutaway.analyses.attribution import question as asking
from cutaway.analyses.attribution.question import Ask, Target
from cutaway.analyses.attribution.result import Gradient, Integrated
from cutaway.arguments import whole
from cutaway.errors import InputError
from cutaway.model.modes import gradients, plainly
from cutaway.results.call import describe
from cutaway.surveys.reading import BATCH_TOKENS
from cutaway.text.tokens import Tokens

if TYPE_CHECKING:
    from cutaway.model.inputs import Inputs
    from cutaway.model.model import Model

Baseline: TypeAlias = Literal["zero", "mean"]
MOST_STEPS = 1000  # of an integral; the rule's points are eigenvalues of a matrix of that size


@plainly
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
    """Gradient of a logit (or of a difference of two) at each site, times the site's value, summed at each token.

    `sites` is a pattern of any sites. Attention scores and patterns count at the token that is looked at. The other
    arguments are those of `direct`.

    Raises SiteError for a pattern that matches nothing, else as `direct` does.
    """
    ask = asking.ask(model, text, target, versus, position, bos)
    with gradients(True):
        run = model.run(ask.tokens, capture=sites, logits="last", grad=True)
        ask = ask.settled(model, run.logits[0, -1])
        logit = ask.of(run.logits[0, -1])
    names, states = list(run), list(run.values())
    found = torch.autograd.grad(logit, states, allow_unused=True) if logit.requires_grad else [None] * len(states)
    values = []
    for name, state, slope in zip(names, states, found, strict=True):
        product = torch.zeros_like(state) if slope is None else (state * slope).masked_fill(slope == 0, 0.0)
        wide = product.detach()[0].double()  # of masked scores, -inf with a slope of 0, nothing is left
        to_keys = name.endswith((".scores", ".pattern"))
        values.append(wide.sum((0, 1)) if to_keys else wide.flatten(1).sum(1))
    parameters = {"target": target, "versus": versus, "sites": sites, "position": position, "bos": bos}
    return Gradient(
        meta=describe(model, "attribution.gradient", ask.subject, **parameters),
        sites=names,
        **ask.words(model),
        logit=logit.item(),
        values=torch.stack(values).cpu(),
    )


@plainly
def integrated(
    model: Model,
    text: Inputs,
    target: Target = None,
    versus: Target = None,
    steps: int = 64,
    baseline: Baseline = "zero",
    *,
    position: int = -1,
    bos: bool = False,
) -> Integrated:
    """Integrated gradients of a logit (or of a difference of two) over the token embeddings, summed at each token.

    The path runs straight from the baseline (zero, or the mean of all token embeddings) to the text's own embeddings;
    position embeddings stay. The integral is Gauss and Legendre's of `steps` points; `gap` says how far the
    attributions' sum is from the difference of the logits at the two ends. The other arguments are those of `direct`.

    Raises InputError for steps below 1 or another baseline, else as `direct` does.
    """
    steps = whole("steps", steps, 1, MOST_STEPS)
    if baseline not in ("zero", "mean"):
        raise InputError(f"baseline={baseline!r} is unknown: 'zero' or 'mean' was expected")
    ask = asking.ask(model, text, target, versus, position, bos)
    run = model.run(ask.tokens, capture="embed", logits="last")
    ask = ask.settled(model, run.logits[0, -1])
    end = run["embed"].detach()  # 1 P D
    start = torch.zeros_like(end)
    if baseline == "mean":
        start = start + model.weights.W_E.detach().double().mean(0).to(end.dtype)
    low = model.run(ask.tokens, edits={"embed": start}, logits="last").logits[0, -1]
    slope = sum(_slopes(model, ask, start, end, steps))
    parameters = {"target": target, "versus": versus, "steps": steps, "baseline": baseline}
    return Integrated(
        meta=describe(model, "attribution.integrated", ask.subject, **parameters, position=position, bos=bos),
        sites=["embed"],
        **ask.words(model),
        logit=ask.of(run.logits[0, -1]).item(),
        values=((end - start)[0].double() * slope).sum(-1)[None].cpu(),
        start=ask.of(low).item(),
        steps=steps,
        baseline=baseline,
    )


def _slopes(model: Model, ask: Ask, start: Tensor, end: Tensor, steps: int) -> Iterator[Tensor]:
    """The gradient's weighted sums over a few points of the path at a time: P D each, float64."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(steps)
    at_once = max(1, BATCH_TOKENS // end.shape[1])
    for i in range(0, steps, at_once):
        alpha = torch.from_numpy((points[i : i + at_once] + 1) / 2).to(end)[:, None, None]  # n 1 1
        weight = torch.from_numpy(weights[i : i + at_once] / 2).to(end.device)[:, None, None]
        several = Tokens(ask.tokens.ids.expand(len(alpha), -1), ask.tokens.mask.expand(len(alpha), -1))
        path = start + alpha * (end - start)  # n P D
        with gradients(True):
            run = model.run(several, capture="embed", edits={"embed": path}, logits="last", grad=True)
            logit = ask.of(run.logits[:, 0]).sum()
        if not logit.requires_grad:  # an edit further on may have cut the logit off from the text
            yield torch.zeros_like(end[0], dtype=torch.float64)
            continue
        [slope] = torch.autograd.grad(logit, [run["embed"]])
        yield (slope.double() * weight).sum(0)
